// SPDX-License-Identifier: LGPL-2.1-or-later
// Lookups that programs have answered: of all FORGETs of a node, the filesystem gets what it has counted.
#include "lookup_credits.hh"

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <mutex>
#include <new>
#include <random>
#include <span>
#include <thread>
#include <utility>
#include <vector>

using namespace efuse;

namespace {

/// Hands out `credits`, `at_once` at a time.
auto module_with(std::vector<LookupCredit> &credits, std::size_t at_once = 1000) {
  return [&credits, at_once](std::span<LookupCredit> room) {
    const std::size_t n = std::min({at_once, room.size(), credits.size()});
    std::copy_n(credits.end() - static_cast<std::ptrdiff_t>(n), n, room.begin());
    credits.resize(credits.size() - n);
    return static_cast<int>(n);
  };
}

/// The kernel's side of some nodes: what programs look up and what FORGETs come, lessened as the module does it.
class Nodes {
 public:
  static constexpr std::size_t kNodes = 64;

  explicit Nodes(LookupCredits &credits) : credits_(credits) {}

  void look_up(std::size_t node, bool program) {
    const std::lock_guard lock(mutex_);
    ++held_[node];
    if (program)
      ++credit_[node];
    else
      ++known_[node];
  }
  /// A FORGET of some: what the daemon reads. 0: none.
  std::uint64_t forget(std::size_t node, std::uint64_t most) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t n = std::min(held_[node], most);
    held_[node] -= n;
    const std::uint64_t taken = attached_ ? std::min(n, credit_[node]) : 0;
    credit_[node] -= taken;
    return n - taken;
  }
  int take(std::span<LookupCredit> room) {
    const std::lock_guard lock(mutex_);
    std::size_t n = 0;
    for (std::size_t i = 0; i < kNodes && n < room.size() && n < 3; ++i)
      if (credit_[i]) room[n++] = {i, std::exchange(credit_[i], 0)};
    return static_cast<int>(n);
  }
  void detach() {
    const std::lock_guard lock(mutex_);
    attached_ = false;
  }
  /// What the filesystem has counted and is not told to forget yet; below 0: told too often.
  void serve_forget(std::size_t node, std::uint64_t read) {
    if (read == 0) return;
    const std::uint64_t n = credits_.any() ? credits_.settle(node, read) : read;
    if (known_[node].fetch_sub(static_cast<std::int64_t>(n)) < static_cast<std::int64_t>(n)) ++too_many;
  }
  std::int64_t known(std::size_t node) const { return known_[node]; }
  std::uint64_t held(std::size_t node) const { return held_[node]; }

  std::atomic<int> too_many{0};

 private:
  LookupCredits &credits_;
  std::mutex mutex_;
  bool attached_ = true;
  std::array<std::uint64_t, kNodes> held_{}, credit_{};
  std::array<std::atomic<std::int64_t>, kNodes> known_{};
};

}  // namespace

TEST_CASE("without credits nothing is taken off", "[credits]") {
  LookupCredits credits;
  CHECK_FALSE(credits.any());
  CHECK(credits.settle(7, 3) == 3);
  std::vector<LookupCredit> none;
  credits.take_over(module_with(none));
  CHECK_FALSE(credits.any());
  credits.take_over([](std::span<LookupCredit>) { return -107; });
  CHECK_FALSE(credits.any());
}

TEST_CASE("credits are taken off until there are none left", "[credits]") {
  LookupCredits credits;
  std::vector<LookupCredit> module{{7, 2}, {9, 1}, {7, 3}, {1, 0}};
  credits.take_over(module_with(module, 1));
  CHECK(credits.any());
  CHECK(credits.outstanding() == 6);
  CHECK(credits.settle(8, 4) == 4);
  CHECK(credits.settle(1, 4) == 4);
  CHECK(credits.settle(7, 4) == 0);
  CHECK(credits.settle(7, 4) == 3);
  CHECK(credits.settle(7, 4) == 4);
  CHECK(credits.any());
  CHECK(credits.settle(9, 1) == 0);
  CHECK_FALSE(credits.any());
  CHECK(credits.settle(9, 1) == 1);
}

TEST_CASE("credits of several attachments add up", "[credits]") {
  LookupCredits credits;
  std::vector<LookupCredit> first{{5, 2}, {6, 1}}, second{{6, 4}, {4, 1}};
  credits.take_over(module_with(first));
  CHECK(credits.settle(5, 1) == 0);
  credits.take_over(module_with(second));
  CHECK(credits.outstanding() == 7);
  CHECK(credits.settle(6, 6) == 1);
  CHECK(credits.settle(5, 6) == 5);
  CHECK(credits.settle(4, 1) == 0);
  CHECK_FALSE(credits.any());
}

TEST_CASE("many credits", "[credits]") {
  LookupCredits credits;
  std::vector<LookupCredit> module;
  for (std::uint64_t i = 0; i < 10'000; ++i) module.push_back({i * 2654435761 % 10'007, 1 + i % 3});
  std::uint64_t sum = 0;
  for (const LookupCredit &credit : module) sum += credit.nlookup;
  credits.take_over(module_with(module, 333));
  CHECK(credits.outstanding() == sum);
  std::uint64_t left = 0;
  for (std::uint64_t i = 0; i < 10'007; ++i) left += credits.settle(i, 3);
  CHECK(left == 3 * 10'007 - sum);
  CHECK_FALSE(credits.any());
}

TEST_CASE("what was moved before memory ran out is kept", "[credits]") {
  LookupCredits credits;
  int calls = 0;
  CHECK_THROWS_AS(credits.take_over([&](std::span<LookupCredit> room) {
                    if (++calls == 2) throw std::bad_alloc();
                    room[0] = {3, 4};
                    return 1;
                  }),
                  std::bad_alloc);
  CHECK(credits.outstanding() == 4);
  CHECK(credits.settle(3, 5) == 1);
}

TEST_CASE("the filesystem is never told to forget more than it has counted", "[credits]") {
  for (unsigned round = 0; round < 20; ++round) {
    LookupCredits credits;
    Nodes nodes(credits);
    std::atomic<bool> programs{true};
    std::atomic<int> looking{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 3; ++t)
      threads.emplace_back([&, t] {
        std::minstd_rand random(round * 10 + t + 1);
        for (int i = 0; i < 2000; ++i) {
          const std::size_t node = random() % Nodes::kNodes;
          ++looking;  // a link that is being destroyed waits for the programs that run
          nodes.look_up(node, programs && random() % 2 != 0);
          --looking;
          if (random() % 3 == 0) nodes.serve_forget(node, nodes.forget(node, 1 + random() % 4));
        }
      });
    std::this_thread::sleep_for(std::chrono::microseconds(100 * (round % 5)));
    programs = false;
    while (looking != 0) std::this_thread::yield();
    credits.take_over([&](std::span<LookupCredit> room) { return nodes.take(room); });
    nodes.detach();
    for (std::thread &thread : threads) thread.join();
    for (std::size_t i = 0; i < Nodes::kNodes; ++i) nodes.serve_forget(i, nodes.forget(i, UINT64_MAX));
    CHECK(nodes.too_many == 0);
    CHECK(credits.outstanding() == 0);
    CHECK_FALSE(credits.any());
    for (std::size_t i = 0; i < Nodes::kNodes; ++i) CHECK(nodes.known(i) == 0);
  }
}
