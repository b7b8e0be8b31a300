// SPDX-License-Identifier: LGPL-2.1-or-later
// Every system call that takes a descriptor, against descriptors that do not
// allow it. Checks: fd.CALL.CASE.
#include "check.hh"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>

namespace posix {
namespace {

enum Needs : unsigned {
  kNothing = 0,    // works with O_PATH, too
  kReading = 1,
  kWriting = 2,
  kAny = 4,        // either will do
  kFileOnly = 8,   // fails for directories
};

struct FdCall {
  const char *name;
  long (*call)(int fd);
  unsigned needs;
};

char buffer[4096];
struct stat st;

iovec piece() { return {buffer, 16}; }

const FdCall kCalls[] = {
    {"read", [](int fd) -> long { return read(fd, buffer, 16); }, kReading | kFileOnly},
    {"pread", [](int fd) -> long { return pread(fd, buffer, 16, 0); }, kReading | kFileOnly},
    {"readv", [](int fd) -> long { iovec v = piece(); return readv(fd, &v, 1); }, kReading | kFileOnly},
    {"preadv", [](int fd) -> long { iovec v = piece(); return preadv(fd, &v, 1, 0); }, kReading | kFileOnly},
    {"preadv2", [](int fd) -> long { iovec v = piece(); return preadv2(fd, &v, 1, 0, 0); }, kReading | kFileOnly},
    {"write", [](int fd) -> long { return write(fd, buffer, 16); }, kWriting | kFileOnly},
    {"pwrite", [](int fd) -> long { return pwrite(fd, buffer, 16, 0); }, kWriting | kFileOnly},
    {"writev", [](int fd) -> long { iovec v = piece(); return writev(fd, &v, 1); }, kWriting | kFileOnly},
    {"pwritev", [](int fd) -> long { iovec v = piece(); return pwritev(fd, &v, 1, 0); }, kWriting | kFileOnly},
    {"pwritev2", [](int fd) -> long { iovec v = piece(); return pwritev2(fd, &v, 1, 0, 0); }, kWriting | kFileOnly},
    {"lseek", [](int fd) -> long { return lseek(fd, 0, SEEK_SET); }, kAny},
    {"ftruncate", [](int fd) -> long { return ftruncate(fd, 8); }, kWriting | kFileOnly},
    {"fallocate", [](int fd) -> long { return fallocate(fd, 0, 0, 8); }, kWriting | kFileOnly},
    {"fstat", [](int fd) -> long { return fstat(fd, &st); }, kNothing},
    {"fchmod", [](int fd) -> long { return fchmod(fd, 0600); }, kAny},
    {"fchown", [](int fd) -> long { return fchown(fd, kUser, kGroup); }, kAny},
    {"futimens", [](int fd) -> long { return futimens(fd, nullptr); }, kAny},
    {"fsync", [](int fd) -> long { return fsync(fd); }, kAny},
    {"fdatasync", [](int fd) -> long { return fdatasync(fd); }, kAny},
    {"syncfs", [](int fd) -> long { return syncfs(fd); }, kAny},
    {"sync_file_range", [](int fd) -> long { return sync_file_range(fd, 0, 8, SYNC_FILE_RANGE_WRITE); }, kAny},
    {"posix_fadvise",
     [](int fd) -> long {
       errno = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
       return errno == 0 ? 0 : -1;
     },
     kAny},
    {"readahead", [](int fd) -> long { return readahead(fd, 0, 4096); }, kReading | kFileOnly},
    {"fstatfs", [](int fd) -> long { struct statfs s; return fstatfs(fd, &s); }, kNothing},
    {"fchdir", [](int fd) -> long { return fchdir(fd); }, kNothing},
    {"getdents64", [](int fd) -> long { return syscall(SYS_getdents64, fd, buffer, sizeof buffer); }, kAny},
    {"fgetxattr", [](int fd) -> long { return fgetxattr(fd, "user.x", buffer, 16); }, kAny},
    {"fsetxattr", [](int fd) -> long { return fsetxattr(fd, "user.y", "v", 1, 0); }, kAny},
    {"flistxattr", [](int fd) -> long { return flistxattr(fd, buffer, sizeof buffer); }, kAny},
    {"fremovexattr", [](int fd) -> long { return fremovexattr(fd, "user.x"); }, kAny},
    {"flock", [](int fd) -> long { return flock(fd, LOCK_EX | LOCK_NB); }, kAny},
    {"lock_read",
     [](int fd) -> long {
       struct flock l {F_RDLCK, SEEK_SET, 0, 0, 0};
       return fcntl(fd, F_SETLK, &l);
     },
     kReading},
    {"lock_write",
     [](int fd) -> long {
       struct flock l {F_WRLCK, SEEK_SET, 0, 0, 0};
       return fcntl(fd, F_SETLK, &l);
     },
     kWriting},
    {"dup", [](int fd) -> long { return dup(fd); }, kNothing},
    {"getfl", [](int fd) -> long { return fcntl(fd, F_GETFL); }, kNothing},
    {"setfl", [](int fd) -> long { return fcntl(fd, F_SETFL, O_NONBLOCK); }, kAny},
    {"mmap",
     [](int fd) -> long { return reinterpret_cast<long>(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0)); },
     kReading | kFileOnly},
    {"mmap_shared",
     [](int fd) -> long {
       return reinterpret_cast<long>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
     },
     kReading | kWriting | kFileOnly},
    {"sendfile",
     [](int fd) -> long {
       int ends[2];
       must(pipe(ends), "pipe");
       return sendfile(ends[1], fd, nullptr, 16);
     },
     kReading | kFileOnly},
    {"splice_from",
     [](int fd) -> long {
       int ends[2];
       must(pipe(ends), "pipe");
       return splice(fd, nullptr, ends[1], nullptr, 16, 0);
     },
     kReading | kFileOnly},
    {"splice_to",
     [](int fd) -> long {
       int ends[2];
       must(pipe(ends), "pipe");
       must(write(ends[1], "data", 4), "write");
       return splice(ends[0], nullptr, fd, nullptr, 4, 0);
     },
     kWriting | kFileOnly},
    {"copy_from",
     [](int fd) -> long { return copy_file_range(fd, nullptr, open("to", O_WRONLY | O_CREAT, 0600), nullptr, 8, 0); },
     kReading | kFileOnly},
    {"copy_to",
     [](int fd) -> long {
       make_file("from", "contents");
       return copy_file_range(open("from", O_RDONLY), nullptr, fd, nullptr, 8, 0);
     },
     kWriting | kFileOnly},
    {"ioctl_flags", [](int fd) -> long { int flags; return ioctl(fd, FS_IOC_GETFLAGS, &flags); }, kAny},
    {"ioctl_unknown", [](int fd) -> long { return ioctl(fd, _IO('~', 201)); }, kAny},
    {"fionread", [](int fd) -> long { int n; return ioctl(fd, FIONREAD, &n); }, kAny},
    {"epoll_add",
     [](int fd) -> long {
       epoll_event event{EPOLLIN, {}};
       return epoll_ctl(epoll_create1(0), EPOLL_CTL_ADD, fd, &event);
     },
     kAny},
    {"poll",
     [](int fd) -> long {
       pollfd p{fd, POLLIN | POLLOUT, 0};
       must(poll(&p, 1, 0), "poll");
       return p.revents;
     },
     kNothing},
    {"openat", [](int fd) -> long { return openat(fd, "x", O_RDONLY); }, kNothing},
    {"linkat_empty", [](int fd) -> long { return linkat(fd, "", AT_FDCWD, "linked", AT_EMPTY_PATH); }, kNothing},
};

bool needs(const FdCall &c, unsigned what) { return (c.needs & what) != 0; }

void add(const FdCall &c, const char *name, std::string expected, int (*open_it)()) {
  Add(std::string("fd.") + c.name + "." + name, std::move(expected), [&c, open_it] {
    const int fd = open_it();
    const long result = c.call(fd);
    // Descriptors and addresses are not the same on every run; counts and masks are.
    const std::string_view name = c.name;
    const bool opaque = name == "dup" || name == "mmap" || name == "mmap_shared" || name == "openat" ||
                        name == "getdents64" || name == "getfl";
    return opaque ? ok(result) : number(result);
  });
}

int prepared(int flags) {
  make_file("f", "0123456789");
  must(setxattr("f", "user.x", "v", 1, 0), "setxattr");
  return open("f", flags);
}

const char *expect_bad(const FdCall &c) {
  return std::string_view(c.name) == "poll" ? "32" : "EBADF";  // POLLNVAL
}

/// What the manual pages promise of the wrong access mode, where they do.
const char *expect_mode(const FdCall &c, unsigned lacks) {
  if (!needs(c, lacks)) return "";
  const std::string_view name = c.name;
  if (name == "mmap" || name == "mmap_shared") return "EACCES";
  if (name == "ftruncate") return "EINVAL|EBADF";
  return "EBADF";
}

bool add_all() {
  for (const FdCall &c : kCalls) {
    add(c, "closed", expect_bad(c), [] { return 999; });
    add(c, "path_only", c.needs == kNothing ? "" : "EBADF", [] { return prepared(O_PATH); });
    add(c, "read_write", "", [] { return prepared(O_RDWR); });
    add(c, "read_only", expect_mode(c, kWriting), [] { return prepared(O_RDONLY); });
    add(c, "write_only", expect_mode(c, kReading), [] { return prepared(O_WRONLY); });
    add(c, "directory", "", [] {
      make_dir("d");
      return open("d", O_RDONLY | O_DIRECTORY);
    });
  }
  return true;
}

const bool added = add_all();

}  // namespace
}  // namespace posix
