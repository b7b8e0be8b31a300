// SPDX-License-Identifier: LGPL-2.1-or-later
// Running checks in processes of their own.
#pragma once

#include <functional>
#include <string>

namespace posix {

/// What `call` returns in a child process; "setup: ...", "skip: ...", "killed by SIGSEGV", or "hung"
/// if it takes longer than `seconds`; then it is killed.
std::string run_in_child(const std::function<std::string()> &call, int seconds);
std::string killed_by(int signal);

/// Remove what is in the directory, and the directory; as far as it goes.
void remove_tree(const std::string &path) noexcept;

}  // namespace posix
