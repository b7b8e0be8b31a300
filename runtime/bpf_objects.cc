// SPDX-License-Identifier: LGPL-2.1-or-later
#include "bpf_objects.hh"

#ifdef EFUSE_HAVE_LIBBPF
extern "C" {
extern const unsigned char efuse_bpf_metadata[];
extern const std::size_t efuse_bpf_metadata_size;
extern const unsigned char efuse_bpf_read[];
extern const std::size_t efuse_bpf_read_size;
}
#endif

namespace efuse {

std::span<const std::byte> shipped_bpf_object([[maybe_unused]] std::string_view name) noexcept {
#ifdef EFUSE_HAVE_LIBBPF
  if (name == "metadata") return std::as_bytes(std::span(efuse_bpf_metadata, efuse_bpf_metadata_size));
  if (name == "read") return std::as_bytes(std::span(efuse_bpf_read, efuse_bpf_read_size));
#endif
  return {};
}

}  // namespace efuse
