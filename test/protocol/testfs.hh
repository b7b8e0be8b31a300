// SPDX-License-Identifier: LGPL-2.1-or-later
// A filesystem in memory that has every callback of the low-level API, and does on
// request what filesystems seldom do: keeps requests waiting, answers them from other
// threads, changes behind the kernel's back and tells it so.
//
// What a file is for is in its name: "direct" (no page cache), "park" (READs of it,
// and making a directory of that name, wait in `parking`), "deaf" (they ignore INTERRUPTs),
// "twice" (every GETATTR is answered twice), "backed" (its content is that of a file that
// the kernel reads and writes by itself).
#pragma once

#include "lock_table.hh"
#include "parking.hh"

#include <efuse/efuse_lowlevel.h>

#include <sys/ioctl.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

namespace protocol_test {

struct Node {
  fuse_ino_t ino = 0;
  fuse_ino_t parent = 0;
  struct stat attr {};
  struct timespec born {};
  std::string data;  // content, or a link's target
  std::map<std::string, std::string> xattrs;
  std::map<std::string, fuse_ino_t> entries;
  std::string hint;  // the name it was made with
  std::uint64_t lookups = 0;
  fuse_pollhandle *poll = nullptr;
  bool ready = false;

  [[nodiscard]] bool is(const char *what) const { return hint.find(what) != std::string::npos; }
};

/// How long the kernel may believe what it was told, in seconds: for good, unless it is told otherwise.
inline constexpr double kForever = 86400.0;

struct TestFs {
  struct Options {
    bool acl = false;       // FUSE_CAP_POSIX_ACL
    bool blocking = false;  // SETLKW blocks its caller
    bool backing = false;   // FUSE_CAP_PASSTHROUGH
  };

  explicit TestFs(Options options);

  /// nullptr: gone. The caller holds `mutex`.
  Node *find(fuse_ino_t ino);
  Node *find(fuse_ino_t parent, const std::string &name);
  /// A new node, named in `parent` unless `name` is empty.
  Node &make(fuse_ino_t parent, const std::string &name, mode_t mode, const fuse_ctx &ctx, dev_t rdev = 0);
  /// Take a name away; the node goes with its last name and its last lookup.
  void unlink(Node &parent, const std::string &name);
  void forget(fuse_ino_t ino, std::uint64_t count);
  fuse_entry_param entry(Node &node);
  /// Nodes but the root that the kernel holds.
  std::size_t known_to_kernel();

  Options options;
  std::mutex mutex;  // guards nodes and what is in them
  std::unordered_map<fuse_ino_t, std::unique_ptr<Node>> nodes;
  fuse_ino_t next = FUSE_ROOT_ID;
  Parking parking;
  LockTable posix, bsd;
  std::atomic<unsigned> second_replies_refused{0};
  std::atomic<unsigned> mkdirs{0};
  std::atomic<int> want_backing{0};  // what efuse_want_passthrough() said
  int backing_fd = -1;               // the file behind "backed" ones
  std::mutex retrieved_mutex;
  std::condition_variable retrieved_changed;
  std::map<std::uintptr_t, std::string> retrieved;  // by cookie
};

/// Every callback; the userdata is a TestFs.
efuse_lowlevel_ops test_ops();
TestFs &fs_of(fuse_req_t req);

/// FUSE_BUFVEC_INIT for memory, in C++.
inline fuse_bufvec memory_of(void *memory, std::size_t size) {
  fuse_bufvec bufv{};
  bufv.count = 1;
  bufv.buf[0].size = size;
  bufv.buf[0].mem = memory;
  bufv.buf[0].fd = -1;
  return bufv;
}

/// The ioctls it has.
struct IoctlPair {
  std::uint64_t first, second;
};
struct IoctlBlock {
  char bytes[512];
};
inline constexpr unsigned kIoctlDouble = _IOWR('e', 1, IoctlPair);    // doubles both, result 7
inline constexpr unsigned kIoctlGet = _IOR('e', 2, IoctlBlock);       // what was set
inline constexpr unsigned kIoctlSet = _IOW('e', 3, IoctlBlock);
inline constexpr unsigned kIoctlArgument = _IO('e', 4);               // result: argument & 255
inline constexpr unsigned kIoctlRetry = _IOWR('e', 5, IoctlPair);     // asks for other memory
inline constexpr unsigned kIoctlFail = _IO('e', 6);                   // EBADMSG
inline constexpr unsigned kIoctlParts = _IOR('e', 7, IoctlPair);      // {1, 2}, by fuse_reply_ioctl_iov()

}  // namespace protocol_test
