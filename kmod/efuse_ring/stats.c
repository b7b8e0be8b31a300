// SPDX-License-Identifier: GPL-2.0-only
/* What the rings did: in the shared header for the daemon, in fdinfo for people. */
#include <linux/seq_file.h>

#include "fastpath.h"
#include "ring.h"

static void efuse_read_stats(struct efuse_ring *ring, struct efuse_ring_stats *st)
{
	memset(st, 0, sizeof(*st));
	st->submitted = READ_ONCE(ring->submitted);
	st->done_spin = READ_ONCE(ring->done_spin);
	st->done_enter = READ_ONCE(ring->done_enter);
	st->stale = atomic64_read(&ring->stale);
	st->bad = atomic64_read(&ring->bad);
	st->to_stock_full = atomic64_read(&ring->to_stock_full);
	st->to_stock_pool = atomic64_read(&ring->to_stock_pool);
	st->to_stock_size = atomic64_read(&ring->to_stock_size);
	st->spins = atomic64_read(&ring->spins);
	st->spin_paid = atomic64_read(&ring->spin_paid);
	st->polls = atomic64_read(&ring->polls);
	st->poll_paid = atomic64_read(&ring->poll_paid);
	st->wakeups = atomic64_read(&ring->wakeups);
	st->forgets = READ_ONCE(ring->nr_forgets);
	st->interrupts = READ_ONCE(ring->nr_interrupts);
	st->moved = atomic64_read(&ring->moved);
}

/* Before a worker sleeps: often enough for a reader, and not on the way of a request. */
void efuse_publish_stats(struct efuse_ring *ring)
{
	struct efuse_ring_stats st;

	efuse_read_stats(ring, &st);
	memcpy(&ring->kh->stats, &st, sizeof(st));
}

static void efuse_show_ring(struct seq_file *m, struct efuse_ring *ring)
{
	struct efuse_user_head *uh = ring->uh;
	struct efuse_ring_stats st;

	efuse_read_stats(ring, &st);
	seq_printf(m, "efuse-ring-%u:\tworker_cpu=%d in_flight=%u background=%u payload_used=%lu dead=%d\n", ring->index,
		   READ_ONCE(ring->worker_cpu), READ_ONCE(ring->in_flight), READ_ONCE(ring->background),
		   READ_ONCE(ring->pay_used) * EFUSE_GRANULE, READ_ONCE(ring->dead));
	seq_printf(m, "efuse-ring-%u-indices:\tpending=%u/%u interrupt=%u/%u forget=%u/%u complete=%u/%u deferred=%u\n",
		   ring->index, READ_ONCE(ring->pending_tail), READ_ONCE(uh->pending_head),
		   READ_ONCE(ring->interrupt_tail), READ_ONCE(uh->interrupt_head),
		   READ_ONCE(ring->forget_tail), READ_ONCE(uh->forget_head),
		   READ_ONCE(uh->complete_tail), READ_ONCE(ring->complete_head), READ_ONCE(ring->kh->deferred));
	seq_printf(m, "efuse-ring-%u-stats:\tsubmitted=%llu done_spin=%llu done_enter=%llu stale=%llu bad=%llu to_stock_full=%llu to_stock_pool=%llu to_stock_size=%llu spins=%llu spin_paid=%llu polls=%llu poll_paid=%llu wakeups=%llu forgets=%llu interrupts=%llu moved=%llu\n",
		   ring->index, st.submitted, st.done_spin, st.done_enter, st.stale, st.bad, st.to_stock_full,
		   st.to_stock_pool, st.to_stock_size, st.spins, st.spin_paid, st.polls, st.poll_paid, st.wakeups, st.forgets,
		   st.interrupts, st.moved);
}

static void efuse_show_fastpath(struct seq_file *m, struct efuse_fastpath *fp)
{
	seq_printf(m, "efuse-fastpath:\tmembers=%#llx nodes=%d changes=%lld all_busy=%d\n", READ_ONCE(fp->members),
		   atomic_read(&fp->nodes.nr), (long long)atomic64_read(&fp->changes.count),
		   atomic_read(&fp->changes.all.busy));
}

/* /proc/PID/fdinfo/FD of /dev/efuse. Tail and head of each ring, in that order. */
void efuse_show_fdinfo(struct seq_file *m, struct efuse_conn *ec)
{
	u32 i;

	if (mutex_lock_killable(&ec->lock))
		return;
	seq_printf(m, "efuse-attached:\t%d\nefuse-detached:\t%d\nefuse-draining:\t%d\nefuse-spin-ns:\t%u\nefuse-balance:\t%u\nefuse-congestion:\t%u\n",
		   ec->attached, ec->detached, ec->draining, READ_ONCE(ec->spin_ns),
		   READ_ONCE(ec->balance), READ_ONCE(ec->congestion));
	for (i = 0; ec->attached && i < ec->nr_rings; i++)
		efuse_show_ring(m, &ec->rings[i]);
	if (ec->fastpath)
		efuse_show_fastpath(m, ec->fastpath);
	mutex_unlock(&ec->lock);
}
