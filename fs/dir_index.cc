// SPDX-License-Identifier: LGPL-2.1-or-later
#include "dir_index.hh"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>

namespace efuse::fs {
namespace {

/// Names come from anybody who may create files; a seed that they do not know
/// keeps them from filling one bucket.
std::uint64_t random_seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

std::uint64_t mix(std::uint64_t a, std::uint64_t b) noexcept {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

}  // namespace

DirIndex::DirIndex() { segments_.push_back(std::make_unique<Entry *[]>(kMinBuckets)); }

DirIndex::~DirIndex() {
  for (auto &[number, group] : groups_)
    for (Entry *e : group->slot) std::free(e);
}

std::uint32_t DirIndex::hash_of(std::string_view name) noexcept {
  static const std::uint64_t seed = random_seed();
  std::uint64_t h = seed ^ name.size();
  const char *p = name.data();
  std::size_t left = name.size();
  for (; left > 0;) {
    std::uint64_t word = 0;
    const std::size_t n = left < sizeof word ? left : sizeof word;
    std::memcpy(&word, p, n);
    h = mix(h ^ word, 0x9e3779b97f4a7c15u);
    p += n;
    left -= n;
  }
  return static_cast<std::uint32_t>(mix(h, seed | 1));
}

std::size_t DirIndex::bucket_of(std::uint32_t hash, std::size_t buckets) const noexcept {
  const std::size_t mask = std::bit_ceil(buckets) - 1;
  const std::size_t i = hash & mask;
  return i < buckets ? i : i & (mask >> 1);
}

DirIndex::Entry *&DirIndex::bucket(std::size_t i) const noexcept {
  if (i < kMinBuckets) return segments_[0][i];
  const std::size_t base = std::bit_floor(i);
  return segments_[static_cast<std::size_t>(std::countr_zero(base / kMinBuckets)) + 1][i - base];
}

DirIndex::Entry *DirIndex::find(std::string_view name) const noexcept {
  const std::uint32_t hash = hash_of(name);
  for (Entry *e = bucket(bucket_of(hash, buckets_)); e != nullptr; e = e->next)
    if (e->hash == hash && e->name() == name) return e;
  return nullptr;
}

DirIndex::Group &DirIndex::group_for(std::uint64_t cookie) {
  const std::uint64_t number = cookie / kGroup;
  if (!groups_.empty() && groups_.rbegin()->first == number) return *groups_.rbegin()->second;
  auto group = std::make_unique<Group>();
  return *groups_.emplace_hint(groups_.end(), number, std::move(group))->second;
}

DirIndex::Entry *DirIndex::insert(std::string_view name, std::uint64_t value) {
  if (size_ >= buckets_) grow();
  Group &group = group_for(next_cookie_);  // an empty last group is as good as none
  auto *e = static_cast<Entry *>(std::malloc(sizeof(Entry) + name.size()));
  if (e == nullptr) throw std::bad_alloc();
  e->cookie = next_cookie_++;
  e->value = value;
  e->hash = hash_of(name);
  e->len = static_cast<std::uint16_t>(name.size());
  std::memcpy(static_cast<void *>(e + 1), name.data(), name.size());
  group.slot[e->cookie % kGroup] = e;
  ++group.used;
  Entry *&head = bucket(bucket_of(e->hash, buckets_));
  e->next = head;
  head = e;
  ++size_;
  return e;
}

void DirIndex::erase(Entry *entry) noexcept {
  Entry **link = &bucket(bucket_of(entry->hash, buckets_));
  while (*link != entry) link = &(*link)->next;
  *link = entry->next;
  const auto it = groups_.find(entry->cookie / kGroup);
  it->second->slot[entry->cookie % kGroup] = nullptr;
  // The last group stays: a directory that is filled and emptied need not allocate it each time.
  if (--it->second->used == 0 && it->first != next_cookie_ / kGroup) groups_.erase(it);
  std::free(entry);
  --size_;
  // At most one entry per four buckets: four buckets go for each entry that goes.
  for (int i = 0; i < 4 && buckets_ > kMinBuckets && size_ < buckets_ / 4; ++i) shrink();
}

void DirIndex::grow() {
  const std::size_t added = buckets_;
  const std::size_t base = std::bit_floor(added);
  if (added == base) segments_.push_back(std::make_unique<Entry *[]>(base));
  Entry **from = &bucket(added - base);
  Entry *&to = bucket(added);
  while (*from != nullptr) {
    Entry *e = *from;
    if (bucket_of(e->hash, added + 1) == added) {
      *from = e->next;
      e->next = to;
      to = e;
    } else {
      from = &e->next;
    }
  }
  ++buckets_;
}

void DirIndex::shrink() noexcept {
  const std::size_t removed = buckets_ - 1;
  const std::size_t base = std::bit_floor(removed);
  Entry **tail = &bucket(removed - base);
  while (*tail != nullptr) tail = &(*tail)->next;
  *tail = bucket(removed);
  bucket(removed) = nullptr;
  buckets_ = removed;
  if (removed == base) segments_.pop_back();
}

std::size_t DirIndex::footprint(std::size_t name_len) noexcept {
  constexpr std::size_t kMallocHeader = 16, kSlotAndBucket = 2 * sizeof(void *);
  return sizeof(Entry) + name_len + kMallocHeader + kSlotAndBucket;
}

}  // namespace efuse::fs
