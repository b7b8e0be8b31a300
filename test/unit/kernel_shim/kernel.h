/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * As much of the kernel's environment as kmod/efuse_ring/ring.h, pool.c and changes.c need
 * to compile in user space, for pool_test and changes_test. Locks only check that they are held
 * where the module says so; the bitmap functions go bit by bit, which leaves
 * nothing to get wrong and keeps the kernel's documented results.
 */
#ifndef EFUSE_SHIM_KERNEL_H
#define EFUSE_SHIM_KERNEL_H

#include <errno.h>
#include <limits.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef int32_t s32;
typedef int64_t s64;
typedef uint32_t u32;
typedef uint64_t u64;

#define __user
#define __percpu
#define PAGE_SIZE		4096UL
#define BIT_ULL(n)		(1ULL << (n))
#define DIV_ROUND_UP(n, d)	(((n) + (d) - 1) / (d))
#define READ_ONCE(x)		(*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v)	(*(volatile __typeof__(x) *)&(x) = (v))

/* Calls that break the locking rules; the test expects none. */
extern unsigned long shim_lock_errors;

typedef struct { bool held; } spinlock_t;

static inline void spin_lock(spinlock_t *lock)
{
	shim_lock_errors += lock->held;
	lock->held = true;
}

static inline void spin_unlock(spinlock_t *lock)
{
	shim_lock_errors += !lock->held;
	lock->held = false;
}

#define lockdep_assert_held(lock)	((void)(shim_lock_errors += !(lock)->held))

typedef struct { int counter; } atomic_t;
typedef struct { s64 counter; } atomic64_t;

static inline void atomic_set(atomic_t *v, int to) { __atomic_store_n(&v->counter, to, __ATOMIC_RELAXED); }
static inline int atomic_read(const atomic_t *v) { return __atomic_load_n(&v->counter, __ATOMIC_RELAXED); }
static inline int atomic_read_acquire(const atomic_t *v) { return __atomic_load_n(&v->counter, __ATOMIC_ACQUIRE); }
static inline void atomic_inc(atomic_t *v) { __atomic_fetch_add(&v->counter, 1, __ATOMIC_RELAXED); }
static inline int atomic_dec_return_release(atomic_t *v) { return __atomic_sub_fetch(&v->counter, 1, __ATOMIC_RELEASE); }
static inline s64 atomic64_read(const atomic64_t *v) { return __atomic_load_n(&v->counter, __ATOMIC_RELAXED); }
static inline void atomic64_set(atomic64_t *v, s64 to) { __atomic_store_n(&v->counter, to, __ATOMIC_RELAXED); }
static inline s64 atomic64_inc_return(atomic64_t *v) { return __atomic_add_fetch(&v->counter, 1, __ATOMIC_SEQ_CST); }

static inline bool atomic64_try_cmpxchg(atomic64_t *v, u64 *old, s64 to)
{
	return __atomic_compare_exchange_n(&v->counter, (s64 *)old, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

#define smp_mb__after_atomic()	__atomic_thread_fence(__ATOMIC_SEQ_CST)
#define smp_rmb()		__atomic_thread_fence(__ATOMIC_ACQUIRE)

#define GFP_KERNEL_ACCOUNT	0
#define kvcalloc(n, size, gfp)	calloc(n, size)
#define kvfree(p)		free(p)
#define clamp_t(type, v, lo, hi) ((type)(v) < (type)(lo) ? (type)(lo) : (type)(v) > (type)(hi) ? (type)(hi) : (type)(v))

/* The kernel's multiplicative hash; any would do. */
static inline u64 hash_64(u64 value, unsigned int bits)
{
	return value * 0x61C8864680B583EBull >> (64 - bits);
}

static inline u32 order_base_2(u32 n)
{
	u32 bits = 0;

	while (bits < 31 && (1u << bits) < n)
		bits++;
	return bits;
}

struct list_head { struct list_head *next, *prev; };
struct mutex { int unused; };
struct work_struct { int unused; };
typedef struct { int unused; } wait_queue_head_t;

#define BITS_PER_LONG		(CHAR_BIT * sizeof(long))

static inline bool test_bit(unsigned long nr, const unsigned long *map)
{
	return map[nr / BITS_PER_LONG] >> nr % BITS_PER_LONG & 1;
}

static inline void __set_bit(unsigned long nr, unsigned long *map)
{
	map[nr / BITS_PER_LONG] |= 1UL << nr % BITS_PER_LONG;
}

static inline void __clear_bit(unsigned long nr, unsigned long *map)
{
	map[nr / BITS_PER_LONG] &= ~(1UL << nr % BITS_PER_LONG);
}

static inline void bitmap_set(unsigned long *map, unsigned int start, unsigned int nr)
{
	while (nr--)
		__set_bit(start++, map);
}

static inline void bitmap_clear(unsigned long *map, unsigned int start, unsigned int nr)
{
	while (nr--)
		__clear_bit(start++, map);
}

/* size if there is none at or after start. */
static inline unsigned long find_next_zero_bit(const unsigned long *map, unsigned long size,
					       unsigned long start)
{
	while (start < size && test_bit(start, map))
		start++;
	return start < size ? start : size;
}

static inline unsigned long find_first_zero_bit(const unsigned long *map, unsigned long size)
{
	return find_next_zero_bit(map, size, 0);
}

/* Above size if there is none that starts at or after start; align_mask must be 0 here. */
static inline unsigned long bitmap_find_next_zero_area(const unsigned long *map, unsigned long size,
						       unsigned long start, unsigned int nr,
						       unsigned long align_mask)
{
	unsigned long first = start, end;

	shim_lock_errors += align_mask != 0;
	for (end = start; end < size && end - first < nr; end++)
		if (test_bit(end, map))
			first = end + 1;
	return end - first == nr ? first : size + nr;
}

#endif
