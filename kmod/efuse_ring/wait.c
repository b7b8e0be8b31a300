// SPDX-License-Identifier: GPL-2.0-only
/*
 * Waiting, both ends. A requester spins for the ring of a worker on another CPU
 * while its own CPU has nothing else to do, and only as long as that has paid
 * lately; a worker polls in ENTER under the same condition. Then both sleep.
 */
#include <linux/hrtimer.h>
#include <linux/sched.h>
#include <linux/sched/clock.h>
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>

#include "ring.h"

#define EFUSE_SPIN_FACTOR	4	/* budget: so many times what the spins that paid took */
#define EFUSE_SPIN_MIN_NS	5000u

bool efuse_worth_trying(struct efuse_backoff *b)
{
	u32 skip = READ_ONCE(b->skip);

	if (skip)
		WRITE_ONCE(b->skip, skip - 1);
	return !skip;
}

void efuse_tried(struct efuse_backoff *b, bool paid)
{
	u32 fails = paid ? 0 : min(READ_ONCE(b->fails) + 1, EFUSE_BACKOFF_MAX);

	WRITE_ONCE(b->fails, fails);
	WRITE_ONCE(b->skip, (1u << fails) - 1);
}

/*
 * Decided before a ring is picked, from one CPU's point of view. A request that
 * would queue behind several is not answered at once, and others that wait on the
 * home ring mean that its worker is about to want this CPU: then requests are
 * better served in batches, by sleeping.
 *
 * Nor does a requester spin while its CPU has other tasks. But the home ring's
 * worker, asleep, may be one of them: the scheduler takes a task off its queue late
 * (DELAY_DEQUEUE), and requests that wake that worker time and again keep it there.
 * So one request goes to the other ring, without spinning. While its requester
 * sleeps, who only seems to run leaves the queue, and the next request shows
 * whether anybody else is there.
 */
enum efuse_wait efuse_choose_wait(struct efuse_conn *ec, struct efuse_ring *home, struct efuse_ring *other, int cpu)
{
	struct efuse_cpu *c = per_cpu_ptr(ec->cpu, cpu);
	int worker_cpu = READ_ONCE(other->worker_cpu);
	bool was_away, alone;

	if (!READ_ONCE(ec->spin_ns) || worker_cpu < 0 || worker_cpu == cpu)
		return EFUSE_SLEEP;
	if (READ_ONCE(other->in_flight) > 1 || READ_ONCE(home->in_flight) || need_resched())
		return EFUSE_SLEEP;
	alone = single_task_running();
	was_away = READ_ONCE(c->away);
	if (was_away)
		WRITE_ONCE(c->away, false);
	else if (!efuse_worth_trying(&c->spin))
		return EFUSE_SLEEP;
	if (alone)
		return EFUSE_SPIN;
	if (was_away) {
		efuse_tried(&c->spin, false);
		return EFUSE_SLEEP;
	}
	WRITE_ONCE(c->away, true);
	return EFUSE_SLEEP_AWAY;
}

/*
 * What a first spin has to outlast is not the filesystem but the wake-up of its worker; once awake, that one looks for
 * the next request by itself. Where the wake-up takes longer than a spin may, no spin would ever pay. So a try after
 * failures is a trial, which may take longer each time. One that has paid like that proves nothing yet: the spin after
 * it, which has the usual budget, decides.
 */
static u32 efuse_spin_budget(struct efuse_conn *ec, struct efuse_cpu *spin)
{
	u32 most = READ_ONCE(ec->spin_ns);
	u32 ewma = READ_ONCE(spin->ewma_ns);

	if (ewma)
		return min(most, max(EFUSE_SPIN_MIN_NS, EFUSE_SPIN_FACTOR * ewma));
	if (READ_ONCE(spin->after_trial))
		return most;
	return min_t(u64, (u64)most << READ_ONCE(spin->spin.fails), EFUSE_MAX_SPIN_NS);
}

static void efuse_spin_result(struct efuse_conn *ec, struct efuse_cpu *spin, bool paid, u64 took)
{
	bool trial = paid && took > READ_ONCE(ec->spin_ns);
	u32 ns = min_t(u64, took, EFUSE_MAX_SPIN_NS);
	u32 ewma = READ_ONCE(spin->ewma_ns);

	/* After a failure the next try has the whole budget: what made this one fail is over by then, or counts again. */
	if (paid && !trial)
		ewma = ewma ? ewma - ewma / 8 + ns / 8 : ns;
	else
		ewma = 0;
	WRITE_ONCE(spin->ewma_ns, ewma);
	WRITE_ONCE(spin->after_trial, trial);
	if (trial)
		WRITE_ONCE(spin->spin.skip, 0);	/* and the failures before it still count */
	else
		efuse_tried(&spin->spin, paid);
}

/* C1 */
bool efuse_is_done(struct efuse_ring *ring, u32 slot, u32 gen)
{
	return smp_load_acquire(&efuse_out(ring, slot)->done_gen) == gen;
}

static bool efuse_spin(struct efuse_ring *ring, u32 slot, u32 gen, struct fuse_req *req, u64 end)
{
	while (!efuse_is_done(ring, slot, gen)) {
		if (need_resched() || !single_task_running() || signal_pending(current))
			return false;
		if (test_bit(FR_FINISHED, &req->flags) || READ_ONCE(ring->dead))
			return false;
		if (local_clock() > end)
			return false;
		cpu_relax();
	}
	return true;
}

/*
 * After a foreground request was published with need_commit clear: see it done,
 * or leave it to ENTER and let request_wait_answer() sleep. The caller of
 * send_req holds a reference, so req stays even if somebody else ends it.
 */
void efuse_requester_wait(struct efuse_ring *ring, u32 slot, u32 gen, struct fuse_req *req)
{
	struct efuse_conn *ec = ring->ec;
	struct efuse_cpu *spin = per_cpu_ptr(ec->cpu, raw_smp_processor_id());
	u64 start = local_clock();
	bool paid = efuse_spin(ring, slot, gen, req, start + efuse_spin_budget(ec, spin));

	atomic64_inc(&ring->spins);
	efuse_spin_result(ec, spin, paid, local_clock() - start);
	if (paid) {
		atomic64_inc(&ring->spin_paid);
	} else {
		/* S0, partner S1 in the daemon: either it sees need_commit or we see done_gen. */
		WRITE_ONCE(efuse_in(ring, slot)->need_commit, 1);
		smp_mb();
		if (!efuse_is_done(ring, slot, gen))
			return;
	}
	efuse_complete(ring, slot, gen, true);
}

/* W1, partner W0: wq_has_sleeper() has the full barrier between publishing and looking. */
void efuse_wake_worker(struct efuse_ring *ring)
{
	if (wq_has_sleeper(&ring->waitq)) {
		atomic64_inc(&ring->wakeups);
		wake_up_interruptible(&ring->waitq);
	}
}

static bool efuse_take_kick(struct efuse_ring *ring)
{
	return atomic_dec_if_positive(&ring->kicks) >= 0;
}

/* Is there anything for the daemon? Its heads are only compared. */
static bool efuse_has_work(struct efuse_ring *ring)
{
	struct efuse_user_head *uh = ring->uh;

	return READ_ONCE(ring->pending_tail) != READ_ONCE(uh->pending_head) ||
	       READ_ONCE(ring->interrupt_tail) != READ_ONCE(uh->interrupt_head) ||
	       READ_ONCE(ring->forget_tail) != READ_ONCE(uh->forget_head);
}

/* More than the one request that a worker is about to take. */
static bool efuse_has_more_work(struct efuse_ring *ring)
{
	return READ_ONCE(ring->pending_tail) - READ_ONCE(ring->uh->pending_head) > 1;
}

bool efuse_gone(struct efuse_ring *ring)
{
	return READ_ONCE(ring->dead) || !READ_ONCE(efuse_pq(ring)->connected);
}

static bool efuse_must_return(struct efuse_ring *ring)
{
	return efuse_has_work(ring) || atomic_read(&ring->kicks) || efuse_gone(ring);
}

/* `events`: defer_events before the last attempt to copy in what was deferred. */
static bool efuse_must_wake(struct efuse_ring *ring, int events)
{
	return efuse_must_return(ring) || atomic_read(&ring->defer_events) != events;
}

static bool efuse_worker_poll(struct efuse_ring *ring, u32 poll_ns, int events)
{
	u64 end = local_clock() + poll_ns;

	while (!efuse_must_wake(ring, events)) {
		if (need_resched() || !single_task_running() || signal_pending(current) || local_clock() > end)
			return false;
		cpu_relax();
	}
	return true;
}

static void efuse_worker_try_poll(struct efuse_ring *ring, const struct efuse_enter *e, int events)
{
	bool adaptive = e->flags & EFUSE_ENTER_ADAPTIVE;
	bool paid;

	if (!e->poll_ns || efuse_must_wake(ring, events) || (adaptive && !efuse_worth_trying(&ring->poll_backoff)))
		return;
	paid = efuse_worker_poll(ring, min(e->poll_ns, EFUSE_MAX_POLL_NS), events);
	atomic64_inc(&ring->polls);
	if (paid)
		atomic64_inc(&ring->poll_paid);
	if (adaptive)
		efuse_tried(&ring->poll_backoff, paid);
}

static int efuse_worker_sleep(struct efuse_ring *ring, ktime_t *until, int events)
{
	DEFINE_WAIT(wait);
	bool deferred = READ_ONCE(ring->kh->deferred);
	ktime_t retry = ktime_add_ns(ktime_get(), EFUSE_DEFER_NS);
	int ret = 0;

	if (until && ktime_before(*until, retry))
		deferred = false;	/* the caller is back sooner */
	for (;;) {
		/* W0: set_current_state() has the full barrier, the re-check follows. */
		prepare_to_wait_exclusive(&ring->waitq, &wait, TASK_INTERRUPTIBLE);
		if (efuse_must_wake(ring, events))
			break;
		if (signal_pending(current)) {
			ret = -EINTR;
			break;
		}
		if (!schedule_hrtimeout(deferred ? &retry : until, HRTIMER_MODE_ABS)) {
			ret = deferred ? 0 : -ETIME;
			break;
		}
	}
	finish_wait(&ring->waitq, &wait);
	return ret;
}

static int efuse_fill_and_count(struct efuse_ring *ring)
{
	int events = atomic_read(&ring->defer_events);

	smp_rmb();	/* what happens after this attempt changes the count */
	efuse_fill_deferred(ring);
	return events;
}

/* 0: look at the rings (or the time is over), -EINTR, -ENODEV. */
int efuse_worker_wait(struct efuse_ring *ring, const struct efuse_enter *e)
{
	u64 timeout_ns = min_t(u64, e->timeout_ns, KTIME_MAX);
	ktime_t end = timeout_ns ? ktime_add_safe(ktime_get(), ns_to_ktime(timeout_ns)) : 0;
	int events = efuse_fill_and_count(ring);
	int ret = 0;

	efuse_worker_try_poll(ring, e, events);
	while (!ret && !efuse_must_return(ring)) {
		ret = efuse_worker_sleep(ring, timeout_ns ? &end : NULL, events);
		events = efuse_fill_and_count(ring);
	}
	if (efuse_gone(ring)) {
		WRITE_ONCE(ring->kh->state, EFUSE_RING_DEAD);
		return -ENODEV;
	}
	/* An exclusive wake-up that this worker does not need, or not alone, is passed on. */
	if (ret == -EINTR ? efuse_has_work(ring) : efuse_has_more_work(ring))
		efuse_wake_worker(ring);
	if (efuse_take_kick(ring))
		return 0;
	return ret == -ETIME ? 0 : ret;
}
