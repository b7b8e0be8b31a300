// SPDX-License-Identifier: LGPL-2.1-or-later
// A channel is one place requests come from and replies go to: one ring, or one
// /dev/fuse descriptor. Transports own channels; the dispatcher and the
// fuse_reply_*() functions see nothing else of a transport.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <string_view>

struct fuse_req;

namespace efuse {

class ChannelStats;

class Channel {
 public:
  virtual ~Channel() = default;

  /// Finish `req`: `error` is 0 or a negative errno above -512; `body` is what
  /// follows the fuse_out_header (empty with an error). Any thread may call it,
  /// exactly once per request; `req` is gone afterwards. Returns 0 or -errno
  /// (-ENOENT: the request was aborted meanwhile; libfuse's functions pass it on).
  virtual int reply(fuse_req &req, int error, std::span<const iovec> body) noexcept = 0;

  /// As reply() with error 0, for a body of `len` <= req.out_cap bytes that the
  /// caller has written to req.out.
  virtual int reply_in_place(fuse_req &req, std::size_t len) noexcept = 0;

  /// Hold up to `len` bytes of `fd` from `pos` for the calling thread's next reply_held(), which has them as its body,
  /// without a copy of them in our memory. `again`: a short read is not the end of the file. False: not here, or not
  /// of this file; why, reading it will say.
  virtual bool hold(int /*fd*/, off_t /*pos*/, std::size_t /*len*/, bool /*again*/) noexcept { return false; }

  /// As reply() with error 0, by the thread for which hold() was true. `move`: as SPLICE_F_MOVE.
  virtual int reply_held(fuse_req & /*req*/, bool /*move*/) noexcept { return -ENOSYS; }

  /// Let go of a request that has no reply (FORGET, BATCH_FORGET, INTERRUPT, NOTIFY_REPLY).
  virtual void drop(fuse_req &req) noexcept = 0;

  /// true: the rings' module does not see what comes this way, and is to be told what it changes (changes.hh).
  [[nodiscard]] virtual bool unseen() const noexcept { return false; }

  /// Requests come over io_uring here.
  [[nodiscard]] virtual bool over_uring() const noexcept { return false; }

  /// Requests' messages are for the dispatcher to write to as well; false: they are to be read only.
  [[nodiscard]] virtual bool owns_messages() const noexcept { return true; }

  /// Counters and histograms of this channel.
  virtual ChannelStats &stats() noexcept = 0;
};

}  // namespace efuse
