// SPDX-License-Identifier: LGPL-2.1-or-later
// Requests that wait for a lock, each in a thread of its own: who holds the lock may be a process of the host, so
// nothing but a blocking system call tells when it is free, and a worker must not be lost to it.
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>

namespace efuse::fs::passthrough {

/// Any thread.
class LockWaiters {
 public:
  LockWaiters() = default;
  ~LockWaiters() { stop(); }
  LockWaiters(const LockWaiters &) = delete;
  LockWaiters &operator=(const LockWaiters &) = delete;

  /// Run `lock` in a thread, and answer `req` with what it returns: 0 or -errno. It blocks in one system call, and
  /// returns -EINTR when a signal interrupts that; it is then called again, unless the request has been interrupted.
  void start(fuse_req_t req, std::function<int()> lock) noexcept;
  /// Interrupt all that wait, have them answered, and let none wait any more.
  void stop() noexcept;

 private:
  struct Waiter;
  void run(Waiter &waiter) noexcept;
  static void on_interrupt(fuse_req_t req, void *waiter) noexcept;
  static void interrupt(Waiter &waiter) noexcept;

  std::mutex mutex_;
  std::condition_variable empty_;
  std::list<std::shared_ptr<Waiter>> waiters_;  // guarded by mutex_
  bool stopped_ = false;                        // likewise
};

}  // namespace efuse::fs::passthrough
