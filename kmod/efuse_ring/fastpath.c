// SPDX-License-Identifier: GPL-2.0-only
/*
 * Step 1: programs see a request before a ring does, and may answer it; and they
 * see replies before the requester does. A foreground request is answered where it is
 * sent. A background request is sent under bg_lock, which ending it takes, too:
 * a work item does that.
 */
#include <linux/btf.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/nospec.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/srcu.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include "fastpath.h"
#include "stock.h"

typedef int (*efuse_program_fn)(struct efuse_request *r);

struct workqueue_struct *efuse_fastpath_wq;
DEFINE_STATIC_SRCU(efuse_fastpath_srcu);	/* held by who sleeps in send_req */

struct efuse_later {
	struct work_struct work;
	struct efuse_conn *ec;
	struct fuse_req *req;
	struct efuse_effects effects;
};

static bool efuse_has_member(struct efuse_fastpath *fp, s16 member)
{
	return member >= 0 && (READ_ONCE(fp->members) & BIT_ULL(member / sizeof(void *)));
}

/* The i-th program's function for this, or NULL. Under rcu_read_lock(). */
static efuse_program_fn efuse_function(struct efuse_fastpath *fp, unsigned int i, s16 member)
{
	struct efuse_fastpath_ops *ops = rcu_dereference(fp->programs[i]);

	return ops ? *(efuse_program_fn *)((void *)ops + member) : NULL;
}

/* Each program that has this member sees the request; what it returns does not matter. */
void efuse_fastpath_call(struct efuse_fastpath *fp, s16 member, struct efuse_request *r)
{
	unsigned int i;

	if (!efuse_has_member(fp, member))
		return;
	rcu_read_lock();
	for (i = 0; i < EFUSE_MAX_PROGRAMS; i++) {
		efuse_program_fn fn = efuse_function(fp, i, member);

		if (fn)
			fn(r);
	}
	rcu_read_unlock();
}

static void efuse_see(struct efuse_request *r, struct efuse_fastpath *fp, struct fuse_req *req,
		      struct efuse_effects *effects)
{
	const struct fuse_in_header *h = &req->in.h;

	memset(r, 0, offsetof(struct efuse_request, entry_out));
	r->opcode = h->opcode;
	r->flags = test_bit(FR_BACKGROUND, &req->flags) ? EFUSE_REQ_BACKGROUND : 0;
	r->nodeid = h->nodeid;
	r->uid = h->uid;
	r->gid = h->gid;
	r->pid = h->pid;
	r->reply_cap = fuse_len_args(req->args->out_numargs, req->args->out_args);
	r->tag = effects->tag;
	r->name_tag = effects->tag;
	r->start_ns = effects->start_ns;
	r->fp = fp;
	r->req = req;
	r->effects = effects;
}

static void efuse_count(struct efuse_fastpath *fp, unsigned int program, u32 opcode, int result)
{
	struct efuse_fastpath_counts __percpu *counts = READ_ONCE(fp->counts[program]);
	struct efuse_fastpath_count __percpu *c;

	if (opcode >= EFUSE_FASTPATH_OPCODES)
		return;
	c = &counts->of[opcode];
	switch (result) {
	case EFUSE_FP_ANSWERED:
		this_cpu_inc(c->hits);
		break;
	case EFUSE_FP_MISS:
		this_cpu_inc(c->misses);
		break;
	case EFUSE_FP_DECLINE:
		this_cpu_inc(c->declines);
		break;
	default:
		this_cpu_inc(c->errors);
	}
}

static void efuse_take_answer_back(struct efuse_request *r)
{
	if (r->backing)
		fput(r->backing);
	r->backing = NULL;
	r->written = 0;
	r->replied = false;
	r->entry_given = false;
	r->error = 0;
}

/* A LOOKUP is answered with a node that the daemon has named, in the life that the answer is of; see nodes.c. */
static int efuse_check_entry(struct efuse_request *r)
{
	struct efuse_cursor at = {};
	struct fuse_entry_out out;

	if (r->opcode != FUSE_LOOKUP || r->error)
		return EFUSE_FP_ANSWERED;
	if (r->written != sizeof(out) || efuse_body_read(r->req, &at, 0, &out, sizeof(out)) != sizeof(out))
		return -EINVAL;
	if (!out.nodeid)
		return EFUSE_FP_ANSWERED;
	if (!r->entry_given)
		return -EINVAL;
	return efuse_node_credit(&r->fp->nodes, out.nodeid, r->life) ? EFUSE_FP_ANSWERED : EFUSE_FP_MISS;
}

/* EFUSE_FP_ANSWERED: the reply is in the request. May sleep with a backing file. */
static int efuse_finish_answer(struct efuse_request *r)
{
	struct fuse_req *req = r->req;
	u32 len = r->written;
	int ret;

	if (r->backing) {
		ssize_t n = efuse_read_backing(req, r->backing);

		if (n < 0)
			return EFUSE_FP_MISS;
		len = n;
		r->answered_by = EFUSE_BY_BACKING;
	} else {
		r->answered_by = EFUSE_BY_PROGRAM;
		if (!r->replied)
			return -EINVAL;
	}
	ret = efuse_check_entry(r);
	if (ret != EFUSE_FP_ANSWERED)
		return ret;
	if (!r->error) {
		ret = efuse_body_end(req, len);
		if (ret)
			return ret;
	}
	req->out.h.error = r->error;
	req->out.h.len = sizeof(req->out.h) + (r->error ? 0 : len);
	r->reply_len = req->out.h.len - sizeof(req->out.h);
	return EFUSE_FP_ANSWERED;
}

/* One program, as far as it can be under RCU. */
static int efuse_ask_one(struct efuse_request *r, unsigned int i, s16 member)
{
	efuse_program_fn fn;
	int ret;

	rcu_read_lock();
	fn = efuse_function(r->fp, i, member);
	ret = fn ? fn(r) : -ENOENT;
	rcu_read_unlock();
	return ret;
}

/* true: one of the programs has answered, and the reply is in the request. */
static bool efuse_ask(struct efuse_request *r, s16 member)
{
	bool sleeps = false;
	unsigned int i;
	int ret = 0, idx = 0;

	for (i = 0; i < EFUSE_MAX_PROGRAMS && ret != EFUSE_FP_ANSWERED; i++) {
		ret = efuse_ask_one(r, i, member);
		if (ret == -ENOENT)
			continue;
		if (ret == EFUSE_FP_ANSWERED) {
			/* Who sleeps here is not seen by synchronize_rcu_tasks(), see efuse_conn_free(). */
			sleeps = r->backing;
			if (sleeps)
				idx = srcu_read_lock(&efuse_fastpath_srcu);
			ret = efuse_finish_answer(r);
			if (sleeps)
				srcu_read_unlock(&efuse_fastpath_srcu, idx);
		}
		efuse_count(r->fp, i, r->opcode, ret);
		if (r->backing) {
			fput(r->backing);
			r->backing = NULL;
		}
		if (ret != EFUSE_FP_ANSWERED)
			efuse_take_answer_back(r);
	}
	return ret == EFUSE_FP_ANSWERED;
}

static void efuse_effects_over(struct efuse_fastpath *fp, struct efuse_effects *effects)
{
	u64 stamp;

	efuse_effects_end(&fp->changes, effects, &stamp);
}

/* The request is nobody's but ours: on no list, and the daemon does not know of it. */
static void efuse_end_answered(struct efuse_request *r, const struct efuse_opcode *op)
{
	efuse_effects_over(r->fp, r->effects);
	r->effects = NULL;
	r->done = true;
	if (op->flags & EFUSE_OP_DONE)
		efuse_fastpath_call(r->fp, EFUSE_MEMBER(done), r);
	clear_bit(FR_PENDING, &r->req->flags);
	fuse_request_end(r->req);
}

static void efuse_answer_later(struct work_struct *work)
{
	struct efuse_later *later = container_of(work, struct efuse_later, work);
	struct efuse_conn *ec = later->ec;
	struct efuse_fastpath *fp = ec->fastpath;
	struct fuse_req *req = later->req;
	const struct efuse_opcode *op = efuse_opcode(req->in.h.opcode);
	struct efuse_effects effects = later->effects;
	struct efuse_request r;
	bool hit;

	kfree(later);
	efuse_see(&r, fp, req, &effects);
	hit = !READ_ONCE(ec->draining) && efuse_ask(&r, op->member);
	efuse_tried(r.opcode == FUSE_READ ? &fp->read_later : &fp->other_later, hit);
	if (hit) {
		efuse_end_answered(&r, op);
	} else if (READ_ONCE(ec->draining) || !efuse_submit(ec, req, &effects)) {
		efuse_effects_over(fp, &effects);
		ec->stock->send_req(ec->fiq, req);
	}
}

static bool efuse_answer_from_work(struct efuse_fastpath *fp, struct fuse_req *req, const struct efuse_effects *effects)
{
	struct efuse_backoff *b = req->in.h.opcode == FUSE_READ ? &fp->read_later : &fp->other_later;
	struct efuse_later *later;

	if (!efuse_worth_trying(b))
		return false;
	later = kmalloc(sizeof(*later), GFP_ATOMIC | __GFP_NOWARN);
	if (!later)
		return false;
	INIT_WORK(&later->work, efuse_answer_later);
	later->ec = fp->ec;
	later->req = req;
	later->effects = *effects;
	queue_work(efuse_fastpath_wq, &later->work);
	return true;
}

/*
 * Programs see the request. true: it is answered, or will be sent on by a work
 * item. Else the caller sends it, and ends what it changes where no ring does.
 */
bool efuse_fastpath_send(struct efuse_fastpath *fp, struct fuse_req *req, struct efuse_effects *effects)
{
	const struct efuse_opcode *op = efuse_opcode(req->in.h.opcode);
	bool asks = efuse_has_member(fp, op->member);
	struct efuse_request r;
	u32 size;

	effects->nr = 0;
	effects->all = false;
	effects->tag = READ_ONCE(fp->members) ? atomic64_read(&fp->changes.count) : 0;
	/* Older than whatever the daemon will look at: publishing has a release after it. */
	effects->start_ns = req->in.h.opcode == FUSE_READ ? ktime_get_ns() : 0;
	if (!effects->tag || (!asks && !op->changes))
		return false;
	if ((op->flags & EFUSE_OP_ANSWERS) && !op->changes && test_bit(FR_BACKGROUND, &req->flags))
		return (op->flags & EFUSE_OP_BACKGROUND) && efuse_answer_from_work(fp, req, effects);

	efuse_see(&r, fp, req, effects);
	if (op->changes)
		op->changes(&r);
	if (!asks)
		return false;
	if (op->flags & EFUSE_OP_ANSWERS) {
		const char *name;

		if (test_bit(FR_BACKGROUND, &req->flags))
			return false;
		name = op->name >= 0 ? efuse_arg(req, op->name, &size) : NULL;
		if (op->name >= 0 && (!name || !efuse_set_name(&r, r.nodeid, name, size)))
			return false;
		if (!efuse_ask(&r, op->member))
			return false;
		efuse_end_answered(&r, op);
		return true;
	}
	efuse_fastpath_call(fp, op->member, &r);
	return false;
}

/* ---- replies ------------------------------------------------------------- */

/* The reply has told of a node: the kernel counts a lookup, and programs may want to remember it. */
static void efuse_entry_told(struct efuse_request *r, bool tell)
{
	r->life = 0;
	if (!r->entry_out.nodeid)
		return;
	r->life = efuse_node_named(&r->fp->nodes, r->entry_out.nodeid);
	if (tell)
		efuse_fastpath_call(r->fp, EFUSE_MEMBER(entry), r);
}

static bool efuse_is_dots(const struct fuse_dirent *d, const char *name)
{
	return name[0] == '.' && (d->namelen == 1 || (d->namelen == 2 && name[1] == '.'));
}

/* As the kernel reads it: entries until one is cut short; "." and ".." are not counted. */
static void efuse_entries_told(struct efuse_request *r)
{
	struct fuse_direntplus d;
	char name[EFUSE_NAME_SIZE];
	struct efuse_cursor at = {};
	u32 off = 0;

	while (off + FUSE_NAME_OFFSET_DIRENTPLUS <= r->reply_len) {
		u32 len;

		if (efuse_body_read(r->req, &at, off, &d, FUSE_NAME_OFFSET_DIRENTPLUS) != FUSE_NAME_OFFSET_DIRENTPLUS)
			return;
		len = d.dirent.namelen;
		if (!len || len >= EFUSE_NAME_SIZE ||
		    FUSE_DIRENTPLUS_SIZE(&d) > r->reply_len - off ||
		    efuse_body_read(r->req, &at, off + FUSE_NAME_OFFSET_DIRENTPLUS, name, len) != len)
			return;
		off += FUSE_DIRENTPLUS_SIZE(&d);
		name[len] = '\0';
		if (efuse_is_dots(&d.dirent, name))
			continue;
		r->entry_out = d.entry_out;
		efuse_entry_told(r, efuse_set_name(r, r->nodeid, name, len));
	}
}

/* An existing file may have been opened, and emptied. */
static void efuse_created(struct efuse_request *r)
{
	const struct fuse_create_in *in;
	u32 size = 0;

	in = efuse_arg(r->req, 0, &size);
	if (in && size >= sizeof(*in) && ((in->flags & O_EXCL) || !(in->flags & O_TRUNC)))
		return;
	efuse_changed(&r->fp->changes, EFUSE_ATTR, r->entry_out.nodeid, 0);
	efuse_changed(&r->fp->changes, EFUSE_DATA, r->entry_out.nodeid, EFUSE_DATA_WHOLE);
}

static void efuse_reply_told(struct efuse_request *r, const struct efuse_opcode *op, bool alone, u64 stamp)
{
	struct efuse_cursor at = {};
	const char *name;
	bool named;
	u32 size;

	name = op->name >= 0 ? efuse_arg(r->req, op->name, &size) : NULL;
	named = name && efuse_set_name(r, r->nodeid, name, size);
	if (r->error)
		return;
	if (r->opcode == FUSE_READDIRPLUS) {
		efuse_entries_told(r);
		return;
	}
	if (!(op->flags & EFUSE_OP_ENTRY) ||
	    efuse_body_read(r->req, &at, 0, &r->entry_out, sizeof(r->entry_out)) != sizeof(r->entry_out))
		return;
	if (r->opcode == FUSE_CREATE)
		efuse_created(r);
	r->name_tag = stamp;
	efuse_entry_told(r, named && alone);
}

/* The reply is in the request, and its requester does not know yet. */
void efuse_fastpath_done(struct efuse_fastpath *fp, struct efuse_slot *s, struct fuse_req *req, const void *body)
{
	const struct efuse_opcode *op = efuse_opcode(req->in.h.opcode);
	struct efuse_request r;
	bool alone;
	u64 stamp;

	if (!READ_ONCE(fp->members)) {
		efuse_effects_over(fp, &s->effects);
		return;
	}
	efuse_see(&r, fp, req, &s->effects);
	r.effects = NULL;
	r.done = true;
	r.error = req->out.h.error;
	r.reply_len = r.error ? 0 : req->out.h.len - sizeof(req->out.h);
	r.body = body;
	alone = efuse_effects_end(&fp->changes, &s->effects, &stamp);
	/* It was sent before there was a program to see it. */
	if (!r.tag && op->changes)
		efuse_changed(&fp->changes, EFUSE_ALL, 0, 0);
	efuse_reply_told(&r, op, alone, stamp);
	efuse_fastpath_call(fp, EFUSE_MEMBER(done), &r);
}

/* ---- what the daemon tells -------------------------------------------------- */

static bool efuse_reserved_clear(const u64 *reserved, unsigned int n)
{
	while (n--)
		if (reserved[n])
			return false;
	return true;
}

struct efuse_fastpath *efuse_fastpath_of(struct efuse_conn *ec)
{
	return smp_load_acquire(&ec->fastpath);	/* pairs with efuse_fastpath_make() */
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

/* ---- programs come and go ------------------------------------------------- */

/* Which program is whose: their structures outlive attachments, and the other way round. */
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

/* Those who read backing files in send_req have ended. */
void efuse_fastpath_synchronize(void)
{
	synchronize_srcu(&efuse_fastpath_srcu);
	flush_workqueue(efuse_fastpath_wq);
}

int efuse_fastpath_init(void)
{
	int err;

	efuse_fastpath_wq = alloc_workqueue("efuse_fastpath", WQ_HIGHPRI | WQ_MEM_RECLAIM | EFUSE_WQ_PERCPU, 0);
	if (!efuse_fastpath_wq)
		return -ENOMEM;
	err = efuse_kfuncs_init();
	err = err ?: register_bpf_struct_ops(&efuse_struct_ops, efuse_fastpath_ops);
	if (err)
		destroy_workqueue(efuse_fastpath_wq);
	return err;
}

void efuse_fastpath_exit(void)
{
	destroy_workqueue(efuse_fastpath_wq);
}
