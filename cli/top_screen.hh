// SPDX-License-Identifier: LGPL-2.1-or-later
// The terminal of `efuse top`.
#pragma once

#include "top_model.hh"

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace efuse::cli {

/// Has the terminal while it lives, and gives it back as it was. SIGINT, SIGTERM and SIGHUP are keys meanwhile. One at a
/// time, in a process of one thread.
class TopScreen {
 public:
  /// Throws std::runtime_error where standard input and output are no terminal that can be used.
  TopScreen();
  ~TopScreen();
  TopScreen(const TopScreen &) = delete;
  TopScreen &operator=(const TopScreen &) = delete;

  /// `status`: the first line. The rest scrolls: headings stay.
  void show(const std::string &status, const std::vector<std::string> &problems, const std::vector<TopLine> &lines);

  enum class Key { none, quit, sort, idle, faster, slower, look };
  /// The next key that is not about the screen itself (scrolling, a new size), none at `deadline`.
  Key wait(std::chrono::steady_clock::time_point deadline);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace efuse::cli
