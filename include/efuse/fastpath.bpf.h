/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * For BPF programs that answer FUSE requests in the kernel: what they see of a
 * request and what they can do with it. Compile with
 *   clang -g -O2 -mcpu=v3 -target bpf -ffreestanding -c mine.bpf.c -o mine.bpf.o
 * A program is a function SEC("struct_ops/NAME") for one member of struct
 * efuse_fastpath_ops, and an instance of that structure in SEC(".struct_ops.link").
 *
 * Programs do not sleep, may run on several CPUs at once, and see requests of one
 * mount. Whatever they write is checked as a daemon's reply is.
 *
 * Freshness. The kernel counts changes. `req->tag` is the count when the request
 * was sent; who keeps a reply keeps the tag with it, and asks bpf_efuse_fresh()
 * each time before it answers with it: false if what was asked for may have changed
 * since, or is being changed now. Requests that change things are known
 * by their opcode; what they change besides (the file behind a name) programs say
 * with bpf_efuse_touch().
 */
#ifndef EFUSE_FASTPATH_BPF_H
#define EFUSE_FASTPATH_BPF_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/fuse.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define EFUSE_FASTPATH_ABI	1u
#define EFUSE_NAME_SIZE		256	/* the longest name and its NUL */

/* What a member that may answer returns. */
enum {
	EFUSE_FP_MISS = 0,	/* ask the daemon: the answer is not here */
	EFUSE_FP_ANSWERED = 1,	/* a reply was given: bpf_efuse_reply(), _reply_*(), _error() or _read_backing() */
	EFUSE_FP_DECLINE = 2,	/* ask the daemon: not for this program to answer */
	EFUSE_FP_ANSWERED_QUIET = 3,	/* as ANSWERED, and this program's `done` is not called for it */
};

/* Of efuse_request.flags */
enum {
	EFUSE_REQ_BACKGROUND = 1u << 0,	/* nobody waits for it in a system call */
};

/* Of efuse_request.answered_by */
enum {
	EFUSE_BY_DAEMON = 0,
	EFUSE_BY_PROGRAM = 1,
	EFUSE_BY_BACKING = 2,	/* bpf_efuse_read_backing() */
};

/* Of efuse_request.hints: what the daemon knows besides what it replies, as true as the reply. Others may follow. */
enum {
	EFUSE_HINT_LAST			= 1u << 0,	/* READDIR, READDIRPLUS: no entries follow these */
	/* GETXATTR, -ENODATA: so it is for these names */
	EFUSE_HINT_NO_SELINUX		= 1u << 1,	/* security.selinux */
	EFUSE_HINT_NO_CAPABILITY	= 1u << 2,	/* security.capability */
	EFUSE_HINT_NO_ACCESS_ACL	= 1u << 3,	/* system.posix_acl_access */
	EFUSE_HINT_NO_DEFAULT_ACL	= 1u << 4,	/* system.posix_acl_default */
};

/* What bpf_efuse_fresh() and bpf_efuse_touch() are about. */
enum {
	EFUSE_ATTR = 0,		/* attributes and extended attributes of a node */
	EFUSE_DATA = 1,		/* `where`: offset in bytes, or one of those below */
	EFUSE_NAME = 2,		/* of the entry this call is about; node and `where` are not looked at */
	EFUSE_ALL = 3,		/* touch: every attribute and all data */
};

#define EFUSE_DATA_WHOLE	(~0ull)		/* the whole file */
#define EFUSE_DATA_END		(~0ull - 1)	/* where it ends; every WRITE may change that */
#define EFUSE_DATA_ENTRIES	EFUSE_DATA_END	/* of a directory: which entries it has */

/* Layout of the loaded module's: relocated. */
struct efuse_request {
	__u32 opcode;
	__u32 flags;
	__u64 nodeid;
	__u32 uid;		/* of the caller, as the daemon would see them */
	__u32 gid;
	__u32 pid;
	__s32 error;		/* done: 0 or a negative errno */
	__u32 reply_len;	/* done: bytes of the reply */
	__u32 reply_cap;	/* bytes of the longest reply */
	__u32 answered_by;	/* done */
	__u32 name_len;		/* the entry this call is about (lookup, entry, name_changes), without NUL */
	__u64 tag;		/* changes until it was sent */
	__u64 name_tag;		/* the entry: as tag, for the name (the reply to a request that made it has a later one) */
	__u64 start_ns;		/* done, READ: when it was sent; as bpf_ktime_get_ns() */
	__u64 parent;		/* the entry: directory */
	__u64 name_hash;	/* the entry: of directory and name, keyed; 64 good bits */
	__u64 life;		/* entry: which life of entry_out.nodeid this is, for bpf_efuse_reply_entry(); 0: unknown */
	__u32 hints;		/* done: EFUSE_HINT_*; modules before it have none: bpf_core_field_exists() */
	struct fuse_entry_out entry_out;	/* entry: what the daemon said */
	char name[EFUSE_NAME_SIZE];	/* the entry: name, filled up with NULs */
} __attribute__((preserve_access_index));

/* n-th argument of the request (as in the protocol), cut or filled up with zeros. Returns its length, or -EINVAL. */
extern int bpf_efuse_arg(struct efuse_request *req, __u32 n, void *buf, __u32 buf__sz) __ksym;
/* Append to the reply. 0, or -EINVAL where it would be longer than the request takes, and of READDIRPLUS. */
extern int bpf_efuse_reply(struct efuse_request *req, const void *data, __u32 data__sz) __ksym;
/* As before, of LOOKUP: `life` as it was with the entry. -ESTALE: that node is gone. */
extern int bpf_efuse_reply_entry(struct efuse_request *req, const struct fuse_entry_out *out, __u32 out__sz,
				 __u64 life) __ksym;
/* The reply is an error: 0 or a negative errno above -512. 0: an empty reply. */
extern int bpf_efuse_error(struct efuse_request *req, int error) __ksym;
/* READ: the reply comes from the node's backing file, instead of what was given so far. 0, or -ENOENT: it has none. */
extern int bpf_efuse_read_backing(struct efuse_request *req) __ksym;
/*
 * done: bytes of the reply, from `off`. Returns how many were copied (the rest is zero), or -EINVAL, also for direct I/O
 * that the daemon has not answered: its buffer is the requester's.
 */
extern int bpf_efuse_result(struct efuse_request *req, __u32 off, void *buf, __u32 buf__sz) __ksym;
/*
 * READDIR and READDIRPLUS: append entries, struct fuse_dirent one after the other, as the request wants them, as far as
 * there is room. *next: where the directory goes on. Returns how many there were, or -EINVAL, also where `dirents`
 * holds anything else. An empty reply, bpf_efuse_error(req, 0), says that the directory ends here.
 */
extern int bpf_efuse_reply_dirents(struct efuse_request *req, const void *dirents, __u32 dirents__sz, __u64 *next) __ksym;
/*
 * done of these: entries of the reply from byte *pos on, as many as fit whole, as struct fuse_dirent. *pos and *next:
 * behind the last of them, in the reply and in the directory. Returns bytes in `buf` (the rest is zero), or -EINVAL.
 */
extern int bpf_efuse_dirents(struct efuse_request *req, __u32 *pos, __u64 *next, void *buf, __u32 buf__sz) __ksym;
/* entry: what the daemon said, as a whole; its members can be read from req->entry_out as well. */
extern int bpf_efuse_entry(struct efuse_request *req, struct fuse_entry_out *out, __u32 out__sz) __ksym;
/*
 * Is what was known when `tag` was taken still true? What this very request is about to change counts as unchanged
 * until it is sent. Orders what was read before and after it.
 */
extern int bpf_efuse_fresh(struct efuse_request *req, __u32 kind, __u64 node, __u64 where, __u64 tag) __ksym;
/* This request changes that too: from now on until its reply nothing about it is fresh. In done: it has changed. */
extern int bpf_efuse_touch(struct efuse_request *req, __u32 kind, __u64 node, __u64 where) __ksym;

/*
 * Members that a program leaves out cost nothing. All get the request and are
 * called in its sender's context or a work item's.
 */
struct efuse_fastpath_ops {
	/* These may answer: EFUSE_FP_*. */
	int (*lookup)(struct efuse_request *req);
	int (*getattr)(struct efuse_request *req);
	int (*readlink)(struct efuse_request *req);
	int (*access)(struct efuse_request *req);
	int (*open)(struct efuse_request *req);
	int (*opendir)(struct efuse_request *req);
	int (*read)(struct efuse_request *req);
	int (*write)(struct efuse_request *req);
	int (*flush)(struct efuse_request *req);
	int (*release)(struct efuse_request *req);
	int (*releasedir)(struct efuse_request *req);
	int (*statfs)(struct efuse_request *req);
	int (*getxattr)(struct efuse_request *req);
	int (*listxattr)(struct efuse_request *req);
	int (*readdir)(struct efuse_request *req);	/* READDIR and READDIRPLUS */
	/* These see what is about to change; what they return does not matter. */
	int (*setattr)(struct efuse_request *req);
	int (*setxattr)(struct efuse_request *req);
	int (*removexattr)(struct efuse_request *req);
	int (*mknod)(struct efuse_request *req);
	int (*mkdir)(struct efuse_request *req);
	int (*symlink)(struct efuse_request *req);
	int (*link)(struct efuse_request *req);
	int (*create)(struct efuse_request *req);
	int (*unlink)(struct efuse_request *req);
	int (*rmdir)(struct efuse_request *req);
	int (*rename)(struct efuse_request *req);
	int (*fallocate)(struct efuse_request *req);
	int (*copy_file_range)(struct efuse_request *req);
	/*
	 * What the above come down to, for programs that keep a cache.
	 * name_changes: req->parent and req->name are about to be made, removed or to become another file's; once
	 *   for each entry (RENAME has two). A file that loses or gets a name this way changes its attributes:
	 *   touch it, or EFUSE_ALL if it is not known.
	 * entry: a reply has told (and the requester is about to learn) that req->parent and req->name are
	 *   req->entry_out; once for each entry of READDIRPLUS.
	 * done: the daemon's reply to any request, before the requester learns of it; also where a program has
	 *   answered READ or READLINK.
	 */
	int (*name_changes)(struct efuse_request *req);
	int (*entry)(struct efuse_request *req);
	int (*done)(struct efuse_request *req);

	__u32 abi_version;	/* EFUSE_FASTPATH_ABI */
	__s32 efuse_fd;		/* /dev/efuse of the attachment; libefuse fills it in */
	__u32 nodes;		/* files that are likely to be known at a time; libefuse fills it in where 0 */
	__u32 reserved;		/* 0 */
	char name[16];		/* for statistics */
};

/* A program that has no maps may be used under any licence; kfuncs ask for a GPL-compatible one. */
#define EFUSE_LICENSE(text) char _license[] SEC("license") = text

#endif
