// SPDX-License-Identifier: LGPL-2.1-or-later
#include "attack.hh"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>

namespace hostile {
namespace {

constexpr int kMadvCollapse = 25;    // newer than some <sys/mman.h>

/// A region mapped once more, to be mishandled: the ones that are served stay whole.
struct Extra {
  char *at;
  std::size_t size;
  unsigned region;
};

void *map_region(const Attachment &a, Rng &rng, unsigned region, std::uint32_t ring, std::size_t size, int prot) {
  const int flags = rng.one_in(10) ? MAP_PRIVATE : MAP_SHARED;
  return ::mmap(nullptr, size, prot, flags | (rng.one_in(4) ? MAP_POPULATE : 0), a.fd(),
                static_cast<off_t>(EFUSE_MMAP_OFFSET(ring, region)));
}

Extra map_extra(const Target &t, Attachment &a, Rng &rng) {
  const unsigned region = rng.below(3);
  const std::uint32_t ring = rng.below(a.rings().size());
  const efuse_ring_info &info = a.rings()[ring].info;
  const std::size_t sizes[] = {info.kern_size, info.user_size, info.payload_size};
  const int prot = region == EFUSE_REGION_KERN ? PROT_READ : PROT_READ | PROT_WRITE;
  void *p = ::mmap(nullptr, sizes[region], prot, MAP_SHARED, a.fd(),
                   static_cast<off_t>(EFUSE_MMAP_OFFSET(ring, region)));
  count(t.shared, Kind::kMap);
  return {p == MAP_FAILED ? nullptr : static_cast<char *>(p), sizes[region], region};
}

void unmap(Extra &e) {
  ::munmap(e.at, e.size);
}

void map_wrongly(const Target &t, Rng &rng, Attachment &a) {
  const efuse_ring_info &info = a.rings()[0].info;
  const std::size_t sizes[] = {4096, info.kern_size, info.user_size, info.payload_size, info.payload_size + 4096ul,
                               1ul << 26};
  const std::uint64_t offset = rng.one_in(2) ? EFUSE_MMAP_OFFSET(rng.below(5), rng.below(4)) + 4096ul * rng.below(3)
                                             : rng.next() & ~4095ul & INT64_MAX;
  const std::size_t size = rng.pick(sizes);
  void *p = ::mmap(nullptr, size, static_cast<int>(rng.below(8)), rng.one_in(4) ? MAP_PRIVATE : MAP_SHARED, a.fd(),
                   static_cast<off_t>(offset));
  if (p != MAP_FAILED)
    ::munmap(p, size);
  void *kern = map_region(a, rng, EFUSE_REGION_KERN, 0, info.kern_size, PROT_READ | PROT_WRITE);
  if (kern != MAP_FAILED) {
    fail(t.shared, "the kernel's region could be mapped for writing");
    ::munmap(kern, info.kern_size);
  }
  count(t.shared, Kind::kMap, 2);
}

/// No way to write leads to the kernel's region.
void write_to_kern(const Target &t, Rng &rng, Attachment &a) {
  const RingView &ring = a.rings()[rng.below(a.rings().size())];
  char *kern = const_cast<char *>(ring.kern);
  const std::uint32_t size = ring.info.kern_size, at = rng.below(size / 4096) * 4096;
  if (::mprotect(kern + at, 4096, PROT_READ | PROT_WRITE) == 0)
    fail(t.shared, "the kernel's region could be made writable");
  if (::mprotect(ring.user, 4096, PROT_READ | PROT_EXEC) == 0)
    fail(t.shared, "the user region could be made executable");
  const int mem = ::open("/proc/self/mem", O_RDWR | O_CLOEXEC);
  char byte = 1;
  if (mem >= 0 && ::pwrite(mem, &byte, 1, static_cast<off_t>(reinterpret_cast<std::uintptr_t>(kern + at))) == 1)
    fail(t.shared, "the kernel's region could be written through /proc/self/mem");
  iovec local{&byte, 1}, remote{kern + at, 1};
  if (::process_vm_writev(::getpid(), &local, 1, &remote, 1, 0) == 1)
    fail(t.shared, "the kernel's region could be written by process_vm_writev()");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) == 0) {
    [[maybe_unused]] const ssize_t n = ::write(ends[1], &byte, 1);
    if (::read(ends[0], kern + at, 1) == 1)
      fail(t.shared, "the kernel's region could be read into");
    ::close(ends[0]);
    ::close(ends[1]);
  }
  if (mem >= 0)
    ::close(mem);
  count(t.shared, Kind::kMap, 5);
}

void mishandle(const Target &t, Rng &rng, Attachment &a) {
  Extra e = map_extra(t, a, rng);
  if (!e.at)
    return;
  const std::size_t at = rng.below(e.size / 4096) * 4096ul, len = std::min(e.size - at, 4096ul * (1 + rng.below(8)));
  const int advices[] = {MADV_DONTNEED, MADV_FREE,     MADV_REMOVE,   MADV_DONTFORK,    MADV_DOFORK,  MADV_MERGEABLE,
                         MADV_HUGEPAGE, MADV_DODUMP,   MADV_WILLNEED, MADV_WIPEONFORK,  MADV_COLD,    MADV_PAGEOUT,
                         MADV_RANDOM,   MADV_POPULATE_READ, MADV_POPULATE_WRITE, kMadvCollapse};
  switch (rng.below(8)) {
    case 0: ::madvise(e.at + at, len, rng.pick(advices)); break;
    case 1:    // in parts, each once: another thread's mapping may be in the hole by now
      ::munmap(e.at + at, len);
      ::munmap(e.at, at);
      ::munmap(e.at + at + len, e.size - at - len);
      count(t.shared, Kind::kMap, 3);
      return;
    case 2: {
      void *p = ::mremap(e.at, e.size, e.size + 4096, MREMAP_MAYMOVE);
      if (p != MAP_FAILED) {
        fail(t.shared, "a region could be mapped larger than it is");
        e.at = static_cast<char *>(p);
      }
      break;
    }
    case 3: {
      void *p = ::mremap(e.at + at, 0, len, MREMAP_MAYMOVE);    // a second mapping of the same pages
      if (p != MAP_FAILED)
        ::munmap(p, len);
      break;
    }
    case 4: ::mlock(e.at + at, len); break;
    case 5: ::mprotect(e.at + at, len, PROT_NONE); break;
    case 6: ::msync(e.at + at, len, MS_SYNC); break;
    default: ::mmap(e.at + at, len, PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  count(t.shared, Kind::kMap);
  // Whatever is left there: read it in a way that gives an error, not a signal.
  char sink[4096];
  iovec local{sink, sizeof sink}, remote{e.at + at, std::min<std::size_t>(len, sizeof sink)};
  ::process_vm_readv(::getpid(), &local, 1, &remote, 1, 0);
  unmap(e);
}

/// Pages in a pipe outlive the mapping, and the attachment.
void pin_in_pipe(const Target &t, Rng &rng, Attachment &a) {
  Extra e = map_extra(t, a, rng);
  int ends[2];
  if (!e.at || ::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
    if (e.at)
      unmap(e);
    return;
  }
  iovec iov{e.at, std::min<std::size_t>(e.size, 32768)};
  ::vmsplice(ends[1], &iov, 1, rng.one_in(2) ? SPLICE_F_GIFT : 0);
  unmap(e);
  const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (rng.one_in(2))
    ::splice(ends[0], nullptr, rng.one_in(2) ? t.fuse_fd : null, nullptr, 65536, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (null >= 0)
    ::close(null);
  ::close(ends[0]);
  ::close(ends[1]);
  count(t.shared, Kind::kMap, 2);
}

/// A child that has the mappings and no descriptor: the attachment's file lives until it is gone.
void fork_with_mappings(const Target &t, Rng &rng, Attachment &a) {
  const unsigned ms = rng.one_in(4) ? 500 : rng.below(20);
  const RingView ring = a.rings()[rng.below(a.rings().size())];
  Rng child_rng(rng.next());
  count(t.shared, Kind::kMap);
  const pid_t pid = ::fork();
  if (pid != 0) {
    if (pid > 0 && ms < 100)
      while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR)
        ;
    return;
  }
  for (int fd = 3; fd < 256; ++fd)
    ::close(fd);
  for (std::uint64_t end = now_ns() + ms * 1'000'000ull; now_ns() < end;) {
    if (!t.episode.calm)
      for (unsigned i = 0; i < 100; ++i)
        reinterpret_cast<volatile char *>(ring.user)[child_rng.below(ring.info.user_size)] = 1;
    sleep_us(1000);
  }
  ::_exit(0);
}

bool is_kernel_pointer(std::uint64_t v) noexcept {
  return v >= 0xffff800000000000u && v < 0xfffffffffffff000u;
}

/// Where in the kernel's region a number may look like an address by chance: the lock owner is a scrambled pointer, and
/// node numbers and arguments carry data that came out of our own noise before.
bool may_be_chance(const RingView &ring, std::size_t at, bool calm) noexcept {
  constexpr std::size_t kArguments = sizeof(efuse_slot_in) + sizeof(fuse_in_header);
  if (at >= ring.info.slot_in_off) {
    const std::size_t in_slot = (at - ring.info.slot_in_off) % ring.info.slot_in_size;
    if (in_slot >= kArguments)
      return !calm || in_slot < kArguments + 32;
    return !calm && in_slot == sizeof(efuse_slot_in) + offsetof(fuse_in_header, nodeid);
  }
  return !calm && at >= ring.info.forget_off &&
         (at - ring.info.forget_off) % sizeof(efuse_forget_entry) == offsetof(efuse_forget_entry, nodeid);
}

void scan_pointers(const Target &t, const RingView &ring, const char *base, std::size_t size, bool kern) {
  for (std::size_t at = 0; at + 8 <= size; at += 8) {
    std::uint64_t v;
    std::memcpy(&v, base + at, sizeof v);
    if (is_kernel_pointer(v) && !(kern && may_be_chance(ring, at, t.episode.calm)))
      fail(t.shared, "episode %u: %#llx, like a kernel address, at %zu of a region of %zu bytes", t.episode.number,
           static_cast<unsigned long long>(v), at, size);
  }
}

}  // namespace

void attack_mappings(const Target &t, Rng &rng, Attachment &a) {
  switch (rng.below(10)) {
    case 0:
    case 1: map_wrongly(t, rng, a); break;
    case 2: write_to_kern(t, rng, a); break;
    case 3: pin_in_pipe(t, rng, a); break;
    case 4: fork_with_mappings(t, rng, a); break;
    default: mishandle(t, rng, a);
  }
}

void scan(const Target &t, Attachment &a, const char marker[kMarkerSize]) {
  for (const RingView &ring : a.rings()) {
    const std::span<const char> regions[] = {{ring.kern, ring.info.kern_size},
                                             {ring.user, ring.info.user_size},
                                             {ring.payload, ring.info.payload_size}};
    for (unsigned i = 0; i < 3; ++i) {
      if (::memmem(regions[i].data(), regions[i].size(), marker, kMarkerSize))
        fail(t.shared, "episode %u: data of another filesystem in region %u", t.episode.number, i);
      // The user region is ours alone, and our own noise looks like anything.
      if (i == EFUSE_REGION_KERN || (i == EFUSE_REGION_PAYLOAD && t.episode.calm))
        scan_pointers(t, ring, regions[i].data(), regions[i].size(), i == EFUSE_REGION_KERN);
    }
  }
  t.shared.scans.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace hostile
