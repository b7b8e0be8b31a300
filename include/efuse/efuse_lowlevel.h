/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What efuse adds to libfuse's low-level API, and what newer libfuse has and the installed
 * headers may lack: with its names, its meaning and its layout, so that a filesystem compiles
 * against either. Everything here needs libefuse; what <fuse_lowlevel.h> has works with both.
 */
#ifndef EFUSE_LOWLEVEL_H
#define EFUSE_LOWLEVEL_H

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 312
#endif
#include <fuse_lowlevel.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct statx;

/* ---- Callbacks ------------------------------------------------------------------------- */

/*
 * struct fuse_lowlevel_ops with the three callbacks that follow lseek in newer libfuse. Pass
 * &ops.base and sizeof(ops), wherever a table and its size are wanted. In C++, write
 * `efuse_lowlevel_ops ops{}; ops.base = {...}; ops.tmpfile = ...`: that compiles with any header.
 *
 * tmpfile(parent, mode, fi): O_TMPFILE, an open file without a name. Answer with
 *   fuse_reply_create() or fuse_reply_err(). Linux 6.1.
 * statx(ino, flags, mask, fi): answer with fuse_reply_statx() or fuse_reply_err(). fi is NULL
 *   if the file is not open. Linux 6.6.
 * syncfs(ino): answer with fuse_reply_err(). Linux asks virtio-fs and, where newer, fuseblk
 *   mounts, no others. Absent: ENOSYS, and it does not ask again.
 */
#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 15)
struct efuse_lowlevel_ops {
  struct fuse_lowlevel_ops base;
  void (*tmpfile)(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi);
  void (*statx)(fuse_req_t req, fuse_ino_t ino, int flags, int mask, struct fuse_file_info *fi);
  void (*syncfs)(fuse_req_t req, fuse_ino_t ino);
};
#else
struct efuse_lowlevel_ops {
  __extension__ union {
    struct fuse_lowlevel_ops base;
    __extension__ struct {
      void (*init_to_lseek[44])(void);
      void (*tmpfile)(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi);
      void (*statx)(fuse_req_t req, fuse_ino_t ino, int flags, int mask, struct fuse_file_info *fi);
      void (*syncfs)(fuse_req_t req, fuse_ino_t ino);
    };
  };
};
#endif

/* ---- Negotiation, from init() ------------------------------------------------------------ */

/* Capabilities without a name in older headers; the values are libfuse's. */
#ifndef FUSE_CAP_HANDLE_KILLPRIV_V2
#define FUSE_CAP_HANDLE_KILLPRIV_V2 (1UL << 21)
#endif
#ifndef FUSE_CAP_SETXATTR_EXT
#define FUSE_CAP_SETXATTR_EXT (1UL << 27)
#endif
#ifndef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
#define FUSE_CAP_DIRECT_IO_ALLOW_MMAP (1UL << 28)
#endif
#ifndef FUSE_CAP_PASSTHROUGH
#define FUSE_CAP_PASSTHROUGH (1UL << 29)
#endif
#ifndef FUSE_CAP_NO_EXPORT_SUPPORT
#define FUSE_CAP_NO_EXPORT_SUPPORT (1UL << 30)
#endif

#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 17)
/*
 * Want a capability (true), or say that the kernel does not offer it (false); want it no more;
 * ask whether it is wanted. The same as changing conn->want.
 */
bool fuse_set_feature_flag(struct fuse_conn_info *conn, uint64_t flag);
void fuse_unset_feature_flag(struct fuse_conn_info *conn, uint64_t flag);
bool fuse_get_feature_flag(const struct fuse_conn_info *conn, uint64_t flag);
#endif

#ifndef FUSE_CONN_FLAG_NO_INTERRUPT
#define FUSE_CONN_FLAG_SINGLE_ISSUER (1U << 0)
#define FUSE_CONN_FLAG_NO_INTERRUPT (1U << 1)
/*
 * NO_INTERRUPT: the filesystem cannot interrupt requests, do not tell it to. SINGLE_ISSUER is
 * about io_uring and changes nothing here. false: not a flag that is known.
 */
bool fuse_set_conn_flag(struct fuse_conn_info *conn, uint32_t flag);
#endif

/*
 * Want READ and WRITE of files to go from the kernel straight to a backing file (Linux 6.9,
 * the server needs CAP_SYS_ADMIN): see fuse_passthrough_open(). max_stack_depth: 0, backing
 * files lie on ordinary filesystems; 1: on stacked ones too (overlayfs), and then this mount
 * cannot be stacked upon. Excludes FUSE_CAP_WRITEBACK_CACHE, which is taken back.
 * Returns 0, -EOPNOTSUPP where the kernel does not offer it, or -EINVAL.
 */
int efuse_want_passthrough(struct fuse_conn_info *conn, unsigned max_stack_depth);

/* ---- Requests -------------------------------------------------------------------------- */

/*
 * Where the reply of this request may be written, so that READ, READDIR and the
 * like need no copy: over rings this is the memory the kernel reads from.
 * *cap: bytes there, at most what the kernel accepts. Returns NULL, with *cap 0,
 * where the request has no such place; use fuse_reply_buf() then. Aligned to 8
 * bytes, contents undefined. Valid until the request is replied to, from any
 * thread. fuse_reply_buf() notices data that is already there and does not copy.
 */
void *efuse_req_reply_area(fuse_req_t req, size_t *cap);

/*
 * Reply with the first len bytes of that place. Returns 0, or -errno as every
 * fuse_reply_*() does; -EINVAL for len beyond cap, and the request gets EIO.
 */
int efuse_reply_in_place(fuse_req_t req, size_t len);

/*
 * A backing file for FOPEN_PASSTHROUGH: fd stays the caller's and may be closed afterwards.
 * Returns an id > 0, or 0 where it failed (errno says why). Any thread.
 */
int fuse_passthrough_open(fuse_req_t req, int fd);
/* Give that id back, after the last RELEASE that used it. Returns 0, or -1 with errno. */
int fuse_passthrough_close(fuse_req_t req, int backing_id);

/*
 * The fuse_reply_open() or fuse_reply_create() of this request that follows sets FOPEN_PASSTHROUGH
 * and this id. Newer libfuse has fuse_file_info.backing_id for it, which works as well.
 */
void efuse_reply_backing(fuse_req_t req, int backing_id);

/* The session that the request belongs to, for what needs one and no request. Valid as long as the session is. */
struct fuse_session *efuse_req_session(fuse_req_t req);

/* ---- Fast paths, see <efuse/fastpath.hh> -------------------------------------------------- */

/*
 * READs of this node may be answered in the kernel from fd: open for reading, on a filesystem that is not FUSE; it
 * holds what READ would return, and the kernel reads it with the rights of who opened it. fd stays the caller's and
 * may be closed afterwards; a second call for the node replaces the first. Returns 0, -EOPNOTSUPP where no fast path
 * wants it (never ask again), or another -errno. Any thread.
 */
int efuse_fastpath_open(struct fuse_session *se, fuse_ino_t ino, int fd);
/* No more; READs that have begun end. It is also over with the node's last FORGET. Any thread. */
void efuse_fastpath_close(struct fuse_session *se, fuse_ino_t ino);

/*
 * Before a reply to READDIR or READDIRPLUS: no entries follow those that are in it, so the kernel's next question need not
 * come here. As true as the reply; to be called by whoever replies.
 */
void efuse_hint_last_entries(fuse_req_t req);

/*
 * Before a reply of ENODATA to GETXATTR of `name`: of which other names would it be the same? absent(other, data) is
 * called at once for each that is commonly asked for, and has been in this session, and is to return whether the node has
 * no attribute of that name: to the same caller, and as true as the reply. It is not called where no fast path would
 * remember it. To be called by whoever replies.
 */
void efuse_hint_absent_xattrs(fuse_req_t req, const char *name, bool (*absent)(const char *other, void *data),
                              void *data);

#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 18)
/* flags: 0. statx: the kernel's structure, stx_mask as filled in. attr_timeout: seconds. */
int fuse_reply_statx(fuse_req_t req, int flags, struct statx *statx, double attr_timeout);

/* Did this request come over io_uring? Over rings it did not. */
bool fuse_req_is_uring(fuse_req_t req);
/*
 * libfuse's name for efuse_req_reply_area(): *payload and *payload_sz, and *mr (if not NULL) is
 * NULL. Returns 0, or -EINVAL where the request has no such place.
 */
int fuse_req_get_payload(fuse_req_t req, char **payload, size_t *payload_sz, void **mr);

/* ---- Notifications ---------------------------------------------------------------------- */

/* Every cached entry is looked up anew. 0 or -errno; -ENOSYS before protocol 7.44 (Linux 6.16). */
int fuse_lowlevel_notify_increment_epoch(struct fuse_session *se);
#endif
/*
 * Drop these nodes from the kernel's caches, as far as nobody uses them. 0 or -errno; -ENOSYS
 * before protocol 7.45 (Linux 6.18).
 */
int fuse_lowlevel_notify_prune(struct fuse_session *se, fuse_ino_t *nodeids, uint32_t count);

/*
 * Have the kernel send every request again that it has handed over and that is not answered
 * yet. Those that are still being worked on here are recognised and not given to the filesystem
 * twice: the one reply goes to the kernel's new request. A request whose reply was under way at
 * that moment may reach the filesystem a second time. For a daemon that has lost some of them.
 * Returns 0, -ENOSYS where the kernel lacks FUSE_HAS_RESEND (Linux 6.9), or another -errno.
 */
int efuse_notify_resend(struct fuse_session *se);

#ifdef __cplusplus
}
#endif

#endif /* EFUSE_LOWLEVEL_H */
