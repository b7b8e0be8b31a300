// SPDX-License-Identifier: LGPL-2.1-or-later
// The process that serves an episode and attacks at the same time.
#include "attack.hh"
#include "fakefs.hh"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <thread>

#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif

namespace hostile {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

void on_signal(int) {}

class Daemon {
 public:
  Daemon(const Options &options, const Episode &episode, Shared &shared)
      : options_(options), episode_(episode), shared_(shared), rng_(episode.seed) {
    make_marker(options.seed, marker_);
  }

  [[noreturn]] void run(const std::string &mountpoint) {
    mount_it(mountpoint);
    std::thread([this] { read_stock(); }).detach();
    while (!initialized_)
      sleep_us(500);
    std::thread([this] { read_stock(); }).detach();
    // What is paged in later is paged in with allocations that fail, and the root may be a FUSE filesystem too.
    if (episode_.faults)
      ::mlockall(MCL_CURRENT);
    if (episode_.unprivileged)
      drop_privileges();
    attach_first();
    shared_.ready = true;
    start_attacks();
    if (episode_.signals)
      start_timer();
    control();
  }

 private:
  void mount_it(const std::string &mountpoint) {
    fd_ = ::open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    char data[128];
    std::snprintf(data, sizeof data, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd_);
    if (fd_ < 0 || ::mount("hostile", mountpoint.c_str(), "fuse", MS_NODEV | MS_NOSUID | MS_NOSYMFOLLOW, data) != 0)
      give_up("mount", errno);
  }

  [[noreturn]] void give_up(const char *what, int error) {
    fail(shared_, "episode %u: %s: %s", episode_.number, what, std::strerror(error));
    shared_.ready = true;
    ::_exit(1);
  }

  void drop_privileges() {
    // Room for two attachments: one that is being freed, and its successor.
    const std::uint64_t bytes = 2ull * episode_.rings * (episode_.payload + EFUSE_MAX_RING_BYTES);
    const rlimit limit{bytes, bytes};
    if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || ::setresgid(65534, 65534, 65534) != 0 ||
        ::setresuid(65534, 65534, 65534) != 0)
      give_up("dropping privileges", errno);
  }

  void attach_first() {
    const Target t = target();
    std::shared_ptr<Attachment> made;
    int error = EDQUOT;
    // The memory of the last episode's attachment is given back when nobody can be in the module for it any more.
    for (const std::uint64_t end = now_ns() + options_.limit_s * kSecond; error == EDQUOT && now_ns() < end;) {
      error = episode_.faults ? attach_with_faults(t, &made) : Attachment::create(episode_, shared_, fd_, &made);
      if (error == EDQUOT)
        sleep_us(10'000);
    }
    if (error)
      give_up("the first attach", error);
    // No application knows the mount yet, but the kernel may have asked something of its own accord.
    const std::string where = made->not_zero();
    if (!where.empty() && __atomic_load_n(&made->rings()[0].kern_head()->pending_tail, __ATOMIC_ACQUIRE) == 0)
      fail(shared_, "episode %u: not zero after attach: %s", episode_.number, where.c_str());
    made->serve(1 + (episode_.seed >> 8) % 2);
    current_.set(std::move(made));
    if (episode_.faults)
      arm_faults();
  }

  /// From now on one allocation in so many fails in all threads that this one starts; main.cc has set the rates.
  void arm_faults() {
    const int fd = ::open("/proc/self/make-it-fail", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
      [[maybe_unused]] const ssize_t n = ::write(fd, "1", 1);
      ::close(fd);
    }
  }

  Target target() { return {options_, episode_, shared_, fd_, current_}; }

  template <typename F>
  void attack(unsigned pause_us, F burst) {
    std::thread([this, pause_us, burst, seed = rng_.next()] {
      Rng rng(seed);
      const Target t = target();
      for (;;) {
        if (!shared_.settle)
          burst(t, rng);
        sleep_us(rng.below(2 * pause_us));
      }
    }).detach();
  }

  template <typename F>
  void attack_current(unsigned pause_us, F burst) {
    attack(pause_us, [this, burst](const Target &t, Rng &rng) {
      if (const auto attachment = current_.get())
        burst(t, rng, *attachment);
    });
  }

  void start_attacks() {
    if (!episode_.calm)
      for (unsigned i = 0; i < 2; ++i)
        attack_current(8000, [](const Target &t, Rng &rng, Attachment &a) { attack_memory(t, rng, a); });
    attack_current(5000, [](const Target &t, Rng &rng, Attachment &a) { attack_ioctl(t, rng, a); });
    attack_current(10'000, [](const Target &t, Rng &rng, Attachment &a) { attack_mappings(t, rng, a); });
    attack_current(10'000, [](const Target &t, Rng &rng, Attachment &a) { attack_fuse(t, rng, a); });
    attack(30'000, [](const Target &t, Rng &rng) { attack_attach(t, rng); });
    attack_current(300'000, [this](const Target &t, Rng &, Attachment &a) { scan(t, a, marker_); });
  }

  void start_timer() {
    struct sigaction act {};
    act.sa_handler = on_signal;
    ::sigaction(SIGALRM, &act, nullptr);
    const itimerval every{{0, 7000}, {0, 7000}};
    ::setitimer(ITIMER_REAL, &every, nullptr);
  }

  [[noreturn]] void control() {
    std::uint64_t next = now_ns();
    for (;;) {
      sleep_us(5000);
      finale();
      const auto attachment = current_.get();
      const bool due = episode_.reattach && !shared_.settle && now_ns() > next;
      if (!closed_ && (!attachment || attachment->gone() || due)) {
        if (attachment)
          ::ioctl(attachment->fd(), EFUSE_IOC_DETACH);
        attach_anew();
        next = now_ns() + rng_.below(60'000'000);
      }
    }
  }

  void attach_anew() {
    std::shared_ptr<Attachment> made;
    const int error = Attachment::create(episode_, shared_, fd_, &made);
    if (error == ENODEV)
      ::_exit(0);     // aborted
    // Others of our threads attach too; memory may still be charged, or fail on purpose.
    const bool expected = error == EBUSY || error == EDQUOT || error == EINTR || error == EMFILE ||
                          (episode_.faults && (error == ENOMEM || error == EFAULT || error == ENFILE));
    if (error && !expected)
      give_up("attaching anew", error);
    if (!made)
      return;
    made->serve(1);
    current_.set(std::move(made));
  }

  void finale() {
    const Finale f = static_cast<Finale>(shared_.finale.load());
    if (closed_ || (f != Finale::kDetach && f != Finale::kCloseFuse))
      return;
    closed_ = true;
    const auto attachment = current_.get();
    if (f == Finale::kDetach) {
      if (attachment && ::ioctl(attachment->fd(), EFUSE_IOC_DRAIN) >= 0)
        sleep_us(20'000);
      if (attachment)
        ::ioctl(attachment->fd(), EFUSE_IOC_DETACH);
      current_.set(nullptr);
      return;
    }
    // The last descriptor of the connection goes while the rings are mapped and served.
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    ::dup3(null, fd_, O_CLOEXEC);
  }

  void read_stock() {
    Rng rng(episode_.seed + 77);
    std::vector<char> in((1 << 20) + 65536), out(in.size());
    for (;;) {
      pollfd p{fd_, POLLIN, 0};
      ::poll(&p, 1, 50);
      const ssize_t n = ::read(fd_, in.data(), in.size());
      if (n < 0 && errno == ENODEV)
        ::_exit(0);
      if (n < static_cast<ssize_t>(sizeof(fuse_in_header))) {
        if (n == 0)
          sleep_us(1000);    // no longer /dev/fuse
        continue;
      }
      answer_stock(rng, {in.data(), static_cast<std::size_t>(n)}, out);
    }
  }

  void answer_stock(Rng &rng, std::span<const char> message, std::span<char> out) {
    fuse_in_header head;
    std::memcpy(&head, message.data(), sizeof head);
    const auto args = message.subspan(sizeof head);
    if (!wants_answer(head.opcode) || (episode_.lossy && initialized_ && rng.one_in(20)))
      return;
    const Answer a = head.opcode == FUSE_INIT
                         ? answer_init(head, args, episode_.init_flags, episode_.max_write, out)
                         : answer(rng, head, args, out);
    fuse_out_header reply{static_cast<std::uint32_t>(sizeof reply + a.len), a.error, head.unique};
    iovec iov[2] = {{&reply, sizeof reply}, {out.data(), a.len}};
    [[maybe_unused]] const ssize_t n = ::writev(fd_, iov, a.len ? 2 : 1);
    if (head.opcode == FUSE_INIT)
      initialized_ = true;
    shared_.served_stock.fetch_add(1, std::memory_order_relaxed);
  }

  const Options &options_;
  const Episode &episode_;
  Shared &shared_;
  Rng rng_;
  int fd_ = -1;
  std::atomic<bool> initialized_{false};
  bool closed_ = false;
  Current current_;
  char marker_[kMarkerSize];
};

}  // namespace

void run_daemon(const Options &options, const Episode &episode, Shared &shared, const std::string &mountpoint) {
  ::signal(SIGPIPE, SIG_IGN);
  static Daemon daemon(options, episode, shared);
  daemon.run(mountpoint);
}

}  // namespace hostile
