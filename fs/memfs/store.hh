// SPDX-License-Identifier: LGPL-2.1-or-later
// memfs without FUSE: a tree of inodes in memory with the semantics of a local
// filesystem. The adapter in memfs.cc translates requests into these calls.
#pragma once

#include "budget.hh"
#include "inode.hh"
#include "node_table.hh"
#include "page_pool.hh"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

namespace efuse::fs::memfs {

/// A reference to something callable, valid during the call it is passed to.
template <typename>
class FunctionRef;
template <typename R, typename... Args>
class FunctionRef<R(Args...)> {
 public:
  template <typename F>
  FunctionRef(F &&f) noexcept  // NOLINT: converts on purpose
      : object_(const_cast<void *>(static_cast<const void *>(&f))),
        call_([](void *object, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F> *>(object))(args...);
        }) {}
  R operator()(Args... args) const { return call_(object_, args...); }

 private:
  void *object_;
  R (*call_)(void *, Args...);
};

/// On whose behalf; permissions have been checked by the caller.
struct Cred {
  uid_t uid = 0;
  gid_t gid = 0;
  mode_t umask = 0;  // for new inodes, unless a default access control list takes its place
};

struct Limits {
  std::uint64_t bytes = 0;   // data, names, link targets and extended attributes
  std::uint64_t inodes = 0;  // the root included
};

/// What an operation that names an inode returns of it.
struct NodeInfo {
  std::uint64_t ino = 0;
  std::uint64_t generation = 0;
  struct stat attr {};
};

/// A change of attributes; what is not set stays.
struct AttrChange {
  std::optional<mode_t> mode;  // permission bits
  std::optional<uid_t> uid;
  std::optional<gid_t> gid;
  std::optional<std::int64_t> size;
  std::optional<timespec> atime, mtime, ctime;
  bool atime_now = false, mtime_now = false;
};

/// One name of a directory, during Store::readdir().
struct DirEntry {
  std::string_view name;
  std::uint64_t ino;
  mode_t type;            // S_IFMT bits
  std::uint64_t cookie;   // pass it to readdir() to go on behind this entry
  Inode *node;            // nullptr for "." and ".."
};

/// Any thread may call anything. All calls are noexcept and return 0 (or a
/// length) or -errno. An ino must be kRoot or one the caller has a lookup of:
/// each NodeInfo filled in counts as one lookup (getattr and setattr fill in a
/// struct stat and count nothing) until forget() gives it back.
class Store {
 public:
  static constexpr std::uint64_t kRoot = 1;
  static constexpr std::size_t kMaxXattrValue = 65536;
  static constexpr std::size_t kMaxXattrNames = 65536;

  /// Throws std::bad_alloc, std::invalid_argument for limits that do not hold a root.
  Store(Limits limits, mode_t root_mode, Cred owner);
  ~Store();
  Store(const Store &) = delete;
  Store &operator=(const Store &) = delete;

  // Names (store.cc). `name` is one component, neither empty nor with a slash.
  int lookup(std::uint64_t dir, std::string_view name, NodeInfo &out) noexcept;
  void forget(std::uint64_t ino, std::uint64_t nlookup) noexcept;
  /// Open handles keep an inode as lookups do.
  int open(std::uint64_t ino) noexcept;
  void release(std::uint64_t ino) noexcept { forget(ino, 1); }
  int mknod(std::uint64_t dir, std::string_view name, mode_t mode, dev_t rdev, const Cred &cred,
            NodeInfo &out) noexcept;
  int symlink(std::uint64_t dir, std::string_view name, std::string_view target, const Cred &cred,
              NodeInfo &out) noexcept;
  /// A file without a name. `linkable`: link() may give it one.
  int tmpfile(std::uint64_t dir, mode_t mode, bool linkable, const Cred &cred, NodeInfo &out) noexcept;
  int link(std::uint64_t ino, std::uint64_t dir, std::string_view name, NodeInfo &out) noexcept;
  int unlink(std::uint64_t dir, std::string_view name) noexcept;
  int rmdir(std::uint64_t dir, std::string_view name) noexcept;
  /// `flags`: RENAME_NOREPLACE, RENAME_EXCHANGE, or RENAME_WHITEOUT, which will be `cred`'s.
  int rename(std::uint64_t old_dir, std::string_view old_name, std::uint64_t new_dir,
             std::string_view new_name, unsigned flags, const Cred &cred = {}) noexcept;
  /// Entries behind `cookie` (0: all), in order, until `emit` returns false.
  int readdir(std::uint64_t dir, std::uint64_t cookie, FunctionRef<bool(const DirEntry &)> emit) noexcept;
  /// From readdir's emit: fill in `out` without counting a lookup; count it.
  static void describe(Inode &node, NodeInfo &out) noexcept;
  static void count_lookup(Inode &node) noexcept { node.refs.fetch_add(1, std::memory_order_relaxed); }

  // Attributes (store_attr.cc).
  /// `born`: when it was made, unless nullptr.
  int getattr(std::uint64_t ino, struct stat &out, timespec *born = nullptr) const noexcept;
  int setattr(std::uint64_t ino, const AttrChange &change, const Cred &cred, struct stat &out) noexcept;
  /// `target` lives as long as the inode.
  int readlink(std::uint64_t ino, const char *&target) noexcept;
  /// `flags`: XATTR_CREATE, XATTR_REPLACE. An access control list sets the mode, too;
  /// `keep_setgid`: the caller is in the inode's group, or privileged.
  int setxattr(std::uint64_t ino, std::string_view name, std::string_view value, int flags,
               bool keep_setgid = true) noexcept;
  /// Length of the value; with size 0 nothing is copied.
  int getxattr(std::uint64_t ino, std::string_view name, char *buffer, std::size_t size) noexcept;
  /// Length of the names; `trusted`: those of the trusted namespace too.
  int listxattr(std::uint64_t ino, bool trusted, char *buffer, std::size_t size) noexcept;
  int removexattr(std::uint64_t ino, std::string_view name) noexcept;
  void statfs(struct statvfs &out) const noexcept;

  // Data (store_data.cc).
  /// `use` gets the data in place, locked against change while it runs; fewer
  /// bytes than `length` at the end of the file. It may reply: the file stays, though its last user
  /// may be gone before `use` returns. `touch`: this is an access, for atime.
  /// Returns what `use` returns.
  int read(std::uint64_t ino, std::int64_t offset, std::size_t length,
           FunctionRef<int(std::span<const iovec>)> use, bool touch = true) noexcept;
  /// Bytes written, fewer than there are when memory runs out on the way.
  std::int64_t write(std::uint64_t ino, std::int64_t offset, std::span<const char> data,
                     const Cred &cred) noexcept;
  /// `mode`: FALLOC_FL_*.
  int fallocate(std::uint64_t ino, int mode, std::int64_t offset, std::int64_t length,
                const Cred &cred) noexcept;
  /// SEEK_DATA, SEEK_HOLE.
  std::int64_t lseek(std::uint64_t ino, std::int64_t offset, int whence) noexcept;
  std::int64_t copy_file_range(std::uint64_t from, std::int64_t from_offset, std::uint64_t to,
                               std::int64_t to_offset, std::uint64_t length, const Cred &cred) noexcept;

 private:
  class Pin;
  class StripeLock;
  class PageSource;
  struct alignas(64) Stripe {
    RwLock lock;
  };
  struct RenameEnds;

  // store.cc
  int find_dir(std::uint64_t ino, Inode *&out) const noexcept;
  int create(std::uint64_t dir, std::string_view name, mode_t mode, dev_t rdev, std::string_view target,
             const Cred &cred, NodeInfo &out) noexcept;
  static void inherit(Inode &node, Inode &parent, const Cred &cred);
  static void inherit_lists(Inode &node, const std::string &list);
  std::unique_ptr<Inode> new_node(std::uint64_t dir, mode_t mode, nlink_t nlink);
  int add_name(Inode &dir, std::string_view name, Inode &node) noexcept;
  void remove_name(Inode &dir, DirIndex::Entry *entry) noexcept;
  void dir_changed(Inode &dir, int names, int subdirs) noexcept;
  void drop_link(Inode &node) noexcept;
  void drop_refs(Inode &node, std::uint64_t refs) noexcept;
  void destroy(Inode *node) noexcept;
  [[nodiscard]] bool is_below(const Inode &dir, const Inode &ancestor) const noexcept;
  int rename_locked(RenameEnds &ends, unsigned flags) noexcept;
  int rename_exchange(RenameEnds &ends) noexcept;
  int rename_replace(RenameEnds &ends) noexcept;
  int rename_move(RenameEnds &ends) noexcept;
  int rename_leaving_whiteout(RenameEnds &ends, unsigned flags, const Cred &cred);
  int vacate(RenameEnds &ends) noexcept;

  // store_attr.cc
  int put_xattr(Inode &node, std::string_view name, std::string_view value, int flags);
  int put_access_list(Inode &node, std::string_view list, bool keep_setgid);
  void drop_xattr(Inode &node, Xattrs::iterator which) noexcept;

  // store_data.cc
  static void drop_privileges(Inode &node) noexcept;  // set-user-ID and set-group-ID; under meta
  void modified(Inode &node, std::int64_t size, std::int64_t pages, const Cred &cred) noexcept;
  int read_locked(Inode &node, std::int64_t offset, std::size_t length,
                  FunctionRef<int(std::span<const iovec>)> use);
  bool write_in_place(Inode &node, std::int64_t offset, std::span<const char> data,
                      const Cred &cred) noexcept;
  char *page_for_write(Inode &node, std::uint64_t page, std::size_t in, std::size_t n, PageSource &source,
                       std::size_t wanted, std::int64_t &added, int &error) noexcept;
  std::int64_t write_locked(Inode &node, std::int64_t offset, std::span<const char> data,
                            const Cred &cred) noexcept;
  int truncate_locked(Inode &node, std::int64_t size, const Cred &cred) noexcept;
  std::int64_t drop_pages(Inode &node, std::uint64_t first, std::uint64_t end) noexcept;
  int reserve(Inode &node, std::uint64_t first, std::uint64_t end) noexcept;
  static void zero(Inode &node, std::int64_t offset, std::int64_t end) noexcept;
  std::int64_t copy_locked(Inode &from, std::int64_t from_offset, Inode &to, std::int64_t to_offset,
                           std::int64_t length, const Cred &cred) noexcept;
  void free_data(Inode &node) noexcept;

  PagePool pool_;
  Budget bytes_;
  Budget inodes_;
  NodeTable table_;
  RwLock tree_;
  std::unique_ptr<std::array<Stripe, 512>> stripes_;
};

/// CLOCK_REALTIME.
timespec now() noexcept;
/// Bytes that an extended attribute is charged with.
std::size_t xattr_footprint(std::string_view name, std::string_view value) noexcept;
std::size_t xattrs_footprint(const Inode &node) noexcept;
/// As a mount with relatime: a first access after a change, or after a day.
void touch_atime(Inode &node) noexcept;

/// Keeps an inode while its name goes away, or whoever asked for something lets go of it: before the locks, so that they
/// are given back first.
class Store::Pin {
 public:
  explicit Pin(Store &store) noexcept : store_(store) {}
  ~Pin() {
    if (node_ != nullptr) store_.drop_refs(*node_, 1);
  }
  Pin(const Pin &) = delete;
  Pin &operator=(const Pin &) = delete;
  void hold(Inode &node) noexcept {
    count_lookup(node);
    node_ = &node;
  }

 private:
  Store &store_;
  Inode *node_ = nullptr;
};

}  // namespace efuse::fs::memfs
