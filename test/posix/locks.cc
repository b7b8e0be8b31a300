// SPDX-License-Identifier: LGPL-2.1-or-later
// Locks of files, leases, and the rest of fcntl().
#include "check.hh"

#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#ifndef F_CREATED_QUERY
#define F_CREATED_QUERY 1028
#endif

namespace posix {
namespace {

struct flock range(short type, off_t start = 0, off_t length = 0) {
  struct flock l {};
  l.l_type = type;
  l.l_whence = SEEK_SET;
  l.l_start = start;
  l.l_len = length;
  return l;
}

long lock(int fd, short type, off_t start = 0, off_t length = 0, int command = F_SETLK) {
  struct flock l = range(type, start, length);
  return fcntl(fd, command, &l);
}

/// In another process, with a descriptor of its own.
std::string other_locks(short type, off_t start = 0, off_t length = 0, int command = F_SETLK) {
  return in_child([=] { return ok(lock(Fd("f"), type, start, length, command)); });
}

std::string other_flocks(int operation) {
  return in_child([=] { return ok(flock(Fd("f"), operation | LOCK_NB)); });
}

CHECK("lock.posix.exclusive", "ok EAGAIN|ok EACCES") {
  make_file("f");
  const Fd fd("f");
  return seen({ok(lock(fd, F_WRLCK)), other_locks(F_WRLCK)});
}
CHECK("lock.posix.shared", "ok ok EAGAIN") {
  make_file("f");
  const Fd fd("f");
  return seen({ok(lock(fd, F_RDLCK)), other_locks(F_RDLCK), other_locks(F_WRLCK)});
}
CHECK("lock.posix.ranges", "ok ok EAGAIN ok") {
  make_file("f");
  const Fd fd("f");
  return seen({ok(lock(fd, F_WRLCK, 100, 100)), other_locks(F_WRLCK, 0, 100), other_locks(F_WRLCK, 150, 10),
               other_locks(F_WRLCK, 200, 0)});
}
CHECK("lock.posix.split_by_unlock", "EAGAIN ok EAGAIN") {
  make_file("f");
  const Fd fd("f");
  lock(fd, F_WRLCK, 0, 300);
  lock(fd, F_UNLCK, 100, 100);
  return seen({other_locks(F_WRLCK, 50, 10), other_locks(F_WRLCK, 100, 100), other_locks(F_WRLCK, 250, 10)});
}
CHECK("lock.posix.upgrade_and_downgrade", "ok EAGAIN ok ok") {
  make_file("f");
  const Fd fd("f");
  lock(fd, F_RDLCK);
  const std::string up = ok(lock(fd, F_WRLCK)), blocked = other_locks(F_RDLCK);
  return seen({up, blocked, ok(lock(fd, F_RDLCK)), other_locks(F_RDLCK)});
}
CHECK("lock.posix.get", "F_WRLCK 10 20 yes") {
  make_file("f");
  const Fd fd("f");
  lock(fd, F_WRLCK, 10, 20);
  const pid_t holder = getpid();
  return in_child([holder] {
    struct flock l = range(F_RDLCK);
    must(fcntl(Fd("f"), F_GETLK, &l), "F_GETLK");
    return seen(
        {l.l_type == F_WRLCK ? "F_WRLCK" : "other", number(l.l_start), number(l.l_len), yes(l.l_pid == holder)});
  });
}
CHECK("lock.posix.get_own_is_free", "F_UNLCK") {
  make_file("f");
  const Fd fd("f");
  lock(fd, F_WRLCK);
  struct flock l = range(F_WRLCK);
  must(fcntl(fd, F_GETLK, &l), "F_GETLK");
  return l.l_type == F_UNLCK ? "F_UNLCK" : "held";
}
CHECK("lock.posix.any_close_releases", "ok") {
  make_file("f");
  const Fd fd("f");
  lock(fd, F_WRLCK);
  Fd("f").close();
  return other_locks(F_WRLCK);
}
CHECK("lock.posix.not_inherited", "EAGAIN") {
  make_file("f");
  const Fd fd("f");
  lock(fd, F_WRLCK);
  return in_child([&] { return ok(lock(fd, F_WRLCK)); });
}
CHECK("lock.posix.released_by_exit", "ok") {
  make_file("f");
  in_child([] {
    static const int fd = open("f", O_RDWR);
    return ok(lock(fd, F_WRLCK));
  });
  return other_locks(F_WRLCK);
}
CHECK("lock.posix.waits", "ok yes") {
  make_file("f");
  int ready[2];
  must(pipe(ready), "pipe");
  const pid_t holder = static_cast<pid_t>(must(fork(), "fork"));
  if (holder == 0) {
    const int fd = open("f", O_RDWR);
    lock(fd, F_WRLCK);
    if (write(ready[1], "x", 1) != 1) _exit(1);
    usleep(100000);
    must(pwrite(fd, "done", 4, 0), "pwrite");
    _exit(0);
  }
  char c;
  must(read(ready[0], &c, 1), "read");
  const std::string got = ok(lock(Fd("f"), F_WRLCK, 0, 0, F_SETLKW));
  waitpid(holder, nullptr, 0);
  return seen({got, yes(contents("f") == "done")});
}
CHECK("lock.posix.wait_interrupted", "EINTR") {
  make_file("f");
  const Fd fd("f");
  lock(fd, F_WRLCK);
  return in_child([] {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    must(sigaction(SIGALRM, &action, nullptr), "sigaction");
    ualarm(50000, 50000);
    return ok(lock(Fd("f"), F_WRLCK, 0, 0, F_SETLKW));
  });
}
CHECK("lock.posix.deadlock", "EDEADLK") {
  make_file("f");
  const Fd fd("f");
  lock(fd, F_WRLCK, 0, 1);
  int ready[2];
  must(pipe(ready), "pipe");
  const pid_t other = static_cast<pid_t>(must(fork(), "fork"));
  if (other == 0) {
    const int own = open("f", O_RDWR);
    lock(own, F_WRLCK, 1, 1);
    if (write(ready[1], "x", 1) != 1) _exit(1);
    lock(own, F_WRLCK, 0, 1, F_SETLKW);
    _exit(0);
  }
  char c;
  must(read(ready[0], &c, 1), "read");
  usleep(100000);  // until it waits
  const std::string got = ok(lock(fd, F_WRLCK, 1, 1, F_SETLKW));
  lock(fd, F_UNLCK, 0, 1);
  waitpid(other, nullptr, 0);
  return got;
}
CHECK("lock.posix.errors", "EINVAL EINVAL EINVAL EFAULT") {
  make_file("f");
  const Fd fd("f");
  return seen({ok(lock(fd, 77)), ok(lock(fd, F_WRLCK, -1, 1)), ok(lock(fd, F_WRLCK, 5, -10)),
               ok(fcntl(fd, F_SETLK, bad_address()))});
}
CHECK("lock.posix.negative_length", "ok EAGAIN ok") {
  make_file("f");
  const Fd fd("f");
  return seen({ok(lock(fd, F_WRLCK, 100, -10)), other_locks(F_WRLCK, 95, 1), other_locks(F_WRLCK, 100, 1)});
}
CHECK("lock.lockf", "ok EAGAIN|ok EACCES") {
  make_file("f");
  const Fd fd("f");
  return seen({ok(lockf(fd, F_TLOCK, 0)), in_child([] { return ok(lockf(Fd("f"), F_TLOCK, 0)); })});
}
CHECK("lock.ofd.between_descriptors", "ok EAGAIN ok") {
  make_file("f");
  const Fd one("f"), two("f");
  const std::string first = ok(lock(one, F_WRLCK, 0, 0, F_OFD_SETLK)),
                    second = ok(lock(two, F_WRLCK, 0, 0, F_OFD_SETLK));
  lock(one, F_UNLCK, 0, 0, F_OFD_SETLK);
  return seen({first, second, ok(lock(two, F_WRLCK, 0, 0, F_OFD_SETLK))});
}
CHECK("lock.ofd.inherited", "ok") {
  make_file("f");
  const Fd fd("f");
  lock(fd, F_WRLCK, 0, 0, F_OFD_SETLK);
  return in_child([&] { return ok(lock(fd, F_WRLCK, 0, 0, F_OFD_SETLK)); });
}
CHECK("lock.ofd.against_posix", "EAGAIN") {
  make_file("f");
  const Fd fd("f");
  lock(fd, F_WRLCK, 0, 0, F_OFD_SETLK);
  return other_locks(F_WRLCK);
}
CHECK("lock.ofd.kept_by_dup", "EAGAIN ok") {
  make_file("f");
  Fd fd("f");
  Fd copy(dup(fd), "dup");
  lock(fd, F_WRLCK, 0, 0, F_OFD_SETLK);
  fd.close();
  const std::string held = other_locks(F_WRLCK, 0, 0, F_OFD_SETLK);
  copy.close();
  return seen({held, other_locks(F_WRLCK, 0, 0, F_OFD_SETLK)});
}
CHECK("lock.ofd.pid_must_be_zero", "EINVAL") {
  make_file("f");
  struct flock l = range(F_WRLCK);
  l.l_pid = 1;
  return ok(fcntl(Fd("f"), F_OFD_SETLK, &l));
}

CHECK("flock.exclusive", "ok EAGAIN") {
  make_file("f");
  const Fd fd("f");
  return seen({ok(flock(fd, LOCK_EX)), other_flocks(LOCK_EX)});
}
CHECK("flock.shared", "ok ok EAGAIN") {
  make_file("f");
  const Fd fd("f");
  return seen({ok(flock(fd, LOCK_SH)), other_flocks(LOCK_SH), other_flocks(LOCK_EX)});
}
CHECK("flock.between_descriptors_of_one_process", "EAGAIN") {
  make_file("f");
  const Fd one("f"), two("f");
  flock(one, LOCK_EX);
  return ok(flock(two, LOCK_EX | LOCK_NB));
}
CHECK("flock.read_only_descriptor", "ok") {
  make_file("f");
  return ok(flock(Fd("f", O_RDONLY), LOCK_EX));
}
CHECK("flock.inherited_and_kept_by_dup", "ok EAGAIN ok") {
  make_file("f");
  Fd fd("f");
  Fd copy(dup(fd), "dup");
  flock(fd, LOCK_EX);
  const std::string inherited = in_child([&] { return ok(flock(fd, LOCK_EX | LOCK_NB)); });
  fd.close();
  const std::string held = other_flocks(LOCK_EX);
  copy.close();
  return seen({inherited, held, other_flocks(LOCK_EX)});
}
CHECK("flock.unlock", "ok") {
  make_file("f");
  const Fd fd("f");
  flock(fd, LOCK_EX);
  flock(fd, LOCK_UN);
  return other_flocks(LOCK_EX);
}
CHECK("flock.apart_from_posix", "ok") {
  make_file("f");
  const Fd fd("f");
  flock(fd, LOCK_EX);
  return other_locks(F_WRLCK);
}
CHECK("flock.directory", "ok EAGAIN") {
  const Fd one(".", O_RDONLY), two(".", O_RDONLY);
  return seen({ok(flock(one, LOCK_EX)), ok(flock(two, LOCK_EX | LOCK_NB))});
}
CHECK("flock.bad_operation", "EINVAL") {
  make_file("f");
  return ok(flock(Fd("f"), 77));
}

CHECK("lease.write_alone", "ok F_WRLCK") {
  make_file("f");
  const Fd fd("f", O_RDWR);
  const std::string set = ok(fcntl(fd, F_SETLEASE, F_WRLCK));
  return seen({set, fcntl(fd, F_GETLEASE) == F_WRLCK ? "F_WRLCK" : "none"});
}
CHECK("lease.write_when_open_elsewhere", "EAGAIN") {
  make_file("f");
  const Fd fd("f", O_RDWR), other("f", O_RDONLY);
  return ok(fcntl(fd, F_SETLEASE, F_WRLCK));
}
CHECK("lease.read", "ok") {
  make_file("f");
  return ok(fcntl(Fd("f", O_RDONLY), F_SETLEASE, F_RDLCK));
}
CHECK("lease.broken_by_open", "EAGAIN yes") {
  make_file("f");
  signal(SIGIO, SIG_IGN);
  const Fd fd("f", O_RDONLY);
  const std::string got = ok(fcntl(fd, F_SETLEASE, F_RDLCK));
  if (got != "ok") return got;
  const std::string opened = in_child([] { return ok(open("f", O_WRONLY | O_NONBLOCK)); });
  return seen({opened, yes(fcntl(fd, F_GETLEASE) == F_UNLCK)});
}
CHECK("lease.foreign_file", "EACCES") {
  make_file("f");
  return as_user([] { return ok(fcntl(Fd("f", O_RDONLY), F_SETLEASE, F_RDLCK)); });
}

CHECK("fcntl.dup", "yes yes no") {
  make_file("f");
  const Fd fd("f");
  const int copy = fcntl(fd, F_DUPFD, 100), cloexec = fcntl(fd, F_DUPFD_CLOEXEC, 100);
  return seen({yes(copy >= 100), yes(fcntl(cloexec, F_GETFD) & FD_CLOEXEC), yes(fcntl(copy, F_GETFD) & FD_CLOEXEC)});
}
CHECK("fcntl.dup_shares_position", "4") {
  make_file("f", "abcdef");
  const Fd fd("f");
  const Fd copy(dup(fd), "dup");
  lseek(fd, 4, SEEK_SET);
  return number(lseek(copy, 0, SEEK_CUR));
}
CHECK("fcntl.setfl", "yes yes no") {
  make_file("f");
  const Fd fd("f", O_RDWR);
  must(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK | O_WRONLY | O_CREAT), "F_SETFL");
  const int flags = fcntl(fd, F_GETFL);
  return seen({yes(flags & O_APPEND), yes(flags & O_NONBLOCK), yes((flags & O_ACCMODE) == O_WRONLY)});
}
CHECK("fcntl.setfl_direct", "") {
  make_file("f");
  return ok(fcntl(Fd("f", O_RDWR), F_SETFL, O_DIRECT));
}
CHECK("fcntl.setfl_noatime_foreign", "EPERM") {
  make_file("f");
  return as_user([] { return ok(fcntl(Fd("f", O_RDONLY), F_SETFL, O_NOATIME)); });
}
CHECK("fcntl.append_only_from_now", "'XYbcdef'|'Xbcdef'") {
  make_file("f", "abcdef");
  const Fd fd("f", O_WRONLY | O_APPEND);
  must(fcntl(fd, F_SETFL, 0), "F_SETFL");
  must(pwrite(fd, "X", 1, 0), "pwrite");
  return text(contents("f"));
}
CHECK("fcntl.pipe_size_of_file", "EBADF") {
  make_file("f");
  return ok(fcntl(Fd("f"), F_GETPIPE_SZ));
}
CHECK("fcntl.unknown", "EINVAL") {
  make_file("f");
  return ok(fcntl(Fd("f"), 7777));
}
CHECK("fcntl.write_hint", "") {
  make_file("f");
  std::uint64_t hint = 2;
  return ok(fcntl(Fd("f"), 1036 /* F_SET_RW_HINT */, &hint));
}
CHECK("fcntl.seals", "") {
  make_file("f");
  return ok(fcntl(Fd("f"), 1034 /* F_GET_SEALS */));
}
CHECK("fcntl.directory_notify", "ok") {
  signal(SIGIO, SIG_IGN);
  return ok(fcntl(Fd(".", O_RDONLY), F_NOTIFY, DN_CREATE));
}

}  // namespace
}  // namespace posix
