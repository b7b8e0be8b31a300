/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between the two halves of `efuse exec`: the preloaded library (preload.c), which is in every program that `efuse exec`
 * starts and therefore is small and needs nothing but libc, and the module with the runtime in it (takeover.cc), which
 * it loads once libfuse's session loop is called. Both are built from one tree and installed side by side.
 */
#ifndef EFUSE_EXEC_HOST_H
#define EFUSE_EXEC_HOST_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fuse_session;
struct fuse_buf;
struct fuse_custom_io;

/* A session of libfuse whose loop was called, and the functions of the libfuse that made it. */
struct efuse_exec_host {
	struct fuse_session *session;
	int fd;                 /* of /dev/fuse; libfuse's */
	int wake_fd;            /* eventfd: counts calls of fuse_session_exit() */
	const char *mountpoint; /* absolute; "" where it is not known */
	unsigned threads;       /* that libfuse's loop would run at most; 1: fuse_session_loop() */
	bool limit;             /* the program says so: never more callbacks than that at a time */
	bool negotiated;        /* INIT was answered by a loop before */

	int (*custom_io)(struct fuse_session *, const struct fuse_custom_io *, int fd);
	void (*process_buf)(struct fuse_session *, const struct fuse_buf *);
	int (*exited)(struct fuse_session *);
};

enum efuse_exec_outcome {
	EFUSE_EXEC_SERVED,      /* until the session ended */
	EFUSE_EXEC_UNTOUCHED,   /* nothing was done: libfuse's loop can serve */
	EFUSE_EXEC_NEGOTIATED,  /* likewise, but INIT was answered */
};

/*
 * Serve the session over efuse's transports until it ends. *error: the errno it ended with, or 0. Other than SERVED:
 * `why` gets a line of text. Not from two threads for one session.
 */
typedef enum efuse_exec_outcome efuse_exec_serve_t(const struct efuse_exec_host *host, int *error, char *why,
						   size_t why_size);
efuse_exec_serve_t efuse_exec_serve;

/* The session is destroyed: no reply comes any more. */
typedef void efuse_exec_forget_t(struct fuse_session *session);
efuse_exec_forget_t efuse_exec_forget;

#ifdef __cplusplus
}
#endif

#endif
