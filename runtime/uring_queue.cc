// SPDX-License-Identifier: LGPL-2.1-or-later
#include "uring_queue.hh"

#include "dispatch.hh"
#include "protocol.hh"
#include "session_core.hh"
#include "transport.hh"

#include <linux/fuse.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace efuse {
namespace {

using protocol::UringHeaders;

// The header moves up to the first argument, so that both are one piece; what lies before is read by then.
constexpr std::size_t kHeaderAt = protocol::kUringInOut - sizeof(fuse_in_header);
static_assert(kHeaderAt >= sizeof(fuse_in_header) && kHeaderAt % 8 == 0);

/// After the answer the kernel may let go of a node, which it says by /dev/fuse.
constexpr bool lets_go(std::uint32_t opcode) noexcept {
  return opcode == FUSE_UNLINK || opcode == FUSE_RMDIR || opcode == FUSE_RENAME || opcode == FUSE_RENAME2 ||
         opcode == FUSE_RELEASE;
}

/// The answer says what is free, or the operation does as much as that is enough for.
constexpr bool goes_by_space(std::uint32_t opcode) noexcept {
  return opcode == FUSE_STATFS || opcode == FUSE_WRITE || opcode == FUSE_COPY_FILE_RANGE;
}

/// What any operation fails with if the filesystem has nothing left for it.
constexpr bool lacks_space(int error) noexcept { return error == -ENOSPC || error == -EDQUOT; }

std::size_t page_bytes() noexcept { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

std::size_t whole_pages(std::size_t bytes) noexcept {
  const std::size_t page = page_bytes();
  return (bytes + page - 1) / page * page;
}

bool overlaps(std::span<const std::byte> memory, std::span<const iovec> body) noexcept {
  const auto from = reinterpret_cast<std::uintptr_t>(memory.data());
  return std::any_of(body.begin(), body.end(), [&](const iovec &part) {
    const auto at = reinterpret_cast<std::uintptr_t>(part.iov_base);
    return part.iov_len != 0 && at < from + memory.size() && from < at + part.iov_len;
  });
}

void gather(std::byte *to, std::span<const iovec> body) noexcept {
  for (const iovec &part : body) {
    if (part.iov_len != 0 && part.iov_base != to)
      std::memmove(to, part.iov_base, part.iov_len);
    to += part.iov_len;
  }
}

}  // namespace

std::size_t uring_payload_bytes(std::size_t max_write) noexcept {
  return whole_pages(std::max<std::size_t>({max_write, protocol::kUringXattrPayload, FUSE_MIN_READ_BUFFER}));
}

bool describe(UringSlot &slot) noexcept {
  UringHeaders &headers = *slot.headers;
  fuse_in_header in;
  std::memcpy(&in, headers.in_out, sizeof in);
  slot.commit_id = headers.entry.commit_id;
  const std::size_t payload = headers.entry.payload_sz;
  if (payload > slot.payload.size() || in.len < sizeof in + payload)
    return false;
  const std::size_t argument = in.len - sizeof in - payload;
  if (argument > sizeof headers.op_in)
    return false;

  std::memcpy(headers.in_out + kHeaderAt, &in, sizeof in);
  slot.msg.head = {headers.in_out + kHeaderAt, sizeof in + argument};
  slot.msg.tail = slot.payload.first(payload);
  slot.out = slot.payload.data();
  slot.out_cap = slot.payload.size();
  if (payload > kUringKeep) {  // data, or a very long name: the reply, which is short, waits its turn
    slot.out_cap = 0;
  } else if (payload != 0) {
    auto *keep = reinterpret_cast<std::byte *>(&headers + 1);
    std::memcpy(keep, slot.payload.data(), payload);
    slot.msg.tail = {keep, payload};
  }
  return true;
}

void write_answer(UringSlot &slot, std::uint64_t unique, int error, std::size_t len) noexcept {
  fuse_out_header out{};
  out.len = static_cast<std::uint32_t>(sizeof out + len);
  out.error = error;
  out.unique = unique;
  std::memcpy(slot.headers->in_out, &out, sizeof out);
  slot.headers->entry.payload_sz = static_cast<std::uint32_t>(len);
}

UringQueue::UringQueue(SessionCore &session, UringOwner &owner, std::uint16_t qid, std::size_t payload_bytes,
                       bool stats)
    : session_(session), owner_(owner), qid_(qid), payload_bytes_(payload_bytes), timed_(stats), stats_(stats) {}

std::span<UringSlot> UringQueue::add(unsigned count) {
  Slab slab;
  const std::size_t headers = whole_pages(count * kUringHeadersBytes);
  slab.memory = Mapping::reserved(headers + count * payload_bytes_);
  // What small requests touch is a page of each buffer, and is to stay a page.
  ::madvise(slab.memory.data(), slab.memory.size(), MADV_NOHUGEPAGE);
  slab.slots = std::make_unique<UringSlot[]>(count);
  slab.count = count;
  const std::span<UringSlot> slots(slab.slots.get(), count);
  for (unsigned i = 0; i < count; i++) {
    UringSlot &slot = slots[i];
    slot.session = &session_;
    slot.channel = this;
    slot.headers = new (slab.memory.data() + i * kUringHeadersBytes) UringHeaders;
    slot.payload = {slab.memory.data() + headers + i * payload_bytes_, payload_bytes_};
    slot.buffers = {{{slot.headers, sizeof(UringHeaders)}, {slot.payload.data(), slot.payload.size()}}};
  }
  const std::lock_guard lock(slabs_mutex_);
  slabs_.push_back(std::move(slab));
  size_ += count;
  return slots;
}

void UringQueue::serve(UringSlot &slot, std::uint64_t now) noexcept {
  slot.dequeue_ns = now;
  slot.lacked = false;
  if (describe(slot)) [[likely]] {
    fuse_in_header in;
    std::memcpy(&in, slot.msg.head.data(), sizeof in);
    if (in.opcode != FUSE_NOTIFY_REPLY || in.unique != kUringStir) [[likely]] {
      if (goes_by_space(in.opcode) && session_.forgets_due.load(std::memory_order_relaxed))
        take_forgets(false);
      return dispatch(slot);
    }
    write_answer(slot, in.unique, 0, 0);
    return owner_.answered(slot);
  }
  fuse_log(FUSE_LOG_ERR, "efuse: the kernel describes a request of queue %u wrongly, it fails\n", unsigned{qid_});
  std::uint64_t unique = 0;
  std::memcpy(&unique, slot.headers->in_out + offsetof(fuse_in_header, unique), sizeof unique);
  write_answer(slot, unique, -EIO, 0);
  owner_.answered(slot);
}

void UringQueue::serve_again(UringSlot &slot) noexcept {
  slot.again = false;
  take_forgets(true);
  dispatch(slot);
}

/// What files held that are gone by now.
void UringQueue::take_forgets(bool urgent) noexcept {
  Transport *stock = session_.resting_readers.load(std::memory_order_acquire);
  session_.forgets_due.store(false, std::memory_order_relaxed);
  if (stock != nullptr && !stock->stand_in(urgent) && !urgent)
    session_.forgets_due.store(true, std::memory_order_relaxed);  // not here yet, if there are any
}

/// Once per request, and not where a copy of it waits for the same answer.
bool UringQueue::is_to_try_again(const UringSlot &slot, int error) const noexcept {
  return lacks_space(error) && !slot.lacked && session_.forgets_due.load(std::memory_order_relaxed) &&
         !session_.resends.active();
}

int UringQueue::reply(fuse_req &req, int error, std::span<const iovec> body) noexcept {
  auto &slot = static_cast<UringSlot &>(req);
  if (is_to_try_again(slot, error)) [[unlikely]] {
    slot.lacked = slot.again = true;
    owner_.answered(slot);
    return 0;
  }
  if (error != 0) {
    const bool bad = error > 0 || error <= protocol::kErrorLimit;
    finish(slot, bad ? -EIO : error, 0);
    return bad ? -EINVAL : 0;
  }
  std::size_t len = 0;
  for (const iovec &part : body) {
    if (part.iov_len > slot.payload.size() - len) {
      finish(slot, -EIO, 0);
      return -EINVAL;
    }
    len += part.iov_len;
  }
  const int failed = copy_body(slot, body);
  finish(slot, failed, failed != 0 ? 0 : len);
  return failed;
}

/// The parts of an answer may lie in the request that they overwrite. 0 or -errno.
int UringQueue::copy_body(UringSlot &slot, std::span<const iovec> body) noexcept {
  std::byte *to = slot.payload.data();
  if (body.size() <= 1 || !overlaps(slot.payload, body)) {
    gather(to, body);
    return 0;
  }
  std::size_t size = 0;
  for (const iovec &part : body)
    size += part.iov_len;
  const std::unique_ptr<void, decltype(&std::free)> apart(std::malloc(size), &std::free);
  if (!apart)
    return -ENOMEM;
  gather(static_cast<std::byte *>(apart.get()), body);
  std::memcpy(to, apart.get(), size);
  return 0;
}

int UringQueue::reply_in_place(fuse_req &req, std::size_t len) noexcept {
  finish(static_cast<UringSlot &>(req), 0, len);
  return 0;
}

void UringQueue::finish(UringSlot &slot, int error, std::size_t len) noexcept {
  write_answer(slot, slot.unique.load(std::memory_order_relaxed), error, len);
  if (timed_)
    stats_.completed(slot.opcode, Way::uring, 0, now_ns() - slot.dequeue_ns);
  slot.unique.store(0, std::memory_order_relaxed);
  if (lets_go(slot.opcode) && !session_.forgets_due.load(std::memory_order_relaxed))
    session_.forgets_due.store(true, std::memory_order_relaxed);
  owner_.answered(slot);
}

bool UringQueue::interrupt(std::uint64_t unique) noexcept {
  fuse_req *found = find([unique](fuse_req &req) { return req.unique.load() == unique; });
  // Not twice: an early interrupt may have got here before.
  if (found != nullptr && found->interrupted_unique.load() != unique)
    mark_interrupted(*found, unique);
  return found != nullptr;
}

bool UringQueue::serves(std::uint64_t unique) noexcept {
  return find([unique](fuse_req &req) { return req.owed.load() == unique; }) != nullptr;
}

bool UringQueue::busy() noexcept {
  return find([](fuse_req &req) { return req.unique.load() != 0; }) != nullptr;
}

}  // namespace efuse
