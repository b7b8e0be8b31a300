// SPDX-License-Identifier: LGPL-2.1-or-later
// Latency histograms and counters, one block per channel. Plain, padded,
// written by one thread at a time, read by anyone at any time: a reader may see
// a count without the sum that belongs to it, never a torn word.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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
  /// Any thread. (Upper bound in ns, count) of each bucket that is not empty, in their order.
  [[nodiscard]] std::vector<std::pair<std::uint64_t, std::uint64_t>> buckets() const;
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

using WayCounts = std::array<std::uint64_t, kWays>;

/// "ring", "uring", "stock", "fastpath".
std::string_view way_name(Way way) noexcept;
/// "GETATTR"; "OPCODE_61" for one without a name, "OTHER" for the shared last row.
std::string opcode_name(std::uint32_t opcode);

class StatsSnapshot;

/// Counters and histograms of one channel.
class ChannelStats {
 public:
  /// Disabled: completed() does nothing and snapshots stay empty.
  explicit ChannelStats(bool enabled = true) noexcept : enabled_(enabled) {}
  ~ChannelStats();
  ChannelStats(const ChannelStats &) = delete;
  ChannelStats &operator=(const ChannelStats &) = delete;

  /// One request is finished. Any thread: the first thread that calls it owns the
  /// fast block and pays plain stores; others share a second block under a lock.
  /// `queue_ns`: enqueue to dequeue, 0 where the kernel does not tell;
  /// `service_ns`: dequeue to reply.
  void completed(std::uint32_t opcode, Way way, std::uint64_t queue_ns, std::uint64_t service_ns) noexcept;

  /// Of those, one whose data went through a pipe. By one thread only.
  void spliced() noexcept;
  /// The channel's worker has looked for requests in user space; `paid`: and found one. By one thread only.
  void looked(bool paid) noexcept;
  /// The channel's worker has answered and slept as SCHED_IDLE. By one thread only.
  void gave_way() noexcept;

 private:
  friend class StatsSnapshot;

  struct Latency {
    Histogram queue;
    Histogram service;
  };
  // Most mounts see a dozen opcodes: a latency pair (5 KiB) is allocated at an
  // opcode's first request and published with release; it lives as long as this.
  struct alignas(64) Block {
    std::array<WayCounts, kOpcodes> count{};
    std::array<std::atomic<Latency *>, kOpcodes> latency{};

    void add(std::size_t row, Way way, std::uint64_t queue_ns, std::uint64_t service_ns) noexcept;
  };

  bool enabled_;
  std::uint64_t spliced_ = 0;
  std::uint64_t looks_ = 0;
  std::uint64_t looks_paid_ = 0;
  std::uint64_t gave_way_ = 0;
  std::atomic<std::uintptr_t> owner_{0};  // pthread_self() of the first caller
  Block own_;                             // written by owner_
  std::atomic_flag shared_lock_;          // writers of shared_; readers take no lock
  Block shared_;                          // written by every other thread
};

/// Many channels merged at one moment. Private to one thread.
class StatsSnapshot {
 public:
  struct Op {
    WayCounts count{};
    Histogram queue;
    Histogram service;
  };

  /// Add a channel, which may go on serving meanwhile.
  void add(const ChannelStats &channel);
  void add(const StatsSnapshot &other);

  /// By opcode, kOpcodes - 1 for the shared row; only opcodes that were seen.
  [[nodiscard]] const std::map<std::uint32_t, Op> &by_op() const noexcept { return by_op_; }
  /// Of all opcodes.
  [[nodiscard]] WayCounts total() const noexcept;
  /// Replies whose data went through a pipe.
  [[nodiscard]] std::uint64_t spliced() const noexcept { return spliced_; }
  /// The members `"requests":{WAY:N...},"by_op":{OPCODE:{WAY:N...}},"spliced":N,"looks":N,"looks_paid":N,"gave_way":N,
  /// "latency":{OPCODE:{"queue_us":{"p50","p99","max"},"service_us":{...}}}`, as text of a JSON object. An
  /// opcode whose requests carry no enqueue time has no "queue_us".
  /// `histograms`: and `"histograms":{OPCODE:{"queue_ns":[[BOUND,N]...],"service_ns":[...]}}`, of which two taken at
  /// different times give the quantiles of the time between.
  [[nodiscard]] std::string json(bool histograms = false) const;

 private:
  void add(const ChannelStats::Block &block);

  std::map<std::uint32_t, Op> by_op_;
  std::uint64_t spliced_ = 0;
  std::uint64_t looks_ = 0;
  std::uint64_t looks_paid_ = 0;
  std::uint64_t gave_way_ = 0;
};

}  // namespace efuse
