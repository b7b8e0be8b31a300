// SPDX-License-Identifier: LGPL-2.1-or-later
#include "budget.hh"

#include <algorithm>

namespace efuse::fs::memfs {

std::size_t my_shard() noexcept {
  static std::atomic<std::size_t> next{0};
  thread_local const std::size_t mine = next.fetch_add(1, std::memory_order_relaxed) % kShards;
  return mine;
}

Budget::Budget(std::uint64_t limit) noexcept
    : limit_(limit), batch_(std::clamp<std::uint64_t>(limit / (kShards * 64), 1, 1u << 20)) {}

bool Budget::charge(std::uint64_t units) noexcept {
  Shard &shard = shards_[my_shard()];
  std::uint64_t credit = shard.credit.load(std::memory_order_relaxed);
  while (credit >= units)
    if (shard.credit.compare_exchange_weak(credit, credit - units, std::memory_order_relaxed)) return true;
  return charge_slowly(shard, units);
}

bool Budget::charge_slowly(Shard &shard, std::uint64_t units) noexcept {
  const std::scoped_lock lock(mutex_);
  if (units <= limit_ - taken_ && batch_ <= limit_ - taken_ - units) {
    taken_ += units + batch_;
    shard.credit.fetch_add(batch_, std::memory_order_relaxed);
    return true;
  }
  for (Shard &s : shards_) taken_ -= s.credit.exchange(0, std::memory_order_relaxed);
  if (units > limit_ - taken_) return false;
  taken_ += units;
  return true;
}

void Budget::refund(std::uint64_t units) noexcept {
  Shard &shard = shards_[my_shard()];
  if (shard.credit.fetch_add(units, std::memory_order_relaxed) + units < 4 * batch_) return;
  const std::scoped_lock lock(mutex_);
  taken_ -= shard.credit.exchange(0, std::memory_order_relaxed);
}

std::uint64_t Budget::used() const noexcept {
  const std::scoped_lock lock(mutex_);
  std::uint64_t credit = 0;
  for (const Shard &s : shards_) credit += s.credit.load(std::memory_order_relaxed);
  return taken_ - std::min(taken_, credit);
}

}  // namespace efuse::fs::memfs
