// SPDX-License-Identifier: LGPL-2.1-or-later
// The benchmark's own parts: what it claims must be what happened, and what it
// did not see must be told as such.
#include "bench.hh"
#include "latency_table.hh"
#include "request.hh"
#include "rounds.hh"
#include "session_core.hh"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using namespace efuse;
using namespace efuse::perf;

namespace {
pid_t tid() { return static_cast<pid_t>(syscall(SYS_gettid)); }

// Stands for a transport: a reply is where the client may already run on.
class FakeChannel final : public Channel {
 public:
  std::function<void()> on_reply = [] {};
  int replies = 0;

  int reply(fuse_req &, int, std::span<const iovec>) noexcept override { return replied(); }
  int reply_in_place(fuse_req &, std::size_t) noexcept override { return replied(); }
  void drop(fuse_req &) noexcept override {}
  ChannelStats &stats() noexcept override { return stats_; }

 private:
  int replied() noexcept {
    ++replies;
    on_reply();
    return 0;
  }
  ChannelStats stats_;
};

class FakeSession final : public SessionCore {
 public:
  explicit FakeSession(const fuse_lowlevel_ops &ops) : SessionCore(&ops, sizeof(ops), nullptr) {}
  int notify(std::int32_t, std::span<const iovec>) noexcept override { return 0; }
  void interrupt(std::uint64_t) noexcept override {}
  void exit(int) noexcept override {}
};

// A request of this thread, as a transport would hand it over.
struct FakeRequest {
  FakeRequest(SessionCore &session, Channel &channel, pid_t pid) {
    req.session = &session;
    req.channel = &channel;
    req.unique = 2;
    req.ctx.pid = pid;
    req.out = body;
    req.out_cap = sizeof(body);
  }
  alignas(8) std::byte body[512];
  fuse_req req;
};

void answer_getattr(fuse_req_t req, fuse_ino_t, fuse_file_info *) {
  struct stat st {};
  usleep(2000);
  fuse_reply_attr(req, &st, 0);
  usleep(2000);  // after the reply: not service time
}
void refuse_lookup(fuse_req_t req, fuse_ino_t, const char *) { fuse_reply_err(req, ENOENT); }

fuse_req_t kept = nullptr;
void keep_read(fuse_req_t req, fuse_ino_t, size_t, off_t, fuse_file_info *) { kept = req; }

fuse_lowlevel_ops test_ops() {
  fuse_lowlevel_ops ops{};
  ops.getattr = answer_getattr;
  ops.lookup = refuse_lookup;
  ops.read = keep_read;
  return ops;
}

// What a daemon does with one request of `cell`'s thread.
void serve(ProbeCell &cell, std::uint32_t opcode) {
  const std::uint64_t now = monotonic_ns();
  const std::uint64_t seq = cell.dequeued();
  REQUIRE(seq != 0);
  cell.replied(seq, opcode, now);
}

Row row_of(const char *transport, unsigned threads, double ops) {
  Row row;
  row.transport = transport;
  row.op = "getattr";
  row.threads = threads;
  row.ops_per_s = ops;
  row.rounds = {ops, ops, ops};
  row.spread = 0.125;
  row.lat = {10, 20, 30};
  row.queue = {1, 2, 3};
  row.service = {4, 5, 6};
  row.reply = {7, 8, 9};
  row.ctxsw_per_op = 2;
  row.requests_per_op = 1;
  return row;
}

std::set<std::string> bench_mounts() {
  std::set<std::string> found;
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);)
    if (line.find("/efuse-bench-") != std::string::npos)
      found.insert(line);
  return found;
}
}  // namespace

TEST_CASE("probe table: every thread finds its own cell", "[probe]") {
  ProbeTable table = ProbeTable::create(64);
  std::vector<ProbeCell *> cells;
  for (unsigned i = 0; i < 64; ++i)  // ids that differ in high bits only, and neighbours
    cells.push_back(&table.claim(i, static_cast<pid_t>(i % 2 ? i << 16 : 100 + i)));
  CHECK(std::set<ProbeCell *>(cells.begin(), cells.end()).size() == 64);
  for (unsigned i = 0; i < 64; ++i)
    CHECK(table.find(static_cast<pid_t>(i % 2 ? i << 16 : 100 + i)) == cells[i]);
  CHECK(table.find(99) == nullptr);
  CHECK(table.find(0) == nullptr);
}

TEST_CASE("probe table: shared through its descriptor", "[probe]") {
  ProbeTable ours = ProbeTable::create(3);
  ProbeTable theirs = ProbeTable::attach(ours.fd());
  ProbeCell &cell = ours.claim(2, 77);
  ProbeCell *seen = theirs.find(77);
  REQUIRE(seen != nullptr);
  CHECK(seen != &cell);  // another mapping
  cell.arm(FUSE_GETATTR);
  const std::uint64_t t0 = monotonic_ns();
  serve(*seen, FUSE_GETATTR);
  CHECK(cell.collect(t0, monotonic_ns()).has_value());
}

TEST_CASE("probe table: refuses what is none", "[probe]") {
  CHECK_THROWS_AS(ProbeTable::create(0), std::invalid_argument);
  CHECK_THROWS_AS(ProbeTable::attach(-1), std::system_error);
  const Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  CHECK_THROWS_AS(ProbeTable::attach(null.get()), std::runtime_error);
  const Fd wrong(memfd_create("wrong", MFD_CLOEXEC));
  REQUIRE(ftruncate(wrong.get(), 1 << 16) == 0);
  CHECK_THROWS_AS(ProbeTable::attach(wrong.get()), std::runtime_error);
  ProbeTable right = ProbeTable::create(8);
  REQUIRE(ftruncate(right.fd(), 128) == 0);  // shorter than its head says
  CHECK_THROWS_AS(ProbeTable::attach(right.fd()), std::runtime_error);
}

TEST_CASE("probe cell: the parts of one request add up", "[probe]") {
  ProbeTable table = ProbeTable::create(1);
  ProbeCell &cell = table.claim(0, 1);
  cell.arm(FUSE_GETATTR);
  const std::uint64_t t0 = monotonic_ns();
  usleep(1000);
  serve(cell, FUSE_GETATTR);
  usleep(3000);
  const std::uint64_t t1 = monotonic_ns();
  const auto split = cell.collect(t0, t1);
  REQUIRE(split);
  CHECK(split->queue + split->service + split->reply == t1 - t0);
  CHECK(split->queue >= 1'000'000);
  CHECK(split->reply >= 3'000'000);
  CHECK(split->requests == 1);
}

TEST_CASE("probe cell: a LOOKUP before a CREATE counts as service, the gap does not", "[probe]") {
  ProbeTable table = ProbeTable::create(1);
  ProbeCell &cell = table.claim(0, 1);
  cell.arm(FUSE_CREATE);
  const std::uint64_t t0 = monotonic_ns();
  serve(cell, FUSE_LOOKUP);
  usleep(5000);
  serve(cell, FUSE_CREATE);
  const std::uint64_t t1 = monotonic_ns();
  const auto split = cell.collect(t0, t1);
  REQUIRE(split);
  CHECK(split->requests == 2);
  CHECK(split->queue + split->service + split->reply + 5'000'000 <= t1 - t0);
}

TEST_CASE("probe cell: no whole record, no figures", "[probe]") {
  ProbeTable table = ProbeTable::create(1);
  ProbeCell &cell = table.claim(0, 1);
  const std::uint64_t t0 = monotonic_ns();
  const auto collect = [&] { return cell.collect(t0, monotonic_ns()); };

  SECTION("nothing reached the daemon") {
    cell.arm(FUSE_GETATTR);
    CHECK_FALSE(collect());
  }
  SECTION("only another opcode did") {
    cell.arm(FUSE_CREATE);
    serve(cell, FUSE_LOOKUP);
    CHECK_FALSE(collect());
  }
  SECTION("no reply was seen") {
    cell.arm(FUSE_GETATTR);
    CHECK(cell.dequeued() != 0);
    CHECK_FALSE(collect());
  }
  SECTION("two at once") {
    cell.arm(FUSE_READ);
    const std::uint64_t now = monotonic_ns();
    const std::uint64_t a = cell.dequeued(), b = cell.dequeued();
    cell.replied(a, FUSE_READ, now);
    cell.replied(b, FUSE_READ, now);
    CHECK_FALSE(collect());
  }
  SECTION("a reply that is left from the operation before") {
    cell.arm(FUSE_GETATTR);
    const std::uint64_t old = cell.dequeued();
    CHECK_FALSE(collect());
    cell.arm(FUSE_GETATTR);
    cell.replied(old, FUSE_GETATTR, monotonic_ns());
    CHECK_FALSE(collect());
    // And the next one is whole again.
    cell.arm(FUSE_GETATTR);
    serve(cell, FUSE_GETATTR);
    CHECK(collect());
  }
  SECTION("between operations nothing is taken") {
    CHECK(cell.dequeued() == 0);
    cell.arm(FUSE_GETATTR);
    serve(cell, FUSE_GETATTR);
    CHECK(collect());
    CHECK(cell.dequeued() == 0);
  }
  SECTION("times outside of the system call") {
    cell.arm(FUSE_GETATTR);
    serve(cell, FUSE_GETATTR);
    CHECK_FALSE(cell.collect(monotonic_ns(), monotonic_ns()));
  }
}

TEST_CASE("probe: the record is whole before the reply leaves", "[probe]") {
  ProbeTable table = ProbeTable::create(1);
  ProbeCell &cell = table.claim(0, tid());
  Probe probe(ProbeTable::attach(table.fd()), test_ops());
  CHECK_THROWS_AS(Probe(ProbeTable::attach(table.fd()), test_ops()), std::logic_error);
  CHECK(probe.ops().write == nullptr);  // absent stays absent
  CHECK(probe.ops().init == nullptr);

  FakeChannel channel;
  FakeSession session(probe.ops());
  FakeRequest request(session, channel, tid());
  std::optional<Split> split;
  std::uint64_t t0 = 0;
  channel.on_reply = [&] { split = cell.collect(t0, monotonic_ns()); };

  cell.arm(FUSE_GETATTR);
  t0 = monotonic_ns();
  probe.ops().getattr(&request.req, 1, nullptr);
  CHECK(channel.replies == 1);
  REQUIRE(split);
  CHECK(split->service >= 2'000'000);
  CHECK(split->reply < 2'000'000);  // the callback's rest is not waited for
}

TEST_CASE("probe: errors, strangers and late replies", "[probe]") {
  ProbeTable table = ProbeTable::create(1);
  ProbeCell &cell = table.claim(0, tid());
  Probe probe(ProbeTable::attach(table.fd()), test_ops());
  FakeChannel channel;
  FakeSession session(probe.ops());
  FakeRequest request(session, channel, tid());
  FakeRequest stranger(session, channel, tid() + 1);

  cell.arm(FUSE_LOOKUP);
  std::uint64_t t0 = monotonic_ns();
  probe.ops().lookup(&request.req, 1, "x");
  CHECK(cell.collect(t0, monotonic_ns()));  // an error is an answer

  cell.arm(FUSE_LOOKUP);
  t0 = monotonic_ns();
  probe.ops().lookup(&stranger.req, 1, "x");
  CHECK_FALSE(cell.collect(t0, monotonic_ns()));

  // A reply after the callback, maybe from another thread: told as not measured.
  cell.arm(FUSE_READ);
  t0 = monotonic_ns();
  FakeRequest late(session, channel, tid());
  probe.ops().read(&late.req, 1, 4096, 0, nullptr);
  REQUIRE(kept == &late.req);
  std::thread([] { fuse_reply_err(kept, EIO); }).join();
  CHECK_FALSE(cell.collect(t0, monotonic_ns()));
  CHECK(channel.replies == 3);
}

TEST_CASE("probe cell: many operations against a daemon thread", "[probe]") {
  ProbeTable table = ProbeTable::create(1);
  ProbeCell &cell = table.claim(0, 1);
  std::atomic<int> turn{0};  // 1: the daemon's, -1: end; stands for the kernel between them
  std::thread daemon([&] {
    for (int now; (now = turn.load(std::memory_order_acquire)) >= 0; std::this_thread::yield())
      if (now == 1) {
        const std::uint64_t t = monotonic_ns();
        cell.replied(cell.dequeued(), FUSE_GETATTR, t);
        turn.store(0, std::memory_order_release);
      }
  });
  int whole = 0;
  constexpr int kOps = 5000;
  for (int i = 0; i < kOps; ++i) {
    cell.arm(FUSE_GETATTR);
    const std::uint64_t t0 = monotonic_ns();
    turn.store(1, std::memory_order_release);
    while (turn.load(std::memory_order_acquire) == 1)
      std::this_thread::yield();
    const std::uint64_t t1 = monotonic_ns();
    const auto split = cell.collect(t0, t1);
    whole += split && split->requests == 1 && split->queue + split->service + split->reply == t1 - t0;
  }
  turn.store(-1, std::memory_order_release);
  daemon.join();
  CHECK(whole == kOps);
}

TEST_CASE("bench: names of operations", "[bench]") {
  for (Op op : kAllOps)
    CHECK(parse_op(to_string(op)) == op);
  CHECK_THROWS_WITH(parse_op("unlink"), Catch::Contains("with create"));
  CHECK_THROWS_WITH(parse_op("stat"), Catch::Contains("getattr, lookup"));
}

TEST_CASE("bench: quantiles never exceed the largest value", "[bench]") {
  Histogram histogram;
  for (int i = 0; i < 99; ++i)
    histogram.add(1000);
  histogram.add(100'001);
  const Quantiles q = quantiles_us(histogram);
  CHECK(q.p50 >= 1.0);
  CHECK(q.p50 <= 1.13);
  CHECK(q.max == Approx(100.001));
  Histogram one;
  one.add(1'000'001);  // not its bucket's upper bound
  CHECK(quantiles_us(one).p50 == Approx(1000.001));
  CHECK(quantiles_us(Histogram{}).max == 0);
}

TEST_CASE("bench: rounds are compared pair by pair", "[bench]") {
  CHECK(median({}) == 0);
  CHECK(median(std::vector{3.0, 1.0, 2.0}) == 2);
  CHECK(median(std::vector{4.0, 1.0, 2.0, 3.0}) == 2.5);
  CHECK(spread(std::vector{4.0, 1.0, 2.0}) == 1.5);
  CHECK(spread({}) == 0);

  // A machine that gets ten times slower does so for both: the medians' ratio would be 1.
  const std::vector base{1000.0, 900.0, 300.0, 200.0, 100.0};
  const std::vector tenth_more{1100.0, 990.0, 330.0, 220.0, 110.0};
  auto ratio = compare_rounds(tenth_more, base);
  REQUIRE(ratio);
  CHECK(ratio->median == Approx(1.1));
  CHECK_FALSE(ratio->interval);  // five cannot tell

  CHECK_FALSE(compare_rounds({}, {}));
  CHECK_FALSE(compare_rounds(base, std::vector(5, 0.0)));
  ratio = compare_rounds(base, std::vector{0.0, 450.0, 0.0, 50.0, 50.0});  // nothing was done in two of them
  REQUIRE(ratio);
  CHECK(ratio->median == 2);

  // Which of n values in order the interval has at its ends: the sign test's tables.
  const auto ends = [](std::size_t n) {
    std::vector<double> values, ones(n, 1.0);
    for (std::size_t i = 0; i < n; ++i)
      values.push_back(static_cast<double>((i * 7) % n + 1));  // 7 is prime to each n below
    const auto interval = compare_rounds(values, ones)->interval;
    REQUIRE(interval);
    return std::pair(interval->low, interval->high);
  };
  CHECK(ends(6) == std::pair(1.0, 6.0));
  CHECK(ends(8) == std::pair(1.0, 8.0));
  CHECK(ends(9) == std::pair(2.0, 8.0));
  CHECK(ends(11) == std::pair(2.0, 10.0));
  CHECK(ends(25) == std::pair(8.0, 18.0));
  CHECK(ends(1000) == std::pair(469.0, 532.0));
}

TEST_CASE("bench: ways by transport", "[bench]") {
  const Ways ways{10, 20, 30, 40};
  CHECK(ways.by("ring") == 10);
  CHECK(ways.by("uring") == 20);
  CHECK(ways.by("dev") == 30);
  CHECK(ways.total() == 100);
  CHECK((ways - Ways{1, 2, 3, 4}).total() == 90);
}

TEST_CASE("bench: JSON rows and the table", "[bench]") {
  Report report;
  report.fs = "nullfs";
  report.machine = {2, "6.12-test", "x86_64, a processor", "abc123"};
  report.rounds = 5;
  report.transports = {"dev", "ring"};
  report.rows = {row_of("dev", 1, 1000), row_of("ring", 1, 8000)};
  report.rows[0].carried = 1.0;
  report.rows[1].carried = 0.995;
  report.totals = {{"dev", Ways{0, 0, 100, 0}}, {"ring", Ways{75, 0, 25, 0}}};

  const auto json = nlohmann::json::parse(to_json(report));
  REQUIRE(json.size() == 2);
  const auto &row = json[1];
  for (const char *key : {"fs", "transport", "op", "threads", "cpus", "ops_per_s", "lat_us", "queue_us",
                          "service_us", "reply_us", "ctxsw_per_op", "kernel", "machine", "commit", "rounds",
                          "ops_per_s_spread"})
    CHECK(row.contains(key));
  CHECK(row["transport"] == "ring");
  CHECK(row["threads"] == 1);
  CHECK(row["cpus"] == 2);
  CHECK(row["ops_per_s"] == 8000);
  CHECK(row["ops_per_s_spread"] == Approx(0.125));
  CHECK(row["ops_per_s_rounds"] == nlohmann::json({8000, 8000, 8000}));
  CHECK(row["lat_us"] == nlohmann::json({{"p50", 10}, {"p99", 20}, {"max", 30}}));
  CHECK(row["queue_us"]["p99"] == 2);
  CHECK(row["service_us"]["p50"] == 4);
  CHECK(row["reply_us"]["max"] == 9);

  CHECK_FALSE(report.any_marked());
  std::string table = format_table(report);
  CHECK_THAT(table, Catch::Contains("8.00x"));
  CHECK_THAT(table, !Catch::Contains("8.00-8.00"));
  report.rows[0].rounds = std::vector(6, 1000.0);
  report.rows[1].rounds = {7000, 8000, 8000, 8000, 8000, 9000};
  CHECK_THAT(format_table(report), Catch::Contains("8.00x  7.00-9.00"));
  CHECK_THAT(table, Catch::Contains("ring: 100 requests, 75.00% ring, 25.00% stock"));
  CHECK_THAT(table, !Catch::Contains("!"));

  report.rows[1].carried = 0.9;
  CHECK(report.any_marked());
  CHECK_THAT(format_table(report), Catch::Contains("! only 90.0% by ring"));
  report.rows[1].unmeasured = 1;
  CHECK_THAT(format_table(report), Catch::Contains("100% not split"));
  report.machine.commit.clear();
  CHECK_FALSE(nlohmann::json::parse(to_json(report))[0].contains("commit"));
}

TEST_CASE("bench: labels of contestants", "[bench]") {
  CHECK(Contestant{"dev"}.label() == "dev");
  CHECK(FastpathSet{}.text() == "none");
  const FastpathSet both{{"metadata", "read"}, kFastpathMetadata | kFastpathRead, {}};
  CHECK(Contestant{"ring", both}.label() == "ring+metadata+read");
  CHECK(both.text() == "metadata,read");
}

TEST_CASE("bench: which requests took the contestant's way", "[bench]") {
  const Contestant ring{"ring"};
  const Contestant fast{"ring", {{"metadata"}, kFastpathMetadata, {}}};
  CHECK(carried_share(ring, {90, 0, 10, 0}, 100, 1) == Approx(0.9));
  // What programs answer is the way of those that have some, of nobody else.
  CHECK(carried_share(fast, {30, 0, 0, 70}, 100, 1) == Approx(1));
  CHECK(carried_share(ring, {30, 0, 0, 70}, 100, 1) == Approx(0.3));
  CHECK(carried_share(fast, {30, 0, 20, 50}, 100, 1) == Approx(0.8));
  // More requests than operations: each counts.
  CHECK(carried_share(ring, {150, 0, 50, 0}, 100, 1) == Approx(0.75));
  // Fewer: the kernel answered the others itself ...
  CHECK(carried_share(fast, {0, 0, 0, 50}, 101, 1) == Approx(0.5));
  // ... but for the last of each thread, which is counted a moment later.
  CHECK(carried_share(fast, {0, 0, 0, 98}, 100, 2) == Approx(1));
  CHECK(carried_share(ring, {0, 0, 0, 0}, 100, 1) == 0);
  CHECK(carried_share(ring, {0, 0, 0, 0}, 0, 1) == 0);
}

TEST_CASE("bench: rows with fast paths", "[bench]") {
  Report report;
  report.fs = "memfs";
  report.transports = {"ring", "ring+metadata+read"};
  report.rows = {row_of("ring", 1, 1000), row_of("ring+metadata+read", 1, 3000)};
  Row &fast = report.rows[1];
  fast.fastpath = "metadata,read";
  fast.carried = 1.0;
  fast.answered = 0.75;
  fast.unmeasured = 0.75;
  report.totals = {{"ring+metadata+read", Ways{25, 0, 0, 75}}};

  const auto json = nlohmann::json::parse(to_json(report));
  CHECK(json[0]["fastpath"] == "none");
  CHECK_FALSE(json[0].contains("answered"));
  CHECK(json[1]["transport"] == "ring+metadata+read");
  CHECK(json[1]["fastpath"] == "metadata,read");
  CHECK(json[1]["answered"] == 0.75);

  std::string table = format_table(report);
  CHECK_THAT(table, Catch::Contains("75% by fast paths  75% not split"));
  CHECK_THAT(table, Catch::Contains("never reaches the daemon"));
  CHECK_THAT(table, Catch::Contains("3.00x"));
  CHECK_FALSE(report.any_marked());
  fast.answered = 0.0;
  CHECK_THAT(format_table(report), Catch::Contains("none by fast paths"));
  // Columns stand below their titles, however long a label is.
  table = format_table(report);
  std::vector<std::size_t> ends;
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);)
    if (const auto at = std::min(line.find("ops/s"), line.find("3000")); at != line.npos)
      ends.push_back(line.find_first_of(" \n", at));
  REQUIRE(ends.size() == 2);
  CHECK(ends[0] == ends[1]);
}

TEST_CASE("bench: a whole run over dev leaves nothing behind", "[bench][mount]") {
  if (access("/dev/fuse", R_OK | W_OK) != 0) {
    WARN("skipped: /dev/fuse cannot be opened here");
    return;
  }
  Options options;
  options.transports = {"dev"};
  options.transports_optional = false;
  options.threads = {1, 3};
  options.seconds = 0.1;
  options.rounds = 2;
  options.file_size = 64 << 10;
  const auto before = bench_mounts();
  const Report report = run(options);
  CHECK(bench_mounts() == before);
  REQUIRE(report.rows.size() == 2 * (options.ops.size() + 1));  // create gives unlink, too
  for (const Row &row : report.rows) {
    INFO(row.op << " with " << row.threads);
    CHECK(row.ops_per_s > 0);
    CHECK(row.lat.p50 > 0);
    CHECK(row.lat.max >= row.lat.p99);
    CHECK(row.queue.p50 > 0);
    CHECK(row.unmeasured < 0.01);
    CHECK(row.requests_per_op >= 1);
    CHECK(row.carried.value_or(0) > 0.99);
    if (row.op == "getattr" || row.op == "lookup" || row.op == "read")
      CHECK(row.requests_per_op == Approx(1).margin(0.01));
  }
}

TEST_CASE("bench: a transport that cannot be had", "[bench][mount]") {
  if (access("/dev/fuse", R_OK | W_OK) != 0 || access("/dev/efuse", F_OK) == 0) {
    WARN("skipped: needs /dev/fuse and no efuse_ring module");
    return;
  }
  Options options;
  options.threads = {1};
  options.ops = {Op::getattr};
  options.seconds = 0.02;
  options.rounds = 1;
  options.file_size = kBlock;
  const auto before = bench_mounts();
  CHECK(run(options).transports == std::vector<std::string>{"dev"});
  // Fast paths have to be had, whatever else need not.
  options.fastpaths = {{}, {{"metadata"}, kFastpathMetadata, {}}};
  CHECK_THROWS_WITH(run(options), Catch::StartsWith("ring+metadata: "));
  options.fastpaths.clear();
  options.transports_optional = false;
  CHECK_THROWS_WITH(run(options), Catch::StartsWith("ring: "));
  CHECK(bench_mounts() == before);
}
