// SPDX-License-Identifier: LGPL-2.1-or-later
// The filesystems that come with efuse, by name. Each is an ordinary libfuse
// low-level filesystem: it knows nothing of efuse and links with libfuse too.
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#include <efuse/fastpath.hh>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace efuse::fs {

class Filesystem {
 public:
  virtual ~Filesystem() = default;
  [[nodiscard]] virtual const fuse_lowlevel_ops &ops() const noexcept = 0;
  /// Bytes of the table that ops() starts: more, where it is an efuse_lowlevel_ops.
  [[nodiscard]] virtual std::size_t ops_size() const noexcept { return sizeof(fuse_lowlevel_ops); }
  [[nodiscard]] virtual void *userdata() noexcept = 0;
  /// Mount options this filesystem wants (e.g. default_permissions).
  [[nodiscard]] virtual std::vector<std::string> mount_options() const { return {}; }
  /// See Config::starts_nothing.
  [[nodiscard]] virtual bool starts_nothing() const noexcept { return false; }
  /// What BPF programs may answer for it in the kernel.
  [[nodiscard]] virtual FastpathOffer fastpath() const { return {}; }
};

/// `options`: key or key=value, as after -o; what a filesystem understands is
/// taken out of the vector, the rest stays for the mount. Throws
/// std::invalid_argument with a clear line for an unknown name or a bad value.
std::unique_ptr<Filesystem> make_filesystem(std::string_view name, std::vector<std::string> &options);
/// Names that make_filesystem() knows.
std::vector<std::string> filesystem_names();

}  // namespace efuse::fs
