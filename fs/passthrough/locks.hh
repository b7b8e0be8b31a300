// SPDX-License-Identifier: LGPL-2.1-or-later
// fcntl(2) locks in the source. FUSE names who holds a lock (a process, by its table of open files); the source
// knows open files. So each owner gets an open file of its own for each node that it locks, and takes
// open-file-description locks on that: two owners conflict as two processes do, whatever files they share, and
// closing the one file lets go of all that the owner has locked there.
#pragma once

#include "fd.hh"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace efuse::fs::passthrough {

/// Of one node. Not synchronised.
class LockOwners {
 public:
  struct Owner {
    std::uint64_t id;         // FUSE's lock_owner
    pid_t pid;                // that last asked, for F_GETLK
    std::shared_ptr<Fd> file; // a request that waits for a lock shares it
  };

  [[nodiscard]] Owner *find(std::uint64_t id) noexcept {
    for (Owner &owner : owners_)
      if (owner.id == id) return &owner;
    return nullptr;
  }
  /// Throws std::bad_alloc.
  Owner &add(Owner owner) { return owners_.emplace_back(std::move(owner)); }
  /// All its locks go when nobody waits with its file any more.
  void erase(std::uint64_t id) noexcept {
    std::erase_if(owners_, [id](const Owner &owner) { return owner.id == id; });
  }
  [[nodiscard]] bool empty() const noexcept { return owners_.empty(); }
  /// The process of the one owner beside `id`; 0: none, or which one is not known.
  [[nodiscard]] pid_t other_than(std::uint64_t id) const noexcept {
    pid_t pid = 0;
    for (const Owner &owner : owners_) {
      if (owner.id == id) continue;
      if (pid != 0) return 0;
      pid = owner.pid;
    }
    return pid;
  }

 private:
  std::vector<Owner> owners_;  // few: those that lock this file now
};

}  // namespace efuse::fs::passthrough
