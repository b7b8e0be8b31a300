// SPDX-License-Identifier: LGPL-2.1-or-later
// Names: link(), unlink(), symlink(), readlink(), rename(), and what a name may be.
#include "check.hh"

#include <linux/fs.h>
#include <stdio.h>
#include <sys/sysmacros.h>

namespace posix {
namespace {

std::string exists(const std::string &path) {
  return yes(::faccessat(AT_FDCWD, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0);
}

std::string fd_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

// link

CHECK("link.same_file", "ok 2 2 'abc'") {
  make_file("f", "abc");
  return seen({ok(link("f", "g")), nlink_of("f"), nlink_of("g"), text(contents("g"))});
}
CHECK("link.change_through_either", "'new' 0600") {
  make_file("f", "abc");
  must(link("f", "g"), "link");
  must(chmod("g", 0600), "chmod");
  must(pwrite(Fd("g"), "new", 3, 0), "pwrite");
  return seen({text(contents("f")), mode_of("f")});
}
CHECK("link.times", "ctime mtime ctime") {
  make_file("f");
  make_dir("d");
  const std::string file = times_changed("f", [] { must(link("f", "g"), "link"); });
  return seen({file, times_changed("d", [] { must(link("f", "d/g"), "link"); })});
}
CHECK("link.other_filesystem", "EXDEV") {
  make_file("f");
  return ok(link("f", (other_directory() + "/f").c_str()));
}
CHECK("link.symlink_not_followed", "ok 2 1") {
  make_file("f");
  make_link("f", "s");
  return seen({ok(link("s", "t")), nlink_of("s"), nlink_of("f")});
}
CHECK("link.symlink_followed", "ok 2") {
  make_file("f");
  make_link("f", "s");
  return seen({ok(linkat(AT_FDCWD, "s", AT_FDCWD, "t", AT_SYMLINK_FOLLOW)), nlink_of("f")});
}
CHECK("link.empty_path", "ok 2") {
  make_file("f");
  return seen({ok(linkat(Fd("f"), "", AT_FDCWD, "g", AT_EMPTY_PATH)), nlink_of("f")});
}
CHECK("link.bad_flags", "EINVAL") {
  make_file("f");
  return ok(linkat(AT_FDCWD, "f", AT_FDCWD, "g", 0x10000000));
}
CHECK("link.unlinked_file", "ENOENT") {
  Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(unlink("f"), "unlink");
  return ok(linkat(AT_FDCWD, fd_path(fd).c_str(), AT_FDCWD, "g", AT_SYMLINK_FOLLOW));
}
CHECK("link.special_files", "ok ok ok") {
  must(mkfifo("p", 0600), "mkfifo");
  must(mknod("s", S_IFSOCK | 0600, 0), "mknod");
  must(mknod("c", S_IFCHR | 0600, makedev(1, 3)), "mknod");
  return seen({ok(link("p", "p2")), ok(link("s", "s2")), ok(link("c", "c2"))});
}
CHECK("link.many", "1001") {
  make_file("f");
  for (int i = 0; i < 1000; ++i) must(link("f", ("l" + std::to_string(i)).c_str()), "link");
  return nlink_of("f");
}
CHECK("link.foreign_file", "") {
  // fs.protected_hardlinks
  make_file("f", "", 0600);
  chmod(".", 0777);
  return as_user([] { return ok(link("f", "g")); });
}
CHECK("link.onto_itself", "EEXIST") {
  make_file("f");
  return ok(link("f", "f"));
}

// unlink

CHECK("unlink.last_and_other_name", "1 ctime") {
  make_file("f");
  must(link("f", "g"), "link");
  const std::string times = times_changed("f", [] { must(unlink("g"), "unlink"); });
  return seen({nlink_of("f"), times});
}
CHECK("unlink.directory_times", "mtime ctime") {
  make_dir("d");
  make_file("d/f");
  return times_changed("d", [] { must(unlink("d/f"), "unlink"); });
}
CHECK("unlink.link_not_target", "ok no yes") {
  make_file("f");
  make_link("f", "s");
  return seen({ok(unlink("s")), exists("s"), exists("f")});
}
CHECK("unlink.special_files", "ok ok ok") {
  must(mkfifo("p", 0600), "mkfifo");
  must(mknod("s", S_IFSOCK | 0600, 0), "mknod");
  must(mknod("c", S_IFCHR | 0600, makedev(1, 3)), "mknod");
  return seen({ok(unlink("p")), ok(unlink("s")), ok(unlink("c"))});
}
CHECK("unlink.at_removedir", "ok ENOTDIR EINVAL") {
  make_dir("d");
  make_file("f");
  return seen({ok(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR)), ok(unlinkat(AT_FDCWD, "f", AT_REMOVEDIR)),
               ok(unlinkat(AT_FDCWD, "f", 0x10000000))});
}
CHECK("unlink.dot", "EISDIR EISDIR") { return seen({ok(unlink(".")), ok(unlink(".."))}); }
CHECK("unlink.frees_space_after_close", "yes") {
  Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(unlink("f"), "unlink");
  must(ftruncate(fd, 1 << 20), "ftruncate");
  fd.close();
  return yes(exists("f") == "no");
}

// symlink, readlink

CHECK("symlink.anything", "ok 'no such/../thing//'") {
  const std::string made = ok(symlink("no such/../thing//", "s"));
  char target[64];
  const long n = must(readlink("s", target, sizeof target), "readlink");
  return seen({made, text({target, static_cast<std::size_t>(n)})});
}
CHECK("symlink.empty_target", "ENOENT") { return ok(symlink("", "s")); }
CHECK("symlink.longest_target", "ok 4095 ENAMETOOLONG") {
  const std::string longest(4095, 't'), too_long(4096, 't');
  const std::string made = ok(symlink(longest.c_str(), "s"));
  char target[5000];
  return seen({made, number(readlink("s", target, sizeof target)), ok(symlink(too_long.c_str(), "t"))});
}
CHECK("symlink.target_bytes", "yes") {
  std::string every;
  for (int c = 1; c < 256; ++c) every += static_cast<char>(c);
  make_link(every, "s");
  char target[300];
  const long n = must(readlink("s", target, sizeof target), "readlink");
  return yes(std::string(target, static_cast<std::size_t>(n)) == every);
}
CHECK("symlink.owner", "12345 12345 0777") {
  chmod(".", 0777);
  as_user([] { return ok(symlink("x", "s")); });
  const struct stat st = stat_of("s");
  return seen({number(st.st_uid), number(st.st_gid), mode_of("s")});
}
CHECK("symlink.chain_of_40", "ok ELOOP") {
  make_file("l0");
  for (int i = 1; i <= 41; ++i) make_link("l" + std::to_string(i - 1), "l" + std::to_string(i));
  return seen({ok(open("l40", O_RDONLY)), ok(open("l41", O_RDONLY))});
}
CHECK("symlink.relative_and_absolute", "ok ok ok") {
  char here[4096];
  must(getcwd(here, sizeof here) == nullptr ? -1 : 0, "getcwd");
  make_dir("d");
  make_file("f");
  make_link("../f", "d/up");
  make_link(std::string(here) + "/f", "d/absolute");
  make_link("..", "d/parent");
  return seen({ok(open("d/up", O_RDONLY)), ok(open("d/absolute", O_RDONLY)), ok(open("d/parent/f", O_RDONLY))});
}
CHECK("readlink.truncates", "3 'abc'") {
  make_link("abcdef", "s");
  char target[8];
  const long n = readlink("s", target, 3);
  return seen({number(n), text({target, 3})});
}
CHECK("readlink.errors", "EINVAL EINVAL EINVAL EFAULT") {
  make_file("f");
  make_link("f", "s");
  char target[8];
  return seen({ok(readlink("f", target, 8)), ok(readlink(".", target, 8)), ok(readlink("s", target, 0)),
               ok(readlink("s", bad_address<char>(), 8))});
}

// rename

CHECK("rename.moves", "ok no 'abc'") {
  make_file("f", "abc");
  return seen({ok(rename("f", "g")), exists("f"), text(contents("g"))});
}
CHECK("rename.replaces", "ok no 'abc' 1") {
  make_file("f", "abc");
  make_file("g", "old");
  return seen({ok(rename("f", "g")), exists("f"), text(contents("g")), nlink_of("g")});
}
CHECK("rename.same_file_two_names", "ok yes yes 2") {
  make_file("f");
  must(link("f", "g"), "link");
  return seen({ok(rename("f", "g")), exists("f"), exists("g"), nlink_of("f")});
}
CHECK("rename.onto_itself", "ok yes") {
  make_file("f");
  return seen({ok(renameat(AT_FDCWD, "f", AT_FDCWD, "./f")), exists("f")});
}
CHECK("rename.file_over_directory", "EISDIR") {
  make_file("f");
  make_dir("d");
  return ok(rename("f", "d"));
}
CHECK("rename.directory_over_file", "ENOTDIR") {
  make_file("f");
  make_dir("d");
  return ok(rename("d", "f"));
}
CHECK("rename.directory_over_empty", "ok no yes") {
  make_dir("d");
  make_file("d/f");
  make_dir("e");
  return seen({ok(rename("d", "e")), exists("d"), exists("e/f")});
}
CHECK("rename.directory_over_full", "ENOTEMPTY|EEXIST") {
  make_dir("d");
  make_dir("e");
  make_file("e/f");
  return ok(rename("d", "e"));
}
CHECK("rename.into_own_subdirectory", "EINVAL EINVAL") {
  make_dir("d");
  make_dir("d/e");
  return seen({ok(rename("d", "d/x")), ok(rename("d", "d/e/x"))});
}
CHECK("rename.over_own_ancestor", "ENOTEMPTY|EEXIST") {
  make_dir("d");
  make_dir("d/e");
  return ok(rename("d/e", "d"));
}
CHECK("rename.dot", "EBUSY EBUSY EBUSY|EINVAL EINVAL EINVAL") {
  make_dir("d");
  return seen({ok(rename(".", "x")), ok(rename("d/.", "x")), ok(rename("d", "."))});
}
CHECK("rename.other_filesystem", "EXDEV") {
  make_file("f");
  return ok(rename("f", (other_directory() + "/f").c_str()));
}
CHECK("rename.link_itself", "ok no yes yes") {
  make_file("f");
  make_link("f", "s");
  const std::string done = ok(rename("s", "t"));
  return seen({done, exists("s"), yes(S_ISLNK(stat_of("t").st_mode)), exists("f")});
}
CHECK("rename.over_link", "ok no yes") {
  make_file("f");
  make_file("g");
  make_link("g", "s");
  const std::string done = ok(rename("f", "s"));
  return seen({done, yes(S_ISLNK(stat_of("s").st_mode)), exists("g")});
}
CHECK("rename.directory_with_slash", "ok yes") {
  make_dir("d");
  return seen({ok(rename("d/", "e/")), exists("e")});
}
CHECK("rename.file_with_slash", "ENOTDIR ENOTDIR") {
  make_file("f");
  return seen({ok(rename("f/", "g")), ok(rename("f", "g/"))});
}
CHECK("rename.directory_counts", "2 3 ..") {
  make_dir("a");
  make_dir("b");
  make_dir("a/d");
  must(rename("a/d", "b/d"), "rename");
  const bool parent = stat_of("b/d/..").st_ino == stat_of("b").st_ino;
  return seen({nlink_of("a"), nlink_of("b"), parent ? ".." : "lost"});
}
CHECK("rename.times_of_directories", "mtime ctime mtime ctime ctime") {
  make_dir("a");
  make_dir("b");
  make_file("a/f");
  make_file("a/g");
  make_file("a/h");
  const std::string from = times_changed("a", [] { must(rename("a/f", "b/f"), "rename"); });
  const std::string to = times_changed("b", [] { must(rename("a/g", "b/g"), "rename"); });
  wait_for_clock();
  const timespec before = stat_of("a/h").st_ctim;
  must(rename("a/h", "b/h"), "rename");
  const timespec after = stat_of("b/h").st_ctim;
  return seen({from, to, before.tv_nsec != after.tv_nsec || before.tv_sec != after.tv_sec ? "ctime" : "none"});
}
CHECK("rename.replaced_nlink", "1") {
  make_file("f");
  make_file("g");
  must(link("g", "h"), "link");
  must(rename("f", "g"), "rename");
  return nlink_of("h");
}
CHECK("rename.foreign_directory_not_writable", "EACCES") {
  // To move a directory its ".." is written.
  make_dir("a", 0777);
  make_dir("b", 0777);
  make_dir("a/d", 0755);
  return as_user([] { return ok(rename("a/d", "b/d")); });
}
CHECK("rename.noreplace", "EEXIST ok") {
  make_file("f");
  make_file("g");
  return seen({ok(renameat2(AT_FDCWD, "f", AT_FDCWD, "g", RENAME_NOREPLACE)),
               ok(renameat2(AT_FDCWD, "f", AT_FDCWD, "h", RENAME_NOREPLACE))});
}
CHECK("rename.exchange", "ok 'two' 'one'") {
  make_file("f", "one");
  make_file("g", "two");
  return seen({ok(renameat2(AT_FDCWD, "f", AT_FDCWD, "g", RENAME_EXCHANGE)), text(contents("f")), text(contents("g"))});
}
CHECK("rename.exchange_absent", "ENOENT") {
  make_file("f");
  return ok(renameat2(AT_FDCWD, "f", AT_FDCWD, "none", RENAME_EXCHANGE));
}
CHECK("rename.exchange_directory_and_file", "ok 3 2 yes") {
  make_dir("a");
  make_dir("b");
  make_dir("b/d");
  make_file("a/f");
  const std::string done = ok(renameat2(AT_FDCWD, "a/f", AT_FDCWD, "b/d", RENAME_EXCHANGE));
  return seen({done, nlink_of("a"), nlink_of("b"), yes(stat_of("a/f/..").st_ino == stat_of("a").st_ino)});
}
CHECK("rename.exchange_ancestor", "EINVAL") {
  make_dir("d");
  make_dir("d/e");
  return ok(renameat2(AT_FDCWD, "d", AT_FDCWD, "d/e", RENAME_EXCHANGE));
}
CHECK("rename.whiteout", "ok char 0 yes") {
  make_file("f", "abc");
  const std::string done = ok(renameat2(AT_FDCWD, "f", AT_FDCWD, "g", RENAME_WHITEOUT));
  const struct stat st = stat_of("f");
  return seen({done, S_ISCHR(st.st_mode) ? "char" : "other", number(static_cast<long>(st.st_rdev)), exists("g")});
}
CHECK("rename.whiteout_over_file", "ok char 'abc'") {
  make_file("f", "abc");
  make_file("g", "old");
  const std::string done = ok(renameat2(AT_FDCWD, "f", AT_FDCWD, "g", RENAME_WHITEOUT));
  return seen({done, S_ISCHR(stat_of("f").st_mode) ? "char" : "other", text(contents("g"))});
}
CHECK("rename.flags_exclude_each_other", "EINVAL EINVAL EINVAL") {
  make_file("f");
  make_file("g");
  return seen({ok(renameat2(AT_FDCWD, "f", AT_FDCWD, "g", RENAME_NOREPLACE | RENAME_EXCHANGE)),
               ok(renameat2(AT_FDCWD, "f", AT_FDCWD, "g", RENAME_WHITEOUT | RENAME_EXCHANGE)),
               ok(renameat2(AT_FDCWD, "f", AT_FDCWD, "g", 1 << 20))});
}
CHECK("rename.deep_directory_and_back", "ok ok yes") {
  make_dir("a");
  make_dir("a/b");
  make_dir("a/b/c");
  make_file("a/b/c/f");
  const std::string out = ok(rename("a/b", "b"));
  return seen({out, ok(rename("a", "b/c/a")), exists("b/c/f")});
}

// What a name may be

CHECK("name.longest", "ok ENAMETOOLONG") {
  return seen({ok(open(std::string(255, 'n').c_str(), O_CREAT | O_WRONLY, 0600)),
               ok(open(std::string(256, 'n').c_str(), O_CREAT | O_WRONLY, 0600))});
}
CHECK("name.longest_in_all_calls", "ok ok ok ok ok") {
  const std::string a(255, 'a'), b(255, 'b'), c(255, 'c'), d(255, 'd'), e(255, 'e');
  return seen({ok(mkdir(a.c_str(), 0700)), ok(symlink("x", b.c_str())), ok(mkfifo(c.c_str(), 0600)),
               ok(rename(c.c_str(), d.c_str())), ok(link(d.c_str(), e.c_str()))});
}
CHECK("name.every_byte", "yes 254") {
  std::string every;
  for (int c = 1; c < 256; ++c)
    if (c != '/') every += static_cast<char>(c);
  make_file(every, "abc");
  return seen({yes(contents(every) == "abc"), number(static_cast<long>(every.size()))});
}
CHECK("name.not_utf8", "ok yes yes") {
  const std::string broken = "\xff\xfe\xc3(";
  const std::string made = ok(mkdir(broken.c_str(), 0700));
  make_file(broken + "/\x80", "x");
  return seen({made, exists(broken + "/\x80"), yes(contents(broken + "/\x80") == "x")});
}
CHECK("name.case_matters", "ok no") {
  make_file("Name");
  return seen(
      {ok(open("name", O_CREAT | O_EXCL | O_WRONLY, 0600)), yes(stat_of("Name").st_ino == stat_of("name").st_ino)});
}
CHECK("name.dots_and_blanks", "ok ok ok ok") {
  std::string all;
  return seen({ok(mkdir("...", 0700)), ok(mkdir(" ", 0700)), ok(mkdir(".hidden", 0700)), ok(mkdir("a\nb", 0700))});
}
CHECK("name.composed_and_decomposed_differ", "ok ok") {
  return seen({ok(open("\xc3\xa9", O_CREAT | O_EXCL | O_WRONLY, 0600)),
               ok(open("e\xcc\x81", O_CREAT | O_EXCL | O_WRONLY, 0600))});
}
CHECK("path.longest_relative", "ok ENAMETOOLONG") {
  make_file("f");
  std::string path;
  while (path.size() < 4094) path += "./";
  return seen({ok(open((path + "f").c_str(), O_RDONLY)), ok(open((path + "./f").c_str(), O_RDONLY))});
}
CHECK("path.dots_and_slashes", "ok ok ok") {
  make_dir("d");
  make_file("d/f");
  return seen({ok(open("d//f", O_RDONLY)), ok(open("d/../d/./f", O_RDONLY)), ok(open(".//./d/f", O_RDONLY))});
}

}  // namespace
}  // namespace posix
