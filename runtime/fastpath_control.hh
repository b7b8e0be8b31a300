// SPDX-License-Identifier: LGPL-2.1-or-later
// What a daemon tells and asks the module about the fast paths of one attachment: system calls of the contract
// (efuse_ring.h). Stays usable, to no effect, when the rings are gone: requests that began a change end it here.
#pragma once

#include "changes.hh"
#include "fd.hh"
#include "lookup_credits.hh"

#include "uapi/efuse_ring.h"

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace efuse {

class FastpathControl final : public ChangeListener {
 public:
  /// Takes a duplicate of /dev/efuse. Throws std::system_error.
  explicit FastpathControl(int efuse_fd);

  /// For programs to say whom they belong to.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  /// A program is attached, or has been: from here on the module counts what begins.
  void count_changes() noexcept { counting_.store(true, std::memory_order_release); }
  /// Some program reads from backing files.
  void want_backing(bool wanted) noexcept { wants_backing_.store(wanted, std::memory_order_relaxed); }
  [[nodiscard]] bool wants_backing() const noexcept { return wants_backing_.load(std::memory_order_relaxed); }
  /// The rings are gone: let go of the device. Any thread may still be in any other call.
  void retire() noexcept;

  bool begin_change() noexcept override;
  void end_change() noexcept override;
  void changed(std::uint64_t node) noexcept override;
  void changed_name(std::uint64_t parent, std::string_view name) noexcept override;
  void changed_all() noexcept override;

  /// 0, -EOPNOTSUPP where no program wants it, or another -errno.
  int add_backing(std::uint64_t node, int fd) noexcept override;
  void remove_backing(std::uint64_t node) noexcept override;

  /// As LookupCredits::take_over() wants it.
  int take_credits(std::span<LookupCredit> room) const noexcept;
  /// false: there is no such program.
  bool stats(std::uint32_t program, efuse_fastpath_stats &stats) const noexcept;
  /// `[{"program":NAME,"opcodes":{OPCODE:{"hits","misses","declines","errors"}}}]`, opcodes that were seen only.
  [[nodiscard]] std::string stats_json() const;

 private:
  void tell(efuse_change &change) const noexcept;
  int set_backing(std::uint64_t node, int fd) const noexcept;

  Fd fd_;
  std::atomic<bool> counting_{false};
  std::atomic<bool> wants_backing_{false};
};

}  // namespace efuse
