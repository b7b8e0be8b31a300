// SPDX-License-Identifier: LGPL-2.1-or-later
#include "forget.hh"

#include "channel.hh"
#include "reply.hh"
#include "request.hh"
#include "session_core.hh"

#include <atomic>
#include <cerrno>
#include <memory>
#include <new>

namespace efuse {
namespace {

/// forget() of a filesystem that has no forget_multi(): it wants a request for
/// each, and may let go of them later and elsewhere. Owned by itself until the
/// last of them, and the pass that hands them out, are done.
class ForgetEach final : public Channel {
 public:
  /// Calls forget() for each of `forgets`; false: no memory.
  static bool run(fuse_req &parent, const fuse_forget_one *forgets, std::size_t count) noexcept {
    auto *self = new (std::nothrow) ForgetEach(*parent.channel);
    if (!self) return false;
    self->requests_.reset(new (std::nothrow) fuse_req[count]);
    const bool ok = self->requests_ != nullptr;
    if (ok) {
      self->held_.store(count + 1, std::memory_order_relaxed);
      for (std::size_t i = 0; i < count; ++i) self->forget(parent, self->requests_[i], forgets[i]);
    }
    self->release();
    return ok;
  }

  int reply(fuse_req &, int, std::span<const iovec>) noexcept override { return -ENOENT; }
  int reply_in_place(fuse_req &, std::size_t) noexcept override { return -ENOENT; }
  void drop(fuse_req &) noexcept override { release(); }
  ChannelStats &stats() noexcept override { return parent_.stats(); }

 private:
  explicit ForgetEach(Channel &parent) noexcept : parent_(parent) {}

  void forget(const fuse_req &parent, fuse_req &req, const fuse_forget_one &one) noexcept {
    req.session = parent.session;
    req.channel = this;
    req.unique.store(parent.unique.load(std::memory_order_relaxed), std::memory_order_relaxed);
    req.opcode = FUSE_FORGET;
    req.nodeid = one.nodeid;
    req.ctx = parent.ctx;
    req.session->ops.forget(&req, one.nodeid, one.nlookup);
  }

  void release() noexcept {
    if (held_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  Channel &parent_;
  std::unique_ptr<fuse_req[]> requests_;
  std::atomic<std::size_t> held_{1};
};

void forget_all(fuse_req &req, fuse_forget_one *forgets, std::size_t count) noexcept {
  static_assert(sizeof(fuse_forget_one) == sizeof(fuse_forget_data));
  const fuse_lowlevel_ops &ops = req.session->ops;
  if (ops.forget_multi)
    return ops.forget_multi(&req, count, reinterpret_cast<fuse_forget_data *>(forgets));
  if (ops.forget && count && !ForgetEach::run(req, forgets, count))
    fuse_log(FUSE_LOG_ERR, "efuse: no memory to forget %zu nodes\n", count);
  send_nothing(req);
}

/// Without what programs have answered. The list is copied: the message may not be ours to write to.
void forget_settled(fuse_req &req, const fuse_forget_one *forgets, std::size_t count) noexcept {
  const std::unique_ptr<fuse_forget_one[]> left(new (std::nothrow) fuse_forget_one[count]);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t nlookup = req.session->credits.settle(forgets[i].nodeid, forgets[i].nlookup);
    if (left && (nlookup || !forgets[i].nlookup)) left[kept++] = {forgets[i].nodeid, nlookup};
  }
  if (!left) fuse_log(FUSE_LOG_ERR, "efuse: no memory to forget %zu nodes\n", count);
  if (kept) return forget_all(req, left.get(), kept);
  send_nothing(req);
}

}  // namespace

void forget(fuse_req &req, std::uint64_t nlookup) noexcept {
  LookupCredits &credits = req.session->credits;
  const std::uint64_t left = credits.any() ? credits.settle(req.nodeid, nlookup) : nlookup;
  if (req.session->ops.forget && (left || !nlookup)) return req.session->ops.forget(&req, req.nodeid, left);
  send_nothing(req);
}

void forget_batch(fuse_req &req, std::span<fuse_forget_one> forgets) noexcept {
  if (req.session->credits.any()) return forget_settled(req, forgets.data(), forgets.size());
  forget_all(req, forgets.data(), forgets.size());
}

}  // namespace efuse
