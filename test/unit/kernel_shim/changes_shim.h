/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* kmod/efuse_ring/changes.c behind functions that C++ can call; what they mean is in changes.h. */
#ifndef EFUSE_SHIM_CHANGES_H
#define EFUSE_SHIM_CHANGES_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct changes_shim;
struct effects_shim;

struct changes_shim *changes_shim_new(uint32_t nodes);	/* NULL: no memory */
void changes_shim_free(struct changes_shim *c);
uint64_t changes_shim_tag(struct changes_shim *c);
bool changes_shim_fresh(struct changes_shim *c, uint32_t kind, uint64_t node, uint64_t where, uint64_t tag);
void changes_shim_changed(struct changes_shim *c, uint32_t kind, uint64_t node, uint64_t where);

struct effects_shim *effects_shim_begin(struct changes_shim *c);
void effects_shim_add(struct changes_shim *c, struct effects_shim *e, uint32_t kind, uint64_t node, uint64_t where);
bool effects_shim_end(struct changes_shim *c, struct effects_shim *e, uint64_t *stamp);	/* frees e */

#ifdef __cplusplus
}
#endif

#endif
