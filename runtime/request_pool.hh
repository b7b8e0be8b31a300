// SPDX-License-Identifier: LGPL-2.1-or-later
// Request objects of a reader of /dev/fuse: one thread takes them, others may give them back.
#pragma once

#include "channel.hh"
#include "request.hh"
#include "session_core.hh"

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace efuse {

struct PooledRequest : fuse_req {
  PooledRequest *next = nullptr;
};

/// Request objects of one channel. One thread takes, any thread gives back; the
/// memory stays until the pool goes, so interrupters may look at any of it.
class RequestPool {
 public:
  explicit RequestPool(SessionCore &session, Channel &channel) : session_(session), channel_(channel) { grow(); }

  /// By the taking thread only. Throws std::bad_alloc.
  PooledRequest &take() {
    if (free_ == nullptr)
      free_ = returned_.exchange(nullptr, std::memory_order_acquire);
    if (free_ == nullptr)
      grow();
    PooledRequest &taken = *free_;
    free_ = taken.next;
    return taken;
  }

  /// By the taking thread, outside or inside a callback.
  void put_back(PooledRequest &request) noexcept {
    request.next = free_;
    free_ = &request;
  }

  /// By any other thread. The taker empties this list at once, so a push only ever
  /// races with pushes and with that: no ABA.
  void give_back(PooledRequest &request) noexcept {
    request.next = returned_.load(std::memory_order_relaxed);
    while (!returned_.compare_exchange_weak(request.next, &request, std::memory_order_release,
                                            std::memory_order_relaxed)) {
    }
  }

  /// The first request object for which `is_it` says true, or nullptr. Any thread.
  template <typename Predicate>
  fuse_req *find(Predicate is_it) noexcept {
    std::lock_guard lock(slabs_mutex_);
    for (auto &slab : slabs_)
      for (PooledRequest &request : *slab)
        if (is_it(request))
          return &request;
    return nullptr;
  }

 private:
  using Slab = std::array<PooledRequest, 16>;

  void grow() {
    auto slab = std::make_unique<Slab>();
    for (PooledRequest &request : *slab) {
      request.session = &session_;
      request.channel = &channel_;
    }
    std::lock_guard lock(slabs_mutex_);
    slabs_.push_back(std::move(slab));
    for (PooledRequest &request : *slabs_.back())
      put_back(request);
  }

  SessionCore &session_;
  Channel &channel_;
  PooledRequest *free_ = nullptr;  // the taking thread's
  alignas(64) std::atomic<PooledRequest *> returned_{nullptr};
  std::mutex slabs_mutex_;         // slabs_ as such; only the taking thread adds
  std::vector<std::unique_ptr<Slab>> slabs_;
};

}  // namespace efuse
