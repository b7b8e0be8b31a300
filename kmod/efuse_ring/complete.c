// SPDX-License-Identifier: GPL-2.0-only
/*
 * Step 8: from a reply in shared memory to the end of the request, on the
 * requester's CPU when it still spins, else in ENTER. Also the way back to the
 * stock path.
 */
#include <linux/list.h>
#include <linux/nospec.h>
#include <linux/sched.h>
#include <linux/wait.h>

#include "fastpath.h"
#include "ring.h"

#define EFUSE_COMMIT_BATCH	64

/* The request of a slot, if it is still this ring's. Bucket 0 holds them all. */
struct fuse_req *efuse_find(struct efuse_ring *ring, u32 slot)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);
	u64 unique = ring->slots[slot].unique;
	struct fuse_req *req;

	lockdep_assert_held(&fpq->lock);
	list_for_each_entry(req, &fpq->processing[0], list)
		if (req->in.h.unique == unique)
			return req;
	return NULL;
}

struct efuse_reply {
	const void *body;
	s32 error;
	u32 len;
	u32 hints;
};

/* Each word once, then checked: the daemon may be writing to them still. */
static void efuse_read_reply(struct efuse_ring *ring, u32 slot, struct efuse_reply *r)
{
	struct efuse_slot *s = &ring->slots[slot];
	struct efuse_slot_out *out = efuse_out(ring, slot);

	r->error = READ_ONCE(out->error);
	r->len = READ_ONCE(out->len);
	r->hints = READ_ONCE(out->hints);
	r->body = s->out_pay ? ring->payload.va + s->out_off : (void *)(out + 1);
	if (r->error <= -512 || r->error > 0 || r->len > s->out_cap || (r->error && r->len)) {
		pr_warn_ratelimited("efuse_ring: ring %u: bad reply (error %d, %u of at most %u bytes), request fails\n",
				    ring->index, r->error, r->len, s->out_cap);
		atomic64_inc(&ring->bad);
		r->error = -EIO;
		r->len = 0;
	}
}

static void efuse_take_reply(struct efuse_ring *ring, struct fuse_req *req, const struct efuse_reply *r)
{
	if (req->out.h.error)
		return;
	if (efuse_copy_out(req, r->body, r->len)) {
		pr_warn_ratelimited("efuse_ring: ring %u: reply of %u bytes does not fit opcode %u, request fails\n",
				    ring->index, r->len, req->in.h.opcode);
		atomic64_inc(&ring->bad);
		req->out.h.error = -EIO;
	}
}

/* A large reply is copied without the lock, marked as the stock path marks it. */
static void efuse_take_large_reply(struct efuse_ring *ring, struct fuse_req *req, const struct efuse_reply *r)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);

	lockdep_assert_held(&fpq->lock);
	list_move(&req->list, &fpq->io);
	set_bit(FR_LOCKED, &req->flags);
	spin_unlock(&fpq->lock);

	efuse_take_reply(ring, req, r);

	spin_lock(&fpq->lock);
	clear_bit(FR_LOCKED, &req->flags);
	if (!test_bit(FR_PRIVATE, &req->flags))
		list_del_init(&req->list);
}

/*
 * Finish the request of a slot. Several may try: the state word lets one
 * through, and only for the use of the slot that gen names.
 */
void efuse_complete(struct efuse_ring *ring, u32 slot, u32 gen, bool by_requester)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);
	struct efuse_fastpath *fp = efuse_fastpath_of(ring->ec);
	struct efuse_slot *s = &ring->slots[slot];
	int was = efuse_slot_word(gen, EFUSE_SLOT_INFLIGHT);
	struct efuse_reply reply;
	struct fuse_req *req;

	if (atomic_cmpxchg(&s->state, was, efuse_slot_word(gen, EFUSE_SLOT_COMPLETING)) != was) {
		atomic64_inc(&ring->stale);
		return;
	}
	efuse_read_reply(ring, slot, &reply);

	spin_lock(&fpq->lock);
	req = fpq->connected ? efuse_find(ring, slot) : NULL;
	if (!req) {	/* aborted, resent or queued again */
		spin_unlock(&fpq->lock);
		atomic64_inc(&ring->stale);
		efuse_give_back(ring, slot);
		return;
	}
	clear_bit(FR_SENT, &req->flags);
	req->out.h.len = sizeof(req->out.h) + reply.len;
	req->out.h.error = reply.error;
	req->out.h.unique = s->unique;
	if (s->out_pay && !reply.error) {
		efuse_take_large_reply(ring, req, &reply);
	} else {
		efuse_take_reply(ring, req, &reply);
		list_del_init(&req->list);
	}
	if (by_requester)
		ring->done_spin++;
	else
		ring->done_enter++;
	spin_unlock(&fpq->lock);
	if (fp)
		efuse_fastpath_done(fp, s, req, reply.body, reply.hints);
	/* First the slot: ending a background request may send the next one. */
	efuse_give_back(ring, slot);
	fuse_request_end(req);
}

/* C3. One entry at a time, so that several workers of a ring may commit at once. */
static int efuse_next_completion(struct efuse_ring *ring, struct efuse_complete_entry *entry)
{
	u32 depth = ring->ec->depth;
	struct efuse_complete_entry *e = ring->complete;
	u32 tail, ready;
	int ret = 0;

	spin_lock(&ring->commit_lock);
	tail = smp_load_acquire(&ring->uh->complete_tail);
	ready = tail - ring->complete_head;
	if (ready > depth) {
		ring->complete_head = tail;
		ret = -EINVAL;
	} else if (ready) {
		e += ring->complete_head & (depth - 1);
		entry->slot = READ_ONCE(e->slot);
		entry->gen = READ_ONCE(e->gen);
		ring->complete_head++;
		ret = 1;
	}
	smp_store_release(&ring->kh->complete_head, ring->complete_head);
	spin_unlock(&ring->commit_lock);
	return ret;
}

/* Consume the complete ring: the number of entries, or -EINVAL for an impossible tail. */
long efuse_commit(struct efuse_ring *ring)
{
	struct efuse_complete_entry e;
	u32 depth = ring->ec->depth;
	long n;
	int ret = 0;

	/* Bounded: a daemon that refills the ring meanwhile calls again. */
	for (n = 0; n < depth; n++) {
		/* Not each time: the requesters that this wakes would run before the rest of the batch is done. */
		if (n % EFUSE_COMMIT_BATCH == EFUSE_COMMIT_BATCH - 1)
			cond_resched();
		ret = efuse_next_completion(ring, &e);
		if (ret <= 0)
			break;
		if (e.slot >= depth) {
			pr_warn_ratelimited("efuse_ring: ring %u: completion for slot %u of %u\n",
					    ring->index, e.slot, depth);
			atomic64_inc(&ring->bad);
			continue;
		}
		efuse_complete(ring, array_index_nospec(e.slot, depth), e.gen & EFUSE_GEN_MASK, false);
	}
	if (ret < 0) {
		pr_warn_ratelimited("efuse_ring: ring %u: complete_tail is more than %u ahead\n", ring->index, depth);
		atomic64_inc(&ring->bad);
		return ret;
	}
	return n;
}

/*
 * Detach: what the daemon has answered is finished, also where a requester that
 * spins was to do it. One that has begun to is waited for: it has yet to find its
 * request on the list, and would leave an answered one to be asked again.
 */
void efuse_commit_answered(struct efuse_ring *ring)
{
	u32 slot;

	for (slot = 0; slot < ring->ec->depth; slot++) {
		atomic_t *state = &ring->slots[slot].state;
		u32 word = atomic_read_acquire(state);
		u32 gen = word >> 2;

		if ((word & 3) == EFUSE_SLOT_INFLIGHT && efuse_is_done(ring, slot, gen))
			efuse_complete(ring, slot, gen, false);
		while ((word & 3) != EFUSE_SLOT_FREE &&
		       atomic_read_acquire(state) == efuse_slot_word(gen, EFUSE_SLOT_COMPLETING))
			schedule_timeout_uninterruptible(1);	/* it may be preempted, by us */
		cond_resched();
	}
}

/*
 * Put requests that no list owns back where /dev/fuse readers find them. `seen`:
 * the daemon may know them already, and FUSE_UNIQUE_RESEND tells it so. As in
 * fuse_resend(), an interrupt that the stock path has queued is taken back, as the
 * reader queues it again.
 *
 * Not as fuse_resend(): a requester that is interrupted may have seen FR_SENT, and
 * queue its interrupt only now. Killed as well, and finding FR_PENDING, it would go
 * away and leave that entry on the stock list. So one that is interrupted gets no
 * FR_PENDING, and its requester waits for the answer; any other will see that
 * FR_SENT is clear.
 */
void efuse_requeue(struct efuse_conn *ec, struct list_head *reqs, bool seen)
{
	struct fuse_iqueue *fiq = ec->fiq;
	struct fuse_req *req, *next;
	bool connected;
	int n = 0;

	if (list_empty(reqs))
		return;
	list_for_each_entry(req, reqs, list)
		clear_bit(FR_SENT, &req->flags);
	smp_mb();	/* request_wait_answer() sets FR_INTERRUPTED, then looks at FR_SENT */

	spin_lock(&fiq->lock);
	connected = fiq->connected;
	if (connected) {
		list_for_each_entry(req, reqs, list) {
			if (seen)
				req->in.h.unique |= FUSE_UNIQUE_RESEND;
			if (test_bit(FR_INTERRUPTED, &req->flags))
				list_del_init(&req->intr_entry);
			else
				set_bit(FR_PENDING, &req->flags);
			n++;
		}
		list_splice_tail_init(reqs, &fiq->pending);
		wake_up_nr(&fiq->waitq, n);
		kill_fasync(&fiq->fasync, SIGIO, POLL_IN);
	}
	spin_unlock(&fiq->lock);

	list_for_each_entry_safe(req, next, reqs, list) {	/* aborted meanwhile */
		list_del_init(&req->list);
		req->out.h.error = -ECONNABORTED;
		fuse_request_end(req);
	}
}
