// SPDX-License-Identifier: LGPL-2.1-or-later
// What --fastpath LIST means.
#pragma once

#include <string>
#include <vector>

namespace efuse::cli {

/// Names of programs, and files with programs of the user's own.
struct FastpathArgument {
  std::string names;                 // as fastpath.programs of the configuration, not checked
  std::vector<std::string> objects;  // absolute: a daemon leaves this directory
};
FastpathArgument split_fastpath(const std::string &list);

}  // namespace efuse::cli
