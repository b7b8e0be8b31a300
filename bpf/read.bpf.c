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
 * - The better way serves until PERIOD requests or PERIOD_NS have passed; then the
 *   other one is probed: backing with PROBE requests, blocks with `trial` of them, of
 *   which the first half only fills the cache. Blocks that win are kept until a later
 *   probe of the backing file says otherwise; each trial that they lose makes the
 *   next one twice as long, up to MOST_TRIAL, so that a larger working set gets its chance.
 * - It must not be more than a tenth slower than the better way. A probe that cost x
 *   longer than the same requests would have cost is followed by 20 x of the better way,
 *   however long that takes: a twentieth is all that probing costs. What trials cost is
 *   told with the same clock, filling included.
 * - The way in use is looked at every CHUNK requests; if it is slower than
 *   what was last seen of the other one (blocks whose file is read no more), the other
 *   one is probed at once.
 *
 * Files without a backing file have their blocks kept always, and do not count.
 */
#include "cache.bpf.h"

#define BLOCK		4096u
#define SIZES		5
#define PERIOD		4096
#define PERIOD_NS	1000000000ull
#define CHUNK		64
#define PROBE		16
#define FIRST_TRIAL	64
#define MOST_TRIAL	4096
#define BUDGET		20	/* one part in so many */

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
	__u32 now;
	__u32 best;
	__u32 count;		/* requests since `now` was chosen */
	__u32 unmeasured;	/* of which so many are not to be measured */
	__u32 n;		/* measured */
	__u32 trial;
	__u64 sum;
	__u64 total;		/* of all, measured or not */
	__u64 chunk;		/* total when the chunk began */
	__u64 since;
	__u64 owed;		/* requests to serve before the next probe */
	__u64 mean[2];		/* when last measured; 0: never */
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

static __always_inline struct choice *choice_for(const struct efuse_request *req, __u32 size)
{
	__u32 at = size <= 4096 ? 0 : size <= 16384 ? 1 : size <= 65536 ? 2 : size <= 262144 ? 3 : 4;

	if (req->flags & EFUSE_REQ_BACKGROUND)
		at += SIZES;
	return bpf_map_lookup_elem(&read_choices, &at);
}

static __always_inline void choose(struct choice *c, __u32 way, __u32 unmeasured, __u64 now)
{
	c->now = way;
	c->unmeasured = unmeasured;
	c->count = 0;
	c->n = 0;
	c->sum = 0;
	c->total = 0;
	c->chunk = 0;
	c->since = now;
}

static __always_inline void probe(struct choice *c, __u64 now)
{
	if (c->best == BLOCKS) {
		choose(c, BACKING, 1, now);
		return;
	}
	if (c->trial < FIRST_TRIAL)
		c->trial = FIRST_TRIAL;
	choose(c, BLOCKS, c->trial / 2, now);
}

/* Is it time to look at the other way? */
static __always_inline bool served(struct choice *c, __u64 now)
{
	__u64 other = c->mean[c->best ? BACKING : BLOCKS];
	bool slow = false;

	if (c->count % CHUNK == 0) {
		slow = other && (c->total - c->chunk) / CHUNK > other + other / 8;
		c->chunk = c->total;
	}
	return slow || (c->count >= c->owed && c->count >= PROBE &&
			(!c->mean[c->best ? BLOCKS : BACKING] || c->count >= PERIOD || now - c->since >= PERIOD_NS));
}

static __always_inline void probed(struct choice *c, __u64 mean, __u64 now)
{
	__u64 best = c->mean[c->best ? BLOCKS : BACKING], would = best * c->count;

	c->owed = 0;
	if (mean + mean / 32 < best) {
		c->best = c->now;
		c->trial = FIRST_TRIAL;
	} else {
		if (c->total > would && best)
			c->owed = BUDGET * (c->total - would) / best;
		if (c->now == BLOCKS && c->trial < MOST_TRIAL)
			c->trial *= 2;
	}
	choose(c, c->best, 0, now);
}

/* A request has been answered the way that is chosen now. */
static __always_inline void measured(struct choice *c, __u64 ns, __u64 now)
{
	__u64 usual = c->mean[c->best ? BLOCKS : BACKING], mean;

	c->count++;
	c->total += ns;
	/* One that had to wait for a disk says nothing of the way. */
	if (usual && ns > 32 * usual)
		ns = 32 * usual;
	if (c->count > c->unmeasured) {
		c->n++;
		c->sum += ns;
	}
	mean = c->n ? c->sum / c->n : 0;
	if (c->now == c->best) {
		if (!served(c, now))
			return;
		c->mean[c->best ? BLOCKS : BACKING] = mean;
		probe(c, now);
	} else if (c->count >= (c->now == BLOCKS ? c->trial : PROBE)) {
		c->mean[c->best ? BACKING : BLOCKS] = mean;
		probed(c, mean, now);
	}
}

/* ---- the program ------------------------------------------------------------ */

static __always_inline bool read_args(struct efuse_request *req, struct fuse_read_in *in)
{
	return bpf_efuse_arg(req, 0, in, sizeof(*in)) >= (int)sizeof(*in);
}

SEC("struct_ops/read")
int BPF_PROG(read_some, struct efuse_request *req)
{
	struct fuse_read_in in;
	struct choice *c;

	if (efuse_read_mode == READ_BACKING)
		return bpf_efuse_read_backing(req) ? EFUSE_FP_MISS : EFUSE_FP_ANSWERED;
	if (!read_args(req, &in))
		return EFUSE_FP_DECLINE;
	if (efuse_read_mode != READ_ADAPTIVE)
		return answer_blocks(req, &in);
	c = choice_for(req, in.size);
	if (!c || c->now == BACKING) {
		if (!bpf_efuse_read_backing(req))
			return EFUSE_FP_ANSWERED;
		return answer_blocks(req, &in);
	}
	if (answer_blocks(req, &in) == EFUSE_FP_ANSWERED || !bpf_efuse_read_backing(req))
		return EFUSE_FP_ANSWERED;
	return EFUSE_FP_MISS;
}

SEC("struct_ops/done")
int BPF_PROG(done, struct efuse_request *req)
{
	struct fuse_read_in in;
	struct choice *c;
	__u64 now;

	if (req->opcode != FUSE_READ || req->error || efuse_read_mode == READ_BACKING || !read_args(req, &in))
		return 0;
	if (efuse_read_mode != READ_ADAPTIVE) {
		if (req->answered_by == EFUSE_BY_DAEMON)
			keep_blocks(req, &in);
		return 0;
	}
	c = choice_for(req, in.size);
	if (!c)
		return 0;
	if (req->answered_by == EFUSE_BY_DAEMON || (req->answered_by == EFUSE_BY_BACKING && c->now == BLOCKS))
		keep_blocks(req, &in);
	if (req->answered_by == (c->now == BLOCKS ? EFUSE_BY_PROGRAM : EFUSE_BY_BACKING) ||
	    (req->answered_by == EFUSE_BY_BACKING && c->now == BLOCKS)) {
		now = bpf_ktime_get_ns();
		measured(c, now - req->start_ns, now);
	}
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
