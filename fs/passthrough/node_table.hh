// SPDX-License-Identifier: LGPL-2.1-or-later
// The inodes that the kernel knows. A node id is the address of a Node: the kernel vouches for it from the reply
// that told it until the FORGET that gives the last lookup back.
#pragma once

#include "file_handle.hh"
#include "locks.hh"
#include "mounts.hh"

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_set>

namespace efuse::fs::passthrough {

/// What makes two files the same. By handle where there is one: inode numbers are used again. The mount belongs to
/// it, because a directory that is mounted twice has two places, and a node must have one.
struct Identity {
  const Mount *mount = nullptr;
  dev_t dev = 0;                        // with `ino`, where there is no handle: the node's descriptor
  ino_t ino = 0;                        // keeps that number from being used again
  const file_handle *handle = nullptr;

  [[nodiscard]] bool operator==(const Identity &other) const noexcept;
  [[nodiscard]] std::size_t hash() const noexcept;
};

struct Node {
  /// Throws std::bad_alloc. `path`: an O_PATH descriptor, not needed where there is a handle.
  Node(const Identity &identity, std::shared_ptr<Mount> mount, mode_t mode, Fd path);
  [[nodiscard]] Identity identity() const noexcept { return {mount.get(), dev, ino, handle.get()}; }

  const std::shared_ptr<Mount> mount;
  const FileHandle handle;
  const Fd path;  // none where there is a handle, but for the root
  const dev_t dev;
  const ino_t ino;
  const mode_t type;  // S_IFMT bits
  const std::size_t hash;
  std::uint64_t generation = 0;

  // Guarded by the table.
  std::uint64_t lookups = 0;  // that the kernel has to give back
  std::uint64_t pins = 0;     // of files that are open

  // Guarded by NodeTable::open_mutex().
  unsigned opens = 0;
  int backing_id = 0;         // of kernel passthrough, all opens share it; 0: none
  bool fastpath_backing = false;  // efuse_fastpath_open() took the file of an open
  std::unique_ptr<LockOwners> locks;
};

/// Any thread. Owns the nodes.
class NodeTable {
 public:
  NodeTable() = default;
  ~NodeTable();
  NodeTable(const NodeTable &) = delete;
  NodeTable &operator=(const NodeTable &) = delete;

  /// The node of that identity with one more lookup; there is none yet: that of make(), a std::unique_ptr<Node>.
  /// What make() throws is passed on.
  template <typename Make>
  Node *acquire(const Identity &identity, Make &&make) {
    const std::size_t hash = identity.hash();
    Shard &shard = shard_of(hash);
    const std::scoped_lock lock(shard.mutex);
    if (const auto found = shard.nodes.find(identity); found != shard.nodes.end()) {
      ++(*found)->lookups;
      return *found;
    }
    std::unique_ptr<Node> node = make();
    node->generation = next_generation_.fetch_add(1, std::memory_order_relaxed);
    node->lookups = 1;
    shard.nodes.insert(node.get());
    return node.release();
  }

  /// Give `count` lookups back. The node may be gone afterwards.
  void forget(Node &node, std::uint64_t count) noexcept;
  /// Keep a node that the caller has a lookup of, until unpin().
  void pin(Node &node) noexcept;
  void unpin(Node &node) noexcept;
  [[nodiscard]] std::size_t size() const;

  [[nodiscard]] std::mutex &open_mutex(const Node &node) noexcept {
    return open_mutexes_[node.hash % open_mutexes_.size()];
  }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(const Node *node) const noexcept { return node->hash; }
    std::size_t operator()(const Identity &identity) const noexcept { return identity.hash(); }
  };
  struct Equal {
    using is_transparent = void;
    bool operator()(const Node *a, const Node *b) const noexcept { return a == b || a->identity() == b->identity(); }
    bool operator()(const Identity &a, const Node *b) const noexcept { return a == b->identity(); }
    bool operator()(const Node *a, const Identity &b) const noexcept { return a->identity() == b; }
  };
  struct alignas(64) Shard {
    mutable std::mutex mutex;
    std::unordered_set<Node *, Hash, Equal> nodes;
  };
  static constexpr std::size_t kShards = 64;

  // The upper bits: the hash tables within use the lower ones.
  [[nodiscard]] Shard &shard_of(std::size_t hash) noexcept { return shards_[(hash >> 32) % kShards]; }
  /// Gone unless somebody still wants it. Takes over the lock.
  static void end_if_unused(Shard &shard, std::unique_lock<std::mutex> lock, Node &node) noexcept;

  std::array<Shard, kShards> shards_;
  std::array<std::mutex, 64> open_mutexes_;
  std::atomic<std::uint64_t> next_generation_{1};
};

}  // namespace efuse::fs::passthrough
