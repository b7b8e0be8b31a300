// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse-libfuse: the filesystems of efuse, served by libfuse's own loop. It is
// what efuse is compared with, and shows that they need nothing of efuse.
#include "filesystem.hh"
#include "probe.hh"

#include <getopt.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct CommandLine {
  std::string fs, mountpoint;
  std::vector<std::string> options;
  unsigned threads = 0;  // 0: libfuse's default
  bool clone_fd = true;
  bool debug = false;
  int probe_fd = -1;  // the benchmark's table; -1: none
};

constexpr const char *kUsage =
    "usage: efuse-libfuse FS MOUNTPOINT [-o OPTION[,OPTION...]]... [--threads N] [--no-clone-fd]\n"
    "                     [--probe FD] [-d]\n"
    "Serves FS in the foreground with libfuse's multi-threaded loop. --probe: for the benchmark.\n";

/// Commas separate, a backslash takes the next character as it is.
void split_options(const char *list, std::vector<std::string> &out) {
  std::string option;
  for (const char *p = list; *p != '\0'; ++p) {
    if (*p == ',') {
      if (!option.empty()) out.push_back(option);
      option.clear();
    } else {
      if (*p == '\\' && p[1] != '\0') ++p;
      option.push_back(*p);
    }
  }
  if (!option.empty()) out.push_back(option);
}

int parse_number(const char *option, const char *text, int least) {
  int n = 0;
  const char *last = text + std::strlen(text);
  const auto [end, error] = std::from_chars(text, last, n);
  if (error != std::errc() || end != last || n < least)
    throw std::invalid_argument(std::string(option) + " " + text + ": expected a number from " +
                                std::to_string(least));
  return n;
}

CommandLine parse(int argc, char **argv) {
  static const option kLong[] = {{"threads", required_argument, nullptr, 't'},
                                 {"probe", required_argument, nullptr, 'p'},
                                 {"no-clone-fd", no_argument, nullptr, 'n'},
                                 {"help", no_argument, nullptr, 'h'},
                                 {nullptr, 0, nullptr, 0}};
  CommandLine cl;
  for (int c; (c = getopt_long(argc, argv, "o:dfh", kLong, nullptr)) != -1;) {
    switch (c) {
      case 'o': split_options(optarg, cl.options); break;
      case 't': cl.threads = static_cast<unsigned>(parse_number("--threads", optarg, 1)); break;
      case 'p': cl.probe_fd = parse_number("--probe", optarg, 0); break;
      case 'n': cl.clone_fd = false; break;
      case 'd': cl.debug = true; break;
      case 'f': break;  // always
      case 'h': std::fputs(kUsage, stdout); std::exit(0);
      default: throw std::invalid_argument("try --help");
    }
  }
  if (argc - optind != 2) throw std::invalid_argument("expected FS and MOUNTPOINT, try --help");
  cl.fs = argv[optind];
  cl.mountpoint = argv[optind + 1];
  return cl;
}

class Session {
 public:
  Session(const fuse_lowlevel_ops &ops, void *userdata, const CommandLine &cl,
          const std::vector<std::string> &mount_options) {
    fuse_args args = FUSE_ARGS_INIT(0, nullptr);
    fuse_opt_add_arg(&args, "efuse-libfuse");
    for (const std::string &option : mount_options) fuse_opt_add_arg(&args, ("-o" + option).c_str());
    if (cl.debug) fuse_opt_add_arg(&args, "-d");
    session_ = fuse_session_new(&args, &ops, sizeof ops, userdata);
    fuse_opt_free_args(&args);
    if (session_ == nullptr) throw std::runtime_error("cannot make a session: see libfuse's message above");
    handlers_ = fuse_set_signal_handlers(session_) == 0;
    mounted_ = handlers_ && fuse_session_mount(session_, cl.mountpoint.c_str()) == 0;
    if (mounted_) return;
    close();
    throw std::runtime_error("cannot mount on " + cl.mountpoint + ": see libfuse's message above");
  }
  ~Session() { close(); }
  Session(const Session &) = delete;
  Session &operator=(const Session &) = delete;

  /// Returns 0, the number of the signal that ended it, or -errno.
  int run(const CommandLine &cl) {
    std::unique_ptr<fuse_loop_config, decltype(&fuse_loop_cfg_destroy)> config(fuse_loop_cfg_create(),
                                                                               &fuse_loop_cfg_destroy);
    if (!config) throw std::bad_alloc();
    fuse_loop_cfg_set_clone_fd(config.get(), cl.clone_fd);
    if (cl.threads != 0) fuse_loop_cfg_set_max_threads(config.get(), cl.threads);
    return fuse_session_loop_mt(session_, config.get());
  }

 private:
  void close() noexcept {
    if (mounted_) fuse_session_unmount(session_);
    if (handlers_) fuse_remove_signal_handlers(session_);
    fuse_session_destroy(session_);
  }

  fuse_session *session_ = nullptr;
  bool handlers_ = false;
  bool mounted_ = false;
};

int serve(CommandLine cl) {
  const auto fs = efuse::fs::make_filesystem(cl.fs, cl.options);
  std::vector<std::string> mount_options = fs->mount_options();
  mount_options.push_back("fsname=" + cl.fs);
  mount_options.insert(mount_options.end(), cl.options.begin(), cl.options.end());
  const fuse_lowlevel_ops *ops = &fs->ops();
  std::optional<efuse::perf::Probe> probe;
  if (cl.probe_fd >= 0) ops = &probe.emplace(efuse::perf::ProbeTable::attach(cl.probe_fd), *ops).ops();
  Session session(*ops, fs->userdata(), cl, mount_options);
  return session.run(cl) < 0 ? 1 : 0;
}

}  // namespace

int main(int argc, char **argv) {
  try {
    return serve(parse(argc, argv));
  } catch (const std::exception &error) {
    std::fprintf(stderr, "efuse-libfuse: %s\n", error.what());
    return 1;
  }
}
