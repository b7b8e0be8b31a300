// SPDX-License-Identifier: LGPL-2.1-or-later
// INIT between the kernel and an unmodified libfuse, overheard.
#pragma once

#include "protocol.hh"

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace efuse {
class SessionCore;
}

namespace efuse::exec {

/// One thread, but for done().
class Negotiation {
 public:
  /// INIT flags to agree to beside libfuse's, where the kernel offers them.
  std::uint64_t add_flags = 0;

  /// A message of the kernel, before libfuse has it.
  void receive(std::span<const std::byte> message) noexcept;
  /// Write libfuse's message to the kernel; the reply to INIT is noted, and add_flags put in. As writev(2).
  ssize_t send(int fd, std::span<const iovec> message) noexcept;
  [[nodiscard]] bool done() const noexcept { return done_; }
  /// What was agreed on, into the session that the transports see.
  void tell(SessionCore &session) const noexcept;

 private:
  ssize_t send_reply(int fd, std::span<const iovec> message) noexcept;

  bool done_ = false;
  std::uint64_t unique_ = 0;  // of INIT; 0: none is to be answered
  fuse_init_in asked_{};
  protocol::InitOut agreed_{};
};

}  // namespace efuse::exec
