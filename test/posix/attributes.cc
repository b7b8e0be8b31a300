// SPDX-License-Identifier: LGPL-2.1-or-later
// stat() and its kin, access(), chmod(), chown(), umask, set-group-ID directories.
#include "check.hh"

#include <grp.h>
#include <linux/stat.h>
#include <sys/prctl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <linux/magic.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

namespace posix {
namespace {

std::string owners(const std::string &path) {
  const struct stat st = stat_of(path);
  return number(st.st_uid) + ":" + number(st.st_gid);
}

std::string type_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "directory";
    case S_IFLNK: return "link";
    case S_IFIFO: return "fifo";
    case S_IFSOCK: return "socket";
    case S_IFCHR: return "char";
    case S_IFBLK: return "block";
    default: return "unknown";
  }
}

void make_owned(const std::string &path, mode_t mode, uid_t uid = kUser, gid_t gid = kGroup) {
  make_file(path, "x", mode);
  must(chown(path.c_str(), uid, gid), "chown");
  must(chmod(path.c_str(), mode), "chmod");  // chown() has cleared some
}

// stat

CHECK("stat.types", "file directory link fifo socket char block") {
  make_file("f");
  make_dir("d");
  make_link("f", "s");
  must(mknod("p", S_IFIFO | 0600, 0), "mknod");
  must(mknod("k", S_IFSOCK | 0600, 0), "mknod");
  must(mknod("c", S_IFCHR | 0600, makedev(1, 3)), "mknod");
  must(mknod("b", S_IFBLK | 0600, makedev(7, 0)), "mknod");
  std::string all;
  for (const char *name : {"f", "d", "s", "p", "k", "c", "b"}) all += " " + type_of(stat_of(name).st_mode);
  return all.substr(1);
}
CHECK("stat.device_number", "1 3 254 1000") {
  must(mknod("c", S_IFCHR | 0600, makedev(1, 3)), "mknod");
  must(mknod("b", S_IFBLK | 0600, makedev(254, 1000)), "mknod");
  const dev_t c = stat_of("c").st_rdev, b = stat_of("b").st_rdev;
  return seen({number(major(c)), number(minor(c)), number(major(b)), number(minor(b))});
}
CHECK("stat.link_size", "5 0777") {
  make_link("12345", "s");
  return seen({size_of("s"), mode_of("s")});
}
CHECK("stat.blocks", "0 yes yes") {
  make_file("empty");
  make_file("f", std::string(8192, 'x'));
  const Fd sparse("s", O_CREAT | O_RDWR, 0600);
  must(ftruncate(sparse, 1 << 30), "ftruncate");
  must(fsync(Fd("f")), "fsync");
  return seen(
      {number(stat_of("empty").st_blocks), yes(stat_of("f").st_blocks >= 16), yes(stat_of("s").st_blocks < 16)});
}
CHECK("stat.same_inode", "yes yes yes no") {
  make_file("f");
  make_file("g");
  must(link("f", "h"), "link");
  const struct stat f = stat_of("f");
  return seen({yes(stat_of("h").st_ino == f.st_ino), yes(stat_of(Fd("f")).st_ino == f.st_ino),
               yes(stat_of(".").st_dev == f.st_dev), yes(stat_of("g").st_ino == f.st_ino)});
}
CHECK("stat.inode_survives_rename", "yes") {
  make_file("f");
  const ino_t before = stat_of("f").st_ino;
  must(rename("f", "g"), "rename");
  return yes(stat_of("g").st_ino == before);
}
CHECK("stat.bad_memory", "EFAULT EFAULT") {
  auto *nowhere = bad_address<struct stat>();
  return seen({ok(syscall(SYS_newfstatat, AT_FDCWD, ".", nowhere, 0)),
               ok(syscall(SYS_fstat, int{Fd(".", O_RDONLY)}, nowhere))});
}
CHECK("stat.empty_path", "ok ok ENOENT") {
  make_file("f");
  const Fd fd("f");
  struct stat st;
  return seen({ok(fstatat(fd, "", &st, AT_EMPTY_PATH)), ok(fstatat(AT_FDCWD, "", &st, AT_EMPTY_PATH)),
               ok(fstatat(fd, "", &st, 0))});
}
CHECK("stat.bad_flags", "EINVAL") {
  struct stat st;
  return ok(fstatat(AT_FDCWD, ".", &st, 0x10000000));
}
CHECK("stat.blksize", "yes") {
  make_file("f");
  const blksize_t size = stat_of("f").st_blksize;
  return yes(size >= 512 && (size & (size - 1)) == 0);
}

struct statx statx_of(const char *path, int flags, unsigned mask) {
  struct statx stx {};
  must(statx(AT_FDCWD, path, flags, mask, &stx), "statx");
  return stx;
}
CHECK("statx.basic_agrees_with_stat", "yes") {
  make_owned("f", 0640);
  const struct stat st = stat_of("f");
  const struct statx x = statx_of("f", 0, STATX_BASIC_STATS);
  return yes(x.stx_ino == st.st_ino && x.stx_mode == st.st_mode && x.stx_nlink == st.st_nlink &&
             x.stx_uid == st.st_uid && x.stx_gid == st.st_gid &&
             x.stx_size == static_cast<std::uint64_t>(st.st_size) && x.stx_mtime.tv_sec == st.st_mtim.tv_sec &&
             x.stx_mtime.tv_nsec == st.st_mtim.tv_nsec && (x.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
}
CHECK("statx.sync_types", "yes yes") {
  make_file("f", "abc");
  const struct statx force = statx_of("f", AT_STATX_FORCE_SYNC, STATX_SIZE);
  const struct statx lazy = statx_of("f", AT_STATX_DONT_SYNC, STATX_SIZE);
  return seen({yes(force.stx_size == 3), yes(lazy.stx_size == 3)});
}
CHECK("statx.birth_time", "") {
  make_file("f");
  return yes(statx_of("f", 0, STATX_BTIME).stx_mask & STATX_BTIME);
}
CHECK("statx.birth_time_does_not_change", "yes") {
  make_file("f");
  const struct statx before = statx_of("f", AT_STATX_FORCE_SYNC, STATX_BTIME);
  wait_for_clock();
  must(truncate("f", 10), "truncate");
  must(chmod("f", 0600), "chmod");
  const struct statx after = statx_of("f", AT_STATX_FORCE_SYNC, STATX_BTIME);
  return yes(before.stx_btime.tv_sec == after.stx_btime.tv_sec && before.stx_btime.tv_nsec == after.stx_btime.tv_nsec);
}
CHECK("statx.mount_id", "yes") { return yes(statx_of(".", 0, STATX_MNT_ID).stx_mask & STATX_MNT_ID); }
CHECK("statx.mount_root", "no") { return yes(statx_of(".", 0, 0).stx_attributes & STATX_ATTR_MOUNT_ROOT); }
CHECK("statx.errors", "EINVAL EINVAL EFAULT") {
  struct statx stx;
  return seen({ok(statx(AT_FDCWD, ".", AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC, 0, &stx)),
               ok(statx(AT_FDCWD, ".", 0, 0x80000000u, &stx)),
               ok(syscall(SYS_statx, AT_FDCWD, ".", 0, STATX_ALL, bad_address()))});
}

CHECK("statfs.plausible", "yes yes 255") {
  struct statfs st;
  must(statfs(".", &st), "statfs");
  return seen({yes(st.f_bfree <= st.f_blocks && st.f_bavail <= st.f_bfree && st.f_bsize > 0),
               yes(st.f_ffree <= st.f_files), number(st.f_namelen)});
}
CHECK("statfs.descriptor_agrees", "yes") {
  struct statfs a, b;
  must(statfs(".", &a), "statfs");
  must(fstatfs(Fd(".", O_RDONLY), &b), "fstatfs");
  return yes(a.f_type == b.f_type && a.f_bsize == b.f_bsize && a.f_blocks == b.f_blocks && a.f_namelen == b.f_namelen);
}
CHECK("statfs.follows_usage", "yes yes") {
  struct statfs before, during, after;
  must(statfs(".", &before), "statfs");
  make_file("f", std::string(1 << 20, 'x'));
  must(fsync(Fd("f")), "fsync");
  must(statfs(".", &during), "statfs");
  must(unlink("f"), "unlink");
  sync();
  must(statfs(".", &after), "statfs");
  return seen({yes(during.f_bfree + 200 <= before.f_bfree), yes(after.f_bfree > during.f_bfree)});
}
CHECK("statfs.read_only_flag", "no yes") {
  struct statvfs writable, view;
  must(statvfs(".", &writable), "statvfs");
  must(statvfs(read_only_view().c_str(), &view), "statvfs");
  return seen({yes(writable.f_flag & ST_RDONLY), yes(view.f_flag & ST_RDONLY)});
}
CHECK("statfs.bad_memory", "EFAULT") { return ok(statfs(".", bad_address<struct statfs>())); }

// access

std::string access_as(uid_t uid, gid_t gid, const char *path) {
  return in_child([&] {
    become(uid, gid);
    return seen({ok(access(path, R_OK)), ok(access(path, W_OK)), ok(access(path, X_OK)), ok(access(path, F_OK))});
  });
}
CHECK("access.owner", "ok EACCES ok ok") {
  make_owned("f", 0500);
  return access_as(kUser, kGroup, "f");
}
CHECK("access.group", "ok EACCES EACCES ok") {
  make_owned("f", 0740, kOther, kGroup);
  return access_as(kUser, kGroup, "f");
}
CHECK("access.other", "EACCES ok EACCES ok") {
  make_owned("f", 0772);
  return access_as(kOther, kOtherGroup, "f");
}
CHECK("access.none", "EACCES EACCES EACCES ok") {
  make_owned("f", 0000);
  return access_as(kUser, kGroup, "f");
}
CHECK("access.root_reads_and_writes", "ok ok EACCES ok") {
  make_owned("f", 0000);
  return seen({ok(access("f", R_OK)), ok(access("f", W_OK)), ok(access("f", X_OK)), ok(access("f", F_OK))});
}
CHECK("access.root_executes_if_anybody_may", "ok") {
  make_owned("f", 0001);
  return ok(access("f", X_OK));
}
CHECK("access.root_searches", "ok") {
  make_dir("d", 0000);
  return ok(access("d", X_OK));
}
CHECK("access.real_not_effective", "EACCES ok") {
  make_owned("f", 0600, 0, 0);
  return in_child([] {
    must(setresuid(kUser, 0, 0), "setresuid");
    return seen({ok(access("f", R_OK)), ok(faccessat(AT_FDCWD, "f", R_OK, AT_EACCESS))});
  });
}
CHECK("access.bad_mode", "EINVAL") { return ok(access(".", 0100)); }
CHECK("access.nofollow", "ok ENOENT") {
  make_link("none", "s");
  return seen({ok(syscall(SYS_faccessat2, AT_FDCWD, "s", F_OK, AT_SYMLINK_NOFOLLOW)), ok(access("s", F_OK))});
}
CHECK("access.empty_path", "ok") {
  make_file("f");
  return ok(syscall(SYS_faccessat2, int{Fd("f")}, "", R_OK, AT_EMPTY_PATH));
}

// chmod

CHECK("chmod.all_bits", "7777") {
  make_file("f");
  must(chmod("f", 07777), "chmod");
  return mode_of("f");
}
CHECK("chmod.type_bits_ignored", "file 0600") {
  make_file("f");
  must(chmod("f", S_IFDIR | 0600), "chmod");
  return seen({type_of(stat_of("f").st_mode), mode_of("f")});
}
CHECK("chmod.times", "ctime") {
  make_file("f");
  return times_changed("f", [] { must(chmod("f", 0600), "chmod"); });
}
CHECK("chmod.owner_may", "ok 0600") {
  make_owned("f", 0644);
  const std::string done = as_user([] { return ok(chmod("f", 0600)); });
  return seen({done, mode_of("f")});
}
CHECK("chmod.others_may_not", "EPERM EPERM") {
  make_owned("f", 0666, kOther, kOtherGroup);
  return as_user([] { return seen({ok(chmod("f", 0600)), ok(fchmod(Fd("f"), 0600))}); });
}
CHECK("chmod.foreign_group_loses_setgid", "ok 0755") {
  make_owned("f", 0755, kUser, kOtherGroup);
  const std::string done = as_user([] { return ok(chmod("f", 02755)); });
  return seen({done, mode_of("f")});
}
CHECK("chmod.own_group_keeps_setgid", "ok 2755") {
  make_owned("f", 0755);
  const std::string done = as_user([] { return ok(chmod("f", 02755)); });
  return seen({done, mode_of("f")});
}
CHECK("chmod.supplementary_group_keeps_setgid", "2755") {
  make_owned("f", 0755, kUser, kOtherGroup);
  const gid_t groups[] = {kOtherGroup};
  must(setgroups(1, groups), "setgroups");
  must(setresgid(-1, kGroup, -1), "setresgid");
  must(setresuid(-1, kUser, -1), "setresuid");
  must(chmod("f", 02755), "chmod");
  return mode_of("f");
}
CHECK("chmod.sticky_on_file", "") {
  make_owned("f", 0644);
  const std::string done = as_user([] { return ok(chmod("f", 01644)); });
  return seen({done, mode_of("f")});
}
CHECK("chmod.link_itself", "EOPNOTSUPP") {
  make_link("none", "s");
  return ok(syscall(SYS_fchmodat2, AT_FDCWD, "s", 0600, AT_SYMLINK_NOFOLLOW));
}
CHECK("chmod.empty_path", "ok 0600") {
  make_file("f");
  const std::string done = ok(syscall(SYS_fchmodat2, int{Fd("f", O_PATH)}, "", 0600, AT_EMPTY_PATH));
  return seen({done, mode_of("f")});
}
CHECK("chmod.bad_flags", "EINVAL") { return ok(syscall(SYS_fchmodat2, AT_FDCWD, ".", 0755, 0x10000000)); }
CHECK("chmod.directory_search_at_once", "EACCES ok") {
  make_dir("d", 0700);
  make_file("d/f");
  const std::string before = as_user([] { return ok(open("d/f", O_RDONLY)); });
  must(chmod("d", 0755), "chmod");
  return seen({before, as_user([] { return ok(open("d/f", O_RDONLY)); })});
}

// chown

CHECK("chown.both_and_one", "12345:23456 12345:12345 23456:12345") {
  make_file("f");
  must(chown("f", kUser, kOtherGroup), "chown");
  const std::string both = owners("f");
  must(chown("f", -1, kGroup), "chown");
  const std::string group = owners("f");
  must(chown("f", kOther, -1), "chown");
  return seen({both, group, owners("f")});
}
CHECK("chown.nothing", "ok none|ok ctime") {
  make_file("f");
  const std::string done = ok(chown("f", -1, -1));
  return seen({done, times_changed("f", [] { must(chown("f", -1, -1), "chown"); })});
}
CHECK("chown.times", "ctime") {
  make_file("f");
  return times_changed("f", [] { must(chown("f", kUser, -1), "chown"); });
}
CHECK("chown.drops_setid", "0755 2745") {
  // By root, too; set-group-ID without execution by the group means something else and stays.
  make_file("f", "", 06755);
  make_file("g", "", 06745);
  must(chown("f", kUser, kGroup), "chown");
  must(chown("g", kUser, kGroup), "chown");
  return seen({mode_of("f"), mode_of("g")});
}
CHECK("chown.directory_keeps_setid", "6755") {
  make_dir("d", 06755);
  must(chown("d", kUser, kGroup), "chown");
  return mode_of("d");
}
CHECK("chown.same_owner_drops_setid", "") {
  make_file("f", "", 06755);
  must(chown("f", 0, 0), "chown");
  return mode_of("f");
}
CHECK("chown.nothing_keeps_setid", "") {
  make_file("f", "", 06755);
  must(chown("f", -1, -1), "chown");
  return mode_of("f");
}
CHECK("chown.owner_may_not_give_away", "EPERM 12345:12345") {
  make_owned("f", 0644);
  const std::string done = as_user([] { return ok(chown("f", kOther, -1)); });
  return seen({done, owners("f")});
}
CHECK("chown.owner_changes_to_own_group", "ok EPERM") {
  make_owned("f", 0644, kUser, kOtherGroup);
  return as_user([] { return seen({ok(chown("f", -1, kGroup)), ok(chown("f", -1, kOtherGroup))}); });
}
CHECK("chown.owner_drops_setid", "ok 0755") {
  make_owned("f", 06755, kUser, kOtherGroup);
  const std::string done = as_user([] { return ok(chown("f", -1, kGroup)); });
  return seen({done, mode_of("f")});
}
CHECK("chown.link_itself", "12345:12345 0:0") {
  make_file("f");
  make_link("f", "s");
  must(lchown("s", kUser, kGroup), "lchown");
  return seen({owners("s"), owners("f")});
}
CHECK("chown.through_link", "0:0 12345:12345") {
  make_file("f");
  make_link("f", "s");
  must(chown("s", kUser, kGroup), "chown");
  return seen({owners("s"), owners("f")});
}
CHECK("chown.empty_path", "ok 12345:12345") {
  make_file("f");
  const std::string done = ok(fchownat(Fd("f", O_PATH), "", kUser, kGroup, AT_EMPTY_PATH));
  return seen({done, owners("f")});
}
CHECK("chown.large_ids", "4294967294:4294967293") {
  make_file("f");
  must(chown("f", 4294967294u, 4294967293u), "chown");
  return owners("f");
}
CHECK("chown.bad_flags", "EINVAL") { return ok(fchownat(AT_FDCWD, ".", 0, 0, 0x10000000)); }

// New files

CHECK("umask.kinds", "0640 0750 0640 0640") {
  umask(027);
  must(open("f", O_CREAT | O_WRONLY, 0666), "open");
  must(mkdir("d", 0777), "mkdir");
  must(mkfifo("p", 0666), "mkfifo");
  must(mknod("n", S_IFREG | 0666, 0), "mknod");
  return seen({mode_of("f"), mode_of("d"), mode_of("p"), mode_of("n")});
}
CHECK("setgid_directory.children", "0:12345 0:12345 0:12345 0755+2755") {
  make_dir("d");
  must(chown("d", -1, kGroup), "chown");
  must(chmod("d", 02777), "chmod");
  make_file("d/f");
  must(mkdir("d/d", 0755), "mkdir");
  must(symlink("x", "d/s"), "symlink");
  must(open("d/g", O_CREAT | O_WRONLY, 0755), "open");
  return seen({owners("d/f"), owners("d/d"), owners("d/s"), mode_of("d/g") + "+" + mode_of("d/d")});
}
CHECK("setgid_directory.foreign_group_loses_bit", "0755 12345:23456") {
  make_dir("d");
  must(chown("d", -1, kOtherGroup), "chown");
  must(chmod("d", 02777), "chmod");
  as_user([] { return ok(open("d/f", O_CREAT | O_WRONLY, 02755)); });
  return seen({mode_of("d/f"), owners("d/f")});
}
CHECK("setgid_directory.not_executable_keeps_bit", "") {
  make_dir("d");
  must(chown("d", -1, kOtherGroup), "chown");
  must(chmod("d", 02777), "chmod");
  as_user([] { return ok(open("d/f", O_CREAT | O_WRONLY, 02745)); });
  return mode_of("d/f");
}

// Sticky directories

std::string in_sticky(const std::function<std::string()> &call) {
  make_dir("d", 01777);
  make_owned("d/mine", 0666);
  make_owned("d/theirs", 0666, kOther, kOtherGroup);
  make_dir("d/theirs_too");
  must(chown("d/theirs_too", kOther, kOtherGroup), "chown");
  return as_user(call);
}
CHECK("sticky.unlink", "ok EPERM") {
  return in_sticky([] { return seen({ok(unlink("d/mine")), ok(unlink("d/theirs"))}); });
}
CHECK("sticky.rmdir", "EPERM") {
  return in_sticky([] { return ok(rmdir("d/theirs_too")); });
}
CHECK("sticky.rename_from", "ok EPERM") {
  return in_sticky([] { return seen({ok(rename("d/mine", "d/new")), ok(rename("d/theirs", "d/other"))}); });
}
CHECK("sticky.rename_over", "EPERM") {
  return in_sticky([] { return ok(rename("d/mine", "d/theirs")); });
}
CHECK("sticky.directory_owner_may", "ok") {
  make_dir("d", 01777);
  must(chown("d", kUser, kGroup), "chown");
  make_owned("d/theirs", 0666, kOther, kOtherGroup);
  return as_user([] { return ok(unlink("d/theirs")); });
}
CHECK("sticky.protected_create", "") {
  // fs.protected_regular: not even opened with O_CREAT.
  return in_sticky([] { return ok(open("d/theirs", O_CREAT | O_WRONLY, 0600)); });
}

// Directories without one of the permissions

std::string in_directory(mode_t mode, const std::function<std::string()> &call) {
  make_dir("d");
  make_file("d/f", "abc", 0666);
  must(chown("d", kUser, kGroup), "chown");
  must(chmod("d", mode), "chmod");
  return as_user(call);
}
CHECK("directory_mode.read_only", "ok EACCES EACCES EACCES") {
  return in_directory(0444, [] {
    struct stat st;
    return seen({ok(open("d", O_RDONLY)), ok(stat("d/f", &st)), ok(open("d/f", O_RDONLY)), ok(unlink("d/f"))});
  });
}
CHECK("directory_mode.search_only", "EACCES ok ok EACCES EACCES") {
  return in_directory(0111, [] {
    struct stat st;
    return seen({ok(open("d", O_RDONLY)), ok(stat("d/f", &st)), ok(open("d/f", O_RDWR)), ok(unlink("d/f")),
                 ok(open("d/n", O_CREAT | O_WRONLY, 0600))});
  });
}
CHECK("directory_mode.write_without_search", "EACCES EACCES EACCES") {
  return in_directory(0666, [] {
    return seen({ok(unlink("d/f")), ok(open("d/n", O_CREAT | O_WRONLY, 0600)), ok(mkdir("d/d", 0700))});
  });
}
CHECK("directory_mode.no_write", "EACCES EACCES EACCES EACCES EACCES EACCES") {
  return in_directory(0555, [] {
    return seen({ok(unlink("d/f")), ok(mkdir("d/d", 0700)), ok(symlink("x", "d/s")), ok(link("d/f", "d/g")),
                 ok(rename("d/f", "d/g")), ok(mkfifo("d/p", 0600))});
  });
}

}  // namespace
}  // namespace posix
