// SPDX-License-Identifier: LGPL-2.1-or-later
// The kernel assigns requests to a queue's entries as they become free, and keeps those that find none until an
// answer comes back. A filesystem may keep requests for as long as it likes (a lock, an event), so a queue whose
// entries are all with the filesystem gets more of them: a request never waits for one that may never be answered.
#include "uring_worker.hh"

#include "session_core.hh"
#include "transport.hh"

#include <fmt/format.h>
#include <linux/fuse.h>
#include <sched.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

namespace efuse {
namespace {

/// What the kernel answers once the connection has ended, or when it takes an entry back.
bool says_gone(int error) noexcept {
  return error == -ENOTCONN || error == -ECONNABORTED || error == -ECANCELED || error == -ENODEV;
}

/// As wait and submission end for reasons that go away by themselves.
bool passes(int error) noexcept { return error == -EINTR || error == -EAGAIN || error == -EBUSY || error == -ENOMEM; }

/// This thread on a certain CPU, and then where it was before.
class Visit {
 public:
  explicit Visit(int cpu) noexcept : before_(CPU_ALLOC(kCpus)), there_(before_ != nullptr && visit(cpu)) {}
  ~Visit() {
    if (there_)
      ::sched_setaffinity(0, CPU_ALLOC_SIZE(kCpus), before_);
    CPU_FREE(before_);
  }
  Visit(const Visit &) = delete;
  Visit &operator=(const Visit &) = delete;
  explicit operator bool() const noexcept { return there_; }

 private:
  static constexpr int kCpus = 8192;  // as many as a kernel is built for
  bool visit(int cpu) const noexcept {
    return ::sched_getaffinity(0, CPU_ALLOC_SIZE(kCpus), before_) == 0 && pin_this_thread(cpu) == 0;
  }

  cpu_set_t *before_;
  bool there_;
};

}  // namespace

thread_local UringWorker *UringWorker::inside_ = nullptr;

UringWorker::UringWorker(SessionCore &session, const Setup &setup, std::span<const UringShare> shares,
                         const PollSettings &settings)
    : session_(session),
      setup_(setup),
      poller_(settings),
      apart_cpu_(setup.apart_cpu),
      pin_(setup.cpu),
      wake_(checked_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {
  for (const UringShare &share : shares) {
    queues_.push_back(
        std::make_unique<UringQueue>(session, *this, share.qid, setup.payload_bytes, setup.stats));
    queues_.back()->wanted = share.entries;
    queues_.back()->step = share.step;
    elsewhere_ |= setup.cpu != share.qid;
  }
}

void UringWorker::begin() {
  choice_ = WaitChoice(setup_.watch != nullptr && setup_.cpu >= 0 && give_way_.prepare(*setup_.watch), setup_.company);
  unsigned entries = 0;
  for (auto &queue : queues_)
    entries += std::max(queue->wanted, queue->step);
  ring_.emplace(entries, setup_.fuse_fd, wake_.get());
  for (auto &queue : queues_)
    register_entries(*queue, queue->wanted);
  if (const int error = ring_->enter(false); error != 0 && !passes(error))
    throw std::system_error(-error, std::generic_category(), "io_uring");
  // The kernel answers a REGISTER at once if it refuses it, and with a request otherwise.
  if (const int error = ring_->failure(); error != 0)
    throw TransportUnavailable(fmt::format("the kernel refuses to register queues: {}", std::strerror(-error)));
}

/// Throws std::bad_alloc, std::system_error.
void UringWorker::register_entries(UringQueue &queue, unsigned count) {
  for (UringSlot &slot : queue.add(count)) {
    while (!ring_->prepare(protocol::kUringRegister, queue.qid(), 0, slot.buffers, &slot))
      if (const int error = ring_->enter(false); error != 0 && !passes(error))
        throw std::system_error(-error, std::generic_category(), "io_uring");
    queue.with_kernel++;
  }
}

void UringWorker::run() noexcept {
  inside_ = this;
  while (!stopping_.load(std::memory_order_acquire)) {
    serve();
    collect();
    prepare_answers();
    grow();
    choose();
    go();
    wait();
  }
  give_way_.stop();
  // What was answered before the end still goes out.
  collect();
  prepare_answers();
  while (ring_->prepared() && ring_->enter(false) == 0) {
  }
  ring_.reset();
  inside_ = nullptr;
}

/// Requests that are there, until there are none or a batch of them is served.
void UringWorker::serve() noexcept {
  std::array<UringRing::Completion, kBatch> batch;
  const unsigned count = ring_->take(batch);
  std::uint64_t oldest = 0;
  served_ = 0;
  for (unsigned i = 0; i < count; i++) {
    if (batch[i].data == nullptr)
      continue;
    const std::uint64_t now = setup_.stats || count > 1 ? now_ns() : 0;
    if (oldest != 0 && pace_.due(now - oldest)) {
      commit_early(now);
      oldest = 0;
    }
    completed(*static_cast<UringSlot *>(batch[i].data), batch[i].result, now);
    served_++;
    if (oldest == 0 && answered_ != nullptr)
      oldest = now;
  }
}

/// Before the batch is done.
void UringWorker::commit_early(std::uint64_t now) noexcept {
  prepare_answers();
  enter(false);
  pace_.called(now_ns() - now);
}

void UringWorker::completed(UringSlot &slot, int result, std::uint64_t now) noexcept {
  auto &queue = static_cast<UringQueue &>(*slot.channel);
  queue.with_kernel--;
  if (result == 0) [[likely]] {
    queue.wanted = std::max(queue.wanted, queue.step);
    return queue.serve(slot, now);
  }
  if (says_gone(result)) {
    gone_.store(true, std::memory_order_relaxed);
    return;
  }
  // The entry is lost. Others take its place once the queue has none left.
  fuse_log(FUSE_LOG_ERR, "efuse: queue %u: the kernel refuses %s: %s\n", unsigned{queue.qid()},
           slot.commit_id != 0 ? "an answer" : "another entry", std::strerror(-result));
  grows_ = grows_ && slot.commit_id != 0;
}

/// From any thread: this one's answers go with its round, others' by way of the list.
void UringWorker::answered(UringSlot &slot) noexcept {
  if (inside_ == this) {
    slot.next = answered_;
    answered_ = &slot;
  } else if (returned_.put(slot)) {
    wake();
  }
}

void UringWorker::collect() noexcept {
  for (UringSlot *slot = returned_.take_all(); slot != nullptr;) {
    UringSlot *next = slot->next;
    slot->next = answered_;
    answered_ = slot;
    slot = next;
  }
}

/// Answers become submissions, but for those of requests that are to be served again.
void UringWorker::prepare_answers() noexcept {
  while (answered_ != nullptr) {
    UringSlot &slot = *answered_;
    auto &queue = static_cast<UringQueue &>(*slot.channel);
    if (slot.again) [[unlikely]] {
      answered_ = slot.next;
      queue.serve_again(slot);
      continue;
    }
    if (!ring_->prepare(protocol::kUringCommitAndFetch, queue.qid(), slot.commit_id, {}, &slot)) {
      if (const int error = ring_->enter(false); error != 0 && !passes(error))
        return;
      continue;
    }
    answered_ = slot.next;
    queue.with_kernel++;
  }
}

/// Entries for queues that have none with the kernel, and for those of CPUs that have come online.
void UringWorker::grow() noexcept {
  if (!grows_ || gone())
    return;
  for (auto &queue : queues_) {
    const bool exhausted = queue->with_kernel == 0;
    if (exhausted)
      queue->wanted = queue->size() + queue->step;
    if (queue->size() >= queue->wanted)
      continue;
    try {
      register_entries(*queue, queue->wanted - queue->size());
    } catch (const std::exception &e) {  // requests wait until one is answered
      fuse_log(FUSE_LOG_ERR, "efuse: queue %u: no more entries: %s\n", unsigned{queue->qid()}, e.what());
      grows_ = false;
      return;
    }
    if (exhausted)
      stir(*queue);
  }
}

/// The kernel gives a new entry to the next request that comes, not to those that wait in the queue already; they
/// are taken up when an entry has been answered. So make a request of our own that is: a RETRIEVE of nothing, from a
/// file that one of the kept requests is about. Where none of those is a regular file, the queue's next request does.
void UringWorker::stir(UringQueue &queue) noexcept {
  enter(false);  // first the entries
  const Visit there(queue.qid());
  if (!there)
    return;  // not our CPU to run on
  queue.find_kept([this](std::uint64_t nodeid) {
    fuse_notify_retrieve_out out{};
    out.notify_unique = kUringStir;
    out.nodeid = nodeid;
    const iovec body{&out, sizeof out};
    return session_.notify(FUSE_NOTIFY_RETRIEVE, {&body, 1}) == 0;
  });
}

/// Once a window: how to wait for the next one.
void UringWorker::choose() noexcept {
  if (!window_.round(served_, *setup_.company))
    return;
  choice_.look(now_ns(), setup_.company->served());
  if (poller_.off() || apart_cpu_ < 0)
    choice_.reject();
  if (choice_.way() == WaitChoice::Way::giving)
    give_way_.restart();
}

/// To the CPU and the policy that choice_ says.
void UringWorker::go() noexcept {
  if (choice_.way() != WaitChoice::Way::giving)
    give_way_.stop();
  const bool apart = apart_cpu_ >= 0 && choice_.way() == WaitChoice::Way::apart;
  if (apart == apart_)
    return;
  const int cpu = apart ? apart_cpu_ : setup_.cpu;
  apart_ = apart;
  poller_.start_anew();
  if (pin_this_thread(cpu) == 0)
    pin_ = WorkerPin(cpu);
  else
    apart_cpu_ = -1;
}

/// Submit, and wait for requests, answers of other threads, or stop().
void UringWorker::wait() noexcept {
  if (ring_->has_completions()) {
    if (ring_->prepared())
      enter(false);
    return;
  }
  const bool may_look = elsewhere_ || apart_;
  if (const std::uint32_t budget = poller_.spin_budget(may_look); budget != 0) {
    if (ring_->prepared())
      enter(false);
    // Seen in the kernel, a request is there; a flag in memory would be told of later, and then the call is to be made.
    const auto ready = [this] {
      enter(false);
      return ring_->has_completions() || !returned_.empty() || stopping_.load(std::memory_order_relaxed);
    };
    const bool found = poller_.spin(budget, ready);
    queues_.front()->stats().looked(found);
    if (found)
      return;
  }
  const bool gives_way = choice_.way() == WaitChoice::Way::giving && give_way_.begin();
  enter(returned_.announce_sleep());
  returned_.awake();
  if (gives_way) {
    queues_.front()->stats().gave_way();
    if (!give_way_.end())
      choice_.hold_giving(now_ns());
  }
  pin_.check();
}

void UringWorker::enter(bool wait) noexcept {
  const int error = ring_->enter(wait);
  if (error == 0 || error == -EINTR)
    return;
  if (passes(error)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // memory, mostly
    return;
  }
  fuse_log(FUSE_LOG_ERR, "efuse: io_uring: %s\n", std::strerror(-error));
  session_.exit(-error);
  stopping_.store(true, std::memory_order_relaxed);
}

void UringWorker::stop() noexcept {
  stopping_.store(true, std::memory_order_release);
  wake();
}

void UringWorker::wake() noexcept { ::eventfd_write(wake_.get(), 1); }

bool decline_uring(int fuse_fd) noexcept try {
  // A REGISTER that fails is what the kernel takes for an answer.
  UringRing ring(1, fuse_fd, -1);
  const iovec nowhere[protocol::kUringIovecs]{};
  return ring.prepare(protocol::kUringRegister, UINT16_MAX, 0, nowhere, &ring) && ring.enter(false) == 0 &&
         ring.failure() != 0;
} catch (const std::exception &) {
  return false;
}

}  // namespace efuse
