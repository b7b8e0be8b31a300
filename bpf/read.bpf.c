// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * READ, from 4 KiB blocks that earlier READs returned, or from the node's backing
 * file, or from whichever is faster.
 *
 * Adaptive: "blocks" is to look for the blocks, to fall back on the backing file,
 * and to keep what it gave; "backing" is to read the backing file and to keep nothing.
 * Each CPU chooses for itself, apart for five sizes of request and for background
 * requests, by the mean time from sending to reply of the requests that it has done:
 *
 * - The better way serves. One request of SAMPLE is measured, found by a hash of when
 *   it was sent, so that the others pay for no clock.
 * - After PERIOD requests or PERIOD_NS the other way is tried: backing with PROBE requests,
 *   blocks with `trial` of them, of which the first half only fills the cache. Blocks
 *   that win are kept until a later trial of the backing file says otherwise; each trial
 *   that they lose makes the next one twice as long, up to MOST_TRIAL, so that a larger
 *   working set gets its chance.
 * - It must not be more than a tenth slower than the better way, at no time: what trials
 *   cost beyond the better way comes out of a budget, one part in 64 of the time that the
 *   better way has served. Once that is spent the better way serves again, and the
 *   trial goes on when there is budget for a few requests more.
 * - Where the way in use has become slower than what was last seen of the other one
 *   (blocks whose file is read no more), the other one is tried at once.
 *
 * Files without a backing file have their blocks kept always, and do not count.
 */
#include "cache.bpf.h"

#define BLOCK		4096u
#define SIZES		5
#define PERIOD		4096
#define PERIOD_NS	1000000000ull
#define SAMPLE		8
#define CHUNK		32	/* samples that make a mean */
#define PROBE		16
#define FIRST_TRIAL	64
#define MOST_TRIAL	4096
#define BUDGET		64	/* one part in so many */
#define RESUME		16	/* times the better way's mean: budget for a trial to go on */

enum { READ_BLOCKS = 1, READ_BACKING, READ_ADAPTIVE };

/* Set before loading. */
const volatile __u32 efuse_block_mask = 0;
const volatile __u32 efuse_read_mode = READ_BLOCKS;

struct block_info {
	__u64 node;
	__u64 block;	/* its offset in the file, in blocks */
	__u64 tag;
	__u64 time;
	__u32 len;	/* less than BLOCK: the file ends there */
	__u32 reserved;
};

/*
 * What is known of the blocks lies behind them: however far into a block a reply
 * begins, and however long it is, the verifier finds it within the element.
 */
struct block_set {
	__u8 data[WAYS][BLOCK];
	struct block_info info[WAYS];
	struct set_head head;
	__u8 reserved[BLOCK - WAYS * sizeof(struct block_info) - sizeof(struct set_head)];
};

_Static_assert(sizeof(struct block_set) == (WAYS + 1) * BLOCK, "a reply from any block ends within the element");

enum { BACKING, BLOCKS };

/* Of one size on one CPU. Not exact where one program preempts another, and need not be. */
struct choice {
	__u32 best;
	__u32 trying;		/* the other one serves */
	__u32 trial;		/* requests that one of blocks takes */
	__u32 tried;		/* of the trial that is under way */
	__u32 tried_n;		/* of them measured */
	__u32 n;		/* samples of the better way since its mean was taken */
	__u64 sum;		/* their time */
	__u64 tried_sum;
	__s64 budget;		/* ns that trials may cost still */
	__u64 count;		/* requests since the last trial ended, about */
	__u64 since;		/* when it did */
	__u64 mean[2];		/* 0: not measured yet */
};

set_map(efuse_blocks, block_set);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * SIZES);
	__type(key, __u32);
	__type(value, struct choice);
} read_choices SEC(".maps");

/* ---- blocks -------------------------------------------------------------- */

/*
 * Global functions where loops go through them, or the verifier would follow offset
 * and length through every turn of the loop.
 */
__noinline __u64 block_hash(__u64 node, __u64 block)
{
	return mix(mix(node, 0), block);
}

/* How much of a block to give. */
__noinline __u32 piece(__u32 len, __u32 skip, __u64 left)
{
	__u64 n = len > skip ? len - skip : 0;

	return n < left ? n : left;
}

__noinline __u32 turns(__u64 bytes)
{
	return (bytes + BLOCK - 1) / BLOCK;
}

static __always_inline struct block_set *block_set_of(__u64 hash)
{
	__u32 at = hash & efuse_block_mask;

	return bpf_map_lookup_elem(&efuse_blocks, &at);
}

/* The module stamps where a WRITE writes, and a file that grows elsewhere has no end here any more. */
static __always_inline bool is_fresh(struct efuse_request *req, __u64 node, __u64 off, __u32 len, __u64 tag)
{
	return bpf_efuse_fresh(req, EFUSE_DATA, node, off, tag) &&
	       (len == BLOCK || bpf_efuse_fresh(req, EFUSE_DATA, node, EFUSE_DATA_END, tag));
}

struct answer {
	struct efuse_request *req;
	__u64 node;
	__u64 off;
	__u64 left;
	__u32 complete;
};

static long answer_block(__u64 i, struct answer *a)
{
	struct efuse_request *req = a->req;
	__u64 off = a->off, left = a->left, at = off / BLOCK, hash = block_hash(a->node, at), node, block, tag, time;
	__u32 skip = off % BLOCK, len, w, seq, n;
	struct block_set *set = block_set_of(hash);
	struct block_info *info;

	if (!set)
		return 1;
	w = way_of(&set->head, hash);
	if (w >= WAYS)
		return 1;
	info = &set->info[w];
	seq = read_begin(&set->head, w);
	node = info->node;
	block = info->block;
	tag = info->tag;
	time = info->time;
	len = info->len;
	if (read_changed(&set->head, w, seq) || node != a->node || block != at || len > BLOCK || too_old(time) ||
	    !is_fresh(req, node, off, len, tag))
		return 1;
	n = piece(len, skip, left);
	if (n) {
		opaque(n);
		if (n > BLOCK || bpf_efuse_reply(req, &set->data[w][skip], n) || read_changed(&set->head, w, seq))
			return 1;
		mark_used(&set->head, w);
	}
	a->off = off + n;
	a->left = left - n;
	a->complete = len < BLOCK || left == n;
	return a->complete;
}

static __always_inline bool walk_blocks(struct efuse_request *req, const struct fuse_read_in *in)
{
	struct answer a = {
		.req = req,
		.node = req->nodeid,
		.off = in->offset,
		.left = in->size,
	};

	bpf_loop(turns(in->offset % BLOCK + in->size), answer_block, &a, 0);
	if (!a.complete)
		return false;
	return a.left != in->size || !bpf_efuse_error(req, 0);
}

static __always_inline int answer_blocks(struct efuse_request *req, const struct fuse_read_in *in)
{
	return in->size && walk_blocks(req, in) ? EFUSE_FP_ANSWERED : EFUSE_FP_MISS;
}

struct keep {
	struct efuse_request *req;
	__u64 node;
	__u64 off;	/* in the file, of the next block */
	__u64 pos;	/* in the reply */
	__u64 len;
	__u32 ends;	/* with the reply, the file does */
};

static long keep_block(__u64 i, struct keep *k)
{
	struct efuse_request *req = k->req;
	__u64 at = k->off / BLOCK, hash = block_hash(k->node, at), pos = k->pos;
	struct block_set *set = block_set_of(hash);
	struct block_info *info;
	__u32 len = piece(BLOCK, 0, k->len - pos), w, seq;

	if (!set || (len < BLOCK && !k->ends))
		return 1;
	w = way_for(&set->head, hash);
	seq = write_begin(&set->head, w, hash);
	if (seq) {
		info = &set->info[w];
		info->node = k->node;
		info->block = at;
		info->tag = req->tag;
		info->time = time_now();
		info->len = len;
		if (bpf_efuse_result(req, pos, set->data[w], BLOCK) != (int)len)
			info->node = 0;
		write_end(&set->head, w, seq);
	}
	k->off += BLOCK;
	k->pos = pos + BLOCK;
	return len < BLOCK;
}

/* Blocks of the reply that are whole, or that the file ends in. */
static __always_inline void keep_blocks(struct efuse_request *req, const struct fuse_read_in *in)
{
	struct keep k = {
		.req = req,
		.node = req->nodeid,
		.pos = -in->offset % BLOCK,
		.len = req->reply_len,
		.ends = req->reply_len < in->size,
	};

	k.off = in->offset + k.pos;
	if (k.pos > k.len || !bpf_efuse_fresh(req, EFUSE_DATA, k.node, k.off, req->tag))
		return;
	bpf_loop(turns(k.len - k.pos + 1), keep_block, &k, 0);
}

/* ---- which one ------------------------------------------------------------- */

static __always_inline struct choice *choice_for(const struct efuse_request *req)
{
	__u32 size = req->reply_cap;
	__u32 at = size <= 4096 ? 0 : size <= 16384 ? 1 : size <= 65536 ? 2 : size <= 262144 ? 3 : 4;

	if (req->flags & EFUSE_REQ_BACKGROUND)
		at += SIZES;
	return bpf_map_lookup_elem(&read_choices, &at);
}

static __always_inline __u32 way_now(const struct choice *c)
{
	return (c->best != 0) != (c->trying != 0) ? BLOCKS : BACKING;
}

static __always_inline __u64 *mean_of(struct choice *c, bool better)
{
	return (c->best != 0) == better ? &c->mean[BLOCKS] : &c->mean[BACKING];
}

/* Is this request measured? The same for each who asks. Until there is a mean, all are. */
static __always_inline bool sampled(struct choice *c, const struct efuse_request *req)
{
	return c->trying || !*mean_of(c, true) || mix(req->start_ns, 0) % SAMPLE == 0;
}

static __always_inline void end_trial(struct choice *c, __u64 now)
{
	c->trying = 0;
	c->tried = 0;
	c->tried_n = 0;
	c->tried_sum = 0;
	c->n = 0;
	c->sum = 0;
	c->count = 0;
	c->since = now;
}

static __always_inline void measured_better(struct choice *c, __u64 ns, __u64 now)
{
	__u64 *mean = mean_of(c, true), other = *mean_of(c, false);
	__u32 stands_for = *mean ? SAMPLE : 1;
	bool slow = false;

	/* One that had to wait for a disk, or for a CPU, says nothing of the way. */
	if (*mean && ns > 4 * *mean)
		ns = 4 * *mean;
	c->n++;
	c->sum += ns;
	c->count += stands_for;
	if (c->budget < (__s64)(2 * RESUME * *mean))
		c->budget += ns * stands_for / BUDGET;
	if (c->n >= CHUNK) {
		*mean = c->sum / c->n;
		c->n = 0;
		c->sum = 0;
		slow = other && *mean > other + other / 8;
	}
	if (!*mean)
		return;
	if (slow)
		c->budget += PROBE * other;
	else if (!c->tried && other && c->count < PERIOD && now - c->since < PERIOD_NS)
		return;
	if (c->budget >= (__s64)(RESUME * *mean))
		c->trying = 1;
}

static __always_inline void measured_other(struct choice *c, __u64 ns, __u64 now)
{
	__u64 better = *mean_of(c, true), mean;
	bool blocks = !c->best;
	__u32 length, fills;

	if (c->trial < FIRST_TRIAL)
		c->trial = FIRST_TRIAL;
	length = blocks ? c->trial : PROBE;
	fills = blocks ? c->trial / 2 : 1;
	c->budget -= ns;
	c->budget += better;
	if (ns > 32 * better)
		ns = 32 * better;
	c->tried++;
	if (c->tried > fills) {
		c->tried_n++;
		c->tried_sum += ns;
	}
	if (c->tried < length) {
		if (c->budget <= 0)
			c->trying = 0;
		return;
	}
	mean = c->tried_n ? c->tried_sum / c->tried_n : better;
	*mean_of(c, false) = mean;
	if (mean + mean / 32 < better) {
		c->best = blocks ? BLOCKS : BACKING;
		c->trial = FIRST_TRIAL;
	} else if (blocks && c->trial < MOST_TRIAL) {
		c->trial *= 2;
	}
	end_trial(c, now);
}

/* ---- the program ------------------------------------------------------------ */

static __always_inline bool read_args(struct efuse_request *req, struct fuse_read_in *in)
{
	return bpf_efuse_arg(req, 0, in, sizeof(*in)) >= (int)sizeof(*in);
}

SEC("struct_ops/read")
int BPF_PROG(read_some, struct efuse_request *req)
{
	bool backing_first = efuse_read_mode == READ_BACKING, measured = false;
	struct fuse_read_in in;
	struct choice *c;

	if (efuse_read_mode == READ_ADAPTIVE) {
		c = choice_for(req);
		backing_first = !c || way_now(c) == BACKING;
		measured = c && sampled(c, req);
	}
	if (backing_first && !bpf_efuse_read_backing(req))
		return measured ? EFUSE_FP_ANSWERED : EFUSE_FP_ANSWERED_QUIET;
	if (efuse_read_mode == READ_BACKING)
		return EFUSE_FP_MISS;
	if (!read_args(req, &in))
		return EFUSE_FP_DECLINE;
	if (answer_blocks(req, &in) == EFUSE_FP_ANSWERED)
		return measured ? EFUSE_FP_ANSWERED : EFUSE_FP_ANSWERED_QUIET;
	if (efuse_read_mode == READ_ADAPTIVE && !backing_first && !bpf_efuse_read_backing(req))
		return EFUSE_FP_ANSWERED;
	return EFUSE_FP_MISS;
}

static __always_inline void keep_reply(struct efuse_request *req)
{
	struct fuse_read_in in;

	if (read_args(req, &in))
		keep_blocks(req, &in);
}

SEC("struct_ops/done")
int BPF_PROG(done, struct efuse_request *req)
{
	struct choice *c;
	__u64 now;

	if (req->opcode != FUSE_READ || req->error || efuse_read_mode == READ_BACKING)
		return 0;
	if (efuse_read_mode != READ_ADAPTIVE || req->answered_by == EFUSE_BY_DAEMON) {
		if (req->answered_by == EFUSE_BY_DAEMON)
			keep_reply(req);
		return 0;
	}
	c = choice_for(req);
	if (!c)
		return 0;
	if (way_now(c) == BLOCKS) {
		/* Or else from the backing file, which is what a miss costs. */
		if (req->answered_by == EFUSE_BY_BACKING)
			keep_reply(req);
	} else if (req->answered_by != EFUSE_BY_BACKING) {
		return 0;
	}
	if (!sampled(c, req))
		return 0;
	now = bpf_ktime_get_ns();
	if (c->trying)
		measured_other(c, now - req->start_ns, now);
	else
		measured_better(c, now - req->start_ns, now);
	return 0;
}

SEC(".struct_ops.link")
struct efuse_fastpath_ops read = {
	.read = (void *)read_some,
	.done = (void *)done,
	.abi_version = EFUSE_FASTPATH_ABI,
	.name = "read",
};

EFUSE_LICENSE("Dual BSD/GPL");
