// SPDX-License-Identifier: LGPL-2.1-or-later
#include "top_model.hh"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace efuse::cli {
namespace {

using json = nlohmann::json;

constexpr std::array<const char *, kTopWays> kWays{"ring", "uring", "stock", "fastpath"};

std::string text_of(const json &object, const char *name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::optional<std::uint64_t> number_of(const json &value) {
  if (!value.is_number_integer() || (!value.is_number_unsigned() && value.get<std::int64_t>() < 0)) return std::nullopt;
  return value.get<std::uint64_t>();
}

std::optional<std::uint64_t> number_of(const json &object, const char *name) {
  const auto it = object.find(name);
  return it == object.end() ? std::nullopt : number_of(*it);
}

/// A member that is an object, or an empty one.
const json &object_of(const json &object, const char *name) {
  static const json empty = json::object();
  const auto it = object.find(name);
  return it != object.end() && it->is_object() ? *it : empty;
}

TopBuckets buckets_of(const json &histograms, const char *name) {
  TopBuckets buckets;
  const auto it = histograms.find(name);
  if (it == histograms.end() || !it->is_array()) return buckets;
  for (const json &bucket : *it) {
    if (!bucket.is_array() || bucket.size() != 2) continue;
    const auto bound = number_of(bucket[0]), count = number_of(bucket[1]);
    if (bound && count) buckets[*bound] += *count;
  }
  return buckets;
}

std::string fastpaths_of(const json &mount) {
  std::string names;
  const auto it = mount.find("fastpath");
  if (it == mount.end() || !it->is_array()) return names;
  for (const json &program : *it)
    if (program.is_object()) names += (names.empty() ? "" : ",") + text_of(program, "program");
  return names;
}

// ---- differences -------------------------------------------------------------

/// Counts that have gone down are another mount's.
bool continues(const TopSample &before, const TopSample &now) {
  return now.taken_ns > before.taken_ns &&
         std::all_of(before.ops.begin(), before.ops.end(), [&](const auto &entry) {
           const auto it = now.ops.find(entry.first);
           if (it == now.ops.end()) return false;
           for (std::size_t way = 0; way < kTopWays; ++way)
             if (it->second.count[way] < entry.second.count[way]) return false;
           return true;
         });
}

/// Buckets only grow; one that has not, in an answer that is not as expected, counts nothing.
TopBuckets difference(const TopBuckets &now, const TopBuckets &before) {
  TopBuckets out;
  for (const auto &[bound, count] : now) {
    const auto it = before.find(bound);
    const std::uint64_t old = it == before.end() ? 0 : it->second;
    if (count > old) out[bound] = count - old;
  }
  return out;
}

TopSample::Op difference(const TopSample::Op &now, const TopSample::Op &before) {
  TopSample::Op out;
  for (std::size_t way = 0; way < kTopWays; ++way) out.count[way] = now.count[way] - before.count[way];
  out.queue = difference(now.queue, before.queue);
  out.service = difference(now.service, before.service);
  return out;
}

void add(TopSample::Op &to, const TopSample::Op &from) {
  for (std::size_t way = 0; way < kTopWays; ++way) to.count[way] += from.count[way];
  for (const auto &[bound, count] : from.queue) to.queue[bound] += count;
  for (const auto &[bound, count] : from.service) to.service[bound] += count;
}

std::optional<double> quantile_us(const TopBuckets &buckets, double q) {
  std::uint64_t total = 0;
  for (const auto &[bound, count] : buckets) total += count;
  const double rank = std::max(1.0, std::ceil(q * static_cast<double>(total)));
  std::uint64_t seen = 0;
  for (const auto &[bound, count] : buckets)
    if (static_cast<double>(seen += count) >= rank) return static_cast<double>(bound) / 1e3;
  return std::nullopt;
}

TopRow row_of(std::string name, const TopSample::Op &op, double seconds) {
  TopRow row;
  row.name = std::move(name);
  for (std::size_t way = 0; way < kTopWays; ++way) {
    row.per_s[way] = static_cast<double>(op.count[way]) / seconds;
    row.total_per_s += row.per_s[way];
  }
  row.queue = {quantile_us(op.queue, 0.5), quantile_us(op.queue, 0.99)};
  row.service = {quantile_us(op.service, 0.5), quantile_us(op.service, 0.99)};
  return row;
}

void compare(TopMount &mount, const TopSample &before, const TopSample &now) {
  mount.seconds = static_cast<double>(now.taken_ns - before.taken_ns) / 1e9;
  TopSample::Op all;
  for (const auto &[name, op] : now.ops) {
    const auto it = before.ops.find(name);
    const TopSample::Op change = it == before.ops.end() ? op : difference(op, it->second);
    add(all, change);
    mount.ops.push_back(row_of(name, change, mount.seconds));
  }
  mount.all = row_of("all", all, mount.seconds);
  if (before.cpu_ns && now.cpu_ns && *now.cpu_ns >= *before.cpu_ns && now.seen_ns > before.seen_ns)
    mount.cpu = static_cast<double>(*now.cpu_ns - *before.cpu_ns) / static_cast<double>(now.seen_ns - before.seen_ns);
}

// ---- text ---------------------------------------------------------------------

/// Three figures, or all before the point.
std::string figure(double value) { return fmt::format("{:.{}f}", value, value < 10 ? 2 : value < 100 ? 1 : 0); }

std::string figure(const std::optional<double> &value) { return value ? figure(*value) : std::string("-"); }

/// Nothing is a plain 0: what happens stands out.
std::string rate(double per_s) { return per_s > 0 ? figure(per_s) : std::string("0"); }

constexpr std::size_t kNameWidth = 15;  // COPY_FILE_RANGE; with it a line has 79 columns

std::string row_text(const TopRow &row) {
  std::string text = fmt::format("{:<{}}", row.name, kNameWidth);
  for (double per_s : row.per_s) text += fmt::format("{:>8}", rate(per_s));
  for (const TopLatency &latency : {row.queue, row.service})
    text += fmt::format("{:>8}{:>8}", figure(latency.p50), figure(latency.p99));
  return text;
}

std::string heading() {
  std::string text = fmt::format("{:<{}}", "opcode", kNameWidth);
  for (const char *way : kWays) text += fmt::format("{:>8}", std::string(way) == "fastpath" ? "fast" : way);
  return text + fmt::format("{:>8}{:>8}{:>8}{:>8}", "p50", "p99", "p50", "p99");
}

std::string title(const TopMount &mount) {
  std::string text = fmt::format("{}  {} over {}", mount.mountpoint, mount.fs.empty() ? "?" : mount.fs, mount.transport);
  if (!mount.fastpaths.empty()) text += fmt::format(" with {}", mount.fastpaths);
  text += fmt::format("  pid {}", mount.pid);
  if (mount.cpu) text += fmt::format("  CPU {:.0f}%", *mount.cpu * 100);
  return text + (mount.seconds > 0 ? fmt::format("  last {:.2f} s", mount.seconds) : "  new");
}

}  // namespace

TopSample parse_sample(const json &mount, std::uint64_t now_ns) {
  TopSample sample;
  sample.mountpoint = text_of(mount, "mountpoint");
  sample.fs = text_of(mount, "fs");
  sample.transport = text_of(mount, "transport");
  sample.fastpaths = fastpaths_of(mount);
  sample.pid = static_cast<std::int64_t>(number_of(mount, "pid").value_or(0));
  sample.taken_ns = number_of(mount, "taken_ns").value_or(now_ns);
  sample.seen_ns = now_ns;
  const json &histograms = object_of(mount, "histograms");
  for (const auto &[name, counts] : object_of(mount, "by_op").items()) {
    TopSample::Op &op = sample.ops[name];
    for (std::size_t way = 0; way < kTopWays; ++way) op.count[way] = number_of(counts, kWays[way]).value_or(0);
    const json &of_op = object_of(histograms, name.c_str());
    op.queue = buckets_of(of_op, "queue_ns");
    op.service = buckets_of(of_op, "service_ns");
  }
  return sample;
}

std::vector<TopMount> TopHistory::update(std::vector<TopSample> samples, bool complete) {
  std::vector<TopMount> mounts;
  std::map<Key, TopSample> next;
  for (TopSample &now : samples) {
    TopMount mount;
    std::tie(mount.mountpoint, mount.fs, mount.transport, mount.fastpaths, mount.pid) =
        std::tie(now.mountpoint, now.fs, now.transport, now.fastpaths, now.pid);
    const Key key{now.pid, now.mountpoint};
    if (const auto it = last_.find(key); it != last_.end() && continues(it->second, now)) compare(mount, it->second, now);
    mounts.push_back(std::move(mount));
    next.insert_or_assign(key, std::move(now));
  }
  if (!complete) next.merge(last_);  // keeps what is new
  last_ = std::move(next);
  return mounts;
}

const char *to_string(TopSort sort) noexcept {
  switch (sort) {
    case TopSort::rate:
      return "requests/s";
    case TopSort::queue:
      return "queueing p99";
    case TopSort::service:
      return "service p99";
    default:
      return "name";
  }
}

void sort_mounts(std::vector<TopMount> &mounts, TopSort sort) {
  const auto value = [sort](const TopRow &row) {
    switch (sort) {
      case TopSort::rate:
        return row.total_per_s;
      case TopSort::queue:
        return row.queue.p99.value_or(-1);
      case TopSort::service:
        return row.service.p99.value_or(-1);
      default:
        return 0.0;
    }
  };
  for (TopMount &mount : mounts)
    std::sort(mount.ops.begin(), mount.ops.end(), [&](const TopRow &a, const TopRow &b) {
      const double va = value(a), vb = value(b);
      return va != vb ? va > vb : a.name < b.name;
    });
  std::sort(mounts.begin(), mounts.end(), [&](const TopMount &a, const TopMount &b) {
    const double va = value(a.all), vb = value(b.all);
    return va != vb ? va > vb : std::tie(a.mountpoint, a.pid) < std::tie(b.mountpoint, b.pid);
  });
}

std::vector<TopLine> top_lines(const std::vector<TopMount> &mounts, bool idle) {
  std::vector<TopLine> lines;
  if (mounts.empty()) return lines;
  lines.push_back({fmt::format("{:<{}}{:>32}{:>16}{:>16}", "", kNameWidth, "requests/s", "queueing, us", "service, us"),
                   TopStyle::heading});
  lines.push_back({heading(), TopStyle::heading});
  for (const TopMount &mount : mounts) {
    lines.push_back({printable(title(mount)), TopStyle::mount});
    if (mount.seconds <= 0) continue;
    lines.push_back({row_text(mount.all), TopStyle::row});
    for (const TopRow &row : mount.ops)
      if (idle || row.total_per_s > 0) lines.push_back({printable(row_text(row)), TopStyle::row});
  }
  return lines;
}

std::string printable(std::string text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (byte < 0x20 || byte == 0x7f)
      text[i] = '?';
    else if (byte == 0xc2 && next >= 0x80 && next < 0xa0)  // U+0080 ... U+009F
      text.replace(i, 2, "?");
  }
  return text;
}

}  // namespace efuse::cli
