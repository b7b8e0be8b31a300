// SPDX-License-Identifier: LGPL-2.1-or-later
#include "acl.hh"

#include <endian.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace efuse::fs::memfs::acl {
namespace {

using Header = posix_acl_xattr_header;
using Raw = posix_acl_xattr_entry;

struct Entry {
  unsigned tag, permissions;
};

std::size_t count(std::string_view list) noexcept { return (list.size() - sizeof(Header)) / sizeof(Raw); }

Entry entry(std::string_view list, std::size_t i) noexcept {
  Raw raw;
  std::memcpy(&raw, list.data() + sizeof(Header) + i * sizeof raw, sizeof raw);
  return {le16toh(raw.e_tag), le16toh(raw.e_perm)};
}

void set_permissions(std::string &list, std::size_t i, unsigned permissions) noexcept {
  const std::uint16_t raw = htole16(static_cast<std::uint16_t>(permissions));
  std::memcpy(list.data() + sizeof(Header) + i * sizeof(Raw) + offsetof(Raw, e_perm), &raw, sizeof raw);
}

/// The entry that the group's bits of a mode stand for: the mask if there is one.
std::size_t group_class(std::string_view list) noexcept {
  std::size_t found = 0;
  for (std::size_t i = 0; i < count(list); ++i) {
    const unsigned tag = entry(list, i).tag;
    if (tag == ACL_MASK) return i;
    if (tag == ACL_GROUP_OBJ) found = i;
  }
  return found;
}

}  // namespace

bool valid(std::string_view list) noexcept {
  if (list.size() < sizeof(Header) || (list.size() - sizeof(Header)) % sizeof(Raw) != 0) return false;
  Header header;
  std::memcpy(&header, list.data(), sizeof header);
  if (le32toh(header.a_version) != POSIX_ACL_XATTR_VERSION) return false;

  unsigned before = 0, seen = 0;
  for (std::size_t i = 0; i < count(list); ++i) {
    const Entry e = entry(list, i);
    if (e.permissions > 7) return false;
    const bool named = e.tag == ACL_USER || e.tag == ACL_GROUP;
    // The tags are single bits and ascend in the order that is wanted.
    if (e.tag == 0 || (e.tag & (e.tag - 1)) != 0 || e.tag > ACL_OTHER) return false;
    if (e.tag < before || (e.tag == before && !named)) return false;
    before = e.tag;
    seen |= e.tag;
  }
  constexpr unsigned kNeeded = ACL_USER_OBJ | ACL_GROUP_OBJ | ACL_OTHER;
  return (seen & kNeeded) == kNeeded && ((seen & (ACL_USER | ACL_GROUP)) == 0 || (seen & ACL_MASK) != 0);
}

bool minimal(std::string_view list) noexcept { return count(list) == 3; }

mode_t permissions(std::string_view list) noexcept {
  const unsigned group = entry(list, group_class(list)).permissions;
  return entry(list, 0).permissions << 6 | group << 3 | entry(list, count(list) - 1).permissions;
}

void change_mode(std::string &list, mode_t mode) noexcept {
  set_permissions(list, 0, mode >> 6 & 7);
  set_permissions(list, group_class(list), mode >> 3 & 7);
  set_permissions(list, count(list) - 1, mode & 7);
}

mode_t inherit(std::string &list, mode_t mode) noexcept {
  const mode_t granted = permissions(list) & mode;
  change_mode(list, granted);
  return (mode & ~static_cast<mode_t>(0777)) | granted;
}

}  // namespace efuse::fs::memfs::acl
