// SPDX-License-Identifier: LGPL-2.1-or-later
#include "lock_waiters.hh"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <iterator>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

namespace efuse::fs::passthrough {
namespace {

/// Ignored by default, so one that comes astray does no harm.
constexpr int kSignal = SIGURG;

/// A handler that does nothing, and no SA_RESTART: what the signal is for is the EINTR.
void install_handler() noexcept {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    return sigaction(kSignal, &action, nullptr) == 0;
  }();
  static_cast<void>(installed);
}

void let_signal_in() noexcept {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, kSignal);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

/// The thread that started this one may have been giving way.
void be_normal() noexcept {
  const sched_param none{};
  if (::sched_getscheduler(0) == SCHED_IDLE) ::sched_setscheduler(0, SCHED_OTHER, &none);
}

}  // namespace

struct LockWaiters::Waiter {
  fuse_req_t req;
  std::function<int()> lock;
  std::atomic<bool> interrupted{false};
  std::mutex mutex;
  std::condition_variable done_changed;
  bool known = false;  // guarded by mutex: `thread` is valid
  bool done = false;   // guarded by mutex: out of the system call for good
  pthread_t thread{};
};

/// The signal may come before the system call that it should interrupt: send it until it has.
void LockWaiters::interrupt(Waiter &waiter) noexcept {
  using namespace std::chrono_literals;
  waiter.interrupted.store(true);
  std::unique_lock lock(waiter.mutex);
  while (!waiter.done) {
    if (waiter.known) pthread_kill(waiter.thread, kSignal);
    waiter.done_changed.wait_for(lock, 1ms);
  }
}

void LockWaiters::on_interrupt(fuse_req_t, void *data) noexcept {
  auto &waiter = *static_cast<Waiter *>(data);
  // By the waiter itself, when it says that it can be interrupted and has been already.
  if (pthread_equal(pthread_self(), waiter.thread))
    waiter.interrupted.store(true);
  else
    interrupt(waiter);
}

void LockWaiters::run(Waiter &waiter) noexcept {
  let_signal_in();
  {
    const std::scoped_lock lock(waiter.mutex);
    waiter.thread = pthread_self();
    waiter.known = true;
  }
  fuse_req_interrupt_func(waiter.req, on_interrupt, &waiter);
  int status = -EINTR;
  while (status == -EINTR && !waiter.interrupted.load()) status = waiter.lock();
  {
    const std::scoped_lock lock(waiter.mutex);
    waiter.done = true;
    waiter.done_changed.notify_all();
  }
  fuse_req_interrupt_func(waiter.req, nullptr, nullptr);  // none runs after this
  waiter.lock = nullptr;                                  // and with it the file
  fuse_reply_err(waiter.req, -status);
}

void LockWaiters::start(fuse_req_t req, std::function<int()> lock) noexcept {
  install_handler();
  try {
    const std::scoped_lock guard(mutex_);
    if (stopped_) throw std::system_error(EINTR, std::generic_category());
    waiters_.push_back(std::make_shared<Waiter>());
    const auto at = std::prev(waiters_.end());
    (*at)->req = req;
    (*at)->lock = std::move(lock);
    try {
      // The thread waits for mutex_ before it ends, so `at` is good.
      std::thread([this, at] {
        be_normal();
        const std::shared_ptr<Waiter> waiter = *at;
        run(*waiter);
        const std::scoped_lock end(mutex_);
        waiters_.erase(at);
        empty_.notify_all();
      }).detach();
    } catch (...) {
      waiters_.erase(at);
      throw;
    }
  } catch (const std::system_error &error) {
    fuse_reply_err(req, error.code().value() == EINTR ? EINTR : ENOLCK);
  } catch (const std::bad_alloc &) {
    fuse_reply_err(req, ENOMEM);
  }
}

void LockWaiters::stop() noexcept {
  std::unique_lock lock(mutex_);
  stopped_ = true;
  while (!waiters_.empty()) {
    const std::shared_ptr<Waiter> waiter = waiters_.front();
    lock.unlock();
    interrupt(*waiter);
    lock.lock();
    empty_.wait(lock, [&] { return waiters_.empty() || waiters_.front() != waiter; });
  }
}

}  // namespace efuse::fs::passthrough
