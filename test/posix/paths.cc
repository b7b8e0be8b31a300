// SPDX-License-Identifier: LGPL-2.1-or-later
// Every system call that takes a path, against every way in which a path can
// fail to name what the call wants. Checks: path.CALL.CASE.
#include "check.hh"

#include <linux/openat2.h>
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <utime.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif

namespace posix {
namespace {

enum Trait : unsigned {
  kFollows = 1,    // a symbolic link at the end
  kModifies = 2,   // EROFS
  kCreates = 4,    // the name must be free
  kDirectory = 8,  // wants one
  kRemoves = 16,   // the name, not what it names
  kLinkOnly = 32,  // wants a symbolic link
  kOpensNew = 64,  // makes the file where there is none
};

using Call = long (*)(const char *path);

struct PathCall {
  const char *name;
  Call call;
  unsigned traits;
};

long exec_in_child(const char *path) {
  const pid_t child = fork();
  if (child == 0) {
    char *argv[] = {const_cast<char *>("x"), nullptr};
    execve(path, argv, argv + 1);
    _exit(errno);
  }
  int status = 0;
  waitpid(child, &status, 0);
  errno = WEXITSTATUS(status);
  return -1;
}

char spare[65536];
struct stat st;
struct statx stx;

const PathCall kCalls[] = {
    {"open", [](const char *p) -> long { return open(p, O_RDONLY); }, kFollows},
    {"open_write", [](const char *p) -> long { return open(p, O_WRONLY); }, kFollows | kModifies},
    {"open_truncate", [](const char *p) -> long { return open(p, O_RDWR | O_TRUNC); }, kFollows | kModifies},
    {"open_create", [](const char *p) -> long { return open(p, O_WRONLY | O_CREAT, 0600); },
     kFollows | kModifies | kOpensNew},
    {"open_exclusive", [](const char *p) -> long { return open(p, O_WRONLY | O_CREAT | O_EXCL, 0600); },
     kModifies | kCreates},
    {"open_directory", [](const char *p) -> long { return open(p, O_RDONLY | O_DIRECTORY); }, kFollows | kDirectory},
    {"open_tmpfile", [](const char *p) -> long { return open(p, O_RDWR | O_TMPFILE, 0600); },
     kFollows | kModifies | kDirectory},
    {"open_path", [](const char *p) -> long { return open(p, O_PATH); }, kFollows},
    {"openat2",
     [](const char *p) -> long {
       open_how how{};
       how.flags = O_RDONLY;
       return syscall(SYS_openat2, AT_FDCWD, p, &how, sizeof how);
     },
     kFollows},
    {"creat", [](const char *p) -> long { return creat(p, 0600); }, kFollows | kModifies | kOpensNew},
    {"stat", [](const char *p) -> long { return stat(p, &st); }, kFollows},
    {"lstat", [](const char *p) -> long { return lstat(p, &st); }, 0},
    {"statx", [](const char *p) -> long { return statx(AT_FDCWD, p, 0, STATX_ALL, &stx); }, kFollows},
    {"access", [](const char *p) -> long { return access(p, R_OK); }, kFollows},
    {"access_write", [](const char *p) -> long { return access(p, W_OK); }, kFollows | kModifies},
    {"faccessat2", [](const char *p) -> long { return faccessat(AT_FDCWD, p, F_OK, AT_EACCESS); }, kFollows},
    {"chmod", [](const char *p) -> long { return chmod(p, 0644); }, kFollows | kModifies},
    {"fchmodat2", [](const char *p) -> long { return syscall(SYS_fchmodat2, AT_FDCWD, p, 0644, 0); },
     kFollows | kModifies},
    {"chown", [](const char *p) -> long { return chown(p, kUser, kGroup); }, kFollows | kModifies},
    {"lchown", [](const char *p) -> long { return lchown(p, kUser, kGroup); }, kModifies},
    {"utimensat", [](const char *p) -> long { return utimensat(AT_FDCWD, p, nullptr, 0); }, kFollows | kModifies},
    {"lutimes", [](const char *p) -> long { return utimensat(AT_FDCWD, p, nullptr, AT_SYMLINK_NOFOLLOW); }, kModifies},
    {"utime", [](const char *p) -> long { return utime(p, nullptr); }, kFollows | kModifies},
    {"truncate", [](const char *p) -> long { return truncate(p, 0); }, kFollows | kModifies},
    {"link_from", [](const char *p) -> long { return link(p, "linked"); }, 0},
    {"link_to", [](const char *p) -> long { return link("source", p); }, kModifies | kCreates},
    {"symlink", [](const char *p) -> long { return symlink("anything", p); }, kModifies | kCreates},
    {"unlink", [](const char *p) -> long { return unlink(p); }, kModifies | kRemoves},
    {"rename_from", [](const char *p) -> long { return rename(p, "renamed"); }, kRemoves},
    {"rename_to", [](const char *p) -> long { return rename("source", p); }, kModifies | kRemoves | kOpensNew},
    {"mkdir", [](const char *p) -> long { return mkdir(p, 0700); }, kModifies | kCreates},
    {"rmdir", [](const char *p) -> long { return rmdir(p); }, kModifies | kRemoves | kDirectory},
    {"mknod_fifo", [](const char *p) -> long { return mknod(p, S_IFIFO | 0600, 0); }, kModifies | kCreates},
    {"mknod_file", [](const char *p) -> long { return mknod(p, S_IFREG | 0600, 0); }, kModifies | kCreates},
    {"readlink", [](const char *p) -> long { return readlink(p, spare, sizeof spare); }, kLinkOnly},
    {"statfs", [](const char *p) -> long { struct statfs s; return statfs(p, &s); }, kFollows},
    {"chdir", [](const char *p) -> long { return chdir(p); }, kFollows | kDirectory},
    {"chroot", [](const char *p) -> long { return chroot(p); }, kFollows | kDirectory},
    {"execve", exec_in_child, kFollows},
    {"getxattr", [](const char *p) -> long { return getxattr(p, "user.x", spare, 64); }, kFollows},
    {"lgetxattr", [](const char *p) -> long { return lgetxattr(p, "user.x", spare, 64); }, 0},
    {"setxattr", [](const char *p) -> long { return setxattr(p, "user.x", "v", 1, 0); }, kFollows | kModifies},
    {"lsetxattr", [](const char *p) -> long { return lsetxattr(p, "user.x", "v", 1, 0); }, kModifies},
    {"listxattr", [](const char *p) -> long { return listxattr(p, spare, sizeof spare); }, kFollows},
    {"llistxattr", [](const char *p) -> long { return llistxattr(p, spare, sizeof spare); }, 0},
    {"removexattr", [](const char *p) -> long { return removexattr(p, "user.x"); }, kFollows | kModifies},
    {"lremovexattr", [](const char *p) -> long { return lremovexattr(p, "user.x"); }, kModifies},
    {"inotify_add_watch", [](const char *p) -> long { return inotify_add_watch(inotify_init1(0), p, IN_MODIFY); },
     kFollows},
    {"fanotify_mark",
     [](const char *p) -> long {
       return fanotify_mark(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY), FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, p);
     },
     kFollows},
    {"name_to_handle_at",
     [](const char *p) -> long {
       auto *handle = reinterpret_cast<file_handle *>(spare);
       handle->handle_bytes = MAX_HANDLE_SZ;
       int mount;
       return name_to_handle_at(AT_FDCWD, p, handle, &mount, AT_SYMLINK_FOLLOW);
     },
     kFollows},
    {"open_tree", [](const char *p) -> long { return syscall(SYS_open_tree, AT_FDCWD, p, 0u); }, kFollows},
    {"umount", [](const char *p) -> long { return umount2(p, 0); }, kFollows},
};

// A case: how the path is made, and what has to come out.

using Prepare = std::string (*)(const PathCall &);

bool has(const PathCall &c, unsigned trait) { return (c.traits & trait) != 0; }
/// Two calls of this table look at another path, too, or need more than the path.
bool is(const PathCall &c, std::string_view name) { return name == c.name; }

std::string observe(const PathCall &c, const std::string &path) {
  if (is(c, "link_to") || is(c, "rename_to")) make_file("source");
  return ok(c.call(path.c_str()));
}

void add(const PathCall &c, const char *name, std::string expected, Prepare prepare) {
  Add(std::string("path.") + c.name + "." + name, std::move(expected),
      [&c, prepare] { return observe(c, prepare(c)); });
}

std::string long_path(std::size_t length) {
  std::string path;
  while (path.size() + 2 <= length) path += "./";
  return path + std::string(length - path.size(), 'x');
}

/// Path resolution before the last component: the same for all.
void add_resolution(const PathCall &c) {
  add(c, "parent_absent", "ENOENT", [](const PathCall &) -> std::string { return "none/x"; });
  add(c, "empty", "ENOENT", [](const PathCall &) -> std::string { return ""; });
  add(c, "parent_is_file", "ENOTDIR", [](const PathCall &) -> std::string {
    make_file("f");
    return "f/x";
  });
  add(c, "parent_is_loop", "ELOOP", [](const PathCall &) -> std::string {
    make_link("loop", "loop");
    return "loop/x";
  });
  add(c, "name_too_long", "ENAMETOOLONG", [](const PathCall &) { return std::string(256, 'n'); });
  add(c, "path_too_long", "ENAMETOOLONG", [](const PathCall &) { return long_path(4096); });
  Add(std::string("path.") + c.name + ".no_memory", "EFAULT", [&c] {
    if (is(c, "link_to") || is(c, "rename_to")) make_file("source");
    return ok(c.call(bad_address<const char>()));
  });
  if (is(c, "fanotify_mark")) return;  // a user may not even have the group that it needs
  const bool privileged = is(c, "chroot") || is(c, "umount");
  Add(std::string("path.") + c.name + ".no_search_permission", privileged ? "" : "EACCES", [&c] {
    make_dir("locked", 0700);
    make_file("locked/x");
    ::chmod(".", 0777);
    if (is(c, "link_to") || is(c, "rename_to")) {
      make_file("source");
      must(::chown("source", kUser, kGroup), "chown");
    }
    become(kUser, kGroup);
    return ok(c.call("locked/x"));
  });
}

const char *expect_absent(const PathCall &c) {
  if (has(c, kCreates | kOpensNew)) return "ok";
  return "ENOENT";
}

/// A regular file.
const char *expect_file(const PathCall &c) {
  if (has(c, kCreates)) return "EEXIST";
  if (has(c, kDirectory)) return "ENOTDIR";
  if (is(c, "execve")) return "EACCES";
  if (has(c, kLinkOnly) || is(c, "umount")) return "EINVAL";
  if (is(c, "getxattr") || is(c, "lgetxattr") || is(c, "removexattr") || is(c, "lremovexattr")) return "ENODATA";
  return "ok";
}

const char *expect_directory(const PathCall &c) {
  if (has(c, kCreates)) return "EEXIST";
  for (const char *opens : {"open_write", "open_truncate", "open_create", "creat", "truncate", "unlink", "rename_to"})
    if (is(c, opens)) return "EISDIR";
  if (is(c, "link_from")) return "EPERM";
  if (is(c, "chroot")) return "ok";
  return has(c, kDirectory) ? "ok" : expect_file(c);
}

void add_objects(const PathCall &c) {
  add(c, "absent", expect_absent(c), [](const PathCall &) -> std::string { return "none"; });
  add(c, "file", expect_file(c), [](const PathCall &) -> std::string {
    make_file("f");
    return "f";
  });
  add(c, "directory", expect_directory(c), [](const PathCall &) -> std::string {
    make_dir("d");
    return "d";
  });
  add(c, "file_with_slash", is(c, "unlink") || !has(c, kCreates) ? "ENOTDIR|EISDIR" : "EEXIST|ENOTDIR|EISDIR|ENOENT",
      [](const PathCall &) -> std::string {
        make_file("f");
        return "f/";
      });
  if (has(c, kFollows)) {
    add(c, "loop", is(c, "open_path") ? "" : "ELOOP", [](const PathCall &) -> std::string {
      make_link("loop", "loop");
      return "loop";
    });
    add(c, "dangling", has(c, kOpensNew) ? "ok" : "ENOENT", [](const PathCall &) -> std::string {
      make_link("none", "dangling");
      return "dangling";
    });
    add(c, "link", expect_file(c), [](const PathCall &) -> std::string {
      make_file("f");
      make_link("f", "s");
      return "s";
    });
  } else {
    // Symbolic links have no user.* attributes and no truncate.
    const bool xattr = std::string_view(c.name).find("xattr") != std::string_view::npos;
    const char *expected = has(c, kCreates) ? "EEXIST" : is(c, "rmdir") ? "ENOTDIR" : xattr ? "" : "ok";
    add(c, "dangling", expected, [](const PathCall &) -> std::string {
      make_link("none", "dangling");
      return "dangling";
    });
  }
}

/// Read-only mounts. For what creates, a free name; for what wants a directory, one.
void add_read_only(const PathCall &c) {
  if (!has(c, kModifies)) return;
  // A file that exists is found before the filesystem is asked whether it can be written.
  add(c, "read_only", is(c, "link_to") || is(c, "rename_to") ? "EXDEV|EROFS" : "EROFS", [](const PathCall &call) {
    make_file("f");
    make_dir("d");
    const std::string view = read_only_view();
    return view + (has(call, kCreates) ? "/new" : has(call, kDirectory) ? "/d" : "/f");
  });
}

bool add_all() {
  for (const PathCall &c : kCalls) {
    add_resolution(c);
    add_objects(c);
    add_read_only(c);
  }
  return true;
}

const bool added = add_all();

}  // namespace
}  // namespace posix
