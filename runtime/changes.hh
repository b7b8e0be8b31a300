// SPDX-License-Identifier: LGPL-2.1-or-later
// What answers in the kernel (BPF programs of the rings' module) has to know what changes. The module sees the
// requests that it carries over rings; what changes otherwise, the dispatcher, the replies and the notifications
// tell it through this.
#pragma once

#include "fuse_api.hh"

#include <cerrno>
#include <cstdint>
#include <string_view>

namespace efuse {

/// Any thread. On return nothing older than what was told is answered.
class ChangeListener {
 public:
  virtual ~ChangeListener() = default;
  /// From here to end_change() anything may change; they nest. false: nobody counts yet, and there will be no
  /// end_change(): when the change is done, it is changed_all() that is to be told.
  virtual bool begin_change() noexcept = 0;
  virtual void end_change() noexcept = 0;
  /// Attributes, extended attributes and data of a node.
  virtual void changed(std::uint64_t node) noexcept = 0;
  /// What a name in a directory is. It need not be terminated.
  virtual void changed_name(std::uint64_t parent, std::string_view name) noexcept = 0;
  virtual void changed_all() noexcept = 0;

  /// efuse_fastpath_open() and _close().
  virtual int add_backing(std::uint64_t node, int fd) noexcept = 0;
  virtual void remove_backing(std::uint64_t node) noexcept = 0;
};

/// Could a request of this opcode change what another one sees? Of OPEN only one that truncates does.
constexpr bool may_change(std::uint32_t opcode) noexcept {
  switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_GETATTR:
    case 52:  // STATX
    case FUSE_READLINK:
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_OPENDIR:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_STATFS:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_ACCESS:
    case FUSE_FLUSH:
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_SYNCFS:
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
    case FUSE_LSEEK:
    case FUSE_POLL:
    case FUSE_BMAP:
    case FUSE_INTERRUPT:
    case FUSE_NOTIFY_REPLY:
    case FUSE_INIT:
    case FUSE_DESTROY:
      return false;
    default:
      return true;
  }
}

}  // namespace efuse
