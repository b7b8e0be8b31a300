// SPDX-License-Identifier: LGPL-2.1-or-later
// Answers that other threads hand to the owner of an io_uring: none lost, none twice, and the owner never sleeps on
// one. A lost wake-up shows as a run that stands still.
#include "hand_back.hh"

#include <catch2/catch.hpp>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

using namespace efuse;

namespace {

struct Node {
  Node *next = nullptr;
  unsigned taken = 0;  // the owner's
};

/// What an eventfd is to the owner: sticky.
class Bell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    rung_ = true;
    changed_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool rung_ = false;
};

}  // namespace

TEST_CASE("all nodes come back, the last put first") {
  HandBack<Node> list;
  Node nodes[3];
  CHECK(list.empty());
  CHECK(list.take_all() == nullptr);
  for (Node &node : nodes)
    CHECK_FALSE(list.put(node));  // nobody sleeps
  CHECK_FALSE(list.empty());
  const Node *all = list.take_all();
  REQUIRE(all == &nodes[2]);
  CHECK(all->next == &nodes[1]);
  CHECK(all->next->next == &nodes[0]);
  CHECK(all->next->next->next == nullptr);
  CHECK(list.empty());
}

TEST_CASE("who puts has to wake an owner that sleeps, once") {
  HandBack<Node> list;
  Node nodes[4];
  CHECK(list.announce_sleep());
  CHECK(list.put(nodes[0]));
  CHECK_FALSE(list.put(nodes[1]));
  list.awake();
  CHECK_FALSE(list.announce_sleep());  // there is something
  list.awake();
  CHECK_FALSE(list.put(nodes[2]));
  CHECK(list.take_all() == &nodes[2]);
  CHECK(list.announce_sleep());
  list.awake();
  CHECK_FALSE(list.put(nodes[3]));
}

TEST_CASE("threads put, the owner takes and sleeps: nothing is lost") {
  constexpr unsigned kThreads = 3, kEach = 20'000;
  HandBack<Node> list;
  Bell bell;
  std::vector<std::unique_ptr<Node[]>> nodes;
  for (unsigned i = 0; i < kThreads; i++)
    nodes.push_back(std::make_unique<Node[]>(kEach));
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; i++)
    threads.emplace_back([&, i] {
      for (unsigned n = 0; n < kEach; n++) {
        if (list.put(nodes[i][n]))
          bell.ring();
        if (n % 64 == 0)
          std::this_thread::yield();
      }
    });
  for (unsigned left = kThreads * kEach; left != 0;) {
    for (Node *node = list.take_all(); node != nullptr; left--) {
      Node *next = node->next;
      node->taken++;
      node = next;
    }
    if (left == 0)
      break;
    if (list.announce_sleep())
      bell.wait();
    list.awake();
  }
  for (std::thread &thread : threads)
    thread.join();
  unsigned wrong = 0;
  for (auto &own : nodes)
    for (unsigned n = 0; n < kEach; n++)
      wrong += own[n].taken != 1;
  CHECK(wrong == 0);
}
