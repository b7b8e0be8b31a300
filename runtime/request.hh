// SPDX-License-Identifier: LGPL-2.1-or-later
// One request in the daemon, from dequeue to reply. `struct fuse_req` is the
// name that libfuse's headers leave opaque to filesystems; this is its body.
#pragma once

#include "fuse_api.hh"  // FUSE_USE_VERSION and <fuse_lowlevel.h>, <linux/fuse.h>
#include "channel.hh"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace efuse {
class ChangeListener;
class SessionCore;

/// What a transport hands over. The memory is read-only or private to the
/// daemon, and stays as it is until the callback returns (rings: until the reply).
struct Message {
  /// fuse_in_header and the arguments, contiguous, at least a whole header;
  /// 8-byte aligned.
  std::span<const std::byte> head;
  /// The last argument where the transport keeps it apart (WRITE's data, a long
  /// name, an xattr value); empty otherwise. No argument straddles the two.
  std::span<const std::byte> tail;
};
}  // namespace efuse

struct fuse_req {
  // Set by the transport before dispatch.
  efuse::SessionCore *session = nullptr;
  efuse::Channel *channel = nullptr;
  efuse::Message msg;
  std::byte *out = nullptr;    // where a reply may be written in place, 8-byte aligned
  std::size_t out_cap = 0;     // bytes there; 0: nowhere, use Channel::reply()
  std::uint32_t slot = 0;      // the transport's own
  std::uint32_t gen = 0;       // the transport's own
  std::uint64_t enqueue_ns = 0;  // CLOCK_MONOTONIC, 0 where the kernel does not tell
  std::uint64_t dequeue_ns = 0;  // CLOCK_MONOTONIC

  // Set by Dispatcher::dispatch().
  std::atomic<std::uint64_t> unique{0};
  std::uint32_t opcode = 0;
  std::uint64_t nodeid = 0;
  fuse_ctx ctx{};
  std::atomic<efuse::ChangeListener *> changing{nullptr};  // was told that a change began, and not yet that it ended
  bool harmless = true;         // nobody who listens for changes has to be told of this one
  std::int32_t backing_id = 0;  // for the reply to OPEN, CREATE or TMPFILE; 0: none
  std::uint32_t hints = 0;      // EFUSE_HINT_*, for the reply

  // The unique that is still to be answered; whoever replies takes it, so a second reply finds
  // nothing to do. kNoUnique stays: a message that is not answered, or did not come by dispatch().
  static constexpr std::uint64_t kNoUnique = ~std::uint64_t{0};
  std::atomic<std::uint64_t> owed{kNoUnique};

  // Interruption. An INTERRUPT stores the unique it is for, so one that comes
  // late never hits the request that reuses this object. The callback and its
  // data are guarded by SessionCore's interrupt lock.
  std::atomic<std::uint64_t> interrupted_unique{0};
  std::atomic<bool> has_interrupt_func{false};
  fuse_interrupt_func_t interrupt_func = nullptr;
  void *interrupt_data = nullptr;

  fuse_req *next_raw = nullptr;  // RawHandler's own
};

namespace efuse {
/// An INTERRUPT for `unique` came and `req` is that request, or is about to be:
/// remember it, and run the interrupt callback if there is one. A request that
/// was answered meanwhile is left alone. Any thread, no lock of the caller's
/// that a filesystem's callback could need.
void mark_interrupted(fuse_req &req, std::uint64_t unique) noexcept;
}  // namespace efuse
