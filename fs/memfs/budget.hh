// SPDX-License-Identifier: LGPL-2.1-or-later
// A limit that many threads draw from without sharing a cache line.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace efuse::fs::memfs {

/// Shards of per-thread state: threads are dealt out to them in turn.
inline constexpr std::size_t kShards = 16;
std::size_t my_shard() noexcept;

/// Counts units (bytes, inodes) up to a limit, exactly: each shard holds credit
/// taken from the limit in batches, and when the limit is near the credit of all
/// is called in before anybody is refused. Any thread.
class Budget {
 public:
  explicit Budget(std::uint64_t limit) noexcept;

  [[nodiscard]] bool charge(std::uint64_t units) noexcept;
  void refund(std::uint64_t units) noexcept;
  [[nodiscard]] std::uint64_t limit() const noexcept { return limit_; }
  /// Exact while nobody charges or refunds.
  [[nodiscard]] std::uint64_t used() const noexcept;

 private:
  struct alignas(64) Shard {
    std::atomic<std::uint64_t> credit{0};
  };

  bool charge_slowly(Shard &shard, std::uint64_t units) noexcept;

  const std::uint64_t limit_;
  const std::uint64_t batch_;
  mutable std::mutex mutex_;
  std::uint64_t taken_ = 0;  // used units and the credit of all shards; under mutex_
  std::array<Shard, kShards> shards_;
};

}  // namespace efuse::fs::memfs
