// SPDX-License-Identifier: LGPL-2.1-or-later
// The loop of one ring worker: take, dispatch, commit in batches, poll, sleep.
#pragma once

#include "give_way.hh"
#include "poller.hh"
#include "ring.hh"
#include "wait_choice.hh"

#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>

namespace efuse {

/// What a worker calls; the ring transport implements it, and the tests do.
class WorkerHooks {
 public:
  virtual ~WorkerHooks() = default;
  /// Serve a request taken at `now` (CLOCK_MONOTONIC ns). Its reply goes to Ring::finish().
  virtual void request(const RingRequest &request, std::uint64_t now) noexcept = 0;
  virtual void interrupt(const efuse_interrupt_entry &entry) noexcept = 0;
  virtual void forgets(std::span<const efuse_forget_entry> entries) noexcept = 0;
  /// EFUSE_IOC_ENTER: 0 or more, or -errno.
  virtual int enter(bool wait, KernelPoll poll) noexcept = 0;
  /// The last enter() was one in which the worker gave way (give_way.hh).
  virtual void gave_way() noexcept {}
};

class Worker {
 public:
  /// Of a transport's workers that may give way to whom they wake.
  struct Givers {
    WaitCompany company;
    GiveWatch watch;
  };

  /// `messages_mutex` is shared by the workers of a ring: one of them takes forgets and interrupts. `givers`: nullptr:
  /// this one may not give way.
  Worker(Ring &ring, WorkerHooks &hooks, const PollSettings &settings, std::mutex &messages_mutex,
         Givers *givers = nullptr) noexcept
      : ring_(ring), hooks_(hooks), poller_(settings), messages_mutex_(messages_mutex), givers_(givers) {}

  /// Until `stop` (then somebody kicks it out of ENTER) or until the ring is
  /// gone. Returns 0, or the -errno that ENTER ended with.
  int run(const std::atomic<bool> &stop) noexcept;

 private:
  static constexpr unsigned kBatch = 32;               // requests between two looks at everything else
  static constexpr std::uint64_t kCommitNs = 50'000;   // a finished request waits at most so long for its batch

  unsigned serve_batch() noexcept;
  void serve_messages() noexcept;
  void choose(unsigned served) noexcept;
  int sleep() noexcept;
  int commit() noexcept { return hooks_.enter(false, {}); }

  Ring &ring_;
  WorkerHooks &hooks_;
  Poller poller_;
  std::mutex &messages_mutex_;
  Givers *givers_;
  GiveWay give_way_;
  WaitChoice choice_;
  WaitWindow window_;        // until choice_ is asked again
  bool background_ = false;  // there were background requests in the last batch
};

}  // namespace efuse
