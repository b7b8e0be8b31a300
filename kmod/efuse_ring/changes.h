/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether what was true once still is, for answers that are kept (changes.c).
 *
 * An answer that is kept was true at some moment between its request's sending
 * and its reply. `count` counts changes; the answer keeps the count of when it was
 * sent, its tag. A changing request marks what it changes as busy before anybody
 * can act on it, and after its reply, but before its requester learns of that,
 * counts itself, stamps what it changed with that count, and takes the marks away.
 * So an answer whose subject is not busy and has no stamp above the answer's tag is
 * what the daemon would say: whatever changed it has either ended before the
 * answer's request was sent, or not begun.
 *
 * - A lookup races with an unlink: sent before the unlink has ended, its tag is below
 *   the unlink's stamp, and its answer is never fresh, whichever of the two the
 *   daemon took first.
 * - A read races with a write, and another reader has seen the new data already:
 *   the file is busy until the write has ended, so nothing older is answered.
 * - The reply to a change tells of its subject (MKDIR, of the new directory): that
 *   is kept with the change's own stamp as its tag, if nobody else has touched the
 *   subject since the request was sent.
 * - What the daemon says has changed (a notification) is stamped before the
 *   notification is delivered.
 */
#ifndef EFUSE_CHANGES_H
#define EFUSE_CHANGES_H

#include <linux/atomic.h>
#include <linux/types.h>

#define EFUSE_MOST_EFFECTS	12	/* a RENAME that exchanges two directories has ten */

/* Kinds of things that change, as in efuse/fastpath.bpf.h. */
enum { EFUSE_ATTR, EFUSE_DATA, EFUSE_NAME, EFUSE_ALL };
#define EFUSE_DATA_WHOLE	(~0ull)
#define EFUSE_DATA_END		(~0ull - 1)
#define EFUSE_DATA_ENTRIES	EFUSE_DATA_END	/* of a directory: which entries it has */

/* What a request changes: places in the table of stamps that it keeps busy. */
struct efuse_effects {
	u64 tag;		/* changes until it was sent */
	u64 start_ns;
	u32 nr;
	bool all;		/* everything */
	u32 at[EFUSE_MOST_EFFECTS];
};

/* One thing that can change, or several that share a place in the table: then each looks changed with the other. */
struct efuse_stamp {
	atomic64_t last;	/* count after the last change */
	atomic_t busy;		/* changes under way */
};

struct efuse_changes {
	atomic64_t count;
	struct efuse_stamp all;
	struct efuse_stamp *stamps;
	u32 bits;
};

/* at[] is as it was. */
static inline void efuse_effects_none(struct efuse_effects *e)
{
	e->tag = 0;
	e->start_ns = 0;
	e->nr = 0;
	e->all = false;
}

int efuse_changes_init(struct efuse_changes *c, u32 nodes);
void efuse_changes_free(struct efuse_changes *c);
void efuse_effects_add(struct efuse_changes *c, struct efuse_effects *e, u32 kind, u64 node, u64 where);
bool efuse_effects_end(struct efuse_changes *c, struct efuse_effects *e, u64 *stamp);
void efuse_changed(struct efuse_changes *c, u32 kind, u64 node, u64 where);
bool efuse_is_fresh(struct efuse_changes *c, const struct efuse_effects *own, u32 kind, u64 node, u64 where, u64 tag);
void efuse_all_busy(struct efuse_changes *c);
void efuse_all_changed(struct efuse_changes *c);

#endif
