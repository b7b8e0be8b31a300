// SPDX-License-Identifier: LGPL-2.1-or-later
#include "source.hh"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace efuse::fs::passthrough {
namespace {

void raise_descriptor_limit() noexcept {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

/// One component, that names an entry of a directory.
bool is_name(const char *name) noexcept {
  return *name != '\0' && std::strchr(name, '/') == nullptr && std::strcmp(name, ".") != 0 &&
         std::strcmp(name, "..") != 0;
}

constexpr int kPathFlags = O_PATH | O_NOFOLLOW | O_CLOEXEC;

/// An O_PATH descriptor of an entry that is on its directory's own mount; -EXDEV: it is on another.
int open_here(int dir, const char *name, Fd &path) noexcept {
  open_how how{};
  how.flags = kPathFlags;
  how.resolve = RESOLVE_NO_XDEV;
  path.reset(static_cast<int>(syscall(SYS_openat2, dir, name, &how, sizeof how)));
  return path ? 0 : -errno;
}

}  // namespace

Source::Source(const Settings &settings)
    : privileges_(Privileges::of_this_process()),
      mounts_(privileges_.open_handles ? settings.inode_handles : InodeHandles::never, settings.fsname) {
  if (settings.inode_handles == InodeHandles::always && !privileges_.open_handles)
    throw std::invalid_argument("passthrough: inode_handles=always needs CAP_DAC_READ_SEARCH");
  raise_descriptor_limit();
  const std::string what = "cannot serve " + settings.source;
  Fd path(::open(settings.source.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  std::shared_ptr<Mount> mount;
  int status = path ? mounts_.find(path.get(), mount) : -errno;
  struct stat attr {};
  if (status == 0 && fstat(path.get(), &attr) != 0) status = -errno;
  if (status != 0)
    throw std::system_error(-status, std::generic_category(),
                            status == -EOPNOTSUPP ? what + " with inode_handles=always" : what);
  HandleBuffer handle;
  const bool by_handle = mount->handles && handle.read(path.get()) == 0;
  const Identity identity{mount.get(), attr.st_dev, attr.st_ino, by_handle ? handle.get() : nullptr};
  root_ = table_.acquire(
      identity, [&] { return std::make_unique<Node>(identity, mount, attr.st_mode, std::move(path)); });
}

ino_t Source::present(dev_t dev, ino_t ino) noexcept {
  if (dev == root_->dev) return ino;
  // FUSE has one device number per mount. The upper bits are hardly ever in use.
  constexpr unsigned kShift = 48;
  const std::scoped_lock lock(devices_mutex_);
  try {
    return ino ^ devices_.try_emplace(dev, devices_.size() + 1).first->second << kShift;
  } catch (const std::bad_alloc &) {
    return ino;
  }
}

int Source::stat(int fd, struct stat &attr) noexcept {
  if (fstat(fd, &attr) != 0) return -errno;
  attr.st_ino = present(attr.st_dev, attr.st_ino);
  return 0;
}

int Source::adopt(Fd path, const std::shared_ptr<Mount> &mount, Found &found) noexcept {
  if (fstat(path.get(), &found.attr) != 0) return -errno;
  HandleBuffer handle;
  const bool by_handle = mount->handles && handle.read(path.get()) == 0;
  const Identity identity{mount.get(), found.attr.st_dev, found.attr.st_ino, by_handle ? handle.get() : nullptr};
  try {
    found.node = table_.acquire(identity, [&] {
      return std::make_unique<Node>(identity, mount, found.attr.st_mode, by_handle ? Fd() : std::move(path));
    });
  } catch (const std::bad_alloc &) {
    return -ENOMEM;
  }
  found.attr.st_ino = present(found.attr.st_dev, found.attr.st_ino);
  return 0;
}

int Source::lookup(const Node &parent, int dir, const char *name, Found &found) noexcept {
  if (!is_name(name)) return -EINVAL;
  Fd path;
  const int status = open_here(dir, name, path);
  if (status == 0) return adopt(std::move(path), parent.mount, found);
  if (status != -EXDEV) return status;
  path.reset(openat(dir, name, kPathFlags));
  if (!path) return -errno;
  std::shared_ptr<Mount> mount;
  const int crossed = mounts_.find(path.get(), mount);
  return crossed != 0 ? crossed : adopt(std::move(path), mount, found);
}

int Source::adopt_open(const Node &parent, int fd, Found &found) noexcept {
  if (parent.mount->handles) {
    // No descriptor will be kept, so any of the file's is good.
    Fd same(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    return same ? adopt(std::move(same), parent.mount, found) : -errno;
  }
  Fd path(::open(FdPath(fd).c_str(), O_PATH | O_CLOEXEC));
  return path ? adopt(std::move(path), parent.mount, found) : -errno;
}

int Source::open(const Node &node, int flags, Fd &fd) const noexcept {
  flags |= O_CLOEXEC;
  fd.reset(node.handle ? open_by_handle_at(node.mount->fd.get(), node.handle.get(), flags)
                       : ::open(FdPath(node.path.get()).c_str(), flags & ~O_NOFOLLOW));
  return fd ? 0 : -errno;
}

FdPath::FdPath(int fd) noexcept { std::snprintf(text_, sizeof text_, "/proc/self/fd/%d", fd); }

}  // namespace efuse::fs::passthrough
