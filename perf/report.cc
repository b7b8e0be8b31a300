// SPDX-License-Identifier: LGPL-2.1-or-later
// Results as JSON, and the machine that they are from.
#include "bench.hh"

#include "commit.hh"

#include <nlohmann/json.hpp>

#include <sched.h>
#include <sys/utsname.h>

#include <cmath>
#include <fstream>

namespace efuse::perf {

namespace {
std::string processor() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);)
    if (line.starts_with("model name"))
      if (const auto colon = line.find(": "); colon != std::string::npos)
        return line.substr(colon + 2);
  return {};
}

double rounded(double value, double unit) { return std::round(value / unit) * unit; }

nlohmann::ordered_json to_json(const Quantiles &q) {
  return {{"p50", rounded(q.p50, 0.001)}, {"p99", rounded(q.p99, 0.001)}, {"max", rounded(q.max, 0.001)}};
}

nlohmann::ordered_json to_json(const Report &report, const Row &row) {
  nlohmann::ordered_json json{
      {"fs", report.fs},
      {"transport", row.transport},
      {"fastpath", row.fastpath},
      {"op", row.op},
      {"threads", row.threads},
      {"cpus", report.machine.cpus},
      {"ops_per_s", rounded(row.ops_per_s, 0.1)},
      {"lat_us", to_json(row.lat)},
      {"queue_us", to_json(row.queue)},
      {"service_us", to_json(row.service)},
      {"reply_us", to_json(row.reply)},
      {"ctxsw_per_op", rounded(row.ctxsw_per_op, 0.0001)},
      {"kernel", report.machine.kernel},
      {"machine", report.machine.name},
  };
  if (!report.machine.commit.empty())
    json["commit"] = report.machine.commit;
  json["rounds"] = report.rounds;
  json["ops_per_s_spread"] = rounded(row.spread, 0.0001);
  for (double ops_per_s : row.rounds)
    json["ops_per_s_rounds"].push_back(rounded(ops_per_s, 0.1));
  json["requests_per_op"] = rounded(row.requests_per_op, 0.0001);
  json["unmeasured"] = rounded(row.unmeasured, 0.000001);
  if (row.carried)
    json["carried"] = rounded(*row.carried, 0.000001);
  if (row.answered)
    json["answered"] = rounded(*row.answered, 0.000001);
  return json;
}
}  // namespace

Machine this_machine() {
  Machine machine;
  cpu_set_t usable;
  if (sched_getaffinity(0, sizeof(usable), &usable) == 0)
    machine.cpus = static_cast<unsigned>(CPU_COUNT(&usable));
  utsname name;
  if (uname(&name) == 0) {
    machine.kernel = name.release;
    machine.name = name.machine;
  }
  if (const std::string model = processor(); !model.empty())
    machine.name += ", " + model;
  if (std::string_view(EFUSE_COMMIT) != "unknown")  // built outside of a git checkout
    machine.commit = EFUSE_COMMIT;
  return machine;
}

std::string to_json(const Report &report) {
  auto rows = nlohmann::ordered_json::array();
  for (const Row &row : report.rows)
    rows.push_back(to_json(report, row));
  return rows.dump(1);
}

}  // namespace efuse::perf
