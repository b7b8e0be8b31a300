// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Every directory lists one entry, which is made up. What must not be possible is tried before: if it is, the
 * daemon lists what is there.
 */
#include <efuse/fastpath.bpf.h>

/* Up to eight bytes of name. */
struct entry {
	struct fuse_dirent head;
	char name[8];
};

static __always_inline int offer(struct efuse_request *req, __u32 namelen, __u32 size)
{
	struct entry e = { .head = { .ino = 7, .off = 2, .namelen = namelen, .type = 8 }, .name = "wrong" };
	__u64 next;

	return bpf_efuse_reply_dirents(req, &e, size, &next);
}

/* A node that the daemon does not know of; names that are none; half of an entry. */
static __always_inline bool can_be_wrong(struct efuse_request *req)
{
	struct fuse_direntplus node = { .entry_out = { .nodeid = 77, .generation = 1 } };

	return (req->opcode == FUSE_READDIRPLUS && !bpf_efuse_reply(req, &node, sizeof(node))) ||
	       offer(req, 0, sizeof(struct entry)) != -EINVAL || offer(req, 256, sizeof(struct entry)) != -EINVAL ||
	       offer(req, ~0u, sizeof(struct entry)) != -EINVAL || offer(req, 9, sizeof(struct entry)) != -EINVAL ||
	       offer(req, 5, sizeof(struct entry) - 1) != -EINVAL || offer(req, 5, sizeof(struct fuse_dirent) - 1) != 0;
}

SEC("struct_ops/readdir")
int BPF_PROG(listing_readdir, struct efuse_request *req)
{
	struct entry e = { .head = { .ino = 7, .off = 1, .namelen = 7, .type = 8 }, .name = "made up" };
	struct fuse_read_in in;
	__u64 next = 0;

	if (bpf_efuse_arg(req, 0, &in, sizeof(in)) < (int)sizeof(in))
		return EFUSE_FP_DECLINE;
	if (in.offset)
		return bpf_efuse_error(req, 0) ? EFUSE_FP_MISS : EFUSE_FP_ANSWERED;
	if (can_be_wrong(req))
		return EFUSE_FP_DECLINE;
	if (bpf_efuse_reply_dirents(req, &e, sizeof(e), &next) != 1 || next != 1)
		return EFUSE_FP_MISS;
	return EFUSE_FP_ANSWERED;
}

SEC(".struct_ops.link")
struct efuse_fastpath_ops listing = {
	.readdir = (void *)listing_readdir,
	.abi_version = EFUSE_FASTPATH_ABI,
	.name = "listing",
};

EFUSE_LICENSE("Dual BSD/GPL");
