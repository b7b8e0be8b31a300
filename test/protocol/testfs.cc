// SPDX-License-Identifier: LGPL-2.1-or-later
#include "testfs.hh"


#include <sys/mman.h>

#include <ctime>

namespace protocol_test {

Parking &parking_of(fuse_req_t req) { return fs_of(req).parking; }
TestFs &fs_of(fuse_req_t req) { return *static_cast<TestFs *>(fuse_req_userdata(req)); }

TestFs::TestFs(Options o) : options(o) {
  Node &root = make(0, "", S_IFDIR | 0755, fuse_ctx{});
  root.parent = root.ino;
  root.attr.st_nlink = 2;
  if (options.backing) backing_fd = ::memfd_create("backing", MFD_CLOEXEC);
}

Node *TestFs::find(fuse_ino_t ino) {
  const auto found = nodes.find(ino);
  return found == nodes.end() ? nullptr : found->second.get();
}

Node *TestFs::find(fuse_ino_t parent, const std::string &name) {
  Node *dir = find(parent);
  if (!dir) return nullptr;
  const auto found = dir->entries.find(name);
  return found == dir->entries.end() ? nullptr : find(found->second);
}

Node &TestFs::make(fuse_ino_t parent, const std::string &name, mode_t mode, const fuse_ctx &ctx, dev_t rdev) {
  auto node = std::make_unique<Node>();
  node->ino = next++;
  node->parent = parent;
  node->hint = name;
  clock_gettime(CLOCK_REALTIME, &node->born);
  struct stat &attr = node->attr;
  attr.st_ino = node->ino;
  attr.st_mode = mode;
  attr.st_nlink = name.empty() ? 0 : S_ISDIR(mode) ? 2 : 1;
  attr.st_uid = ctx.uid;
  attr.st_gid = ctx.gid;
  attr.st_rdev = rdev;
  attr.st_blksize = 4096;
  attr.st_atim = attr.st_mtim = attr.st_ctim = node->born;
  if (!name.empty()) find(parent)->entries[name] = node->ino;
  Node &made = *node;
  nodes[made.ino] = std::move(node);
  return made;
}

void TestFs::unlink(Node &parent, const std::string &name) {
  const auto found = parent.entries.find(name);
  Node *node = find(found->second);
  parent.entries.erase(found);
  node->attr.st_nlink -= S_ISDIR(node->attr.st_mode) ? 2 : 1;
  if (node->attr.st_nlink == 0 && node->lookups == 0) nodes.erase(node->ino);
}

void TestFs::forget(fuse_ino_t ino, std::uint64_t count) {
  const std::lock_guard lock(mutex);
  Node *node = find(ino);
  if (!node) return;
  node->lookups -= std::min(count, node->lookups);
  if (node->lookups == 0 && node->attr.st_nlink == 0) nodes.erase(ino);
}

fuse_entry_param TestFs::entry(Node &node) {
  ++node.lookups;
  fuse_entry_param e{};
  e.ino = node.ino;
  e.generation = 1;
  e.attr = node.attr;
  e.attr_timeout = e.entry_timeout = kForever;
  return e;
}

std::size_t TestFs::known_to_kernel() {
  const std::lock_guard lock(mutex);
  std::size_t count = 0;
  for (const auto &[ino, node] : nodes) count += ino != FUSE_ROOT_ID && node->lookups != 0;
  return count;
}

}  // namespace protocol_test
