// SPDX-License-Identifier: LGPL-2.1-or-later
// Extended attributes and POSIX access control lists.
#include "check.hh"

#include <endian.h>
#include <linux/limits.h>
#include <sys/xattr.h>

#include <algorithm>
#include <set>

namespace posix {
namespace {

std::string value_of(const char *path, const char *name) {
  char value[256];
  const ssize_t n = lgetxattr(path, name, value, sizeof value);
  return n < 0 ? error_name(errno) : text({value, static_cast<std::size_t>(n)});
}

long set(const char *path, const char *name, std::string_view value, int flags = 0) {
  return lsetxattr(path, name, value.data(), value.size(), flags);
}

/// Names of a namespace, sorted.
std::string names_of(const char *path, std::string_view prefix = "user.") {
  std::string list(65536, '\0');
  list.resize(static_cast<std::size_t>(must(llistxattr(path, list.data(), list.size()), "llistxattr")));
  std::set<std::string> names;
  for (std::size_t at = 0; at < list.size(); at += list.find('\0', at) - at + 1)
    if (list.compare(at, prefix.size(), prefix) == 0) names.insert(list.c_str() + at);
  std::string all;
  for (const std::string &name : names) all += (all.empty() ? "" : " ") + name;
  return all.empty() ? "none" : all;
}

CHECK("xattr.set_get", "ok 'value'") {
  make_file("f");
  return seen({ok(set("f", "user.a", "value")), value_of("f", "user.a")});
}
CHECK("xattr.empty_value", "ok '' user.a") {
  make_file("f");
  return seen({ok(set("f", "user.a", "")), value_of("f", "user.a"), names_of("f")});
}
CHECK("xattr.binary_value", "ok 'a\\00b\\ff'") {
  make_file("f");
  return seen({ok(set("f", "user.a", std::string_view("a\0b\xff", 4))), value_of("f", "user.a")});
}
CHECK("xattr.replaced", "'longer value' 's'") {
  make_file("f");
  set("f", "user.a", "v");
  set("f", "user.a", "longer value");
  const std::string longer = value_of("f", "user.a");
  set("f", "user.a", "s");
  return seen({longer, value_of("f", "user.a")});
}
CHECK("xattr.create_flag", "ok EEXIST 'one'") {
  make_file("f");
  const std::string first = ok(set("f", "user.a", "one", XATTR_CREATE));
  return seen({first, ok(set("f", "user.a", "two", XATTR_CREATE)), value_of("f", "user.a")});
}
CHECK("xattr.replace_flag", "ENODATA ok") {
  make_file("f");
  const std::string absent = ok(set("f", "user.a", "one", XATTR_REPLACE));
  set("f", "user.a", "one");
  return seen({absent, ok(set("f", "user.a", "two", XATTR_REPLACE))});
}
CHECK("xattr.bad_flags", "EINVAL") {
  make_file("f");
  return ok(set("f", "user.a", "one", 0x40));
}
CHECK("xattr.size_query", "5 ERANGE") {
  make_file("f");
  set("f", "user.a", "value");
  char small[2];
  return seen({number(getxattr("f", "user.a", nullptr, 0)), ok(getxattr("f", "user.a", small, sizeof small))});
}
CHECK("xattr.list_size_query", "yes ERANGE") {
  make_file("f");
  set("f", "user.a", "value");
  char small[2];
  const ssize_t size = listxattr("f", nullptr, 0);
  return seen({yes(size >= 7), ok(listxattr("f", small, sizeof small))});
}
CHECK("xattr.list_many", "user.a user.bb user.ccc") {
  make_file("f");
  for (const char *name : {"user.ccc", "user.a", "user.bb"}) must(set("f", name, "v"), "lsetxattr");
  return names_of("f");
}
CHECK("xattr.list_none", "none") {
  make_file("f");
  return names_of("f", "");
}
CHECK("xattr.remove", "ok ENODATA ENODATA none") {
  make_file("f");
  set("f", "user.a", "v");
  return seen(
      {ok(lremovexattr("f", "user.a")), value_of("f", "user.a"), ok(lremovexattr("f", "user.a")), names_of("f")});
}
CHECK("xattr.longest_name", "ok ERANGE") {
  make_file("f");
  const std::string longest = "user." + std::string(XATTR_NAME_MAX - 5, 'n');
  return seen({ok(set("f", longest.c_str(), "v")), ok(set("f", (longest + "n").c_str(), "v"))});
}
CHECK("xattr.longest_value", "E2BIG") {
  make_file("f");
  return ok(set("f", "user.a", std::string(XATTR_SIZE_MAX + 1, 'v')));
}
CHECK("xattr.large_value", "") {
  make_file("f");
  const std::string large(XATTR_SIZE_MAX, 'v');
  const std::string done = ok(set("f", "user.a", large));
  return seen({done, number(lgetxattr("f", "user.a", nullptr, 0))});
}
CHECK("xattr.value_of_3000", "ok 3000") {
  make_file("f");
  const std::string large(3000, 'v');
  return seen({ok(set("f", "user.a", large)), number(lgetxattr("f", "user.a", nullptr, 0))});
}
CHECK("xattr.names.unknown_namespace", "EOPNOTSUPP EOPNOTSUPP") {
  make_file("f");
  return seen({ok(set("f", "nonsense.a", "v")), ok(set("f", "nodot", "v"))});
}
CHECK("xattr.names.empty", "ERANGE EOPNOTSUPP|ERANGE EINVAL") {
  make_file("f");
  return seen({ok(set("f", "", "v")), ok(set("f", "user.", "v"))});
}
CHECK("xattr.names.unknown_system", "EOPNOTSUPP EOPNOTSUPP") {
  make_file("f");
  return seen({ok(set("f", "system.a", "v")), value_of("f", "system.a")});
}
CHECK("xattr.ctime", "ctime ctime") {
  make_file("f");
  const std::string set_times = times_changed("f", [] { must(set("f", "user.a", "v"), "lsetxattr"); });
  return seen({set_times, times_changed("f", [] { must(lremovexattr("f", "user.a"), "lremovexattr"); })});
}
CHECK("xattr.directory", "ok 'v'") {
  make_dir("d");
  return seen({ok(set("d", "user.a", "v")), value_of("d", "user.a")});
}
CHECK("xattr.user_on_link", "EPERM") {
  make_link("none", "s");
  return ok(set("s", "user.a", "v"));
}
CHECK("xattr.user_on_fifo", "EPERM") {
  must(mkfifo("p", 0600), "mkfifo");
  return ok(set("p", "user.a", "v"));
}
CHECK("xattr.trusted_on_link", "ok 'v'") {
  make_link("none", "s");
  return seen({ok(set("s", "trusted.a", "v")), value_of("s", "trusted.a")});
}
CHECK("xattr.trusted_needs_privilege", "EPERM ENODATA none") {
  make_file("f", "", 0666);
  set("f", "trusted.a", "v");
  return as_user([] {
    return seen({ok(set("f", "trusted.b", "v")), value_of("f", "trusted.a"), names_of("f", "trusted.")});
  });
}
CHECK("xattr.trusted_listed_for_root", "trusted.a") {
  make_file("f");
  set("f", "trusted.a", "v");
  return names_of("f", "trusted.");
}
CHECK("xattr.security", "ok 'v' security.a") {
  make_file("f");
  return seen({ok(set("f", "security.a", "v")), value_of("f", "security.a"), names_of("f", "security.a")});
}
CHECK("xattr.security_needs_privilege", "EPERM") {
  make_file("f", "", 0666);
  return as_user([] { return ok(set("f", "security.a", "v")); });
}
CHECK("xattr.user_needs_write", "EACCES EACCES ok") {
  make_file("f", "", 0644);
  set("f", "user.a", "v");
  return as_user([] {
    char value[8];
    return seen({ok(set("f", "user.b", "v")), ok(lremovexattr("f", "user.a")), ok(getxattr("f", "user.a", value, 8))});
  });
}
CHECK("xattr.user_needs_read", "EACCES ok") {
  make_file("f", "", 0222);
  set("f", "user.a", "v");
  return as_user([] {
    char value[8];
    return seen({ok(getxattr("f", "user.a", value, 8)), ok(set("f", "user.b", "v"))});
  });
}
CHECK("xattr.sticky_directory", "EPERM") {
  make_dir("d", 01777);
  return as_user([] { return ok(set("d", "user.a", "v")); });
}
CHECK("xattr.survives_rename_and_link", "'v' 'v'") {
  make_file("f");
  set("f", "user.a", "v");
  must(rename("f", "g"), "rename");
  must(link("g", "h"), "link");
  return seen({value_of("g", "user.a"), value_of("h", "user.a")});
}
CHECK("xattr.file_capability_dropped_by_write", "ok ENODATA") {
  // VFS_CAP_REVISION_2 with cap_net_raw permitted.
  make_file("f", "x", 0777);
  const unsigned char value[20] = {0, 0, 0, 2, 0, 0x20};
  const std::string done = ok(set("f", "security.capability", {reinterpret_cast<const char *>(value), sizeof value}));
  must(write(Fd("f", O_WRONLY), "y", 1), "write");
  return seen({done, value_of("f", "security.capability")});
}
CHECK("xattr.file_capability_dropped_by_chown", "ENODATA") {
  make_file("f", "x", 0777);
  const unsigned char value[20] = {0, 0, 0, 2, 0, 0x20};
  must(set("f", "security.capability", {reinterpret_cast<const char *>(value), sizeof value}), "lsetxattr");
  must(chown("f", kUser, kGroup), "chown");
  return value_of("f", "security.capability");
}
CHECK("xattr.file_capability_malformed", "EINVAL") {
  make_file("f");
  return ok(set("f", "security.capability", "v"));
}
CHECK("xattr.bad_memory", "EFAULT EFAULT") {
  make_file("f");
  set("f", "user.a", "v");
  return seen({ok(setxattr("f", "user.b", bad_address(), 4, 0)), ok(getxattr("f", "user.a", bad_address(), 4))});
}

// Access control lists, as they are in extended attributes (linux/posix_acl_xattr.h).

enum : std::uint16_t { kOwner = 1, kNamedUser = 2, kOwningGroup = 4, kNamedGroup = 8, kMask = 16, kOthers = 32 };
constexpr const char *kAccess = "system.posix_acl_access", *kDefault = "system.posix_acl_default";

struct Entry {
  std::uint16_t tag, permissions;
  std::uint32_t id = UINT32_MAX;
};

std::string acl(std::initializer_list<Entry> entries) {
  std::string bytes("\2\0\0\0", 4);
  const auto put = [&](std::uint64_t n, int width) {
    for (int i = 0; i < width; ++i) bytes += static_cast<char>(n >> (8 * i));
  };
  for (const Entry &e : entries) {
    put(e.tag, 2);
    put(e.permissions, 2);
    put(e.id, 4);
  }
  return bytes;
}

/// As getfacl would: "u::rw- u12345:r-- g::r-- m::r-- o::---", or the error.
std::string acl_of(const char *path, const char *which = kAccess) {
  unsigned char bytes[512];
  const ssize_t n = getxattr(path, which, bytes, sizeof bytes);
  if (n < 0) return error_name(errno);
  std::string all;
  for (ssize_t at = 4; at + 8 <= n; at += 8) {
    const unsigned tag = bytes[at] | bytes[at + 1] << 8, permissions = bytes[at + 2];
    const unsigned id =
        bytes[at + 4] | bytes[at + 5] << 8 | bytes[at + 6] << 16 | static_cast<unsigned>(bytes[at + 7]) << 24;
    all += all.empty() ? "" : ",";
    all += tag <= kNamedUser ? "u" : tag <= kNamedGroup ? "g" : tag == kMask ? "m" : "o";
    all += tag == kNamedUser || tag == kNamedGroup ? std::to_string(id) : "";
    all += ":" + std::to_string(permissions);
  }
  return all;
}

const std::string kUserMayRead =
    acl({{kOwner, 6}, {kNamedUser, 4, kUser}, {kOwningGroup, 0}, {kMask, 4}, {kOthers, 0}});
const std::string kUserMayAll = acl({{kOwner, 7}, {kNamedUser, 7, kUser}, {kOwningGroup, 5}, {kMask, 7}, {kOthers, 0}});

CHECK("acl.set_get", "ok u:6,u12345:4,g:0,m:4,o:0") {
  make_file("f", "", 0600);
  return seen({ok(set("f", kAccess, kUserMayRead)), acl_of("f")});
}
CHECK("acl.absent", "ENODATA ENODATA") {
  make_dir("d");
  return seen({acl_of("d"), acl_of("d", kDefault)});
}
CHECK("acl.changes_mode", "0640") {
  make_file("f", "", 0600);
  must(set("f", kAccess, kUserMayRead), "lsetxattr");
  return mode_of("f");  // the group's bits are the mask
}
CHECK("acl.named_user", "ok EACCES EACCES") {
  make_file("f", "abc", 0600);
  must(set("f", kAccess, kUserMayRead), "lsetxattr");
  const std::string reads = as_user([] { return ok(open("f", O_RDONLY)); });
  const std::string writes = as_user([] { return ok(open("f", O_WRONLY)); });
  return seen({reads, writes, as(kOther, kOtherGroup, [] { return ok(open("f", O_RDONLY)); })});
}
CHECK("acl.named_group", "ok EACCES") {
  make_file("f", "abc", 0600);
  must(set("f", kAccess, acl({{kOwner, 6}, {kOwningGroup, 0}, {kNamedGroup, 6, kGroup}, {kMask, 6}, {kOthers, 0}})),
       "lsetxattr");
  return seen({as_user([] { return ok(open("f", O_RDWR)); }),
               as(kOther, kOtherGroup, [] { return ok(open("f", O_RDONLY)); })});
}
CHECK("acl.named_user_denied_others_allowed", "EACCES ok") {
  make_file("f", "abc", 0644);
  must(set("f", kAccess, acl({{kOwner, 6}, {kNamedUser, 0, kUser}, {kOwningGroup, 4}, {kMask, 4}, {kOthers, 4}})),
       "lsetxattr");
  return seen({as_user([] { return ok(open("f", O_RDONLY)); }),
               as(kOther, kOtherGroup, [] { return ok(open("f", O_RDONLY)); })});
}
CHECK("acl.mask_limits", "EACCES") {
  make_file("f", "abc", 0600);
  must(set("f", kAccess, acl({{kOwner, 6}, {kNamedUser, 6, kUser}, {kOwningGroup, 0}, {kMask, 4}, {kOthers, 0}})),
       "lsetxattr");
  return as_user([] { return ok(open("f", O_RDWR)); });
}
CHECK("acl.directory_search", "EACCES ok") {
  make_dir("d", 0700);
  make_file("d/f", "abc", 0644);
  const std::string before = as_user([] { return ok(open("d/f", O_RDONLY)); });
  must(set("d", kAccess, kUserMayAll), "lsetxattr");
  return seen({before, as_user([] { return ok(open("d/f", O_RDONLY)); })});
}
CHECK("acl.directory_write", "ok") {
  make_dir("d", 0700);
  must(set("d", kAccess, kUserMayAll), "lsetxattr");
  return as_user([] { return ok(open("d/f", O_CREAT | O_WRONLY, 0600)); });
}
CHECK("acl.chmod_changes_mask", "u:6,u12345:4,g:0,m:0,o:0 u:7,u12345:4,g:0,m:5,o:1") {
  make_file("f", "", 0600);
  must(set("f", kAccess, kUserMayRead), "lsetxattr");
  must(chmod("f", 0600), "chmod");
  const std::string first = acl_of("f");
  must(chmod("f", 0751), "chmod");
  return seen({first, acl_of("f")});
}
CHECK("acl.chmod_denies", "ok EACCES") {
  make_file("f", "abc", 0600);
  must(set("f", kAccess, kUserMayRead), "lsetxattr");
  const std::string before = as_user([] { return ok(open("f", O_RDONLY)); });
  must(chmod("f", 0600), "chmod");
  return seen({before, as_user([] { return ok(open("f", O_RDONLY)); })});
}
CHECK("acl.minimal_is_only_mode", "ok 0640 ENODATA") {
  make_file("f", "", 0600);
  const std::string done = ok(set("f", kAccess, acl({{kOwner, 6}, {kOwningGroup, 4}, {kOthers, 0}})));
  return seen({done, mode_of("f"), acl_of("f")});
}
CHECK("acl.removed", "ok ENODATA 0640") {
  make_file("f", "", 0600);
  must(set("f", kAccess, kUserMayRead), "lsetxattr");
  return seen({ok(lremovexattr("f", kAccess)), acl_of("f"), mode_of("f")});
}
CHECK("acl.remove_absent", "ok|ENODATA") {
  make_file("f");
  return ok(lremovexattr("f", kAccess));
}
CHECK("acl.listed", "system.posix_acl_access") {
  make_file("f", "", 0600);
  must(set("f", kAccess, kUserMayRead), "lsetxattr");
  return names_of("f", "system.");
}
CHECK("acl.malformed", "EINVAL EINVAL EINVAL EOPNOTSUPP|EINVAL EINVAL EINVAL EINVAL") {
  make_file("f");
  const std::string without_mask = acl({{kOwner, 6}, {kNamedUser, 4, kUser}, {kOwningGroup, 0}, {kOthers, 0}});
  const std::string out_of_order = acl({{kOthers, 0}, {kOwner, 6}, {kOwningGroup, 0}});
  return seen({ok(set("f", kAccess, without_mask)), ok(set("f", kAccess, out_of_order)),
               ok(set("f", kAccess, "\2\0\0")), ok(set("f", kAccess, std::string("\7\0\0\0", 4)))});
}
CHECK("acl.only_owner_sets", "EPERM") {
  make_file("f", "", 0666);
  return as_user([] { return ok(set("f", kAccess, kUserMayRead)); });
}
CHECK("acl.on_link", "EOPNOTSUPP") {
  make_link("none", "s");
  return ok(set("s", kAccess, kUserMayRead));
}
CHECK("acl.foreign_group_loses_setgid", "ok 0740") {
  make_file("f");
  must(chown("f", kUser, kOtherGroup), "chown");
  must(chmod("f", 02755), "chmod");
  const std::string done = as_user([] {
    return ok(set("f", kAccess,
                  acl({{kOwner, 7}, {kNamedUser, 4, kOther}, {kOwningGroup, 0}, {kMask, 4}, {kOthers, 0}})));
  });
  return seen({done, mode_of("f")});
}
CHECK("acl.default.on_file", "EACCES") {
  make_file("f");
  return ok(set("f", kDefault, kUserMayAll));
}
CHECK("acl.default.does_not_change_mode", "ok 0700") {
  make_dir("d", 0700);
  return seen({ok(set("d", kDefault, kUserMayAll)), mode_of("d")});
}
CHECK("acl.default.file_inherits", "u:6,u12345:7,g:5,m:4,o:0 0640") {
  make_dir("d", 0700);
  must(set("d", kDefault, kUserMayAll), "lsetxattr");
  umask(077);  // does not count where there is a default list
  must(open("d/f", O_CREAT | O_WRONLY, 0644), "open");
  return seen({acl_of("d/f"), mode_of("d/f")});
}
CHECK("acl.default.directory_inherits_both", "u:7,u12345:7,g:5,m:7,o:0 u:7,u12345:7,g:5,m:7,o:0 0770") {
  make_dir("d", 0700);
  must(set("d", kDefault, kUserMayAll), "lsetxattr");
  umask(077);
  must(mkdir("d/d", 0777), "mkdir");
  return seen({acl_of("d/d"), acl_of("d/d", kDefault), mode_of("d/d")});
}
CHECK("acl.default.special_files_inherit", "0640 0640") {
  make_dir("d", 0700);
  must(set("d", kDefault, kUserMayAll), "lsetxattr");
  umask(077);
  must(mkfifo("d/p", 0644), "mkfifo");
  must(mknod("d/n", S_IFREG | 0644, 0), "mknod");
  return seen({mode_of("d/p"), mode_of("d/n")});
}
CHECK("acl.default.link_does_not", "0777") {
  make_dir("d", 0700);
  must(set("d", kDefault, kUserMayAll), "lsetxattr");
  make_link("x", "d/s");
  return mode_of("d/s");
}
CHECK("acl.default.minimal_list", "ENODATA 0640") {
  make_dir("d", 0700);
  must(set("d", kDefault, acl({{kOwner, 7}, {kOwningGroup, 4}, {kOthers, 0}})), "lsetxattr");
  umask(0);
  must(open("d/f", O_CREAT | O_WRONLY, 0666), "open");
  return seen({acl_of("d/f"), mode_of("d/f")});
}
CHECK("acl.default.tmpfile_inherits", "0640") {
  make_dir("d", 0700);
  must(set("d", kDefault, kUserMayAll), "lsetxattr");
  umask(077);
  return octal(stat_of(Fd("d", O_TMPFILE | O_RDWR, 0644)).st_mode);
}
CHECK("acl.default.removed", "ok 0600") {
  make_dir("d", 0700);
  must(set("d", kDefault, kUserMayAll), "lsetxattr");
  const std::string done = ok(lremovexattr("d", kDefault));
  umask(077);
  must(open("d/f", O_CREAT | O_WRONLY, 0666), "open");
  return seen({done, mode_of("d/f")});
}
CHECK("acl.default.inherited_list_counts", "ok") {
  make_dir("d", 0711);
  must(set("d", kDefault, kUserMayAll), "lsetxattr");
  make_dir("d/e", 0770);
  must(open("d/e/f", O_CREAT | O_WRONLY, 0660), "open");
  return as_user([] { return ok(open("d/e/f", O_RDWR)); });
}

}  // namespace
}  // namespace posix
