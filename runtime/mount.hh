// SPDX-License-Identifier: LGPL-2.1-or-later
// Mounting and unmounting: mount(2) where this process may, fusermount3 otherwise.
#pragma once

#include "fd.hh"
#include "session.hh"

#include <sys/types.h>

#include <istream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace efuse {

/// What the options after -o mean to each of those who get them.
struct ParsedMountOptions {
  unsigned long flags = 0;     // MS_*
  std::string data;            // for the fuse filesystem type in mount(2), without fd= and its like
  std::string helper;          // the same and the flags, as fusermount3 wants them after -o
  std::string fsname;
  std::string subtype;
  bool blkdev = false;         // fsname is a block device: type fuseblk
  bool auto_unmount = false;   // fusermount3 stays and unmounts when this process dies
  bool nonempty = false;       // another FUSE mount may be mounted over
  bool debug = false;
  bool allow_root = false;     // of all others only root: the kernel allows everybody, the session denies
  unsigned max_read = 0;       // bytes; 0: not given
};

/// As libfuse: nosuid and nodev are the default, `dev` and `suid` undo them; options that only mean something
/// in fstab (noauto, _netdev, x-..., ...) are passed over. An element of options.options may hold several
/// options with commas between; a backslash keeps a comma inside a value. Throws std::invalid_argument that
/// names an unknown option, or one that only efuse itself may set.
ParsedMountOptions parse_mount_options(const MountOptions &options);

/// `text` as a value after -o: commas and backslashes get a backslash.
std::string escape_mount_value(std::string_view text);
/// The parts of an -o argument: split at commas without a backslash, which are kept in the parts without it.
std::vector<std::string> split_mount_options(std::string_view text);

/// One line of /proc/self/mountinfo.
struct MountEntry {
  std::string device;  // "major:minor" of the filesystem
  std::string point;
  std::string type;
  std::string source;
};
/// The topmost mount on `path`, which is absolute and free of links; nothing if there is none.
std::optional<MountEntry> find_mount(std::istream &mountinfo, std::string_view path);
std::optional<MountEntry> find_mount(std::string_view path);

/// A mounted FUSE filesystem and the descriptor that its kernel side talks to.
class FuseMount {
 public:
  /// Mount. Throws std::runtime_error with one line that says what to do; nothing is left mounted then.
  FuseMount(const std::string &mountpoint, const ParsedMountOptions &options);
  /// Somebody else's mount: `device` is a descriptor of its connection, `path` where it is mounted, as far as known.
  /// It is never unmounted here.
  FuseMount(Fd device, std::string path) noexcept : path_(std::move(path)), fd_(std::move(device)), done_(true) {}
  ~FuseMount();
  FuseMount(const FuseMount &) = delete;
  FuseMount &operator=(const FuseMount &) = delete;

  /// /dev/fuse, close-on-exec, blocking.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  /// Absolute, free of links.
  [[nodiscard]] const std::string &path() const noexcept { return path_; }
  /// This very filesystem is still on the mountpoint.
  [[nodiscard]] bool mounted() const noexcept;
  /// Take the mount away, lazily where it is busy; writes dirty pages first, so somebody must still serve.
  /// Idempotent. false: it is still there.
  bool unmount() noexcept;
  /// Let go of the device; with its last descriptor the connection ends, also under a lazy unmount. The
  /// number stays taken: who still writes to fd() gets EBADF.
  void disconnect() noexcept;

 private:
  bool mount_directly(mode_t root_type, const ParsedMountOptions &options);
  void mount_through_helper(const ParsedMountOptions &options);
  void end_helper() noexcept;

  std::string path_;
  std::string device_;     // of the mounted filesystem; empty: /proc does not tell
  Fd fd_;
  Fd helper_socket_;       // auto_unmount: fusermount3 unmounts when this end is closed
  pid_t helper_pid_ = -1;
  bool done_ = false;
};

}  // namespace efuse
