/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kmod/efuse_ring/pool.c behind functions that C++ can call. Slot numbers must
 * be below depth; results are those of pool.c.
 */
#ifndef EFUSE_SHIM_POOL_H
#define EFUSE_SHIM_POOL_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pool_shim;

struct pool_shim *pool_shim_new(uint32_t depth, uint32_t payload_size);	/* NULL: no memory */
void pool_shim_free(struct pool_shim *pool);

int pool_shim_take(struct pool_shim *pool, uint32_t pay_bytes, bool background);
int pool_shim_take_payload(struct pool_shim *pool, uint32_t slot, uint32_t pay_bytes);
void pool_shim_put(struct pool_shim *pool, uint32_t slot);

uint32_t pool_shim_granule(void);	/* bytes */
uint32_t pool_shim_pay_first(const struct pool_shim *pool, uint32_t slot);
uint32_t pool_shim_pay_nr(const struct pool_shim *pool, uint32_t slot);
uint32_t pool_shim_background(const struct pool_shim *pool);
uint32_t pool_shim_in_flight(const struct pool_shim *pool);
uint32_t pool_shim_pay_used(const struct pool_shim *pool);
bool pool_shim_slot_bit(const struct pool_shim *pool, uint32_t slot);
bool pool_shim_pay_bit(const struct pool_shim *pool, uint32_t granule);
bool pool_shim_slot_free(const struct pool_shim *pool, uint32_t slot);	/* by its state word */
void pool_shim_use(struct pool_shim *pool, uint32_t slot, uint32_t gen);	/* as publishing does */

/* What efuse_put() does for a worker that waits for room. */
void pool_shim_set_deferred(struct pool_shim *pool, uint32_t deferred);
int pool_shim_defer_events(const struct pool_shim *pool);
unsigned long pool_shim_wakes(const struct pool_shim *pool);

/* Breaches of the locking rules since the program started. */
unsigned long pool_shim_lock_errors(void);

#ifdef __cplusplus
}
#endif

#endif
