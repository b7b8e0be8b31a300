// SPDX-License-Identifier: LGPL-2.1-or-later
// Workers that try how to wait beside one another, and their windows, against a clock that the tests turn.
#include "wait_choice.hh"

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>

using namespace efuse;
using Wait = WaitWay;

namespace {

constexpr unsigned kTrial = WaitChoice::kLooks + 1;

/// A worker whose windows take so many ns per request, by the way it waits.
struct Worker {
  WaitChoice choice;
  WaitCompany &company;
  std::array<unsigned, 3> windows{};  // by way

  explicit Worker(WaitCompany &of) : choice(true, &of), company(of) {}

  void window(std::uint64_t &now, std::uint64_t ns) {
    windows[static_cast<unsigned>(choice.way())]++;
    company.served(WaitChoice::kWindow);
    now += WaitChoice::kWindow * ns;
    choice.look(now, company.served());
  }
};

}  // namespace

TEST_CASE("of several workers one tries at a time") {
  WaitCompany company;
  // They serve by turns, and each way is as good as another: whoever tries does so for no reason but its time.
  std::array<Worker, 3> workers{Worker(company), Worker(company), Worker(company)};
  std::uint64_t now = 1000;
  unsigned most = 0;
  for (unsigned i = 0; i < 3000; i++) {
    workers[i % workers.size()].window(now, 10'000);
    unsigned trying = 0;
    for (const Worker &each : workers)
      trying += each.choice.way() != Wait::beside ? 1 : 0;
    most = std::max(most, trying);
  }
  CHECK(most == 1);
  for (const Worker &each : workers) {
    CHECK(each.windows[1] > 0);
    CHECK(each.windows[2] > 0);
  }
}

TEST_CASE("a trial whose sender has stopped does not hold up others for long") {
  WaitCompany company;
  Worker stopped(company), other(company);
  std::uint64_t now = 1000;
  while (stopped.choice.way() == Wait::beside)
    stopped.window(now, 10'000);
  const std::uint64_t since = now;
  for (unsigned i = 0; i < kTrial; i++) {
    other.window(now, 10'000);
    REQUIRE(other.choice.way() == Wait::beside);
  }
  while (other.choice.way() == Wait::beside)
    other.window(now, 10'000);
  CHECK(now - since < 1'000'000'000);
  // The other one's is not ended by the first.
  while (stopped.choice.way() != Wait::beside) {
    stopped.choice.hold_giving(now);
    stopped.choice.reject();
  }
  CHECK_FALSE(company.begin_trial(now, now + 1));
  while (other.choice.way() != Wait::beside)
    other.window(now, 10'000);
  CHECK(company.begin_trial(now, now + 1));
}

TEST_CASE("workers that stand in each other's way stop together") {
  WaitCompany company;
  std::array<Worker, 2> workers{Worker(company), Worker(company)};
  std::uint64_t now = 1000;
  // One sender: its worker does best apart. Then the other one's.
  for (Worker &each : workers)
    for (unsigned i = 0; i < 2000; i++)
      each.window(now, each.choice.way() == Wait::apart ? 5'000 : 10'000);
  for (Worker &each : workers)
    for (unsigned i = 0; i < 2000 && each.choice.way() != Wait::apart; i++)
      each.window(now, each.choice.way() == Wait::apart ? 5'000 : 10'000);
  REQUIRE(workers[0].choice.way() == Wait::apart);
  REQUIRE(workers[1].choice.way() == Wait::apart);
  // Two: that nobody looks is the best, and to be the only one that does not look the worst.
  const auto both = [&](unsigned count) {
    for (unsigned i = 0; i < count; i++) {
      const bool same = workers[0].choice.way() == workers[1].choice.way();
      workers[i % 2].window(now, !same ? 9'000 : workers[0].choice.way() == Wait::beside ? 4'000 : 7'000);
    }
  };
  both(4 * WaitChoice::kMostPatience);
  const std::array<unsigned, 2> before{workers[0].windows[0], workers[1].windows[0]};
  both(2000);
  CHECK(workers[0].windows[0] - before[0] > 900);
  CHECK(workers[1].windows[0] - before[1] > 900);
}

TEST_CASE("all wait beside their senders while one tries that, and go back if it is not better") {
  WaitCompany company;
  std::array<Worker, 2> workers{Worker(company), Worker(company)};
  std::uint64_t now = 1000;
  const auto ns = [](const Worker &w) { return w.choice.way() == Wait::apart ? 5'000u : 10'000u; };
  for (unsigned i = 0; i < 4000; i++)
    workers[i % 2].window(now, ns(workers[i % 2]));
  unsigned together = 0, alone = 0;
  for (unsigned i = 0; i < 4000; i++) {
    workers[i % 2].window(now, ns(workers[i % 2]));
    const bool first = workers[0].choice.way() == Wait::beside, second = workers[1].choice.way() == Wait::beside;
    together += first && second ? 1 : 0;
    alone += first != second ? 1 : 0;
    CHECK(company.together() == (first && second));
  }
  CHECK(together > 0);
  CHECK(together < 400);
  CHECK(alone == 0);

  // Its sender stops in the middle: that ends, too.
  for (unsigned i = 0; i < 4000 && !company.together(); i++)
    workers[0].window(now, 5'000);
  REQUIRE(company.together());
  for (unsigned i = 0; i < 4 * kTrial; i++)
    workers[1].window(now, 5'000);
  CHECK_FALSE(company.together());
  CHECK(workers[1].choice.way() != Wait::beside);
}

TEST_CASE("requests are told of before their window ends, and none twice") {
  WaitCompany company;
  WaitWindow window;
  const auto run = [&](unsigned each) {
    unsigned late = 0, served = 0;
    const std::uint64_t before = company.served();
    for (bool ends = false; !ends;) {
      served += each;
      ends = window.round(each, company);
      const auto told = static_cast<unsigned>(company.served() - before);
      REQUIRE(told <= served);
      late = std::max(late, served - told);
      if (ends)
        CHECK(told == served);
    }
    CHECK(late < WaitWindow::kUntold);
    return served;
  };
  CHECK(run(1) == WaitWindow::kRequests);
  CHECK_FALSE(window.many());
  CHECK(run(5) == 5 * WaitWindow::kRounds);
  CHECK(window.many());
  CHECK_FALSE(window.round(0, company));
  CHECK(run(1) == WaitWindow::kRequests);
  CHECK_FALSE(window.many());
}
