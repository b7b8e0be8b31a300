// SPDX-License-Identifier: GPL-2.0-only
/*
 * What programs can do with a request; include/efuse/fastpath.bpf.h tells them.
 * The verifier vouches for the request and for the buffers; lengths within the
 * request are checked here.
 */
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/file.h>

#include "fastpath.h"

__bpf_kfunc_start_defs();

__bpf_kfunc int bpf_efuse_arg(struct efuse_request *req, u32 n, void *buf, u32 buf__sz)
{
	u32 size = 0, len;
	const void *arg = efuse_arg(req->req, n, &size);

	len = arg ? min(size, buf__sz) : 0;
	if (len)
		memcpy(buf, arg, len);
	memset(buf + len, 0, buf__sz - len);
	return arg ? (int)size : -EINVAL;
}

static int efuse_append(struct efuse_request *req, const void *data, u32 size)
{
	u32 n;

	if (req->done || req->error || req->backing || size > req->reply_cap - req->written)
		return -EINVAL;
	/* It could name nodes, and the kernel would count lookups of them. */
	if (req->opcode == FUSE_READDIRPLUS)
		return -EINVAL;
	smp_rmb();	/* what the program has read is older than the data ... */
	n = efuse_body_write(req->req, &req->cursor, req->written, data, size);
	smp_rmb();	/* ... and what it reads next is newer */
	if (n != size)
		return -EINVAL;
	req->written += size;
	req->replied = true;
	return 0;
}

__bpf_kfunc int bpf_efuse_reply(struct efuse_request *req, const void *data, u32 data__sz)
{
	return efuse_append(req, data, data__sz);
}

__bpf_kfunc int bpf_efuse_reply_entry(struct efuse_request *req, const struct fuse_entry_out *out, u32 out__sz, u64 life)
{
	int err;

	if (out__sz != sizeof(*out) || req->opcode != FUSE_LOOKUP || req->written)
		return -EINVAL;
	err = efuse_append(req, out, sizeof(*out));
	if (err)
		return err;
	req->entry_given = true;
	req->life = life;
	return 0;
}

__bpf_kfunc int bpf_efuse_error(struct efuse_request *req, int error)
{
	if (req->done || req->written || req->backing || error > 0 || error <= -512)
		return -EINVAL;
	req->error = error;
	req->replied = true;
	return 0;
}

__bpf_kfunc int bpf_efuse_read_backing(struct efuse_request *req)
{
	if (req->done || req->opcode != FUSE_READ)
		return -EINVAL;
	if (!req->backing)
		req->backing = efuse_node_backing(&req->fp->nodes, req->nodeid);
	if (!req->backing)
		return -ENOENT;
	req->written = 0;	/* what was replied before does not count */
	req->error = 0;
	return 0;
}

__bpf_kfunc int bpf_efuse_result(struct efuse_request *req, u32 off, void *buf, u32 buf__sz)
{
	bool there = req->done && off <= req->reply_len && (req->body || !req->req->args->user_pages);
	u32 len = there ? min(buf__sz, req->reply_len - off) : 0;

	if (len && req->body)
		memcpy(buf, req->body + off, len);
	else if (len)
		len = efuse_body_read(req->req, &req->cursor, off, buf, len);
	memset(buf + len, 0, buf__sz - len);
	return there ? (int)len : -EINVAL;
}

__bpf_kfunc int bpf_efuse_reply_dirents(struct efuse_request *req, const void *dirents, u32 dirents__sz, u64 *next)
{
	int n;

	if (req->done || req->error || !efuse_lists(req))
		return -EINVAL;
	smp_rmb();	/* as in efuse_append() */
	n = efuse_listing_give(req, dirents, dirents__sz, next);
	smp_rmb();
	if (n > 0)
		req->replied = true;
	return n;
}

__bpf_kfunc int bpf_efuse_dirents(struct efuse_request *req, u32 *pos, u64 *next, void *buf, u32 buf__sz)
{
	bool there = req->done && !req->error && efuse_lists(req);
	u32 len = there ? efuse_listing_take(req, pos, next, buf, buf__sz) : 0;

	memset(buf + len, 0, buf__sz - len);
	return there ? (int)len : -EINVAL;
}

__bpf_kfunc int bpf_efuse_entry(struct efuse_request *req, struct fuse_entry_out *out, u32 out__sz)
{
	if (out__sz != sizeof(*out))
		return -EINVAL;
	*out = req->entry_out;
	return 0;
}

/*
 * Not bool: of that only one byte would be returned, and programs look at the whole register.
 * A name is one of its directory in this life: a later one of the same number, which
 * its FORGET has stamped, has other names.
 */
__bpf_kfunc int bpf_efuse_fresh(struct efuse_request *req, u32 kind, u64 node, u64 where, u64 tag)
{
	struct efuse_changes *c = &req->fp->changes;

	if (kind == EFUSE_NAME)
		return efuse_is_fresh(c, req->effects, kind, req->name_hash, 0, tag) &&
		       efuse_is_fresh(c, req->effects, EFUSE_DATA, req->parent, EFUSE_DATA_WHOLE, tag) ? 1 : 0;
	if (kind > EFUSE_NAME)
		return 0;
	return efuse_is_fresh(c, req->effects, kind, node, where, tag) ? 1 : 0;
}

__bpf_kfunc int bpf_efuse_touch(struct efuse_request *req, u32 kind, u64 node, u64 where)
{
	if (kind == EFUSE_NAME)
		node = req->name_hash;
	else if (kind > EFUSE_ALL)
		return -EINVAL;
	if (req->effects)
		efuse_effects_add(&req->fp->changes, req->effects, kind, node, where);
	else
		efuse_changed(&req->fp->changes, kind, node, where);
	return 0;
}

__bpf_kfunc_end_defs();

/* Where there is no such flag, no kfunc takes anything else. */
#ifndef KF_TRUSTED_ARGS
#define KF_TRUSTED_ARGS	0
#endif

BTF_KFUNCS_START(efuse_kfunc_ids)
BTF_ID_FLAGS(func, bpf_efuse_arg, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, bpf_efuse_reply, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, bpf_efuse_reply_entry, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, bpf_efuse_error, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, bpf_efuse_read_backing, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, bpf_efuse_result, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, bpf_efuse_reply_dirents, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, bpf_efuse_dirents, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, bpf_efuse_entry, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, bpf_efuse_fresh, KF_TRUSTED_ARGS)
BTF_ID_FLAGS(func, bpf_efuse_touch, KF_TRUSTED_ARGS)
BTF_KFUNCS_END(efuse_kfunc_ids)

static const struct btf_kfunc_id_set efuse_kfunc_set = {
	.owner = THIS_MODULE,
	.set = &efuse_kfunc_ids,
};

int efuse_kfuncs_init(void)
{
	return register_btf_kfunc_id_set(BPF_PROG_TYPE_STRUCT_OPS, &efuse_kfunc_set);
}
