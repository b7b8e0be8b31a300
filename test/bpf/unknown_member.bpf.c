// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// For test/e2e/fastpath_bad.py: a structure with a member that the module's does not have.
#define efuse_fastpath_ops efuse_fastpath_ops_as_it_is
#include <efuse/fastpath.bpf.h>
#undef efuse_fastpath_ops

struct efuse_fastpath_ops {
	int (*getattr)(struct efuse_request *req);
	int (*telepathy)(struct efuse_request *req);
	__u32 abi_version;
	__s32 efuse_fd;
	__u32 nodes;
	__u32 reserved;
	char name[16];
};

EFUSE_LICENSE("Dual BSD/GPL");

SEC("struct_ops/telepathy")
int BPF_PROG(telepathy, struct efuse_request *req)
{
	return EFUSE_FP_MISS;
}

SEC(".struct_ops.link")
struct efuse_fastpath_ops unknown_member = {
	.telepathy = (void *)telepathy,
	.abi_version = EFUSE_FASTPATH_ABI,
	.name = "unknown_member",
};
