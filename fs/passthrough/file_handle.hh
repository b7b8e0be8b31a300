// SPDX-License-Identifier: LGPL-2.1-or-later
// File handles: names of inodes that last longer than paths, cost no descriptor and are never used again for
// another inode (they hold the filesystem's generation).
#pragma once

#include <fcntl.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <string_view>

namespace efuse::fs::passthrough {

/// One on the stack, long enough for any filesystem.
class HandleBuffer {
 public:
  /// The handle of the file behind `fd`, which may be an O_PATH descriptor. Returns 0 or -errno; -EOPNOTSUPP: the
  /// filesystem has none.
  int read(int fd) noexcept {
    int mount_id = 0;
    get()->handle_bytes = MAX_HANDLE_SZ;
    return name_to_handle_at(fd, "", get(), &mount_id, AT_EMPTY_PATH) == 0 ? 0 : -errno;
  }
  [[nodiscard]] file_handle *get() noexcept { return reinterpret_cast<file_handle *>(bytes_); }

 private:
  alignas(file_handle) std::byte bytes_[sizeof(file_handle) + MAX_HANDLE_SZ];
};

/// One on the heap, as long as it has to be; may be empty.
class FileHandle {
 public:
  FileHandle() = default;
  /// A copy of `from`, or empty for nullptr. Throws std::bad_alloc.
  explicit FileHandle(const file_handle *from) {
    if (from == nullptr) return;
    const std::size_t size = sizeof *from + from->handle_bytes;
    bytes_ = std::make_unique<std::byte[]>(size);
    std::memcpy(bytes_.get(), from, size);
  }
  /// nullptr if it is empty.
  [[nodiscard]] file_handle *get() const noexcept { return reinterpret_cast<file_handle *>(bytes_.get()); }
  explicit operator bool() const noexcept { return bytes_ != nullptr; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
};

/// Type and content, for comparing and hashing; empty for nullptr.
inline std::string_view handle_bytes(const file_handle *handle) noexcept {
  if (handle == nullptr) return {};
  const auto *start = reinterpret_cast<const char *>(handle) + offsetof(file_handle, handle_type);
  return {start, sizeof handle->handle_type + handle->handle_bytes};
}

}  // namespace efuse::fs::passthrough
