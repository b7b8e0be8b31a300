// SPDX-License-Identifier: LGPL-2.1-or-later
#include "probe.hh"

#include <linux/fuse.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace efuse::perf {

static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "shared between processes");

std::uint64_t monotonic_ns() noexcept {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(t.tv_nsec);
}

// ---- cells ---------------------------------------------------------------

void ProbeCell::arm(std::uint32_t opcode) noexcept {
  first_dequeue_.store(0, std::memory_order_relaxed);
  last_reply_.store(0, std::memory_order_relaxed);
  service_.store(0, std::memory_order_relaxed);
  begun_.store(0, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  matched_.store(0, std::memory_order_relaxed);
  overlaps_.store(0, std::memory_order_relaxed);
  opcode_.store(opcode, std::memory_order_relaxed);
  seq_.store(seq_.load(std::memory_order_relaxed) + 1, std::memory_order_release);  // A0
}

std::optional<Split> ProbeCell::collect(std::uint64_t t0, std::uint64_t t1) noexcept {
  const std::uint32_t done = done_.load(std::memory_order_acquire);  // R1
  seq_.store(seq_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  const std::uint64_t first = first_dequeue_.load(std::memory_order_relaxed);
  const std::uint64_t last = last_reply_.load(std::memory_order_relaxed);
  if (done == 0 || begun_.load(std::memory_order_relaxed) != done ||
      overlaps_.load(std::memory_order_relaxed) != 0 || matched_.load(std::memory_order_relaxed) == 0)
    return std::nullopt;
  if (first < t0 || last < first || t1 < last)
    return std::nullopt;
  return Split{first - t0, service_.load(std::memory_order_relaxed), t1 - last, done};
}

std::uint64_t ProbeCell::dequeued() noexcept {
  const std::uint64_t seq = seq_.load(std::memory_order_acquire);  // A1
  if (seq % 2 == 0)
    return 0;
  if (begun_.fetch_add(1, std::memory_order_relaxed) != done_.load(std::memory_order_relaxed))
    overlaps_.fetch_add(1, std::memory_order_relaxed);
  return seq;
}

void ProbeCell::replied(std::uint64_t seq, std::uint32_t opcode, std::uint64_t dequeue_ns) noexcept {
  // A system call that a signal ended leaves its request behind; the client may
  // be at its next one. Where this check is passed just before that, done_ no
  // longer equals begun_ and the client discards the record.
  if (seq_.load(std::memory_order_acquire) != seq)
    return;
  const std::uint64_t now = monotonic_ns();
  std::uint64_t none = 0;
  first_dequeue_.compare_exchange_strong(none, dequeue_ns, std::memory_order_relaxed);
  service_.fetch_add(now - dequeue_ns, std::memory_order_relaxed);
  last_reply_.store(now, std::memory_order_relaxed);
  if (opcode == opcode_.load(std::memory_order_relaxed))
    matched_.fetch_add(1, std::memory_order_relaxed);
  done_.fetch_add(1, std::memory_order_release);  // R0
}

// ---- the table -----------------------------------------------------------

// At offset 0; then owners (a hash table with linear probing), then the cells.
struct ProbeTable::Head {
  std::uint64_t magic;
  std::uint32_t cells;
  std::uint32_t owners;  // power of two, at least twice `cells`: probing always ends
};

namespace {
constexpr std::uint64_t kMagic = 0x31'62'6f'72'70'66'65ull;  // "efprob1"
constexpr std::size_t kHeadBytes = 64;
constexpr unsigned kMaxCells = 1u << 20;

std::size_t owner_bytes(std::uint32_t owners) {
  return (owners * sizeof(std::uint64_t) + 63) / 64 * 64;
}

std::size_t table_bytes(std::uint32_t cells, std::uint32_t owners) {
  return kHeadBytes + owner_bytes(owners) + cells * sizeof(ProbeCell);
}

std::uint32_t owners_for(std::uint32_t cells) { return std::bit_ceil(cells * 2); }

std::uint32_t hash(std::uint32_t tid) { return tid * 2654435761u; }

[[noreturn]] void fail(const char *what) { throw std::system_error(errno, std::generic_category(), what); }
}  // namespace

ProbeTable ProbeTable::create(unsigned cells) {
  if (cells == 0 || cells > kMaxCells)
    throw std::invalid_argument("probe table: bad number of cells");
  const std::size_t size = table_bytes(cells, owners_for(cells));
  const int fd = memfd_create("efuse-probe", MFD_CLOEXEC);
  if (fd < 0)
    fail("memfd_create");
  void *base = MAP_FAILED;
  if (ftruncate(fd, static_cast<off_t>(size)) == 0)
    base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) {
    const int error = errno;
    close(fd);
    errno = error;
    fail("probe table");
  }
  // A new memfd reads as zero, which is what every atomic here starts from.
  new (base) Head{kMagic, cells, owners_for(cells)};
  return ProbeTable(fd, base, size);
}

ProbeTable ProbeTable::attach(int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0)
    fail("probe table");
  const auto size = static_cast<std::size_t>(st.st_size);
  if (!S_ISREG(st.st_mode) || size < kHeadBytes)
    throw std::runtime_error("probe table: the descriptor is not one of the benchmark's tables");
  void *base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED)
    fail("probe table");
  ProbeTable table(-1, base, size);
  const Head &head = table.head();
  if (head.magic != kMagic || head.cells == 0 || head.cells > kMaxCells ||
      head.owners != owners_for(head.cells) || size != table_bytes(head.cells, head.owners))
    throw std::runtime_error("probe table: the descriptor is not one of the benchmark's tables");
  return table;
}

ProbeTable::~ProbeTable() {
  if (base_)
    munmap(base_, size_);
  if (fd_ >= 0)
    close(fd_);
}

ProbeTable::ProbeTable(ProbeTable &&other) noexcept
    : fd_(std::exchange(other.fd_, -1)), base_(std::exchange(other.base_, nullptr)), size_(other.size_) {}

ProbeTable &ProbeTable::operator=(ProbeTable &&other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(base_, other.base_);
  std::swap(size_, other.size_);
  return *this;
}

ProbeTable::Head &ProbeTable::head() const noexcept { return *static_cast<Head *>(base_); }

std::atomic<std::uint64_t> *ProbeTable::owners() const noexcept {
  return reinterpret_cast<std::atomic<std::uint64_t> *>(static_cast<char *>(base_) + kHeadBytes);
}

ProbeCell *ProbeTable::cell(unsigned index) const noexcept {
  char *cells = static_cast<char *>(base_) + kHeadBytes + owner_bytes(head().owners);
  return reinterpret_cast<ProbeCell *>(cells) + index;
}

unsigned ProbeTable::cells() const noexcept { return head().cells; }

// An owner is tid << 32 | index + 1; 0 is a free place.
ProbeCell &ProbeTable::claim(unsigned index, pid_t tid) noexcept {
  const auto key = static_cast<std::uint32_t>(tid);
  const std::uint64_t owner = std::uint64_t{key} << 32 | (index + 1);
  const std::uint32_t mask = head().owners - 1;
  for (std::uint32_t i = hash(key);; ++i) {
    std::uint64_t free = 0;
    if (owners()[i & mask].compare_exchange_strong(free, owner, std::memory_order_release,
                                                   std::memory_order_relaxed))
      return *cell(index);
  }
}

ProbeCell *ProbeTable::find(pid_t tid) const noexcept {
  const auto key = static_cast<std::uint32_t>(tid);
  const std::uint32_t mask = head().owners - 1;
  for (std::uint32_t i = hash(key);; ++i) {
    const std::uint64_t owner = owners()[i & mask].load(std::memory_order_acquire);
    if (owner == 0)
      return nullptr;
    if (owner >> 32 == key)
      return cell(static_cast<std::uint32_t>(owner) - 1);
  }
}

// ---- around the callbacks -------------------------------------------------

namespace {
// The request whose callback this thread is in.
struct InCallback {
  fuse_req_t req = nullptr;
  ProbeCell *cell = nullptr;
  std::uint64_t seq = 0;
  std::uint64_t dequeue_ns = 0;
  std::uint32_t opcode = 0;
};
thread_local InCallback in_callback;

const ProbeTable *probe_table = nullptr;
const fuse_lowlevel_ops *probe_real = nullptr;

void enter(fuse_req_t req, std::uint32_t opcode) noexcept {
  const std::uint64_t now = monotonic_ns();
  ProbeCell *cell = probe_table->find(fuse_req_ctx(req)->pid);
  const std::uint64_t seq = cell ? cell->dequeued() : 0;
  if (seq)
    in_callback = {req, cell, seq, now, opcode};
}

// Before the reply leaves, so that the client finds the record when it returns.
void before_reply(fuse_req_t req) noexcept {
  if (in_callback.req != req || !req) [[likely]]
    return;
  in_callback.cell->replied(in_callback.seq, in_callback.opcode, in_callback.dequeue_ns);
  in_callback.req = nullptr;
}

// A callback that returns without a reply leaves its record unfinished: the
// client sees begun without done and counts the operation as unmeasured.
void leave() noexcept { in_callback.req = nullptr; }
}  // namespace

struct Probe::Callbacks {
  template <auto Member, std::uint32_t Opcode, class... Args>
  static void wrapped(fuse_req_t req, Args... args) {
    enter(req, Opcode);
    (probe_real->*Member)(req, args...);
    leave();
  }

  template <auto Member, std::uint32_t Opcode, class... Args>
  static void wrap(fuse_lowlevel_ops &ops, void (*fuse_lowlevel_ops::*)(fuse_req_t, Args...)) {
    if (ops.*Member)
      ops.*Member = &wrapped<Member, Opcode, Args...>;
  }

  template <auto Member, std::uint32_t Opcode>
  static void wrap(fuse_lowlevel_ops &ops) {
    wrap<Member, Opcode>(ops, Member);
  }
};

Probe::Probe(ProbeTable table, const fuse_lowlevel_ops &real)
    : table_(std::move(table)), real_(real), ops_(real) {
  if (probe_table)
    throw std::logic_error("probe: one for each process");
  using Ops = fuse_lowlevel_ops;
  Callbacks::wrap<&Ops::lookup, FUSE_LOOKUP>(ops_);
  Callbacks::wrap<&Ops::getattr, FUSE_GETATTR>(ops_);
  Callbacks::wrap<&Ops::access, FUSE_ACCESS>(ops_);
  Callbacks::wrap<&Ops::getxattr, FUSE_GETXATTR>(ops_);
  Callbacks::wrap<&Ops::create, FUSE_CREATE>(ops_);
  Callbacks::wrap<&Ops::mknod, FUSE_MKNOD>(ops_);
  Callbacks::wrap<&Ops::unlink, FUSE_UNLINK>(ops_);
  Callbacks::wrap<&Ops::open, FUSE_OPEN>(ops_);
  Callbacks::wrap<&Ops::read, FUSE_READ>(ops_);
  Callbacks::wrap<&Ops::write, FUSE_WRITE>(ops_);
  Callbacks::wrap<&Ops::write_buf, FUSE_WRITE>(ops_);
  probe_real = &real_;
  probe_table = &table_;
}

Probe::~Probe() {
  probe_table = nullptr;
  probe_real = nullptr;
}

}  // namespace efuse::perf

// ---- around the replies ---------------------------------------------------

// The linker turns a filesystem's call of fuse_reply_X() into __wrap_fuse_reply_X()
// and __real_fuse_reply_X() into the library's function (ld's --wrap).
#define PROBE_REPLY(name, params, ...)           \
  extern "C" int __real_fuse_reply_##name params; \
  extern "C" int __wrap_fuse_reply_##name params; \
  extern "C" int __wrap_fuse_reply_##name params { \
    efuse::perf::before_reply(req);               \
    return __real_fuse_reply_##name(__VA_ARGS__); \
  }

PROBE_REPLY(err, (fuse_req_t req, int err), req, err)
PROBE_REPLY(entry, (fuse_req_t req, const fuse_entry_param *e), req, e)
PROBE_REPLY(create, (fuse_req_t req, const fuse_entry_param *e, const fuse_file_info *fi), req, e, fi)
PROBE_REPLY(attr, (fuse_req_t req, const struct stat *attr, double timeout), req, attr, timeout)
PROBE_REPLY(open, (fuse_req_t req, const fuse_file_info *fi), req, fi)
PROBE_REPLY(write, (fuse_req_t req, size_t count), req, count)
PROBE_REPLY(buf, (fuse_req_t req, const char *buf, size_t size), req, buf, size)
PROBE_REPLY(data, (fuse_req_t req, fuse_bufvec *bufv, fuse_buf_copy_flags flags), req, bufv, flags)
PROBE_REPLY(iov, (fuse_req_t req, const iovec *iov, int count), req, iov, count)
PROBE_REPLY(xattr, (fuse_req_t req, size_t count), req, count)
