// SPDX-License-Identifier: GPL-2.0-only
/*
 * Step 2 for what nobody waits for here and now: background requests and
 * FORGETs. A background request stays on the local ring unless that is congested
 * or its worker is in a long call; then the policy names another one. All of it
 * is decided from counts that others change meanwhile: a wrong guess costs time,
 * never a request.
 */
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/sched/clock.h>
#include <linux/sched/stat.h>

#include "ring.h"

#define EFUSE_STALL_NS		(250 * NSEC_PER_USEC)	/* nothing finished for so long, with requests in flight */
#define EFUSE_BALANCE_TRIES	10u	/* random */
#define EFUSE_BALANCE_LOOK	16u	/* rings that one request looks at, under bg_lock */

/*
 * The sender goes on, and where it is alone on its CPU the home ring's worker
 * would only interrupt it. Only if the other worker is awake, or it might
 * interrupt somebody there.
 */
struct efuse_ring *efuse_ring_aside(struct efuse_conn *ec)
{
	struct efuse_cpu_rings *map = &ec->cpu_rings[raw_smp_processor_id()];
	struct efuse_ring *other = &ec->rings[map->spin];

	return single_task_running() && efuse_worker_awake(other) ? other : &ec->rings[map->home];
}

/* No progress between two looks, and something to make progress with at both. */
static bool efuse_stalled(struct efuse_ring *ring, u64 now)
{
	u64 done = READ_ONCE(ring->done_spin) + READ_ONCE(ring->done_enter);
	u64 since = READ_ONCE(ring->stall_since);

	if (!READ_ONCE(ring->in_flight)) {
		if (since)
			WRITE_ONCE(ring->stall_since, 0);
		return false;
	}
	if (!since || done != READ_ONCE(ring->stall_done)) {
		WRITE_ONCE(ring->stall_done, done);
		WRITE_ONCE(ring->stall_since, now);
		return false;
	}
	/* Another CPU's clock may be ahead of ours. */
	return (s64)(now - since) > (s64)EFUSE_STALL_NS;
}

static bool efuse_congested(struct efuse_ring *ring, u64 now)
{
	return READ_ONCE(ring->in_flight) >= READ_ONCE(ring->ec->congestion) || efuse_stalled(ring, now);
}

/* Foreground requests are in flight: their requesters sleep, and one more in the queue delays them. */
static bool efuse_has_sleepers(struct efuse_ring *ring)
{
	return READ_ONCE(ring->in_flight) > READ_ONCE(ring->background);
}

/* The next in turn, of this CPU's turns: no counter is shared. */
static u32 efuse_next_ring(struct efuse_conn *ec)
{
	return this_cpu_inc_return(ec->cpu->next_ring) % ec->nr_rings;
}

static struct efuse_ring *efuse_round_robin(struct efuse_conn *ec, u64 now)
{
	u32 i, n = min(ec->nr_rings, EFUSE_BALANCE_LOOK);

	for (i = 0; i < n; i++) {
		struct efuse_ring *ring = &ec->rings[efuse_next_ring(ec)];

		if (!efuse_congested(ring, now))
			return ring;
	}
	return NULL;
}

static struct efuse_ring *efuse_random(struct efuse_conn *ec, u64 now)
{
	u32 i;

	for (i = 0; i < EFUSE_BALANCE_TRIES; i++) {
		struct efuse_ring *ring = &ec->rings[get_random_u32_below(ec->nr_rings)];

		if (!efuse_has_sleepers(ring) && !efuse_congested(ring, now))
			return ring;
	}
	return NULL;
}

static struct efuse_ring *efuse_least_loaded(struct efuse_conn *ec, struct efuse_ring *local, u64 now)
{
	u32 i, n = min(ec->nr_rings, EFUSE_BALANCE_LOOK);
	u32 least = efuse_stalled(local, now) ? U32_MAX : READ_ONCE(local->in_flight);
	struct efuse_ring *best = NULL;

	for (i = 0; i < n; i++) {
		struct efuse_ring *ring = &ec->rings[efuse_next_ring(ec)];
		u32 load = READ_ONCE(ring->in_flight);

		if (load < least && !efuse_stalled(ring, now)) {
			least = load;
			best = ring;
		}
	}
	return best;
}

/* Where a background request goes. Under bg_lock: nothing here waits. */
struct efuse_ring *efuse_balance(struct efuse_conn *ec)
{
	u32 policy = READ_ONCE(ec->balance);
	struct efuse_ring *local, *other = NULL;
	u64 now;

	if (policy == EFUSE_BALANCE_LOCAL)
		return &ec->rings[ec->cpu_rings[raw_smp_processor_id()].home];
	local = efuse_ring_aside(ec);
	now = local_clock();
	if (ec->nr_rings == 1 || !efuse_congested(local, now))
		return local;
	switch (policy) {
	case EFUSE_BALANCE_ROUND_ROBIN:
		other = efuse_round_robin(ec, now);
		break;
	case EFUSE_BALANCE_RANDOM:
		other = efuse_random(ec, now);
		break;
	case EFUSE_BALANCE_LEAST_LOADED:
		other = efuse_least_loaded(ec, local, now);
		break;
	}
	if (!other || other == local)
		return local;
	atomic64_inc(&local->moved);
	return other;
}
