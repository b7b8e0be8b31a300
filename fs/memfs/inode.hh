// SPDX-License-Identifier: LGPL-2.1-or-later
// One file, directory or other node of a memfs::Store.
#pragma once

#include "../dir_index.hh"
#include "../rwlock.hh"
#include "page_map.hh"

#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace efuse::fs::memfs {

using Xattrs = std::map<std::string, std::string, std::less<>>;

/// Locks, in the order in which they are taken:
///   Store::tree   renames across directories exclusively; rmdir and other renames shared
///   content       of at most two inodes, the one with the smaller ino first
///   Store::stripe parts of a file's data, while content is held shared, ascending
///   meta          of one inode at a time, innermost
struct Inode {
  static constexpr std::uint64_t kLinked = std::uint64_t{1} << 63;
  static constexpr std::uint64_t kDead = UINT64_MAX;

  explicit Inode(mode_t m) noexcept : type(m & S_IFMT), mode(m) {}

  /// Who keeps this inode: bit 63 while a directory names it (nlink > 0), below
  /// it the kernel's lookups and open handles. At 0 the inode is freed, by whoever
  /// made it so.
  std::atomic<std::uint64_t> refs{0};
  std::uint64_t ino = 0;         // constant
  std::uint64_t generation = 0;  // constant
  const mode_t type;             // S_IFMT bits; read without a lock, unlike mode

  RwLock content;  // data, entries
  RwLock meta;     // the fields up to xattrs

  mode_t mode;  // type and permissions
  uid_t uid = 0;
  gid_t gid = 0;
  nlink_t nlink = 0;
  dev_t rdev = 0;             // constant
  std::int64_t size = 0;      // files: written under content and meta, read under either
  std::uint64_t pages = 0;    // accounted pages of data
  timespec atime{}, mtime{}, ctime{};
  timespec btime{};           // constant
  bool may_get_name = false;  // made without one: link() may give it its first
  std::unique_ptr<Xattrs> xattrs;

  PageMap data;                       // regular files; protected by content
  std::unique_ptr<DirIndex> entries;  // directories; protected by content
  std::string target;                 // symbolic links; constant
  /// Directories: names in it, or kDead once it is removed. Raised under content;
  /// rmdir goes from 0 to kDead without that lock, which would be out of order.
  std::atomic<std::uint64_t> live{0};
  std::atomic<std::uint64_t> parent{0};  // directories: ino; written under Store::tree exclusively

  [[nodiscard]] bool is_dir() const noexcept { return S_ISDIR(type); }
  [[nodiscard]] bool is_file() const noexcept { return S_ISREG(type); }
};

}  // namespace efuse::fs::memfs
