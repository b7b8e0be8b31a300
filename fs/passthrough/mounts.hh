// SPDX-License-Identifier: LGPL-2.1-or-later
// The mounts that the served tree spreads over. What is mounted below the source is served too; only the mount
// that serves it is not, for a worker that waited for itself would wait for ever.
#pragma once

#include "fd.hh"
#include "settings.hh"

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace efuse::fs::passthrough {

/// Lives as long as one of its nodes, and is busy so long.
struct Mount {
  int id = 0;            // of /proc/self/mountinfo; not used again while fd is open
  Fd fd;                 // opened for reading, as open_by_handle_at() and syncfs() want it; may be none
  bool handles = false;  // its files can be opened by handle
};

/// Any thread.
class MountTable {
 public:
  /// `own_name`: the source of the mount that serves this, as in /proc/self/mountinfo.
  MountTable(InodeHandles policy, std::string own_name) : policy_(policy), own_name_(std::move(own_name)) {}

  /// The mount of the file behind `path`, an O_PATH descriptor. Returns 0 or -errno: -ELOOP for the mount that
  /// serves this, -EOPNOTSUPP where handles are a must and it has none.
  int find(int path, std::shared_ptr<Mount> &mount) noexcept;
  /// Those that are in use.
  [[nodiscard]] std::vector<std::shared_ptr<Mount>> all() const;

 private:
  int make(int path, int id, bool can_be_read, Mount &mount) const;

  const InodeHandles policy_;
  const std::string own_name_;
  mutable std::mutex mutex_;
  std::unordered_map<int, std::weak_ptr<Mount>> mounts_;  // by id, guarded by mutex_
};

}  // namespace efuse::fs::passthrough
