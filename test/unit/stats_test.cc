// SPDX-License-Identifier: LGPL-2.1-or-later
// Histograms and counters; the concurrent tests are built with TSan as well.
#include "fuse_api.hh"
#include "stats.hh"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

using namespace efuse;

TEST_CASE("now_ns is CLOCK_MONOTONIC in ns", "[stats]") {
  const std::uint64_t before = now_ns();
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  const std::uint64_t after = now_ns();
  CHECK(after - before >= 2'000'000);
  CHECK(after - before < 10'000'000'000);
}

TEST_CASE("an empty histogram", "[stats]") {
  const auto histogram = std::make_unique<Histogram>();
  CHECK(histogram->count() == 0);
  CHECK(histogram->sum() == 0);
  CHECK(histogram->max() == 0);
  for (const double q : {0.0, 0.5, 1.0}) CHECK(histogram->quantile(q) == 0);
}

TEST_CASE("one value lies in a bucket at most 12.5 % wide", "[stats]") {
  std::vector<std::uint64_t> values{0, 1, 2, 7, 8, 9, 15, 16, 17, 1000, 123'456'789, (1ull << 44) - 1};
  for (unsigned bit = 3; bit < 44; ++bit)
    for (const std::uint64_t near : {(1ull << bit) - 1, 1ull << bit, (1ull << bit) + 1})
      values.push_back(near);
  for (const std::uint64_t value : values) {
    INFO(value);
    Histogram histogram;
    histogram.add(value);
    CHECK(histogram.count() == 1);
    CHECK(histogram.sum() == value);
    CHECK(histogram.max() == value);
    for (const double q : {0.0, 0.5, 1.0}) {
      CHECK(histogram.quantile(q) >= value);
      CHECK(static_cast<double>(histogram.quantile(q)) <= static_cast<double>(value) * 1.125);
    }
  }
}

TEST_CASE("buckets follow each other without gap or overlap", "[stats]") {
  std::uint64_t last = 0;
  for (std::uint64_t value = 1; value < 100'000; ++value) {
    Histogram histogram;
    histogram.add(value);
    const std::uint64_t upper = histogram.quantile(1);
    REQUIRE(upper >= last);
    REQUIRE(upper >= value);
    if (upper != last) REQUIRE(value == last + 1);  // a bucket starts behind the one before
    last = upper;
  }
}

TEST_CASE("what is too large counts in the last bucket", "[stats]") {
  Histogram histogram;
  histogram.add(std::numeric_limits<std::uint64_t>::max());
  histogram.add(1ull << 44);
  CHECK(histogram.count() == 2);
  CHECK(histogram.max() == std::numeric_limits<std::uint64_t>::max());
  CHECK(histogram.quantile(0.5) == (1ull << 44) - 1);
}

TEST_CASE("quantiles of many values are within 12.5 % of the exact ones", "[stats]") {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> latency(9.0, 1.5);  // around 8 us, a long tail
  Histogram histogram;
  std::vector<std::uint64_t> exact;
  std::uint64_t sum = 0;
  for (int i = 0; i < 200'000; ++i) {
    exact.push_back(static_cast<std::uint64_t>(latency(random)));
    histogram.add(exact.back());
    sum += exact.back();
  }
  std::sort(exact.begin(), exact.end());
  CHECK(histogram.count() == exact.size());
  CHECK(histogram.sum() == sum);
  CHECK(histogram.max() == exact.back());
  for (const double q : {0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    INFO(q);
    const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(exact.size())));
    const auto want = static_cast<double>(exact[std::max<std::size_t>(rank, 1) - 1]);
    CHECK(static_cast<double>(histogram.quantile(q)) >= want);
    CHECK(static_cast<double>(histogram.quantile(q)) <= want * 1.125 + 1);
  }
  CHECK(histogram.quantile(-1) == histogram.quantile(0));
  CHECK(histogram.quantile(2) == histogram.quantile(1));
}

TEST_CASE("ranks: the median of three is the second", "[stats]") {
  Histogram histogram;
  for (const std::uint64_t value : {1, 3, 5}) histogram.add(value);
  CHECK(histogram.quantile(0) == 1);
  CHECK(histogram.quantile(1.0 / 3) == 1);
  CHECK(histogram.quantile(0.5) == 3);
  CHECK(histogram.quantile(0.67) == 5);
  CHECK(histogram.quantile(1) == 5);
}

TEST_CASE("merge is the sum", "[stats]") {
  Histogram a, b, both;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    (i % 3 ? a : b).add(i * i);
    both.add(i * i);
  }
  a.merge(b);
  CHECK(a.count() == both.count());
  CHECK(a.sum() == both.sum());
  CHECK(a.max() == both.max());
  for (double q = 0; q <= 1; q += 0.01) CHECK(a.quantile(q) == both.quantile(q));
}

TEST_CASE("counts by opcode and way", "[stats]") {
  ChannelStats stats;
  stats.completed(FUSE_GETATTR, Way::ring, 1000, 2000);
  stats.completed(FUSE_GETATTR, Way::ring, 1000, 2000);
  stats.completed(FUSE_GETATTR, Way::stock, 0, 4000);
  stats.completed(FUSE_READ, Way::fastpath, 0, 10);
  stats.completed(4096, Way::stock, 0, 10);
  stats.completed(~0u, Way::stock, 0, 10);
  stats.completed(kOpcodes - 1, Way::stock, 0, 10);
  stats.completed(FUSE_READ, Way::count_, 0, 10);  // no way: not counted
  StatsSnapshot snapshot;
  snapshot.add(stats);
  REQUIRE(snapshot.by_op().size() == 3);
  const auto &getattr = snapshot.by_op().at(FUSE_GETATTR);
  CHECK(getattr.count == WayCounts{2, 0, 1, 0});
  CHECK(getattr.queue.count() == 2);  // the third carried no enqueue time
  CHECK(getattr.service.count() == 3);
  CHECK(getattr.service.sum() == 8000);
  CHECK(snapshot.by_op().at(FUSE_READ).count == WayCounts{0, 0, 0, 1});
  CHECK(snapshot.by_op().at(kOpcodes - 1).count == WayCounts{0, 0, 3, 0});
  CHECK(snapshot.total() == WayCounts{2, 0, 4, 1});
}

TEST_CASE("disabled statistics stay empty", "[stats]") {
  ChannelStats stats(false);
  stats.completed(FUSE_GETATTR, Way::ring, 1, 1);
  StatsSnapshot snapshot;
  snapshot.add(stats);
  CHECK(snapshot.by_op().empty());
}

TEST_CASE("a snapshot merges channels", "[stats]") {
  ChannelStats a, b;
  for (int i = 0; i < 10; ++i) a.completed(FUSE_LOOKUP, Way::ring, 100, 200);
  for (int i = 0; i < 5; ++i) b.completed(FUSE_LOOKUP, Way::stock, 0, 800);
  StatsSnapshot snapshot;
  snapshot.add(a);
  snapshot.add(b);
  const auto &lookup = snapshot.by_op().at(FUSE_LOOKUP);
  CHECK(lookup.count == WayCounts{10, 0, 5, 0});
  CHECK(lookup.queue.count() == 10);
  CHECK(lookup.service.count() == 15);
  CHECK(lookup.service.max() == 800);
}

TEST_CASE("JSON of a snapshot", "[stats]") {
  ChannelStats stats;
  stats.completed(FUSE_GETATTR, Way::ring, 1000, 2500);
  stats.completed(FUSE_OPEN, Way::stock, 0, 4000);
  stats.completed(61, Way::stock, 0, 4000);
  stats.spliced();
  stats.looked(true);
  stats.looked(false);
  stats.gave_way();
  StatsSnapshot one, snapshot;
  one.add(stats);
  snapshot.add(one);
  const auto json = nlohmann::json::parse(snapshot.json());
  CHECK(json["requests"] == nlohmann::json{{"ring", 1}, {"uring", 0}, {"stock", 2}, {"fastpath", 0}});
  CHECK(json["spliced"] == 1);
  CHECK(json["looks"] == 2);
  CHECK(json["looks_paid"] == 1);
  CHECK(json["gave_way"] == 1);
  CHECK(json["by_op"].size() == 3);
  CHECK(json["by_op"]["GETATTR"] == nlohmann::json{{"ring", 1}, {"uring", 0}, {"stock", 0}, {"fastpath", 0}});
  CHECK(json["by_op"]["OPCODE_61"]["stock"] == 1);
  CHECK(json["latency"]["GETATTR"]["queue_us"]["max"] == 1.0);
  CHECK(json["latency"]["GETATTR"]["queue_us"]["p99"] == 1.0);  // never above the largest seen
  CHECK(json["latency"]["GETATTR"]["service_us"]["max"] == 2.5);
  CHECK_FALSE(json["latency"]["OPEN"].contains("queue_us"));
  CHECK(nlohmann::json::parse(StatsSnapshot().json())["by_op"].empty());
}

TEST_CASE("names", "[stats]") {
  CHECK(opcode_name(FUSE_GETATTR) == "GETATTR");
  CHECK(opcode_name(FUSE_COPY_FILE_RANGE) == "COPY_FILE_RANGE");
  CHECK(opcode_name(51) == "TMPFILE");
  CHECK(opcode_name(2) == "FORGET");
  CHECK(opcode_name(7) == "OPCODE_7");
  CHECK(opcode_name(4096) == "OTHER");
  CHECK(way_name(Way::fastpath) == "fastpath");
}

TEST_CASE("threads count while a reader looks", "[stats][concurrent]") {
  constexpr std::uint64_t kThreads = 4, kEach = 20'000;
  ChannelStats stats;
  std::atomic<bool> done{false};
  std::uint64_t seen = 0, looks = 0;
  bool grew = true, consistent = true;
  std::thread reader([&] {
    // One look after the last write at least.
    for (bool last = false; !last; ++looks) {
      last = done.load(std::memory_order_acquire);
      StatsSnapshot snapshot;
      snapshot.add(stats);
      std::uint64_t now = 0;
      for (const std::uint64_t count : snapshot.total()) now += count;
      grew &= now >= seen;
      seen = now;
      for (const auto &[opcode, op] : snapshot.by_op()) consistent &= op.service.quantile(1) < (1u << 20);
    }
  });
  std::vector<std::thread> writers;
  for (std::uint64_t thread = 0; thread < kThreads; ++thread)
    writers.emplace_back([&, thread] {
      for (std::uint64_t i = 0; i < kEach; ++i)
        stats.completed(static_cast<std::uint32_t>(i % 40 + 1), thread % 2 ? Way::ring : Way::stock,
                        i % 1000 + 1, i);
    });
  for (auto &writer : writers) writer.join();
  done.store(true, std::memory_order_release);
  reader.join();
  CHECK(grew);
  CHECK(consistent);
  CHECK(looks > 0);
  CHECK(seen == kThreads * kEach);  // no count is lost between the two blocks

  StatsSnapshot snapshot;
  snapshot.add(stats);
  CHECK(snapshot.total() == WayCounts{kThreads * kEach / 2, 0, kThreads * kEach / 2, 0});
  std::uint64_t queued = 0, sum = 0;
  for (const auto &[opcode, op] : snapshot.by_op()) {
    queued += op.queue.count();
    sum += op.service.sum();
  }
  CHECK(queued == kThreads * kEach);
  CHECK(sum == kThreads * (kEach * (kEach - 1) / 2));
}

TEST_CASE("a channel's owner may end and others go on", "[stats][concurrent]") {
  ChannelStats stats;
  for (int round = 0; round < 20; ++round)
    std::thread([&] { stats.completed(FUSE_READ, Way::ring, 5, 5); }).join();
  stats.completed(FUSE_READ, Way::ring, 5, 5);
  StatsSnapshot snapshot;
  snapshot.add(stats);
  CHECK(snapshot.total()[0] == 21);
}
