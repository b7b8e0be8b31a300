// SPDX-License-Identifier: LGPL-2.1-or-later
// Requests that come a second time. The kernel sends what it has handed over and
// has no answer to anew when it is told to (efuse_notify_resend(), or the rings of
// a connection given back while requests are on them): marked with
// protocol::kUniqueResend, on the stock path, and only the new copy can be
// answered. The filesystem must not see both.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

struct fuse_req;

namespace efuse {

/// Any thread. A request is known by its unique without the mark.
class Resends {
 public:
  /// dispatch() has a marked request. true: the first copy is with the filesystem, and
  /// its reply will be this one's too: hands off. false: it is to be served.
  bool hold(fuse_req &copy) noexcept;
  /// dispatch() has a request without the mark. true: its copy overtook it and has been
  /// served; nobody waits for this one.
  bool overtaken(std::uint64_t unique) noexcept;
  /// The reply to a request whose ring is gone: for the copy, if it is here, else kept until it comes, or
  /// for a minute. `req` is let go of: req.unique is 0 once its reply can be found here.
  /// Returns 0 or -errno (-ENOMEM: lost, and the filesystem will see the copy).
  int keep(fuse_req &req, int error, std::span<const iovec> body) noexcept;
  /// Before the reply to `unique`: give it to the copies that wait for it. true: there was one, and done() is to
  /// be called after the reply.
  bool answer(std::uint64_t unique, int error, std::span<const iovec> body) noexcept;
  /// The reply to `unique` need not be kept: a copy has had it.
  void done(std::uint64_t unique) noexcept;
  /// A copy of this request waits for the first one's reply.
  bool holds(std::uint64_t unique) noexcept;
  /// The first copy of a request may still lie on a ring, or with another reader, while the second is read.
  std::atomic<bool> first_may_follow{false};

  /// Anything to do at all, so that nobody pays who never resends.
  [[nodiscard]] bool active() const noexcept { return active_.load() != 0; }

 private:
  struct Answer {
    int error;
    std::vector<std::byte> body;
    std::uint64_t since_ns;
  };

  fuse_req *take(std::uint64_t unique) noexcept;
  bool answer_at_once(fuse_req &copy, std::uint64_t key, std::unique_lock<std::mutex> &lock) noexcept;
  void remember(std::uint64_t unique) noexcept;
  void forget_old(std::uint64_t now) noexcept;
  void count() noexcept;

  std::atomic<std::uint32_t> active_{0};  // entries of all three
  std::mutex mutex_;                      // guards all three
  std::unordered_multimap<std::uint64_t, fuse_req *> held_;
  std::unordered_map<std::uint64_t, Answer> kept_;           // answers that came before the copy
  std::unordered_map<std::uint64_t, std::uint64_t> served_;  // copies that were first, and when (ns)
};

}  // namespace efuse
