// SPDX-License-Identifier: LGPL-2.1-or-later
// A filesystem without memory, plausible enough to keep applications going: eight directories, some files and links
// that are in every directory, and names that come and go at random.
#pragma once

#include "hostile.hh"

#include <linux/fuse.h>

#include <span>

namespace hostile {

struct Answer {
  int error;          // 0 or a negative errno
  std::size_t len;    // bytes of the body
};

/// Stateless and thread-safe; `data` is the request's last argument where that lies apart (WRITE), else empty.
/// FORGET, BATCH_FORGET, INTERRUPT and NOTIFY_REPLY have no answer: do not ask.
Answer answer(Rng &rng, const fuse_in_header &head, std::span<const char> args, std::span<char> out) noexcept;

/// The reply to FUSE_INIT, with what `want` and the kernel have in common.
Answer answer_init(const fuse_in_header &head, std::span<const char> args, std::uint64_t want, std::uint32_t max_write,
                   std::span<char> out) noexcept;

bool wants_answer(std::uint32_t opcode) noexcept;

}  // namespace hostile
