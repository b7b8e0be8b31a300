// SPDX-License-Identifier: LGPL-2.1-or-later
// A worker that lets whoever it wakes run on its own CPU.
//
// Who answers a request on the sender's CPU is running there when it wakes the sender: the scheduler finds that CPU
// busy, and where another is idle, it wakes the sender there, by an interrupt, away from its cache; from there it
// sends its next request, and so on, to and fro. A CPU on which only SCHED_IDLE threads run counts as idle
// (fair.c: sched_idle_cpu()), so a worker that has that policy while it is in the kernel, to answer and to sleep,
// keeps the sender where it is. Filesystem code never runs so: what it starts would inherit it.
//
// The price: where something else wants the CPU, the worker's wake-up waits for it. That shows, and is told of.
#pragma once

#include "fd.hh"

#include <cstdint>

namespace efuse {

/// Of one thread, which calls all of it; not thread-safe.
class GiveWay {
 public:
  /// From here on it may be done. false: it cannot. Only a SCHED_OTHER thread that may become one again, by CAP_SYS_NICE
  /// or RLIMIT_NICE, and can see how long it has waited for its CPU (/proc/thread-self/schedstat), can do it.
  bool prepare() noexcept;

  /// SCHED_IDLE from here to end(). false: not, and there is nothing to end.
  [[nodiscard]] bool begin() noexcept;
  /// false: since restart() this thread has waited for its CPU for so long that somebody else must want it.
  [[nodiscard]] bool end() noexcept;
  /// To be called once a window of requests: short waits are not to add up.
  void restart() noexcept;

 private:
  static constexpr std::uint64_t kLongNs = 1'000'000;  // as long as others' slices; no wake-up takes so long

  Fd schedstat_;  // not open: not to be done
  std::uint64_t begun_ns_ = 0;
  std::uint64_t waited_ns_ = 0;  // for a CPU, in all, when it was last looked at
};

}  // namespace efuse
