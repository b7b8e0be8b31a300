// SPDX-License-Identifier: LGPL-2.1-or-later
// The ways from the kernel to the dispatcher: ring, uring, dev. One interface,
// so that the session, the statistics and the configuration are the same above all.
#pragma once

#include "config.hh"
#include "session_core.hh"

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace efuse {

class ChannelStats;

/// This transport cannot be had here; what() is one line that says why.
class TransportUnavailable : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Transport {
 public:
  virtual ~Transport() = default;
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  /// Start serving; the connection has answered INIT. Throws std::system_error.
  virtual void start() = 0;
  /// Stop taking requests, let those in flight be answered where the connection
  /// still lives, join the threads. Idempotent. Not from a callback.
  virtual void stop() noexcept = 0;
  /// Mark the request in flight with this unique as interrupted; false: not here.
  virtual bool interrupt(std::uint64_t unique) noexcept = 0;
  /// For threads of other transports that need to know what the kernel has let go of: serve what waits for this one's
  /// readers, if all of them rest; `urgent`: in any case, and wait for what they have taken, for some ms at most. false:
  /// nothing is known to have been there.
  virtual bool stand_in(bool /*urgent*/) noexcept { return true; }
  /// Settings that may change while serving: polling and balancing. Any thread.
  virtual void tune(const Config &) noexcept {}
  /// After stop(): the filesystem holds requests of this transport still.
  [[nodiscard]] virtual bool owes_replies() const noexcept { return false; }
  /// /dev/efuse of the attachment; -1: there is none. Stays this object's.
  [[nodiscard]] virtual int device_fd() const noexcept { return -1; }
  /// Is the request with this unique with the filesystem, unanswered? After stop(): or its reply is on its way to
  /// SessionCore::resends.
  virtual bool serves(std::uint64_t unique) noexcept = 0;
  /// Visit the statistics of each channel; the references live as long as this.
  virtual void visit_stats(const std::function<void(const ChannelStats &)> &visit) const = 0;
};

/// Readers of /dev/fuse where everything comes that way: as many as pay, config.dev_threads at most, with a cloned
/// descriptor each where config.clone_fd says so.
std::unique_ptr<Transport> make_dev_transport(SessionCore &session, const Config &config, int fuse_fd);
/// What another transport leaves to /dev/fuse: nobody waits for FORGETs.
enum class StockShare { anything, forgets_and_interrupts };
/// Readers of that: config.stock_threads. Of forgets_and_interrupts they rest after each FORGET, if others may serve
/// meanwhile (Transport::stand_in()), and then take all that have come at once.
std::unique_ptr<Transport> make_stock_readers(SessionCore &session, const Config &config, int fuse_fd, StockShare share);
/// The rings of the efuse_ring module. Throws TransportUnavailable.
std::unique_ptr<Transport> make_ring_transport(SessionCore &session, const Config &config, int fuse_fd);

/// FUSE-over-io_uring, where it was agreed on in INIT. Where make_..() or start() throws TransportUnavailable or
/// std::system_error, requests go the stock way; std::runtime_error: there is no way left, the connection has to end.
std::unique_ptr<Transport> make_uring_transport(SessionCore &session, const Config &config, int fuse_fd);
/// Why FUSE-over-io_uring cannot be had here, as far as that is known before INIT: one line, and what would enable
/// it. The first is empty where nothing is in the way.
struct UringObstacle {
  std::string why;
  std::string enable;
};
UringObstacle find_uring_obstacle();
/// Bytes per mount: of each CPU, without and with its payload buffers.
struct UringMemory {
  std::size_t queues;         // one for each possible CPU
  std::size_t queue_bytes;
  std::size_t payload_bytes;  // mapped; what is never used takes no memory
};
UringMemory uring_memory(const Config &config);

}  // namespace efuse
