// SPDX-License-Identifier: LGPL-2.1-or-later
// Between libfuse's structures and the protocol's.
#pragma once

#include "fuse_api.hh"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdint>

namespace efuse {

/// Seconds from now in the two fields of the protocol; negative and NaN: 0.
inline void fill_timeout(double seconds, std::uint64_t &valid, std::uint32_t &valid_nsec) noexcept {
  constexpr double kLimit = 18446744073709551616.0;  // 2^64
  valid = 0;
  valid_nsec = 0;
  if (!(seconds > 0)) return;
  if (seconds >= kLimit) {
    valid = UINT64_MAX;
    return;
  }
  valid = static_cast<std::uint64_t>(seconds);
  const double nsec = (seconds - static_cast<double>(valid)) * 1e9;
  valid_nsec = nsec >= 999999999.0 ? 999999999u : static_cast<std::uint32_t>(nsec);
}

inline void fill_attr(fuse_attr &out, const struct stat &in) noexcept {
  out.ino = in.st_ino;
  out.mode = in.st_mode;
  out.nlink = static_cast<std::uint32_t>(in.st_nlink);
  out.uid = in.st_uid;
  out.gid = in.st_gid;
  out.rdev = static_cast<std::uint32_t>(in.st_rdev);
  out.size = static_cast<std::uint64_t>(in.st_size);
  out.blksize = static_cast<std::uint32_t>(in.st_blksize);
  out.blocks = static_cast<std::uint64_t>(in.st_blocks);
  out.atime = static_cast<std::uint64_t>(in.st_atim.tv_sec);
  out.mtime = static_cast<std::uint64_t>(in.st_mtim.tv_sec);
  out.ctime = static_cast<std::uint64_t>(in.st_ctim.tv_sec);
  out.atimensec = static_cast<std::uint32_t>(in.st_atim.tv_nsec);
  out.mtimensec = static_cast<std::uint32_t>(in.st_mtim.tv_nsec);
  out.ctimensec = static_cast<std::uint32_t>(in.st_ctim.tv_nsec);
}

inline void fill_entry(fuse_entry_out &out, const fuse_entry_param &in) noexcept {
  out.nodeid = in.ino;
  out.generation = in.generation;
  fill_timeout(in.entry_timeout, out.entry_valid, out.entry_valid_nsec);
  fill_timeout(in.attr_timeout, out.attr_valid, out.attr_valid_nsec);
  fill_attr(out.attr, in.attr);
}

/// The attributes of SETATTR; which of them count is in fuse_setattr_in.valid.
inline struct stat to_stat(const fuse_setattr_in &in) noexcept {
  struct stat out {};
  out.st_mode = in.mode;
  out.st_uid = in.uid;
  out.st_gid = in.gid;
  out.st_size = static_cast<off_t>(in.size);
  out.st_atim = {static_cast<time_t>(in.atime), static_cast<long>(in.atimensec)};
  out.st_mtim = {static_cast<time_t>(in.mtime), static_cast<long>(in.mtimensec)};
  out.st_ctim = {static_cast<time_t>(in.ctime), static_cast<long>(in.ctimensec)};
  return out;
}

/// The protocol's last byte of a lock that reaches to the end of the file.
inline constexpr std::uint64_t kLockToEnd = INT64_MAX;

inline struct flock to_flock(const fuse_file_lock &in) noexcept {
  struct flock out {};
  out.l_type = static_cast<short>(in.type);
  out.l_whence = SEEK_SET;
  out.l_start = static_cast<off_t>(in.start);
  out.l_len = in.end == kLockToEnd ? 0 : static_cast<off_t>(in.end - in.start + 1);
  out.l_pid = static_cast<pid_t>(in.pid);
  return out;
}

inline void fill_lock(fuse_file_lock &out, const struct flock &in) noexcept {
  out.type = static_cast<std::uint32_t>(in.l_type);
  out.pid = static_cast<std::uint32_t>(in.l_pid);
  if (in.l_type == F_UNLCK) return;
  out.start = static_cast<std::uint64_t>(in.l_start);
  out.end = in.l_len == 0 ? kLockToEnd : static_cast<std::uint64_t>(in.l_start) +
                                             static_cast<std::uint64_t>(in.l_len) - 1;
}

}  // namespace efuse
