// SPDX-License-Identifier: GPL-2.0-only
/*
 * The argument is in changes.h. Attributes of a node, the data of a piece of a file,
 * and names each have a stamp, found by hash.
 */
#include <linux/hash.h>
#include <linux/log2.h>
#include <linux/mm.h>

#include "changes.h"

#define EFUSE_DATA_SHIFT	20	/* a WRITE touches two pieces at most, as long as it is not larger than one */
#define EFUSE_MIN_STAMP_BITS	10
#define EFUSE_MAX_STAMP_BITS	22

int efuse_changes_init(struct efuse_changes *c, u32 nodes)
{
	c->bits = clamp_t(u32, order_base_2(nodes), EFUSE_MIN_STAMP_BITS, EFUSE_MAX_STAMP_BITS);
	/* A tag of 0 is that of a request whose sending nobody has seen: never fresh. */
	atomic64_set(&c->count, 1);
	atomic64_set(&c->all.last, 1);
	c->stamps = kvcalloc(1u << c->bits, sizeof(*c->stamps), GFP_KERNEL_ACCOUNT);
	return c->stamps ? 0 : -ENOMEM;
}

void efuse_changes_free(struct efuse_changes *c)
{
	kvfree(c->stamps);
}

/* Of a name, `node` is the hash of directory and name. */
static u32 efuse_stamp_at(const struct efuse_changes *c, u32 kind, u64 node, u64 where)
{
	if (kind == EFUSE_NAME)
		return node >> (64 - c->bits);
	if (kind == EFUSE_DATA && where < EFUSE_DATA_END)
		where >>= EFUSE_DATA_SHIFT;
	else if (kind == EFUSE_ATTR)
		where = EFUSE_DATA_END - 1;
	return hash_64(hash_64(node, 64) + where, c->bits);
}

void efuse_all_busy(struct efuse_changes *c)
{
	atomic_inc(&c->all.busy);
	smp_mb__after_atomic();
}

static void efuse_effects_all(struct efuse_changes *c, struct efuse_effects *e)
{
	if (!e->all)
		efuse_all_busy(c);
	e->all = true;
}

/* From here on it is not fresh. Before anybody can act on the request. */
void efuse_effects_add(struct efuse_changes *c, struct efuse_effects *e, u32 kind, u64 node, u64 where)
{
	u32 at, i;

	if (kind == EFUSE_ALL || e->nr == EFUSE_MOST_EFFECTS) {
		efuse_effects_all(c, e);
		return;
	}
	at = efuse_stamp_at(c, kind, node, where);
	for (i = 0; i < e->nr; i++)
		if (e->at[i] == at)
			return;
	e->at[e->nr++] = at;
	atomic_inc(&c->stamps[at].busy);
	smp_mb__after_atomic();
}

static void efuse_stamp(struct efuse_stamp *s, u64 count)
{
	u64 last = atomic64_read(&s->last);

	while (last < count && !atomic64_try_cmpxchg(&s->last, &last, count))
		;
}

/* Has anything else touched it since the effects began? Before this request's own stamp. */
static bool efuse_alone(struct efuse_stamp *s, u64 tag, int busy)
{
	return atomic_read(&s->busy) == busy && atomic64_read(&s->last) <= tag;
}

/*
 * The change is done, and its requester does not know yet. `stamp`: an answer
 * with this tag knows of it. Returns whether what was said about its subjects in
 * the reply is true now: nobody else has changed any of them meanwhile.
 */
bool efuse_effects_end(struct efuse_changes *c, struct efuse_effects *e, u64 *stamp)
{
	bool alone = efuse_alone(&c->all, e->tag, 0) && !e->all;
	u64 count;
	u32 i;

	*stamp = e->tag;
	if (!e->nr && !e->all)
		return true;
	/* Ordered before what is seen of others: of two at once, one at least sees the other. */
	count = atomic64_inc_return(&c->count);
	*stamp = count;
	for (i = 0; i < e->nr; i++) {
		struct efuse_stamp *s = &c->stamps[e->at[i]];

		alone = alone && efuse_alone(s, e->tag, 1);
		efuse_stamp(s, count);
		atomic_dec_return_release(&s->busy);
	}
	if (e->all) {
		efuse_stamp(&c->all, count);
		atomic_dec_return_release(&c->all.busy);
	}
	e->nr = 0;
	e->all = false;
	return alone;
}

/* It has changed, in one step. */
void efuse_changed(struct efuse_changes *c, u32 kind, u64 node, u64 where)
{
	u64 count = atomic64_inc_return(&c->count);

	if (kind == EFUSE_ALL)
		efuse_stamp(&c->all, count);
	else
		efuse_stamp(&c->stamps[efuse_stamp_at(c, kind, node, where)], count);
	smp_mb__after_atomic();
}

void efuse_all_changed(struct efuse_changes *c)
{
	efuse_stamp(&c->all, atomic64_inc_return(&c->count));
	atomic_dec_return_release(&c->all.busy);
}

/* Does the request that asks keep this place busy itself? Its own change has not happened yet. */
static int efuse_own_marks(const struct efuse_effects *own, u32 at)
{
	u32 i;

	for (i = 0; own && i < own->nr; i++)
		if (own->at[i] == at)
			return 1;
	return 0;
}

static bool efuse_stamp_fresh(struct efuse_stamp *s, int own, u64 tag)
{
	/* Who is no longer busy has stamped before. */
	return atomic_read_acquire(&s->busy) == own && atomic64_read(&s->last) <= tag;
}

static bool efuse_place_fresh(struct efuse_changes *c, const struct efuse_effects *own, u32 kind, u64 node, u64 where,
			      u64 tag)
{
	u32 at = efuse_stamp_at(c, kind, node, where);

	return efuse_stamp_fresh(&c->stamps[at], efuse_own_marks(own, at), tag);
}

/* `own`: of the request that asks, if it changes something. */
bool efuse_is_fresh(struct efuse_changes *c, const struct efuse_effects *own, u32 kind, u64 node, u64 where, u64 tag)
{
	bool fresh;

	smp_rmb();	/* what the caller has read is older than this look */
	fresh = efuse_stamp_fresh(&c->all, own && own->all, tag) && efuse_place_fresh(c, own, kind, node, where, tag);
	if (fresh && kind == EFUSE_DATA && where != EFUSE_DATA_WHOLE)
		fresh = efuse_place_fresh(c, own, kind, node, EFUSE_DATA_WHOLE, tag);
	smp_rmb();
	return fresh;
}
