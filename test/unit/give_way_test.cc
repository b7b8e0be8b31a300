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

}  // namespace

TEST_CASE("SCHED_IDLE from begin() to end(), and never otherwise") {
  in_thread([] {
    GiveWay give_way;
    if (!give_way.prepare()) {
      WARN("this process may not come back from SCHED_IDLE: not tested");
      return;
    }
    CHECK(::sched_getscheduler(0) == SCHED_OTHER);
    for (int i = 0; i < 3; i++) {
      REQUIRE(give_way.begin());
      CHECK(::sched_getscheduler(0) == SCHED_IDLE);
      (void)give_way.end();
      CHECK(::sched_getscheduler(0) == SCHED_OTHER);
    }
  });
}

TEST_CASE("a thread of another policy is left alone") {
  in_thread([] {
    const sched_param none{};
    REQUIRE(::sched_setscheduler(0, SCHED_BATCH, &none) == 0);
    GiveWay give_way;
    CHECK_FALSE(give_way.prepare());
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
    GiveWay give_way;
    ::_exit(!give_way.prepare() && !give_way.begin() && ::sched_getscheduler(0) == SCHED_OTHER ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("it shows that others want the CPU, and that nobody does") {
  cpu_set_t cpus;
  REQUIRE(::sched_getaffinity(0, sizeof cpus, &cpus) == 0);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &cpus))
    cpu++;
  in_thread([cpu] {
    GiveWay give_way;
    if (!give_way.prepare()) {
      WARN("this process may not come back from SCHED_IDLE: not tested");
      return;
    }
    REQUIRE(pin_this_thread(cpu) == 0);
    const auto sleeps = [&give_way](auto time) {
      give_way.restart();
      if (!give_way.begin())
        return false;
      std::this_thread::sleep_for(time);
      return give_way.end();
    };
    // Time asleep is none that it has waited for a CPU. Others may want it now and then, but not always.
    bool undisturbed = false;
    for (int i = 0; i < 1000 && !undisturbed; i++)
      undisturbed = sleeps(3ms);
    CHECK(undisturbed);

    std::atomic<bool> stop{false};
    std::thread other([&stop, cpu] {
      (void)pin_this_thread(cpu);
      while (!stop.load(std::memory_order_relaxed)) {
      }
    });
    bool disturbed = false;
    for (int i = 0; i < 1000 && !disturbed; i++)
      disturbed = !sleeps(3ms);
    stop = true;
    other.join();
    CHECK(disturbed);
  });
}
