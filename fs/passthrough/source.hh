// SPDX-License-Identifier: LGPL-2.1-or-later
// The tree that is served: nodes, and descriptors for them. Knows nothing of requests.
//
// A file is reached from its parent's descriptor and one name, never by a path, and no symbolic link is followed,
// so nothing outside the source can be reached, whoever renames what meanwhile. "." and ".." are no names: the
// kernel resolves them itself and asks for them only for NFS export, which is not offered. What is
// mounted below the source is part of the tree.
#pragma once

#include "credentials.hh"
#include "fd.hh"
#include "mounts.hh"
#include "node_table.hh"
#include "settings.hh"

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

namespace efuse::fs::passthrough {

/// A node and what it looked like when it was found. The node has one lookup more.
struct Found {
  Node *node = nullptr;
  struct stat attr {};
};

/// Any thread. What returns int gives 0 or -errno; -ESTALE: the node's file is gone.
class Source {
 public:
  /// Raises the limit of open descriptors to what is allowed. Throws std::system_error if the directory cannot
  /// be served, std::invalid_argument if it is none.
  explicit Source(const Settings &settings);

  [[nodiscard]] Node &root() noexcept { return *root_; }
  [[nodiscard]] const Node &root() const noexcept { return *root_; }
  [[nodiscard]] NodeTable &table() noexcept { return table_; }
  [[nodiscard]] const Privileges &privileges() const noexcept { return privileges_; }
  [[nodiscard]] const MountTable &mounts() const noexcept { return mounts_; }

  /// `dir`: a descriptor of `parent`.
  int lookup(const Node &parent, int dir, const char *name, Found &found) noexcept;
  /// The node of an open file that was made in `parent`.
  int adopt_open(const Node &parent, int fd, Found &found) noexcept;
  /// Open the node's file. `flags`: as of open(2), without O_CREAT.
  int open(const Node &node, int flags, Fd &fd) const noexcept;
  /// Attributes as they are served: inode numbers of different filesystems are kept apart.
  int stat(int fd, struct stat &attr) noexcept;
  [[nodiscard]] ino_t present(dev_t dev, ino_t ino) noexcept;

 private:
  int adopt(Fd path, const std::shared_ptr<Mount> &mount, Found &found) noexcept;

  const Privileges privileges_;
  MountTable mounts_;
  NodeTable table_;
  Node *root_ = nullptr;
  std::mutex devices_mutex_;
  std::unordered_map<dev_t, std::uint64_t> devices_;  // numbered from 1, without the root's; guarded by devices_mutex_
};

/// A descriptor of a node for the time of one request: that of the open file, if there is one, the node's own, or one
/// that is opened here. Good for *at() calls and as /proc/self/fd/N, not for data.
class NodeFd {
 public:
  NodeFd(const Source &source, const Node &node, int open_file = -1) noexcept {
    if (open_file >= 0)
      fd_ = open_file;
    else if (node.path)
      fd_ = node.path.get();
    else if ((error_ = source.open(node, O_PATH | O_NOFOLLOW, opened_)) == 0)
      fd_ = opened_.get();
  }
  [[nodiscard]] int get() const noexcept { return fd_; }
  /// 0 or -errno.
  [[nodiscard]] int error() const noexcept { return error_; }

 private:
  Fd opened_;
  int fd_ = -1;
  int error_ = 0;
};

/// "/proc/self/fd/N", for calls that take no descriptor of the O_PATH kind.
class FdPath {
 public:
  explicit FdPath(int fd) noexcept;
  [[nodiscard]] const char *c_str() const noexcept { return text_; }

 private:
  char text_[32];
};

}  // namespace efuse::fs::passthrough
