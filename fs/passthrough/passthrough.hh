// SPDX-License-Identifier: LGPL-2.1-or-later
// What the callbacks of the filesystem share. Each group of them has a file: names.cc, attributes.cc, files.cc,
// directories.cc, locking.cc; passthrough.cc puts them together.
#pragma once

#include "../filesystem.hh"
#include "../replies.hh"
#include "lock_waiters.hh"
#include "settings.hh"
#include "source.hh"

#include <efuse/efuse_lowlevel.h>

#include <atomic>
#include <cstdint>

namespace efuse::fs::passthrough {

class Passthrough final : public Filesystem {
 public:
  explicit Passthrough(const Settings &given) : settings(given), source(settings) {}

  [[nodiscard]] const fuse_lowlevel_ops &ops() const noexcept override;
  [[nodiscard]] std::size_t ops_size() const noexcept override { return sizeof(efuse_lowlevel_ops); }
  [[nodiscard]] void *userdata() noexcept override { return this; }
  [[nodiscard]] std::vector<std::string> mount_options() const override;
  [[nodiscard]] bool starts_nothing() const noexcept override { return true; }
  [[nodiscard]] FastpathOffer fastpath() const override;

  const Settings settings;
  Source source;
  LockWaiters waiters;
  std::atomic<bool> kernel_passthrough{false};  // from init() on
  std::atomic<bool> fastpath_backing{true};     // until it is known that nobody wants it
};

inline Passthrough &fs_of(fuse_req_t req) noexcept { return *static_cast<Passthrough *>(fuse_req_userdata(req)); }

inline Node &node_of(Passthrough &fs, fuse_ino_t ino) noexcept {
  return ino == FUSE_ROOT_ID ? fs.source.root() : *reinterpret_cast<Node *>(static_cast<std::uintptr_t>(ino));
}
inline Node &node_of(fuse_req_t req, fuse_ino_t ino) noexcept { return node_of(fs_of(req), ino); }

/// An open file; fi->fh is its address.
struct File {
  Fd fd;
  Node &node;
};
inline File &file_of(const fuse_file_info *fi) noexcept { return *reinterpret_cast<File *>(fi->fh); }
/// Its descriptor, or -1 where the request is not about an open file.
inline int fd_of(const fuse_file_info *fi) noexcept { return fi != nullptr ? file_of(fi).fd.get() : -1; }

/// 0 or -errno of a system call.
inline int result_of(long result) noexcept { return result < 0 ? -errno : 0; }

/// Changes of data that follow are the caller's: see write_as_root().
inline void write_as_caller(fuse_req_t req) noexcept {
  if (fs_of(req).source.privileges().switch_user) write_as_root(fuse_req_ctx(req)->uid == 0);
}
inline void write_as_daemon(fuse_req_t req) noexcept {
  if (fs_of(req).source.privileges().switch_user) write_as_root(true);
}

double attr_timeout(const Passthrough &fs, const struct stat &attr) noexcept;
fuse_entry_param entry_of(const Passthrough &fs, const Found &found) noexcept;
/// The kernel did not want the reply that told it of the node.
inline void give_back(Passthrough &fs, const Found &found) noexcept { fs.source.table().forget(*found.node, 1); }
/// Answer with the node that was looked up, or with the error.
void reply_found(fuse_req_t req, int status, const Found &found) noexcept;

// The callbacks, as struct fuse_lowlevel_ops describes them.
void add_names(fuse_lowlevel_ops &ops) noexcept;
void add_attributes(efuse_lowlevel_ops &ops) noexcept;
void add_files(efuse_lowlevel_ops &ops) noexcept;
void add_directories(fuse_lowlevel_ops &ops) noexcept;
void add_locking(fuse_lowlevel_ops &ops) noexcept;

/// An owner of fcntl(2) locks has closed the file.
void release_locks(Passthrough &fs, Node &node, std::uint64_t owner) noexcept;

}  // namespace efuse::fs::passthrough
