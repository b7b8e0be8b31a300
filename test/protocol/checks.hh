// SPDX-License-Identifier: LGPL-2.1-or-later
// What a check is made of: one line each, from the client's side of the mount.
#pragma once

#include "server.hh"

#include <sys/types.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace protocol_test {

struct Failed : std::runtime_error {
  using runtime_error::runtime_error;
};
struct Skipped : std::runtime_error {
  using runtime_error::runtime_error;
};

/// Prints a line for each check and counts.
class Checks {
 public:
  explicit Checks(Server &server) : server(server) {}

  /// Runs `body`; afterwards there must be more requests of each of `opcodes` that went the
  /// transport's way than before. Requests that nobody waits for (RELEASE, FORGET) get a while.
  void run(const std::string &name, const std::vector<std::string> &opcodes, const std::function<void()> &body);
  /// A path on the mount.
  [[nodiscard]] std::string at(const std::string &name) const { return server.mountpoint() + "/" + name; }

  Server &server;
  unsigned passed = 0, failed = 0, skipped = 0;

 private:
  std::string missing(const std::vector<std::string> &opcodes, const nlohmann::json &before);
};

/// Throw Failed, naming the line, unless it holds.
#define EXPECT(condition) ::protocol_test::expect((condition), #condition, __FILE__, __LINE__)
/// `call` gives not -1; its value. Names errno otherwise.
#define OK(call) ::protocol_test::expect_ok((call), #call, __FILE__, __LINE__)
/// `call` gives -1 and errno `error`.
#define FAILS(call, error) ::protocol_test::expect_error((call), (error), #call, __FILE__, __LINE__)

void expect(bool holds, const char *what, const char *file, int line);
long expect_ok(long result, const char *what, const char *file, int line);
void expect_error(long result, int error, const char *what, const char *file, int line);

/// True as soon as it holds; false when it still does not after 20 s.
bool eventually(const std::function<bool()> &holds);

/// An open file.
class File {
 public:
  File(const std::string &path, int flags, mode_t mode = 0644);
  explicit File(int fd) : fd_(fd) {}
  ~File();
  File(const File &) = delete;
  File &operator=(const File &) = delete;
  operator int() const { return fd_; }
  void close();

 private:
  int fd_;
};

/// A file with this content.
void make_file(const std::string &path, const std::string &content);
std::string read_file(const std::string &path);

/// Another process; its exit status is what `body` returns, 120 if it throws.
class Process {
 public:
  explicit Process(const std::function<int()> &body);
  ~Process();  // killed if it is still there
  Process(const Process &) = delete;
  Process &operator=(const Process &) = delete;
  [[nodiscard]] pid_t pid() const { return pid_; }
  void kill(int signal) const;
  /// Its exit status, 1000 + the signal that ended it, or -1: it is still there after so long. Any number of times.
  int wait(unsigned seconds = 20);
  /// What it waits for in the kernel; root only.
  [[nodiscard]] std::string kernel_stack() const;

 private:
  pid_t pid_;
  int status_ = -1;
};

// The checks, by subject.
void check_names(Checks &);
void check_files(Checks &);
void check_attributes(Checks &);
void check_acl(Checks &);
void check_access(Checks &);
void check_locks(Checks &);
void check_interrupts(Checks &);
void check_ioctl_and_poll(Checks &);
void check_notifications(Checks &);
void check_forgets(Checks &);
void check_replies(Checks &);
void check_resend(Checks &);
void check_detach(Checks &);
void check_descriptors(Checks &);
void check_blocking(Checks &);
void check_bmap(Checks &);
void check_backing(Checks &);

}  // namespace protocol_test
