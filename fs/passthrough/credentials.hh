// SPDX-License-Identifier: LGPL-2.1-or-later
// Who a worker thread is for the source's filesystem. A daemon that runs as root makes files as the caller, so that
// owner, group, set-group-ID directories, ACLs, quotas and umask work as they do without it. Linux keeps
// credentials per thread; only glibc's wrappers change those of all threads, so they are not used here.
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#include <sys/types.h>

#include <cerrno>
#include <cstdint>
#include <span>
#include <vector>

namespace efuse::fs::passthrough {

/// What the daemon may do, as it was started.
struct Privileges {
  bool switch_user = false;   // act as other users
  bool open_handles = false;  // open_by_handle_at()
  static Privileges of_this_process() noexcept;
};

/// This thread's umask, with fs_struct of its own. Returns 0 or -errno.
int set_thread_umask(mode_t mask) noexcept;

/// Whether this thread's changes of data are root's: they leave set-user-ID bits alone and know no quota. Only for
/// daemons that may switch users; cheap where nothing changes.
void write_as_root(bool yes) noexcept;

/// This thread acts as another user while this lives. Whoever cannot go back must not go on: the process ends.
class ActingAs {
 public:
  /// error() says whether it worked.
  ActingAs(uid_t uid, gid_t gid, std::span<const gid_t> groups) noexcept;
  ~ActingAs();
  ActingAs(const ActingAs &) = delete;
  ActingAs &operator=(const ActingAs &) = delete;
  /// 0 or -errno.
  [[nodiscard]] int error() const noexcept { return error_; }

 private:
  bool groups_ = false, gid_ = false, uid_ = false;  // what has to go back
  int error_ = 0;
};

/// Supplementary groups of the caller; none where they cannot be found out. Slow: reads /proc.
std::vector<gid_t> groups_of(fuse_req_t req) noexcept;

/// Do `make()`, which returns 0 or -errno and may be called again after it failed, as the caller of `req`. The kernel
/// has checked permissions already, so groups are looked at only where the source says no, or `groups_matter`.
template <typename Make>
int as_caller(fuse_req_t req, bool switch_user, bool groups_matter, Make &&make) {
  const fuse_ctx &ctx = *fuse_req_ctx(req);
  if (const int error = set_thread_umask(ctx.umask); error != 0) return error;
  if (!switch_user) return make();
  write_as_root(true);
  if (ctx.uid == 0 && ctx.gid == 0) return make();
  if (ctx.uid == 0) groups_matter = false;
  if (!groups_matter) {
    const ActingAs caller(ctx.uid, ctx.gid, {});
    const int status = caller.error() != 0 ? caller.error() : make();
    if (ctx.uid == 0 || (status != -EACCES && status != -EPERM)) return status;
  }
  const ActingAs caller(ctx.uid, ctx.gid, groups_of(req));
  return caller.error() != 0 ? caller.error() : make();
}

}  // namespace efuse::fs::passthrough
