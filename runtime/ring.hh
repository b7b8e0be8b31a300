// SPDX-License-Identifier: LGPL-2.1-or-later
// The daemon's side of one ring: the contract of include/uapi/efuse_ring.h in
// C++. Barrier labels are those of that header; the partner of each is in
// kmod/efuse_ring. Nothing here makes a system call.
//
// Fields that both sides touch are plain in the contract and accessed through
// std::atomic_ref. What the kernel wrote is checked before it is used, as if it
// came from a file.
#pragma once

#include "uapi/efuse_ring.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>

namespace efuse {

/// A request as it lies in a slot.
struct RingRequest {
  std::uint32_t slot;
  std::uint32_t gen;
  std::span<const std::byte> head;  // fuse_in_header and arguments
  std::span<const std::byte> tail;  // last argument, if apart
  std::span<std::byte> out;         // room for the reply's body
  std::uint64_t enqueue_ns;
  bool background;                  // nobody sleeps for this one in a system call
  bool taken_back;                  // head is empty: who waited is gone, any error completes it
};

class Ring {
 public:
  /// The three regions as mapped. Throws std::runtime_error if the header does
  /// not describe rings inside them. `shared_consumers`: more than one thread takes requests.
  Ring(std::span<const std::byte> kern, std::span<std::byte> user, std::span<std::byte> payload,
       bool shared_consumers);

  [[nodiscard]] const efuse_ring_info &info() const noexcept { return info_; }
  [[nodiscard]] const efuse_ring_stats &kernel_stats() const noexcept { return head_->stats; }

  [[nodiscard]] bool shared_consumers() const noexcept { return shared_consumers_; }

  /// Is there anything to take? One load each; any thread.
  [[nodiscard]] bool has_requests() const noexcept;
  [[nodiscard]] bool has_messages() const noexcept;  // forgets or interrupts
  /// ENTER has something to do before requests appear (data to copy in).
  [[nodiscard]] bool has_deferred() const noexcept;

  /// Before a worker sleeps: make sure the kernel knows how far requests were taken. Any thread.
  void publish_head() noexcept;

  /// Next request, if any. A slot the kernel described wrongly comes with an empty head.
  std::optional<RingRequest> take_request() noexcept;
  /// Next messages; one thread at a time (the caller locks).
  std::optional<efuse_interrupt_entry> take_interrupt() noexcept;
  /// Up to out.size() forgets, in order; the number taken.
  std::size_t take_forgets(std::span<efuse_forget_entry> out) noexcept;

  /// Hand a reply back: the body is written. `hints`: EFUSE_HINT_*. C0, then S1: true means that the
  /// requester sleeps and complete() must follow. The slot is the kernel's after this.
  [[nodiscard]] bool finish(std::uint32_t slot, std::uint32_t gen, std::int32_t error, std::uint32_t len,
                            std::uint32_t hints = 0) noexcept;
  /// Queue a completion for the next ENTER. Any thread. false: the ring is full, ENTER first.
  [[nodiscard]] bool complete(std::uint32_t slot, std::uint32_t gen) noexcept;
  /// Completions queued and not yet consumed by the kernel. Any thread.
  [[nodiscard]] std::uint32_t uncommitted() const noexcept;

 private:
  [[nodiscard]] const efuse_slot_in *slot_in(std::uint32_t slot) const noexcept;
  [[nodiscard]] efuse_slot_out *slot_out(std::uint32_t slot) const noexcept;
  [[nodiscard]] RingRequest describe(std::uint32_t slot, std::uint32_t gen) const noexcept;

  efuse_ring_info info_;  // a copy: constant, and checked once
  const std::byte *kern_;
  std::byte *user_;
  std::span<std::byte> payload_;
  const efuse_kern_head *head_;
  efuse_user_head *mine_;
  const efuse_pending_entry *pending_;
  const efuse_interrupt_entry *interrupts_;
  const efuse_forget_entry *forgets_;
  efuse_complete_entry *complete_;
  bool shared_consumers_;

  alignas(64) std::atomic<std::uint32_t> pending_head_{0};  // what user_head says, without reading it back
  std::uint32_t interrupt_head_ = 0;
  std::uint32_t forget_head_ = 0;
  alignas(64) std::mutex complete_mutex_;
  std::uint32_t complete_tail_ = 0;  // guarded by complete_mutex_
};

}  // namespace efuse
