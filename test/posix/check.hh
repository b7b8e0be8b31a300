// SPDX-License-Identifier: LGPL-2.1-or-later
// A suite of checks of filesystem behaviour. A check does something in a fresh
// directory and returns what it saw, as text that is the same on every run; the
// program prints these observations, and compare.py holds those of two
// filesystems against each other.
//
// Each check runs in a process of its own, as root, with the directory as its
// working directory and umask 022. What it opens or maps goes away with it.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace posix {

struct Check {
  std::string name;  // subject.what, unique
  /// What POSIX or Linux's manual pages say is seen; several by '|' where they
  /// leave a choice. Empty: filesystems are free.
  std::string expected;
  std::function<std::string()> run;
};

/// In the order in which they were added.
std::vector<Check> &checks();

struct Add {
  Add(std::string name, std::string expected, std::function<std::string()> run) {
    checks().push_back({std::move(name), std::move(expected), std::move(run)});
  }
};

#define POSIX_JOIN_(a, b) a##b
#define POSIX_JOIN(a, b) POSIX_JOIN_(a, b)
/// CHECK("subject.what", "expected") { ...; return observation; }
#define CHECK(name, expected) POSIX_CHECK(name, expected, POSIX_JOIN(check_, __LINE__))
#define POSIX_CHECK(name, expected, function)                          \
  static std::string function();                                       \
  static const ::posix::Add POSIX_JOIN(add_, function){name, expected, function}; \
  static std::string function()

/// The set-up of a check did not work, or a call failed that must not: the text is the observation.
struct Unexpected : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// This filesystem or kernel lacks what the check is about; the text, with "skip: " before it, is the observation.
struct Skip : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Where no memory is; the compiler does not know.
template <typename T = void>
T *bad_address() {
  static volatile std::uintptr_t nowhere = 8;
  return reinterpret_cast<T *>(nowhere);
}

// Observations.

/// "ENOENT", or "errno 600" for one that has no name.
std::string error_name(int error);
/// The error's name if `result` is -1, else the number.
std::string number(long result);
/// The error's name if `result` is -1, else "ok".
std::string ok(long result);
inline std::string ok(const void *mapped) { return ok(reinterpret_cast<long>(mapped)); }
std::string yes(bool b);
std::string octal(mode_t mode);  // permission bits, as "0644"
/// Joined by spaces. In braces, so that they are made from left to right.
std::string seen(std::initializer_list<std::string> observations);
/// At most 40 bytes; what is not printable as \xx; longer ones as length and checksum.
std::string text(std::string_view bytes);

// Set-up. These throw Unexpected.

/// -1 with errno: throws, with `what` and the error's name.
long must(long result, const char *what);
inline void *must(void *mapped, const char *what) {
  return reinterpret_cast<void *>(must(reinterpret_cast<long>(mapped), what));
}

/// A descriptor that is closed at the end. Any error to open it throws.
class Fd {
 public:
  explicit Fd(int fd, const char *what = "open") : fd_(static_cast<int>(must(fd, what))) {}
  explicit Fd(const std::string &path, int flags = O_RDWR, mode_t mode = 0644)
      : fd_(static_cast<int>(must(::open(path.c_str(), flags, mode), path.c_str()))) {}
  ~Fd() { close(); }
  Fd(Fd &&other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Fd(const Fd &) = delete;
  Fd &operator=(const Fd &) = delete;
  Fd &operator=(Fd &&) = delete;
  operator int() const noexcept { return fd_; }  // NOLINT: used as one
  void close() noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

/// A new file with these contents and exactly these permissions.
void make_file(const std::string &path, std::string_view contents = "", mode_t mode = 0644);
void make_dir(const std::string &path, mode_t mode = 0755);
void make_link(const std::string &target, const std::string &path);  // symbolic
std::string contents(const std::string &path);
struct stat stat_of(const std::string &path);   // lstat()
struct stat stat_of(int fd);
std::string mode_of(const std::string &path);   // permissions, octal
std::string nlink_of(const std::string &path);
std::string size_of(const std::string &path);

/// Which of the three times of `path` a call changes, as "atime mtime ctime" or "none". It waits
/// until the filesystem's clock has moved on before.
std::string times_changed(const std::string &path, const std::function<void()> &call);
/// So long that a file changed before and one changed after have different times.
void wait_for_clock();

// Other users.

constexpr uid_t kUser = 12345, kOther = 23456;
constexpr gid_t kGroup = 12345, kOtherGroup = 23456;
/// Run as that user (effective ids, no further groups), then as root again.
std::string as(uid_t uid, gid_t gid, const std::function<std::string()> &call);
inline std::string as_user(const std::function<std::string()> &call) { return as(kUser, kGroup, call); }
/// For good: real and effective ids.
void become(uid_t uid, gid_t gid);

// Other processes and places.

/// Run `call` in a child; its text, or "killed by SIGBUS".
std::string in_child(const std::function<std::string()> &call);
/// The exit status of a program as text: "exit 0", "killed by SIGSEGV", or the error of execve().
std::string run_program(const std::string &path, const std::vector<std::string> &arguments);
/// A directory of another filesystem, empty.
const std::string &other_directory();
/// A path below which the check's directory is read-only: a bind mount of this process alone.
std::string read_only_view();

}  // namespace posix
