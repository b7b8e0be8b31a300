// SPDX-License-Identifier: GPL-2.0-only
/*
 * Step 2 for what nobody waits for here and now: background requests and
 * FORGETs. Their sender goes on, so they are served beside it, on the
 * neighbour's ring; a background request leaves that one where it is congested
 * or its worker is in a long call, and the policy names another. All of it is
 * decided from counts that others change meanwhile: a wrong guess costs time,
 * never a request.
 */
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/timekeeping.h>

#include "ring.h"

#define EFUSE_STALL_NS		(1 * NSEC_PER_MSEC)	/* nothing finished for so long, with requests in flight */
#define EFUSE_SENDER_NS		(1 * NSEC_PER_MSEC)	/* who sent a request is still there for so long */
#define EFUSE_BALANCE_TRIES	10u	/* random */
#define EFUSE_BALANCE_LOOK	16u	/* rings that one request looks at, under bg_lock */

static bool efuse_from_daemon(struct efuse_conn *ec)
{
	return current->tgid == ec->daemon;
}

/* A request is sent from this CPU. The daemon's do not count: it sends the next ones of a queue when it ends one. */
void efuse_note_sender(struct efuse_conn *ec, u64 now)
{
	if (!efuse_from_daemon(ec))
		WRITE_ONCE(raw_cpu_ptr(ec->cpu)->sent_ns, now);
}

static bool efuse_has_senders(struct efuse_conn *ec, int cpu, u64 now)
{
	return (s64)(now - READ_ONCE(per_cpu_ptr(ec->cpu, cpu)->sent_ns)) < (s64)EFUSE_SENDER_NS;
}

/*
 * The neighbour's ring, whose worker runs while the sender goes on; the home ring's
 * worker would only interrupt it. Not where applications run on that CPU as well:
 * there that worker would interrupt them. A worker that sends has time for its own
 * ring.
 */
static struct efuse_ring *efuse_aside(struct efuse_conn *ec, u64 now)
{
	struct efuse_cpu_rings *map = &ec->cpu_rings[raw_smp_processor_id()];
	struct efuse_ring *home = &ec->rings[map->home];
	struct efuse_ring *other = &ec->rings[map->spin];
	int cpu = READ_ONCE(other->worker_cpu);

	if (other == home || cpu < 0 || efuse_from_daemon(ec) || efuse_has_senders(ec, cpu, now))
		return home;
	return other;
}

struct efuse_ring *efuse_ring_aside(struct efuse_conn *ec)
{
	return efuse_aside(ec, ktime_get_ns());
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

/* The local one, unless it is stalled, or another has fewer in flight. */
static struct efuse_ring *efuse_least_loaded(struct efuse_conn *ec, struct efuse_ring *local, u64 now)
{
	u32 i, n = min(ec->nr_rings, EFUSE_BALANCE_LOOK);
	u32 least = efuse_stalled(local, now) ? U32_MAX : READ_ONCE(local->in_flight);
	struct efuse_ring *best = local;

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

/*
 * Where a background request goes. Under bg_lock: nothing here waits. Where all
 * rings that the policy would take are congested, the least loaded one is taken:
 * requests pile up on a slow ring, and then most of them go past it.
 */
struct efuse_ring *efuse_balance(struct efuse_conn *ec)
{
	u32 policy = READ_ONCE(ec->balance);
	struct efuse_ring *local, *other = NULL;
	u64 now;

	if (policy == EFUSE_BALANCE_LOCAL)
		return &ec->rings[ec->cpu_rings[raw_smp_processor_id()].home];
	now = ktime_get_ns();
	local = efuse_aside(ec, now);
	if (ec->nr_rings == 1 || !efuse_congested(local, now))
		return local;
	if (policy == EFUSE_BALANCE_ROUND_ROBIN)
		other = efuse_round_robin(ec, now);
	else if (policy == EFUSE_BALANCE_RANDOM)
		other = efuse_random(ec, now);
	if (!other)
		other = efuse_least_loaded(ec, local, now);
	if (other != local)
		atomic64_inc(&local->moved);
	return other;
}
