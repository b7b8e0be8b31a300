// SPDX-License-Identifier: LGPL-2.1-or-later
// mkdir(), rmdir(), reading directories, the working directory, the root.
#include "check.hh"

#include <dirent.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>

namespace posix {
namespace {

struct Closer {
  void operator()(DIR *dir) const noexcept { closedir(dir); }
};
using Dir = std::unique_ptr<DIR, Closer>;

Dir open_dir(const char *path) {
  Dir dir(opendir(path));
  if (dir == nullptr) throw Unexpected(std::string("opendir: ") + error_name(errno));
  return dir;
}

/// Every name, as often as it comes.
std::multiset<std::string> names_in(DIR *dir) {
  std::multiset<std::string> names;
  errno = 0;
  while (const dirent *entry = readdir(dir)) names.insert(entry->d_name);
  if (errno != 0) throw Unexpected("readdir: " + error_name(errno));
  return names;
}
std::multiset<std::string> names_in(const char *path) { return names_in(open_dir(path).get()); }

std::string joined(const std::multiset<std::string> &names) {
  std::string all;
  for (const std::string &name : names) all += (all.empty() ? "" : " ") + name;
  return all;
}

std::string numbered(int i) { return "entry-with-a-longer-name-" + std::to_string(i); }

void fill(int count) {
  for (int i = 0; i < count; ++i) must(mknod(numbered(i).c_str(), S_IFREG | 0600, 0), "mknod");
}

CHECK("mkdir.counts", "2 3 4") {
  make_dir("d");
  const std::string empty = nlink_of("d");
  make_dir("d/a");
  const std::string one = nlink_of("d");
  make_dir("d/b");
  make_file("d/f");
  return seen({empty, one, nlink_of("d")});
}
CHECK("mkdir.mode", "0750 1777 0700") {
  umask(027);
  must(mkdir("a", 0777), "mkdir");
  umask(0);
  must(mkdir("b", 01777), "mkdir");
  must(mkdir("c", 06700), "mkdir");
  return seen({mode_of("a"), mode_of("b"), mode_of("c")});
}
CHECK("mkdir.times_of_parent", "mtime ctime") {
  return times_changed(".", [] { must(mkdir("d", 0700), "mkdir"); });
}
CHECK("mkdir.dot", "EEXIST EEXIST") { return seen({ok(mkdir(".", 0700)), ok(mkdir("..", 0700))}); }
CHECK("mkdir.over_dangling_link", "EEXIST") {
  make_link("none", "s");
  return ok(mkdir("s", 0700));
}
CHECK("mkdir.in_removed_directory", "ENOENT") {
  make_dir("d");
  must(chdir("d"), "chdir");
  must(rmdir("../d"), "rmdir");
  return ok(mkdir("x", 0700));
}
CHECK("mkdir.deep", "ok 200") {
  int depth = 0;
  for (; depth < 200; ++depth) {
    must(mkdir("d", 0700), "mkdir");
    must(chdir("d"), "chdir");
  }
  return seen({ok(open("f", O_CREAT | O_WRONLY, 0600)), number(depth)});
}

CHECK("rmdir.not_empty", "ENOTEMPTY|EEXIST") {
  make_dir("d");
  make_file("d/f");
  return ok(rmdir("d"));
}
CHECK("rmdir.dot", "EINVAL ENOTEMPTY|EINVAL EEXIST") {
  make_dir("d");
  return seen({ok(rmdir("d/.")), ok(rmdir("d/.."))});
}
CHECK("rmdir.counts_and_times", "2 mtime ctime") {
  make_dir("d");
  make_dir("d/e");
  const std::string times = times_changed("d", [] { must(rmdir("d/e"), "rmdir"); });
  return seen({nlink_of("d"), times});
}
CHECK("rmdir.open_directory_is_empty", "ok 0") {
  make_dir("d");
  const Fd fd("d", O_RDONLY);
  char buffer[1024];
  return seen(
      {ok(rmdir("d")), number(syscall(SYS_getdents64, int{fd}, buffer, sizeof buffer)) == "ENOENT" ? "0" : "some"});
}
CHECK("rmdir.open_directory_nlink", "0") {
  make_dir("d");
  const Fd fd("d", O_RDONLY);
  must(rmdir("d"), "rmdir");
  return number(static_cast<long>(stat_of(fd).st_nlink));
}
CHECK("rmdir.mount_point", "EBUSY EBUSY") {
  make_dir("d");
  make_dir("e");
  must(unshare(CLONE_NEWNS), "unshare");
  must(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "make mounts private");
  must(mount(other_directory().c_str(), "d", nullptr, MS_BIND, nullptr), "bind mount");
  return seen({ok(rmdir("d")), ok(rename("d", "x"))});
}

CHECK("readdir.all_kinds", ". .. d f s") {
  make_file("f");
  make_dir("d");
  make_link("x", "s");
  return joined(names_in("."));
}
CHECK("readdir.types", "4 8 10 1 12 2 6") {
  make_dir("d");
  make_file("f");
  make_link("x", "s");
  must(mkfifo("p", 0600), "mkfifo");
  must(mknod("k", S_IFSOCK | 0600, 0), "mknod");
  must(mknod("c", S_IFCHR | 0600, 0x103), "mknod");
  must(mknod("b", S_IFBLK | 0600, 0x700), "mknod");
  const Dir dir = open_dir(".");
  std::map<std::string, int> types;
  while (const dirent *entry = readdir(dir.get())) types[entry->d_name] = entry->d_type;
  return seen({number(types["d"]), number(types["f"]), number(types["s"]), number(types["p"]), number(types["k"]),
               number(types["c"]), number(types["b"])});
}
CHECK("readdir.inode_numbers", "yes yes yes") {
  make_dir("d");
  make_file("d/f");
  ino_t self = 0, parent = 0, file = 0;
  const Dir dir = open_dir("d");
  while (const dirent *entry = readdir(dir.get())) {
    const std::string name = entry->d_name;
    (name == "." ? self : name == ".." ? parent : file) = entry->d_ino;
  }
  return seen(
      {yes(self == stat_of("d").st_ino), yes(parent == stat_of(".").st_ino), yes(file == stat_of("d/f").st_ino)});
}
CHECK("readdir.many", "1002 yes") {
  fill(1000);
  const std::multiset<std::string> names = names_in(".");
  return seen({number(static_cast<long>(names.size())),
               yes(std::set<std::string>(names.begin(), names.end()).size() == names.size())});
}
CHECK("readdir.rewind_sees_changes", "f f g") {
  make_dir("d");
  make_file("d/f");
  const Dir dir = open_dir("d");
  std::multiset<std::string> first = names_in(dir.get());
  make_file("d/g");
  rewinddir(dir.get());
  std::multiset<std::string> second = names_in(dir.get());
  for (auto *names : {&first, &second})
    for (const char *dots : {".", ".."}) names->erase(dots);
  return seen({joined(first), joined(second)});
}
CHECK("readdir.telldir_seekdir", "yes") {
  fill(100);
  const Dir dir = open_dir(".");
  for (int i = 0; i < 50; ++i) readdir(dir.get());
  const long at = telldir(dir.get());
  const std::multiset<std::string> rest = names_in(dir.get());
  seekdir(dir.get(), at);
  return yes(names_in(dir.get()) == rest);
}
CHECK("readdir.position_survives_reopen", "yes") {
  // A position is good for another descriptor of the same directory: what NFS servers do.
  fill(100);
  const Fd one(".", O_RDONLY);
  char buffer[600];
  must(syscall(SYS_getdents64, int{one}, buffer, sizeof buffer), "getdents64");
  const off_t at = lseek(one, 0, SEEK_CUR);
  const auto rest = [&](int fd) {
    std::set<std::string> names;
    for (long n; (n = must(syscall(SYS_getdents64, fd, buffer, sizeof buffer), "getdents64")) > 0;)
      for (long i = 0; i < n;) {
        const auto *entry = reinterpret_cast<const dirent64 *>(buffer + i);
        names.insert(entry->d_name);
        i += entry->d_reclen;
      }
    return names;
  };
  const std::set<std::string> expected = rest(one);
  const Fd two(".", O_RDONLY);
  must(lseek(two, at, SEEK_SET), "lseek");
  return yes(rest(two) == expected);
}
CHECK("readdir.removing_while_reading", "yes") {
  // What was there all the time is seen exactly once.
  fill(400);
  const Dir dir = open_dir(".");
  std::multiset<std::string> names;
  while (const dirent *entry = readdir(dir.get())) {
    names.insert(entry->d_name);
    const std::string name = entry->d_name;
    if (name[0] == 'e' && (name.back() - '0') % 2 == 1) must(unlink(name.c_str()), "unlink");
  }
  bool right = true;
  for (int i = 0; i < 400; i += 2) right = right && names.count(numbered(i)) == 1;
  return yes(right);
}
CHECK("readdir.adding_while_reading", "yes") {
  fill(200);
  const Dir dir = open_dir(".");
  std::multiset<std::string> names;
  int more = 1000;
  while (const dirent *entry = readdir(dir.get())) {
    names.insert(entry->d_name);
    if (more < 1200) must(mknod(numbered(more++).c_str(), S_IFREG | 0600, 0), "mknod");
  }
  bool right = true;
  for (int i = 0; i < 200; ++i) right = right && names.count(numbered(i)) == 1;
  return yes(right);
}
CHECK("readdir.removed_all_then_empty", ". ..") {
  make_dir("d");
  must(chdir("d"), "chdir");
  fill(300);
  for (const std::string &name : names_in("."))
    if (name[0] == 'e') must(unlink(name.c_str()), "unlink");
  return joined(names_in("."));
}
CHECK("readdir.small_buffer", "EINVAL") {
  char buffer[8];
  return ok(syscall(SYS_getdents64, int{Fd(".", O_RDONLY)}, buffer, sizeof buffer));
}
CHECK("readdir.bad_memory", "EFAULT") {
  return ok(syscall(SYS_getdents64, int{Fd(".", O_RDONLY)}, bad_address(), 1024L));
}
CHECK("readdir.file", "ENOTDIR") {
  make_file("f");
  char buffer[1024];
  return ok(syscall(SYS_getdents64, int{Fd("f")}, buffer, sizeof buffer));
}
CHECK("readdir.end_stays_end", "0 0") {
  const Fd fd(".", O_RDONLY);
  char buffer[4096];
  while (must(syscall(SYS_getdents64, int{fd}, buffer, sizeof buffer), "getdents64") > 0) {
  }
  const long again = syscall(SYS_getdents64, int{fd}, buffer, sizeof buffer);
  return seen({number(again), number(syscall(SYS_getdents64, int{fd}, buffer, sizeof buffer))});
}
CHECK("readdir.no_permission", "EACCES") {
  make_dir("d", 0711);
  return as_user([] { return ok(open("d", O_RDONLY)); });
}
CHECK("readdir.two_readers", "yes") {
  fill(50);
  const Dir one = open_dir("."), two = open_dir(".");
  for (int i = 0; i < 10; ++i) readdir(one.get());
  return yes(names_in(two.get()).size() == 52 && names_in(one.get()).size() == 42);
}

CHECK("cwd.getcwd_after_rename", "yes") {
  make_dir("d");
  must(chdir("d"), "chdir");
  must(rename("../d", "../e"), "rename");
  char path[4096];
  const std::string here = getcwd(path, sizeof path) != nullptr ? path : error_name(errno);
  return yes(here.size() > 2 && here.substr(here.size() - 2) == "/e");
}
CHECK("cwd.getcwd_after_rmdir", "ENOENT") {
  make_dir("d");
  must(chdir("d"), "chdir");
  must(rmdir("../d"), "rmdir");
  char path[4096];
  return getcwd(path, sizeof path) != nullptr ? "ok" : error_name(errno);
}
CHECK("cwd.getcwd_small_buffer", "ERANGE") {
  char path[2];
  return getcwd(path, sizeof path) != nullptr ? "ok" : error_name(errno);
}
CHECK("cwd.chdir_and_open", "ok ok") {
  make_dir("d");
  make_file("d/f");
  return seen({ok(chdir("d")), ok(open("f", O_RDONLY))});
}
CHECK("cwd.fchdir", "ok ok ENOTDIR") {
  make_dir("d");
  make_file("d/f");
  const Fd dir("d", O_PATH);
  const std::string moved = ok(fchdir(dir));
  return seen({moved, ok(open("f", O_RDONLY)), ok(fchdir(Fd("f")))});
}
CHECK("cwd.removed_still_usable", "ok ENOENT") {
  make_dir("d");
  must(chdir("d"), "chdir");
  must(rmdir("../d"), "rmdir");
  struct stat st;
  return seen({ok(stat(".", &st)), ok(open("f", O_CREAT | O_WRONLY, 0600))});
}
CHECK("chroot.sees_only_below", "ok ok ENOENT ok") {
  make_dir("d");
  make_file("d/f");
  make_file("outside");
  return seen({ok(chroot("d")), ok(chdir("/")), ok(open("/outside", O_RDONLY)), ok(open("/../f", O_RDONLY))});
}
CHECK("chroot.needs_privilege", "EPERM") {
  return as_user([] { return ok(chroot(".")); });
}

}  // namespace
}  // namespace posix
