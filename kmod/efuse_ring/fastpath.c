// SPDX-License-Identifier: GPL-2.0-only
/*
 * Step 1: programs see a request before a ring does, and may answer it; and they
 * see replies before the requester does. A foreground request is answered where it is
 * sent. A background request is sent under bg_lock, which ending it takes, too:
 * a work item does that.
 */
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/slab.h>
#include <linux/srcu.h>
#include <linux/timekeeping.h>

#include "fastpath.h"
#include "stock.h"

typedef int (*efuse_program_fn)(struct efuse_request *r);

static struct workqueue_struct *efuse_fastpath_wq;
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

/* Each program that has this member sees the request, if it is not quiet; what it returns does not matter. */
void efuse_fastpath_call(struct efuse_fastpath *fp, s16 member, struct efuse_request *r)
{
	unsigned int i;

	if (!efuse_has_member(fp, member))
		return;
	rcu_read_lock();
	for (i = 0; i < EFUSE_MAX_PROGRAMS; i++) {
		efuse_program_fn fn = r->quiet & BIT(i) ? NULL : efuse_function(fp, i, member);

		if (fn)
			fn(r);
	}
	rcu_read_unlock();
}

/* Member by member: this is what a hit pays for whether or not its program looks at it. */
static void efuse_see(struct efuse_request *r, struct efuse_fastpath *fp, struct fuse_req *req,
		      struct efuse_effects *effects)
{
	const struct fuse_in_header *h = &req->in.h;

	r->opcode = h->opcode;
	r->flags = test_bit(FR_BACKGROUND, &req->flags) ? EFUSE_REQ_BACKGROUND : 0;
	r->nodeid = h->nodeid;
	r->uid = h->uid;
	r->gid = h->gid;
	r->pid = h->pid;
	r->error = 0;
	r->reply_len = 0;
	r->reply_cap = fuse_len_args(req->args->out_numargs, req->args->out_args);
	r->answered_by = EFUSE_BY_DAEMON;
	r->name_len = 0;
	r->tag = effects->tag;
	r->name_tag = effects->tag;
	r->start_ns = effects->start_ns;
	r->parent = 0;
	r->name_hash = 0;
	r->life = 0;
	r->hints = 0;
	r->fp = fp;
	r->req = req;
	r->effects = effects;
	r->backing = NULL;
	r->body = NULL;
	r->written = 0;
	r->replied = false;
	r->entry_given = false;
	r->cursor = (struct efuse_cursor) {};
	r->done = false;
	r->quiet = 0;
	r->entry_out = (struct fuse_entry_out) {};
	r->name[0] = '\0';
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
	r->quiet = 0;
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
		if (ret == EFUSE_FP_ANSWERED_QUIET) {
			r->quiet = BIT(i);
			ret = EFUSE_FP_ANSWERED;
		}
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
	/*
	 * Or INIT_STACK_ALL_ZERO clears half a KiB for each hit. efuse_see() sets all but what is behind the end of `name`,
	 * where only programs look that go past it; they need CAP_PERFMON, and can read kernel memory without our help.
	 */
	struct efuse_request r __uninitialized;
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
void efuse_fastpath_done(struct efuse_fastpath *fp, struct efuse_slot *s, struct fuse_req *req, const void *body,
			 u32 hints)
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
	r.hints = hints;
	alone = efuse_effects_end(&fp->changes, &s->effects, &stamp);
	/* It was sent before there was a program to see it. */
	if (!r.tag && op->changes)
		efuse_changed(&fp->changes, EFUSE_ALL, 0, 0);
	efuse_reply_told(&r, op, alone, stamp);
	efuse_fastpath_call(fp, EFUSE_MEMBER(done), &r);
}

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
	err = err ?: efuse_programs_init();
	if (err)
		destroy_workqueue(efuse_fastpath_wq);
	return err;
}

void efuse_fastpath_exit(void)
{
	destroy_workqueue(efuse_fastpath_wq);
}
