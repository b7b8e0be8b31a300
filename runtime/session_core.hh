// SPDX-License-Identifier: LGPL-2.1-or-later
// What the dispatcher, the replies and the transports need of a session. The
// session itself (mount, negotiation, start, stop) is in session.hh.
#pragma once

#include "fuse_api.hh"

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>

namespace efuse {

class SessionCore {
 public:
  /// `ops_size`: sizeof the caller's struct fuse_lowlevel_ops; callbacks beyond
  /// it are absent (a filesystem built against older headers has fewer).
  SessionCore(const fuse_lowlevel_ops *ops, std::size_t ops_size, void *userdata);
  virtual ~SessionCore() = default;
  SessionCore(const SessionCore &) = delete;
  SessionCore &operator=(const SessionCore &) = delete;

  fuse_lowlevel_ops ops{};   // zero-filled beyond ops_size
  void *userdata;
  fuse_conn_info conn{};     // as negotiated; constant after INIT
  std::uint32_t proto_minor = 0;  // of FUSE protocol 7.x as negotiated
  std::size_t buf_size = 0;  // longest message from the kernel: max_write + header room
  bool debug = false;        // print requests and replies to stderr

  /// Write an unsolicited notification (fuse_out_header with unique 0 is made
  /// here; `body` follows it). Returns 0 or -errno. Any thread.
  virtual int notify(std::int32_t code, std::span<const iovec> body) noexcept = 0;

  /// Find the request in flight with this unique and mark it interrupted, or
  /// remember it if the request is not here yet. Any thread.
  virtual void interrupt(std::uint64_t unique) noexcept = 0;

  /// The filesystem or the kernel ends the session: run loops return. Any thread,
  /// async-signal-safe.
  virtual void exit(int error) noexcept = 0;

  /// Guards fuse_req::interrupt_func and interrupt_data.
  std::mutex interrupt_mutex;

  std::atomic<bool> got_init{false};
  std::atomic<bool> got_destroy{false};
};

}  // namespace efuse
