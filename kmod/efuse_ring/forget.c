// SPDX-License-Identifier: GPL-2.0-only
/* FORGET and INTERRUPT: messages without a reply, on rings of their own. */
#include <linux/slab.h>

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

void efuse_send_forget(struct fuse_iqueue *fiq, struct fuse_forget_link *forget)
{
	struct efuse_conn *ec = efuse_conn_of(fiq);
	struct efuse_ring *ring = efuse_ring_aside(ec);

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
 * Called by the requester, so req stays. Its unique tells which ring has it; one
 * that was queued again carries the resend bit and belongs to the stock path.
 */
void efuse_send_interrupt(struct fuse_iqueue *fiq, struct fuse_req *req)
{
	struct efuse_conn *ec = efuse_conn_of(fiq);
	u64 unique = READ_ONCE(req->in.h.unique);
	u32 index = (unique >> EFUSE_UNIQUE_RING) & (EFUSE_MAX_RINGS - 1);

	if (!(unique & EFUSE_UNIQUE_TAG) || (unique & FUSE_UNIQUE_RESEND) || index >= ec->nr_rings ||
	    !efuse_push_interrupt(&ec->rings[index], unique)) {
		ec->stock->send_interrupt(fiq, req);
		return;
	}
	efuse_wake_worker(&ec->rings[index]);
}
