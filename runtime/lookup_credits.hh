// SPDX-License-Identifier: LGPL-2.1-or-later
// Lookups that were answered in the kernel. The filesystem has not counted them, but FORGETs give them back. While
// rings are attached the module takes them off; before they are detached, they are taken over here.
//
// Whatever the order in which FORGETs of a node come, those that the module has lessened and those that it has not:
// the filesystem is told of as many as it has counted, in the end, and never of more on the way.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

namespace efuse {

/// Layout of struct efuse_credit.
struct LookupCredit {
  std::uint64_t nodeid;
  std::uint64_t nlookup;
};

class LookupCredits {
 public:
  /// `next` moves credits from the module to the span, and returns how many; 0 or less: there are none left. Meanwhile
  /// no FORGET is settled: one that is not lessened any more comes after the credit it is to be lessened by.
  /// Throws std::bad_alloc; what was moved until then is kept.
  void take_over(const std::function<int(std::span<LookupCredit>)> &next);

  /// Is there anything to settle? To be asked once a FORGET has been read, not before. seq_cst: a FORGET that was
  /// read before take_over() began was lessened by the module.
  [[nodiscard]] bool any() const noexcept { return any_.load(); }

  /// What is left of a FORGET for the filesystem. Any thread.
  std::uint64_t settle(std::uint64_t nodeid, std::uint64_t nlookup) noexcept;

  /// Credits that no FORGET has given back. Any thread.
  [[nodiscard]] std::uint64_t outstanding() const noexcept;

 private:
  void merge();

  std::atomic<bool> any_{false};
  mutable std::mutex mutex_;
  std::vector<LookupCredit> credits_;  // by nodeid, each once; those of 0 stay until all are; guarded by mutex_
  std::uint64_t outstanding_ = 0;      // their sum; likewise
};

}  // namespace efuse
