// SPDX-License-Identifier: LGPL-2.1-or-later
#include "lookup_credits.hh"

#include <algorithm>

namespace efuse {
namespace {

constexpr std::size_t kAtOnce = 1024;

}  // namespace

void LookupCredits::take_over(const std::function<int(std::span<LookupCredit>)> &next) {
  const std::lock_guard lock(mutex_);
  any_.store(true);
  std::size_t used = credits_.size();
  try {
    for (;;) {
      credits_.resize(used + kAtOnce);  // before anything is moved, which could not be given back
      const int got = next(std::span(credits_).subspan(used));
      if (got <= 0) break;
      used += std::min(static_cast<std::size_t>(got), kAtOnce);
    }
  } catch (...) {
    credits_.resize(used);
    merge();
    throw;
  }
  credits_.resize(used);
  merge();
}

/// With the lock held.
void LookupCredits::merge() {
  const auto by_node = [](const LookupCredit &a, const LookupCredit &b) { return a.nodeid < b.nodeid; };
  std::sort(credits_.begin(), credits_.end(), by_node);
  outstanding_ = 0;
  std::size_t kept = 0;
  for (const LookupCredit &credit : credits_) {
    if (credit.nlookup == 0) continue;
    outstanding_ += credit.nlookup;
    if (kept > 0 && credits_[kept - 1].nodeid == credit.nodeid)
      credits_[kept - 1].nlookup += credit.nlookup;
    else
      credits_[kept++] = credit;
  }
  credits_.resize(kept);
  any_.store(outstanding_ != 0);
}

std::uint64_t LookupCredits::settle(std::uint64_t nodeid, std::uint64_t nlookup) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = std::lower_bound(credits_.begin(), credits_.end(), nodeid,
                                      [](const LookupCredit &credit, std::uint64_t id) { return credit.nodeid < id; });
  if (found == credits_.end() || found->nodeid != nodeid) return nlookup;
  const std::uint64_t taken = std::min(found->nlookup, nlookup);
  found->nlookup -= taken;
  outstanding_ -= taken;
  if (outstanding_ == 0) {
    std::vector<LookupCredit>().swap(credits_);
    any_.store(false);
  }
  return nlookup - taken;
}

std::uint64_t LookupCredits::outstanding() const noexcept {
  const std::lock_guard lock(mutex_);
  return outstanding_;
}

}  // namespace efuse
