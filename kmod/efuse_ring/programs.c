// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs come and go: the struct_ops that they are members of. Their
 * structures outlive attachments, and the other way round.
 */
#include <linux/btf.h>
#include <linux/file.h>
#include <linux/random.h>
#include <linux/slab.h>

#include "fastpath.h"

/* Which program is whose. */
struct efuse_program {
	struct list_head list;
	struct efuse_fastpath_ops *ops;
	struct efuse_fastpath *fp;
	unsigned int at;
};

static LIST_HEAD(efuse_programs);
static DEFINE_MUTEX(efuse_programs_mutex);	/* the list, and programs[] of all */

static void efuse_update_members(struct efuse_fastpath *fp)
{
	u64 members = 0;
	unsigned int i, m;

	for (i = 0; i < EFUSE_MAX_PROGRAMS; i++) {
		struct efuse_fastpath_ops *ops = rcu_dereference_protected(fp->programs[i],
									   lockdep_is_held(&efuse_programs_mutex));

		for (m = 0; ops && m < offsetof(struct efuse_fastpath_ops, abi_version) / sizeof(void *); m++)
			if (((void **)ops)[m])
				members |= BIT_ULL(m);
	}
	WRITE_ONCE(fp->members, members);
}

static struct efuse_fastpath *efuse_fastpath_make(struct efuse_conn *ec, u32 nodes)
{
	struct efuse_fastpath *fp = kzalloc(sizeof(*fp), GFP_KERNEL_ACCOUNT);
	unsigned int i;
	int err;

	if (!fp)
		return ERR_PTR(-ENOMEM);
	fp->ec = ec;
	get_random_bytes(&fp->key, sizeof(fp->key));
	err = efuse_changes_init(&fp->changes, nodes);
	err = err ?: efuse_nodes_init(&fp->nodes, nodes);
	for (i = 0; i < EFUSE_MAX_PROGRAMS && !err; i++) {
		fp->counts[i] = alloc_percpu_gfp(struct efuse_fastpath_counts, GFP_KERNEL_ACCOUNT);
		if (!fp->counts[i])
			err = -ENOMEM;
	}
	if (!err) {
		smp_store_release(&ec->fastpath, fp);
		return fp;
	}
	for (i = 0; i < EFUSE_MAX_PROGRAMS; i++)
		free_percpu(fp->counts[i]);
	efuse_nodes_free(&fp->nodes);
	efuse_changes_free(&fp->changes);
	kfree(fp);
	return ERR_PTR(err);
}

/* Nobody runs its programs, or will. */
void efuse_fastpath_free(struct efuse_conn *ec)
{
	struct efuse_fastpath *fp = ec->fastpath;
	struct efuse_program *p, *next;
	unsigned int i;

	if (!fp)
		return;
	mutex_lock(&efuse_programs_mutex);
	list_for_each_entry_safe(p, next, &efuse_programs, list) {
		if (p->fp != fp)
			continue;
		list_del(&p->list);
		kfree(p);
	}
	mutex_unlock(&efuse_programs_mutex);
	for (i = 0; i < EFUSE_MAX_PROGRAMS; i++)
		free_percpu(fp->counts[i]);
	efuse_nodes_free(&fp->nodes);
	efuse_changes_free(&fp->changes);
	kfree(fp);
	ec->fastpath = NULL;
}

static void efuse_clear_counts(struct efuse_fastpath *fp, unsigned int at)
{
	int cpu;

	for_each_possible_cpu(cpu)
		memset(per_cpu_ptr(fp->counts[at], cpu), 0, sizeof(struct efuse_fastpath_counts));
}

static int efuse_add_program(struct efuse_fastpath *fp, struct efuse_fastpath_ops *ops)
{
	struct efuse_program *p = kzalloc(sizeof(*p), GFP_KERNEL_ACCOUNT);
	unsigned int i;

	if (!p)
		return -ENOMEM;
	mutex_lock(&efuse_programs_mutex);
	for (i = 0; i < EFUSE_MAX_PROGRAMS; i++)
		if (!rcu_access_pointer(fp->programs[i]))
			break;
	if (i == EFUSE_MAX_PROGRAMS) {
		mutex_unlock(&efuse_programs_mutex);
		kfree(p);
		return -E2BIG;
	}
	*p = (struct efuse_program) { .ops = ops, .fp = fp, .at = i };
	list_add(&p->list, &efuse_programs);
	efuse_clear_counts(fp, i);
	rcu_assign_pointer(fp->programs[i], ops);
	efuse_update_members(fp);
	efuse_changed(&fp->changes, EFUSE_ALL, 0, 0);	/* what is remembered of an earlier time */
	mutex_unlock(&efuse_programs_mutex);
	return 0;
}

/* In the daemon, which has the descriptor of its attachment and names it in the structure. */
static int efuse_reg(void *kdata, struct bpf_link *link)
{
	struct efuse_fastpath_ops *ops = kdata;
	struct file *file = fget(ops->efuse_fd);
	struct efuse_fastpath *fp;
	struct efuse_conn *ec;
	int err = -ENOTTY;

	if (!file)
		return -EBADF;
	if (file->f_op != &efuse_fops)
		goto out;
	ec = file->private_data;
	err = -EINTR;
	if (mutex_lock_killable(&ec->lock))
		goto out;
	err = -ENOTCONN;
	if (ec->attached && !ec->detached) {
		fp = ec->fastpath ?: efuse_fastpath_make(ec, ops->nodes);
		err = IS_ERR(fp) ? PTR_ERR(fp) : efuse_add_program(fp, ops);
	}
	mutex_unlock(&ec->lock);
out:
	fput(file);
	return err;
}

static struct efuse_program *efuse_find_program(const struct efuse_fastpath_ops *ops)
{
	struct efuse_program *p;

	list_for_each_entry(p, &efuse_programs, list)
		if (p->ops == ops)
			return p;
	return NULL;
}

/* `next`: in its place. The core frees what was there once nobody is in it. */
static int efuse_swap_program(struct efuse_fastpath_ops *ops, struct efuse_fastpath_ops *next)
{
	struct efuse_program *p;

	mutex_lock(&efuse_programs_mutex);
	p = efuse_find_program(ops);
	if (p) {
		rcu_assign_pointer(p->fp->programs[p->at], next);
		efuse_update_members(p->fp);
		p->ops = next;
		if (!next) {
			list_del(&p->list);
			kfree(p);
		}
	}
	mutex_unlock(&efuse_programs_mutex);
	return p ? 0 : -ENOTCONN;
}

static void efuse_unreg(void *kdata, struct bpf_link *link)
{
	efuse_swap_program(kdata, NULL);	/* or its attachment has gone first */
}

static int efuse_update(void *kdata, void *old_kdata, struct bpf_link *link)
{
	return efuse_swap_program(old_kdata, kdata);
}

static int efuse_validate(void *kdata)
{
	const struct efuse_fastpath_ops *ops = kdata;

	if (ops->abi_version != EFUSE_FASTPATH_ABI)
		return -EPROTONOSUPPORT;
	return ops->reserved ? -EINVAL : 0;
}

/* What is no function is copied here, functions are the core's. */
static int efuse_init_member(const struct btf_type *t, const struct btf_member *member, void *kdata, const void *udata)
{
	const struct efuse_fastpath_ops *from = udata;
	struct efuse_fastpath_ops *to = kdata;

	switch (__btf_member_bit_offset(t, member) / 8) {
	case offsetof(struct efuse_fastpath_ops, abi_version):
		to->abi_version = from->abi_version;
		return 1;
	case offsetof(struct efuse_fastpath_ops, efuse_fd):
		to->efuse_fd = from->efuse_fd;
		return 1;
	case offsetof(struct efuse_fastpath_ops, nodes):
		to->nodes = from->nodes;
		return 1;
	case offsetof(struct efuse_fastpath_ops, reserved):
		to->reserved = from->reserved;
		return 1;
	case offsetof(struct efuse_fastpath_ops, name):
		strscpy(to->name, from->name, sizeof(to->name));
		return 1;
	}
	return 0;
}

static int efuse_init_btf(struct btf *btf)
{
	return 0;
}

static const struct bpf_func_proto *efuse_func_proto(enum bpf_func_id func_id, const struct bpf_prog *prog)
{
	return bpf_base_func_proto(func_id, prog);
}

/* A program's arguments: whole words, read only. */
static bool efuse_valid_access(int off, int size, enum bpf_access_type type, const struct bpf_prog *prog,
			       struct bpf_insn_access_aux *info)
{
	if (off < 0 || off >= (int)sizeof(u64) * MAX_BPF_FUNC_ARGS || type != BPF_READ || off % size)
		return false;
	return btf_ctx_access(off, size, type, prog, info);
}

static const struct bpf_verifier_ops efuse_verifier_ops = {
	.get_func_proto = efuse_func_proto,
	.is_valid_access = efuse_valid_access,
};

/* How functions of each member are called, for kernels that check indirect calls. */
static int efuse_stub(struct efuse_request *req)
{
	return EFUSE_FP_MISS;
}

static struct efuse_fastpath_ops efuse_stubs = {
	.lookup = efuse_stub,
	.getattr = efuse_stub,
	.readlink = efuse_stub,
	.access = efuse_stub,
	.open = efuse_stub,
	.opendir = efuse_stub,
	.read = efuse_stub,
	.write = efuse_stub,
	.flush = efuse_stub,
	.release = efuse_stub,
	.releasedir = efuse_stub,
	.statfs = efuse_stub,
	.getxattr = efuse_stub,
	.listxattr = efuse_stub,
	.readdir = efuse_stub,
	.setattr = efuse_stub,
	.setxattr = efuse_stub,
	.removexattr = efuse_stub,
	.mknod = efuse_stub,
	.mkdir = efuse_stub,
	.symlink = efuse_stub,
	.link = efuse_stub,
	.create = efuse_stub,
	.unlink = efuse_stub,
	.rmdir = efuse_stub,
	.rename = efuse_stub,
	.fallocate = efuse_stub,
	.copy_file_range = efuse_stub,
	.name_changes = efuse_stub,
	.entry = efuse_stub,
	.done = efuse_stub,
};

static struct bpf_struct_ops efuse_struct_ops = {
	.verifier_ops = &efuse_verifier_ops,
	.init = efuse_init_btf,
	.init_member = efuse_init_member,
	.validate = efuse_validate,
	.reg = efuse_reg,
	.unreg = efuse_unreg,
	.update = efuse_update,
	.cfi_stubs = &efuse_stubs,
	.name = "efuse_fastpath_ops",
	.owner = THIS_MODULE,
};

int efuse_programs_init(void)
{
	return register_bpf_struct_ops(&efuse_struct_ops, efuse_fastpath_ops);
}
