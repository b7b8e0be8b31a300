// SPDX-License-Identifier: LGPL-2.1-or-later
#include "attack.hh"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace hostile {
namespace {

/// Addresses that are no place for an argument.
void *bad_address(Rng &rng) noexcept {
  const std::uintptr_t choice[] = {0, 1, 0xdead, 0xffff800000000000, 0xffffffff81000000, 0x800000000000 - 16, ~0ul - 8};
  return reinterpret_cast<void *>(rng.pick(choice));
}

void one_enter(const Target &t, Rng &rng, Attachment &a) {
  const std::uint64_t timeouts[] = {1, 1000, 100'000, 1'000'000, 5'000'000};
  efuse_enter e{};
  e.ring = rng.one_in(8) ? static_cast<std::uint32_t>(rng.next()) : rng.below(a.rings().size());
  e.flags = rng.one_in(8) ? static_cast<std::uint32_t>(rng.next()) : rng.below(4);
  e.poll_ns = rng.one_in(4) ? static_cast<std::uint32_t>(rng.next()) : rng.below(50'000);
  e.reserved = rng.one_in(20);
  e.timeout_ns = rng.pick(timeouts);
  e.reserved2 = rng.one_in(20);
  ::ioctl(a.fd(), EFUSE_IOC_ENTER, rng.one_in(20) ? bad_address(rng) : &e);
  count(t.shared, Kind::kEnter);
}

void one_control(const Target &t, Rng &rng, Attachment &a) {
  efuse_tune tune{};
  tune.size = rng.one_in(8) ? rng.below(100) : sizeof tune;
  tune.flags = rng.one_in(8);
  tune.spin_ns = rng.one_in(2) ? static_cast<std::uint32_t>(rng.next()) : 20'000;
  tune.balance = rng.below(rng.one_in(8) ? 100 : 4);
  tune.congestion = rng.one_in(8) ? static_cast<std::uint32_t>(rng.next()) : 1 + rng.below(64);
  tune.reserved[rng.below(3)] = rng.one_in(8);
  switch (rng.below(100)) {
    case 0: ::ioctl(a.fd(), EFUSE_IOC_DETACH); break;
    case 1:
      // Requests take the stock path until somebody attaches anew.
      ::ioctl(a.fd(), EFUSE_IOC_DRAIN);
      if (rng.one_in(2))
        ::ioctl(a.fd(), EFUSE_IOC_DETACH);
      break;
    case 2:
    case 3:
    case 4:
    case 5: ::ioctl(a.fd(), EFUSE_IOC_WAKE, rng.one_in(3) ? ~0u : rng.below(a.rings().size() + 1)); break;
    default: ::ioctl(a.fd(), EFUSE_IOC_TUNE, rng.one_in(20) ? bad_address(rng) : &tune);
  }
  count(t.shared, Kind::kControl);
}

/// What the daemon may tell of fast paths, whether there are any or not.
void one_fastpath(const Target &t, Rng &rng, Attachment &a) {
  static thread_local efuse_fastpath_stats stats;    // too large for a buffer of every call
  char name[256];
  efuse_credit credits[16];
  efuse_change change{};
  change.size = rng.one_in(8) ? rng.below(100) : sizeof change;
  change.phase = rng.below(rng.one_in(8) ? 100 : 3);
  change.what = rng.below(rng.one_in(8) ? 100 : 3);
  change.name_len = rng.one_in(4) ? static_cast<std::uint32_t>(rng.next()) : rng.below(256);
  change.nodeid = rng.one_in(4) ? rng.next() : rng.below(64);
  change.name = rng.one_in(8) ? reinterpret_cast<std::uintptr_t>(bad_address(rng)) : reinterpret_cast<std::uintptr_t>(name);
  change.reserved[rng.below(2)] = rng.one_in(8);
  efuse_backing backing{};
  backing.size = rng.one_in(8) ? rng.below(100) : sizeof backing;
  backing.fd = rng.one_in(4) ? static_cast<std::int32_t>(rng.next()) : static_cast<std::int32_t>(rng.below(32)) - 1;
  backing.nodeid = rng.below(64);
  efuse_credits take{};
  take.size = rng.one_in(8) ? rng.below(100) : sizeof take;
  take.nr = rng.one_in(8) ? static_cast<std::uint32_t>(rng.next()) : rng.below(17);
  take.credits = rng.one_in(8) || take.nr > 16 ? reinterpret_cast<std::uintptr_t>(bad_address(rng))
                                               : reinterpret_cast<std::uintptr_t>(credits);
  stats.size = rng.one_in(8) ? rng.below(5000) : sizeof stats;
  stats.program = rng.below(rng.one_in(8) ? 1000 : EFUSE_MAX_PROGRAMS);
  switch (rng.below(4)) {
    case 0: ::ioctl(a.fd(), EFUSE_IOC_CHANGE, rng.one_in(20) ? bad_address(rng) : &change); break;
    case 1: ::ioctl(a.fd(), EFUSE_IOC_BACKING, rng.one_in(20) ? bad_address(rng) : &backing); break;
    case 2: ::ioctl(a.fd(), EFUSE_IOC_CREDITS, rng.one_in(20) ? bad_address(rng) : &take); break;
    default: ::ioctl(a.fd(), EFUSE_IOC_FASTPATH_STATS, rng.one_in(20) ? bad_address(rng) : &stats);
  }
  count(t.shared, Kind::kControl);
}

void one_bad(const Target &t, Rng &rng, Attachment &a) {
  char argument[256];
  for (char &c : argument)
    c = static_cast<char>(rng.next());
  const unsigned long command = rng.one_in(2) ? _IOC(rng.below(4), EFUSE_IOC_TYPE, rng.below(256), rng.below(200))
                                              : static_cast<unsigned long>(static_cast<std::uint32_t>(rng.next()));
  // Not a DETACH by accident: that is one_control()'s, at its own rate.
  if (command != EFUSE_IOC_DETACH && command != EFUSE_IOC_DRAIN)
    ::ioctl(a.fd(), command, rng.one_in(4) ? bad_address(rng) : argument);
  char fdinfo[64], text[4096];
  std::snprintf(fdinfo, sizeof fdinfo, "/proc/self/fdinfo/%d", a.fd());
  const int fd = rng.one_in(8) ? ::open(fdinfo, O_RDONLY | O_CLOEXEC) : -1;
  if (fd >= 0) {
    while (::read(fd, text, sizeof text) > 0)
      ;
    ::close(fd);
  }
  count(t.shared, Kind::kBadIoctl);
}

/// Good parameters with one of them spoilt.
efuse_attach odd_attach(const Episode &e, Rng &rng, int fd) {
  efuse_attach a = attach_parameters(e, fd, nullptr, 0);
  const std::uint32_t values[] = {0, 1, 2, 3, 4, 255, 256, 4096, 1u << 15, 1u << 16, 1u << 20, 1u << 31, ~0u};
  const std::uint32_t value = rng.one_in(3) ? static_cast<std::uint32_t>(rng.next()) : rng.pick(values);
  switch (rng.below(14)) {
    case 0: a.size = value; break;
    case 1: a.abi_version = value; break;
    case 2: a.flags = value; break;
    case 3: a.nr_rings = value; break;
    case 4: a.depth = value; break;
    case 5: a.forget_depth = value; break;
    case 6: a.slot_in_size = value; break;
    case 7: a.slot_out_size = value; break;
    case 8: a.payload_size = std::min(value, 8u << 20); break;    // a larger one would only take long
    case 9:
      a.nr_cpus = value;
      a.cpu_rings = rng.next();
      break;
    case 10: a.reserved[rng.below(3)] = value; break;
    case 11: a.balance = value; break;
    case 12: a.congestion = value; break;
    default: a.features = value;
  }
  return a;
}

int odd_descriptor(const Target &t, Rng &rng) {
  switch (rng.below(6)) {
    case 0: return ::open("/dev/null", O_RDWR | O_CLOEXEC);
    case 1: return ::open("/dev/fuse", O_RDWR | O_CLOEXEC);    // not mounted
    case 2: return ::open(EFUSE_DEVICE, O_RDWR | O_CLOEXEC);
    case 3: return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    case 4: {    // another descriptor of our own connection
      const int fd = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
      std::uint32_t of = static_cast<std::uint32_t>(t.fuse_fd);
      if (fd >= 0)
        ::ioctl(fd, FUSE_DEV_IOC_CLONE, &of);
      return fd;
    }
    default: return ::dup(t.fuse_fd);
  }
}

}  // namespace

void attack_ioctl(const Target &t, Rng &rng, Attachment &a) {
  for (unsigned i = 0, n = 20 + rng.below(60); i < n; ++i) {
    switch (rng.below(9)) {
      case 8: one_fastpath(t, rng, a); break;
      case 0: one_control(t, rng, a); break;
      case 1: one_bad(t, rng, a); break;
      case 2: {
        efuse_attach again = odd_attach(t.episode, rng, t.fuse_fd);
        ::ioctl(a.fd(), EFUSE_IOC_ATTACH, rng.one_in(4) ? bad_address(rng) : &again);
        count(t.shared, Kind::kAttach);
        break;
      }
      default: one_enter(t, rng, a);
    }
  }
}

void attack_attach(const Target &t, Rng &rng) {
  const int dev = ::open(EFUSE_DEVICE, O_RDWR | O_CLOEXEC);
  const int fd = odd_descriptor(t, rng);
  if (dev >= 0 && fd >= 0) {
    efuse_attach a = rng.one_in(2) ? odd_attach(t.episode, rng, fd) : attach_parameters(t.episode, fd, nullptr, 0);
    count(t.shared, Kind::kAttach);
    // Where it goes through, nobody serves these rings: back with the connection at once, in one of the ways.
    if (::ioctl(dev, EFUSE_IOC_ATTACH, &a) == 0) {
      t.shared.attaches.fetch_add(1, std::memory_order_relaxed);
      sleep_us(rng.below(2000));
      if (rng.one_in(2))
        ::ioctl(dev, rng.one_in(2) ? EFUSE_IOC_DRAIN : EFUSE_IOC_DETACH);
    }
  }
  if (fd >= 0)
    ::close(fd);
  if (dev >= 0)
    ::close(dev);
  count(t.shared, Kind::kClose);
}

int attach_with_faults(const Target &t, std::shared_ptr<Attachment> *made) {
  // The n-th chance to fail in this thread is taken; what is left says whether there were so many. After the first
  // hundred come pages by the thousand, all from one place.
  const std::uint64_t end = now_ns() + 10'000'000'000;
  for (unsigned n = 1;; n += 1 + (n > 100 ? n / 16 : 0)) {
    const int fd = now_ns() < end ? ::open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
      return Attachment::create(t.episode, t.shared, t.fuse_fd, made);
    char text[16];
    const int len = std::snprintf(text, sizeof text, "%u", n);
    bool armed = ::write(fd, text, static_cast<std::size_t>(len)) == len;
    const int error = Attachment::create(t.episode, t.shared, t.fuse_fd, made);
    const ssize_t got = ::pread(fd, text, sizeof text - 1, 0);
    text[std::max<ssize_t>(got, 0)] = '\0';
    armed = armed && got > 0 && std::strtoul(text, nullptr, 10) == 0;
    [[maybe_unused]] const ssize_t off = ::pwrite(fd, "0", 1, 0);
    ::close(fd);
    if (!armed || (error && error != ENOMEM && error != EFAULT && error != EINTR && error != EMFILE)) {
      return error;
    }
    count(t.shared, Kind::kFault);
    if (!error)
      made->reset();    // this failure was survived: the next one
  }
}

}  // namespace hostile
