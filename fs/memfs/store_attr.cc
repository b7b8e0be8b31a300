// SPDX-License-Identifier: LGPL-2.1-or-later
// Attributes, times, extended attributes, statfs.
#include "acl.hh"
#include "store.hh"

#include <sys/xattr.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <new>
#include <shared_mutex>

namespace efuse::fs::memfs {
namespace {

/// meta is held.
void fill(const Inode &node, struct stat &st) noexcept {
  st = {};
  st.st_ino = node.ino;
  st.st_mode = node.mode;
  st.st_nlink = node.nlink;
  st.st_uid = node.uid;
  st.st_gid = node.gid;
  st.st_rdev = node.rdev;
  st.st_size = node.size;
  st.st_blksize = kPageSize;
  st.st_blocks = static_cast<blkcnt_t>(node.pages * (kPageSize / 512));
  st.st_atim = node.atime;
  st.st_mtim = node.mtime;
  st.st_ctim = node.ctime;
}

bool not_after(const timespec &a, const timespec &b) noexcept {
  return a.tv_sec != b.tv_sec ? a.tv_sec < b.tv_sec : a.tv_nsec <= b.tv_nsec;
}

/// meta is held.
bool atime_is_stale(const Inode &node, const timespec &at) noexcept {
  constexpr time_t kDay = 24 * 60 * 60;
  return not_after(node.atime, node.mtime) || not_after(node.atime, node.ctime) ||
         at.tv_sec - node.atime.tv_sec >= kDay;
}

/// meta is held.
void set_mode(Inode &node, mode_t mode) noexcept {
  node.mode = node.type | (mode & 07777);
  if (!node.xattrs) return;
  const auto list = node.xattrs->find(acl::kAccess);
  if (list != node.xattrs->end()) acl::change_mode(list->second, mode);
}

bool starts_with(std::string_view name, std::string_view prefix) noexcept {
  return name.substr(0, prefix.size()) == prefix;
}

/// 0 for a name of a namespace that is kept here.
int name_error(std::string_view name) noexcept {
  if (acl::is_name(name)) return 0;
  for (const std::string_view prefix : {"user.", "trusted.", "security."})
    if (starts_with(name, prefix)) return name.size() > prefix.size() ? 0 : -EINVAL;
  return -EOPNOTSUPP;
}

std::size_t names_length(const Xattrs &xattrs) noexcept {
  std::size_t length = 0;
  for (const auto &[name, value] : xattrs) length += name.size() + 1;
  return length;
}

}  // namespace

std::size_t xattr_footprint(std::string_view name, std::string_view value) noexcept {
  constexpr std::size_t kNode = 128;  // of the map, two strings in it, malloc's headers
  return kNode + name.size() + value.size();
}

std::size_t xattrs_footprint(const Inode &node) noexcept {
  std::size_t bytes = 0;
  if (node.xattrs)
    for (const auto &[name, value] : *node.xattrs) bytes += xattr_footprint(name, value);
  return bytes;
}

timespec now() noexcept {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return t;
}

void touch_atime(Inode &node) noexcept {
  const timespec at = now();
  {
    const std::shared_lock meta(node.meta);
    if (!atime_is_stale(node, at)) return;
  }
  const std::scoped_lock meta(node.meta);
  node.atime = at;
}

void Store::describe(Inode &node, NodeInfo &out) noexcept {
  const std::shared_lock meta(node.meta);
  out.ino = node.ino;
  out.generation = node.generation;
  fill(node, out.attr);
}

int Store::getattr(std::uint64_t ino, struct stat &out, timespec *born) const noexcept {
  Inode *node = table_.get(ino);
  if (node == nullptr) return -ESTALE;
  if (born != nullptr) *born = node->btime;
  const std::shared_lock meta(node->meta);
  fill(*node, out);
  return 0;
}

int Store::setattr(std::uint64_t ino, const AttrChange &change, const Cred &cred, struct stat &out) noexcept {
  Inode *node = table_.get(ino);
  if (node == nullptr) return -ESTALE;
  std::unique_lock content(node->content, std::defer_lock);
  if (change.size) {
    if (!node->is_file()) return node->is_dir() ? -EISDIR : -EINVAL;
    content.lock();
    if (const int error = truncate_locked(*node, *change.size, cred)) return error;
  }
  const std::scoped_lock meta(node->meta);
  const timespec at = now();
  if (change.uid) node->uid = *change.uid;
  if (change.gid) node->gid = *change.gid;
  if ((change.uid || change.gid) && !node->is_dir()) drop_privileges(*node);
  if (change.mode) set_mode(*node, *change.mode);
  if (change.atime || change.atime_now) node->atime = change.atime_now ? at : *change.atime;
  if (change.mtime || change.mtime_now) node->mtime = change.mtime_now ? at : *change.mtime;
  node->ctime = change.ctime ? *change.ctime : at;
  fill(*node, out);
  return 0;
}

int Store::readlink(std::uint64_t ino, const char *&target) noexcept {
  Inode *node = table_.get(ino);
  if (node == nullptr) return -ESTALE;
  if (!S_ISLNK(node->type)) return -EINVAL;
  target = node->target.c_str();
  touch_atime(*node);
  return 0;
}

/// meta is held. Throws std::bad_alloc, changing nothing.
int Store::put_xattr(Inode &node, std::string_view name, std::string_view value, int flags) {
  if (!node.xattrs) node.xattrs = std::make_unique<Xattrs>();
  Xattrs &xattrs = *node.xattrs;
  const auto old = xattrs.find(name);
  if (old != xattrs.end() && (flags & XATTR_CREATE) != 0) return -EEXIST;
  if (old == xattrs.end() && (flags & XATTR_REPLACE) != 0) return -ENODATA;
  if (old == xattrs.end() && names_length(xattrs) + name.size() + 1 > kMaxXattrNames) return -ENOSPC;
  std::string key(name), copy(value);  // what can throw comes before what changes
  const std::size_t size = xattr_footprint(name, value);
  if (!bytes_.charge(size)) return -ENOSPC;
  if (old != xattrs.end()) {
    bytes_.refund(xattr_footprint(name, old->second));
    old->second = std::move(copy);
    return 0;
  }
  try {
    xattrs.emplace(std::move(key), std::move(copy));
  } catch (const std::bad_alloc &) {
    bytes_.refund(size);
    throw;
  }
  return 0;
}

/// meta is held. A list that says no more than a mode is not kept.
int Store::put_access_list(Inode &node, std::string_view list, bool keep_setgid) {
  if (!acl::minimal(list)) {
    if (const int error = put_xattr(node, acl::kAccess, list, 0)) return error;
  } else if (node.xattrs) {
    const auto old = node.xattrs->find(acl::kAccess);
    if (old != node.xattrs->end()) drop_xattr(node, old);
  }
  node.mode = (node.mode & ~static_cast<mode_t>(0777)) | acl::permissions(list);
  if (!keep_setgid) node.mode &= ~static_cast<mode_t>(S_ISGID);
  return 0;
}

void Store::drop_xattr(Inode &node, Xattrs::iterator which) noexcept {
  bytes_.refund(xattr_footprint(which->first, which->second));
  node.xattrs->erase(which);
  if (node.xattrs->empty()) node.xattrs.reset();
}

int Store::setxattr(std::uint64_t ino, std::string_view name, std::string_view value, int flags,
                    bool keep_setgid) noexcept try {
  if (const int error = name_error(name)) return error;
  if (name.size() > XATTR_NAME_MAX) return -ERANGE;
  if (value.size() > kMaxXattrValue) return -E2BIG;
  if ((flags & ~(XATTR_CREATE | XATTR_REPLACE)) != 0) return -EINVAL;
  Inode *node = table_.get(ino);
  if (node == nullptr) return -ESTALE;
  if (acl::is_name(name)) {
    if (!acl::valid(value)) return -EINVAL;
    if (S_ISLNK(node->type)) return -EOPNOTSUPP;
    if (name == acl::kDefault && !node->is_dir()) return -EACCES;
  }

  const std::scoped_lock meta(node->meta);
  const int error = name == acl::kAccess ? put_access_list(*node, value, keep_setgid)
                                         : put_xattr(*node, name, value, flags);
  if (error == 0) node->ctime = now();
  return error;
} catch (const std::bad_alloc &) {
  return -ENOMEM;
}

int Store::getxattr(std::uint64_t ino, std::string_view name, char *buffer, std::size_t size) noexcept {
  if (const int error = name_error(name)) return error;
  Inode *node = table_.get(ino);
  if (node == nullptr) return -ESTALE;
  const std::shared_lock meta(node->meta);
  if (!node->xattrs) return -ENODATA;
  const auto found = node->xattrs->find(name);
  if (found == node->xattrs->end()) return -ENODATA;
  const std::string &value = found->second;
  if (size != 0 && size < value.size()) return -ERANGE;
  if (size != 0) std::memcpy(buffer, value.data(), value.size());
  return static_cast<int>(value.size());
}

int Store::listxattr(std::uint64_t ino, bool trusted, char *buffer, std::size_t size) noexcept {
  Inode *node = table_.get(ino);
  if (node == nullptr) return -ESTALE;
  const std::shared_lock meta(node->meta);
  if (!node->xattrs) return 0;
  std::size_t length = 0;
  for (const auto &[name, value] : *node->xattrs) {
    if (!trusted && starts_with(name, "trusted.")) continue;
    const std::size_t end = length + name.size() + 1;
    if (size != 0 && end > size) return -ERANGE;
    if (size != 0) std::memcpy(buffer + length, name.c_str(), name.size() + 1);
    length = end;
  }
  return static_cast<int>(length);
}

int Store::removexattr(std::uint64_t ino, std::string_view name) noexcept {
  if (const int error = name_error(name)) return error;
  Inode *node = table_.get(ino);
  if (node == nullptr) return -ESTALE;
  // What a minimal list says is in the mode: there is one even if none is kept.
  const int absent = acl::is_name(name) ? 0 : -ENODATA;
  const std::scoped_lock meta(node->meta);
  if (!node->xattrs) return absent;
  const auto found = node->xattrs->find(name);
  if (found == node->xattrs->end()) return absent;
  drop_xattr(*node, found);
  node->ctime = now();
  return 0;
}

void Store::statfs(struct statvfs &out) const noexcept {
  out = {};
  out.f_bsize = out.f_frsize = kPageSize;
  out.f_blocks = bytes_.limit() / kPageSize;
  out.f_bfree = out.f_bavail = (bytes_.limit() - bytes_.used()) / kPageSize;
  out.f_files = inodes_.limit();
  out.f_ffree = out.f_favail = inodes_.limit() - inodes_.used();
  out.f_namemax = DirIndex::kMaxName;
}

}  // namespace efuse::fs::memfs
