// SPDX-License-Identifier: LGPL-2.1-or-later
// FORGET and BATCH_FORGET, less what programs in the kernel have looked up (lookup_credits.hh). A filesystem without
// forget_multi() gets a forget() for each.
#pragma once

#include "fuse_api.hh"

#include <cstdint>
#include <span>

struct fuse_req;

namespace efuse {

/// The request is the filesystem's, or let go of, afterwards.
void forget(fuse_req &req, std::uint64_t nlookup) noexcept;
/// Likewise. The list is part of the request's message.
void forget_batch(fuse_req &req, std::span<fuse_forget_one> forgets) noexcept;

}  // namespace efuse
