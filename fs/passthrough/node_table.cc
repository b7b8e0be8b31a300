// SPDX-License-Identifier: LGPL-2.1-or-later
#include "node_table.hh"

#include <sys/stat.h>

#include <algorithm>
#include <functional>
#include <utility>

namespace efuse::fs::passthrough {
namespace {

/// Spreads over all 64 bits (the finalizer of splitmix64).
std::uint64_t mix(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

bool Identity::operator==(const Identity &other) const noexcept {
  if (mount != other.mount || (handle == nullptr) != (other.handle == nullptr)) return false;
  return handle != nullptr ? handle_bytes(handle) == handle_bytes(other.handle)
                           : dev == other.dev && ino == other.ino;
}

std::size_t Identity::hash() const noexcept {
  const auto place = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(mount));
  if (handle != nullptr) return mix(place ^ std::hash<std::string_view>{}(handle_bytes(handle)));
  return mix(place ^ mix(dev) ^ ino);
}

Node::Node(const Identity &identity, std::shared_ptr<Mount> on, mode_t mode, Fd descriptor)
    : mount(std::move(on)),
      handle(identity.handle),
      path(std::move(descriptor)),
      dev(identity.dev),
      ino(identity.ino),
      type(mode & S_IFMT),
      hash(identity.hash()) {}

NodeTable::~NodeTable() {
  for (Shard &shard : shards_)
    for (Node *node : shard.nodes) delete node;
}

void NodeTable::end_if_unused(Shard &shard, std::unique_lock<std::mutex> lock, Node &node) noexcept {
  if (node.lookups != 0 || node.pins != 0) return;
  shard.nodes.erase(&node);
  lock.unlock();
  delete &node;  // may close descriptors
}

void NodeTable::forget(Node &node, std::uint64_t count) noexcept {
  Shard &shard = shard_of(node.hash);
  std::unique_lock lock(shard.mutex);
  node.lookups -= std::min(node.lookups, count);
  end_if_unused(shard, std::move(lock), node);
}

void NodeTable::pin(Node &node) noexcept {
  const std::scoped_lock lock(shard_of(node.hash).mutex);
  ++node.pins;
}

void NodeTable::unpin(Node &node) noexcept {
  Shard &shard = shard_of(node.hash);
  std::unique_lock lock(shard.mutex);
  --node.pins;
  end_if_unused(shard, std::move(lock), node);
}

std::size_t NodeTable::size() const {
  std::size_t sum = 0;
  for (const Shard &shard : shards_) {
    const std::scoped_lock lock(shard.mutex);
    sum += shard.nodes.size();
  }
  return sum;
}

}  // namespace efuse::fs::passthrough
