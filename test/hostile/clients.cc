// SPDX-License-Identifier: LGPL-2.1-or-later
// Applications: on the hostile mount every call is made and none is believed; on the honest mount every byte is checked.
#include "hostile.hh"

#include <dirent.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace hostile {
namespace {

/// Runs while a call is under way.
class Timed {
 public:
  Timed(ClientClock &clock, Op op) noexcept : clock_(clock) {
    clock_.op = static_cast<unsigned>(op);
    clock_.since_ns = now_ns();
  }
  ~Timed() { clock_.since_ns = 0; }
  Timed(const Timed &) = delete;
  Timed &operator=(const Timed &) = delete;

 private:
  ClientClock &clock_;
};

void on_signal(int) {}

constexpr std::size_t kBuffer = 1 << 20;

class Client {
 public:
  Client(Shared &shared, unsigned number, std::uint64_t seed, const std::string &root)
      : shared_(shared), clock_(shared.clients[number]), rng_(seed), root_(root) {
    void *p = ::mmap(nullptr, kBuffer, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    buffer_ = p == MAP_FAILED ? nullptr : static_cast<char *>(p);
    if (::pipe2(pipe_, O_CLOEXEC | O_NONBLOCK) != 0 || !buffer_)
      ::_exit(1);
    std::memset(buffer_, 'c', kBuffer);
  }

  void run() {
    while (!shared_.stop_clients && !shared_.stop) {
      const Op op = static_cast<Op>(1 + rng_.below(static_cast<unsigned>(Op::kExit) - 1));
      Timed timed(clock_, op);
      step(op);
    }
    close_all();
  }

 private:
  void step(Op op) {
    switch (op) {
      case Op::kMeta: meta(); break;
      case Op::kRead: read_some(); break;
      case Op::kWrite: write_some(); break;
      case Op::kDirect: direct(); break;
      case Op::kMap: map(); break;
      case Op::kAio: aio(); break;
      case Op::kDir: directory(); break;
      case Op::kXattr: xattr(); break;
      case Op::kLock: lock(); break;
      default: sync(); break;
    }
  }

  /// Counts one call; a connection that is gone leaves nothing to hurry for.
  long did(long result) {
    const int error = errno;
    shared_.client_ops.fetch_add(1, std::memory_order_relaxed);
    clock_.since_ns = now_ns();
    if (result >= 0)
      return result;
    shared_.client_errors.fetch_add(1, std::memory_order_relaxed);
    if (error == ENOTCONN || error == ECONNABORTED || error == EACCES)
      sleep_us(1000);
    errno = error;
    return result;
  }

  std::string path(char kind) {
    std::string p = root_;
    if (rng_.one_in(3))
      p += "/d" + std::to_string(rng_.below(8));
    return p + "/" + kind + std::to_string(rng_.below(kind == 'f' ? 48 : 8));
  }
  std::string any_path() { return path("fffdns"[rng_.below(6)]); }

  int open_file(int flags) {
    // The daemon says what kind of file it is: never wait for a FIFO's other end.
    flags |= O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (rng_.one_in(6) ? O_CREAT | (rng_.one_in(2) ? O_EXCL : 0) : 0) |
             (rng_.one_in(10) ? O_TRUNC : 0) | (rng_.one_in(10) ? O_APPEND : 0) | (rng_.one_in(20) ? O_SYNC : 0);
    return static_cast<int>(did(::open(path(rng_.one_in(4) ? 'n' : 'f').c_str(), flags, 0666)));
  }

  void meta() {
    struct stat st;
    const std::string a = any_path(), b = any_path();
    char target[64];
    const timespec times[2] = {{1, 2}, {3, UTIME_OMIT}};
    switch (rng_.below(16)) {
      case 0: did(::rename(a.c_str(), b.c_str())); break;
      case 1: did(::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), 1 << rng_.below(3))); break;
      case 2: did(::unlink(path('n').c_str())); break;
      case 3: did(::mkdir(any_path().c_str(), 0777)); break;
      case 4: did(::rmdir(path('d').c_str())); break;
      case 5: did(::symlink("f1", any_path().c_str())); break;
      case 6: did(::link(a.c_str(), b.c_str())); break;
      case 7: did(::readlink(path('s').c_str(), target, sizeof target)); break;
      case 8: did(::chmod(a.c_str(), 0644)); break;
      case 9: did(::utimensat(AT_FDCWD, a.c_str(), times, AT_SYMLINK_NOFOLLOW)); break;
      case 10: did(::truncate(a.c_str(), rng_.below(100000))); break;
      case 11: did(::mknod(any_path().c_str(), S_IFREG | 0600, 0)); break;
      case 12: did(::access(a.c_str(), R_OK)); break;
      case 13: {
        struct statvfs v;
        did(::statvfs(root_.c_str(), &v));
        break;
      }
      default:
        for (int i = 0; i < 8; ++i)
          did(::lstat(any_path().c_str(), &st));
    }
  }

  void read_some() {
    const int fd = open_file(O_RDONLY);
    if (fd < 0)
      return;
    for (unsigned i = rng_.below(8); i-- > 0;)
      did(::pread(fd, buffer_, 1 + rng_.below(rng_.one_in(3) ? kBuffer : 8192), rng_.below(1 << 20)));
    did(::lseek(fd, 0, SEEK_HOLE));
    did(::readahead(fd, 0, 1 << 18));
    struct pollfd p {fd, POLLIN, 0};
    did(::poll(&p, 1, 0));
    int n = 0;
    did(::ioctl(fd, FIGETBSZ_, &n));
    keep_or_close(fd);
  }

  void write_some() {
    const int fd = open_file(O_RDWR);
    if (fd < 0)
      return;
    for (unsigned i = rng_.below(8); i-- > 0;)
      did(::pwrite(fd, buffer_, 1 + rng_.below(rng_.one_in(3) ? kBuffer : 8192), rng_.below(1 << 20)));
    if (rng_.one_in(4))
      did(::fsync(fd));
    if (rng_.one_in(4))
      did(::fallocate(fd, rng_.one_in(2) ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : 0, 0, 65536));
    if (rng_.one_in(4))
      did(::ftruncate(fd, rng_.below(1 << 20)));
    if (!open_.empty() && rng_.one_in(4))
      did(::copy_file_range(open_[0], nullptr, fd, nullptr, 65536, 0));
    keep_or_close(fd);
  }

  void direct() {
    const int fd = open_file(O_RDWR | O_DIRECT);
    if (fd < 0)
      return;
    for (unsigned i = rng_.below(6); i-- > 0;) {
      const std::size_t len = 4096u * (1 + rng_.below(rng_.one_in(3) ? kBuffer / 4096 : 4));
      const off_t at = 4096 * rng_.below(64);
      did(rng_.one_in(2) ? ::pread(fd, buffer_, len, at) : ::pwrite(fd, buffer_, len, at));
    }
    keep_or_close(fd);
  }

  /// Touches a mapping through a pipe, for an error where a store would be a SIGBUS.
  void map() {
    const int fd = open_file(O_RDWR);
    if (fd < 0)
      return;
    const std::size_t size = 65536;
    const bool shared = rng_.one_in(2);
    void *p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE, fd, 0);
    if (p != MAP_FAILED) {
      char *at = static_cast<char *>(p);
      for (unsigned i = 0; i < 4; ++i) {
        const std::size_t off = rng_.below(size - 512);
        did(::write(pipe_[1], at + off, 512));
        did(::read(pipe_[0], at + off, 512));
      }
      did(::msync(p, size, MS_SYNC));
      ::munmap(p, size);
    }
    keep_or_close(fd);
  }

  void aio() {
    const int fd = open_file(O_RDWR | (rng_.one_in(2) ? O_DIRECT : 0));
    if (fd < 0)
      return;
    aio_context_t context = 0;
    if (::syscall(SYS_io_setup, 16, &context) == 0) {
      iocb blocks[16] = {};
      iocb *list[16];
      for (unsigned i = 0; i < 16; ++i) {
        blocks[i].aio_fildes = static_cast<std::uint32_t>(fd);
        blocks[i].aio_lio_opcode = rng_.one_in(2) ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE;
        blocks[i].aio_buf = reinterpret_cast<std::uintptr_t>(buffer_ + 65536 * i);
        blocks[i].aio_nbytes = rng_.one_in(4) ? 65536 : 4096;
        blocks[i].aio_offset = 65536 * i;
        list[i] = &blocks[i];
      }
      const long n = did(::syscall(SYS_io_submit, context, 16, list));
      io_event events[16];
      timespec wait{0, 100'000'000};
      if (n > 0 && rng_.one_in(2))
        did(::syscall(SYS_io_getevents, context, n, n, events, &wait));
      ::syscall(SYS_io_destroy, context);    // waits for what is under way
    }
    keep_or_close(fd);
  }

  void directory() {
    const std::string p = rng_.one_in(2) ? root_ : path('d');
    const int fd = static_cast<int>(did(::open(p.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK)));
    if (fd < 0)
      return;
    // Bounded: an evil directory has no end.
    for (int i = 0; i < 8; ++i)
      if (did(::syscall(SYS_getdents64, fd, buffer_, 4096)) <= 0)
        break;
    did(::fsync(fd));
    ::close(fd);
  }

  void xattr() {
    const std::string p = any_path();
    switch (rng_.below(5)) {
      case 0: did(::lsetxattr(p.c_str(), "user.a", buffer_, 1 + rng_.below(16000), 0)); break;
      case 1: did(::lgetxattr(p.c_str(), "user.a", buffer_, rng_.below(65536))); break;
      case 2: did(::llistxattr(p.c_str(), buffer_, rng_.below(65536))); break;
      case 3: did(::lremovexattr(p.c_str(), "user.a")); break;
      default: did(::lgetxattr(p.c_str(), "user.b", nullptr, 0));
    }
  }

  void lock() {
    const int fd = open_file(O_RDWR);
    if (fd < 0)
      return;
    struct flock l {};
    l.l_type = static_cast<short>(rng_.one_in(2) ? F_WRLCK : F_RDLCK);
    l.l_len = 1 + rng_.below(1000);
    did(::flock(fd, (rng_.one_in(2) ? LOCK_EX : LOCK_SH) | LOCK_NB));
    did(::fcntl(fd, F_SETLK, &l));
    did(::fcntl(fd, F_GETLK, &l));
    ::close(fd);
  }

  void sync() {
    const int fd = open_file(O_RDWR);
    if (fd < 0)
      return;
    did(::pwrite(fd, buffer_, 4096 * (1 + rng_.below(32)), 0));
    did(::fdatasync(fd));
    if (rng_.one_in(8))
      did(::syncfs(fd));
    ::close(fd);
  }

  /// Open files outlive other calls, and the connection.
  void keep_or_close(int fd) {
    if (rng_.one_in(3) && open_.size() < 16) {
      open_.push_back(fd);
      return;
    }
    did(::close(fd));
    if (!open_.empty() && rng_.one_in(2)) {
      ::close(open_.back());
      open_.pop_back();
    }
  }

  void close_all() {
    Timed timed(clock_, Op::kExit);
    for (int fd : open_)
      ::close(fd);
    open_.clear();
  }

  static constexpr unsigned long FIGETBSZ_ = _IO('x', 200);    // no filesystem knows it: it goes to the daemon
  Shared &shared_;
  ClientClock &clock_;
  Rng rng_;
  std::string root_;
  char *buffer_ = nullptr;
  int pipe_[2];
  std::vector<int> open_;
};

/// Nobody's, so that a link or a device that the daemon invents leads nowhere.
void become_nobody() {
  if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0)
    ::_exit(1);
}

void interrupt_often(unsigned us) {
  struct sigaction act {};
  act.sa_handler = on_signal;    // no SA_RESTART
  ::sigaction(SIGALRM, &act, nullptr);
  const itimerval every{{0, static_cast<suseconds_t>(us)}, {0, static_cast<suseconds_t>(us)}};
  ::setitimer(ITIMER_REAL, &every, nullptr);
}

/// Files whose every byte is known.
class Honest {
 public:
  Honest(const Options &options, Shared &shared, unsigned number)
      : shared_(shared), clock_(shared.honest[number]), rng_(options.seed + 31 * number),
        dir_(options.honest + "/h" + std::to_string(number)), written_(1 << 18), read_(1 << 18) {
    make_marker(options.seed, marker_);
  }

  void run() {
    must("mkdir", ::mkdir(dir_.c_str(), 0700));
    while (!shared_.stop) {
      round();
      sleep_us(2000);
    }
    must("rmdir", ::rmdir(dir_.c_str()));
  }

 private:
  long must(const char *what, long result) {
    const int error = errno;
    shared_.honest_ops.fetch_add(1, std::memory_order_relaxed);
    if (result < 0)
      fail(shared_, "honest mount: %s: %s", what, std::strerror(error));
    return result;
  }

  void check(const char *what, bool good) {
    if (!good)
      fail(shared_, "honest mount: %s is wrong", what);
  }

  void fill(std::size_t size) {
    for (std::size_t at = 0; at < size; at += kMarkerSize)
      std::memcpy(&written_[at], marker_, std::min(kMarkerSize, size - at));
    for (std::size_t i = 0; i < size / 64; ++i)
      written_[rng_.below(size)] = static_cast<char>(rng_.next());
  }

  void round() {
    Timed timed(clock_, Op::kWrite);
    const std::string a = dir_ + "/a" + std::to_string(rng_.below(8)), b = a + "x";
    const std::size_t size = 1 + rng_.below(rng_.one_in(3) ? written_.size() : 9000);
    fill(size);
    const int direct = rng_.one_in(3) ? O_DIRECT : 0;
    int fd = static_cast<int>(must("create", ::open(a.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)));
    check("length written", must("write", ::pwrite(fd, written_.data(), size, 0)) == static_cast<long>(size));
    must("fsync", ::fsync(fd));
    ::close(fd);
    must("rename", ::rename(a.c_str(), b.c_str()));
    fd = static_cast<int>(must("open", ::open(b.c_str(), O_RDONLY | O_CLOEXEC)));
    if (direct)
      ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    struct stat st {};
    must("fstat", ::fstat(fd, &st));
    check("size", st.st_size == static_cast<off_t>(size));
    const long got = must("read", ::pread(fd, read_.data(), read_.size(), 0));
    check("data", got == static_cast<long>(size) && std::memcmp(read_.data(), written_.data(), size) == 0);
    ::close(fd);
    check("old name", ::access(a.c_str(), F_OK) == -1 && errno == ENOENT);
    must("unlink", ::unlink(b.c_str()));
  }

  Shared &shared_;
  ClientClock &clock_;
  Rng rng_;
  std::string dir_;
  std::vector<char> written_, read_;
  char marker_[kMarkerSize];
};

}  // namespace

void run_client(const Options &, const Episode &episode, Shared &shared, unsigned number, std::uint64_t seed,
                const std::string &mountpoint) {
  ::signal(SIGPIPE, SIG_IGN);
  become_nobody();
  Client client(shared, number, seed, mountpoint);
  if (episode.signals)
    interrupt_often(3000 + 1000 * number);
  client.run();
  ::_exit(0);
}

void run_honest(const Options &options, Shared &shared, unsigned number) {
  Honest(options, shared, number).run();
  ::_exit(0);
}

}  // namespace hostile
