// SPDX-License-Identifier: LGPL-2.1-or-later
// passthrough without FUSE: the node table, also under ThreadSanitizer, and what a source serves.
#include "../../fs/passthrough/node_table.hh"

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

using namespace efuse;
using namespace efuse::fs::passthrough;

namespace {

std::shared_ptr<Mount> some_mount() { return std::make_shared<Mount>(); }

/// With one lookup more.
Node *acquire(NodeTable &table, const std::shared_ptr<Mount> &mount, ino_t ino) {
  const Identity identity{mount.get(), 1, ino, nullptr};
  return table.acquire(identity, [&] { return std::make_unique<Node>(identity, mount, S_IFREG | 0644, Fd()); });
}

struct HandleOf {
  explicit HandleOf(int type, std::string_view content) {
    buffer.get()->handle_type = type;
    buffer.get()->handle_bytes = static_cast<unsigned>(content.size());
    std::memcpy(buffer.get()->f_handle, content.data(), content.size());
  }
  HandleBuffer buffer;
};

}  // namespace

TEST_CASE("a node lives as long as it has lookups or pins", "[nodes]") {
  NodeTable table;
  const auto mount = some_mount();
  Node *node = acquire(table, mount, 7);
  CHECK(node->lookups == 1);
  CHECK(acquire(table, mount, 7) == node);
  CHECK(node->lookups == 2);
  CHECK(acquire(table, mount, 8) != node);
  CHECK(table.size() == 2);

  const std::uint64_t generation = node->generation;
  table.pin(*node);
  table.forget(*node, 2);
  CHECK(table.size() == 2);
  CHECK(acquire(table, mount, 7) == node);  // found again before its file was closed
  table.unpin(*node);
  CHECK(table.size() == 2);
  table.forget(*node, 1);
  CHECK(table.size() == 1);
  CHECK(acquire(table, mount, 7)->generation != generation);
}

TEST_CASE("what is forgotten too often is gone once", "[nodes]") {
  NodeTable table;
  const auto mount = some_mount();
  table.forget(*acquire(table, mount, 7), 100);
  CHECK(table.size() == 0);
}

TEST_CASE("identity: by handle, else by device and number, and by mount", "[nodes]") {
  const auto one = some_mount(), other = some_mount();
  HandleOf a(1, "abcd"), same(1, "abcd"), other_type(2, "abcd"), longer(1, "abcde");
  const auto with = [&](HandleOf &handle, ino_t ino) { return Identity{one.get(), 1, ino, handle.buffer.get()}; };
  CHECK(with(a, 5) == with(same, 6));  // the number is used again, or another's
  CHECK(with(a, 5).hash() == with(same, 6).hash());
  CHECK_FALSE(with(a, 5) == with(other_type, 5));
  CHECK_FALSE(with(a, 5) == with(longer, 5));
  CHECK_FALSE(with(a, 5) == Identity{one.get(), 1, 5, nullptr});
  CHECK_FALSE(with(a, 5) == Identity{other.get(), 1, 5, a.buffer.get()});
  CHECK(Identity{one.get(), 1, 5} == Identity{one.get(), 1, 5});
  CHECK_FALSE(Identity{one.get(), 1, 5} == Identity{one.get(), 2, 5});
  CHECK_FALSE(Identity{one.get(), 1, 5} == Identity{other.get(), 1, 5});

  NodeTable table;
  Node *node = table.acquire(with(a, 5), [&] {
    return std::make_unique<Node>(with(a, 5), one, S_IFDIR | 0755, Fd());
  });
  CHECK(node->handle);
  CHECK(node->handle.get() != a.buffer.get());
  CHECK(node->type == S_IFDIR);
  CHECK(table.acquire(with(same, 6), [&]() -> std::unique_ptr<Node> { throw std::logic_error("known already"); }) ==
        node);
}

TEST_CASE("a table that cannot make a node is as it was", "[nodes]") {
  NodeTable table;
  const auto mount = some_mount();
  const auto fail = []() -> std::unique_ptr<Node> { throw std::bad_alloc(); };
  CHECK_THROWS_AS(table.acquire(Identity{mount.get(), 1, 1}, fail), std::bad_alloc);
  CHECK(table.size() == 0);
}

TEST_CASE("a mount lives as long as one of its nodes", "[nodes]") {
  NodeTable table;
  auto mount = some_mount();
  const std::weak_ptr<Mount> watch = mount;
  Node *node = acquire(table, mount, 1);
  mount.reset();
  CHECK_FALSE(watch.expired());
  table.forget(*node, 1);
  CHECK(watch.expired());
}

// Each thread has as many lookups as it has not given back, as the kernel has: a node that it holds must be the one
// that everybody gets, and must not end. Few inodes, so that the last FORGET and the next LOOKUP meet.
TEST_CASE("lookups, forgets and opens race", "[nodes]") {
  constexpr int kThreads = 4, kRounds = 30'000, kInodes = 8;
  NodeTable table;
  const auto mount = some_mount();
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      std::minstd_rand random(t + 1);
      for (int i = 0; i < kRounds; ++i) {
        const ino_t ino = random() % kInodes;
        Node *node = acquire(table, mount, ino);
        if (node->ino != ino || acquire(table, mount, ino) != node) ++wrong;
        if (random() % 2 == 0) {
          table.forget(*node, 2);
          continue;
        }
        table.pin(*node);
        {
          const std::scoped_lock lock(table.open_mutex(*node));
          ++node->opens;
        }
        table.forget(*node, 1);
        table.forget(*node, 1);
        if (node->ino != ino) ++wrong;
        {
          const std::scoped_lock lock(table.open_mutex(*node));
          --node->opens;
        }
        table.unpin(*node);
      }
    });
  for (auto &thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(table.size() == 0);
}

TEST_CASE("owners of locks", "[locks]") {
  LockOwners owners;
  CHECK(owners.find(1) == nullptr);
  owners.add({1, 11, std::make_shared<Fd>()});
  CHECK(owners.other_than(1) == 0);
  CHECK(owners.other_than(2) == 11);
  owners.add({2, 22, std::make_shared<Fd>()});
  CHECK(owners.find(2)->pid == 22);
  CHECK(owners.other_than(1) == 22);
  CHECK(owners.other_than(3) == 0);  // of two, which one is not known
  const auto waiting = owners.find(1)->file;
  owners.erase(1);
  CHECK(waiting.use_count() == 1);
  owners.erase(2);
  CHECK(owners.empty());
}
