// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ring_device.hh"

#include "transport.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace efuse {

namespace {

Fd open_device() {
  Fd fd(::open(EFUSE_DEVICE, O_RDWR | O_CLOEXEC));
  if (fd)
    return fd;
  switch (errno) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
      throw TransportUnavailable("no " EFUSE_DEVICE ": the efuse_ring module is not loaded");
    case EACCES:
    case EPERM:
      throw TransportUnavailable("no permission to open " EFUSE_DEVICE);
    default:
      throw TransportUnavailable(fmt::format("cannot open {}: {}", EFUSE_DEVICE, std::strerror(errno)));
  }
}

std::string why_not_attached(int error, const efuse_attach &a) {
  switch (error) {
    case EPROTONOSUPPORT:
      return fmt::format("the loaded efuse_ring module has another ABI than version {}", EFUSE_ABI_VERSION);
    case EBUSY:
      return "the connection is served by rings already";
    case EAGAIN:
      return "the connection has not answered FUSE_INIT";
    case EOPNOTSUPP:
      return "the connection has agreed on FUSE-over-io_uring";
    case ENODEV:
      return "the connection is gone";
    case EDQUOT:
      return fmt::format("{} rings with {} KiB of payload each exceed RLIMIT_MEMLOCK (ulimit -l): raise it, or "
                         "lower ring.payload_size or ring.count",
                         a.nr_rings, a.payload_size >> 10);
    case ENOMEM:
      return fmt::format("no memory for {} rings with {} KiB of payload each", a.nr_rings, a.payload_size >> 10);
    case E2BIG:
      return fmt::format("a ring of depth {} with slots of {} + {} bytes is larger than {} KiB: lower ring.depth "
                         "or the slot sizes",
                         a.depth, a.slot_in_size, a.slot_out_size, EFUSE_MAX_RING_BYTES >> 10);
    case EINVAL:
      return fmt::format("the module refuses {} rings of depth {} (it allows 1 to one per possible CPU)",
                         a.nr_rings, a.depth);
    default:
      return fmt::format("cannot attach: {}", std::strerror(error));
  }
}

efuse_attach describe(const Config &config, const RingPlacement &placement, int fuse_fd) {
  efuse_attach a{};
  const long page = ::sysconf(_SC_PAGESIZE);
  a.size = sizeof a;
  a.abi_version = EFUSE_ABI_VERSION;
  a.fuse_fd = fuse_fd;
  a.nr_rings = static_cast<std::uint32_t>(placement.worker_cpu.size());
  a.depth = config.depth;
  a.forget_depth = config.forget_depth;
  a.slot_in_size = config.slot_in_size;
  a.slot_out_size = config.slot_out_size;
  a.payload_size = static_cast<std::uint32_t>((config.payload_size + page - 1) / page * page);
  a.spin_ns = config.requester_spin_ns;
  a.balance = static_cast<std::uint32_t>(config.balance);
  a.congestion = config.congestion;
  a.nr_cpus = static_cast<std::uint32_t>(placement.cpu_rings.size());
  a.cpu_rings = reinterpret_cast<std::uintptr_t>(placement.cpu_rings.data());
  return a;
}

}  // namespace

RingDevice::RingDevice(const Config &config, const RingPlacement &placement, int fuse_fd)
    : fd_(open_device()), attach_(describe(config, placement, fuse_fd)) {
  if (::ioctl(fd_.get(), EFUSE_IOC_ATTACH, &attach_) != 0)
    throw TransportUnavailable(why_not_attached(errno, attach_));
}

RingMemory RingDevice::map(std::uint32_t ring) const {
  const auto region = [&](unsigned which, std::size_t size, int prot) {
    return Mapping(size, prot, MAP_SHARED, fd_.get(), static_cast<off_t>(EFUSE_MMAP_OFFSET(ring, which)));
  };
  RingMemory m;
  m.kern = region(EFUSE_REGION_KERN, attach_.kern_size, PROT_READ);
  m.user = region(EFUSE_REGION_USER, attach_.user_size, PROT_READ | PROT_WRITE);
  m.payload = region(EFUSE_REGION_PAYLOAD, attach_.payload_size, PROT_READ | PROT_WRITE);
  return m;
}

int RingDevice::enter(std::uint32_t ring, bool wait, KernelPoll poll) const noexcept {
  efuse_enter e{};
  e.ring = ring;
  e.flags = (wait ? EFUSE_ENTER_WAIT : 0) | (poll.adaptive ? EFUSE_ENTER_ADAPTIVE : 0);
  e.poll_ns = poll.ns;
  const int n = ::ioctl(fd_.get(), EFUSE_IOC_ENTER, &e);
  return n < 0 ? -errno : n;
}

int RingDevice::drain() const noexcept {
  const int n = ::ioctl(fd_.get(), EFUSE_IOC_DRAIN);
  return n < 0 ? -errno : n;
}

void RingDevice::detach() const noexcept { ::ioctl(fd_.get(), EFUSE_IOC_DETACH); }

void RingDevice::wake(std::uint32_t ring) const noexcept {
  ::ioctl(fd_.get(), EFUSE_IOC_WAKE, static_cast<unsigned long>(ring));
}

int RingDevice::tune(const Config &config) const noexcept {
  efuse_tune t{};
  t.size = sizeof t;
  t.spin_ns = config.requester_spin_ns;
  t.balance = static_cast<std::uint32_t>(config.balance);
  t.congestion = config.congestion;
  return ::ioctl(fd_.get(), EFUSE_IOC_TUNE, &t) != 0 ? -errno : 0;
}

}  // namespace efuse
