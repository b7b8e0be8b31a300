// SPDX-License-Identifier: LGPL-2.1-or-later
// memfs as a low-level FUSE filesystem: requests become calls of a Store.
//
// A node id is an inode number of the store. When the kernel no longer wants a
// reply that counted a lookup or opened a file (-ENOENT from fuse_reply_*), that
// reference is given back here, for the kernel will not.
#include "../file_info.hh"
#include "../options.hh"
#include "../registry.hh"
#include "../replies.hh"
#include "acl.hh"
#include "store.hh"

#include <efuse/efuse_lowlevel.h>

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <new>
#include <stdexcept>
#include <string_view>
#include <vector>

// libfuse's own loop, before 3.18, has none.
#pragma weak fuse_reply_statx

namespace efuse::fs {
namespace {

using memfs::AttrChange;
using memfs::Cred;
using memfs::DirEntry;
using memfs::NodeInfo;
using memfs::Store;

struct Settings {
  memfs::Limits limits;
  mode_t root_mode = 0755;
  double attr_timeout = 1.0;
  double entry_timeout = 1.0;
  double negative_timeout = 0;
  bool direct_io = false;
  bool keep_cache = true;
  bool auto_inval = false;
  bool writeback = false;
  bool acl = false;  // each new file then costs the kernel a GETXATTR
};

std::uint64_t ram_bytes() {
  return static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::uint64_t>(sysconf(_SC_PAGE_SIZE));
}

mode_t parse_mode(std::uint64_t digits) {
  mode_t mode = 0;
  std::uint64_t rest = digits;
  for (unsigned shift = 0; rest != 0 && shift < 12; shift += 3, rest /= 10) {
    if (rest % 10 > 7) break;
    mode |= static_cast<mode_t>(rest % 10) << shift;
  }
  if (rest != 0)
    throw std::invalid_argument("memfs: option mode=" + std::to_string(digits) +
                                ": expected octal permissions");
  return mode;
}

Settings parse(std::vector<std::string> &options) {
  OptionReader reader("memfs", options);
  Settings s;
  const std::uint64_t ram = ram_bytes();
  s.limits.bytes = reader.bytes("size", ram).value_or(ram / 2);
  s.limits.inodes = reader.count("nr_inodes").value_or(ram / memfs::kPageSize / 2);
  if (s.limits.bytes < memfs::kPageSize)
    throw std::invalid_argument("memfs: option size: expected at least 4096");
  if (const auto mode = reader.count("mode")) s.root_mode = parse_mode(*mode);
  s.attr_timeout = reader.seconds("attr_timeout").value_or(s.attr_timeout);
  s.entry_timeout = reader.seconds("entry_timeout").value_or(s.entry_timeout);
  s.negative_timeout = reader.seconds("negative_timeout").value_or(s.negative_timeout);
  s.direct_io = reader.flag("direct_io");
  const bool kernel_cache = reader.flag("kernel_cache");  // the default, spelt out
  s.auto_inval = reader.flag("auto_cache");
  if (reader.flag("no_kernel_cache")) s.keep_cache = false;
  if (kernel_cache && (s.auto_inval || !s.keep_cache))
    throw std::invalid_argument("memfs: kernel_cache, auto_cache and no_kernel_cache exclude each other");
  s.writeback = reader.flag("writeback_cache");
  s.acl = reader.flag("acl");
  return s;
}

class Memfs : public Filesystem {
 public:
  explicit Memfs(const Settings &settings)
      : settings(settings), store(settings.limits, settings.root_mode, {getuid(), getgid()}) {}

  [[nodiscard]] const fuse_lowlevel_ops &ops() const noexcept override;
  [[nodiscard]] std::size_t ops_size() const noexcept override { return sizeof(efuse_lowlevel_ops); }
  [[nodiscard]] void *userdata() noexcept override { return this; }
  [[nodiscard]] std::vector<std::string> mount_options() const override { return {"default_permissions"}; }
  [[nodiscard]] bool starts_nothing() const noexcept override { return true; }
  /// Nothing changes but by requests.
  [[nodiscard]] FastpathOffer fastpath() const override {
    FastpathOffer offer;
    offer.metadata = offer.blocks = offer.stateless_directories = true;
    offer.valid = std::numeric_limits<double>::infinity();
    offer.access_times = AccessTimes::relative;  // memfs::touch_atime()
    return offer;
  }

  [[nodiscard]] fuse_entry_param entry(const NodeInfo &info) const noexcept {
    fuse_entry_param e{};
    e.ino = info.ino;
    e.generation = info.generation;
    e.attr = info.attr;
    e.attr_timeout = settings.attr_timeout;
    e.entry_timeout = settings.entry_timeout;
    return e;
  }

  const Settings settings;
  Store store;
  bool acl = false;  // the kernel enforces access control lists; written by init() alone
};

Memfs &memfs_of(fuse_req_t req) noexcept { return *static_cast<Memfs *>(fuse_req_userdata(req)); }

Cred cred_of(fuse_req_t req) noexcept {
  const fuse_ctx *ctx = fuse_req_ctx(req);
  return {ctx->uid, ctx->gid, ctx->umask};
}

void reply_node(fuse_req_t req, Memfs &fs, int status, const NodeInfo &info) noexcept {
  if (status != 0) return reply_status(req, status);
  const fuse_entry_param e = fs.entry(info);
  if (fuse_reply_entry(req, &e) == -ENOENT) fs.store.forget(info.ino, 1);
}

void set_open_flags(const Settings &settings, fuse_file_info &fi) noexcept {
  fi.direct_io = settings.direct_io;
  fi.keep_cache = settings.keep_cache;
  allow_parallel_writes(fi);
}

void init(void *userdata, fuse_conn_info *conn) {
  Memfs &fs = *static_cast<Memfs *>(userdata);
  const Settings &settings = fs.settings;
  conn->want |= conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_ATOMIC_O_TRUNC |
                                 FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
                                 FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_CACHE_SYMLINKS);
  // The kernel drops set-user-ID bits with a SETATTR: then its own copy of the
  // mode, which exec() looks at, is right at once and not after attr_timeout.
  conn->want &= ~static_cast<unsigned>(FUSE_CAP_HANDLE_KILLPRIV);
  // All changes come through this kernel, which keeps its pages right by itself.
  conn->want &= ~static_cast<unsigned>(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE);
  // Lists that are kept but not enforced would be worse than none. Where there is a
  // default list it takes the umask's place, so the kernel must not apply that.
  constexpr unsigned kAcl = FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;
  fs.acl = settings.acl && (conn->capable & kAcl) == kAcl;
  if (fs.acl) conn->want |= kAcl;
  if (settings.auto_inval) conn->want |= conn->capable & FUSE_CAP_AUTO_INVAL_DATA;
  if (settings.writeback) conn->want |= conn->capable & FUSE_CAP_WRITEBACK_CACHE;
}

void lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
  Memfs &fs = memfs_of(req);
  NodeInfo info;
  const int status = fs.store.lookup(parent, name, info);
  if (status == -ENOENT && fs.settings.negative_timeout > 0) {
    fuse_entry_param absent{};  // ino 0
    absent.entry_timeout = fs.settings.negative_timeout;
    fuse_reply_entry(req, &absent);
    return;
  }
  reply_node(req, fs, status, info);
}

void forget(fuse_req_t req, fuse_ino_t ino, std::uint64_t nlookup) {
  memfs_of(req).store.forget(ino, nlookup);
  fuse_reply_none(req);
}

void forget_multi(fuse_req_t req, std::size_t count, fuse_forget_data *forgets) {
  Store &store = memfs_of(req).store;
  for (std::size_t i = 0; i < count; ++i) store.forget(forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(req);
}

void getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info *) {
  Memfs &fs = memfs_of(req);
  struct stat st;
  const int status = fs.store.getattr(ino, st);
  if (status != 0) return reply_status(req, status);
  fuse_reply_attr(req, &st, fs.settings.attr_timeout);
}

/// Asked for where somebody wants to know when a file was made.
void statx(fuse_req_t req, fuse_ino_t ino, int, int, fuse_file_info *) {
  if (fuse_reply_statx == nullptr) return reply_status(req, -ENOSYS);
  Memfs &fs = memfs_of(req);
  struct stat st;
  timespec born;
  const int status = fs.store.getattr(ino, st, &born);
  if (status != 0) return reply_status(req, status);
  const auto stamp = [](const timespec &t) {
    return statx_timestamp{t.tv_sec, static_cast<std::uint32_t>(t.tv_nsec), {}};
  };
  struct ::statx out {};
  out.stx_mask = STATX_BASIC_STATS | STATX_BTIME;
  out.stx_blksize = static_cast<std::uint32_t>(st.st_blksize);
  out.stx_nlink = static_cast<std::uint32_t>(st.st_nlink);
  out.stx_uid = st.st_uid;
  out.stx_gid = st.st_gid;
  out.stx_mode = static_cast<std::uint16_t>(st.st_mode);
  out.stx_ino = st.st_ino;
  out.stx_size = static_cast<std::uint64_t>(st.st_size);
  out.stx_blocks = static_cast<std::uint64_t>(st.st_blocks);
  out.stx_atime = stamp(st.st_atim);
  out.stx_btime = stamp(born);
  out.stx_ctime = stamp(st.st_ctim);
  out.stx_mtime = stamp(st.st_mtim);
  out.stx_rdev_major = major(st.st_rdev);
  out.stx_rdev_minor = minor(st.st_rdev);
  fuse_reply_statx(req, 0, &out, fs.settings.attr_timeout);
}

AttrChange change_of(const struct stat &attr, int to_set) {
  AttrChange c;
  if (to_set & FUSE_SET_ATTR_MODE) c.mode = attr.st_mode;
  if (to_set & FUSE_SET_ATTR_UID) c.uid = attr.st_uid;
  if (to_set & FUSE_SET_ATTR_GID) c.gid = attr.st_gid;
  if (to_set & FUSE_SET_ATTR_SIZE) c.size = attr.st_size;
  if (to_set & FUSE_SET_ATTR_ATIME) c.atime = attr.st_atim;
  if (to_set & FUSE_SET_ATTR_MTIME) c.mtime = attr.st_mtim;
  if (to_set & FUSE_SET_ATTR_CTIME) c.ctime = attr.st_ctim;
  c.atime_now = (to_set & FUSE_SET_ATTR_ATIME_NOW) != 0;
  c.mtime_now = (to_set & FUSE_SET_ATTR_MTIME_NOW) != 0;
  return c;
}

void setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, fuse_file_info *) {
  Memfs &fs = memfs_of(req);
  struct stat st;
  const int status = fs.store.setattr(ino, change_of(*attr, to_set), cred_of(req), st);
  if (status != 0) return reply_status(req, status);
  fuse_reply_attr(req, &st, fs.settings.attr_timeout);
}

void readlink(fuse_req_t req, fuse_ino_t ino) {
  const char *target = nullptr;
  const int status = memfs_of(req).store.readlink(ino, target);
  if (status != 0) return reply_status(req, status);
  fuse_reply_readlink(req, target);
}

void mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev) {
  Memfs &fs = memfs_of(req);
  NodeInfo info;
  const int status = fs.store.mknod(parent, name, mode, rdev, cred_of(req), info);
  reply_node(req, fs, status, info);
}

void mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode) {
  mknod(req, parent, name, S_IFDIR | (mode & 07777), 0);
}

void symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name) {
  Memfs &fs = memfs_of(req);
  NodeInfo info;
  const int status = fs.store.symlink(parent, name, target, cred_of(req), info);
  reply_node(req, fs, status, info);
}

void link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name) {
  Memfs &fs = memfs_of(req);
  NodeInfo info;
  const int status = fs.store.link(ino, parent, name, info);
  reply_node(req, fs, status, info);
}

void unlink(fuse_req_t req, fuse_ino_t parent, const char *name) {
  reply_status(req, memfs_of(req).store.unlink(parent, name));
}

void rmdir(fuse_req_t req, fuse_ino_t parent, const char *name) {
  reply_status(req, memfs_of(req).store.rmdir(parent, name));
}

void rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
            unsigned flags) {
  reply_status(req, memfs_of(req).store.rename(parent, name, new_parent, new_name, flags, cred_of(req)));
}

int truncate_for_open(Store &store, fuse_ino_t ino, const Cred &cred, struct stat &st) noexcept {
  AttrChange change;
  change.size = 0;
  return store.setattr(ino, change, cred, st);
}

void open(fuse_req_t req, fuse_ino_t ino, fuse_file_info *fi) {
  Memfs &fs = memfs_of(req);
  struct stat st;
  int status = (fi->flags & O_TRUNC) != 0 ? truncate_for_open(fs.store, ino, cred_of(req), st) : 0;
  if (status == 0) status = fs.store.open(ino);
  if (status != 0) return reply_status(req, status);
  set_open_flags(fs.settings, *fi);
  if (fuse_reply_open(req, fi) == -ENOENT) fs.store.release(ino);
}

/// Somebody was faster than the kernel's own lookup: open what is there.
int create_over(Store &store, fuse_ino_t parent, const char *name, int flags, const Cred &cred,
                NodeInfo &info) noexcept {
  int status = store.lookup(parent, name, info);
  if (status != 0) return status;
  if (!S_ISREG(info.attr.st_mode))
    status = -EEXIST;
  else if ((flags & O_TRUNC) != 0)
    status = truncate_for_open(store, info.ino, cred, info.attr);
  if (status != 0) store.forget(info.ino, 1);
  return status;
}

/// `info` has a lookup and an open: they are given back if the kernel has gone.
void reply_created(fuse_req_t req, Memfs &fs, const NodeInfo &info, fuse_file_info *fi) {
  set_open_flags(fs.settings, *fi);
  const fuse_entry_param e = fs.entry(info);
  if (fuse_reply_create(req, &e, fi) == -ENOENT) fs.store.forget(info.ino, 2);
}

void create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, fuse_file_info *fi) {
  Memfs &fs = memfs_of(req);
  const Cred cred = cred_of(req);
  NodeInfo info;
  int status = fs.store.mknod(parent, name, S_IFREG | (mode & 07777), 0, cred, info);
  if (status == -EEXIST && (fi->flags & O_EXCL) == 0)
    status = create_over(fs.store, parent, name, fi->flags, cred, info);
  if (status == 0) status = fs.store.open(info.ino);
  if (status != 0) return reply_status(req, status);
  reply_created(req, fs, info, fi);
}

void tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, fuse_file_info *fi) {
  Memfs &fs = memfs_of(req);
  NodeInfo info;
  int status = fs.store.tmpfile(parent, mode, (fi->flags & O_EXCL) == 0, cred_of(req), info);
  if (status == 0) status = fs.store.open(info.ino);
  if (status != 0) return reply_status(req, status);
  reply_created(req, fs, info, fi);
}

void release(fuse_req_t req, fuse_ino_t ino, fuse_file_info *) {
  memfs_of(req).store.release(ino);
  reply_status(req, 0);
}

void read(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset, fuse_file_info *fi) {
  bool replied = false;
  const auto reply = [&](std::span<const iovec> pieces) {
    replied = true;
    fuse_reply_iov(req, pieces.data(), static_cast<int>(pieces.size()));
    return 0;
  };
  const int status = memfs_of(req).store.read(ino, offset, size, reply, (fi->flags & O_NOATIME) == 0);
  if (!replied) reply_status(req, status);
}

void write(fuse_req_t req, fuse_ino_t ino, const char *data, std::size_t size, off_t offset,
           fuse_file_info *fi) {
  // Pages that the kernel writes back have no caller.
  const Cred cred = fi->writepage ? Cred{} : cred_of(req);
  const std::int64_t written = memfs_of(req).store.write(ino, offset, {data, size}, cred);
  if (written < 0) return reply_status(req, static_cast<int>(written));
  fuse_reply_write(req, static_cast<std::size_t>(written));
}

/// A reader needs no more than cookies, which never change: a directory is only kept. fi->fh is 0 where a fast path has
/// answered instead, and then there is nothing to give back.
void opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info *fi) {
  Memfs &fs = memfs_of(req);
  const int status = fs.store.open(ino);
  if (status != 0) return reply_status(req, status);
  fi->fh = 1;
  if (fuse_reply_open(req, fi) == -ENOENT) fs.store.release(ino);
}

void releasedir(fuse_req_t req, fuse_ino_t ino, fuse_file_info *fi) {
  if (fi->fh != 0) memfs_of(req).store.release(ino);
  reply_status(req, 0);
}

/// Entries of the store as a reply to READDIR or READDIRPLUS.
class DirBuffer {
 public:
  DirBuffer(fuse_req_t req, Memfs &fs, std::size_t size) : reply_(req, size), fs_(fs) {}

  bool add(const DirEntry &entry) {
    struct stat st {};
    st.st_ino = entry.ino;
    st.st_mode = entry.type;
    name_.assign(entry.name);
    return reply_.add(name_.c_str(), st, static_cast<off_t>(entry.cookie));
  }

  bool add_plus(const DirEntry &entry) {
    fuse_entry_param e{};
    if (entry.node != nullptr) {
      NodeInfo info;
      Store::describe(*entry.node, info);
      e = fs_.entry(info);
    } else {  // "." and "..": node id 0, so the kernel counts no lookup
      e.attr.st_ino = entry.ino;
      e.attr.st_mode = entry.type;
    }
    name_.assign(entry.name);
    if (!reply_.add_plus(name_.c_str(), e, static_cast<off_t>(entry.cookie))) return false;
    if (entry.node != nullptr) {
      Store::count_lookup(*entry.node);
      counted_.push_back(entry.ino);
    }
    return true;
  }

  /// An entry did not fit.
  void more_follow() noexcept { last_ = false; }
  void reply() noexcept {
    if (reply_.send(last_) == -ENOENT) undo();
  }
  void undo() noexcept {
    for (const std::uint64_t ino : counted_) fs_.store.forget(ino, 1);
  }

 private:
  DirReply reply_;
  Memfs &fs_;
  std::string name_;  // libfuse wants a terminated one
  std::vector<std::uint64_t> counted_;
  bool last_ = true;
};

void read_entries(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset, bool plus) {
  Memfs &fs = memfs_of(req);
  try {
    DirBuffer buffer(req, fs, size);
    const int status = fs.store.readdir(ino, static_cast<std::uint64_t>(offset), [&](const DirEntry &entry) {
      const bool added = plus ? buffer.add_plus(entry) : buffer.add(entry);
      if (!added) buffer.more_follow();
      return added;
    });
    status == 0 ? buffer.reply() : reply_status(req, status);
  } catch (const std::bad_alloc &) {
    reply_status(req, -ENOMEM);
  }
}

void readdir(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset, fuse_file_info *) {
  read_entries(req, ino, size, offset, false);
}

void readdirplus(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset, fuse_file_info *) {
  read_entries(req, ino, size, offset, true);
}

void statfs(fuse_req_t req, fuse_ino_t) {
  struct statvfs st;
  memfs_of(req).store.statfs(st);
  fuse_reply_statfs(req, &st);
}

/// Is this an access control list that nobody would enforce?
bool is_idle_list(const Memfs &fs, std::string_view name) noexcept { return !fs.acl && memfs::acl::is_name(name); }

/// Who sets an access control list keeps the set-group-ID bit only in a group of his own.
bool keeps_setgid(fuse_req_t req, const Store &store, fuse_ino_t ino) {
  const fuse_ctx *ctx = fuse_req_ctx(req);
  struct stat st;
  if (ctx->uid == 0 || store.getattr(ino, st) != 0 || (st.st_mode & S_ISGID) == 0 || st.st_gid == ctx->gid)
    return true;
  std::vector<gid_t> groups(64);
  int n = fuse_req_getgroups(req, static_cast<int>(groups.size()), groups.data());
  if (n > static_cast<int>(groups.size())) {
    groups.resize(static_cast<std::size_t>(n));
    n = std::min(fuse_req_getgroups(req, n, groups.data()), n);
  }
  return n > 0 && std::find(groups.begin(), groups.begin() + n, st.st_gid) != groups.begin() + n;
}

void setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, std::size_t size,
              int flags) try {
  Memfs &fs = memfs_of(req);
  if (is_idle_list(fs, name)) return reply_status(req, -EOPNOTSUPP);
  const bool keep_setgid = name != memfs::acl::kAccess || keeps_setgid(req, fs.store, ino);
  reply_status(req, fs.store.setxattr(ino, name, {value, size}, flags, keep_setgid));
} catch (const std::bad_alloc &) {
  reply_status(req, -ENOMEM);
}

constexpr std::size_t kMostXattr = std::max(Store::kMaxXattrValue, Store::kMaxXattrNames);

void getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, std::size_t size) {
  Store &store = memfs_of(req).store;
  if (is_idle_list(memfs_of(req), name)) return reply_status(req, -EOPNOTSUPP);
  reply_xattr(req, size, kMostXattr, [&](char *buffer, std::size_t n) {
    const int length = store.getxattr(ino, name, buffer, n);
    if (length == -ENODATA)
      hint_absent_xattrs(req, name, [&](const char *other) {
        return !is_idle_list(memfs_of(req), other) && store.getxattr(ino, other, nullptr, 0) == -ENODATA;
      });
    return length;
  });
}

void listxattr(fuse_req_t req, fuse_ino_t ino, std::size_t size) {
  Store &store = memfs_of(req).store;
  const bool trusted = cred_of(req).uid == 0;
  reply_xattr(req, size, kMostXattr,
              [&](char *buffer, std::size_t n) { return store.listxattr(ino, trusted, buffer, n); });
}

void removexattr(fuse_req_t req, fuse_ino_t ino, const char *name) {
  reply_status(req, memfs_of(req).store.removexattr(ino, name));
}

void fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length, fuse_file_info *) {
  reply_status(req, memfs_of(req).store.fallocate(ino, mode, offset, length, cred_of(req)));
}

void copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_offset, fuse_file_info *, fuse_ino_t to,
                     off_t to_offset, fuse_file_info *, std::size_t length, int flags) {
  if (flags != 0) return reply_status(req, -EINVAL);
  const std::int64_t n =
      memfs_of(req).store.copy_file_range(from, from_offset, to, to_offset, length, cred_of(req));
  if (n < 0) return reply_status(req, static_cast<int>(n));
  fuse_reply_write(req, static_cast<std::size_t>(n));
}

void lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, fuse_file_info *) {
  Memfs &fs = memfs_of(req);
  // The kernel asks without writing back first, so what it holds would look like
  // holes. Told that there is no lseek, it takes the whole file for data.
  if (fs.settings.writeback) return reply_status(req, -ENOSYS);
  const std::int64_t at = fs.store.lseek(ino, offset, whence);
  if (at < 0) return reply_status(req, static_cast<int>(at));
  fuse_reply_lseek(req, at);
}

/// flush, fsync and fsyncdir are absent: there is nothing to do, and the kernel
/// learns that and stops asking. Locks are absent: it keeps them itself.
fuse_lowlevel_ops make_base_ops() {
  fuse_lowlevel_ops ops{};
  ops.init = init;
  ops.lookup = lookup;
  ops.forget = forget;
  ops.forget_multi = forget_multi;
  ops.getattr = getattr;
  ops.setattr = setattr;
  ops.readlink = readlink;
  ops.mknod = mknod;
  ops.mkdir = mkdir;
  ops.symlink = symlink;
  ops.link = link;
  ops.unlink = unlink;
  ops.rmdir = rmdir;
  ops.rename = rename;
  ops.open = open;
  ops.create = create;
  ops.release = release;
  ops.read = read;
  ops.write = write;
  ops.opendir = opendir;
  ops.releasedir = releasedir;
  ops.readdir = readdir;
  ops.readdirplus = readdirplus;
  ops.statfs = statfs;
  ops.setxattr = setxattr;
  ops.getxattr = getxattr;
  ops.listxattr = listxattr;
  ops.removexattr = removexattr;
  ops.fallocate = fallocate;
  ops.copy_file_range = copy_file_range;
  ops.lseek = lseek;
  return ops;
}

efuse_lowlevel_ops make_ops() {
  efuse_lowlevel_ops ops{};
  ops.base = make_base_ops();
  ops.tmpfile = tmpfile;
  ops.statx = statx;
  return ops;
}

const fuse_lowlevel_ops &Memfs::ops() const noexcept {
  static const efuse_lowlevel_ops ops = make_ops();
  return ops.base;
}

}  // namespace

std::unique_ptr<Filesystem> make_memfs(std::vector<std::string> &options) {
  return std::make_unique<Memfs>(parse(options));
}

}  // namespace efuse::fs
