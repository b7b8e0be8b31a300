// SPDX-License-Identifier: LGPL-2.1-or-later
// A list that any thread puts nodes on and one thread, its owner, takes all of, with the owner's sleep:
//
//   owner: announce sleep (H0); look at the list (H1); sleep      other: put (H2); asleep? (H3); then wake
//
// All four are sequentially consistent, so either H1 sees what H2 has put, or H3 sees what H0 has announced.
#pragma once

#include <atomic>

namespace efuse {

/// `Node` has a member `Node *next`, which is the list's while the node is on it.
template <class Node>
class HandBack {
 public:
  /// Any thread. true: the owner is about to sleep, or sleeps, and the caller has to wake it.
  [[nodiscard]] bool put(Node &node) noexcept {
    Node *head = head_.load(std::memory_order_relaxed);
    do
      node.next = head;
    while (!head_.compare_exchange_weak(head, &node, std::memory_order_seq_cst, std::memory_order_relaxed));  // H2
    return asleep_.load(std::memory_order_seq_cst) && asleep_.exchange(false, std::memory_order_seq_cst);     // H3
  }

  /// Owner only: all nodes, the last put first; nullptr: none.
  [[nodiscard]] Node *take_all() noexcept {
    return empty() ? nullptr : head_.exchange(nullptr, std::memory_order_acquire);
  }

  [[nodiscard]] bool empty() const noexcept { return head_.load(std::memory_order_relaxed) == nullptr; }

  /// Owner only. false: there is something on the list, and the owner is not to sleep. Either way awake() follows.
  [[nodiscard]] bool announce_sleep() noexcept {
    asleep_.store(true, std::memory_order_seq_cst);                  // H0
    return head_.load(std::memory_order_seq_cst) == nullptr;         // H1
  }
  void awake() noexcept { asleep_.store(false, std::memory_order_relaxed); }

 private:
  alignas(64) std::atomic<Node *> head_{nullptr};
  std::atomic<bool> asleep_{false};
};

}  // namespace efuse
