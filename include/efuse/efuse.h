/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * efuse for C: a low-level FUSE filesystem served over the best transport that
 * this machine has.
 *
 *   struct efuse_session *se = efuse_session_new(&ops, sizeof(ops), userdata);
 *   efuse_session_option(se, "fsname=example,default_permissions");
 *   if (efuse_session_mount(se, "/mnt") == 0)
 *     efuse_session_run(se);
 *   efuse_session_destroy(se);
 *
 * Callbacks, fuse_reply_*(), fuse_req_*() and fuse_lowlevel_notify_*() are those of
 * <fuse_lowlevel.h>, as is the other way in: fuse_session_new(), _mount(), _loop(),
 * _loop_mt(), _unmount() and _destroy() with libfuse's meaning.
 *
 * Functions that return int give 0 or a negative errno, unless said otherwise; a text for
 * the last failure is at efuse_session_error(). A session belongs to one thread, but for
 * efuse_session_exit(), which any thread and any signal handler may call.
 */
#ifndef EFUSE_EFUSE_H
#define EFUSE_EFUSE_H

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 312
#endif
#include <fuse_lowlevel.h>

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct efuse_session;

/* NULL only if there is no memory or no descriptor left (errno). The environment (EFUSE_*) is not
 * read; see efuse_session_load_environment(). */
struct efuse_session *efuse_session_new(const struct fuse_lowlevel_ops *ops, size_t ops_size, void *userdata);

/* Configuration, before efuse_session_mount(); what is called later wins.
 * -EINVAL: not understood, efuse_session_error() names the place. */
int efuse_session_load_config(struct efuse_session *se, const char *toml_file);
int efuse_session_load_environment(struct efuse_session *se);
int efuse_session_set(struct efuse_session *se, const char *assignment); /* "ring.depth=256" */
/* Mount options as after -o, with commas between. Checked by efuse_session_mount(). */
int efuse_session_option(struct efuse_session *se, const char *options);

/* Mount, negotiate, start serving. Returns when the mount is usable; after a failure
 * nothing is left mounted. */
int efuse_session_mount(struct efuse_session *se, const char *mountpoint);
/* Serve until unmounted or until efuse_session_exit(), then unmount. */
int efuse_session_run(struct efuse_session *se);
void efuse_session_exit(struct efuse_session *se);
/* Unmount, lazily where the mount is busy. Any number of times. */
void efuse_session_unmount(struct efuse_session *se);
/* Unmount what is still mounted, call the filesystem's destroy(), free. NULL is allowed. */
void efuse_session_destroy(struct efuse_session *se);

/* One line, valid until the next call for this session; "" where nothing has failed. */
const char *efuse_session_error(const struct efuse_session *se);
/* "ring", "uring" or "dev", after efuse_session_mount(). */
const char *efuse_session_transport(const struct efuse_session *se);
/* Why not a better one; "" where there is none better or none was asked for. */
const char *efuse_session_transport_reason(const struct efuse_session *se);
/* For fuse_lowlevel_notify_*(). */
struct fuse_session *efuse_session_fuse(struct efuse_session *se);

#ifdef __cplusplus
}
#endif

#endif /* EFUSE_EFUSE_H */
