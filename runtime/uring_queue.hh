// SPDX-License-Identifier: LGPL-2.1-or-later
// The entries of one kernel queue that one worker serves: their memory, from the kernel's description of a request
// to a message, and from a reply to what the kernel reads. Nothing here enters the kernel.
//
// What the kernel describes is checked before it is used. A description that does not hold together fails that
// request with EIO; the entry goes on.
#pragma once

#include "channel.hh"
#include "fd.hh"
#include "request.hh"
#include "stats.hh"
#include "uring_abi.hh"

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace efuse {

/// Of an entry's headers, beside what the kernel asks for: the names of a request are kept there, so that a reply
/// that is written in place does not overwrite them.
inline constexpr std::size_t kUringHeadersBytes = 1024;
inline constexpr std::size_t kUringKeep = kUringHeadersBytes - sizeof(protocol::UringHeaders);

/// One entry: with the kernel, or a request with the filesystem.
struct UringSlot : fuse_req {
  protocol::UringHeaders *headers = nullptr;  // kUringHeadersBytes
  std::span<std::byte> payload;
  std::array<iovec, protocol::kUringIovecs> buffers{};  // both, as REGISTER takes them
  std::uint64_t commit_id = 0;
  bool lacked = false;  // the filesystem had no space for this request, when it was first served,
  bool again = false;   // and is to be asked once more (UringQueue::serve_again)
  UringSlot *next = nullptr;  // HandBack's, then its worker's
};

/// The request that the kernel has put into a slot, where it lies, or with short names moved aside; sets slot.msg,
/// slot.out and slot.out_cap. false: the kernel's lengths contradict one another or the buffers.
[[nodiscard]] bool describe(UringSlot &slot) noexcept;

/// Write an answer's header; its body of `len` bytes is in slot.payload already, `unique` is the request's.
void write_answer(UringSlot &slot, std::uint64_t unique, int error, std::size_t len) noexcept;

/// notify_unique of a RETRIEVE whose answer is for nobody (UringWorker::stir).
inline constexpr std::uint64_t kUringStir = 1ull << 61;

/// Who hands answers to the kernel: the worker, and the tests.
class UringOwner {
 public:
  virtual ~UringOwner() = default;
  /// The answer is written, or slot.again is set. Any thread; the slot is the owner's after this.
  virtual void answered(UringSlot &slot) noexcept = 0;
};

class UringQueue final : public Channel {
 public:
  /// `payload_bytes`: of each entry's buffer, whole pages.
  UringQueue(SessionCore &session, UringOwner &owner, std::uint16_t qid, std::size_t payload_bytes, bool stats);

  [[nodiscard]] std::uint16_t qid() const noexcept { return qid_; }

  /// More entries, to be registered. Throws std::bad_alloc, std::system_error. By the owner's thread.
  std::span<UringSlot> add(unsigned count);
  /// Entries made so far. By the owner's thread.
  [[nodiscard]] unsigned size() const noexcept { return size_; }

  /// Serve the request in `slot`, taken at `now` (CLOCK_MONOTONIC ns, 0: not looked at).
  void serve(UringSlot &slot, std::uint64_t now) noexcept;
  /// Serve the request of a slot that has slot.again once more, when FORGETs that waited may have made room for it. So
  /// hardly any request waits for FORGETs. By the owner's thread.
  void serve_again(UringSlot &slot) noexcept;

  int reply(fuse_req &req, int error, std::span<const iovec> body) noexcept override;
  int reply_in_place(fuse_req &req, std::size_t len) noexcept override;
  void drop(fuse_req &req) noexcept override { finish(static_cast<UringSlot &>(req), 0, 0); }
  [[nodiscard]] bool unseen() const noexcept override { return true; }
  [[nodiscard]] bool over_uring() const noexcept override { return true; }
  /// They stay as they are for serve_again().
  [[nodiscard]] bool owns_messages() const noexcept override { return false; }
  ChannelStats &stats() noexcept override { return stats_; }
  const ChannelStats &stats() const noexcept { return stats_; }

  /// Any thread.
  bool interrupt(std::uint64_t unique) noexcept;
  bool serves(std::uint64_t unique) noexcept;
  bool busy() noexcept;

  /// Show `is_it` the nodes of the requests that the filesystem has, until it says true. By the owner's thread.
  template <typename Predicate>
  void find_kept(Predicate is_it) noexcept {
    find([&](fuse_req &req) { return req.unique.load() != 0 && is_it(req.nodeid); });
  }

  // The worker's, of its own thread.
  unsigned with_kernel = 0;  // entries that wait for a request
  unsigned wanted = 0;       // entries that it is to have
  unsigned step = 1;         // see UringShare

 private:
  void take_forgets(bool urgent) noexcept;
  [[nodiscard]] bool is_to_try_again(const UringSlot &slot, int error) const noexcept;
  struct Slab {
    Mapping memory;
    std::unique_ptr<UringSlot[]> slots;
    unsigned count = 0;
  };

  template <typename Predicate>
  fuse_req *find(Predicate is_it) noexcept {
    const std::lock_guard lock(slabs_mutex_);
    for (Slab &slab : slabs_)
      for (unsigned i = 0; i < slab.count; i++)
        if (is_it(slab.slots[i]))
          return &slab.slots[i];
    return nullptr;
  }
  int copy_body(UringSlot &slot, std::span<const iovec> body) noexcept;
  void finish(UringSlot &slot, int error, std::size_t len) noexcept;

  SessionCore &session_;
  UringOwner &owner_;
  std::uint16_t qid_;
  std::size_t payload_bytes_;
  unsigned size_ = 0;
  bool timed_;
  ChannelStats stats_;
  std::mutex slabs_mutex_;  // slabs_ as such; only the owner's thread adds
  std::vector<Slab> slabs_;
};

/// Bytes of payload that the kernel wants of each entry, whole pages.
std::size_t uring_payload_bytes(std::size_t max_write) noexcept;

}  // namespace efuse
