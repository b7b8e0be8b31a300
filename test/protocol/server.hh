// SPDX-License-Identifier: LGPL-2.1-or-later
// The daemon of a test mount, in a process of its own, and the way to tell it things.
#pragma once

#include "testfs.hh"

#include <nlohmann/json.hpp>
#include <sys/types.h>

#include <string>
#include <vector>

namespace protocol_test {

struct MountSettings {
  std::string transport;              // "ring", "uring" or "dev"
  std::vector<std::string> settings;  // "section.key=value"
  std::string blkdev;                 // a block device: mounted as fuseblk
  TestFs::Options fs;
};

/// A mount and its daemon. One thread.
class Server {
 public:
  /// Forks (this process must have no threads), mounts on `mountpoint`. Throws if it cannot.
  Server(const MountSettings &settings, const std::string &mountpoint);
  ~Server();  // unmounts; the daemon ends
  Server(const Server &) = delete;
  Server &operator=(const Server &) = delete;

  /// One command and its answer, lines both: see Commands in server.cc. Throws for "error ...".
  std::string ask(const std::string &command);
  /// As above, where the answer is a number.
  long number(const std::string &command) { return std::stol(ask(command)); }
  /// What `efuse stat --json` says of this mount.
  nlohmann::json stat();
  /// Completed requests of this opcode that took this way ("ring", "stock").
  long count(const std::string &opcode, const std::string &way);
  /// By whatever way to the daemon.
  long carried(const std::string &opcode);
  /// The way that requests of this mount are meant to take.
  [[nodiscard]] const std::string &way() const { return way_; }
  [[nodiscard]] const std::string &mountpoint() const { return mountpoint_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// Unmount and wait for the daemon: its exit status.
  int stop();

 private:
  std::string mountpoint_;
  std::string way_;
  pid_t pid_ = -1;
  int socket_ = -1;
};

}  // namespace protocol_test
