// SPDX-License-Identifier: LGPL-2.1-or-later
// utimensat() and which calls change which times. More of these stand beside the calls they are about.
#include "check.hh"

#include <dirent.h>
#include <sys/time.h>
#include <time.h>
#include <utime.h>

#include <cstdio>

namespace posix {
namespace {

std::string stamp(const timespec &t) {
  char digits[64];
  std::snprintf(digits, sizeof digits, "%lld.%09ld", static_cast<long long>(t.tv_sec), t.tv_nsec);
  return digits;
}

std::string atime_mtime(const std::string &path) {
  const struct stat st = stat_of(path);
  return stamp(st.st_atim) + " " + stamp(st.st_mtim);
}

long set_times(const char *path, timespec atime, timespec mtime, int flags = 0) {
  const timespec both[] = {atime, mtime};
  return utimensat(AT_FDCWD, path, both, flags);
}

constexpr timespec kNow{0, UTIME_NOW}, kOmit{0, UTIME_OMIT}, kOld{1000000000, 123456789};

CHECK("utimensat.exact", "ok 1000000000.123456789 1500000000.987654321") {
  make_file("f");
  return seen({ok(set_times("f", kOld, {1500000000, 987654321})), atime_mtime("f")});
}
CHECK("utimensat.changes_ctime", "atime mtime ctime") {
  make_file("f");
  return times_changed("f", [] { must(set_times("f", kOld, kOld), "utimensat"); });
}
CHECK("utimensat.omit_one", "atime ctime mtime ctime") {
  make_file("f");
  const std::string first = times_changed("f", [] { must(set_times("f", kOld, kOmit), "utimensat"); });
  return seen({first, times_changed("f", [] { must(set_times("f", kOmit, kOld), "utimensat"); })});
}
CHECK("utimensat.omit_both", "none ok") {
  make_file("f");
  return seen({times_changed("f", [] { must(set_times("f", kOmit, kOmit), "utimensat"); }),
               ok(set_times("f", kOmit, kOmit))});
}
CHECK("utimensat.now", "atime mtime ctime yes") {
  make_file("f");
  must(set_times("f", kOld, kOld), "utimensat");
  const std::string changed = times_changed("f", [] { must(set_times("f", kNow, kNow), "utimensat"); });
  const struct stat st = stat_of("f");
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return seen({changed, yes(now.tv_sec - st.st_mtim.tv_sec < 60 && st.st_mtim.tv_sec - now.tv_sec <= 1)});
}
CHECK("utimensat.before_1970", "ok -100.500000000 -1.000000000|ok 0.000000000 0.000000000") {
  make_file("f");
  return seen({ok(set_times("f", {-100, 500000000}, {-1, 0})), atime_mtime("f")});
}
CHECK("utimensat.after_2038", "ok 3000000000.000000000 4294967296.000000001") {
  make_file("f");
  return seen({ok(set_times("f", {3000000000, 0}, {4294967296, 1})), atime_mtime("f")});
}
CHECK("utimensat.bad_nanoseconds", "EINVAL EINVAL") {
  make_file("f");
  return seen({ok(set_times("f", {1, 1000000000}, kOld)), ok(set_times("f", kOld, {1, -1}))});
}
CHECK("utimensat.link_itself", "1000000000.123456789 yes") {
  make_file("f");
  make_link("f", "s");
  must(set_times("s", kOld, kOld, AT_SYMLINK_NOFOLLOW), "utimensat");
  return seen({stamp(stat_of("s").st_mtim), yes(stat_of("f").st_mtim.tv_sec > kOld.tv_sec)});
}
CHECK("utimensat.descriptor", "ok 1000000000.123456789 1000000000.123456789") {
  make_file("f");
  const timespec both[] = {kOld, kOld};
  return seen({ok(futimens(Fd("f"), both)), atime_mtime("f")});
}
CHECK("utimensat.empty_path", "ok 1000000000.123456789 1000000000.123456789") {
  make_file("f");
  const timespec both[] = {kOld, kOld};
  return seen({ok(utimensat(Fd("f", O_PATH), "", both, AT_EMPTY_PATH)), atime_mtime("f")});
}
CHECK("utimensat.directory", "ok 1000000000.123456789 1000000000.123456789") {
  make_dir("d");
  return seen({ok(set_times("d", kOld, kOld)), atime_mtime("d")});
}
CHECK("utimensat.bad_flags", "EINVAL") { return ok(set_times(".", kOld, kOld, 0x10000000)); }
CHECK("utimes.microseconds", "ok 1000000000.123456000 1000000001.000000000") {
  make_file("f");
  const timeval both[] = {{1000000000, 123456}, {1000000001, 0}};
  return seen({ok(utimes("f", both)), atime_mtime("f")});
}
CHECK("utime.seconds", "ok 1000000000.000000000 1000000001.000000000") {
  make_file("f");
  const utimbuf both{1000000000, 1000000001};
  return seen({ok(utime("f", &both)), atime_mtime("f")});
}

std::string as_user_of_file(mode_t mode, uid_t owner, timespec atime, timespec mtime) {
  make_file("f", "x", mode);
  must(chown("f", owner, kOtherGroup), "chown");
  return as_user([&] { return ok(set_times("f", atime, mtime)); });
}
CHECK("utimensat.permission.owner_without_write", "ok") { return as_user_of_file(0000, kUser, kOld, kOld); }
CHECK("utimensat.permission.owner_now", "ok") { return as_user_of_file(0000, kUser, kNow, kNow); }
CHECK("utimensat.permission.writer_now", "ok") { return as_user_of_file(0666, kOther, kNow, kNow); }
CHECK("utimensat.permission.writer_exact", "EPERM") { return as_user_of_file(0666, kOther, kOld, kOld); }
CHECK("utimensat.permission.writer_now_and_omit", "EPERM") { return as_user_of_file(0666, kOther, kNow, kOmit); }
CHECK("utimensat.permission.reader_now", "EACCES") { return as_user_of_file(0444, kOther, kNow, kNow); }
CHECK("utimensat.permission.omit_both", "ok") { return as_user_of_file(0444, kOther, kOmit, kOmit); }

CHECK("times.new_file_all_alike", "yes") {
  const Fd fd("f", O_CREAT | O_EXCL | O_WRONLY, 0644);
  const struct stat st = stat_of("f");
  return yes(stamp(st.st_atim) == stamp(st.st_mtim) && stamp(st.st_mtim) == stamp(st.st_ctim));
}
CHECK("times.never_in_the_future", "yes") {
  make_file("f", "abc");
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  const timespec m = stat_of("f").st_mtim;
  return yes(m.tv_sec < now.tv_sec || (m.tv_sec == now.tv_sec && m.tv_nsec <= now.tv_nsec));
}
CHECK("times.read_directory", "atime") {
  make_dir("d");
  make_file("d/f");
  return times_changed("d", [] {
    const Fd fd("d", O_RDONLY);
    char buffer[1024];
    while (must(getdents64(fd, buffer, sizeof buffer), "getdents64") > 0) {
    }
  });
}
CHECK("times.read_link", "atime") {
  make_link("target", "s");
  return times_changed("s", [] {
    char buffer[16];
    must(readlink("s", buffer, sizeof buffer), "readlink");
  });
}
CHECK("times.stat_changes_nothing", "none") {
  make_file("f");
  return times_changed("f", [] { stat_of("f"); });
}
CHECK("times.open_changes_nothing", "none") {
  make_file("f");
  return times_changed("f", [] { Fd fd("f", O_RDWR); });
}
CHECK("times.close_after_write_changes_nothing", "none") {
  Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(write(fd, "abc", 3), "write");
  stat_of("f");
  return times_changed("f", [&] { fd.close(); });
}
CHECK("times.set_then_close", "1000000000.123456789 1000000000.123456789") {
  // As cp -p and tar do: nothing that was written before may change them later.
  {
    const Fd fd("f", O_CREAT | O_RDWR, 0600);
    must(write(fd, "abc", 3), "write");
    const timespec both[] = {kOld, kOld};
    must(futimens(fd, both), "futimens");
  }
  sync();
  return atime_mtime("f");
}

}  // namespace
}  // namespace posix
