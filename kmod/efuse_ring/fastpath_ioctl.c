// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the daemon tells of what programs answer, and asks of it: changes that the module does not
 * see, backing files, lookups that it has not counted, statistics.
 */
#include <linux/file.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "fastpath.h"

static bool efuse_reserved_clear(const u64 *reserved, unsigned int n)
{
	while (n--)
		if (reserved[n])
			return false;
	return true;
}

static long efuse_name_changed(struct efuse_fastpath *fp, const struct efuse_change *c)
{
	char name[EFUSE_NAME_SIZE];

	if (!c->name_len || c->name_len >= EFUSE_NAME_SIZE)
		return -EINVAL;
	if (copy_from_user(name, u64_to_user_ptr(c->name), c->name_len))
		return -EFAULT;
	efuse_changed(&fp->changes, EFUSE_NAME, efuse_name_hash(fp, c->nodeid, name, c->name_len), 0);
	efuse_changed(&fp->changes, EFUSE_ATTR, c->nodeid, 0);
	efuse_changed(&fp->changes, EFUSE_DATA, c->nodeid, EFUSE_DATA_ENTRIES);
	return 0;
}

static long efuse_changed_now(struct efuse_fastpath *fp, const struct efuse_change *c)
{
	switch (c->what) {
	case EFUSE_CHANGED_ALL:
		efuse_all_busy(&fp->changes);
		efuse_all_changed(&fp->changes);
		return 0;
	case EFUSE_CHANGED_NODE:
		efuse_changed(&fp->changes, EFUSE_ATTR, c->nodeid, 0);
		efuse_changed(&fp->changes, EFUSE_DATA, c->nodeid, EFUSE_DATA_WHOLE);
		return 0;
	case EFUSE_CHANGED_NAME:
		return efuse_name_changed(fp, c);
	}
	return -EINVAL;
}

long efuse_fastpath_change(struct efuse_conn *ec, struct efuse_change __user *arg)
{
	struct efuse_fastpath *fp = efuse_fastpath_of(ec);
	struct efuse_change c;

	if (copy_from_user(&c, arg, sizeof(c)))
		return -EFAULT;
	if (c.size != sizeof(c) || !efuse_reserved_clear(c.reserved, ARRAY_SIZE(c.reserved)) ||
	    (c.phase != EFUSE_CHANGE_NOW && c.what != EFUSE_CHANGED_ALL) ||
	    (c.what != EFUSE_CHANGED_NAME && (c.name_len || c.name)) || (c.what == EFUSE_CHANGED_ALL && c.nodeid))
		return -EINVAL;
	if (!fp)
		return 0;
	switch (c.phase) {
	case EFUSE_CHANGE_NOW:
		return efuse_changed_now(fp, &c);
	case EFUSE_CHANGE_BEGIN:
		if (!atomic_add_unless(&fp->daemon_changes, 1, INT_MAX / 2))
			return -EOVERFLOW;
		efuse_all_busy(&fp->changes);
		return 0;
	case EFUSE_CHANGE_END:
		if (atomic_dec_if_positive(&fp->daemon_changes) < 0)
			return -EINVAL;
		efuse_all_changed(&fp->changes);
		return 0;
	}
	return -EINVAL;
}

long efuse_fastpath_backing(struct efuse_conn *ec, struct efuse_backing __user *arg)
{
	struct efuse_fastpath *fp = efuse_fastpath_of(ec);
	struct efuse_backing b;
	struct file *file;
	int err;

	if (copy_from_user(&b, arg, sizeof(b)))
		return -EFAULT;
	if (b.size != sizeof(b) || !efuse_reserved_clear(b.reserved, ARRAY_SIZE(b.reserved)) || !b.nodeid)
		return -EINVAL;
	if (!fp)
		return -ENOENT;
	if (b.fd < 0)
		return efuse_node_set_backing(&fp->nodes, b.nodeid, NULL);
	file = fget(b.fd);
	if (!file)
		return -EBADF;
	err = efuse_check_backing(file);
	if (err) {
		fput(file);
		return err;
	}
	return efuse_node_set_backing(&fp->nodes, b.nodeid, file);
}

#define EFUSE_MOST_CREDITS	4096u

/* What cannot be told is counted here again. */
long efuse_fastpath_credits(struct efuse_conn *ec, struct efuse_credits __user *arg)
{
	struct efuse_fastpath *fp = efuse_fastpath_of(ec);
	struct efuse_credit *credits;
	struct efuse_credits c;
	long n;

	if (copy_from_user(&c, arg, sizeof(c)))
		return -EFAULT;
	if (c.size != sizeof(c) || !efuse_reserved_clear(c.reserved, ARRAY_SIZE(c.reserved)) || !c.nr)
		return -EINVAL;
	if (!fp)
		return 0;
	c.nr = min(c.nr, EFUSE_MOST_CREDITS);
	credits = kvmalloc_array(c.nr, sizeof(*credits), GFP_KERNEL);
	if (!credits)
		return -ENOMEM;
	n = efuse_nodes_take_credits(&fp->nodes, credits, c.nr);
	if (copy_to_user(u64_to_user_ptr(c.credits), credits, n * sizeof(*credits))) {
		efuse_nodes_return_credits(&fp->nodes, credits, n);
		n = -EFAULT;
	}
	kvfree(credits);
	return n;
}

static void efuse_sum_counts(struct efuse_fastpath_counts __percpu *counts, struct efuse_fastpath_stats *st)
{
	unsigned int i;
	int cpu;

	for_each_possible_cpu(cpu) {
		const struct efuse_fastpath_counts *c = per_cpu_ptr(counts, cpu);

		for (i = 0; i < EFUSE_FASTPATH_OPCODES; i++) {
			st->count[i].hits += c->of[i].hits;
			st->count[i].misses += c->of[i].misses;
			st->count[i].declines += c->of[i].declines;
			st->count[i].errors += c->of[i].errors;
		}
	}
}

long efuse_fastpath_stats(struct efuse_conn *ec, struct efuse_fastpath_stats __user *arg)
{
	struct efuse_fastpath *fp = efuse_fastpath_of(ec);
	struct efuse_fastpath_stats *st;
	struct efuse_fastpath_ops *ops;
	long ret = -EFAULT;

	st = kzalloc(sizeof(*st), GFP_KERNEL);
	if (!st)
		return -ENOMEM;
	if (copy_from_user(st, arg, offsetof(struct efuse_fastpath_stats, count)))
		goto out;
	ret = -EINVAL;
	if (st->size != sizeof(*st) || !efuse_reserved_clear(st->reserved, ARRAY_SIZE(st->reserved)) ||
	    st->program >= EFUSE_MAX_PROGRAMS)
		goto out;
	st->program = array_index_nospec(st->program, EFUSE_MAX_PROGRAMS);
	ret = -ENOENT;
	if (!fp)
		goto out;
	rcu_read_lock();
	ops = rcu_dereference(fp->programs[st->program]);
	if (ops) {
		memcpy(st->name, ops->name, sizeof(st->name));
		ret = 0;
	}
	rcu_read_unlock();
	if (ret)
		goto out;
	efuse_sum_counts(fp->counts[st->program], st);
	if (copy_to_user(arg, st, sizeof(*st)))
		ret = -EFAULT;
out:
	kfree(st);
	return ret;
}
