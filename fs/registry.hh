// SPDX-License-Identifier: LGPL-2.1-or-later
// What the registry makes filesystems with. Each takes its options out of the list.
#pragma once

#include "filesystem.hh"

namespace efuse::fs {

std::unique_ptr<Filesystem> make_nullfs(std::vector<std::string> &options);
std::unique_ptr<Filesystem> make_memfs(std::vector<std::string> &options);
std::unique_ptr<Filesystem> make_passthrough(std::vector<std::string> &options);

}  // namespace efuse::fs
