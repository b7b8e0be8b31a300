// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// For test/e2e/fastpath_bad.py: made for an interface that there is not.
#include <efuse/fastpath.bpf.h>

EFUSE_LICENSE("Dual BSD/GPL");

SEC("struct_ops/getattr")
int BPF_PROG(getattr, struct efuse_request *req)
{
	return EFUSE_FP_MISS;
}

SEC(".struct_ops.link")
struct efuse_fastpath_ops other_abi = {
	.getattr = (void *)getattr,
	.abi_version = EFUSE_FASTPATH_ABI + 98,
	.name = "other_abi",
};
