// SPDX-License-Identifier: LGPL-2.1-or-later
// Watching files: inotify, fanotify, poll(), select(), epoll. File handles. ioctl(). Sockets in the filesystem.
#include "check.hh"

#include <linux/fs.h>
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <cstring>
#include <memory>

namespace posix {
namespace {

// inotify

std::string mask_name(std::uint32_t mask) {
  static const struct {
    std::uint32_t bit;
    const char *name;
  } kNames[] = {{IN_ACCESS, "access"},           {IN_MODIFY, "modify"},
                {IN_ATTRIB, "attrib"},           {IN_CLOSE_WRITE, "close_write"},
                {IN_CLOSE_NOWRITE, "close"},     {IN_OPEN, "open"},
                {IN_MOVED_FROM, "from"},         {IN_MOVED_TO, "to"},
                {IN_CREATE, "create"},           {IN_DELETE, "delete"},
                {IN_DELETE_SELF, "delete_self"}, {IN_MOVE_SELF, "move_self"},
                {IN_IGNORED, "ignored"},         {IN_UNMOUNT, "unmount"},
                {IN_Q_OVERFLOW, "overflow"}};
  std::string all;
  for (const auto &known : kNames)
    if ((mask & known.bit) != 0) all += (all.empty() ? "" : "+") + std::string(known.name);
  return all;
}

/// What is reported while `call` runs.
std::string events_of(const char *path, std::uint32_t mask, const std::function<void()> &call) {
  const Fd watcher(inotify_init1(IN_NONBLOCK), "inotify_init1");
  must(inotify_add_watch(watcher, path, mask), "inotify_add_watch");
  call();
  alignas(inotify_event) char buffer[8192];
  const ssize_t n = read(watcher, buffer, sizeof buffer);
  std::string all;
  for (ssize_t at = 0; at < n;) {
    const auto *event = reinterpret_cast<const inotify_event *>(buffer + at);
    all += (all.empty() ? "" : " ") + mask_name(event->mask) + (event->len > 0 ? ":" + std::string(event->name) : "");
    at += static_cast<ssize_t>(sizeof *event + event->len);
  }
  return all.empty() ? "none" : all;
}

CHECK("inotify.create_and_delete", "create:f close_write:f delete:f") {
  return events_of(".", IN_CREATE | IN_DELETE | IN_CLOSE_WRITE, [] {
    Fd("f", O_CREAT | O_WRONLY, 0600).close();
    must(unlink("f"), "unlink");
  });
}
CHECK("inotify.directory_and_link", "create:d create:s delete:d") {
  return events_of(".", IN_CREATE | IN_DELETE, [] {
    make_dir("d");
    make_link("x", "s");
    must(rmdir("d"), "rmdir");
  });
}
CHECK("inotify.rename", "from:f to:g") {
  make_file("f");
  return events_of(".", IN_MOVE, [] { must(rename("f", "g"), "rename"); });
}
CHECK("inotify.open_read_write_close", "open:f access:f modify:f close_write:f") {
  make_file("f", "abc");
  return events_of(".", IN_OPEN | IN_ACCESS | IN_MODIFY | IN_CLOSE, [] {
    const Fd fd("f");
    char c;
    must(read(fd, &c, 1), "read");
    must(write(fd, "x", 1), "write");
  });
}
CHECK("inotify.attributes", "attrib") {
  make_file("f");
  return events_of("f", IN_ATTRIB, [] {  // equal events become one
    must(chmod("f", 0600), "chmod");
    must(chown("f", kUser, kGroup), "chown");
    must(link("f", "g"), "link");
  });
}
CHECK("inotify.truncate", "modify") {
  make_file("f", "abc");
  return events_of("f", IN_MODIFY, [] { must(truncate("f", 1), "truncate"); });
}
CHECK("inotify.self_removed", "attrib delete_self ignored") {
  make_file("f");
  return events_of("f", IN_ATTRIB | IN_DELETE_SELF, [] { must(unlink("f"), "unlink"); });
}
CHECK("inotify.open_file_removed", "attrib") {
  make_file("f");
  const Fd keep("f");
  return events_of("f", IN_ATTRIB | IN_DELETE_SELF, [] { must(unlink("f"), "unlink"); });
}
CHECK("inotify.self_moved", "move_self") {
  make_file("f");
  return events_of("f", IN_MOVE_SELF, [] { must(rename("f", "g"), "rename"); });
}
CHECK("inotify.only_directories", "ENOTDIR") {
  make_file("f");
  return ok(inotify_add_watch(Fd(inotify_init1(0), "inotify_init1"), "f", IN_CREATE | IN_ONLYDIR));
}
CHECK("inotify.through_hard_link", "modify") {
  make_file("f");
  must(link("f", "g"), "link");
  return events_of("f", IN_MODIFY, [] { must(write(Fd("g"), "x", 1), "write"); });
}
CHECK("inotify.mapping_is_silent", "none") {
  make_file("f", "abc");
  return events_of("f", IN_MODIFY, [] { must(fsync(Fd("f")), "fsync"); });
}

// fanotify

CHECK("fanotify.open_and_modify", "open modify+close_write") {
  make_file("f", "abc");
  const Fd watcher(fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY), "fanotify_init");
  must(fanotify_mark(watcher, FAN_MARK_ADD, FAN_OPEN | FAN_MODIFY | FAN_CLOSE_WRITE, AT_FDCWD, "f"), "fanotify_mark");
  must(write(Fd("f"), "x", 1), "write");
  alignas(fanotify_event_metadata) char buffer[4096];
  const auto n = static_cast<std::size_t>(must(read(watcher, buffer, sizeof buffer), "read"));
  std::uint64_t mask = 0;
  for (std::size_t at = 0; at + sizeof(fanotify_event_metadata) <= n;) {
    const auto *event = reinterpret_cast<const fanotify_event_metadata *>(buffer + at);
    mask |= event->mask;
    at += event->event_len;
  }
  // Events of one object may be merged.
  return seen(
      {mask & FAN_OPEN ? "open" : "-", mask & FAN_MODIFY && mask & FAN_CLOSE_WRITE ? "modify+close_write" : "-"});
}
CHECK("fanotify.mark_mount_and_filesystem", "") {
  const Fd watcher(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY), "fanotify_init");
  return seen({ok(fanotify_mark(watcher, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN, AT_FDCWD, ".")),
               ok(fanotify_mark(watcher, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, AT_FDCWD, "."))});
}
CHECK("fanotify.by_file_handle", "") {
  const Fd watcher(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY), "fanotify_init");
  return ok(fanotify_mark(watcher, FAN_MARK_ADD, FAN_CREATE | FAN_ONDIR, AT_FDCWD, "."));
}
CHECK("fanotify.permission", "EPERM") {
  make_file("f", "abc");
  const Fd watcher(fanotify_init(FAN_CLASS_CONTENT, O_RDONLY), "fanotify_init");
  must(fanotify_mark(watcher, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, "f"), "fanotify_mark");
  const pid_t child = static_cast<pid_t>(must(fork(), "fork"));
  if (child == 0) {
    fanotify_event_metadata event;
    if (read(watcher, &event, sizeof event) <= 0) _exit(1);
    const fanotify_response refuse{event.fd, FAN_DENY};
    _exit(write(watcher, &refuse, sizeof refuse) == sizeof refuse ? 0 : 1);
  }
  return ok(open("f", O_RDONLY));
}

// Readiness: a regular file is always ready, and epoll will not have it.

CHECK("poll.file", "5") {  // POLLIN | POLLOUT
  make_file("f", "abc");
  const Fd fd("f");
  pollfd p{fd, POLLIN | POLLOUT | POLLPRI, 0};
  must(poll(&p, 1, 1000), "poll");
  return number(p.revents);
}
CHECK("poll.directory", "5") {
  const Fd fd(".", O_RDONLY);
  pollfd p{fd, POLLIN | POLLOUT, 0};
  must(poll(&p, 1, 1000), "poll");
  return number(p.revents);
}
CHECK("poll.fifo", "4 5") {
  must(mkfifo("p", 0600), "mkfifo");
  const Fd fd("p", O_RDWR);
  pollfd p{fd, POLLIN | POLLOUT, 0};
  must(poll(&p, 1, 0), "poll");
  const std::string empty = number(p.revents);
  must(write(fd, "x", 1), "write");
  must(poll(&p, 1, 0), "poll");
  return seen({empty, number(p.revents)});
}
CHECK("select.file", "2 yes yes") {
  make_file("f", "abc");
  const Fd fd("f");
  fd_set readable, writable;
  FD_ZERO(&readable);
  FD_ZERO(&writable);
  FD_SET(fd, &readable);
  FD_SET(fd, &writable);
  timeval wait{1, 0};
  const std::string n = number(select(fd + 1, &readable, &writable, nullptr, &wait));
  return seen({n, yes(FD_ISSET(fd, &readable)), yes(FD_ISSET(fd, &writable))});
}

// Handles

struct Handle {
  Handle() { at()->handle_bytes = MAX_HANDLE_SZ; }
  file_handle *at() { return reinterpret_cast<file_handle *>(bytes); }
  alignas(file_handle) char bytes[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
};

Handle handle_of(const char *path) {
  Handle handle;
  int mount;
  must(name_to_handle_at(AT_FDCWD, path, handle.at(), &mount, 0), "name_to_handle_at");
  return handle;
}

CHECK("handle.open", "ok 'abc'") {
  make_file("f", "abc");
  Handle handle = handle_of("f");
  const Fd mount(".", O_RDONLY);
  const int fd = open_by_handle_at(mount, handle.at(), O_RDONLY);
  char buffer[8];
  const ssize_t n = read(fd, buffer, sizeof buffer);
  return seen({ok(fd), n < 0 ? error_name(errno) : text({buffer, static_cast<std::size_t>(n)})});
}
CHECK("handle.survives_rename", "ok") {
  make_file("f");
  Handle handle = handle_of("f");
  must(rename("f", "g"), "rename");
  return ok(open_by_handle_at(Fd(".", O_RDONLY), handle.at(), O_RDONLY));
}
CHECK("handle.of_removed_file", "ESTALE") {
  make_file("f");
  Handle handle = handle_of("f");
  must(unlink("f"), "unlink");
  // Over FUSE the file's RELEASE keeps its inode until the server has replied, which nobody waits for.
  std::string result;
  for (int i = 0; i < 200 && result != "ESTALE"; ++i) {
    if (i != 0) usleep(10'000);
    const int opened = open_by_handle_at(Fd(".", O_RDONLY), handle.at(), O_RDONLY);
    result = ok(opened);
    if (opened >= 0) close(opened);
  }
  return result;
}
CHECK("handle.of_removed_open_file", "") {
  make_file("f");
  Handle handle = handle_of("f");
  const Fd keep("f");
  must(unlink("f"), "unlink");
  return ok(open_by_handle_at(Fd(".", O_RDONLY), handle.at(), O_RDONLY));
}
CHECK("handle.directory", "ok ok") {
  make_dir("d");
  make_file("d/f");
  Handle handle = handle_of("d");
  const int fd = open_by_handle_at(Fd(".", O_RDONLY), handle.at(), O_RDONLY);
  return seen({ok(fd), ok(openat(fd, "f", O_RDONLY))});
}
CHECK("handle.needs_privilege", "EPERM") {
  make_file("f", "", 0644);
  Handle handle = handle_of("f");
  return as_user([&] { return ok(open_by_handle_at(Fd(".", O_RDONLY), handle.at(), O_RDONLY)); });
}
CHECK("handle.too_small", "EOVERFLOW yes") {
  make_file("f");
  Handle handle;
  handle.at()->handle_bytes = 0;
  int mount;
  const std::string refused = ok(name_to_handle_at(AT_FDCWD, "f", handle.at(), &mount, 0));
  return seen({refused, yes(handle.at()->handle_bytes > 0)});
}
CHECK("handle.garbage", "ESTALE|EINVAL") {
  make_file("f");
  Handle handle = handle_of("f");
  std::memset(handle.at()->f_handle, 0x5a, handle.at()->handle_bytes);
  return ok(open_by_handle_at(Fd(".", O_RDONLY), handle.at(), O_RDONLY));
}

// ioctl

CHECK("ioctl.bytes_to_read", "4") {
  make_file("f", "abcdef");
  const Fd fd("f");
  lseek(fd, 2, SEEK_SET);
  int n = -1;
  must(ioctl(fd, FIONREAD, &n), "FIONREAD");
  return number(n);
}
CHECK("ioctl.terminal", "ENOTTY") {
  make_file("f");
  char terminal[256];
  return ok(ioctl(Fd("f"), 0x5401 /* TCGETS */, terminal));
}
CHECK("ioctl.nonblocking", "ok yes") {
  make_file("f");
  const Fd fd("f");
  int on = 1;
  const std::string done = ok(ioctl(fd, FIONBIO, &on));
  return seen({done, yes(fcntl(fd, F_GETFL) & O_NONBLOCK)});
}
CHECK("ioctl.flags.immutable", "") {
  make_file("f", "abc");
  int flags = 0;
  const Fd fd("f");
  if (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0) return ok(-1);
  flags |= FS_IMMUTABLE_FL;
  const std::string set = ok(ioctl(fd, FS_IOC_SETFLAGS, &flags)), refused = ok(open("f", O_WRONLY));
  flags &= ~FS_IMMUTABLE_FL;
  ioctl(fd, FS_IOC_SETFLAGS, &flags);
  return seen({set, refused});
}
CHECK("ioctl.generation", "") {
  make_file("f");
  long generation = 0;
  return ok(ioctl(Fd("f"), FS_IOC_GETVERSION, &generation));
}
CHECK("ioctl.clone", "") {
  make_file("f", "abc");
  make_file("g");
  return ok(ioctl(Fd("g"), FICLONE, int{Fd("f")}));
}
CHECK("ioctl.block_map", "") {
  make_file("f", "abc");
  int block = 0;
  return ok(ioctl(Fd("f"), FIBMAP, &block));
}
CHECK("ioctl.freeze_needs_privilege", "EPERM") {
  return as_user([] { return ok(ioctl(Fd(".", O_RDONLY), FIFREEZE, 0)); });
}

// Sockets with a name

std::string connect_to(const char *path, int *listener, mode_t mode = 0700) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  const auto *at = reinterpret_cast<const sockaddr *>(&address);
  if (listener != nullptr) {
    *listener = static_cast<int>(must(socket(AF_UNIX, SOCK_STREAM, 0), "socket"));
    umask(0777 & ~mode);
    if (bind(*listener, at, sizeof address) != 0) return "bind " + error_name(errno);
    must(listen(*listener, 1), "listen");
  }
  return ok(connect(static_cast<int>(must(socket(AF_UNIX, SOCK_STREAM, 0), "socket")), at, sizeof address));
}
CHECK("socket.bind_and_connect", "ok yes") {
  int listener;
  const std::string connected = connect_to("s", &listener);
  return seen({connected, yes(S_ISSOCK(stat_of("s").st_mode))});
}
CHECK("socket.bind_twice", "bind EADDRINUSE") {
  int listener;
  connect_to("s", &listener);
  return connect_to("s", &listener);
}
CHECK("socket.nobody_listens", "ECONNREFUSED") {
  must(mknod("s", S_IFSOCK | 0700, 0), "mknod");
  return connect_to("s", nullptr);
}
CHECK("socket.after_rename", "ok") {
  int listener;
  connect_to("s", &listener);
  must(rename("s", "t"), "rename");
  return connect_to("t", nullptr);
}
CHECK("socket.after_unlink", "ENOENT") {
  int listener;
  connect_to("s", &listener);
  must(unlink("s"), "unlink");
  return connect_to("s", nullptr);
}
CHECK("socket.permission", "EACCES") {
  int listener;
  connect_to("s", &listener, 0700);
  return as_user([] { return connect_to("s", nullptr); });
}
CHECK("socket.mode", "0750") {
  int listener;
  connect_to("s", &listener, 0750);
  return mode_of("s");
}

// mknod

CHECK("mknod.device_needs_privilege", "EPERM") {
  chmod(".", 0777);
  return as_user([] { return ok(mknod("c", S_IFCHR | 0600, makedev(1, 3))); });
}
CHECK("mknod.fifo_and_socket_need_none", "ok ok ok") {
  chmod(".", 0777);
  return as_user([] {
    return seen({ok(mknod("p", S_IFIFO | 0600, 0)), ok(mknod("s", S_IFSOCK | 0600, 0)), ok(mknod("f", 0600, 0))});
  });
}
CHECK("mknod.directory_and_nonsense", "EPERM EINVAL") {
  return seen({ok(mknod("d", S_IFDIR | 0700, 0)), ok(mknod("x", S_IFLNK | 0700, 0))});
}

}  // namespace
}  // namespace posix
