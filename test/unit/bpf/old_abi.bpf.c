// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* For an ABI that nobody has. */
#include <efuse/fastpath.bpf.h>

SEC(".struct_ops.link")
struct efuse_fastpath_ops old_abi = {
	.abi_version = 77,
	.name = "old_abi",
};

EFUSE_LICENSE("Dual BSD/GPL");
