/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What efuse adds to libfuse's low-level API. A filesystem that uses it needs
 * libefuse; everything in <fuse_lowlevel.h> works with either.
 */
#ifndef EFUSE_LOWLEVEL_H
#define EFUSE_LOWLEVEL_H

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 312
#endif
#include <fuse_lowlevel.h>

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

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

#ifdef __cplusplus
}
#endif

#endif /* EFUSE_LOWLEVEL_H */
