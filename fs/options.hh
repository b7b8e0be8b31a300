// SPDX-License-Identifier: LGPL-2.1-or-later
// Options of a filesystem: each understood one is taken out of the list.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace efuse::fs {

/// All throw std::invalid_argument with one line that names the option. An
/// option that is given more than once counts as its last.
class OptionReader {
 public:
  /// `fs` names the filesystem in messages.
  OptionReader(std::string_view fs, std::vector<std::string> &options) : fs_(fs), options_(options) {}

  /// `key` alone.
  [[nodiscard]] bool flag(std::string_view key);
  /// `key=TEXT`.
  [[nodiscard]] std::optional<std::string> text(std::string_view key);
  /// `key=N`, decimal.
  [[nodiscard]] std::optional<std::uint64_t> count(std::string_view key);
  /// `key=N[kmgt]` in bytes, or `key=N%` of `whole`.
  [[nodiscard]] std::optional<std::uint64_t> bytes(std::string_view key, std::uint64_t whole);
  /// `key=SECONDS`, a decimal fraction, not negative.
  [[nodiscard]] std::optional<double> seconds(std::string_view key) { return seconds(key, false); }
  /// The same, or `key=inf`.
  [[nodiscard]] std::optional<double> seconds_or_inf(std::string_view key) { return seconds(key, true); }

 private:
  [[nodiscard]] std::optional<std::string> take(std::string_view key, bool with_value);
  [[nodiscard]] std::optional<double> seconds(std::string_view key, bool or_inf);
  [[noreturn]] void bad(std::string_view key, std::string_view value, std::string_view expected) const;

  std::string_view fs_;
  std::vector<std::string> &options_;
};

}  // namespace efuse::fs
