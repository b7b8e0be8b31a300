// SPDX-License-Identifier: LGPL-2.1-or-later
// The control socket of a daemon: a Unix stream socket PID-N.sock in the run
// directory. A client sends one line of JSON, {"cmd":"stat"}, reads JSON until
// the end of the stream. Only the owner's processes and root get in.
#pragma once

#include "fd.hh"

#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace efuse {

/// $EFUSE_RUNDIR, else /run/efuse for root, else $XDG_RUNTIME_DIR/efuse, else /tmp/efuse-UID.
std::string control_directory();

/// Answers requests in a thread of its own. Create it after the last fork().
class ControlServer {
 public:
  /// Called in the server's thread with a JSON object; returns JSON text. What it
  /// throws reaches the client as {"error":"..."}. It must not wait for a mount.
  using Handler = std::function<std::string(const nlohmann::json &request)>;

  /// Throws std::system_error or std::runtime_error where the socket cannot be had,
  /// or where somebody else could write to its directory.
  explicit ControlServer(Handler handler);
  ~ControlServer();  // stops the thread, removes the socket
  ControlServer(const ControlServer &) = delete;
  ControlServer &operator=(const ControlServer &) = delete;

  [[nodiscard]] const std::string &path() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Ask every daemon in the run directory; an answer each, in the order of the
/// sockets' names. Sockets that nobody listens on any more are removed. Daemons
/// that do not answer in time or answer nonsense are left out, with a line each in
/// `problems` where that is given. Throws where the run directory is not to be trusted.
/// `patience`: for an answer to begin.
std::vector<nlohmann::json> send_all(const nlohmann::json &request,
                                     std::vector<std::string> *problems = nullptr,
                                     std::chrono::milliseconds patience = std::chrono::seconds(3));

}  // namespace efuse
