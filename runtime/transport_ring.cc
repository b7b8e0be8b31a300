// SPDX-License-Identifier: LGPL-2.1-or-later
// The ring transport: a channel per ring, one or more workers per channel.
#include "transport.hh"

#include "channel.hh"
#include "dispatch.hh"
#include "placement.hh"
#include "request.hh"
#include "ring.hh"
#include "ring_device.hh"
#include "stats.hh"
#include "worker.hh"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace efuse {
namespace {

/// FORGETs as one BATCH_FORGET message. It frees itself when the filesystem has let go of it.
struct ForgetMessage {
  static constexpr std::size_t kMost = 64;
  fuse_req req;
  alignas(8) std::array<std::byte, sizeof(fuse_in_header) + sizeof(fuse_batch_forget_in) +
                                       kMost * sizeof(fuse_forget_one)> bytes;
};

class ForgetChannel final : public Channel {
 public:
  explicit ForgetChannel(ChannelStats &stats) noexcept : stats_(stats) {}
  int reply(fuse_req &req, int, std::span<const iovec>) noexcept override { return drop(req), 0; }
  int reply_in_place(fuse_req &req, std::size_t) noexcept override { return drop(req), 0; }
  void drop(fuse_req &req) noexcept override {
    stats_.completed(req.opcode, Way::ring, 0, 0);
    static_assert(offsetof(ForgetMessage, req) == 0);
    delete reinterpret_cast<ForgetMessage *>(&req);
    held_.fetch_sub(1, std::memory_order_release);
  }
  ChannelStats &stats() noexcept override { return stats_; }

  void taken() noexcept { held_.fetch_add(1, std::memory_order_relaxed); }
  [[nodiscard]] bool held() const noexcept { return held_.load(std::memory_order_acquire) != 0; }

 private:
  ChannelStats &stats_;
  std::atomic<std::uint32_t> held_{0};  // messages that the filesystem has not let go of
};

/// Replies from threads that are not the ring's workers, against the end of the ring: once closed
/// and empty, no reply is on its way to the ring any more.
class ReplyGate {
 public:
  /// false: closed. Either way leave() follows, as the last use of the channel.
  bool enter() noexcept {
    inside_.fetch_add(1, std::memory_order_seq_cst);
    return !closed_.load(std::memory_order_seq_cst);
  }
  void leave() noexcept { inside_.fetch_sub(1, std::memory_order_release); }
  /// Returns once those that found it open have left.
  void close() noexcept {
    closed_.store(true, std::memory_order_seq_cst);
    while (busy())
      std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  [[nodiscard]] bool closed() const noexcept { return closed_.load(std::memory_order_acquire); }
  [[nodiscard]] bool busy() const noexcept { return inside_.load(std::memory_order_seq_cst) != 0; }

 private:
  std::atomic<std::uint32_t> inside_{0};
  std::atomic<bool> closed_{false};
};

static_assert(sizeof(efuse_forget_entry) == sizeof(fuse_forget_one));

class RingChannel final : public Channel, private WorkerHooks {
 public:
  /// `cpu`: of its workers; -1: not pinned.
  RingChannel(SessionCore &session, const RingDevice &device, std::uint32_t index, int cpu, const Config &config)
      : session_(session),
        device_(device),
        index_(index),
        cpu_(cpu),
        memory_(device.map(index)),
        ring_({memory_.kern.data(), memory_.kern.size()}, {memory_.user.data(), memory_.user.size()},
              {memory_.payload.data(), memory_.payload.size()}, config.workers_per_ring > 1),
        timed_(config.stats),
        stats_(config.stats),
        forgets_(stats_),
        requests_(std::make_unique<fuse_req[]>(ring_.info().depth)) {
    for (std::uint32_t i = 0; i < ring_.info().depth; i++) {
      requests_[i].session = &session;
      requests_[i].channel = this;
      requests_[i].slot = i;
    }
  }

  /// A worker thread's body. `givers`: as for Worker.
  void serve(const PollSettings &settings, Worker::Givers *givers, const std::atomic<bool> &stop) noexcept {
    inside_ = this;
    pin_ = WorkerPin(cpu_);
    const int error = Worker(ring_, *this, settings, messages_mutex_, cpu_ >= 0 ? givers : nullptr).run(stop);
    inside_ = nullptr;
    if (error != 0 && error != -ENODEV)
      session_.exit(-error);
  }

  bool interrupt_unique(std::uint64_t unique) noexcept {
    for (std::uint32_t i = 0; i < ring_.info().depth; i++)
      if (mark(requests_[i], unique))
        return true;
    return false;
  }

  bool serves(std::uint64_t unique) noexcept {
    const bool closed = gate_.closed();
    return std::any_of(requests_.get(), requests_.get() + ring_.info().depth, [=](const fuse_req &req) {
      return (closed ? req.unique.load() : req.owed.load()) == unique;
    });
  }

  // Workers are gone before the gate closes.
  int reply(fuse_req &req, int error, std::span<const iovec> body) noexcept override {
    if (inside_ == this)
      return deliver(req, error, body);
    const int result = gate_.enter() ? deliver(req, error, body) : reply_late(req, error, body);
    gate_.leave();
    return result;
  }

  int reply_in_place(fuse_req &req, std::size_t len) noexcept override {
    const iovec body{req.out, len};
    return reply(req, 0, {&body, 1});
  }

  /// No worker serves this ring any more: from here on replies are late.
  void close() noexcept { gate_.close(); }

  /// In this order: who gives a late reply enters the gate before, and leaves it after, its request is let go of.
  [[nodiscard]] bool owes_replies() const noexcept {
    return std::any_of(requests_.get(), requests_.get() + ring_.info().depth,
                       [](const fuse_req &req) { return req.unique.load() != 0; }) ||
           forgets_.held() || gate_.busy();
  }

  // Only requests with a reply are on rings; FORGETs have a channel of their own.
  void drop(fuse_req &req) noexcept override { finish(req, -EIO, 0); }

  /// What is left of a ring that is gone: rings may have been attached anew.
  [[nodiscard]] bool unseen() const noexcept override { return gate_.closed(); }

  [[nodiscard]] bool owns_messages() const noexcept override { return false; }

  ChannelStats &stats() noexcept override { return stats_; }
  const ChannelStats &stats() const noexcept { return stats_; }

 private:
  int deliver(fuse_req &req, int error, std::span<const iovec> body) noexcept {
    if (error != 0) {
      const bool bad = error > 0 || error <= -512;
      finish(req, bad ? -EIO : error, 0);
      return bad ? -EINVAL : 0;
    }
    std::size_t len = 0;
    for (const iovec &part : body) {
      if (part.iov_len > req.out_cap - len) {
        finish(req, -EIO, 0);
        return -EINVAL;
      }
      if (part.iov_base != req.out + len)  // not where it belongs already
        std::memcpy(req.out + len, part.iov_base, part.iov_len);
      len += part.iov_len;
    }
    finish(req, 0, len);
    return 0;
  }

  int reply_late(fuse_req &req, int error, std::span<const iovec> body) noexcept {
    const bool bad = error > 0 || error <= -512;
    count(req);
    const int result = session_.resends.keep(req, bad ? -EIO : error, body);
    return bad ? -EINVAL : result;
  }

  void request(const RingRequest &r, std::uint64_t now) noexcept override {
    if (r.head.empty()) {
      if (!r.taken_back)
        fuse_log(FUSE_LOG_ERR, "efuse: ring %u describes slot %u wrongly, request fails\n", index_, r.slot);
      if (r.slot < ring_.info().depth && ring_.finish(r.slot, r.gen, -EIO, 0))
        complete(r.slot, r.gen);
      return;
    }
    fuse_req &req = requests_[r.slot];
    req.gen = r.gen;
    req.msg = {r.head, r.tail};
    req.out = r.out.data();
    req.out_cap = r.out.size();
    req.enqueue_ns = r.enqueue_ns;
    req.dequeue_ns = now;
    dispatch(req);
  }

  void interrupt(const efuse_interrupt_entry &e) noexcept override {
    stats_.completed(FUSE_INTERRUPT, Way::ring, 0, 0);
    if (e.slot >= ring_.info().depth || !mark(requests_[e.slot], e.unique))
      session_.interrupt(e.unique);  // not here yet, or answered
  }

  static bool mark(fuse_req &req, std::uint64_t unique) noexcept {
    if (req.unique.load() != unique)
      return false;
    mark_interrupted(req, unique);
    return true;
  }

  void forgets(std::span<const efuse_forget_entry> entries) noexcept override {
    for (; !entries.empty(); entries = entries.subspan(std::min(entries.size(), ForgetMessage::kMost))) {
      const auto part = entries.first(std::min(entries.size(), ForgetMessage::kMost));
      auto *m = new (std::nothrow) ForgetMessage;
      if (m == nullptr)
        return;  // the filesystem keeps the nodes until DESTROY
      forgets_.taken();
      fuse_in_header h{};
      h.opcode = FUSE_BATCH_FORGET;
      h.len = static_cast<std::uint32_t>(sizeof h + sizeof(fuse_batch_forget_in) + part.size_bytes());
      const fuse_batch_forget_in count{static_cast<std::uint32_t>(part.size()), 0};
      std::memcpy(m->bytes.data(), &h, sizeof h);
      std::memcpy(m->bytes.data() + sizeof h, &count, sizeof count);
      std::memcpy(m->bytes.data() + sizeof h + sizeof count, part.data(), part.size_bytes());
      m->req.session = &session_;
      m->req.channel = &forgets_;
      m->req.msg = {{m->bytes.data(), h.len}, {}};
      dispatch(m->req);
    }
  }

  int enter(bool wait, KernelPoll poll) noexcept override {
    const int result = device_.enter(index_, wait, poll);
    if (wait)
      pin_.check();
    return result;
  }

  void gave_way() noexcept override { stats_.gave_way(); }

  /// After finish() the slot, and with it `req`, may be used again at any moment.
  void finish(fuse_req &req, int error, std::size_t len) noexcept {
    const std::uint32_t slot = req.slot, gen = req.gen, hints = req.hints;
    count(req);
    req.unique.store(0, std::memory_order_relaxed);
    if (ring_.finish(slot, gen, error, static_cast<std::uint32_t>(len), hints))
      complete(slot, gen);
  }

  void count(const fuse_req &req) noexcept {
    if (timed_)
      stats_.completed(req.opcode, Way::ring, req.dequeue_ns > req.enqueue_ns ? req.dequeue_ns - req.enqueue_ns : 1,
                       now_ns() - req.dequeue_ns);
  }

  /// A worker of this ring commits when its batch is done; anybody else does so at once.
  void complete(std::uint32_t slot, std::uint32_t gen) noexcept {
    while (!ring_.complete(slot, gen))
      if (device_.enter(index_, false, {}) < 0)
        return;  // the ring is gone, and its requests with it
    if (inside_ != this)
      device_.enter(index_, false, {});
  }

  static thread_local RingChannel *inside_;  // whose serve() this thread is in
  static thread_local WorkerPin pin_;        // that worker's

  SessionCore &session_;
  const RingDevice &device_;
  std::uint32_t index_;
  int cpu_;
  RingMemory memory_;
  Ring ring_;
  bool timed_;
  ChannelStats stats_;
  ForgetChannel forgets_;
  std::unique_ptr<fuse_req[]> requests_;  // by slot
  std::mutex messages_mutex_;
  ReplyGate gate_;
};

thread_local RingChannel *RingChannel::inside_ = nullptr;
thread_local WorkerPin RingChannel::pin_{-1};

class RingTransport final : public Transport {
 public:
  RingTransport(SessionCore &session, const Config &config, int fuse_fd)
      : placement_(place_rings(config, this_machine())),
        device_(config, placement_, fuse_fd),
        workers_per_ring_(config.workers_per_ring),
        may_give_way_(config.ring_give_way),
        starts_nothing_(config.starts_nothing) {
    settings_.spin_ns = config.worker_spin_ns;
    settings_.poll_ns = config.worker_poll_ns;
    settings_.adaptive = config.adaptive;
    for (std::uint32_t i = 0; i < device_.ring_count(); i++)
      channels_.push_back(std::make_unique<RingChannel>(session, device_, i, placement_.worker_cpu[i], config));
  }

  ~RingTransport() override { stop(); }

  [[nodiscard]] std::string_view name() const noexcept override { return "ring"; }

  void start() override {
    if (may_give_way_)
      givers_.watch.start(starts_nothing_);
    try {
      for (std::size_t ring = 0; ring < channels_.size(); ring++)
        for (unsigned i = 0; i < workers_per_ring_; i++)
          threads_.emplace_back([this, ring, i] { body(ring, i); });
    } catch (...) {
      stop();
      throw;
    }
  }

  // First new requests go elsewhere, then those in flight are answered (or fail with
  // the connection), then the workers end. What is left is queued again by detach.
  void stop() noexcept override {
    if (stopped_)
      return;
    stopped_ = true;
    if (!threads_.empty())
      drain();
    stopping_.store(true, std::memory_order_release);
    for (std::size_t ring = 0; ring < channels_.size(); ring++)
      for (unsigned i = 0; i < workers_per_ring_; i++)
        device_.wake(static_cast<std::uint32_t>(ring));
    for (std::thread &thread : threads_)
      thread.join();
    threads_.clear();
    for (auto &channel : channels_)
      channel->close();
    device_.detach();
  }

  void tune(const Config &config) noexcept override {
    settings_.spin_ns = config.worker_spin_ns;
    settings_.poll_ns = config.worker_poll_ns;
    settings_.adaptive = config.adaptive;
    device_.tune(config);
  }

  [[nodiscard]] int device_fd() const noexcept override { return device_.fd(); }

  [[nodiscard]] bool owes_replies() const noexcept override {
    return std::any_of(channels_.begin(), channels_.end(), [](auto &channel) { return channel->owes_replies(); });
  }

  bool interrupt(std::uint64_t unique) noexcept override {
    for (auto &channel : channels_)
      if (channel->interrupt_unique(unique))
        return true;
    return false;
  }

  bool serves(std::uint64_t unique) noexcept override {
    for (auto &channel : channels_)
      if (channel->serves(unique))
        return true;
    return false;
  }

  void visit_stats(const std::function<void(const ChannelStats &)> &visit) const override {
    for (const auto &channel : channels_)
      visit(static_cast<const RingChannel &>(*channel).stats());
  }

 private:
  /// Until nothing is in flight, or nothing has been answered for a while: what waits for a lock or an
  /// event will not be soon.
  void drain() noexcept {
    using namespace std::chrono_literals;
    int before = -1;
    for (auto waited = 0ms, idle = 0ms; waited < 2000ms && idle < 500ms; waited += 1ms, idle += 1ms) {
      const int left = device_.drain();
      if (left <= 0 || gone_)
        return;
      if (left != before)
        idle = 0ms;
      before = left;
      std::this_thread::sleep_for(1ms);
    }
  }

  void body(std::size_t ring, unsigned worker) noexcept {
    const std::string name = fmt::format("efuse-r{}.{}", ring, worker).substr(0, 15);
    ::pthread_setname_np(::pthread_self(), name.c_str());
    sigset_t all;
    sigfillset(&all);  // signals are for the thread that runs the session
    ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
    if (const int error = pin_this_thread(placement_.worker_cpu[ring]); error != 0)
      fuse_log(FUSE_LOG_WARNING, "efuse: cannot pin the worker of ring %zu to CPU %d: %s\n", ring,
               placement_.worker_cpu[ring], std::strerror(-error));
    channels_[ring]->serve(settings_, may_give_way_ ? &givers_ : nullptr, stopping_);
    if (!stopping_.load(std::memory_order_relaxed))
      gone_ = true;
  }

  RingPlacement placement_;
  RingDevice device_;
  unsigned workers_per_ring_;
  bool may_give_way_;
  bool starts_nothing_;
  Worker::Givers givers_;
  PollSettings settings_;
  std::vector<std::unique_ptr<RingChannel>> channels_;
  std::vector<std::thread> threads_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> gone_{false};
  bool stopped_ = false;
};

}  // namespace

std::unique_ptr<Transport> make_ring_transport(SessionCore &session, const Config &config, int fuse_fd) {
  return std::make_unique<RingTransport>(session, config, fuse_fd);
}

}  // namespace efuse
