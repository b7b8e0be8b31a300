// SPDX-License-Identifier: LGPL-2.1-or-later
// What the workers of a transport that try how to wait (wait_choice.hh) know of one another, and a worker's windows.
//
// A way is judged by what all workers get done: a sender that moves to another CPU, and so to another worker, is not to
// look like one that slows down. So a worker's requests have to be known soon, not once a window: where two take turns
// on few CPUs, every other window of one would have a whole one of the other's in it. And two trials at a time would be
// judged by what they do to each other.
//
// Workers that look may stand in each other's way, each on the CPU of the other's senders, and none of them gains by
// being the only one that stops. So to wait beside its sender is tried by all at a time.
#pragma once

#include <atomic>
#include <cstdint>

namespace efuse {

/// Where a request is woken for. What each means, and which of them there are, the transport says.
enum class WaitWay : std::uint8_t {
  beside,  // on the sender's CPU, asleep until a request is there
  apart,   // on another CPU, looking
  giving,  // where the scheduler puts it, or beside and out of the way
};

/// Of all workers of a transport. Any thread.
class WaitCompany {
 public:
  /// `count` more requests are served.
  void served(std::uint64_t count) noexcept { served_.fetch_add(count, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t served() const noexcept { return served_.load(std::memory_order_relaxed); }

  /// What was last found to be better than another way.
  void found(WaitWay way) noexcept { found_.store(way, std::memory_order_relaxed); }
  [[nodiscard]] WaitWay found() const noexcept { return found_.load(std::memory_order_relaxed); }

  /// A trial begins at `now` that ends before `until`, both in ns of a clock that does not jump, `until` not 0. false:
  /// another one is under way, and this one has to wait. A sender may stop in the middle, so nobody waits beyond
  /// `until`; what takes longer may be disturbed.
  [[nodiscard]] bool begin_trial(std::uint64_t now, std::uint64_t until) noexcept {
    std::uint64_t others = trial_until_.load(std::memory_order_relaxed);
    return others <= now && trial_until_.compare_exchange_strong(others, until, std::memory_order_relaxed);
  }
  /// The one that began with this `until` has ended.
  void end_trial(std::uint64_t until) noexcept {
    std::uint64_t mine = until;
    trial_until_.compare_exchange_strong(mine, 0, std::memory_order_relaxed);
    together_until_.compare_exchange_strong(until, 0, std::memory_order_relaxed);
  }

  /// In that trial all workers are to wait beside their senders.
  void try_together(std::uint64_t until) noexcept { together_until_.store(until, std::memory_order_relaxed); }
  /// They are now. One load.
  [[nodiscard]] bool together() const noexcept { return together_until_.load(std::memory_order_relaxed) != 0; }
  /// As together(); at `now` a trial that was left alone is over.
  bool together(std::uint64_t now) noexcept {
    std::uint64_t until = together_until_.load(std::memory_order_relaxed);
    return until != 0 && (now < until || !together_until_.compare_exchange_strong(until, 0, std::memory_order_relaxed));
  }
  /// It was better: all workers are to stay there. Returns, as settled(), how often that was so.
  unsigned settle_together() noexcept { return settled_.fetch_add(1, std::memory_order_relaxed) + 1; }
  [[nodiscard]] unsigned settled() const noexcept { return settled_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> served_{0};
  std::atomic<std::uint64_t> trial_until_{0};  // 0: there is none
  std::atomic<unsigned> settled_{0};
  std::atomic<WaitWay> found_{WaitWay::beside};
  alignas(64) std::atomic<std::uint64_t> together_until_{0};  // 0: not. Read by all before each wait, hardly ever written
};

/// Windows of one worker's requests, by its thread.
class WaitWindow {
 public:
  static constexpr unsigned kRequests = 32;  // of a window at least,
  static constexpr unsigned kRounds = 24;    // and rounds: many senders come in batches,
  static constexpr unsigned kMany = 2;       // of so many requests on average
  static constexpr unsigned kUntold = 8;     // requests of which `company` is told together; of larger rounds, each time

  /// A round has brought `served` requests, maybe none. true: it ends a window.
  bool round(unsigned served, WaitCompany &company) noexcept {
    requests_ += served;
    untold_ += served;
    rounds_ += served != 0 ? 1 : 0;
    const bool ends = requests_ >= kRequests && rounds_ >= kRounds;
    if (untold_ >= kUntold || ends) {
      company.served(untold_);
      untold_ = 0;
    }
    if (!ends)
      return false;
    many_ = requests_ >= kMany * rounds_;
    requests_ = rounds_ = 0;
    return true;
  }
  /// In the window that has ended last, requests came in batches.
  [[nodiscard]] bool many() const noexcept { return many_; }

 private:
  unsigned requests_ = 0;  // of this window
  unsigned rounds_ = 0;    // that brought them
  unsigned untold_ = 0;
  bool many_ = false;
};

}  // namespace efuse
