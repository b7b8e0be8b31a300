// SPDX-License-Identifier: LGPL-2.1-or-later
// From a message of the kernel to a callback of the filesystem.
#pragma once

#include "request.hh"

namespace efuse {

/// Parse req.msg, check every length and string in it, fill in req's context and
/// call the filesystem. Whatever is malformed or unknown is answered here
/// (-EIO, -EINVAL, -ENOSYS as the kernel expects for the opcode); nothing is left
/// without an answer. INIT is answered by init.cc, which this calls.
/// noexcept: an exception that escapes a callback ends the process, as in libfuse.
void dispatch(fuse_req &req) noexcept;

}  // namespace efuse
