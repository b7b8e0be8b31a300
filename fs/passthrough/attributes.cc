// SPDX-License-Identifier: LGPL-2.1-or-later
// Attributes, extended attributes, file flags, and what the filesystem says of itself.
#include "passthrough.hh"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>

namespace efuse::fs::passthrough {
namespace {

void getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info *fi) {
  Passthrough &fs = fs_of(req);
  const NodeFd fd(fs.source, node_of(fs, ino), fd_of(fi));
  struct stat attr;
  const int status = fd.error() != 0 ? fd.error() : fs.source.stat(fd.get(), attr);
  if (status != 0) return reply_status(req, status);
  fuse_reply_attr(req, &attr, attr_timeout(fs, attr));
}

/// `fd`: of the open file, or -1.
int set_size(fuse_req_t req, const Node &node, int fd, off_t size, bool keep_set_id) noexcept {
  const Source &source = fs_of(req).source;
  if (source.privileges().switch_user) write_as_root(keep_set_id);
  if (fd >= 0 && ftruncate(fd, size) == 0) return 0;
  if (fd >= 0 && errno != EINVAL && errno != EBADF) return -errno;
  if (!S_ISREG(node.type)) return -EINVAL;
  Fd writable;  // not open, or open for reading
  const int status = source.open(node, O_WRONLY | O_NONBLOCK, writable);
  return status != 0 ? status : result_of(ftruncate(writable.get(), size));
}

int set_owner(int fd, const struct stat &attr, int to_set) noexcept {
  const uid_t uid = (to_set & FUSE_SET_ATTR_UID) != 0 ? attr.st_uid : static_cast<uid_t>(-1);
  const gid_t gid = (to_set & FUSE_SET_ATTR_GID) != 0 ? attr.st_gid : static_cast<gid_t>(-1);
  return result_of(fchownat(fd, "", uid, gid, AT_EMPTY_PATH));
}

int set_times(int fd, const struct stat &attr, int to_set) noexcept {
  const auto time_of = [&](int set, int now, const timespec &time) -> timespec {
    if ((to_set & now) != 0) return {0, UTIME_NOW};
    return (to_set & set) != 0 ? time : timespec{0, UTIME_OMIT};
  };
  const timespec times[] = {time_of(FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW, attr.st_atim),
                            time_of(FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW, attr.st_mtim)};
  return result_of(utimensat(fd, "", times, AT_EMPTY_PATH));
}

constexpr int kOwner = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
constexpr int kTimes =
    FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW;

/// In an order in which no step undoes another: sizes and owners clear mode bits, and all of them set times. A
/// change of ctime alone (writeback) needs nothing: the source has its own.
int set_attributes(fuse_req_t req, const Node &node, int fd, int open_fd, const struct stat &attr,
                   int to_set) noexcept {
  int status = 0;
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0)
    status = set_size(req, node, open_fd, attr.st_size, (to_set & FUSE_SET_ATTR_KILL_SUID) == 0);
  write_as_daemon(req);  // the kernel has decided which mode bits stay
  if (status == 0 && (to_set & kOwner) != 0) status = set_owner(fd, attr, to_set);
  if (status == 0 && (to_set & FUSE_SET_ATTR_MODE) != 0)
    status = result_of(fchmodat(AT_FDCWD, FdPath(fd).c_str(), attr.st_mode & 07777, 0));
  if (status == 0 && (to_set & kTimes) != 0) status = set_times(fd, attr, to_set);
  return status;
}

void setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, fuse_file_info *fi) {
  Passthrough &fs = fs_of(req);
  const Node &node = node_of(fs, ino);
  const NodeFd fd(fs.source, node, fd_of(fi));
  struct stat now;
  int status = fd.error();
  if (status == 0) status = set_attributes(req, node, fd.get(), fd_of(fi), *attr, to_set);
  if (status == 0) status = fs.source.stat(fd.get(), now);
  if (status != 0) return reply_status(req, status);
  fuse_reply_attr(req, &now, attr_timeout(fs, now));
}

void statx(fuse_req_t req, fuse_ino_t ino, int flags, int mask, fuse_file_info *fi) {
  Passthrough &fs = fs_of(req);
  const NodeFd fd(fs.source, node_of(fs, ino), fd_of(fi));
  if (fd.error() != 0) return reply_status(req, fd.error());
  struct ::statx st {};
  const int sync = flags & AT_STATX_SYNC_TYPE;
  if (::statx(fd.get(), "", AT_EMPTY_PATH | sync, static_cast<unsigned>(mask), &st) != 0)
    return reply_status(req, -errno);
  struct stat attr {};
  attr.st_mode = st.stx_mode;
  st.stx_ino = fs.source.present(makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_ino);
  fuse_reply_statx(req, 0, &st, attr_timeout(fs, attr));
}

/// The kernel asks only without default_permissions.
void access(fuse_req_t req, fuse_ino_t ino, int mask) {
  Passthrough &fs = fs_of(req);
  const NodeFd fd(fs.source, node_of(fs, ino));
  if (fd.error() != 0) return reply_status(req, fd.error());
  reply_status(req, as_caller(req, fs.source.privileges().switch_user, true, [&] {
                 return result_of(syscall(SYS_faccessat2, fd.get(), "", mask, AT_EACCESS | AT_EMPTY_PATH));
               }));
}

void statfs(fuse_req_t req, fuse_ino_t ino) {
  Passthrough &fs = fs_of(req);
  const NodeFd fd(fs.source, node_of(fs, ino));
  struct statvfs st;
  int status = fd.error();
  if (status == 0) status = result_of(fstatvfs(fd.get(), &st));
  if (status != 0) return reply_status(req, status);
  fuse_reply_statfs(req, &st);
}

void syncfs(fuse_req_t req, fuse_ino_t) {
  int status = 0;
  for (const auto &mount : fs_of(req).source.mounts().all())
    if (mount->fd && ::syncfs(mount->fd.get()) != 0) status = -errno;
  reply_status(req, status);
}

// ---- extended attributes ---------------------------------------------------

/// Does `request(path)` of the node, unless extended attributes are switched off: then the kernel does not ask again.
template <typename Request>
void with_xattr_path(fuse_req_t req, fuse_ino_t ino, Request &&request) noexcept {
  Passthrough &fs = fs_of(req);
  if (!fs.settings.xattr) return reply_status(req, -ENOSYS);
  const NodeFd fd(fs.source, node_of(fs, ino));
  if (fd.error() != 0) return reply_status(req, fd.error());
  request(FdPath(fd.get()).c_str());
}

void setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, std::size_t size, int flags) {
  with_xattr_path(req, ino, [&](const char *path) {
    const auto set = [&] { return result_of(::setxattr(path, name, value, size, flags)); };
    // Setting an ACL sets mode bits, and clears set-group-ID where the caller is not of that group.
    const bool acl = std::string_view(name) == "system.posix_acl_access";
    reply_status(req, acl ? as_caller(req, fs_of(req).source.privileges().switch_user, true, set) : set());
  });
}

void getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, std::size_t size) {
  with_xattr_path(req, ino, [&](const char *path) {
    reply_xattr(req, size, XATTR_SIZE_MAX, [&](char *buffer, std::size_t room) {
      const ssize_t length = ::getxattr(path, name, buffer, room);
      if (length >= 0) return length;
      const int error = errno;
      if (error == ENODATA)
        hint_absent_xattrs(req, name, [&](const char *other) {
          return ::getxattr(path, other, nullptr, 0) < 0 && errno == ENODATA;
        });
      return static_cast<ssize_t>(-error);
    });
  });
}

/// Take the names out that only root may know of. Returns what is left.
std::size_t without_trusted(char *names, std::size_t length) noexcept {
  std::size_t kept = 0;
  for (std::size_t at = 0; at < length;) {
    const std::string_view name(names + at);
    if (!name.starts_with("trusted.")) {
      std::memmove(names + kept, name.data(), name.size() + 1);
      kept += name.size() + 1;
    }
    at += name.size() + 1;
  }
  return kept;
}

void listxattr(fuse_req_t req, fuse_ino_t ino, std::size_t size) {
  const bool trusted = fuse_req_ctx(req)->uid == 0;
  with_xattr_path(req, ino, [&](const char *path) {
    reply_xattr(req, size, XATTR_LIST_MAX, [&](char *buffer, std::size_t room) {
      const ssize_t length = ::listxattr(path, buffer, room);
      if (length < 0) return static_cast<ssize_t>(-errno);
      if (trusted || room == 0) return length;  // alone, the length may be too long
      return static_cast<ssize_t>(without_trusted(buffer, static_cast<std::size_t>(length)));
    });
  });
}

void removexattr(fuse_req_t req, fuse_ino_t ino, const char *name) {
  with_xattr_path(req, ino, [&](const char *path) { reply_status(req, result_of(::removexattr(path, name))); });
}

// ---- file flags ------------------------------------------------------------

/// Flags (chattr(1)) and project quotas. Everything else is refused: what a number means depends on the source's
/// filesystem, and could be an order to the device below it.
bool is_flags_request(unsigned cmd, bool &sets, std::size_t &size) noexcept {
  switch (cmd) {
    case FS_IOC_GETFLAGS: sets = false, size = sizeof(int); return true;
    case FS_IOC_SETFLAGS: sets = true, size = sizeof(int); return true;
    case FS_IOC_FSGETXATTR: sets = false, size = sizeof(fsxattr); return true;
    case FS_IOC_FSSETXATTR: sets = true, size = sizeof(fsxattr); return true;
    default: return false;
  }
}

void ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *, fuse_file_info *, unsigned flags, const void *in,
           std::size_t in_size, std::size_t out_size) {
  bool sets = false;
  std::size_t size = 0;
  if (!is_flags_request(cmd, sets, size) || (flags & FUSE_IOCTL_UNRESTRICTED) != 0)
    return reply_status(req, -ENOTTY);
  if (sets ? in_size < size : out_size < size) return reply_status(req, -EINVAL);
  Passthrough &fs = fs_of(req);
  const Node &node = node_of(fs, ino);
  if (!S_ISREG(node.type) && !S_ISDIR(node.type)) return reply_status(req, -ENOTTY);
  Fd fd;  // fi may be of a directory, or of a file open for writing alone
  int status = fs.source.open(node, O_RDONLY | O_NONBLOCK, fd);
  alignas(fsxattr) char value[sizeof(fsxattr)]{};
  if (sets) std::memcpy(value, in, size);
  if (status == 0) status = result_of(::ioctl(fd.get(), cmd, value));
  if (status != 0) return reply_status(req, status);
  fuse_reply_ioctl(req, 0, value, sets ? 0 : size);
}

}  // namespace

void add_attributes(efuse_lowlevel_ops &ops) noexcept {
  ops.base.getattr = getattr;
  ops.base.setattr = setattr;
  ops.base.access = access;
  ops.base.statfs = statfs;
  ops.base.setxattr = setxattr;
  ops.base.getxattr = getxattr;
  ops.base.listxattr = listxattr;
  ops.base.removexattr = removexattr;
  ops.base.ioctl = ioctl;
  ops.statx = statx;
  ops.syncfs = syncfs;
}

}  // namespace efuse::fs::passthrough
