// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * LOOKUP, GETATTR, READLINK, GETXATTR, LISTXATTR and READDIR from what earlier
 * replies said. Names and attributes are kept apart: a file that changes does not
 * cost its name. Extended attributes and links are as fresh as the attributes.
 */
#include "cache.bpf.h"

#include <stddef.h>

#include <bpf/bpf_core_read.h>

#define NAME_SIZE	56
#define LONG_NAME_SIZE	256
#define XATTR_NAME_SIZE	64	/* with its NUL; longer ones are not kept */
#define VALUE_SIZE	256
#define LISTING_SIZE	512	/* of entries; one is 280 at most */
#define S_IFMT		0170000
#define S_IFDIR		0040000
#define DAY_SECONDS	(24 * 60 * 60)
#define NSEC_PER_SEC	1000000000ull

enum { TIMES_NEVER, TIMES_RELATIVE, TIMES_ALWAYS };

/* Set before loading: sets of each map, less one, and what the filesystem has offered. */
const volatile __u32 efuse_attr_mask = 0;
const volatile __u32 efuse_name_mask = 0;
const volatile __u32 efuse_long_name_mask = 0;
const volatile __u32 efuse_xattr_mask = 0;
const volatile __u32 efuse_link_mask = 0;
const volatile __u32 efuse_listing_mask = 0;
const volatile __u32 efuse_access_times = TIMES_RELATIVE;
const volatile bool efuse_negative = true;
const volatile bool efuse_open_dirs = false;

struct attr_way {
	__u64 node;
	__u64 tag;
	__u64 time;
	struct fuse_attr_out out;
};

struct attr_set {
	struct set_head head;
	struct attr_way way[WAYS];
};

enum { NAME_NONE, NAME_IS, NAME_IS_NOT, NAME_ENOENT };	/* IS_NOT: the reply was an entry without a node */

struct name_info {
	__u64 hash;
	__u64 parent;
	__u64 node;
	__u64 generation;
	__u64 life;
	__u64 tag;
	__u64 time;
	__u64 entry_valid;
	__u32 entry_valid_nsec;
	__u32 kind;
};

struct name_way {
	struct name_info info;
	char name[NAME_SIZE];
};

struct name_set {
	struct set_head head;
	struct name_way way[WAYS];
};

struct long_name_way {
	struct name_info info;
	char name[LONG_NAME_SIZE];
};

struct long_name_set {
	struct set_head head;
	struct long_name_way way[WAYS];
};

enum { VALUE_NONE, VALUE_HERE, VALUE_SIZE_ONLY, VALUE_ENODATA };

struct value_info {
	__u64 node;
	__u64 tag;
	__u64 time;
	__u32 kind;
	__u32 size;
};

struct xattr_way {
	struct value_info info;
	char name[XATTR_NAME_SIZE];	/* empty, and then a user: the list of names as that one sees it */
	char value[VALUE_SIZE];
};

struct xattr_set {
	struct set_head head;
	struct xattr_way way[WAYS];
};

struct link_way {
	struct value_info info;
	char target[VALUE_SIZE];
};

struct link_set {
	struct set_head head;
	struct link_way way[WAYS];
};

struct listing_way {
	__u64 node;
	__u64 off;	/* of the directory, where it begins */
	__u64 next;	/* where it goes on */
	__u64 tag;
	__u64 time;
	__u64 size;	/* 0: the directory ends here */
	char dirents[LISTING_SIZE];
};

struct listing_set {
	struct set_head head;
	struct listing_way way[WAYS];
};

set_map(efuse_attrs, attr_set);
set_map(efuse_names, name_set);
set_map(efuse_long_names, long_name_set);
set_map(efuse_xattrs, xattr_set);
set_map(efuse_links, link_set);
set_map(efuse_listings, listing_set);

/* What the daemon knows besides what it replies. An older module does not pass it on. */
static __always_inline __u32 hints_of(struct efuse_request *req)
{
	return bpf_core_field_exists(req->hints) ? req->hints : 0;
}

/* ---- attributes --------------------------------------------------------- */

static __always_inline struct attr_set *attr_set_of(__u64 node)
{
	__u32 at = mix(node, 0) & efuse_attr_mask;

	return bpf_map_lookup_elem(&efuse_attrs, &at);
}

/*
 * Copies the node's attributes, or, without `copy`, replies with them. false: there are none, and
 * what has been replied is to be thrown away.
 */
static __always_inline bool find_attr(struct efuse_request *req, __u64 node, struct fuse_attr_out *copy)
{
	struct attr_set *set = attr_set_of(node);
	struct attr_way *way;
	__u64 key, tag, time;
	__u32 w, seq;

	if (!set)
		return false;
	w = way_of(&set->head, node);
	if (w >= WAYS)
		return false;
	way = &set->way[w];
	seq = read_begin(&set->head, w);
	key = way->node;
	tag = way->tag;
	time = way->time;
	if (copy)
		copy_words(copy, &way->out, sizeof(*copy));
	else if (bpf_efuse_reply(req, &way->out, sizeof(way->out)))
		return false;
	if (read_changed(&set->head, w, seq) || key != node || !node || too_old(time) ||
	    !bpf_efuse_fresh(req, EFUSE_ATTR, node, 0, tag))
		return false;
	mark_used(&set->head, w);
	return true;
}

/* Begins to write the node's way; NULL: not now, or it is not true any more. */
static __always_inline struct attr_way *keep_attr(struct efuse_request *req, __u64 node, struct set_head **head,
						  __u32 *w, __u32 *seq)
{
	struct attr_set *set = attr_set_of(node);
	struct attr_way *way;

	if (!set || !node || !bpf_efuse_fresh(req, EFUSE_ATTR, node, 0, req->tag))
		return NULL;
	*head = &set->head;
	*w = way_for(&set->head, node);
	*seq = write_begin(&set->head, *w, node);
	if (!*seq)
		return NULL;
	way = &set->way[*w];
	way->node = node;
	way->tag = req->tag;
	way->time = time_now();
	return way;
}

/* From a request: each load is of one member. */
static __always_inline void copy_attr(struct fuse_attr *to, const struct fuse_attr *from)
{
	__u32 i;

	copy_words(to, from, offsetof(struct fuse_attr, atimensec));
#pragma unroll
	for (i = offsetof(struct fuse_attr, atimensec) / 4; i < sizeof(*to) / 4; i++) {
		((__u32 *)to)[i] = ((const __u32 *)from)[i];
		barrier();
	}
}

static __always_inline void keep_attr_of_entry(struct efuse_request *req)
{
	struct set_head *head;
	struct attr_way *way;
	__u32 w, seq;

	way = keep_attr(req, req->entry_out.nodeid, &head, &w, &seq);
	if (!way)
		return;
	way->out.attr_valid = req->entry_out.attr_valid;
	way->out.attr_valid_nsec = req->entry_out.attr_valid_nsec;
	way->out.dummy = 0;
	copy_attr(&way->out.attr, &req->entry_out.attr);
	write_end(head, w, seq);
}

static __always_inline void keep_attr_of_reply(struct efuse_request *req)
{
	struct set_head *head;
	struct attr_way *way;
	__u32 w, seq;

	way = keep_attr(req, req->nodeid, &head, &w, &seq);
	if (!way)
		return;
	if (bpf_efuse_result(req, 0, &way->out, sizeof(way->out)) != sizeof(way->out))
		way->node = 0;
	write_end(head, w, seq);
}

/* ---- names -------------------------------------------------------------- */

/* A rename changes what ".." is, and says so of another name. */
static __always_inline bool is_dots(struct efuse_request *req)
{
	return req->name[0] == '.' && (req->name_len == 1 || (req->name_len == 2 && req->name[1] == '.'));
}

/* Of one way: what it is to the request. The name is filled up with NULs on both sides. */
static __always_inline __u32 read_name(struct efuse_request *req, struct set_head *head, __u32 w,
				       const struct name_info *info, const char *name, __u32 size,
				       struct name_info *out)
{
	__u32 seq = read_begin(head, w);
	__u64 differs;

	copy_words(out, info, sizeof(*out));
	differs = differ_words(name, req->name, size);
	if (read_changed(head, w, seq) || differs || out->hash != req->name_hash || out->parent != req->parent ||
	    too_old(out->time) || !bpf_efuse_fresh(req, EFUSE_NAME, 0, 0, out->tag))
		return NAME_NONE;
	mark_used(head, w);
	return out->kind;
}

static __always_inline __u32 find_name(struct efuse_request *req, struct name_info *out)
{
	__u64 hash = req->name_hash;
	__u32 at, w;

	if (!req->name_len || is_dots(req))
		return NAME_NONE;
	if (req->name_len <= NAME_SIZE) {
		struct name_set *set;

		at = hash & efuse_name_mask;
		set = bpf_map_lookup_elem(&efuse_names, &at);
		if (!set)
			return NAME_NONE;
		w = way_of(&set->head, hash);
		if (w >= WAYS)
			return NAME_NONE;
		return read_name(req, &set->head, w, &set->way[w].info, set->way[w].name, NAME_SIZE, out);
	} else {
		struct long_name_set *set;

		at = hash & efuse_long_name_mask;
		set = bpf_map_lookup_elem(&efuse_long_names, &at);
		if (!set)
			return NAME_NONE;
		w = way_of(&set->head, hash);
		if (w >= WAYS)
			return NAME_NONE;
		return read_name(req, &set->head, w, &set->way[w].info, set->way[w].name, LONG_NAME_SIZE, out);
	}
}

static __always_inline void write_name(struct efuse_request *req, struct set_head *head, __u32 w, struct name_info *to,
				       char *name, __u32 size, const struct name_info *info)
{
	__u32 seq = write_begin(head, w, req->name_hash);

	if (!seq)
		return;
	copy_words(to, info, sizeof(*to));
	copy_words(name, req->name, size);
	write_end(head, w, seq);
}

/* Completes what the caller knows, and keeps it. */
static __always_inline void keep_name(struct efuse_request *req, struct name_info *info)
{
	__u64 hash = req->name_hash;
	__u32 at, w;

	if (!req->name_len || is_dots(req) || !bpf_efuse_fresh(req, EFUSE_NAME, 0, 0, req->name_tag))
		return;
	info->hash = hash;
	info->parent = req->parent;
	info->tag = req->name_tag;
	info->time = time_now();
	if (req->name_len <= NAME_SIZE) {
		struct name_set *set;

		at = hash & efuse_name_mask;
		set = bpf_map_lookup_elem(&efuse_names, &at);
		if (!set)
			return;
		w = way_for(&set->head, hash);
		write_name(req, &set->head, w, &set->way[w].info, set->way[w].name, NAME_SIZE, info);
	} else {
		struct long_name_set *set;

		at = hash & efuse_long_name_mask;
		set = bpf_map_lookup_elem(&efuse_long_names, &at);
		if (!set)
			return;
		w = way_for(&set->head, hash);
		write_name(req, &set->head, w, &set->way[w].info, set->way[w].name, LONG_NAME_SIZE, info);
	}
}

SEC("struct_ops/lookup")
int BPF_PROG(lookup, struct efuse_request *req)
{
	struct fuse_entry_out out = {};
	struct fuse_attr_out attr;
	struct name_info info;
	__u32 kind;

	kind = find_name(req, &info);
	if (kind == NAME_NONE)
		return EFUSE_FP_MISS;
	if (kind == NAME_ENOENT) {
		bpf_efuse_error(req, -ENOENT);
		return EFUSE_FP_ANSWERED;
	}
	out.entry_valid = info.entry_valid;
	out.entry_valid_nsec = info.entry_valid_nsec;
	if (kind == NAME_IS_NOT)
		return bpf_efuse_reply(req, &out, sizeof(out)) ? EFUSE_FP_MISS : EFUSE_FP_ANSWERED;
	if (!find_attr(req, info.node, &attr))
		return EFUSE_FP_MISS;
	out.nodeid = info.node;
	out.generation = info.generation;
	out.attr_valid = attr.attr_valid;
	out.attr_valid_nsec = attr.attr_valid_nsec;
	copy_words(&out.attr, &attr.attr, sizeof(out.attr));
	return bpf_efuse_reply_entry(req, &out, sizeof(out), info.life) ? EFUSE_FP_MISS : EFUSE_FP_ANSWERED;
}

SEC("struct_ops/entry")
int BPF_PROG(entry, struct efuse_request *req)
{
	struct name_info info = {};

	if (!req->entry_out.nodeid)
		return 0;
	keep_attr_of_entry(req);
	if (!req->life)
		return 0;
	info.kind = NAME_IS;
	info.node = req->entry_out.nodeid;
	info.generation = req->entry_out.generation;
	info.life = req->life;
	info.entry_valid = req->entry_out.entry_valid;
	info.entry_valid_nsec = req->entry_out.entry_valid_nsec;
	keep_name(req, &info);
	return 0;
}

/* There is no such name: an error, or an entry without a node, which says for how long. */
static __always_inline void keep_negative(struct efuse_request *req)
{
	struct name_info info = {};
	struct fuse_entry_out out;

	if (!efuse_negative)
		return;
	if (req->error == -ENOENT) {
		info.kind = NAME_ENOENT;
	} else {
		if (req->error || bpf_efuse_result(req, 0, &out, sizeof(out)) != sizeof(out) || out.nodeid)
			return;
		info.kind = NAME_IS_NOT;
		info.entry_valid = out.entry_valid;
		info.entry_valid_nsec = out.entry_valid_nsec;
	}
	keep_name(req, &info);
}

/* Does ".." in it change with its name? A file that is known to be none has no entries, but may have an end. */
static __always_inline bool may_be_moved_directory(struct efuse_request *req, __u64 node)
{
	struct fuse_attr_out out;

	return (req->opcode == FUSE_RENAME || req->opcode == FUSE_RENAME2) &&
	       (!find_attr(req, node, &out) || (out.attr.mode & S_IFMT) == S_IFDIR);
}

/* The file behind the name changes, too. */
SEC("struct_ops/name_changes")
int BPF_PROG(name_changes, struct efuse_request *req)
{
	struct name_info info;

	switch (find_name(req, &info)) {
	case NAME_IS:
		if (may_be_moved_directory(req, info.node))
			bpf_efuse_touch(req, EFUSE_DATA, info.node, EFUSE_DATA_ENTRIES);
		bpf_efuse_touch(req, EFUSE_ATTR, info.node, 0);
		break;
	case NAME_IS_NOT:
	case NAME_ENOENT:
		break;
	default:
		bpf_efuse_touch(req, EFUSE_ALL, 0, 0);
	}
	return 0;
}

SEC("struct_ops/getattr")
int BPF_PROG(getattr, struct efuse_request *req)
{
	return find_attr(req, req->nodeid, NULL) ? EFUSE_FP_ANSWERED : EFUSE_FP_MISS;
}

/* ---- extended attributes -------------------------------------------------- */

static __always_inline __u64 xattr_hash(__u64 node, const __u64 *name)
{
	__u64 hash = mix(node, 0);
	__u32 i;

#pragma unroll
	for (i = 0; i < XATTR_NAME_SIZE / 8; i++)
		hash = mix(hash, name[i]);
	return hash;
}

static __always_inline struct xattr_set *xattr_set_of(__u64 hash)
{
	__u32 at = hash & efuse_xattr_mask;

	return bpf_map_lookup_elem(&efuse_xattrs, &at);
}

/*
 * Name of a GETXATTR, filled up with zeros. false: too long. LISTXATTR: no name, and the
 * caller, as not everybody is told of trusted.*.
 */
static __always_inline bool xattr_name(struct efuse_request *req, __u64 *name)
{
	int len;

	__builtin_memset(name, 0, XATTR_NAME_SIZE);
	if (req->opcode == FUSE_LISTXATTR) {
		name[1] = req->uid;
		return true;
	}
	len = bpf_efuse_arg(req, 1, name, XATTR_NAME_SIZE);
	return len > 1 && len <= XATTR_NAME_SIZE;
}

/* Replies with this value, or what it says of one that does not fit. */
static __always_inline int give_value(struct efuse_request *req, const struct xattr_way *way, __u32 kind, __u32 size,
				      __u32 asked)
{
	struct fuse_getxattr_out out = {};

	if (kind == VALUE_ENODATA)
		return bpf_efuse_error(req, -ENODATA);
	if (!asked) {
		out.size = size;
		return bpf_efuse_reply(req, &out, sizeof(out));
	}
	if (asked < size)
		return bpf_efuse_error(req, -ERANGE);
	if (kind != VALUE_HERE)
		return -EINVAL;
	if (!size)
		return bpf_efuse_error(req, 0);
	opaque(size);
	if (size > VALUE_SIZE)
		return -EINVAL;
	return bpf_efuse_reply(req, way->value, size);
}

static __always_inline int answer_xattr(struct efuse_request *req)
{
	__u64 name[XATTR_NAME_SIZE / 8], hash, node = req->nodeid, key, tag, time, differs;
	struct fuse_getxattr_in in;
	struct xattr_set *set;
	struct xattr_way *way;
	__u32 w, seq, kind, size;
	int err;

	if (!xattr_name(req, name) || bpf_efuse_arg(req, 0, &in, sizeof(in)) < (int)sizeof(in))
		return EFUSE_FP_MISS;
	hash = xattr_hash(node, name);
	set = xattr_set_of(hash);
	if (!set)
		return EFUSE_FP_MISS;
	w = way_of(&set->head, hash);
	if (w >= WAYS)
		return EFUSE_FP_MISS;
	way = &set->way[w];
	seq = read_begin(&set->head, w);
	key = way->info.node;
	tag = way->info.tag;
	time = way->info.time;
	kind = way->info.kind;
	size = way->info.size;
	differs = differ_words(way->name, name, XATTR_NAME_SIZE);
	if (read_changed(&set->head, w, seq) || key != node || differs || kind == VALUE_NONE || too_old(time) ||
	    !bpf_efuse_fresh(req, EFUSE_ATTR, node, 0, tag))
		return EFUSE_FP_MISS;
	err = give_value(req, way, kind, size, in.size);
	if (err || read_changed(&set->head, w, seq))
		return EFUSE_FP_MISS;
	mark_used(&set->head, w);
	return EFUSE_FP_ANSWERED;
}

/* What this reply says is of no use: the value did not fit, or it is an error of another kind. */
static __always_inline bool xattr_says_nothing(const struct efuse_request *req)
{
	return req->error && (req->error != -ENODATA || req->opcode != FUSE_GETXATTR);
}

static __always_inline void keep_xattr(struct efuse_request *req)
{
	__u64 name[XATTR_NAME_SIZE / 8], hash, node = req->nodeid;
	struct fuse_getxattr_in in;
	struct xattr_set *set;
	struct xattr_way *way;
	__u32 w, seq, kind;

	if (xattr_says_nothing(req) || !xattr_name(req, name) ||
	    bpf_efuse_arg(req, 0, &in, sizeof(in)) < (int)sizeof(in) ||
	    !bpf_efuse_fresh(req, EFUSE_ATTR, node, 0, req->tag))
		return;
	hash = xattr_hash(node, name);
	set = xattr_set_of(hash);
	if (!set)
		return;
	w = way_for(&set->head, hash);
	seq = write_begin(&set->head, w, hash);
	if (!seq)
		return;
	way = &set->way[w];
	copy_words(way->name, name, XATTR_NAME_SIZE);
	way->info.size = req->reply_len;
	if (req->error) {
		kind = VALUE_ENODATA;
	} else if (!in.size) {
		struct fuse_getxattr_out out;

		kind = bpf_efuse_result(req, 0, &out, sizeof(out)) == sizeof(out) ? VALUE_SIZE_ONLY : VALUE_NONE;
		way->info.size = out.size;
	} else if (req->reply_len <= VALUE_SIZE) {
		bpf_efuse_result(req, 0, way->value, VALUE_SIZE);
		kind = VALUE_HERE;
	} else {
		kind = VALUE_SIZE_ONLY;
	}
	way->info.kind = kind;
	way->info.node = node;
	way->info.tag = req->tag;
	way->info.time = time_now();
	write_end(&set->head, w, seq);
}

/* Those that a hint may be about, filled up with zeros. */
static const struct {
	__u32 hint;
	char name[XATTR_NAME_SIZE];
} hinted_xattrs[] = {
	{ EFUSE_HINT_NO_SELINUX, "security.selinux" },
	{ EFUSE_HINT_NO_CAPABILITY, "security.capability" },
	{ EFUSE_HINT_NO_ACCESS_ACL, "system.posix_acl_access" },
	{ EFUSE_HINT_NO_DEFAULT_ACL, "system.posix_acl_default" },
};

static __noinline void keep_absent_xattr(struct efuse_request *req, __u32 i)
{
	__u64 name[XATTR_NAME_SIZE / 8], hash, node = req->nodeid;
	struct xattr_set *set;
	struct xattr_way *way;
	__u32 w, seq;

	copy_words(name, hinted_xattrs[i].name, XATTR_NAME_SIZE);
	hash = xattr_hash(node, name);
	set = xattr_set_of(hash);
	if (!set)
		return;
	w = way_for(&set->head, hash);
	seq = write_begin(&set->head, w, hash);
	if (!seq)
		return;
	way = &set->way[w];
	copy_words(way->name, name, XATTR_NAME_SIZE);
	way->info.size = 0;
	way->info.kind = VALUE_ENODATA;
	way->info.node = node;
	way->info.tag = req->tag;
	way->info.time = time_now();
	write_end(&set->head, w, seq);
}

/* Whoever asks for one of them mostly asks for others next. */
static __always_inline void keep_absent_xattrs(struct efuse_request *req)
{
	__u32 hints = hints_of(req), i;

	if (req->error != -ENODATA || !hints || !bpf_efuse_fresh(req, EFUSE_ATTR, req->nodeid, 0, req->tag))
		return;
#pragma unroll
	for (i = 0; i < sizeof(hinted_xattrs) / sizeof(hinted_xattrs[0]); i++)
		if (hints & hinted_xattrs[i].hint)
			keep_absent_xattr(req, i);
}

SEC("struct_ops/getxattr")
int BPF_PROG(getxattr, struct efuse_request *req)
{
	return answer_xattr(req);
}

SEC("struct_ops/listxattr")
int BPF_PROG(listxattr, struct efuse_request *req)
{
	return answer_xattr(req);
}

/* ---- links ---------------------------------------------------------------- */

static __always_inline struct link_set *link_set_of(__u64 node)
{
	__u32 at = mix(node, 0) & efuse_link_mask;

	return bpf_map_lookup_elem(&efuse_links, &at);
}

SEC("struct_ops/readlink")
int BPF_PROG(readlink, struct efuse_request *req)
{
	__u64 node = req->nodeid, key, tag, time;
	struct link_set *set = link_set_of(node);
	struct link_way *way;
	__u32 w, seq, size;
	int err;

	if (!set)
		return EFUSE_FP_MISS;
	w = way_of(&set->head, node);
	if (w >= WAYS)
		return EFUSE_FP_MISS;
	way = &set->way[w];
	seq = read_begin(&set->head, w);
	key = way->info.node;
	tag = way->info.tag;
	time = way->info.time;
	size = way->info.size;
	opaque(size);
	if (read_changed(&set->head, w, seq) || key != node || !size || size > VALUE_SIZE || too_old(time) ||
	    !bpf_efuse_fresh(req, EFUSE_ATTR, node, 0, tag))
		return EFUSE_FP_MISS;
	err = bpf_efuse_reply(req, way->target, size);
	if (err || read_changed(&set->head, w, seq))
		return EFUSE_FP_MISS;
	mark_used(&set->head, w);
	return EFUSE_FP_ANSWERED;
}

static __always_inline void keep_link(struct efuse_request *req)
{
	__u64 node = req->nodeid;
	struct link_set *set = link_set_of(node);
	struct link_way *way;
	__u32 w, seq;

	if (!set || req->error || !req->reply_len || req->reply_len > VALUE_SIZE ||
	    !bpf_efuse_fresh(req, EFUSE_ATTR, node, 0, req->tag))
		return;
	w = way_for(&set->head, node);
	seq = write_begin(&set->head, w, node);
	if (!seq)
		return;
	way = &set->way[w];
	way->info.node = node;
	way->info.tag = req->tag;
	way->info.time = time_now();
	way->info.size = req->reply_len;
	bpf_efuse_result(req, 0, way->target, VALUE_SIZE);
	write_end(&set->head, w, seq);
}

/* ---- listings ------------------------------------------------------------- */

/* A global function: in the loops its arguments are anything. */
__noinline __u64 listing_hash(__u64 node, __u64 off)
{
	return mix(mix(node, 0), off);
}

static __always_inline struct listing_set *listing_set_of(__u64 hash)
{
	__u32 at = hash & efuse_listing_mask;

	return bpf_map_lookup_elem(&efuse_listings, &at);
}

/* As many turns of a loop as there can be pieces in a reply: two of them do not fit into one. And its end. */
__noinline __u32 most_listings(__u32 bytes)
{
	return bytes / (LISTING_SIZE / 2) + 3;
}

struct listing {
	struct efuse_request *req;
	__u64 node;
	__u64 off;
	__u32 pos;	/* keeping: in the reply */
	bool given;	/* answering: something has been */
	bool ends;	/* the directory: where it has been asked from; keeping: behind the reply */
	bool wrong;	/* what has been given was none */
};

/* Gives entries from l->off on. 1: that was the last that can be given. */
static long answer_listing(__u64 i, struct listing *l)
{
	struct efuse_request *req = l->req;
	__u64 node = l->node, off = l->off, hash = listing_hash(node, off), key, from, next, tag, time, size;
	struct listing_set *set = listing_set_of(hash);
	struct listing_way *way;
	__u32 w, seq;
	int n;

	if (!set)
		return 1;
	w = way_of(&set->head, hash);
	if (w >= WAYS)
		return 1;
	way = &set->way[w];
	seq = read_begin(&set->head, w);
	key = way->node;
	from = way->off;
	next = way->next;
	tag = way->tag;
	time = way->time;
	size = way->size;
	opaque(size);
	if (read_changed(&set->head, w, seq) || key != node || from != off || size > LISTING_SIZE || too_old(time) ||
	    !bpf_efuse_fresh(req, EFUSE_DATA, node, EFUSE_DATA_ENTRIES, tag))
		return 1;
	if (!size) {
		l->ends = !l->given;
		return 1;
	}
	n = bpf_efuse_reply_dirents(req, way->dirents, size, &next);
	if (n < 0 || read_changed(&set->head, w, seq)) {
		l->wrong = true;
		return 1;
	}
	mark_used(&set->head, w);
	if (!n)
		return 1;
	l->given = true;
	l->off = next;
	return 0;
}

SEC("struct_ops/readdir")
int BPF_PROG(readdir, struct efuse_request *req)
{
	struct listing l = { .req = req, .node = req->nodeid };
	struct fuse_read_in in;

	/* With a handle it is one of its opener's, who may have a view of its own. */
	if (!efuse_open_dirs || bpf_efuse_arg(req, 0, &in, sizeof(in)) < (int)sizeof(in) || in.fh)
		return EFUSE_FP_DECLINE;
	l.off = in.offset;
	bpf_loop(most_listings(req->reply_cap), answer_listing, &l, 0);
	if (l.wrong)
		return EFUSE_FP_MISS;
	if (l.ends)
		return bpf_efuse_error(req, 0) ? EFUSE_FP_MISS : EFUSE_FP_ANSWERED;
	return l.given ? EFUSE_FP_ANSWERED : EFUSE_FP_MISS;
}

static long keep_listing_piece(__u64 i, struct listing *l)
{
	struct efuse_request *req = l->req;
	__u64 off = l->off, hash = listing_hash(l->node, off), next = off;
	struct listing_set *set = listing_set_of(hash);
	struct listing_way *way;
	__u32 w, seq, pos = l->pos;
	bool ends = l->ends && pos >= req->reply_len;
	int len;

	if (!set)
		return 1;
	w = way_for(&set->head, hash);
	seq = write_begin(&set->head, w, hash);
	if (!seq)
		return 1;	/* what follows can be found from here only */
	way = &set->way[w];
	len = bpf_efuse_dirents(req, &pos, &next, way->dirents, LISTING_SIZE);
	way->node = len > 0 || ends ? l->node : 0;
	way->off = off;
	way->next = next;
	way->tag = req->tag;
	way->time = time_now();
	way->size = len > 0 ? len : 0;
	write_end(&set->head, w, seq);
	l->off = next;
	l->pos = pos;
	/* The verifier wants to see a 0 or a 1: what a flag in memory holds it does not know. */
	if (l->ends)
		return len <= 0;
	return len <= 0 || pos >= req->reply_len;
}

static __always_inline void keep_listing(struct efuse_request *req)
{
	struct listing l = {
		.req = req,
		.node = req->nodeid,
		.ends = !req->reply_len || (hints_of(req) & EFUSE_HINT_LAST),
	};
	struct fuse_read_in in;

	if (!efuse_open_dirs || req->error || bpf_efuse_arg(req, 0, &in, sizeof(in)) < (int)sizeof(in) || in.fh ||
	    !bpf_efuse_fresh(req, EFUSE_DATA, l.node, EFUSE_DATA_ENTRIES, req->tag))
		return;
	l.off = in.offset;
	bpf_loop(most_listings(req->reply_len), keep_listing_piece, &l, 0);
}

/* ---- directories that need no handle ---------------------------------------- */

SEC("struct_ops/opendir")
int BPF_PROG(opendir, struct efuse_request *req)
{
	/*
	 * Not FOPEN_CACHE_DIR: a listing that was on its way when the directory changed can enter the kernel's cache as
	 * a newer one, where two are read at a time. `readdir` keeps listings here.
	 */
	struct fuse_open_out out = {};

	if (!efuse_open_dirs)
		return EFUSE_FP_DECLINE;
	return bpf_efuse_reply(req, &out, sizeof(out)) ? EFUSE_FP_MISS : EFUSE_FP_ANSWERED;
}

SEC("struct_ops/releasedir")
int BPF_PROG(releasedir, struct efuse_request *req)
{
	struct fuse_release_in in;

	/* The handle is 0 where OPENDIR was answered here, and where the filesystem needs none. */
	if (!efuse_open_dirs || bpf_efuse_arg(req, 0, &in, sizeof(in)) < (int)sizeof(in) || in.fh)
		return EFUSE_FP_DECLINE;
	return bpf_efuse_error(req, 0) ? EFUSE_FP_MISS : EFUSE_FP_ANSWERED;
}

/* ---- replies ---------------------------------------------------------------- */

static __always_inline bool not_later(__u64 a, __u32 a_nsec, __u64 b, __u32 b_nsec)
{
	return (__s64)a < (__s64)b || (a == b && a_nsec <= b_nsec);
}

/* A read of this file or directory has changed its access time, or may have. */
static __always_inline void accessed(struct efuse_request *req)
{
	struct fuse_attr_out out;

	if (efuse_access_times == TIMES_NEVER)
		return;
	if (efuse_access_times == TIMES_RELATIVE && find_attr(req, req->nodeid, &out)) {
		const struct fuse_attr *a = &out.attr;
		/* TAI is ahead of the files' time by less than this minute. */
		__s64 age = bpf_ktime_get_tai_ns() / NSEC_PER_SEC + 60 - a->atime;

		if (age < DAY_SECONDS && !not_later(a->atime, a->atimensec, a->mtime, a->mtimensec) &&
		    !not_later(a->atime, a->atimensec, a->ctime, a->ctimensec))
			return;
	}
	bpf_efuse_touch(req, EFUSE_ATTR, req->nodeid, 0);
}

SEC("struct_ops/done")
int BPF_PROG(done, struct efuse_request *req)
{
	bool told = req->answered_by == EFUSE_BY_DAEMON;

	switch (req->opcode) {
	case FUSE_LOOKUP:
		if (told)
			keep_negative(req);
		break;
	case FUSE_GETATTR:
		if (told && !req->error)
			keep_attr_of_reply(req);
		break;
	case FUSE_GETXATTR:
		if (told) {
			keep_xattr(req);
			keep_absent_xattrs(req);
		}
		break;
	case FUSE_LISTXATTR:
		if (told)
			keep_xattr(req);
		break;
	case FUSE_READLINK:
		if (told)
			keep_link(req);
		accessed(req);
		break;
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
		keep_listing(req);	/* of the daemon's reply: those of `readdir` do not get here */
		accessed(req);
		break;
	case FUSE_READ:
		accessed(req);
		break;
	}
	return 0;
}

SEC(".struct_ops.link")
struct efuse_fastpath_ops metadata = {
	.lookup = (void *)lookup,
	.getattr = (void *)getattr,
	.readlink = (void *)readlink,
	.opendir = (void *)opendir,
	.releasedir = (void *)releasedir,
	.getxattr = (void *)getxattr,
	.listxattr = (void *)listxattr,
	.readdir = (void *)readdir,
	.name_changes = (void *)name_changes,
	.entry = (void *)entry,
	.done = (void *)done,
	.abi_version = EFUSE_FASTPATH_ABI,
	.name = "metadata",
};

EFUSE_LICENSE("Dual BSD/GPL");
