// SPDX-License-Identifier: LGPL-2.1-or-later
// One BPF object with programs of struct efuse_fastpath_ops: opened, set up, verified, attached; by way of libbpf.
// Whatever goes wrong becomes one line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace efuse {

/// Fast paths cannot be had here; what() is one line that says why.
class FastpathUnavailable : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What this machine lacks for any fast path, and the command or step that provides it.
struct FastpathObstacle {
  std::string why;
  std::string enable;
};
std::optional<FastpathObstacle> find_fastpath_obstacle();

/// What an object is told before it is loaded. Names that it does not have are left out.
struct BpfSettings {
  int efuse_fd = -1;        // /dev/efuse of the attachment
  std::uint32_t nodes = 0;  // files that are likely to be known at a time
  std::vector<std::pair<std::string, std::uint32_t>> maps;       // max_entries
  std::vector<std::pair<std::string, std::uint64_t>> variables;  // of .rodata
  bool debug = false;                                            // log what libbpf says

  friend bool operator==(const BpfSettings &, const BpfSettings &) = default;
};

class BpfProgram {
 public:
  /// `object`: its bytes, called `name` in messages. Verified afterwards, not attached. Throws FastpathUnavailable.
  BpfProgram(const std::string &name, std::span<const std::byte> object, const BpfSettings &settings);
  /// Of a file.
  BpfProgram(const std::string &path, const BpfSettings &settings);
  BpfProgram(BpfProgram &&) noexcept;
  BpfProgram &operator=(BpfProgram &&) noexcept;
  ~BpfProgram();  // detaches: afterwards no program of it runs

  /// From here on it is asked, after those that are attached already. Throws FastpathUnavailable.
  void attach();
  /// Take the place of one that is attached, in one step; `old` is of no use any more then. Throws FastpathUnavailable,
  /// and `old` goes on.
  void replace(BpfProgram &old);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace efuse
