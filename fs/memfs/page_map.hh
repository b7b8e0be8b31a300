// SPDX-License-Identifier: LGPL-2.1-or-later
// Which page of memory holds which page of a file: a radix tree that is as high
// as the file is long, and no tree at all for a file of one page.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace efuse::fs::memfs {

/// What a file has at one page: nothing (a hole), room that is accounted for but
/// reads as zeros (fallocate), or a page of data.
class PageRef {
 public:
  PageRef() = default;
  explicit PageRef(char *page) noexcept : bits_(reinterpret_cast<std::uintptr_t>(page)) {}
  [[nodiscard]] static PageRef reserved() noexcept {
    PageRef ref;
    ref.bits_ = 1;
    return ref;
  }
  [[nodiscard]] bool hole() const noexcept { return bits_ == 0; }
  [[nodiscard]] bool has_data() const noexcept { return bits_ > 1; }
  /// nullptr unless has_data().
  [[nodiscard]] char *data() const noexcept { return has_data() ? reinterpret_cast<char *>(bits_) : nullptr; }

 private:
  std::uintptr_t bits_ = 0;
};

/// Page numbers up to 2^51 - 1. Owns its nodes, not the pages. Not synchronised:
/// const members may run side by side, others need the map to themselves.
class PageMap {
 public:
  static constexpr std::uint64_t kEnd = std::uint64_t{1} << 51;

  PageMap() = default;
  PageMap(const PageMap &) = delete;
  PageMap &operator=(const PageMap &) = delete;
  ~PageMap();

  [[nodiscard]] PageRef get(std::uint64_t page) const noexcept;
  /// `ref` is not a hole. Throws std::bad_alloc, changing nothing that can be seen.
  void set(std::uint64_t page, PageRef ref);

  /// Make [first, end) holes; drop(PageRef) is called for each that was none.
  template <typename Drop>
  void erase(std::uint64_t first, std::uint64_t end, Drop &&drop) noexcept {
    const std::uint64_t all = capacity(height_);
    if (end > all) end = all;
    if (first >= end) return;
    if (height_ == 0) {
      drop_slot(root_, drop);
    } else {
      erase_below(*root_.node, height_, first, end, drop);
      if (root_.node->used == 0) free_root();
    }
  }

  /// Call visit(page, PageRef) for what is no hole in [first, end), ascending,
  /// until it returns false. Subtrees that are absent cost nothing.
  template <typename Visit>
  void scan(std::uint64_t first, std::uint64_t end, Visit &&visit) const {
    const std::uint64_t all = capacity(height_);
    if (end > all) end = all;
    if (first >= end) return;
    if (height_ > 0)
      scan_below(*root_.node, height_, 0, first, end, visit);
    else if (!root_.leaf.hole())
      visit(std::uint64_t{0}, root_.leaf);
  }

 private:
  static constexpr unsigned kBits = 6;
  static constexpr std::size_t kFanout = std::size_t{1} << kBits;
  struct Node;
  union Slot {
    PageRef leaf;  // below height 1, and the root of height 0
    Node *node;
    Slot() noexcept : leaf() {}
  };
  struct Node {
    std::array<Slot, kFanout> slot;
    unsigned used = 0;
  };

  static std::uint64_t capacity(unsigned height) noexcept { return std::uint64_t{1} << (kBits * height); }
  void raise(std::uint64_t page);
  void free_root() noexcept;
  static void free_below(Node *node, unsigned height) noexcept;

  template <typename Drop>
  static void drop_slot(Slot &slot, Drop &&drop) noexcept {
    if (slot.leaf.hole()) return;
    drop(slot.leaf);
    slot.leaf = PageRef();
  }

  /// first and end count from the first page that `node` covers.
  template <typename Drop>
  static void erase_below(Node &node, unsigned height, std::uint64_t first, std::uint64_t end,
                          Drop &&drop) noexcept {
    const std::uint64_t span = capacity(height - 1);
    for (std::uint64_t i = first / span; i < kFanout && i * span < end; ++i) {
      Slot &slot = node.slot[i];
      if (slot.leaf.hole()) continue;  // and so is a null child
      const std::uint64_t base = i * span;
      if (height == 1) {
        drop_slot(slot, drop);
      } else {
        erase_below(*slot.node, height - 1, first > base ? first - base : 0,
                    end - base < span ? end - base : span, drop);
        if (slot.node->used != 0) continue;
        delete slot.node;
        slot.leaf = PageRef();
      }
      --node.used;
    }
  }

  template <typename Visit>
  static bool scan_below(const Node &node, unsigned height, std::uint64_t base, std::uint64_t first,
                         std::uint64_t end, Visit &&visit) {
    const std::uint64_t span = capacity(height - 1);
    std::uint64_t i = first > base ? (first - base) / span : 0;
    for (; i < kFanout && base + i * span < end; ++i) {
      const Slot &slot = node.slot[i];
      if (slot.leaf.hole()) continue;
      const std::uint64_t start = base + i * span;
      if (!(height == 1 ? visit(start, slot.leaf)
                        : scan_below(*slot.node, height - 1, start, first, end, visit)))
        return false;
    }
    return true;
  }

  Slot root_;
  unsigned height_ = 0;
};

}  // namespace efuse::fs::memfs
