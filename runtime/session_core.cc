// SPDX-License-Identifier: LGPL-2.1-or-later
#include "session_core.hh"

#include "protocol.hh"

#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstddef>
#include <cstring>
#include <type_traits>

namespace efuse {

static_assert(std::is_trivially_copyable_v<efuse_lowlevel_ops>);
static_assert(offsetof(efuse_lowlevel_ops, tmpfile) == offsetof(fuse_lowlevel_ops, lseek) + sizeof(void *) &&
              offsetof(efuse_lowlevel_ops, syncfs) == offsetof(efuse_lowlevel_ops, tmpfile) + 2 * sizeof(void *));

SessionCore::SessionCore(const fuse_lowlevel_ops *callbacks, std::size_t ops_size, void *data)
    : userdata(data) {
  std::memset(static_cast<void *>(&extended), 0, sizeof(extended));
  if (ops_size > sizeof(extended))
    fuse_log(FUSE_LOG_ERR, "efuse: built against an older libfuse header than the filesystem: "
             "its newest operations are not called\n");
  if (callbacks) std::memcpy(static_cast<void *>(&extended), callbacks, std::min(ops_size, sizeof(extended)));
  conn.max_write = static_cast<unsigned>(256 * sysconf(_SC_PAGESIZE));
  conn.max_readahead = UINT_MAX;  // the kernel's own limit is the smaller one
  buf_size = conn.max_write + protocol::kHeaderRoom;
}

}  // namespace efuse
