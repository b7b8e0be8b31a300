// SPDX-License-Identifier: LGPL-2.1-or-later
// The mounts that efuse daemons serve, as they answer {"cmd":"stat"}.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace efuse::cli {

/// All of them, or the one on `mountpoint` where that is not empty: throws std::runtime_error where there is none.
/// What is wrong with single daemons goes to stderr.
std::vector<nlohmann::json> find_mounts(const std::string &mountpoint);

}  // namespace efuse::cli
