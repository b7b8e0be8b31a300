// SPDX-License-Identifier: LGPL-2.1-or-later
#include "attachment.hh"

#include "fakefs.hh"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace hostile {
namespace {

template <typename T>
T load(const T &word) noexcept {
  return __atomic_load_n(&word, __ATOMIC_ACQUIRE);
}
template <typename T>
void store(T &word, T value) noexcept {
  __atomic_store_n(&word, value, __ATOMIC_RELEASE);
}

/// One thread's way through one ring. It trusts the kernel's pages, and of the daemon's own only what it keeps here.
class Server {
 public:
  Server(const RingView &ring, const Episode &episode, Shared &shared, std::uint64_t seed)
      : ring_(ring), episode_(episode), shared_(shared), rng_(seed), answered_(ring.info.depth) {
    pending_head_ = load(ring.user_head()->pending_head);
    if (load(ring.kern_head()->pending_tail) - pending_head_ > ring.info.depth)
      pending_head_ = load(ring.kern_head()->pending_tail) - ring.info.depth;
    base_ = load(ring_.kern_head()->complete_head);
  }

  void take_all() {
    const std::uint32_t tail = load(ring_.kern_head()->pending_tail);
    base_ = load(ring_.kern_head()->complete_head);
    pushed_ = 0;
    for (; pending_head_ != tail; ++pending_head_) {
      const auto *entries = reinterpret_cast<const efuse_pending_entry *>(ring_.kern + ring_.info.pending_off);
      const efuse_pending_entry e = entries[pending_head_ & (ring_.info.depth - 1)];
      store(ring_.user_head()->pending_head, pending_head_ + 1);
      if (episode_.lossy && rng_.one_in(20))
        continue;
      if (e.slot < ring_.info.depth)
        serve(e.slot, e.gen);
    }
    store(ring_.user_head()->interrupt_head, load(ring_.kern_head()->interrupt_tail));
    store(ring_.user_head()->forget_head, load(ring_.kern_head()->forget_tail));
  }

  /// Everything that was ever answered, once more: mutators may have spoilt the first time.
  void heal() {
    base_ = load(ring_.kern_head()->complete_head);
    pushed_ = 0;
    for (std::uint32_t slot = 0; slot < ring_.info.depth; ++slot) {
      const std::uint32_t gen = load(ring_.slot_in(slot)->gen);
      if (gen && answered_[slot] == gen) {
        reply(slot, gen, {-EAGAIN, 0});
        push(slot, gen);
      }
    }
  }

 private:
  void serve(std::uint32_t slot, std::uint32_t gen) {
    const efuse_slot_in in = *ring_.slot_in(slot);
    const char *body = reinterpret_cast<const char *>(ring_.slot_in(slot) + 1);
    if (in.in_len == 0) {    // taken back
      reply(slot, gen, {-EIO, 0});
      answered_[slot] = gen;
      push(slot, gen);
      return;
    }
    if (in.in_len < sizeof(fuse_in_header) || in.in_len > ring_.info.slot_in_size - sizeof in)
      return;     // of another use of the slot, that another worker has taken
    fuse_in_header head;
    std::memcpy(&head, body, sizeof head);
    std::span<char> out(reinterpret_cast<char *>(ring_.slot_out(slot) + 1), in.out_cap);
    if (in.out_payload_cap) {
      if (std::uint64_t{in.out_payload_off} + in.out_payload_cap > ring_.info.payload_size)
        return;
      out = {ring_.payload + in.out_payload_off, in.out_payload_cap};
    } else if (in.out_cap > ring_.info.slot_out_size - sizeof(efuse_slot_out)) {
      return;
    }
    reply(slot, gen, answer(rng_, head, {body + sizeof head, in.in_len - sizeof head}, out));
    answered_[slot] = gen;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);    // S1
    if (load(ring_.slot_in(slot)->need_commit))
      push(slot, gen);
    shared_.served_ring.fetch_add(1, std::memory_order_relaxed);
  }

  void reply(std::uint32_t slot, std::uint32_t gen, const Answer &a) {
    efuse_slot_out *out = ring_.slot_out(slot);
    out->error = a.error;
    out->len = a.error ? 0 : static_cast<std::uint32_t>(a.len);
    store(out->done_gen, gen);    // C0
  }

  void push(std::uint32_t slot, std::uint32_t gen) {
    *ring_.complete(base_ + pushed_) = {slot, gen};
    if (pushed_ < ring_.info.depth)
      ++pushed_;
    store(ring_.user_head()->complete_tail, base_ + pushed_);    // C2
  }

  const RingView &ring_;
  const Episode &episode_;
  Shared &shared_;
  Rng rng_;
  std::vector<std::uint32_t> answered_;    // the gen of each slot's last answer
  std::uint32_t pending_head_, base_, pushed_ = 0;
};

constexpr std::uint64_t kHealNs = 100'000'000;

}  // namespace

efuse_attach attach_parameters(const Episode &e, int fuse_fd, const efuse_cpu_rings *map, std::uint32_t nr_cpus) {
  efuse_attach a{};
  a.size = sizeof a;
  a.abi_version = EFUSE_ABI_VERSION;
  a.fuse_fd = fuse_fd;
  a.nr_rings = e.rings;
  a.depth = e.depth;
  a.forget_depth = e.forget_depth;
  a.slot_in_size = e.slot_in;
  a.slot_out_size = e.slot_out;
  a.payload_size = e.payload;
  a.spin_ns = e.spin_ns;
  a.balance = e.balance;
  a.congestion = e.congestion;
  a.nr_cpus = nr_cpus;
  a.cpu_rings = reinterpret_cast<std::uintptr_t>(map);
  return a;
}

int Attachment::create(const Episode &e, Shared &shared, int fuse_fd, std::shared_ptr<Attachment> *made) {
  const int fd = ::open(EFUSE_DEVICE, O_RDWR | O_CLOEXEC);
  if (fd < 0)
    return errno;
  std::shared_ptr<Attachment> attachment(new Attachment(e, shared, fd));
  // Neighbours: every CPU's requesters may spin for the next ring's worker.
  std::vector<efuse_cpu_rings> map(e.rings);
  for (std::uint32_t i = 0; i < e.rings; ++i)
    map[i] = {i, (i + 1) % e.rings};
  efuse_attach a = attach_parameters(e, fuse_fd, map.data(), e.rings);
  count(shared, Kind::kAttach);
  if (::ioctl(fd, EFUSE_IOC_ATTACH, &a) != 0)
    return errno;
  shared.attaches.fetch_add(1, std::memory_order_relaxed);
  const int error = attachment->map_all(a);
  if (error)
    return error;
  *made = std::move(attachment);
  return 0;
}

int Attachment::map_all(const efuse_attach &a) {
  rings_.resize(a.nr_rings);
  for (std::uint32_t i = 0; i < a.nr_rings; ++i) {
    RingView &r = rings_[i];
    const auto map = [&](unsigned region, std::size_t size, int prot) {
      void *p = ::mmap(nullptr, size, prot, MAP_SHARED, fd_, static_cast<off_t>(EFUSE_MMAP_OFFSET(i, region)));
      return p == MAP_FAILED ? nullptr : static_cast<char *>(p);
    };
    r.info.kern_size = a.kern_size;
    r.info.user_size = a.user_size;
    r.info.payload_size = a.payload_size;
    r.kern = map(EFUSE_REGION_KERN, a.kern_size, PROT_READ);
    r.user = map(EFUSE_REGION_USER, a.user_size, PROT_READ | PROT_WRITE);
    r.payload = map(EFUSE_REGION_PAYLOAD, a.payload_size, PROT_READ | PROT_WRITE);
    if (!r.kern || !r.user || !r.payload)
      return errno;
    std::memcpy(&r.info, r.kern, sizeof r.info);
    if (r.info.magic != EFUSE_MAGIC || r.info.ring != i || r.info.depth != a.depth)
      fail(shared_, "the header of ring %u is not its own", i);
  }
  return 0;
}

Attachment::~Attachment() {
  join();
  for (RingView &r : rings_) {
    if (r.kern)
      ::munmap(const_cast<char *>(r.kern), r.info.kern_size);
    if (r.user)
      ::munmap(r.user, r.info.user_size);
    if (r.payload)
      ::munmap(r.payload, r.info.payload_size);
  }
  ::close(fd_);
}

std::string Attachment::not_zero() const {
  for (const RingView &r : rings_) {
    const std::span<const char> parts[] = {{r.kern + sizeof r.info, r.info.kern_size - sizeof r.info},
                                           {r.user, r.info.user_size},
                                           {r.payload, r.info.payload_size}};
    for (unsigned region = 0; region < 3; ++region) {
      const auto found = std::find_if(parts[region].begin(), parts[region].end(), [](char c) { return c != 0; });
      if (found != parts[region].end())
        return "ring " + std::to_string(r.info.ring) + ", region " + std::to_string(region) + ", byte " +
               std::to_string(found - parts[region].begin());
    }
  }
  return "";
}

long Attachment::enter(std::uint32_t ring, std::uint32_t flags, std::uint32_t poll_ns,
                       std::uint64_t timeout_ns) const noexcept {
  efuse_enter e{};
  e.ring = ring;
  e.flags = flags;
  e.poll_ns = poll_ns;
  e.timeout_ns = timeout_ns;
  return ::ioctl(fd_, EFUSE_IOC_ENTER, &e);
}

void Attachment::work(std::uint32_t ring, std::uint64_t seed) {
  Server server(rings_[ring], episode_, shared_, seed);
  Rng rng(seed + 1);
  std::uint64_t healed = now_ns();
  while (!stop_) {
    // Two workers that write to the complete ring at once lose entries, which is part of the attack.
    std::unique_lock one_at_a_time(commit_[ring], std::defer_lock);
    if (shared_.settle)
      one_at_a_time.lock();
    server.take_all();
    if (now_ns() - healed > kHealNs) {
      server.heal();
      healed = now_ns();
    }
    if (one_at_a_time) {
      enter(ring, 0, 0, 0);
      one_at_a_time.unlock();
    }
    const long done = enter(ring, EFUSE_ENTER_WAIT, rng.below(2) ? 0 : rng.below(100'000), 20'000'000);
    if (done < 0 && errno == ENODEV) {
      gone_ = true;
      return;
    }
    if (rng.one_in(50))
      sleep_us(rng.below(3000));    // slow: rings and pools fill
  }
}

void Attachment::serve(unsigned workers) {
  commit_ = std::vector<std::mutex>(rings_.size());
  for (std::uint32_t i = 0; i < rings_.size(); ++i)
    for (unsigned w = 0; w < workers; ++w)
      threads_.emplace_back([this, i, w] { work(i, episode_.seed + 1000 * i + w); });
}

void Attachment::join() {
  stop_ = true;
  for (std::thread &t : threads_)
    t.join();
  threads_.clear();
}

}  // namespace hostile
