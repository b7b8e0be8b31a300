// SPDX-License-Identifier: LGPL-2.1-or-later
// The test filesystem's callbacks.
#include "testfs.hh"

#include <linux/falloc.h>
#include <linux/stat.h>
#include <sys/file.h>
#include <sys/poll.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

namespace protocol_test {
namespace {

using Req = fuse_req_t;
using Ino = fuse_ino_t;
using Info = fuse_file_info *;
constexpr std::size_t kBlock = 4096;

/// Locks the filesystem and finds the node; without one, ESTALE is answered.
class Locked {
 public:
  Locked(Req req, Ino ino) : fs(fs_of(req)), lock_(fs.mutex), node_(fs.find(ino)) {
    if (!node_) fuse_reply_err(req, ESTALE);
  }
  explicit operator bool() const { return node_ != nullptr; }
  Node *operator->() const { return node_; }
  Node &operator*() const { return *node_; }
  TestFs &fs;

 private:
  std::lock_guard<std::mutex> lock_;
  Node *node_;
};

void set_size(Node &node, std::size_t size) {
  node.data.resize(size);
  node.attr.st_size = static_cast<off_t>(size);
  node.attr.st_blocks = static_cast<blkcnt_t>((size + 511) / 512);
}

void touch(Node &node) {
  clock_gettime(CLOCK_REALTIME, &node.attr.st_mtim);
  node.attr.st_ctim = node.attr.st_mtim;
}

void init(void *userdata, fuse_conn_info *conn) {
  auto &fs = *static_cast<TestFs *>(userdata);
  if (fs.options.backing) fs.want_backing = efuse_want_passthrough(conn, 0);
  if (fs.options.acl) fuse_set_feature_flag(conn, FUSE_CAP_POSIX_ACL);
}

// ---- names ----------------------------------------------------------------------------

void lookup(Req req, Ino parent, const char *name) {
  const Locked dir(req, parent);
  if (!dir) return;
  Node *node = dir.fs.find(parent, name);
  if (!node) {
    fuse_reply_err(req, ENOENT);
    return;
  }
  const fuse_entry_param e = dir.fs.entry(*node);
  fuse_reply_entry(req, &e);
}

void forget(Req req, Ino ino, std::uint64_t count) {
  fs_of(req).forget(ino, count);
  fuse_reply_none(req);
}

void forget_multi(Req req, std::size_t count, fuse_forget_data *forgets) {
  for (std::size_t i = 0; i < count; ++i) fs_of(req).forget(forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(req);
}

/// For MKNOD, MKDIR and SYMLINK.
void make(Req req, Ino parent, const char *name, mode_t mode, dev_t rdev, const char *target = "") {
  const Locked dir(req, parent);
  if (!dir) return;
  if (dir->entries.contains(name)) {
    fuse_reply_err(req, EEXIST);
    return;
  }
  Node &node = dir.fs.make(parent, name, mode, *fuse_req_ctx(req), rdev);
  if (S_ISLNK(mode)) {
    set_size(node, std::strlen(target));
    node.data = target;
  }
  const fuse_entry_param e = dir.fs.entry(node);
  fuse_reply_entry(req, &e);
}

void mknod(Req req, Ino parent, const char *name, mode_t mode, dev_t rdev) {
  make(req, parent, name, mode, rdev);
}

// Made when it is answered: a request that is given to the filesystem twice would fail.
void mkdir(Req req, Ino parent, const char *name, mode_t mode) {
  TestFs &fs = fs_of(req);
  ++fs.mkdirs;
  if (!std::strstr(name, "park")) return make(req, parent, name, S_IFDIR | mode, 0);
  fs.parking.park(req, [parent, name = std::string(name), mode](Req r) {
    make(r, parent, name.c_str(), S_IFDIR | mode, 0);
  }, std::strstr(name, "deaf") != nullptr);
}

void symlink(Req req, const char *target, Ino parent, const char *name) {
  make(req, parent, name, S_IFLNK | 0777, 0, target);
}

void readlink(Req req, Ino ino) {
  const Locked node(req, ino);
  if (node) fuse_reply_readlink(req, node->data.c_str());
}

void unlink(Req req, Ino parent, const char *name) {
  const Locked dir(req, parent);
  if (!dir) return;
  const bool there = dir.fs.find(parent, name) != nullptr;
  if (there) dir.fs.unlink(*dir, name);
  fuse_reply_err(req, there ? 0 : ENOENT);
}

void rmdir(Req req, Ino parent, const char *name) {
  const Locked dir(req, parent);
  if (!dir) return;
  Node *node = dir.fs.find(parent, name);
  const int error = !node ? ENOENT : node->entries.empty() ? 0 : ENOTEMPTY;
  if (!error) dir.fs.unlink(*dir, name);
  fuse_reply_err(req, error);
}

void rename(Req req, Ino parent, const char *name, Ino new_parent, const char *new_name, unsigned flags) {
  const Locked from(req, parent);
  Node *to = from ? from.fs.find(new_parent) : nullptr;
  if (!to) return;
  const auto source = from->entries.find(name);
  const auto target = to->entries.find(new_name);
  const bool there = target != to->entries.end();
  if (source == from->entries.end() || (flags & RENAME_EXCHANGE && !there)) {
    fuse_reply_err(req, ENOENT);
    return;
  }
  if (flags & RENAME_NOREPLACE && there) {
    fuse_reply_err(req, EEXIST);
    return;
  }
  if (flags & RENAME_EXCHANGE) {
    std::swap(source->second, target->second);
  } else {
    if (there) from.fs.unlink(*to, new_name);
    const Ino moved = source->second;
    from->entries.erase(name);
    to->entries[new_name] = moved;
  }
  fuse_reply_err(req, 0);
}

void link(Req req, Ino ino, Ino parent, const char *name) {
  const Locked node(req, ino);
  if (!node) return;
  ++node->attr.st_nlink;
  node.fs.find(parent)->entries[name] = ino;
  const fuse_entry_param e = node.fs.entry(*node);
  fuse_reply_entry(req, &e);
}

// ---- attributes -----------------------------------------------------------------------

void getattr(Req req, Ino ino, Info) {
  const Locked node(req, ino);
  if (!node) return;
  if (!node->is("twice")) {
    fuse_reply_attr(req, &node->attr, kForever);
    return;
  }
  // Two threads answer: one of them, and only one, succeeds. Not kept, so that it is asked for again.
  int first = 0, second = 0;
  std::thread other([&] { first = fuse_reply_attr(req, &node->attr, 0); });
  second = fuse_reply_attr(req, &node->attr, 0);
  other.join();
  const int third = fuse_reply_err(req, EBADMSG);
  node.fs.second_replies_refused += unsigned{(first == 0) != (second == 0)} + unsigned{third == -ENOENT};
}

void setattr(Req req, Ino ino, struct stat *attr, int set, Info) {
  const Locked node(req, ino);
  if (!node) return;
  struct stat &now = node->attr;
  if (set & FUSE_SET_ATTR_MODE) now.st_mode = (now.st_mode & S_IFMT) | (attr->st_mode & 07777);
  if (set & FUSE_SET_ATTR_UID) now.st_uid = attr->st_uid;
  if (set & FUSE_SET_ATTR_GID) now.st_gid = attr->st_gid;
  if (set & FUSE_SET_ATTR_SIZE) set_size(*node, static_cast<std::size_t>(attr->st_size));
  if (set & FUSE_SET_ATTR_ATIME) now.st_atim = attr->st_atim;
  if (set & FUSE_SET_ATTR_MTIME) now.st_mtim = attr->st_mtim;
  if (set & FUSE_SET_ATTR_ATIME_NOW) clock_gettime(CLOCK_REALTIME, &now.st_atim);
  if (set & FUSE_SET_ATTR_MTIME_NOW) clock_gettime(CLOCK_REALTIME, &now.st_mtim);
  clock_gettime(CLOCK_REALTIME, &now.st_ctim);
  fuse_reply_attr(req, &now, kForever);
}

void statx(Req req, Ino ino, int, int, Info) {
  const Locked node(req, ino);
  if (!node) return;
  const struct stat &from = node->attr;
  const auto time = [](const timespec &t) {
    statx_timestamp out{};
    out.tv_sec = t.tv_sec;
    out.tv_nsec = static_cast<__u32>(t.tv_nsec);
    return out;
  };
  struct statx to {};
  to.stx_mask = STATX_BASIC_STATS | STATX_BTIME;
  to.stx_blksize = kBlock;
  to.stx_nlink = static_cast<__u32>(from.st_nlink);
  to.stx_uid = from.st_uid;
  to.stx_gid = from.st_gid;
  to.stx_mode = static_cast<__u16>(from.st_mode);
  to.stx_ino = from.st_ino;
  to.stx_size = static_cast<__u64>(from.st_size);
  to.stx_blocks = static_cast<__u64>(from.st_blocks);
  to.stx_atime = time(from.st_atim);
  to.stx_mtime = time(from.st_mtim);
  to.stx_ctime = time(from.st_ctim);
  to.stx_btime = time(node->born);
  fuse_reply_statx(req, 0, &to, kForever);
}

void access(Req req, Ino ino, int mask) {
  const Locked node(req, ino);
  if (node) fuse_reply_err(req, mask & 2 && node->is("readonly") ? EROFS : 0);
}

void statfs(Req req, Ino) {
  struct statvfs st {};
  st.f_bsize = st.f_frsize = kBlock;
  st.f_blocks = 1000;
  st.f_bfree = st.f_bavail = 500;
  st.f_files = 77;
  st.f_namemax = 200;
  fuse_reply_statfs(req, &st);
}

// ---- extended attributes --------------------------------------------------------------

/// The mode goes with an access ACL: owner, mask (or group) and others are in both.
void follow_acl(Node &node, const std::string &acl) {
  struct Entry {
    std::uint16_t tag, permissions;
    std::uint32_t id;
  } entry;
  mode_t mode = node.attr.st_mode & ~mode_t{0777};
  mode_t group = 0;
  bool masked = false;
  for (std::size_t at = 4; at + sizeof(entry) <= acl.size(); at += sizeof(entry)) {
    std::memcpy(&entry, acl.data() + at, sizeof(entry));
    if (entry.tag == 0x01) mode |= static_cast<mode_t>(entry.permissions << 6);
    if (entry.tag == 0x20) mode |= entry.permissions;
    if (entry.tag == 0x10 || (entry.tag == 0x04 && !masked)) group = entry.permissions;
    masked = masked || entry.tag == 0x10;
  }
  node.attr.st_mode = mode | group << 3;
}

void setxattr(Req req, Ino ino, const char *name, const char *value, std::size_t size, int flags) {
  const Locked node(req, ino);
  if (!node) return;
  const bool there = node->xattrs.contains(name);
  const int error = flags & 1 && there ? EEXIST : flags & 2 && !there ? ENODATA : 0;
  if (!error) {
    node->xattrs[name] = std::string(value, size);
    if (!std::strcmp(name, "system.posix_acl_access")) follow_acl(*node, node->xattrs[name]);
  }
  fuse_reply_err(req, error);
}

/// A value, or how long it is.
void reply_value(Req req, const std::string &value, std::size_t size) {
  if (size == 0)
    fuse_reply_xattr(req, value.size());
  else if (size < value.size())
    fuse_reply_err(req, ERANGE);
  else
    fuse_reply_buf(req, value.data(), value.size());
}

void getxattr(Req req, Ino ino, const char *name, std::size_t size) {
  const Locked node(req, ino);
  if (!node) return;
  const auto found = node->xattrs.find(name);
  if (found == node->xattrs.end())
    fuse_reply_err(req, ENODATA);
  else
    reply_value(req, found->second, size);
}

void listxattr(Req req, Ino ino, std::size_t size) {
  const Locked node(req, ino);
  if (!node) return;
  std::string names;
  for (const auto &[name, value] : node->xattrs) names.append(name).push_back('\0');
  reply_value(req, names, size);
}

void removexattr(Req req, Ino ino, const char *name) {
  const Locked node(req, ino);
  if (node) fuse_reply_err(req, node->xattrs.erase(name) ? 0 : ENODATA);
}

// ---- files ----------------------------------------------------------------------------

void fill_info(const Node &node, fuse_file_info &fi) {
  fi.fh = node.ino;
  fi.direct_io = node.is("direct");
  fi.keep_cache = 1;
}

/// The kernel takes no KEEP_CACHE beside a backing file.
void open_backed(Req req, const Node &node, fuse_file_info &fi) {
  const int id = fuse_passthrough_open(req, fs_of(req).backing_fd);
  if (id == 0) {
    fuse_reply_err(req, errno);
    return;
  }
  fi = {};
  fi.fh = node.ino | static_cast<std::uint64_t>(id) << 32;
  efuse_reply_backing(req, id);
  fuse_reply_open(req, &fi);
}

void open(Req req, Ino ino, Info fi) {
  const Locked node(req, ino);
  if (!node) return;
  if (node->is("backed")) return open_backed(req, *node, *fi);
  fill_info(*node, *fi);
  if (fi->flags & O_TRUNC) set_size(*node, 0);
  fuse_reply_open(req, fi);
}

void create(Req req, Ino parent, const char *name, mode_t mode, Info fi) {
  const Locked dir(req, parent);
  if (!dir) return;
  Node &node = dir.fs.make(parent, name, S_IFREG | mode, *fuse_req_ctx(req));
  fill_info(node, *fi);
  const fuse_entry_param e = dir.fs.entry(node);
  fuse_reply_create(req, &e, fi);
}

void tmpfile(Req req, Ino parent, mode_t mode, Info fi) {
  const Locked dir(req, parent);
  if (!dir) return;
  Node &node = dir.fs.make(parent, "", S_IFREG | mode, *fuse_req_ctx(req));
  fill_info(node, *fi);
  const fuse_entry_param e = dir.fs.entry(node);
  fuse_reply_create(req, &e, fi);
}

void reply_read(Req req, Ino ino, std::size_t size, off_t off) {
  const Locked node(req, ino);
  if (!node) return;
  const auto from = std::min(static_cast<std::size_t>(off), node->data.size());
  const std::size_t count = std::min(size, node->data.size() - from);
  fuse_bufvec data = memory_of(node->data.data() + from, count);
  if (off % (2 * kBlock))
    fuse_reply_data(req, &data, fuse_buf_copy_flags{});
  else
    fuse_reply_buf(req, node->data.data() + from, count);
}

void read(Req req, Ino ino, std::size_t size, off_t off, Info) {
  TestFs &fs = fs_of(req);
  bool park = false, deaf = false;
  {
    const std::lock_guard lock(fs.mutex);
    const Node *node = fs.find(ino);
    park = node && node->is("park");
    deaf = node && node->is("deaf");
  }
  if (!park) return reply_read(req, ino, size, off);
  fs.parking.park(req, [ino, size, off](Req r) { reply_read(r, ino, size, off); }, deaf);
}

void write_buf(Req req, Ino ino, fuse_bufvec *from, off_t off, Info) {
  const Locked node(req, ino);
  if (!node) return;
  const std::size_t size = fuse_buf_size(from);
  const std::size_t end = static_cast<std::size_t>(off) + size;
  if (end > node->data.size()) set_size(*node, end);
  fuse_bufvec to = memory_of(node->data.data() + off, size);
  const ssize_t count = fuse_buf_copy(&to, from, fuse_buf_copy_flags{});
  touch(*node);
  if (count < 0)
    fuse_reply_err(req, static_cast<int>(-count));
  else
    fuse_reply_write(req, static_cast<std::size_t>(count));
}

void flush(Req req, Ino ino, Info fi) {
  TestFs &fs = fs_of(req);
  fs.posix.release(ino, fi->lock_owner, 0, INT64_MAX, fs.parking);  // close(2) drops a process's locks
  fuse_reply_err(req, 0);
}

void release(Req req, Ino ino, Info fi) {
  TestFs &fs = fs_of(req);
  if (const auto backing = static_cast<int>(fi->fh >> 32); backing && fuse_passthrough_close(req, backing) != 0) {
    fuse_reply_err(req, errno);
    return;
  }
  if (fi->flock_release) fs.bsd.release(ino, fi->lock_owner, 0, INT64_MAX, fs.parking);
  fuse_reply_err(req, 0);
}

void fsync(Req req, Ino, int, Info) { fuse_reply_err(req, 0); }
void syncfs(Req req, Ino) { fuse_reply_err(req, 0); }

void fallocate(Req req, Ino ino, int mode, off_t off, off_t length, Info) {
  const Locked node(req, ino);
  if (!node) return;
  const auto from = static_cast<std::size_t>(off), end = from + static_cast<std::size_t>(length);
  if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && from < node->data.size())
    std::fill(node->data.begin() + off, node->data.begin() + static_cast<off_t>(std::min(end, node->data.size())),
              '\0');
  if (!(mode & FALLOC_FL_KEEP_SIZE) && end > node->data.size()) set_size(*node, end);
  fuse_reply_err(req, mode & ~(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE) ? EOPNOTSUPP : 0);
}

void copy_file_range(Req req, Ino in, off_t off_in, Info, Ino out, off_t off_out, Info, std::size_t len, int) {
  const Locked from(req, in);
  Node *to = from ? from.fs.find(out) : nullptr;
  if (!to) return;
  const auto at = std::min(static_cast<std::size_t>(off_in), from->data.size());
  const std::string part = from->data.substr(at, len);
  const std::size_t end = static_cast<std::size_t>(off_out) + part.size();
  if (end > to->data.size()) set_size(*to, end);
  to->data.replace(static_cast<std::size_t>(off_out), part.size(), part);
  fuse_reply_write(req, part.size());
}

/// A block of zeros is a hole.
void lseek(Req req, Ino ino, off_t off, int whence, Info) {
  const Locked node(req, ino);
  if (!node) return;
  const auto size = static_cast<off_t>(node->data.size());
  const auto is_hole = [&](off_t at) {
    const auto block = node->data.begin() + at / off_t{kBlock} * off_t{kBlock};
    return std::all_of(block, block + std::min<off_t>(kBlock, node->data.end() - block), [](char c) { return !c; });
  };
  off_t at = off;
  while (at < size && is_hole(at) != (whence == SEEK_HOLE)) at = (at / off_t{kBlock} + 1) * off_t{kBlock};
  if (off >= size || (at >= size && whence == SEEK_DATA))
    fuse_reply_err(req, ENXIO);
  else
    fuse_reply_lseek(req, std::min(at, size));
}

void bmap(Req req, Ino, std::size_t, std::uint64_t block) { fuse_reply_bmap(req, block + 1000); }

// ---- directories ----------------------------------------------------------------------

void opendir(Req req, Ino ino, Info fi) {
  fi->fh = ino;
  fuse_reply_open(req, fi);
}

template <bool Plus>
void read_directory(Req req, Ino ino, std::size_t size, off_t off, Info) {
  const Locked dir(req, ino);
  if (!dir) return;
  std::vector<std::pair<std::string, Ino>> all{{".", ino}, {"..", dir->parent}};
  all.insert(all.end(), dir->entries.begin(), dir->entries.end());
  std::string out(size, '\0');
  std::size_t used = 0;
  for (auto i = static_cast<std::size_t>(off); i < all.size(); ++i) {
    Node &node = *dir.fs.find(all[i].second);
    fuse_entry_param e{};  // no ino: not a lookup
    e.attr = node.attr;
    if (Plus && i >= 2) e = dir.fs.entry(node);
    const auto next = static_cast<off_t>(i + 1);
    const std::size_t n = Plus ? fuse_add_direntry_plus(req, &out[used], size - used, all[i].first.c_str(), &e, next)
                               : fuse_add_direntry(req, &out[used], size - used, all[i].first.c_str(), &e.attr, next);
    if (n > size - used) {
      if (Plus && i >= 2) --node.lookups;  // it did not fit
      break;
    }
    used += n;
  }
  fuse_reply_buf(req, out.data(), used);
}

// ---- locks ----------------------------------------------------------------------------

Lock lock_of(const fuse_file_info &fi, const struct flock &from) {
  const auto start = static_cast<std::uint64_t>(from.l_start);
  const std::uint64_t end = from.l_len == 0 ? INT64_MAX : start + static_cast<std::uint64_t>(from.l_len) - 1;
  return {fi.lock_owner, from.l_type, start, end, from.l_pid};
}

void getlk(Req req, Ino ino, Info fi, struct flock *lock) {
  const auto held = fs_of(req).posix.conflict(ino, lock_of(*fi, *lock));
  lock->l_type = F_UNLCK;
  if (held) {
    lock->l_type = held->type;
    lock->l_start = static_cast<off_t>(held->start);
    lock->l_len = held->end == INT64_MAX ? 0 : static_cast<off_t>(held->end - held->start + 1);
    lock->l_pid = held->pid;
  }
  fuse_reply_lock(req, lock);
}

void set_lock(Req req, LockTable &table, Ino ino, const Lock &wanted, bool sleep) {
  TestFs &fs = fs_of(req);
  if (wanted.type == F_UNLCK) {
    table.release(ino, wanted.owner, wanted.start, wanted.end, fs.parking);
    fuse_reply_err(req, 0);
  } else if (!sleep) {
    fuse_reply_err(req, table.take(ino, wanted));
  } else if (fs.options.blocking) {
    fuse_reply_err(req, table.take_blocking(ino, wanted, req));
  } else {
    table.take_or_wait(ino, wanted, req, fs.parking);
  }
}

void setlk(Req req, Ino ino, Info fi, struct flock *lock, int sleep) {
  set_lock(req, fs_of(req).posix, ino, lock_of(*fi, *lock), sleep != 0);
}

void flock(Req req, Ino ino, Info fi, int operation) {
  const int kind = operation & ~LOCK_NB;
  const short type = kind == LOCK_SH ? F_RDLCK : kind == LOCK_EX ? F_WRLCK : F_UNLCK;
  const Lock wanted{fi->lock_owner, type, 0, INT64_MAX, fuse_req_ctx(req)->pid};
  set_lock(req, fs_of(req).bsd, ino, wanted, !(operation & LOCK_NB));
}

// ---- ioctl and poll -------------------------------------------------------------------

void reply_pair(Req req, const void *in) {
  IoctlPair pair;
  std::memcpy(&pair, in, sizeof(pair));
  pair = {pair.first * 2, pair.second * 2};
  fuse_reply_ioctl(req, 7, &pair, sizeof(pair));
}

void reply_parts(Req req) {
  std::uint64_t parts[] = {1, 2};
  const iovec iov[] = {{&parts[0], sizeof(parts[0])}, {&parts[1], sizeof(parts[1])}};
  fuse_reply_ioctl_iov(req, 0, iov, 2);
}

void ioctl(Req req, Ino ino, unsigned cmd, void *arg, Info, unsigned flags, const void *in, std::size_t in_size,
           std::size_t out_size) {
  const Locked node(req, ino);
  if (!node) return;
  std::string &block = node->xattrs["user.ioctl"];
  block.resize(sizeof(IoctlBlock));
  iovec other{arg, sizeof(IoctlPair)};
  if (cmd == kIoctlDouble && in_size == sizeof(IoctlPair) && out_size == sizeof(IoctlPair))
    reply_pair(req, in);
  else if (cmd == kIoctlGet && out_size == block.size())
    fuse_reply_ioctl(req, 0, block.data(), block.size());
  else if (cmd == kIoctlSet && in_size == block.size())
    fuse_reply_ioctl(req, (block.assign(static_cast<const char *>(in), in_size), 0), nullptr, 0);
  else if (cmd == kIoctlArgument)
    fuse_reply_ioctl(req, static_cast<int>(reinterpret_cast<std::uintptr_t>(arg) & 0xff) +
                              (flags & FUSE_IOCTL_DIR ? 1000 : 0), nullptr, 0);
  else if (cmd == kIoctlRetry)
    fuse_reply_ioctl_retry(req, &other, 1, &other, 1);
  else if (cmd == kIoctlParts && out_size == sizeof(IoctlPair))
    reply_parts(req);
  else
    fuse_reply_err(req, cmd == kIoctlFail ? EBADMSG : ENOTTY);
}

void poll(Req req, Ino ino, Info, fuse_pollhandle *handle) {
  const Locked node(req, ino);
  if (!node) {
    if (handle) fuse_pollhandle_destroy(handle);
    return;
  }
  if (handle) {
    if (node->poll) fuse_pollhandle_destroy(node->poll);
    node->poll = handle;
  }
  fuse_reply_poll(req, node->ready ? POLLIN : 0);
}

void retrieve_reply(Req req, void *cookie, Ino, off_t, fuse_bufvec *from) {
  TestFs &fs = fs_of(req);
  std::string data(fuse_buf_size(from), '\0');
  fuse_bufvec to = memory_of(data.data(), data.size());
  fuse_buf_copy(&to, from, fuse_buf_copy_flags{});
  {
    const std::lock_guard lock(fs.retrieved_mutex);
    fs.retrieved[reinterpret_cast<std::uintptr_t>(cookie)] = data;
    fs.retrieved_changed.notify_all();
  }
  fuse_reply_none(req);
}

}  // namespace

efuse_lowlevel_ops test_ops() {
  efuse_lowlevel_ops ops{};
  fuse_lowlevel_ops &o = ops.base;
  o.init = init;
  o.lookup = lookup;
  o.forget = forget;
  o.forget_multi = forget_multi;
  o.getattr = getattr;
  o.setattr = setattr;
  o.readlink = readlink;
  o.mknod = mknod;
  o.mkdir = mkdir;
  o.unlink = unlink;
  o.rmdir = rmdir;
  o.symlink = symlink;
  o.rename = rename;
  o.link = link;
  o.open = open;
  o.read = read;
  o.write_buf = write_buf;
  o.flush = flush;
  o.release = release;
  o.fsync = fsync;
  o.opendir = opendir;
  o.readdir = read_directory<false>;
  o.readdirplus = read_directory<true>;
  o.releasedir = release;
  o.fsyncdir = fsync;
  o.statfs = statfs;
  o.setxattr = setxattr;
  o.getxattr = getxattr;
  o.listxattr = listxattr;
  o.removexattr = removexattr;
  o.access = access;
  o.create = create;
  o.getlk = getlk;
  o.setlk = setlk;
  o.flock = flock;
  o.bmap = bmap;
  o.ioctl = ioctl;
  o.poll = poll;
  o.retrieve_reply = retrieve_reply;
  o.fallocate = fallocate;
  o.copy_file_range = copy_file_range;
  o.lseek = lseek;
  ops.tmpfile = tmpfile;
  ops.statx = statx;
  ops.syncfs = syncfs;
  return ops;
}

}  // namespace protocol_test
