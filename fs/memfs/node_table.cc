// SPDX-License-Identifier: LGPL-2.1-or-later
#include "node_table.hh"

#include <cstdlib>
#include <new>

namespace efuse::fs::memfs {

NodeTable::~NodeTable() {
  for (auto &segment : segments_) std::free(segment.load(std::memory_order_relaxed));
}

void NodeTable::refill(Shard &shard) {
  const std::scoped_lock lock(grow_mutex_);
  const std::uint64_t first = next_.load(std::memory_order_relaxed);
  shard.free.reserve(shard.free.size() + kBatch);
  for (std::uint64_t ino = first; ino < first + kBatch; ++ino) {
    std::atomic<Slot *> &segment = segments_[segment_of(ino)];
    if (segment.load(std::memory_order_relaxed) == nullptr) {
      // All zeros is a null pointer and generation 0; pages are not touched before they are used.
      void *memory = std::calloc(kFirst << segment_of(ino), sizeof(Slot));
      if (memory == nullptr) throw std::bad_alloc();
      segment.store(static_cast<Slot *>(memory), std::memory_order_release);
    }
  }
  for (std::uint64_t ino = first + kBatch; ino-- > first;) shard.free.push_back(ino);
  next_.store(first + kBatch, std::memory_order_release);
}

void NodeTable::insert(Inode &node) {
  Shard &shard = shards_[my_shard()];
  {
    const std::scoped_lock lock(shard.mutex);
    if (shard.free.empty()) refill(shard);
    node.ino = shard.free.back();
    shard.free.pop_back();
  }
  Slot *slot = find(node.ino);
  node.generation = ++slot->generation;
  slot->node.store(&node, std::memory_order_release);
}

void NodeTable::erase(const Inode &node) noexcept {
  const std::uint64_t ino = node.ino;
  {
    const std::scoped_lock lock(end_mutexes_[ino % end_mutexes_.size()]);
    find(ino)->node.store(nullptr, std::memory_order_release);
  }
  Shard &shard = shards_[my_shard()];
  const std::scoped_lock lock(shard.mutex);
  try {
    shard.free.push_back(ino);
  } catch (const std::bad_alloc &) {
    // The number is never used again; there are enough.
  }
}

Inode *NodeTable::acquire(std::uint64_t ino) noexcept {
  const std::scoped_lock lock(end_mutexes_[ino % end_mutexes_.size()]);
  Inode *node = get(ino);
  if (node == nullptr) return nullptr;
  std::uint64_t refs = node->refs.load(std::memory_order_relaxed);
  while (refs != 0)
    if (node->refs.compare_exchange_weak(refs, refs + 1, std::memory_order_relaxed)) return node;
  return nullptr;  // about to be erased
}

}  // namespace efuse::fs::memfs
