// SPDX-License-Identifier: LGPL-2.1-or-later
// Where a request is woken for: beside its sender, or on another CPU that looks for it and does not sleep, or in a third
// way that the transport has.
//
// A worker on the sender's own CPU costs two context switches and no interrupt; it cannot look for the next request
// while the sender needs that CPU. One on another CPU takes a request at once while it looks, but the sender's
// wake-up is an interrupt then, and the CPU it looks on is lost for others. Which of the two gets more done
// depends on the machine (what interrupts and switches cost, above all in virtual machines), on how many senders
// there are, and on how soon they come back. A worker beside its sender may also give way: io_uring's to whom it wakes
// (give_way.hh), where nobody else wants the CPU; a reader of /dev/fuse gives its place up, and the scheduler finds it
// another. So it is tried: now and then a few windows of requests are served in another way, and the best one goes on.
#pragma once

#include "wait_company.hh"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

namespace efuse {

/// Of one worker; not thread-safe.
class WaitChoice {
 public:
  using Way = WaitWay;

  static constexpr unsigned kWindow = WaitWindow::kRequests;  // requests between two calls of look(), about
  static constexpr unsigned kLooks = 5;           // windows of each way that are compared, by their medians
  static constexpr unsigned kPatience = 6;        // windows until another way is tried, at first,
  static constexpr unsigned kLaterPatience = 16;  // and until one that has just been left is;
  static constexpr unsigned kMostPatience = 256;  // each trial that a way has lost doubles its own up to here,
  static constexpr std::uint64_t kMostPatienceNs = 4'000'000'000;  // or to as many as this time has
  static constexpr unsigned kRest = 16;  // times as long as a trial that was lost took, the way is not tried again
  static constexpr std::uint64_t kTurnNs = 100'000'000;  // what was better for so long only was hardly better
  static constexpr std::uint64_t kWorthNs = 10'000'000;  // what was better for so long was worth the change
  static constexpr std::uint64_t kHoldNs = 100'000'000;  // what has turned bad is not tried again for so long,
  static constexpr std::uint64_t kMostHoldNs = 10'000'000'000;  // twice as long if it did so soon, up to this

  /// `can_give`, `can_look`: Way::giving, Way::apart may be tried. `company`: of all workers; nullptr: there are no others.
  explicit WaitChoice(bool can_give = false, WaitCompany *company = nullptr, bool can_look = true) noexcept
      : can_give_(can_give), can_look_(can_look), company_(company) {}

  [[nodiscard]] Way way() const noexcept {
    return company_ != nullptr && company_->together() ? Way::beside : tried_;
  }

  /// At the end of a window: `now` in ns of a clock that does not jump, `done` requests of all workers since ever. The
  /// way for the next window. Medians, so that a sender that pauses now and then does not count.
  Way look(std::uint64_t now, std::uint64_t done) noexcept {
    const std::uint64_t length = now - since_;
    const std::uint64_t ns = done > done_ ? length / (done - done_) : kNever;
    since_ = now;
    done_ = done;
    if (company_ != nullptr && follow())
      return way();
    // The first window after a change has both ways in it.
    if (windows_++ == 0)
      return way();
    if (trying() && is_pause(ns))
      return way();
    took_[windows_ % kLooks] = ns;
    length_ += length;
    if (!trying() && (is_due(kOthers[index(best_)][0]) || is_due(kOthers[index(best_)][1]) || is_worse()))
      begin_trial(length);
    else if (trying() && (windows_ > kLooks || is_lost(ns)))
      decide();
    return way();
  }

  /// `apart` cannot be had, or has done harm: as a trial that is lost.
  void reject() noexcept {
    if (tried_ == Way::apart)
      settle(trying() ? best_ : Way::beside, false);
  }

  /// Giving way has kept requests waiting: likewise, and it is not tried for a while. `now`: as for look().
  void hold_giving(std::uint64_t now) noexcept {
    if (tried_ != Way::giving)
      return;
    hold(Way::giving, now);
    settle(trying() ? best_ : Way::beside, false);
  }

 private:
  static constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
  static_assert(kPatience > kLooks);
  static constexpr unsigned kMostPauses = 2;
  // So long others' trials wait for one whose sender stops: windows that a trial takes if it does little harm.
  static constexpr unsigned kLongest = 2 * (kLooks + 1);
  static constexpr std::uint64_t kMostTrialNs = 1'000'000'000;

  [[nodiscard]] bool trying() const noexcept { return tried_ != best_; }

  static constexpr Way kOthers[][2] = {{Way::giving, Way::apart}, {Way::giving, Way::beside}, {Way::beside, Way::apart}};
  static constexpr std::size_t index(Way way) noexcept { return static_cast<std::size_t>(way); }

  /// Of each way.
  struct Record {
    std::uint64_t begun = 0;        // when it was last taken up,
    std::uint64_t left = 0;         // and left
    unsigned turn = kLaterPatience;  // patience when it was last left for a better one
    unsigned patience = kPatience;   // windows until it is tried,
    std::uint64_t rests = 0;        // and not before this time, if the best one does not turn bad
    std::uint64_t held = 0;         // when it may be tried again at all,
    std::uint64_t hold_ns = 0;      // and for how long it might not
  };
  [[nodiscard]] Record &of(Way way) noexcept { return records_[index(way)]; }

  void hold(Way way, std::uint64_t now) noexcept {
    Record &r = of(way);
    r.hold_ns = now - r.begun > r.hold_ns ? kHoldNs : std::clamp(2 * r.hold_ns, kHoldNs, kMostHoldNs);
    r.held = now + r.hold_ns;
  }

  [[nodiscard]] bool may_try(Way way) noexcept {
    return (can_give_ || way != Way::giving) && (can_look_ || way != Way::apart) && since_ >= of(way).held;
  }

  [[nodiscard]] bool is_due(Way way) noexcept {
    const bool late = windows_ > kPatience && since_ - settled_ > kMostPatienceNs;
    return may_try(way) && since_ >= of(way).rests && (late || windows_ > of(way).patience);
  }

  /// Giving way comes first where it may be the cure, and what others have found where nothing is known yet. Else what
  /// has lost less, or has not been tried for longer. The best where none may be tried.
  [[nodiscard]] Way next() noexcept {
    if (worse_ && best_ != Way::giving && may_try(Way::giving))
      return Way::giving;
    if (company_ != nullptr)
      if (const Way way = company_->found(); way != best_ && may_try(way) && of(way).patience == kPatience)
        return way;
    Way found = best_;
    for (const Way way : kOthers[index(best_)])
      if (may_try(way) && (worse_ || is_due(way)) && (found == best_ || comes_before(of(way), of(found))))
        found = way;
    return found;
  }

  [[nodiscard]] static bool comes_before(const Record &a, const Record &b) noexcept {
    return a.patience != b.patience ? a.patience < b.patience : a.left < b.left;
  }

  [[nodiscard]] std::uint64_t median() const noexcept {
    std::array<std::uint64_t, kLooks> sorted = took_;
    std::nth_element(sorted.begin(), sorted.begin() + kLooks / 2, sorted.end());
    return sorted[kLooks / 2];
  }

  /// What was settled on takes twice as long as then: it may not be the best any more. Where a worker may give way that
  /// is mostly the scheduler, which has begun to move the sender about.
  [[nodiscard]] bool is_worse() const noexcept { return can_give_ && windows_ > kLooks && latest() / 2 > usual_; }

  /// The better one of the last two windows.
  [[nodiscard]] std::uint64_t latest() const noexcept {
    return std::min(took_[windows_ % kLooks], took_[(windows_ - 1) % kLooks]);
  }

  /// If no other worker is at it. `length`: of a window.
  void begin_trial(std::uint64_t length) noexcept {
    if (company_ != nullptr) {
      const std::uint64_t until = since_ + std::min(kLongest * length, kMostTrialNs);
      if (!company_->begin_trial(since_, until))
        return;
      until_ = until;
    }
    worse_ = is_worse();
    reference_ = worse_ ? latest() : median();
    if (worse_)
      forget();
    tried_ = next();
    if (!trying())
      return settle(best_, false);
    if (tried_ == Way::beside && company_ != nullptr)
      company_->try_together(until_);
    of(tried_).begun = since_;
    windows_ = lost_ = pauses_ = 0;
    length_ = 0;
  }

  /// Another worker is trying how it is if all wait beside their senders, or has found it better.
  bool follow() noexcept {
    if (const unsigned settled = company_->settled(); settled != settled_together_) {
      settled_together_ = settled;
      if (best_ != Way::beside) {
        worse_ = false;
        of(Way::beside).begun = since_;
        settle(Way::beside, true);
      }
      usual_ = kNever;  // that one knows
      return true;
    }
    if (until_ != 0 || !company_->together(since_))
      return false;
    windows_ = 0;
    return true;
  }

  /// Maybe there are other senders now, and what has lost for long may be better.
  void forget() noexcept {
    for (Record &r : records_) {
      r.patience = std::min(r.patience, kLaterPatience);
      r.turn = kLaterPatience;
    }
  }

  /// A CPU that looks is not free, and each change costs: what is tried has to be better by an eighth, but not to end
  /// that.
  [[nodiscard]] bool wins(std::uint64_t tried) const noexcept {
    return best_ == Way::apart ? reference_ >= tried - tried / 8 : tried < reference_ - reference_ / 8;
  }

  /// The senders, not the way, took so long; where that happens time and again, it was the way.
  [[nodiscard]] bool is_pause(std::uint64_t ns) noexcept {
    if (ns / 8 <= reference_ || pauses_ == kMostPauses)
      return false;
    pauses_++;
    windows_--;
    return true;
  }

  /// The trial need not go on: its median cannot win any more. A window that takes half as long again counts twice.
  [[nodiscard]] bool is_lost(std::uint64_t ns) noexcept {
    lost_ += wins(ns) ? 0 : ns - ns / 3 > reference_ ? 2 : 1;
    return lost_ > kLooks / 2;
  }

  void decide() noexcept {
    const bool won = windows_ > kLooks && wins(median());
    if (won) {
      reference_ = median();
      if (worse_ && since_ - of(best_).begun < kWorthNs)  // it looked better than it is
        hold(best_, since_);
      if (company_ != nullptr)
        company_->found(tried_);
      if (company_ != nullptr && tried_ == Way::beside)
        settled_together_ = company_->settle_together();
    }
    settle(won ? tried_ : best_, won);
  }

  /// Something better than the best is found. Two that are about as good take turns ever less often, and a third one
  /// that is worse is not tried for it.
  void leave() noexcept {
    Record &left = of(best_);
    left.left = since_;
    if (worse_) {
      left.patience = kPatience;  // maybe all of them were bad, for a moment
    } else {
      const bool soon = since_ - left.begun < kTurnNs;
      left.patience = left.turn = soon ? std::min(2 * left.turn, kMostPatience) : kLaterPatience;
    }
  }

  /// `changed`: what was tried has won; else what is left has lost.
  void settle(Way better, bool changed) noexcept {
    if (changed) {
      leave();
    } else if (better != tried_) {
      Record &lost = of(tried_);
      lost.patience = std::min(2 * lost.patience, kMostPatience);
      lost.left = since_;
      if (trying())
        lost.rests = since_ + kRest * length_;
    }
    best_ = tried_ = better;
    windows_ = 0;
    if (until_ != 0)
      company_->end_trial(until_);
    until_ = 0;
    settled_ = since_;
    usual_ = reference_;
  }

  bool can_give_;
  bool can_look_;
  WaitCompany *company_;
  std::uint64_t until_ = 0;        // of a trial, as company_ was told
  unsigned settled_together_ = 0;  // of company_, as far as it was followed
  bool worse_ = false;       // the trial was begun because the best has turned bad
  Way best_ = Way::beside;
  Way tried_ = Way::beside;  // best_: none is
  unsigned windows_ = 0;  // since the last change
  unsigned lost_ = 0;     // of a trial: windows that it did not win
  unsigned pauses_ = 0;   // of a trial: windows that do not count
  std::uint64_t length_ = 0;  // of a trial: how long the others took
  std::uint64_t since_ = 0, done_ = 0;
  std::uint64_t settled_ = 0;  // when the last trial ended
  std::array<Record, 3> records_{};
  std::array<std::uint64_t, kLooks> took_{};  // ns per request of the last windows
  std::uint64_t reference_ = 0;               // their median when the trial began, or of one that won
  std::uint64_t usual_ = kNever;              // reference_ when the last trial ended
};

}  // namespace efuse
