// SPDX-License-Identifier: LGPL-2.1-or-later
// /dev/efuse: one open device, one attachment. The system calls of the contract.
#pragma once

#include "config.hh"
#include "fd.hh"
#include "placement.hh"
#include "poller.hh"

#include "uapi/efuse_ring.h"

#include <cstdint>

namespace efuse {

/// The mappings of one ring.
struct RingMemory {
  Mapping kern, user, payload;
};

class RingDevice {
 public:
  /// Open the device and attach it to the connection of `fuse_fd`. Throws
  /// TransportUnavailable with the reason, and what to do about it.
  RingDevice(const Config &config, const RingPlacement &placement, int fuse_fd);

  /// Throws std::system_error.
  [[nodiscard]] RingMemory map(std::uint32_t ring) const;
  [[nodiscard]] std::uint32_t ring_count() const noexcept { return attach_.nr_rings; }

  /// Stays this object's.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

  /// EFUSE_IOC_ENTER; 0 or more, or -errno. Any thread.
  int enter(std::uint32_t ring, bool wait, KernelPoll poll) const noexcept;
  /// New requests take the stock path; the number in flight, or -errno.
  int drain() const noexcept;
  void detach() const noexcept;
  /// Make one ENTER of `ring` return, now or later.
  void wake(std::uint32_t ring) const noexcept;
  /// The requesters' budget and the balancing, from now on; 0 or -errno.
  int tune(const Config &config) const noexcept;

 private:
  Fd fd_;
  efuse_attach attach_{};
};

}  // namespace efuse
