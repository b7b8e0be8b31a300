// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* A BPF object, and not one of ours. */
#include <efuse/fastpath.bpf.h>

SEC("socket")
int nothing(void *ctx)
{
	return 0;
}

EFUSE_LICENSE("Dual BSD/GPL");
