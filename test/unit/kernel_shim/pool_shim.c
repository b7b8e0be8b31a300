/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The module's own pool.c, compiled for pool_test. */
#include "../../../kmod/efuse_ring/pool.c"

#include "pool_shim.h"

#include <stdlib.h>

unsigned long shim_lock_errors;

struct pool_shim {
	struct efuse_ring ring;		/* first: efuse_wake_worker() gets here from it */
	struct efuse_conn conn;
	struct efuse_kern_head kh;
	unsigned long wakes;
};

void efuse_wake_worker(struct efuse_ring *ring)
{
	shim_lock_errors += ring->lock.held;	/* it takes the wait queue's lock */
	((struct pool_shim *)ring)->wakes++;
}

static unsigned long *map_new(uint32_t bits)
{
	return calloc(DIV_ROUND_UP(bits, BITS_PER_LONG), sizeof(long));
}

struct pool_shim *pool_shim_new(uint32_t depth, uint32_t payload_size)
{
	struct pool_shim *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	pool->conn.depth = depth;
	pool->conn.payload_size = payload_size;
	pool->ring.ec = &pool->conn;
	pool->ring.kh = &pool->kh;
	pool->ring.slots = calloc(depth, sizeof(*pool->ring.slots));
	pool->ring.slot_map = map_new(depth);
	pool->ring.pay_map = map_new(payload_size / EFUSE_GRANULE);
	if (pool->ring.slots && pool->ring.slot_map && pool->ring.pay_map)
		return pool;
	pool_shim_free(pool);
	return NULL;
}

void pool_shim_free(struct pool_shim *pool)
{
	free(pool->ring.pay_map);
	free(pool->ring.slot_map);
	free(pool->ring.slots);
	free(pool);
}

int pool_shim_take(struct pool_shim *pool, uint32_t pay_bytes, bool background)
{
	return efuse_take(&pool->ring, pay_bytes, background);
}

int pool_shim_take_payload(struct pool_shim *pool, uint32_t slot, uint32_t pay_bytes)
{
	return efuse_take_payload(&pool->ring, slot, pay_bytes);
}

void pool_shim_put(struct pool_shim *pool, uint32_t slot)
{
	efuse_put(&pool->ring, slot);
}

uint32_t pool_shim_granule(void)
{
	return EFUSE_GRANULE;
}

uint32_t pool_shim_pay_first(const struct pool_shim *pool, uint32_t slot)
{
	return pool->ring.slots[slot].pay_first;
}

uint32_t pool_shim_pay_nr(const struct pool_shim *pool, uint32_t slot)
{
	return pool->ring.slots[slot].pay_nr;
}

uint32_t pool_shim_background(const struct pool_shim *pool)
{
	return pool->ring.background;
}

uint32_t pool_shim_in_flight(const struct pool_shim *pool)
{
	return pool->ring.in_flight;
}

uint32_t pool_shim_pay_used(const struct pool_shim *pool)
{
	return pool->ring.pay_used;
}

bool pool_shim_slot_bit(const struct pool_shim *pool, uint32_t slot)
{
	return test_bit(slot, pool->ring.slot_map);
}

bool pool_shim_pay_bit(const struct pool_shim *pool, uint32_t granule)
{
	return test_bit(granule, pool->ring.pay_map);
}

void pool_shim_use(struct pool_shim *pool, uint32_t slot, uint32_t gen)
{
	pool->ring.slots[slot].gen = gen;
	atomic_set(&pool->ring.slots[slot].state, efuse_slot_word(gen, EFUSE_SLOT_INFLIGHT));
}

bool pool_shim_slot_free(const struct pool_shim *pool, uint32_t slot)
{
	struct efuse_slot *s = &pool->ring.slots[slot];

	return atomic_read(&s->state) == efuse_slot_word(s->gen, EFUSE_SLOT_FREE);
}

void pool_shim_set_deferred(struct pool_shim *pool, uint32_t deferred)
{
	pool->kh.deferred = deferred;
}

int pool_shim_defer_events(const struct pool_shim *pool)
{
	return atomic_read(&pool->ring.defer_events);
}

unsigned long pool_shim_wakes(const struct pool_shim *pool)
{
	return pool->wakes;
}

unsigned long pool_shim_lock_errors(void)
{
	return shim_lock_errors;
}
