// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <string>
#include <vector>

namespace efuse::fs::passthrough {

/// How nodes are held that are not open: by file handles (name_to_handle_at(2)), which cost no descriptor, or
/// by an O_PATH descriptor each.
enum class InodeHandles {
  automatic,  // handles where the daemon may open them and the filesystem has them
  always,     // handles, or it is an error
  never,      // descriptors
};

struct Settings {
  std::string source;  // the directory
  std::string fsname;  // how the mount calls itself in /proc/self/mountinfo
  InodeHandles inode_handles = InodeHandles::automatic;
  double attr_timeout = 1.0;      // seconds
  double entry_timeout = 1.0;     // seconds
  double negative_timeout = 0.0;  // seconds
  double fastpath_timeout = 1.0;  // seconds; infinite: the source is changed through this mount only
  bool direct_io = false;
  bool keep_cache = false;  // pages, directories and symbolic links stay cached over open()
  bool writeback = false;
  bool splice_write = true;  // data goes to the kernel through a pipe, where that is cheaper
  bool kernel_passthrough = false;  // the kernel reads and writes the source's file itself
  bool xattr = true;
  bool acl = false;
  bool posix_locks = true;  // of fcntl(2): taken in the source
  bool flock = false;       // of flock(2): likewise
};

/// Takes what it understands out of `options`; throws std::invalid_argument with one line.
Settings parse_settings(std::vector<std::string> &options);

}  // namespace efuse::fs::passthrough
