// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a directory holds, for programs that keep it: struct fuse_dirent one after the other, whichever request
 * (READDIR, READDIRPLUS) it was the reply to, and whichever it is an answer to. READDIRPLUS is answered without
 * nodes, which the protocol allows: the kernel looks each up when somebody asks for it, and no lookup is counted here.
 */
#include <linux/string.h>

#include "fastpath.h"

bool efuse_lists(const struct efuse_request *r)
{
	return r->opcode == FUSE_READDIR || r->opcode == FUSE_READDIRPLUS;
}

/* Bytes of an entry before its struct fuse_dirent. */
static u32 efuse_before_dirent(const struct efuse_request *r)
{
	return r->opcode == FUSE_READDIRPLUS ? offsetof(struct fuse_direntplus, dirent) : 0;
}

static bool efuse_dirent_is_sane(const struct fuse_dirent *d)
{
	return d->namelen && d->namelen < EFUSE_NAME_SIZE;
}

/*
 * Whole entries of the reply from byte *pos, as many as `size` has room for. *pos: behind the last; *next: where the
 * directory goes on after it. Returns bytes of `to`. An entry that is none ends it; the kernel says what it makes of that.
 */
u32 efuse_listing_take(struct efuse_request *r, u32 *pos, u64 *next, void *to, u32 size)
{
	u32 before = efuse_before_dirent(r), done = 0;

	while (*pos <= r->reply_len && r->reply_len - *pos >= before + FUSE_NAME_OFFSET) {
		struct fuse_dirent d;
		u32 len;

		if (efuse_body_read(r->req, &r->cursor, *pos + before, &d, FUSE_NAME_OFFSET) != FUSE_NAME_OFFSET ||
		    !efuse_dirent_is_sane(&d))
			break;
		len = FUSE_DIRENT_SIZE(&d);
		if (before + len > r->reply_len - *pos || len > size - done)
			break;
		memcpy(to + done, &d, FUSE_NAME_OFFSET);
		if (efuse_body_read(r->req, &r->cursor, *pos + before + FUSE_NAME_OFFSET, to + done + FUSE_NAME_OFFSET,
				    d.namelen) != d.namelen)
			break;
		memset(to + done + FUSE_NAME_OFFSET + d.namelen, 0, len - FUSE_NAME_OFFSET - d.namelen);
		done += len;
		*pos += before + len;
		*next = d.off;
	}
	return done;
}

/*
 * Appends whole entries of `from` to the reply, until there is no room. *next: where the directory goes on after the
 * last one. Returns how many there were, or -EINVAL: what is there is no entry. It may change while it is read here.
 */
int efuse_listing_give(struct efuse_request *r, const void *from, u32 size, u64 *next)
{
	static const u8 no_node[offsetof(struct fuse_direntplus, dirent)];
	u32 before = efuse_before_dirent(r), at = 0;
	int n = 0;

	while (size - at >= FUSE_NAME_OFFSET) {
		struct fuse_dirent d;
		u32 len;

		memcpy(&d, from + at, FUSE_NAME_OFFSET);
		len = FUSE_DIRENT_SIZE(&d);
		if (!efuse_dirent_is_sane(&d) || len > size - at)
			return -EINVAL;
		if (before + len > r->reply_cap - r->written)
			break;
		if (efuse_body_write(r->req, &r->cursor, r->written, no_node, before) != before ||
		    efuse_body_write(r->req, &r->cursor, r->written + before, &d, FUSE_NAME_OFFSET) != FUSE_NAME_OFFSET ||
		    efuse_body_write(r->req, &r->cursor, r->written + before + FUSE_NAME_OFFSET,
				     from + at + FUSE_NAME_OFFSET, len - FUSE_NAME_OFFSET) != len - FUSE_NAME_OFFSET)
			return -EINVAL;
		r->written += before + len;
		at += len;
		*next = d.off;
		n++;
	}
	return n;
}
