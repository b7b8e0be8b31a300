// SPDX-License-Identifier: LGPL-2.1-or-later
// POSIX access control lists as the values of extended attributes, which is how
// the kernel passes them (linux/posix_acl_xattr.h). The kernel enforces them; a
// filesystem keeps them, and keeps a mode and its list alike.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

namespace efuse::fs::memfs::acl {

constexpr std::string_view kAccess = "system.posix_acl_access";
constexpr std::string_view kDefault = "system.posix_acl_default";

[[nodiscard]] constexpr bool is_name(std::string_view name) noexcept {
  return name == kAccess || name == kDefault;
}

/// The right version, and each entry in its place, as acl_valid(3) wants them.
[[nodiscard]] bool valid(std::string_view list) noexcept;

// The rest is for valid lists.

/// It says no more than nine permission bits do.
[[nodiscard]] bool minimal(std::string_view list) noexcept;
/// The nine permission bits that stand for the list: those of the group are the mask.
[[nodiscard]] mode_t permissions(std::string_view list) noexcept;
/// chmod(): the list follows the nine permission bits of `mode`.
void change_mode(std::string &list, mode_t mode) noexcept;
/// Make a default list that of a new file, which asks for `mode`. Returns what it gets of it.
[[nodiscard]] mode_t inherit(std::string &list, mode_t mode) noexcept;

}  // namespace efuse::fs::memfs::acl
