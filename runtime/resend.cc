// SPDX-License-Identifier: LGPL-2.1-or-later
#include "resend.hh"

#include "channel.hh"
#include "protocol.hh"
#include "request.hh"
#include "session_core.hh"
#include "stats.hh"

#include <cerrno>
#include <new>
#include <utility>

namespace efuse {
namespace {

/// How long the first copy may lie on its ring, or with a reader, when the second has been served.
/// After that its number may belong to another request.
constexpr std::uint64_t kServedNs = 60'000'000'000;
/// And the other way round: how long the answer to the first copy is kept for the second.
constexpr std::uint64_t kKeptNs = kServedNs;

constexpr std::uint64_t key_of(std::uint64_t unique) noexcept { return unique & ~protocol::kUniqueResend; }

}  // namespace

// Whoever replies takes fuse_req::owed first and looks at active_ then; here it is the
// other way round, and all four are sequentially consistent: one of the two sees the other.
bool Resends::hold(fuse_req &copy) noexcept {
  SessionCore &session = *copy.session;
  const std::uint64_t unique = copy.unique.load(std::memory_order_relaxed);
  const std::uint64_t key = key_of(unique);
  copy.owed.store(0);  // not a first copy itself, for those who look for one
  try {
    std::unique_lock lock(mutex_);
    if (answer_at_once(copy, key, lock)) return true;
    held_.emplace(key, &copy);
    count();
  } catch (const std::bad_alloc &) {
    copy.owed.store(unique);
    return false;
  }
  if (session.serves(key) || session.serves(key | protocol::kUniqueResend)) return true;

  const std::lock_guard lock(mutex_);
  const auto [first, last] = held_.equal_range(key);
  for (auto it = first; it != last; ++it) {
    if (it->second != &copy) continue;
    held_.erase(it);
    if (first_may_follow.load()) remember(key);
    count();
    copy.owed.store(unique);
    return false;
  }
  return true;  // answered meanwhile, and gone
}

void Resends::remember(std::uint64_t key) noexcept {
  const std::uint64_t now = now_ns();
  forget_old(now);
  try {
    served_[key] = now;
  } catch (const std::bad_alloc &) {  // then the first copy is served too, if it still comes
  }
}

void Resends::forget_old(std::uint64_t now) noexcept {
  std::erase_if(served_, [now](const auto &entry) { return now - entry.second > kServedNs; });
  std::erase_if(kept_, [now](const auto &entry) { return now - entry.second.since_ns > kKeptNs; });
}

void Resends::count() noexcept {
  active_.store(static_cast<std::uint32_t>(held_.size() + kept_.size() + served_.size()));
}

/// Unlocks if it answers.
bool Resends::answer_at_once(fuse_req &copy, std::uint64_t key, std::unique_lock<std::mutex> &lock) noexcept {
  const auto found = kept_.find(key);
  if (found == kept_.end()) return false;
  Answer answer = std::move(found->second);
  kept_.erase(found);
  count();
  lock.unlock();
  const iovec body{answer.body.data(), answer.body.size()};
  copy.channel->reply(copy, answer.error, answer.body.empty() ? std::span<const iovec>() : std::span(&body, 1));
  return true;
}

// hold() looks here, puts the copy among those that wait, and then asks whether the first one is still
// with the filesystem. Until its unique is 0 it is, and from then on its answer is here.
int Resends::keep(fuse_req &req, int error, std::span<const iovec> body) noexcept {
  const std::uint64_t key = key_of(req.unique.load());
  fuse_req *copy = nullptr;
  int result = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = held_.find(key);
    if (found != held_.end()) {
      copy = found->second;
      held_.erase(found);
    } else {
      try {
        Answer answer{error, {}, now_ns()};
        for (const iovec &part : error == 0 ? body : std::span<const iovec>()) {
          const auto *data = static_cast<const std::byte *>(part.iov_base);
          answer.body.insert(answer.body.end(), data, data + part.iov_len);
        }
        forget_old(answer.since_ns);
        kept_.insert_or_assign(key, std::move(answer));
      } catch (const std::bad_alloc &) {
        result = -ENOMEM;
      }
    }
    count();
    if (copy == nullptr) req.unique.store(0);
  }
  if (copy != nullptr) {
    result = copy->channel->reply(*copy, error, body);
    req.unique.store(0);  // `body` may lie in its ring
  }
  return result;
}

bool Resends::overtaken(std::uint64_t unique) noexcept {
  const std::lock_guard lock(mutex_);
  forget_old(now_ns());
  count();
  const auto found = served_.find(unique);
  if (found == served_.end()) return false;
  served_.erase(found);
  count();
  return true;
}

bool Resends::holds(std::uint64_t unique) noexcept {
  const std::lock_guard lock(mutex_);
  return held_.contains(key_of(unique));
}

fuse_req *Resends::take(std::uint64_t key) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(key);
  if (found == held_.end()) return nullptr;
  fuse_req *copy = found->second;
  held_.erase(found);
  count();
  return copy;
}

bool Resends::answer(std::uint64_t unique, int error, std::span<const iovec> body) noexcept {
  bool answered = false;
  while (fuse_req *copy = take(key_of(unique))) {
    copy->channel->reply(*copy, error, body);
    answered = true;
  }
  return answered;
}

void Resends::done(std::uint64_t unique) noexcept {
  const std::lock_guard lock(mutex_);
  kept_.erase(key_of(unique));
  count();
}

}  // namespace efuse
