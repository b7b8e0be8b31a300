// SPDX-License-Identifier: LGPL-2.1-or-later
#include "check.hh"

#include "run.hh"

#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include <cstdint>
#include <cstdio>

namespace posix {

std::vector<Check> &checks() {
  static std::vector<Check> all;  // filled before main(), from every file
  return all;
}

std::string error_name(int error) {
  const char *name = strerrorname_np(error);
  return name != nullptr ? name : "errno " + std::to_string(error);
}

std::string number(long result) { return result == -1 ? error_name(errno) : std::to_string(result); }
std::string ok(long result) { return result == -1 ? error_name(errno) : "ok"; }
std::string yes(bool b) { return b ? "yes" : "no"; }

std::string octal(mode_t mode) {
  char digits[16];
  std::snprintf(digits, sizeof digits, "%04o", mode & 07777u);
  return digits;
}

std::string seen(std::initializer_list<std::string> observations) {
  std::string all;
  for (const std::string &one : observations) all += (all.empty() ? "" : " ") + one;
  return all;
}

std::string text(std::string_view bytes) {
  constexpr std::size_t kMost = 40;
  if (bytes.size() > kMost) {
    std::uint32_t sum = 2166136261u;  // FNV-1a
    for (const unsigned char c : bytes) sum = (sum ^ c) * 16777619u;
    return std::to_string(bytes.size()) + " bytes " + std::to_string(sum);
  }
  std::string out = "'";
  for (const unsigned char c : bytes) {
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, c >= ' ' && c < 127 && c != '\\' && c != '\'' ? "%c" : "\\%02x", c);
    out += escaped;
  }
  return out + "'";
}

long must(long result, const char *what) {
  if (result == -1) throw Unexpected(std::string(what) + ": " + error_name(errno));
  return result;
}

void make_file(const std::string &path, std::string_view contents, mode_t mode) {
  const Fd fd(path, O_CREAT | O_EXCL | O_WRONLY, mode);
  if (!contents.empty() &&
      must(::write(fd, contents.data(), contents.size()), "write") != static_cast<long>(contents.size()))
    throw Unexpected("short write to " + path);
  must(::fchmod(fd, mode), "fchmod");
}

void make_dir(const std::string &path, mode_t mode) {
  must(::mkdir(path.c_str(), 0700), "mkdir");
  must(::chmod(path.c_str(), mode), "chmod");
}

void make_link(const std::string &target, const std::string &path) {
  must(::symlink(target.c_str(), path.c_str()), "symlink");
}

std::string contents(const std::string &path) {
  const Fd fd(path, O_RDONLY);
  std::string all;
  char buffer[65536];
  for (long n; (n = must(::read(fd, buffer, sizeof buffer), "read")) > 0;)
    all.append(buffer, static_cast<std::size_t>(n));
  return all;
}

struct stat stat_of(const std::string &path) {
  struct stat st {};
  must(::lstat(path.c_str(), &st), path.c_str());
  return st;
}

struct stat stat_of(int fd) {
  struct stat st {};
  must(::fstat(fd, &st), "fstat");
  return st;
}

std::string mode_of(const std::string &path) { return octal(stat_of(path).st_mode); }
std::string nlink_of(const std::string &path) { return std::to_string(stat_of(path).st_nlink); }
std::string size_of(const std::string &path) { return std::to_string(stat_of(path).st_size); }

void wait_for_clock() {
  // Filesystems stamp with a clock that moves once a tick, or with a finer one.
  timespec start, at;
  clock_gettime(CLOCK_REALTIME, &start);
  do {
    const timespec tick{0, 1'000'000};
    nanosleep(&tick, nullptr);
    clock_gettime(CLOCK_REALTIME_COARSE, &at);
  } while (at.tv_sec < start.tv_sec || (at.tv_sec == start.tv_sec && at.tv_nsec <= start.tv_nsec));
}

std::string times_changed(const std::string &path, const std::function<void()> &call) {
  const auto differ = [](const timespec &a, const timespec &b) {
    return a.tv_sec != b.tv_sec || a.tv_nsec != b.tv_nsec;
  };
  wait_for_clock();
  const struct stat before = stat_of(path);
  call();
  const struct stat after = stat_of(path);
  std::string all;
  if (differ(before.st_atim, after.st_atim)) all += " atime";
  if (differ(before.st_mtim, after.st_mtim)) all += " mtime";
  if (differ(before.st_ctim, after.st_ctim)) all += " ctime";
  return all.empty() ? "none" : all.substr(1);
}

std::string as(uid_t uid, gid_t gid, const std::function<std::string()> &call) {
  must(::setgroups(0, nullptr), "setgroups");
  must(::setresgid(static_cast<gid_t>(-1), gid, static_cast<gid_t>(-1)), "setresgid");
  must(::setresuid(static_cast<uid_t>(-1), uid, static_cast<uid_t>(-1)), "setresuid");
  std::string observation = call();
  must(::setresuid(static_cast<uid_t>(-1), 0, static_cast<uid_t>(-1)), "setresuid");
  must(::setresgid(static_cast<gid_t>(-1), 0, static_cast<gid_t>(-1)), "setresgid");
  return observation;
}

void become(uid_t uid, gid_t gid) {
  must(::setgroups(0, nullptr), "setgroups");
  must(::setresgid(gid, gid, gid), "setresgid");
  must(::setresuid(uid, uid, uid), "setresuid");
}

std::string in_child(const std::function<std::string()> &call) {
  return run_in_child(call, 20);
}

std::string run_program(const std::string &path, const std::vector<std::string> &arguments) {
  std::vector<char *> argv{const_cast<char *>(path.c_str())};
  for (const std::string &argument : arguments) argv.push_back(const_cast<char *>(argument.c_str()));
  argv.push_back(nullptr);
  char *environment[] = {nullptr};
  int failed[2];  // the error of execve(), or closed by it
  must(::pipe2(failed, O_CLOEXEC), "pipe2");
  const auto child = static_cast<pid_t>(must(::fork(), "fork"));
  if (child == 0) {
    ::execve(path.c_str(), argv.data(), environment);
    const int error = errno;
    _exit(::write(failed[1], &error, sizeof error) == sizeof error ? 127 : 126);
  }
  ::close(failed[1]);
  int error = 0, status = 0;
  const bool started = ::read(failed[0], &error, sizeof error) == 0;
  ::close(failed[0]);
  must(::waitpid(child, &status, 0), "waitpid");
  if (!started) return error_name(error);
  return WIFSIGNALED(status) ? killed_by(WTERMSIG(status)) : "exit " + std::to_string(WEXITSTATUS(status));
}

std::string read_only_view() {
  must(::unshare(CLONE_NEWNS), "unshare");
  must(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "make mounts private");
  const std::string view = other_directory() + "/ro";
  must(::mkdir(view.c_str(), 0755), "mkdir");
  must(::mount(".", view.c_str(), nullptr, MS_BIND, nullptr), "bind mount");
  must(::mount(nullptr, view.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr), "remount");
  return view;
}

}  // namespace posix
