/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The module's own view of an attached connection and its rings.
 *
 * Ownership. A request on a ring is on its fuse_dev's processing list, exactly
 * as if it had been read from /dev/fuse. Whoever takes it off that list under
 * fpq->lock owns it and ends it: a completion, the requester that spins, the
 * stock code at abort or resend, detach. A slot's req pointer is never
 * followed; the request is found on the list by its unique.
 *
 * Locks, outermost first
 *   ec->lock                    attach, drain, detach of one descriptor
 *   efuse_attach_mutex          whose operations a connection has; nothing under it sleeps on a user
 *     chan->lock (stock)        held by abort throughout, and while the operations are replaced
 *     chan->bg_lock (stock)     held by the caller of send_req for background requests
 *       fpq->lock               lists of a ring, the tails of its kernel-written rings, dead
 *       ring->lock              slot and payload bitmaps
 *       ring->commit_lock       complete_head
 * fpq->lock, ring->lock and commit_lock are never held together.
 */
#ifndef EFUSE_RING_H
#define EFUSE_RING_H

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "changes.h"
#include "efuse_ring.h"		/* the contract */
#include "fuse_layout.h"	/* generated from the target kernel's BTF */

/* Before the transport's half of a connection was a structure of its own; see stock.h. */
#ifndef EFUSE_HAVE_FUSE_DEV_CHAN
#define fuse_chan fuse_conn
#endif

struct efuse_conn;
struct fuse_args_pages;
struct seq_file;
struct vm_area_struct;

/* Pages mapped into the kernel and, page by page, into the daemon. */
struct efuse_region {
	struct page **pages;
	unsigned long nr_pages;
	void *va;
};

/*
 * Life of a slot. gen counts its uses, so what the daemon says of an earlier
 * use is recognised. The state word is gen << 2 | enum.
 */
enum efuse_slot_state {
	EFUSE_SLOT_FREE,	/* clear in the bitmap */
	EFUSE_SLOT_INFLIGHT,	/* request queued or with the daemon */
	EFUSE_SLOT_COMPLETING,	/* claimed by the one that finishes it */
};

#define EFUSE_GEN_MASK		0x3fffffffu

struct efuse_slot {
	atomic_t state;
	u32 gen;		/* written while the slot is being filled */
	u64 unique;		/* likewise */
	u32 pay_first;		/* payload pool: first granule, number of granules */
	u32 pay_nr;
	u32 in_pay;		/* bytes of the last argument that go to the payload region */
	u32 out_pay;		/* bytes of the reply that come from there; 0: from the slot */
	u32 out_off;		/* where, in the payload region */
	u32 out_cap;		/* longest reply body */
	bool background;	/* protected by ring->lock */
	u32 pending_at;		/* index of its pending entry; protected by fpq->lock */
	struct list_head deferred;	/* protected by fpq->lock */
	struct efuse_effects effects;	/* of the request; ended when the slot is given back */
};

/* Whether looking longer has paid lately: after n failures in a row one chance in 2^n is taken. */
struct efuse_backoff {
	u32 fails;		/* in a row, at most EFUSE_BACKOFF_MAX */
	u32 skip;		/* chances to let pass before the next try */
};

#define EFUSE_BACKOFF_MAX	10u

struct efuse_ring {
	struct efuse_conn *ec;
	u32 index;
	struct fuse_dev *fud;
	struct efuse_region kern, user, payload;
	struct efuse_kern_head *kh;
	struct efuse_user_head *uh;
	void *pending, *interrupts, *forgets, *slot_in, *complete, *slot_out;
	struct efuse_slot *slots;

	spinlock_t lock;
	unsigned long *slot_map;	/* set: in use; protected by lock */
	unsigned long *pay_map;		/* likewise, one bit per granule */
	u32 slot_hint, pay_hint;	/* protected by lock */
	u32 in_flight;			/* slots in use; protected by lock */
	u32 background;			/* of them, for background requests; protected by lock */
	u32 pay_used;			/* granules in use; protected by lock */

	/* protected by fud->pq.lock; the tails are also read without it, for waiting */
	bool dead;
	u32 pending_tail, interrupt_tail, forget_tail;
	struct list_head deferred;	/* slots whose data a worker has yet to copy in; kh->deferred counts
					 * them until they are published or dropped */
	atomic_t defer_events;		/* a slot was deferred, or room was made while some were */

	spinlock_t commit_lock;
	u32 complete_head;		/* protected by commit_lock */

	wait_queue_head_t waitq;	/* workers asleep in ENTER */
	atomic_t kicks;			/* EFUSE_IOC_WAKE: ENTER returns once for each */
	int worker_cpu;			/* where ENTER was last called from; a hint */
	struct efuse_backoff poll_backoff;	/* of polls in ENTER; racy by design, as all of these */

	/* the balancer's last look, racy by design: requests finished by then, and since when no more were */
	u64 stall_done, stall_since;

	/* statistics that no lock covers */
	atomic64_t spins, spin_paid, polls, poll_paid, wakeups, bad, stale, moved, to_stock_size, to_stock_full, to_stock_pool;
	u64 submitted, done_spin, done_enter, nr_forgets, nr_interrupts;	/* protected by fpq->lock */
};

/* How a foreground request is waited for, and so which ring it takes: home, or the other one. */
enum efuse_wait { EFUSE_SLEEP, EFUSE_SLEEP_AWAY, EFUSE_SPIN };

/* How spinning has gone on one CPU, and whose turn it is there. Racy by design: a lost update costs a spin. */
struct efuse_cpu {
	u32 ewma_ns;		/* of spins that paid */
	bool after_trial;	/* the last one took longer than a spin may */
	bool away;		/* the last request was EFUSE_SLEEP_AWAY */
	struct efuse_backoff spin;
	u32 next_ring;		/* balancing goes round from here */
	u64 sent_ns;		/* when an application on this CPU sent its last request */
};

struct efuse_conn {
	struct fuse_chan *chan;
	struct fuse_iqueue *fiq;
	const struct fuse_iqueue_ops *stock;	/* found at attach */
	struct mutex lock;			/* attach, drain, detach of this descriptor */
	bool attached;				/* protected by lock; read by ENTER and mmap under it or after it was set */
	bool detached;				/* likewise */
	bool draining;
	u32 nr_rings, depth, forget_depth, slot_in_size, slot_out_size, payload_size;
	u32 spin_ns, balance, congestion;	/* EFUSE_IOC_TUNE changes them */
	int daemon;				/* thread group that last called ENTER; a hint */
	u32 epoch;				/* tells uniques of successive attachments apart */
	struct efuse_ring *rings;
	struct efuse_cpu_rings *cpu_rings;	/* nr_cpu_ids entries */
	struct efuse_cpu __percpu *cpu;
	struct efuse_fastpath *fastpath;	/* since the first program; NULL: none ever */
	struct user_struct *user;		/* charged for locked_pages; NULL: nobody is */
	unsigned long locked_pages;
	struct work_struct free_work;
};

#define EFUSE_GRANULE		PAGE_SIZE
#define EFUSE_DEFER_NS		(10 * NSEC_PER_MSEC)	/* a deferred request waits so long for payload, then leaves */

/*
 * Our uniques name ring, use and slot, so no counter is shared between rings:
 * even, bit 62 set, 12 bits ring, 30 bits gen, 15 bits slot. Stock ones count
 * up from 2 and do not get there; bit 63 is FUSE_UNIQUE_RESEND. A request that
 * detach has queued again keeps its unique for as long as the daemon likes, while
 * the connection is attached anew: 4 bits count attachments, and a slot's first
 * gen is random.
 */
#define EFUSE_UNIQUE_TAG	BIT_ULL(62)
#define EFUSE_UNIQUE_RING	50
#define EFUSE_UNIQUE_EPOCH	46
#define EFUSE_EPOCH_MASK	0xfu
#define EFUSE_UNIQUE_GEN	16
#define EFUSE_UNIQUE_SLOT	1
#ifndef FUSE_UNIQUE_RESEND
#define FUSE_UNIQUE_RESEND	BIT_ULL(63)
#endif

static inline struct fuse_pqueue *efuse_pq(struct efuse_ring *ring)
{
	return &ring->fud->pq;
}

static inline struct efuse_slot_in *efuse_in(struct efuse_ring *ring, u32 slot)
{
	return ring->slot_in + (size_t)slot * ring->ec->slot_in_size;
}

static inline struct efuse_slot_out *efuse_out(struct efuse_ring *ring, u32 slot)
{
	return ring->slot_out + (size_t)slot * ring->ec->slot_out_size;
}

static inline int efuse_slot_word(u32 gen, enum efuse_slot_state state)
{
	return (int)(gen << 2 | state);
}

static inline bool efuse_balance_valid(u32 policy, u32 congestion)
{
	return policy <= EFUSE_BALANCE_LEAST_LOADED && congestion && congestion <= EFUSE_MAX_DEPTH;
}

/* region.c */
int efuse_region_alloc(struct efuse_region *region, unsigned long size);
void efuse_region_free(struct efuse_region *region);
int efuse_region_mmap(struct efuse_region *region, struct vm_area_struct *vma);

/* attach.c */
long efuse_attach(struct efuse_conn *ec, struct efuse_attach __user *arg);
long efuse_drain(struct efuse_conn *ec);
void efuse_detach(struct efuse_conn *ec);
void efuse_conn_free(struct efuse_conn *ec);
extern const struct fuse_iqueue_ops efuse_fiq_ops;
extern const struct file_operations efuse_fops;
extern struct workqueue_struct *efuse_wq;

/* pool.c */
int efuse_take(struct efuse_ring *ring, u32 pay_bytes, bool background);
void efuse_put(struct efuse_ring *ring, u32 slot);
int efuse_take_payload(struct efuse_ring *ring, u32 slot, u32 pay_bytes);

/* copy.c */
struct efuse_page_piece {
	struct page *page;
	unsigned int offset;
	unsigned int len;
};
bool efuse_piece(struct fuse_args_pages *ap, unsigned int i, struct efuse_page_piece *piece);
void efuse_copy_in(struct fuse_req *req, void *head, void *last);
int efuse_copy_out(struct fuse_req *req, const void *body, u32 len);
/* Where the last access to a reply's pages was, so that the next one need not count from the first. */
struct efuse_cursor {
	u32 piece;
	u32 off;	/* of that piece in the pages */
};
u32 efuse_body_write(struct fuse_req *req, struct efuse_cursor *at, u32 off, const void *from, u32 len);
u32 efuse_body_read(struct fuse_req *req, struct efuse_cursor *at, u32 off, void *to, u32 len);
int efuse_body_end(struct fuse_req *req, u32 len);

/* submit.c */
struct efuse_conn *efuse_conn_of(struct fuse_iqueue *fiq);
void efuse_send_req(struct fuse_iqueue *fiq, struct fuse_req *req);
bool efuse_submit(struct efuse_conn *ec, struct fuse_req *req, struct efuse_effects *effects);
void efuse_give_back(struct efuse_ring *ring, u32 slot);
void efuse_fill_deferred(struct efuse_ring *ring);

/* balance.c */
void efuse_note_sender(struct efuse_conn *ec, u64 now);
struct efuse_ring *efuse_ring_aside(struct efuse_conn *ec);
struct efuse_ring *efuse_balance(struct efuse_conn *ec);

/* wait.c */
bool efuse_worth_trying(struct efuse_backoff *b);
void efuse_tried(struct efuse_backoff *b, bool paid);
enum efuse_wait efuse_choose_wait(struct efuse_conn *ec, struct efuse_ring *home, struct efuse_ring *other, int cpu);
void efuse_requester_wait(struct efuse_ring *ring, u32 slot, u32 gen, struct fuse_req *req);
int efuse_worker_wait(struct efuse_ring *ring, const struct efuse_enter *e);
void efuse_wake_worker(struct efuse_ring *ring);
bool efuse_gone(struct efuse_ring *ring);
bool efuse_is_done(struct efuse_ring *ring, u32 slot, u32 gen);

/* complete.c */
struct fuse_req *efuse_find(struct efuse_ring *ring, u32 slot);
void efuse_complete(struct efuse_ring *ring, u32 slot, u32 gen, bool by_requester);
long efuse_commit(struct efuse_ring *ring);
void efuse_commit_answered(struct efuse_ring *ring);
void efuse_requeue(struct efuse_conn *ec, struct list_head *reqs, bool seen);

/* forget.c */
void efuse_send_forget(struct fuse_iqueue *fiq, struct fuse_forget_link *forget);
void efuse_send_interrupt(struct fuse_iqueue *fiq, struct fuse_req *req);

/* stats.c */
void efuse_show_fdinfo(struct seq_file *m, struct efuse_conn *ec);
void efuse_publish_stats(struct efuse_ring *ring);

#endif
