// SPDX-License-Identifier: LGPL-2.1-or-later
// Latency histograms and counters, one block per channel. Plain, padded,
// written by one thread at a time, read by anyone at any time: a reader may see
// a count without the sum that belongs to it, never a torn word.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace efuse {

/// CLOCK_MONOTONIC in ns, the clock the kernel module stamps requests with.
std::uint64_t now_ns() noexcept;

/// Log-bucketed histogram of nanoseconds: 8 linear sub-buckets per power of two
/// (at most 12.5 % wide), from 1 ns to over 4 hours; what is larger counts in the last bucket.
class Histogram {
 public:
  static constexpr unsigned kSubBits = 3;
  static constexpr std::size_t kBuckets = (44 - kSubBits + 1) << kSubBits;
  /// Single writer.
  void add(std::uint64_t ns) noexcept;
  /// Any thread. q in [0,1]; the upper bound of the bucket that holds the quantile, 0 if empty.
  [[nodiscard]] std::uint64_t quantile(double q) const noexcept;
  [[nodiscard]] std::uint64_t count() const noexcept;
  [[nodiscard]] std::uint64_t sum() const noexcept;
  [[nodiscard]] std::uint64_t max() const noexcept;
  /// Any thread, `other` may be written meanwhile; this must not be.
  void merge(const Histogram &other) noexcept;

 private:
  std::array<std::uint64_t, kBuckets> bucket_{};
  std::uint64_t sum_ = 0;
  std::uint64_t max_ = 0;
};

/// The way a request took; names as in `efuse stat --json`.
enum class Way : std::uint8_t { ring, uring, stock, fastpath, count_ };
inline constexpr std::size_t kWays = static_cast<std::size_t>(Way::count_);
/// Opcodes that have a row of their own; what is larger shares the last (CUSE, future ones).
inline constexpr std::size_t kOpcodes = 64;

/// Counters and histograms of one channel.
class ChannelStats {
 public:
  /// One request is finished. Any thread: the first thread that calls it owns the
  /// fast block and pays plain stores; others share a second block under a lock.
  /// `queue_ns`: enqueue to dequeue, 0 where the kernel does not tell;
  /// `service_ns`: dequeue to reply.
  void completed(std::uint32_t opcode, Way way, std::uint64_t queue_ns, std::uint64_t service_ns) noexcept;
};

}  // namespace efuse
