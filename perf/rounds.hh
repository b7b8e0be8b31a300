// SPDX-License-Identifier: LGPL-2.1-or-later
// What the rounds of a cell say together. Rounds of two contestants belong together: they ran one right after the
// other, so what the machine did meanwhile to both of them is not in their ratio.
#pragma once

#include <optional>
#include <span>

namespace efuse::perf {

/// 0 of nothing.
double median(std::span<const double> values);
/// (largest - smallest) / median.
double spread(std::span<const double> values);

/// Round by round, how many times as much.
struct Ratio {
  struct Interval {
    double low = 0, high = 0;
  };
  double median = 0;
  /// Holds the true median in at least 95 % of all runs, whatever rounds are distributed like (the interval of
  /// the sign test); nothing if there are too few of them, fewer than six.
  std::optional<Interval> interval;
};

/// Of as many rounds of each; those whose `base` is 0 do not count. Nothing if none does.
std::optional<Ratio> compare_rounds(std::span<const double> rounds, std::span<const double> base);

}  // namespace efuse::perf
