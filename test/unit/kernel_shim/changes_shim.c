/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The module's own changes.c, compiled for changes_test. */
#include "../../../kmod/efuse_ring/changes.c"

#include "changes_shim.h"

struct changes_shim {
	struct efuse_changes changes;
};

struct changes_shim *changes_shim_new(uint32_t nodes)
{
	struct changes_shim *c = calloc(1, sizeof(*c));

	if (c && efuse_changes_init(&c->changes, nodes)) {
		free(c);
		c = NULL;
	}
	return c;
}

void changes_shim_free(struct changes_shim *c)
{
	efuse_changes_free(&c->changes);
	free(c);
}

uint64_t changes_shim_tag(struct changes_shim *c)
{
	return atomic64_read(&c->changes.count);
}

bool changes_shim_fresh(struct changes_shim *c, uint32_t kind, uint64_t node, uint64_t where, uint64_t tag)
{
	return efuse_is_fresh(&c->changes, NULL, kind, node, where, tag);
}

void changes_shim_changed(struct changes_shim *c, uint32_t kind, uint64_t node, uint64_t where)
{
	efuse_changed(&c->changes, kind, node, where);
}

struct effects_shim {
	struct efuse_effects effects;
};

struct effects_shim *effects_shim_begin(struct changes_shim *c)
{
	struct effects_shim *e = calloc(1, sizeof(*e));

	if (e)
		e->effects.tag = changes_shim_tag(c);
	return e;
}

void effects_shim_add(struct changes_shim *c, struct effects_shim *e, uint32_t kind, uint64_t node, uint64_t where)
{
	efuse_effects_add(&c->changes, &e->effects, kind, node, where);
}

bool effects_shim_end(struct changes_shim *c, struct effects_shim *e, uint64_t *stamp)
{
	bool alone = efuse_effects_end(&c->changes, &e->effects, stamp);

	free(e);
	return alone;
}
