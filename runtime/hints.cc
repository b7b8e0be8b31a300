// SPDX-License-Identifier: LGPL-2.1-or-later
// What a filesystem knows besides what it replies. It goes with the reply, and fast paths remember it as they do the reply:
// it needs no invalidation of its own.
#include "request.hh"
#include "session_core.hh"

#include "uapi/efuse_ring.h"

#include <efuse/efuse_lowlevel.h>

#include <string_view>

namespace efuse {
namespace {

struct HintedXattr {
  const char *name;
  std::uint32_t hint;
};

constexpr HintedXattr kHintedXattrs[] = {
    {"security.selinux", EFUSE_HINT_NO_SELINUX},
    {"security.capability", EFUSE_HINT_NO_CAPABILITY},
    {"system.posix_acl_access", EFUSE_HINT_NO_ACCESS_ACL},
    {"system.posix_acl_default", EFUSE_HINT_NO_DEFAULT_ACL},
};

/// Is there somebody to remember it, and does the reply get there?
bool is_of_use(const fuse_req &req) noexcept {
  return req.session->changes.load(std::memory_order_relaxed) != nullptr && !req.channel->unseen();
}

std::uint32_t hint_of(std::string_view name) noexcept {
  for (const HintedXattr &xattr : kHintedXattrs)
    if (name == xattr.name)
      return xattr.hint;
  return 0;
}

}  // namespace
}  // namespace efuse

extern "C" {

void efuse_hint_last_entries(fuse_req_t req) { req->hints |= EFUSE_HINT_LAST; }

void efuse_hint_absent_xattrs(fuse_req_t req, const char *name, bool (*absent)(const char *, void *), void *data) {
  if (!efuse::is_of_use(*req))
    return;
  const std::uint32_t asked = efuse::hint_of(name);
  std::atomic<std::uint32_t> &ever = req->session->asked_xattrs;
  if ((ever.load(std::memory_order_relaxed) & asked) != asked)
    ever.fetch_or(asked, std::memory_order_relaxed);
  const std::uint32_t others = ever.load(std::memory_order_relaxed) & ~asked;
  for (const efuse::HintedXattr &xattr : efuse::kHintedXattrs)
    if ((others & xattr.hint) != 0 && absent(xattr.name, data))
      req->hints |= xattr.hint;
}

}  // extern "C"
