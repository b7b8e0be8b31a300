/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stands in for the header that the module's build makes from BTF: only what ring.h looks into. */
#ifndef EFUSE_SHIM_FUSE_LAYOUT_H
#define EFUSE_SHIM_FUSE_LAYOUT_H

#include "kernel.h"

struct fuse_conn;
struct fuse_forget_link;
struct fuse_iqueue;
struct fuse_iqueue_ops;
struct fuse_req;

struct fuse_pqueue {
	spinlock_t lock;
};

struct fuse_dev {
	struct fuse_pqueue pq;
};

#endif
