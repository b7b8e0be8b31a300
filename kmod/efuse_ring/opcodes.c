// SPDX-License-Identifier: GPL-2.0-only
/*
 * What each opcode is to fast paths: which member of a program may answer or see
 * it, where its name is, and what it changes whatever the programs say.
 */
#include <linux/fcntl.h>
#include <linux/siphash.h>

#include "fastpath.h"

#define EFUSE_OP_STATX	52	/* newer than some kernels' headers */

/*
 * The n-th argument as the protocol counts them; NULL: there is none, or it lies
 * in pages. Newer kernels put an empty argument before those of an opcode that has no
 * structure of its own.
 */
const void *efuse_arg(const struct fuse_req *req, u32 n, u32 *size)
{
	const struct fuse_args *args = req->args;

	if (args->in_numargs && !args->in_args[0].size)
		n++;
	if (n >= args->in_numargs || (args->in_pages && n == args->in_numargs - 1))
		return NULL;
	*size = args->in_args[n].size;
	return args->in_args[n].value;
}

static const void *efuse_struct_arg(struct efuse_request *r, u32 least)
{
	u32 size = 0;
	const void *arg = efuse_arg(r->req, 0, &size);

	return arg && size >= least ? arg : NULL;
}

u64 efuse_name_hash(struct efuse_fastpath *fp, u64 parent, const char *name, u32 len)
{
	return siphash(name, len, &fp->key) ^ siphash_1u64(parent, &fp->key);
}

/* The entry that programs see next. `size`: with or without NUL. false: no name that a directory can have. */
bool efuse_set_name(struct efuse_request *r, u64 parent, const char *name, u32 size)
{
	u32 len = strnlen(name, size);

	if (!len || len >= EFUSE_NAME_SIZE)
		return false;
	memcpy(r->name, name, len);
	memset(r->name + len, 0, EFUSE_NAME_SIZE - len);
	r->name_len = len;
	r->parent = parent;
	r->name_hash = efuse_name_hash(r->fp, parent, name, len);
	return true;
}

static void efuse_changes_node(struct efuse_request *r, u32 kind, u64 node, u64 where)
{
	efuse_effects_add(&r->fp->changes, r->effects, kind, node, where);
}

static void efuse_changes_all(struct efuse_request *r)
{
	efuse_changes_node(r, EFUSE_ALL, 0, 0);
}

/* An entry changes, and with it its directory; programs know which file loses or gets a name. */
static void efuse_changes_name(struct efuse_request *r, u64 parent, u32 arg)
{
	u32 size = 0;
	const char *name = efuse_arg(r->req, arg, &size);

	efuse_changes_node(r, EFUSE_ATTR, parent, 0);
	efuse_changes_node(r, EFUSE_DATA, parent, EFUSE_DATA_ENTRIES);
	if (!name || !efuse_set_name(r, parent, name, size)) {
		efuse_changes_all(r);
		return;
	}
	efuse_changes_node(r, EFUSE_NAME, r->name_hash, 0);
	efuse_fastpath_call(r->fp, EFUSE_MEMBER(name_changes), r);
}

static void efuse_changes_first_name(struct efuse_request *r)
{
	efuse_changes_name(r, r->nodeid, 0);
}

static void efuse_changes_second_name(struct efuse_request *r)
{
	efuse_changes_name(r, r->nodeid, 1);
}

static void efuse_changes_link(struct efuse_request *r)
{
	const struct fuse_link_in *in = efuse_struct_arg(r, sizeof(*in));

	if (in)
		efuse_changes_node(r, EFUSE_ATTR, in->oldnodeid, 0);
	else
		efuse_changes_all(r);
	efuse_changes_name(r, r->nodeid, 1);
}

static void efuse_changes_rename(struct efuse_request *r)
{
	const struct fuse_rename_in *in = efuse_struct_arg(r, sizeof(*in));	/* fuse_rename2_in starts alike */

	efuse_changes_name(r, r->nodeid, 1);
	if (in)
		efuse_changes_name(r, in->newdir, 2);
	else
		efuse_changes_all(r);
}

static void efuse_changes_attr(struct efuse_request *r)
{
	efuse_changes_node(r, EFUSE_ATTR, r->nodeid, 0);
}

static void efuse_changes_file(struct efuse_request *r)
{
	efuse_changes_attr(r);
	efuse_changes_node(r, EFUSE_DATA, r->nodeid, EFUSE_DATA_WHOLE);
}

static void efuse_changes_setattr(struct efuse_request *r)
{
	const struct fuse_setattr_in *in = efuse_struct_arg(r, sizeof(*in));

	efuse_changes_attr(r);
	if (!in || (in->valid & FATTR_SIZE))
		efuse_changes_node(r, EFUSE_DATA, r->nodeid, EFUSE_DATA_WHOLE);
}

static void efuse_changes_open(struct efuse_request *r)
{
	const struct fuse_open_in *in = efuse_struct_arg(r, sizeof(*in));

	if (!in || (in->flags & O_TRUNC))
		efuse_changes_file(r);
}

/* The whole file, where it is more than two pieces. */
static void efuse_changes_write(struct efuse_request *r)
{
	const struct fuse_write_in *in = efuse_struct_arg(r, sizeof(*in));

	efuse_changes_attr(r);
	if (!in || in->size > 1u << 20 || (in->flags & O_APPEND)) {
		efuse_changes_node(r, EFUSE_DATA, r->nodeid, EFUSE_DATA_WHOLE);
		return;
	}
	efuse_changes_node(r, EFUSE_DATA, r->nodeid, in->offset);
	if (in->size)
		efuse_changes_node(r, EFUSE_DATA, r->nodeid, in->offset + in->size - 1);
	efuse_changes_node(r, EFUSE_DATA, r->nodeid, EFUSE_DATA_END);
}

static void efuse_changes_copy(struct efuse_request *r)
{
	const struct fuse_copy_file_range_in *in = efuse_struct_arg(r, sizeof(*in));

	efuse_changes_attr(r);
	if (!in) {
		efuse_changes_all(r);
		return;
	}
	efuse_changes_node(r, EFUSE_ATTR, in->nodeid_out, 0);
	efuse_changes_node(r, EFUSE_DATA, in->nodeid_out, EFUSE_DATA_WHOLE);
}

#define OP(member_, flags_, name_, changes_) \
	{ .member = EFUSE_MEMBER(member_), .flags = EFUSE_OP_KNOWN | (flags_), .name = (name_), .changes = (changes_) }
#define OTHER(flags_, changes_) \
	{ .member = -1, .flags = EFUSE_OP_KNOWN | (flags_), .name = -1, .changes = (changes_) }
#define QUIET	OTHER(0, NULL)
#define A	EFUSE_OP_ANSWERS

static const struct efuse_opcode efuse_opcodes[] = {
	[FUSE_LOOKUP]		= OP(lookup, A | EFUSE_OP_ENTRY, 0, NULL),
	[FUSE_FORGET]		= QUIET,
	[FUSE_GETATTR]		= OP(getattr, A, -1, NULL),
	[FUSE_SETATTR]		= OP(setattr, 0, -1, efuse_changes_setattr),
	[FUSE_READLINK]		= OP(readlink, A | EFUSE_OP_DONE, -1, NULL),
	[FUSE_SYMLINK]		= OP(symlink, EFUSE_OP_ENTRY, 0, efuse_changes_first_name),
	[FUSE_MKNOD]		= OP(mknod, EFUSE_OP_ENTRY, 1, efuse_changes_second_name),
	[FUSE_MKDIR]		= OP(mkdir, EFUSE_OP_ENTRY, 1, efuse_changes_second_name),
	[FUSE_UNLINK]		= OP(unlink, 0, 0, efuse_changes_first_name),
	[FUSE_RMDIR]		= OP(rmdir, 0, 0, efuse_changes_first_name),
	[FUSE_RENAME]		= OP(rename, 0, -1, efuse_changes_rename),
	[FUSE_LINK]		= OP(link, EFUSE_OP_ENTRY, 1, efuse_changes_link),
	[FUSE_OPEN]		= OP(open, A, -1, efuse_changes_open),
	[FUSE_READ]		= OP(read, A | EFUSE_OP_BACKGROUND | EFUSE_OP_DONE, -1, NULL),
	[FUSE_WRITE]		= OP(write, A, -1, efuse_changes_write),
	[FUSE_STATFS]		= OP(statfs, A, -1, NULL),
	[FUSE_RELEASE]		= OP(release, A | EFUSE_OP_BACKGROUND, -1, NULL),
	[FUSE_FSYNC]		= QUIET,
	[FUSE_SETXATTR]		= OP(setxattr, 0, -1, efuse_changes_attr),
	[FUSE_GETXATTR]		= OP(getxattr, A, -1, NULL),
	[FUSE_LISTXATTR]	= OP(listxattr, A, -1, NULL),
	[FUSE_REMOVEXATTR]	= OP(removexattr, 0, -1, efuse_changes_attr),
	[FUSE_FLUSH]		= OP(flush, A, -1, NULL),
	[FUSE_INIT]		= QUIET,
	[FUSE_OPENDIR]		= OP(opendir, A, -1, NULL),
	[FUSE_READDIR]		= OP(readdir, A, -1, NULL),
	[FUSE_RELEASEDIR]	= OP(releasedir, A | EFUSE_OP_BACKGROUND, -1, NULL),
	[FUSE_FSYNCDIR]		= QUIET,
	[FUSE_GETLK]		= QUIET,
	[FUSE_SETLK]		= QUIET,
	[FUSE_SETLKW]		= QUIET,
	[FUSE_ACCESS]		= OP(access, A, -1, NULL),
	[FUSE_CREATE]		= OP(create, EFUSE_OP_ENTRY, 1, efuse_changes_second_name),
	[FUSE_INTERRUPT]	= QUIET,
	[FUSE_BMAP]		= QUIET,
	[FUSE_DESTROY]		= QUIET,
	[FUSE_IOCTL]		= OTHER(0, efuse_changes_file),
	[FUSE_POLL]		= QUIET,
	[FUSE_FALLOCATE]	= OP(fallocate, 0, -1, efuse_changes_file),
	[FUSE_READDIRPLUS]	= OP(readdir, A, -1, NULL),
	[FUSE_RENAME2]		= OP(rename, 0, -1, efuse_changes_rename),
	[FUSE_LSEEK]		= QUIET,
	[FUSE_COPY_FILE_RANGE]	= OP(copy_file_range, 0, -1, efuse_changes_copy),
	[FUSE_SYNCFS]		= QUIET,
	[FUSE_TMPFILE]		= OTHER(EFUSE_OP_ENTRY, NULL),
	[EFUSE_OP_STATX]	= QUIET,
};

/* What is not known may change anything. */
static const struct efuse_opcode efuse_unknown = OTHER(0, efuse_changes_all);

const struct efuse_opcode *efuse_opcode(u32 opcode)
{
	if (opcode >= ARRAY_SIZE(efuse_opcodes) || !(efuse_opcodes[opcode].flags & EFUSE_OP_KNOWN))
		return &efuse_unknown;
	return &efuse_opcodes[opcode];
}
