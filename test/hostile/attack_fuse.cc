// SPDX-License-Identifier: LGPL-2.1-or-later
#include "attack.hh"

#include <linux/fuse.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstring>

namespace hostile {
namespace {

constexpr std::int32_t kNotifyResend = 7;     // newer than some <linux/fuse.h>

/// A unique that is in flight on a ring, was, or never will be.
std::uint64_t some_unique(Rng &rng, const RingView &ring) {
  fuse_in_header head;
  std::memcpy(&head, ring.slot_in(rng.below(ring.info.depth)) + 1, sizeof head);
  const std::uint64_t choice[] = {head.unique, head.unique | 1, head.unique | 1ull << 63, head.unique + 2,
                                  rng.below(100000) * 2ull, rng.next()};
  return rng.pick(choice);
}

void one_reply(const Target &t, Rng &rng, const RingView &ring) {
  char body[256] = {};
  fuse_out_header out{};
  const std::int32_t errors[] = {0, -5, -4, -512, -1000, 1};
  out.unique = some_unique(rng, ring);
  out.error = rng.pick(errors);
  const std::uint32_t len = out.error ? 0 : rng.below(sizeof body);
  out.len = rng.one_in(10) ? static_cast<std::uint32_t>(rng.next()) : static_cast<std::uint32_t>(sizeof out + len);
  // The body may come from the rings themselves.
  iovec iov[2] = {{&out, sizeof out}, {rng.one_in(4) ? ring.payload : body, len}};
  [[maybe_unused]] const ssize_t n = ::writev(t.fuse_fd, iov, 2);
  count(t.shared, Kind::kFuseWrite);
}

template <typename T>
void notify(const Target &t, std::int32_t code, const T &arguments, const void *more = nullptr, std::size_t size = 0) {
  fuse_out_header out{};
  out.error = code;
  out.len = static_cast<std::uint32_t>(sizeof out + sizeof arguments + size);
  iovec iov[3] = {{&out, sizeof out}, {const_cast<T *>(&arguments), sizeof arguments}, {const_cast<void *>(more), size}};
  [[maybe_unused]] const ssize_t n = ::writev(t.fuse_fd, iov, 3);
  count(t.shared, Kind::kNotify);
}

void resend(const Target &t) {
  fuse_out_header out{sizeof out, kNotifyResend, 0};
  [[maybe_unused]] const ssize_t n = ::write(t.fuse_fd, &out, sizeof out);
  count(t.shared, Kind::kNotify);
}

void one_notification(const Target &t, Rng &rng) {
  const std::uint64_t node = 1 + rng.below(70);
  char name[8] = "f1", data[4096];
  switch (rng.below(6)) {
    case 0: notify(t, FUSE_NOTIFY_INVAL_INODE, fuse_notify_inval_inode_out{node, 0, rng.one_in(2) ? -1 : 4096}); break;
    case 1: notify(t, FUSE_NOTIFY_INVAL_ENTRY, fuse_notify_inval_entry_out{1, 2, 0}, name, 3); break;
    case 2: notify(t, FUSE_NOTIFY_DELETE, fuse_notify_delete_out{1, node, 2, 0}, name, 3); break;
    case 3:
      std::memset(data, 'S', sizeof data);
      notify(t, FUSE_NOTIFY_STORE, fuse_notify_store_out{node, rng.below(64) * 4096ull, sizeof data, 0}, data, sizeof data);
      break;
    case 4: notify(t, FUSE_NOTIFY_RETRIEVE, fuse_notify_retrieve_out{rng.next(), node, 0, rng.below(65536), 0}); break;
    default: notify(t, FUSE_NOTIFY_POLL, fuse_notify_poll_wakeup_out{rng.next()});
  }
}

}  // namespace

void attack_fuse(const Target &t, Rng &rng, Attachment &a) {
  const RingView &ring = a.rings()[rng.below(a.rings().size())];
  for (unsigned i = 0, n = 1 + rng.below(30); i < n; ++i)
    one_reply(t, rng, ring);
  if (rng.one_in(4))
    resend(t);
  if (t.episode.notifies && rng.one_in(2))
    one_notification(t, rng);
}

}  // namespace hostile
