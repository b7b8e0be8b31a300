// SPDX-License-Identifier: LGPL-2.1-or-later
// libfuse's helpers for a program's main(): its command line, going into the background, versions.
#include "fuse_api.hh"
#include "protocol.hh"

#include <fuse_log.h>
#include <fuse_opt.h>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace efuse {
namespace {

/// What libfuse's loop has where nothing is asked for.
constexpr unsigned kDefaultThreads = 10;

constexpr fuse_opt flag(const char *templ, std::size_t offset) noexcept { return {templ, offset, 1}; }
constexpr fuse_opt keep(const char *templ) noexcept { return FUSE_OPT_KEY(templ, FUSE_OPT_KEY_KEEP); }

// An option may be in here more than once: each row has its effect.
constexpr fuse_opt kOptions[] = {
    flag("-h", offsetof(fuse_cmdline_opts, show_help)),
    flag("--help", offsetof(fuse_cmdline_opts, show_help)),
    flag("-V", offsetof(fuse_cmdline_opts, show_version)),
    flag("--version", offsetof(fuse_cmdline_opts, show_version)),
    flag("-f", offsetof(fuse_cmdline_opts, foreground)),
    flag("-s", offsetof(fuse_cmdline_opts, singlethread)),
    // For fuse_session_new() as well.
    flag("-d", offsetof(fuse_cmdline_opts, debug)),
    flag("-d", offsetof(fuse_cmdline_opts, foreground)),
    keep("-d"),
    flag("debug", offsetof(fuse_cmdline_opts, debug)),
    flag("debug", offsetof(fuse_cmdline_opts, foreground)),
    keep("debug"),
    flag("fsname=", offsetof(fuse_cmdline_opts, nodefault_subtype)),
    keep("fsname="),
    flag("subtype=", offsetof(fuse_cmdline_opts, nodefault_subtype)),
    keep("subtype="),
    flag("clone_fd", offsetof(fuse_cmdline_opts, clone_fd)),
    {"max_idle_threads=%u", offsetof(fuse_cmdline_opts, max_idle_threads), 0},
    {"max_threads=%u", offsetof(fuse_cmdline_opts, max_threads), 0},
    FUSE_OPT_END,
};

/// The first argument that is no option is the mountpoint, a second one is an error. Other options are somebody else's.
int take_mountpoint(void *data, const char *argument, int key, fuse_args *) {
  auto &options = *static_cast<fuse_cmdline_opts *>(data);
  if (key != FUSE_OPT_KEY_NONOPT)
    return 1;
  if (options.mountpoint != nullptr) {
    fuse_log(FUSE_LOG_ERR, "efuse: invalid argument '%s'\n", argument);
    return -1;
  }
  // "/dev/fd/N": a connection that somebody has mounted.
  const bool is_descriptor = std::strncmp(argument, "/dev/fd/", 8) == 0;
  options.mountpoint = is_descriptor ? ::strdup(argument) : ::realpath(argument, nullptr);
  if (options.mountpoint == nullptr) {
    fuse_log(FUSE_LOG_ERR, "efuse: bad mount point '%s': %s\n", argument, std::strerror(errno));
    return -1;
  }
  return 0;
}

int add_subtype(fuse_args *args) try {
  const std::string program = args->argv[0];
  const auto slash = program.rfind('/');
  const std::string name = slash == program.npos || slash + 1 == program.size() ? program : program.substr(slash + 1);
  return fuse_opt_add_arg(args, ("-osubtype=" + name).c_str());
} catch (const std::bad_alloc &) {
  return -1;
}

int parse_command_line(fuse_args *args, fuse_cmdline_opts &options) {
  options = {};
  options.max_idle_threads = UINT_MAX;  // no limit
  options.max_threads = kDefaultThreads;
  if (fuse_opt_parse(args, &options, kOptions, take_mountpoint) != 0)
    return -1;
  return options.nodefault_subtype ? 0 : add_subtype(args);
}

/// The parent ends when the child is a daemon; only the child returns. 0 or -1.
int fork_away() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    return -1;
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  if (pid < 0)
    return -1;
  if (pid > 0) {
    ::close(ends[1]);
    char done = 0;
    while (::read(ends[0], &done, 1) < 0 && errno == EINTR) {
    }
    ::_exit(done == 1 ? 0 : 1);
  }
  ::close(ends[0]);
  if (::setsid() < 0 || ::chdir("/") != 0)
    return -1;
  const int null = ::open("/dev/null", O_RDWR);
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (null >= 0)
      ::dup2(null, fd);
  if (null > STDERR_FILENO)
    ::close(null);
  const char done = 1;
  const ssize_t written = ::write(ends[1], &done, 1);
  ::close(ends[1]);
  return written == 1 ? 0 : -1;
}

}  // namespace
}  // namespace efuse

extern "C" {

// Under their own names, and one that headers may make a macro of.
int fuse_parse_cmdline_312(struct fuse_args *args, struct fuse_cmdline_opts *opts);
int fuse_parse_cmdline_30(struct fuse_args *args, struct fuse_cmdline_opts *opts);
int efuse_parse_cmdline(struct fuse_args *args, struct fuse_cmdline_opts *opts) __asm__("fuse_parse_cmdline");

int fuse_parse_cmdline_312(struct fuse_args *args, struct fuse_cmdline_opts *opts) {
  return efuse::parse_command_line(args, *opts);
}

int efuse_parse_cmdline(struct fuse_args *args, struct fuse_cmdline_opts *opts) {
  return efuse::parse_command_line(args, *opts);
}

/// The structure ends with max_idle_threads there.
int fuse_parse_cmdline_30(struct fuse_args *args, struct fuse_cmdline_opts *opts) {
  fuse_cmdline_opts all;
  const int result = efuse::parse_command_line(args, all);
  std::memcpy(static_cast<void *>(opts), &all, offsetof(fuse_cmdline_opts, max_threads));
  return result;
}

void fuse_cmdline_help(void) {
  std::printf(
      "    -h   --help            show this text\n"
      "    -V   --version         show versions\n"
      "    -d   -o debug          print requests and replies (implies -f)\n"
      "    -f                     stay in the foreground\n"
      "    -s                     serve one request at a time\n"
      "    -o clone_fd            a descriptor for each thread (always so here)\n"
      "    -o max_idle_threads    understood, without effect\n"
      "    -o max_threads=N       threads that serve /dev/fuse (default: 10)\n");
}

void fuse_lowlevel_help(void) {
  std::printf(
      "    -o allow_other         let all users in\n"
      "    -o allow_root          let root in\n"
      "    -o auto_unmount        unmount when the process ends\n");
}

void fuse_lowlevel_version(void) {
  std::printf("efuse %s, FUSE kernel interface %u.%u\n", EFUSE_VERSION, efuse::protocol::kMajor,
              efuse::protocol::kMinor);
}

int fuse_version(void) { return FUSE_VERSION; }
const char *fuse_pkgversion(void) {
  static const std::string text =
      std::to_string(FUSE_MAJOR_VERSION) + "." + std::to_string(FUSE_MINOR_VERSION) + " (efuse " EFUSE_VERSION ")";
  return text.c_str();
}

int fuse_daemonize(int foreground) {
  if (foreground) {
    if (::chdir("/") != 0)
      return -1;
    return 0;
  }
  if (efuse::fork_away() == 0)
    return 0;
  fuse_log(FUSE_LOG_ERR, "efuse: cannot go into the background: %s\n", std::strerror(errno));
  return -1;
}

}  // extern "C"
