// SPDX-License-Identifier: LGPL-2.1-or-later
#include "init.hh"

#include "protocol.hh"
#include "reply.hh"
#include "session_core.hh"
#include "uring_abi.hh"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>

namespace efuse {
namespace {

constexpr std::size_t kExtensionOffset = offsetof(fuse_conn_info, time_gran) + sizeof(unsigned);
static_assert(kExtensionOffset == 40 && sizeof(ConnExtension) == 24 && sizeof(fuse_conn_info) >= 64);

/// A capability of libfuse's API and the INIT flag it stands for.
struct Capability {
  std::uint64_t cap;
  std::uint64_t flag;
  bool echo;  // wanting it puts the flag in the reply
};

constexpr Capability kCapabilities[] = {
    {FUSE_CAP_ASYNC_READ, FUSE_ASYNC_READ, true},
    {FUSE_CAP_POSIX_LOCKS, FUSE_POSIX_LOCKS, true},
    {FUSE_CAP_ATOMIC_O_TRUNC, FUSE_ATOMIC_O_TRUNC, true},
    {FUSE_CAP_EXPORT_SUPPORT, FUSE_EXPORT_SUPPORT, true},
    {FUSE_CAP_DONT_MASK, FUSE_DONT_MASK, true},
    {FUSE_CAP_FLOCK_LOCKS, FUSE_FLOCK_LOCKS, true},
    {FUSE_CAP_AUTO_INVAL_DATA, FUSE_AUTO_INVAL_DATA, true},
    {FUSE_CAP_READDIRPLUS, FUSE_DO_READDIRPLUS, true},
    {FUSE_CAP_READDIRPLUS_AUTO, FUSE_READDIRPLUS_AUTO, true},
    {FUSE_CAP_ASYNC_DIO, FUSE_ASYNC_DIO, true},
    {FUSE_CAP_WRITEBACK_CACHE, FUSE_WRITEBACK_CACHE, true},
    {FUSE_CAP_PARALLEL_DIROPS, FUSE_PARALLEL_DIROPS, true},
    {FUSE_CAP_POSIX_ACL, FUSE_POSIX_ACL, true},
    {FUSE_CAP_CACHE_SYMLINKS, FUSE_CACHE_SYMLINKS, true},
    {FUSE_CAP_EXPLICIT_INVAL_DATA, FUSE_EXPLICIT_INVAL_DATA, true},
    // Facts about the kernel; wanting them changes nothing.
    {FUSE_CAP_IOCTL_DIR, FUSE_HAS_IOCTL_DIR, false},
    {FUSE_CAP_NO_OPEN_SUPPORT, FUSE_NO_OPEN_SUPPORT, false},
    {FUSE_CAP_NO_OPENDIR_SUPPORT, FUSE_NO_OPENDIR_SUPPORT, false},
    {FUSE_CAP_EXPIRE_ONLY, protocol::kHasExpireOnly, false},
    {FUSE_CAP_HANDLE_KILLPRIV_V2, FUSE_HANDLE_KILLPRIV_V2, true},
    {FUSE_CAP_SETXATTR_EXT, FUSE_SETXATTR_EXT, true},
    {FUSE_CAP_DIRECT_IO_ALLOW_MMAP, protocol::kDirectIoAllowMmap, true},
    {FUSE_CAP_PASSTHROUGH, protocol::kPassthrough, true},
    {FUSE_CAP_NO_EXPORT_SUPPORT, protocol::kNoExportSupport, true},
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
    {FUSE_CAP_HANDLE_KILLPRIV, FUSE_HANDLE_KILLPRIV, true},
#else
    // Wanted by default, but libfuse 3.14 never tells the kernel, and filesystems
    // rely on the kernel clearing the set-user-ID bit: telling it would open a hole.
    {FUSE_CAP_HANDLE_KILLPRIV, FUSE_HANDLE_KILLPRIV, false},
#endif
};

std::uint64_t capable_of(std::uint64_t flags, std::uint32_t minor) noexcept {
  // Over /dev/fuse replies can be spliced, at any version; requests are not.
  std::uint64_t capable = FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE;
  for (const Capability &known : kCapabilities)
    if (flags & known.flag) capable |= known.cap;
  if (minor >= 18) capable |= FUSE_CAP_IOCTL_DIR;
  if (minor >= 38) capable |= FUSE_CAP_EXPIRE_ONLY;  // it came a release before its flag
  return capable;
}

std::uint64_t wanted_by_default(const fuse_lowlevel_ops &ops) noexcept {
  std::uint64_t want = FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_AUTO_INVAL_DATA |
                       FUSE_CAP_ASYNC_DIO | FUSE_CAP_IOCTL_DIR | FUSE_CAP_ATOMIC_O_TRUNC;
#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 17)
  want |= FUSE_CAP_HANDLE_KILLPRIV;
#endif
  if (ops.getlk && ops.setlk) want |= FUSE_CAP_POSIX_LOCKS;
  if (ops.flock) want |= FUSE_CAP_FLOCK_LOCKS;
  if (ops.readdirplus) want |= FUSE_CAP_READDIRPLUS;
  if (ops.readdirplus && ops.readdir) want |= FUSE_CAP_READDIRPLUS_AUTO;
  return want;
}

std::uint64_t flags_of(std::uint64_t want) noexcept {
  std::uint64_t flags = 0;
  for (const Capability &known : kCapabilities)
    if (known.echo && want & known.cap) flags |= known.flag;
  return flags;
}

void set_capable(fuse_conn_info &conn, std::uint64_t capable, std::uint64_t want) noexcept {
  conn.capable = static_cast<std::uint32_t>(capable);
  conn.want = static_cast<std::uint32_t>(want);
  put_extension(conn, {0, 0, capable, want});
}

/// What init() left as wanted. There are two fields for it, and a filesystem may know
/// of either: what has changed in one of them has changed.
std::uint64_t get_wanted(const fuse_conn_info &conn, std::uint64_t by_default) noexcept {
  const std::uint64_t changed = conn.want ^ static_cast<std::uint32_t>(by_default);
  return by_default ^ (changed | (get_extension(conn).want ^ by_default));
}

void set_wanted(fuse_conn_info &conn, std::uint64_t want) noexcept {
  ConnExtension extension = get_extension(conn);
  extension.want = want;
  put_extension(conn, extension);
  conn.want = static_cast<std::uint32_t>(want);
}

/// No agreement: the caller has said why.
void refuse(fuse_req &req) noexcept {
  SessionCore &session = *req.session;  // the request is gone after the reply
  send_error(req, -EPROTO);
  session.exit(EPROTO);
}

/// init() was called and there will be no session: give the filesystem its destroy().
void refuse_after_init(fuse_req &req) noexcept {
  SessionCore &session = *req.session;
  if (!session.got_destroy.exchange(true) && session.ops.init && session.ops.destroy)
    session.ops.destroy(session.userdata);
  refuse(req);
}

/// The request as far as this kernel sends it; flags2 is 0 without FUSE_INIT_EXT. False: too short.
bool read_request(Cursor &args, fuse_init_in &in) noexcept {
  in = {};
  constexpr std::size_t kOld = offsetof(fuse_init_in, flags2);  // before 7.36
  if (!args.copy(&in, offsetof(fuse_init_in, max_readahead))) return false;
  if (in.major != protocol::kMajor || in.minor < 6) return true;
  if (!args.copy(&in.max_readahead, kOld - offsetof(fuse_init_in, max_readahead))) return false;
  return !(in.flags & FUSE_INIT_EXT) || args.copy(&in.flags2, sizeof(in) - kOld);
}

/// `preset`: the max_write that the session has set, which the filesystem may lower.
void settle_limits(fuse_conn_info &conn, unsigned preset) noexcept {
  conn.max_write = std::clamp(conn.max_write, static_cast<unsigned>(protocol::kMinWrite),
                              std::max(preset, static_cast<unsigned>(protocol::kMinWrite)));
  conn.max_background = std::min(conn.max_background, 65535u);
  conn.congestion_threshold = std::min(conn.congestion_threshold, conn.max_background);
  if (conn.congestion_threshold == 0) conn.congestion_threshold = conn.max_background * 3 / 4;
}

int reply_init(fuse_req &req, std::uint64_t flags) noexcept {
  const fuse_conn_info &conn = req.session->conn;
  protocol::InitOut out{};
  out.major = protocol::kMajor;
  out.minor = protocol::kMinor;
  out.max_readahead = conn.max_readahead;
  out.flags = static_cast<std::uint32_t>(flags);
  out.flags2 = static_cast<std::uint32_t>(flags >> 32);
  out.max_background = static_cast<std::uint16_t>(conn.max_background);
  out.congestion_threshold = static_cast<std::uint16_t>(conn.congestion_threshold);
  out.max_write = conn.max_write;
  out.time_gran = conn.time_gran;
  if (flags & FUSE_MAX_PAGES) {
    // Over io_uring this bounds everything but the first argument of a request: xattr values, too.
    const std::size_t least = flags & protocol::kOverIoUring ? protocol::kUringXattrPayload : 1;
    const std::size_t most = std::max<std::size_t>(conn.max_write, least);
    out.max_pages = static_cast<std::uint16_t>(
        std::min<std::size_t>((most - 1) / static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) + 1, UINT16_MAX));
  }
  // The protocol counts this filesystem too.
  if (flags & protocol::kPassthrough) out.max_stack_depth = get_extension(conn).max_backing_stack_depth + 1;
  if (req.session->debug)
    fuse_log(FUSE_LOG_DEBUG,
             "   INIT: %u.%u flags=0x%llx max_readahead=%u max_write=%u max_background=%u "
             "congestion_threshold=%u time_gran=%u max_pages=%u\n",
             out.major, out.minor, static_cast<unsigned long long>(flags), out.max_readahead, out.max_write,
             unsigned{out.max_background}, unsigned{out.congestion_threshold}, out.time_gran,
             unsigned{out.max_pages});
  const iovec body{&out, conn.proto_minor < 23 ? std::size_t{FUSE_COMPAT_22_INIT_OUT_SIZE} : sizeof(out)};
  return send_body(req, {&body, 1});
}

/// Major and minor. False: answered, and that was all.
bool agree_on_version(fuse_req &req, const fuse_init_in &in) noexcept {
  if (in.major > protocol::kMajor) {
    protocol::InitOut out{};  // the kernel comes down to this and asks again
    out.major = protocol::kMajor;
    out.minor = protocol::kMinor;
    const iovec body{&out, sizeof(out)};
    send_body(req, {&body, 1});
    return false;
  }
  if (in.major < protocol::kMajor || in.minor < protocol::kMinMinor) {
    fuse_log(FUSE_LOG_ERR, "efuse: the kernel speaks FUSE protocol %u.%u, %u.%u or newer is needed\n",
             in.major, in.minor, protocol::kMajor, protocol::kMinMinor);
    refuse(req);
    return false;
  }
  return true;
}

/// What the kernel offers, into the session, before the filesystem looks.
std::uint64_t take_offer(SessionCore &session, const fuse_init_in &in) noexcept {
  fuse_conn_info &conn = session.conn;
  session.proto_minor = std::min(in.minor, protocol::kMinor);
  session.kernel_flags = in.flags | std::uint64_t{in.flags2} << 32;
  conn.proto_major = in.major;
  conn.proto_minor = in.minor;
  conn.max_readahead = std::min(conn.max_readahead, in.max_readahead);
  conn.time_gran = 1;
  if (!(session.kernel_flags & FUSE_MAX_PAGES))
    conn.max_write = std::min(conn.max_write, static_cast<unsigned>(protocol::kDefaultMaxPages *
                                              static_cast<std::size_t>(sysconf(_SC_PAGESIZE))));
  return capable_of(session.kernel_flags, in.minor);
}

/// Let the filesystem choose. False: it wants what cannot be, and the request is answered.
bool ask_filesystem(fuse_req &req, std::uint64_t capable, std::uint64_t &want) noexcept {
  SessionCore &session = *req.session;
  const std::uint64_t by_default = wanted_by_default(session.ops) & capable;
  const unsigned max_read = session.conn.max_read;
  set_capable(session.conn, capable, by_default);
  if (session.ops.init) session.ops.init(session.userdata, &session.conn);
  want = get_wanted(session.conn, by_default);
  set_wanted(session.conn, want);
  if (want & ~capable)
    fuse_log(FUSE_LOG_ERR, "efuse: init() wants capabilities 0x%llx, which this kernel or transport lacks\n",
             static_cast<unsigned long long>(want & ~capable));
  else if (session.conn.max_read != max_read)
    fuse_log(FUSE_LOG_ERR, "efuse: init() set max_read to %u, but the mount option says %u (0: no limit)\n",
             session.conn.max_read, max_read);
  else
    return true;
  refuse_after_init(req);
  return false;
}

}  // namespace

ConnExtension get_extension(const fuse_conn_info &conn) noexcept {
  ConnExtension extension;
  std::memcpy(&extension, reinterpret_cast<const std::byte *>(&conn) + kExtensionOffset, sizeof(extension));
  return extension;
}

void put_extension(fuse_conn_info &conn, const ConnExtension &extension) noexcept {
  std::memcpy(reinterpret_cast<std::byte *>(&conn) + kExtensionOffset, &extension, sizeof(extension));
}

bool handle_init(fuse_req &req, Cursor &args) noexcept {
  SessionCore &session = *req.session;
  fuse_init_in in;
  if (!read_request(args, in)) return false;
  if (session.debug) fuse_log(FUSE_LOG_DEBUG, "INIT: %u.%u flags=0x%08x%08x max_readahead=%u\n", in.major,
                              in.minor, in.flags2, in.flags, in.max_readahead);
  if (!agree_on_version(req, in)) return true;
  const std::uint64_t capable = take_offer(session, in);
  const unsigned preset = session.conn.max_write;
  std::uint64_t want = 0;
  if (!ask_filesystem(req, capable, want)) return true;

  settle_limits(session.conn, preset);
  std::uint64_t flags = flags_of(want) | (session.init_flags & session.kernel_flags) |
                        (session.kernel_flags & (FUSE_MAX_PAGES | FUSE_INIT_EXT)) | FUSE_BIG_WRITES;
  session.init_flags = flags;
  session.buf_size =
      std::max<std::size_t>(session.conn.max_write, protocol::kMaxXattr) + protocol::kHeaderRoom;
  // Before the reply: the next request may come on another thread the moment it is out.
  session.got_init.store(true, std::memory_order_release);
  reply_init(req, flags);
  return true;
}

void handle_init(fuse_req &req) noexcept {
  Cursor args(req.msg.head.subspan(std::min(sizeof(fuse_in_header), req.msg.head.size())), req.msg.tail);
  if (!handle_init(req, args)) send_error(req, -EIO);
}

}  // namespace efuse

extern "C" {

bool fuse_set_feature_flag(struct fuse_conn_info *conn, uint64_t flag) {
  efuse::ConnExtension extension = efuse::get_extension(*conn);
  if (!(extension.capable & flag)) return false;
  extension.want |= flag;
  efuse::put_extension(*conn, extension);
  conn->want |= static_cast<std::uint32_t>(flag);
  return true;
}

void fuse_unset_feature_flag(struct fuse_conn_info *conn, uint64_t flag) {
  efuse::ConnExtension extension = efuse::get_extension(*conn);
  extension.want &= ~flag;
  efuse::put_extension(*conn, extension);
  conn->want &= ~static_cast<std::uint32_t>(flag);
}

// Headers differ in whether `conn` is const.
bool efuse_get_feature_flag(const struct fuse_conn_info *conn, std::uint64_t flag) __asm__("fuse_get_feature_flag");
bool efuse_get_feature_flag(const struct fuse_conn_info *conn, std::uint64_t flag) {
  return ((conn->want | efuse::get_extension(*conn).want) & flag) != 0;
}

// Declared by newer headers only. fuse_set_feature_flag() and fuse_unset_feature_flag() keep both fields, so where they
// differ the filesystem has changed the older one.
int efuse_convert_to_conn_want_ext(struct fuse_conn_info *conn) __asm__("fuse_convert_to_conn_want_ext");
int efuse_convert_to_conn_want_ext(struct fuse_conn_info *conn) {
  efuse::ConnExtension extension = efuse::get_extension(*conn);
  extension.want = (extension.want & ~std::uint64_t{UINT32_MAX}) | conn->want;
  efuse::put_extension(*conn, extension);
  return 0;
}

int efuse_want_passthrough(struct fuse_conn_info *conn, unsigned max_stack_depth) {
  if (max_stack_depth > 1) return -EINVAL;
  if (!fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH)) return -EOPNOTSUPP;
  fuse_unset_feature_flag(conn, FUSE_CAP_WRITEBACK_CACHE);
  efuse::ConnExtension extension = efuse::get_extension(*conn);
  extension.max_backing_stack_depth = max_stack_depth;
  efuse::put_extension(*conn, extension);
  return 0;
}

// Headers that declare it differ in the type of `flag`, which the calling convention does not.
bool efuse_set_conn_flag(struct fuse_conn_info *conn, std::uint32_t flag) __asm__("fuse_set_conn_flag");
bool efuse_set_conn_flag(struct fuse_conn_info *conn, std::uint32_t flag) {
  if (flag == FUSE_CONN_FLAG_SINGLE_ISSUER) return true;
  if (flag != FUSE_CONN_FLAG_NO_INTERRUPT) return false;
  efuse::ConnExtension extension = efuse::get_extension(*conn);
  extension.flags |= efuse::ConnExtension::kNoInterrupt;
  efuse::put_extension(*conn, extension);
  return true;
}

}  // extern "C"
