// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ring.hh"

#include <linux/fuse.h>

#include <cstring>
#include <stdexcept>

namespace efuse {

namespace {

// Kernel-written words lie in a read-only mapping; atomic_ref wants a non-const object and only loads here.
std::uint32_t load(const __u32 &word, std::memory_order order) noexcept {
  return std::atomic_ref<__u32>(const_cast<__u32 &>(word)).load(order);
}

void store(__u32 &word, std::uint32_t value, std::memory_order order) noexcept {
  std::atomic_ref<__u32>(word).store(value, order);
}

struct Part {
  const char *name;
  std::uint64_t off, size, region;
};

void check_part(const Part &part) {
  if (part.off % 8 != 0 || part.off + part.size > part.region)
    throw std::runtime_error(std::string("efuse_ring: the ring header puts ") + part.name + " at byte " +
                             std::to_string(part.off) + ", outside its region");
}

void check_power_of_two(const char *name, std::uint32_t value) {
  if (value == 0 || (value & (value - 1)) != 0)
    throw std::runtime_error(std::string("efuse_ring: the ring header says ") + name + " = " +
                             std::to_string(value) + ", expected a power of two");
}

efuse_ring_info read_info(std::span<const std::byte> kern, std::size_t user_size, std::size_t payload_size) {
  efuse_ring_info i;
  if (kern.size() < sizeof i)
    throw std::runtime_error("efuse_ring: the kernel region is too small for a ring header");
  std::memcpy(&i, kern.data(), sizeof i);
  if (i.magic != EFUSE_MAGIC)
    throw std::runtime_error("efuse_ring: the kernel region does not start with a ring header");
  if (i.abi_version != EFUSE_ABI_VERSION)
    throw std::runtime_error("efuse_ring: the module speaks ABI version " + std::to_string(i.abi_version) +
                             ", this program " + std::to_string(EFUSE_ABI_VERSION));
  if ((i.features & ~EFUSE_FEATURES) != 0)
    throw std::runtime_error("efuse_ring: the module turned on features that this program does not know");
  if (i.ring >= i.nr_rings)
    throw std::runtime_error("efuse_ring: the ring header says ring " + std::to_string(i.ring) + " of " +
                             std::to_string(i.nr_rings));
  if (i.kern_size != kern.size() || i.user_size != user_size || i.payload_size != payload_size)
    throw std::runtime_error("efuse_ring: the ring header's sizes are not those of the mappings");
  check_power_of_two("depth", i.depth);
  check_power_of_two("interrupt_depth", i.interrupt_depth);
  check_power_of_two("forget_depth", i.forget_depth);
  check_power_of_two("slot_in_size", i.slot_in_size);
  check_power_of_two("slot_out_size", i.slot_out_size);
  if (i.slot_in_size < sizeof(efuse_slot_in) + sizeof(fuse_in_header) || i.slot_out_size < sizeof(efuse_slot_out))
    throw std::runtime_error("efuse_ring: the ring header's slots are too small");
  const std::uint64_t d = i.depth;
  for (const Part &p : {
           Part{"kern_head", i.kern_head_off, sizeof(efuse_kern_head), i.kern_size},
           Part{"pending", i.pending_off, d * sizeof(efuse_pending_entry), i.kern_size},
           Part{"interrupt", i.interrupt_off, std::uint64_t{i.interrupt_depth} * sizeof(efuse_interrupt_entry),
                i.kern_size},
           Part{"forget", i.forget_off, std::uint64_t{i.forget_depth} * sizeof(efuse_forget_entry), i.kern_size},
           Part{"slot_in", i.slot_in_off, d * i.slot_in_size, i.kern_size},
           Part{"user_head", i.user_head_off, sizeof(efuse_user_head), i.user_size},
           Part{"complete", i.complete_off, d * sizeof(efuse_complete_entry), i.user_size},
           Part{"slot_out", i.slot_out_off, d * i.slot_out_size, i.user_size},
       })
    check_part(p);
  return i;
}

}  // namespace

Ring::Ring(std::span<const std::byte> kern, std::span<std::byte> user, std::span<std::byte> payload,
           bool shared_consumers)
    : info_(read_info(kern, user.size(), payload.size())),
      kern_(kern.data()),
      user_(user.data()),
      payload_(payload),
      head_(reinterpret_cast<const efuse_kern_head *>(kern_ + info_.kern_head_off)),
      mine_(reinterpret_cast<efuse_user_head *>(user_ + info_.user_head_off)),
      pending_(reinterpret_cast<const efuse_pending_entry *>(kern_ + info_.pending_off)),
      interrupts_(reinterpret_cast<const efuse_interrupt_entry *>(kern_ + info_.interrupt_off)),
      forgets_(reinterpret_cast<const efuse_forget_entry *>(kern_ + info_.forget_off)),
      complete_(reinterpret_cast<efuse_complete_entry *>(user_ + info_.complete_off)),
      shared_consumers_(shared_consumers) {
  // Where the last one to map this ring left off: all zero after attach.
  pending_head_.store(load(mine_->pending_head, std::memory_order_relaxed), std::memory_order_relaxed);
  interrupt_head_ = load(mine_->interrupt_head, std::memory_order_relaxed);
  forget_head_ = load(mine_->forget_head, std::memory_order_relaxed);
  complete_tail_ = load(mine_->complete_tail, std::memory_order_relaxed);
}

const efuse_slot_in *Ring::slot_in(std::uint32_t slot) const noexcept {
  return reinterpret_cast<const efuse_slot_in *>(kern_ + info_.slot_in_off + std::size_t{slot} * info_.slot_in_size);
}

efuse_slot_out *Ring::slot_out(std::uint32_t slot) const noexcept {
  return reinterpret_cast<efuse_slot_out *>(user_ + info_.slot_out_off + std::size_t{slot} * info_.slot_out_size);
}

// Only a hint: a relaxed load is enough, take_request() acquires.
bool Ring::has_requests() const noexcept {
  return load(head_->pending_tail, std::memory_order_relaxed) != pending_head_.load(std::memory_order_relaxed);
}

bool Ring::has_messages() const noexcept {
  return load(head_->forget_tail, std::memory_order_relaxed) != load(mine_->forget_head, std::memory_order_relaxed) ||
         load(head_->interrupt_tail, std::memory_order_relaxed) !=
             load(mine_->interrupt_head, std::memory_order_relaxed);
}

bool Ring::has_deferred() const noexcept { return load(head_->deferred, std::memory_order_relaxed) != 0; }

RingRequest Ring::describe(std::uint32_t slot, std::uint32_t gen) const noexcept {
  RingRequest r{slot, gen, {}, {}, {}, 0, false, false};
  if (slot >= info_.depth)
    return r;
  const efuse_slot_in *in = slot_in(slot);
  efuse_slot_out *out = slot_out(slot);
  const std::size_t in_room = info_.slot_in_size - sizeof *in;
  const std::size_t out_room = info_.slot_out_size - sizeof *out;
  const std::uint32_t in_len = load(in->in_len, std::memory_order_seq_cst);  // T1
  const std::uint64_t tail_end = std::uint64_t{in->in_payload_off} + in->in_payload_len;
  const std::uint64_t out_end = std::uint64_t{in->out_payload_off} + in->out_payload_cap;
  if (in_len < sizeof(fuse_in_header) || in_len > in_room || tail_end > payload_.size() ||
      out_end > payload_.size() || (in->out_payload_cap == 0 && in->out_cap > out_room)) {
    r.taken_back = in_len == 0;
    return r;
  }
  r.head = {reinterpret_cast<const std::byte *>(in + 1), in_len};
  r.tail = payload_.subspan(in->in_payload_off, in->in_payload_len);
  r.out = in->out_payload_cap != 0 ? payload_.subspan(in->out_payload_off, in->out_payload_cap)
                                   : std::span(reinterpret_cast<std::byte *>(out + 1), in->out_cap);
  r.enqueue_ns = in->enqueue_ns;
  r.background = (in->flags & EFUSE_SLOT_BACKGROUND) != 0;
  return r;
}

std::optional<RingRequest> Ring::take_request() noexcept {
  // Acquire, from the consumer that moved it on: what it saw of pending_tail we see too,
  // so the tail read next is never behind this head.
  std::uint32_t head = pending_head_.load(std::memory_order_acquire);
  for (;;) {
    if (load(head_->pending_tail, std::memory_order_acquire) == head)  // P1
      return std::nullopt;
    const efuse_pending_entry &e = pending_[head & (info_.depth - 1)];
    const std::uint32_t slot = load(e.slot, std::memory_order_relaxed);
    const std::uint32_t gen = load(e.gen, std::memory_order_relaxed);
    // Another consumer may be ahead: then the entry may be one lap younger, and is not used.
    if (!shared_consumers_)
      pending_head_.store(head + 1, std::memory_order_relaxed);
    else if (!pending_head_.compare_exchange_weak(head, head + 1, std::memory_order_acq_rel,
                                                  std::memory_order_acquire))
      continue;
    // P2. With several consumers a smaller value may be stored last: publish_head() mends that. Sequentially
    // consistent for T1: describe() reads in_len after it.
    store(mine_->pending_head, shared_consumers_ ? pending_head_.load(std::memory_order_relaxed) : head + 1,
          std::memory_order_seq_cst);
    return describe(slot, gen);
  }
}

// A thread that stored a stale head comes here before it sleeps, so the last store is not stale.
void Ring::publish_head() noexcept {
  const std::uint32_t head = pending_head_.load(std::memory_order_relaxed);
  if (shared_consumers_ && load(mine_->pending_head, std::memory_order_relaxed) != head)
    store(mine_->pending_head, head, std::memory_order_release);
}

std::optional<efuse_interrupt_entry> Ring::take_interrupt() noexcept {
  if (load(head_->interrupt_tail, std::memory_order_acquire) == interrupt_head_)  // P1
    return std::nullopt;
  const efuse_interrupt_entry e = interrupts_[interrupt_head_ & (info_.interrupt_depth - 1)];
  store(mine_->interrupt_head, ++interrupt_head_, std::memory_order_release);  // P2
  return e;
}

std::size_t Ring::take_forgets(std::span<efuse_forget_entry> out) noexcept {
  const std::uint32_t ready = load(head_->forget_tail, std::memory_order_acquire) - forget_head_;  // P1
  const std::size_t n = ready < out.size() ? ready : out.size();
  for (std::size_t i = 0; i < n; i++)
    out[i] = forgets_[(forget_head_ + i) & (info_.forget_depth - 1)];
  if (n != 0) {
    forget_head_ += static_cast<std::uint32_t>(n);
    store(mine_->forget_head, forget_head_, std::memory_order_release);  // P2
  }
  return n;
}

bool Ring::finish(std::uint32_t slot, std::uint32_t gen, std::int32_t error, std::uint32_t len,
                  std::uint32_t hints) noexcept {
  efuse_slot_out *out = slot_out(slot);
  out->error = error;
  out->len = len;
  out->hints = hints;
  // C0 and S1, partner S0: the requester sets need_commit, then looks at done_gen. Both accesses are
  // sequentially consistent, which orders this store before this load like a full barrier between them.
  store(out->done_gen, gen, std::memory_order_seq_cst);
  return load(slot_in(slot)->need_commit, std::memory_order_seq_cst) != 0;
}

bool Ring::complete(std::uint32_t slot, std::uint32_t gen) noexcept {
  std::lock_guard lock(complete_mutex_);
  if (complete_tail_ - load(head_->complete_head, std::memory_order_acquire) >= info_.depth)
    return false;
  efuse_complete_entry &e = complete_[complete_tail_ & (info_.depth - 1)];
  store(e.slot, slot, std::memory_order_relaxed);
  store(e.gen, gen, std::memory_order_relaxed);
  store(mine_->complete_tail, ++complete_tail_, std::memory_order_release);  // C2
  return true;
}

std::uint32_t Ring::uncommitted() const noexcept {
  // In this order, so that the tail is not behind the head that was reached from it.
  const std::uint32_t head = load(head_->complete_head, std::memory_order_acquire);
  return load(mine_->complete_tail, std::memory_order_relaxed) - head;
}

}  // namespace efuse
