// SPDX-License-Identifier: GPL-2.0-only
/* FORGET and INTERRUPT: messages without a reply, on rings of their own. */
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "fastpath.h"
#include "ring.h"

/* Room by the daemon's own account of its head; a wrong one loses it entries. */
static bool efuse_has_room(u32 tail, const u32 *head, u32 size)
{
	return tail - READ_ONCE(*head) < size;
}

static bool efuse_push_forget(struct efuse_ring *ring, u64 nodeid, u64 nlookup)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);
	struct efuse_forget_entry *e = ring->forgets;
	u32 size = ring->ec->forget_depth;
	bool ok;

	spin_lock(&fpq->lock);
	ok = fpq->connected && !ring->dead && efuse_has_room(ring->forget_tail, &ring->uh->forget_head, size);
	if (ok) {
		e += ring->forget_tail & (size - 1);
		WRITE_ONCE(e->nodeid, nodeid);
		WRITE_ONCE(e->nlookup, nlookup);
		WRITE_ONCE(ring->forget_tail, ring->forget_tail + 1);
		smp_store_release(&ring->kh->forget_tail, ring->forget_tail);	/* P0 */
		ring->nr_forgets++;
	}
	spin_unlock(&fpq->lock);
	return ok;
}

/* The daemon is told of its own lookups only. false: there are none among these. */
static bool efuse_forget_fast(struct efuse_fastpath *fp, struct fuse_forget_one *one)
{
	one->nlookup = efuse_node_forget(&fp->nodes, one->nodeid, one->nlookup);
	if (!one->nlookup)
		return false;
	/* It may be the last: what is remembered of this node must not be taken for the next one of its number. */
	efuse_changed(&fp->changes, EFUSE_ATTR, one->nodeid, 0);
	efuse_changed(&fp->changes, EFUSE_DATA, one->nodeid, EFUSE_DATA_WHOLE);
	return true;
}

void efuse_send_forget(struct fuse_iqueue *fiq, struct fuse_forget_link *forget)
{
	struct efuse_conn *ec = efuse_conn_of(fiq);
	struct efuse_ring *ring = efuse_ring_aside(ec);

	if (efuse_fastpath_of(ec) && !efuse_forget_fast(efuse_fastpath_of(ec), &forget->forget_one)) {
		kfree(forget);
		return;
	}
	if (READ_ONCE(ec->draining) ||
	    !efuse_push_forget(ring, forget->forget_one.nodeid, forget->forget_one.nlookup)) {
		ec->stock->send_forget(fiq, forget);
		return;
	}
	kfree(forget);
	efuse_wake_worker(ring);
}

static bool efuse_push_interrupt(struct efuse_ring *ring, u64 unique)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);
	struct efuse_interrupt_entry *e = ring->interrupts;
	u32 size = ring->ec->depth;
	bool ok;

	spin_lock(&fpq->lock);
	ok = fpq->connected && !ring->dead &&
	     efuse_has_room(ring->interrupt_tail, &ring->uh->interrupt_head, size);
	if (ok) {
		e += ring->interrupt_tail & (size - 1);
		WRITE_ONCE(e->unique, unique);
		WRITE_ONCE(e->slot, (u32)(unique >> EFUSE_UNIQUE_SLOT) & (EFUSE_MAX_DEPTH - 1));
		WRITE_ONCE(e->gen, (u32)(unique >> EFUSE_UNIQUE_GEN) & EFUSE_GEN_MASK);
		WRITE_ONCE(ring->interrupt_tail, ring->interrupt_tail + 1);
		smp_store_release(&ring->kh->interrupt_tail, ring->interrupt_tail);	/* P0 */
		ring->nr_interrupts++;
	}
	spin_unlock(&fpq->lock);
	return ok;
}

/*
 * T0, partner T1 in the daemon. The requester is being killed, and the daemon, by
 * its own account, has not taken the request: it ends here, as one that nobody
 * has read ends on the stock path. The slot stays until the daemon has met its
 * entry, or there could be more entries than the pending ring holds. Where the
 * daemon was faster it answers, perhaps with an error; nobody is left to mind.
 */
static bool efuse_take_back(struct efuse_ring *ring, u32 slot, struct fuse_req *req)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);
	bool ours;

	spin_lock(&fpq->lock);
	ours = fpq->connected && !ring->dead && efuse_find(ring, slot) == req;
	if (ours) {
		WRITE_ONCE(efuse_in(ring, slot)->in_len, 0);
		smp_mb();
		ours = (s32)(ring->slots[slot].pending_at - READ_ONCE(ring->uh->pending_head)) >= 0;
	}
	if (ours) {
		clear_bit(FR_SENT, &req->flags);
		list_del_init(&req->list);
		req->out.h.error = -EINTR;
	}
	spin_unlock(&fpq->lock);
	if (ours)
		fuse_request_end(req);
	return ours;
}

/*
 * Called by the requester, so req stays. Its unique tells which ring has it; one
 * that was queued again carries the resend bit and belongs to the stock path.
 */
void efuse_send_interrupt(struct fuse_iqueue *fiq, struct fuse_req *req)
{
	struct efuse_conn *ec = efuse_conn_of(fiq);
	u64 unique = READ_ONCE(req->in.h.unique);
	u32 index = (unique >> EFUSE_UNIQUE_RING) & (EFUSE_MAX_RINGS - 1);
	u32 slot = (unique >> EFUSE_UNIQUE_SLOT) & (EFUSE_MAX_DEPTH - 1);

	if (!(unique & EFUSE_UNIQUE_TAG) || (unique & FUSE_UNIQUE_RESEND) || index >= ec->nr_rings ||
	    slot >= ec->depth)
		goto stock;
	if (fatal_signal_pending(current) && !test_bit(FR_FORCE, &req->flags) &&
	    efuse_take_back(&ec->rings[index], slot, req))
		return;
	if (!efuse_push_interrupt(&ec->rings[index], unique))
		goto stock;
	efuse_wake_worker(&ec->rings[index]);
	return;

stock:
	ec->stock->send_interrupt(fiq, req);
}
