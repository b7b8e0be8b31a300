// SPDX-License-Identifier: LGPL-2.1-or-later
// Pages of file data, from the operating system in large slabs. Neighbours in a
// file become neighbours in memory where possible, so a long read is few iovecs.
#pragma once

#include "budget.hh"

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace efuse::fs::memfs {

inline constexpr std::size_t kPageShift = 12;
inline constexpr std::size_t kPageSize = std::size_t{1} << kPageShift;

/// Any thread. Free every page before the pool goes.
class PagePool {
 public:
  struct Run {
    char *pages = nullptr;  // nullptr: no memory
    std::size_t count = 0;
  };

  PagePool() = default;
  ~PagePool();
  PagePool(const PagePool &) = delete;
  PagePool &operator=(const PagePool &) = delete;

  /// 1 ... `wanted` adjacent pages, their content undefined; each is freed on its own.
  [[nodiscard]] Run allocate(std::size_t wanted) noexcept;
  void free(void *page) noexcept;

 private:
  static constexpr std::size_t kSlabSize = std::size_t{2} << 20;  // and its alignment
  static constexpr std::size_t kSlabPages = kSlabSize / kPageSize;
  static constexpr std::size_t kWords = kSlabPages / 64;
  struct Shard;
  /// In the first page of its memory. Protected by its shard's mutex.
  struct Slab {
    Shard *shard;
    Slab *prev, *next;  // in the shard's list, only while `free` is not 0
    std::size_t free;
    std::array<std::uint64_t, kWords> free_bits;
  };
  struct alignas(64) Shard {
    std::mutex mutex;
    Slab *slabs = nullptr;  // those with free pages
  };

  static Slab *make_slab(Shard &shard) noexcept;
  static void link(Slab &slab) noexcept;
  static void unlink(Slab &slab) noexcept;
  static Run take(Slab &slab, std::size_t wanted) noexcept;

  std::array<Shard, kShards> shards_;
};

}  // namespace efuse::fs::memfs
