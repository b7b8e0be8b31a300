// SPDX-License-Identifier: LGPL-2.1-or-later
// The kernel's side of one ring, in user space: the layout of kmod/efuse_ring/
// attach.c, the protocol of submit.c, wait.c and complete.c, with threads for
// requesters. Both sides see the same addresses, so ThreadSanitizer sees what
// the daemon's side really orders and what it does not.
//
// Shared words are accessed as the kernel does: atomics with the labels of
// include/uapi/efuse_ring.h, plain accesses for what those order. A full barrier
// between a store and a load is written as sequentially consistent accesses,
// because ThreadSanitizer does not follow fences.
#pragma once

#include "stats.hh"
#include "uapi/efuse_ring.h"

#include <linux/fuse.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace efuse::test {

/// Parameters of a ring, as in struct efuse_attach.
struct Shape {
  std::uint32_t depth = 16;
  std::uint32_t forget_depth = 16;
  std::uint32_t slot_in_size = 256;
  std::uint32_t slot_out_size = 256;
  std::uint32_t payload_size = 64u << 10;
  std::uint32_t first_index = 0;  // what every free-running index starts from
};

/// Where a hook may delay a thread or do something itself.
enum class Point {
  requester_published,  // P0 done, sleepers not looked for yet
  requester_woke,       // W1 done
  requester_spun,       // found not done, need_commit not set yet
  requester_announced,  // S0: need_commit set, done_gen not looked at again
  worker_checked,       // nothing to do, not announced yet
  worker_announced,     // W0: announced, rings not looked at again
  worker_sleeps,
  filling,  // ENTER copies a deferred request in, not published yet
};

/// Mistakes that the tests must be able to detect.
struct Faults {
  bool requester_skips_recheck = false;  // S0 without its second look
  bool worker_skips_recheck = false;     // W0 without its second look
  bool fill_skips_wake = false;          // ENTER publishes deferred requests and wakes nobody
};

struct Counters {
  std::atomic<std::uint64_t> full{0};             // no slot
  std::atomic<std::uint64_t> done_spin{0};        // the requester saw it done while spinning
  std::atomic<std::uint64_t> done_recheck{0};     // S0's second look saw it done
  std::atomic<std::uint64_t> done_enter{0};       // finished by ENTER
  std::atomic<std::uint64_t> stale{0};            // completions of a use that was over
  std::atomic<std::uint64_t> wakeups{0};          // W1 found a sleeper
  std::atomic<std::uint64_t> worker_recheck{0};   // W0's second look found work
  std::atomic<std::uint64_t> worker_slept{0};
  std::atomic<std::uint64_t> enters{0};
};

class FakeKernel {
 public:
  static constexpr std::uint32_t kPage = 4096;

  explicit FakeKernel(const Shape &shape, Faults faults = {})
      : shape_(shape), faults_(faults), info_(layout(shape)), kern_(info_.kern_size), user_(info_.user_size),
        payload_(info_.payload_size), slots_(shape.depth) {
    std::memcpy(kern_.data(), &info_, sizeof info_);
    for (std::uint32_t slot = shape.depth; slot-- > 0;)
      free_.push_back(slot);
    const std::uint32_t first = shape.first_index;
    pending_tail_ = interrupt_tail_ = forget_tail_ = complete_head_ = first;
    kern_head().pending_tail = kern_head().interrupt_tail = kern_head().forget_tail = first;
    kern_head().complete_head = first;
    user_head().pending_head = user_head().interrupt_head = user_head().forget_head = first;
    user_head().complete_tail = first;
  }

  FakeKernel(const FakeKernel &) = delete;
  FakeKernel &operator=(const FakeKernel &) = delete;

  // ---- the mappings ----
  std::span<std::byte> kern() noexcept { return {kern_.data(), info_.kern_size}; }
  std::span<std::byte> user() noexcept { return {user_.data(), info_.user_size}; }
  std::span<std::byte> payload() noexcept { return {payload_.data(), info_.payload_size}; }
  /// The header in the mapping; tests spoil it before a Ring is made of it.
  efuse_ring_info &header() noexcept { return *reinterpret_cast<efuse_ring_info *>(kern_.data()); }
  const Shape &shape() const noexcept { return shape_; }
  efuse_kern_head &kern_head() noexcept { return at<efuse_kern_head>(kern_, info_.kern_head_off); }
  efuse_user_head &user_head() noexcept { return at<efuse_user_head>(user_, info_.user_head_off); }
  efuse_slot_in &slot_in(std::uint32_t slot) noexcept {
    return at<efuse_slot_in>(kern_, info_.slot_in_off + slot * info_.slot_in_size);
  }
  efuse_slot_out &slot_out(std::uint32_t slot) noexcept {
    return at<efuse_slot_out>(user_, info_.slot_out_off + slot * info_.slot_out_size);
  }
  const Counters &counters() const noexcept { return counters_; }

  /// Called at every Point, by the thread that is there. Set before threads start.
  std::function<void(Point)> hook = [](Point) {};

  // ---- a requester, step by step ----

  /// One request of one requester, from call to answer. Its thread owns it; the one that
  /// completes its slot writes `error` and `reply` before `finished`.
  struct Request {
    std::span<const std::byte> body;  // what follows fuse_in_header
    std::uint32_t out_cap = 0;        // longest reply
    std::uint32_t spin = 0;           // looks at done_gen before it sleeps; 0: need_commit from the start
    bool in_payload = false;          // body goes to the payload region
    bool out_payload = false;         // reply comes from there
    bool deferred = false;            // body is copied in by ENTER
    bool background = false;          // nobody sleeps for it; deferred ones are
    int error = 0;
    std::vector<std::byte> reply;

    bool finished = false;  // protected by mutex
    std::mutex mutex;
    std::condition_variable wake;
  };

  struct Use {
    std::uint32_t slot, gen;
  };

  /// A slot with the request in it (steps 3 and 4); nullopt: none free.
  std::optional<Use> take(Request &req) {
    std::uint32_t slot;
    {
      std::lock_guard lock(slots_mutex_);
      if (free_.empty()) {
        counters_.full++;
        return std::nullopt;
      }
      slot = free_.back();
      free_.pop_back();
    }
    Slot &s = slots_[slot];
    s.gen = (s.gen + 1) & kGenMask;
    s.gen += s.gen == 0;
    s.request = &req;
    prepare(slot, s, req);
    if (!req.deferred)
      copy_in(slot, s, req);
    return Use{slot, s.gen};
  }

  /// P0 and W1. false: the ring is gone.
  bool publish(Use use) {
    const bool defer = slots_[use.slot].request->deferred;
    {
      std::lock_guard lock(lists_mutex_);
      if (dead_)
        return false;
      if (defer) {
        deferred_.push_back(use.slot);
        set(kern_head().deferred, get(kern_head().deferred, std::memory_order_relaxed) + 1,
            std::memory_order_relaxed);
        defer_events_++;
      } else {
        push_pending(use.slot);
      }
    }
    hook(Point::requester_published);
    wake_worker();
    hook(Point::requester_woke);
    return true;
  }

  /// C1
  bool is_done(Use use) noexcept {
    return get(slot_out(use.slot).done_gen, std::memory_order_acquire) == use.gen;
  }

  /// Spin, then S0, then sleep until somebody finishes the request.
  void wait(Use use, Request &req) {
    if (req.spin != 0 && !spin(use, req.spin)) {
      hook(Point::requester_spun);
      announce(use);
    }
    std::unique_lock lock(req.mutex);
    req.wake.wait(lock, [&] { return req.finished; });
  }

  /// All of it. false: no slot, or the ring is gone (the stock path's business).
  bool call(Request &req) {
    const auto use = take(req);
    if (!use)
      return false;
    if (!publish(*use)) {
      put(use->slot);
      return false;
    }
    wait(*use, req);
    return true;
  }

  /// false: the ring is full (the stock path's business).
  bool push_forget(std::uint64_t nodeid, std::uint64_t nlookup) {
    {
      std::lock_guard lock(lists_mutex_);
      if (forget_tail_ - get(user_head().forget_head, std::memory_order_acquire) >= shape_.forget_depth)
        return false;
      auto *e = &at<efuse_forget_entry>(kern_, info_.forget_off) + (forget_tail_ & (shape_.forget_depth - 1));
      *e = {nodeid, nlookup};
      set(kern_head().forget_tail, forget_tail_ + 1, std::memory_order_release);  // P0
      forget_tail_++;
    }
    wake_worker();
    return true;
  }

  bool push_interrupt(std::uint64_t unique, Use use) {
    {
      std::lock_guard lock(lists_mutex_);
      if (interrupt_tail_ - get(user_head().interrupt_head, std::memory_order_acquire) >= shape_.depth)
        return false;
      auto *e = &at<efuse_interrupt_entry>(kern_, info_.interrupt_off);
      e += interrupt_tail_ & (shape_.depth - 1);
      *e = {unique, use.slot, use.gen};
      set(kern_head().interrupt_tail, interrupt_tail_ + 1, std::memory_order_release);  // P0
      interrupt_tail_++;
    }
    wake_worker();
    return true;
  }

  // ---- the daemon's system calls ----

  /// EFUSE_IOC_ENTER
  int enter(bool wait, std::uint32_t poll_ns) {
    counters_.enters++;
    const int done = commit();
    if (done < 0)
      return done;
    if (!wait) {
      fill_deferred();
      return dead_ ? -ENODEV : done;
    }
    const int error = wait_for_work(poll_ns);
    return error != 0 ? error : done;
  }

  /// EFUSE_IOC_WAKE
  void kick() {
    kicks_++;
    wake_worker();
  }

  /// An abort: what is in flight fails, ENTER returns -ENODEV, nobody sleeps on.
  void kill() {
    {
      std::lock_guard lock(lists_mutex_);
      dead_ = true;
    }
    for (std::uint32_t i = 0; i < shape_.depth; i++) {
      std::uint32_t was = slots_[i].state;
      if ((was & 3) == kInflight && slots_[i].state.compare_exchange_strong(was, (was & ~3u) | kCompleting))
        finish(*slots_[i].request, -ENOTCONN);
    }
    for (std::uint32_t slot : drop_deferred())
      finish(*slots_[slot].request, -ENOTCONN);
    std::lock_guard lock(wait_mutex_);
    while (!waiters_.empty())
      wake_first();
  }

  bool is_dead() const noexcept { return dead_; }

  /// Every index and what is in flight, for the message of a failed test.
  std::string state() {
    const auto show = [](const char *name, std::uint32_t kernel, std::uint32_t daemon) {
      return std::string(name) + " " + std::to_string(kernel) + "/" + std::to_string(daemon) + "  ";
    };
    const auto peek = [](std::uint32_t &word) { return get(word, std::memory_order_relaxed); };
    efuse_kern_head &k = kern_head();
    efuse_user_head &u = user_head();
    std::string s = "kernel/daemon: " + show("pending", peek(k.pending_tail), peek(u.pending_head)) +
                    show("interrupt", peek(k.interrupt_tail), peek(u.interrupt_head)) +
                    show("forget", peek(k.forget_tail), peek(u.forget_head)) +
                    show("complete", peek(k.complete_head), peek(u.complete_tail)) + "deferred " +
                    std::to_string(peek(k.deferred)) + "  sleepers " + std::to_string(sleepers_) +
                    "  kicks " + std::to_string(kicks_) + "\n";
    for (std::uint32_t i = 0; i < shape_.depth; i++)
      if (const std::uint32_t word = slots_[i].state; (word & 3) != kFree)
        s += "slot " + std::to_string(i) + " gen " + std::to_string(word >> 2) +
             ((word & 3) == kInflight ? " in flight" : " completing") + " done_gen " +
             std::to_string(peek(slot_out(i).done_gen)) + " need_commit " +
             std::to_string(peek(slot_in(i).need_commit)) + "\n";
    return s;
  }

 private:
  static constexpr std::uint32_t kGenMask = 0x3fffffff;
  static constexpr std::uint32_t kFree = 0, kInflight = 1, kCompleting = 2;

  struct Slot {
    std::atomic<std::uint32_t> state{0};  // gen << 2 | kFree...
    std::uint32_t gen = 0;                // written while the slot is being filled
    Request *request = nullptr;           // likewise
  };

  struct Waiter {
    bool woken = false;  // protected by wait_mutex_
    std::condition_variable wake;
  };

  // Memory of exactly the region's size, so that AddressSanitizer sees an access outside.
  class Region {
   public:
    explicit Region(std::size_t size)
        : memory_(static_cast<std::byte *>(::operator new[](size, std::align_val_t{kPage}))) {
      std::memset(memory_, 0, size);
    }
    ~Region() { ::operator delete[](memory_, std::align_val_t{kPage}); }
    Region(const Region &) = delete;
    Region &operator=(const Region &) = delete;
    std::byte *data() const noexcept { return memory_; }

   private:
    std::byte *memory_;
  };

  template <typename T>
  static T &at(Region &region, std::size_t off) noexcept {
    return *reinterpret_cast<T *>(region.data() + off);
  }
  static std::uint32_t get(std::uint32_t &word, std::memory_order order) noexcept {
    return std::atomic_ref(word).load(order);
  }
  static void set(std::uint32_t &word, std::uint32_t value, std::memory_order order) noexcept {
    std::atomic_ref(word).store(value, order);
  }

  // attach.c: lines of 64 bytes one after the other, regions of whole pages.
  static efuse_ring_info layout(const Shape &shape) {
    const auto up = [](std::size_t size, std::size_t to) {
      return static_cast<std::uint32_t>((size + to - 1) / to * to);
    };
    efuse_ring_info i{};
    i.magic = EFUSE_MAGIC;
    i.abi_version = EFUSE_ABI_VERSION;
    i.nr_rings = 1;
    i.depth = i.interrupt_depth = shape.depth;
    i.forget_depth = shape.forget_depth;
    i.slot_in_size = shape.slot_in_size;
    i.slot_out_size = shape.slot_out_size;
    i.payload_size = shape.payload_size;
    i.kern_head_off = up(sizeof i, EFUSE_CACHELINE);
    i.pending_off = i.kern_head_off + up(sizeof(efuse_kern_head), EFUSE_CACHELINE);
    i.interrupt_off = i.pending_off + up(i.depth * sizeof(efuse_pending_entry), EFUSE_CACHELINE);
    i.forget_off = i.interrupt_off + up(i.depth * sizeof(efuse_interrupt_entry), EFUSE_CACHELINE);
    i.slot_in_off = i.forget_off + up(i.forget_depth * sizeof(efuse_forget_entry), EFUSE_CACHELINE);
    i.kern_size = up(i.slot_in_off + std::size_t{i.depth} * i.slot_in_size, kPage);
    i.complete_off = up(sizeof(efuse_user_head), EFUSE_CACHELINE);
    i.slot_out_off = i.complete_off + up(i.depth * sizeof(efuse_complete_entry), EFUSE_CACHELINE);
    i.user_size = up(i.slot_out_off + std::size_t{i.depth} * i.slot_out_size, kPage);
    return i;
  }

  // ---- submit.c ----

  void prepare(std::uint32_t slot, const Slot &s, const Request &req) {
    efuse_slot_in &in = slot_in(slot);
    const std::uint32_t share = payload_share();
    set(in.need_commit, req.spin == 0, std::memory_order_relaxed);
    in.flags = req.deferred || req.background ? std::uint32_t{EFUSE_SLOT_BACKGROUND} : 0;
    in.in_len = static_cast<std::uint32_t>(sizeof(fuse_in_header) + (req.in_payload ? 0 : req.body.size()));
    in.in_payload_off = req.in_payload ? slot * share : 0;
    in.in_payload_len = req.in_payload ? static_cast<std::uint32_t>(req.body.size()) : 0;
    in.out_payload_off = req.out_payload ? slot * share + share / 2 : 0;
    in.out_payload_cap = req.out_payload ? req.out_cap : 0;
    in.out_cap = req.out_cap;
    in.enqueue_ns = now_ns();
    in.gen = s.gen;
    in.cpu = 0;
  }

  // Half of a slot's share is for the request, half for its reply; pool.c has a test of its own.
  std::uint32_t payload_share() const noexcept { return shape_.payload_size / shape_.depth; }

  void copy_in(std::uint32_t slot, const Slot &s, const Request &req) {
    fuse_in_header h{};
    h.len = static_cast<std::uint32_t>(sizeof h + req.body.size());
    h.unique = std::uint64_t{s.gen} << 16 | std::uint64_t{slot} << 1;
    auto *to = reinterpret_cast<std::byte *>(&slot_in(slot) + 1);
    std::memcpy(to, &h, sizeof h);
    if (req.body.empty())
      return;
    std::byte *body = req.in_payload ? payload_.data() + slot_in(slot).in_payload_off : to + sizeof h;
    std::memcpy(body, req.body.data(), req.body.size());
  }

  // P0; under lists_mutex_.
  void push_pending(std::uint32_t slot) {
    const std::uint32_t tail = pending_tail_;
    auto *e = &at<efuse_pending_entry>(kern_, info_.pending_off) + (tail & (shape_.depth - 1));
    slots_[slot].state = slots_[slot].gen << 2 | kInflight;
    set(e->slot, slot, std::memory_order_relaxed);
    set(e->gen, slots_[slot].gen, std::memory_order_relaxed);
    set(kern_head().pending_tail, tail + 1, std::memory_order_release);
    pending_tail_ = tail + 1;
  }

  void fill_deferred() {
    for (;;) {
      std::uint32_t slot;
      {
        std::lock_guard lock(lists_mutex_);
        if (dead_ || deferred_.empty())
          return;
        slot = deferred_.front();
        deferred_.pop_front();
      }
      copy_in(slot, slots_[slot], *slots_[slot].request);
      hook(Point::filling);
      {
        std::lock_guard lock(lists_mutex_);
        set(kern_head().deferred, get(kern_head().deferred, std::memory_order_relaxed) - 1,
            std::memory_order_relaxed);
        if (!dead_) {
          push_pending(slot);
          slot = shape_.depth;
        }
      }
      if (slot != shape_.depth) {  // kill() did not find it on the list
        finish(*slots_[slot].request, -ENOTCONN);
        return;
      }
      if (!faults_.fill_skips_wake)
        wake_worker();
    }
  }

  std::deque<std::uint32_t> drop_deferred() {
    std::lock_guard lock(lists_mutex_);
    return std::exchange(deferred_, {});
  }

  // ---- wait.c ----

  bool spin(Use use, std::uint32_t looks) {
    for (; looks != 0; looks--) {
      if (is_done(use)) {
        if (complete(use, true))
          counters_.done_spin++;
        return true;
      }
      if (dead_)
        return false;
      if (looks % 64 == 0)
        std::this_thread::yield();
    }
    return false;
  }

  // S0, partner S1 in Ring::finish()
  void announce(Use use) {
    set(slot_in(use.slot).need_commit, 1, std::memory_order_seq_cst);
    hook(Point::requester_announced);
    if (faults_.requester_skips_recheck)
      return;
    if (get(slot_out(use.slot).done_gen, std::memory_order_seq_cst) == use.gen && complete(use, true))
      counters_.done_recheck++;
  }

  // W1, partner W0: the index was stored before, sequentially consistent as this load is.
  void wake_worker() {
    if (sleepers_ == 0)
      return;
    std::lock_guard lock(wait_mutex_);
    if (waiters_.empty())
      return;
    counters_.wakeups++;
    wake_first();
  }

  // Under wait_mutex_; the waiter is on its thread's stack, so it is not touched after.
  void wake_first() {
    Waiter *w = waiters_.front();
    waiters_.pop_front();
    sleepers_--;
    w->woken = true;
    w->wake.notify_one();
  }

  bool has_work() {
    efuse_user_head &u = user_head();
    return pending_tail_ != get(u.pending_head, std::memory_order_relaxed) ||
           interrupt_tail_ != get(u.interrupt_head, std::memory_order_relaxed) ||
           forget_tail_ != get(u.forget_head, std::memory_order_relaxed);
  }
  bool must_return() { return has_work() || kicks_ != 0 || dead_; }
  bool must_wake(std::uint32_t events) { return must_return() || defer_events_ != events; }

  std::uint32_t fill_and_count() {
    const std::uint32_t events = defer_events_;
    fill_deferred();
    return events;
  }

  int wait_for_work(std::uint32_t poll_ns) {
    std::uint32_t events = fill_and_count();
    for (const std::uint64_t end = now_ns() + poll_ns; poll_ns != 0 && !must_wake(events) && now_ns() < end;)
      std::this_thread::yield();
    while (!must_return()) {
      sleep(events);
      events = fill_and_count();
    }
    if (dead_)
      return -ENODEV;
    std::uint32_t kicks = kicks_;
    while (kicks != 0 && !kicks_.compare_exchange_weak(kicks, kicks - 1)) {
    }
    return 0;
  }

  void sleep(std::uint32_t events) {
    hook(Point::worker_checked);
    Waiter w;
    {
      std::lock_guard lock(wait_mutex_);
      waiters_.push_back(&w);
      sleepers_++;  // W0
    }
    hook(Point::worker_announced);
    const bool found = !faults_.worker_skips_recheck && must_wake(events);
    std::unique_lock lock(wait_mutex_);
    if (found) {
      counters_.worker_recheck++;
      if (!w.woken)
        leave(&w);
      return;
    }
    counters_.worker_slept++;
    lock.unlock();
    hook(Point::worker_sleeps);
    lock.lock();
    w.wake.wait(lock, [&] { return w.woken || dead_; });
    if (!w.woken)
      leave(&w);
  }

  void leave(Waiter *w) {
    std::erase(waiters_, w);
    sleepers_--;
  }

  // ---- complete.c ----

  void put(std::uint32_t slot) {
    slots_[slot].state = slots_[slot].gen << 2 | kFree;
    std::lock_guard lock(slots_mutex_);
    free_.push_back(slot);
  }

  // Several may try; true for the one that finished the request.
  bool complete(Use use, bool by_requester) {
    Slot &s = slots_[use.slot];
    std::uint32_t was = use.gen << 2 | kInflight;
    if (!s.state.compare_exchange_strong(was, use.gen << 2 | kCompleting)) {
      counters_.stale++;
      return false;
    }
    Request &req = *s.request;
    const int error = read_reply(use.slot, req);
    if (!by_requester)
      counters_.done_enter++;
    put(use.slot);
    finish(req, error);
    return true;
  }

  // Plain reads: C0-C1 or C2-C3 must have ordered the daemon's writes before them.
  int read_reply(std::uint32_t slot, Request &req) {
    const efuse_slot_out &out = slot_out(slot);
    if (out.error <= -512 || out.error > 0 || out.len > req.out_cap || (out.error != 0 && out.len != 0))
      return -EIO;
    const std::byte *body = req.out_payload ? payload_.data() + slot_in(slot).out_payload_off
                                            : reinterpret_cast<const std::byte *>(&out + 1);
    req.reply.assign(body, body + out.len);
    return out.error;
  }

  static void finish(Request &req, int error) {
    std::lock_guard lock(req.mutex);
    req.error = error;
    req.finished = true;
    req.wake.notify_all();
  }

  // C3. 1: an entry, 0: none, -EINVAL: an impossible tail.
  int next_completion(efuse_complete_entry &entry) {
    std::lock_guard lock(commit_mutex_);
    const std::uint32_t tail = get(user_head().complete_tail, std::memory_order_acquire);
    const std::uint32_t ready = tail - complete_head_;
    int ret = 0;
    if (ready > shape_.depth) {
      complete_head_ = tail;
      ret = -EINVAL;
    } else if (ready != 0) {
      auto *e = &at<efuse_complete_entry>(user_, info_.complete_off) + (complete_head_ & (shape_.depth - 1));
      entry = {get(e->slot, std::memory_order_relaxed), get(e->gen, std::memory_order_relaxed)};
      complete_head_++;
      ret = 1;
    }
    set(kern_head().complete_head, complete_head_, std::memory_order_release);
    return ret;
  }

  int commit() {
    efuse_complete_entry e;
    int ret = 0;
    std::uint32_t n = 0;
    for (; n < shape_.depth && (ret = next_completion(e)) > 0; n++)
      if (e.slot < shape_.depth)
        complete({e.slot, e.gen & kGenMask}, false);
    return ret < 0 ? ret : static_cast<int>(n);
  }

  const Shape shape_;
  const Faults faults_;
  const efuse_ring_info info_;
  Region kern_, user_, payload_;
  std::vector<Slot> slots_;
  Counters counters_;

  std::mutex slots_mutex_;
  std::vector<std::uint32_t> free_;  // protected by slots_mutex_

  // Stored under lists_mutex_, read without it by workers.
  std::mutex lists_mutex_;
  std::atomic<bool> dead_{false};
  std::atomic<std::uint32_t> pending_tail_{0}, interrupt_tail_{0}, forget_tail_{0};
  std::atomic<std::uint32_t> defer_events_{0};
  std::deque<std::uint32_t> deferred_;  // protected by lists_mutex_

  std::mutex commit_mutex_;
  std::uint32_t complete_head_ = 0;  // protected by commit_mutex_

  std::mutex wait_mutex_;
  std::deque<Waiter *> waiters_;            // protected by wait_mutex_
  std::atomic<std::uint32_t> sleepers_{0};  // its size, read without it
  std::atomic<std::uint32_t> kicks_{0};
};

}  // namespace efuse::test
