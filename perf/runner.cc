// SPDX-License-Identifier: LGPL-2.1-or-later
// The run: all mounts at once, then cell after cell, each in rounds that
// alternate between the mounts.
#include "bench.hh"
#include "rounds.hh"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <utility>

namespace efuse::perf {

namespace {
std::atomic<bool> interrupt_flag{false};  // a handler has nothing else to write to

void on_interrupt(int) { interrupt_flag.store(true, std::memory_order_relaxed); }

constexpr std::array kInterrupts{SIGINT, SIGTERM, SIGHUP};
struct sigaction saved_actions[kInterrupts.size()];
}  // namespace

InterruptGuard::InterruptGuard() {
  interrupt_flag.store(false, std::memory_order_relaxed);
  struct sigaction action {};
  action.sa_handler = on_interrupt;  // without SA_RESTART: polls return
  for (std::size_t i = 0; i < kInterrupts.size(); ++i)
    sigaction(kInterrupts[i], &action, &saved_actions[i]);
}

InterruptGuard::~InterruptGuard() {
  for (std::size_t i = 0; i < kInterrupts.size(); ++i)
    sigaction(kInterrupts[i], &saved_actions[i], nullptr);
}

bool InterruptGuard::interrupted() noexcept { return interrupt_flag.load(std::memory_order_relaxed); }

Quantiles quantiles_us(const Histogram &histogram) noexcept {
  // A quantile is its bucket's upper bound, which may lie beyond the largest value.
  const auto us = [&](std::uint64_t ns) { return static_cast<double>(std::min(ns, histogram.max())) / 1e3; };
  return {us(histogram.quantile(0.5)), us(histogram.quantile(0.99)), us(histogram.max())};
}

namespace {
using Servers = std::vector<std::unique_ptr<Server>>;

// What the rounds of one cell add up to on one transport.
struct CellSum {
  SliceResult sum;
  std::vector<double> ops_per_s;  // of each round
  std::optional<Ways> before;
  std::optional<Ways> ways;
};

double share(std::uint64_t part, std::uint64_t whole) noexcept {
  return whole ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

// A line that is overwritten on a terminal; else one line for each cell.
class Progress {
 public:
  Progress(std::FILE *out, std::size_t cells) : out_(out), cells_(cells), tty_(out && isatty(fileno(out))) {}
  ~Progress() { clear(); }
  Progress(const Progress &) = delete;
  Progress &operator=(const Progress &) = delete;

  void slice(std::size_t cell, const std::string &what) {
    if (tty_)
      fmt::print(out_, "\r\033[K[{}/{}] {}", cell + 1, cells_, what);
    flush();
  }
  void cell(std::size_t cell, const std::string &what) {
    if (out_ && !tty_)
      fmt::print(out_, "[{}/{}] {}\n", cell + 1, cells_, what);
    flush();
  }
  void line(const std::string &text) {
    clear();
    if (out_)
      fmt::print(out_, "{}\n", text);
    flush();
  }

 private:
  void clear() {
    if (tty_)
      fmt::print(out_, "\r\033[K");
    flush();
  }
  void flush() {
    if (out_)
      std::fflush(out_);
  }
  std::FILE *out_;
  std::size_t cells_;
  bool tty_;
};

// Whatever fails in `work` is told with the name of the contestant it failed on.
template <class Work>
auto blaming(Server &server, Work &&work) {
  try {
    return work();
  } catch (const Interrupted &) {
    throw;
  } catch (const std::exception &e) {
    throw std::runtime_error(fmt::format("{}: {}{}", server.label(), e.what(),
                                         server.died() ? " (the daemon has died)" : ""));
  }
}

class Run {
 public:
  explicit Run(const Options &options)
      : options_(options),
        table_(ProbeTable::create(max_threads())),
        clients_(max_threads(), table_, options.pin),
        progress_(options.progress, options.ops.size() * options.threads.size()) {}

  Report operator()();

 private:
  [[nodiscard]] unsigned max_threads() const {
    return *std::max_element(options_.threads.begin(), options_.threads.end());
  }
  void start_servers();
  void measure_cells(Report &report);
  std::vector<CellSum> measure_cell(std::size_t cell, Op op, unsigned threads);
  void add_rows(Report &report, Op op, unsigned threads, const std::vector<CellSum> &sums) const;
  [[nodiscard]] std::string summary(Op op, unsigned threads, const std::vector<CellSum> &sums) const;

  const Options &options_;
  InterruptGuard guard_;
  ProbeTable table_;
  // Servers go first: a client that waits for a daemon ends when the daemon does.
  Clients clients_;
  Servers servers_;
  Progress progress_;
};

std::vector<Contestant> contestants_of(const Options &options) {
  std::vector<Contestant> all;
  for (const std::string &transport : options.transports)
    all.push_back({transport});
  for (const FastpathSet &fastpath : options.fastpaths)
    if (!fastpath.empty())
      all.push_back({"ring", fastpath});
  return all;
}

void Run::start_servers() {
  for (const Contestant &contestant : contestants_of(options_)) {
    InterruptGuard::check();
    try {
      servers_.push_back(std::make_unique<Server>(options_, contestant, table_.fd()));
    } catch (const Interrupted &) {
      throw;
    } catch (const std::exception &e) {
      const bool optional = options_.transports_optional && contestant.fastpath.empty();
      if (!optional || servers_.empty())
        throw std::runtime_error(fmt::format("{}: {}", contestant.label(), e.what()));
      progress_.line(fmt::format("{}: not measured: {}", contestant.label(), e.what()));
    }
  }
}

// The opcode as the daemon's statistics name it. A create's is CREATE: what is
// looked up and unlinked between takes the same ways.
std::string opcode_name(Op op) {
  std::string name(to_string(op));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::toupper(c); });
  return name;
}

std::vector<CellSum> Run::measure_cell(std::size_t cell, Op op, unsigned threads) {
  const double slice_ns = options_.seconds * 1e9 / options_.rounds;
  Slice slice;
  slice.op = op;
  slice.threads = threads;
  slice.length_ns = static_cast<std::uint64_t>(slice_ns);
  // Long enough for adaptive budgets and the scheduler to settle.
  slice.warmup_ns = static_cast<std::uint64_t>(std::clamp(slice_ns / 5, 10e6, 200e6));
  slice.file_size = options_.file_size;

  std::vector<CellSum> sums(servers_.size());
  for (std::size_t i = 0; i < servers_.size(); ++i)
    sums[i].before = servers_[i]->ways(opcode_name(op));
  for (unsigned round = 0; round < options_.rounds; ++round)
    for (std::size_t k = 0; k < servers_.size(); ++k) {
      // Every other round backwards, so that none is always the first.
      const std::size_t i = round % 2 ? servers_.size() - 1 - k : k;
      Server &server = *servers_[i];
      progress_.slice(cell, fmt::format("{}, {} threads, round {} of {}, {}", to_string(op), threads,
                                        round + 1, options_.rounds, server.label()));
      slice.root = server.root();
      const SliceResult result = blaming(
          server, [&] { return clients_.run(slice, [&] { return server.context_switches(); }); });
      sums[i].sum.merge(result);
      sums[i].ops_per_s.push_back(result.ops_per_s);
    }
  for (std::size_t i = 0; i < servers_.size(); ++i)
    if (const auto now = servers_[i]->ways(opcode_name(op)))
      sums[i].ways = *now - *sums[i].before;
  return sums;
}

Row make_row(const CellSum &sum, const Latencies &latencies) {
  Row row;
  row.rounds = sum.ops_per_s;
  row.ops_per_s = median(sum.ops_per_s);
  row.spread = spread(sum.ops_per_s);
  row.lat = quantiles_us(latencies.total);
  row.queue = quantiles_us(latencies.queue);
  row.service = quantiles_us(latencies.service);
  row.reply = quantiles_us(latencies.reply);
  row.ctxsw_per_op = share(sum.sum.switches, sum.sum.all_ops);
  row.requests_per_op = share(latencies.requests, latencies.queue.count());
  row.unmeasured = share(latencies.unmeasured, latencies.total.count());
  return row;
}

void Run::add_rows(Report &report, Op op, unsigned threads, const std::vector<CellSum> &sums) const {
  const bool pair = op == Op::create;
  for (unsigned part = 0; part < (pair ? 2u : 1u); ++part)
    for (std::size_t i = 0; i < servers_.size(); ++i) {
      Row row = make_row(sums[i], sums[i].sum.latencies[part]);
      const Contestant &contestant = servers_[i]->contestant();
      row.transport = contestant.label();
      row.fastpath = contestant.fastpath.text();
      row.op = part ? "unlink" : to_string(op);
      row.threads = threads;
      if (const auto &ways = sums[i].ways) {
        row.carried = carried_share(contestant, *ways, sums[i].sum.all_ops, threads);
        if (!contestant.fastpath.empty())
          row.answered = share(ways->fastpath, ways->total());
      }
      report.rows.push_back(std::move(row));
    }
}

std::string Run::summary(Op op, unsigned threads, const std::vector<CellSum> &sums) const {
  std::string text = fmt::format("{}, {} threads:", to_string(op), threads);
  for (std::size_t i = 0; i < sums.size(); ++i)
    text += fmt::format("{} {} {:.0f}/s", i ? "," : "", servers_[i]->label(), median(sums[i].ops_per_s));
  return text;
}

void Run::measure_cells(Report &report) {
  std::size_t cell = 0;
  for (Op op : options_.ops)
    for (unsigned threads : options_.threads) {
      const std::vector<CellSum> sums = measure_cell(cell, op, threads);
      add_rows(report, op, threads, sums);
      progress_.cell(cell, summary(op, threads, sums));
      ++cell;
    }
}

Report Run::operator()() {
  Report report;
  report.fs = options_.fs;
  report.machine = this_machine();
  report.rounds = options_.rounds;
  report.slice_seconds = options_.seconds / options_.rounds;
  start_servers();
  for (const auto &server : servers_)
    report.transports.push_back(server->label());
  clients_.start();
  try {
    for (const auto &server : servers_) {
      progress_.slice(0, fmt::format("preparing {}", server->label()));
      blaming(*server, [&] { clients_.prepare(server->root(), options_.file_size); });
    }
    measure_cells(report);
    for (const auto &server : servers_)
      report.totals.emplace_back(server->label(), server->ways());
  } catch (...) {
    // Clients may be inside; they come back when nobody can answer them any more.
    for (const auto &server : servers_)
      server->kill();
    throw;
  }
  return report;
}
}  // namespace

double carried_share(const Contestant &contestant, const Ways &ways, std::uint64_t operations,
                     unsigned threads) noexcept {
  const std::uint64_t own =
      ways.by(contestant.transport) + (contestant.fastpath.empty() ? 0 : ways.fastpath);
  // Each operation is at least one request, or nothing vouches for it.
  const std::uint64_t least = operations > threads ? operations - threads : 0;
  return share(own, std::max(ways.total(), least));
}

bool Report::any_marked() const noexcept {
  return std::any_of(rows.begin(), rows.end(), [](const Row &row) { return row.marked(); });
}

Report run(const Options &options) {
  if (options.threads.empty() || options.ops.empty() || options.transports.empty())
    throw std::invalid_argument("nothing to measure");
  return Run(options)();
}

}  // namespace efuse::perf
