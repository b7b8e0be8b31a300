// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attach to a live stock connection by replacing its input queue operations,
 * and give it back. The connection's own requests go on meanwhile.
 *
 * Detach. The operations are put back first. A requester that still runs our
 * send_req finds its ring dead, under the lock that enqueues, and takes the
 * stock path; requests on the rings move there as well. None of our code sleeps
 * between the load of fiq->ops and its return, so after synchronize_rcu_tasks()
 * nobody is in it, and the rings can be freed. That does not hold where spinlocks
 * sleep, nor where a preempted task is not waited for.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/user.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "fastpath.h"
#include "ring.h"
#include "stock.h"

#if defined(CONFIG_PREEMPT_RT) || (defined(CONFIG_PREEMPTION) && !defined(CONFIG_TASKS_RCU))
#error "efuse_ring: this kernel's synchronize_rcu_tasks() does not wait for send_req (PREEMPT_RT, or no TASKS_RCU)"
#endif

extern const struct file_operations fuse_dev_operations;

/* One attach or detach at a time, of any connection: fiq->ops has no lock of its own. */
static DEFINE_MUTEX(efuse_attach_mutex);

static atomic_t efuse_epoch;

const struct fuse_iqueue_ops efuse_fiq_ops = {
	.send_req = efuse_send_req,
	.send_forget = efuse_send_forget,
	.send_interrupt = efuse_send_interrupt,
};

static bool efuse_pow2_in(u32 value, u32 least, u32 most)
{
	return is_power_of_2(value) && value >= least && value <= most;
}

static int efuse_check_attach(const struct efuse_attach *a)
{
	unsigned int i;

	if (a->size != sizeof(*a) || a->abi_version != EFUSE_ABI_VERSION)
		return -EPROTONOSUPPORT;
	for (i = 0; i < ARRAY_SIZE(a->reserved); i++)
		if (a->reserved[i])
			return -EINVAL;
	if (a->flags || (a->features & ~EFUSE_FEATURES) || a->kern_size || a->user_size)
		return -EINVAL;
	if (!a->nr_rings || a->nr_rings > min(EFUSE_MAX_RINGS, nr_cpu_ids))
		return -EINVAL;
	if (!efuse_pow2_in(a->depth, EFUSE_MIN_DEPTH, EFUSE_MAX_DEPTH) ||
	    !efuse_pow2_in(a->forget_depth, EFUSE_MIN_DEPTH, EFUSE_MAX_DEPTH) ||
	    !efuse_pow2_in(a->slot_in_size, EFUSE_MIN_SLOT, EFUSE_MAX_SLOT) ||
	    !efuse_pow2_in(a->slot_out_size, EFUSE_MIN_SLOT, EFUSE_MAX_SLOT))
		return -EINVAL;
	if (a->payload_size < EFUSE_MIN_PAYLOAD || a->payload_size > EFUSE_MAX_PAYLOAD ||
	    !PAGE_ALIGNED(a->payload_size))
		return -EINVAL;
	if (!efuse_balance_valid(a->balance, a->congestion))
		return -EINVAL;
	if (a->nr_cpus > nr_cpu_ids || (a->nr_cpus && !a->cpu_rings))
		return -EINVAL;
	return 0;
}

/* Lines of 64 bytes, one after the other; the info comes first. */
static void efuse_layout(const struct efuse_attach *a, struct efuse_ring_info *info)
{
	u32 off = ALIGN(sizeof(*info), EFUSE_CACHELINE);

	info->magic = EFUSE_MAGIC;
	info->abi_version = EFUSE_ABI_VERSION;
	info->features = a->features;
	info->nr_rings = a->nr_rings;
	info->depth = a->depth;
	info->interrupt_depth = a->depth;
	info->forget_depth = a->forget_depth;
	info->slot_in_size = a->slot_in_size;
	info->slot_out_size = a->slot_out_size;
	info->payload_size = a->payload_size;

	info->kern_head_off = off;
	off += ALIGN(sizeof(struct efuse_kern_head), EFUSE_CACHELINE);
	info->pending_off = off;
	off += ALIGN(a->depth * sizeof(struct efuse_pending_entry), EFUSE_CACHELINE);
	info->interrupt_off = off;
	off += ALIGN(a->depth * sizeof(struct efuse_interrupt_entry), EFUSE_CACHELINE);
	info->forget_off = off;
	off += ALIGN(a->forget_depth * sizeof(struct efuse_forget_entry), EFUSE_CACHELINE);
	info->slot_in_off = off;
	off += a->depth * a->slot_in_size;
	info->kern_size = PAGE_ALIGN(off);

	info->user_head_off = 0;
	off = ALIGN(sizeof(struct efuse_user_head), EFUSE_CACHELINE);
	info->complete_off = off;
	off += ALIGN(a->depth * sizeof(struct efuse_complete_entry), EFUSE_CACHELINE);
	info->slot_out_off = off;
	off += a->depth * a->slot_out_size;
	info->user_size = PAGE_ALIGN(off);
}

static int efuse_alloc_maps(struct efuse_ring *ring, const struct efuse_ring_info *info)
{
	ring->slots = kvcalloc(info->depth, sizeof(*ring->slots), GFP_KERNEL_ACCOUNT);
	ring->slot_map = bitmap_zalloc(info->depth, GFP_KERNEL_ACCOUNT);
	ring->pay_map = bitmap_zalloc(info->payload_size / EFUSE_GRANULE, GFP_KERNEL_ACCOUNT);
	return ring->slots && ring->slot_map && ring->pay_map ? 0 : -ENOMEM;
}

static int efuse_alloc_ring(struct efuse_conn *ec, struct efuse_ring *ring, struct efuse_ring_info *info)
{
	u32 i;
	int err;

	err = efuse_alloc_maps(ring, info);
	err = err ?: efuse_region_alloc(&ring->kern, info->kern_size);
	err = err ?: efuse_region_alloc(&ring->user, info->user_size);
	err = err ?: efuse_region_alloc(&ring->payload, info->payload_size);
	if (err)
		return err;
	/* Not fuse_dev_alloc_install(): from Linux 7.2 on that one is for the first fuse_dev of a connection. */
	ring->fud = fuse_dev_alloc();
	if (!ring->fud)
		return -ENOMEM;
	fuse_dev_install(ring->fud, ec->chan);

	for (i = 0; i < info->depth; i++) {
		INIT_LIST_HEAD(&ring->slots[i].deferred);
		ring->slots[i].gen = get_random_u32() & EFUSE_GEN_MASK;
	}
	info->ring = ring->index;
	memcpy(ring->kern.va, info, sizeof(*info));
	ring->kh = ring->kern.va + info->kern_head_off;
	ring->pending = ring->kern.va + info->pending_off;
	ring->interrupts = ring->kern.va + info->interrupt_off;
	ring->forgets = ring->kern.va + info->forget_off;
	ring->slot_in = ring->kern.va + info->slot_in_off;
	ring->uh = ring->user.va + info->user_head_off;
	ring->complete = ring->user.va + info->complete_off;
	ring->slot_out = ring->user.va + info->slot_out_off;
	return 0;
}

static void efuse_free_rings(struct efuse_conn *ec)
{
	u32 i;

	for (i = 0; ec->rings && i < ec->nr_rings; i++) {
		struct efuse_ring *ring = &ec->rings[i];

		if (ring->fud)
			efuse_put_dev(ring->fud);
		efuse_region_free(&ring->payload);
		efuse_region_free(&ring->user);
		efuse_region_free(&ring->kern);
		bitmap_free(ring->pay_map);
		bitmap_free(ring->slot_map);
		kvfree(ring->slots);
	}
	kvfree(ec->rings);
	kvfree(ec->cpu_rings);
	free_percpu(ec->cpu);
	ec->rings = NULL;
	ec->cpu_rings = NULL;
	ec->cpu = NULL;
}

static int efuse_alloc_rings(struct efuse_conn *ec, struct efuse_ring_info *info)
{
	u32 i;
	int err;

	ec->cpu = alloc_percpu(struct efuse_cpu);
	ec->rings = kvcalloc(ec->nr_rings, sizeof(*ec->rings), GFP_KERNEL_ACCOUNT);
	if (!ec->cpu || !ec->rings)
		return -ENOMEM;
	for (i = 0; i < ec->nr_rings; i++) {
		struct efuse_ring *ring = &ec->rings[i];

		ring->ec = ec;
		ring->index = i;
		ring->worker_cpu = -1;
		spin_lock_init(&ring->lock);
		spin_lock_init(&ring->commit_lock);
		init_waitqueue_head(&ring->waitq);
		INIT_LIST_HEAD(&ring->deferred);
	}
	for (i = 0; i < ec->nr_rings; i++) {
		err = efuse_alloc_ring(ec, &ec->rings[i], info);
		if (err)
			return err;
		cond_resched();
	}
	return 0;
}

static int efuse_copy_cpu_map(struct efuse_conn *ec, const struct efuse_attach *a)
{
	u32 cpu;

	ec->cpu_rings = kvcalloc(nr_cpu_ids, sizeof(*ec->cpu_rings), GFP_KERNEL_ACCOUNT);
	if (!ec->cpu_rings)
		return -ENOMEM;
	if (copy_from_user(ec->cpu_rings, u64_to_user_ptr(a->cpu_rings), a->nr_cpus * sizeof(*ec->cpu_rings)))
		return -EFAULT;
	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		struct efuse_cpu_rings *m = &ec->cpu_rings[cpu];

		if (cpu >= a->nr_cpus)
			m->home = m->spin = cpu % a->nr_rings;
		if (m->home >= a->nr_rings || m->spin >= a->nr_rings)
			return -EINVAL;
	}
	return 0;
}

/* Under RLIMIT_MEMLOCK, by user as io_uring does, unless the opener has CAP_IPC_LOCK. */
static int efuse_charge(struct efuse_conn *ec, const struct efuse_ring_info *info)
{
	struct user_struct *user = current_user();
	unsigned long limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	unsigned long pages = (PAGE_ALIGN(info->kern_size) + PAGE_ALIGN(info->user_size) +
			       (unsigned long)info->payload_size) >> PAGE_SHIFT;

	if (capable(CAP_IPC_LOCK))
		return 0;
	pages *= ec->nr_rings;
	if (atomic_long_add_return(pages, &user->locked_vm) > limit) {
		atomic_long_sub(pages, &user->locked_vm);
		return -EDQUOT;
	}
	ec->locked_pages = pages;
	ec->user = get_uid(user);
	return 0;
}

static void efuse_uncharge(struct efuse_conn *ec)
{
	if (!ec->user)
		return;
	atomic_long_sub(ec->locked_pages, &ec->user->locked_vm);
	free_uid(ec->user);
	ec->user = NULL;
	ec->locked_pages = 0;
}

/* The transport of the connection behind a descriptor, for as long as that is open. */
static struct fuse_chan *efuse_chan_of(struct file *file)
{
	struct fuse_dev *fud;
	struct fuse_chan *chan;

	if (file->f_op != &fuse_dev_operations)
		return ERR_PTR(-ENOTTY);	/* not /dev/fuse */
	fud = efuse_file_dev(file);
	chan = fud ? efuse_dev_chan(fud) : NULL;
	return chan ?: ERR_PTR(-ENOTCONN);	/* not mounted */
}

static int efuse_check_chan(struct fuse_chan *chan)
{
	if (!READ_ONCE(chan->connected))
		return -ENODEV;
	if (!smp_load_acquire(&chan->initialized) || efuse_chan_conn(chan)->conn_error)
		return -EAGAIN;		/* INIT is not answered yet */
	if (efuse_chan_has_uring(chan))
		return -EOPNOTSUPP;
	if (READ_ONCE(chan->iq.ops) == &efuse_fiq_ops)
		return -EBUSY;
	return 0;
}

static int efuse_build(struct efuse_conn *ec, const struct efuse_attach *a, struct efuse_ring_info *info)
{
	int err;

	ec->nr_rings = a->nr_rings;
	ec->depth = a->depth;
	ec->forget_depth = a->forget_depth;
	ec->slot_in_size = a->slot_in_size;
	ec->slot_out_size = a->slot_out_size;
	ec->payload_size = a->payload_size;
	ec->spin_ns = min(a->spin_ns, EFUSE_MAX_SPIN_NS);
	ec->balance = a->balance;
	ec->congestion = a->congestion;
	ec->epoch = atomic_inc_return(&efuse_epoch) & EFUSE_EPOCH_MASK;
	err = efuse_copy_cpu_map(ec, a);
	err = err ?: efuse_charge(ec, info);
	return err ?: efuse_alloc_rings(ec, info);
}

/*
 * Abort holds chan->lock from its look at connected to its last fuse_dev: either it
 * is seen here, or it will see our fuse_devs.
 */
static int efuse_swap_in(struct efuse_conn *ec)
{
	struct fuse_chan *chan = ec->chan;
	int err;

	mutex_lock(&efuse_attach_mutex);
	spin_lock(&chan->lock);
	err = efuse_check_chan(chan);
	if (!err) {
		ec->stock = READ_ONCE(ec->fiq->ops);
		WRITE_ONCE(ec->fiq->priv, ec);
		smp_store_release(&ec->fiq->ops, &efuse_fiq_ops);	/* pairs with efuse_conn_of() */
	}
	spin_unlock(&chan->lock);
	mutex_unlock(&efuse_attach_mutex);
	return err;
}

/* With a connection that the descriptor keeps. */
static int efuse_attach_chan(struct efuse_conn *ec, struct efuse_attach *a, struct efuse_ring_info *info,
			     struct efuse_attach __user *arg)
{
	int err;

	err = efuse_check_chan(ec->chan);
	err = err ?: efuse_build(ec, a, info);
	if (err)
		return err;
	a->spin_ns = ec->spin_ns;
	a->features = info->features;
	a->kern_size = info->kern_size;
	a->user_size = info->user_size;
	if (copy_to_user(arg, a, sizeof(*a)))
		return -EFAULT;
	return efuse_swap_in(ec);
}

static long efuse_attach_locked(struct efuse_conn *ec, struct efuse_attach *a, struct efuse_attach __user *arg)
{
	struct efuse_ring_info info = {};
	struct fuse_chan *chan;
	struct file *file;
	int err;

	lockdep_assert_held(&ec->lock);
	if (ec->attached)
		return -EALREADY;
	err = efuse_check_attach(a);
	if (err)
		return err;
	efuse_layout(a, &info);
	if (info.kern_size + info.user_size > EFUSE_MAX_RING_BYTES)
		return -E2BIG;
	/* Held to the end: closing the last descriptor aborts, unless it finds fuse_devs of ours, see efuse_let_go(). */
	file = fget(a->fuse_fd);
	if (!file)
		return -EBADF;
	chan = efuse_chan_of(file);
	err = PTR_ERR_OR_ZERO(chan);
	if (err)
		goto out;
	ec->chan = chan;
	ec->fiq = &chan->iq;
	fuse_conn_get(efuse_chan_conn(chan));
	err = efuse_attach_chan(ec, a, &info, arg);
	if (err)
		goto err_free;
	/* Readers without ec->lock see the rings complete. */
	smp_store_release(&ec->attached, true);
	goto out;

err_free:
	efuse_free_rings(ec);
	efuse_uncharge(ec);
	ec->chan = NULL;
	fuse_conn_put(efuse_chan_conn(chan));
out:
	fput(file);
	return err;
}

long efuse_attach(struct efuse_conn *ec, struct efuse_attach __user *arg)
{
	struct efuse_attach a;
	long ret;

	if (copy_from_user(&a, arg, sizeof(a)))
		return -EFAULT;
	if (mutex_lock_killable(&ec->lock))
		return -EINTR;
	ret = efuse_attach_locked(ec, &a, arg);
	mutex_unlock(&ec->lock);
	return ret;
}

/* New requests take the stock path from now on; the number still on the rings, -ENODEV if nobody waits for them. */
long efuse_drain(struct efuse_conn *ec)
{
	long left = 0;
	u32 i;

	if (mutex_lock_killable(&ec->lock))
		return -EINTR;
	WRITE_ONCE(ec->draining, true);
	for (i = 0; i < ec->nr_rings && !ec->detached; i++) {
		WRITE_ONCE(ec->rings[i].kh->state, EFUSE_RING_DRAINING);
		left += READ_ONCE(ec->rings[i].in_flight);
	}
	if (ec->detached || !READ_ONCE(ec->chan->connected))
		left = -ENODEV;
	mutex_unlock(&ec->lock);
	return left;
}

/* First nothing new comes, then what is answered is finished, by us or by who is at it; the rest is left. */
static void efuse_kill_ring(struct efuse_ring *ring, struct list_head *left)
{
	struct fuse_pqueue *fpq = efuse_pq(ring);

	spin_lock(&fpq->lock);
	WRITE_ONCE(ring->dead, true);
	spin_unlock(&fpq->lock);
	efuse_commit(ring);
	efuse_commit_answered(ring);

	spin_lock(&fpq->lock);
	list_splice_tail_init(&fpq->processing[0], left);
	spin_unlock(&fpq->lock);
	WRITE_ONCE(ring->kh->state, EFUSE_RING_DEAD);
	wake_up_all(&ring->waitq);
}

/*
 * The rings' fuse_devs leave the connection. From Linux 7.2 on a connection has
 * lost its daemon when it has no fuse_dev any more, so what the last close() of
 * /dev/fuse left undone because of ours is done here. Before, that counts
 * descriptors, and has aborted already.
 */
static void efuse_let_go(struct efuse_conn *ec)
{
	struct fuse_chan *chan = ec->chan;
	bool orphan;
	u32 i;

	spin_lock(&chan->lock);
	for (i = 0; i < ec->nr_rings; i++)
		list_del_init(&ec->rings[i].fud->entry);
	orphan = list_empty(&chan->devices);
	spin_unlock(&chan->lock);
	if (orphan)
		efuse_abort_chan(chan);
}

/* Idempotent. What was on the rings is on the stock path when this returns. */
void efuse_detach(struct efuse_conn *ec)
{
	LIST_HEAD(left);
	u32 i;

	mutex_lock(&ec->lock);
	if (!ec->attached || ec->detached)
		goto out;
	mutex_lock(&efuse_attach_mutex);
	WRITE_ONCE(ec->fiq->ops, ec->stock);
	mutex_unlock(&efuse_attach_mutex);
	for (i = 0; i < ec->nr_rings; i++)
		efuse_kill_ring(&ec->rings[i], &left);
	efuse_requeue(ec, &left, true);
	efuse_let_go(ec);
	WRITE_ONCE(ec->detached, true);
out:
	mutex_unlock(&ec->lock);
}

/* From the work queue: nobody has the descriptor any more, somebody may still be in send_req. */
void efuse_conn_free(struct efuse_conn *ec)
{
	if (ec->attached) {
		synchronize_rcu_tasks();
		if (ec->fastpath) {
			/*
			 * Who has slept meanwhile reads a backing file, and goes on in our code without
			 * sleeping again; work items go on to the stock path.
			 */
			efuse_fastpath_synchronize();
			synchronize_rcu_tasks();
		}
		efuse_fastpath_free(ec);
		mutex_lock(&efuse_attach_mutex);
		if (READ_ONCE(ec->fiq->priv) == ec)	/* not attached anew meanwhile */
			WRITE_ONCE(ec->fiq->priv, NULL);
		mutex_unlock(&efuse_attach_mutex);
		efuse_free_rings(ec);
		efuse_uncharge(ec);
		fuse_conn_put(efuse_chan_conn(ec->chan));
	}
	mutex_destroy(&ec->lock);
	kfree(ec);
}
