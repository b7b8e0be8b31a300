// SPDX-License-Identifier: LGPL-2.1-or-later
#include "give_way.hh"

#include "fuse_api.hh"
#include "stats.hh"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <exception>

namespace efuse {
namespace {

bool set_policy(pid_t tid, int policy) noexcept {
  const sched_param none{};
  return ::sched_setscheduler(tid, policy, &none) == 0;
}

/// The second number of a schedstat file.
std::uint64_t on_run_queue_ns(int schedstat) noexcept {
  std::array<char, 96> text;
  const ssize_t n = ::pread(schedstat, text.data(), text.size(), 0);
  const char *const begin = text.data();
  const char *const end = begin + std::max<ssize_t>(n, 0);
  const char *const at = std::find(begin, end, ' ');
  std::uint64_t ns = 0;
  if (at != end)
    std::from_chars(at + 1, end, ns);
  return ns;
}

/// Tried where it does no harm if there is no way back.
bool may_come_back() {
  bool may = false;
  std::thread([&may] { may = set_policy(0, SCHED_IDLE) && set_policy(0, SCHED_OTHER); }).join();
  return may;
}

}  // namespace

GiveWatch::~GiveWatch() {
  if (!keeps())
    return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

bool GiveWatch::start(bool keep) noexcept try {
  if (started_ || !may_come_back())
    return started_;
  if (keep)
    thread_ = std::thread([this] { run(); });
  return started_ = true;
} catch (const std::exception &) {
  return false;
}

void GiveWatch::add(GiveWay &member) {
  const std::lock_guard lock(mutex_);
  members_.push_back(&member);
}

void GiveWatch::remove(GiveWay &member) noexcept {
  const std::lock_guard lock(mutex_);
  std::erase(members_, &member);
}

void GiveWatch::wake() noexcept {
  {
    const std::lock_guard lock(mutex_);
    wanted_ = true;
  }
  changed_.notify_one();
}

void GiveWatch::run() noexcept {
  ::pthread_setname_np(::pthread_self(), "efuse-watch");
  sigset_t all;
  sigfillset(&all);  // signals are for the thread that runs the session
  ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    wanted_ = false;
    bool again = false;
    for (GiveWay *member : members_)
      again |= member->look();
    if (again)
      changed_.wait_for(lock, kTick, [this] { return stopping_; });
    else
      changed_.wait(lock, [this] { return stopping_ || wanted_; });
  }
}

GiveWay::~GiveWay() {
  if (watch_ == nullptr)
    return;
  stop();
  watch_->remove(*this);
}

bool GiveWay::prepare(GiveWatch &watch) noexcept try {
  if (watch_ != nullptr || !watch.started() || ::sched_getscheduler(0) != SCHED_OTHER)
    return watch_ != nullptr;
  schedstat_.reset(::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
  if (!schedstat_)
    return false;
  tid_ = ::gettid();
  watch.add(*this);
  watch_ = &watch;
  return true;
} catch (const std::exception &) {
  return false;
}

bool GiveWay::begin() noexcept {
  if (watch_ == nullptr)
    return false;
  const std::uint64_t now = now_ns();
  const bool soon = now - begun_ns_ < kSoonNs;
  begun_ns_ = now;
  rounds_.store(rounds_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  if (idle_.load(std::memory_order_relaxed)) [[likely]]
    return true;
  const bool keeps = watch_->keeps();
  if ((keeps && !soon) || stuck_.load(std::memory_order_relaxed))
    return false;
  if (!keeps) {
    ended_ns_ = now;
    return set_policy(0, SCHED_IDLE);
  }
  // Where the watch has ended it, maybe in the middle of a callback, the next end() looks at how long that took.
  if (ended_ns_ == 0) {
    ended_ns_ = now;
    restart();
  }
  // Watched before it is SCHED_IDLE, and if it came to that only after the watch had given it up, not at all.
  idle_.store(true, std::memory_order_release);
  watch_->wake();
  if (!set_policy(0, SCHED_IDLE))
    idle_.store(false, std::memory_order_relaxed);
  else if (!idle_.load(std::memory_order_acquire))
    come_back();
  return idle_.load(std::memory_order_relaxed);
}

bool GiveWay::end() noexcept {
  if (!watch_->keeps())
    come_back();
  const std::uint64_t now = now_ns(), took = now - ended_ns_;
  ended_ns_ = now;
  if (took < kLongNs)
    return true;
  const std::uint64_t before = waited_ns_;
  restart();
  return waited_ns_ - before < kLongNs;
}

void GiveWay::restart() noexcept {
  if (schedstat_)
    waited_ns_ = on_run_queue_ns(schedstat_.get());
}

void GiveWay::come_back() noexcept {
  if (!set_policy(tid_, SCHED_OTHER) && !stuck_.exchange(true))  // the process has given up its privileges meanwhile
    fuse_log(FUSE_LOG_WARNING, "efuse: a worker stays at SCHED_IDLE: %s\n", std::strerror(errno));
  idle_.store(false, std::memory_order_release);
}

bool GiveWay::look() noexcept {
  if (!idle_.load(std::memory_order_acquire))
    return false;
  const std::uint32_t rounds = rounds_.load(std::memory_order_relaxed);
  if (rounds == seen_)
    come_back();
  seen_ = rounds;
  return true;
}

}  // namespace efuse
