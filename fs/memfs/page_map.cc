// SPDX-License-Identifier: LGPL-2.1-or-later
#include "page_map.hh"

namespace efuse::fs::memfs {

PageMap::~PageMap() {
  if (height_ > 0) free_below(root_.node, height_);
}

void PageMap::free_below(Node *node, unsigned height) noexcept {
  if (height > 1)
    for (Slot &slot : node->slot)
      if (!slot.leaf.hole()) free_below(slot.node, height - 1);
  delete node;
}

void PageMap::free_root() noexcept {
  delete root_.node;
  root_.leaf = PageRef();
  height_ = 0;
}

PageRef PageMap::get(std::uint64_t page) const noexcept {
  if (page >= capacity(height_)) return PageRef();
  if (height_ == 0) return root_.leaf;
  const Node *node = root_.node;
  for (unsigned height = height_; height > 1; --height) {
    const Slot &slot = node->slot[page >> (kBits * (height - 1)) & (kFanout - 1)];
    if (slot.leaf.hole()) return PageRef();
    node = slot.node;
  }
  return node->slot[page & (kFanout - 1)].leaf;
}

void PageMap::raise(std::uint64_t page) {
  while (page >= capacity(height_)) {
    if (!root_.leaf.hole()) {
      Node *node = new Node;
      node->slot[0] = root_;
      node->used = 1;
      root_.node = node;
    } else {
      root_.node = new Node;  // only at height 0: a higher root is never null
      while (page >= capacity(height_ + 1)) ++height_;
    }
    ++height_;
  }
}

void PageMap::set(std::uint64_t page, PageRef ref) {
  raise(page);
  if (height_ == 0) {
    root_.leaf = ref;
    return;
  }
  Node *node = root_.node;
  for (unsigned height = height_; height > 1; --height) {
    Slot &slot = node->slot[page >> (kBits * (height - 1)) & (kFanout - 1)];
    if (slot.leaf.hole()) {
      slot.node = new Node;
      ++node->used;
    }
    node = slot.node;
  }
  Slot &slot = node->slot[page & (kFanout - 1)];
  if (slot.leaf.hole()) ++node->used;
  slot.leaf = ref;
}

}  // namespace efuse::fs::memfs
