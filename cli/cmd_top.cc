// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse top [MOUNTPOINT]: what the running daemons serve just now.
#include "commands.hh"

#include "control.hh"
#include "find_mounts.hh"
#include "stats.hh"
#include "top_model.hh"
#include "top_screen.hh"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace efuse::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kShortest = 0.1;  // seconds
constexpr double kLongest = 3600;

struct Options {
  std::string mountpoint;
  double interval = 1;  // seconds
  std::uint64_t iterations = 0;  // 0: without end
  bool batch = false;
  bool idle = false;
  TopSort sort = TopSort::rate;
};

/// User and system time of a process.
std::optional<std::uint64_t> cpu_ns_of(std::int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  // The second field is the program's name, in parentheses, and may have anything in it.
  const auto name_end = line.rfind(')');
  if (name_end == line.npos) return std::nullopt;
  std::istringstream rest(line.substr(name_end + 1));
  const std::vector<std::string> fields{std::istream_iterator<std::string>(rest), {}};
  constexpr std::size_t kUser = 11, kSystem = 12;  // of proc(5)'s fields 14 and 15, from the third on
  const long ticks = sysconf(_SC_CLK_TCK);
  if (fields.size() <= kSystem || ticks <= 0) return std::nullopt;
  const std::uint64_t used = std::stoull(fields[kUser]) + std::stoull(fields[kSystem]);
  return used * (1'000'000'000 / static_cast<std::uint64_t>(ticks));
}

/// Looks at the mounts, and compares with the look before.
class Observer {
 public:
  Observer(const Options &options, std::chrono::milliseconds patience)
      : watch_(options.mountpoint, patience), mountpoint_(options.mountpoint) {}

  std::vector<TopMount> look() {
    std::vector<TopSample> samples;
    for (const nlohmann::json &mount : watch_.look()) {
      TopSample sample = parse_sample(mount, now_ns());
      sample.cpu_ns = cpu_ns_of(sample.pid);
      samples.push_back(std::move(sample));
    }
    if (!looked_ && samples.empty() && !mountpoint_.empty() && watch_.problems().empty())
      throw std::runtime_error(fmt::format("{}: no efuse mount (looked in {})", mountpoint_, control_directory()));
    looked_ = true;
    return history_.update(std::move(samples), watch_.problems().empty());
  }
  [[nodiscard]] std::vector<std::string> problems() const {
    std::vector<std::string> lines;
    for (const std::string &problem : watch_.problems()) lines.push_back(printable(problem));
    return lines;
  }

 private:
  MountWatch watch_;
  std::string mountpoint_;
  TopHistory history_;
  bool looked_ = false;
};

std::string clock_time() { return fmt::format("{:%H:%M:%S}", fmt::localtime(std::time(nullptr))); }

std::string count_of(std::size_t mounts) {
  return mounts == 0 ? "no efuse mounts" : fmt::format("{} mount{}", mounts, mounts == 1 ? "" : "s");
}

Clock::duration duration_of(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

/// The next time to look, in step with `last`; from now on where that has passed.
Clock::time_point next_look(Clock::time_point last, double interval) {
  return std::max(last + duration_of(interval), Clock::now());
}

/// A table for each interval that has passed.
int run_batch(const Options &options) {
  Observer observer(options, std::chrono::seconds(3));
  auto at = Clock::now();
  observer.look();
  for (std::uint64_t i = 0; options.iterations == 0 || i < options.iterations; ++i) {
    at = next_look(at, options.interval);
    std::this_thread::sleep_until(at);
    std::vector<TopMount> mounts = observer.look();
    sort_mounts(mounts, options.sort);
    fmt::print("{}{}  {}\n", i ? "\n" : "", clock_time(), count_of(mounts.size()));
    for (const TopLine &line : top_lines(mounts, options.idle)) fmt::print("{}\n", line.text);
    for (const std::string &problem : observer.problems()) fmt::print(stderr, "efuse: {}\n", problem);
    if (std::fflush(stdout) != 0) break;  // main() says so
  }
  return 0;
}

std::string status_line(const Options &options, std::size_t mounts) {
  return fmt::format("efuse top {}  {}, every {:.3g} s, by {}   q quit  s sort  a {}  +- interval", clock_time(),
                     count_of(mounts), options.interval, to_string(options.sort), options.idle ? "active" : "all");
}

/// What a key changes. Returns whether to look at once.
bool obey(TopScreen::Key key, Options &options) {
  switch (key) {
    case TopScreen::Key::sort:
      options.sort = static_cast<TopSort>((static_cast<int>(options.sort) + 1) % static_cast<int>(TopSort::count_));
      return false;
    case TopScreen::Key::idle:
      options.idle = !options.idle;
      return false;
    case TopScreen::Key::faster:
      options.interval = std::max(options.interval / 2, kShortest);
      return false;
    case TopScreen::Key::slower:
      options.interval = std::min(options.interval * 2, kLongest);
      return false;
    default:
      return true;
  }
}

int run_terminal(Options options) {
  // Keys wait while a daemon does.
  Observer observer(options, std::chrono::milliseconds(500));
  std::vector<TopMount> mounts = observer.look();
  TopScreen screen;
  for (std::uint64_t i = 0; options.iterations == 0 || i < options.iterations; ++i) {
    const auto looked = Clock::now();
    for (;;) {
      sort_mounts(mounts, options.sort);
      screen.show(status_line(options, mounts.size()), observer.problems(), top_lines(mounts, options.idle));
      const TopScreen::Key key = screen.wait(next_look(looked, options.interval));
      if (key == TopScreen::Key::quit) return 0;
      if (obey(key, options)) break;
    }
    mounts = observer.look();
  }
  return 0;
}

}  // namespace

void add_top(CLI::App &app) {
  auto o = std::make_shared<Options>();
  CLI::App *cmd = app.add_subcommand("top", "requests, latencies and CPU of the mounts, again and again");
  cmd->add_option("MOUNTPOINT", o->mountpoint, "this mount only");
  cmd->add_option("-i,--interval", o->interval, "seconds from look to look, 0.1 to 3600")
      ->check(CLI::Range(kShortest, kLongest))
      ->capture_default_str();
  cmd->add_flag("-b,--batch", o->batch, "plain text, a table for each interval");
  cmd->add_option("-n,--iterations", o->iterations, "end after so many intervals")->check(CLI::PositiveNumber);
  cmd->add_option("--sort", o->sort, "largest first: rate, queue or service (their p99); name")
      ->transform(CLI::CheckedTransformer(std::map<std::string, TopSort>{
          {"rate", TopSort::rate}, {"queue", TopSort::queue}, {"service", TopSort::service}, {"name", TopSort::name}}));
  cmd->add_flag("-a,--all", o->idle, "opcodes without requests in the interval, too");
  cmd->callback([o] {
    if (const int status = o->batch ? run_batch(*o) : run_terminal(*o)) throw CLI::RuntimeError(status);
  });
}

}  // namespace efuse::cli
