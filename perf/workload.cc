// SPDX-License-Identifier: LGPL-2.1-or-later
// The client threads and what they do: one request of the measured kind for each
// system call, as far as the kernel lets.
#include "bench.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

namespace efuse::perf {

namespace {
// An operation that takes so much longer than its slice never returns.
constexpr std::chrono::seconds kStalled{30};

struct FreeDeleter {
  void operator()(void *p) const noexcept { std::free(p); }
};

std::string file_name(unsigned client) { return fmt::format("f{}", client); }
std::string dir_name(unsigned client) { return fmt::format("d{}", client); }

std::uint64_t thread_switches() noexcept {
  rusage usage;
  getrusage(RUSAGE_THREAD, &usage);
  return static_cast<std::uint64_t>(usage.ru_nvcsw) + static_cast<std::uint64_t>(usage.ru_nivcsw);
}

void pin_to(unsigned index) noexcept {
  cpu_set_t usable, one;
  CPU_ZERO(&one);
  if (sched_getaffinity(0, sizeof(usable), &usable) != 0)
    return;
  unsigned skip = index % static_cast<unsigned>(CPU_COUNT(&usable));
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &usable) && skip-- == 0) {
      CPU_SET(cpu, &one);
      sched_setaffinity(0, sizeof(one), &one);
      return;
    }
}
}  // namespace

std::string_view to_string(Op op) noexcept {
  switch (op) {
    case Op::getattr: return "getattr";
    case Op::lookup: return "lookup";
    case Op::create: return "create";
    case Op::read: return "read";
    case Op::write: return "write";
  }
  return "?";
}

Op parse_op(std::string_view name) {
  for (Op op : kAllOps)
    if (name == to_string(op))
      return op;
  if (name == "unlink")
    throw std::invalid_argument("op unlink: measured with create, ask for that");
  throw std::invalid_argument(
      fmt::format("op {}: unknown; there are getattr, lookup, create, read, write", name));
}

void Latencies::merge(const Latencies &other) noexcept {
  total.merge(other.total);
  queue.merge(other.queue);
  service.merge(other.service);
  reply.merge(other.reply);
  requests += other.requests;
  unmeasured += other.unmeasured;
}

void SliceResult::merge(const SliceResult &other) noexcept {
  for (std::size_t i = 0; i < latencies.size(); ++i)
    latencies[i].merge(other.latencies[i]);
  all_ops += other.all_ops;
  switches += other.switches;
}

struct Clients::Client {
  unsigned index = 0;
  ProbeCell *cell = nullptr;
  std::unique_ptr<char, FreeDeleter> block;  // kBlock bytes, aligned for O_DIRECT
  std::uint64_t random = 0;                  // never 0: xorshift
  std::uint64_t created = 0;                 // names used so far
  SliceResult result;
  std::uint64_t in_window = 0;  // operations that began and ended in it

  std::uint64_t next_random() noexcept {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return random;
  }
};

Clients::Clients(unsigned threads, ProbeTable &table, bool pin) : table_(table), pin_(pin) {
  for (unsigned i = 0; i < threads; ++i) {
    auto client = std::make_unique<Client>();
    client->index = i;
    client->random = 0x9e3779b97f4a7c15ull * (i + 1);
    client->block.reset(static_cast<char *>(std::aligned_alloc(kBlock, kBlock)));
    if (!client->block)
      throw std::bad_alloc();
    std::memset(client->block.get(), static_cast<int>('a' + i % 26), kBlock);
    clients_.push_back(std::move(client));
  }
}

Clients::~Clients() {
  cancel_.store(true, std::memory_order_relaxed);
  {
    std::lock_guard lock(mutex_);
    quit_ = true;
    go_ = true;
  }
  changed_.notify_all();
}

void Clients::start() {
  // Signals are the main thread's.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (auto &client : clients_)
    threads_.emplace_back([this, c = client.get()] { main(*c); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Clients::main(Client &client) noexcept {
  client.cell = &table_.claim(client.index, static_cast<pid_t>(syscall(SYS_gettid)));
  if (pin_)
    pin_to(client.index);
  std::uint64_t seen = 0;
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return quit_ || (job_number_ != seen && client.index < job_threads_); });
      if (quit_)
        return;
      seen = job_number_;
      job = job_;
    }
    job(client);
    reach(idle);
  }
}

void Clients::dispatch(unsigned threads, Job job) {
  {
    std::lock_guard lock(mutex_);
    job_ = std::move(job);
    job_threads_ = threads;
    reached_ = {};
    go_ = false;
    error_.clear();
    ++job_number_;
  }
  cancel_.store(false, std::memory_order_relaxed);
  changed_.notify_all();
}

void Clients::reach(Phase phase) noexcept {
  {
    std::lock_guard lock(mutex_);
    ++reached_[phase];
  }
  changed_.notify_all();
}

// Throws when a signal came, or when the threads take kStalled longer than
// `usual_ns`. They are left as they are: the daemon must be killed then.
void Clients::wait_all(Phase phase, std::uint64_t usual_ns) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::nanoseconds(usual_ns) + kStalled;
  std::unique_lock lock(mutex_);
  // In short steps, because a signal does not end a wait for a condition.
  while (!changed_.wait_for(lock, std::chrono::milliseconds(50),
                            [&] { return reached_[phase] == job_threads_; })) {
    InterruptGuard::check();
    if (std::chrono::steady_clock::now() > deadline)
      throw std::runtime_error(fmt::format("{} of {} threads wait for a reply since {} s",
                                           job_threads_ - reached_[phase], job_threads_,
                                           kStalled.count()));
  }
}

bool Clients::wait_go() noexcept {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return go_; });
  return !quit_;
}

void Clients::finish() {
  wait_all(idle, 0);
  std::lock_guard lock(mutex_);
  if (!error_.empty())
    throw std::runtime_error(error_);
}

// The first failure is the one to tell; it ends the other threads' loops.
void Clients::fail(const std::string &what, int error) noexcept {
  {
    std::lock_guard lock(mutex_);
    if (error_.empty())
      error_ = fmt::format("{}: {}", what, std::strerror(error));
  }
  cancel_.store(true, std::memory_order_relaxed);
}

void Clients::prepare(int root, std::size_t file_size) {
  dispatch(static_cast<unsigned>(clients_.size()), [=, this](Client &client) {
    // Where directories can be made, creates do not wait for another thread's in
    // the kernel, on their parent's lock.
    (void)mkdirat(root, dir_name(client.index).c_str(), 0700);
    const std::string name = file_name(client.index);
    Fd file(openat(root, name.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
    if (!file)
      return fail(fmt::format("cannot create {}", name), errno);
    for (std::size_t at = 0; at < file_size && !cancel_.load(std::memory_order_relaxed); at += kBlock) {
      const ssize_t n = pwrite(file.get(), client.block.get(), kBlock, static_cast<off_t>(at));
      if (n != static_cast<ssize_t>(kBlock))
        return fail(fmt::format("cannot write {}", name), n < 0 ? errno : EIO);
    }
  });
  finish();
}

SliceResult Clients::run(const Slice &slice, const std::function<std::uint64_t()> &daemon_switches) {
  dispatch(slice.threads, [this, slice](Client &client) { this->slice(client, slice); });
  wait_all(ready, 0);
  const std::uint64_t before = daemon_switches();
  {
    std::lock_guard lock(mutex_);
    start_ns_ = monotonic_ns() + slice.warmup_ns;
    stop_ns_ = start_ns_ + slice.length_ns;
    go_ = true;
  }
  changed_.notify_all();
  wait_all(looped, slice.warmup_ns + slice.length_ns);
  const std::uint64_t after = daemon_switches();
  finish();

  SliceResult sum;
  std::uint64_t in_window = 0;
  for (unsigned i = 0; i < slice.threads; ++i) {
    sum.merge(clients_[i]->result);
    in_window += clients_[i]->in_window;
  }
  sum.switches += after - before;
  sum.ops_per_s = static_cast<double>(in_window) * 1e9 / static_cast<double>(slice.length_ns);
  return sum;
}

// ---- operations -----------------------------------------------------------

namespace {
// One measured system call. `call` returns 0 or an errno.
struct Timed {
  std::uint64_t t0, t1;
  int error;
};

template <class Call>
Timed timed(ProbeCell &cell, std::uint32_t opcode, std::uint64_t count_from, Latencies &into, Call &&call) {
  cell.arm(opcode);
  const std::uint64_t t0 = monotonic_ns();
  const int error = call();
  const std::uint64_t t1 = monotonic_ns();
  const std::optional<Split> split = cell.collect(t0, t1);
  if (!error && t0 >= count_from) {
    into.total.add(t1 - t0);
    if (split) {
      into.queue.add(split->queue);
      into.service.add(split->service);
      into.reply.add(split->reply);
      into.requests += split->requests;
    } else {
      ++into.unmeasured;
    }
  }
  return {t0, t1, error};
}

// On a descriptor without a path: no LOOKUP before it.
int do_getattr(int file) noexcept {
  struct statx buf;
  return statx(file, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &buf) ? errno : 0;
}

// Attributes are taken as the LOOKUP left them: no GETATTR after it.
int do_lookup(int root, const char *name) noexcept {
  struct statx buf;
  return statx(root, name, AT_STATX_DONT_SYNC | AT_SYMLINK_NOFOLLOW, STATX_TYPE, &buf) ? errno : 0;
}

int done_or_error(ssize_t n) noexcept { return n == static_cast<ssize_t>(kBlock) ? 0 : n < 0 ? errno : EIO; }

int open_flags(Op op) noexcept {
  return op == Op::read || op == Op::write ? O_RDWR | O_DIRECT | O_CLOEXEC : O_PATH | O_CLOEXEC;
}
}  // namespace

// One client's turn in one slice.
struct Clients::Loop {
  Client &client;
  const Slice &slice;
  std::uint64_t start_ns, stop_ns;  // of the window that counts
  std::string name = file_name(client.index);
  Fd file{openat(slice.root, name.c_str(), open_flags(slice.op))};
  int open_error = file ? 0 : errno;
  Fd own_dir{openat(slice.root, dir_name(client.index).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};

  template <class Call>
  Timed measure(unsigned part, std::uint32_t opcode, Call &&call) {
    return timed(*client.cell, opcode, start_ns, client.result.latencies[part], call);
  }

  [[nodiscard]] off_t random_block() {
    return static_cast<off_t>(client.next_random() % (slice.file_size / kBlock) * kBlock);
  }

  Timed create_unlink() {
    const int dir = own_dir ? own_dir.get() : slice.root;
    const std::string fresh = fmt::format("c{}-{}", client.index, client.created++);
    int made = -1;
    const Timed create = measure(0, FUSE_CREATE, [&] {
      made = openat(dir, fresh.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
      return made < 0 ? errno : 0;
    });
    if (create.error)
      return create;
    close(made);
    const Timed unlink =
        measure(1, FUSE_UNLINK, [&] { return unlinkat(dir, fresh.c_str(), 0) ? errno : 0; });
    return {create.t0, unlink.t1, unlink.error};
  }

  Timed once() {
    char *const block = client.block.get();
    switch (slice.op) {
      case Op::getattr: return measure(0, FUSE_GETATTR, [&] { return do_getattr(file.get()); });
      case Op::lookup: return measure(0, FUSE_LOOKUP, [&] { return do_lookup(slice.root, name.c_str()); });
      case Op::create: return create_unlink();
      case Op::read:
        return measure(0, FUSE_READ, [&, at = random_block()] {
          return done_or_error(pread(file.get(), block, kBlock, at));
        });
      case Op::write:
        return measure(0, FUSE_WRITE, [&, at = random_block()] {
          return done_or_error(pwrite(file.get(), block, kBlock, at));
        });
    }
    return {0, 0, EINVAL};
  }
};

void Clients::slice(Client &client, const Slice &slice) {
  client.result = {};
  client.in_window = 0;
  Loop loop{client, slice, 0, 0};
  if (!loop.file)
    fail(fmt::format("cannot open {}", loop.name), loop.open_error);
  reach(ready);
  if (!wait_go() || !loop.file) {
    reach(looped);
    return;
  }
  loop.start_ns = start_ns_;
  loop.stop_ns = stop_ns_;

  const std::uint64_t before = thread_switches();
  Timed last{};
  while (last.t1 < loop.stop_ns && !cancel_.load(std::memory_order_relaxed)) {
    last = loop.once();
    if (last.error) {
      fail(fmt::format("{} with {} threads", to_string(slice.op), slice.threads), last.error);
      break;
    }
    ++client.result.all_ops;
    client.in_window += last.t0 >= loop.start_ns && last.t1 <= loop.stop_ns;
  }
  client.result.switches = thread_switches() - before;
  reach(looped);
}

}  // namespace efuse::perf
