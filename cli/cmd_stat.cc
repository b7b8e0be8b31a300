// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse stat [MOUNTPOINT] [--json]: what the running daemons have served.
#include "commands.hh"

#include "control.hh"
#include "find_mounts.hh"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

namespace efuse::cli {
namespace {

using json = nlohmann::json;

constexpr std::array<const char *, 4> kWayNames{"ring", "uring", "stock", "fastpath"};

struct Options {
  std::string mountpoint;
  bool as_json = false;
};

std::string text_of(const json &object, const char *name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string("?");
}

std::string count_of(const json &counts, const char *name) {
  const auto it = counts.find(name);
  return it != counts.end() && it->is_number() ? it->dump() : std::string("-");
}

std::string us_of(const json &mount, const std::string &opcode, const char *part, const char *quantile) {
  const json::json_pointer pointer = json::json_pointer("/latency") / opcode / part / quantile;
  if (!mount.contains(pointer) || !mount.at(pointer).is_number()) return "-";
  return fmt::format("{:.1f}", mount.at(pointer).get<double>());
}

using Row = std::array<std::string, 9>;
using ProgramRow = std::array<std::string, 6>;

Row row_of(const json &mount, const std::string &opcode, const json &counts) {
  Row row{opcode};
  for (std::size_t way = 0; way < kWayNames.size(); ++way) row[1 + way] = count_of(counts, kWayNames[way]);
  row[5] = us_of(mount, opcode, "queue_us", "p50");
  row[6] = us_of(mount, opcode, "queue_us", "p99");
  row[7] = us_of(mount, opcode, "service_us", "p50");
  row[8] = us_of(mount, opcode, "service_us", "p99");
  return row;
}

template <std::size_t N>
void print_aligned(const std::vector<std::array<std::string, N>> &rows) {
  std::array<std::size_t, N> width{};
  for (const auto &row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  for (const auto &row : rows) {
    fmt::print("  {:<{}}", row[0], width[0]);
    for (std::size_t i = 1; i < row.size(); ++i) fmt::print("  {:>{}}", row[i], width[i]);
    fmt::print("\n");
  }
}

/// What each program has made of the requests that it was asked about.
void print_programs(const json &mount) {
  std::vector<ProgramRow> rows{{"fast path", "opcode", "hits", "misses", "declines", "errors"}};
  for (const json &program : mount.value("fastpath", json::array())) {
    const json ops = program.value("opcodes", json::object());
    for (const auto &[opcode, count] : ops.items())
      rows.push_back({text_of(program, "program"), opcode, count_of(count, "hits"), count_of(count, "misses"),
                      count_of(count, "declines"), count_of(count, "errors")});
    if (ops.empty()) rows.push_back({text_of(program, "program"), "-", "0", "0", "0", "0"});
  }
  if (rows.size() > 1) print_aligned(rows);
  if (const std::string reason = mount.value("fastpath_reason", ""); !reason.empty())
    fmt::print("  not fast: {}\n", reason);
}

void print_requests(const json &mount) {
  fmt::print("{}  transport {}", text_of(mount, "mountpoint"), text_of(mount, "transport"));
  if (const std::string reason = mount.value("reason", ""); !reason.empty()) fmt::print(" ({})", reason);
  const json requests = mount.value("requests", json::object());
  for (const char *way : kWayNames)
    fmt::print("{} {} {}", way == kWayNames[0] ? ", requests:" : ",", way, count_of(requests, way));
  fmt::print("\n");
  const json by_op = mount.value("by_op", json::object());
  if (by_op.empty()) return;
  std::vector<Row> rows{
      {"opcode", "ring", "uring", "stock", "fastpath", "queue p50 us", "p99", "service p50 us", "p99"}};
  for (const auto &[opcode, counts] : by_op.items()) rows.push_back(row_of(mount, opcode, counts));
  print_aligned(rows);
}

void print_mount(const json &mount) {
  print_requests(mount);
  print_programs(mount);
}

void stat(const Options &options) {
  const std::vector<json> mounts = find_mounts(options.mountpoint);
  if (options.as_json) {
    fmt::print("{}\n", json(mounts).dump(2));
    return;
  }
  if (mounts.empty()) fmt::print("no efuse mounts (looked in {})\n", control_directory());
  for (std::size_t i = 0; i < mounts.size(); ++i) {
    if (i) fmt::print("\n");
    print_mount(mounts[i]);
  }
}

}  // namespace

void add_stat(CLI::App &app) {
  auto options = std::make_shared<Options>();
  CLI::App *command = app.add_subcommand("stat", "requests and latencies by transport and opcode");
  command->add_option("MOUNTPOINT", options->mountpoint, "this mount only");
  command->add_flag("--json", options->as_json, "an array of mounts as JSON");
  command->callback([options] { stat(*options); });
}

}  // namespace efuse::cli
