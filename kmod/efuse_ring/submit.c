// SPDX-License-Identifier: GPL-2.0-only
/*
 * Steps 2 to 4 of a request: pick a ring, take a slot and payload, copy the
 * arguments, publish. send_req runs in the requester's context: for a foreground
 * request without a lock and with a reference held by the caller, for a
 * background request under bg_lock. Whatever does not fit goes to the stock path.
 */
#include <linux/sched.h>
#include <linux/sched/stat.h>
#include <linux/timekeeping.h>

#include "fastpath.h"
#include "ring.h"

struct efuse_sizes {
	u32 in_pay;	/* bytes of the last argument for the payload region, or 0 */
	u32 out_pay;	/* bytes of reply from there, or 0 */
	u32 out;	/* longest reply body */
	u32 pay;	/* bytes of payload in all */
};

/* Pairs with the release in efuse_attach(): who sees our operations sees priv. */
struct efuse_conn *efuse_conn_of(struct fuse_iqueue *fiq)
{
	smp_rmb();
	return READ_ONCE(fiq->priv);
}

static int efuse_measure(struct efuse_conn *ec, struct fuse_req *req, struct efuse_sizes *sz)
{
	struct fuse_args *args = req->args;
	u32 in_room = ec->slot_in_size - sizeof(struct efuse_slot_in);
	u32 out_room = ec->slot_out_size - sizeof(struct efuse_slot_out);
	u32 last = args->in_numargs ? args->in_args[args->in_numargs - 1].size : 0;
	u64 pay;

	memset(sz, 0, sizeof(*sz));
	sz->out = fuse_len_args(args->out_numargs, args->out_args);
	if (req->in.h.len > in_room) {
		if (req->in.h.len - last > in_room)
			return -EMSGSIZE;
		sz->in_pay = last;
	}
	if (sz->out > out_room)
		sz->out_pay = sz->out;
	pay = (u64)ALIGN((u64)sz->in_pay, EFUSE_GRANULE) + ALIGN((u64)sz->out_pay, EFUSE_GRANULE);
	if (pay > ec->payload_size)
		return -EMSGSIZE;
	sz->pay = pay;
	return 0;
}

static struct efuse_ring *efuse_pick_ring(struct efuse_conn *ec, struct fuse_req *req, bool *spin)
{
	int cpu = raw_smp_processor_id();
	struct efuse_cpu_rings *map = &ec->cpu_rings[cpu];
	struct efuse_ring *home = &ec->rings[map->home];
	struct efuse_ring *other = &ec->rings[map->spin];
	enum efuse_wait wait;

	*spin = false;
	if (test_bit(FR_BACKGROUND, &req->flags))
		return efuse_balance(ec);
	wait = efuse_choose_wait(ec, home, other, cpu);
	*spin = wait == EFUSE_SPIN;
	return wait == EFUSE_SLEEP ? home : other;
}

/* The slot is ours alone until it is published. */
static void efuse_prepare(struct efuse_ring *ring, u32 slot, struct fuse_req *req,
			  const struct efuse_sizes *sz, const struct efuse_effects *effects, bool spin)
{
	struct efuse_slot *s = &ring->slots[slot];
	struct efuse_slot_in *in = efuse_in(ring, slot);
	bool background = test_bit(FR_BACKGROUND, &req->flags);

	s->gen = (s->gen + 1) & EFUSE_GEN_MASK;
	if (!s->gen)
		s->gen = 1;
	s->unique = EFUSE_UNIQUE_TAG | (u64)ring->index << EFUSE_UNIQUE_RING |
		    (u64)ring->ec->epoch << EFUSE_UNIQUE_EPOCH |
		    (u64)s->gen << EFUSE_UNIQUE_GEN | (u64)slot << EFUSE_UNIQUE_SLOT;
	s->in_pay = sz->in_pay;
	s->out_pay = sz->out_pay;
	s->out_cap = sz->out;
	s->effects = *effects;
	req->in.h.unique = s->unique;

	WRITE_ONCE(in->need_commit, !spin);	/* the daemon may still look at the slot's last use */
	in->flags = background ? EFUSE_SLOT_BACKGROUND : 0;
	in->in_len = req->in.h.len - sz->in_pay;
	in->in_payload_len = sz->in_pay;
	in->out_payload_cap = sz->out_pay;
	in->out_cap = sz->out;
	in->enqueue_ns = ktime_get_ns();
	efuse_note_sender(ring->ec, in->enqueue_ns);
	in->gen = s->gen;
	in->cpu = raw_smp_processor_id();
}

/* Payload is there: tell where, and copy the request in. */
static void efuse_fill(struct efuse_ring *ring, u32 slot, struct fuse_req *req)
{
	struct efuse_slot *s = &ring->slots[slot];
	struct efuse_slot_in *in = efuse_in(ring, slot);
	u32 in_off = s->pay_first * EFUSE_GRANULE;

	s->out_off = in_off + ALIGN(s->in_pay, EFUSE_GRANULE);
	in->in_payload_off = s->in_pay ? in_off : 0;
	in->out_payload_off = s->out_pay ? s->out_off : 0;
	efuse_copy_in(req, in + 1, s->in_pay ? ring->payload.va + in_off : NULL);
}

/* P0 */
static void efuse_publish(struct efuse_ring *ring, u32 slot)
{
	struct efuse_slot *s = &ring->slots[slot];
	struct efuse_pending_entry *e = ring->pending;

	lockdep_assert_held(&efuse_pq(ring)->lock);
	/* Who sees this use of the slot sees what efuse_prepare() and efuse_fill() wrote of it. */
	atomic_set_release(&s->state, efuse_slot_word(s->gen, EFUSE_SLOT_INFLIGHT));
	e += ring->pending_tail & (ring->ec->depth - 1);
	WRITE_ONCE(e->slot, slot);
	WRITE_ONCE(e->gen, s->gen);
	s->pending_at = ring->pending_tail;
	WRITE_ONCE(ring->pending_tail, ring->pending_tail + 1);
	smp_store_release(&ring->kh->pending_tail, ring->pending_tail);
	ring->submitted++;
}

/*
 * From here on the request is where the stock code looks for one that was read.
 * false: the ring or the connection is gone, nothing was changed.
 */
static bool efuse_enqueue(struct efuse_ring *ring, u32 slot, struct fuse_req *req, bool defer)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);

	spin_lock(&fpq->lock);
	if (!fpq->connected || ring->dead) {
		spin_unlock(&fpq->lock);
		return false;
	}
	clear_bit(FR_PENDING, &req->flags);
	set_bit(FR_SENT, &req->flags);
	list_add_tail(&req->list, &fpq->processing[0]);
	if (defer) {
		list_add_tail(&ring->slots[slot].deferred, &ring->deferred);
		WRITE_ONCE(ring->kh->deferred, ring->kh->deferred + 1);
		smp_mb__before_atomic();	/* pairs with efuse_fill_and_count() */
		atomic_inc(&ring->defer_events);
	} else {
		efuse_publish(ring, slot);
	}
	spin_unlock(&fpq->lock);
	efuse_wake_worker(ring);
	return true;
}

static void efuse_count_stock(struct efuse_ring *ring, int err)
{
	if (err == -EMSGSIZE)
		atomic64_inc(&ring->to_stock_size);
	else if (err == -EBUSY)
		atomic64_inc(&ring->to_stock_full);
	else if (err == -ENOSPC)
		atomic64_inc(&ring->to_stock_pool);
}

/* What a request on this slot has changed, it has changed by now; its place is free. */
void efuse_give_back(struct efuse_ring *ring, u32 slot)
{
	struct efuse_effects *effects = &ring->slots[slot].effects;
	u64 stamp;

	if (effects->nr || effects->all)
		efuse_effects_end(&ring->ec->fastpath->changes, effects, &stamp);
	efuse_put(ring, slot);
}

/* false: it belongs on the stock path, and its effects are still the caller's. */
bool efuse_submit(struct efuse_conn *ec, struct fuse_req *req, struct efuse_effects *effects)
{
	struct efuse_sizes sz;
	struct efuse_ring *ring;
	bool spin, background, defer;
	u32 gen;
	int slot;

	ring = efuse_pick_ring(ec, req, &spin);
	slot = efuse_measure(ec, req, &sz);
	if (slot)
		goto err_count;
	/*
	 * bg_lock is no place to copy a megabyte: a worker does that, in ENTER.
	 * Nor does a background request leave at once for want of payload: somebody
	 * holds it, and wakes a worker when he gives it back. In their order, and
	 * for EFUSE_DEFER_NS at most.
	 */
	background = test_bit(FR_BACKGROUND, &req->flags);
	defer = background && (sz.in_pay || (sz.pay && READ_ONCE(ring->kh->deferred)));
	slot = efuse_take(ring, defer ? 0 : sz.pay, background);
	if (slot == -ENOSPC && background) {
		defer = true;
		slot = efuse_take(ring, 0, background);
	}
	if (slot < 0)
		goto err_count;
	efuse_prepare(ring, slot, req, &sz, effects, spin);
	gen = ring->slots[slot].gen;
	if (!defer)
		efuse_fill(ring, slot, req);
	if (!efuse_enqueue(ring, slot, req, defer)) {
		efuse_put(ring, slot);
		return false;
	}
	/* A background request may be finished and gone by now. */
	if (spin)
		efuse_requester_wait(ring, slot, gen, req);
	return true;

err_count:
	efuse_count_stock(ring, slot);
	return false;
}

void efuse_send_req(struct fuse_iqueue *fiq, struct fuse_req *req)
{
	struct efuse_conn *ec = efuse_conn_of(fiq);
	struct efuse_fastpath *fp = efuse_fastpath_of(ec);
	struct efuse_effects effects;
	u64 stamp;

	/* DESTROY ends the connection that the rings live on; replies to notifications are not requests. */
	if (!test_bit(FR_ISREPLY, &req->flags) || req->in.h.opcode == FUSE_DESTROY || READ_ONCE(ec->draining)) {
		ec->stock->send_req(fiq, req);
		return;
	}
	if (!fp)
		efuse_effects_none(&effects);
	else if (efuse_fastpath_send(fp, req, &effects))
		return;
	if (efuse_submit(ec, req, &effects))
		return;
	/* From here on it is the daemon who tells of changes: EFUSE_CHANGE_BEGIN. */
	if (fp)
		efuse_effects_end(&fp->changes, &effects, &stamp);
	ec->stock->send_req(fiq, req);
}

static u32 efuse_next_deferred(struct efuse_ring *ring)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);
	struct efuse_slot *s = NULL;

	spin_lock(&fpq->lock);
	if (!ring->dead && fpq->connected)
		s = list_first_entry_or_null(&ring->deferred, struct efuse_slot, deferred);
	if (s)
		list_del_init(&s->deferred);
	spin_unlock(&fpq->lock);
	return s ? s - ring->slots : U32_MAX;
}

static void efuse_defer_again(struct efuse_ring *ring, u32 slot)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);

	spin_lock(&fpq->lock);
	list_add(&ring->slots[slot].deferred, &ring->deferred);
	spin_unlock(&fpq->lock);
}

static void efuse_not_deferred(struct efuse_ring *ring)
{
	lockdep_assert_held(&efuse_pq(ring)->lock);
	WRITE_ONCE(ring->kh->deferred, ring->kh->deferred - 1);
}

/* What the stock path does between read() and the processing list. */
static void efuse_fill_one(struct efuse_ring *ring, u32 slot)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);
	struct fuse_req *req;
	LIST_HEAD(requeue);

	spin_lock(&fpq->lock);
	req = fpq->connected ? efuse_find(ring, slot) : NULL;
	if (!req) {	/* aborted or resent meanwhile */
		efuse_not_deferred(ring);
		spin_unlock(&fpq->lock);
		efuse_give_back(ring, slot);
		return;
	}
	clear_bit(FR_SENT, &req->flags);
	set_bit(FR_LOCKED, &req->flags);
	list_move(&req->list, &fpq->io);
	spin_unlock(&fpq->lock);

	efuse_fill(ring, slot, req);

	spin_lock(&fpq->lock);
	efuse_not_deferred(ring);
	clear_bit(FR_LOCKED, &req->flags);
	if (fpq->connected && !ring->dead) {
		list_move_tail(&req->list, &fpq->processing[0]);
		set_bit(FR_SENT, &req->flags);
		efuse_publish(ring, slot);
		spin_unlock(&fpq->lock);
		/* The caller may be no worker, and the worker that was woken for this have found nothing. */
		efuse_wake_worker(ring);
		return;
	}
	if (!fpq->connected) {	/* abort left it to us, with the error set */
		if (!test_bit(FR_PRIVATE, &req->flags))
			list_del_init(&req->list);
		spin_unlock(&fpq->lock);
		efuse_give_back(ring, slot);
		fuse_request_end(req);
		return;
	}
	list_move(&req->list, &requeue);
	spin_unlock(&fpq->lock);
	efuse_give_back(ring, slot);
	efuse_requeue(ring->ec, &requeue, false);
}

/* It has waited long enough for payload: those who hold it may be waiting for this very request. */
static bool efuse_overdue(struct efuse_ring *ring, u32 slot)
{
	return ktime_get_ns() - efuse_in(ring, slot)->enqueue_ns > EFUSE_DEFER_NS;
}

static void efuse_to_stock(struct efuse_ring *ring, u32 slot)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);
	struct fuse_req *req;
	LIST_HEAD(requeue);

	spin_lock(&fpq->lock);
	req = fpq->connected ? efuse_find(ring, slot) : NULL;
	if (req)
		list_move(&req->list, &requeue);
	efuse_not_deferred(ring);
	spin_unlock(&fpq->lock);
	efuse_give_back(ring, slot);
	atomic64_inc(&ring->to_stock_pool);
	efuse_requeue(ring->ec, &requeue, false);
}

/* In ENTER: publish the background requests whose data was left out, as far as there is room. */
void efuse_fill_deferred(struct efuse_ring *ring)
{
	while (READ_ONCE(ring->kh->deferred)) {
		u32 slot = efuse_next_deferred(ring);
		struct efuse_slot *s;

		if (slot == U32_MAX)
			return;
		s = &ring->slots[slot];
		if (!efuse_take_payload(ring, slot, ALIGN(s->in_pay, EFUSE_GRANULE) + s->out_pay)) {
			efuse_fill_one(ring, slot);
		} else if (efuse_overdue(ring, slot)) {
			efuse_to_stock(ring, slot);
		} else {
			/* Room comes with a completion, which wakes a worker, or time passes. */
			efuse_defer_again(ring, slot);
			return;
		}
		cond_resched();
	}
}
