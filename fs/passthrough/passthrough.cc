// SPDX-License-Identifier: LGPL-2.1-or-later
// A directory, served again. The source's filesystem decides everything that can be left to it; the kernel checks
// permissions (default_permissions) with the attributes that it gets from here.
//
// When the kernel no longer wants a reply that counted a lookup or opened a file (-ENOENT from fuse_reply_*), that
// reference is given back here, for the kernel will not.
#include "passthrough.hh"

#include "../registry.hh"

#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cstring>

namespace efuse::fs::passthrough {
namespace {

void want(fuse_conn_info &conn, std::uint64_t capabilities, bool yes = true) noexcept {
  const auto bits = static_cast<unsigned>(capabilities);
  conn.want = yes ? conn.want | (conn.capable & bits) : conn.want & ~bits;
}

bool want_kernel_passthrough(fuse_conn_info &conn) noexcept {
  const int status = efuse_want_passthrough(&conn, 1);
  if (status != 0)
    fuse_log(FUSE_LOG_WARNING,
             "passthrough: the kernel does not read and write files itself here (%s): the daemon does\n",
             std::strerror(-status));
  return status == 0;
}

void init(void *userdata, fuse_conn_info *conn) {
  auto &fs = *static_cast<Passthrough *>(userdata);
  const Settings &settings = fs.settings;
  want(*conn, FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_PARALLEL_DIROPS |
                  FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_SPLICE_READ | FUSE_CAP_IOCTL_DIR);
  // Not SPLICE_MOVE: pages that the mount's cache takes are gone from the source's.
  want(*conn, FUSE_CAP_SPLICE_WRITE, settings.splice_write);
  // umask counts only where the directory has no default ACL, which the source knows.
  want(*conn, FUSE_CAP_DONT_MASK);
  // Writes, truncations and new owners clear set-user-ID bits and file capabilities in the source (write_as_caller()),
  // and the kernel need not ask for the capabilities before each write. HANDLE_KILLPRIV, the older of the two, would
  // clear them for root too.
  want(*conn, FUSE_CAP_HANDLE_KILLPRIV_V2);
  want(*conn, FUSE_CAP_HANDLE_KILLPRIV, false);
  want(*conn, FUSE_CAP_AUTO_INVAL_DATA, !settings.keep_cache && !settings.writeback);
  want(*conn, FUSE_CAP_CACHE_SYMLINKS, settings.keep_cache);
  want(*conn, FUSE_CAP_WRITEBACK_CACHE, settings.writeback);
  want(*conn, FUSE_CAP_POSIX_ACL, settings.acl);
  want(*conn, FUSE_CAP_POSIX_LOCKS, settings.posix_locks);
  want(*conn, FUSE_CAP_FLOCK_LOCKS, settings.flock);
  if (settings.acl && (conn->want & FUSE_CAP_POSIX_ACL) == 0)
    fuse_log(FUSE_LOG_WARNING, "passthrough: this kernel does not do ACLs for FUSE: only mode bits count\n");
  fs.kernel_passthrough = settings.kernel_passthrough && want_kernel_passthrough(*conn);
}

void destroy(void *userdata) { static_cast<Passthrough *>(userdata)->waiters.stop(); }

efuse_lowlevel_ops make_ops() {
  efuse_lowlevel_ops ops{};
  ops.base.init = init;
  ops.base.destroy = destroy;
  add_names(ops.base);
  add_attributes(ops);
  add_files(ops);
  add_directories(ops.base);
  add_locking(ops.base);
  return ops;
}

/// Is a directory's cookie good for another open file of it, whatever was made or removed in between? Of some
/// filesystems it is the number of the entry (overlayfs, those of libfs).
bool has_lasting_cookies(const struct statfs &source) noexcept {
  constexpr unsigned kXfs = 0x58465342;
  switch (static_cast<unsigned>(source.f_type)) {
    case EXT4_SUPER_MAGIC:  // and ext2, ext3
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case TMPFS_MAGIC:  // from Linux 6.6 on
    case kXfs: return true;
    default: return false;
  }
}

AccessTimes access_times_of(const struct statfs &source) noexcept {
  if ((source.f_flags & ST_NOATIME) != 0) return AccessTimes::never;
  return (source.f_flags & ST_RELATIME) != 0 ? AccessTimes::relative : AccessTimes::always;
}

/// As a value after -o.
std::string escaped(const std::string &value) {
  std::string out;
  for (const char c : value) {
    if (c == ',' || c == '\\') out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

}  // namespace

const fuse_lowlevel_ops &Passthrough::ops() const noexcept {
  static const efuse_lowlevel_ops ops = make_ops();
  return ops.base;
}

std::vector<std::string> Passthrough::mount_options() const {
  return {"default_permissions", "fsname=" + escaped(settings.fsname)};
}

/// What is mounted below the source is taken to be like it.
FastpathOffer Passthrough::fastpath() const {
  struct statfs of_source {};
  if (fstatfs(source.root().path.get(), &of_source) != 0) return {};
  FastpathOffer offer;
  offer.metadata = offer.backing = offer.blocks = true;
  offer.valid = settings.fastpath_timeout;
  offer.access_times = access_times_of(of_source);
  // Not where the reply to OPENDIR has more to say: that the kernel keeps the entries.
  offer.stateless_directories = !settings.keep_cache && has_lasting_cookies(of_source);
  return offer;
}

/// The kernel does not notice when a write here clears set-ID bits, so it must not trust its copy of those.
double attr_timeout(const Passthrough &fs, const struct stat &attr) noexcept {
  return S_ISREG(attr.st_mode) && (attr.st_mode & (S_ISUID | S_ISGID)) != 0 ? 0 : fs.settings.attr_timeout;
}

fuse_entry_param entry_of(const Passthrough &fs, const Found &found) noexcept {
  fuse_entry_param e{};
  e.ino = reinterpret_cast<fuse_ino_t>(found.node);
  e.generation = found.node->generation;
  e.attr = found.attr;
  e.attr_timeout = attr_timeout(fs, found.attr);
  e.entry_timeout = fs.settings.entry_timeout;
  return e;
}

void reply_found(fuse_req_t req, int status, const Found &found) noexcept {
  if (status != 0) return reply_status(req, status);
  Passthrough &fs = fs_of(req);
  const fuse_entry_param e = entry_of(fs, found);
  if (fuse_reply_entry(req, &e) == -ENOENT) give_back(fs, found);
}

}  // namespace efuse::fs::passthrough

namespace efuse::fs {

std::unique_ptr<Filesystem> make_passthrough(std::vector<std::string> &options) {
  return std::make_unique<passthrough::Passthrough>(passthrough::parse_settings(options));
}

}  // namespace efuse::fs
