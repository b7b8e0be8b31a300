// SPDX-License-Identifier: LGPL-2.1-or-later
// One attachment to the connection: the descriptor of /dev/efuse, the mapped regions of its rings, and the threads
// that serve them. Mutators share it; the last one to let go unmaps it.
#pragma once

#include "hostile.hh"

#include <efuse_ring.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace hostile {

/// The three regions of a ring as this process has them mapped.
struct RingView {
  const char *kern = nullptr;
  char *user = nullptr;
  char *payload = nullptr;
  efuse_ring_info info{};   // a copy

  const efuse_kern_head *kern_head() const noexcept {
    return reinterpret_cast<const efuse_kern_head *>(kern + info.kern_head_off);
  }
  efuse_user_head *user_head() const noexcept { return reinterpret_cast<efuse_user_head *>(user + info.user_head_off); }
  const efuse_slot_in *slot_in(std::uint32_t slot) const noexcept {
    return reinterpret_cast<const efuse_slot_in *>(kern + info.slot_in_off + std::size_t{slot} * info.slot_in_size);
  }
  efuse_slot_out *slot_out(std::uint32_t slot) const noexcept {
    return reinterpret_cast<efuse_slot_out *>(user + info.slot_out_off + std::size_t{slot} * info.slot_out_size);
  }
  efuse_complete_entry *complete(std::uint32_t index) const noexcept {
    return reinterpret_cast<efuse_complete_entry *>(user + info.complete_off) + (index & (info.depth - 1));
  }
};

class Attachment {
 public:
  /// Attaches; 0 or an errno. `*made` is set where it worked.
  static int create(const Episode &episode, Shared &shared, int fuse_fd, std::shared_ptr<Attachment> *made);
  ~Attachment();
  Attachment(const Attachment &) = delete;
  Attachment &operator=(const Attachment &) = delete;

  int fd() const noexcept { return fd_; }
  std::span<const RingView> rings() const noexcept { return rings_; }
  /// The kernel said ENODEV: detached or aborted.
  bool gone() const noexcept { return gone_.load(std::memory_order_relaxed); }
  /// Begin to serve: `workers` threads a ring.
  void serve(unsigned workers);
  /// Wait for the threads; the caller has detached or closed what they wait for.
  void join();
  /// Without a request since attach every page is zero, but for the header. What is not, or "".
  std::string not_zero() const;
  long enter(std::uint32_t ring, std::uint32_t flags, std::uint32_t poll_ns, std::uint64_t timeout_ns) const noexcept;

 private:
  Attachment(const Episode &episode, Shared &shared, int fd) : episode_(episode), shared_(shared), fd_(fd) {}
  int map_all(const efuse_attach &a);
  void work(std::uint32_t ring, std::uint64_t seed);

  const Episode &episode_;
  Shared &shared_;
  int fd_;
  std::vector<RingView> rings_;
  std::vector<std::mutex> commit_;    // one for each ring
  std::vector<std::thread> threads_;
  std::atomic<bool> gone_{false}, stop_{false};
};

/// The parameters of an episode as the ioctl wants them; the CPU map is `map`, of `nr_cpus` entries.
efuse_attach attach_parameters(const Episode &episode, int fuse_fd, const efuse_cpu_rings *map, std::uint32_t nr_cpus);

/// What the daemon serves now; empty between two attachments.
class Current {
 public:
  std::shared_ptr<Attachment> get() {
    std::lock_guard hold(mutex_);
    return attachment_;
  }
  void set(std::shared_ptr<Attachment> attachment) {
    std::lock_guard hold(mutex_);
    attachment_.swap(attachment);
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<Attachment> attachment_;
};

}  // namespace hostile
