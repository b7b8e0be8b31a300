// SPDX-License-Identifier: LGPL-2.1-or-later
#include "mounts.hh"

#include "file_handle.hh"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <fstream>
#include <new>
#include <sstream>
#include <string_view>

namespace efuse::fs::passthrough {
namespace {

struct MountLine {
  std::string type, source;
};

/// \040 and the like, as the kernel writes blanks.
std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

/// What /proc/self/mountinfo says of mount `id`; empty if nothing.
MountLine mount_line(int id) {
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    int this_id = -1;
    if (!(fields >> this_id) || this_id != id) continue;
    const std::size_t dash = line.find(" - ");
    if (dash == std::string::npos) break;
    std::istringstream rest(line.substr(dash + 3));
    MountLine found;
    rest >> found.type >> found.source;
    found.source = unescape(found.source);
    return found;
  }
  return {};
}

/// Their handles are good only while the kernel has the inode cached.
bool is_fuse(std::string_view type) { return type.starts_with("fuse") || type == "virtiofs"; }

bool handles_work(int path, int mount_fd) {
  HandleBuffer handle;
  if (handle.read(path) != 0) return false;
  return static_cast<bool>(Fd(open_by_handle_at(mount_fd, handle.get(), O_PATH | O_CLOEXEC)));
}

}  // namespace

int MountTable::make(int path, int id, bool can_be_read, Mount &mount) const {
  const MountLine line = mount_line(id);
  if (line.type == "fuse.passthrough" && line.source == own_name_) return -ELOOP;
  mount.id = id;
  if (can_be_read) {
    const std::string link = "/proc/self/fd/" + std::to_string(path);
    mount.fd.reset(open(link.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (!mount.fd && errno != EACCES && errno != EPERM) return -errno;
  }
  mount.handles = policy_ != InodeHandles::never && mount.fd && !is_fuse(line.type) &&
                  handles_work(path, mount.fd.get());
  return policy_ == InodeHandles::always && !mount.handles ? -EOPNOTSUPP : 0;
}

int MountTable::find(int path, std::shared_ptr<Mount> &mount) noexcept {
  struct statx st;
  // No question to the filesystem: it may be the one that waits for this answer.
  if (statx(path, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_MNT_ID, &st) != 0) return -errno;
  if ((st.stx_mask & STATX_MNT_ID) == 0) return -EOPNOTSUPP;  // Linux before 5.8
  const int id = static_cast<int>(st.stx_mnt_id);
  try {
    const std::scoped_lock lock(mutex_);
    mount = mounts_[id].lock();
    if (mount) return 0;
    auto fresh = std::make_shared<Mount>();
    const int status = make(path, id, S_ISDIR(st.stx_mode) || S_ISREG(st.stx_mode), *fresh);
    if (status != 0) return status;
    std::erase_if(mounts_, [](const auto &entry) { return entry.second.expired(); });
    mounts_[id] = mount = std::move(fresh);
    return 0;
  } catch (const std::bad_alloc &) {
    return -ENOMEM;
  }
}

std::vector<std::shared_ptr<Mount>> MountTable::all() const {
  const std::scoped_lock lock(mutex_);
  std::vector<std::shared_ptr<Mount>> found;
  for (const auto &[id, weak] : mounts_)
    if (auto mount = weak.lock()) found.push_back(std::move(mount));
  return found;
}

}  // namespace efuse::fs::passthrough
