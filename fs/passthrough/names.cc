// SPDX-License-Identifier: LGPL-2.1-or-later
// Entries of directories: looked up, made, moved, removed, forgotten.
#include "passthrough.hh"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <climits>

namespace efuse::fs::passthrough {
namespace {

void lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
  Passthrough &fs = fs_of(req);
  const Node &dir = node_of(fs, parent);
  const NodeFd fd(fs.source, dir);
  Found found;
  const int status = fd.error() != 0 ? fd.error() : fs.source.lookup(dir, fd.get(), name, found);
  if (status == -ENOENT && fs.settings.negative_timeout > 0) {
    fuse_entry_param absent{};  // ino 0
    absent.entry_timeout = fs.settings.negative_timeout;
    fuse_reply_entry(req, &absent);
    return;
  }
  reply_found(req, status, found);
}

/// The root is nobody's to forget.
void forget_one(Passthrough &fs, fuse_ino_t ino, std::uint64_t count) noexcept {
  if (ino != FUSE_ROOT_ID) fs.source.table().forget(node_of(fs, ino), count);
}

void forget(fuse_req_t req, fuse_ino_t ino, std::uint64_t nlookup) {
  forget_one(fs_of(req), ino, nlookup);
  fuse_reply_none(req);
}

void forget_multi(fuse_req_t req, std::size_t count, fuse_forget_data *forgets) {
  Passthrough &fs = fs_of(req);
  for (std::size_t i = 0; i < count; ++i) forget_one(fs, forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(req);
}

/// `make(dir)` makes the entry `name` of the directory, as the caller, and returns what the system call does.
template <typename Make>
void make_entry(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, Make &&make) noexcept {
  Passthrough &fs = fs_of(req);
  const Node &dir = node_of(fs, parent);
  const NodeFd fd(fs.source, dir);
  Found found;
  int status = fd.error();
  if (status == 0)
    status = as_caller(req, fs.source.privileges().switch_user, (mode & S_ISGID) != 0,
                       [&] { return result_of(make(fd.get())); });
  if (status == 0) status = fs.source.lookup(dir, fd.get(), name, found);
  reply_found(req, status, found);
}

void mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev) {
  make_entry(req, parent, name, mode, [&](int dir) { return mknodat(dir, name, mode, rdev); });
}

void mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode) {
  make_entry(req, parent, name, mode, [&](int dir) { return mkdirat(dir, name, mode & 07777); });
}

void symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name) {
  make_entry(req, parent, name, 0, [&](int dir) { return symlinkat(target, dir, name); });
}

void link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *name) {
  Passthrough &fs = fs_of(req);
  const Node &dir = node_of(fs, new_parent);
  const NodeFd file(fs.source, node_of(fs, ino)), fd(fs.source, dir);
  Found found;
  int status = file.error() != 0 ? file.error() : fd.error();
  // /proc's links lead to the file itself, also where that is a symbolic link or has no name (O_TMPFILE).
  if (status == 0)
    status = result_of(linkat(AT_FDCWD, FdPath(file.get()).c_str(), fd.get(), name, AT_SYMLINK_FOLLOW));
  if (status == 0) status = fs.source.lookup(dir, fd.get(), name, found);
  reply_found(req, status, found);
}

void remove(fuse_req_t req, fuse_ino_t parent, const char *name, int flags) noexcept {
  Passthrough &fs = fs_of(req);
  const NodeFd dir(fs.source, node_of(fs, parent));
  reply_status(req, dir.error() != 0 ? dir.error() : result_of(unlinkat(dir.get(), name, flags)));
}

void unlink(fuse_req_t req, fuse_ino_t parent, const char *name) { remove(req, parent, name, 0); }
void rmdir(fuse_req_t req, fuse_ino_t parent, const char *name) { remove(req, parent, name, AT_REMOVEDIR); }

void rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
            unsigned flags) {
  Passthrough &fs = fs_of(req);
  const NodeFd from(fs.source, node_of(fs, parent)), to(fs.source, node_of(fs, new_parent));
  int status = from.error() != 0 ? from.error() : to.error();
  if (status == 0) status = result_of(renameat2(from.get(), name, to.get(), new_name, flags));
  reply_status(req, status);
}

void readlink(fuse_req_t req, fuse_ino_t ino) {
  Passthrough &fs = fs_of(req);
  const NodeFd fd(fs.source, node_of(fs, ino));
  if (fd.error() != 0) return reply_status(req, fd.error());
  char target[PATH_MAX + 1];
  const ssize_t length = readlinkat(fd.get(), "", target, sizeof target - 1);
  if (length < 0) return reply_status(req, -errno);
  target[length] = '\0';
  fuse_reply_readlink(req, target);
}

}  // namespace

void add_names(fuse_lowlevel_ops &ops) noexcept {
  ops.lookup = lookup;
  ops.forget = forget;
  ops.forget_multi = forget_multi;
  ops.mknod = mknod;
  ops.mkdir = mkdir;
  ops.symlink = symlink;
  ops.link = link;
  ops.unlink = unlink;
  ops.rmdir = rmdir;
  ops.rename = rename;
  ops.readlink = readlink;
}

}  // namespace efuse::fs::passthrough
