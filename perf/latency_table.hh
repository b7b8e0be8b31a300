// SPDX-License-Identifier: LGPL-2.1-or-later
// A report as text.
#pragma once

#include "bench.hh"

#include <string>

namespace efuse::perf {

/// A line for each row, each operation apart, ratios against the report's first
/// transport (compare_rounds()); then which way each transport's requests took, and what else to know.
std::string format_table(const Report &report);

}  // namespace efuse::perf
