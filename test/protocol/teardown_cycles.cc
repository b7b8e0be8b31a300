// SPDX-License-Identifier: LGPL-2.1-or-later
// Mount, get requests in flight, end it, see that nothing is left; over and over, in one process.
//
//   teardown_cycles --transport ring|uring|dev [--cycles N] [--seed N] DIRECTORY
//
// In a third of the cycles the daemon is a process of its own and killed. In the others it is this process, and
// the connection is ended by the session, by a lazy unmount, by a forced one, or by an abort, each in its turn, with
// clients in the middle of things and a request that the filesystem holds and answers when it is too late. Needs root.
#include "testfs.hh"

#include "session.hh"

#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/magic.h>
#include <malloc.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace protocol_test;

namespace {

using namespace std::chrono_literals;
constexpr auto kLimit = 30s;  // for what takes milliseconds when nothing is wrong

[[noreturn]] void fail(const std::string &what) { throw std::runtime_error(what); }

template <typename Holds>
void wait_until(const char *what, Holds holds) {
  for (const auto end = std::chrono::steady_clock::now() + kLimit; !holds(); std::this_thread::sleep_for(1ms))
    if (std::chrono::steady_clock::now() > end) fail(std::string(what) + ": not in time");
}

// ---- clients -----------------------------------------------------------------

/// Make, write, read and remove files until the mount is dead. Relative to the root, so that a detached mount counts.
int work(int root, int number) {
  const std::string name = "client" + std::to_string(number);
  std::array<char, 16384> data{};
  for (;;) {
    const int fd = ::openat(root, name.c_str(), O_RDWR | O_CREAT, 0600);
    if (fd < 0) return errno;
    const bool wrote = ::pwrite(fd, data.data(), data.size(), 0) == static_cast<ssize_t>(data.size()) && ::fsync(fd) == 0;
    const bool read = wrote && ::pread(fd, data.data(), data.size(), 0) == static_cast<ssize_t>(data.size());
    const int error = errno;
    ::close(fd);
    if (!read) return error;
    if (::unlinkat(root, name.c_str(), 0) != 0) return errno;
  }
}

/// A READ that the filesystem keeps.
int wait_for_parked(int root) {
  const int fd = ::openat(root, "park-direct-deaf", O_RDONLY);
  char byte = 0;
  return fd < 0 || ::read(fd, &byte, 1) < 0 ? errno : 0;
}

/// The root of the mount, -1 where it is gone already.
int open_mount(const std::string &directory) {
  const int root = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY);
  struct statfs fs {};
  if (root >= 0 && ::fstatfs(root, &fs) == 0 && fs.f_type == FUSE_SUPER_MAGIC) return root;
  errno = ENOTCONN;
  return -1;
}

/// Processes that use the mount, forked while this process has one thread.
class Clients {
 public:
  static constexpr int kWorkers = 3;

  explicit Clients(const std::string &directory) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) fail("pipe");
    for (int i = 0; i <= kWorkers; ++i)
      if (const pid_t pid = ::fork(); pid == 0) {
        ::close(ends[1]);
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        char go = 0;
        if (::read(ends[0], &go, 1) != 1) std::_Exit(0);
        const int root = open_mount(directory);
        const int error = root < 0 ? errno : i < kWorkers ? work(root, i) : wait_for_parked(root);
        std::_Exit(ended_well(error) ? 0 : error);
      } else {
        pids_.push_back(pid);
      }
    ::close(ends[0]);
    go_ = ends[1];
  }
  ~Clients() {
    ::close(go_);
    for (const pid_t pid : pids_) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  }
  Clients(const Clients &) = delete;
  Clients &operator=(const Clients &) = delete;

  void go() const {
    const std::array<char, kWorkers + 1> all{};
    if (::write(go_, all.data(), all.size()) != static_cast<ssize_t>(all.size())) fail("go");
  }

  void kill() const {
    for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
  }

  /// All of them end by themselves, with an error that says that the mount is gone.
  void join() {
    while (!pids_.empty()) {
      int status = 0;
      wait_until("a client ends", [&] { return ::waitpid(pids_.back(), &status, WNOHANG) != 0; });
      pids_.pop_back();
      if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
        fail(std::string("a client ended with ") + std::strerror(WEXITSTATUS(status)));
    }
  }

 private:
  static bool ended_well(int error) {
    return error == 0 || error == ENOTCONN || error == ECONNABORTED || error == EIO || error == ENOENT ||
           error == EINTR || error == ECANCELED;  // the last: it was on its way to an io_uring that closed
  }
  std::vector<pid_t> pids_;
  int go_;
};

// ---- the daemon --------------------------------------------------------------

efuse::Config config_for(const std::string &transport) {
  efuse::Config config;
  efuse::set_config_key(config, "session.transport=" + transport);
  return config;
}

struct Daemon {
  Daemon(const std::string &transport, const std::string &directory)
      : ops(test_ops()),
        session(&ops.base, sizeof ops, &fs,
                efuse::MountOptions{.mountpoint = directory, .fsname = "teardown", .subtype = "test"},
                config_for(transport)) {
    const fuse_ctx root{};
    const std::lock_guard lock(fs.mutex);
    Node &node = fs.make(FUSE_ROOT_ID, "park-direct-deaf", S_IFREG | 0600, root);
    node.data = "late";
  }
  TestFs fs{{}};
  efuse_lowlevel_ops ops;
  efuse::Session session;
};

std::optional<unsigned> connection_of(const std::string &directory) {
  struct stat st {};
  if (::stat(directory.c_str(), &st) != 0) return std::nullopt;
  return minor(st.st_dev);
}

void abort_connection(unsigned connection) {
  std::ofstream("/sys/fs/fuse/connections/" + std::to_string(connection) + "/abort") << "1\n";
}

enum class End { session, lazy, forced, abort, count_ };

void end_connection(End how, Daemon &daemon, const std::string &directory, unsigned connection,
                    const Clients &clients) {
  switch (how) {
    case End::session:
      daemon.session.exit(0);
      break;
    case End::lazy:  // over when its last user is
      if (::umount2(directory.c_str(), MNT_DETACH) != 0) fail("umount -l");
      clients.kill();
      daemon.fs.parking.release(1);
      break;
    case End::forced:
      ::umount2(directory.c_str(), MNT_FORCE);  // busy, but the connection is aborted
      break;
    default:
      abort_connection(connection);
  }
}

void cycle_here(const std::string &transport, const std::string &directory, End how, std::mt19937 &random) {
  Clients clients(directory);
  Daemon daemon(transport, directory);
  daemon.session.mount();
  if (daemon.session.transport_name() != transport) fail("mounted over another transport");
  const auto connection = connection_of(directory);
  if (!connection) fail("stat of the mount");
  std::thread ender([&] {
    clients.go();
    wait_until("a request is held", [&] { return daemon.fs.parking.size() != 0; });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
    // Some answers come while everything is being taken down, some after.
    if (random() % 2 == 0) daemon.fs.parking.release_after(random() % 30, 2);
    end_connection(how, daemon, directory, *connection, clients);
  });
  daemon.session.run();
  ender.join();
  daemon.session.unmount();
  clients.join();
  daemon.fs.parking.release(2);
}

void cycle_killed(const std::string &transport, const std::string &directory, std::mt19937 &random) {
  Clients clients(directory);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail("pipe");
  const pid_t pid = ::fork();
  if (pid == 0) try {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      Daemon daemon(transport, directory);
      daemon.session.mount();
      if (daemon.session.transport_name() != transport) std::_Exit(2);
      if (::write(ends[1], "+", 1) == 1) daemon.session.run();
      std::_Exit(1);
    } catch (const std::exception &e) {
      std::fprintf(stderr, "daemon: %s\n", e.what());
      std::_Exit(1);
    }
  ::close(ends[1]);
  char mounted = 0;
  if (::read(ends[0], &mounted, 1) != 1) fail("the daemon does not mount");
  ::close(ends[0]);
  clients.go();
  std::this_thread::sleep_for(std::chrono::microseconds(random() % 40'000));
  ::kill(pid, SIGKILL);
  wait_until("a killed daemon ends", [&] { return ::waitpid(pid, nullptr, WNOHANG) != 0; });
  clients.join();
  if (::umount2(directory.c_str(), MNT_DETACH) != 0) fail("umount of a dead mount");
}

// ---- what is left ------------------------------------------------------------

std::size_t entries_of(const char *directory) {
  std::size_t count = 0;
  DIR *dir = ::opendir(directory);
  while (::readdir(dir) != nullptr) ++count;
  ::closedir(dir);
  return count;
}

bool is_mounted(const std::string &directory) {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);)
    if (line.find(" " + directory + " ") != std::string::npos) return true;
  return false;
}

/// Of our own: what malloc() only keeps for later does not count, nor do pages of files, which the kernel takes and
/// gives back.
long resident_kb() {
  ::malloc_trim(0);
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon:")) return std::atol(line.c_str() + 8);
  fail("no RssAnon");
}

/// Objects in use in the kernel's caches that a mount has to do with; what others use is in it. -1: not told.
long kernel_objects() {
  static const std::set<std::string> kCaches = {"fuse_request", "fuse_inode", "io_kiocb"};
  for (const std::string &cache : kCaches)  // what CPUs keep for later counts as used until then
    std::ofstream("/sys/kernel/slab/" + cache + "/shrink") << 1;
  std::ifstream slabs("/proc/slabinfo");
  long sum = -1;
  for (std::string line; std::getline(slabs, line);) {
    std::istringstream fields(line);
    std::string name;
    long active = 0;
    if (fields >> name >> active && kCaches.contains(name))
      sum = std::max(sum, 0L) + active;
  }
  return sum;
}

struct Left {
  std::size_t descriptors = entries_of("/proc/self/fd");
  std::size_t threads = entries_of("/proc/self/task");
  long resident = resident_kb();
  long objects = kernel_objects();
};

void check_left(const Left &before, const std::string &directory) {
  if (is_mounted(directory)) fail("a mount is left");
  wait_until("descriptors and threads are gone", [&] {
    const Left now;
    return now.descriptors == before.descriptors && now.threads == before.threads;
  });
}

int run(const std::string &transport, const std::string &directory, unsigned cycles, unsigned seed) {
  // Allocators and caches grow to their size first.
  const unsigned warm_up = std::max(4u, cycles / 10);
  constexpr long kGrowth = 512;  // kB, for all cycles
  constexpr long kObjects = 64;  // others use some, too
  std::mt19937 random(seed);
  std::printf("transport %s, %u cycles, --seed %u\n", transport.c_str(), cycles, seed);
  Left before;
  unsigned kills = 0;
  for (unsigned i = 0; i < cycles; ++i) try {
      if (i == warm_up) before = Left();
      if (i % 3 == 2) {
        cycle_killed(transport, directory, random);
        ++kills;
      } else {
        cycle_here(transport, directory, static_cast<End>(i * 2 / 3 % static_cast<unsigned>(End::count_)), random);
      }
      check_left(before, directory);
    } catch (const std::exception &e) {
      std::printf("FAIL cycle %u: %s\n", i, e.what());
      return 1;
    }
  Left after;
  // The kernel frees some a while after nobody has them any more.
  for (int i = 0; i < 100 && after.objects - before.objects > kObjects; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    after = Left();
  }
  std::printf("%u cycles, %u of them killed: %zu descriptors, %zu threads before and after; anonymous memory %ld "
              "and %ld kB; kernel objects %ld and %ld\n",
              cycles, kills, after.descriptors, after.threads, before.resident, after.resident, before.objects,
              after.objects);
  if (after.resident - before.resident > kGrowth) return std::printf("FAIL memory grew\n"), 1;
  if (after.objects - before.objects > kObjects) return std::printf("FAIL the kernel has kept objects\n"), 1;
  return 0;
}

}  // namespace

int main(int argc, char **argv) {
  ::mallopt(M_ARENA_MAX, 1);  // which thread allocates from which arena is chance
  static const option kLong[] = {{"transport", required_argument, nullptr, 't'},
                                 {"cycles", required_argument, nullptr, 'c'},
                                 {"seed", required_argument, nullptr, 's'},
                                 {nullptr, 0, nullptr, 0}};
  std::string transport;
  unsigned cycles = 12, seed = std::random_device()();
  for (int c; (c = getopt_long(argc, argv, "", kLong, nullptr)) != -1;) {
    if (c == 't')
      transport = optarg;
    else if (c == 'c')
      cycles = static_cast<unsigned>(std::atoi(optarg));
    else if (c == 's')
      seed = static_cast<unsigned>(std::strtoul(optarg, nullptr, 10));
    else
      return 2;
  }
  if (argc - optind != 1 || transport.empty() || cycles == 0) {
    std::fprintf(stderr, "usage: teardown_cycles --transport ring|uring|dev [--cycles N] [--seed N] DIRECTORY\n");
    return 2;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  ::signal(SIGPIPE, SIG_IGN);
  return run(transport, argv[optind], cycles, seed);
}
