// SPDX-License-Identifier: LGPL-2.1-or-later
// The table of configuration keys. Parsing, the environment, --set, checking,
// to_toml() and the documentation all walk it; a new key is one row.
#pragma once

#include "config.hh"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace efuse {

struct Key {
  enum class Kind {
    count,   // an integer
    bytes,   // an integer or a string such as "8MiB"
    ns,      // an integer or a string such as "50us"
    flag,    // true or false
    choice,  // one of `choices`
    names,   // some of `choices` with commas between, or "none"; as a number: bit n is choice n
    seconds, // a number, "inf" or "filesystem"; as a number: nanoseconds, kValidForever, kValidAsOffered
    cpus,    // "0-3,8" or [0, 1, 2, 3, 8]
  };
  enum class Rule { any, power_of_two, pages };

  std::string_view section;
  std::string_view name;
  Kind kind;
  std::string_view doc;  // one line
  Rule rule = Rule::any;
  std::uint64_t min = 0;
  std::uint64_t max = 0;
  std::span<const std::string_view> choices{};
  bool live = false;  // may change while mounted
  // All kinds but cpus: the member as a number (a flag is 0 or 1, a choice its index).
  std::uint64_t (*get)(const Config &) = nullptr;
  void (*set)(Config &, std::uint64_t) = nullptr;

  [[nodiscard]] std::string full_name() const { return std::string(section) + "." + std::string(name); }
  /// EFUSE_SECTION_KEY.
  [[nodiscard]] std::string environment_name() const;
  /// What a value must be, to follow "expected ".
  [[nodiscard]] std::string expected() const;
  /// Whether a number is one that expected() describes.
  [[nodiscard]] bool allows(std::uint64_t value) const noexcept;
  /// The value in `config` as TOML.
  [[nodiscard]] std::string value_toml(const Config &config) const;
};

/// A section and its one-line description.
struct Section {
  std::string_view name;
  std::string_view doc;
};

std::span<const Section> config_sections() noexcept;
/// In the order of the sections.
std::span<const Key> config_keys() noexcept;
const Key *find_config_key(std::string_view section, std::string_view name) noexcept;

/// Without blanks at either end.
std::string_view trim(std::string_view text) noexcept;
/// "8MiB", "512 KiB", "64K", "4096": bytes; the suffixes are powers of 1024.
std::optional<std::uint64_t> parse_bytes(std::string_view text) noexcept;
/// "50us", "1ms", "2s", "800ns", "800": nanoseconds.
std::optional<std::uint64_t> parse_duration(std::string_view text) noexcept;
/// "0-3,8": sorted and without repetition; empty text is an empty list.
std::optional<std::vector<unsigned>> parse_cpu_list(std::string_view text);
/// "metadata,read": the bits of those `choices`; "none": 0.
std::optional<std::uint64_t> parse_names(std::string_view text, std::span<const std::string_view> choices) noexcept;
/// The inverse.
std::string format_names(std::uint64_t bits, std::span<const std::string_view> choices);
/// Nanoseconds as seconds: "1.5".
std::string format_seconds(std::uint64_t ns);
/// The largest unit that leaves no remainder: "8MiB", "1000".
std::string format_bytes(std::uint64_t bytes);
std::string format_duration(std::uint64_t ns);
/// The inverse of parse_cpu_list() of a sorted list.
std::string format_cpu_list(std::span<const unsigned> cpus);

/// CPU numbers that a list may name.
inline constexpr unsigned kMaxCpuNumber = 65535;

}  // namespace efuse
