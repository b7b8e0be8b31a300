// SPDX-License-Identifier: LGPL-2.1-or-later
// The kernel's FUSE-over-io_uring interface (Linux 6.14, FUSE 7.42), which Debian 12's <linux/fuse.h> is older
// than. Names of our own, as in protocol.hh.
//
// A connection has a queue for every possible CPU; a request goes to the queue of the CPU that its sender runs on.
// The daemon registers entries with each queue: a UringHeaders and a payload buffer, both its own memory, that the
// kernel copies a request into before it completes the entry's command. The answer is written over the request and
// handed back with COMMIT_AND_FETCH, which waits for the next request in the same buffers.
#pragma once

#include "fuse_api.hh"

#include <cstddef>
#include <cstdint>

namespace efuse::protocol {

/// INIT flag. Once agreed on, the kernel holds every request back until each queue has an entry, or a REGISTER fails.
inline constexpr std::uint64_t kOverIoUring = 1ull << 41;

/// fuse_uring_ent_in_out.
struct UringEntry {
  std::uint64_t flags;
  std::uint64_t commit_id;   // to hand back with COMMIT_AND_FETCH
  std::uint32_t payload_sz;  // bytes in the payload buffer: of the request, then of the answer
  std::uint32_t padding;
  std::uint64_t reserved;
};
static_assert(sizeof(UringEntry) == 32);
static_assert(offsetof(UringEntry, commit_id) == 8 && offsetof(UringEntry, payload_sz) == 16);

inline constexpr std::size_t kUringInOut = 128;
inline constexpr std::size_t kUringOpIn = 128;

/// fuse_uring_req_header.
struct UringHeaders {
  alignas(8) std::byte in_out[kUringInOut];  // fuse_in_header, then fuse_out_header
  std::byte op_in[kUringOpIn];               // first argument, if it is a structure; all others are in the payload
  UringEntry entry;
};
static_assert(sizeof(UringHeaders) == 288);
static_assert(offsetof(UringHeaders, op_in) == 128 && offsetof(UringHeaders, entry) == 256);

/// fuse_uring_cmd_req: the second half of a 128-byte submission.
struct UringCommand {
  std::uint64_t flags;
  std::uint64_t commit_id;
  std::uint16_t qid;
  std::uint8_t padding[6];
};
static_assert(sizeof(UringCommand) == 24);
static_assert(offsetof(UringCommand, commit_id) == 8 && offsetof(UringCommand, qid) == 16);

inline constexpr std::uint32_t kUringRegister = 1;        // FUSE_IO_URING_CMD_REGISTER
inline constexpr std::uint32_t kUringCommitAndFetch = 2;  // FUSE_IO_URING_CMD_COMMIT_AND_FETCH

/// A SETXATTR's name and value (64 KiB at most), and a LISTXATTR's answer, fit into a buffer of so many bytes.
inline constexpr std::size_t kUringXattrPayload = 65536 + 256;

/// What REGISTER takes in its address: the headers, then the payload.
inline constexpr unsigned kUringIovecs = 2;

}  // namespace efuse::protocol
