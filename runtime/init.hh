// SPDX-License-Identifier: LGPL-2.1-or-later
// FUSE_INIT: what this side and the kernel agree on.
#pragma once

#include "parse.hh"
#include "request.hh"

#include <cstdint>

namespace efuse {

/// What newer libfuse made of the first reserved words of fuse_conn_info. They are in
/// use here whatever the installed header calls them.
struct ConnExtension {
  static constexpr std::uint32_t kNoInterrupt = 1;
  std::uint32_t max_backing_stack_depth;
  std::uint32_t flags;
  std::uint64_t capable;  // of which fuse_conn_info.capable is the lower half
  std::uint64_t want;     // likewise
};
ConnExtension get_extension(const fuse_conn_info &conn) noexcept;
void put_extension(fuse_conn_info &conn, const ConnExtension &extension) noexcept;

/// Answer INIT: fill in session.conn, proto_minor, buf_size, kernel_flags and
/// init_flags, call the filesystem's init(), and set got_init before the reply
/// goes out. The session presets, before: conn.max_write, max_background,
/// congestion_threshold, max_read (as mounted) and init_flags.
/// A kernel of a larger major version is told ours and asks again. Where no
/// agreement is possible: one logged line, EPROTO to the kernel,
/// session.exit(EPROTO), and got_init stays false.
/// `args`: behind the header. False, and nothing is answered, if it is too short.
bool handle_init(fuse_req &req, Cursor &args) noexcept;

/// As above, from req.msg; answers EIO if that is too short.
void handle_init(fuse_req &req) noexcept;

}  // namespace efuse
