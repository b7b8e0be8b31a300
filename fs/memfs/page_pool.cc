// SPDX-License-Identifier: LGPL-2.1-or-later
#include "page_pool.hh"

#include <sys/mman.h>

#include <bit>
#include <new>

namespace efuse::fs::memfs {

PagePool::~PagePool() {
  for (Shard &shard : shards_)
    for (Slab *slab = shard.slabs; slab != nullptr;) {
      Slab *next = slab->next;
      munmap(slab, kSlabSize);
      slab = next;
    }
}

PagePool::Slab *PagePool::make_slab(Shard &shard) noexcept {
  // Twice the size contains an aligned slab; the rest goes back at once.
  void *map = mmap(nullptr, 2 * kSlabSize, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  char *start = static_cast<char *>(map);
  const std::size_t before = -reinterpret_cast<std::uintptr_t>(start) % kSlabSize;
  if (before != 0) munmap(start, before);
  munmap(start + before + kSlabSize, kSlabSize - before);
  Slab *slab = new (start + before) Slab{};
  slab->shard = &shard;
  slab->free = kSlabPages - 1;
  slab->free_bits.fill(~std::uint64_t{0});
  slab->free_bits[0] &= ~std::uint64_t{1};  // this header
  return slab;
}

void PagePool::link(Slab &slab) noexcept {
  slab.prev = nullptr;
  slab.next = slab.shard->slabs;
  if (slab.next != nullptr) slab.next->prev = &slab;
  slab.shard->slabs = &slab;
}

void PagePool::unlink(Slab &slab) noexcept {
  (slab.prev != nullptr ? slab.prev->next : slab.shard->slabs) = slab.next;
  if (slab.next != nullptr) slab.next->prev = slab.prev;
}

PagePool::Run PagePool::take(Slab &slab, std::size_t wanted) noexcept {
  std::size_t word = 0;
  while (slab.free_bits[word] == 0) ++word;
  const std::size_t first = word * 64 + static_cast<std::size_t>(std::countr_zero(slab.free_bits[word]));
  std::size_t count = 0;
  for (std::size_t i = first; i < kSlabPages && count < wanted; ++i, ++count) {
    const std::uint64_t bit = std::uint64_t{1} << (i % 64);
    if ((slab.free_bits[i / 64] & bit) == 0) break;
    slab.free_bits[i / 64] &= ~bit;
  }
  slab.free -= count;
  return {reinterpret_cast<char *>(&slab) + first * kPageSize, count};
}

PagePool::Run PagePool::allocate(std::size_t wanted) noexcept {
  Shard &shard = shards_[my_shard()];
  const std::scoped_lock lock(shard.mutex);
  if (shard.slabs == nullptr) {
    Slab *slab = make_slab(shard);
    if (slab == nullptr) return {};
    link(*slab);
  }
  Slab &slab = *shard.slabs;
  const Run run = take(slab, wanted);
  if (slab.free == 0) unlink(slab);
  return run;
}

void PagePool::free(void *page) noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(page);
  Slab &slab = *reinterpret_cast<Slab *>(address & ~(kSlabSize - 1));
  const std::size_t i = address % kSlabSize / kPageSize;
  bool release = false;
  {
    const std::scoped_lock lock(slab.shard->mutex);
    slab.free_bits[i / 64] |= std::uint64_t{1} << (i % 64);
    if (slab.free++ == 0) link(slab);
    // Keep the last one, so that a file that comes and goes does not map and unmap.
    release = slab.free == kSlabPages - 1 && (slab.prev != nullptr || slab.next != nullptr);
    if (release) unlink(slab);
  }
  if (release) munmap(&slab, kSlabSize);
}

}  // namespace efuse::fs::memfs
