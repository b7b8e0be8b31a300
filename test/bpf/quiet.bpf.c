// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Answers READLINK, quietly for everybody but root, and counts the answers that its `done` is told of. The extended
 * attribute user.told is that count.
 */
#include <efuse/fastpath.bpf.h>

static __u64 told;

SEC("struct_ops/readlink")
int BPF_PROG(quiet_readlink, struct efuse_request *req)
{
	char target[8] = "program";

	if (bpf_efuse_reply(req, target, sizeof(target) - 1))
		return EFUSE_FP_MISS;
	return req->uid ? EFUSE_FP_ANSWERED_QUIET : EFUSE_FP_ANSWERED;
}

SEC("struct_ops/getxattr")
int BPF_PROG(quiet_getxattr, struct efuse_request *req)
{
	char name[16], expected[16] = "user.told";
	struct fuse_getxattr_in in;
	__u64 count = told;

	if (bpf_efuse_arg(req, 1, name, sizeof(name)) != 10 || bpf_efuse_arg(req, 0, &in, sizeof(in)) < 8 ||
	    in.size < sizeof(count))
		return EFUSE_FP_DECLINE;
#pragma unroll
	for (__u32 i = 0; i < sizeof(name); i++)
		if (name[i] != expected[i])
			return EFUSE_FP_DECLINE;
	return bpf_efuse_reply(req, &count, sizeof(count)) ? EFUSE_FP_MISS : EFUSE_FP_ANSWERED;
}

SEC("struct_ops/done")
int BPF_PROG(quiet_done, struct efuse_request *req)
{
	if (req->opcode == FUSE_READLINK && req->answered_by == EFUSE_BY_PROGRAM)
		__sync_fetch_and_add(&told, 1);
	return 0;
}

SEC(".struct_ops.link")
struct efuse_fastpath_ops quiet = {
	.readlink = (void *)quiet_readlink,
	.getxattr = (void *)quiet_getxattr,
	.done = (void *)quiet_done,
	.abi_version = EFUSE_FASTPATH_ABI,
	.name = "quiet",
};

EFUSE_LICENSE("Dual BSD/GPL");
