// SPDX-License-Identifier: LGPL-2.1-or-later
// The shipped BPF programs (bpf/), which are part of the library: there is no file to find.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace efuse {

/// The object called "metadata" or "read", as bpf_object__open_mem() takes it. Empty: there is none of this name, or
/// this efuse was built without fast paths.
std::span<const std::byte> shipped_bpf_object(std::string_view name) noexcept;

}  // namespace efuse
