// SPDX-License-Identifier: LGPL-2.1-or-later
// POSIX and BSD locks of the test filesystem, with waiters.
#pragma once

#include "parking.hh"

#include <fcntl.h>

#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <optional>

namespace protocol_test {

struct Lock {
  std::uint64_t owner;
  short type;  // F_RDLCK or F_WRLCK
  std::uint64_t start, end;  // first and last byte
  pid_t pid;
};

/// Any thread. A BSD lock is one over the whole file, in a table of its own.
class LockTable {
 public:
  /// The lock that keeps `wanted` out, if any.
  std::optional<Lock> conflict(fuse_ino_t ino, const Lock &wanted);
  /// Take it (0), or EAGAIN.
  int take(fuse_ino_t ino, const Lock &wanted);
  /// Take it now, or park `req` until it can be had: answered here or later.
  void take_or_wait(fuse_ino_t ino, const Lock &wanted, fuse_req_t req, Parking &parking);
  /// Take it, waiting in this very call: a filesystem that blocks its caller. 0 or EINTR.
  int take_blocking(fuse_ino_t ino, const Lock &wanted, fuse_req_t req);
  /// Give up [start, end] of an owner, and let those go on who waited for it.
  void release(fuse_ino_t ino, std::uint64_t owner, std::uint64_t start, std::uint64_t end, Parking &parking);

 private:
  struct Waiter {
    Lock wanted;
    std::uint64_t parked;
  };
  struct File {
    std::list<Lock> held;
    std::list<Waiter> waiters;
  };
  static const Lock *find_conflict(const File &file, const Lock &wanted);
  static void cut(File &file, std::uint64_t owner, std::uint64_t start, std::uint64_t end);
  static void put(File &file, const Lock &wanted);

  std::mutex mutex_;  // guards files_
  std::condition_variable changed_;
  std::map<fuse_ino_t, File> files_;
};

}  // namespace protocol_test
