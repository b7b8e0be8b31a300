// SPDX-License-Identifier: LGPL-2.1-or-later
// fuse_lowlevel_notify_*(): messages that no request asked for.
#include "notify.hh"

#include "changes.hh"
#include "protocol.hh"
#include "reply.hh"
#include "session_core.hh"

#include <efuse/efuse_lowlevel.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <new>

namespace efuse {
namespace {

int send_notification(SessionCore &session, std::int32_t code, std::span<const iovec> body) noexcept {
  if (!session.got_init.load(std::memory_order_acquire)) return -ENOTCONN;
  if (session.debug) fuse_log(FUSE_LOG_DEBUG, "NOTIFY: code=%d length=%zu\n", code,
                              sizeof(fuse_out_header) + iov_size(body));
  return session.notify(code, body);
}

/// The session behind a handle if its kernel knows protocol 7.`minor`; otherwise
/// nullptr and `error` is what to return.
SessionCore *session_for(fuse_session *handle, unsigned minor, int &error) noexcept {
  SessionCore *session = from_handle(handle);
  error = !session ? -EINVAL : session->conn.proto_minor < minor ? -ENOSYS : 0;
  return error ? nullptr : session;
}

template <class T>
iovec part(const T &object) noexcept {
  return {const_cast<T *>(&object), sizeof(T)};
}

/// Tell whoever answers in the kernel. Before the notification is sent, and whatever becomes of that: when
/// fuse_lowlevel_notify_*() returns, nothing older is answered.
template <class Tell>
void tell(fuse_session *handle, Tell tell_listener) noexcept {
  if (!handle) return;
  if (ChangeListener *listener = from_handle(handle)->changes.load(std::memory_order_acquire)) [[unlikely]]
    tell_listener(*listener);
}

/// As in the kernel's own cache, the directory's attributes go with the entry.
void tell_entry(fuse_session *handle, fuse_ino_t parent, const char *name, std::size_t length) noexcept {
  tell(handle, [=](ChangeListener &listener) {
    listener.changed_name(parent, {name, length});
    listener.changed(parent);
  });
}

int notify_entry(SessionCore &session, std::int32_t code, iovec header, const char *name,
                 std::size_t length) noexcept {
  static constexpr char nul = '\0';  // `name` need not be terminated
  const std::array<iovec, 3> body{header, iovec{const_cast<char *>(name), length}, part(nul)};
  return send_notification(session, code, body);
}

}  // namespace

bool take_retrieve(SessionCore &session, std::uint64_t unique, void *&cookie) noexcept {
  const std::lock_guard lock(session.retrieve_mutex);
  const auto found = session.retrieves.find(unique);
  if (found == session.retrieves.end()) return false;
  cookie = found->second;
  session.retrieves.erase(found);
  return true;
}

namespace {

/// Returns 0 or -errno; a reply may come as soon as the notification is out, so it is known before.
int add_retrieve(SessionCore &session, void *cookie, std::uint64_t &unique) noexcept {
  try {
    const std::lock_guard lock(session.retrieve_mutex);
    unique = session.next_retrieve;
    session.next_retrieve += 2;
    session.retrieves.emplace(unique, cookie);
    return 0;
  } catch (const std::bad_alloc &) {
    return -ENOMEM;
  }
}

int send_store(SessionCore &session, fuse_ino_t ino, off_t offset, const void *data,
               std::size_t size) noexcept {
  fuse_notify_store_out out{};
  out.nodeid = ino;
  out.offset = static_cast<std::uint64_t>(offset);
  out.size = static_cast<std::uint32_t>(size);
  const std::array<iovec, 2> body{part(out), iovec{const_cast<void *>(data), size}};
  return send_notification(session, FUSE_NOTIFY_STORE, body);
}

}  // namespace
}  // namespace efuse

extern "C" {

int fuse_lowlevel_notify_poll(struct fuse_pollhandle *ph) {
  if (!ph) return 0;
  fuse_notify_poll_wakeup_out out{};
  out.kh = ph->kh;
  const iovec body = efuse::part(out);
  return efuse::send_notification(*ph->session, FUSE_NOTIFY_POLL, {&body, 1});
}

void fuse_pollhandle_destroy(struct fuse_pollhandle *ph) { delete ph; }

int fuse_lowlevel_notify_inval_inode(struct fuse_session *se, fuse_ino_t ino, off_t off, off_t len) {
  efuse::tell(se, [=](efuse::ChangeListener &listener) { listener.changed(ino); });
  int error = 0;
  auto *session = efuse::session_for(se, 12, error);
  if (!session) return error;
  fuse_notify_inval_inode_out out{};
  out.ino = ino;
  out.off = off;
  out.len = len;
  const iovec body = efuse::part(out);
  return efuse::send_notification(*session, FUSE_NOTIFY_INVAL_INODE, {&body, 1});
}

static int notify_inval_entry(struct fuse_session *se, fuse_ino_t parent, const char *name, size_t namelen,
                              std::uint32_t flags) {
  efuse::tell_entry(se, parent, name, namelen);
  int error = 0;
  auto *session = efuse::session_for(se, 12, error);
  if (!session) return error;
  fuse_notify_inval_entry_out out{};
  out.parent = parent;
  out.namelen = static_cast<std::uint32_t>(namelen);
  out.flags = flags;
  return efuse::notify_entry(*session, FUSE_NOTIFY_INVAL_ENTRY, efuse::part(out), name, namelen);
}

int fuse_lowlevel_notify_inval_entry(struct fuse_session *se, fuse_ino_t parent, const char *name,
                                     size_t namelen) {
  return notify_inval_entry(se, parent, name, namelen, 0);
}

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
int fuse_lowlevel_notify_expire_entry(struct fuse_session *se, fuse_ino_t parent, const char *name,
                                      size_t namelen) {
  if (se && !(efuse::from_handle(se)->conn.capable & FUSE_CAP_EXPIRE_ONLY)) {
    efuse::tell_entry(se, parent, name, namelen);
    return -ENOSYS;
  }
  return notify_inval_entry(se, parent, name, namelen, FUSE_EXPIRE_ONLY);
}
#else
int fuse_lowlevel_notify_expire_entry(struct fuse_session *se, fuse_ino_t parent, const char *name,
                                      size_t namelen, enum fuse_expire_flags flags) {
  return notify_inval_entry(se, parent, name, namelen, flags & FUSE_LL_EXPIRE_ONLY ? FUSE_EXPIRE_ONLY : 0u);
}
#endif

int fuse_lowlevel_notify_delete(struct fuse_session *se, fuse_ino_t parent, fuse_ino_t child,
                                const char *name, size_t namelen) {
  efuse::tell_entry(se, parent, name, namelen);
  efuse::tell(se, [=](efuse::ChangeListener &listener) { listener.changed(child); });
  int error = 0;
  auto *session = efuse::session_for(se, 18, error);
  if (!session) return error;
  fuse_notify_delete_out out{};
  out.parent = parent;
  out.child = child;
  out.namelen = static_cast<std::uint32_t>(namelen);
  return efuse::notify_entry(*session, FUSE_NOTIFY_DELETE, efuse::part(out), name, namelen);
}

int fuse_lowlevel_notify_store(struct fuse_session *se, fuse_ino_t ino, off_t offset,
                               struct fuse_bufvec *bufv, enum fuse_buf_copy_flags flags) {
  efuse::tell(se, [=](efuse::ChangeListener &listener) { listener.changed(ino); });
  int error = 0;
  auto *session = efuse::session_for(se, 15, error);
  if (!session) return error;
  const std::size_t size = efuse::bufvec_left(*bufv);
  const bool one = bufv->count == bufv->idx + 1;
  if (size > UINT32_MAX) return -EINVAL;  // fuse_notify_store_out.size
  if (one && !(bufv->buf[bufv->idx].flags & FUSE_BUF_IS_FD))
    return efuse::send_store(*session, ino, offset,
                             static_cast<char *>(bufv->buf[bufv->idx].mem) + bufv->off, size);
  const std::unique_ptr<void, decltype(&std::free)> memory(std::malloc(std::max<std::size_t>(size, 1)),
                                                           &std::free);
  if (!memory) return -ENOMEM;
  fuse_bufvec to = efuse::memory_bufvec(memory.get(), size);
  const ssize_t got = fuse_buf_copy(&to, bufv, flags);
  if (got < 0) return static_cast<int>(got);
  return efuse::send_store(*session, ino, offset, memory.get(), static_cast<std::size_t>(got));
}

int fuse_lowlevel_notify_retrieve(struct fuse_session *se, fuse_ino_t ino, size_t size, off_t offset,
                                  void *cookie) {
  int error = 0;
  auto *session = efuse::session_for(se, 15, error);
  if (!session) return error;
  fuse_notify_retrieve_out out{};
  if ((error = efuse::add_retrieve(*session, cookie, out.notify_unique))) return error;
  out.nodeid = ino;
  out.offset = static_cast<std::uint64_t>(offset);
  out.size = static_cast<std::uint32_t>(std::min<std::size_t>(size, UINT32_MAX));
  const iovec body = efuse::part(out);
  error = efuse::send_notification(*session, FUSE_NOTIFY_RETRIEVE, {&body, 1});
  if (error) efuse::take_retrieve(*session, out.notify_unique, cookie);
  return error;
}

int fuse_lowlevel_notify_increment_epoch(struct fuse_session *se) {
  efuse::tell(se, [](efuse::ChangeListener &listener) { listener.changed_all(); });
  int error = 0;
  auto *session = efuse::session_for(se, 44, error);
  return session ? efuse::send_notification(*session, efuse::protocol::kNotifyIncEpoch, {}) : error;
}

int fuse_lowlevel_notify_prune(struct fuse_session *se, fuse_ino_t *nodeids, uint32_t count) {
  static_assert(sizeof(fuse_ino_t) == sizeof(std::uint64_t));
  constexpr uint32_t kOneByOne = 64;
  efuse::tell(se, [=](efuse::ChangeListener &listener) {
    if (count > kOneByOne) return listener.changed_all();
    for (uint32_t i = 0; i < count; ++i) listener.changed(nodeids[i]);
  });
  int error = 0;
  auto *session = efuse::session_for(se, 45, error);
  if (!session) return error;
  efuse::protocol::NotifyPruneOut out{};
  out.count = count;
  const std::array<iovec, 2> body{efuse::part(out), iovec{nodeids, count * sizeof(*nodeids)}};
  return efuse::send_notification(*session, efuse::protocol::kNotifyPrune, body);
}

int efuse_notify_resend(struct fuse_session *se) {
  auto *session = efuse::from_handle(se);
  if (!session) return -EINVAL;
  if (!(session->kernel_flags & efuse::protocol::kHasResend)) return -ENOSYS;
  session->resends.first_may_follow = true;  // a first copy may be with a reader that has yet to dispatch it
  return efuse::send_notification(*session, efuse::protocol::kNotifyResend, {});
}

}  // extern "C"
