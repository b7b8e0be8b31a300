// SPDX-License-Identifier: LGPL-2.1-or-later
// The sleep protocol, both ends (S0/S1, W0/W1), and the worker's loop, against
// the kernel's side in fake_kernel.hh. A lost wake-up shows as a run that stands
// still; a watchdog ends it and the test fails with every index.
//
// The cases tagged [.negative] run the same tests over a kernel with a mistake
// in it and expect them to notice: `unit_tests '[.negative]'`.
#include "fake_kernel.hh"
#include "poller.hh"
#include "ring.hh"
#include "worker.hh"

#include <catch2/catch.hpp>

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <random>
#include <set>
#include <string>

using namespace efuse;
using namespace efuse::test;
using namespace std::chrono_literals;

namespace {

// xorshift: cheap enough to call at every point of the protocol.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u | 1) {}
  std::uint32_t below(std::uint32_t n) noexcept {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<std::uint32_t>(state_ >> 33) % n;
  }

 private:
  std::uint64_t state_;
};

Random &my_random() {
  static std::atomic<std::uint64_t> threads{0};
  thread_local Random random(Catch::rngSeed() + ++threads);
  return random;
}

// Mostly nothing, sometimes a few hundred cycles, rarely another thread's turn.
void jitter() {
  const std::uint32_t dice = my_random().below(256);
  if (dice < 32)
    for (std::uint32_t n = my_random().below(400); n != 0; n--)
      cpu_relax();
  else if (dice < 40)
    std::this_thread::yield();
  else if (dice == 40)
    std::this_thread::sleep_for(20us);
}

struct Question {
  std::uint64_t id;
  std::uint64_t salt;
};
std::uint64_t answer_to(const Question &q) { return (q.id ^ q.salt) * 0xff51afd7ed558ccdu; }

// The filesystem and the transport: answers each question, counts how often.
class Echo : public WorkerHooks {
 public:
  Echo(FakeKernel &kernel, Ring &ring, std::size_t questions)
      : kernel_(kernel), ring_(ring), served_(questions) {}

  void request(const RingRequest &r, std::uint64_t) noexcept override {
    Question q{};
    const auto body = r.tail.empty() && !r.head.empty() ? r.head.subspan(sizeof(fuse_in_header)) : r.tail;
    if (body.size() != sizeof q || r.out.size() < sizeof q.id) {
      wrong++;
      return;
    }
    std::memcpy(&q, body.data(), sizeof q);
    if (q.id >= served_.size() || served_[q.id].fetch_add(1) != 0)
      wrong++;
    if (busy)
      jitter();
    const std::uint64_t a = answer_to(q);
    std::memcpy(r.out.data(), &a, sizeof a);
    if (ring_.finish(r.slot, r.gen, 0, sizeof a))
      while (!ring_.complete(r.slot, r.gen))
        if (kernel_.enter(false, 0) < 0)
          return;
  }
  void interrupt(const efuse_interrupt_entry &e) noexcept override {
    if (e.unique != ++interrupts)
      wrong++;
  }
  void forgets(std::span<const efuse_forget_entry> entries) noexcept override {
    for (const auto &e : entries)
      if (e.nodeid != ++forgotten)
        wrong++;
  }
  int enter(bool wait, KernelPoll poll) noexcept override { return kernel_.enter(wait, poll.ns); }

  bool each_served_once() const {
    return std::all_of(served_.begin(), served_.end(), [](const auto &n) { return n == 1; });
  }

  bool busy = false;                    // take random time
  std::atomic<std::uint64_t> wrong{0};  // served twice, unknown, out of order
  std::atomic<std::uint64_t> forgotten{0}, interrupts{0};

 private:
  FakeKernel &kernel_;
  Ring &ring_;
  std::vector<std::atomic<std::uint8_t>> served_;
};

// Threads in Worker::run(), stopped as the ring transport stops them.
class Workers {
 public:
  Workers(FakeKernel &kernel, Ring &ring, WorkerHooks &hooks, const PollSettings &settings, int n)
      : kernel_(kernel) {
    for (int i = 0; i < n; i++)
      threads_.emplace_back([&] {
        const int ret = Worker(ring, hooks, settings, messages_).run(stop_);
        if (ret != 0)
          error = ret;
      });
  }
  ~Workers() { stop(); }

  void stop() {
    stop_.store(true, std::memory_order_release);
    for (std::size_t i = 0; i < threads_.size(); i++)
      kernel_.kick();
    for (std::thread &t : threads_)
      t.join();
    threads_.clear();
  }

  std::atomic<int> error{0};

 private:
  FakeKernel &kernel_;
  std::atomic<bool> stop_{false};
  std::mutex messages_;
  std::vector<std::thread> threads_;
};

// How often a requester looks before it sleeps.
using Spin = std::function<std::uint32_t(Random &)>;
Spin always(std::uint32_t looks) {
  return [looks](Random &) { return looks; };
}
Spin up_to(std::uint32_t most) {
  return [most](Random &random) { return random.below(3) == 0 ? 0 : random.below(most + 1); };
}

// Threads in system calls: each asks, waits, checks the answer, asks again.
class Requesters {
 public:
  Requesters(FakeKernel &kernel, int n, std::uint64_t questions, Spin spin, bool all_deferred = false)
      : kernel_(kernel),
        questions_(questions),
        spin_(std::move(spin)),
        all_deferred_(all_deferred),
        left_(n) {
    for (int i = 0; i < n; i++)
      threads_.emplace_back([this] {
        run();
        left_--;
      });
  }
  ~Requesters() {
    kernel_.kill();  // no more than a no-op when all is answered
    for (std::thread &t : threads_)
      t.join();
  }

  // Until all is answered. nullopt: so; else the state in which nothing had moved for `limit`.
  std::optional<std::string> watch(std::chrono::milliseconds limit) {
    auto moved = std::chrono::steady_clock::now();
    for (std::uint64_t before = 0; left_ != 0; std::this_thread::sleep_for(5ms)) {
      const std::uint64_t now = answered;
      if (now != before)
        moved = std::chrono::steady_clock::now();
      else if (std::chrono::steady_clock::now() - moved > limit)
        return std::to_string(now) + " of " + std::to_string(questions_) + " answered, then nothing\n" +
               kernel_.state();
      before = now;
    }
    return std::nullopt;
  }

  std::atomic<std::uint64_t> answered{0}, wrong{0};

 private:
  void run() {
    Random &random = my_random();
    for (std::uint64_t id; (id = next_++) < questions_;) {
      const Question q{id, random.below(1u << 30)};
      if (!ask(q, random))
        return;
      answered++;
      jitter();
    }
  }

  bool ask(const Question &q, Random &random) {
    FakeKernel::Request req;
    req.body = std::as_bytes(std::span(&q, 1));
    req.out_cap = 64;
    req.spin = spin_(random);
    req.in_payload = all_deferred_ || random.below(4) == 0;
    req.out_payload = random.below(4) == 0;
    req.deferred = all_deferred_ || (req.in_payload && req.spin == 0 && random.below(4) == 0);
    while (!kernel_.call(req)) {
      if (kernel_.is_dead())
        return false;
      std::this_thread::yield();  // no slot: the stock path would have it
    }
    if (req.error == -ENOTCONN)
      return false;
    std::uint64_t a = 0;
    if (req.reply.size() == sizeof a)
      std::memcpy(&a, req.reply.data(), sizeof a);
    if (req.error != 0 || a != answer_to(q))
      wrong++;
    return true;
  }

  FakeKernel &kernel_;
  const std::uint64_t questions_;
  const Spin spin_;
  const bool all_deferred_;
  std::atomic<std::uint64_t> next_{0};
  std::atomic<int> left_;
  std::vector<std::thread> threads_;
};

struct Run {
  int requesters;
  int workers;
  std::uint64_t questions;
  std::uint32_t depth;
  std::uint32_t requester_spin;  // looks at done_gen, at most
  std::uint32_t worker_spin_ns;  // at most; changes while it runs
  bool messages;                 // forgets and interrupts as well: their wake-ups make up for lost ones
};

// Requesters and workers on one ring, with delays at every point of the protocol
// and budgets that change meanwhile.
class Stress {
 public:
  explicit Stress(const Run &run, Faults faults = {})
      : run_(run),
        kernel_({.depth = run.depth, .first_index = static_cast<std::uint32_t>(0 - run.questions / 2)},
                faults),
        ring_(kernel_.kern(), kernel_.user(), kernel_.payload(), run.workers > 1),
        echo_(kernel_, ring_, run.questions) {
    kernel_.hook = [](Point) { jitter(); };
    echo_.busy = true;
  }

  /// What the watchdog saw, if nothing moved for `limit`.
  std::optional<std::string> go(std::chrono::milliseconds limit) {
    shake();
    Workers workers(kernel_, ring_, echo_, settings_, run_.workers);
    Requesters requesters(kernel_, run_.requesters, run_.questions, up_to(run_.requester_spin));
    std::atomic<bool> over{false};
    std::thread others([&] {
      for (; !over; std::this_thread::sleep_for(100us)) {
        shake();
        if (run_.messages)
          send_messages();
      }
    });
    const auto stalled = requesters.watch(limit);
    over = true;
    others.join();
    messages_arrived_ = stalled || wait_for_messages(limit);
    if (stalled)
      kernel_.kill();
    workers.stop();
    worker_error_ = workers.error;
    answered_ = requesters.answered;
    wrong_answers_ = requesters.wrong;
    return stalled;
  }

  /// After a run that was not stalled.
  void check() {
    INFO(kernel_.state());
    CHECK(messages_arrived_);
    CHECK(worker_error_ == 0);
    CHECK(answered_ == run_.questions);
    CHECK(wrong_answers_ == 0);
    CHECK(echo_.wrong == 0);
    CHECK(echo_.each_served_once());
    const Counters &c = kernel_.counters();
    CHECK(c.done_spin + c.done_recheck + c.done_enter == run_.questions);
  }

  /// The ways through the protocol that this run could have taken and did not.
  std::set<std::string> ways_not_taken() {
    const Counters &c = kernel_.counters();
    std::set<std::string> ways;
    const auto expect = [&](const char *way, std::uint64_t times) {
      if (times == 0)
        ways.insert(way);
    };
    expect("done_enter", c.done_enter);
    expect("worker_slept", c.worker_slept);
    expect("worker_recheck", c.worker_recheck);
    expect("wakeups", c.wakeups);
    if (run_.requester_spin != 0) {
      expect("done_spin", c.done_spin);
      expect("done_recheck", c.done_recheck);
    }
    if (run_.depth < static_cast<std::uint32_t>(run_.requesters))
      expect("full", c.full);
    return ways;
  }

 private:
  // Budgets of workers, zero among them.
  void shake() {
    Random &random = my_random();
    settings_.spin_ns = random.below(3) == 0 ? 0 : random.below(run_.worker_spin_ns + 1);
    settings_.poll_ns = random.below(2) == 0 ? 0 : random.below(5000);
    settings_.adaptive = random.below(2) == 0;
  }

  void send_messages() {
    forgets_ += kernel_.push_forget(forgets_ + 1, 1);
    interrupts_ += kernel_.push_interrupt(interrupts_ + 1, {0, 1});
  }

  bool wait_for_messages(std::chrono::milliseconds limit) {
    for (const auto end = std::chrono::steady_clock::now() + limit;
         echo_.forgotten != forgets_ || echo_.interrupts != interrupts_; std::this_thread::sleep_for(1ms))
      if (std::chrono::steady_clock::now() > end)
        return false;
    return true;
  }

  const Run run_;
  FakeKernel kernel_;
  Ring ring_;
  Echo echo_;
  PollSettings settings_;
  std::uint64_t forgets_ = 0, interrupts_ = 0;
  bool messages_arrived_ = false;
  int worker_error_ = 0;
  std::uint64_t answered_ = 0, wrong_answers_ = 0;
};

// Until each way through the protocol was taken, or the runs say nothing about it. Which
// ways one run takes is the scheduler's choice: a busy machine needs more than one.
void stress(const Run &run) {
  std::set<std::string> not_taken;
  for (int i = 0; i < 20; i++) {
    Stress s(run);
    const auto stalled = s.go(20s);
    INFO(stalled.value_or(""));
    REQUIRE_FALSE(stalled.has_value());
    s.check();
    const std::set<std::string> not_now = s.ways_not_taken();
    if (i == 0)
      not_taken = not_now;
    else
      std::erase_if(not_taken, [&](const auto &way) { return !not_now.contains(way); });
    if (not_taken.empty())
      break;
  }
  CHECK(not_taken == std::set<std::string>{});
}

// A requester whose request the worker finishes exactly between its last look
// while spinning and S0. Returns what the watchdog saw.
std::optional<std::string> reply_before_announcement(Faults faults, std::chrono::milliseconds limit) {
  FakeKernel kernel({}, faults);
  Ring ring(kernel.kern(), kernel.user(), kernel.payload(), false);
  Echo echo(kernel, ring, 1);
  kernel.hook = [&](Point p) {
    if (p == Point::requester_spun)
      echo.request(*ring.take_request(), 0);
  };
  Requesters requesters(kernel, 1, 1, always(1));
  return requesters.watch(limit);
}

// A request that is published, and its sleepers looked for, exactly between a
// worker's last look at the rings and its announcement.
std::optional<std::string> request_before_announcement(Faults faults, std::chrono::milliseconds limit) {
  FakeKernel kernel({}, faults);
  Ring ring(kernel.kern(), kernel.user(), kernel.payload(), false);
  Echo echo(kernel, ring, 1);
  PollSettings settings;
  std::atomic<bool> checked{false}, published{false};
  kernel.hook = [&](Point p) {
    if (p == Point::requester_woke)
      published = true;
    else if (p == Point::worker_checked && !checked.exchange(true))
      while (!published)
        std::this_thread::yield();
  };
  Workers workers(kernel, ring, echo, settings, 1);
  while (!checked)
    std::this_thread::yield();
  Requesters requesters(kernel, 1, 1, always(0));
  auto stalled = requesters.watch(limit);
  kernel.kill();
  return stalled;
}

// A deferred request that another thread's ENTER has taken to copy in when the
// worker that was woken for it looks; it is published when that worker sleeps again.
std::optional<std::string> deferred_filled_elsewhere(Faults faults, std::chrono::milliseconds limit) {
  FakeKernel kernel({}, faults);
  Ring ring(kernel.kern(), kernel.user(), kernel.payload(), false);
  Echo echo(kernel, ring, 1);
  PollSettings settings;
  std::atomic<int> sleeps{0};
  std::atomic<bool> deferred{false}, filling{false};
  const auto until = [&](const auto &condition) {
    while (!condition() && !kernel.is_dead())
      std::this_thread::yield();
  };
  kernel.hook = [&](Point p) {
    if (p == Point::worker_sleeps) {
      sleeps++;
    } else if (p == Point::requester_published) {
      deferred = true;
      until([&] { return filling.load(); });
    } else if (p == Point::filling) {
      filling = true;
      until([&] { return sleeps == 2; });
    }
  };
  Workers workers(kernel, ring, echo, settings, 1);
  std::thread replier([&] {
    until([&] { return deferred.load(); });
    kernel.enter(false, 0);
  });
  until([&] { return sleeps == 1; });
  Requesters requesters(kernel, 1, 1, always(0), true);
  auto stalled = requesters.watch(limit);
  kernel.kill();
  replier.join();
  return stalled;
}

// A worker's loop without threads: what it calls is written down, one letter
// each; r request, i interrupt, f forgets, c ENTER, w ENTER that waits.
class Script : public WorkerHooks {
 public:
  explicit Script(Ring &ring) : ring_(ring) {}
  void request(const RingRequest &r, std::uint64_t) noexcept override {
    calls += 'r';
    if (on_request)
      on_request();
    if (ring_.finish(r.slot, r.gen, 0, 0))
      full |= !ring_.complete(r.slot, r.gen);
  }
  void interrupt(const efuse_interrupt_entry &) noexcept override { calls += 'i'; }
  void forgets(std::span<const efuse_forget_entry> entries) noexcept override {
    calls += 'f';
    forgotten += entries.size();
  }
  int enter(bool wait, KernelPoll poll) noexcept override {
    calls += wait ? 'w' : 'c';
    polled = poll;
    return on_enter(wait);
  }
  void gave_way() noexcept override { ways_given++; }

  unsigned ways_given = 0;
  std::function<void()> on_request;
  std::function<int(bool)> on_enter;
  std::string calls;
  std::size_t forgotten = 0;
  KernelPoll polled;  // by the last ENTER
  bool full = false;

 private:
  Ring &ring_;
};

// A ring with a scripted worker; its ENTER commits, and the first that would sleep stops the worker.
struct Scripted {
  explicit Scripted(std::uint32_t depth = 64, bool shared = false)
      : kernel({.depth = depth, .forget_depth = 256}),
        ring(kernel.kern(), kernel.user(), kernel.payload(), shared),
        script(ring) {
    script.on_enter = [this](bool wait) {
      kernel.enter(false, 0);
      stop = wait && !ring.has_requests() && !ring.has_messages();
      return 0;
    };
  }

  void ask(std::uint32_t spin, bool background = false) {
    auto &req = requests.emplace_back();
    req.spin = spin;
    req.background = background;
    const auto use = kernel.take(req);
    REQUIRE(use.has_value());
    REQUIRE(kernel.publish(*use));
  }
  int run(Worker::Givers *givers = nullptr) { return Worker(ring, script, settings, messages, givers).run(stop); }

  FakeKernel kernel;
  Ring ring;
  Script script;
  PollSettings settings;
  std::mutex messages;
  std::atomic<bool> stop{false};
  std::deque<FakeKernel::Request> requests;
};

std::vector<int> my_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
      if (CPU_ISSET(cpu, &set))
        cpus.push_back(cpu);
  return cpus;
}

bool pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set) == 0;
}

void take_ns(std::uint64_t ns) {
  for (const std::uint64_t end = now_ns() + ns; now_ns() < end;)
    cpu_relax();
}

template <typename Done>
bool soon(Done &&done) {
  for (const auto end = std::chrono::steady_clock::now() + 20s; !done(); std::this_thread::sleep_for(1ms))
    if (std::chrono::steady_clock::now() > end)
      return false;
  return true;
}

}  // namespace

// With one requester every lost wake-up stands still; with more, another's may make up for it.
TEST_CASE("sleep protocol: no wake-up is lost, one worker", "[poller][stress]") {
  SECTION("one requester, both ends spin sometimes") { stress({1, 1, 30000, 16, 2000, 20000, false}); }
  SECTION("one requester, nobody spins") { stress({1, 1, 20000, 16, 0, 0, false}); }
  SECTION("both ends spin sometimes") { stress({3, 1, 30000, 16, 2000, 20000, false}); }
  SECTION("only requesters spin") { stress({2, 1, 20000, 16, 5000, 0, false}); }
  SECTION("only the worker spins") { stress({3, 1, 20000, 16, 0, 50000, false}); }
  SECTION("fewer slots than requesters, messages") { stress({6, 1, 20000, 4, 500, 5000, true}); }
}

TEST_CASE("sleep protocol: no wake-up is lost, three workers", "[poller][stress]") {
  SECTION("one requester, both ends spin sometimes") { stress({1, 3, 20000, 16, 2000, 20000, false}); }
  SECTION("both ends spin sometimes") { stress({3, 3, 30000, 16, 2000, 20000, false}); }
  SECTION("nobody spins") { stress({4, 3, 20000, 16, 0, 0, false}); }
  SECTION("fewer slots than requesters, messages") { stress({6, 3, 20000, 4, 500, 5000, true}); }
}

// S0 and S1 at once, over and over: the daemon replies just when the requester
// has stopped spinning. A processor that lets either side's load pass its store loses one of them.
TEST_CASE("sleep protocol: S0 against S1", "[poller][stress]") {
  constexpr std::uint64_t kRounds = 15000;
  const std::vector<int> cpus = my_cpus();
  if (cpus.size() < 2) {
    WARN("skipped: this process may use one CPU only, where nothing happens at once");
    return;
  }
  // Which of the two comes first is the scheduler's choice: until both have been seen.
  std::uint64_t by_enter = 0, by_recheck = 0;
  for (int i = 0; i < 20 && (by_enter == 0 || by_recheck == 0); i++) {
    std::atomic<int> wrong_cpu{0};
    FakeKernel kernel({});
    Ring ring(kernel.kern(), kernel.user(), kernel.payload(), false);
    Echo echo(kernel, ring, kRounds);
    std::atomic<bool> spun{false}, over{false};
    kernel.hook = [&](Point p) {
      if (p != Point::requester_spun)
        return;
      thread_local const bool pinned = pin_to(cpus[0]);
      wrong_cpu += !pinned;
      spun = true;
      // About as long as the daemon needs from here to its reply, so that the two meet.
      for (std::uint32_t n = my_random().below(300); n != 0; n--)
        std::atomic_signal_fence(std::memory_order_seq_cst);
    };
    std::thread daemon([&] {
      wrong_cpu += !pin_to(cpus[1]);
      while (!over) {
        const auto r = ring.take_request();
        if (!r) {
          std::this_thread::yield();
          continue;
        }
        for (int n = 0; !spun && n < 3000; n++)
          cpu_relax();
        spun = false;
        echo.request(*r, 0);
        kernel.enter(false, 0);
      }
    });
    Requesters requesters(kernel, 1, kRounds, always(1));
    const auto stalled = requesters.watch(20s);
    over = true;
    daemon.join();
    INFO(stalled.value_or(""));
    CHECK_FALSE(stalled.has_value());
    CHECK(wrong_cpu == 0);
    CHECK(requesters.wrong == 0);
    CHECK(echo.each_served_once());
    by_enter += kernel.counters().done_enter;
    by_recheck += kernel.counters().done_recheck;
  }
  CHECK(by_enter > 0);
  CHECK(by_recheck > 0);
}

TEST_CASE("sleep protocol: a reply between the last look and S0", "[poller]") {
  CHECK_FALSE(reply_before_announcement({}, 20s).has_value());
}

TEST_CASE("sleep protocol: a request between the last look and W0", "[poller]") {
  CHECK_FALSE(request_before_announcement({}, 20s).has_value());
}

TEST_CASE("sleep protocol: deferred requests published while the worker sleeps", "[poller]") {
  CHECK_FALSE(deferred_filled_elsewhere({}, 20s).has_value());
}

TEST_CASE("sleep protocol: the tests notice a lost wake-up", "[.negative]") {
  SECTION("S0 without its second look") {
    const auto stalled = reply_before_announcement({.requester_skips_recheck = true}, 1s);
    REQUIRE(stalled.has_value());
    CHECK_THAT(*stalled, Catch::Contains("0 of 1 answered"));
    CHECK_THAT(*stalled, Catch::Contains("in flight done_gen 1 need_commit 1"));
  }
  SECTION("W0 without its second look") {
    const auto stalled = request_before_announcement({.worker_skips_recheck = true}, 1s);
    REQUIRE(stalled.has_value());
    CHECK_THAT(*stalled, Catch::Contains("pending 1/0") && Catch::Contains("sleepers 1"));
  }
  SECTION("requests that ENTER publishes, without W1") {
    const auto stalled = deferred_filled_elsewhere({.fill_skips_wake = true}, 1s);
    REQUIRE(stalled.has_value());
    CHECK_THAT(*stalled, Catch::Contains("pending 1/0") && Catch::Contains("sleepers 1"));
  }
  constexpr Run kLonely{1, 1, 100000, 16, 2000, 20000, false};
  // The random runs find the first two as well, without being told where to look.
  SECTION("S0, by chance") { CHECK(Stress(kLonely, {.requester_skips_recheck = true}).go(2s).has_value()); }
  SECTION("W0, by chance") { CHECK(Stress(kLonely, {.worker_skips_recheck = true}).go(2s).has_value()); }
}

TEST_CASE("worker: stop and a kick end it, asleep or not", "[poller]") {
  const int n = GENERATE(1, 3);
  for (int i = 0; i < 100; i++) {
    FakeKernel kernel({});
    kernel.hook = [](Point) { jitter(); };
    Ring ring(kernel.kern(), kernel.user(), kernel.payload(), n > 1);
    Echo echo(kernel, ring, 1);
    PollSettings settings;
    settings.spin_ns = i % 3 == 0 ? 10000 : 0;
    settings.adaptive = false;
    Workers workers(kernel, ring, echo, settings, n);
    if (i % 2 == 0)
      REQUIRE(soon([&] { return kernel.counters().worker_slept >= static_cast<std::uint64_t>(n); }));
    std::atomic<bool> stopped{false};
    std::thread watchdog([&] {
      if (!soon([&] { return stopped.load(); }))
        kernel.kill();
    });
    workers.stop();
    stopped = true;
    watchdog.join();
    REQUIRE(workers.error == 0);
    REQUIRE_FALSE(kernel.is_dead());
  }
}

TEST_CASE("worker: the end of the ring ends it", "[poller]") {
  FakeKernel kernel({});
  Ring ring(kernel.kern(), kernel.user(), kernel.payload(), true);
  Echo echo(kernel, ring, 1);
  PollSettings settings;
  Workers workers(kernel, ring, echo, settings, 3);
  REQUIRE(soon([&] { return kernel.counters().worker_slept >= 3; }));
  kernel.kill();
  CHECK(soon([&] { return workers.error == -ENODEV; }));
}

TEST_CASE("worker: goes on after a signal, ends with any other error", "[poller]") {
  Scripted t;
  std::deque<int> results = {-EINTR, 0, -EAGAIN, 7, -EIO};
  t.script.on_enter = [&](bool) {
    const int ret = results.front();
    results.pop_front();
    return ret;
  };
  CHECK(t.run() == -EIO);
  CHECK(results.empty());
  CHECK(t.script.calls == "wwwww");
}

TEST_CASE("worker: polls in ENTER for the next background request", "[poller]") {
  Scripted t;
  t.settings.poll_ns = 7000;
  const auto polled_after = [&t](bool background) {
    t.stop = false;
    t.ask(0, background);
    t.ask(0, false);
    CHECK(t.run() == 0);
    return t.script.polled;
  };
  SECTION("adaptive: after those alone, as long as it pays") {
    CHECK(polled_after(false).ns == 0);
    CHECK(polled_after(true).ns == 7000);
    CHECK(t.script.polled.adaptive);
    CHECK(polled_after(false).ns == 0);
  }
  SECTION("else always") {
    t.settings.adaptive = false;
    for (const bool background : {false, true}) {
      CHECK(polled_after(background).ns == 7000);
      CHECK_FALSE(t.script.polled.adaptive);
    }
  }
}

TEST_CASE("worker: messages before requests, forgets in batches", "[poller]") {
  Scripted t;
  t.ask(1);
  REQUIRE(t.kernel.push_interrupt(2, {0, 1}));
  for (std::uint64_t i = 1; i <= 150; i++)
    REQUIRE(t.kernel.push_forget(i, 1));
  CHECK(t.run() == 0);
  CHECK(t.script.calls == "ifffrw");
  CHECK(t.script.forgotten == 150);
}

TEST_CASE("worker: one ENTER commits a batch and waits", "[poller]") {
  Scripted t;
  // Each of a batch that takes no time; retried where this thread was held up meanwhile.
  for (int i = 0; i < 20 && t.script.calls != "rrrrw"; i++) {
    t.script.calls.clear();
    t.stop = false;
    for (int n = 0; n < 4; n++)
      t.ask(0);
    CHECK(t.run() == 0);
    CHECK(std::all_of(t.requests.begin(), t.requests.end(), [](const auto &req) { return req.finished; }));
  }
  CHECK(t.script.calls == "rrrrw");
}

TEST_CASE("worker: a full batch is committed before the next", "[poller]") {
  Scripted t;
  const auto spin = GENERATE(0u, 1u);
  for (int n = 0; n < 40; n++)
    t.ask(spin);
  CHECK(t.run() == 0);
  CHECK_FALSE(t.script.full);
  std::size_t requests = 0;
  std::string after_batch;
  for (std::size_t i = 0; i < t.script.calls.size(); i++)
    if (t.script.calls[i] == 'r' && ++requests == 32)
      after_batch = t.script.calls.substr(i + 1, 1);
  CHECK(requests == 40);
  CHECK(after_batch == (spin == 0 ? "c" : "r"));  // nobody sleeps for those of spinning requesters
  CHECK(t.script.calls.back() == 'w');
}

TEST_CASE("worker: a batch that takes long is committed in between", "[poller]") {
  Scripted t;
  t.script.on_request = [] { take_ns(60'000); };
  SECTION("while requesters sleep") {
    for (int n = 0; n < 3; n++)
      t.ask(0);
    CHECK(t.run() == 0);
    CHECK(t.script.calls == "rcrcrw");
  }
  SECTION("not while they spin") {
    for (int n = 0; n < 3; n++)
      t.ask(1);
    CHECK(t.run() == 0);
    CHECK(t.script.calls == "rrrw");
  }
}

TEST_CASE("worker: no reply waits behind a request that may block on it", "[poller]") {
  Scripted t(64, true);
  for (int n = 0; n < 3; n++)
    t.ask(0);
  CHECK(t.run() == 0);
  CHECK(t.script.calls == "rcrcrw");
}

TEST_CASE("worker: deferred requests are fetched by ENTER, whatever the budget", "[poller]") {
  Scripted t;
  t.settings.spin_ns = 4'000'000'000;
  t.settings.adaptive = false;
  const std::uint64_t body = 1;
  auto &req = t.requests.emplace_back();
  req.body = std::as_bytes(std::span(&body, 1));
  req.in_payload = req.deferred = true;
  const auto use = t.kernel.take(req);
  REQUIRE(use.has_value());
  REQUIRE(t.kernel.publish(*use));
  CHECK(t.ring.has_deferred());
  CHECK_FALSE(t.ring.has_requests());
  const std::uint64_t start = now_ns();
  CHECK(t.run() == 0);
  CHECK(now_ns() - start < 2'000'000'000);
  CHECK(t.script.calls == "wrw");
  CHECK(req.finished);
}

TEST_CASE("poller: back-off doubles with each failure after some that are free, and is forgotten by one success", "[poller]") {
  SpinBackoff backoff;
  const auto skipped = [&] {
    unsigned n = 0;
    while (!backoff.worth())
      n++;
    return n;
  };
  constexpr unsigned kFree = SpinBackoff::kFreeFails;
  CHECK(skipped() == 0);
  for (unsigned fails = 1; fails <= kFree; fails++) {
    backoff.failed();
    CHECK(skipped() == 0);
  }
  for (unsigned more = 1; more <= 14; more++) {
    backoff.failed();
    CHECK(skipped() == (1u << std::min(more, 10u)) - 1);
  }
  backoff.paid();
  CHECK(skipped() == 0);
  for (unsigned fails = 0; fails < kFree; fails++)
    backoff.failed();
  CHECK(skipped() == 0);
  backoff.failed();
  CHECK(skipped() == 1);
  // Spins that were made without asking count as well.
  backoff.failed();
  backoff.paid();
  CHECK(skipped() == 0);
}

TEST_CASE("poller: spins only with a budget and while it is worth it", "[poller]") {
  PollSettings settings;
  Poller poller(settings);
  unsigned looks = 0;
  const auto never = [&] { return looks++, false; };
  const auto fourth = [&] { return ++looks % 4 == 0; };
  SECTION("what is there needs no budget") {
    CHECK(poller.poll(false, [] { return true; }));
  }
  SECTION("no budget: one look") {
    settings.adaptive = false;
    CHECK_FALSE(poller.poll(true, never));
    CHECK(looks == 1);
  }
  SECTION("the budget is kept") {
    settings.adaptive = false;
    settings.spin_ns = 200'000;
    const std::uint64_t start = now_ns();
    CHECK_FALSE(poller.poll(false, never));
    CHECK(now_ns() - start >= 200'000);
    CHECK(looks > 1);
  }
  SECTION("adaptive: not while requesters sleep") {
    settings.spin_ns = 1'000'000'000;
    CHECK_FALSE(poller.poll(false, fourth));
    CHECK(looks == 1);
    CHECK(poller.poll(true, fourth));
    CHECK(looks == 4);
  }
  SECTION("adaptive: skips after failures") {
    settings.spin_ns = 1;
    for (unsigned i = 0; i <= SpinBackoff::kFreeFails; i++) {
      looks = 0;
      CHECK_FALSE(poller.poll(true, never));
      CHECK(looks > 2);
    }
    looks = 0;
    CHECK_FALSE(poller.poll(true, never));
    CHECK(looks == 1);  // skipped
    CHECK_FALSE(poller.poll(true, never));
    CHECK(looks > 2);  // tried again
  }
}

TEST_CASE("a worker that may gives way in ENTER, and nowhere else, but where it may keep it", "[poller]") {
  Scripted s;
  Worker::Givers givers;
  const bool keep = GENERATE(false, true);
  const bool may = givers.watch.start(keep);
  unsigned idle = 0, idle_outside = 0, left = 40 * WaitChoice::kWindow, at_a_time = 1;
  s.script.on_request = [&] { idle_outside += ::sched_getscheduler(0) != SCHED_OTHER ? 1 : 0; };
  s.script.on_enter = [&](bool) {
    idle += ::sched_getscheduler(0) == SCHED_IDLE ? 1 : 0;
    s.kernel.enter(false, 0);
    s.stop = left == 0;
    if (left != 0) {
      left--;
      s.requests.clear();  // answered
      for (unsigned i = 0; i < at_a_time; i++)
        s.ask(0);
    }
    return 0;
  };
  SECTION("it is tried, and counted") {
    CHECK(s.run(&givers) == 0);
    CHECK((idle != 0) == may);
    CHECK(givers.company.served() >= 30 * WaitChoice::kWindow);
  }
  SECTION("not among many senders") {
    at_a_time = 3;
    CHECK(s.run(&givers) == 0);
    CHECK(idle == 0);
    CHECK(givers.company.served() >= 30 * WaitChoice::kWindow);
  }
  SECTION("one that may not does not") {
    CHECK(s.run() == 0);
    CHECK(idle == 0);
    CHECK(givers.company.served() == 0);
  }
  CHECK((s.script.ways_given != 0) == (idle != 0));
  if (keep)
    CHECK((idle_outside != 0) == (idle != 0));
  else
    CHECK(s.script.ways_given == idle);
  CHECK((keep || idle_outside == 0));
  CHECK(::sched_getscheduler(0) == SCHED_OTHER);
}
