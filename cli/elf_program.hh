// SPDX-License-Identifier: LGPL-2.1-or-later
// Can the session loop of a program be taken over by preloading a library? Looked up in the files, without running
// the program.
#pragma once

#include <string>

namespace efuse::cli {

struct Preloadable {
  bool possible = false;
  /// Where it is not: why. Where it is and nothing says that the program has a loop of libfuse's to take over: what is
  /// known about it. Else empty. One line, to follow the program's name.
  std::string remark;
};

/// `path`: of an executable, as execve(2) takes it. A script is followed to its interpreter.
Preloadable look_at_program(const std::string &path);

/// Where execvp(3) would find `name`; `name` itself where it would not.
std::string find_program(const std::string &name);

}  // namespace efuse::cli
