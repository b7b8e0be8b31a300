/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * efuse_ring.h - the contract between the efuse_ring kernel module and a FUSE
 * daemon that is served over shared-memory rings.
 *
 * Compiled as C by the module and as C++ by the runtime. Fixed-width fields
 * only; no pointers, bit-fields or locks. Every size and offset is asserted at
 * the end of this file, so both sides refuse to build against a changed layout.
 *
 * Life of an attachment
 *   fd = open("/dev/efuse"); ioctl(fd, EFUSE_IOC_ATTACH, &attach);
 *   for each ring: mmap() the three regions at EFUSE_MMAP_OFFSET(ring, region);
 *   worker: consume the rings, ioctl(fd, EFUSE_IOC_ENTER, &enter), repeat;
 *   ioctl(fd, EFUSE_IOC_DRAIN), ioctl(fd, EFUSE_IOC_DETACH) or just close(fd).
 *
 * Who writes what
 *   EFUSE_REGION_KERN     written by the kernel, mapped read-only
 *   EFUSE_REGION_USER     written by the daemon, never trusted by the kernel
 *   EFUSE_REGION_PAYLOAD  arguments and data too large for a slot, both ways
 * Each index has one writer and a cache line of its own. Indices are
 * free-running: an entry lives at (index & (size - 1)), sizes are powers of two.
 *
 * Barriers (the labels are repeated at each place in C and in C++)
 *   P0  kernel: entry and slot written    -> store-release kern_head.pending_tail
 *   P1  daemon: load-acquire pending_tail -> read entry and slot
 *   P2  daemon: entry read                -> store-release user_head.pending_head
 *       (the interrupt and forget rings follow P0-P2 with their own indices)
 *   T1  daemon: P2; full barrier; read in_len: at 0 the request was taken back,
 *       because who waited for it was killed (T0). Complete it with any error.
 *   C0  daemon: reply written             -> store-release slot_out.done_gen
 *   C1  requester: load-acquire done_gen  -> read reply
 *   C2  daemon: complete entry written    -> store-release user_head.complete_tail
 *   C3  kernel: load-acquire complete_tail -> read entry
 *
 * Sleeping (announce, full barrier, re-check, sleep; publish, full barrier,
 * look for sleepers)
 *   S0  requester: need_commit = 1; full barrier; re-check done_gen; sleep
 *   S1  daemon: store done_gen (C0); full barrier; read need_commit; if set,
 *       queue a complete entry and ENTER
 *   W0  worker: ENTER: announces itself in the kernel; full barrier; re-check the
 *       rings; sleep
 *   W1  requester: publish (P0); full barrier; wake an announced worker
 */
#ifndef _UAPI_EFUSE_RING_H
#define _UAPI_EFUSE_RING_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define EFUSE_MAGIC		0x53554645u	/* "EFUS" */
#define EFUSE_ABI_VERSION	1u
#define EFUSE_DEVICE		"/dev/efuse"
#define EFUSE_CACHELINE		64

/* Bounds that the kernel enforces; anything outside is -EINVAL. */
#define EFUSE_MAX_RINGS		4096u
#define EFUSE_MIN_DEPTH		4u
#define EFUSE_MAX_DEPTH		32768u	/* and EFUSE_MAX_RING_BYTES */
#define EFUSE_MIN_SLOT		256u
#define EFUSE_MAX_SLOT		8192u
#define EFUSE_MAX_RING_BYTES	(512u << 10)	/* kern + user region of one ring */
#define EFUSE_MIN_PAYLOAD	(64u << 10)
#define EFUSE_MAX_PAYLOAD	(256u << 20)	/* of one ring */
#define EFUSE_MAX_SPIN_NS	1000000u	/* requester; larger values are clamped. Trials after failures go up to it. */
#define EFUSE_MAX_POLL_NS	10000000u	/* worker in ENTER; larger values are clamped */

/* Features, negotiated at attach: the kernel echoes what it accepted. None yet. */
#define EFUSE_FEATURES		0ull

enum {
	EFUSE_REGION_KERN	= 0,
	EFUSE_REGION_USER	= 1,
	EFUSE_REGION_PAYLOAD	= 2,
};

/* mmap() offset of a region: whole regions only, MAP_SHARED, never PROT_EXEC. */
#define EFUSE_MMAP_OFFSET(ring, region) \
	(((__u64)(ring) << 34) | ((__u64)(region) << 32))

/*
 * Which ring takes a background request. LOCAL: its CPU's home ring. Else its CPU's
 * spin ring, or the home ring where applications run on that one's CPU; if the ring
 * is congested or has finished nothing for a millisecond, as follows. The least
 * loaded where all are congested.
 */
enum {
	EFUSE_BALANCE_LOCAL		= 0,
	EFUSE_BALANCE_ROUND_ROBIN	= 1,	/* the next one that is not congested */
	EFUSE_BALANCE_RANDOM		= 2,	/* at most 10 tries; not one with foreground requests in flight */
	EFUSE_BALANCE_LEAST_LOADED	= 3,	/* the one with the fewest requests in flight, of at most 16 */
};

/* For one CPU: the ring whose worker runs on it, and the ring that a requester
 * may spin for, because its worker runs elsewhere. Equal: no choice to make. */
struct efuse_cpu_rings {
	__u32 home;
	__u32 spin;
};

struct efuse_attach {
	__u32 size;		/* in: sizeof(struct efuse_attach) */
	__u32 abi_version;	/* in: EFUSE_ABI_VERSION */
	__u32 flags;		/* in: must be 0 */
	__s32 fuse_fd;		/* in: a /dev/fuse descriptor, INIT answered */
	__u32 nr_rings;		/* in: 1 ... number of possible CPUs, at most EFUSE_MAX_RINGS */
	__u32 depth;		/* in: slots per ring, power of two */
	__u32 forget_depth;	/* in: forget entries per ring, power of two */
	__u32 slot_in_size;	/* in: bytes of a slot's request part, power of two */
	__u32 slot_out_size;	/* in: bytes of a slot's reply part, power of two */
	__u32 payload_size;	/* in: bytes of a ring's payload pool, multiple of the page size */
	__u32 spin_ns;		/* in: requester's largest spin but for trials, out: as clamped */
	__u32 nr_cpus;		/* in: entries in cpu_rings; CPUs beyond use cpu % nr_rings */
	__u64 cpu_rings;	/* in: address of struct efuse_cpu_rings[nr_cpus] */
	__u64 features;		/* in: wanted, out: accepted */
	__u32 kern_size;	/* out: bytes of EFUSE_REGION_KERN */
	__u32 user_size;	/* out: bytes of EFUSE_REGION_USER */
	__u32 balance;		/* in: EFUSE_BALANCE_* */
	__u32 congestion;	/* in: requests in flight from which on a ring is congested, 1 ... EFUSE_MAX_DEPTH */
	__u64 reserved[3];	/* must be 0 */
};

enum {
	EFUSE_ENTER_WAIT	= 1u << 0,	/* sleep until there is something to consume */
	EFUSE_ENTER_ADAPTIVE	= 1u << 1,	/* poll_ns only as long as polling this ring has paid lately */
};

/*
 * Commit what is on the complete ring and, with EFUSE_ENTER_WAIT, wait for work.
 * Returns the number of completions consumed (stale ones included).
 *   -EINTR   a signal came       -ENODEV   the connection is gone or detached (a worker that sleeps
 *                                          when it is aborted hears of it at the next EFUSE_IOC_WAKE)
 *   -EINVAL  bad ring, flags, non-zero reserved, or a complete_tail more than
 *            depth ahead of complete_head (the ring is resynchronised)
 */
struct efuse_enter {
	__u32 ring;
	__u32 flags;		/* EFUSE_ENTER_* */
	__u32 poll_ns;		/* poll so long in the kernel, while this CPU has nothing else to run */
	__u32 reserved;
	__u64 timeout_ns;	/* sleep at most so long; 0: no limit */
	__u64 reserved2;
};

/* Change what may change while attached. */
struct efuse_tune {
	__u32 size;		/* sizeof(struct efuse_tune) */
	__u32 flags;		/* must be 0 */
	__u32 spin_ns;		/* requester's largest spin but for trials */
	__u32 balance;		/* EFUSE_BALANCE_* */
	__u32 congestion;	/* as in struct efuse_attach */
	__u32 reserved[3];	/* must be 0 */
};

/*
 * Fast paths: BPF programs (struct_ops efuse_fastpath_ops, see efuse/fastpath.bpf.h) that answer requests before
 * they get to a ring. The module sees what changes through rings; what changes otherwise, it is told.
 */
#define EFUSE_FASTPATH_ABI	1u
#define EFUSE_MAX_PROGRAMS	4u	/* of one attachment */

enum {
	EFUSE_CHANGE_NOW	= 0,	/* it has changed */
	EFUSE_CHANGE_BEGIN	= 1,	/* only EFUSE_CHANGED_ALL: from here on ... */
	EFUSE_CHANGE_END	= 2,	/* ... to here anything may change; they nest */
};

enum {
	EFUSE_CHANGED_ALL	= 0,
	EFUSE_CHANGED_NODE	= 1,	/* attributes, extended attributes, data */
	EFUSE_CHANGED_NAME	= 2,	/* what `name` in the directory `nodeid` is */
};

struct efuse_change {
	__u32 size;		/* sizeof(struct efuse_change) */
	__u32 phase;		/* EFUSE_CHANGE_* */
	__u32 what;		/* EFUSE_CHANGED_* */
	__u32 name_len;		/* 1 ... 255 with EFUSE_CHANGED_NAME, else 0 */
	__u64 nodeid;		/* 0 with EFUSE_CHANGED_ALL */
	__u64 name;		/* address; need not be terminated */
	__u64 reserved[2];	/* must be 0 */
};

/*
 * A file that READs of a node may be answered from: opened for reading, on a
 * filesystem that is not FUSE and not stacked on another. It replaces the one
 * before; -1: none any more. Also gone with the node's last lookup.
 */
struct efuse_backing {
	__u32 size;		/* sizeof(struct efuse_backing) */
	__s32 fd;
	__u64 nodeid;
	__u64 reserved[2];	/* must be 0 */
};

/*
 * Lookups that programs have answered, and that FORGETs will give back: the module takes them off FORGETs while
 * it is attached. Before a detach, the daemon takes them over: each call moves up to `nr` of them to `credits`,
 * and returns how many; 0: there are none left.
 */
struct efuse_credit {
	__u64 nodeid;
	__u64 nlookup;
};

struct efuse_credits {
	__u32 size;		/* sizeof(struct efuse_credits) */
	__u32 nr;		/* room in credits[] */
	__u64 credits;		/* address of struct efuse_credit[nr] */
	__u64 reserved[2];	/* must be 0 */
};

/* What one program of an attachment has done with requests of one opcode. */
struct efuse_fastpath_count {
	__u64 hits;		/* answered */
	__u64 misses;		/* would have been, had it known the answer */
	__u64 declines;		/* not for it to answer */
	__u64 errors;		/* answered wrongly: the daemon was asked */
};

#define EFUSE_FASTPATH_OPCODES	64u

struct efuse_fastpath_stats {
	__u32 size;		/* sizeof(struct efuse_fastpath_stats) */
	__u32 program;		/* in: 0 ... EFUSE_MAX_PROGRAMS - 1; -ENOENT: there is none at this place */
	char name[16];		/* out: as the program calls itself */
	__u64 reserved[2];	/* must be 0 */
	struct efuse_fastpath_count count[EFUSE_FASTPATH_OPCODES];	/* out: by opcode */
};

#define EFUSE_IOC_TYPE		0xEF
/*
 * -ENOTTY: fuse_fd is not /dev/fuse; -ENOTCONN: nothing is mounted with it; -EAGAIN: INIT is not answered; -ENODEV: the
 * connection has ended; -EBUSY: it has rings; -EOPNOTSUPP: INIT has agreed on FUSE-over-io_uring; -EDQUOT: over
 * RLIMIT_MEMLOCK; -EPROTONOSUPPORT: another ABI; -E2BIG: over EFUSE_MAX_RING_BYTES; -EINVAL: any other bound.
 */
#define EFUSE_IOC_ATTACH	_IOWR(EFUSE_IOC_TYPE, 0, struct efuse_attach)
#define EFUSE_IOC_ENTER		_IOW(EFUSE_IOC_TYPE, 1, struct efuse_enter)
/* New requests take the stock path; returns how many are still in flight, -ENODEV once nobody waits for them. */
#define EFUSE_IOC_DRAIN		_IO(EFUSE_IOC_TYPE, 2)
/* Give the connection back; what is in flight is queued again on the stock path. What is left on the forget
 * ring is still to be consumed. */
#define EFUSE_IOC_DETACH	_IO(EFUSE_IOC_TYPE, 3)
/* Make one ENTER of a ring (the argument) return, the next one if none sleeps; ~0u: one of each ring. */
#define EFUSE_IOC_WAKE		_IO(EFUSE_IOC_TYPE, 4)
#define EFUSE_IOC_TUNE		_IOW(EFUSE_IOC_TYPE, 5, struct efuse_tune)
/* Fast paths; -ENOTCONN where not attached, EFUSE_IOC_CHANGE and _CREDITS do nothing where no program ever was. */
#define EFUSE_IOC_CHANGE	_IOW(EFUSE_IOC_TYPE, 6, struct efuse_change)
#define EFUSE_IOC_BACKING	_IOW(EFUSE_IOC_TYPE, 7, struct efuse_backing)	/* -ENOENT: no program ever was */
#define EFUSE_IOC_CREDITS	_IOW(EFUSE_IOC_TYPE, 8, struct efuse_credits)
#define EFUSE_IOC_FASTPATH_STATS _IOWR(EFUSE_IOC_TYPE, 9, struct efuse_fastpath_stats)

/* ---- EFUSE_REGION_KERN ------------------------------------------------- */

enum {
	EFUSE_RING_LIVE		= 0,
	EFUSE_RING_DRAINING	= 1,	/* no new requests, ENTER goes on */
	EFUSE_RING_DEAD		= 2,	/* detached or aborted */
};

/* At offset 0; constant after attach. Offsets count from their region's start. */
struct efuse_ring_info {
	__u32 magic;
	__u32 abi_version;
	__u64 features;
	__u32 ring;
	__u32 nr_rings;
	__u32 depth;
	__u32 interrupt_depth;
	__u32 forget_depth;
	__u32 slot_in_size;
	__u32 slot_out_size;
	__u32 kern_size;
	__u32 user_size;
	__u32 payload_size;
	__u32 kern_head_off;	/* struct efuse_kern_head */
	__u32 pending_off;	/* struct efuse_pending_entry[depth] */
	__u32 interrupt_off;	/* struct efuse_interrupt_entry[interrupt_depth] */
	__u32 forget_off;	/* struct efuse_forget_entry[forget_depth] */
	__u32 slot_in_off;	/* depth * slot_in_size, each a struct efuse_slot_in */
	__u32 user_head_off;	/* struct efuse_user_head */
	__u32 complete_off;	/* struct efuse_complete_entry[depth] */
	__u32 slot_out_off;	/* depth * slot_out_size, each a struct efuse_slot_out */
	__u32 reserved[10];
};

/* Counters of one ring, brought up to date before a worker sleeps; read at any time. */
struct efuse_ring_stats {
	__u64 submitted;	/* requests put on the ring */
	__u64 done_spin;	/* completed by the requester itself */
	__u64 done_enter;	/* completed by ENTER */
	__u64 stale;		/* completions for a request that was no longer there */
	__u64 bad;		/* replies refused: wrong length, error or index */
	__u64 to_stock_full;	/* no free slot */
	__u64 to_stock_pool;	/* no room in the payload pool */
	__u64 to_stock_size;	/* larger than this ring can carry */
	__u64 spins;		/* requesters that spun */
	__u64 spin_paid;	/* and saw their reply while spinning */
	__u64 wakeups;		/* worker wake-ups */
	__u64 forgets;
	__u64 interrupts;
	__u64 moved;		/* background requests that balancing took elsewhere */
	__u64 polls;		/* workers that polled in ENTER */
	__u64 poll_paid;	/* and saw work while polling */
};

struct efuse_kern_head {
	__u32 pending_tail;
	__u32 pad0[15];
	__u32 interrupt_tail;
	__u32 pad1[15];
	__u32 forget_tail;
	__u32 pad2[15];
	__u32 complete_head;
	__u32 pad3[15];
	__u32 state;		/* EFUSE_RING_* */
	__u32 deferred;		/* requests that appear on pending once an ENTER has copied their data in */
	__u32 pad4[14];
	struct efuse_ring_stats stats;
};

struct efuse_pending_entry {
	__u32 slot;
	__u32 gen;		/* of the slot; echo it in done_gen */
};

struct efuse_interrupt_entry {
	__u64 unique;		/* of the request to interrupt */
	__u32 slot;
	__u32 gen;
};

struct efuse_forget_entry {
	__u64 nodeid;
	__u64 nlookup;
};

enum {
	EFUSE_SLOT_BACKGROUND	= 1u << 0,	/* nobody sleeps for this one in a system call */
};

/*
 * A request. fuse_in_header and the arguments follow; where in_payload_len is
 * not 0 the last argument is not among them but in the payload region.
 * The reply's body goes to slot_out, or, where out_payload_cap is not 0, to the
 * payload region. Either way out_cap bytes are the longest reply allowed.
 */
struct efuse_slot_in {
	__u32 need_commit;	/* S0 */
	__u32 flags;		/* EFUSE_SLOT_* */
	__u32 in_len;		/* bytes that follow, fuse_in_header included; 0: taken back, T1 */
	__u32 in_payload_off;
	__u32 in_payload_len;
	__u32 out_payload_off;
	__u32 out_payload_cap;
	__u32 out_cap;
	__u64 enqueue_ns;	/* CLOCK_MONOTONIC */
	__u32 gen;
	__u32 cpu;		/* submitting CPU */
	__u64 reserved[2];
};

/* ---- EFUSE_REGION_USER ------------------------------------------------- */

struct efuse_user_head {
	__u32 pending_head;
	__u32 pad0[15];
	__u32 interrupt_head;
	__u32 pad1[15];
	__u32 forget_head;
	__u32 pad2[15];
	__u32 complete_tail;
	__u32 pad3[15];
};

struct efuse_complete_entry {
	__u32 slot;
	__u32 gen;
};

/*
 * What the daemon knows besides what the reply says, for programs that keep it (struct efuse_request of
 * efuse/fastpath.bpf.h); as true as the reply itself. Nobody else looks at it, and unknown bits are ignored.
 */
enum {
	EFUSE_HINT_LAST			= 1u << 0,	/* READDIR, READDIRPLUS: no entries follow these */
	/* GETXATTR that is answered with ENODATA: so it is for these names */
	EFUSE_HINT_NO_SELINUX		= 1u << 1,	/* security.selinux */
	EFUSE_HINT_NO_CAPABILITY	= 1u << 2,	/* security.capability */
	EFUSE_HINT_NO_ACCESS_ACL	= 1u << 3,	/* system.posix_acl_access */
	EFUSE_HINT_NO_DEFAULT_ACL	= 1u << 4,	/* system.posix_acl_default */
};

/* A reply. The body follows, unless the slot has room in the payload region. */
struct efuse_slot_out {
	__u32 done_gen;		/* C0: the request's gen, once the rest is written */
	__s32 error;		/* 0 or a negative errno above -512 */
	__u32 len;		/* bytes of the body, 0 with an error */
	__u32 hints;		/* EFUSE_HINT_* */
};

/* ---- layout ------------------------------------------------------------ */

#ifdef __cplusplus
#define EFUSE_ASSERT(x)		static_assert(x, #x)
#define EFUSE_OFF(t, m)		__builtin_offsetof(struct t, m)
#else
#define EFUSE_ASSERT(x)		_Static_assert(x, #x)
#define EFUSE_OFF(t, m)		__builtin_offsetof(struct t, m)
#endif
#define EFUSE_SIZE(t, n)	EFUSE_ASSERT(sizeof(struct t) == (n))
#define EFUSE_AT(t, m, o)	EFUSE_ASSERT(EFUSE_OFF(t, m) == (o))

EFUSE_SIZE(efuse_cpu_rings, 8);
EFUSE_AT(efuse_cpu_rings, home, 0);
EFUSE_AT(efuse_cpu_rings, spin, 4);

EFUSE_SIZE(efuse_attach, 104);
EFUSE_AT(efuse_attach, size, 0);
EFUSE_AT(efuse_attach, abi_version, 4);
EFUSE_AT(efuse_attach, flags, 8);
EFUSE_AT(efuse_attach, fuse_fd, 12);
EFUSE_AT(efuse_attach, nr_rings, 16);
EFUSE_AT(efuse_attach, depth, 20);
EFUSE_AT(efuse_attach, forget_depth, 24);
EFUSE_AT(efuse_attach, slot_in_size, 28);
EFUSE_AT(efuse_attach, slot_out_size, 32);
EFUSE_AT(efuse_attach, payload_size, 36);
EFUSE_AT(efuse_attach, spin_ns, 40);
EFUSE_AT(efuse_attach, nr_cpus, 44);
EFUSE_AT(efuse_attach, cpu_rings, 48);
EFUSE_AT(efuse_attach, features, 56);
EFUSE_AT(efuse_attach, kern_size, 64);
EFUSE_AT(efuse_attach, user_size, 68);
EFUSE_AT(efuse_attach, balance, 72);
EFUSE_AT(efuse_attach, congestion, 76);
EFUSE_AT(efuse_attach, reserved, 80);

EFUSE_SIZE(efuse_enter, 32);
EFUSE_AT(efuse_enter, ring, 0);
EFUSE_AT(efuse_enter, flags, 4);
EFUSE_AT(efuse_enter, poll_ns, 8);
EFUSE_AT(efuse_enter, reserved, 12);
EFUSE_AT(efuse_enter, timeout_ns, 16);
EFUSE_AT(efuse_enter, reserved2, 24);

EFUSE_SIZE(efuse_tune, 32);
EFUSE_AT(efuse_tune, size, 0);
EFUSE_AT(efuse_tune, flags, 4);
EFUSE_AT(efuse_tune, spin_ns, 8);
EFUSE_AT(efuse_tune, balance, 12);
EFUSE_AT(efuse_tune, congestion, 16);
EFUSE_AT(efuse_tune, reserved, 20);

EFUSE_SIZE(efuse_change, 48);
EFUSE_AT(efuse_change, size, 0);
EFUSE_AT(efuse_change, phase, 4);
EFUSE_AT(efuse_change, what, 8);
EFUSE_AT(efuse_change, name_len, 12);
EFUSE_AT(efuse_change, nodeid, 16);
EFUSE_AT(efuse_change, name, 24);
EFUSE_AT(efuse_change, reserved, 32);

EFUSE_SIZE(efuse_backing, 32);
EFUSE_AT(efuse_backing, size, 0);
EFUSE_AT(efuse_backing, fd, 4);
EFUSE_AT(efuse_backing, nodeid, 8);
EFUSE_AT(efuse_backing, reserved, 16);

EFUSE_SIZE(efuse_credit, 16);
EFUSE_AT(efuse_credit, nodeid, 0);
EFUSE_AT(efuse_credit, nlookup, 8);

EFUSE_SIZE(efuse_credits, 32);
EFUSE_AT(efuse_credits, size, 0);
EFUSE_AT(efuse_credits, nr, 4);
EFUSE_AT(efuse_credits, credits, 8);
EFUSE_AT(efuse_credits, reserved, 16);

EFUSE_SIZE(efuse_fastpath_count, 32);
EFUSE_AT(efuse_fastpath_count, hits, 0);
EFUSE_AT(efuse_fastpath_count, misses, 8);
EFUSE_AT(efuse_fastpath_count, declines, 16);
EFUSE_AT(efuse_fastpath_count, errors, 24);

EFUSE_SIZE(efuse_fastpath_stats, 2088);
EFUSE_AT(efuse_fastpath_stats, size, 0);
EFUSE_AT(efuse_fastpath_stats, program, 4);
EFUSE_AT(efuse_fastpath_stats, name, 8);
EFUSE_AT(efuse_fastpath_stats, reserved, 24);
EFUSE_AT(efuse_fastpath_stats, count, 40);

EFUSE_SIZE(efuse_ring_info, 128);
EFUSE_AT(efuse_ring_info, magic, 0);
EFUSE_AT(efuse_ring_info, abi_version, 4);
EFUSE_AT(efuse_ring_info, features, 8);
EFUSE_AT(efuse_ring_info, ring, 16);
EFUSE_AT(efuse_ring_info, nr_rings, 20);
EFUSE_AT(efuse_ring_info, depth, 24);
EFUSE_AT(efuse_ring_info, interrupt_depth, 28);
EFUSE_AT(efuse_ring_info, forget_depth, 32);
EFUSE_AT(efuse_ring_info, slot_in_size, 36);
EFUSE_AT(efuse_ring_info, slot_out_size, 40);
EFUSE_AT(efuse_ring_info, kern_size, 44);
EFUSE_AT(efuse_ring_info, user_size, 48);
EFUSE_AT(efuse_ring_info, payload_size, 52);
EFUSE_AT(efuse_ring_info, kern_head_off, 56);
EFUSE_AT(efuse_ring_info, pending_off, 60);
EFUSE_AT(efuse_ring_info, interrupt_off, 64);
EFUSE_AT(efuse_ring_info, forget_off, 68);
EFUSE_AT(efuse_ring_info, slot_in_off, 72);
EFUSE_AT(efuse_ring_info, user_head_off, 76);
EFUSE_AT(efuse_ring_info, complete_off, 80);
EFUSE_AT(efuse_ring_info, slot_out_off, 84);
EFUSE_AT(efuse_ring_info, reserved, 88);

EFUSE_SIZE(efuse_ring_stats, 128);
EFUSE_AT(efuse_ring_stats, submitted, 0);
EFUSE_AT(efuse_ring_stats, done_spin, 8);
EFUSE_AT(efuse_ring_stats, done_enter, 16);
EFUSE_AT(efuse_ring_stats, stale, 24);
EFUSE_AT(efuse_ring_stats, bad, 32);
EFUSE_AT(efuse_ring_stats, to_stock_full, 40);
EFUSE_AT(efuse_ring_stats, to_stock_pool, 48);
EFUSE_AT(efuse_ring_stats, to_stock_size, 56);
EFUSE_AT(efuse_ring_stats, spins, 64);
EFUSE_AT(efuse_ring_stats, spin_paid, 72);
EFUSE_AT(efuse_ring_stats, wakeups, 80);
EFUSE_AT(efuse_ring_stats, forgets, 88);
EFUSE_AT(efuse_ring_stats, interrupts, 96);
EFUSE_AT(efuse_ring_stats, moved, 104);
EFUSE_AT(efuse_ring_stats, polls, 112);
EFUSE_AT(efuse_ring_stats, poll_paid, 120);

EFUSE_SIZE(efuse_kern_head, 448);
EFUSE_AT(efuse_kern_head, pending_tail, 0);
EFUSE_AT(efuse_kern_head, interrupt_tail, 64);
EFUSE_AT(efuse_kern_head, forget_tail, 128);
EFUSE_AT(efuse_kern_head, complete_head, 192);
EFUSE_AT(efuse_kern_head, state, 256);
EFUSE_AT(efuse_kern_head, deferred, 260);
EFUSE_AT(efuse_kern_head, stats, 320);

EFUSE_SIZE(efuse_pending_entry, 8);
EFUSE_AT(efuse_pending_entry, slot, 0);
EFUSE_AT(efuse_pending_entry, gen, 4);

EFUSE_SIZE(efuse_interrupt_entry, 16);
EFUSE_AT(efuse_interrupt_entry, unique, 0);
EFUSE_AT(efuse_interrupt_entry, slot, 8);
EFUSE_AT(efuse_interrupt_entry, gen, 12);

EFUSE_SIZE(efuse_forget_entry, 16);
EFUSE_AT(efuse_forget_entry, nodeid, 0);
EFUSE_AT(efuse_forget_entry, nlookup, 8);

EFUSE_SIZE(efuse_slot_in, 64);
EFUSE_AT(efuse_slot_in, need_commit, 0);
EFUSE_AT(efuse_slot_in, flags, 4);
EFUSE_AT(efuse_slot_in, in_len, 8);
EFUSE_AT(efuse_slot_in, in_payload_off, 12);
EFUSE_AT(efuse_slot_in, in_payload_len, 16);
EFUSE_AT(efuse_slot_in, out_payload_off, 20);
EFUSE_AT(efuse_slot_in, out_payload_cap, 24);
EFUSE_AT(efuse_slot_in, out_cap, 28);
EFUSE_AT(efuse_slot_in, enqueue_ns, 32);
EFUSE_AT(efuse_slot_in, gen, 40);
EFUSE_AT(efuse_slot_in, cpu, 44);
EFUSE_AT(efuse_slot_in, reserved, 48);

EFUSE_SIZE(efuse_user_head, 256);
EFUSE_AT(efuse_user_head, pending_head, 0);
EFUSE_AT(efuse_user_head, interrupt_head, 64);
EFUSE_AT(efuse_user_head, forget_head, 128);
EFUSE_AT(efuse_user_head, complete_tail, 192);

EFUSE_SIZE(efuse_complete_entry, 8);
EFUSE_AT(efuse_complete_entry, slot, 0);
EFUSE_AT(efuse_complete_entry, gen, 4);

EFUSE_SIZE(efuse_slot_out, 16);
EFUSE_AT(efuse_slot_out, done_gen, 0);
EFUSE_AT(efuse_slot_out, error, 4);
EFUSE_AT(efuse_slot_out, len, 8);
EFUSE_AT(efuse_slot_out, hints, 12);

#endif /* _UAPI_EFUSE_RING_H */
