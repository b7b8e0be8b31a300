// SPDX-License-Identifier: LGPL-2.1-or-later
#include "session_control.hh"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

namespace efuse {
namespace {

/// Requests to change something name the mount they mean.
std::string answer(Session &session, const nlohmann::json &request) {
  const std::string cmd = request.value("cmd", "");
  if (cmd == "stat")
    return session.stat_json(request.value("histograms", false));
  if (request.value("mountpoint", "") != session.mount_options().mountpoint || request.value("pid", 0) != ::getpid())
    return "{}";
  if (cmd == "config_set") {
    const auto assignments = request.at("set").get<std::vector<std::string>>();
    session.reconfigure(assignments);
  } else if (cmd != "config_get") {
    throw std::runtime_error("unknown command");
  }
  return nlohmann::json{{"transport", session.transport_name()}, {"config", session.config_toml()}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

std::unique_ptr<ControlServer> serve_control(Session &session) {
  try {
    return std::make_unique<ControlServer>([&session](const nlohmann::json &request) { return answer(session, request); });
  } catch (const std::exception &e) {
    fmt::print(stderr, "efuse: this mount will be missing from efuse stat and efuse config: {}\n", e.what());
    return nullptr;
  }
}

}  // namespace efuse
