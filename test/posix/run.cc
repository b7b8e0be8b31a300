// SPDX-License-Identifier: LGPL-2.1-or-later
// posix-suite: run the checks in a directory and print what they saw.
#include "run.hh"

#include "check.hh"

#include <dirent.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>

namespace posix {
namespace {

constexpr int kCheckSeconds = 60;  // long enough for a loaded, emulated machine
constexpr const char *kUsage =
    "usage: posix-suite [--other DIR] [--only PREFIX]... [--list] DIR\n"
    "Run the checks in DIR, as root, and print one JSON object per check: check, expected, observed, ok, ms.\n"
    "--other: a directory of another filesystem (default: /dev/shm). Exit status: 0 all ran, 2 usage.\n";

struct Options {
  std::string directory, other = "/dev/shm";
  std::vector<std::string> only;
  bool list = false;
};

std::string other_of_this_run;

std::string observe(const std::function<std::string()> &call) noexcept {
  try {
    return call();
  } catch (const Skip &e) {
    return std::string("skip: ") + e.what();
  } catch (const std::exception &e) {
    return std::string("setup: ") + e.what();
  }
}

double seconds_now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

/// Everything up to end of file. False: not within the time.
bool read_until_closed(int fd, int seconds, std::string &out) {
  const double end = seconds_now() + seconds;
  for (;;) {
    const double left = end - seconds_now();
    pollfd readable{fd, POLLIN, 0};
    if (left <= 0 || ::poll(&readable, 1, static_cast<int>(left * 1000) + 1) < 0) return false;
    if (readable.revents == 0) continue;
    char buffer[4096];
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n <= 0) return n == 0;
    out.append(buffer, static_cast<std::size_t>(n));
  }
}

std::string quoted(const std::string &s) {
  std::string out = "\"";
  for (const unsigned char c : s) {
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, c < ' ' || c >= 127 ? "\\u%04x" : c == '"' || c == '\\' ? "\\%c" : "%c", c);
    out += escaped;
  }
  return out + "\"";
}

bool is_expected(const std::string &observed, const std::string &expected) {
  if (expected.empty()) return true;
  for (std::size_t start = 0;;) {
    const std::size_t end = expected.find('|', start);
    if (expected.substr(start, end - start) == observed) return true;
    if (end == std::string::npos) return false;
    start = end + 1;
  }
}

/// In a directory of its own, with another one on the other filesystem.
std::string run_check(const Check &check, const Options &options) {
  const std::string id = std::to_string(getpid()) + "." + check.name;
  const std::string here = options.directory + "/" + id;
  other_of_this_run = options.other + "/posix-suite." + id;
  const std::string observed = run_in_child(
      [&] {
        ::umask(022);
        make_dir(other_of_this_run);
        make_dir(here);
        must(::chdir(here.c_str()), "chdir");
        return check.run();
      },
      kCheckSeconds);
  remove_tree(here);
  remove_tree(other_of_this_run);
  return observed;
}

bool selected(const Check &check, const Options &options) {
  return options.only.empty() || std::any_of(options.only.begin(), options.only.end(), [&](const std::string &prefix) {
           return check.name.compare(0, prefix.size(), prefix) == 0;
         });
}

Options parse(int argc, char **argv) {
  static const option kLong[] = {{"other", required_argument, nullptr, 'o'},
                                 {"only", required_argument, nullptr, 'n'},
                                 {"list", no_argument, nullptr, 'l'},
                                 {"help", no_argument, nullptr, 'h'},
                                 {nullptr, 0, nullptr, 0}};
  Options options;
  for (int c; (c = getopt_long(argc, argv, "h", kLong, nullptr)) != -1;) {
    switch (c) {
      case 'o': options.other = optarg; break;
      case 'n': options.only.emplace_back(optarg); break;
      case 'l': options.list = true; break;
      case 'h': std::fputs(kUsage, stdout); std::exit(0);
      default: std::exit(2);
    }
  }
  if (optind < argc) options.directory = argv[optind++];
  if (optind < argc || (options.directory.empty() && !options.list)) {
    std::fputs(kUsage, stderr);
    std::exit(2);
  }
  return options;
}

/// Names are keys in compare.py.
void refuse_duplicates() {
  std::vector<std::string> names;
  for (const Check &check : checks()) names.push_back(check.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return;
  std::fprintf(stderr, "posix-suite: two checks are called %s\n", twice->c_str());
  std::exit(2);
}

}  // namespace

const std::string &other_directory() { return other_of_this_run; }

std::string killed_by(int signal) {
  const char *name = sigabbrev_np(signal);
  return "killed by SIG" + (name != nullptr ? std::string(name) : std::to_string(signal));
}

std::string run_in_child(const std::function<std::string()> &call, int seconds) {
  int ends[2];
  must(::pipe2(ends, O_CLOEXEC), "pipe2");
  std::fflush(nullptr);
  const auto child = static_cast<pid_t>(must(::fork(), "fork"));
  if (child == 0) {
    ::close(ends[0]);
    const std::string observed = observe(call);
    const ssize_t n = ::write(ends[1], observed.data(), observed.size());
    _exit(n == static_cast<ssize_t>(observed.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string observed;
  const bool ended = read_until_closed(ends[0], seconds, observed);
  ::close(ends[0]);
  int status = 0;
  if (!ended) ::kill(child, SIGKILL);
  must(::waitpid(child, &status, 0), "waitpid");
  if (!ended) return "hung";
  return WIFSIGNALED(status) ? killed_by(WTERMSIG(status)) : observed;
}

void remove_tree(const std::string &path) noexcept {
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return;
  if (DIR *dir = ::opendir(path.c_str())) {
    while (const dirent *entry = ::readdir(dir)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") remove_tree(path + "/" + name);
    }
    ::closedir(dir);
  }
  ::rmdir(path.c_str());
}

}  // namespace posix

int main(int argc, char **argv) {
  using namespace posix;
  const Options options = parse(argc, argv);
  refuse_duplicates();
  for (const Check &check : checks()) {
    if (!selected(check, options)) continue;
    if (options.list) {
      std::printf("%s\n", check.name.c_str());
      continue;
    }
    const double begun = seconds_now();
    const std::string observed = run_check(check, options);
    std::printf("{\"check\": %s, \"expected\": %s, \"observed\": %s, \"ok\": %s, \"ms\": %.1f}\n",
                quoted(check.name).c_str(), quoted(check.expected).c_str(), quoted(observed).c_str(),
                is_expected(observed, check.expected) ? "true" : "false", (seconds_now() - begun) * 1000);
    std::fflush(stdout);
  }
  return 0;
}
