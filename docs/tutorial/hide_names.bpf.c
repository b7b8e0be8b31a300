// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Names that start with hide_prefix do not exist for the user hide_uid. Programs are
 * asked in the order in which they are given: this one before any that keeps names.
 */
#include <efuse/fastpath.bpf.h>

const volatile __u32 hide_uid = 65534;
const volatile char hide_prefix[16] = "secret";

SEC("struct_ops/lookup")
int BPF_PROG(hide_lookup, struct efuse_request *req)
{
	if (req->uid != hide_uid)
		return EFUSE_FP_DECLINE;
#pragma unroll
	for (__u32 i = 0; i < sizeof(hide_prefix) && hide_prefix[i]; i++)
		if (req->name[i] != hide_prefix[i])
			return EFUSE_FP_DECLINE;
	return bpf_efuse_error(req, -ENOENT) ? EFUSE_FP_MISS : EFUSE_FP_ANSWERED;
}

SEC(".struct_ops.link")
struct efuse_fastpath_ops hide_names = {
	.lookup = (void *)hide_lookup,
	.abi_version = EFUSE_FASTPATH_ABI,
	.name = "hide_names",
};

EFUSE_LICENSE("Dual BSD/GPL");
