// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse mount: serve one of the filesystems that come with efuse.
#include "commands.hh"
#include "mount_command.hh"

#include "config.hh"
#include "fastpath_argument.hh"
#include "fd.hh"
#include "mount.hh"
#include "session.hh"
#include "session_control.hh"

#include "../fs/filesystem.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace efuse::cli {
namespace {

/// Defaults, file, environment, --set, options: the later wins.
Config configuration(const MountArguments &a) {
  Config config;
  const char *from_environment = std::getenv("EFUSE_CONFIG");
  if (!a.config.empty())
    load_config_file(config, a.config);
  else if (from_environment != nullptr && *from_environment != '\0')
    load_config_file(config, from_environment);
  load_config_environment(config);
  for (const std::string &setting : a.settings)
    set_config_key(config, setting);
  if (!a.transport.empty())
    set_config_key(config, "session.transport=" + a.transport);
  if (!a.fastpath.empty())
    set_config_key(config, fmt::format("fastpath.programs=\"{}\"", split_fastpath(a.fastpath).names));
  check_config(config);
  return config;
}

/// The filesystems here have a directory as their root; the kernel would accept a file to mount on and
/// fail later.
void expect_directory(const std::string &mountpoint) {
  struct stat st {};
  if (::stat(mountpoint.c_str(), &st) == 0 && !S_ISDIR(st.st_mode))
    throw std::runtime_error(fmt::format("cannot mount on {}: not a directory", mountpoint));
}

// A signal handler has no argument to tell it whom to stop.
std::atomic<Session *> served{nullptr};

/// The first SIGINT, SIGTERM or SIGHUP unmounts in good order, a second one finds the default action.
class SignalHandlers {
 public:
  explicit SignalHandlers(Session &session) {
    served = &session;
    struct sigaction action {};
    action.sa_handler = [](int) {
      if (Session *s = served.load())
        s->exit(0);
    };
    action.sa_flags = SA_RESETHAND | SA_RESTART;
    for (int number : {SIGINT, SIGTERM, SIGHUP})
      ::sigaction(number, &action, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
  }
  SignalHandlers(const SignalHandlers &) = delete;
  ~SignalHandlers() {
    for (int number : {SIGINT, SIGTERM, SIGHUP})
      ::signal(number, SIG_IGN);  // too late to do anything but what is being done
    served = nullptr;
  }
};

std::string describe(const MountArguments &a, const Session &session) {
  std::string line = fmt::format("{} on {}: transport {}", a.fs, a.mountpoint, session.transport_name());
  if (!session.transport_reason().empty())
    line += fmt::format(" ({})", session.transport_reason());
  const std::vector<std::string> fastpaths = session.fastpaths();
  const std::string missing = session.fastpath_reason();
  if (!fastpaths.empty())
    line += fmt::format("; fast paths: {}{}", fmt::join(fastpaths, ", "),
                        missing.empty() ? "" : fmt::format(" ({})", missing));
  else if (!missing.empty())
    line += fmt::format("; no fast paths: {}", missing);
  return line;
}

/// Mount and serve until unmounted. `ready` is called with the line to show once the mount is usable.
template <typename Ready>
int serve(const MountArguments &a, Ready ready) {
  Config config = configuration(a);
  expect_directory(a.mountpoint);
  std::vector<std::string> options;
  for (const std::string &argument : a.options)
    for (std::string &option : split_mount_options(argument))
      options.push_back(std::move(option));
  auto fs = fs::make_filesystem(a.fs, options);
  MountOptions mount{.mountpoint = a.mountpoint, .subtype = a.fs, .options = fs->mount_options()};
  for (const std::string &option : options)
    mount.options.push_back(escape_mount_value(option));
  config.starts_nothing |= fs->starts_nothing();

  Session session(&fs->ops(), fs->ops_size(), fs->userdata(), mount, config);
  session.debug = a.debug;
  FastpathOffer offer = fs->fastpath();
  const std::vector<std::string> objects = split_fastpath(a.fastpath).objects;
  offer.programs.insert(offer.programs.begin(), objects.begin(), objects.end());
  session.offer_fastpath(offer);
  SignalHandlers handlers(session);
  session.mount();
  auto control = serve_control(session);
  ready(describe(a, session));
  int error = session.run();
  control.reset();
  if (error != 0)
    throw std::runtime_error(fmt::format("{}: {}", a.mountpoint, std::generic_category().message(error)));
  return 0;
}

void show(const MountArguments &a, std::string_view line) {
  if (a.quiet)
    return;
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

int serve_in_foreground(const MountArguments &a) {
  return serve(a, [&](const std::string &line) { show(a, line); });
}

void write_all(int fd, std::string_view text) noexcept {
  while (!text.empty()) {
    ssize_t n = ::write(fd, text.data(), text.size());
    if (n > 0)
      text.remove_prefix(static_cast<std::size_t>(n));
    else if (n == 0 || errno != EINTR)
      return;
  }
}

// What the daemon sends its parent: one of these and a line.
constexpr char kReady = '+';
constexpr char kFailed = '-';

/// A daemon keeps no terminal and no directory busy.
void detach_from_terminal() {
  Fd null = checked_fd(::open("/dev/null", O_RDWR | O_CLOEXEC), "/dev/null");
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::dup2(null.get(), fd) < 0)
      throw std::system_error(errno, std::generic_category(), "dup2");
  if (::chdir("/") != 0)
    throw std::system_error(errno, std::generic_category(), "chdir /");
}

/// The daemon's life, in the child: never returns.
[[noreturn]] void daemon_main(const MountArguments &a, Fd parent) {
  int status = 0;
  ::setsid();
  try {
    serve(a, [&](const std::string &line) {
      detach_from_terminal();
      write_all(parent.get(), kReady + line);
      parent.reset();
    });
  } catch (const std::exception &e) {
    status = 1;
    if (parent)
      write_all(parent.get(), std::string(1, kFailed) + e.what());
  }
  std::_Exit(status);  // the parent's exit handlers and buffers are not ours to run
}

std::string read_all(int fd) {
  std::string text;
  std::array<char, 512> part;
  for (;;) {
    ssize_t n = ::read(fd, part.data(), part.size());
    if (n > 0)
      text.append(part.data(), static_cast<std::size_t>(n));
    else if (n == 0 || errno != EINTR)
      return text;
  }
}

/// Reap the daemon that has failed, and say why it did: `word` is what it sent, which may be nothing.
[[noreturn]] void fail_for_daemon(pid_t pid, const std::string &word) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!word.empty())
    throw std::runtime_error(word.substr(1));
  if (WIFSIGNALED(status))
    throw std::runtime_error(
        fmt::format("the daemon was killed before the mount was usable: {}", ::strsignal(WTERMSIG(status))));
  throw std::runtime_error("the daemon ended before the mount was usable");
}

/// Forks before there is any thread; returns when the mount is usable.
int serve_in_background(const MountArguments &a) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "pipe");
  Fd from_child(ends[0]);
  Fd to_parent(ends[1]);
  std::fflush(nullptr);
  pid_t pid = ::fork();
  if (pid < 0)
    throw std::system_error(errno, std::generic_category(), "fork");
  if (pid == 0) {
    from_child.reset();
    daemon_main(a, std::move(to_parent));
  }
  to_parent.reset();
  std::string word = read_all(from_child.get());
  if (word.empty() || word.front() != kReady)
    fail_for_daemon(pid, word);
  show(a, std::string_view(word).substr(1));
  return 0;
}

}  // namespace

int run_mount(const MountArguments &a) {
  return a.foreground || a.debug ? serve_in_foreground(a) : serve_in_background(a);
}

void add_mount(CLI::App &app) {
  auto a = std::make_shared<MountArguments>();
  CLI::App *sub = app.add_subcommand("mount", "serve a filesystem; returns when the mount is usable");
  sub->add_option("FS", a->fs, fmt::format("one of: {}", fmt::join(fs::filesystem_names(), ", ")))->required();
  sub->add_option("MOUNTPOINT", a->mountpoint, "an existing directory")->required();
  sub->add_flag("-f,--foreground", a->foreground, "stay in the foreground");
  sub->add_flag("-d,--debug", a->debug, "print every request and reply; implies -f");
  sub->add_option("--transport", a->transport, "auto takes the best that works here")
      ->check(CLI::IsMember({"auto", "ring", "uring", "dev"}));
  sub->add_option("--fastpath", a->fastpath, "what BPF programs answer in the kernel: metadata,read or none, and files with programs of your own");
  sub->add_option("--config", a->config, "TOML file (default: $EFUSE_CONFIG)");
  sub->add_option("--set", a->settings, "section.key=value, over file and environment")
      ->expected(1)
      ->take_all();
  sub->add_option("-o", a->options, "mount and filesystem options, with commas between")
      ->expected(1)
      ->take_all();
  sub->callback([a] {
    int status = run_mount(*a);
    if (status != 0)
      throw CLI::RuntimeError(status);
  });
}

}  // namespace efuse::cli
