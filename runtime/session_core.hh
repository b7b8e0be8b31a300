// SPDX-License-Identifier: LGPL-2.1-or-later
// What the dispatcher, the replies and the transports need of a session. The
// session itself (mount, negotiation, start, stop) is in session.hh.
#pragma once

#include "changes.hh"
#include "fuse_api.hh"
#include "lookup_credits.hh"
#include "resend.hh"

#include <efuse/efuse_lowlevel.h>

#include <sys/uio.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>

namespace efuse {

struct RunningInterrupt;
class Transport;

/// Takes the kernel's messages as they are, in the place of the callbacks: an unmodified libfuse (exec/).
class RawHandler {
 public:
  /// A request, but never an INTERRUPT: to be answered with send_error() or send_body() (reply.hh), or let go of with
  /// send_nothing(), by any thread. Called by any of the transports' threads.
  virtual void request(fuse_req &req) noexcept = 0;
  /// The request with this unique is interrupted. It may be on its way to request() still, or answered already.
  virtual void interrupt(std::uint64_t unique) noexcept = 0;

 protected:
  ~RawHandler() = default;
};

class SessionCore {
 public:
  /// `ops_size`: sizeof the caller's struct fuse_lowlevel_ops or efuse_lowlevel_ops;
  /// callbacks beyond it are absent (a filesystem built against older headers has fewer).
  SessionCore(const fuse_lowlevel_ops *ops, std::size_t ops_size, void *userdata);
  virtual ~SessionCore() = default;
  SessionCore(const SessionCore &) = delete;
  SessionCore &operator=(const SessionCore &) = delete;

  efuse_lowlevel_ops extended{};  // zero-filled beyond ops_size
  const fuse_lowlevel_ops &ops = extended.base;
  void *userdata;
  RawHandler *raw_handler = nullptr;  // nullptr: `ops` are called
  fuse_conn_info conn{};     // as negotiated; constant after INIT
  std::uint32_t proto_minor = 0;  // of FUSE protocol 7.x as negotiated
  std::size_t buf_size = 0;  // longest message from the kernel: max_write + header room
  bool debug = false;        // print requests and replies to stderr
  std::uint64_t kernel_flags = 0;  // INIT flags that the kernel offered
  /// Before INIT: INIT flags that a transport wants beside the capabilities in
  /// conn.want, taken where the kernel offers them. After: all that were agreed on.
  std::uint64_t init_flags = 0;
  bool deny_others = false;  // mounted with allow_root: only `owner` and root are served
  uid_t owner = 0;

  /// Write an unsolicited notification (fuse_out_header with unique 0 is made
  /// here; `body` follows it). Returns 0 or -errno. Any thread.
  virtual int notify(std::int32_t code, std::span<const iovec> body) noexcept = 0;

  /// Find the request in flight with this unique and mark it interrupted, or
  /// remember it if the request is not here yet. Any thread.
  virtual void interrupt(std::uint64_t unique) noexcept = 0;

  /// The filesystem or the kernel ends the session: run loops return. Any thread,
  /// async-signal-safe.
  virtual void exit(int error) noexcept = 0;

  /// /dev/fuse, for what is asked of the connection itself; -1: not connected. Any thread.
  [[nodiscard]] virtual int fd() const noexcept { return -1; }

  /// Interrupts that came before their request, see take_early_interrupt().
  std::atomic<std::uint32_t> early_interrupts{0};
  /// dispatch() asks once per request, and only while early_interrupts is not 0,
  /// after it has stored req.unique (seq_cst, as is the load of early_interrupts:
  /// the interrupter remembers, then looks for the request again). true: the
  /// request with this unique is interrupted already.
  virtual bool take_early_interrupt(std::uint64_t /*unique*/) noexcept { return false; }

  /// Is a request with exactly this unique with the filesystem, unanswered (fuse_req::owed)? Any thread.
  virtual bool serves(std::uint64_t /*unique*/) noexcept { return false; }
  Resends resends;
  std::atomic<bool> second_reply{false};  // the filesystem has replied twice, and was told so

  /// Readers of /dev/fuse that other transports' threads may have to stand in for (Transport::stand_in());
  /// nullptr: none yet. Stays until those threads have ended.
  std::atomic<Transport *> resting_readers{nullptr};
  /// A request has been answered after which the kernel may let go of nodes, and nobody has looked since.
  std::atomic<bool> forgets_due{false};

  /// Who is to be told of changes that the rings' module does not see; nullptr: nobody. What it points to stays as
  /// long as the session.
  std::atomic<ChangeListener *> changes{nullptr};
  LookupCredits credits;  // of attachments that are gone
  std::atomic<std::uint32_t> asked_xattrs{0};  // hints.cc: names that were asked for and not there

  /// Guards fuse_req::interrupt_func and interrupt_data, and running_interrupts.
  std::mutex interrupt_mutex;
  std::condition_variable interrupt_done;  // one of running_interrupts has ended
  RunningInterrupt *running_interrupts = nullptr;

  /// FUSE_NOTIFY_RETRIEVE sent and not yet answered: notify_unique to the caller's cookie.
  std::mutex retrieve_mutex;
  std::unordered_map<std::uint64_t, void *> retrieves;  // guarded by retrieve_mutex
  // Likewise. Over io_uring the answer is found by this number among the kernel's own, which are even and count up.
  std::uint64_t next_retrieve = 1ull << 62;

  std::atomic<bool> got_init{false};
  std::atomic<bool> got_destroy{false};
};

/// The handle that filesystems hold: libfuse's opaque struct fuse_session is a
/// SessionCore here.
inline fuse_session *to_handle(SessionCore &session) noexcept {
  return reinterpret_cast<fuse_session *>(&session);
}
inline SessionCore *from_handle(fuse_session *handle) noexcept {
  return reinterpret_cast<SessionCore *>(handle);
}

}  // namespace efuse
