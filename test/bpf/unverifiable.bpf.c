// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// For test/e2e/fastpath_bad.py: the kernel's verifier refuses this.
#include <efuse/fastpath.bpf.h>

EFUSE_LICENSE("Dual BSD/GPL");

SEC("struct_ops/getattr")
int BPF_PROG(getattr, struct efuse_request *req)
{
	return *(volatile int *)(long)req->nodeid;	/* a number is no pointer */
}

SEC(".struct_ops.link")
struct efuse_fastpath_ops unverifiable = {
	.getattr = (void *)getattr,
	.abi_version = EFUSE_FASTPATH_ABI,
	.name = "unverifiable",
};
