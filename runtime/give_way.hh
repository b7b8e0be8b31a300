// SPDX-License-Identifier: LGPL-2.1-or-later
// A worker that lets whoever it wakes run on its own CPU.
//
// Who answers a request on the sender's CPU is running there when it wakes the sender: the scheduler finds that CPU
// busy, and where another is idle, it wakes the sender there, by an interrupt, away from its cache; from there it
// sends its next request, and so on, to and fro. A CPU on which only SCHED_IDLE threads run counts as idle
// (fair.c: sched_idle_cpu()), so a worker that has that policy keeps the sender where it is.
//
// The price: where something else wants the CPU, the worker waits for it. That shows, and is told of.
//
// What filesystem code starts would inherit the policy. So a worker has it in the kernel alone, to answer and to sleep,
// which takes two system calls a round, more than all this saves on some machines; or, where the filesystem promises
// that it starts nothing (session.starts_nothing), as long as rounds follow one another. Then it may wait for its
// CPU with filesystem code half done: whoever gets nothing done for some milliseconds, waiting or not, is SCHED_OTHER
// again by the hand of another thread, as one that waits cannot do it.
#pragma once

#include "fd.hh"

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace efuse {

class GiveWay;

/// Of the threads that may give way together; looks after those that do for more than a round, by a thread that sleeps
/// while none does.
class GiveWatch {
 public:
  /// Who has done nothing for this long, or up to twice as long, does not give way any more.
  static constexpr std::chrono::milliseconds kTick{4};

  GiveWatch() = default;
  /// When no thread gives way any more.
  ~GiveWatch();
  GiveWatch(const GiveWatch &) = delete;
  GiveWatch &operator=(const GiveWatch &) = delete;

  /// `keep`: those that give way stay SCHED_IDLE from round to round; by a thread that is not pinned then. false: nobody
  /// can give way here. Only threads that may come back from SCHED_IDLE, by CAP_SYS_NICE or RLIMIT_NICE, can.
  bool start(bool keep) noexcept;

 private:
  friend class GiveWay;
  [[nodiscard]] bool started() const noexcept { return started_; }
  [[nodiscard]] bool keeps() const noexcept { return thread_.joinable(); }
  /// Throws std::bad_alloc.
  void add(GiveWay &member);
  void remove(GiveWay &member) noexcept;
  void wake() noexcept;
  void run() noexcept;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<GiveWay *> members_;
  bool wanted_ = false;
  bool stopping_ = false;
  bool started_ = false;
  std::thread thread_;  // if they are to stay SCHED_IDLE
};

/// Of one thread, which calls all of it; not thread-safe.
class GiveWay {
 public:
  GiveWay() = default;
  ~GiveWay();
  GiveWay(const GiveWay &) = delete;
  GiveWay &operator=(const GiveWay &) = delete;

  /// From here on it may be done; `watch` outlives this. false: it cannot: `watch` has not started, this thread is not
  /// SCHED_OTHER, or cannot see how long it has waited for its CPU (/proc/thread-self/schedstat).
  bool prepare(GiveWatch &watch) noexcept;

  /// Before a round's wait: SCHED_IDLE from here to end(); where the watch is to keep it, to stop(), as long as rounds
  /// follow one another soon. false: not this time.
  [[nodiscard]] bool begin() noexcept;
  /// After a wait that began so. false: in this round, or since restart(), this thread has waited for its CPU for so long
  /// that somebody else must want it.
  [[nodiscard]] bool end() noexcept;
  /// To be called once a window of requests: short waits are not to add up.
  void restart() noexcept;
  /// SCHED_OTHER, if it is not.
  void stop() noexcept {
    ended_ns_ = 0;
    if (idle_.load(std::memory_order_relaxed)) [[unlikely]]
      come_back();
  }

 private:
  static constexpr std::uint64_t kLongNs = 1'000'000;  // as long as others' slices; no wake-up takes so long
  static constexpr std::uint64_t kSoonNs = 1'000'000;  // between two rounds; what comes later is not worth the calls

  friend class GiveWatch;
  /// By the watch, once a tick: whether to look again.
  bool look() noexcept;
  void come_back() noexcept;

  GiveWatch *watch_ = nullptr;
  pid_t tid_ = 0;
  Fd schedstat_;
  std::uint64_t begun_ns_ = 0;
  std::uint64_t ended_ns_ = 0;      // 0: it has not given way since stop()
  std::uint64_t waited_ns_ = 0;     // for a CPU, in all, when it was last looked at
  std::atomic<std::uint32_t> rounds_{0};
  std::atomic<bool> idle_{false};   // it is SCHED_IDLE, or about to be; set by the thread, taken back by either
  std::atomic<bool> stuck_{false};  // it cannot come back any more
  std::uint32_t seen_ = 0;          // the watch's: of rounds_
};

}  // namespace efuse
