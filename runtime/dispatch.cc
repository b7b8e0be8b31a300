// SPDX-License-Identifier: LGPL-2.1-or-later
// Every opcode of the protocol: check the arguments, call the filesystem. What
// an absent callback answers is what libfuse answers, because kernels draw
// conclusions from it (ENOSYS switches an operation off for good).
//
// A callback may have replied by the time it returns, and the request object may
// be in use for another request: nothing here touches it after the call.
#include "dispatch.hh"

#include "changes.hh"
#include "convert.hh"
#include "forget.hh"
#include "init.hh"
#include "notify.hh"
#include "parse.hh"
#include "protocol.hh"
#include "reply.hh"
#include "session_core.hh"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

namespace efuse {
namespace {

/// One opcode. False: the arguments are malformed, and nothing was called or answered.
using Handler = bool (*)(fuse_req &req, Cursor &args) noexcept;

/// Call the filesystem, or say that it cannot do this.
template <auto Callback, class... Args>
bool call(fuse_req &req, Args... args) noexcept {
  const efuse_lowlevel_ops &table = req.session->extended;
  const auto callback = [&table] {
    if constexpr (std::is_invocable_v<decltype(Callback), const efuse_lowlevel_ops &>)
      return table.*Callback;
    else
      return table.base.*Callback;
  }();
  if (callback)
    callback(&req, args...);
  else
    send_error(req, -ENOSYS);
  return true;
}

fuse_file_info with_handle(std::uint64_t fh) noexcept {
  fuse_file_info fi{};
  fi.fh = fh;
  return fi;
}

// ---- names and nodes ------------------------------------------------------

bool do_lookup(fuse_req &req, Cursor &args) noexcept {
  const char *name = args.string();
  return name && call<&fuse_lowlevel_ops::lookup>(req, req.nodeid, name);
}

bool do_getattr(fuse_req &req, Cursor &args) noexcept {
  fuse_getattr_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  return call<&fuse_lowlevel_ops::getattr>(req, req.nodeid,
                                           in.getattr_flags & FUSE_GETATTR_FH ? &fi : nullptr);
}

bool do_setattr(fuse_req &req, Cursor &args) noexcept {
  fuse_setattr_in in;
  if (!args.take(in)) return false;
  constexpr std::uint32_t kKnown = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID |
                                   FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME |
                                   FUSE_SET_ATTR_KILL_SUID | FUSE_SET_ATTR_KILL_SGID |
                                   FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW | FUSE_SET_ATTR_CTIME;
  struct stat attr = to_stat(in);
  fuse_file_info fi = with_handle(in.fh);
  return call<&fuse_lowlevel_ops::setattr>(req, req.nodeid, &attr, static_cast<int>(in.valid & kKnown),
                                           in.valid & FATTR_FH ? &fi : nullptr);
}

bool do_readlink(fuse_req &req, Cursor &) noexcept {
  return call<&fuse_lowlevel_ops::readlink>(req, req.nodeid);
}

bool do_symlink(fuse_req &req, Cursor &args) noexcept {
  const char *name = args.string();
  const char *target = name ? args.string() : nullptr;
  return target && call<&fuse_lowlevel_ops::symlink>(req, target, req.nodeid, name);
}

bool do_mknod(fuse_req &req, Cursor &args) noexcept {
  fuse_mknod_in in;
  const char *name = args.take(in) ? args.string() : nullptr;
  if (!name) return false;
  req.ctx.umask = in.umask;
  return call<&fuse_lowlevel_ops::mknod>(req, req.nodeid, name, in.mode, in.rdev);
}

bool do_mkdir(fuse_req &req, Cursor &args) noexcept {
  fuse_mkdir_in in;
  const char *name = args.take(in) ? args.string() : nullptr;
  if (!name) return false;
  req.ctx.umask = in.umask;
  return call<&fuse_lowlevel_ops::mkdir>(req, req.nodeid, name, in.mode);
}

bool do_unlink(fuse_req &req, Cursor &args) noexcept {
  const char *name = args.string();
  return name && call<&fuse_lowlevel_ops::unlink>(req, req.nodeid, name);
}

bool do_rmdir(fuse_req &req, Cursor &args) noexcept {
  const char *name = args.string();
  return name && call<&fuse_lowlevel_ops::rmdir>(req, req.nodeid, name);
}

bool rename_names(fuse_req &req, Cursor &args, std::uint64_t new_parent, std::uint32_t flags) noexcept {
  const char *name = args.string();
  const char *new_name = name ? args.string() : nullptr;
  return new_name && call<&fuse_lowlevel_ops::rename>(req, req.nodeid, name, new_parent, new_name, flags);
}

bool do_rename(fuse_req &req, Cursor &args) noexcept {
  fuse_rename_in in;
  return args.take(in) && rename_names(req, args, in.newdir, 0);
}

bool do_rename2(fuse_req &req, Cursor &args) noexcept {
  fuse_rename2_in in;
  return args.take(in) && rename_names(req, args, in.newdir, in.flags);
}

bool do_link(fuse_req &req, Cursor &args) noexcept {
  fuse_link_in in;
  const char *name = args.take(in) ? args.string() : nullptr;
  return name && call<&fuse_lowlevel_ops::link>(req, in.oldnodeid, req.nodeid, name);
}

bool do_access(fuse_req &req, Cursor &args) noexcept {
  fuse_access_in in;
  return args.take(in) && call<&fuse_lowlevel_ops::access>(req, req.nodeid, static_cast<int>(in.mask));
}

bool do_statfs(fuse_req &req, Cursor &) noexcept {
  if (req.session->ops.statfs) return call<&fuse_lowlevel_ops::statfs>(req, req.nodeid);
  struct statvfs unknown {};
  unknown.f_namemax = 255;
  unknown.f_bsize = 512;
  fuse_reply_statfs(&req, &unknown);
  return true;
}

// ---- forgetting -----------------------------------------------------------

bool do_forget(fuse_req &req, Cursor &args) noexcept {
  fuse_forget_in in;
  if (!args.take(in)) return false;
  forget(req, in.nlookup);
  return true;
}

bool do_batch_forget(fuse_req &req, Cursor &args) noexcept {
  fuse_batch_forget_in in;
  if (!args.take(in)) return false;
  std::byte *list = const_cast<std::byte *>(args.bytes(std::size_t{in.count} * sizeof(fuse_forget_one)));
  if (!list || reinterpret_cast<std::uintptr_t>(list) % alignof(fuse_forget_one)) return false;
  forget_batch(req, {reinterpret_cast<fuse_forget_one *>(list), in.count});
  return true;
}

// ---- open files -----------------------------------------------------------

bool do_open(fuse_req &req, Cursor &args) noexcept {
  fuse_open_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi{};
  fi.flags = static_cast<int>(in.flags);
  if (req.session->ops.open) return call<&fuse_lowlevel_ops::open>(req, req.nodeid, &fi);
  fuse_reply_open(&req, &fi);
  return true;
}

bool do_opendir(fuse_req &req, Cursor &args) noexcept {
  fuse_open_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi{};
  fi.flags = static_cast<int>(in.flags);
  if (req.session->ops.opendir) return call<&fuse_lowlevel_ops::opendir>(req, req.nodeid, &fi);
  fuse_reply_open(&req, &fi);
  return true;
}

bool do_create(fuse_req &req, Cursor &args) noexcept {
  fuse_create_in in;
  const char *name = args.take(in) ? args.string() : nullptr;
  if (!name) return false;
  fuse_file_info fi{};
  fi.flags = static_cast<int>(in.flags);
  req.ctx.umask = in.umask;
  return call<&fuse_lowlevel_ops::create>(req, req.nodeid, name, in.mode, &fi);
}

bool do_read(fuse_req &req, Cursor &args) noexcept {
  fuse_read_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  fi.lock_owner = in.lock_owner;
  fi.flags = static_cast<int>(in.flags);
  return call<&fuse_lowlevel_ops::read>(req, req.nodeid, std::size_t{in.size},
                                        static_cast<off_t>(in.offset), &fi);
}

template <auto Callback>
bool do_readdir(fuse_req &req, Cursor &args) noexcept {
  fuse_read_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  return call<Callback>(req, req.nodeid, std::size_t{in.size}, static_cast<off_t>(in.offset), &fi);
}

bool do_write(fuse_req &req, Cursor &args) noexcept {
  fuse_write_in in;
  if (!args.take(in)) return false;
  const std::byte *data = args.bytes(in.size);
  if (!data) return false;
  fuse_file_info fi = with_handle(in.fh);
  fi.writepage = (in.write_flags & FUSE_WRITE_CACHE) != 0;
  fi.lock_owner = in.lock_owner;
  fi.flags = static_cast<int>(in.flags);
  const auto offset = static_cast<off_t>(in.offset);
  if (!req.session->ops.write_buf)
    return call<&fuse_lowlevel_ops::write>(req, req.nodeid, reinterpret_cast<const char *>(data),
                                           std::size_t{in.size}, offset, &fi);
  fuse_bufvec buffers = memory_bufvec(data, in.size);
  return call<&fuse_lowlevel_ops::write_buf>(req, req.nodeid, &buffers, offset, &fi);
}

bool do_flush(fuse_req &req, Cursor &args) noexcept {
  fuse_flush_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  fi.flush = 1;
  fi.lock_owner = in.lock_owner;
  return call<&fuse_lowlevel_ops::flush>(req, req.nodeid, &fi);
}

bool do_release(fuse_req &req, Cursor &args) noexcept {
  fuse_release_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  fi.flags = static_cast<int>(in.flags);
  fi.flush = (in.release_flags & FUSE_RELEASE_FLUSH) != 0;
  fi.flock_release = (in.release_flags & FUSE_RELEASE_FLOCK_UNLOCK) != 0;
  fi.lock_owner = in.lock_owner;
  if (req.session->ops.release) return call<&fuse_lowlevel_ops::release>(req, req.nodeid, &fi);
  send_error(req, 0);
  return true;
}

bool do_releasedir(fuse_req &req, Cursor &args) noexcept {
  fuse_release_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  fi.flags = static_cast<int>(in.flags);
  if (req.session->ops.releasedir) return call<&fuse_lowlevel_ops::releasedir>(req, req.nodeid, &fi);
  send_error(req, 0);
  return true;
}

template <auto Callback>
bool do_fsync(fuse_req &req, Cursor &args) noexcept {
  fuse_fsync_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  return call<Callback>(req, req.nodeid, static_cast<int>(in.fsync_flags & FUSE_FSYNC_FDATASYNC), &fi);
}

bool do_fallocate(fuse_req &req, Cursor &args) noexcept {
  fuse_fallocate_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  return call<&fuse_lowlevel_ops::fallocate>(req, req.nodeid, static_cast<int>(in.mode),
                                             static_cast<off_t>(in.offset), static_cast<off_t>(in.length),
                                             &fi);
}

bool do_copy_file_range(fuse_req &req, Cursor &args) noexcept {
  fuse_copy_file_range_in in;
  if (!args.take(in)) return false;
  fuse_file_info from = with_handle(in.fh_in);
  fuse_file_info to = with_handle(in.fh_out);
  return call<&fuse_lowlevel_ops::copy_file_range>(
      req, req.nodeid, static_cast<off_t>(in.off_in), &from, in.nodeid_out,
      static_cast<off_t>(in.off_out), &to, static_cast<std::size_t>(in.len), static_cast<int>(in.flags));
}

bool do_lseek(fuse_req &req, Cursor &args) noexcept {
  fuse_lseek_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  return call<&fuse_lowlevel_ops::lseek>(req, req.nodeid, static_cast<off_t>(in.offset),
                                         static_cast<int>(in.whence), &fi);
}

// ---- extended attributes --------------------------------------------------

bool do_setxattr(fuse_req &req, Cursor &args) noexcept {
  fuse_setxattr_in in{};
  const bool extended = req.session->init_flags & FUSE_SETXATTR_EXT;
  if (!args.copy(&in, extended ? sizeof(in) : std::size_t{FUSE_COMPAT_SETXATTR_IN_SIZE})) return false;
  const char *name = args.string();
  const std::byte *value = name ? args.bytes(in.size) : nullptr;
  return value &&
         call<&fuse_lowlevel_ops::setxattr>(req, req.nodeid, name, reinterpret_cast<const char *>(value),
                                            std::size_t{in.size}, static_cast<int>(in.flags));
}

bool do_getxattr(fuse_req &req, Cursor &args) noexcept {
  fuse_getxattr_in in;
  const char *name = args.take(in) ? args.string() : nullptr;
  return name && call<&fuse_lowlevel_ops::getxattr>(req, req.nodeid, name, std::size_t{in.size});
}

bool do_listxattr(fuse_req &req, Cursor &args) noexcept {
  fuse_getxattr_in in;
  return args.take(in) && call<&fuse_lowlevel_ops::listxattr>(req, req.nodeid, std::size_t{in.size});
}

bool do_removexattr(fuse_req &req, Cursor &args) noexcept {
  const char *name = args.string();
  return name && call<&fuse_lowlevel_ops::removexattr>(req, req.nodeid, name);
}

// ---- locks ----------------------------------------------------------------

bool do_getlk(fuse_req &req, Cursor &args) noexcept {
  fuse_lk_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  fi.lock_owner = in.owner;
  struct flock lock = to_flock(in.lk);
  return call<&fuse_lowlevel_ops::getlk>(req, req.nodeid, &fi, &lock);
}

/// SETLK with FUSE_LK_FLOCK is flock(2).
int flock_operation(std::uint32_t type, bool sleep) noexcept {
  const int operation = type == F_RDLCK ? LOCK_SH : type == F_WRLCK ? LOCK_EX : type == F_UNLCK ? LOCK_UN : 0;
  return sleep ? operation : operation | LOCK_NB;
}

template <bool Sleep>
bool do_setlk(fuse_req &req, Cursor &args) noexcept {
  fuse_lk_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  fi.lock_owner = in.owner;
  if (in.lk_flags & FUSE_LK_FLOCK)
    return call<&fuse_lowlevel_ops::flock>(req, req.nodeid, &fi, flock_operation(in.lk.type, Sleep));
  struct flock lock = to_flock(in.lk);
  return call<&fuse_lowlevel_ops::setlk>(req, req.nodeid, &fi, &lock, static_cast<int>(Sleep));
}

// ---- devices and blocks ---------------------------------------------------

bool do_bmap(fuse_req &req, Cursor &args) noexcept {
  fuse_bmap_in in;
  return args.take(in) &&
         call<&fuse_lowlevel_ops::bmap>(req, req.nodeid, std::size_t{in.blocksize}, in.block);
}

bool do_ioctl(fuse_req &req, Cursor &args) noexcept {
  fuse_ioctl_in in;
  if (!args.take(in)) return false;
  const std::byte *data = args.bytes(in.in_size);
  if (!data) return false;
  if (in.flags & FUSE_IOCTL_DIR && !(req.session->conn.want & FUSE_CAP_IOCTL_DIR)) {
    send_error(req, -ENOTTY);
    return true;
  }
  fuse_file_info fi = with_handle(in.fh);
  return call<&fuse_lowlevel_ops::ioctl>(req, req.nodeid, in.cmd,
                                         reinterpret_cast<void *>(static_cast<std::uintptr_t>(in.arg)), &fi,
                                         in.flags, in.in_size ? static_cast<const void *>(data) : nullptr,
                                         std::size_t{in.in_size}, std::size_t{in.out_size});
}

bool do_poll(fuse_req &req, Cursor &args) noexcept {
  fuse_poll_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  fi.poll_events = in.events;
  fuse_pollhandle *handle = nullptr;
  if (req.session->ops.poll && in.flags & FUSE_POLL_SCHEDULE_NOTIFY) {
    handle = new (std::nothrow) fuse_pollhandle{in.kh, req.session};
    if (!handle) {
      send_error(req, -ENOMEM);
      return true;
    }
  }
  return call<&fuse_lowlevel_ops::poll>(req, req.nodeid, &fi, handle);
}

// ---- the connection -------------------------------------------------------

bool do_destroy(fuse_req &req, Cursor &) noexcept {
  SessionCore &session = *req.session;
  if (!session.got_destroy.exchange(true) && session.ops.destroy) session.ops.destroy(session.userdata);
  send_error(req, 0);
  return true;
}

bool do_interrupt(fuse_req &req, Cursor &args) noexcept {
  fuse_interrupt_in in;
  if (!args.take(in)) return false;
  SessionCore &session = *req.session;
  if (get_extension(session.conn).flags & ConnExtension::kNoInterrupt) {
    req.channel->reply(req, -ENOSYS, {});  // the one answer to an INTERRUPT: send no more of them
    return true;
  }
  send_nothing(req);  // first: the callback may take its time, and this one's place is free
  // It names the copy that was sent last; the filesystem may have the first.
  if (in.unique & protocol::kUniqueResend && session.resends.holds(in.unique))
    in.unique &= ~protocol::kUniqueResend;
  session.interrupt(in.unique);
  return true;
}

bool do_notify_reply(fuse_req &req, Cursor &args) noexcept {
  fuse_notify_retrieve_in in;
  if (!args.take(in)) return false;
  const std::byte *data = args.bytes(in.size);
  if (!data) return false;
  void *cookie = nullptr;
  if (!take_retrieve(*req.session, req.unique.load(std::memory_order_relaxed), cookie) ||
      !req.session->ops.retrieve_reply) {
    send_nothing(req);
    return true;
  }
  fuse_bufvec buffers = memory_bufvec(data, in.size);
  return call<&fuse_lowlevel_ops::retrieve_reply>(req, cookie, req.nodeid, static_cast<off_t>(in.offset),
                                                  &buffers);
}

// ---- callbacks that only newer libfuse headers have ------------------------

bool do_tmpfile(fuse_req &req, Cursor &args) noexcept {
  fuse_create_in in;
  if (!args.take(in)) return false;
  fuse_file_info fi{};
  fi.flags = static_cast<int>(in.flags);
  req.ctx.umask = in.umask;
  return call<&efuse_lowlevel_ops::tmpfile>(req, req.nodeid, in.mode, &fi);
}

bool do_statx(fuse_req &req, Cursor &args) noexcept {
  protocol::StatxIn in;
  if (!args.take(in)) return false;
  fuse_file_info fi = with_handle(in.fh);
  return call<&efuse_lowlevel_ops::statx>(req, req.nodeid, static_cast<int>(in.sx_flags),
                                          static_cast<int>(in.sx_mask),
                                          in.getattr_flags & FUSE_GETATTR_FH ? &fi : nullptr);
}

bool do_syncfs(fuse_req &req, Cursor &args) noexcept {
  fuse_syncfs_in in;
  return args.take(in) && call<&efuse_lowlevel_ops::syncfs>(req, req.nodeid);
}

// ---- the table ------------------------------------------------------------

struct Operation {
  const char *name = nullptr;
  Handler handler = nullptr;  // nullptr: answered with ENOSYS
};

constexpr std::size_t kOperations = protocol::kOpStatx + 1;

constexpr std::array<Operation, kOperations> make_operations() noexcept {
  using Ops = fuse_lowlevel_ops;
  std::array<Operation, kOperations> table{};
  table[FUSE_LOOKUP] = {"LOOKUP", do_lookup};
  table[FUSE_FORGET] = {"FORGET", do_forget};
  table[FUSE_GETATTR] = {"GETATTR", do_getattr};
  table[FUSE_SETATTR] = {"SETATTR", do_setattr};
  table[FUSE_READLINK] = {"READLINK", do_readlink};
  table[FUSE_SYMLINK] = {"SYMLINK", do_symlink};
  table[FUSE_MKNOD] = {"MKNOD", do_mknod};
  table[FUSE_MKDIR] = {"MKDIR", do_mkdir};
  table[FUSE_UNLINK] = {"UNLINK", do_unlink};
  table[FUSE_RMDIR] = {"RMDIR", do_rmdir};
  table[FUSE_RENAME] = {"RENAME", do_rename};
  table[FUSE_LINK] = {"LINK", do_link};
  table[FUSE_OPEN] = {"OPEN", do_open};
  table[FUSE_READ] = {"READ", do_read};
  table[FUSE_WRITE] = {"WRITE", do_write};
  table[FUSE_STATFS] = {"STATFS", do_statfs};
  table[FUSE_RELEASE] = {"RELEASE", do_release};
  table[FUSE_FSYNC] = {"FSYNC", do_fsync<&Ops::fsync>};
  table[FUSE_SETXATTR] = {"SETXATTR", do_setxattr};
  table[FUSE_GETXATTR] = {"GETXATTR", do_getxattr};
  table[FUSE_LISTXATTR] = {"LISTXATTR", do_listxattr};
  table[FUSE_REMOVEXATTR] = {"REMOVEXATTR", do_removexattr};
  table[FUSE_FLUSH] = {"FLUSH", do_flush};
  table[FUSE_INIT] = {"INIT", handle_init};
  table[FUSE_OPENDIR] = {"OPENDIR", do_opendir};
  table[FUSE_READDIR] = {"READDIR", do_readdir<&Ops::readdir>};
  table[FUSE_RELEASEDIR] = {"RELEASEDIR", do_releasedir};
  table[FUSE_FSYNCDIR] = {"FSYNCDIR", do_fsync<&Ops::fsyncdir>};
  table[FUSE_GETLK] = {"GETLK", do_getlk};
  table[FUSE_SETLK] = {"SETLK", do_setlk<false>};
  table[FUSE_SETLKW] = {"SETLKW", do_setlk<true>};
  table[FUSE_ACCESS] = {"ACCESS", do_access};
  table[FUSE_CREATE] = {"CREATE", do_create};
  table[FUSE_INTERRUPT] = {"INTERRUPT", do_interrupt};
  table[FUSE_BMAP] = {"BMAP", do_bmap};
  table[FUSE_DESTROY] = {"DESTROY", do_destroy};
  table[FUSE_IOCTL] = {"IOCTL", do_ioctl};
  table[FUSE_POLL] = {"POLL", do_poll};
  table[FUSE_NOTIFY_REPLY] = {"NOTIFY_REPLY", do_notify_reply};
  table[FUSE_BATCH_FORGET] = {"BATCH_FORGET", do_batch_forget};
  table[FUSE_FALLOCATE] = {"FALLOCATE", do_fallocate};
  table[FUSE_READDIRPLUS] = {"READDIRPLUS", do_readdir<&Ops::readdirplus>};
  table[FUSE_RENAME2] = {"RENAME2", do_rename2};
  table[FUSE_LSEEK] = {"LSEEK", do_lseek};
  table[FUSE_COPY_FILE_RANGE] = {"COPY_FILE_RANGE", do_copy_file_range};
  table[FUSE_SETUPMAPPING] = {"SETUPMAPPING", nullptr};  // virtio-fs only
  table[FUSE_REMOVEMAPPING] = {"REMOVEMAPPING", nullptr};
  table[FUSE_SYNCFS] = {"SYNCFS", do_syncfs};
  table[FUSE_TMPFILE] = {"TMPFILE", do_tmpfile};
  table[protocol::kOpStatx] = {"STATX", do_statx};
  return table;
}

constexpr std::array<Operation, kOperations> kTable = make_operations();

/// With allow_root, root and the owner are served; these go on for files that
/// are open already, whoever holds them now.
bool served_to_all(std::uint32_t opcode) noexcept {
  switch (opcode) {
    case FUSE_INIT:
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_FSYNC:
    case FUSE_RELEASE:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_FSYNCDIR:
    case FUSE_RELEASEDIR:
      return true;
    default:
      return !protocol::expects_reply(opcode);
  }
}

void reject(fuse_req &req, int error) noexcept {
  if (protocol::expects_reply(req.opcode))
    send_error(req, error);
  else
    send_nothing(req);
}

/// 0, or what to answer without looking at the arguments.
int admit(const fuse_req &req) noexcept {
  const SessionCore &session = *req.session;
  if (session.got_init.load(std::memory_order_acquire) == (req.opcode == FUSE_INIT)) return -EIO;
  if (session.deny_others && req.ctx.uid != session.owner && req.ctx.uid != 0 && !served_to_all(req.opcode))
    return -EACCES;
  return req.opcode < kOperations && kTable[req.opcode].handler ? 0 : -ENOSYS;
}

/// The header's fields into the request. False: there is no whole header, or it
/// does not describe this message. `arguments` gets what lies between header and extensions.
bool read_header(fuse_req &req, Message &arguments) noexcept {
  fuse_in_header in{};
  const Message &msg = req.msg;
  if (msg.head.size() >= sizeof(in)) std::memcpy(&in, msg.head.data(), sizeof(in));
  req.opcode = in.opcode;
  req.nodeid = in.nodeid;
  req.ctx = {in.uid, in.gid, static_cast<pid_t>(in.pid), 0};
  req.backing_id = 0;
  req.hints = 0;
  req.changing.store(nullptr, std::memory_order_relaxed);
  req.harmless = true;  // until the filesystem is called
  req.owed.store(in.unique && protocol::expects_reply(in.opcode) ? in.unique : fuse_req::kNoUnique);
  req.unique.store(in.unique);  // seq_cst: before the look at early_interrupts
  if (msg.head.size() < sizeof(in) || in.len != msg.head.size() + msg.tail.size()) return false;

  // Extensions are the last argument (7.38); nothing here reads them.
  const std::size_t extensions = std::size_t{in.total_extlen} * protocol::kExtensionUnit;
  arguments = {msg.head.subspan(sizeof(in)), msg.tail};
  auto &last = arguments.tail.empty() ? arguments.head : arguments.tail;
  if (last.size() < extensions) return false;
  last = last.first(last.size() - extensions);
  return true;
}

void debug_request(const fuse_req &req) noexcept {
  fuse_log(FUSE_LOG_DEBUG, "unique: %llu, opcode: %s (%u), nodeid: %llu, insize: %zu, pid: %d\n",
           static_cast<unsigned long long>(req.unique.load(std::memory_order_relaxed)),
           protocol::opcode_name(req.opcode), req.opcode, static_cast<unsigned long long>(req.nodeid),
           req.msg.head.size() + req.msg.tail.size(), static_cast<int>(req.ctx.pid));
}

bool is_harmless(const fuse_req &req, const Message &arguments) noexcept {
  if (req.opcode != FUSE_OPEN) return !may_change(req.opcode);
  fuse_open_in in;
  return !Cursor(arguments.head, arguments.tail).take(in) || !(in.flags & O_TRUNC);
}

/// Before the filesystem has it. The end is told before the reply, see reply.cc.
void begin_change(fuse_req &req, ChangeListener &listener, const Message &arguments) noexcept {
  if (!req.channel->unseen()) return;
  req.harmless = is_harmless(req, arguments);
  if (!req.harmless && listener.begin_change()) req.changing.store(&listener, std::memory_order_relaxed);
}

/// Two copies of one request: true if nothing is left to do with this one.
bool seen_before(fuse_req &req, std::uint64_t unique) noexcept {
  if (!protocol::expects_reply(req.opcode)) return false;
  if (unique & protocol::kUniqueResend) return req.session->resends.hold(req);
  if (!req.session->resends.overtaken(unique)) return false;
  reject(req, -EIO);  // the kernel waits for the other one
  return true;
}

}  // namespace

const char *protocol::opcode_name(std::uint32_t opcode) noexcept {
  if (opcode == CUSE_INIT) return "CUSE_INIT";
  return opcode < kOperations && kTable[opcode].name ? kTable[opcode].name : "???";
}

void dispatch(fuse_req &req) noexcept {
  Message arguments;
  const bool whole = read_header(req, arguments);
  SessionCore &session = *req.session;
  if (session.debug) debug_request(req);
  if (!whole) return reject(req, -EIO);
  if (!session.raw_handler || req.opcode == FUSE_INTERRUPT)
    if (const int error = admit(req)) return reject(req, error);
  const auto unique = req.unique.load(std::memory_order_relaxed);
  if ((unique & protocol::kUniqueResend || session.resends.active()) && seen_before(req, unique)) return;
  if (session.early_interrupts.load() != 0 && protocol::expects_reply(req.opcode) &&
      session.take_early_interrupt(unique))
    mark_interrupted(req, unique);
  if (session.raw_handler && req.opcode != FUSE_INTERRUPT) return session.raw_handler->request(req);
  req.harmless = false;
  if (ChangeListener *listener = session.changes.load(std::memory_order_acquire)) [[unlikely]]
    begin_change(req, *listener, arguments);
  Cursor args(arguments.head, arguments.tail);
  if (!kTable[req.opcode].handler(req, args)) reject(req, -EIO);
}

}  // namespace efuse
