// SPDX-License-Identifier: LGPL-2.1-or-later
// For efuse-libfuse alone: what the filesystems call and libfuse, or the one installed here, does not have.
#include <efuse/efuse_lowlevel.h>

#include <cerrno>

extern "C" {

/// So the kernel never hears of backing files, and the rest is not called.
int efuse_want_passthrough(fuse_conn_info *, unsigned) { return -EOPNOTSUPP; }
void efuse_reply_backing(fuse_req_t, int) {}

/// Nor does anything but the filesystem answer requests.
fuse_session *efuse_req_session(fuse_req_t) { return nullptr; }
int efuse_fastpath_open(fuse_session *, fuse_ino_t, int) { return -EOPNOTSUPP; }
void efuse_fastpath_close(fuse_session *, fuse_ino_t) {}
void efuse_hint_last_entries(fuse_req_t) {}
void efuse_hint_absent_xattrs(fuse_req_t, const char *, bool (*)(const char *, void *), void *) {}

#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 17)
int fuse_passthrough_open(fuse_req_t, int) {
  errno = EOPNOTSUPP;
  return 0;
}
int fuse_passthrough_close(fuse_req_t, int) {
  errno = EOPNOTSUPP;
  return -1;
}
#endif

#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 18)
int fuse_reply_statx(fuse_req_t req, int, struct statx *, double) { return fuse_reply_err(req, ENOSYS); }
#endif

}  // extern "C"
