// SPDX-License-Identifier: LGPL-2.1-or-later
// What `efuse top` shows: the difference of two looks at the same mount, as lines of text.
//
//   parse_sample() -> TopHistory::update() -> sort_mounts() -> top_lines()
//
// Nothing here asks a daemon or knows of a terminal. Not from two threads at once.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace efuse::cli {

inline constexpr std::size_t kTopWays = 4;  // ring, uring, stock, fastpath

/// Counts by the upper bound of a histogram's bucket, in ns.
using TopBuckets = std::map<std::uint64_t, std::uint64_t>;

/// A daemon's answer to {"cmd":"stat","histograms":true}, since its mount.
struct TopSample {
  struct Op {
    std::array<std::uint64_t, kTopWays> count{};
    TopBuckets queue, service;
  };
  std::string mountpoint, fs, transport;
  std::string fastpaths;  // names, with commas between
  std::int64_t pid = 0;
  std::uint64_t taken_ns = 0;           // CLOCK_MONOTONIC, when the counts were taken
  std::uint64_t seen_ns = 0;            // and when cpu_ns was
  std::optional<std::uint64_t> cpu_ns;  // that the daemon has used
  std::map<std::string, Op> ops;        // by opcode
};
/// Counts that a daemon does not tell are 0, histograms empty. `now_ns` stands for the daemon's time where it tells none.
TopSample parse_sample(const nlohmann::json &mount, std::uint64_t now_ns);

/// µs; nothing where no request of the interval has one.
struct TopLatency {
  std::optional<double> p50, p99;
};

struct TopRow {
  std::string name;
  std::array<double, kTopWays> per_s{};
  double total_per_s = 0;
  TopLatency queue, service;
};

struct TopMount {
  std::string mountpoint, fs, transport, fastpaths;
  std::int64_t pid = 0;
  double seconds = 0;         // since the look before; 0: there was none, and nothing below is known
  std::optional<double> cpu;  // CPUs that the daemon kept busy
  TopRow all;
  std::vector<TopRow> ops;    // every opcode seen since the mount
};

/// Remembers the last look at each mount.
class TopHistory {
 public:
  /// `complete`: what is not among `samples` is gone. Otherwise it may just not have answered, and its next interval is
  /// longer.
  std::vector<TopMount> update(std::vector<TopSample> samples, bool complete);

 private:
  using Key = std::pair<std::int64_t, std::string>;  // a mountpoint alone may be another daemon's by now
  std::map<Key, TopSample> last_;
};

/// Largest first, names in their order.
enum class TopSort { rate, queue, service, name, count_ };
/// "requests/s", "queueing p99", "service p99", "name".
const char *to_string(TopSort sort) noexcept;
/// Mounts, and the opcodes of each.
void sort_mounts(std::vector<TopMount> &mounts, TopSort sort);

enum class TopStyle { heading, mount, row };
struct TopLine {
  std::string text;  // UTF-8 without control characters, no newline
  TopStyle style;
};
/// `idle`: opcodes without requests in the interval, too.
std::vector<TopLine> top_lines(const std::vector<TopMount> &mounts, bool idle);

/// Control characters, which a mountpoint may have and a terminal obeys, as question marks.
std::string printable(std::string text);

}  // namespace efuse::cli
