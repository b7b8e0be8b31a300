// SPDX-License-Identifier: LGPL-2.1-or-later
// The entries of one directory: found by name in O(1), walked in the order of
// cookies that never change while an entry lives, so that a reader of the
// directory neither misses nor repeats an entry that was there all the time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <vector>

namespace efuse::fs {

/// Not synchronised: const members may run side by side, others need the
/// directory to themselves.
///
/// By name: linear hashing (Litwin 1980). The table grows and shrinks by one
/// bucket per change, so no single create pays for rehashing a million entries.
/// By cookie: groups of slots, ordered; a group whose entries are all gone is freed.
class DirIndex {
 public:
  struct Entry {
    Entry *next;           // of the bucket
    std::uint64_t cookie;  // unique in the directory, ascending in order of creation
    std::uint64_t value;   // the owner's: an inode
    std::uint32_t hash;
    std::uint16_t len;     // of the name, which follows

    [[nodiscard]] std::string_view name() const noexcept {
      return {reinterpret_cast<const char *>(this + 1), len};
    }
  };

  /// Cookies below this are free for "." and "..".
  static constexpr std::uint64_t kFirstCookie = 3;
  static constexpr std::size_t kMaxName = 255;

  DirIndex();
  ~DirIndex();
  DirIndex(const DirIndex &) = delete;
  DirIndex &operator=(const DirIndex &) = delete;

  [[nodiscard]] Entry *find(std::string_view name) const noexcept;
  /// `name` must be absent and at most kMaxName long. Throws std::bad_alloc, changing nothing.
  Entry *insert(std::string_view name, std::uint64_t value);
  void erase(Entry *entry) noexcept;
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// Memory that an entry takes, in bytes, about.
  [[nodiscard]] static std::size_t footprint(std::size_t name_len) noexcept;

  /// Call visit(const Entry &) for the entries with cookies larger than `after`,
  /// in order, until it returns false.
  template <typename Visit>
  void scan(std::uint64_t after, Visit &&visit) const {
    if (after == UINT64_MAX) return;
    const std::uint64_t first = after + 1;
    for (auto it = groups_.lower_bound(first / kGroup); it != groups_.end(); ++it) {
      std::size_t i = it->first == first / kGroup ? first % kGroup : 0;
      for (; i < kGroup; ++i)
        if (const Entry *e = it->second->slot[i]; e != nullptr && !visit(*e)) return;
    }
  }

 private:
  static constexpr std::size_t kGroup = 64;
  static constexpr std::size_t kMinBuckets = 8;
  struct Group {
    std::array<Entry *, kGroup> slot{};
    std::size_t used = 0;
  };

  [[nodiscard]] static std::uint32_t hash_of(std::string_view name) noexcept;
  [[nodiscard]] std::size_t bucket_of(std::uint32_t hash, std::size_t buckets) const noexcept;
  [[nodiscard]] Entry *&bucket(std::size_t i) const noexcept;
  Group &group_for(std::uint64_t cookie);
  void grow();
  void shrink() noexcept;

  // Bucket i: of segment 0 below kMinBuckets, then each segment as large as all before it.
  std::vector<std::unique_ptr<Entry *[]>> segments_;
  std::size_t buckets_ = kMinBuckets;
  std::size_t size_ = 0;
  std::map<std::uint64_t, std::unique_ptr<Group>> groups_;  // by cookie / kGroup
  std::uint64_t next_cookie_ = kFirstCookie;
};

}  // namespace efuse::fs
