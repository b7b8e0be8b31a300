// SPDX-License-Identifier: LGPL-2.1-or-later
// When to hand over the answers of a batch whose requests are not all served yet.
#pragma once

#include <algorithm>
#include <cstdint>

namespace efuse {

/// What an answer waits for the rest of its batch is in proportion to the call into the kernel that waiting spares. In
/// an emulated machine that call costs many times as much, and so does each request: a fixed time would be that of one
/// or two of them there, and end every batch. Of one worker; not thread-safe.
class CommitPace {
 public:
  static constexpr unsigned kCalls = 16;                 // that may be made in the time that an answer waits,
  static constexpr std::uint64_t kLeastNs = 50'000;      // but it is so long at least
  static constexpr std::uint64_t kMostNs = 2'000'000;    // and at most

  /// An answer is there for so long by now.
  [[nodiscard]] bool due(std::uint64_t waited_ns) const noexcept { return waited_ns > wait_ns_; }

  /// Handing over took so long. The least of late counts: a thread may be preempted meanwhile.
  void called(std::uint64_t ns) noexcept {
    call_ns_ = std::min(ns, call_ns_ + call_ns_ / 8 + 1);
    wait_ns_ = std::clamp(kCalls * call_ns_, kLeastNs, kMostNs);
  }

 private:
  std::uint64_t wait_ns_ = kLeastNs;
  std::uint64_t call_ns_ = kLeastNs / kCalls;
};

}  // namespace efuse
