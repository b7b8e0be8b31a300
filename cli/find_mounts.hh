// SPDX-License-Identifier: LGPL-2.1-or-later
// The mounts that efuse daemons serve, as they answer {"cmd":"stat"}.
#pragma once

#include <nlohmann/json.hpp>

#include <chrono>
#include <string>
#include <vector>

namespace efuse::cli {

/// All of them, or the one on `mountpoint` where that is not empty: throws std::runtime_error where there is none.
/// What is wrong with single daemons goes to stderr.
std::vector<nlohmann::json> find_mounts(const std::string &mountpoint);

/// For those that look again and again, with histograms in each answer. Not from two threads at once.
class MountWatch {
 public:
  /// `patience`: for a daemon's answer to begin.
  MountWatch(const std::string &mountpoint, std::chrono::milliseconds patience);
  /// Those that are there now, which may be none. What is wrong with single daemons: a line each in problems().
  /// Throws std::runtime_error where the run directory is not to be trusted.
  std::vector<nlohmann::json> look();
  [[nodiscard]] const std::vector<std::string> &problems() const noexcept { return problems_; }

 private:
  std::vector<std::string> names_;  // empty: all mounts
  std::chrono::milliseconds patience_;
  std::vector<std::string> problems_;
};

}  // namespace efuse::cli
