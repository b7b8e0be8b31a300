// SPDX-License-Identifier: LGPL-2.1-or-later
#include "give_way.hh"

#include "fuse_api.hh"
#include "stats.hh"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <exception>
#include <thread>

namespace efuse {
namespace {

bool set_policy(int policy) noexcept {
  const sched_param none{};
  return ::sched_setscheduler(0, policy, &none) == 0;
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
bool may_come_back() noexcept try {
  bool may = false;
  std::thread([&may] { may = set_policy(SCHED_IDLE) && set_policy(SCHED_OTHER); }).join();
  return may;
} catch (const std::exception &) {
  return false;
}

}  // namespace

bool GiveWay::prepare() noexcept {
  if (::sched_getscheduler(0) == SCHED_OTHER && may_come_back())
    schedstat_.reset(::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
  return static_cast<bool>(schedstat_);
}

bool GiveWay::begin() noexcept {
  if (!schedstat_ || !set_policy(SCHED_IDLE))
    return false;
  begun_ns_ = now_ns();
  return true;
}

bool GiveWay::end() noexcept {
  if (!set_policy(SCHED_OTHER)) {  // the process has given up its privileges meanwhile
    fuse_log(FUSE_LOG_WARNING, "efuse: a worker stays at SCHED_IDLE: %s\n", std::strerror(errno));
    schedstat_.reset();
  }
  if (now_ns() - begun_ns_ < kLongNs)
    return true;
  const std::uint64_t before = waited_ns_;
  restart();
  return waited_ns_ - before < kLongNs;
}

void GiveWay::restart() noexcept {
  if (schedstat_)
    waited_ns_ = on_run_queue_ns(schedstat_.get());
}

}  // namespace efuse
