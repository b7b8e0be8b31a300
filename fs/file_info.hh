// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "filesystem.hh"

namespace efuse::fs {

/// Direct writes to one file need not wait for each other. Headers before libfuse
/// 3.15 cannot say so; a template, so that both compile.
template <typename FileInfo>
void allow_parallel_writes(FileInfo &fi) noexcept {
  if constexpr (requires { fi.parallel_direct_writes; }) fi.parallel_direct_writes = 1;
}

}  // namespace efuse::fs
