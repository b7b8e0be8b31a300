// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse top: rates and quantiles are of the interval alone, and what cannot be known is not shown.
#include "stats.hh"
#include "top_model.hh"

#include <catch2/catch.hpp>
#include <linux/fuse.h>
#include <nlohmann/json.hpp>

#include <string>
#include <vector>

using namespace efuse;
using namespace efuse::cli;
using json = nlohmann::json;

namespace {
constexpr std::uint64_t kSecond = 1'000'000'000;

/// As a daemon answers.
json answer(const ChannelStats &stats, std::uint64_t taken_ns, const std::string &mountpoint = "/mnt/m", int pid = 7) {
  StatsSnapshot snapshot;
  snapshot.add(stats);
  json out = json::parse(snapshot.json(true));
  out.update({{"mountpoint", mountpoint}, {"fs", "memfs"}, {"transport", "ring"}, {"pid", pid}, {"taken_ns", taken_ns}});
  return out;
}

TopSample sample(const ChannelStats &stats, std::uint64_t taken_ns, const std::string &mountpoint = "/mnt/m",
                 int pid = 7) {
  return parse_sample(answer(stats, taken_ns, mountpoint, pid), taken_ns);
}

const TopRow &row_of(const TopMount &mount, const std::string &name) {
  for (const TopRow &row : mount.ops)
    if (row.name == name) return row;
  FAIL("no row " << name);
  return mount.all;
}

std::string text_of(const std::vector<TopMount> &mounts, bool idle = false) {
  std::string text;
  for (const TopLine &line : top_lines(mounts, idle)) text += line.text + "\n";
  return text;
}

TopMount mount_named(const std::string &name, double per_s, double queue_p99) {
  TopMount mount;
  mount.mountpoint = name;
  mount.seconds = 1;
  mount.all.total_per_s = per_s;
  mount.all.queue.p99 = queue_p99;
  return mount;
}
}  // namespace

TEST_CASE("the first look at a mount gives nothing to compare", "[top]") {
  ChannelStats stats;
  stats.completed(FUSE_GETATTR, Way::ring, 1000, 1000);
  TopHistory history;
  const auto mounts = history.update({sample(stats, kSecond)}, true);
  REQUIRE(mounts.size() == 1);
  CHECK(mounts[0].seconds == 0);
  CHECK(mounts[0].ops.empty());
  CHECK_THAT(text_of(mounts), Catch::Contains("/mnt/m  memfs over ring  pid 7  new"));
}

TEST_CASE("rates and quantiles are of the interval", "[top]") {
  ChannelStats stats;
  for (int i = 0; i < 1000; ++i) stats.completed(FUSE_GETATTR, Way::ring, 1'000'000, 1'000'000);  // long ago
  TopHistory history;
  history.update({sample(stats, kSecond)}, true);
  for (int i = 0; i < 90; ++i) stats.completed(FUSE_GETATTR, Way::ring, 2000, 500);
  for (int i = 0; i < 10; ++i) stats.completed(FUSE_GETATTR, Way::stock, 64'000, 500);
  stats.completed(FUSE_READ, Way::uring, 0, 8000);  // no time of enqueueing
  const auto mounts = history.update({sample(stats, 3 * kSecond)}, true);
  REQUIRE(mounts.size() == 1);
  const TopMount &mount = mounts[0];
  CHECK(mount.seconds == Approx(2));
  const TopRow &getattr = row_of(mount, "GETATTR");
  CHECK(getattr.per_s == std::array<double, kTopWays>{45, 0, 5, 0});
  CHECK(getattr.total_per_s == Approx(50));
  CHECK(getattr.queue.p50.value() == Approx(2).epsilon(0.13));
  CHECK(getattr.queue.p99.value() == Approx(64).epsilon(0.13));
  CHECK(getattr.service.p99.value() == Approx(0.5).epsilon(0.13));
  const TopRow &read = row_of(mount, "READ");
  CHECK(read.per_s == std::array<double, kTopWays>{0, 0.5, 0, 0});
  CHECK_FALSE(read.queue.p50);
  CHECK(read.service.p50.value() == Approx(8).epsilon(0.13));
  CHECK(mount.all.total_per_s == Approx(50.5));
  CHECK(mount.all.service.p99.value() == Approx(0.5).epsilon(0.13));  // 1 of 101 is above it
}

TEST_CASE("what fast paths answer has a rate and no latency", "[top]") {
  ChannelStats stats;
  json before = answer(stats, kSecond), after = answer(stats, 2 * kSecond);
  before["fastpath"] = after["fastpath"] = json::array({{{"program", "metadata"}}, {{"program", "read"}}});
  after["by_op"]["LOOKUP"] = {{"ring", 0}, {"uring", 0}, {"stock", 0}, {"fastpath", 40}};
  TopHistory history;
  history.update({parse_sample(before, kSecond)}, true);
  const auto mounts = history.update({parse_sample(after, 2 * kSecond)}, true);
  const TopRow &lookup = row_of(mounts.at(0), "LOOKUP");
  CHECK(lookup.per_s[3] == Approx(40));
  CHECK_FALSE(lookup.queue.p50);
  CHECK_THAT(text_of(mounts), Catch::Contains("over ring with metadata,read"));
}

TEST_CASE("mounts come, go, and are made anew", "[top]") {
  ChannelStats a, b;
  a.completed(FUSE_OPEN, Way::ring, 1, 1);
  TopHistory history;
  history.update({sample(a, kSecond, "/a")}, true);
  auto mounts = history.update({sample(a, 2 * kSecond, "/a"), sample(b, 2 * kSecond, "/b")}, true);
  REQUIRE(mounts.size() == 2);
  CHECK(mounts[0].seconds == Approx(1));
  CHECK(mounts[1].seconds == 0);
  SECTION("gone, and back under the same name") {
    CHECK(history.update({sample(b, 3 * kSecond, "/b")}, true).size() == 1);
    CHECK(history.update({sample(a, 4 * kSecond, "/a")}, true).at(0).seconds == 0);
  }
  SECTION("no answer once: the next interval is the longer one") {
    CHECK(history.update({sample(b, 3 * kSecond, "/b")}, false).size() == 1);
    CHECK(history.update({sample(a, 4 * kSecond, "/a")}, true).at(0).seconds == Approx(2));
  }
  SECTION("another daemon on the same directory") {
    CHECK(history.update({sample(a, 3 * kSecond, "/a", 8)}, true).at(0).seconds == 0);
  }
  SECTION("counts that have gone down are another mount's") {
    CHECK(history.update({sample(b, 3 * kSecond, "/a")}, true).at(0).seconds == 0);
  }
  SECTION("at the same moment there is no rate") {
    CHECK(history.update({sample(a, 2 * kSecond, "/a")}, true).at(0).seconds == 0);
  }
}

TEST_CASE("CPU time between two looks", "[top]") {
  ChannelStats stats;
  TopSample before = sample(stats, kSecond), after = sample(stats, 3 * kSecond);
  after.cpu_ns = kSecond;
  TopHistory history;
  SECTION("known") {
    before.cpu_ns = 0;
    history.update({before}, true);
    const auto mounts = history.update({after}, true);
    CHECK(mounts.at(0).cpu.value() == Approx(0.5));
    CHECK_THAT(text_of(mounts), Catch::Contains("CPU 50%"));
  }
  SECTION("not known") {
    history.update({before}, true);
    CHECK_FALSE(history.update({after}, true).at(0).cpu);
  }
}

TEST_CASE("answers that are not as expected", "[top]") {
  const json odd = {{"mountpoint", "/m"}, {"by_op", {{"READ", 3}, {"OPEN", {{"ring", "many"}, {"stock", 2}}}}},
                    {"histograms", {{"OPEN", {{"queue_ns", {1, {2}, {"a", 3}, {10, 4}}}, {"service_ns", 5}}}}},
                    {"fastpath", "all"}, {"pid", -1}};
  const TopSample got = parse_sample(odd, 5);
  CHECK(got.taken_ns == 5);
  CHECK(got.pid == 0);
  CHECK(got.fastpaths.empty());
  CHECK(got.ops.at("OPEN").count == std::array<std::uint64_t, kTopWays>{0, 0, 2, 0});
  CHECK(got.ops.at("OPEN").queue == TopBuckets{{10, 4}});
  CHECK(got.ops.at("OPEN").service.empty());
  CHECK(got.ops.at("READ").count == std::array<std::uint64_t, kTopWays>{});
}

TEST_CASE("order", "[top]") {
  std::vector<TopMount> mounts{mount_named("/b", 1, 9), mount_named("/a", 1, 5), mount_named("/c", 3, 7)};
  mounts[0].ops = {{"READ", {}, 2, {}, {}}, {"OPEN", {}, 5, {}, {}}};
  const auto names = [&] { return mounts[0].mountpoint + mounts[1].mountpoint + mounts[2].mountpoint; };
  sort_mounts(mounts, TopSort::rate);
  CHECK(names() == "/c/a/b");
  CHECK(mounts[2].ops[0].name == "OPEN");
  sort_mounts(mounts, TopSort::queue);
  CHECK(names() == "/b/c/a");
  sort_mounts(mounts, TopSort::name);
  CHECK(names() == "/a/b/c");
}

TEST_CASE("lines fit a terminal, columns stand below their titles", "[top]") {
  ChannelStats stats;
  TopHistory history;
  history.update({sample(stats, kSecond)}, true);
  for (int i = 0; i < 100'000; ++i) stats.completed(FUSE_GETATTR, Way::ring, 123'456'789, 98'765);
  stats.completed(FUSE_READ, Way::ring, 5, 5);
  history.update({sample(stats, kSecond + 10)}, true);
  for (int i = 0; i < 100'000; ++i) stats.completed(FUSE_GETATTR, Way::ring, 123'456'789, 98'765);
  const auto mounts = history.update({sample(stats, kSecond * 101 / 100)}, true);
  const auto lines = top_lines(mounts, false);
  REQUIRE(lines.size() == 5);  // two titles, the mount, all, GETATTR
  for (const TopLine &line : lines)
    if (line.style != TopStyle::mount) CHECK(line.text.size() == 79);
  CHECK_THAT(lines[4].text, Catch::StartsWith("GETATTR"));
  CHECK(top_lines(mounts, true).size() == 6);  // and READ
  CHECK(top_lines({}, true).empty());
}

TEST_CASE("what a terminal would obey is not printed", "[top]") {
  CHECK(printable("a\x1b[2Jb\n\x7f") == "a?[2Jb??");
  CHECK(printable("\xc2\x9b" "1m\xc3\xa9") == "?1m\xc3\xa9");
  CHECK(printable("\xc2") == "\xc2");
}
