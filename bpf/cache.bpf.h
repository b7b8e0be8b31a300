/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Caches of what replies have said, in array maps: an element is a set of eight
 * ways, found by hash. BPF_MAP_TYPE_LRU_HASH is of no use here: it gives an
 * element to another key while a program still reads it, and what was read would be
 * half of each, or another file's. Elements of an array stay where they are, and each
 * way has a sequence number that tells whether it has been written meanwhile.
 *
 * A writer makes it odd with a compare-and-swap (two at once: the second does not
 * keep its answer), writes, and makes it even. A reader notes it, compares the key,
 * reads, and looks at it again: if it was odd or is another now, that was a miss. What
 * has been appended to a reply by then is thrown away by the module.
 *
 * Nothing here is believed: the maps are writable by their owner. An index is
 * masked and a length is compared before use, and a wrong answer is the worst there is.
 */
#ifndef EFUSE_CACHE_BPF_H
#define EFUSE_CACHE_BPF_H

#include <efuse/fastpath.bpf.h>

#define WAYS		8u
#define NO_WAY		WAYS
#define LAST_WAY	(WAYS - 1)

/* Set before loading. An answer older than this is none; 0: only what has changed is. */
const volatile __u64 efuse_valid_ns = 0;

/* Of a set. What is in the ways is compared in full; these say where to look. */
struct set_head {
	__u64 hint[WAYS];	/* 0: never used */
	__u32 seq[WAYS];
	__u8 used[WAYS];	/* since the last search for a victim */
	__u8 reserved[24];
};

#define set_map(name_, type_)				\
	struct {					\
		__uint(type, BPF_MAP_TYPE_ARRAY);	\
		__uint(max_entries, 1);			\
		__type(key, __u32);			\
		__type(value, struct type_);		\
	} name_ SEC(".maps")

#define load(x)		(*(const volatile typeof(x) *)&(x))
#define store(x, v)	(*(volatile typeof(x) *)&(x) = (v))
#define barrier()	asm volatile("" ::: "memory")
/* The compiler shall not know where it comes from, so that what was checked is what is used. */
#define opaque(x)	asm volatile("" : "+r"(x))

/* Loads before and after it, and stores before and after it, stay in order. x86 keeps them in order itself. */
static __always_inline void order(void)
{
	barrier();
#ifndef __TARGET_ARCH_x86
	__u64 word = 0;

	/* With its result used this is one that orders everything. */
	word = __sync_fetch_and_add(&word, 0);
	opaque(word);
#endif
}

static __always_inline __u64 mix(__u64 a, __u64 b)
{
	a = (a ^ b) * 0x9e3779b97f4a7c15ull;
	return a ^ (a >> 32);
}

/* Unrolled: a request can only be read at constant offsets. One by one, or all would be on the stack in between. */
static __always_inline void copy_words(void *to, const void *from, __u32 bytes)
{
	__u32 i;

#pragma unroll
	for (i = 0; i < bytes / 8; i++) {
		((__u64 *)to)[i] = ((const __u64 *)from)[i];
		barrier();
	}
}

/* 0: the same. */
static __always_inline __u64 differ_words(const void *a, const void *b, __u32 bytes)
{
	__u64 d = 0;
	__u32 i;

#pragma unroll
	for (i = 0; i < bytes / 8; i++) {
		d |= ((const __u64 *)a)[i] ^ ((const __u64 *)b)[i];
		opaque(d);
		barrier();
	}
	return d;
}

/*
 * The way with this hint, or NO_WAY. A global function, as is the next: the verifier takes what
 * it returns for any number, and need not go on with each of the eight cases.
 */
__noinline __u32 way_of(struct set_head *head, __u64 hint)
{
	__u32 i;

	if (!head)
		return NO_WAY;
#pragma unroll
	for (i = 0; i < WAYS; i++)
		if (load(head->hint[i]) == hint)
			return i;
	return NO_WAY;
}

/* The way to give up: one never used, or else one not used lately, beginning anywhere. */
__noinline __u32 victim(struct set_head *head)
{
	__u32 start = bpf_get_prandom_u32(), i;

	if (!head)
		return 0;
#pragma unroll
	for (i = 0; i < WAYS; i++)
		if (!load(head->hint[i]))
			return i;
#pragma unroll
	for (i = 0; i < WAYS; i++) {
		__u32 w = (start + i) & LAST_WAY;

		if (!load(head->used[w]))
			return w;
		store(head->used[w], 0);
	}
	return start & LAST_WAY;
}

static __always_inline void mark_used(struct set_head *head, __u32 w)
{
	w &= LAST_WAY;
	/* Not written by each of many readers. */
	if (!load(head->used[w]))
		store(head->used[w], 1);
}

/* Reading a way: begin, read, changed. */
static __always_inline __u32 read_begin(struct set_head *head, __u32 w)
{
	__u32 seq = load(head->seq[w & LAST_WAY]);

	order();
	return seq;
}

static __always_inline bool read_changed(struct set_head *head, __u32 w, __u32 seq)
{
	order();
	return (seq & 1) || load(head->seq[w & LAST_WAY]) != seq;
}

/* Writing one. 0: somebody else does. */
static __always_inline __u32 write_begin(struct set_head *head, __u32 w, __u64 hint)
{
	__u32 *word = &head->seq[w & LAST_WAY];
	__u32 seq = load(*word);

	if ((seq & 1) || __sync_val_compare_and_swap(word, seq, seq + 1) != seq)
		return 0;
	order();
	store(head->hint[w & LAST_WAY], hint);
	return seq + 1;
}

static __always_inline void write_end(struct set_head *head, __u32 w, __u32 seq)
{
	order();
	store(head->seq[w & LAST_WAY], seq + 1);
}

/* Where an answer is kept that has this hint. */
static __always_inline __u32 way_for(struct set_head *head, __u64 hint)
{
	__u32 w = way_of(head, hint);

	if (w >= WAYS)
		w = victim(head);
	return w & LAST_WAY;
}

static __always_inline __u64 time_now(void)
{
	return efuse_valid_ns ? bpf_ktime_get_ns() : 0;
}

static __always_inline bool too_old(__u64 time)
{
	return efuse_valid_ns && bpf_ktime_get_ns() - time >= efuse_valid_ns;
}

#endif
