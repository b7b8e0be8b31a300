// SPDX-License-Identifier: LGPL-2.1-or-later
// A session: one mount, its negotiation with the kernel, its transports.
#pragma once

#include "config.hh"
#include "fd.hh"
#include "session_core.hh"
#include "transport.hh"

#include <efuse/fastpath.hh>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace efuse {

class ManualTransport;

struct MountOptions {
  std::string mountpoint;
  std::string fsname = "efuse";            // /proc/mounts: source
  std::string subtype;                     // /proc/mounts: fuse.SUBTYPE
  std::vector<std::string> options;        // as after -o: allow_other, default_permissions, ro, ...
};

class Session final : public SessionCore {
 public:
  Session(const fuse_lowlevel_ops *ops, std::size_t ops_size, void *userdata, MountOptions mount, Config config);
  ~Session() override;  // unmounts and stops what is still there

  /// Mount, answer INIT, take the best transport. Returns when the mount is
  /// usable. Throws std::system_error or std::runtime_error with one clear line;
  /// then no mount, thread or descriptor is left.
  void mount();
  /// The two halves of mount(), for programs that fork between them: mount, and leave INIT unanswered;
  /// answer INIT and start the transports. Both throw as mount() does.
  void connect();
  void start();
  /// Before FUSE_INIT is answered by somebody else than this session: adds to init_flags what the transport that is
  /// asked for needs of the reply. The kernel serves nobody before what was agreed on is there, or was declined: adopt()
  /// has to follow.
  void ask_for_uring();
  /// Instead of connect() and start(): serve a connection that somebody else has mounted and negotiated, and whose
  /// messages go to `handler`. `device`: a descriptor of it; with the transports' own it is closed by unmount(), which
  /// leaves the mount alone. The caller has set conn, proto_minor, buf_size, kernel_flags, init_flags and
  /// mount_options().mountpoint. Throws as start() does; then nothing serves the connection.
  void adopt(Fd device, RawHandler &handler);
  /// For programs with a loop of their own: of the connection that connect() has made, or the one of set_io(). Made when
  /// first asked for; nullptr: there is no connection, or other transports serve it.
  ManualTransport *manual() noexcept;
  /// Instead of connect(): messages come from and go to `fd`, which becomes the session's, by these functions.
  void set_io(Fd fd, const fuse_custom_io &io);
  [[nodiscard]] bool has_io() const noexcept;
  /// Sleep until exit(), until there is something to read from `fd`, or until a signal has been handled.
  void wait(int fd = -1) noexcept;
  /// Serve until unmounted, or until exit(). Returns 0 or an errno. Not from two threads.
  int run();
  /// Unmount (lazily where busy) while the transports still serve, so that dirty
  /// pages get to the filesystem; then stop the transports and end the connection. Idempotent.
  void unmount() noexcept;

  /// Where to mount and how to serve; before connect() and start().
  MountOptions &mount_options() noexcept;
  Config &config() noexcept;
  /// /dev/fuse; -1 while not connected.
  [[nodiscard]] int fd() const noexcept override;
  [[nodiscard]] bool started() const noexcept;
  /// exit() was called, or the connection has ended.
  [[nodiscard]] bool exited() const noexcept;
  /// What exit() was called with, first.
  [[nodiscard]] int exit_error() const noexcept;
  /// Take an exit() back.
  void reset() noexcept;

  /// "ring", "uring" or "dev"; valid after mount(). Any thread.
  [[nodiscard]] std::string_view transport_name() const noexcept;
  /// Why not a better one, one line; empty where there is none better or none was asked for.
  [[nodiscard]] const std::string &transport_reason() const noexcept;
  /// What BPF programs may answer in the kernel; before start(). Attached is what the configuration asks for of it
  /// ([fastpath]), as long as there are rings.
  void offer_fastpath(FastpathOffer offer);
  /// The programs that are attached. Any thread.
  [[nodiscard]] std::vector<std::string> fastpaths() const;
  /// Of what the configuration asks for, what is not attached, and why: one line, or empty. Any thread.
  [[nodiscard]] std::string fastpath_reason() const;
  /// Change settings of the mount while it is served, each "section.key=value": polling, balancing, fast paths, and
  /// the transport ("ring" attaches rings anew, "dev" detaches them; requests in flight are neither lost nor repeated).
  /// All or none, but that a transport stays changed where the fast paths asked for with it cannot be had; throws
  /// ConfigError, or std::runtime_error where the transport or a fast path cannot be had. Any thread that serves no
  /// request.
  void reconfigure(std::span<const std::string> assignments);
  /// The configuration in effect, as TOML. Any thread.
  [[nodiscard]] std::string config_toml() const;
  /// JSON text, one element of the array that `efuse stat --json` prints. `histograms`: with those of
  /// StatsSnapshot::json(), and "taken_ns", the time of CLOCK_MONOTONIC that they are of. Any thread.
  [[nodiscard]] std::string stat_json(bool histograms = false) const;

  int notify(std::int32_t code, std::span<const iovec> body) noexcept override;
  void interrupt(std::uint64_t unique) noexcept override;
  void exit(int error) noexcept override;
  bool take_early_interrupt(std::uint64_t unique) noexcept override;
  bool serves(std::uint64_t unique) noexcept override;

 private:
  void negotiate();
  std::size_t read_init(int fd, std::span<std::byte> buffer);
  void start_transports();
  void start_uring(bool required);
  void start_fast(std::unique_ptr<Transport> transport);
  void check_switch(TransportChoice before, TransportChoice next) const;
  void attach_rings();
  void detach_rings();
  void configure_fastpath(bool required);
  void detach_fastpath();
  void retire_fastpath() noexcept;

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace efuse
