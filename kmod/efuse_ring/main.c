// SPDX-License-Identifier: GPL-2.0-only
/* /dev/efuse: one open file is one attachment. */
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "fastpath.h"
#include "ring.h"

struct workqueue_struct *efuse_wq;

static void efuse_free_work(struct work_struct *work)
{
	efuse_conn_free(container_of(work, struct efuse_conn, free_work));
}

static int efuse_open(struct inode *inode, struct file *file)
{
	struct efuse_conn *ec = kzalloc(sizeof(*ec), GFP_KERNEL_ACCOUNT);

	if (!ec)
		return -ENOMEM;
	mutex_init(&ec->lock);
	INIT_WORK(&ec->free_work, efuse_free_work);
	file->private_data = ec;
	return nonseekable_open(inode, file);
}

static int efuse_release(struct inode *inode, struct file *file)
{
	struct efuse_conn *ec = file->private_data;

	efuse_detach(ec);
	queue_work(efuse_wq, &ec->free_work);
	return 0;
}

/* The rings, once attached; they stay until the file is released. */
static struct efuse_ring *efuse_ring_of(struct efuse_conn *ec, u32 index)
{
	if (!smp_load_acquire(&ec->attached))	/* pairs with efuse_attach_locked() */
		return ERR_PTR(-ENOTCONN);
	if (index >= ec->nr_rings)
		return ERR_PTR(-EINVAL);
	return &ec->rings[array_index_nospec(index, ec->nr_rings)];
}

/* Offsets are whole regions of one ring, see EFUSE_MMAP_OFFSET. */
static int efuse_mmap(struct file *file, struct vm_area_struct *vma)
{
	u64 off = (u64)vma->vm_pgoff << PAGE_SHIFT;
	u32 which = (off >> 32) & 3;
	struct efuse_ring *ring;

	if ((off & U32_MAX) || (off >> 34) > U32_MAX || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	ring = efuse_ring_of(file->private_data, off >> 34);
	if (IS_ERR(ring))
		return PTR_ERR(ring);
	vm_flags_clear(vma, VM_MAYEXEC);
	switch (which) {
	case EFUSE_REGION_KERN:
		if (vma->vm_flags & VM_WRITE)
			return -EACCES;
		vm_flags_clear(vma, VM_MAYWRITE);
		return efuse_region_mmap(&ring->kern, vma);
	case EFUSE_REGION_USER:
		return efuse_region_mmap(&ring->user, vma);
	case EFUSE_REGION_PAYLOAD:
		return efuse_region_mmap(&ring->payload, vma);
	}
	return -EINVAL;
}

/* Step 5 and 8: commit replies, copy in deferred data, wait. */
static long efuse_enter(struct efuse_conn *ec, struct efuse_enter __user *arg)
{
	struct efuse_enter e;
	struct efuse_ring *ring;
	long done;
	int err;

	if (copy_from_user(&e, arg, sizeof(e)))
		return -EFAULT;
	if ((e.flags & ~(EFUSE_ENTER_WAIT | EFUSE_ENTER_ADAPTIVE)) || e.reserved || e.reserved2)
		return -EINVAL;
	ring = efuse_ring_of(ec, e.ring);
	if (IS_ERR(ring))
		return PTR_ERR(ring);

	WRITE_ONCE(ring->worker_cpu, raw_smp_processor_id());
	if (READ_ONCE(ec->daemon) != current->tgid)
		WRITE_ONCE(ec->daemon, current->tgid);
	done = efuse_commit(ring);
	if (done < 0)
		return done;
	if (!(e.flags & EFUSE_ENTER_WAIT)) {
		efuse_fill_deferred(ring);
		return efuse_gone(ring) ? -ENODEV : done;
	}
	efuse_publish_stats(ring);
	err = efuse_worker_wait(ring, &e);
	/* What was committed is committed; the caller hears of it before it hears of a signal. */
	return err && !(err == -EINTR && done) ? err : done;
}

static long efuse_tune(struct efuse_conn *ec, struct efuse_tune __user *arg)
{
	struct efuse_tune t;
	unsigned int i;

	if (copy_from_user(&t, arg, sizeof(t)))
		return -EFAULT;
	if (t.size != sizeof(t) || t.flags || !efuse_balance_valid(t.balance, t.congestion))
		return -EINVAL;
	for (i = 0; i < ARRAY_SIZE(t.reserved); i++)
		if (t.reserved[i])
			return -EINVAL;
	WRITE_ONCE(ec->spin_ns, min(t.spin_ns, EFUSE_MAX_SPIN_NS));
	WRITE_ONCE(ec->balance, t.balance);
	WRITE_ONCE(ec->congestion, t.congestion);
	return 0;
}

static long efuse_wake(struct efuse_conn *ec, u32 index)
{
	struct efuse_ring *ring = efuse_ring_of(ec, index == U32_MAX ? 0 : index);
	u32 i;

	if (IS_ERR(ring))
		return PTR_ERR(ring);
	for (i = 0; i < ec->nr_rings; i++) {
		if (index != U32_MAX && &ec->rings[i] != ring)
			continue;
		/* One too many is a return too many; a sign change would be returns without end. */
		if (atomic_read(&ec->rings[i].kicks) < INT_MAX / 2)
			atomic_inc(&ec->rings[i].kicks);
		efuse_wake_worker(&ec->rings[i]);
	}
	return 0;
}

/* What only an attached descriptor does. */
static bool efuse_knows(unsigned int cmd)
{
	switch (cmd) {
	case EFUSE_IOC_DRAIN:
	case EFUSE_IOC_DETACH:
	case EFUSE_IOC_WAKE:
	case EFUSE_IOC_TUNE:
	case EFUSE_IOC_CHANGE:
	case EFUSE_IOC_BACKING:
	case EFUSE_IOC_CREDITS:
	case EFUSE_IOC_FASTPATH_STATS:
		return true;
	}
	return false;
}

static long efuse_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct efuse_conn *ec = file->private_data;

	switch (cmd) {
	case EFUSE_IOC_ENTER:
		return efuse_enter(ec, (void __user *)arg);
	case EFUSE_IOC_ATTACH:
		return efuse_attach(ec, (void __user *)arg);
	}
	if (!smp_load_acquire(&ec->attached))
		return efuse_knows(cmd) ? -ENOTCONN : -ENOTTY;
	switch (cmd) {
	case EFUSE_IOC_DRAIN:
		return efuse_drain(ec);
	case EFUSE_IOC_DETACH:
		efuse_detach(ec);
		return 0;
	case EFUSE_IOC_WAKE:
		return arg <= U32_MAX ? efuse_wake(ec, arg) : -EINVAL;
	case EFUSE_IOC_TUNE:
		return efuse_tune(ec, (void __user *)arg);
	case EFUSE_IOC_CHANGE:
		return efuse_fastpath_change(ec, (void __user *)arg);
	case EFUSE_IOC_BACKING:
		return efuse_fastpath_backing(ec, (void __user *)arg);
	case EFUSE_IOC_CREDITS:
		return efuse_fastpath_credits(ec, (void __user *)arg);
	case EFUSE_IOC_FASTPATH_STATS:
		return efuse_fastpath_stats(ec, (void __user *)arg);
	}
	return -ENOTTY;
}

static void efuse_fdinfo(struct seq_file *m, struct file *file)
{
	efuse_show_fdinfo(m, file->private_data);
}

const struct file_operations efuse_fops = {
	.owner = THIS_MODULE,
	.open = efuse_open,
	.release = efuse_release,
	.mmap = efuse_mmap,
	.unlocked_ioctl = efuse_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.show_fdinfo = efuse_fdinfo,
};

/* As /dev/fuse: what a user may do with it is bounded by the mount he already owns. */
static struct miscdevice efuse_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "efuse",
	.mode = 0666,
	.fops = &efuse_fops,
};

static int __init efuse_init(void)
{
	int err;

	efuse_wq = alloc_workqueue("efuse_ring", WQ_UNBOUND, 0);
	if (!efuse_wq)
		return -ENOMEM;
	err = efuse_fastpath_init();
	if (err)
		goto err_wq;
	err = misc_register(&efuse_device);
	if (!err)
		return 0;
	efuse_fastpath_exit();
err_wq:
	destroy_workqueue(efuse_wq);
	return err;
}

/* No file is open any more; this waits until the connections that were let go are freed. */
static void __exit efuse_exit(void)
{
	misc_deregister(&efuse_device);
	destroy_workqueue(efuse_wq);
	efuse_fastpath_exit();
}

module_init(efuse_init);
module_exit(efuse_exit);
MODULE_LICENSE("GPL");
MODULE_VERSION(EFUSE_MODULE_VERSION);
MODULE_DESCRIPTION("Shared-memory rings for stock FUSE connections");
