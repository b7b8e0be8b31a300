// SPDX-License-Identifier: LGPL-2.1-or-later
// A reply whose data is in a file, by way of a pipe: splice(2) puts references to the file's pages into it, and the
// kernel copies from those to the reader. Otherwise read(2) copies the data here and writev(2) from here.
#pragma once

#include "fd.hh"

#include <linux/fuse.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace efuse {

/// Of one thread. Nothing is made before the first reply.
class ReplyPipe {
 public:
  /// Take up to `len` bytes of `fd` from `pos`, fewer at the end of the file; `again`: ask until it says that it is
  /// there. What was taken before and not sent is dropped. False: this way does not do here, and nothing is taken.
  bool take(int fd, off_t pos, std::size_t len, bool again) noexcept;
  /// Bytes that are taken.
  [[nodiscard]] std::size_t taken() const noexcept { return taken_; }
  /// Reply to `unique` with what is taken. `move`: pages may change owner. Returns 0 or -errno; either way nothing is
  /// taken any more.
  int send(int fuse_fd, std::uint64_t unique, bool move) noexcept;

 private:
  bool make() noexcept;
  bool make_room(std::size_t slots) noexcept;
  bool take_data(int fd, off_t pos, std::size_t len, bool again) noexcept;
  void clear() noexcept;

  // After a source that has no splice, or is at odds with it, the next ones are likely to be like it.
  static constexpr unsigned kPause = 64;

  Fd in_;
  Fd out_;
  // The reply's header goes into the pipe before its length is known, by reference, and is completed here. Shared
  // memory: after a fork() private memory would be another page than the pipe's.
  Mapping header_page_;
  fuse_out_header *header_ = nullptr;
  std::size_t slots_ = 0;         // the pipe's; a page or a part of one in each
  std::size_t most_ = 1u << 14;   // slots that can be had, as far as is known
  std::size_t taken_ = 0;
  bool filled_ = false;
  unsigned pause_ = 0;  // so many are still refused
};

}  // namespace efuse
