// SPDX-License-Identifier: LGPL-2.1-or-later
// From inode numbers to inodes. Numbers are small, are used again, and come with
// a generation, so (number, generation) names one inode for ever.
#pragma once

#include "budget.hh"
#include "inode.hh"

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace efuse::fs::memfs {

/// Any thread. Does not own the inodes.
class NodeTable {
 public:
  NodeTable() = default;
  ~NodeTable();
  NodeTable(const NodeTable &) = delete;
  NodeTable &operator=(const NodeTable &) = delete;

  /// nullptr if there is none. What is returned stays only as long as the caller
  /// (the kernel, by its lookups) has a reference.
  [[nodiscard]] Inode *get(std::uint64_t ino) const noexcept {
    if (ino == 0 || ino >= next_.load(std::memory_order_acquire)) return nullptr;
    const Slot *slot = find(ino);
    return slot == nullptr ? nullptr : slot->node.load(std::memory_order_acquire);
  }
  /// As get(), for a number nobody vouches for (an NFS handle): takes a reference.
  [[nodiscard]] Inode *acquire(std::uint64_t ino) noexcept;
  /// Gives node.ino and node.generation; the first is 1. Throws std::bad_alloc.
  void insert(Inode &node);
  void erase(const Inode &node) noexcept;
  template <typename Visit>
  void for_each(Visit &&visit) const {
    for (std::uint64_t ino = 1; ino < next_.load(std::memory_order_acquire); ++ino)
      if (Inode *node = get(ino)) visit(*node);
  }

 private:
  struct Slot {
    std::atomic<Inode *> node;
    std::uint64_t generation;
  };
  struct alignas(64) Shard {
    std::mutex mutex;
    std::vector<std::uint64_t> free;
  };
  // Segment k holds kFirst << k slots; all of them together any 64-bit number.
  static constexpr std::uint64_t kFirst = 1024;
  static constexpr unsigned kFirstBits = 11;
  static constexpr std::uint64_t kBatch = 32;

  [[nodiscard]] static std::size_t segment_of(std::uint64_t ino) noexcept {
    return static_cast<std::size_t>(std::bit_width(ino + kFirst)) - kFirstBits;
  }
  [[nodiscard]] Slot *find(std::uint64_t ino) const noexcept {
    const std::size_t k = segment_of(ino);
    Slot *segment = segments_[k].load(std::memory_order_acquire);
    return segment == nullptr ? nullptr : segment + (ino + kFirst - (kFirst << k));
  }
  void refill(Shard &shard);

  std::array<std::atomic<Slot *>, 64 - kFirstBits> segments_{};
  std::atomic<std::uint64_t> next_{1};
  std::mutex grow_mutex_;
  std::array<Shard, kShards> shards_;
  /// Between the last look at an inode by acquire() and its end.
  std::array<std::mutex, 64> end_mutexes_;
};

}  // namespace efuse::fs::memfs
