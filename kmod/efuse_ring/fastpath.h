/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Step 1: requests that BPF programs answer. What programs see of a request is
 * struct efuse_request; include/efuse/fastpath.bpf.h describes it for them, and
 * the two are matched by name when a program is loaded.
 *
 * Names of nodes (nodes.c). A LOOKUP that a program answers makes the kernel
 * count a lookup that the daemon does not know of. The table knows the nodes that
 * the daemon has named and not been told to forget; such a lookup is only answered
 * with one of these, is counted there as credit, and FORGETs are lessened by the
 * credit. Lookup, credit and forget of one node exclude each other.
 */
#ifndef EFUSE_FASTPATH_H
#define EFUSE_FASTPATH_H

#include <linux/atomic.h>
#include <linux/bpf.h>
#include <linux/fuse.h>
#include <linux/list.h>
#include <linux/siphash.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "ring.h"

#if !defined(CONFIG_BPF_JIT) || !defined(CONFIG_BPF_SYSCALL) || !defined(CONFIG_DEBUG_INFO_BTF_MODULES)
#error "efuse_ring: this kernel has no BPF struct_ops for modules (BPF_SYSCALL, BPF_JIT, DEBUG_INFO_BTF_MODULES)"
#endif

#define EFUSE_NAME_SIZE		256

/* As in efuse/fastpath.bpf.h. */
enum { EFUSE_FP_MISS, EFUSE_FP_ANSWERED, EFUSE_FP_DECLINE, EFUSE_FP_ANSWERED_QUIET };
enum { EFUSE_REQ_BACKGROUND = 1u << 0 };
enum { EFUSE_BY_DAEMON, EFUSE_BY_PROGRAM, EFUSE_BY_BACKING };

/* What a request is seen as. Lives on the stack of who calls programs. */
struct efuse_request {
	u32 opcode;
	u32 flags;
	u64 nodeid;
	u32 uid;
	u32 gid;
	u32 pid;
	s32 error;
	u32 reply_len;
	u32 reply_cap;
	u32 answered_by;
	u32 name_len;
	u64 tag;
	u64 name_tag;
	u64 start_ns;
	u64 parent;
	u64 name_hash;
	u64 life;
	u32 hints;

	/* the module's own */
	struct efuse_fastpath *fp;
	struct fuse_req *req;
	struct efuse_effects *effects;	/* NULL: they have ended */
	struct file *backing;		/* with a reference */
	/*
	 * What the daemon has replied, in its own memory. Direct I/O's pages are the
	 * requester's, who may write to them: what they hold is nothing for others.
	 */
	const void *body;
	u32 written;			/* bytes of the reply that a program has given */
	bool replied;			/* it has given one */
	bool entry_given;		/* with bpf_efuse_reply_entry(), of a node in its life `life` */
	struct efuse_cursor cursor;
	bool done;			/* there is a reply to look at */
	u32 quiet;			/* a bit for each program that does not want to see it */

	/* Of the entry that a call is about; zero, and the empty string, before there was one. */
	struct fuse_entry_out entry_out;
	char name[EFUSE_NAME_SIZE];
};

struct efuse_fastpath_ops {
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
	int (*readdir)(struct efuse_request *req);
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
	int (*name_changes)(struct efuse_request *req);
	int (*entry)(struct efuse_request *req);
	int (*done)(struct efuse_request *req);

	u32 abi_version;
	s32 efuse_fd;
	u32 nodes;
	u32 reserved;
	char name[16];
};

struct efuse_bucket {
	spinlock_t lock;
	struct hlist_head nodes;
};

struct efuse_nodes {
	struct efuse_bucket *buckets;
	u32 bits;
	u32 most;
	atomic_t nr;
	atomic64_t lives;
};

/* Requests of one opcode, by program and CPU. */
struct efuse_fastpath_counts {
	struct efuse_fastpath_count of[EFUSE_FASTPATH_OPCODES];
};

/* The fast paths of one attachment, made with its first program; they stay as long as the rings. */
struct efuse_fastpath {
	struct efuse_conn *ec;
	struct efuse_changes changes;
	struct efuse_nodes nodes;
	siphash_key_t key;
	struct efuse_fastpath_ops __rcu *programs[EFUSE_MAX_PROGRAMS];
	struct efuse_fastpath_counts __percpu *counts[EFUSE_MAX_PROGRAMS];
	u64 members;				/* that a program has, by place in the structure */
	struct efuse_backoff read_later, other_later;	/* whether a work item pays; racy by design */
	atomic_t daemon_changes;		/* EFUSE_CHANGE_BEGIN without END */
};

#define EFUSE_MEMBER(name)	((s16)offsetof(struct efuse_fastpath_ops, name))

static inline struct efuse_fastpath *efuse_fastpath_of(struct efuse_conn *ec)
{
	return smp_load_acquire(&ec->fastpath);	/* pairs with efuse_fastpath_make() */
}

/* fastpath.c */
void efuse_fastpath_call(struct efuse_fastpath *fp, s16 member, struct efuse_request *r);
int efuse_fastpath_init(void);
void efuse_fastpath_exit(void);
void efuse_fastpath_synchronize(void);
void efuse_fastpath_done(struct efuse_fastpath *fp, struct efuse_slot *s, struct fuse_req *req, const void *body,
			 u32 hints);
bool efuse_fastpath_send(struct efuse_fastpath *fp, struct fuse_req *req, struct efuse_effects *effects);

/* programs.c */
int efuse_programs_init(void);
void efuse_fastpath_free(struct efuse_conn *ec);

/* fastpath_ioctl.c */
long efuse_fastpath_change(struct efuse_conn *ec, struct efuse_change __user *arg);
long efuse_fastpath_backing(struct efuse_conn *ec, struct efuse_backing __user *arg);
long efuse_fastpath_credits(struct efuse_conn *ec, struct efuse_credits __user *arg);
long efuse_fastpath_stats(struct efuse_conn *ec, struct efuse_fastpath_stats __user *arg);

/* kfuncs.c */
int efuse_kfuncs_init(void);

/* opcodes.c */
enum efuse_opcode_flags {
	EFUSE_OP_KNOWN		= 1u << 4,
	EFUSE_OP_ANSWERS	= 1u << 0,	/* a program may answer it */
	EFUSE_OP_BACKGROUND	= 1u << 1,	/* also where it is a background request */
	EFUSE_OP_ENTRY		= 1u << 2,	/* its reply starts with a fuse_entry_out of the name in it */
	EFUSE_OP_DONE		= 1u << 3,	/* programs want to know of it where one of them has answered it, too */
};
struct efuse_opcode {
	s16 member;		/* offset in struct efuse_fastpath_ops; -1: none */
	u16 flags;
	s8 name;		/* argument that is the name of an entry in nodeid; -1: none */
	/* What a program cannot stop it from changing; to be called before the request is sent. */
	void (*changes)(struct efuse_request *r);
};
const struct efuse_opcode *efuse_opcode(u32 opcode);
const void *efuse_arg(const struct fuse_req *req, u32 n, u32 *size);
bool efuse_set_name(struct efuse_request *r, u64 parent, const char *name, u32 size);
void efuse_fastpath_name_changes(struct efuse_request *r, u64 parent, const char *name, u32 size);
u64 efuse_name_hash(struct efuse_fastpath *fp, u64 parent, const char *name, u32 len);

/* listing.c */
bool efuse_lists(const struct efuse_request *r);
u32 efuse_listing_take(struct efuse_request *r, u32 *pos, u64 *next, void *to, u32 size);
int efuse_listing_give(struct efuse_request *r, const void *from, u32 size, u64 *next);

/* nodes.c */
int efuse_nodes_init(struct efuse_nodes *t, u32 nodes);
void efuse_nodes_free(struct efuse_nodes *t);
u64 efuse_node_named(struct efuse_nodes *t, u64 nodeid);
bool efuse_node_credit(struct efuse_nodes *t, u64 nodeid, u64 life);
u64 efuse_node_forget(struct efuse_nodes *t, u64 nodeid, u64 nlookup);
int efuse_node_set_backing(struct efuse_nodes *t, u64 nodeid, struct file *file);
struct file *efuse_node_backing(struct efuse_nodes *t, u64 nodeid);
u32 efuse_nodes_take_credits(struct efuse_nodes *t, struct efuse_credit *credits, u32 room);
void efuse_nodes_return_credits(struct efuse_nodes *t, const struct efuse_credit *credits, u32 nr);

/* backing.c */
int efuse_check_backing(struct file *file);
ssize_t efuse_read_backing(struct fuse_req *req, struct file *file);

#endif
