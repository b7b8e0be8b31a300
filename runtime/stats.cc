// SPDX-License-Identifier: LGPL-2.1-or-later
#include "stats.hh"

#include "fuse_api.hh"

#include <nlohmann/json.hpp>

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <new>
#include <thread>

namespace efuse {
namespace {

constexpr std::uint64_t kSub = 1u << Histogram::kSubBits;

// Counters are plain words: relaxed is enough because nothing is inferred from
// one word about another, and a single writer needs no read-modify-write.
std::uint64_t load(const std::uint64_t &word) noexcept {
  // atomic_ref takes no const object before C++26; a load changes nothing.
  return std::atomic_ref(const_cast<std::uint64_t &>(word)).load(std::memory_order_relaxed);
}

void store(std::uint64_t &word, std::uint64_t value) noexcept {
  std::atomic_ref(word).store(value, std::memory_order_relaxed);
}

void bump(std::uint64_t &word, std::uint64_t by) noexcept { store(word, load(word) + by); }

// Values below 8 have a bucket each; then 8 buckets from 2^e to 2^(e+1).
std::size_t bucket_of(std::uint64_t ns) noexcept {
  if (ns < kSub) return static_cast<std::size_t>(ns);
  const unsigned exponent = std::bit_width(ns) - 1;
  const unsigned shift = exponent - Histogram::kSubBits;
  const std::size_t index = (std::size_t{shift + 1} << Histogram::kSubBits) + ((ns >> shift) & (kSub - 1));
  return std::min(index, Histogram::kBuckets - 1);
}

std::uint64_t upper_bound_of(std::size_t bucket) noexcept {
  if (bucket < kSub) return bucket;
  const unsigned shift = static_cast<unsigned>(bucket >> Histogram::kSubBits) - 1;
  return ((kSub + (bucket & (kSub - 1)) + 1) << shift) - 1;
}

nlohmann::json quantiles_us(const Histogram &histogram) {
  // A bucket's upper bound may lie above what was seen.
  const auto us = [&](std::uint64_t ns) { return static_cast<double>(std::min(ns, histogram.max())) / 1000; };
  return {{"p50", us(histogram.quantile(0.5))},
          {"p99", us(histogram.quantile(0.99))},
          {"max", us(histogram.max())}};
}

nlohmann::json counts_json(const WayCounts &count) {
  nlohmann::json out;
  for (std::size_t way = 0; way < kWays; ++way)
    out[std::string(way_name(static_cast<Way>(way)))] = count[way];
  return out;
}

}  // namespace

std::uint64_t now_ns() noexcept {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<std::uint64_t>(ts.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(ts.tv_nsec);
}

void Histogram::add(std::uint64_t ns) noexcept {
  bump(bucket_[bucket_of(ns)], 1);
  bump(sum_, ns);
  if (ns > load(max_)) store(max_, ns);
}

std::uint64_t Histogram::count() const noexcept {
  std::uint64_t total = 0;
  for (const auto &bucket : bucket_) total += load(bucket);
  return total;
}

std::uint64_t Histogram::sum() const noexcept { return load(sum_); }
std::uint64_t Histogram::max() const noexcept { return load(max_); }

std::uint64_t Histogram::quantile(double q) const noexcept {
  // Buckets only grow, so the walk reaches the rank taken from an earlier count.
  const std::uint64_t total = count();
  if (total == 0) return 0;
  const double rank = std::ceil(std::clamp(q, 0.0, 1.0) * static_cast<double>(total));
  const std::uint64_t wanted = std::clamp<std::uint64_t>(static_cast<std::uint64_t>(rank), 1, total);
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < kBuckets; ++i) {
    seen += load(bucket_[i]);
    if (seen >= wanted) return upper_bound_of(i);
  }
  return upper_bound_of(kBuckets - 1);
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> Histogram::buckets() const {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> out;
  for (std::size_t i = 0; i < kBuckets; ++i)
    if (const std::uint64_t count = load(bucket_[i])) out.emplace_back(upper_bound_of(i), count);
  return out;
}

void Histogram::merge(const Histogram &other) noexcept {
  for (std::size_t i = 0; i < kBuckets; ++i) bump(bucket_[i], load(other.bucket_[i]));
  bump(sum_, other.sum());
  if (other.max() > load(max_)) store(max_, other.max());
}

std::string_view way_name(Way way) noexcept {
  switch (way) {
    case Way::ring:
      return "ring";
    case Way::uring:
      return "uring";
    case Way::stock:
      return "stock";
    case Way::fastpath:
      return "fastpath";
    case Way::count_:
      break;
  }
  return "?";
}

std::string opcode_name(std::uint32_t opcode) {
  switch (opcode) {
#define EFUSE_OPCODE(name) \
  case FUSE_##name:        \
    return #name
    EFUSE_OPCODE(LOOKUP);
    EFUSE_OPCODE(FORGET);
    EFUSE_OPCODE(GETATTR);
    EFUSE_OPCODE(SETATTR);
    EFUSE_OPCODE(READLINK);
    EFUSE_OPCODE(SYMLINK);
    EFUSE_OPCODE(MKNOD);
    EFUSE_OPCODE(MKDIR);
    EFUSE_OPCODE(UNLINK);
    EFUSE_OPCODE(RMDIR);
    EFUSE_OPCODE(RENAME);
    EFUSE_OPCODE(LINK);
    EFUSE_OPCODE(OPEN);
    EFUSE_OPCODE(READ);
    EFUSE_OPCODE(WRITE);
    EFUSE_OPCODE(STATFS);
    EFUSE_OPCODE(RELEASE);
    EFUSE_OPCODE(FSYNC);
    EFUSE_OPCODE(SETXATTR);
    EFUSE_OPCODE(GETXATTR);
    EFUSE_OPCODE(LISTXATTR);
    EFUSE_OPCODE(REMOVEXATTR);
    EFUSE_OPCODE(FLUSH);
    EFUSE_OPCODE(INIT);
    EFUSE_OPCODE(OPENDIR);
    EFUSE_OPCODE(READDIR);
    EFUSE_OPCODE(RELEASEDIR);
    EFUSE_OPCODE(FSYNCDIR);
    EFUSE_OPCODE(GETLK);
    EFUSE_OPCODE(SETLK);
    EFUSE_OPCODE(SETLKW);
    EFUSE_OPCODE(ACCESS);
    EFUSE_OPCODE(CREATE);
    EFUSE_OPCODE(INTERRUPT);
    EFUSE_OPCODE(BMAP);
    EFUSE_OPCODE(DESTROY);
    EFUSE_OPCODE(IOCTL);
    EFUSE_OPCODE(POLL);
    EFUSE_OPCODE(NOTIFY_REPLY);
    EFUSE_OPCODE(BATCH_FORGET);
    EFUSE_OPCODE(FALLOCATE);
    EFUSE_OPCODE(READDIRPLUS);
    EFUSE_OPCODE(RENAME2);
    EFUSE_OPCODE(LSEEK);
    EFUSE_OPCODE(COPY_FILE_RANGE);
    EFUSE_OPCODE(SETUPMAPPING);
    EFUSE_OPCODE(REMOVEMAPPING);
#undef EFUSE_OPCODE
    // Newer than the oldest protocol header this builds with.
    case 50:
      return "SYNCFS";
    case 51:
      return "TMPFILE";
    case 52:
      return "STATX";
    case 53:
      return "COPY_FILE_RANGE_64";
    default:
      break;
  }
  return opcode >= kOpcodes - 1 ? "OTHER" : "OPCODE_" + std::to_string(opcode);
}

ChannelStats::~ChannelStats() {
  for (Block *block : {&own_, &shared_})
    for (auto &latency : block->latency) delete latency.load(std::memory_order_relaxed);
}

void ChannelStats::Block::add(std::size_t row, Way way, std::uint64_t queue_ns,
                              std::uint64_t service_ns) noexcept {
  bump(count[row][static_cast<std::size_t>(way)], 1);
  // Relaxed: only this block's writer stores the pointer. Another thread that
  // becomes the shared block's writer is ordered behind it by the lock.
  Latency *pair = latency[row].load(std::memory_order_relaxed);
  if (!pair) {
    pair = new (std::nothrow) Latency;
    if (!pair) return;  // counted all the same
    latency[row].store(pair, std::memory_order_release);
  }
  if (queue_ns) pair->queue.add(queue_ns);
  pair->service.add(service_ns);
}

void ChannelStats::completed(std::uint32_t opcode, Way way, std::uint64_t queue_ns,
                             std::uint64_t service_ns) noexcept {
  if (!enabled_ || static_cast<std::size_t>(way) >= kWays) return;
  const std::size_t row = std::min<std::size_t>(opcode, kOpcodes - 1);
  const auto self = static_cast<std::uintptr_t>(pthread_self());
  std::uintptr_t owner = owner_.load(std::memory_order_relaxed);
  if (owner == 0 && owner_.compare_exchange_strong(owner, self, std::memory_order_relaxed)) owner = self;
  if (owner == self) return own_.add(row, way, queue_ns, service_ns);

  for (unsigned spins = 0; shared_lock_.test_and_set(std::memory_order_acquire);)
    if (++spins % 64 == 0) std::this_thread::yield();  // its holder may have lost the CPU
  shared_.add(row, way, queue_ns, service_ns);
  shared_lock_.clear(std::memory_order_release);
}

void ChannelStats::spliced() noexcept {
  if (enabled_) bump(spliced_, 1);
}

void ChannelStats::looked(bool paid) noexcept {
  if (!enabled_) return;
  bump(looks_, 1);
  bump(looks_paid_, paid ? 1 : 0);
}

void ChannelStats::gave_way() noexcept {
  if (enabled_) bump(gave_way_, 1);
}

void StatsSnapshot::add(const ChannelStats &channel) {
  spliced_ += load(channel.spliced_);
  looks_ += load(channel.looks_);
  looks_paid_ += load(channel.looks_paid_);
  gave_way_ += load(channel.gave_way_);
  add(channel.own_);
  add(channel.shared_);
}

void StatsSnapshot::add(const StatsSnapshot &other) {
  spliced_ += other.spliced_;
  looks_ += other.looks_;
  looks_paid_ += other.looks_paid_;
  gave_way_ += other.gave_way_;
  for (const auto &[opcode, from] : other.by_op_) {
    Op &op = by_op_[opcode];
    for (std::size_t way = 0; way < kWays; ++way) op.count[way] += from.count[way];
    op.queue.merge(from.queue);
    op.service.merge(from.service);
  }
}

void StatsSnapshot::add(const ChannelStats::Block &block) {
  for (std::uint32_t row = 0; row < kOpcodes; ++row) {
    WayCounts count;
    std::uint64_t any = 0;
    for (std::size_t way = 0; way < kWays; ++way) any += count[way] = load(block.count[row][way]);
    if (!any) continue;
    Op &op = by_op_[row];
    for (std::size_t way = 0; way < kWays; ++way) op.count[way] += count[way];
    // Acquire: sees the zeroed pair that the writer published.
    if (const auto *pair = block.latency[row].load(std::memory_order_acquire)) {
      op.queue.merge(pair->queue);
      op.service.merge(pair->service);
    }
  }
}

WayCounts StatsSnapshot::total() const noexcept {
  WayCounts sum{};
  for (const auto &[opcode, op] : by_op_)
    for (std::size_t way = 0; way < kWays; ++way) sum[way] += op.count[way];
  return sum;
}

std::string StatsSnapshot::json(bool histograms) const {
  nlohmann::json by_op = nlohmann::json::object();
  nlohmann::json latency = nlohmann::json::object();
  for (const auto &[opcode, op] : by_op_) {
    const std::string name = opcode_name(opcode);
    by_op[name] = counts_json(op.count);
    latency[name]["service_us"] = quantiles_us(op.service);
    if (op.queue.count()) latency[name]["queue_us"] = quantiles_us(op.queue);
  }
  nlohmann::json out{{"requests", counts_json(total())},
                     {"by_op", by_op},
                     {"spliced", spliced_},
                     {"looks", looks_},
                     {"looks_paid", looks_paid_},
                     {"gave_way", gave_way_},
                     {"latency", latency}};
  if (histograms) {
    nlohmann::json &buckets = out["histograms"] = nlohmann::json::object();
    for (const auto &[opcode, op] : by_op_)
      buckets[opcode_name(opcode)] = {{"queue_ns", op.queue.buckets()}, {"service_ns", op.service.buckets()}};
  }
  return out.dump();
}

}  // namespace efuse
