// SPDX-License-Identifier: GPL-2.0-only
/*
 * The nodes that the daemon has named in replies, and not been told to forget:
 * those that a program may answer a LOOKUP with. See fastpath.h.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/hash.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "fastpath.h"

#define EFUSE_MIN_NODE_BITS	8
#define EFUSE_MAX_NODE_BITS	22
#define EFUSE_NODES_PER_BUCKET	8	/* more are not kept: those are looked up by the daemon */

/* Protected by its bucket's lock. */
struct efuse_node {
	struct hlist_node hash;
	u64 nodeid;
	u64 life;	/* never the same again */
	u64 named;	/* lookups that replies have told, and no FORGET has given back */
	u64 credit;	/* lookups that programs have answered */
	struct file *backing;
};

int efuse_nodes_init(struct efuse_nodes *t, u32 nodes)
{
	u32 i;

	t->bits = clamp_t(u32, order_base_2(nodes), EFUSE_MIN_NODE_BITS, EFUSE_MAX_NODE_BITS);
	t->most = EFUSE_NODES_PER_BUCKET << t->bits;
	t->buckets = kvcalloc(1u << t->bits, sizeof(*t->buckets), GFP_KERNEL_ACCOUNT);
	if (!t->buckets)
		return -ENOMEM;
	for (i = 0; i < 1u << t->bits; i++)
		spin_lock_init(&t->buckets[i].lock);
	return 0;
}

static void efuse_node_free(struct efuse_nodes *t, struct efuse_node *n)
{
	hlist_del(&n->hash);
	atomic_dec(&t->nr);
	if (n->backing)
		fput(n->backing);	/* later, as it may sleep */
	kfree(n);
}

void efuse_nodes_free(struct efuse_nodes *t)
{
	u32 i;

	for (i = 0; t->buckets && i < 1u << t->bits; i++) {
		struct efuse_node *n;
		struct hlist_node *next;

		hlist_for_each_entry_safe(n, next, &t->buckets[i].nodes, hash)
			efuse_node_free(t, n);
		cond_resched();
	}
	kvfree(t->buckets);
}

static struct efuse_bucket *efuse_lock_bucket(struct efuse_nodes *t, u64 nodeid)
{
	struct efuse_bucket *b = &t->buckets[hash_64(nodeid, t->bits)];

	spin_lock(&b->lock);
	return b;
}

static struct efuse_node *efuse_node_find(struct efuse_bucket *b, u64 nodeid)
{
	struct efuse_node *n;

	lockdep_assert_held(&b->lock);
	hlist_for_each_entry(n, &b->nodes, hash)
		if (n->nodeid == nodeid)
			return n;
	return NULL;
}

/* NULL: there is no memory, or there are too many already. */
static struct efuse_node *efuse_node_add(struct efuse_nodes *t, struct efuse_bucket *b, u64 nodeid)
{
	struct efuse_node *n;

	lockdep_assert_held(&b->lock);
	if (atomic_read(&t->nr) >= t->most)
		return NULL;
	n = kzalloc(sizeof(*n), GFP_NOWAIT | __GFP_NOWARN | __GFP_ACCOUNT);
	if (!n)
		return NULL;
	n->nodeid = nodeid;
	n->life = atomic64_inc_return(&t->lives);
	hlist_add_head(&n->hash, &b->nodes);
	atomic_inc(&t->nr);
	return n;
}

/* A reply has told of the node, and the kernel is about to count a lookup. Returns its life, 0: it is not known here. */
u64 efuse_node_named(struct efuse_nodes *t, u64 nodeid)
{
	struct efuse_bucket *b = efuse_lock_bucket(t, nodeid);
	struct efuse_node *n = efuse_node_find(b, nodeid) ?: efuse_node_add(t, b, nodeid);
	u64 life = 0;

	if (n) {
		n->named++;
		life = n->life;
	}
	spin_unlock(&b->lock);
	return life;
}

/* A program is about to answer a LOOKUP with the node. false: it is not the one of that life. */
bool efuse_node_credit(struct efuse_nodes *t, u64 nodeid, u64 life)
{
	struct efuse_bucket *b = efuse_lock_bucket(t, nodeid);
	struct efuse_node *n = efuse_node_find(b, nodeid);
	bool ok = n && n->life == life && n->named;

	if (ok)
		n->credit++;
	spin_unlock(&b->lock);
	return ok;
}

/*
 * The kernel gives lookups back; those that the daemon does not know of first.
 * Returns how many are the daemon's. Once all that are known here are given
 * back, the daemon may let go of the node, and use its number for another.
 */
u64 efuse_node_forget(struct efuse_nodes *t, u64 nodeid, u64 nlookup)
{
	struct efuse_bucket *b = efuse_lock_bucket(t, nodeid);
	struct efuse_node *n = efuse_node_find(b, nodeid);

	if (n) {
		u64 credit = min(n->credit, nlookup);

		n->credit -= credit;
		nlookup -= credit;
		n->named -= min(n->named, nlookup);
		if (nlookup && !n->named)	/* credit is 0: it goes first */
			efuse_node_free(t, n);
	}
	spin_unlock(&b->lock);
	return nlookup;
}

/* Takes the reference over. NULL: none any more. */
int efuse_node_set_backing(struct efuse_nodes *t, u64 nodeid, struct file *file)
{
	struct efuse_bucket *b = efuse_lock_bucket(t, nodeid);
	struct efuse_node *n = efuse_node_find(b, nodeid);
	int err = 0;

	if (!n && file)
		n = efuse_node_add(t, b, nodeid);
	if (n)
		swap(n->backing, file);
	else if (file)
		err = -ENOMEM;
	spin_unlock(&b->lock);
	if (file)
		fput(file);
	return err;
}

/* With a reference; NULL: there is none. */
struct file *efuse_node_backing(struct efuse_nodes *t, u64 nodeid)
{
	struct efuse_bucket *b = efuse_lock_bucket(t, nodeid);
	struct efuse_node *n = efuse_node_find(b, nodeid);
	struct file *file = n && n->backing ? get_file(n->backing) : NULL;

	spin_unlock(&b->lock);
	return file;
}

/* Hand up to `room` credits over to the daemon, who counts them from now on. Returns how many there were. */
u32 efuse_nodes_take_credits(struct efuse_nodes *t, struct efuse_credit *credits, u32 room)
{
	u32 i, nr = 0;

	for (i = 0; i < 1u << t->bits && nr < room; i++) {
		struct efuse_bucket *b = &t->buckets[i];
		struct efuse_node *n;

		spin_lock(&b->lock);
		hlist_for_each_entry(n, &b->nodes, hash) {
			if (!n->credit)
				continue;
			if (nr == room)
				break;
			credits[nr].nodeid = n->nodeid;
			credits[nr++].nlookup = n->credit;
			n->credit = 0;
		}
		spin_unlock(&b->lock);
		cond_resched();
	}
	return nr;
}

/* They could not be handed over. A node that has gone meanwhile had more lookups than were given back. */
void efuse_nodes_return_credits(struct efuse_nodes *t, const struct efuse_credit *credits, u32 nr)
{
	u32 i;

	for (i = 0; i < nr; i++) {
		struct efuse_bucket *b = efuse_lock_bucket(t, credits[i].nodeid);
		struct efuse_node *n = efuse_node_find(b, credits[i].nodeid);

		if (n)
			n->credit += credits[i].nlookup;
		spin_unlock(&b->lock);
	}
}
