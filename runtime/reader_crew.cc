// SPDX-License-Identifier: LGPL-2.1-or-later
#include "reader_crew.hh"

#include <algorithm>

namespace efuse {

ReaderCrew::ReaderCrew(unsigned readers, unsigned base)
    : base_(base), readers_(readers), active_(base), seen_(readers) {}

void ReaderCrew::begin(unsigned index) noexcept {
  readers_[index].calls.fetch_add(1, std::memory_order_seq_cst);
  // After the count: whoever stops the clock looks at the counts after it has said so.
  if (clock_stopped_.load(std::memory_order_seq_cst) && clock_stopped_.exchange(false)) [[unlikely]] {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
}

bool ReaderCrew::wait(unsigned index) noexcept {
  std::unique_lock lock(mutex_);
  waiting_++;
  while (!stop_ && index >= active_) {
    // The first of those that wait has the clock; the others wait for their turn.
    if (index == active_)
      wait_for_work(lock);
    else
      changed_.wait(lock);
  }
  waiting_--;
  return !stop_;
}

/// By the keeper of the clock: a tick, or until there are requests again.
void ReaderCrew::wait_for_work(std::unique_lock<std::mutex> &lock) {
  if (quiet_ < kQuietTicks) {
    changed_.wait_for(lock, kTick);
    if (look_after())
      take_in();
    return;
  }
  clock_stopped_.store(true, std::memory_order_seq_cst);
  if (look_after())
    take_in();
  if (quiet_ >= kQuietTicks)
    changed_.wait(lock, [this] { return stop_ || !clock_stopped_; });
  clock_stopped_ = false;
  quiet_ = 0;
}

/// Since the last look: true if every reader has been in one and the same callback. Counts quiet ticks.
bool ReaderCrew::look_after() noexcept {
  bool blocked = true, quiet = true;
  for (unsigned i = 0; i < readers_.size(); i++) {
    const std::uint64_t calls = readers_[i].calls.load(std::memory_order_seq_cst);
    const bool same = calls == seen_[i];
    quiet = quiet && same;
    blocked = blocked && (i >= active_ || (same && calls % 2 == 1));
    seen_[i] = calls;
  }
  quiet_ = quiet && !blocked ? quiet_ + 1 : 0;
  if (blocked)
    hold_ = std::chrono::steady_clock::now() + kHold;
  return blocked;
}

void ReaderCrew::take_in() noexcept {
  if (alone_) {
    alone_ = false;
    active_ = base_;
  } else if (active_ < readers_.size()) {
    active_.fetch_add(1);
  }
  changed_.notify_all();
}

void ReaderCrew::be_alone(bool alone) noexcept {
  const std::lock_guard lock(mutex_);
  if (alone == alone_)
    return;
  alone_ = alone;
  active_ = alone ? 1 : base_;
  busy_ = 0;
  changed_.notify_all();
}

void ReaderCrew::slept(unsigned index, unsigned times) noexcept {
  const unsigned active = active_;
  if (times >= kBusy) {
    busy_ = 0;
  } else if (const unsigned busy = busy_.fetch_add(1) + 1; busy >= std::max(4u, active) && active < readers_.size()) {
    const std::lock_guard lock(mutex_);
    busy_ = 0;
    if (active_ == active && !alone_)  // one at a time
      take_in();
  }
  if (times > kIdle && index >= base_ && index + 1 == active)
    leave(index, times > kAsleep ? (active - base_ + 1) / 2 : 1);
}

/// Reader `index`, the last one, and those before it: so many.
void ReaderCrew::leave(unsigned index, unsigned count) noexcept {
  if (std::chrono::steady_clock::now() < hold_.load())
    return;
  const std::lock_guard lock(mutex_);
  if (active_ == index + 1)
    active_ = index + 1 - count;
  changed_.notify_all();  // the clock has another keeper
}

void ReaderCrew::stop() noexcept {
  const std::lock_guard lock(mutex_);
  stop_ = true;
  changed_.notify_all();
}

}  // namespace efuse
