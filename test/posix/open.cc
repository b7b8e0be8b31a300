// SPDX-License-Identifier: LGPL-2.1-or-later
// open(), openat(), openat2(): flags, permissions, what becomes of the file.
#include "check.hh"

#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <grp.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

namespace posix {
namespace {

long openat2_at(int dir, const char *path, std::uint64_t flags, std::uint64_t resolve, mode_t mode = 0) {
  open_how how{};
  how.flags = flags;
  how.mode = mode;
  how.resolve = resolve;
  return syscall(SYS_openat2, dir, path, &how, sizeof how);
}

std::string unnamed_name(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

CHECK("open.create.mode_and_umask", "ok 0640") {
  umask(027);
  return seen({ok(open("f", O_CREAT | O_WRONLY, 0666)), mode_of("f")});
}
CHECK("open.create.setuid_kept_for_owner", "ok 4755") {
  return seen({ok(open("f", O_CREAT | O_WRONLY, 04755)), mode_of("f")});
}
CHECK("open.create.no_permission_still_open", "ok ok 3") {
  // The mode is for later: the descriptor that creates the file may write.
  chmod(".", 0777);
  return as_user([] {
    const int fd = open("f", O_CREAT | O_RDWR, 0000);
    return seen({ok(fd), ok(write(fd, "abc", 3)), size_of("f")});
  });
}
CHECK("open.create.existing_not_changed", "ok 0600 3") {
  make_file("f", "abc", 0600);
  return seen({ok(open("f", O_CREAT | O_WRONLY, 0777)), mode_of("f"), size_of("f")});
}
CHECK("open.create.in_unwritable_directory", "EACCES") {
  return as_user([] { return ok(open("f", O_CREAT | O_WRONLY, 0666)); });
}
CHECK("open.create.parent_times", "mtime ctime") {
  return times_changed(".", [] { must(open("f", O_CREAT | O_WRONLY, 0600), "open"); });
}
CHECK("open.create.existing_parent_times", "none") {
  make_file("f");
  return times_changed(".", [] { must(open("f", O_CREAT | O_WRONLY, 0600), "open"); });
}
CHECK("open.create.owner", "12345 12345") {
  chmod(".", 0777);
  as_user([] { return ok(open("f", O_CREAT | O_WRONLY, 0600)); });
  const struct stat st = stat_of("f");
  return seen({number(st.st_uid), number(st.st_gid)});
}
CHECK("open.create.exclusive_dangling_link", "EEXIST ENOENT") {
  make_link("none", "s");
  return seen({ok(open("s", O_CREAT | O_EXCL | O_WRONLY, 0600)), ok(access("none", F_OK))});
}
CHECK("open.create.through_dangling_link", "ok ok") {
  make_link("new", "s");
  return seen({ok(open("s", O_CREAT | O_WRONLY, 0600)), ok(access("new", F_OK))});
}
CHECK("open.create.directory_flag", "EINVAL") { return ok(open("f", O_CREAT | O_DIRECTORY | O_RDWR, 0600)); }
CHECK("open.create.trailing_slash", "EISDIR") { return ok(open("f/", O_CREAT | O_RDWR, 0600)); }
CHECK("open.create.exclusive_race", "1") {
  // Of many at once, one creates.
  int ends[2];
  must(pipe(ends), "pipe");
  constexpr int kProcesses = 8;
  for (int i = 0; i < kProcesses; ++i) {
    if (must(fork(), "fork") != 0) continue;
    const bool created = open("f", O_CREAT | O_EXCL | O_WRONLY, 0600) >= 0;
    _exit(write(ends[1], created ? "1" : "0", 1) == 1 ? 0 : 1);
  }
  for (int i = 0; i < kProcesses; ++i) wait(nullptr);
  char results[kProcesses];
  must(read(ends[0], results, sizeof results), "read");
  int winners = 0;
  for (const char c : results) winners += c == '1';
  return number(winners);
}

CHECK("open.truncate.to_nothing", "ok 0") {
  make_file("f", "abc");
  return seen({ok(open("f", O_WRONLY | O_TRUNC)), size_of("f")});
}
CHECK("open.truncate.read_only_no_permission", "EACCES 3") {
  make_file("f", "abc", 0444);
  return as_user([] { return seen({ok(open("f", O_RDONLY | O_TRUNC)), size_of("f")}); });
}
CHECK("open.truncate.times", "mtime ctime") {
  make_file("f", "abc");
  return times_changed("f", [] { must(open("f", O_WRONLY | O_TRUNC), "open"); });
}
CHECK("open.truncate.empty_file_times", "mtime ctime") {
  make_file("f");
  return times_changed("f", [] { must(open("f", O_WRONLY | O_TRUNC), "open"); });
}
CHECK("open.truncate.drops_setid", "ok 0777") {
  make_file("f", "abc", 06777);
  const std::string opened = as_user([] { return ok(open("f", O_WRONLY | O_TRUNC)); });
  return seen({opened, mode_of("f")});
}
CHECK("open.truncate.fifo_ignored", "ok") {
  must(mkfifo("p", 0600), "mkfifo");
  return ok(open("p", O_RDWR | O_TRUNC));
}

CHECK("open.nofollow.link", "ELOOP") {
  make_file("f");
  make_link("f", "s");
  return ok(open("s", O_RDONLY | O_NOFOLLOW));
}
CHECK("open.nofollow.link_in_parent", "ok") {
  make_dir("d");
  make_file("d/f");
  make_link("d", "s");
  return ok(open("s/f", O_RDONLY | O_NOFOLLOW));
}
CHECK("open.nofollow.path_of_link", "ok yes 4") {
  make_link("none", "s");
  const int fd = open("s", O_PATH | O_NOFOLLOW);
  char target[64];
  return seen({ok(fd), yes(S_ISLNK(stat_of(fd).st_mode)), number(readlinkat(fd, "", target, sizeof target))});
}
CHECK("open.nofollow.directory_of_link", "ENOTDIR|ELOOP") {
  make_dir("d");
  make_link("d", "s");
  return ok(open("s", O_RDONLY | O_NOFOLLOW | O_DIRECTORY));
}
CHECK("open.path.needs_no_permission", "ok EBADF ok") {
  make_file("f", "abc", 0000);
  return as_user([] {
    const int fd = open("f", O_PATH);
    char c;
    struct stat st;
    return seen({ok(fd), ok(read(fd, &c, 1)), ok(fstat(fd, &st))});
  });
}
CHECK("open.path.reopened_through_proc", "ok 3") {
  make_file("f", "abc");
  const Fd fd("f", O_PATH);
  const int again = open(unnamed_name(fd).c_str(), O_RDONLY);
  char buffer[8];
  return seen({ok(again), number(read(again, buffer, sizeof buffer))});
}
CHECK("open.path.of_socket", "ok") {
  must(mknod("s", S_IFSOCK | 0600, 0), "mknod");
  return ok(open("s", O_PATH));
}
CHECK("open.socket", "ENXIO") {
  must(mknod("s", S_IFSOCK | 0600, 0), "mknod");
  return ok(open("s", O_RDWR));
}
CHECK("open.fifo.write_without_reader", "ENXIO") {
  must(mkfifo("p", 0600), "mkfifo");
  return ok(open("p", O_WRONLY | O_NONBLOCK));
}
CHECK("open.fifo.read_without_writer", "ok 0") {
  must(mkfifo("p", 0600), "mkfifo");
  const int fd = open("p", O_RDONLY | O_NONBLOCK);
  char c;
  return seen({ok(fd), number(read(fd, &c, 1))});
}
CHECK("open.fifo.carries_data", "'through'") {
  must(mkfifo("p", 0600), "mkfifo");
  const Fd in("p", O_RDWR | O_NONBLOCK), out("p", O_WRONLY | O_NONBLOCK);
  must(write(out, "through", 7), "write");
  char buffer[16];
  const long n = must(read(in, buffer, sizeof buffer), "read");
  return text({buffer, static_cast<std::size_t>(n)});
}
CHECK("open.device.null", "ok 3 0") {
  must(mknod("null", S_IFCHR | 0666, makedev(1, 3)), "mknod");
  const int fd = open("null", O_RDWR);
  char c;
  return seen({ok(fd), number(write(fd, "abc", 3)), number(read(fd, &c, 1))});
}
CHECK("open.device.absent", "ENXIO|ENODEV") {
  must(mknod("none", S_IFCHR | 0666, makedev(240, 77)), "mknod");
  return ok(open("none", O_RDWR));
}
CHECK("open.noatime.own", "ok none") {
  make_file("f", "abc");
  const int fd = open("f", O_RDONLY | O_NOATIME);
  return seen({ok(fd), times_changed("f", [fd] {
                 char c;
                 must(read(fd, &c, 1), "read");
               })});
}
CHECK("open.noatime.foreign", "EPERM") {
  make_file("f", "abc");
  return as_user([] { return ok(open("f", O_RDONLY | O_NOATIME)); });
}
CHECK("open.access.read_denied", "EACCES") {
  make_file("f", "abc", 0200);
  must(chown("f", kUser, kGroup), "chown");
  return as_user([] { return ok(open("f", O_RDONLY)); });
}
CHECK("open.access.write_denied", "EACCES") {
  make_file("f", "abc", 0400);
  must(chown("f", kUser, kGroup), "chown");
  return as_user([] { return ok(open("f", O_WRONLY)); });
}
CHECK("open.access.owner_class_decides", "EACCES") {
  make_file("f", "abc", 0077);  // others may, the owner may not
  must(chown("f", kUser, kGroup), "chown");
  return as_user([] { return ok(open("f", O_RDONLY)); });
}
CHECK("open.access.group_class", "ok EACCES") {
  make_file("f", "abc", 0040);
  must(chown("f", kOther, kGroup), "chown");
  return as_user([] { return seen({ok(open("f", O_RDONLY)), ok(open("f", O_WRONLY))}); });
}
CHECK("open.access.supplementary_group", "EACCES ok") {
  make_file("f", "abc", 0040);
  must(chown("f", kOther, kOtherGroup), "chown");
  return as_user([] {
    const std::string without = ok(open("f", O_RDONLY));
    must(setresuid(-1, 0, -1), "setresuid");
    const gid_t groups[] = {kOtherGroup};
    must(setgroups(1, groups), "setgroups");
    must(setresuid(-1, kUser, -1), "setresuid");
    return seen({without, ok(open("f", O_RDONLY))});
  });
}
CHECK("open.access.stays_after_chmod", "3") {
  make_file("f", "abc");
  must(chown("f", kUser, kGroup), "chown");
  return as_user([] {
    const Fd fd("f", O_RDONLY);
    must(chmod("f", 0), "chmod");
    char buffer[8];
    return number(read(fd, buffer, sizeof buffer));
  });
}
CHECK("open.access.bad_mode_bits", "") {
  make_file("f");
  return ok(open("f", O_ACCMODE));  // Linux: for ioctl() alone
}
CHECK("open.descriptors.limit", "EMFILE") {
  make_file("f");
  const rlimit limit{3, 3};
  must(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
  return ok(open("f", O_RDONLY));
}
CHECK("open.flags.kept", "yes yes no") {
  make_file("f");
  const Fd fd("f", O_RDWR | O_APPEND | O_NONBLOCK | O_TRUNC);
  const int flags = fcntl(fd, F_GETFL);
  return seen({yes(flags & O_APPEND), yes(flags & O_NONBLOCK), yes(flags & O_TRUNC)});
}
CHECK("open.sync_flags", "ok ok 3 3") {
  const int sync = open("a", O_CREAT | O_WRONLY | O_SYNC, 0600), dsync = open("b", O_CREAT | O_WRONLY | O_DSYNC, 0600);
  return seen({ok(sync), ok(dsync), number(write(sync, "abc", 3)), number(write(dsync, "abc", 3))});
}
CHECK("open.directory.read", "EISDIR") {
  char c;
  return ok(read(Fd(".", O_RDONLY), &c, 1));
}
CHECK("open.at.directory_descriptor", "ok ENOTDIR EBADF") {
  make_dir("d");
  make_file("d/f");
  const Fd dir("d", O_RDONLY), file("d/f", O_RDONLY);
  return seen({ok(openat(dir, "f", O_RDONLY)), ok(openat(file, "f", O_RDONLY)), ok(openat(999, "f", O_RDONLY))});
}
CHECK("open.at.absolute_ignores_descriptor", "ok") { return ok(openat(999, "/", O_RDONLY)); }
CHECK("open.at.removed_directory", "ENOENT ENOENT") {
  make_dir("d");
  const Fd dir("d", O_RDONLY);
  must(rmdir("d"), "rmdir");
  return seen({ok(openat(dir, "f", O_RDONLY)), ok(openat(dir, "f", O_CREAT | O_WRONLY, 0600))});
}

CHECK("open.tmpfile.no_name", "ok 0 3") {
  const int fd = open(".", O_TMPFILE | O_RDWR, 0600);
  if (fd < 0) return ok(fd);
  const std::string links = number(static_cast<long>(stat_of(fd).st_nlink));
  return seen({"ok", links, number(write(fd, "abc", 3))});
}
CHECK("open.tmpfile.linked", "ok 1 'abc'") {
  const Fd fd(".", O_TMPFILE | O_RDWR, 0600);
  must(write(fd, "abc", 3), "write");
  const int linked = linkat(AT_FDCWD, unnamed_name(fd).c_str(), AT_FDCWD, "f", AT_SYMLINK_FOLLOW);
  return seen({ok(linked), nlink_of("f"), text(contents("f"))});
}
CHECK("open.tmpfile.exclusive_not_linked", "ENOENT") {
  const Fd fd(".", O_TMPFILE | O_RDWR | O_EXCL, 0600);
  return ok(linkat(AT_FDCWD, unnamed_name(fd).c_str(), AT_FDCWD, "f", AT_SYMLINK_FOLLOW));
}
CHECK("open.tmpfile.mode", "0640") {
  umask(027);
  const Fd fd(".", O_TMPFILE | O_RDWR, 0666);
  return octal(stat_of(fd).st_mode);
}
CHECK("open.tmpfile.read_only_refused", "EINVAL") { return ok(open(".", O_TMPFILE | O_RDONLY, 0600)); }
CHECK("open.tmpfile.unwritable_directory", "EACCES") {
  return as_user([] { return ok(open(".", O_TMPFILE | O_RDWR, 0600)); });
}
CHECK("open.tmpfile.parent_unchanged", "none") {
  return times_changed(".", [] { must(open(".", O_TMPFILE | O_RDWR, 0600), "open"); });
}

CHECK("openat2.beneath", "ok EXDEV EXDEV EXDEV") {
  make_dir("d");
  make_file("d/f");
  make_file("f");
  make_link("../f", "d/up");
  const Fd dir("d", O_PATH);
  return seen(
      {ok(openat2_at(dir, "f", O_RDONLY, RESOLVE_BENEATH)), ok(openat2_at(dir, "../f", O_RDONLY, RESOLVE_BENEATH)),
       ok(openat2_at(dir, "up", O_RDONLY, RESOLVE_BENEATH)), ok(openat2_at(dir, "/", O_RDONLY, RESOLVE_BENEATH))});
}
CHECK("openat2.in_root", "ok ok ENOENT") {
  make_dir("d");
  make_file("d/f");
  make_link("/f", "d/absolute");
  make_link("/nothing", "d/none");
  const Fd dir("d", O_PATH);
  return seen({ok(openat2_at(dir, "../../f", O_RDONLY, RESOLVE_IN_ROOT)),
               ok(openat2_at(dir, "absolute", O_RDONLY, RESOLVE_IN_ROOT)),
               ok(openat2_at(dir, "none", O_RDONLY, RESOLVE_IN_ROOT))});
}
CHECK("openat2.no_symlinks", "ok ELOOP ELOOP") {
  make_dir("d");
  make_file("d/f");
  make_link("d", "s");
  make_link("d/f", "sf");
  return seen({ok(openat2_at(AT_FDCWD, "d/f", O_RDONLY, RESOLVE_NO_SYMLINKS)),
               ok(openat2_at(AT_FDCWD, "s/f", O_RDONLY, RESOLVE_NO_SYMLINKS)),
               ok(openat2_at(AT_FDCWD, "sf", O_RDONLY, RESOLVE_NO_SYMLINKS))});
}
CHECK("openat2.no_magic_links", "ok ELOOP") {
  make_file("f");
  const Fd fd("f", O_RDONLY);
  return seen({ok(openat2_at(AT_FDCWD, "f", O_RDONLY, RESOLVE_NO_MAGICLINKS)),
               ok(openat2_at(AT_FDCWD, unnamed_name(fd).c_str(), O_RDONLY, RESOLVE_NO_MAGICLINKS))});
}
CHECK("openat2.no_other_filesystem", "ok EXDEV") {
  make_file("f");
  make_link(other_directory(), "s");
  return seen({ok(openat2_at(AT_FDCWD, "f", O_RDONLY, RESOLVE_NO_XDEV)),
               ok(openat2_at(AT_FDCWD, "s", O_RDONLY, RESOLVE_NO_XDEV))});
}
CHECK("openat2.cached", "ok") {
  make_file("f");
  const Fd keeps_it_cached("f", O_RDONLY);
  return ok(openat2_at(AT_FDCWD, "f", O_RDONLY, RESOLVE_CACHED));
}
CHECK("openat2.cached_unknown", "EAGAIN") { return ok(openat2_at(AT_FDCWD, "none", O_RDONLY, RESOLVE_CACHED)); }
CHECK("openat2.bad_arguments", "EINVAL EINVAL EINVAL E2BIG") {
  make_file("f");
  open_how how{};
  struct {
    open_how how;
    long extra;
  } larger{};
  larger.extra = 1;
  const long small = syscall(SYS_openat2, AT_FDCWD, "f", &how, std::size_t{8});
  const std::string too_small = ok(small);
  const std::string unknown = ok(openat2_at(AT_FDCWD, "f", O_RDONLY, std::uint64_t{1} << 40));
  const std::string stray_mode = ok(openat2_at(AT_FDCWD, "f", O_RDONLY, 0, 0600));
  return seen({too_small, unknown, stray_mode, ok(syscall(SYS_openat2, AT_FDCWD, "f", &larger, sizeof larger))});
}

CHECK("open.unlinked.still_there", "3 0 'abcdef'") {
  Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(write(fd, "abc", 3), "write");
  must(unlink("f"), "unlink");
  const std::string wrote = number(write(fd, "def", 3));
  char buffer[16];
  const long n = must(pread(fd, buffer, sizeof buffer, 0), "pread");
  return seen({wrote, number(static_cast<long>(stat_of(fd).st_nlink)), text({buffer, static_cast<std::size_t>(n)})});
}
CHECK("open.unlinked.changes_through_descriptor", "ok ok ok 0640 5") {
  Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(unlink("f"), "unlink");
  const std::string changed = seen({ok(fchmod(fd, 0640)), ok(ftruncate(fd, 5)), ok(futimens(fd, nullptr))});
  const struct stat st = stat_of(fd);
  return seen({changed, octal(st.st_mode), number(st.st_size)});
}
CHECK("open.unlinked.reopened_through_proc", "ok 3") {
  Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(write(fd, "abc", 3), "write");
  must(unlink("f"), "unlink");
  const int again = open(unnamed_name(fd).c_str(), O_RDONLY);
  char buffer[8];
  return seen({ok(again), number(read(again, buffer, sizeof buffer))});
}
CHECK("open.unlinked.name_free_at_once", "ok ENOENT") {
  Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(unlink("f"), "unlink");
  const std::string gone = ok(access("f", F_OK));
  return seen({ok(open("f", O_CREAT | O_EXCL | O_WRONLY, 0600)), gone});
}
CHECK("open.replaced.keeps_old_contents", "'old' 'new' 0") {
  make_file("f", "old");
  make_file("g", "new");
  const Fd fd("f", O_RDONLY);
  must(rename("g", "f"), "rename");
  char buffer[8];
  const long n = must(read(fd, buffer, sizeof buffer), "read");
  return seen({text({buffer, static_cast<std::size_t>(n)}), text(contents("f")),
               number(static_cast<long>(stat_of(fd).st_nlink))});
}

}  // namespace
}  // namespace posix
