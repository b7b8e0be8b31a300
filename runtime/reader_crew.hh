// SPDX-License-Identifier: LGPL-2.1-or-later
// How many readers of /dev/fuse read. Few of them, each on a CPU of its own, have the shorter ways: the kernel
// wakes waiting readers in turn, and one that waits on another CPU is woken by an interrupt. Many get more done
// where senders are many, or where callbacks block. So the first `base` readers always read; the others join
//   - when the readers hardly ever sleep: requests are there before somebody is free;
//   - when all readers have been in callbacks for a while: one of those that wait looks after that, by a clock
//     that stands still while there are no requests;
// and leave, the last one first, when they mostly sleep, half of them at once when they always do. Or one of them reads
// alone, so that it may look for requests without waking any other that waits; should its callback block, the others are
// back after a tick.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace efuse {

class ReaderCrew {
 public:
  /// A reader looks at itself after so many requests.
  static constexpr unsigned kWindow = 64;
  static constexpr std::chrono::milliseconds kTick{4};
  /// As long a reader that a blocked crew took in stays at least.
  static constexpr std::chrono::milliseconds kHold{250};

  /// 1 <= base <= readers.
  ReaderCrew(unsigned readers, unsigned base);

  /// Is reader `index` to read?
  [[nodiscard]] bool wanted(unsigned index) const noexcept {
    return index < active_.load(std::memory_order_relaxed) && !stop_.load(std::memory_order_relaxed);
  }
  /// It is not, and waits until it is. false: it is to end.
  [[nodiscard]] bool wait(unsigned index) noexcept;
  /// Reader `index` has taken a request, and is done with its callback.
  void begin(unsigned index) noexcept;
  void end(unsigned index) noexcept {
    std::atomic<std::uint64_t> &calls = readers_[index].calls;  // which nobody else writes
    calls.store(calls.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
  /// The last kWindow reads of reader `index` have slept so many times. May take the reader, or another, in or out.
  void slept(unsigned index, unsigned times) noexcept;
  /// Reader 0 is to read alone, or not. The others stop as they come out of read(2), with a request each at most.
  /// By reader 0.
  void be_alone(bool alone) noexcept;
  /// No more readers than always read.
  [[nodiscard]] bool is_small() const noexcept { return active() <= base_; }
  /// By reader 0: it is to read alone, still; and the others have stopped.
  [[nodiscard]] bool is_to_be_alone() const noexcept { return alone_.load(std::memory_order_relaxed); }
  [[nodiscard]] bool is_alone() const noexcept {
    return is_to_be_alone() && waiting_.load(std::memory_order_relaxed) + 1 == readers_.size();
  }
  /// The readers that always read are to be pinned, each to its CPU, or not. By reader 0.
  void be_loose(bool loose) noexcept { loose_.store(loose, std::memory_order_relaxed); }
  [[nodiscard]] bool is_loose() const noexcept { return loose_.load(std::memory_order_relaxed); }
  /// Requests that were served since ever, about. Any thread.
  [[nodiscard]] std::uint64_t served() const noexcept {
    std::uint64_t sum = 0;
    for (const Reader &reader : readers_)
      sum += reader.calls.load(std::memory_order_relaxed) / 2;
    return sum;
  }
  /// All are to end; those that wait do so at once. Any thread.
  void stop() noexcept;

  /// Readers that read now. Any thread.
  [[nodiscard]] unsigned active() const noexcept { return active_.load(std::memory_order_relaxed); }

 private:
  struct alignas(64) Reader {
    std::atomic<std::uint64_t> calls{0};  // odd: in a callback
  };

  void wait_for_work(std::unique_lock<std::mutex> &lock);
  bool look_after() noexcept;
  void take_in() noexcept;
  void leave(unsigned index, unsigned count) noexcept;

  // Sleeps below which requests wait, if it goes on for about a window of each reader. A single sender whose reader is
  // on another CPU has such windows, too, but not many in a row.
  static constexpr unsigned kBusy = kWindow / 6;
  static constexpr unsigned kIdle = kWindow * 3 / 5;     // above which there are too many readers,
  static constexpr unsigned kAsleep = kWindow * 9 / 10;  // and far too many
  static constexpr unsigned kQuietTicks = 32;            // without a request, until the clock stops

  const unsigned base_;
  std::vector<Reader> readers_;
  std::atomic<unsigned> active_;            // reader i reads if i < active_; changes under mutex_
  std::atomic<bool> clock_stopped_{false};
  std::atomic<bool> stop_{false};
  std::atomic<bool> alone_{false};          // changes under mutex_
  std::atomic<bool> loose_{false};
  std::atomic<std::size_t> waiting_{0};     // readers in wait(); likewise
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> seen_;         // calls at the last tick; guarded by mutex_
  unsigned quiet_ = 0;                      // ticks without a request; likewise
  std::atomic<unsigned> busy_{0};           // windows in a row without sleep
  std::atomic<std::chrono::steady_clock::time_point> hold_{};  // until then none leaves; changes under mutex_
};

}  // namespace efuse
