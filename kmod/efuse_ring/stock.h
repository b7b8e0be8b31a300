/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between kernels in a stock connection. The rest of the module is
 * written for the newest: there the transport's half of fuse_conn is fuse_chan,
 * and holds the queue, its devices, and whether it is connected.
 */
#ifndef EFUSE_STOCK_H
#define EFUSE_STOCK_H

#include <linux/compiler.h>

#include "ring.h"

#ifdef EFUSE_HAVE_FUSE_DEV_CHAN

/* NULL: not mounted yet. A file that is open is never disconnected. */
static inline struct fuse_chan *efuse_dev_chan(struct fuse_dev *fud)
{
	return smp_load_acquire(&fud->chan);	/* pairs with fuse_dev_install() */
}

static inline struct fuse_conn *efuse_chan_conn(struct fuse_chan *chan)
{
	return chan->conn;
}

static inline void efuse_abort_chan(struct fuse_chan *chan)
{
	fuse_chan_abort(chan, false);
}

#else

static inline struct fuse_chan *efuse_dev_chan(struct fuse_dev *fud)
{
	return smp_load_acquire(&fud->fc);
}

static inline struct fuse_conn *efuse_chan_conn(struct fuse_chan *chan)
{
	return chan;
}

static inline void efuse_abort_chan(struct fuse_chan *chan)
{
	fuse_abort_conn(chan);
}

#endif

/* Said by name where there is a name for it. */
#ifdef EFUSE_HAVE_WQ_PERCPU
#define EFUSE_WQ_PERCPU	WQ_PERCPU
#else
#define EFUSE_WQ_PERCPU	0
#endif

/* NULL on kernels where a file gets its fuse_dev at mount(), not at open(). */
static inline struct fuse_dev *efuse_file_dev(struct file *file)
{
	return READ_ONCE(file->private_data);
}

static inline void efuse_put_dev(struct fuse_dev *fud)
{
#ifdef EFUSE_HAVE_FN_FUSE_DEV_PUT
	fuse_dev_put(fud);
#else
	fuse_dev_free(fud);
#endif
}

/*
 * Whether INIT has agreed on FUSE-over-io_uring. Requests then wait until the
 * daemon has registered its queues, and those replace the operations in turn.
 */
static inline bool efuse_chan_has_uring(struct fuse_chan *chan)
{
#if defined(EFUSE_HAVE_FUSE_CHAN_IO_URING)
	return READ_ONCE(chan->io_uring) || READ_ONCE(chan->ring);
#elif defined(EFUSE_HAVE_FUSE_CONN_IO_URING)
	return chan->io_uring || READ_ONCE(chan->ring);
#else
	return false;
#endif
}

#endif
