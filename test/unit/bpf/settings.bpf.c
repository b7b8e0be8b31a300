// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Understands some of the settings. */
#include <efuse/fastpath.bpf.h>

const volatile __u32 efuse_attr_mask = 0;
const volatile __u64 efuse_valid_ns = 0;
const volatile bool efuse_negative = false;
const volatile struct { __u64 a, b; } too_large = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} efuse_attrs SEC(".maps");

SEC("struct_ops/done")
int BPF_PROG(done, struct efuse_request *req)
{
	__u32 at = efuse_attr_mask;
	__u64 *value = bpf_map_lookup_elem(&efuse_attrs, &at);

	if (value && efuse_negative)
		*value = efuse_valid_ns + too_large.a;
	return 0;
}

SEC(".struct_ops.link")
struct efuse_fastpath_ops settings = {
	.done = (void *)done,
	.abi_version = EFUSE_FASTPATH_ABI,
	.name = "settings",
};

EFUSE_LICENSE("Dual BSD/GPL");
