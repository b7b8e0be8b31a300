// SPDX-License-Identifier: LGPL-2.1-or-later
// A thread that gives way: as what it runs, who may, and what it notices where the CPU is wanted.
#include "give_way.hh"

#include "placement.hh"

#include <catch2/catch.hpp>

#include <grp.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

using namespace efuse;
using namespace std::chrono_literals;

namespace {

/// In a thread of its own, so that nothing of it is left.
template <typename Body>
void in_thread(Body body) {
  std::thread(body).join();
}

/// `body` of one that may give way, in a thread of its own.
template <typename Body>
void giving(bool keep, Body body) {
  in_thread([keep, &body] {
    GiveWatch watch;
    GiveWay give_way;
    if (watch.start(keep) && give_way.prepare(watch))
      body(give_way);
    else
      WARN("this process may not come back from SCHED_IDLE: not tested");
  });
}

/// Rounds until it gives way, which takes two that follow each other soon.
void go(GiveWay &give_way) {
  for (int i = 0; i < 1000; i++)
    if (give_way.begin())
      return;
  FAIL("it does not give way");
}

int policy() { return ::sched_getscheduler(0); }

template <typename Condition>
bool waited_for(Condition condition) {
  for (const auto until = std::chrono::steady_clock::now() + 10s; std::chrono::steady_clock::now() < until;) {
    if (condition())
      return true;
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

int first_cpu() {
  cpu_set_t cpus;
  REQUIRE(::sched_getaffinity(0, sizeof cpus, &cpus) == 0);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &cpus))
    cpu++;
  return cpu;
}

/// A thread that leaves its CPU to nobody.
class Hog {
 public:
  Hog() : cpu_(first_cpu()), thread_([this] { run(); }) {}
  ~Hog() {
    stop_ = true;
    thread_.join();
  }
  [[nodiscard]] int cpu() const { return cpu_; }

 private:
  void run() const {
    (void)pin_this_thread(cpu_);
    while (!stop_.load(std::memory_order_relaxed)) {
    }
  }

  int cpu_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace

TEST_CASE("SCHED_IDLE from the second of two rounds to stop()") {
  giving(true, [](GiveWay &give_way) {
    CHECK(policy() == SCHED_OTHER);
    // Where others want the CPU, it may have come to an end meanwhile; not always.
    bool idle = false;
    for (int i = 0; i < 1000 && !idle; i++) {
      go(give_way);
      (void)give_way.end();
      idle = policy() == SCHED_IDLE;
      give_way.stop();
      CHECK(policy() == SCHED_OTHER);
    }
    CHECK(idle);
  });
}

TEST_CASE("rounds that are far apart are not worth it") {
  giving(true, [](GiveWay &give_way) {
    for (int i = 0; i < 3; i++) {
      CHECK_FALSE(give_way.begin());
      CHECK(policy() == SCHED_OTHER);
      std::this_thread::sleep_for(2ms);
    }
  });
}

TEST_CASE("who gets nothing done is SCHED_OTHER soon, and may give way again") {
  giving(true, [](GiveWay &give_way) {
    for (int i = 0; i < 2; i++) {
      go(give_way);
      CHECK(waited_for([] { return policy() == SCHED_OTHER; }));
    }
    give_way.stop();
    CHECK(policy() == SCHED_OTHER);
  });
}

TEST_CASE("who waits for a CPU that another one does not leave is SCHED_OTHER soon, and is told of it") {
  giving(true, [](GiveWay &give_way) {
    std::atomic<bool> idle{false}, normal{false};
    std::thread other([&, tid = ::gettid()] {
      while (!idle)
        std::this_thread::yield();
      normal = waited_for([tid] { return ::sched_getscheduler(tid) == SCHED_OTHER; });
    });
    Hog hog;
    REQUIRE(pin_this_thread(hog.cpu()) == 0);
    // Between begin() and end() is the wait, after that filesystem code: this is in the middle of that.
    go(give_way);
    (void)give_way.end();
    idle = true;
    const auto until = std::chrono::steady_clock::now() + 10s;
    while (!normal && std::chrono::steady_clock::now() < until) {
    }
    other.join();
    CHECK(normal);
    go(give_way);
    CHECK_FALSE(give_way.end());
  });
}

TEST_CASE("if it is not to keep it, SCHED_IDLE from begin() to end(), and never otherwise") {
  giving(false, [](GiveWay &give_way) {
    CHECK(policy() == SCHED_OTHER);
    for (int i = 0; i < 3; i++) {
      REQUIRE(give_way.begin());
      CHECK(policy() == SCHED_IDLE);
      (void)give_way.end();
      CHECK(policy() == SCHED_OTHER);
    }
  });
}

TEST_CASE("a thread of another policy is left alone") {
  in_thread([] {
    GiveWatch watch;
    (void)watch.start(true);
    const sched_param none{};
    REQUIRE(::sched_setscheduler(0, SCHED_BATCH, &none) == 0);
    GiveWay give_way;
    CHECK_FALSE(give_way.prepare(watch));
    CHECK_FALSE(give_way.begin());
    CHECK_FALSE(give_way.begin());
    CHECK(::sched_getscheduler(0) == SCHED_BATCH);
  });
}

TEST_CASE("who could not come back does not go") {
  if (::geteuid() != 0) {
    WARN("not root: not tested");
    return;
  }
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit none{0, 0};
    if (::setrlimit(RLIMIT_NICE, &none) != 0 || ::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 ||
        ::setuid(65534) != 0)
      ::_exit(2);
    GiveWatch watch;
    GiveWay give_way;
    const bool stays = !watch.start(true) && !give_way.prepare(watch) && !give_way.begin();
    ::_exit(stays && policy() == SCHED_OTHER ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("it shows that others want the CPU, and that nobody does") {
  const bool keep = GENERATE(true, false);
  giving(keep, [](GiveWay &give_way) {
    REQUIRE(pin_this_thread(first_cpu()) == 0);
    const auto sleeps = [&give_way](auto time) {
      give_way.restart();
      go(give_way);
      std::this_thread::sleep_for(time);
      return give_way.end();
    };
    // Time asleep is none that it has waited for a CPU. Others may want it now and then, but not always.
    bool undisturbed = false;
    for (int i = 0; i < 1000 && !undisturbed; i++)
      undisturbed = sleeps(3ms);
    CHECK(undisturbed);

    Hog hog;
    bool disturbed = false;
    for (int i = 0; i < 1000 && !disturbed; i++)
      disturbed = !sleeps(3ms);
    CHECK(disturbed);
  });
}
