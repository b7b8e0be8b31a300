// SPDX-License-Identifier: LGPL-2.1-or-later
// How long a worker looks at its ring before it sleeps in the kernel. The sleep
// itself, with its announcement and re-check (W0, W1), is ENTER's.
#pragma once

#include "stats.hh"

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace efuse {

inline void cpu_relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

/// Budgets of a transport's workers. May change while they run; each is read once per wait.
struct PollSettings {
  std::atomic<std::uint32_t> spin_ns{0};  // in user space
  std::atomic<std::uint32_t> poll_ns{0};  // in ENTER, while the CPU has nothing else to run
  std::atomic<bool> adaptive{true};
};

/// EFUSE_IOC_ENTER's part: how long it looks before it sleeps.
struct KernelPoll {
  std::uint32_t ns = 0;
  bool adaptive = false;  // EFUSE_ENTER_ADAPTIVE
};

/// Decides whether spinning is worth it, from how it went lately: from the fourth failure in a row on each doubles the
/// number of waits that do not spin, one success forgets them. Not from the first: on a machine where requests come
/// about as fast as the budget is long, every other one would be slept for, though spinning pays.
class SpinBackoff {
 public:
  static constexpr std::uint32_t kFreeFails = 3;
  [[nodiscard]] bool worth() noexcept {
    if (skip_ == 0)
      return true;
    skip_--;
    return false;
  }
  void paid() noexcept { fails_ = skip_ = 0; }
  void failed() noexcept {
    fails_ = std::min(fails_ + 1, kFreeFails + kMostDoublings);
    skip_ = fails_ > kFreeFails ? (1u << (fails_ - kFreeFails)) - 1 : 0;
  }

 private:
  static constexpr std::uint32_t kMostDoublings = 10;  // then one wait in 1024 tries
  std::uint32_t fails_ = 0;
  std::uint32_t skip_ = 0;
};

/// Owned by one worker.
class Poller {
 public:
  explicit Poller(const PollSettings &settings) noexcept : settings_(settings) {}

  /// Look for work until `ready()` or the budget is spent; true: there is some.
  /// `requesters_spin`: the last requests were waited for by spinning, so the
  /// next ones come soon and from another CPU. Otherwise a requester may want this
  /// very CPU, and looking longer only keeps it away.
  template <typename Ready>
  bool poll(bool requesters_spin, Ready &&ready) noexcept {
    if (ready())
      return true;
    const std::uint32_t budget = spin_budget(requesters_spin);
    return budget != 0 && spin(budget, ready);
  }

  /// The first half of poll(), for who has to do something before it spins: ns to spin(), which is to follow; 0: not.
  [[nodiscard]] std::uint32_t spin_budget(bool requesters_spin) noexcept {
    const std::uint32_t budget = settings_.spin_ns.load(std::memory_order_relaxed);
    const bool adaptive = settings_.adaptive.load(std::memory_order_relaxed);
    return budget == 0 || (adaptive && (!requesters_spin || !backoff_.worth())) ? 0 : budget;
  }

  /// The second half.
  template <typename Ready>
  bool spin(std::uint32_t budget, Ready &&ready) noexcept {
    const bool found = look(budget, ready);
    if (found)
      backoff_.paid();
    else
      backoff_.failed();
    return found;
  }

  /// There is no budget to spin with.
  [[nodiscard]] bool off() const noexcept { return settings_.spin_ns.load(std::memory_order_relaxed) == 0; }
  /// What did not pay before does not count: the worker has gone to where it may.
  void start_anew() noexcept { backoff_ = {}; }

  /// `background`: the last requests were, so that no requester spins for the next ones; they
  /// come from a sender that goes on, or that the replies now wake.
  [[nodiscard]] KernelPoll kernel_poll(bool background) const noexcept {
    const std::uint32_t budget = settings_.poll_ns.load(std::memory_order_relaxed);
    if (!settings_.adaptive.load(std::memory_order_relaxed))
      return {budget, false};
    return {background ? budget : 0, true};
  }

 private:
  template <typename Ready>
  static bool look(std::uint32_t budget, Ready &ready) noexcept {
    const std::uint64_t end = now_ns() + budget;
    do {
      for (int i = 0; i < 16; i++) {
        cpu_relax();
        if (ready())
          return true;
      }
    } while (now_ns() < end);
    return false;
  }

  const PollSettings &settings_;
  SpinBackoff backoff_;
};

}  // namespace efuse
