// SPDX-License-Identifier: LGPL-2.1-or-later
// The queueing-latency benchmark. One run mounts a filesystem once for each
// contestant (a transport, or rings with BPF programs before them), each with a
// daemon of its own, and measures every cell (operation, number of threads) in
// rounds that alternate between them, so that a machine that gets slower or faster
// meanwhile does so for all of them.
//
//   Options -> run() -> Report -> format_table(), to_json()
//   run():  Server per contestant (server.cc), Clients (workload.cc), rounds (runner.cc)
#pragma once

#include "config.hh"
#include "fd.hh"
#include "probe.hh"
#include "stats.hh"

#include <sys/types.h>

#include <array>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace efuse::perf {

/// What a cell does over and over. `create` is a create and an unlink, and gives two rows.
enum class Op { getattr, lookup, create, read, write };
inline constexpr std::array kAllOps{Op::getattr, Op::lookup, Op::create, Op::read, Op::write};
std::string_view to_string(Op op) noexcept;
/// Throws std::invalid_argument with the names that there are.
Op parse_op(std::string_view name);

/// BPF programs that answer requests in the kernel, before rings. Empty: none.
struct FastpathSet {
  std::vector<std::string> names;    // to tell it apart by, in the order in which they are asked
  std::uint32_t programs = 0;        // as Config::fastpath_programs
  std::vector<std::string> objects;  // BPF objects of the user's own, paths
  [[nodiscard]] bool empty() const noexcept { return programs == 0; }
  friend bool operator==(const FastpathSet &, const FastpathSet &) = default;
  /// As after --fastpath: "metadata,read"; "none".
  [[nodiscard]] std::string text() const;
};

/// What is compared: a transport, and the programs before it. Each has a daemon of its own.
struct Contestant {
  std::string transport;  // "dev", "ring", "uring", "libfuse"
  FastpathSet fastpath{};
  /// "dev", "ring+metadata+read".
  [[nodiscard]] std::string label() const;
};

inline constexpr unsigned kMaxThreads = 64;
inline constexpr std::size_t kBlock = 4096;  // bytes of a READ or WRITE

struct Options {
  std::string fs = "nullfs";
  std::vector<std::string> fs_options;  // as after -o
  std::vector<std::string> transports{"dev", "ring"};
  bool transports_optional = true;      // go on without those that cannot be had, but for the first
  // Each is measured over rings, beside the transports, and has to be had. Empty ones are left out.
  std::vector<FastpathSet> fastpaths;
  std::vector<unsigned> threads{1, 2, 4, 16, 32};
  std::vector<Op> ops{kAllOps.begin(), kAllOps.end()};
  double seconds = 1;     // of each cell, for each transport
  unsigned rounds = 5;    // in so many slices
  bool pin = false;       // client thread i on the i-th CPU, modulo their number
  std::size_t file_size = 1u << 20;  // bytes of each thread's file, multiple of kBlock
  Config config;          // of efuse's transports
  std::FILE *progress = nullptr;
};

/// The user asked to stop (SIGINT, SIGTERM, SIGHUP).
class Interrupted : public std::runtime_error {
 public:
  Interrupted() : std::runtime_error("interrupted") {}
};

/// While it lives, SIGINT, SIGTERM and SIGHUP set a flag instead of ending the
/// process, so that mounts are taken away first. One at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard &) = delete;
  InterruptGuard &operator=(const InterruptGuard &) = delete;
  [[nodiscard]] static bool interrupted() noexcept;
  static void check() {
    if (interrupted())
      throw Interrupted();
  }
};

// ---- daemons ---------------------------------------------------------------

/// Completed requests by the way they took, since the mount.
struct Ways {
  std::uint64_t ring = 0;
  std::uint64_t uring = 0;
  std::uint64_t stock = 0;
  std::uint64_t fastpath = 0;
  [[nodiscard]] std::uint64_t total() const noexcept { return ring + uring + stock + fastpath; }
  [[nodiscard]] std::uint64_t by(std::string_view transport) const noexcept;
  friend Ways operator-(const Ways &a, const Ways &b) noexcept;
};

/// A daemon of its own process that serves a temporary mountpoint.
class Server {
 public:
  /// Start and wait until the mount is usable. Throws std::runtime_error that says
  /// why it is not; nothing is left then. This process must have one thread only.
  Server(const Options &options, Contestant contestant, int probe_fd);
  /// Unmounts, whatever state the daemon is in.
  ~Server();
  Server(const Server &) = delete;
  Server &operator=(const Server &) = delete;

  [[nodiscard]] const Contestant &contestant() const noexcept { return contestant_; }
  [[nodiscard]] std::string label() const { return contestant_.label(); }
  /// The root of the mount (O_PATH).
  [[nodiscard]] int root() const noexcept { return root_.get(); }
  /// What the daemon counted, of one opcode ("GETATTR") where it is given and
  /// counted apart; nothing where the daemon does not count (libfuse's loop).
  std::optional<Ways> ways(std::string_view opcode = {});
  /// Voluntary and involuntary context switches of the daemon's threads.
  [[nodiscard]] std::uint64_t context_switches();
  /// Something failed: is it because the daemon is gone? Waits a moment, because its
  /// clients notice before its parent does.
  [[nodiscard]] bool died() noexcept { return wait_exit(500); }
  /// Stop the daemon at once: what waits for it ends with an error.
  void kill() noexcept;

 private:
  void start_efuse(const Options &options, int probe_fd);
  void start_libfuse(const Options &options, int probe_fd);
  void wait_mounted();
  [[nodiscard]] bool wait_exit(int timeout_ms) noexcept;
  void stop() noexcept;

  Contestant contestant_;
  std::string mountpoint_;
  Fd root_;
  Fd control_;
  pid_t pid_ = -1;
  std::vector<std::pair<pid_t, std::uint64_t>> last_switches_;
  std::uint64_t gone_switches_ = 0;  // of threads that have ended
};

// ---- clients ---------------------------------------------------------------

struct Latencies {
  Histogram total, queue, service, reply;
  std::uint64_t requests = 0;    // of the operations in `queue`
  std::uint64_t unmeasured = 0;  // operations in `total` that could not be split: those that a program answered, too
  void merge(const Latencies &other) noexcept;
};

/// A short stretch of one cell on one mount.
struct Slice {
  int root = -1;  // O_PATH descriptor of the mount's root
  Op op = Op::getattr;
  unsigned threads = 1;
  std::uint64_t warmup_ns = 0;  // not counted
  std::uint64_t length_ns = 0;
  std::size_t file_size = 0;    // bytes
};

struct SliceResult {
  std::array<Latencies, 2> latencies;  // [1]: the unlinks of Op::create
  double ops_per_s = 0;
  std::uint64_t all_ops = 0;   // with those of the warm-up
  std::uint64_t switches = 0;  // context switches of clients and daemon during all_ops
  void merge(const SliceResult &other) noexcept;  // all but ops_per_s
};

/// The client threads. They stay for the whole run, because the daemons know them by their ids.
class Clients {
 public:
  Clients(unsigned threads, ProbeTable &table, bool pin);
  ~Clients();
  Clients(const Clients &) = delete;
  Clients &operator=(const Clients &) = delete;

  /// Start the threads. Not in the constructor: the daemons are forked before.
  void start();
  /// Make what the operations need on a new mount. Throws std::runtime_error.
  void prepare(int root, std::size_t file_size);
  /// Throws std::runtime_error if an operation fails or none returns for a long
  /// time, Interrupted on a signal. `daemon_switches` is read just before and after.
  SliceResult run(const Slice &slice, const std::function<std::uint64_t()> &daemon_switches);

 private:
  struct Client;
  struct Loop;
  using Job = std::function<void(Client &)>;
  enum Phase { preparing, ready, looped, idle };  // of one job, in this order

  void main(Client &client) noexcept;
  void dispatch(unsigned threads, Job job);
  void reach(Phase phase) noexcept;
  void wait_all(Phase phase, std::uint64_t usual_ns);
  bool wait_go() noexcept;
  void finish();
  void slice(Client &client, const Slice &slice);
  void fail(const std::string &what, int error) noexcept;

  ProbeTable &table_;
  bool pin_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<std::jthread> threads_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::uint64_t job_number_ = 0;
  unsigned job_threads_ = 0;
  Job job_;
  std::array<unsigned, idle + 1> reached_{};
  bool go_ = false;
  bool quit_ = false;
  std::string error_;

  std::atomic<bool> cancel_{false};
  std::uint64_t start_ns_ = 0;  // of the window; written before go_
  std::uint64_t stop_ns_ = 0;
};

// ---- the run ----------------------------------------------------------------

struct Quantiles {  // µs
  double p50 = 0, p99 = 0, max = 0;
};
Quantiles quantiles_us(const Histogram &histogram) noexcept;

/// The share of a cell's requests that took the contestant's way: its transport, or a program's answer where it has
/// programs. Operations without a request (answered from a cache of the kernel) are not its way either.
/// `threads`: so many last requests may not have been counted yet.
double carried_share(const Contestant &contestant, const Ways &ways, std::uint64_t operations,
                     unsigned threads) noexcept;

struct Row {
  std::string transport;  // the contestant's label
  std::string fastpath = "none";
  std::string op;
  unsigned threads = 0;
  std::vector<double> rounds;  // operations per second of each
  double ops_per_s = 0;  // median of the rounds
  double spread = 0;     // (largest - smallest) / median of the rounds
  Quantiles lat, queue, service, reply;
  double ctxsw_per_op = 0;     // clients and daemon; of a create and unlink together
  double requests_per_op = 0;
  double unmeasured = 0;       // share of the operations that could not be split
  std::optional<double> carried;   // share of the requests that took the contestant's way
  std::optional<double> answered;  // of them, by programs; nothing where there are none
  /// Not carried by what the row is about.
  [[nodiscard]] bool marked() const noexcept { return carried && *carried < 0.99; }
};

struct Machine {
  unsigned cpus = 0;    // that this process may use
  std::string kernel;
  std::string name;     // architecture and processor
  std::string commit;   // of efuse; empty: unknown
};
Machine this_machine();

struct Report {
  std::string fs;
  Machine machine;
  unsigned rounds = 0;
  double slice_seconds = 0;
  std::vector<std::string> transports;  // labels of the contestants
  std::vector<Row> rows;  // by op, threads, transport
  std::vector<std::pair<std::string, std::optional<Ways>>> totals;  // by transport, of the whole run
  [[nodiscard]] bool any_marked() const noexcept;
};

/// Throws std::runtime_error or Interrupted; no mount, process or directory is left.
Report run(const Options &options);

/// JSON array of rows.
std::string to_json(const Report &report);

}  // namespace efuse::perf
