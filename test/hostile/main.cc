// SPDX-License-Identifier: LGPL-2.1-or-later
// hostile-daemon: a FUSE daemon that speaks the ring contract, and breaks it in every way it can think of, while
// applications use its mount and another one that an honest daemon serves. It must not harm anything but itself:
//   no message of the kernel but the module's own rate-limited `efuse_ring:` ones;
//   no application waits longer than --limit while requests are answered, at the latest when the attack is over, or
//   longer than --end-limit once the connection is gone;
//   the honest mount gives no error and every byte as it was written;
//   the shared pages hold nothing but what the protocol puts there.
// Exit status 0 if all of that held. The choices of every thread follow from --seed; how the threads meet does not.
#include "hostile.hh"

#include <efuse_ring.h>
#include <fcntl.h>
#include <getopt.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace hostile {

void make_marker(std::uint64_t seed, char out[kMarkerSize]) noexcept {
  Rng rng(seed ^ 0x5ec2e7);
  for (std::size_t i = 0; i < kMarkerSize; ++i)
    out[i] = static_cast<char>(0x80 | rng.below(0x80));
}

void sleep_us(unsigned us) noexcept {
  timespec t{us / 1'000'000, static_cast<long>(us % 1'000'000) * 1000};
  ::nanosleep(&t, nullptr);
}

void fail(Shared &shared, const char *format, ...) noexcept {
  char text[sizeof shared.failure];
  std::va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  std::fprintf(stderr, "FAILED: %s\n", text);
  if (!shared.failed.exchange(true))
    std::memcpy(shared.failure, text, sizeof text);
  shared.stop = true;
}

namespace {

constexpr const char *kKindNames[] = {"index",   "complete",  "slot-out", "bit",        "page",       "flip",
                                      "payload", "enter",     "attach",   "control",    "bad-ioctl",  "map",
                                      "fuse-write", "notify", "close",    "failed-allocation"};
static_assert(std::size(kKindNames) == static_cast<unsigned>(Kind::kCount));
constexpr const char *kOpNames[] = {"idle", "meta", "read", "write", "direct", "map",
                                    "aio",  "dir",  "xattr", "lock", "sync",   "exit"};
static_assert(std::size(kOpNames) == static_cast<unsigned>(Op::kCount));
constexpr const char *kFinaleNames[] = {"none",   "kill",       "abort", "umount -f",
                                        "umount -l", "detach", "close /dev/fuse"};
static_assert(std::size(kFinaleNames) == static_cast<unsigned>(Finale::kCount));

/// The kernel's log from now on.
class KernelLog {
 public:
  KernelLog() : fd_(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC)) { ::lseek(fd_, 0, SEEK_END); }
  ~KernelLog() { ::close(fd_); }
  KernelLog(const KernelLog &) = delete;
  KernelLog &operator=(const KernelLog &) = delete;

  /// New messages that mean trouble; other warnings are shown, unless the kernel has every reason for them.
  std::vector<std::string> trouble(bool show) {
    std::vector<std::string> found;
    char record[8192];
    for (;;) {
      const ssize_t n = ::read(fd_, record, sizeof record - 1);
      if (n < 0 && errno == EPIPE)
        continue;    // overwritten
      if (n <= 0)
        return found;
      record[n] = '\0';
      const char *text = std::strchr(record, ';');
      const int level = std::atoi(record);
      if (!text || level > 4)
        continue;    // not the kernel's, or not a warning
      std::string line(text + 1, std::strcspn(text + 1, "\n"));
      if (is_trouble(line, level))
        found.push_back(line);
      else if (show && line.find("efuse_ring:") == std::string::npos && line.find("callbacks suppressed") == std::string::npos)
        std::printf("kernel: %s\n", line.c_str());
    }
  }

 private:
  static bool is_trouble(const std::string &line, int level) {
    for (const char *word : {"WARNING:", "BUG:", "KASAN", "UBSAN", "ODEBUG", "Oops", "general protection", "stall",
                             "blocked for", "lockup", "LOCKUP", "corruption", "refcount_t", "Bad page", "locking",
                             "lock state", "suspicious RCU", "wait context", "kernel BUG", "unable to handle"})
      if (line.find(word) != std::string::npos)
        return true;
    return level <= 3 && line.find("efuse") != std::string::npos;
  }
  int fd_;
};

bool write_file(const std::string &path, const std::string &text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  const bool done = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  ::close(fd);
  return done;
}

/// How allocations fail in the processes that ask for it. The kernel needs CONFIG_FAULT_INJECTION.
bool set_up_faults() {
  bool any = false;
  for (const char *what : {"failslab", "fail_page_alloc", "fail_usercopy"}) {
    const std::string dir = std::string("/sys/kernel/debug/") + what + "/";
    const bool here = write_file(dir + "task-filter", "Y");
    any |= here;
    write_file(dir + "probability", here ? "2" : "0");
    write_file(dir + "interval", "40");
    write_file(dir + "times", "-1");
    write_file(dir + "space", "0");
    write_file(dir + "verbose", "0");
    write_file(dir + "ignore-gfp-wait", "N");
    write_file(dir + "ignore-gfp-highmem", "N");
    write_file(dir + "min-order", "0");
  }
  return any;
}

template <typename T, std::size_t N>
T draw(Rng &rng, const T (&from)[N]) {
  return rng.pick(from);
}

Episode make_episode(const Options &o, unsigned number, unsigned cpus) {
  Episode e{};
  e.seed = Rng(o.seed * 1'000'003 + number).next();
  e.number = number;
  Rng rng(e.seed);
  e.rings = 1 + rng.below(cpus);
  e.slot_in = draw(rng, {256u, 512u, 512u, 1024u, 4096u});
  e.slot_out = draw(rng, {256u, 512u, 512u, 1024u, 4096u});
  e.depth = draw(rng, {4u, 4u, 8u, 16u, 64u, 256u});
  while (std::uint64_t{e.depth} * (e.slot_in + e.slot_out + 64) > EFUSE_MAX_RING_BYTES / 2)
    e.depth /= 2;
  e.forget_depth = draw(rng, {4u, 16u, 256u});
  e.payload = draw(rng, {65536u, 65536u, 131072u, 1u << 20, 2u << 20});
  e.spin_ns = draw(rng, {0u, 20'000u, 100'000u, 1'000'000u});
  e.balance = rng.below(4);
  e.congestion = 1 + rng.below(rng.one_in(2) ? 4 : 64);
  e.init_flags = (rng.next() & rng.next()) | (rng.next() & 0xffff);
  // Not these: ACLs, mounts within the mount, reserved, DAX, backing files, idmapped mounts, for which INIT is
  // refused without default_permissions, and FUSE-over-io_uring, with which attach is refused.
  e.init_flags &= ~(1ull << 20 | 1ull << 27 | 1ull << 31 | 1ull << 33 | 1ull << 37 | 1ull << 40 | 1ull << 41);
  e.max_write = draw(rng, {4096u, 65536u, 131072u, 1u << 20});
  e.life_ms = 500 + rng.below(3500);
  e.finale = static_cast<Finale>(1 + rng.below(static_cast<unsigned>(Finale::kCount) - 1));
  e.calm = rng.one_in(4);
  e.reattach = rng.one_in(3);
  e.lossy = rng.one_in(5);
  e.signals = rng.one_in(3);
  e.kills = rng.one_in(3);
  e.stops = rng.one_in(4);
  e.unprivileged = rng.one_in(4);
  e.notifies = rng.one_in(2);
  e.faults = o.faults && rng.one_in(2);
  if (e.faults) {    // each page is a chance to fail
    e.payload = std::min(e.payload, 131072u);
    e.depth = std::min(e.depth, 16u);
  }
  return e;
}

class Supervisor {
 public:
  Supervisor(const Options &options, Shared &shared)
      : options_(options), shared_(shared), cpus_(static_cast<unsigned>(::sysconf(_SC_NPROCESSORS_ONLN))),
        mountpoint_(options.work + "/evil"), rng_(options.seed + 5) {
    ::mkdir(mountpoint_.c_str(), 0755);
  }

  bool run() {
    if (options_.faults && !set_up_faults()) {
      std::printf("this kernel has no fault injection: none in this run\n");
      options_.faults = false;
    }
    std::vector<pid_t> honest;
    for (unsigned i = 0; !options_.honest.empty() && i < 2; ++i)
      honest.push_back(start([this, i] { run_honest(options_, shared_, i); }));
    const std::uint64_t end = now_ns() + options_.seconds * 1'000'000'000ull;
    unsigned number = options_.only < 0 ? 0 : static_cast<unsigned>(options_.only);
    while (!shared_.stop && now_ns() < end) {
      one_episode(make_episode(options_, number, cpus_));
      if (options_.only < 0)
        ++number;
      report(now_ns() >= end || shared_.failed);
    }
    shared_.stop = true;
    for (pid_t pid : honest)
      end_within(pid, options_.limit_s, "an honest client");
    look_at_log();
    report(true);
    return !shared_.failed;
  }

 private:
  template <typename F>
  pid_t start(F body) {
    std::fflush(stdout);
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      body();
      ::_exit(0);
    }
    if (pid < 0)
      fail(shared_, "fork: %s", std::strerror(errno));
    return pid;
  }

  /// Waits for a process to end by itself.
  bool ended(pid_t pid, unsigned seconds) {
    for (std::uint64_t end = now_ns() + seconds * 1'000'000'000ull; now_ns() < end; sleep_us(1000))
      if (::waitpid(pid, nullptr, WNOHANG) != 0)
        return true;
    return false;
  }

  void end_within(pid_t pid, unsigned seconds, const char *what) {
    if (ended(pid, seconds))
      return;
    fail(shared_, "%s (process %d) has not ended after %u s: %s", what, pid, seconds, stack_of(pid).c_str());
    ::kill(pid, SIGKILL);
  }

  static std::string stack_of(pid_t pid) {
    std::ifstream f("/proc/" + std::to_string(pid) + "/stack");
    std::string line, all;
    while (std::getline(f, line))
      all += line.substr(std::min(line.size(), line.find(' ') + 1)) + "; ";
    return all.substr(0, 300);
  }

  void look_at_log() {
    for (const std::string &line : log_.trouble(!options_.faults))
      fail(shared_, "episode %u, kernel's log: %s", number_, line.c_str());
    // What the kernel has complained of stays here, whatever the words were.
    const unsigned long tainted = read_tainted();
    if (tainted != tainted_)
      fail(shared_, "episode %u: the kernel is tainted: %#lx, was %#lx", number_, tainted, tainted_);
    tainted_ = tainted;
  }

  static unsigned long read_tainted() {
    std::ifstream f("/proc/sys/kernel/tainted");
    unsigned long bits = 0;
    f >> bits;
    return bits;
  }

  void start_client(const Episode &e, unsigned i) {
    shared_.clients[i].since_ns = 0;
    clients_[i] = start([this, &e, i] { run_client(options_, e, shared_, i, e.seed + ++nth_client_, mountpoint_); });
    ++nth_client_;
  }

  void too_long(unsigned i, double seconds, const char *when) {
    const std::uint64_t served = shared_.served_ring, stock = shared_.served_stock;
    fail(shared_, "episode %u: a client's %s takes %.1f s %s: %s", number_, kOpNames[shared_.clients[i].op], seconds,
         when, stack_of(clients_[i]).c_str());
    print_rings();
    sleep_us(1'000'000);
    print_rings();
    std::fprintf(stderr, "served in that second: %" PRIu64 " over rings, %" PRIu64 " over /dev/fuse; the client: %s\n",
                 shared_.served_ring - served, shared_.served_stock - stock, stack_of(clients_[i]).c_str());
  }

  /// The module's account of them.
  void print_rings() const {
    std::error_code none;
    for (const auto &entry : std::filesystem::directory_iterator("/proc/" + std::to_string(daemon_) + "/fdinfo", none)) {
      std::ifstream f(entry.path());
      for (std::string line; std::getline(f, line);)
        if (line.starts_with("efuse-"))
          std::fprintf(stderr, "  %s %s\n", entry.path().filename().c_str(), line.c_str());
    }
  }

  /// Clients that take longer than the limit; `since`: count from then at the earliest.
  void watch_clients(std::uint64_t limit_ns, std::uint64_t since, const char *when) {
    const std::uint64_t now = now_ns();
    for (unsigned i = 0; i < options_.clients; ++i) {
      const std::uint64_t began = std::max<std::uint64_t>(shared_.clients[i].since_ns, since);
      if (shared_.clients[i].since_ns && now > began && now - began > limit_ns)
        too_long(i, static_cast<double>(now - began) / 1e9, when);
    }
    for (unsigned i = 0; i < 2; ++i)
      if (const std::uint64_t began = shared_.honest[i].since_ns; began && now > began &&
                                                                  now - began > options_.limit_s * 1'000'000'000ull)
        fail(shared_, "episode %u: the honest mount takes %.1f s", number_, static_cast<double>(now - began) / 1e9);
  }

  /// Number of the connection, from the mount table: stat() would ask the daemon.
  std::string connection() const {
    std::ifstream f("/proc/self/mountinfo");
    std::string line, at = " " + mountpoint_ + " ";
    while (std::getline(f, line)) {
      unsigned minor = 0;
      if (line.find(at) != std::string::npos && std::sscanf(line.c_str(), "%*d %*d %*u:%u", &minor) == 1)
        return "/sys/fs/fuse/connections/" + std::to_string(minor) + "/";
    }
    return "";
  }

  void live(const Episode &e, pid_t daemon) {
    const std::uint64_t end = now_ns() + e.life_ms * 1'000'000ull;
    while (now_ns() < end && !shared_.stop) {
      sleep_us(20'000);
      // A lossy daemon's clients wait for the end, by design.
      watch_clients(options_.limit_s * 1'000'000'000ull, e.lossy ? now_ns() : 0, "while the daemon serves");
      look_at_log();
      if (e.kills && rng_.one_in(5))
        kill_a_client(e);
      if (e.stops && rng_.one_in(20)) {
        ::kill(daemon, SIGSTOP);
        sleep_us(rng_.below(300'000));
        ::kill(daemon, SIGCONT);
      }
      reap_orphans(daemon);
    }
  }

  /// No request was lost on the way: with nobody attacking, every call that has begun comes to its end. A daemon whose
  /// own calls fail, or that forgets requests on purpose, cannot promise that.
  void settle(const Episode &e) {
    if (e.lossy || e.faults)
      return;
    shared_.settle = true;
    const std::uint64_t begin = now_ns();
    while (!shared_.failed && waits_since(begin)) {
      watch_clients(options_.limit_s * 1'000'000'000ull, begin, "after the attack was over");
      sleep_us(5000);
    }
  }

  bool waits_since(std::uint64_t when) const {
    return std::any_of(shared_.clients, shared_.clients + options_.clients, [when](const ClientClock &clock) {
      const std::uint64_t began = clock.since_ns;
      return began != 0 && began <= when;
    });
  }

  void kill_a_client(const Episode &e) {
    const unsigned i = rng_.below(options_.clients);
    ::kill(clients_[i], SIGKILL);
    if (ended(clients_[i], e.lossy ? 0 : options_.limit_s))
      start_client(e, i);
    else if (!e.lossy)
      fail(shared_, "episode %u: a killed client is still there: %s", number_, stack_of(clients_[i]).c_str());
  }

  /// Children that the daemon left to us.
  void reap_orphans(pid_t daemon) {
    for (;;) {
      siginfo_t info{};
      if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0)
        return;
      const bool known = info.si_pid == daemon || std::count(clients_, clients_ + kMaxClients, info.si_pid);
      if (known)
        return;    // waited for elsewhere
      ::waitpid(info.si_pid, nullptr, 0);
    }
  }

  /// After this the connection is gone, or is about to be as soon as the daemon's processes are.
  void end_connection(const Episode &e, pid_t daemon, const std::string &connection) {
    shared_.finale = static_cast<unsigned>(e.finale);
    switch (e.finale) {
      case Finale::kAbort: write_file(connection + "abort", "1"); break;
      case Finale::kForceUmount: ::umount2(mountpoint_.c_str(), MNT_FORCE | UMOUNT_NOFOLLOW); break;
      case Finale::kLazyUmount: ::umount2(mountpoint_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW); break;
      case Finale::kDetach: sleep_us(300'000); break;    // the stock path serves meanwhile
      case Finale::kCloseFuse: sleep_us(100'000); break;
      default: break;
    }
    ::kill(daemon, SIGKILL);
    // A thread that notified may wait for a lock of a client that waits for the daemon: the stock kernel's deadlock,
    // which an abort ends.
    const bool stuck_by_design = e.notifies || e.lossy;
    if (ended(daemon, stuck_by_design ? 1 : options_.end_limit_s))
      return;
    if (!stuck_by_design)
      fail(shared_, "episode %u: the killed daemon is still there: %s", number_, stack_of(daemon).c_str());
    ++aborts_;
    write_file(connection + "abort", "1");
    end_within(daemon, options_.end_limit_s, "the daemon");
  }

  void end_clients() {
    const std::uint64_t gone = now_ns();
    shared_.stop_clients = true;
    bool left = true;
    while (left && !shared_.failed) {
      left = false;
      for (unsigned i = 0; i < options_.clients; ++i) {
        if (clients_[i] > 0 && ::waitpid(clients_[i], nullptr, WNOHANG) != 0)
          clients_[i] = 0;
        left |= clients_[i] > 0;
      }
      watch_clients(options_.end_limit_s * 1'000'000'000ull, gone, "after the end of the connection");
      if (left)
        sleep_us(1000);
    }
    longest_end_ns_ = std::max(longest_end_ns_, now_ns() - gone);
    for (unsigned i = 0; i < options_.clients; ++i)
      if (clients_[i] > 0)
        ::kill(clients_[i], SIGKILL);
  }

  void one_episode(const Episode &e) {
    number_ = e.number;
    shared_.ready = false;
    shared_.stop_clients = false;
    shared_.settle = false;
    shared_.finale = 0;
    const pid_t daemon = start([this, &e] { run_daemon(options_, e, shared_, mountpoint_); });
    daemon_ = daemon;
    for (std::uint64_t end = now_ns() + 4 * options_.limit_s * 1'000'000'000ull; !shared_.ready && now_ns() < end;)
      sleep_us(1000);
    if (!shared_.ready)
      fail(shared_, "episode %u: the daemon has not come up: %s", number_, stack_of(daemon).c_str());
    const std::string where = connection();
    for (unsigned i = 0; i < options_.clients && !shared_.stop; ++i)
      start_client(e, i);
    live(e, daemon);
    settle(e);
    end_connection(e, daemon, where);
    end_clients();
    const pid_t umount = start([this] { ::umount2(mountpoint_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW); });
    end_within(umount, options_.end_limit_s, "umount");
    reap_orphans(0);
    look_at_log();
    ++episodes_;
    if (shared_.failed)
      describe(e);
  }

  static void describe(const Episode &e) {
    std::printf("episode %u: %u rings of %u, slots %u/%u, payload %u, forget %u, spin %u ns, balance %u/%u, max_write %u, flags %#llx, %s%s%s%s%s%s%s%s%s"
                "ends by %s\n", e.number, e.rings, e.depth, e.slot_in, e.slot_out, e.payload, e.forget_depth, e.spin_ns, e.balance, e.congestion,
                e.max_write, static_cast<unsigned long long>(e.init_flags), e.calm ? "calm, " : "",
                e.reattach ? "attaches anew, " : "", e.lossy ? "lossy, " : "", e.signals ? "signals, " : "",
                e.kills ? "kills, " : "", e.stops ? "stops, " : "", e.unprivileged ? "unprivileged, " : "",
                e.notifies ? "notifies, " : "", e.faults ? "faults, " : "",
                kFinaleNames[static_cast<unsigned>(e.finale)]);
  }

  /// Now and then, and at the end.
  void report(bool last) {
    if (!last && now_ns() - reported_ns_ < 30'000'000'000ull)
      return;
    reported_ns_ = now_ns();
    std::uint64_t total = 0;
    std::string kinds;
    for (unsigned i = 0; i < std::size(kKindNames); ++i) {
      const std::uint64_t n = shared_.mutations[i];
      total += n;
      kinds += std::string(i ? ", " : "") + kKindNames[i] + " " + std::to_string(n);
    }
    std::printf("seed %llu: %u episodes, %llu mutations (%s)\n"
                "  client calls %llu (%llu failed), honest calls %llu, served %llu over rings and %llu over /dev/fuse, "
                "%llu attachments, %llu scans, %u aborts to free a daemon's own threads, clients gone at most %.2f s "
                "after the end\n",
                static_cast<unsigned long long>(options_.seed), episodes_, static_cast<unsigned long long>(total),
                kinds.c_str(), get(shared_.client_ops), get(shared_.client_errors), get(shared_.honest_ops),
                get(shared_.served_ring), get(shared_.served_stock), get(shared_.attaches), get(shared_.scans), aborts_,
                static_cast<double>(longest_end_ns_) / 1e9);
    std::fflush(stdout);
  }
  static unsigned long long get(const std::atomic<std::uint64_t> &n) { return n.load(); }

  Options options_;
  Shared &shared_;
  unsigned cpus_;
  std::string mountpoint_;
  Rng rng_;
  KernelLog log_;
  unsigned long tainted_ = read_tainted();
  pid_t daemon_ = 0;    // of the current episode
  pid_t clients_[kMaxClients] = {};
  unsigned number_ = 0, episodes_ = 0, aborts_ = 0, nth_client_ = 0;
  std::uint64_t longest_end_ns_ = 0, reported_ns_ = now_ns();
};

[[noreturn]] void usage(int status) {
  std::fprintf(status ? stderr : stdout,
               "hostile-daemon --work DIR [--honest DIR] [--seed N] [--seconds N] [--limit SECONDS]\n"
               "  [--end-limit SECONDS] [--clients N] [--faults] [--only EPISODE]\n"
               "As root, with /dev/efuse. --honest: a mount to watch; --faults: make allocations fail in half of the\n"
               "episodes; --only: this episode again and again.\n");
  std::exit(status);
}

Options parse(int argc, char **argv) {
  Options o;
  enum { kWork = 1, kHonest, kSeed, kSeconds, kLimit, kEndLimit, kClients, kFaults, kOnly, kHelp };
  const option known[] = {{"work", 1, nullptr, kWork},       {"honest", 1, nullptr, kHonest},
                          {"seed", 1, nullptr, kSeed},       {"seconds", 1, nullptr, kSeconds},
                          {"limit", 1, nullptr, kLimit},     {"end-limit", 1, nullptr, kEndLimit},
                          {"clients", 1, nullptr, kClients}, {"faults", 0, nullptr, kFaults},
                          {"only", 1, nullptr, kOnly},       {"help", 0, nullptr, kHelp},
                          {nullptr, 0, nullptr, 0}};
  for (int c; (c = ::getopt_long(argc, argv, "", known, nullptr)) != -1;) {
    switch (c) {
      case kWork: o.work = optarg; break;
      case kHonest: o.honest = optarg; break;
      case kSeed: o.seed = std::strtoull(optarg, nullptr, 0); break;
      case kSeconds: o.seconds = static_cast<unsigned>(std::strtoul(optarg, nullptr, 0)); break;
      case kLimit: o.limit_s = static_cast<unsigned>(std::strtoul(optarg, nullptr, 0)); break;
      case kEndLimit: o.end_limit_s = static_cast<unsigned>(std::strtoul(optarg, nullptr, 0)); break;
      case kClients: o.clients = static_cast<unsigned>(std::strtoul(optarg, nullptr, 0)); break;
      case kFaults: o.faults = true; break;
      case kOnly: o.only = std::atoi(optarg); break;
      case kHelp: usage(0);
      default: usage(2);
    }
  }
  if (o.work.empty() || o.clients < 1 || o.clients > kMaxClients || optind != argc)
    usage(2);
  return o;
}

}  // namespace
}  // namespace hostile

int main(int argc, char **argv) {
  using namespace hostile;
  const Options options = parse(argc, argv);
  void *p = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) {
    std::perror("mmap");
    return 1;
  }
  auto *shared = new (p) Shared{};
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  const bool good = Supervisor(options, *shared).run();
  if (!good)
    std::printf("FAILED (seed %llu): %s\n", static_cast<unsigned long long>(options.seed), shared->failure);
  return good ? 0 : 1;
}
