// SPDX-License-Identifier: LGPL-2.1-or-later
// Which way of waiting wins, against a clock that the tests turn.
#include "wait_choice.hh"

#include <catch2/catch.hpp>

#include <array>

using namespace efuse;
using Way = WaitChoice::Way;

namespace {

/// Requests that take so many ns each, by the way they are waited for.
struct Machine {
  WaitChoice choice;
  std::uint64_t now = 1000, done = 0;
  unsigned windows[3] = {0, 0, 0};  // by way

  void window(std::uint64_t beside, std::uint64_t apart, std::uint64_t giving = 0) {
    const auto way = static_cast<unsigned>(choice.way());
    windows[way]++;
    done += WaitChoice::kWindow;
    now += WaitChoice::kWindow * std::array{beside, apart, giving}[way];
    choice.look(now, done);
  }

  void run(unsigned count, std::uint64_t beside, std::uint64_t apart) {
    for (unsigned i = 0; i < count; i++)
      window(beside, apart);
  }

  /// Of `count` windows, how many are served apart.
  unsigned apart_of(unsigned count, std::uint64_t beside, std::uint64_t apart) {
    const unsigned before = windows[1];
    run(count, beside, apart);
    return windows[1] - before;
  }
};

constexpr unsigned kTrial = WaitChoice::kLooks + 1;

}  // namespace

TEST_CASE("what is faster by more than an eighth is used, but for trials") {
  Machine m;
  CHECK(m.choice.way() == Way::beside);
  m.run(100, 10'000, 5'000);
  CHECK(m.apart_of(2000, 10'000, 5'000) >= 2000 - 20 * kTrial);

  Machine slower;
  slower.run(100, 10'000, 20'000);
  CHECK(slower.apart_of(2560, 10'000, 20'000) <= 10 * kTrial);

  Machine hardly;
  hardly.run(100, 10'000, 9'000);
  CHECK(hardly.apart_of(2560, 10'000, 9'000) <= 10 * kTrial);
}

TEST_CASE("a trial that cannot win any more ends, one that does harm sooner") {
  Machine slower;
  slower.run(10'000, 10'000, 10'000);
  const unsigned trials = 10'000 / WaitChoice::kMostPatience + 6;
  CHECK(slower.windows[1] <= trials * (WaitChoice::kLooks / 2 + 2));

  Machine harm;
  harm.run(10'000, 10'000, 100'000);
  CHECK(harm.windows[1] <= trials * 5);
  CHECK(harm.windows[1] > 10);  // it is tried again and again
}

TEST_CASE("it follows what changes, either way") {
  Machine m;
  m.run(100, 10'000, 5'000);
  REQUIRE(m.apart_of(100, 10'000, 5'000) > 50);
  m.run(2 * WaitChoice::kMostPatience, 10'000, 20'000);
  CHECK(m.apart_of(1000, 10'000, 20'000) < 100);
  m.run(2 * WaitChoice::kMostPatience, 10'000, 5'000);
  CHECK(m.apart_of(1000, 10'000, 5'000) > 900);
}

TEST_CASE("where requests are few, time brings the next trial") {
  constexpr std::uint64_t kSlow = 200'000;  // a window takes 12.8 ms
  Machine m;
  m.run(2000, kSlow, 2 * kSlow);
  REQUIRE(m.choice.way() == Way::beside);
  const auto second = static_cast<unsigned>(WaitChoice::kMostPatienceNs / (WaitChoice::kWindow * kSlow));
  CHECK(m.apart_of(2 * second + 10, kSlow, kSlow / 2) > second / 2);
}

TEST_CASE("a sender that pauses now and then changes nothing") {
  Machine m;
  for (unsigned i = 0; i < 3000; i++) {
    m.window(10'000, 5'000);
    if (i % 5 == 0)
      m.now += 1'000'000'000;
  }
  CHECK(m.windows[1] > 1500);  // with so few requests to a second, many of them are trials
}

TEST_CASE("requests that others serve count") {
  // Half of them go elsewhere, in turn: each window takes twice as long, and nothing is slower for it.
  Machine m;
  m.run(WaitChoice::kPatience + 1, 10'000, 10'000);
  REQUIRE(m.choice.way() == Way::apart);  // a trial
  for (unsigned i = 0; i < kTrial; i++) {
    m.done += WaitChoice::kWindow;
    m.now += WaitChoice::kWindow * 10'000;
    m.window(10'000, 10'000);
  }
  CHECK(m.choice.way() == Way::beside);
}

TEST_CASE("a way that is rejected is a trial lost") {
  Machine m;
  m.run(WaitChoice::kPatience + 1, 10'000, 5'000);
  REQUIRE(m.choice.way() == Way::apart);
  m.choice.reject();
  CHECK(m.choice.way() == Way::beside);
  CHECK(m.apart_of(2 * WaitChoice::kPatience, 10'000, 5'000) == 0);
  CHECK(m.apart_of(WaitChoice::kPatience, 10'000, 5'000) > 0);
}

TEST_CASE("what has come to take twice as long is compared with others at once") {
  Machine m;
  m.choice = WaitChoice(true);
  const auto run = [](Machine &on, unsigned count, std::uint64_t beside, std::uint64_t apart, std::uint64_t giving) {
    for (unsigned i = 0; i < count; i++)
      on.window(beside, apart, giving);
  };
  run(m, 10'000, 10'000, 9'000, 9'000);
  while (m.choice.way() != Way::beside)
    m.window(10'000, 9'000, 9'000);
  unsigned soon = 0;
  for (; m.choice.way() != Way::giving; soon++)
    m.window(100'000, 100'000, 9'000);
  CHECK(soon <= 2 * (WaitChoice::kLooks + 2 + kTrial));
  // It wins again, and looked better than it is: then it is not tried so soon.
  const auto until_beside = [&m] {
    const std::uint64_t since = m.now;
    while (m.choice.way() != Way::beside)
      m.window(1'000, 100'000, 9'000);
    return m.now - since;
  };
  CHECK(until_beside() < WaitChoice::kHoldNs);
  run(m, 2 * kTrial, 1'000, 100'000, 9'000);
  REQUIRE(m.choice.way() == Way::beside);
  run(m, 3 + kTrial, 30'000, 100'000, 9'000);
  REQUIRE(m.choice.way() == Way::giving);
  CHECK(until_beside() >= WaitChoice::kHoldNs / 2);
  // It was better for a while: that was worth it.
  for (const std::uint64_t end = m.now + 2 * WaitChoice::kWorthNs; m.now < end;)
    m.window(1'000, 100'000, 9'000);
  while (m.choice.way() != Way::beside)
    m.window(1'000, 100'000, 9'000);
  while (m.choice.way() != Way::giving)
    m.window(30'000, 100'000, 9'000);
  CHECK(until_beside() < WaitChoice::kHoldNs);

  // Where no other one is better, once.
  Machine all;
  all.choice = WaitChoice(true);
  run(all, 10'000, 10'000, 10'000, 10'000);
  while (all.choice.way() != Way::beside)
    all.window(10'000, 10'000, 10'000);
  const unsigned before = all.windows[0];
  run(all, WaitChoice::kMostPatience / 2, 100'000, 100'000, 100'000);
  CHECK(all.windows[0] - before >= WaitChoice::kMostPatience / 2 - 3 * kTrial);
}

TEST_CASE("giving way is one of three where it may be, and the best wins") {
  const auto share = [](std::uint64_t beside, std::uint64_t apart, std::uint64_t giving, Way way) {
    Machine m;
    m.choice = WaitChoice(true);
    for (int i = 0; i < 500; i++)
      m.window(beside, apart, giving);
    const unsigned before = m.windows[static_cast<unsigned>(way)];
    for (int i = 0; i < 2000; i++)
      m.window(beside, apart, giving);
    return m.windows[static_cast<unsigned>(way)] - before;
  };
  CHECK(share(10'000, 9'000, 5'000, Way::giving) > 1800);
  CHECK(share(10'000, 5'000, 9'000, Way::apart) > 1800);
  CHECK(share(10'000, 3'000, 5'000, Way::apart) > 1800);
  CHECK(share(10'000, 5'000, 3'000, Way::giving) > 1800);
  CHECK(share(10'000, 9'000, 9'000, Way::beside) > 1800);

  Machine may_not;
  for (int i = 0; i < 2000; i++)
    may_not.window(10'000, 9'000, 1'000);
  CHECK(may_not.windows[2] == 0);
}

TEST_CASE("a way that is far slower costs little from the beginning") {
  Machine m;
  m.choice = WaitChoice(true);
  std::uint64_t giving_ns = 0;
  const std::uint64_t begin = m.now;
  for (int i = 0; i < 300; i++) {
    const bool giving = m.choice.way() == Way::giving;
    const std::uint64_t since = m.now;
    m.window(10'000, 10'000, 50'000);
    giving_ns += giving ? m.now - since : 0;
  }
  CHECK(m.windows[2] > 0);
  CHECK(giving_ns < (m.now - begin) / 8);
  // And does not put off the other one, whose trials cost nothing.
  const unsigned before = m.windows[1];
  for (int i = 0; i < 300; i++)
    m.window(10'000, 10'000, 50'000);
  CHECK(m.windows[1] > before);
}

TEST_CASE("what turned bad for a moment, with all others, is soon used again") {
  Machine m;
  m.choice = WaitChoice(true);
  for (int i = 0; i < 5000 || m.choice.way() != Way::apart; i++)
    m.window(10'000, 5'000, 9'000);
  while (m.choice.way() == Way::apart)
    m.window(100'000, 50'000, 90'000);
  REQUIRE(m.choice.way() == Way::giving);
  for (unsigned i = 0; i < kTrial; i++)
    m.window(10'000, 5'000, 9'000);
  unsigned soon = 0;
  for (; m.choice.way() != Way::apart; soon++)
    m.window(10'000, 5'000, 9'000);
  CHECK(soon <= WaitChoice::kPatience + 1);
  const unsigned before = m.windows[1];
  for (unsigned i = 0; i < kTrial + WaitChoice::kPatience; i++)
    m.window(10'000, 5'000, 9'000);
  CHECK(m.windows[1] - before == kTrial + WaitChoice::kPatience);
}

TEST_CASE("giving way that has kept requests waiting is not tried for a while, longer each time") {
  Machine m;
  m.choice = WaitChoice(true);
  const auto until_giving = [&m] {
    const std::uint64_t begin = m.now;
    while (m.choice.way() != Way::giving)
      m.window(10'000, 10'000, 5'000);
    return m.now - begin;
  };
  until_giving();
  m.choice.hold_giving(m.now);
  CHECK(m.choice.way() == Way::beside);
  const std::uint64_t first = until_giving();
  CHECK(first >= WaitChoice::kHoldNs);
  for (int i = 0; i < 20; i++) {
    m.choice.hold_giving(m.now);
    until_giving();
  }
  m.choice.hold_giving(m.now);
  const std::uint64_t last = until_giving();
  CHECK(last >= WaitChoice::kMostHoldNs);
  CHECK(last < WaitChoice::kMostHoldNs + 2 * WaitChoice::kMostPatienceNs);
  // It has done well for longer than that: the next time is the first again.
  for (std::uint64_t end = m.now + 2 * WaitChoice::kMostHoldNs; m.now < end || m.choice.way() != Way::giving;)
    m.window(10'000, 10'000, 5'000);
  m.choice.hold_giving(m.now);
  CHECK(until_giving() < WaitChoice::kMostHoldNs / 2);
  // Of another way it is not true.
  m.choice = WaitChoice(true);
  m.choice.hold_giving(m.now);
  CHECK(until_giving() < WaitChoice::kHoldNs);
}

TEST_CASE("a worker that cannot look is not tried apart") {
  Machine m{WaitChoice(true, nullptr, false)};
  for (unsigned i = 0; i < 1000; i++)
    m.window(10'000, 1, 5'000);
  CHECK(m.windows[1] == 0);
  CHECK(m.windows[2] > 500);

  Machine alone{WaitChoice(false, nullptr, false)};
  alone.run(1000, 10'000, 1);
  CHECK(alone.windows[0] == 1000);
}

TEST_CASE("two ways that are about as good take turns ever less often") {
  // Each looks better than the other while it is new.
  Machine m;
  m.choice = WaitChoice(true);
  unsigned turns = 0, trials_of_giving = 0, age = 0;
  constexpr unsigned kWindows = 20'000;
  for (unsigned i = 0; i < kWindows; i++) {
    const Way before = m.choice.way();
    const std::uint64_t now = age++ < 2 * WaitChoice::kLooks ? 8'000 : 10'000;
    m.window(now, now, 30'000);
    if (m.choice.way() == before)
      continue;
    if (m.choice.way() == Way::giving)
      trials_of_giving++;
    else if (before != Way::giving)
      turns++, age = 0;
  }
  CHECK(turns > kWindows / WaitChoice::kMostPatience / 2);  // it does follow
  CHECK(turns < 2 * kWindows / WaitChoice::kMostPatience);
  CHECK(trials_of_giving > 0);
  CHECK(trials_of_giving < 2 * kWindows / WaitChoice::kMostPatience);
}
