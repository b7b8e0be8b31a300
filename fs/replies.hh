// SPDX-License-Identifier: LGPL-2.1-or-later
// Replies that every filesystem here gives in the same way.
#pragma once

#include <efuse/efuse_lowlevel.h>

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <new>
#include <type_traits>
#include <vector>

namespace efuse::fs {

/// `status`: 0 or -errno.
inline void reply_status(fuse_req_t req, int status) noexcept { fuse_reply_err(req, -status); }

/// This thread's memory for replies, at least `size` bytes. Throws std::bad_alloc.
inline char *reply_scratch(std::size_t size) {
  thread_local std::vector<char> bytes;
  if (bytes.size() < size) bytes.resize(size);
  return bytes.data();
}

/// A reply to READDIR or READDIRPLUS under construction, one at a time in a thread.
class DirReply {
 public:
  /// `size`: most bytes. Throws std::bad_alloc.
  DirReply(fuse_req_t req, std::size_t size) : req_(req), bytes_(reply_scratch(size)), size_(size) {}

  /// Both: false if the entry does not fit any more, and then nothing is added.
  bool add(const char *name, const struct stat &st, off_t cookie) noexcept {
    return fits(fuse_add_direntry(req_, bytes_ + used_, size_ - used_, name, &st, cookie));
  }
  bool add_plus(const char *name, const fuse_entry_param &e, off_t cookie) noexcept {
    return fits(fuse_add_direntry_plus(req_, bytes_ + used_, size_ - used_, name, &e, cookie));
  }
  [[nodiscard]] bool empty() const noexcept { return used_ == 0; }
  /// As fuse_reply_buf(). `last`: no entries follow.
  int send(bool last) noexcept {
    if (last) efuse_hint_last_entries(req_);
    return fuse_reply_buf(req_, bytes_, used_);
  }

 private:
  bool fits(std::size_t needed) noexcept {
    if (needed > size_ - used_) return false;
    used_ += needed;
    return true;
  }

  fuse_req_t req_;
  char *bytes_;
  std::size_t size_;
  std::size_t used_ = 0;
};

/// To be called before a reply that there is no attribute `name`. `absent(other)`: is there none of that name?
template <typename Absent>
void hint_absent_xattrs(fuse_req_t req, const char *name, Absent &&absent) noexcept {
  efuse_hint_absent_xattrs(
      req, name, [](const char *other, void *f) { return (*static_cast<std::remove_reference_t<Absent> *>(f))(other); },
      &absent);
}

/// The protocol of getxattr and listxattr: with size 0 the length alone. `fetch(buffer, size)` returns the length or
/// -errno, -ERANGE if the buffer is too small. `most`: no value is longer.
template <typename Fetch>
void reply_xattr(fuse_req_t req, std::size_t size, std::size_t most, Fetch &&fetch) noexcept {
  size = std::min(size, most);
  char *buffer = nullptr;
  try {
    buffer = reply_scratch(size);
  } catch (const std::bad_alloc &) {
    return reply_status(req, -ENOMEM);
  }
  const auto length = fetch(buffer, size);
  if (length < 0) return reply_status(req, static_cast<int>(length));
  if (size == 0)
    fuse_reply_xattr(req, static_cast<std::size_t>(length));
  else
    fuse_reply_buf(req, buffer, static_cast<std::size_t>(length));
}

}  // namespace efuse::fs
