// SPDX-License-Identifier: LGPL-2.1-or-later
// What notifications leave behind until the kernel comes back on them.
#pragma once

#include "fuse_api.hh"

#include <cstdint>

namespace efuse {
class SessionCore;

/// The cookie of a FUSE_NOTIFY_RETRIEVE that the kernel has answered; false:
/// there is none with this unique. Only once true for each. Any thread.
bool take_retrieve(SessionCore &session, std::uint64_t unique, void *&cookie) noexcept;

}  // namespace efuse

/// Who waits in poll(2) for a file; the filesystem keeps it until it notifies.
struct fuse_pollhandle {
  std::uint64_t kh;  // the kernel's name for it
  efuse::SessionCore *session;
};
