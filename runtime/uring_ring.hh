// SPDX-License-Identifier: LGPL-2.1-or-later
// One io_uring instance with 128-byte submissions, about one connection, made, used and closed by one thread.
// Completions that other threads cause are run when that thread enters the kernel, and only then
// (IORING_SETUP_DEFER_TASKRUN): a filesystem's own system calls are never interrupted for them.
#pragma once

#include "uring_abi.hh"

#include <liburing.h>
#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string>

namespace efuse {

class UringRing {
 public:
  struct Completion {
    void *data;  // as given with the command; nullptr: of the ring itself, nothing to do
    int result;
  };

  /// `entries`: commands that the kernel will hold at a time, a hint. `fuse_fd`: of the connection, open as long as
  /// this; the instance holds the open file, too. `wake_fd`: an eventfd that is written to in order to end enter(true);
  /// -1: none. Throws std::system_error.
  UringRing(unsigned entries, int fuse_fd, int wake_fd);
  /// Bytes that the kernel maps for an instance with so many entries.
  static std::size_t bytes(std::size_t entries) noexcept;
  ~UringRing();
  UringRing(const UringRing &) = delete;
  UringRing &operator=(const UringRing &) = delete;

  /// Queue a command for the next enter(). `buffers` (of REGISTER) stays as it is until then. false: the submission
  /// queue is full, enter first.
  [[nodiscard]] bool prepare(std::uint32_t op, std::uint16_t qid, std::uint64_t commit_id,
                             std::span<const iovec> buffers, void *data) noexcept;
  [[nodiscard]] bool prepared() const noexcept { return io_uring_sq_ready(&ring_) != 0; }

  /// Submit what was prepared, run what is due, and with `wait` return only when there is a completion (or a
  /// signal). 0 or -errno; -EINTR, -EAGAIN and -EBUSY pass.
  int enter(bool wait) noexcept;

  [[nodiscard]] bool has_completions() const noexcept { return io_uring_cq_ready(&ring_) != 0; }
  /// The first failure among the completions that are there, which stay; 0: there is none.
  [[nodiscard]] int failure() const noexcept;
  /// Take completions; the number taken.
  unsigned take(std::span<Completion> out) noexcept;

 private:
  void watch() noexcept;

  io_uring ring_{};
  int fuse_fd_;
  int wake_fd_;
  bool registered_ = false;  // fuse_fd_ is file 0 of the instance
  bool watching_ = false;
};

/// Why io_uring with what UringRing needs cannot be had here, one line; empty: it can. Makes an instance to see.
std::string find_io_uring_obstacle();

}  // namespace efuse
