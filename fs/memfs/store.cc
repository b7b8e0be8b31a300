// SPDX-License-Identifier: LGPL-2.1-or-later
// Names: directories, links, rename, and the life of inodes.
#include "acl.hh"
#include "store.hh"

#include <stdio.h>

#include <cerrno>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <stdexcept>

namespace efuse::fs::memfs {
namespace {

Inode &node_of(const DirIndex::Entry &entry) noexcept { return *reinterpret_cast<Inode *>(entry.value); }
std::uint64_t value_of(Inode &node) noexcept { return reinterpret_cast<std::uint64_t>(&node); }

/// A charge that is given back unless it is kept.
class Charge {
 public:
  Charge(Budget &budget, std::uint64_t units) noexcept
      : budget_(budget), units_(units), ok_(budget.charge(units)) {}
  ~Charge() {
    if (ok_) budget_.refund(units_);
  }
  Charge(const Charge &) = delete;
  Charge &operator=(const Charge &) = delete;
  explicit operator bool() const noexcept { return ok_; }
  void keep() noexcept { ok_ = false; }

 private:
  Budget &budget_;
  std::uint64_t units_;
  bool ok_;
};

/// One more name in a directory, unless it has been removed. Content held exclusively.
bool claim_name(Inode &dir) noexcept {
  std::uint64_t live = dir.live.load(std::memory_order_relaxed);
  while (live != Inode::kDead)
    if (dir.live.compare_exchange_weak(live, live + 1, std::memory_order_relaxed)) return true;
  return false;
}

/// False if it has names. Of its parent content is held exclusively, of itself nothing.
bool mark_dead(Inode &dir) noexcept {
  std::uint64_t none = 0;
  return dir.live.compare_exchange_strong(none, Inode::kDead, std::memory_order_relaxed);
}

/// The content of two inodes, or of one twice, exclusively and in order.
class TwoContents {
 public:
  TwoContents(Inode &a, Inode &b) : first_((a.ino < b.ino ? a : b).content) {
    if (&a != &b) second_ = std::unique_lock((a.ino < b.ino ? b : a).content);
  }

 private:
  std::unique_lock<RwLock> first_, second_;
};

void set_ctime(Inode &node) noexcept {
  const std::scoped_lock meta(node.meta);
  node.ctime = now();
}

}  // namespace

/// Both sides of a rename, with the locks held.
struct Store::RenameEnds {
  Inode &old_dir, &new_dir;
  std::string_view new_name;
  DirIndex::Entry *source, *dest;  // dest: nullptr if the new name is free
  Inode *moved, *target;
  Inode *whiteout = nullptr;       // to be left at the old name, nullptr once it is

  [[nodiscard]] bool across() const noexcept { return &old_dir != &new_dir; }
};

Store::Store(Limits limits, mode_t root_mode, Cred owner)
    : bytes_(limits.bytes), inodes_(limits.inodes), stripes_(std::make_unique<std::array<Stripe, 512>>()) {
  if (!inodes_.charge(1)) throw std::invalid_argument("memfs: nr_inodes must be at least 1");
  auto root = std::make_unique<Inode>(S_IFDIR | (root_mode & 07777));
  root->entries = std::make_unique<DirIndex>();
  root->uid = owner.uid;
  root->gid = owner.gid;
  root->nlink = 2;
  root->atime = root->mtime = root->ctime = root->btime = now();
  root->parent.store(kRoot, std::memory_order_relaxed);
  // The kernel never looks the root up; a lookup of our own keeps it for good.
  root->refs.store(Inode::kLinked, std::memory_order_relaxed);
  table_.insert(*root);
  root.release();
}

Store::~Store() {
  table_.for_each([this](Inode &node) {
    free_data(node);
    delete &node;
  });
}

int Store::find_dir(std::uint64_t ino, Inode *&out) const noexcept {
  out = table_.get(ino);
  if (out == nullptr) return -ESTALE;
  return out->is_dir() ? 0 : -ENOTDIR;
}

void Store::drop_refs(Inode &node, std::uint64_t refs) noexcept {
  if (refs == 0) return;
  std::uint64_t old = node.refs.load(std::memory_order_relaxed), left;
  do {
    const std::uint64_t held = old & ~Inode::kLinked;
    left = (old & Inode::kLinked) | (held - (refs < held ? refs : held));
    if (left == old) return;  // more forgets than lookups
  } while (!node.refs.compare_exchange_weak(old, left, std::memory_order_acq_rel));
  if (left == 0) destroy(&node);
}

void Store::drop_link(Inode &node) noexcept {
  {
    const std::scoped_lock meta(node.meta);
    node.nlink = node.is_dir() ? 0 : node.nlink - 1;
    node.ctime = now();
    if (node.nlink != 0) return;
  }
  if (node.refs.fetch_and(~Inode::kLinked, std::memory_order_acq_rel) == Inode::kLinked) destroy(&node);
}

void Store::destroy(Inode *node) noexcept {
  table_.erase(*node);
  free_data(*node);
  bytes_.refund(node->target.size() + xattrs_footprint(*node));
  inodes_.refund(1);
  delete node;
}

void Store::forget(std::uint64_t ino, std::uint64_t nlookup) noexcept {
  Inode *node = table_.get(ino);
  if (node != nullptr && ino != kRoot) drop_refs(*node, nlookup);
}

int Store::open(std::uint64_t ino) noexcept {
  Inode *node = table_.get(ino);
  if (node == nullptr) return -ESTALE;
  if (ino != kRoot) count_lookup(*node);
  return 0;
}

int Store::lookup(std::uint64_t dir, std::string_view name, NodeInfo &out) noexcept {
  Inode *node = nullptr;
  if (name == ".") {  // of a number that an NFS client kept, so it may be gone, or be a file
    node = table_.acquire(dir);
    if (node == nullptr) return -ESTALE;
  } else {
    Inode *parent;
    if (const int error = find_dir(dir, parent)) return error;
    if (name.size() > DirIndex::kMaxName) return -ENAMETOOLONG;
    if (name == "..") {
      node = table_.acquire(parent->parent.load(std::memory_order_relaxed));
      if (node == nullptr) return -ESTALE;
    } else {
      const std::shared_lock content(parent->content);
      const DirIndex::Entry *entry = parent->entries->find(name);
      if (entry == nullptr) return -ENOENT;
      node = &node_of(*entry);
      count_lookup(*node);
    }
  }
  describe(*node, out);
  // The kernel asks by number for what it has not got: nobody has it open. Its FORGET is on its way, or may come
  // later than this.
  if (name == "." && out.attr.st_nlink == 0) {
    drop_refs(*node, 1);
    return -ESTALE;
  }
  return 0;
}

/// Owner, group, mode and access control lists of a new inode. Throws std::bad_alloc.
void Store::inherit(Inode &node, Inode &parent, const Cred &cred) {
  const std::shared_lock meta(parent.meta);
  node.uid = cred.uid;
  node.gid = cred.gid;
  if ((parent.mode & S_ISGID) != 0) {
    node.gid = parent.gid;
    if (node.is_dir()) node.mode |= S_ISGID;
  }
  if (S_ISLNK(node.type)) return;
  const auto list = parent.xattrs ? parent.xattrs->find(acl::kDefault) : Xattrs::iterator();
  if (parent.xattrs && list != parent.xattrs->end())
    inherit_lists(node, list->second);
  else
    node.mode &= ~(cred.umask & 0777);
}

void Store::inherit_lists(Inode &node, const std::string &list) {
  std::string own = list;
  node.mode = acl::inherit(own, node.mode);
  auto xattrs = std::make_unique<Xattrs>();
  if (!acl::minimal(own)) xattrs->emplace(acl::kAccess, std::move(own));
  if (node.is_dir()) xattrs->emplace(acl::kDefault, list);
  if (!xattrs->empty()) node.xattrs = std::move(xattrs);
}

int Store::add_name(Inode &dir, std::string_view name, Inode &node) noexcept {
  if (!claim_name(dir)) return -ENOENT;
  try {
    dir.entries->insert(name, value_of(node));
    return 0;
  } catch (const std::bad_alloc &) {
    dir.live.fetch_sub(1, std::memory_order_relaxed);
    return -ENOMEM;
  }
}

void Store::remove_name(Inode &dir, DirIndex::Entry *entry) noexcept {
  dir.entries->erase(entry);
  dir.live.fetch_sub(1, std::memory_order_relaxed);
}

void Store::dir_changed(Inode &dir, int names, int subdirs) noexcept {
  constexpr int kBytesPerName = 32;  // what a directory's st_size shows; nobody can read them
  const std::scoped_lock meta(dir.meta);
  dir.size += names * kBytesPerName;
  dir.nlink += static_cast<nlink_t>(subdirs);
  dir.mtime = dir.ctime = now();
}

std::unique_ptr<Inode> Store::new_node(std::uint64_t dir, mode_t mode, nlink_t nlink) {
  auto node = std::make_unique<Inode>(mode);
  node->nlink = nlink;
  node->atime = node->mtime = node->ctime = node->btime = now();
  node->parent.store(dir, std::memory_order_relaxed);
  return node;
}

int Store::create(std::uint64_t dir, std::string_view name, mode_t mode, dev_t rdev, std::string_view target,
                  const Cred &cred, NodeInfo &out) noexcept try {
  Inode *parent;
  if (const int error = find_dir(dir, parent)) return error;
  if (name.size() > DirIndex::kMaxName) return -ENAMETOOLONG;
  std::unique_lock content(parent->content);
  if (parent->entries->find(name) != nullptr) return -EEXIST;
  Charge inode(inodes_, 1), bytes(bytes_, DirIndex::footprint(name.size()) + target.size());
  if (!inode || !bytes) return -ENOSPC;

  auto node = new_node(dir, mode, S_ISDIR(mode) ? 2 : 1);
  node->rdev = rdev;
  node->target = target;
  node->size = static_cast<std::int64_t>(target.size());
  if (node->is_dir()) node->entries = std::make_unique<DirIndex>();
  inherit(*node, *parent, cred);
  Charge lists(bytes_, xattrs_footprint(*node));
  if (!lists) return -ENOSPC;
  node->refs.store(Inode::kLinked + 1, std::memory_order_relaxed);
  table_.insert(*node);
  if (const int error = add_name(*parent, name, *node)) {
    table_.erase(*node);
    return error;
  }
  inode.keep();
  bytes.keep();
  lists.keep();
  dir_changed(*parent, 1, node->is_dir() ? 1 : 0);
  content.unlock();
  describe(*node.release(), out);
  return 0;
} catch (const std::bad_alloc &) {
  return -ENOMEM;
}

int Store::mknod(std::uint64_t dir, std::string_view name, mode_t mode, dev_t rdev, const Cred &cred,
                 NodeInfo &out) noexcept {
  switch (mode & S_IFMT) {
    case S_IFREG: case S_IFDIR: case S_IFIFO: case S_IFSOCK: case S_IFCHR: case S_IFBLK: break;
    case 0: mode |= S_IFREG; break;
    default: return -EINVAL;
  }
  const bool device = S_ISCHR(mode) || S_ISBLK(mode);
  return create(dir, name, mode & (S_IFMT | 07777), device ? rdev : 0, {}, cred, out);
}

int Store::tmpfile(std::uint64_t dir, mode_t mode, bool linkable, const Cred &cred, NodeInfo &out) noexcept try {
  Inode *parent;
  if (const int error = find_dir(dir, parent)) return error;
  if (parent->live.load(std::memory_order_relaxed) == Inode::kDead) return -ENOENT;
  Charge inode(inodes_, 1);
  if (!inode) return -ENOSPC;
  auto node = new_node(dir, S_IFREG | (mode & 07777), 0);
  node->may_get_name = linkable;
  inherit(*node, *parent, cred);
  Charge lists(bytes_, xattrs_footprint(*node));
  if (!lists) return -ENOSPC;
  node->refs.store(1, std::memory_order_relaxed);
  table_.insert(*node);
  inode.keep();
  lists.keep();
  describe(*node.release(), out);
  return 0;
} catch (const std::bad_alloc &) {
  return -ENOMEM;
}

int Store::symlink(std::uint64_t dir, std::string_view name, std::string_view target, const Cred &cred,
                   NodeInfo &out) noexcept {
  return create(dir, name, S_IFLNK | 0777, 0, target, cred, out);
}

int Store::link(std::uint64_t ino, std::uint64_t dir, std::string_view name, NodeInfo &out) noexcept {
  constexpr nlink_t kMaxLinks = INT32_MAX;
  Inode *node = table_.get(ino), *parent;
  if (node == nullptr) return -ESTALE;
  if (node->is_dir()) return -EPERM;
  if (const int error = find_dir(dir, parent)) return error;
  if (name.size() > DirIndex::kMaxName) return -ENAMETOOLONG;
  {
    const std::scoped_lock content(parent->content);
    if (parent->entries->find(name) != nullptr) return -EEXIST;
    Charge bytes(bytes_, DirIndex::footprint(name.size()));
    if (!bytes) return -ENOSPC;
    {
      const std::scoped_lock meta(node->meta);
      // The last name is gone: it does not come back.
      if (node->nlink == 0 && !node->may_get_name) return -ENOENT;
      if (node->nlink >= kMaxLinks) return -EMLINK;
      if (node->nlink++ == 0) node->refs.fetch_or(Inode::kLinked, std::memory_order_relaxed);
      node->may_get_name = false;
      node->ctime = now();
    }
    if (const int error = add_name(*parent, name, *node)) {
      drop_link(*node);
      return error;
    }
    bytes.keep();
    dir_changed(*parent, 1, 0);
    count_lookup(*node);
  }
  describe(*node, out);
  return 0;
}

int Store::unlink(std::uint64_t dir, std::string_view name) noexcept {
  Inode *parent;
  if (const int error = find_dir(dir, parent)) return error;
  Pin pin(*this);
  const std::scoped_lock content(parent->content);
  DirIndex::Entry *entry = parent->entries->find(name);
  if (entry == nullptr) return -ENOENT;
  Inode &node = node_of(*entry);
  if (node.is_dir()) return -EISDIR;
  pin.hold(node);
  bytes_.refund(DirIndex::footprint(name.size()));
  remove_name(*parent, entry);
  dir_changed(*parent, -1, 0);
  drop_link(node);
  return 0;
}

int Store::rmdir(std::uint64_t dir, std::string_view name) noexcept {
  Inode *parent;
  if (const int error = find_dir(dir, parent)) return error;
  Pin pin(*this);
  const std::shared_lock tree(tree_);
  const std::scoped_lock content(parent->content);
  DirIndex::Entry *entry = parent->entries->find(name);
  if (entry == nullptr) return -ENOENT;
  Inode &node = node_of(*entry);
  if (!node.is_dir()) return -ENOTDIR;
  if (!mark_dead(node)) return -ENOTEMPTY;
  pin.hold(node);
  bytes_.refund(DirIndex::footprint(name.size()));
  remove_name(*parent, entry);
  dir_changed(*parent, -1, -1);
  drop_link(node);
  return 0;
}

/// With the tree held exclusively, and `dir` not removed: no directory above it
/// can be removed or moved, so its ancestors stay where they are.
bool Store::is_below(const Inode &dir, const Inode &ancestor) const noexcept {
  for (const Inode *node = &dir; node != nullptr;
       node = table_.get(node->parent.load(std::memory_order_relaxed))) {
    if (node == &ancestor) return true;
    if (node->ino == kRoot) return false;
  }
  return false;
}

int Store::rename(std::uint64_t old_dir, std::string_view old_name, std::uint64_t new_dir,
                  std::string_view new_name, unsigned flags, const Cred &cred) noexcept try {
  if ((flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT)) != 0) return -EINVAL;
  if ((flags & RENAME_EXCHANGE) != 0 && flags != RENAME_EXCHANGE) return -EINVAL;
  Inode *from, *to;
  if (const int error = find_dir(old_dir, from)) return error;
  if (const int error = find_dir(new_dir, to)) return error;
  if (new_name.size() > DirIndex::kMaxName) return -ENAMETOOLONG;

  Pin pin(*this);
  std::unique_lock tree_exclusive(tree_, std::defer_lock);
  std::shared_lock tree_shared(tree_, std::defer_lock);
  from == to ? tree_shared.lock() : tree_exclusive.lock();
  const TwoContents contents(*from, *to);
  RenameEnds ends{*from, *to, new_name, from->entries->find(old_name), to->entries->find(new_name), {}, {}, {}};
  if (ends.source == nullptr) return -ENOENT;
  ends.moved = &node_of(*ends.source);
  if (ends.dest != nullptr) {
    ends.target = &node_of(*ends.dest);
    pin.hold(*ends.target);
  }
  if ((flags & RENAME_WHITEOUT) != 0) return rename_leaving_whiteout(ends, flags, cred);
  return rename_locked(ends, flags);
} catch (const std::bad_alloc &) {
  return -ENOMEM;
}

/// A whiteout is what union filesystems put where a name of a lower layer is gone: device 0:0.
int Store::rename_leaving_whiteout(RenameEnds &ends, unsigned flags, const Cred &cred) {
  Charge inode(inodes_, 1);
  if (!inode) return -ENOSPC;
  auto node = new_node(ends.old_dir.ino, S_IFCHR, 1);
  node->uid = cred.uid;
  node->gid = cred.gid;
  node->refs.store(Inode::kLinked, std::memory_order_relaxed);
  table_.insert(*node);
  inode.keep();
  ends.whiteout = node.release();
  const int status = rename_locked(ends, flags);
  if (ends.whiteout != nullptr) drop_link(*ends.whiteout);  // and with it the inode
  return status;
}

/// The old name goes away, or names a whiteout from now on. Returns how many names its directory loses.
int Store::vacate(RenameEnds &ends) noexcept {
  if (ends.whiteout != nullptr) {
    ends.source->value = value_of(*ends.whiteout);
    ends.whiteout = nullptr;
    return 0;
  }
  remove_name(ends.old_dir, ends.source);
  return 1;
}

int Store::rename_locked(RenameEnds &ends, unsigned flags) noexcept {
  if (ends.new_dir.live.load(std::memory_order_relaxed) == Inode::kDead) return -ENOENT;
  if (ends.dest != nullptr && (flags & RENAME_NOREPLACE) != 0) return -EEXIST;
  if (ends.dest == nullptr && (flags & RENAME_EXCHANGE) != 0) return -ENOENT;
  if (ends.moved == ends.target) return 0;  // two names of one file: both stay
  if (ends.across() && ends.moved->is_dir() && is_below(ends.new_dir, *ends.moved)) return -EINVAL;
  if ((flags & RENAME_EXCHANGE) != 0) return rename_exchange(ends);
  return ends.dest != nullptr ? rename_replace(ends) : rename_move(ends);
}

int Store::rename_exchange(RenameEnds &ends) noexcept {
  const int moved_dir = ends.moved->is_dir(), target_dir = ends.target->is_dir();
  if (ends.across() && target_dir && is_below(ends.old_dir, *ends.target)) return -EINVAL;
  std::swap(ends.source->value, ends.dest->value);
  if (ends.across()) {
    if (moved_dir) ends.moved->parent.store(ends.new_dir.ino, std::memory_order_relaxed);
    if (target_dir) ends.target->parent.store(ends.old_dir.ino, std::memory_order_relaxed);
  }
  dir_changed(ends.old_dir, 0, target_dir - moved_dir);
  dir_changed(ends.new_dir, 0, moved_dir - target_dir);
  set_ctime(*ends.moved);
  set_ctime(*ends.target);
  return 0;
}

/// The new name keeps its place in the directory and changes what it names.
int Store::rename_replace(RenameEnds &ends) noexcept {
  const int moved_dir = ends.moved->is_dir(), target_dir = ends.target->is_dir();
  if (target_dir && !moved_dir) return -EISDIR;
  if (moved_dir && !target_dir) return -ENOTDIR;
  if (target_dir && !mark_dead(*ends.target)) return -ENOTEMPTY;
  ends.dest->value = value_of(*ends.moved);
  const std::size_t freed = DirIndex::footprint(ends.source->len);
  const int lost = vacate(ends);
  if (lost != 0) bytes_.refund(freed);
  if (moved_dir) ends.moved->parent.store(ends.new_dir.ino, std::memory_order_relaxed);
  dir_changed(ends.old_dir, -lost, -moved_dir);
  dir_changed(ends.new_dir, 0, moved_dir - target_dir);
  set_ctime(*ends.moved);
  drop_link(*ends.target);
  return 0;
}

int Store::rename_move(RenameEnds &ends) noexcept {
  // Only what the name grows is charged: a full filesystem can still rename.
  const std::size_t before = ends.whiteout != nullptr ? 0 : DirIndex::footprint(ends.source->len);
  const std::size_t after = DirIndex::footprint(ends.new_name.size());
  Charge growth(bytes_, after > before ? after - before : 0);
  if (!growth) return -ENOSPC;
  if (const int error = add_name(ends.new_dir, ends.new_name, *ends.moved)) return error;
  growth.keep();
  if (before > after) bytes_.refund(before - after);
  const int lost = vacate(ends), moved_dir = ends.moved->is_dir();
  if (moved_dir) ends.moved->parent.store(ends.new_dir.ino, std::memory_order_relaxed);
  dir_changed(ends.old_dir, -lost, -moved_dir);
  dir_changed(ends.new_dir, 1, moved_dir);
  set_ctime(*ends.moved);
  return 0;
}

int Store::readdir(std::uint64_t dir, std::uint64_t cookie,
                   FunctionRef<bool(const DirEntry &)> emit) noexcept {
  Inode *node;
  if (const int error = find_dir(dir, node)) return error;
  {
    const std::shared_lock content(node->content);
    if (cookie < 1 && !emit({".", dir, S_IFDIR, 1, nullptr})) return 0;
    const std::uint64_t parent = node->parent.load(std::memory_order_relaxed);
    if (cookie < 2 && !emit({"..", parent, S_IFDIR, 2, nullptr})) return 0;
    node->entries->scan(cookie < 2 ? 2 : cookie, [&](const DirIndex::Entry &entry) {
      Inode &child = node_of(entry);
      return emit({entry.name(), child.ino, child.type, entry.cookie, &child});
    });
  }
  touch_atime(*node);
  return 0;
}

}  // namespace efuse::fs::memfs
