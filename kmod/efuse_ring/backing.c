// SPDX-License-Identifier: GPL-2.0-only
/*
 * READ from a file that the filesystem has named for the node: in the requester's
 * context, or a work item's for a background request; may sleep.
 */
#include <linux/bvec.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include "fastpath.h"

#define EFUSE_STACK_PIECES	8

/*
 * What READ returns is what read(2) of this file returns. A file of a FUSE or
 * stacked filesystem could lead back to this very mount.
 */
int efuse_check_backing(struct file *file)
{
	struct super_block *sb = file_inode(file)->i_sb;

	if (!S_ISREG(file_inode(file)->i_mode) || !file->f_op->read_iter)
		return -EINVAL;
	if (!(file->f_mode & FMODE_READ))
		return -EBADF;
	if (sb->s_magic == FUSE_SUPER_MAGIC || sb->s_stack_depth)
		return -ELOOP;
	return 0;
}

/* The pages of the reply; their number, or 0: they are not all there. */
static unsigned int efuse_collect(struct fuse_args_pages *ap, struct bio_vec *vec, unsigned int room, u32 len)
{
	struct efuse_page_piece piece;
	unsigned int i;

	for (i = 0; len && i < room && efuse_piece(ap, i, &piece); i++) {
		u32 n = min(len, piece.len);

		if (!piece.page)
			return 0;
		bvec_set_page(&vec[i], piece.page, n, piece.offset);
		len -= n;
	}
	return len ? 0 : i;
}

static ssize_t efuse_read_pages(struct file *file, struct bio_vec *vec, unsigned int nr, u32 len, loff_t pos)
{
	const struct cred *cred = override_creds(file->f_cred);
	struct iov_iter iter;
	ssize_t n = 0;

	iov_iter_bvec(&iter, ITER_DEST, vec, nr, len);
	while (iov_iter_count(&iter)) {
		ssize_t got = vfs_iter_read(file, &iter, &pos, 0);

		if (got < 0 && !n)
			n = got;
		if (got <= 0)
			break;
		n += got;
	}
	revert_creds(cred);
	return n;
}

static unsigned int efuse_nr_pieces(struct fuse_args_pages *ap)
{
	struct efuse_page_piece piece;
	unsigned int i;

	for (i = 0; efuse_piece(ap, i, &piece); i++)
		;
	return i;
}

/* Bytes, or an error: then the daemon is to be asked. The reply is in the request's pages, not finished. */
ssize_t efuse_read_backing(struct fuse_req *req, struct file *file)
{
	struct fuse_args *args = req->args;
	struct fuse_args_pages *ap = container_of(args, struct fuse_args_pages, args);
	struct bio_vec here[EFUSE_STACK_PIECES], *vec = here;
	const struct fuse_read_in *in;
	unsigned int nr, room;
	u32 size, len;
	ssize_t n = -EINVAL;

	in = efuse_arg(req, 0, &size);
	if (!in || size < sizeof(*in) || args->out_numargs != 1 || !args->out_pages)
		return -EINVAL;
	len = min(args->out_args[0].size, in->size);
	if (!len || in->offset > LLONG_MAX - len)
		return -EINVAL;
	room = efuse_nr_pieces(ap);
	if (room > EFUSE_STACK_PIECES) {
		vec = kvmalloc_array(room, sizeof(*vec), GFP_NOFS);
		if (!vec)
			return -ENOMEM;
	}
	nr = efuse_collect(ap, vec, room, len);
	if (nr)
		n = efuse_read_pages(file, vec, nr, len, in->offset);
	if (vec != here)
		kvfree(vec);
	return n;
}
