// SPDX-License-Identifier: LGPL-2.1-or-later
// From the bytes of a message to the callback, and from fuse_reply_*() to the
// bytes of the reply. Messages lie in allocations of exactly their size, so that
// AddressSanitizer sees every byte read too many.
#include "dispatch.hh"

#include "channel.hh"
#include "init.hh"
#include "protocol.hh"
#include "reply.hh"
#include "session_core.hh"
#include "stats.hh"

#include <efuse/efuse_lowlevel.h>

#include <catch2/catch.hpp>

#include <dirent.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cmath>
#include <climits>
#include <cstdarg>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using Bytes = std::vector<std::byte>;

template <class T>
Bytes raw(const T &object) {
  const auto *at = reinterpret_cast<const std::byte *>(&object);
  return {at, at + sizeof(T)};
}

Bytes text(const std::string &s, bool terminated = true) {
  const auto *at = reinterpret_cast<const std::byte *>(s.c_str());
  return {at, at + s.size() + (terminated ? 1 : 0)};
}

Bytes operator+(Bytes a, const Bytes &b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Bytes prefix(const Bytes &bytes, std::size_t size) {
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)};
}

std::string printable(const void *data, std::size_t size) {
  return {static_cast<const char *>(data), size};
}

struct Reply {
  enum Kind { body, in_place, held, dropped } kind;
  int error;
  Bytes bytes;
};

class FakeChannel final : public efuse::Channel {
 public:
  int reply(fuse_req &req, int error, std::span<const iovec> body) noexcept override {
    Bytes bytes;
    for (const iovec &part : body)
      bytes = bytes + Bytes(static_cast<std::byte *>(part.iov_base),
                            static_cast<std::byte *>(part.iov_base) + part.iov_len);
    return take(req, {Reply::body, error, bytes});
  }
  int reply_in_place(fuse_req &req, std::size_t len) noexcept override {
    return take(req, {Reply::in_place, 0, Bytes(req.out, req.out + len)});
  }
  void drop(fuse_req &req) noexcept override { take(req, {Reply::dropped, 0, {}}); }
  bool hold(int fd, off_t pos, std::size_t len, bool) noexcept override {
    if (!holds) return false;
    held_.resize(len);
    held_.resize(static_cast<std::size_t>(pread(fd, held_.data(), len, pos)));
    return true;
  }
  int reply_held(fuse_req &req, bool move) noexcept override {
    moved = move;
    return take(req, {Reply::held, 0, held_});
  }
  efuse::ChannelStats &stats() noexcept override { std::abort(); }

  std::vector<Reply> replies;
  int result = 0;
  bool holds = false;
  bool moved = false;

 private:
  int take(fuse_req &req, Reply reply) {
    replies.push_back(std::move(reply));
    req.unique = 0;
    return result;
  }

  Bytes held_;
};

struct Notification {
  std::int32_t code;
  Bytes body;
};

/// A session whose filesystem writes down what it is called with.
class FakeSession : public efuse::SessionCore {
 public:
  explicit FakeSession(const fuse_lowlevel_ops &ops) : SessionCore(&ops, sizeof(ops), this) {
    conn.proto_minor = proto_minor = efuse::protocol::kMinor;
    conn.want = FUSE_CAP_IOCTL_DIR;
    got_init = true;
  }
  int notify(std::int32_t code, std::span<const iovec> body) noexcept override {
    Bytes bytes;
    for (const iovec &part : body)
      bytes = bytes + Bytes(static_cast<std::byte *>(part.iov_base),
                            static_cast<std::byte *>(part.iov_base) + part.iov_len);
    notifications.push_back({code, bytes});
    return notify_result;
  }
  void interrupt(std::uint64_t unique) noexcept override { interrupts.push_back(unique); }
  void exit(int error) noexcept override { exits.push_back(error); }
  bool take_early_interrupt(std::uint64_t unique) noexcept override {
    ++early_asked;
    return unique == early_unique;
  }

  std::vector<std::string> calls;
  std::vector<Notification> notifications;
  std::vector<std::uint64_t> interrupts;
  std::vector<int> exits;
  int notify_result = 0;
  int early_asked = 0;
  std::uint64_t early_unique = 0;
  fuse_pollhandle *pollhandle = nullptr;
  std::vector<fuse_req_t> held_forgets;
  bool hold_forgets = false;
};

FakeSession &session_of(fuse_req_t req) { return *static_cast<FakeSession *>(fuse_req_userdata(req)); }

// ---- the filesystem --------------------------------------------------------

void put(std::ostream &out, fuse_file_info *fi) {
  if (!fi) {
    out << " fi:none";
    return;
  }
  out << " fi:fh=" << fi->fh << ",flags=" << fi->flags << ",owner=" << fi->lock_owner;
  if (fi->writepage) out << ",writepage";
  if (fi->flush) out << ",flush";
  if (fi->flock_release) out << ",flock_release";
  if (fi->poll_events) out << ",events=" << fi->poll_events;
}
void put(std::ostream &out, const struct flock *lock) {
  out << " lock:" << lock->l_type << ',' << lock->l_whence << ',' << lock->l_start << ',' << lock->l_len
      << ',' << lock->l_pid;
}
void put(std::ostream &out, const struct stat *st) {
  out << " attr:" << st->st_mode << ',' << st->st_uid << ',' << st->st_gid << ',' << st->st_size << ','
      << st->st_atim.tv_sec << '.' << st->st_atim.tv_nsec << ',' << st->st_mtim.tv_sec << '.'
      << st->st_mtim.tv_nsec << ',' << st->st_ctim.tv_sec << '.' << st->st_ctim.tv_nsec;
}
template <class T>
void put(std::ostream &out, const T &value) {
  out << ' ' << value;
}

template <class... Args>
void note(fuse_req_t req, const char *name, Args... args) {
  std::ostringstream out;
  out << name;
  (put(out, args), ...);
  session_of(req).calls.push_back(out.str());
}

template <class... Args>
void done(fuse_req_t req, const char *name, Args... args) {
  note(req, name, args...);
  fuse_reply_err(req, 0);
}

using R = fuse_req_t;
using I = fuse_ino_t;
using F = fuse_file_info *;

fuse_lowlevel_ops all_ops() {
  fuse_lowlevel_ops ops{};
  ops.destroy = [](void *data) { static_cast<FakeSession *>(data)->calls.emplace_back("destroy"); };
  ops.lookup = [](R r, I i, const char *n) { done(r, "lookup", i, n); };
  ops.forget = [](R r, I i, uint64_t n) {
    note(r, "forget", i, n);
    auto &session = session_of(r);
    if (session.hold_forgets)
      session.held_forgets.push_back(r);
    else
      fuse_reply_none(r);
  };
  ops.getattr = [](R r, I i, F f) { done(r, "getattr", i, f); };
  ops.setattr = [](R r, I i, struct stat *s, int to_set, F f) {
    done(r, "setattr", i, static_cast<const struct stat *>(s), to_set, f);
  };
  ops.readlink = [](R r, I i) { done(r, "readlink", i); };
  ops.mknod = [](R r, I i, const char *n, mode_t m, dev_t d) {
    done(r, "mknod", i, n, m, d, fuse_req_ctx(r)->umask);
  };
  ops.mkdir = [](R r, I i, const char *n, mode_t m) { done(r, "mkdir", i, n, m, fuse_req_ctx(r)->umask); };
  ops.unlink = [](R r, I i, const char *n) { done(r, "unlink", i, n); };
  ops.rmdir = [](R r, I i, const char *n) { done(r, "rmdir", i, n); };
  ops.symlink = [](R r, const char *t, I i, const char *n) { done(r, "symlink", t, i, n); };
  ops.rename = [](R r, I i, const char *n, I j, const char *m, unsigned f) {
    done(r, "rename", i, n, j, m, f);
  };
  ops.link = [](R r, I i, I j, const char *n) { done(r, "link", i, j, n); };
  ops.open = [](R r, I i, F f) { done(r, "open", i, f); };
  ops.read = [](R r, I i, size_t s, off_t o, F f) { done(r, "read", i, s, o, f); };
  ops.write = [](R r, I i, const char *b, size_t s, off_t o, F f) {
    done(r, "write", i, printable(b, s), s, o, f);
  };
  ops.flush = [](R r, I i, F f) { done(r, "flush", i, f); };
  ops.release = [](R r, I i, F f) { done(r, "release", i, f); };
  ops.fsync = [](R r, I i, int d, F f) { done(r, "fsync", i, d, f); };
  ops.opendir = [](R r, I i, F f) { done(r, "opendir", i, f); };
  ops.readdir = [](R r, I i, size_t s, off_t o, F f) { done(r, "readdir", i, s, o, f); };
  ops.releasedir = [](R r, I i, F f) { done(r, "releasedir", i, f); };
  ops.fsyncdir = [](R r, I i, int d, F f) { done(r, "fsyncdir", i, d, f); };
  ops.statfs = [](R r, I i) { done(r, "statfs", i); };
  ops.setxattr = [](R r, I i, const char *n, const char *v, size_t s, int f) {
    done(r, "setxattr", i, n, printable(v, s), s, f);
  };
  ops.getxattr = [](R r, I i, const char *n, size_t s) { done(r, "getxattr", i, n, s); };
  ops.listxattr = [](R r, I i, size_t s) { done(r, "listxattr", i, s); };
  ops.removexattr = [](R r, I i, const char *n) { done(r, "removexattr", i, n); };
  ops.access = [](R r, I i, int m) { done(r, "access", i, m); };
  ops.create = [](R r, I i, const char *n, mode_t m, F f) {
    done(r, "create", i, n, m, f, fuse_req_ctx(r)->umask);
  };
  ops.getlk = [](R r, I i, F f, struct flock *l) {
    done(r, "getlk", i, f, static_cast<const struct flock *>(l));
  };
  ops.setlk = [](R r, I i, F f, struct flock *l, int s) {
    done(r, "setlk", i, f, static_cast<const struct flock *>(l), s);
  };
  ops.flock = [](R r, I i, F f, int op) { done(r, "flock", i, f, op); };
  ops.bmap = [](R r, I i, size_t b, uint64_t x) { done(r, "bmap", i, b, x); };
  ops.ioctl = [](R r, I i, unsigned c, void *a, F f, unsigned flags, const void *b, size_t n, size_t o) {
    done(r, "ioctl", i, c, reinterpret_cast<std::uintptr_t>(a), f, flags, b ? printable(b, n) : "none", o);
  };
  ops.poll = [](R r, I i, F f, fuse_pollhandle *h) {
    session_of(r).pollhandle = h;
    done(r, "poll", i, f, h != nullptr);
  };
  ops.retrieve_reply = [](R r, void *cookie, I i, off_t o, fuse_bufvec *b) {
    note(r, "retrieve_reply", reinterpret_cast<std::uintptr_t>(cookie), i, o,
         printable(b->buf[0].mem, fuse_buf_size(b)));
    fuse_reply_none(r);
  };
  ops.fallocate = [](R r, I i, int m, off_t o, off_t l, F f) { done(r, "fallocate", i, m, o, l, f); };
  ops.readdirplus = [](R r, I i, size_t s, off_t o, F f) { done(r, "readdirplus", i, s, o, f); };
  ops.copy_file_range = [](R r, I i, off_t o, F f, I j, off_t p, F g, size_t n, int flags) {
    done(r, "copy_file_range", i, o, f, j, p, g, n, flags);
  };
  ops.lseek = [](R r, I i, off_t o, int w, F f) { done(r, "lseek", i, o, w, f); };
  return ops;
}

// ---- messages --------------------------------------------------------------

constexpr std::uint64_t kUnique = 0x1000;
constexpr std::uint64_t kNode = 7;

/// One opcode, its arguments as the kernel has them, and the call they must make.
struct Case {
  std::uint32_t opcode;
  std::vector<Bytes> args;
  std::string call;

  [[nodiscard]] Bytes all() const {
    Bytes bytes;
    for (const Bytes &arg : args) bytes = bytes + arg;
    return bytes;
  }
};

fuse_in_header header(std::uint32_t opcode, std::size_t args_size) {
  fuse_in_header in{};
  in.len = static_cast<std::uint32_t>(sizeof(in) + args_size);
  in.opcode = opcode;
  in.unique = kUnique;
  in.nodeid = kNode;
  in.uid = 1000;
  in.gid = 100;
  in.pid = 4242;
  return in;
}

/// A request in memory of exactly its size, with room for a reply of `out_cap` bytes.
class Request {
 public:
  Request(FakeSession &session, const Bytes &head, const Bytes &tail = {}, std::size_t out_cap = 0)
      : head_(copy(head)), tail_(copy(tail)), out_(out_cap ? new std::byte[out_cap] : nullptr) {
    std::fill_n(out_.get(), out_cap, std::byte{0xEE});  // a reply must not rely on zeroes
    req.session = &session;
    req.channel = &channel;
    req.msg = {{head_.get(), head.size()}, {tail_.get(), tail.size()}};
    req.out = out_.get();
    req.out_cap = out_cap;
  }
  Request(FakeSession &session, std::uint32_t opcode, const Bytes &args, const Bytes &tail = {},
          std::size_t out_cap = 0)
      : Request(session, raw(header(opcode, args.size() + tail.size())) + args, tail, out_cap) {}

  const Reply &dispatch() {
    efuse::dispatch(req);
    return only_reply();
  }
  const Reply &only_reply() {
    REQUIRE(channel.replies.size() == 1);
    return channel.replies[0];
  }

  fuse_req req;
  FakeChannel channel;

 private:
  static std::unique_ptr<std::byte[]> copy(const Bytes &bytes) {
    auto memory = std::make_unique<std::byte[]>(bytes.size());
    std::copy(bytes.begin(), bytes.end(), memory.get());
    return memory;
  }
  std::unique_ptr<std::byte[]> head_;
  std::unique_ptr<std::byte[]> tail_;
  std::unique_ptr<std::byte[]> out_;
};

fuse_lk_in lock_in(std::uint32_t type, std::uint32_t flags) {
  fuse_lk_in in{};
  in.fh = 3;
  in.owner = 99;
  in.lk = {10, 19, type, 77};
  in.lk_flags = flags;
  return in;
}

std::vector<Case> name_cases() {
  fuse_mknod_in mknod{0644, 259, 022, 0};
  fuse_mkdir_in mkdir{0755, 027};
  fuse_rename_in rename{8};
  fuse_rename2_in rename2{8, 1, 0};
  fuse_link_in link{12};
  fuse_create_in create{};
  create.flags = O_RDWR | O_CREAT;
  create.mode = 0600;
  create.umask = 077;
  fuse_getxattr_in getxattr{64, 0};
  struct {
    std::uint32_t size, flags;
  } setxattr{5, 2};
  return {
      {FUSE_LOOKUP, {text("name")}, "lookup 7 name"},
      {FUSE_SYMLINK, {text("name"), text("to/there")}, "symlink to/there 7 name"},
      {FUSE_MKNOD, {raw(mknod), text("dev")}, "mknod 7 dev 420 259 18"},
      {FUSE_MKDIR, {raw(mkdir), text("dir")}, "mkdir 7 dir 493 23"},
      {FUSE_UNLINK, {text("gone")}, "unlink 7 gone"},
      {FUSE_RMDIR, {text("dir")}, "rmdir 7 dir"},
      {FUSE_RENAME, {raw(rename), text("old"), text("new")}, "rename 7 old 8 new 0"},
      {FUSE_RENAME2, {raw(rename2), text("old"), text("new")}, "rename 7 old 8 new 1"},
      {FUSE_LINK, {raw(link), text("other")}, "link 12 7 other"},
      {FUSE_CREATE, {raw(create), text("file")}, "create 7 file 384 fi:fh=0,flags=66,owner=0 63"},
      {FUSE_GETXATTR, {raw(getxattr), text("user.a")}, "getxattr 7 user.a 64"},
      {FUSE_REMOVEXATTR, {text("user.a")}, "removexattr 7 user.a"},
      {FUSE_SETXATTR, {raw(setxattr), text("user.a"), text("value", false)}, "setxattr 7 user.a value 5 2"},
  };
}

std::vector<Case> file_cases() {
  fuse_open_in open{O_RDONLY | O_DIRECT, 0};
  fuse_read_in read{3, 4096, 512, 0, 99, O_RDWR, 0};
  fuse_write_in write{3, 64, 4, FUSE_WRITE_CACHE, 99, O_WRONLY, 0};
  fuse_flush_in flush{3, 0, 0, 99};
  fuse_release_in release{3, O_RDWR, FUSE_RELEASE_FLUSH | FUSE_RELEASE_FLOCK_UNLOCK, 99};
  fuse_fsync_in fsync{3, FUSE_FSYNC_FDATASYNC, 0};
  fuse_fallocate_in fallocate{3, 100, 200, 1, 0};
  fuse_copy_file_range_in copy{3, 10, 9, 4, 20, 30, 0};
  fuse_lseek_in lseek{3, 1000, SEEK_HOLE, 0};
  const std::string flags = std::to_string(O_RDONLY | O_DIRECT);
  return {
      {FUSE_OPEN, {raw(open)}, "open 7 fi:fh=0,flags=" + flags + ",owner=0"},
      {FUSE_OPENDIR, {raw(open)}, "opendir 7 fi:fh=0,flags=" + flags + ",owner=0"},
      {FUSE_READ, {raw(read)}, "read 7 512 4096 fi:fh=3,flags=2,owner=99"},
      {FUSE_READDIR, {raw(read)}, "readdir 7 512 4096 fi:fh=3,flags=0,owner=0"},
      {FUSE_READDIRPLUS, {raw(read)}, "readdirplus 7 512 4096 fi:fh=3,flags=0,owner=0"},
      {FUSE_WRITE, {raw(write), text("data", false)}, "write 7 data 4 64 fi:fh=3,flags=1,owner=99,writepage"},
      {FUSE_FLUSH, {raw(flush)}, "flush 7 fi:fh=3,flags=0,owner=99,flush"},
      {FUSE_RELEASE, {raw(release)}, "release 7 fi:fh=3,flags=2,owner=99,flush,flock_release"},
      {FUSE_RELEASEDIR, {raw(release)}, "releasedir 7 fi:fh=3,flags=2,owner=0"},
      {FUSE_FSYNC, {raw(fsync)}, "fsync 7 1 fi:fh=3,flags=0,owner=0"},
      {FUSE_FSYNCDIR, {raw(fsync)}, "fsyncdir 7 1 fi:fh=3,flags=0,owner=0"},
      {FUSE_FALLOCATE, {raw(fallocate)}, "fallocate 7 1 100 200 fi:fh=3,flags=0,owner=0"},
      {FUSE_COPY_FILE_RANGE, {raw(copy)},
       "copy_file_range 7 10 fi:fh=3,flags=0,owner=0 9 20 fi:fh=4,flags=0,owner=0 30 0"},
      {FUSE_LSEEK, {raw(lseek)}, "lseek 7 1000 4 fi:fh=3,flags=0,owner=0"},
  };
}

std::vector<Case> other_cases() {
  fuse_getattr_in getattr{FUSE_GETATTR_FH, 0, 3};
  fuse_setattr_in setattr{};
  setattr.valid = FATTR_MODE | FATTR_SIZE | FATTR_ATIME_NOW | FATTR_FH | FATTR_LOCKOWNER;
  setattr.fh = 3;
  setattr.size = 1000;
  setattr.atime = 1;
  setattr.mtime = 2;
  setattr.ctime = 3;
  setattr.atimensec = 4;
  setattr.mtimensec = 5;
  setattr.ctimensec = 6;
  setattr.mode = 0640;
  setattr.uid = 11;
  setattr.gid = 12;
  fuse_access_in access{R_OK, 0};
  fuse_getxattr_in listxattr{128, 0};
  fuse_bmap_in bmap{55, 512, 0};
  fuse_ioctl_in ioctl{3, FUSE_IOCTL_DIR, 0x5401, 0xABCD, 3, 16};
  fuse_poll_in poll{3, 88, FUSE_POLL_SCHEDULE_NOTIFY, 5};
  return {
      {FUSE_GETATTR, {raw(getattr)}, "getattr 7 fi:fh=3,flags=0,owner=0"},
      {FUSE_SETATTR, {raw(setattr)}, "setattr 7 attr:416,11,12,1000,1.4,2.5,3.6 137 fi:fh=3,flags=0,owner=0"},
      {FUSE_READLINK, {}, "readlink 7"},
      {FUSE_STATFS, {}, "statfs 7"},
      {FUSE_ACCESS, {raw(access)}, "access 7 4"},
      {FUSE_LISTXATTR, {raw(listxattr)}, "listxattr 7 128"},
      {FUSE_GETLK, {raw(lock_in(F_WRLCK, 0))}, "getlk 7 fi:fh=3,flags=0,owner=99 lock:1,0,10,10,77"},
      {FUSE_SETLK, {raw(lock_in(F_RDLCK, 0))}, "setlk 7 fi:fh=3,flags=0,owner=99 lock:0,0,10,10,77 0"},
      {FUSE_SETLKW, {raw(lock_in(F_UNLCK, 0))}, "setlk 7 fi:fh=3,flags=0,owner=99 lock:2,0,10,10,77 1"},
      {FUSE_BMAP, {raw(bmap)}, "bmap 7 512 55"},
      {FUSE_IOCTL, {raw(ioctl), text("in!", false)}, "ioctl 7 21505 43981 fi:fh=3,flags=0,owner=0 16 in! 16"},
      {FUSE_POLL, {raw(poll)}, "poll 7 fi:fh=3,flags=0,owner=0,events=5 1"},
      {FUSE_DESTROY, {}, "destroy"},
  };
}

Bytes forget_list(std::size_t count) {
  Bytes list;
  for (std::size_t i = 0; i < count; ++i) list = list + raw(fuse_forget_one{100 + i, 1 + i});
  return list;
}

/// Those that are not answered.
std::vector<Case> silent_cases() {
  return {
      {FUSE_FORGET, {raw(fuse_forget_in{5})}, "forget 7 5"},
      {FUSE_BATCH_FORGET, {raw(fuse_batch_forget_in{1, 0}), forget_list(1)}, "forget 100 1"},
  };
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (auto *list : {name_cases, file_cases, other_cases, silent_cases})
    for (Case &one : list()) cases.push_back(std::move(one));
  return cases;
}

void check_called(FakeSession &session, Request &request, const Case &one) {
  INFO(efuse::protocol::opcode_name(one.opcode));
  const Reply &reply = request.dispatch();
  CHECK(session.calls == std::vector<std::string>{one.call});
  CHECK(reply.error == 0);
  CHECK((reply.kind == Reply::dropped) == !efuse::protocol::expects_reply(one.opcode));
  fuse_pollhandle_destroy(session.pollhandle);
}

void check_rejected(FakeSession &session, Request &request, std::uint32_t opcode) {
  const Reply &reply = request.dispatch();
  CHECK(session.calls.empty());
  CHECK(session.interrupts.empty());
  if (efuse::protocol::expects_reply(opcode)) {
    CHECK(reply.kind == Reply::body);
    CHECK(reply.error == -EIO);
    CHECK(reply.bytes.empty());
  } else {
    CHECK(reply.kind == Reply::dropped);
  }
}

/// Keeps what is logged; one at a time.
class LogCapture {
 public:
  LogCapture() {
    lines.clear();
    fuse_set_log_func([](fuse_log_level, const char *format, va_list arguments) {
      char line[512];
      std::vsnprintf(line, sizeof(line), format, arguments);
      lines += line;
    });
  }
  ~LogCapture() { fuse_set_log_func(nullptr); }
  static inline std::string lines;
};

// ---- requests --------------------------------------------------------------

TEST_CASE("every opcode reaches its callback with its arguments", "[dispatch]") {
  for (const Case &one : all_cases()) {
    FakeSession session(all_ops());
    Request request(session, one.opcode, one.all());
    check_called(session, request, one);
  }
}

TEST_CASE("the last argument may lie apart", "[dispatch]") {
  for (const Case &one : all_cases()) {
    if (one.args.empty()) continue;
    FakeSession session(all_ops());
    Case head = one;
    head.args.pop_back();
    Request request(session, one.opcode, head.all(), one.args.back());
    check_called(session, request, one);
  }
}

TEST_CASE("the caller's identity is in the context", "[dispatch]") {
  auto ops = all_ops();
  ops.lookup = [](R r, I, const char *) {
    const fuse_ctx &ctx = *fuse_req_ctx(r);
    done(r, "ctx", ctx.uid, ctx.gid, ctx.pid, ctx.umask);
  };
  FakeSession session(ops);
  Request request(session, FUSE_LOOKUP, text("x"));
  request.req.ctx.umask = 077;  // of an earlier request in this object
  request.dispatch();
  CHECK(session.calls == std::vector<std::string>{"ctx 1000 100 4242 0"});
}

TEST_CASE("no truncated message gets through", "[dispatch]") {
  for (const Case &one : all_cases()) {
    const Bytes whole = raw(header(one.opcode, one.all().size())) + one.all();
    for (std::size_t size = 0; size < whole.size(); ++size) {
      INFO(efuse::protocol::opcode_name(one.opcode) << " cut to " << size);
      Bytes cut = prefix(whole, size);
      const std::uint32_t seen = size >= sizeof(fuse_in_header) ? one.opcode : 0;
      {
        FakeSession session(all_ops());
        Request request(session, cut);  // header.len still says more
        check_rejected(session, request, seen);
      }
      if (size < sizeof(fuse_in_header)) continue;
      const auto len = static_cast<std::uint32_t>(size);
      std::memcpy(cut.data(), &len, sizeof(len));
      FakeSession session(all_ops());
      Request request(session, cut);
      check_rejected(session, request, seen);
    }
  }
}

TEST_CASE("no truncated last argument apart gets through", "[dispatch]") {
  for (const Case &one : all_cases()) {
    if (one.args.empty()) continue;
    Case head = one;
    head.args.pop_back();
    for (std::size_t size = 0; size < one.args.back().size(); ++size) {
      INFO(efuse::protocol::opcode_name(one.opcode) << " tail cut to " << size);
      FakeSession session(all_ops());
      Request request(session, one.opcode, head.all(), prefix(one.args.back(), size));
      check_rejected(session, request, one.opcode);
    }
  }
}

bool is_text(const Bytes &arg) {
  return arg.size() > 1 && arg.back() == std::byte{0} &&
         std::all_of(arg.begin(), arg.end() - 1,
                     [](std::byte b) { return std::isprint(static_cast<int>(b)); });
}

TEST_CASE("no unterminated string gets through", "[dispatch]") {
  int strings = 0;
  for (const Case &one : name_cases())
    for (std::size_t i = 0; i < one.args.size(); ++i) {
      if (!is_text(one.args[i])) continue;
      ++strings;
      Case bad = one;
      bad.args.resize(i + 1);  // nothing behind it that could hold the NUL
      bad.args[i].back() = std::byte{'x'};
      INFO(efuse::protocol::opcode_name(one.opcode) << " argument " << i);
      FakeSession session(all_ops());
      Request request(session, one.opcode, bad.all());
      check_rejected(session, request, one.opcode);
    }
  CHECK(strings == 16);
}

TEST_CASE("lengths inside a message that reach beyond it are refused", "[dispatch]") {
  struct {
    std::uint32_t size, flags;
  } setxattr{6, 0};
  fuse_write_in write{};
  write.size = UINT32_MAX;
  fuse_ioctl_in ioctl{};
  ioctl.in_size = UINT32_MAX;
  fuse_notify_retrieve_in retrieve{};
  retrieve.size = 5;
  const Case cases[] = {
      {FUSE_SETXATTR, {raw(setxattr), text("user.a"), text("value", false)}, ""},
      {FUSE_WRITE, {raw(write), text("data")}, ""},
      {FUSE_IOCTL, {raw(ioctl), text("data")}, ""},
      {FUSE_BATCH_FORGET, {raw(fuse_batch_forget_in{UINT32_MAX, 0}), forget_list(3)}, ""},
      {FUSE_BATCH_FORGET, {raw(fuse_batch_forget_in{4, 0}), forget_list(3)}, ""},
      {FUSE_NOTIFY_REPLY, {raw(retrieve), text("four", false)}, ""},
  };
  for (const Case &one : cases) {
    INFO(efuse::protocol::opcode_name(one.opcode));
    FakeSession session(all_ops());
    Request request(session, one.opcode, one.all());
    check_rejected(session, request, one.opcode);
  }
}

TEST_CASE("a header that gives another length than the message has is refused", "[dispatch]") {
  for (std::uint32_t wrong : {0u, 39u, 41u, 43u, UINT32_MAX}) {
    auto in = header(FUSE_LOOKUP, 2);
    REQUIRE(in.len == 42);
    in.len = wrong;
    FakeSession session(all_ops());
    Request request(session, raw(in) + text("x"));
    check_rejected(session, request, FUSE_LOOKUP);
    Request apart(session, raw(in), text("x"));
    check_rejected(session, apart, FUSE_LOOKUP);
  }
}

TEST_CASE("extensions behind the arguments are skipped, and are not arguments", "[dispatch]") {
  const Bytes extension = raw(fuse_ext_header{16, 32}) + raw(std::uint32_t{1}) + raw(std::uint32_t{1000});
  for (const Case &one : all_cases()) {
    INFO(efuse::protocol::opcode_name(one.opcode));
    auto in = header(one.opcode, one.all().size() + extension.size());
    in.total_extlen = 2;
    {
      FakeSession session(all_ops());
      Request request(session, raw(in) + one.all() + extension);
      check_called(session, request, one);
    }
    FakeSession session(all_ops());
    Request request(session, raw(in) + one.all(), extension);
    check_called(session, request, one);
  }
  // A name without its NUL must not end in the zeroes of an extension.
  auto in = header(FUSE_MKDIR, sizeof(fuse_mkdir_in) + 3 + extension.size());
  in.total_extlen = 2;
  FakeSession session(all_ops());
  Request request(session, raw(in) + raw(fuse_mkdir_in{}) + text("dir", false) + extension);
  check_rejected(session, request, FUSE_MKDIR);
  // More extensions than message.
  in = header(FUSE_LOOKUP, 2);
  in.total_extlen = UINT16_MAX;
  Request longer(session, raw(in) + text("x"));
  check_rejected(session, longer, FUSE_LOOKUP);
}

TEST_CASE("what is not in the protocol is ENOSYS", "[dispatch]") {
  for (std::uint32_t opcode : {0u, 7u, 19u, unsigned{FUSE_SETUPMAPPING}, unsigned{FUSE_REMOVEMAPPING}, 53u,
                               4095u, unsigned{CUSE_INIT}, 0x7fffffffu, 0xffffffffu}) {
    FakeSession session(all_ops());
    Request request(session, opcode, Bytes(64));
    INFO(opcode);
    CHECK(request.dispatch().error == -ENOSYS);
    CHECK(session.calls.empty());
  }
}

TEST_CASE("operations that this libfuse has no callback for are ENOSYS", "[dispatch]") {
  FakeSession session{fuse_lowlevel_ops{}};
  for (std::uint32_t opcode : {unsigned{FUSE_SYNCFS}, unsigned{FUSE_TMPFILE}, efuse::protocol::kOpStatx}) {
    Request request(session, opcode, Bytes(80));
    CHECK(request.dispatch().error == -ENOSYS);
  }
}

TEST_CASE("an absent callback answers what libfuse answers", "[dispatch]") {
  const std::vector<std::uint32_t> zero{FUSE_RELEASE, FUSE_RELEASEDIR, FUSE_DESTROY};
  const std::vector<std::uint32_t> with_body{FUSE_OPEN, FUSE_OPENDIR, FUSE_STATFS};
  auto has = [](const auto &list, std::uint32_t opcode) {
    return std::count(list.begin(), list.end(), opcode);
  };
  for (const Case &one : all_cases()) {
    INFO(efuse::protocol::opcode_name(one.opcode));
    FakeSession session{fuse_lowlevel_ops{}};
    Request request(session, one.opcode, one.all());
    const Reply &reply = request.dispatch();
    if (!efuse::protocol::expects_reply(one.opcode)) {
      CHECK(reply.kind == Reply::dropped);
    } else if (has(with_body, one.opcode)) {
      CHECK(reply.error == 0);
      fuse_statfs_out statfs{};
      statfs.st.namelen = 255;
      statfs.st.bsize = 512;
      CHECK(reply.bytes == (one.opcode == FUSE_STATFS ? raw(statfs) : Bytes(sizeof(fuse_open_out))));
    } else {
      CHECK(reply.error == (has(zero, one.opcode) ? 0 : -ENOSYS));
      CHECK(reply.bytes.empty());
    }
  }
}

TEST_CASE("callbacks beyond the caller's structure are absent", "[dispatch]") {
  class Small final : public efuse::SessionCore {
   public:
    explicit Small(const fuse_lowlevel_ops &ops)
        : SessionCore(&ops, offsetof(fuse_lowlevel_ops, lseek), nullptr) {}
    int notify(std::int32_t, std::span<const iovec>) noexcept override { return 0; }
    void interrupt(std::uint64_t) noexcept override {}
    void exit(int) noexcept override {}
  };
  const auto ops = all_ops();
  const Small session(ops);
  CHECK(session.ops.copy_file_range == ops.copy_file_range);
  CHECK(session.ops.lseek == nullptr);
}

TEST_CASE("GETATTR without a handle has none; SETATTR too", "[dispatch]") {
  FakeSession session(all_ops());
  Request getattr(session, FUSE_GETATTR, raw(fuse_getattr_in{}));
  getattr.dispatch();
  Request setattr(session, FUSE_SETATTR, raw(fuse_setattr_in{}));
  setattr.dispatch();
  CHECK(session.calls ==
        std::vector<std::string>{"getattr 7 fi:none", "setattr 7 attr:0,0,0,0,0.0,0.0,0.0 0 fi:none"});
}

TEST_CASE("write_buf comes before write", "[dispatch]") {
  auto ops = all_ops();
  ops.write_buf = [](R r, I i, fuse_bufvec *b, off_t o, F f) {
    done(r, "write_buf", i, printable(b->buf[0].mem, fuse_buf_size(b)), b->count, o, f);
  };
  FakeSession session(ops);
  const fuse_write_in write{3, 64, 4, 0, 99, O_WRONLY, 0};
  Request apart(session, FUSE_WRITE, raw(write), text("data", false));
  apart.dispatch();
  Request together(session, FUSE_WRITE, raw(write) + text("data", false));
  together.dispatch();
  const std::string call = "write_buf 7 data 1 64 fi:fh=3,flags=1,owner=99";
  CHECK(session.calls == std::vector<std::string>{call, call});
}

TEST_CASE("BATCH_FORGET goes to forget_multi, or to forget one by one", "[dispatch]") {
  const Bytes args = raw(fuse_batch_forget_in{3, 0}) + forget_list(3);
  SECTION("forget_multi") {
    auto ops = all_ops();
    ops.forget_multi = [](R r, size_t n, fuse_forget_data *f) {
      note(r, "forget_multi", n, f[0].ino, f[0].nlookup, f[2].ino, f[2].nlookup);
      fuse_reply_none(r);
    };
    FakeSession session(ops);
    Request request(session, FUSE_BATCH_FORGET, args);
    CHECK(request.dispatch().kind == Reply::dropped);
    CHECK(session.calls == std::vector<std::string>{"forget_multi 3 100 1 102 3"});
  }
  SECTION("forget") {
    FakeSession session(all_ops());
    Request request(session, FUSE_BATCH_FORGET, args);
    CHECK(request.dispatch().kind == Reply::dropped);
    CHECK(session.calls == std::vector<std::string>{"forget 100 1", "forget 101 2", "forget 102 3"});
  }
  SECTION("forget, let go of later and elsewhere") {
    FakeSession session(all_ops());
    session.hold_forgets = true;
    {
      Request request(session, FUSE_BATCH_FORGET, args);
      CHECK(request.dispatch().kind == Reply::dropped);  // the message is free at once
    }
    REQUIRE(session.held_forgets.size() == 3);
    std::thread([&] {
      for (fuse_req_t held : session.held_forgets) {
        CHECK(fuse_req_ctx(held)->uid == 1000);
        fuse_reply_none(held);
      }
    }).join();
  }
  SECTION("none to forget") {
    FakeSession session(all_ops());
    Request request(session, FUSE_BATCH_FORGET, raw(fuse_batch_forget_in{0, 0}));
    CHECK(request.dispatch().kind == Reply::dropped);
    CHECK(session.calls.empty());
  }
}

TEST_CASE("BSD locks come as SETLK with a flag", "[dispatch]") {
  const std::map<std::uint32_t, int> operations{{F_RDLCK, LOCK_SH}, {F_WRLCK, LOCK_EX}, {F_UNLCK, LOCK_UN}};
  for (auto [type, operation] : operations)
    for (bool wait : {false, true}) {
      FakeSession session(all_ops());
      Request request(session, wait ? FUSE_SETLKW : FUSE_SETLK, raw(lock_in(type, FUSE_LK_FLOCK)));
      request.dispatch();
      const int expected = wait ? operation : operation | LOCK_NB;
      CHECK(session.calls ==
            std::vector<std::string>{"flock 7 fi:fh=3,flags=0,owner=99 " + std::to_string(expected)});
    }
}

TEST_CASE("a lock to the end of the file has length 0", "[dispatch]") {
  auto in = lock_in(F_WRLCK, 0);
  in.lk.end = INT64_MAX;
  FakeSession session(all_ops());
  Request request(session, FUSE_GETLK, raw(in));
  request.dispatch();
  CHECK(session.calls == std::vector<std::string>{"getlk 7 fi:fh=3,flags=0,owner=99 lock:1,0,10,0,77"});
}

TEST_CASE("IOCTL without data, and on a directory where that is not wanted", "[dispatch]") {
  FakeSession session(all_ops());
  Request plain(session, FUSE_IOCTL, raw(fuse_ioctl_in{3, 0, 1, 2, 0, 8}));
  plain.dispatch();
  CHECK(session.calls == std::vector<std::string>{"ioctl 7 1 2 fi:fh=3,flags=0,owner=0 0 none 8"});
  session.conn.want = 0;
  Request directory(session, FUSE_IOCTL, raw(fuse_ioctl_in{3, FUSE_IOCTL_DIR, 1, 2, 0, 8}));
  CHECK(directory.dispatch().error == -ENOTTY);
}

TEST_CASE("POLL without notification has no handle", "[dispatch]") {
  FakeSession session(all_ops());
  Request request(session, FUSE_POLL, raw(fuse_poll_in{3, 88, 0, 5}));
  request.dispatch();
  CHECK(session.calls == std::vector<std::string>{"poll 7 fi:fh=3,flags=0,owner=0,events=5 0"});
  CHECK(session.pollhandle == nullptr);
}

TEST_CASE("extended SETXATTR, where it was agreed on", "[dispatch]") {
  FakeSession session(all_ops());
  session.init_flags = FUSE_SETXATTR_EXT;
  const fuse_setxattr_in in{5, 2, 1, 0};
  Request request(session, FUSE_SETXATTR, raw(in) + text("user.a") + text("value", false));
  request.dispatch();
  CHECK(session.calls == std::vector<std::string>{"setxattr 7 user.a value 5 2"});
}

TEST_CASE("nothing but INIT before INIT, and no second one", "[dispatch]") {
  FakeSession session(all_ops());
  session.got_init = false;
  Request early(session, FUSE_LOOKUP, text("x"));
  CHECK(early.dispatch().error == -EIO);
  session.got_init = true;
  Request again(session, FUSE_INIT, raw(fuse_init_in{}));
  CHECK(again.dispatch().error == -EIO);
  CHECK(session.calls.empty());
}

TEST_CASE("destroy() is called once", "[dispatch]") {
  FakeSession session(all_ops());
  for (int i = 0; i < 2; ++i) {
    Request request(session, FUSE_DESTROY, Bytes{});
    CHECK(request.dispatch().error == 0);
  }
  CHECK(session.calls == std::vector<std::string>{"destroy"});
  CHECK(session.got_destroy);
}

TEST_CASE("allow_root serves the owner and root only", "[dispatch]") {
  const std::map<std::uint32_t, int> expected{{1000, -EACCES}, {0, 0}, {500, 0}};
  for (auto [uid, error] : expected) {
    FakeSession session(all_ops());
    session.deny_others = true;
    session.owner = 500;
    auto in = header(FUSE_LOOKUP, 2);
    in.uid = uid;
    Request lookup(session, raw(in) + text("x"));
    CHECK(lookup.dispatch().error == error);
    in = header(FUSE_READ, sizeof(fuse_read_in));
    in.uid = uid;
    Request read(session, raw(in) + raw(fuse_read_in{}));
    CHECK(read.dispatch().error == 0);  // the file is open already
  }
}

TEST_CASE("debug prints requests and replies", "[dispatch]") {
  FakeSession session(all_ops());
  session.debug = true;
  const LogCapture log;
  Request request(session, FUSE_LOOKUP, text("x"));
  request.dispatch();
  Request unknown(session, 53, Bytes{});
  unknown.dispatch();
  CHECK(log.lines.find("unique: 4096, opcode: LOOKUP (1), nodeid: 7, insize: 42, pid: 4242\n") == 0);
  CHECK(log.lines.find("   unique: 4096, success, outsize: 16\n") != std::string::npos);
  CHECK(log.lines.find("opcode: ??? (53)") != std::string::npos);
  CHECK(log.lines.find("error: -38 (Function not implemented)") != std::string::npos);
}

// ---- replies ---------------------------------------------------------------

struct stat some_stat() {
  struct stat st {};
  st.st_ino = 1;
  st.st_mode = S_IFREG | 0644;
  st.st_nlink = 2;
  st.st_uid = 3;
  st.st_gid = 4;
  st.st_rdev = 5;
  st.st_size = 6;
  st.st_blksize = 7;
  st.st_blocks = 8;
  st.st_atim = {9, 10};
  st.st_mtim = {11, 12};
  st.st_ctim = {13, 14};
  return st;
}

fuse_attr some_attr() {
  fuse_attr attr{};
  attr.ino = 1;
  attr.mode = S_IFREG | 0644;
  attr.nlink = 2;
  attr.uid = 3;
  attr.gid = 4;
  attr.rdev = 5;
  attr.size = 6;
  attr.blksize = 7;
  attr.blocks = 8;
  attr.atime = 9;
  attr.atimensec = 10;
  attr.mtime = 11;
  attr.mtimensec = 12;
  attr.ctime = 13;
  attr.ctimensec = 14;
  return attr;
}

fuse_entry_param some_entry() {
  fuse_entry_param entry{};
  entry.ino = 42;
  entry.generation = 43;
  entry.attr = some_stat();
  entry.attr_timeout = 1.5;
  entry.entry_timeout = 0.25;
  return entry;
}

fuse_entry_out some_entry_out() {
  fuse_entry_out out{};
  out.nodeid = 42;
  out.generation = 43;
  out.entry_valid_nsec = 250000000;
  out.attr_valid = 1;
  out.attr_valid_nsec = 500000000;
  out.attr = some_attr();
  return out;
}

struct ReplyCase {
  const char *name;
  std::function<int(fuse_req_t)> send;
  Bytes expected;
};

fuse_file_info opened() {
  fuse_file_info fi{};
  fi.fh = 77;
  fi.direct_io = fi.keep_cache = fi.nonseekable = fi.cache_readdir = fi.noflush = 1;
  return fi;
}

Bytes opened_out() {
  fuse_open_out out{};
  out.fh = 77;
  out.open_flags =
      FOPEN_DIRECT_IO | FOPEN_KEEP_CACHE | FOPEN_NONSEEKABLE | FOPEN_CACHE_DIR | FOPEN_NOFLUSH;
  return raw(out);
}

std::vector<ReplyCase> reply_cases() {
  fuse_attr_out attr{};
  attr.attr_valid = 2;
  attr.attr_valid_nsec = 750000000;
  attr.attr = some_attr();
  fuse_statfs_out statfs{};
  statfs.st.blocks = 1;
  statfs.st.bfree = 2;
  statfs.st.bavail = 3;
  statfs.st.files = 4;
  statfs.st.ffree = 5;
  statfs.st.bsize = 6;
  statfs.st.namelen = 7;
  statfs.st.frsize = 8;
  fuse_lk_out lock{};
  lock.lk = {10, 19, F_WRLCK, 77};
  fuse_lk_out lock_to_end{};
  lock_to_end.lk = {10, INT64_MAX, F_RDLCK, 0};
  fuse_lk_out unlock{};
  unlock.lk.type = F_UNLCK;
  fuse_ioctl_out ioctl{};
  ioctl.result = -3;
  fuse_ioctl_out retry{};
  retry.flags = FUSE_IOCTL_RETRY;
  retry.in_iovs = 1;
  retry.out_iovs = 2;
  static char a[3] = {'a', 'b', 'c'};
  static iovec parts[2] = {{a, 2}, {a + 2, 1}};
  const Bytes retry_parts = raw(fuse_ioctl_iovec{reinterpret_cast<std::uintptr_t>(a), 2}) +
                            raw(fuse_ioctl_iovec{reinterpret_cast<std::uintptr_t>(a), 2}) +
                            raw(fuse_ioctl_iovec{reinterpret_cast<std::uintptr_t>(a + 2), 1});
  auto flock_of = [](short type, off_t start, off_t len, pid_t pid) {
    struct flock l {};
    l.l_type = type;
    l.l_start = start;
    l.l_len = len;
    l.l_pid = pid;
    return l;
  };
  return {
      {"entry",
       [](R r) {
         auto e = some_entry();
         return fuse_reply_entry(r, &e);
       },
       raw(some_entry_out())},
      {"create",
       [](R r) {
         auto e = some_entry();
         auto f = opened();
         return fuse_reply_create(r, &e, &f);
       },
       raw(some_entry_out()) + opened_out()},
      {"attr",
       [](R r) {
         auto s = some_stat();
         return fuse_reply_attr(r, &s, 2.75);
       },
       raw(attr)},
      {"readlink", [](R r) { return fuse_reply_readlink(r, "target"); }, text("target", false)},
      {"open",
       [](R r) {
         auto f = opened();
         return fuse_reply_open(r, &f);
       },
       opened_out()},
      {"write", [](R r) { return fuse_reply_write(r, 4096); }, raw(fuse_write_out{4096, 0})},
      {"buf", [](R r) { return fuse_reply_buf(r, "12345", 5); }, text("12345", false)},
      {"iov", [](R r) { return fuse_reply_iov(r, parts, 2); }, text("abc", false)},
      {"statfs",
       [](R r) {
         struct statvfs st {};
         st.f_blocks = 1;
         st.f_bfree = 2;
         st.f_bavail = 3;
         st.f_files = 4;
         st.f_ffree = 5;
         st.f_bsize = 6;
         st.f_namemax = 7;
         st.f_frsize = 8;
         return fuse_reply_statfs(r, &st);
       },
       raw(statfs)},
      {"xattr", [](R r) { return fuse_reply_xattr(r, 33); }, raw(fuse_getxattr_out{33, 0})},
      {"lock",
       [=](R r) {
         auto l = flock_of(F_WRLCK, 10, 10, 77);
         return fuse_reply_lock(r, &l);
       },
       raw(lock)},
      {"lock to the end",
       [=](R r) {
         auto l = flock_of(F_RDLCK, 10, 0, 0);
         return fuse_reply_lock(r, &l);
       },
       raw(lock_to_end)},
      {"no lock",
       [=](R r) {
         auto l = flock_of(F_UNLCK, 10, 10, 0);
         return fuse_reply_lock(r, &l);
       },
       raw(unlock)},
      {"bmap", [](R r) { return fuse_reply_bmap(r, 1ull << 40); }, raw(fuse_bmap_out{1ull << 40})},
      {"ioctl", [](R r) { return fuse_reply_ioctl(r, -3, "out", 3); }, raw(ioctl) + text("out", false)},
      {"ioctl without data", [](R r) { return fuse_reply_ioctl(r, -3, nullptr, 0); }, raw(ioctl)},
      {"ioctl_iov", [](R r) { return fuse_reply_ioctl_iov(r, -3, parts, 2); },
       raw(ioctl) + text("abc", false)},
      {"ioctl_retry", [](R r) { return fuse_reply_ioctl_retry(r, parts, 1, parts, 2); },
       raw(retry) + retry_parts},
      {"poll", [](R r) { return fuse_reply_poll(r, 5); }, raw(fuse_poll_out{5, 0})},
      {"lseek", [](R r) { return fuse_reply_lseek(r, 1ll << 40); }, raw(fuse_lseek_out{1ull << 40})},
  };
}

/// A request that a filesystem has been given and may answer.
class Taken : public Request {
 public:
  Taken(FakeSession &session, std::size_t out_cap, std::uint32_t opcode = FUSE_GETATTR)
      : Request(session, opcode, Bytes(8), {}, out_cap) {
    req.unique = kUnique;
    req.opcode = opcode;
  }
};

TEST_CASE("every reply has the protocol's bytes, in place and handed over", "[reply]") {
  FakeSession session(all_ops());
  for (const ReplyCase &one : reply_cases()) {
    INFO(one.name);
    const std::size_t size = one.expected.size();
    for (std::size_t cap : {std::size_t{0}, size - 1, size, size + 100}) {
      Taken request(session, cap);
      CHECK(one.send(&request.req) == 0);
      const Reply &reply = request.only_reply();
      CHECK(reply.error == 0);
      CHECK(reply.kind == (cap >= size ? Reply::in_place : Reply::body));
      CHECK(reply.bytes == one.expected);
    }
  }
}

TEST_CASE("what the channel says comes back from every reply", "[reply]") {
  FakeSession session(all_ops());
  for (const ReplyCase &one : reply_cases())
    for (std::size_t cap : {0, 4096}) {
      Taken request(session, cap);
      request.channel.result = -ENOENT;
      CHECK(one.send(&request.req) == -ENOENT);
    }
}

TEST_CASE("errors are negative on the wire; what the kernel would refuse is ERANGE", "[reply]") {
  FakeSession session(all_ops());
  const LogCapture log;
  const std::map<int, int> expected{
      {0, 0},          {ENOENT, -ENOENT}, {511, -511},        {512, -ERANGE},
      {1000, -ERANGE}, {-1, -ERANGE},     {INT_MIN, -ERANGE}, {INT_MAX, -ERANGE}};
  for (auto [error, wire] : expected) {
    Taken request(session, 64);
    CHECK(fuse_reply_err(&request.req, error) == 0);
    CHECK(request.only_reply().error == wire);
    CHECK(request.only_reply().bytes.empty());
  }
}

TEST_CASE("fuse_reply_none never leaves anybody waiting, and no reply goes where none is due", "[reply]") {
  FakeSession session(all_ops());
  const LogCapture log;
  Taken waiting(session, 0);
  fuse_reply_none(&waiting.req);
  CHECK(waiting.only_reply().error == -EIO);
  for (std::uint32_t opcode : {FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT, FUSE_NOTIFY_REPLY}) {
    Taken silent(session, 64, opcode);
    CHECK(fuse_reply_err(&silent.req, EIO) == -ENOENT);
    CHECK(silent.only_reply().kind == Reply::dropped);
    Taken buffer(session, 64, opcode);
    CHECK(fuse_reply_buf(&buffer.req, "x", 1) == -ENOENT);
    CHECK(buffer.only_reply().kind == Reply::dropped);
  }
}

TEST_CASE("empty replies have no body", "[reply]") {
  FakeSession session(all_ops());
  fuse_bufvec nothing = efuse::memory_bufvec(nullptr, 0);
  const std::vector<std::function<int(fuse_req_t)>> sends{
      [](R r) { return fuse_reply_buf(r, nullptr, 0); }, [](R r) { return fuse_reply_iov(r, nullptr, 0); },
      [](R r) { return fuse_reply_readlink(r, ""); },
      [&](R r) { return fuse_reply_data(r, &nothing, fuse_buf_copy_flags{}); },
      [](R r) { return efuse_reply_in_place(r, 0); }};
  for (const auto &send : sends)
    for (std::size_t cap : {0, 64}) {
      Taken request(session, cap);
      CHECK(send(&request.req) == 0);
      CHECK(request.only_reply().error == 0);
      CHECK(request.only_reply().bytes.empty());
    }
}

TEST_CASE("the reply area is written without a copy", "[reply]") {
  FakeSession session(all_ops());
  SECTION("where there is none") {
    Taken request(session, 0);
    std::size_t cap = 1;
    CHECK(efuse_req_reply_area(&request.req, &cap) == nullptr);
    CHECK(cap == 0);
    CHECK(efuse_reply_in_place(&request.req, 1) == -EINVAL);
    CHECK(request.only_reply().error == -EIO);
  }
  SECTION("in place") {
    Taken request(session, 64);
    std::size_t cap = 0;
    void *area = efuse_req_reply_area(&request.req, &cap);
    REQUIRE(area == request.req.out);
    REQUIRE(cap == 64);
    std::memset(area, 'z', cap);
    CHECK(efuse_reply_in_place(&request.req, 64) == 0);
    CHECK(request.only_reply().bytes == text(std::string(64, 'z'), false));
  }
  SECTION("replies made of parts of it") {
    Taken request(session, 64);
    auto *area = reinterpret_cast<char *>(request.req.out);
    std::memcpy(area, "abcdef", 6);
    const iovec turned[] = {{area + 3, 3}, {area, 3}};
    CHECK(fuse_reply_iov(&request.req, turned, 2) == 0);
    CHECK(request.only_reply().bytes == text("defabc", false));
    Taken buffer(session, 64);
    std::memcpy(buffer.req.out, "abcdef", 6);
    CHECK(fuse_reply_buf(&buffer.req, reinterpret_cast<char *>(buffer.req.out) + 2, 4) == 0);
    CHECK(buffer.only_reply().bytes == text("cdef", false));
    Taken ioctl(session, 64);
    std::memcpy(ioctl.req.out, "abcdef", 6);
    CHECK(fuse_reply_ioctl(&ioctl.req, 0, ioctl.req.out, 6) == 0);
    CHECK(ioctl.only_reply().bytes == raw(fuse_ioctl_out{}) + text("abcdef", false));
  }
}

TEST_CASE("ioctl replies of many parts", "[reply]") {
  FakeSession session(all_ops());
  char byte = 'q';
  const std::vector<iovec> many(100, iovec{&byte, 1});
  for (std::size_t cap : {0, 4096}) {
    Taken request(session, cap);
    CHECK(fuse_reply_ioctl_iov(&request.req, 0, many.data(), 100) == 0);
    CHECK(request.only_reply().bytes == raw(fuse_ioctl_out{}) + text(std::string(100, 'q'), false));
  }
  Taken request(session, 0);
  const std::vector<iovec> too_many(FUSE_IOCTL_MAX_IOV, iovec{&byte, 1});
  CHECK(fuse_reply_ioctl_retry(&request.req, too_many.data(), FUSE_IOCTL_MAX_IOV, many.data(), 1) == 0);
  CHECK(request.only_reply().error == -EINVAL);
}

TEST_CASE("times of validity", "[reply]") {
  FakeSession session(all_ops());
  struct {
    double seconds;
    std::uint64_t valid;
    std::uint32_t nsec;
  } const cases[] = {{0, 0, 0},
                     {-1, 0, 0},
                     {1e300, UINT64_MAX, 0},
                     {0.9999999999, 0, 999999999},
                     {86400, 86400, 0},
                     {1e-9, 0, 1},
                     {18446744073709551616.0, UINT64_MAX, 0},
                     {std::nan(""), 0, 0}};
  for (const auto &one : cases) {
    Taken request(session, 512);
    const struct stat st {};
    fuse_reply_attr(&request.req, &st, one.seconds);
    fuse_attr_out out;
    REQUIRE(request.only_reply().bytes.size() == sizeof(out));
    std::memcpy(&out, request.only_reply().bytes.data(), sizeof(out));
    INFO(one.seconds);
    CHECK(out.attr_valid == one.valid);
    CHECK(out.attr_valid_nsec == one.nsec);
  }
}

// ---- data from buffers and descriptors -------------------------------------

class TempFile {
 public:
  explicit TempFile(const std::string &content) : fd(memfd_create("dispatch_test", MFD_CLOEXEC)) {
    REQUIRE(fd >= 0);
    REQUIRE(pwrite(fd, content.data(), content.size(), 0) == static_cast<ssize_t>(content.size()));
  }
  ~TempFile() { close(fd); }
  [[nodiscard]] std::string content() const {
    std::string all(4096, '\0');
    all.resize(static_cast<std::size_t>(pread(fd, all.data(), all.size(), 0)));
    return all;
  }
  int fd;
};

fuse_buf fd_buf(int fd, std::size_t size, off_t pos, unsigned flags = FUSE_BUF_FD_SEEK) {
  fuse_buf buf{};
  buf.size = size;
  buf.flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | flags);
  buf.fd = fd;
  buf.pos = pos;
  return buf;
}

/// A fuse_bufvec of several buffers.
class Buffers {
 public:
  explicit Buffers(const std::vector<fuse_buf> &bufs)
      : memory_(sizeof(fuse_bufvec) + bufs.size() * sizeof(fuse_buf)) {
    get()->count = bufs.size();
    std::copy(bufs.begin(), bufs.end(), get()->buf);
  }
  fuse_bufvec *get() { return reinterpret_cast<fuse_bufvec *>(memory_.data()); }

 private:
  std::vector<std::byte> memory_;
};

fuse_buf memory_buf(std::string &s) { return efuse::memory_bufvec(s.data(), s.size()).buf[0]; }

void check_data(std::vector<fuse_buf> bufs, const std::string &expected, std::size_t skip = 0) {
  FakeSession session(all_ops());
  for (std::size_t cap : {std::size_t{0}, expected.size(), std::size_t{4096}}) {
    Buffers buffers(bufs);
    buffers.get()->off = skip;
    Taken request(session, cap);
    CHECK(fuse_reply_data(&request.req, buffers.get(), fuse_buf_copy_flags{}) == 0);
    CHECK(request.only_reply().error == 0);
    CHECK(request.only_reply().bytes == text(expected, false));
  }
}

TEST_CASE("fuse_reply_data takes memory, files and both", "[reply][buffer]") {
  const TempFile file("0123456789");
  std::string a = "aaa", b = "bb", empty;
  check_data({memory_buf(a)}, "aaa");
  check_data({memory_buf(a)}, "a", 2);
  check_data({memory_buf(a), memory_buf(empty), memory_buf(b)}, "aaabb");
  check_data({fd_buf(file.fd, 4, 3)}, "3456");
  check_data({fd_buf(file.fd, 100, 6)}, "6789");  // to the end of the file
  check_data({memory_buf(a), fd_buf(file.fd, 4, 0), memory_buf(b)}, "aaa0123bb");
  check_data({fd_buf(file.fd, 100, 50)}, "");
  check_data(std::vector<fuse_buf>(40, memory_buf(b)), std::string(80, 'b'));  // more than iovecs at hand
}

TEST_CASE("fuse_reply_data splices what is large, in a file and wanted so", "[reply][buffer]") {
  constexpr std::size_t kLarge = 16u << 10;
  const std::string content = std::string(kLarge, 'a') + std::string(kLarge, 'b');
  const TempFile file(content);
  std::string head = "head";
  const auto kind_of = [&](std::vector<fuse_buf> bufs, std::uint64_t want, unsigned flags, const std::string &expected,
                           std::size_t skip = 0, bool able = true) {
    FakeSession session(all_ops());
    session.conn.want |= static_cast<unsigned>(want);
    Buffers buffers(bufs);
    buffers.get()->off = skip;
    Taken request(session, 0, FUSE_READ);
    request.channel.holds = able;
    CHECK(fuse_reply_data(&request.req, buffers.get(), static_cast<fuse_buf_copy_flags>(flags)) == 0);
    CHECK(request.only_reply().error == 0);
    CHECK((request.only_reply().bytes == text(expected, false)));
    CHECK(request.channel.moved == ((want & FUSE_CAP_SPLICE_MOVE) != 0 && flags == FUSE_BUF_SPLICE_MOVE));
    return request.only_reply().kind;
  };
  const fuse_buf large = fd_buf(file.fd, kLarge, 100);
  const std::string data = content.substr(100, kLarge);
  CHECK(kind_of({large}, FUSE_CAP_SPLICE_WRITE, 0, data) == Reply::held);
  CHECK(kind_of({large}, FUSE_CAP_SPLICE_WRITE, FUSE_BUF_SPLICE_MOVE, data) == Reply::held);
  CHECK(kind_of({large}, FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE, FUSE_BUF_SPLICE_MOVE, data) == Reply::held);
  CHECK(kind_of({large}, FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE, 0, data) == Reply::held);
  CHECK(kind_of({fd_buf(file.fd, 2 * kLarge, 0)}, FUSE_CAP_SPLICE_WRITE, 0, content.substr(kLarge), kLarge) ==
        Reply::held);
  CHECK(kind_of({fd_buf(file.fd, kLarge, 2 * kLarge - 5)}, FUSE_CAP_SPLICE_WRITE, 0, "bbbbb") == Reply::held);
  CHECK(kind_of({large}, 0, 0, data) == Reply::body);
  CHECK(kind_of({large}, FUSE_CAP_SPLICE_WRITE, FUSE_BUF_NO_SPLICE, data) == Reply::body);
  CHECK(kind_of({large}, FUSE_CAP_SPLICE_WRITE, 0, data, 0, false) == Reply::body);
  CHECK(kind_of({large}, FUSE_CAP_SPLICE_WRITE, 0, data.substr(1), 1) == Reply::body);  // not large enough
  CHECK(kind_of({memory_buf(head), large}, FUSE_CAP_SPLICE_WRITE, 0, head + data) == Reply::body);
}

TEST_CASE("fuse_reply_data splices nothing that a copy of the request may want too", "[reply][buffer]") {
  const std::string content(16u << 10, 'c');
  const TempFile file(content);
  FakeSession session(all_ops());
  session.conn.want |= FUSE_CAP_SPLICE_WRITE;
  Taken other(session, 0, FUSE_READ);
  REQUIRE(session.resends.keep(other.req, 0, {}) == 0);
  REQUIRE(session.resends.active());
  Buffers buffers({fd_buf(file.fd, content.size(), 0)});
  Taken request(session, 0, FUSE_READ);
  request.channel.holds = true;
  CHECK(fuse_reply_data(&request.req, buffers.get(), fuse_buf_copy_flags{}) == 0);
  CHECK(request.only_reply().kind == Reply::body);
  CHECK((request.only_reply().bytes == text(content, false)));
}

TEST_CASE("fuse_reply_data on a bad descriptor is an error reply", "[reply][buffer]") {
  FakeSession session(all_ops());
  for (std::size_t cap : {0, 4096}) {
    Buffers buffers({fd_buf(-1, 10, 0)});
    Taken request(session, cap);
    CHECK(fuse_reply_data(&request.req, buffers.get(), fuse_buf_copy_flags{}) == 0);
    CHECK(request.only_reply().error == -EBADF);
  }
}

TEST_CASE("fuse_buf_copy between memory and descriptors", "[buffer]") {
  std::string from = "abcdefgh", to(8, '.');
  SECTION("memory to memory, split unalike") {
    std::string one = "abc", two = "defgh", x(5, '.'), y(3, '.');
    Buffers src({memory_buf(one), memory_buf(two)}), dst({memory_buf(x), memory_buf(y)});
    CHECK(fuse_buf_copy(dst.get(), src.get(), fuse_buf_copy_flags{}) == 8);
    CHECK(x + y == "abcdefgh");
  }
  SECTION("memory to file and back") {
    const TempFile file("");
    Buffers src({memory_buf(from)}), mid({fd_buf(file.fd, 8, 4)}), back({fd_buf(file.fd, 8, 4)}),
        dst({memory_buf(to)});
    CHECK(fuse_buf_copy(mid.get(), src.get(), fuse_buf_copy_flags{}) == 8);
    CHECK(file.content() == std::string(4, '\0') + from);
    CHECK(fuse_buf_copy(dst.get(), back.get(), fuse_buf_copy_flags{}) == 8);
    CHECK(to == from);
  }
  SECTION("file to file") {
    const TempFile source("0123456789"), target("");
    for (int flags : {0, int{FUSE_BUF_NO_SPLICE}}) {
      Buffers src({fd_buf(source.fd, 6, 2, FUSE_BUF_FD_SEEK | FUSE_BUF_FD_RETRY)}),
          dst({fd_buf(target.fd, 6, 0)});
      CHECK(fuse_buf_copy(dst.get(), src.get(), static_cast<fuse_buf_copy_flags>(flags)) == 6);
      CHECK(target.content() == "234567");
      REQUIRE(ftruncate(target.fd, 0) == 0);
    }
    Buffers src({fd_buf(source.fd, 6, 2)}), dst({fd_buf(target.fd, 6, 0)});
    CHECK(fuse_buf_copy(dst.get(), src.get(), FUSE_BUF_FORCE_SPLICE) == -EINVAL);
  }
  SECTION("pipes") {
    int pipes[2];
    REQUIRE(pipe(pipes) == 0);
    REQUIRE(write(pipes[1], "abc", 3) == 3);
    REQUIRE(write(pipes[1], "defgh", 5) == 5);
    const TempFile target("");
    Buffers src({fd_buf(pipes[0], 8, 0, FUSE_BUF_FD_RETRY)}), dst({fd_buf(target.fd, 8, 0)});
    CHECK(fuse_buf_copy(dst.get(), src.get(), fuse_buf_copy_flags{}) == 8);
    CHECK(target.content() == from);
    close(pipes[0]);
    close(pipes[1]);
  }
  SECTION("a short read ends it; an error after data does not show") {
    const TempFile file("xy");
    Buffers src({fd_buf(file.fd, 4, 0), memory_buf(from)}), dst({memory_buf(to)});
    CHECK(fuse_buf_copy(dst.get(), src.get(), fuse_buf_copy_flags{}) == 2);
    Buffers bad({memory_buf(from), fd_buf(-1, 4, 0)});
    std::string longer(12, '.');
    Buffers into({memory_buf(longer)});
    CHECK(fuse_buf_copy(into.get(), bad.get(), fuse_buf_copy_flags{}) == 8);
    Buffers worse({fd_buf(-1, 4, 0)});
    CHECK(fuse_buf_copy(into.get(), worse.get(), fuse_buf_copy_flags{}) == -EBADF);
  }
  SECTION("sizes") {
    Buffers several({memory_buf(from), memory_buf(to)});
    CHECK(fuse_buf_size(several.get()) == 16);
    several.get()->buf[0].size = SIZE_MAX;
    CHECK(fuse_buf_size(several.get()) == SIZE_MAX);
    CHECK(fuse_buf_copy(several.get(), several.get(), fuse_buf_copy_flags{}) ==
          static_cast<ssize_t>(SIZE_MAX));
  }
}

TEST_CASE("directory entries", "[reply]") {
  const struct stat st = some_stat();
  const fuse_entry_param entry = some_entry();
  for (std::size_t length : {1, 7, 8, 9, 255}) {
    const std::string name(length, 'n');
    const std::size_t size = (24 + length + 7) / 8 * 8;
    Bytes expected = raw(std::uint64_t{1}) + raw(std::uint64_t{99}) +
                     raw(static_cast<std::uint32_t>(length)) + raw(std::uint32_t{DT_REG}) + text(name, false);
    expected.resize(size);
    const std::unique_ptr<char[]> buf(new char[size]);
    CHECK(fuse_add_direntry(nullptr, nullptr, 0, name.c_str(), &st, 99) == size);
    CHECK(fuse_add_direntry(nullptr, buf.get(), size - 1, name.c_str(), &st, 99) == size);
    CHECK(fuse_add_direntry(nullptr, buf.get(), size, name.c_str(), &st, 99) == size);
    CHECK(std::memcmp(buf.get(), expected.data(), size) == 0);

    const std::size_t plus = size + sizeof(fuse_entry_out);
    const Bytes expected_plus = raw(some_entry_out()) + expected;
    const std::unique_ptr<char[]> buf_plus(new char[plus]);
    CHECK(fuse_add_direntry_plus(nullptr, nullptr, 0, name.c_str(), &entry, 99) == plus);
    CHECK(fuse_add_direntry_plus(nullptr, buf_plus.get(), plus - 1, name.c_str(), &entry, 99) == plus);
    CHECK(fuse_add_direntry_plus(nullptr, buf_plus.get(), plus, name.c_str(), &entry, 99) == plus);
    CHECK(std::memcmp(buf_plus.get(), expected_plus.data(), plus) == 0);
  }
}

// ---- notifications ---------------------------------------------------------

void check_notified(FakeSession &session, int result, std::int32_t code, const Bytes &body) {
  CHECK(result == 0);
  REQUIRE(session.notifications.size() == 1);
  CHECK(session.notifications[0].code == code);
  CHECK(session.notifications[0].body == body);
  session.notifications.clear();
}

TEST_CASE("notifications have the protocol's bytes", "[notify]") {
  FakeSession session(all_ops());
  fuse_session *se = efuse::to_handle(session);
  check_notified(session, fuse_lowlevel_notify_inval_inode(se, 5, -1, 10), FUSE_NOTIFY_INVAL_INODE,
                 raw(fuse_notify_inval_inode_out{5, -1, 10}));
  const char name[] = {'n', 'a', 'm', 'e'};  // not terminated
  check_notified(session, fuse_lowlevel_notify_inval_entry(se, 5, name, 4), FUSE_NOTIFY_INVAL_ENTRY,
                 raw(fuse_notify_inval_entry_out{5, 4, 0}) + text("name"));
#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 17)
  check_notified(session, fuse_lowlevel_notify_expire_entry(se, 5, name, 4, FUSE_LL_EXPIRE_ONLY),
                 FUSE_NOTIFY_INVAL_ENTRY,
                 raw(fuse_notify_inval_entry_out{5, 4, FUSE_EXPIRE_ONLY}) + text("name"));
#endif
  check_notified(session, fuse_lowlevel_notify_delete(se, 5, 6, name, 4), FUSE_NOTIFY_DELETE,
                 raw(fuse_notify_delete_out{5, 6, 4, 0}) + text("name"));
  CHECK(fuse_lowlevel_notify_poll(nullptr) == 0);
  CHECK(session.notifications.empty());
}

TEST_CASE("a poll handle notifies until it is destroyed", "[notify]") {
  FakeSession session(all_ops());
  Request request(session, FUSE_POLL, raw(fuse_poll_in{3, 88, FUSE_POLL_SCHEDULE_NOTIFY, 5}));
  request.dispatch();
  REQUIRE(session.pollhandle);
  check_notified(session, fuse_lowlevel_notify_poll(session.pollhandle), FUSE_NOTIFY_POLL,
                 raw(fuse_notify_poll_wakeup_out{88}));
  fuse_pollhandle_destroy(session.pollhandle);
}

TEST_CASE("store sends memory and files, with the size that was there", "[notify][buffer]") {
  FakeSession session(all_ops());
  fuse_session *se = efuse::to_handle(session);
  std::string data = "stored";
  const TempFile file("0123");
  Buffers memory({memory_buf(data)});
  check_notified(session, fuse_lowlevel_notify_store(se, 5, 100, memory.get(), fuse_buf_copy_flags{}),
                 FUSE_NOTIFY_STORE, raw(fuse_notify_store_out{5, 100, 6, 0}) + text("stored", false));
  Buffers both({memory_buf(data), fd_buf(file.fd, 10, 1)});
  check_notified(session, fuse_lowlevel_notify_store(se, 5, 100, both.get(), fuse_buf_copy_flags{}),
                 FUSE_NOTIFY_STORE, raw(fuse_notify_store_out{5, 100, 9, 0}) + text("stored123", false));
  Buffers bad({fd_buf(-1, 10, 1)});
  CHECK(fuse_lowlevel_notify_store(se, 5, 100, bad.get(), fuse_buf_copy_flags{}) == -EBADF);
}

TEST_CASE("retrieve finds its cookie, once", "[notify]") {
  FakeSession session(all_ops());
  fuse_session *se = efuse::to_handle(session);
  auto *cookie = reinterpret_cast<void *>(std::uintptr_t{1234});
  CHECK(fuse_lowlevel_notify_retrieve(se, 5, 4096, 100, cookie) == 0);
  REQUIRE(session.notifications.size() == 1);
  fuse_notify_retrieve_out sent;
  REQUIRE(session.notifications[0].body.size() == sizeof(sent));
  std::memcpy(&sent, session.notifications[0].body.data(), sizeof(sent));
  CHECK(session.notifications[0].code == FUSE_NOTIFY_RETRIEVE);
  CHECK(raw(sent) == raw(fuse_notify_retrieve_out{sent.notify_unique, 5, 100, 4096, 0}));

  fuse_notify_retrieve_in in{};
  in.offset = 100;
  in.size = 4;
  auto head = header(FUSE_NOTIFY_REPLY, sizeof(in) + 4);
  head.unique = sent.notify_unique;
  for (int again = 0; again < 2; ++again) {
    Request reply(session, raw(head) + raw(in), text("page", false));
    CHECK(reply.dispatch().kind == Reply::dropped);
  }
  CHECK(session.calls == std::vector<std::string>{"retrieve_reply 1234 7 100 page"});

  session.notify_result = -ENOENT;
  CHECK(fuse_lowlevel_notify_retrieve(se, 5, 4096, 100, cookie) == -ENOENT);
  CHECK(session.retrieves.empty());
}

TEST_CASE("notifications where there is no session, no INIT, or an old kernel", "[notify]") {
  FakeSession session(all_ops());
  fuse_session *se = efuse::to_handle(session);
  CHECK(fuse_lowlevel_notify_inval_inode(nullptr, 1, 0, 0) == -EINVAL);
  CHECK(fuse_lowlevel_notify_inval_entry(nullptr, 1, "x", 1) == -EINVAL);
  CHECK(fuse_lowlevel_notify_delete(nullptr, 1, 2, "x", 1) == -EINVAL);
  CHECK(fuse_lowlevel_notify_retrieve(nullptr, 1, 2, 3, nullptr) == -EINVAL);
  session.conn.proto_minor = 17;
  CHECK(fuse_lowlevel_notify_delete(se, 1, 2, "x", 1) == -ENOSYS);
  session.conn.proto_minor = 11;
  CHECK(fuse_lowlevel_notify_inval_inode(se, 1, 0, 0) == -ENOSYS);
  session.conn.proto_minor = 41;
  session.got_init = false;
  CHECK(fuse_lowlevel_notify_inval_inode(se, 1, 0, 0) == -ENOTCONN);
  CHECK(fuse_lowlevel_notify_retrieve(se, 1, 2, 3, nullptr) == -ENOTCONN);
  CHECK(session.retrieves.empty());
  CHECK(session.notifications.empty());
}

// ---- interrupts ------------------------------------------------------------

TEST_CASE("INTERRUPT goes to the session and is not answered", "[interrupt]") {
  FakeSession session(all_ops());
  Request request(session, FUSE_INTERRUPT, raw(fuse_interrupt_in{0x777}));
  CHECK(request.dispatch().kind == Reply::dropped);
  CHECK(session.interrupts == std::vector<std::uint64_t>{0x777});
  Request cut(session, FUSE_INTERRUPT, Bytes(7));
  CHECK(cut.dispatch().kind == Reply::dropped);
  CHECK(session.interrupts.size() == 1);
}

void count_interrupt(fuse_req_t, void *data) { ++*static_cast<int *>(data); }

TEST_CASE("an interrupt runs the function of the request it is for", "[interrupt]") {
  FakeSession session(all_ops());
  Taken request(session, 64);
  int calls = 0;
  fuse_req_interrupt_func(&request.req, count_interrupt, &calls);
  CHECK(calls == 0);
  SECTION("for this one") {
    efuse::mark_interrupted(request.req, kUnique);
    CHECK(calls == 1);
    CHECK(fuse_req_interrupted(&request.req) == 1);
    fuse_reply_err(&request.req, EINTR);
  }
  SECTION("for another one") {
    efuse::mark_interrupted(request.req, kUnique + 2);
    CHECK(calls == 0);
    CHECK(fuse_req_interrupted(&request.req) == 0);
    fuse_reply_err(&request.req, 0);
  }
  SECTION("after the reply") {
    fuse_reply_err(&request.req, 0);
    efuse::mark_interrupted(request.req, kUnique);
    CHECK(calls == 0);
  }
  SECTION("after the reply, with the next request in the object") {
    fuse_reply_err(&request.req, 0);
    request.req.unique = kUnique + 4;
    efuse::mark_interrupted(request.req, kUnique);
    CHECK(calls == 0);
    CHECK(fuse_req_interrupted(&request.req) == 0);
  }
  SECTION("unregistered") {
    fuse_req_interrupt_func(&request.req, nullptr, nullptr);
    efuse::mark_interrupted(request.req, kUnique);
    CHECK(calls == 0);
    CHECK(fuse_req_interrupted(&request.req) == 1);
  }
}

TEST_CASE("a function registered after the interrupt runs at once", "[interrupt]") {
  FakeSession session(all_ops());
  Taken request(session, 64);
  int calls = 0;
  efuse::mark_interrupted(request.req, kUnique);
  CHECK(fuse_req_interrupted(&request.req) == 1);
  fuse_req_interrupt_func(&request.req, count_interrupt, &calls);
  CHECK(calls == 1);
}

TEST_CASE("an interrupt that came before its request is asked for", "[interrupt]") {
  auto ops = all_ops();
  ops.lookup = [](R r, I, const char *) { done(r, "interrupted", fuse_req_interrupted(r)); };
  FakeSession session(ops);
  session.early_unique = kUnique;
  Request without(session, FUSE_LOOKUP, text("x"));
  without.dispatch();
  CHECK(session.early_asked == 0);  // nobody waits: no cost
  session.early_interrupts = 1;
  Request with(session, FUSE_LOOKUP, text("x"));
  with.dispatch();
  CHECK(session.early_asked == 1);
  CHECK(session.calls == std::vector<std::string>{"interrupted 0", "interrupted 1"});
}

TEST_CASE("an interrupt function may reply, also under a lock that the replier holds", "[interrupt]") {
  FakeSession session(all_ops());
  SECTION("from inside") {
    Taken request(session, 64);
    fuse_req_interrupt_func(
        &request.req, [](fuse_req_t req, void *) { fuse_reply_err(req, EINTR); }, nullptr);
    efuse::mark_interrupted(request.req, kUnique);
    CHECK(request.only_reply().error == -EINTR);
  }
  SECTION("another thread replies meanwhile and does not wait") {
    Taken request(session, 64);
    struct Shared {
      std::promise<void> entered, leave;
    } shared;
    fuse_req_interrupt_func(&request.req, [](fuse_req_t, void *data) {
      auto &s = *static_cast<Shared *>(data);
      s.entered.set_value();
      s.leave.get_future().wait();
    }, &shared);
    std::thread interrupter([&] { efuse::mark_interrupted(request.req, kUnique); });
    shared.entered.get_future().wait();
    fuse_reply_err(&request.req, 0);  // hangs here if a reply waits
    int calls = 0;
    Taken other(session, 64);
    other.req.unique = kUnique + 2;
    fuse_req_interrupt_func(&other.req, count_interrupt, &calls);  // and other requests go on
    efuse::mark_interrupted(other.req, kUnique + 2);
    CHECK(calls == 1);
    shared.leave.set_value();
    interrupter.join();
    CHECK(request.only_reply().error == 0);
    CHECK(session.running_interrupts == nullptr);
  }
  SECTION("taking the function away waits until it is done") {
    Taken request(session, 64);
    struct Shared {
      std::promise<void> entered;
      std::atomic<bool> finished{false};
    } shared;
    fuse_req_interrupt_func(&request.req, [](fuse_req_t, void *data) {
      auto &s = *static_cast<Shared *>(data);
      s.entered.set_value();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      s.finished = true;
    }, &shared);
    std::thread interrupter([&] { efuse::mark_interrupted(request.req, kUnique); });
    shared.entered.get_future().wait();
    fuse_req_interrupt_func(&request.req, nullptr, nullptr);
    CHECK(shared.finished);
    interrupter.join();
    fuse_reply_err(&request.req, 0);
  }
}

TEST_CASE("interrupts race with replies and reuse", "[interrupt]") {
  FakeSession session(all_ops());
  Taken request(session, 64);
  std::atomic<std::uint64_t> now{kUnique};
  std::atomic<bool> stop{false};
  std::atomic<int> calls{0};
  std::thread interrupter([&] {
    while (!stop) efuse::mark_interrupted(request.req, now.load());
  });
  for (int i = 0; i < 20000; ++i) {
    const std::uint64_t unique = kUnique + 2 * static_cast<std::uint64_t>(i);
    request.req.unique = unique;
    now = unique;
    fuse_req_interrupt_func(&request.req, [](fuse_req_t, void *data) {
      ++*static_cast<std::atomic<int> *>(data);
    }, &calls);
    fuse_req_interrupt_func(&request.req, nullptr, nullptr);
    const int before = calls;
    fuse_reply_err(&request.req, 0);
    CHECK(calls == before);  // it was taken away: not one more
    request.channel.replies.clear();
  }
  stop = true;
  interrupter.join();
  CHECK(session.running_interrupts == nullptr);
}

// ---- what a request knows --------------------------------------------------

TEST_CASE("groups of the caller", "[request]") {
  FakeSession session(all_ops());
  Taken request(session, 0);
  request.req.ctx.pid = getpid();
  std::vector<gid_t> expected(static_cast<std::size_t>(getgroups(0, nullptr)));
  getgroups(static_cast<int>(expected.size()), expected.data());
  std::sort(expected.begin(), expected.end());
  std::vector<gid_t> groups(expected.size() + 1);
  REQUIRE(fuse_req_getgroups(&request.req, static_cast<int>(groups.size()), groups.data()) ==
          static_cast<int>(expected.size()));
  groups.resize(expected.size());
  std::sort(groups.begin(), groups.end());
  CHECK(groups == expected);
  CHECK(fuse_req_getgroups(&request.req, 0, nullptr) == static_cast<int>(expected.size()));
  request.req.ctx.pid = 0;
  CHECK(fuse_req_getgroups(&request.req, 0, nullptr) == -EIO);
}

// ---- INIT ------------------------------------------------------------------

constexpr std::uint64_t kLinux612 = (0x3fffffffull & ~std::uint64_t{FUSE_MAP_ALIGNMENT | FUSE_SUBMOUNTS}) |
                                    FUSE_INIT_EXT | FUSE_SECURITY_CTX | efuse::protocol::kCreateSuppGroup |
                                    efuse::protocol::kHasExpireOnly | efuse::protocol::kDirectIoAllowMmap |
                                    efuse::protocol::kPassthrough | efuse::protocol::kNoExportSupport |
                                    efuse::protocol::kHasResend | efuse::protocol::kAllowIdmap;

fuse_init_in init_in(std::uint32_t minor = 41, std::uint64_t flags = kLinux612) {
  fuse_init_in in{};
  in.major = 7;
  in.minor = minor;
  in.max_readahead = 131072;
  in.flags = static_cast<std::uint32_t>(flags);
  in.flags2 = static_cast<std::uint32_t>(flags >> 32);
  return in;
}

struct InitSession : FakeSession {
  explicit InitSession(const fuse_lowlevel_ops &ops = all_ops()) : FakeSession(ops) {
    got_init = false;
    conn.want = 0;
    conn.proto_minor = proto_minor = 0;
    conn.max_write = 1 << 20;
    conn.max_background = 64;
    conn.congestion_threshold = 48;
  }
};

efuse::protocol::InitOut init_reply(FakeSession &session, const fuse_init_in &in) {
  Request request(session, FUSE_INIT, raw(in), {}, 128);
  const Reply &reply = request.dispatch();
  REQUIRE(reply.error == 0);
  efuse::protocol::InitOut out{};
  REQUIRE(reply.bytes.size() <= sizeof(out));
  std::memcpy(&out, reply.bytes.data(), reply.bytes.size());
  return out;
}

std::uint64_t flags_of(const efuse::protocol::InitOut &out) {
  return out.flags | std::uint64_t{out.flags2} << 32;
}

fuse_lowlevel_ops with_init(void (*init)(void *, fuse_conn_info *)) {
  auto ops = all_ops();
  ops.init = init;
  return ops;
}

TEST_CASE("INIT with Linux 6.12", "[init]") {
  InitSession session(with_init([](void *data, fuse_conn_info *conn) {
    auto &s = *static_cast<FakeSession *>(data);
    s.calls.emplace_back("init");
    CHECK(conn->proto_major == 7);
    CHECK(conn->proto_minor == 41);
    CHECK(conn->max_readahead == 131072);
    CHECK((conn->capable & FUSE_CAP_WRITEBACK_CACHE));
    CHECK((conn->capable & FUSE_CAP_EXPIRE_ONLY));
    CHECK((conn->capable & (FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE)) ==
          (FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE));
    CHECK((conn->want & (FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE)) == 0);
    CHECK(conn->time_gran == 1);
    CHECK_FALSE(s.got_init);
  }));
  const auto out = init_reply(session, init_in());
  CHECK(session.calls == std::vector<std::string>{"init"});
  CHECK(session.got_init);
  CHECK(session.exits.empty());
  CHECK(out.major == 7);
  CHECK(out.minor == 41);
  CHECK(out.max_readahead == 131072);
  CHECK(out.max_write == 1 << 20);
  CHECK(out.max_pages == (1 << 20) / sysconf(_SC_PAGESIZE));
  CHECK(out.max_background == 64);
  CHECK(out.congestion_threshold == 48);
  CHECK(out.time_gran == 1);
  CHECK(session.proto_minor == 41);
  CHECK(session.kernel_flags == kLinux612);
  CHECK(session.buf_size >= (1 << 20) + sizeof(fuse_in_header) + sizeof(fuse_write_in));
#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 17)
  CHECK(session.conn.want ==
        (FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_AUTO_INVAL_DATA |
         FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_ASYNC_DIO | FUSE_CAP_IOCTL_DIR | FUSE_CAP_ATOMIC_O_TRUNC |
         FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO));
#endif
  CHECK(flags_of(out) == (FUSE_ASYNC_READ | FUSE_PARALLEL_DIROPS | FUSE_AUTO_INVAL_DATA | FUSE_ASYNC_DIO |
                          FUSE_ATOMIC_O_TRUNC | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_DO_READDIRPLUS |
                          FUSE_READDIRPLUS_AUTO | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_INIT_EXT));
  CHECK(session.init_flags == flags_of(out));
}

TEST_CASE("INIT asks for nothing that the filesystem cannot do", "[init]") {
  InitSession session{fuse_lowlevel_ops{}};
  const auto flags = flags_of(init_reply(session, init_in()));
  CHECK((flags & (FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO)) == 0);
  fuse_lowlevel_ops only_plus{};
  only_plus.readdirplus = all_ops().readdirplus;
  InitSession plus(only_plus);
  CHECK((flags_of(init_reply(plus, init_in())) & (FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO)) ==
        FUSE_DO_READDIRPLUS);
}

TEST_CASE("INIT with older kernels", "[init]") {
  SECTION("no INIT_EXT, the short request of 7.35") {
    InitSession session;
    auto in = init_in(35, kLinux612 & 0xffffffff & ~std::uint64_t{FUSE_INIT_EXT});
    Request request(session, FUSE_INIT, prefix(raw(in), 16));
    CHECK(request.dispatch().error == 0);
    CHECK(session.got_init);
    CHECK(session.proto_minor == 35);
    CHECK((session.init_flags >> 32) == 0);
    CHECK((session.conn.capable & FUSE_CAP_EXPIRE_ONLY) == 0);
  }
  SECTION("flags2 counts only with INIT_EXT") {
    InitSession session;
    auto in = init_in();
    in.flags &= ~std::uint32_t{FUSE_INIT_EXT};
    init_reply(session, in);
    CHECK((session.kernel_flags >> 32) == 0);
  }
  SECTION("no MAX_PAGES: 32 pages") {
    InitSession session;
    const auto out =
        init_reply(session, init_in(27, kLinux612 & ~std::uint64_t{FUSE_MAX_PAGES | FUSE_INIT_EXT}));
    CHECK(out.max_write == 32 * sysconf(_SC_PAGESIZE));
    CHECK(out.max_pages == 0);
  }
  SECTION("7.22 takes the short reply") {
    InitSession session;
    Request request(session, FUSE_INIT, prefix(raw(init_in(22, FUSE_ASYNC_READ)), 16));
    CHECK(request.dispatch().bytes.size() == FUSE_COMPAT_22_INIT_OUT_SIZE);
    CHECK(session.got_init);
  }
  SECTION("7.16 is too old") {
    InitSession session;
    const LogCapture log;
    Request request(session, FUSE_INIT, raw(init_in(16)));
    CHECK(request.dispatch().error == -EPROTO);
    CHECK_FALSE(session.got_init);
    CHECK(session.exits == std::vector<int>{EPROTO});
    CHECK(log.lines == "efuse: the kernel speaks FUSE protocol 7.16, 7.17 or newer is needed\n");
  }
  SECTION("6.x is too old") {
    InitSession session;
    const LogCapture log;
    auto in = init_in();
    in.major = 6;
    Request request(session, FUSE_INIT, prefix(raw(in), 8));
    CHECK(request.dispatch().error == -EPROTO);
    CHECK(session.exits == std::vector<int>{EPROTO});
  }
}

TEST_CASE("INIT with newer kernels", "[init]") {
  SECTION("8.0 is told 7.x and asks again") {
    InitSession session(with_init([](void *data, fuse_conn_info *) {
      static_cast<FakeSession *>(data)->calls.emplace_back("init");
    }));
    auto in = init_in();
    in.major = 8;
    in.minor = 0;
    const auto first = init_reply(session, in);
    CHECK(first.major == 7);
    CHECK(first.minor == 41);
    CHECK_FALSE(session.got_init);
    CHECK(session.exits.empty());
    CHECK(session.calls.empty());
    init_reply(session, init_in());
    CHECK(session.got_init);
    CHECK(session.calls.size() == 1);
  }
  SECTION("7.99 is met at ours") {
    InitSession session;
    CHECK(init_reply(session, init_in(99, ~0ull)).minor == 41);
    CHECK(session.proto_minor == 41);
    CHECK(session.conn.proto_minor == 99);
  }
}

TEST_CASE("no truncated INIT gets through", "[init]") {
  const Bytes whole = raw(init_in());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    InitSession session;
    Request request(session, FUSE_INIT, prefix(whole, size));
    INFO(size);
    CHECK(request.dispatch().error == -EIO);
    CHECK_FALSE(session.got_init);
  }
}

TEST_CASE("init() chooses", "[init]") {
  SECTION("capabilities and limits") {
    InitSession session(with_init([](void *, fuse_conn_info *conn) {
      conn->want |= FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_EXPORT_SUPPORT;
      conn->want &= ~static_cast<unsigned>(FUSE_CAP_ASYNC_READ);
      conn->max_write = 65536;
      conn->max_readahead = 4096;
      conn->max_background = 100000;
      conn->congestion_threshold = 0;
      conn->time_gran = 1000;
    }));
    const auto out = init_reply(session, init_in());
    CHECK((flags_of(out) & FUSE_WRITEBACK_CACHE));
    CHECK((flags_of(out) & FUSE_EXPORT_SUPPORT));
    CHECK((flags_of(out) & FUSE_ASYNC_READ) == 0);
    CHECK(out.max_write == 65536);
    CHECK(out.max_pages == 65536 / sysconf(_SC_PAGESIZE));
    CHECK(out.max_readahead == 4096);
    CHECK(out.max_background == 65535);
    CHECK(out.congestion_threshold == 49151);
    CHECK(out.time_gran == 1000);
  }
  SECTION("max_write stays between what the kernel needs and what the session set") {
    for (unsigned wish : {0u, 1u, 1u << 30}) {
      static unsigned wished;
      wished = wish;
      InitSession session(with_init([](void *, fuse_conn_info *conn) { conn->max_write = wished; }));
      CHECK(init_reply(session, init_in()).max_write == (wish > 4096 ? 1u << 20 : 4096u));
      CHECK(session.buf_size >= 65536 + 4096);  // an xattr's value always fits
    }
  }
}

TEST_CASE("init() cannot have what is not there", "[init]") {
  const LogCapture log;
  auto refused = [](void (*init)(void *, fuse_conn_info *), std::uint64_t kernel) {
    InitSession session(with_init(init));
    Request request(session, FUSE_INIT, raw(init_in(41, kernel)));
    CHECK(request.dispatch().error == -EPROTO);
    CHECK_FALSE(session.got_init);
    CHECK(session.exits == std::vector<int>{EPROTO});
    CHECK(session.calls == std::vector<std::string>{"destroy"});
    CHECK(session.got_destroy);
  };
  refused([](void *, fuse_conn_info *conn) { conn->want |= FUSE_CAP_SPLICE_READ; }, kLinux612);
  CHECK(log.lines == "efuse: init() wants capabilities 0x200, which this kernel or transport lacks\n");
  refused([](void *, fuse_conn_info *conn) { conn->want |= FUSE_CAP_WRITEBACK_CACHE; },
          kLinux612 & ~std::uint64_t{FUSE_WRITEBACK_CACHE});
  refused([](void *, fuse_conn_info *conn) { conn->max_read = 4096; }, kLinux612);
}

TEST_CASE("a transport's INIT flags are taken where the kernel has them", "[init]") {
  InitSession session;
  session.init_flags = efuse::protocol::kHasResend | 1ull << 62;
  const auto flags = flags_of(init_reply(session, init_in()));
  CHECK((flags & efuse::protocol::kHasResend));
  CHECK((flags & 1ull << 62) == 0);
}

// ---- what the installed headers may lack ------------------------------------

TEST_CASE("the callbacks after lseek are called", "[dispatch]") {
  FakeSession session(all_ops());
  session.extended.tmpfile = [](R r, I i, mode_t m, F f) {
    note(r, "tmpfile", i, m, f, fuse_req_ctx(r)->umask);
    const fuse_entry_param e{};
    fuse_reply_create(r, &e, f);
  };
  session.extended.statx = [](R r, I i, int flags, int mask, F f) { done(r, "statx", i, flags, mask, f); };
  session.extended.syncfs = [](R r, I i) { done(r, "syncfs", i); };
  Request tmpfile(session, FUSE_TMPFILE, raw(fuse_create_in{O_RDWR, 0600, 022, 0}) + text("#1/2"), {}, 256);
  CHECK(tmpfile.dispatch().bytes.size() == sizeof(fuse_entry_out) + sizeof(fuse_open_out));
  Request statx(session, efuse::protocol::kOpStatx, raw(efuse::protocol::StatxIn{1, 0, 3, 4, 0xfff}));
  statx.dispatch();
  Request unopened(session, efuse::protocol::kOpStatx, raw(efuse::protocol::StatxIn{0, 0, 3, 4, 0xfff}));
  unopened.dispatch();
  Request syncfs(session, FUSE_SYNCFS, raw(fuse_syncfs_in{}));
  syncfs.dispatch();
  CHECK(session.calls == std::vector<std::string>{"tmpfile 7 384 fi:fh=0,flags=2,owner=0 18",
                                                  "statx 7 4 4095 fi:fh=3,flags=0,owner=0",
                                                  "statx 7 4 4095 fi:none", "syncfs 7"});
}

TEST_CASE("a table with the callbacks after lseek is taken whole", "[dispatch]") {
  efuse_lowlevel_ops ops{};
  ops.base = all_ops();
  ops.syncfs = [](R r, I i) { done(r, "syncfs", i); };
  struct Whole final : efuse::SessionCore {
    explicit Whole(const efuse_lowlevel_ops &table) : SessionCore(&table.base, sizeof(table), nullptr) {}
    int notify(std::int32_t, std::span<const iovec>) noexcept override { return 0; }
    void interrupt(std::uint64_t) noexcept override {}
    void exit(int) noexcept override {}
  };
  const Whole session(ops);
  CHECK(session.ops.lseek == ops.base.lseek);
  CHECK(session.extended.tmpfile == nullptr);
  CHECK(session.extended.syncfs == ops.syncfs);
}

TEST_CASE("a reply with a backing file says so, once", "[reply]") {
  auto ops = all_ops();
  ops.open = [](R r, I, F f) {
    if (f->flags == O_RDWR) efuse_reply_backing(r, 12);
    fuse_reply_open(r, f);
  };
  FakeSession session(ops);
  Request request(session, FUSE_OPEN, raw(fuse_open_in{O_RDWR, 0}), {}, 64);
  CHECK(request.dispatch().bytes == raw(efuse::protocol::OpenOut{0, efuse::protocol::kFopenPassthrough, 12}));
  Request reused(session, FUSE_OPEN, raw(fuse_open_in{O_RDONLY, 0}), {}, 64);
  reused.req.backing_id = 12;  // of an earlier request in this object
  CHECK(reused.dispatch().bytes == raw(efuse::protocol::OpenOut{}));
}

TEST_CASE("backing files where there is no connection", "[reply]") {
  const LogCapture log;
  FakeSession session(all_ops());
  Taken request(session, 0);
  CHECK(fuse_passthrough_open(&request.req, 0) == 0);
  CHECK(errno == EBADF);
  CHECK(fuse_passthrough_close(&request.req, 1) == -1);
  CHECK(errno == EBADF);
}

TEST_CASE("the payload is the reply area", "[request]") {
  FakeSession session(all_ops());
  Taken with(session, 100), without(session, 0);
  char *payload = nullptr;
  std::size_t size = 0;
  void *mr = &size;
  CHECK(fuse_req_get_payload(&with.req, &payload, &size, &mr) == 0);
  CHECK(static_cast<void *>(payload) == with.req.out);
  CHECK(size == 100);
  CHECK(mr == nullptr);
  CHECK(fuse_req_get_payload(&without.req, &payload, &size, nullptr) == -EINVAL);
  CHECK_FALSE(fuse_req_is_uring(&with.req));
}

TEST_CASE("notifications of newer kernels", "[notify]") {
  FakeSession session(all_ops());
  fuse_session *se = efuse::to_handle(session);
  fuse_ino_t nodes[] = {5, 6};
  CHECK(fuse_lowlevel_notify_increment_epoch(se) == -ENOSYS);
  CHECK(fuse_lowlevel_notify_prune(se, nodes, 2) == -ENOSYS);
  CHECK(efuse_notify_resend(se) == -ENOSYS);
  CHECK(session.notifications.empty());
  session.conn.proto_minor = 45;
  session.kernel_flags = efuse::protocol::kHasResend;
  check_notified(session, fuse_lowlevel_notify_increment_epoch(se), 8, {});
  check_notified(session, fuse_lowlevel_notify_prune(se, nodes, 2), 9,
                 raw(efuse::protocol::NotifyPruneOut{2, 0, 0}) + raw(nodes));
  check_notified(session, efuse_notify_resend(se), 7, {});
  CHECK(efuse_notify_resend(nullptr) == -EINVAL);
}

TEST_CASE("init() chooses with feature flags", "[init]") {
  InitSession session(with_init([](void *, fuse_conn_info *conn) {
    CHECK(fuse_get_feature_flag(conn, FUSE_CAP_ASYNC_READ));
    fuse_unset_feature_flag(conn, FUSE_CAP_ASYNC_READ);
    CHECK_FALSE(fuse_get_feature_flag(conn, FUSE_CAP_ASYNC_READ));
    CHECK(fuse_set_feature_flag(conn, FUSE_CAP_EXPORT_SUPPORT));
    conn->want |= FUSE_CAP_WRITEBACK_CACHE;  // the old way beside the new
    CHECK_FALSE(fuse_set_feature_flag(conn, FUSE_CAP_SPLICE_READ));
    CHECK(fuse_set_conn_flag(conn, FUSE_CONN_FLAG_NO_INTERRUPT));
    CHECK_FALSE(fuse_set_conn_flag(conn, 1u << 31));
  }));
  const auto flags = flags_of(init_reply(session, init_in()));
  CHECK((flags & FUSE_EXPORT_SUPPORT));
  CHECK((flags & FUSE_WRITEBACK_CACHE));
  CHECK((flags & FUSE_ASYNC_READ) == 0);
  Request interrupt(session, FUSE_INTERRUPT, raw(fuse_interrupt_in{kUnique}));
  CHECK(interrupt.dispatch().error == -ENOSYS);
  CHECK(session.interrupts.empty());
}

TEST_CASE("passthrough is agreed on", "[init]") {
  static int said;
  const auto want = [](void *, fuse_conn_info *conn) {
    fuse_set_feature_flag(conn, FUSE_CAP_WRITEBACK_CACHE);
    CHECK(efuse_want_passthrough(conn, 2) == -EINVAL);
    said = efuse_want_passthrough(conn, 1);
  };
  SECTION("with Linux 6.12") {
    InitSession session(with_init(want));
    const auto out = init_reply(session, init_in());
    CHECK(said == 0);
    CHECK((flags_of(out) & efuse::protocol::kPassthrough));
    CHECK((flags_of(out) & FUSE_WRITEBACK_CACHE) == 0);
    CHECK(out.max_stack_depth == 2);
  }
  SECTION("not with a kernel that has none") {
    InitSession session(with_init(want));
    const auto out = init_reply(session, init_in(39, kLinux612 & ~efuse::protocol::kPassthrough));
    CHECK(said == -EOPNOTSUPP);
    CHECK((flags_of(out) & efuse::protocol::kPassthrough) == 0);
    CHECK(out.max_stack_depth == 0);
  }
}

// ---- twice -----------------------------------------------------------------

TEST_CASE("the first reply counts", "[reply]") {
  const LogCapture log;
  auto ops = all_ops();
  ops.getattr = [](R, I, F) {};
  FakeSession session(ops);
  Request request(session, FUSE_GETATTR, raw(fuse_getattr_in{}), {}, 256);
  efuse::dispatch(request.req);
  CHECK(fuse_reply_err(&request.req, ENOENT) == 0);
  const struct stat attr {};
  CHECK(fuse_reply_attr(&request.req, &attr, 1) == -ENOENT);
  CHECK(fuse_reply_buf(&request.req, "more", 4) == -ENOENT);
  CHECK(fuse_reply_err(&request.req, 0) == -ENOENT);
  CHECK(request.only_reply().error == -ENOENT);
  CHECK(request.req.out[0] == std::byte{0xEE});  // not even written to
  CHECK(log.lines == "efuse: the filesystem has replied twice to a request (GETATTR); second replies are ignored\n");
}

TEST_CASE("of replies from many threads one counts", "[reply]") {
  const LogCapture log;
  auto ops = all_ops();
  ops.getattr = [](R, I, F) {};
  FakeSession session(ops);
  for (int round = 0; round < 200; ++round) {
    Request request(session, FUSE_GETATTR, raw(fuse_getattr_in{}));
    efuse::dispatch(request.req);
    std::atomic<int> taken{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) threads.emplace_back([&] { taken += fuse_reply_err(&request.req, 0) == 0; });
    for (std::thread &thread : threads) thread.join();
    CHECK(taken == 1);
    CHECK(request.only_reply().error == 0);
  }
}

/// A session that knows the requests with the filesystem, as the transports do.
struct ResendSession : FakeSession {
  static fuse_lowlevel_ops waiting_ops() {
    auto ops = all_ops();
    ops.mkdir = [](R r, I, const char *, mode_t) { note(r, "mkdir"); };  // answered later
    return ops;
  }
  ResendSession() : FakeSession(waiting_ops()) { resends.first_may_follow = true; }
  bool serves(std::uint64_t unique) noexcept override {
    return std::any_of(known.begin(), known.end(), [&](const fuse_req *req) { return req->owed == unique; });
  }
  std::vector<fuse_req *> known;
};

/// MKDIR, with the mark or without.
class Mkdir : public Request {
 public:
  Mkdir(ResendSession &session, std::uint64_t mark)
      : Request(session, message(mark), {}, 256) {
    session.known.push_back(&req);
    efuse::dispatch(req);
  }

 private:
  static Bytes message(std::uint64_t mark) {
    const Bytes args = raw(fuse_mkdir_in{0700, 0}) + text("d");
    fuse_in_header in = header(FUSE_MKDIR, args.size());
    in.unique |= mark;
    return raw(in) + args;
  }
};
constexpr std::uint64_t kMark = efuse::protocol::kUniqueResend;

TEST_CASE("a request that is sent again waits for the first one's reply", "[resend]") {
  ResendSession session;
  Mkdir first(session, 0), again(session, kMark), once_more(session, kMark);
  CHECK(session.calls == std::vector<std::string>{"mkdir"});
  CHECK(again.channel.replies.empty());
  SECTION("a body, in place and handed over") {
    const fuse_entry_param e{};
    CHECK(fuse_reply_entry(&first.req, &e) == 0);
    for (Mkdir *each : {&first, &again, &once_more}) {
      CHECK(each->only_reply().error == 0);
      CHECK(each->only_reply().bytes == first.only_reply().bytes);
    }
    CHECK(first.only_reply().bytes.size() == sizeof(fuse_entry_out));
  }
  SECTION("an error") {
    CHECK(fuse_reply_err(&first.req, EEXIST) == 0);
    for (Mkdir *each : {&first, &again, &once_more}) CHECK(each->only_reply().error == -EEXIST);
  }
  CHECK_FALSE(session.resends.active());
  Mkdir late(session, kMark);  // the first reply may have been lost: served
  CHECK(session.calls.size() == 2);
  fuse_reply_err(&late.req, 0);
}

TEST_CASE("a request that is overtaken by its copy is dropped, once", "[resend]") {
  ResendSession session;
  Mkdir again(session, kMark);
  CHECK(session.calls.size() == 1);
  SECTION("while the copy is served") {}
  SECTION("when the copy was answered") { fuse_reply_err(&again.req, 0); }
  Mkdir first(session, 0);
  CHECK(session.calls.size() == 1);
  CHECK(first.only_reply().error == -EIO);
  Mkdir other(session, 0);  // the number is another request's by now
  CHECK(session.calls.size() == 2);
}

TEST_CASE("a copy of a copy waits too", "[resend]") {
  ResendSession session;
  Mkdir again(session, kMark), once_more(session, kMark);
  CHECK(session.calls.size() == 1);
  fuse_reply_err(&again.req, EROFS);
  CHECK(again.only_reply().error == -EROFS);
  CHECK(once_more.only_reply().error == -EROFS);
}

TEST_CASE("INTERRUPT of a copy is for what the filesystem has", "[resend]") {
  ResendSession session;
  {
    Mkdir first(session, 0), again(session, kMark);
    Request interrupt(session, FUSE_INTERRUPT, raw(fuse_interrupt_in{kUnique | kMark}));
    interrupt.dispatch();
    fuse_reply_err(&first.req, 0);
    session.known.clear();
  }
  Mkdir served(session, kMark);
  Request interrupt(session, FUSE_INTERRUPT, raw(fuse_interrupt_in{kUnique | kMark}));
  interrupt.dispatch();
  CHECK(session.interrupts == std::vector<std::uint64_t>{kUnique, kUnique | kMark});
}

TEST_CASE("copies race with replies", "[resend]") {
  for (int round = 0; round < 500; ++round) {
    ResendSession session;
    Mkdir first(session, 0);
    std::thread replier([&] { fuse_reply_err(&first.req, EEXIST); });
    Mkdir again(session, kMark);
    replier.join();
    // Held and answered with the first, or, if that was over, served.
    if (session.calls.size() == 2) fuse_reply_err(&again.req, EEXIST);
    CHECK(again.only_reply().error == -EEXIST);
    CHECK(first.only_reply().error == -EEXIST);
  }
}

}  // namespace
