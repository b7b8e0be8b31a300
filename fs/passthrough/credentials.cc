// SPDX-License-Identifier: LGPL-2.1-or-later
#include "credentials.hh"

#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <new>

namespace efuse::fs::passthrough {
namespace {

/// What of root's power a user's writes must not have.
constexpr std::uint32_t kRootsWrites = 1u << CAP_FSETID | 1u << CAP_SYS_RESOURCE;
static_assert(CAP_FSETID < 32 && CAP_SYS_RESOURCE < 32, "both in the first word");

struct Capabilities {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};  // this thread
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3]{};

  bool get() noexcept { return syscall(SYS_capget, &header, data) == 0; }
  bool set() noexcept { return syscall(SYS_capset, &header, data) == 0; }
  [[nodiscard]] bool effective(unsigned cap) const noexcept { return (data[0].effective & 1u << cap) != 0; }
};

/// What this module has made of the thread.
struct ThreadState {
  bool own_fs = false;      // umask and working directory are not shared
  mode_t umask = 0;         // valid with own_fs
  bool groups_gone = false; // the daemon's own supplementary groups
  bool user_writes = false; // kRootsWrites are not in effect
};
thread_local ThreadState t_state;

int status_of(long result) noexcept { return result == 0 ? 0 : -errno; }

int set_groups(std::span<const gid_t> groups) noexcept {
  return status_of(syscall(SYS_setgroups, groups.size(), groups.data()));
}

constexpr auto kKeep = static_cast<unsigned>(-1);

int set_gid(gid_t gid) noexcept { return status_of(syscall(SYS_setresgid, kKeep, gid, kKeep)); }
int set_uid(uid_t uid) noexcept { return status_of(syscall(SYS_setresuid, kKeep, uid, kKeep)); }

/// The daemon's group, which need not be root's.
gid_t own_gid() noexcept {
  static const gid_t gid = getegid();
  return gid;
}

[[noreturn]] void cannot_go_back() noexcept {
  fuse_log(FUSE_LOG_ERR, "passthrough: a worker cannot become root again\n");
  std::abort();
}

}  // namespace

Privileges Privileges::of_this_process() noexcept {
  Capabilities caps;
  if (!caps.get()) return {};
  return {.switch_user = geteuid() == 0 && caps.effective(CAP_SETUID) && caps.effective(CAP_SETGID),
          .open_handles = caps.effective(CAP_DAC_READ_SEARCH)};
}

int set_thread_umask(mode_t mask) noexcept {
  mask &= 0777;
  if (!t_state.own_fs) {
    // The new copy must not keep a directory busy that the daemon leaves later.
    if (unshare(CLONE_FS) != 0 || chdir("/") != 0) return -errno;
    t_state.own_fs = true;
  } else if (t_state.umask == mask) {
    return 0;
  }
  umask(mask);
  t_state.umask = mask;
  return 0;
}

void write_as_root(bool yes) noexcept {
  if (t_state.user_writes == !yes) return;
  Capabilities caps;
  if (!caps.get()) return;
  caps.data[0].effective = yes ? caps.data[0].effective | (caps.data[0].permitted & kRootsWrites)
                               : caps.data[0].effective & ~kRootsWrites;
  if (caps.set()) t_state.user_writes = !yes;
}

ActingAs::ActingAs(uid_t uid, gid_t gid, std::span<const gid_t> groups) noexcept {
  if (!groups.empty() || !t_state.groups_gone) {
    if ((error_ = set_groups(groups)) != 0) return;
    t_state.groups_gone = true;
    groups_ = !groups.empty();
  }
  if (gid != own_gid()) {
    if ((error_ = set_gid(gid)) != 0) return;
    gid_ = true;
  }
  if (uid != 0) {
    if ((error_ = set_uid(uid)) != 0) return;
    uid_ = true;
  }
}

// The user first: that gives the capabilities back that the others need.
ActingAs::~ActingAs() {
  if (uid_ && set_uid(0) != 0) cannot_go_back();
  if (uid_) t_state.user_writes = false;  // leaving root and coming back sets what is permitted
  if (gid_ && set_gid(own_gid()) != 0) cannot_go_back();
  if (groups_ && set_groups({}) != 0) cannot_go_back();
}

std::vector<gid_t> groups_of(fuse_req_t req) noexcept {
  try {
    std::vector<gid_t> groups(64);
    for (;;) {
      const int count = fuse_req_getgroups(req, static_cast<int>(groups.size()), groups.data());
      const bool all = count <= static_cast<int>(groups.size());
      groups.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
      if (all) return groups;
    }
  } catch (const std::bad_alloc &) {
    return {};
  }
}

}  // namespace efuse::fs::passthrough
