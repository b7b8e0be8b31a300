// SPDX-License-Identifier: LGPL-2.1-or-later
// One daemon in a process of its own: efuse's session in a forked child, or
// efuse-libfuse. The child leaves with its mount when the benchmark dies, however
// it dies: its control socket reads end-of-file then, and it gets SIGTERM.
#include "bench.hh"

#include "../fs/filesystem.hh"
#include "mount.hh"
#include "session.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

namespace efuse::perf {

namespace {
constexpr int kMountTimeoutMs = 60'000;  // emulated machines are slow
constexpr int kStopTimeoutMs = 10'000;
constexpr std::uint32_t kMaxMessage = 64u << 20;  // bytes

[[noreturn]] void fail(const std::string &what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// ---- the control socket: a length, then so many bytes of JSON --------------

bool write_all(int fd, const void *data, std::size_t len) noexcept {
  auto at = static_cast<const char *>(data);
  while (len) {
    const ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    at += n;
    len -= static_cast<std::size_t>(n);
  }
  return true;
}

bool send_message(int fd, const std::string &text) noexcept {
  const auto len = static_cast<std::uint32_t>(text.size());
  return write_all(fd, &len, sizeof(len)) && write_all(fd, text.data(), text.size());
}

using Deadline = std::chrono::steady_clock::time_point;

int left_ms(Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<long long>(left.count(), 0, INT_MAX));
}

bool read_all(int fd, void *data, std::size_t len, Deadline deadline) {
  auto at = static_cast<char *>(data);
  while (len) {
    pollfd p{fd, POLLIN, 0};
    const int ready = poll(&p, 1, left_ms(deadline));
    if (ready < 0 && errno == EINTR) {
      InterruptGuard::check();
      continue;
    }
    if (ready <= 0)
      return false;
    const ssize_t n = recv(fd, at, len, 0);
    if (n <= 0)
      return false;
    at += n;
    len -= static_cast<std::size_t>(n);
  }
  return true;
}

std::optional<nlohmann::json> receive_message(int fd, int timeout_ms) {
  const Deadline deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  std::uint32_t len = 0;
  if (!read_all(fd, &len, sizeof(len), deadline) || len > kMaxMessage)
    return std::nullopt;
  std::string text(len, '\0');
  if (!read_all(fd, text.data(), len, deadline))
    return std::nullopt;
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_discarded())
    return std::nullopt;
  return json;
}

// ---- the child -------------------------------------------------------------

TransportChoice transport_choice(const std::string &name) {
  if (name == "ring")
    return TransportChoice::ring;
  if (name == "uring")
    return TransportChoice::uring;
  return TransportChoice::dev;
}

// Keeps `a` and `b` as 3 and 4 and closes all other descriptors: another child's
// control socket must not stay open here, or that child never sees its end.
void keep_two(Fd &a, Fd &b) {
  const int a2 = fcntl(a.get(), F_DUPFD_CLOEXEC, 5), b2 = fcntl(b.get(), F_DUPFD_CLOEXEC, 5);
  if (a2 < 0 || b2 < 0 || dup3(a2, 3, O_CLOEXEC) < 0 || dup3(b2, 4, O_CLOEXEC) < 0)
    fail("descriptors");
  close_range(5, ~0u, 0);
  // 3 and 4 may have been theirs, and what was theirs is closed.
  (void)a.release();
  (void)b.release();
  a.reset(3);
  b.reset(4);
}

// To be the benchmark's child, not the terminal's: ^C is for the benchmark.
void follow_parent(pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent)
    _exit(1);
}

// What the filesystem needs so that each system call of a cell reaches it.
// Entries are looked up anew each time; attributes stay valid, because a GETATTR
// is forced where it is wanted and would only be in the way elsewhere.
std::vector<std::string> filesystem_options(const Options &options) {
  std::vector<std::string> all = options.fs_options;
  if (options.fs == "memfs" || options.fs == "passthrough")
    for (const char *option : {"entry_timeout=0", "attr_timeout=60"}) {
      const std::string_view key(option, std::strchr(option, '=') + 1 - option);
      if (std::none_of(all.begin(), all.end(), [&](const auto &o) { return o.starts_with(key); }))
        all.emplace_back(option);
    }
  return all;
}

// Answers 's' with the statistics; ends the session at 'q', at the end of the
// socket, or at a signal.
void obey(Session &session, int control, int signals) {
  for (;;) {
    pollfd p[2] = {{control, POLLIN, 0}, {signals, POLLIN, 0}};
    if (poll(p, 2, -1) < 0 && errno == EINTR)
      continue;
    char command = 'q';
    if (p[1].revents == 0 && recv(control, &command, 1, 0) != 1)
      command = 'q';
    if (command == 's' && send_message(control, session.stat_json()))
      continue;
    session.exit(0);
    return;
  }
}

int serve(const Options &options, const Contestant &contestant, const std::string &mountpoint, int control,
          int probe_fd) {
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGHUP})
    sigaddset(&signals, signal);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  const Fd signal_fd = checked_fd(signalfd(-1, &signals, SFD_CLOEXEC), "signalfd");

  std::vector<std::string> rest = filesystem_options(options);
  const auto filesystem = fs::make_filesystem(options.fs, rest);
  const Probe probe(ProbeTable::attach(probe_fd), filesystem->ops());
  MountOptions mount;
  mount.mountpoint = mountpoint;
  mount.fsname = "efuse-bench";
  mount.subtype = options.fs;
  mount.options = filesystem->mount_options();
  for (const std::string &option : rest)
    mount.options.push_back(escape_mount_value(option));
  Config config = options.config;
  config.transport = transport_choice(contestant.transport);
  config.fastpath_programs = contestant.fastpath.programs;
  config.starts_nothing |= filesystem->starts_nothing();
  config.stats = true;  // they tell which way the requests took
  FastpathOffer offer = filesystem->fastpath();
  const auto &objects = contestant.fastpath.objects;
  offer.programs.insert(offer.programs.begin(), objects.begin(), objects.end());

  Session session(&probe.ops(), sizeof(fuse_lowlevel_ops), filesystem->userdata(), mount, config);
  session.offer_fastpath(std::move(offer));
  session.mount();
  // Without one of them the mount works, and the comparison is about something else.
  if (const std::string missing = session.fastpath_reason(); !missing.empty())
    throw std::runtime_error(missing);
  send_message(control, nlohmann::json{{"ok", true}, {"transport", session.transport_name()}}.dump());
  std::jthread watcher([&] { obey(session, control, signal_fd.get()); });
  const int error = session.run();
  shutdown(control, SHUT_RD);  // the watcher may still wait
  watcher.join();
  session.unmount();
  return error;
}

[[noreturn]] void child_main(const Options &options, const Contestant &contestant,
                             const std::string &mountpoint, Fd control, Fd probe) {
  int status = 1;
  try {
    keep_two(control, probe);
    status = serve(options, contestant, mountpoint, control.get(), probe.get()) ? 1 : 0;
  } catch (const std::exception &e) {
    send_message(control.get(), nlohmann::json{{"ok", false}, {"error", e.what()}}.dump());
  }
  rmdir(mountpoint.c_str());  // the parent may be dead
  std::fflush(stderr);
  _exit(status);  // what the parent set up is the parent's to tear down
}

// ---- finding and running libfuse's loop ------------------------------------

std::string libfuse_helper() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  for (const char *place : {"efuse-libfuse", "../fs/efuse-libfuse", "../../fs/efuse-libfuse",
                            "../libexec/efuse/efuse-libfuse", "../lib/efuse/efuse-libfuse"}) {
    const std::string path = (self.parent_path() / place).lexically_normal();
    if (access(path.c_str(), X_OK) == 0)
      return path;
  }
  throw std::runtime_error(fmt::format("efuse-libfuse not found beside {}", self.string()));
}

std::string joined(const std::vector<std::string> &options) {
  std::string all;
  for (const std::string &option : options)
    all += (all.empty() ? "" : ",") + escape_mount_value(option);
  return all;
}

// ---- mountpoints ------------------------------------------------------------

std::string make_mountpoint() {
  const char *tmp = std::getenv("TMPDIR");
  std::string path = fmt::format("{}/efuse-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
  if (!mkdtemp(path.data()))
    fail(fmt::format("cannot make a mountpoint {}", path));
  // /proc names mounts by their real paths.
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  return error ? path : real.string();
}

void run_fusermount(const std::string &mountpoint) {
  const pid_t pid = fork();
  if (pid == 0) {
    execlp("fusermount3", "fusermount3", "-u", "-z", "-q", mountpoint.c_str(), nullptr);
    _exit(127);
  }
  if (pid > 0)
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
}

void unmount_leftover(const std::string &mountpoint) noexcept {
  try {
    if (find_mount(mountpoint) && umount2(mountpoint.c_str(), MNT_DETACH) != 0)
      run_fusermount(mountpoint);
  } catch (const std::exception &) {  // /proc is not readable: try anyway
    umount2(mountpoint.c_str(), MNT_DETACH);
  }
}

std::uint64_t switches_of(const std::filesystem::path &status) {
  std::ifstream file(status);
  std::uint64_t sum = 0;
  for (std::string line; std::getline(file, line);)
    if (const auto at = line.find("ctxt_switches:"); at != std::string::npos)
      sum += std::strtoull(line.c_str() + at + std::strlen("ctxt_switches:"), nullptr, 10);
  return sum;
}
}  // namespace

// ---- contestants, and the ways of their requests ------------------------------

std::string FastpathSet::text() const { return empty() ? "none" : fmt::format("{}", fmt::join(names, ",")); }

std::string Contestant::label() const {
  return fastpath.empty() ? transport : fmt::format("{}+{}", transport, fmt::join(fastpath.names, "+"));
}

std::uint64_t Ways::by(std::string_view transport) const noexcept {
  if (transport == "ring")
    return ring;
  return transport == "uring" ? uring : stock;
}

Ways operator-(const Ways &a, const Ways &b) noexcept {
  return {a.ring - b.ring, a.uring - b.uring, a.stock - b.stock, a.fastpath - b.fastpath};
}

// ---- Server ------------------------------------------------------------------

Server::Server(const Options &options, Contestant contestant, int probe_fd)
    : contestant_(std::move(contestant)), mountpoint_(make_mountpoint()) {
  try {
    if (contestant_.transport == "libfuse")
      start_libfuse(options, probe_fd);
    else
      start_efuse(options, probe_fd);
    root_.reset(open(mountpoint_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!root_)
      fail(fmt::format("cannot enter {}", mountpoint_));
  } catch (...) {
    stop();
    throw;
  }
}

Server::~Server() { stop(); }

void Server::start_efuse(const Options &options, int probe_fd) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    fail("socketpair");
  control_.reset(pair[0]);
  Fd theirs(pair[1]);
  const pid_t parent = getpid();
  std::fflush(nullptr);  // or the child has what is buffered, too
  pid_ = fork();
  if (pid_ < 0)
    fail("fork");
  if (pid_ == 0) {
    follow_parent(parent);
    Fd probe(dup(probe_fd));
    control_.reset();
    child_main(options, contestant_, mountpoint_, std::move(theirs), std::move(probe));
  }
  theirs.reset();
  const auto answer = receive_message(control_.get(), kMountTimeoutMs);
  if (!answer)
    throw std::runtime_error("the daemon ended or hangs before its mount is usable");
  if (!answer->value("ok", false))
    throw std::runtime_error(answer->value("error", "the daemon does not say why"));
  if (answer->value("transport", "") != contestant_.transport)
    throw std::runtime_error(fmt::format("the daemon took {} instead", answer->value("transport", "?")));
}

void Server::start_libfuse(const Options &options, int probe_fd) {
  const std::string helper = libfuse_helper();
  const std::string o = joined(filesystem_options(options));
  const pid_t parent = getpid();
  std::fflush(nullptr);
  pid_ = fork();
  if (pid_ < 0)
    fail("fork");
  if (pid_ == 0) {
    follow_parent(parent);
    if (dup2(probe_fd, 3) < 0 || fcntl(3, F_SETFD, 0) < 0)
      _exit(126);
    close_range(4, ~0u, 0);
    for (int signal : {SIGTERM, SIGINT, SIGHUP})
      ::signal(signal, SIG_DFL);
    std::vector<const char *> argv{helper.c_str(), "--probe", "3"};
    if (!o.empty())
      argv.insert(argv.end(), {"-o", o.c_str()});
    argv.insert(argv.end(), {options.fs.c_str(), mountpoint_.c_str(), nullptr});
    execv(helper.c_str(), const_cast<char *const *>(argv.data()));
    _exit(127);
  }
  wait_mounted();
}

void Server::wait_mounted() {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(kMountTimeoutMs);
  while (!find_mount(mountpoint_)) {
    InterruptGuard::check();
    if (wait_exit(0))
      throw std::runtime_error("efuse-libfuse ended before its mount is usable");
    if (std::chrono::steady_clock::now() > deadline)
      throw std::runtime_error("efuse-libfuse does not mount");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

std::optional<Ways> Server::ways(std::string_view opcode) {
  if (!control_)
    return std::nullopt;
  if (!write_all(control_.get(), "s", 1))
    throw std::runtime_error(fmt::format("{}: the daemon has died", label()));
  const auto stat = receive_message(control_.get(), kStopTimeoutMs);
  if (!stat)
    throw std::runtime_error(fmt::format("{}: the daemon does not tell its statistics", label()));
  nlohmann::json ways = stat->value("requests", nlohmann::json::object());
  if (!opcode.empty())
    if (const auto by_op = stat->find("by_op"); by_op != stat->end())
      // An opcode that was not used yet has no entry.
      ways = by_op->value(std::string(opcode), nlohmann::json::object());
  return Ways{ways.value("ring", std::uint64_t{0}), ways.value("uring", std::uint64_t{0}),
              ways.value("stock", std::uint64_t{0}), ways.value("fastpath", std::uint64_t{0})};
}

std::uint64_t Server::context_switches() {
  std::vector<std::pair<pid_t, std::uint64_t>> now;
  std::error_code error;
  const std::filesystem::path tasks = fmt::format("/proc/{}/task", pid_);
  for (const auto &task : std::filesystem::directory_iterator(tasks, error))
    now.emplace_back(std::atoi(task.path().filename().c_str()), switches_of(task.path() / "status"));
  // Of a thread that has ended, what was seen last: the sum must never shrink.
  for (const auto &before : last_switches_)
    if (std::none_of(now.begin(), now.end(), [&](const auto &t) { return t.first == before.first; }))
      gone_switches_ += before.second;
  last_switches_ = std::move(now);
  std::uint64_t sum = gone_switches_;
  for (const auto &task : last_switches_)
    sum += task.second;
  return sum;
}

bool Server::wait_exit(int timeout_ms) noexcept {
  for (int waited = 0; pid_ > 0; waited += 5) {
    const pid_t got = waitpid(pid_, nullptr, WNOHANG);
    if (got == pid_ || (got < 0 && errno == ECHILD))
      pid_ = -1;
    else if (waited >= timeout_ms)
      return false;
    else
      usleep(5000);
  }
  return true;
}

void Server::kill() noexcept {
  if (pid_ > 0)
    ::kill(pid_, SIGKILL);
}

void Server::stop() noexcept {
  root_.reset();
  if (pid_ > 0) {
    if (control_)
      write_all(control_.get(), "q", 1);
    else
      ::kill(pid_, SIGTERM);
    if (!wait_exit(kStopTimeoutMs)) {
      kill();
      (void)wait_exit(kStopTimeoutMs);
    }
  }
  control_.reset();
  unmount_leftover(mountpoint_);
  rmdir(mountpoint_.c_str());
}

}  // namespace efuse::perf
