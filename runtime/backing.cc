// SPDX-License-Identifier: LGPL-2.1-or-later
// Backing files for FOPEN_PASSTHROUGH. They belong to the connection, not to a
// request or a transport: two ioctls of /dev/fuse. And those that fast paths read from.
#include "changes.hh"
#include "protocol.hh"
#include "request.hh"
#include "session_core.hh"

#include <efuse/efuse_lowlevel.h>

#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

extern "C" {

int fuse_passthrough_open(fuse_req_t req, int fd) {
  efuse::protocol::BackingMap map{};
  map.fd = fd;
  const int id = ioctl(req->session->fd(), efuse::protocol::kBackingOpen, &map);
  if (id > 0) return id;
  const int error = errno;
  fuse_log(FUSE_LOG_ERR, "efuse: no backing file: %s\n", std::strerror(error));
  errno = error;
  return 0;
}

int fuse_passthrough_close(fuse_req_t req, int backing_id) {
  const auto id = static_cast<std::uint32_t>(backing_id);
  return ioctl(req->session->fd(), efuse::protocol::kBackingClose, &id);
}

void efuse_reply_backing(fuse_req_t req, int backing_id) { req->backing_id = backing_id; }

int efuse_fastpath_open(struct fuse_session *se, fuse_ino_t ino, int fd) {
  if (!se || fd < 0) return -EINVAL;
  auto *listener = efuse::from_handle(se)->changes.load(std::memory_order_acquire);
  return listener ? listener->add_backing(ino, fd) : -EOPNOTSUPP;
}

void efuse_fastpath_close(struct fuse_session *se, fuse_ino_t ino) {
  if (!se) return;
  if (auto *listener = efuse::from_handle(se)->changes.load(std::memory_order_acquire)) listener->remove_backing(ino);
}

}  // extern "C"
