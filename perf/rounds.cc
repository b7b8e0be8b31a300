// SPDX-License-Identifier: LGPL-2.1-or-later
#include "rounds.hh"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace efuse::perf {

namespace {
std::vector<double> sorted(std::span<const double> values) {
  std::vector<double> copy(values.begin(), values.end());
  std::sort(copy.begin(), copy.end());
  return copy;
}

double middle(const std::vector<double> &sorted) {
  const std::size_t n = sorted.size();
  return n == 0 ? 0 : (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

// Of n values each is above the true median as often as below it. So it is below the k-th smallest if fewer than k
// are below it, which the binomial distribution tells: how many may be left out on each side, if that is to happen in
// 2.5 % of all runs at most.
std::size_t left_out(std::size_t n) {
  double below = 0;
  std::size_t k = 0;
  for (;; ++k) {
    const auto count = static_cast<double>(n), drawn = static_cast<double>(k);
    below += std::exp(std::lgamma(count + 1) - std::lgamma(drawn + 1) - std::lgamma(count - drawn + 1) -
                      count * std::log(2.0));
    if (below > 0.025)
      return k;
  }
}
}  // namespace

double median(std::span<const double> values) { return middle(sorted(values)); }

double spread(std::span<const double> values) {
  const auto in_order = sorted(values);
  const double mid = middle(in_order);
  return mid > 0 ? (in_order.back() - in_order.front()) / mid : 0;
}

std::optional<Ratio> compare_rounds(std::span<const double> rounds, std::span<const double> base) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < std::min(rounds.size(), base.size()); ++i)
    if (base[i] > 0)
      ratios.push_back(rounds[i] / base[i]);
  if (ratios.empty())
    return std::nullopt;
  std::sort(ratios.begin(), ratios.end());
  Ratio ratio{middle(ratios), std::nullopt};
  if (const std::size_t out = left_out(ratios.size()); out > 0)
    ratio.interval = {ratios[out - 1], ratios[ratios.size() - out]};
  return ratio;
}

}  // namespace efuse::perf
