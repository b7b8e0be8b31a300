// SPDX-License-Identifier: LGPL-2.1-or-later
#include "worker.hh"

#include <array>
#include <cerrno>

namespace efuse {

void Worker::serve_messages() noexcept {
  std::unique_lock lock(messages_mutex_, std::try_to_lock);
  if (!lock)
    return;  // another worker of this ring is at it
  while (auto entry = ring_.take_interrupt())
    hooks_.interrupt(*entry);
  std::array<efuse_forget_entry, 64> batch;
  while (std::size_t n = ring_.take_forgets(batch))
    hooks_.forgets(std::span(batch).first(n));
}

// Requesters that sleep wait for the commit, so a batch that takes long is committed in between. A ring
// with several workers has them because requests block, maybe on one another: there no reply waits
// behind the next request.
unsigned Worker::serve_batch() noexcept {
  std::uint64_t oldest = 0;
  unsigned n = 0;
  for (; n < kBatch; n++) {
    const auto request = ring_.take_request();
    if (!request)
      break;
    const std::uint64_t now = now_ns();
    if (oldest != 0 && (ring_.shared_consumers() || now - oldest > kCommitNs)) {
      commit();
      oldest = 0;
    }
    background_ = (n != 0 && background_) || request->background;
    hooks_.request(*request, now);
    if (oldest == 0 && ring_.uncommitted() != 0)
      oldest = now;
  }
  return n;
}

/// Once a window: whether to give way in the next one. Not among many senders: others want the CPU then. Where to look for
/// requests, requesters decide: they pick the ring.
void Worker::choose(unsigned served) noexcept {
  if (givers_ == nullptr || !window_.round(served, givers_->company))
    return;
  if (window_.many())
    choice_.hold_giving(now_ns());
  else if (choice_.look(now_ns(), givers_->company.served()) == WaitChoice::Way::giving)
    give_way_.restart();
}

/// Commit, and wait for requests.
int Worker::sleep() noexcept {
  const bool may = choice_.way() == WaitChoice::Way::giving;
  if (!may)
    give_way_.stop();
  const bool gives_way = may && give_way_.begin();
  const int ret = hooks_.enter(true, poller_.kernel_poll(background_));
  if (gives_way) {
    hooks_.gave_way();
    if (!give_way_.end())
      choice_.hold_giving(now_ns());
  }
  return ret;
}

int Worker::run(const std::atomic<bool> &stop) noexcept {
  if (givers_ != nullptr)
    choice_ = WaitChoice(give_way_.prepare(givers_->watch), &givers_->company, false);
  bool requesters_spin = false;
  while (!stop.load(std::memory_order_acquire)) {
    if (ring_.has_messages())
      serve_messages();
    const unsigned served = serve_batch();
    choose(served);
    const bool commit_due = ring_.uncommitted() != 0;
    if (served == kBatch) {
      if (commit_due)
        commit();
      continue;
    }
    if (served != 0)
      requesters_spin = !commit_due;
    if (!commit_due && !ring_.has_deferred()) {
      const auto ready = [&] {
        return ring_.has_requests() || ring_.has_messages() || ring_.has_deferred() ||
               stop.load(std::memory_order_relaxed);
      };
      if (poller_.poll(requesters_spin, ready) && !ring_.has_deferred())
        continue;
    }
    ring_.publish_head();
    const int ret = sleep();
    if (ret < 0 && ret != -EINTR && ret != -EAGAIN)
      return ret;
  }
  serve_messages();  // what the kernel has handed over is not handed over again
  return 0;
}

}  // namespace efuse
