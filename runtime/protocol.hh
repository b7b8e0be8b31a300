// SPDX-License-Identifier: LGPL-2.1-or-later
// The FUSE protocol where the distribution's <linux/fuse.h> may be older than
// the kernel: Debian 12 ships 7.38, Linux 6.12 speaks 7.41. Names of our own, so
// that a newer header never clashes.
#pragma once

#include "fuse_api.hh"

#include <sys/ioctl.h>

#include <cstdint>

namespace efuse::protocol {

inline constexpr std::uint32_t kMajor = 7;
/// What this runtime speaks; an older kernel is met at its own minor.
inline constexpr std::uint32_t kMinor = 41;
/// Linux 3.2, the oldest kernel that Debian 12's C library runs on. Since then no
/// request has changed its layout, and of the replies only INIT's.
inline constexpr std::uint32_t kMinMinor = 17;

/// What the kernel takes for the header and the fixed arguments of a message.
inline constexpr std::size_t kHeaderRoom = 4096;
/// The kernel never writes less at a time, whatever max_write says.
inline constexpr std::size_t kMinWrite = 4096;
/// Pages per request where the kernel has no FUSE_MAX_PAGES.
inline constexpr std::size_t kDefaultMaxPages = 32;
/// Longest xattr value that the VFS lets through.
inline constexpr std::size_t kMaxXattr = 65536;
/// A reply's error lies above this (dev.c refuses the message otherwise).
inline constexpr int kErrorLimit = -512;

// Opcodes that 7.38 lacks.
inline constexpr std::uint32_t kOpStatx = 52;

// Notifications that 7.38 lacks.
inline constexpr std::int32_t kNotifyResend = 7;    // 7.40
inline constexpr std::int32_t kNotifyIncEpoch = 8;  // 7.44
inline constexpr std::int32_t kNotifyPrune = 9;     // 7.45

// INIT flags that 7.38 lacks.
inline constexpr std::uint64_t kCreateSuppGroup = 1ull << 34;
inline constexpr std::uint64_t kHasExpireOnly = 1ull << 35;
inline constexpr std::uint64_t kDirectIoAllowMmap = 1ull << 36;
inline constexpr std::uint64_t kPassthrough = 1ull << 37;
inline constexpr std::uint64_t kNoExportSupport = 1ull << 38;
inline constexpr std::uint64_t kHasResend = 1ull << 39;
inline constexpr std::uint64_t kAllowIdmap = 1ull << 40;

// Flags of open replies that 7.38 lacks.
inline constexpr std::uint32_t kFopenPassthrough = 1u << 7;

/// fuse_in_header.unique of a request that was sent before (FUSE_NOTIFY_RESEND).
inline constexpr std::uint64_t kUniqueResend = 1ull << 63;
/// fuse_in_header.total_extlen counts these.
inline constexpr std::size_t kExtensionUnit = 8;

/// fuse_open_out, with what 7.40 made of its padding.
struct OpenOut {
  std::uint64_t fh;
  std::uint32_t open_flags;
  std::int32_t backing_id;
};
static_assert(sizeof(OpenOut) == sizeof(fuse_open_out));

/// fuse_init_out, with what 7.40 made of its unused words.
struct InitOut {
  std::uint32_t major;
  std::uint32_t minor;
  std::uint32_t max_readahead;
  std::uint32_t flags;
  std::uint16_t max_background;
  std::uint16_t congestion_threshold;
  std::uint32_t max_write;
  std::uint32_t time_gran;
  std::uint16_t max_pages;
  std::uint16_t map_alignment;
  std::uint32_t flags2;
  std::uint32_t max_stack_depth;
  std::uint32_t unused[6];
};
static_assert(sizeof(InitOut) == sizeof(fuse_init_out));

/// fuse_backing_map (7.40), and the ioctls of /dev/fuse that take it and the id it gave.
struct BackingMap {
  std::int32_t fd;
  std::uint32_t flags;
  std::uint64_t padding;
};
inline constexpr unsigned long kBackingOpen = _IOW(FUSE_DEV_IOC_MAGIC, 1, BackingMap);
inline constexpr unsigned long kBackingClose = _IOW(FUSE_DEV_IOC_MAGIC, 2, std::uint32_t);

/// fuse_notify_prune_out (7.45); node ids follow, 64 bits each.
struct NotifyPruneOut {
  std::uint32_t count;
  std::uint32_t padding;
  std::uint64_t spare;
};

/// fuse_statx_in (7.39).
struct StatxIn {
  std::uint32_t getattr_flags;
  std::uint32_t reserved;
  std::uint64_t fh;
  std::uint32_t sx_flags;
  std::uint32_t sx_mask;
};
static_assert(sizeof(StatxIn) == 24);

/// fuse_sx_time (7.39).
struct StatxTime {
  std::int64_t tv_sec;
  std::uint32_t tv_nsec;
  std::int32_t reserved;
};

/// fuse_statx (7.39), bit for bit the kernel's struct statx.
struct Statx {
  std::uint32_t mask;
  std::uint32_t blksize;
  std::uint64_t attributes;
  std::uint32_t nlink;
  std::uint32_t uid;
  std::uint32_t gid;
  std::uint16_t mode;
  std::uint16_t spare0;
  std::uint64_t ino;
  std::uint64_t size;
  std::uint64_t blocks;
  std::uint64_t attributes_mask;
  StatxTime atime;
  StatxTime btime;
  StatxTime ctime;
  StatxTime mtime;
  std::uint32_t rdev_major;
  std::uint32_t rdev_minor;
  std::uint32_t dev_major;
  std::uint32_t dev_minor;
  std::uint64_t spare2[14];
};
static_assert(sizeof(Statx) == 256);

/// fuse_statx_out (7.39).
struct StatxOut {
  std::uint64_t attr_valid;
  std::uint32_t attr_valid_nsec;
  std::uint32_t flags;
  std::uint64_t spare[2];
  Statx stat;
};
static_assert(sizeof(StatxOut) == 288);

/// "GETATTR" and so on; "???" for what is not in the protocol. Never null.
const char *opcode_name(std::uint32_t opcode) noexcept;

/// FORGET, BATCH_FORGET, INTERRUPT and NOTIFY_REPLY are never answered.
constexpr bool expects_reply(std::uint32_t opcode) noexcept {
  return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT &&
         opcode != FUSE_NOTIFY_REPLY;
}

}  // namespace efuse::protocol
