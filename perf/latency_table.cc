// SPDX-License-Identifier: LGPL-2.1-or-later
#include "latency_table.hh"

#include "rounds.hh"

#include <fmt/format.h>

#include <algorithm>

namespace efuse::perf {

namespace {
std::size_t label_width(const Report &report) {
  std::size_t width = 10;
  for (const std::string &label : report.transports)
    width = std::max(width, label.size());
  return width;
}

std::string head(std::size_t width) {
  return fmt::format(
      "op       thr  {:<{}}      ops/s  spread   ratio     (95 %)     lat p50     p99      max   queue p50     p99"
      "      max  service p50  reply p50  ctxsw/op\n",
      "transport", width);
}

// Three figures, or all before the point: columns of µs from 0.05 to 10 s.
std::string figure(double value) {
  return fmt::format("{:.{}f}", value, value < 10 ? 2 : value < 100 ? 1 : 0);
}

const Row *row_of(const Report &report, const Row &like, const std::string &transport) {
  for (const Row &row : report.rows)
    if (row.op == like.op && row.threads == like.threads && row.transport == transport)
      return &row;
  return nullptr;
}

// Against the first transport, and from where to where that may be by chance.
std::string ratio(const Report &report, const Row &row) {
  const Row *base = row_of(report, row, report.transports.front());
  const auto ratio = base ? compare_rounds(row.rounds, base->rounds) : std::nullopt;
  const std::string median = ratio ? fmt::format("{:.2f}x", ratio->median) : "-";
  const bool known = ratio && ratio->interval && base != &row;
  return fmt::format("{:>7} {:>10}", median,
                     known ? fmt::format("{:.2f}-{:.2f}", ratio->interval->low, ratio->interval->high) : "");
}

// Split times are there only where at least one operation could be split.
std::string split(const Row &row, double value) { return row.unmeasured < 1 ? figure(value) : "-"; }

// What the figures leave out, and what speaks against them.
std::string remarks(const Row &row) {
  std::string text;
  if (row.answered)
    text += *row.answered > 0 ? fmt::format("  {:.4g}% by fast paths", *row.answered * 100) : "  none by fast paths";
  if (row.unmeasured > 0)
    text += fmt::format("  {:.3g}% not split", row.unmeasured * 100);
  if (row.marked())
    text += fmt::format("  ! only {:.1f}% by {}", *row.carried * 100, row.transport);
  return text;
}

std::string line(const Report &report, const Row &row, std::size_t width) {
  return fmt::format(
      "{:<8} {:>3}  {:<{}} {:>10.0f} {:>6.1f}% {}  {:>10} {:>7} {:>8}  {:>10} {:>7} {:>8}  {:>11}  {:>9} "
      "{:>9.2f}{}\n",
      row.op, row.threads, row.transport, width, row.ops_per_s, row.spread * 100, ratio(report, row),
      figure(row.lat.p50), figure(row.lat.p99), figure(row.lat.max), split(row, row.queue.p50),
      split(row, row.queue.p99), split(row, row.queue.max), split(row, row.service.p50),
      split(row, row.reply.p50), row.ctxsw_per_op, remarks(row));
}

std::string carried(const std::string &transport, const std::optional<Ways> &ways) {
  if (!ways)
    return fmt::format("{}: does not count its requests\n", transport);
  std::string text = fmt::format("{}: {} requests", transport, ways->total());
  const auto part = [&](const char *name, std::uint64_t n) {
    if (n)
      text += fmt::format(", {:.2f}% {}", 100.0 * static_cast<double>(n) / static_cast<double>(ways->total()),
                          name);
  };
  part("ring", ways->ring);
  part("uring", ways->uring);
  part("stock", ways->stock);
  part("fastpath", ways->fastpath);
  return text + "\n";
}
}  // namespace

std::string format_table(const Report &report) {
  const Machine &m = report.machine;
  std::string text =
      fmt::format("{} on Linux {}, {} CPUs ({}){}; {} rounds of {:.3g} s for each transport; µs\n", report.fs,
                  m.kernel, m.cpus, m.name, m.commit.empty() ? "" : ", efuse " + m.commit, report.rounds,
                  report.slice_seconds);
  const std::size_t width = label_width(report);
  text += head(width);
  const Row *before = nullptr;
  for (const Row &row : report.rows) {
    if (before && before->op != row.op)
      text += "\n";
    text += line(report, row, width);
    before = &row;
  }
  text += "\n";
  for (const auto &[transport, ways] : report.totals)
    text += carried(transport, ways);
  const auto with_programs = [](const Row &row) { return row.answered.has_value(); };
  if (std::any_of(report.rows.begin(), report.rows.end(), with_programs))
    text +=
        "fast paths: what a program answers never reaches the daemon; queue, service and reply are of the rest alone\n";
  if (report.any_marked())
    text += "! a row's requests went another way than its transport's: its figures are not about it\n";
  return text;
}

}  // namespace efuse::perf
