// SPDX-License-Identifier: GPL-2.0-only
/*
 * Between a request's arguments and shared memory. Both sides are kernel
 * mappings, so nothing here faults or sleeps. What the daemon can write is data
 * to the copy; lengths come from the caller, who has checked them.
 */
#include <linux/highmem.h>
#include <linux/mm.h>

#include "ring.h"

#ifdef EFUSE_HAVE_FUSE_ARGS_PAGES_FOLIOS
static struct efuse_page_piece efuse_folio_piece(struct fuse_args_pages *ap, unsigned int i)
{
#ifdef EFUSE_HAVE_FUSE_ARGS_PAGES_FOLIO_DESCS
	struct fuse_folio_desc *desc = &ap->folio_descs[i];
#else
	struct fuse_folio_desc *desc = &ap->descs[i];
#endif

	return (struct efuse_page_piece) { folio_page(ap->folios[i], 0), desc->offset, desc->length };
}
#endif

/* The i-th piece of a request's data; pieces of a folio may span its pages. */
bool efuse_piece(struct fuse_args_pages *ap, unsigned int i, struct efuse_page_piece *piece)
{
#ifdef EFUSE_HAVE_FUSE_ARGS_PAGES_USES_FOLIOS
	if (ap->uses_folios) {
		if (i >= ap->num_folios)
			return false;
		*piece = efuse_folio_piece(ap, i);
		return true;
	}
#endif
#ifdef EFUSE_HAVE_FUSE_ARGS_PAGES_PAGES
	if (i >= ap->num_pages)
		return false;
	*piece = (struct efuse_page_piece) { ap->pages[i], ap->descs[i].offset, ap->descs[i].length };
	return true;
#else
	if (i >= ap->num_folios)
		return false;
	*piece = efuse_folio_piece(ap, i);
	return true;
#endif
}

/* Copy within one piece, page by page; offset may lie in a later page of a folio. */
static void efuse_copy_piece(struct page *page, unsigned int offset, void *buf, unsigned int len, bool to_page)
{
	while (len) {
		struct page *p = page + (offset >> PAGE_SHIFT);
		unsigned int in_page = offset_in_page(offset);
		unsigned int n = min_t(unsigned int, len, PAGE_SIZE - in_page);
		void *va = kmap_local_page(p);

		if (to_page)
			memcpy(va + in_page, buf, n);
		else
			memcpy(buf, va + in_page, n);
		kunmap_local(va);
		if (to_page)
			flush_dcache_page(p);
		buf += n;
		offset += n;
		len -= n;
	}
}

static void efuse_zero_piece(struct efuse_page_piece *piece)
{
	unsigned int done = 0;

	while (done < piece->len) {
		unsigned int offset = piece->offset + done;
		unsigned int n = min_t(unsigned int, piece->len - done, PAGE_SIZE - offset_in_page(offset));

		memzero_page(piece->page + (offset >> PAGE_SHIFT), offset_in_page(offset), n);
		done += n;
	}
}

static void efuse_pages_to_buf(struct fuse_args_pages *ap, void *buf, unsigned int len)
{
	struct efuse_page_piece piece;
	unsigned int i;

	for (i = 0; len && efuse_piece(ap, i, &piece); i++) {
		unsigned int n = min(len, piece.len);

		efuse_copy_piece(piece.page, piece.offset, buf, n, false);
		buf += n;
		len -= n;
	}
}

/* As the stock path: with zeroing, what a short reply leaves is cleared. */
static void efuse_buf_to_pages(struct fuse_args_pages *ap, const void *buf, unsigned int len, bool zeroing)
{
	struct efuse_page_piece piece;
	unsigned int i;

	for (i = 0; (len || zeroing) && efuse_piece(ap, i, &piece); i++) {
		unsigned int n = min(len, piece.len);

		if (!piece.page)
			goto next;
		if (zeroing && n < PAGE_SIZE) {
			/* Whole page: the stock path clears what lies around the piece too. */
			if (piece.len <= PAGE_SIZE && piece.offset + piece.len <= PAGE_SIZE)
				clear_highpage(piece.page);
			else
				efuse_zero_piece(&piece);
		}
		efuse_copy_piece(piece.page, piece.offset, (void *)buf, n, true);
next:
		buf += n;
		len -= n;
	}
}

/*
 * Header and arguments to `head`; the last argument to `last` where that is not
 * NULL. The caller has made room for all of it.
 */
void efuse_copy_in(struct fuse_req *req, void *head, void *last)
{
	struct fuse_args *args = req->args;
	unsigned int i;

	memcpy(head, &req->in.h, sizeof(req->in.h));
	head += sizeof(req->in.h);
	for (i = 0; i < args->in_numargs; i++) {
		bool is_last = i == args->in_numargs - 1;
		void *to = is_last && last ? last : head;

		if (is_last && args->in_pages)
			efuse_pages_to_buf(container_of(args, struct fuse_args_pages, args), to,
					   args->in_args[i].size);
		else
			memcpy(to, args->in_args[i].value, args->in_args[i].size);
		if (to == head)
			head += args->in_args[i].size;
	}
}

/* `len` bytes of reply body into the request. -EINVAL: not a length this request takes. */
int efuse_copy_out(struct fuse_req *req, const void *body, u32 len)
{
	struct fuse_args *args = req->args;
	u32 want = fuse_len_args(args->out_numargs, args->out_args);
	unsigned int i;

	if (len > want || (len < want && !args->out_argvar))
		return -EINVAL;
	if (len < want) {
		struct fuse_arg *last = &args->out_args[args->out_numargs - 1];

		if (want - len > last->size)
			return -EINVAL;
		last->size -= want - len;
	}
	for (i = 0; i < args->out_numargs; i++) {
		struct fuse_arg *arg = &args->out_args[i];

		if (i == args->out_numargs - 1 && args->out_pages)
			efuse_buf_to_pages(container_of(args, struct fuse_args_pages, args), body, arg->size,
					   args->page_zeroing);
		else
			memcpy(arg->value, body, arg->size);
		body += arg->size;
	}
	return 0;
}

/* Bytes of a reply's pages from `off`, copied one way or the other. Returns how many there were. */
static u32 efuse_body_pages(struct fuse_args_pages *ap, struct efuse_cursor *at, u32 off, void *buf, u32 len, bool write)
{
	struct efuse_page_piece piece;
	u32 done = 0;

	if (off < at->off)
		*at = (struct efuse_cursor) {};
	for (; done < len && efuse_piece(ap, at->piece, &piece); at->piece++, at->off += piece.len) {
		u32 in_piece = off + done - at->off;
		u32 n;

		if (in_piece >= piece.len)
			continue;
		n = min(len - done, piece.len - in_piece);
		if (piece.page)
			efuse_copy_piece(piece.page, piece.offset + in_piece, buf + done, n, write);
		else if (!write)
			memset(buf + done, 0, n);
		done += n;
		if (in_piece + n < piece.len)
			break;	/* the cursor stays on it */
	}
	return done;
}

static u32 efuse_body(struct fuse_req *req, struct efuse_cursor *at, u32 off, void *buf, u32 len, bool write)
{
	struct fuse_args *args = req->args;
	u32 start = 0, done = 0;
	unsigned int i;

	for (i = 0; i < args->out_numargs && done < len; i++) {
		struct fuse_arg *arg = &args->out_args[i];
		u32 in_arg = off + done - start, n;

		if (in_arg < arg->size) {
			n = min(len - done, arg->size - in_arg);
			if (i == args->out_numargs - 1 && args->out_pages)
				n = efuse_body_pages(container_of(args, struct fuse_args_pages, args), at, in_arg,
						     buf + done, n, write);
			else if (write)
				memcpy(arg->value + in_arg, buf + done, n);
			else
				memcpy(buf + done, arg->value + in_arg, n);
			done += n;
		}
		start += arg->size;
	}
	return done;
}

/* Part of a reply, anywhere in what the request has room for. Returns the bytes that fitted. */
u32 efuse_body_write(struct fuse_req *req, struct efuse_cursor *at, u32 off, const void *from, u32 len)
{
	return efuse_body(req, at, off, (void *)from, len, true);
}

u32 efuse_body_read(struct fuse_req *req, struct efuse_cursor *at, u32 off, void *to, u32 len)
{
	return efuse_body(req, at, off, to, len, false);
}

/* The reply that was written is `len` bytes long. -EINVAL: not a length this request takes. */
int efuse_body_end(struct fuse_req *req, u32 len)
{
	struct fuse_args *args = req->args;
	u32 want = fuse_len_args(args->out_numargs, args->out_args);
	struct efuse_page_piece piece;
	struct fuse_args_pages *ap;
	struct fuse_arg *last;
	u32 start = 0;
	unsigned int i;

	if (len > want || (len < want && !args->out_argvar))
		return -EINVAL;
	if (len == want)
		return 0;
	last = &args->out_args[args->out_numargs - 1];
	if (want - len > last->size)
		return -EINVAL;
	last->size -= want - len;
	if (!args->out_pages || !args->page_zeroing)
		return 0;
	ap = container_of(args, struct fuse_args_pages, args);
	for (i = 0; efuse_piece(ap, i, &piece); start += piece.len, i++) {
		u32 keep = last->size > start ? min(last->size - start, piece.len) : 0;

		if (!piece.page || keep == piece.len)
			continue;
		piece.offset += keep;
		piece.len -= keep;
		efuse_zero_piece(&piece);
		piece.len += keep;
	}
	return 0;
}
