// SPDX-License-Identifier: LGPL-2.1-or-later
#include "options.hh"

#include <charconv>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace efuse::fs {
namespace {

/// Bits to shift for a size suffix, or -1.
int shift_of(char suffix) {
  switch (suffix) {
    case 'k': case 'K': return 10;
    case 'm': case 'M': return 20;
    case 'g': case 'G': return 30;
    case 't': case 'T': return 40;
    default: return -1;
  }
}

/// Share of `whole` in whole per cent, without overflow.
std::uint64_t per_cent(std::uint64_t percent, std::uint64_t whole) {
  return whole / 100 * percent + whole % 100 * percent / 100;
}

}  // namespace

void OptionReader::bad(std::string_view key, std::string_view value, std::string_view expected) const {
  std::string text(fs_);
  text.append(": option ").append(key);
  if (!value.empty()) text.append("=").append(value);
  throw std::invalid_argument(text.append(": expected ").append(expected));
}

std::optional<std::string> OptionReader::take(std::string_view key, bool with_value) {
  std::optional<std::string> found;
  for (auto it = options_.begin(); it != options_.end();) {
    const std::string_view option = *it;
    const bool named = option.substr(0, option.find('=')) == key;
    if (!named) {
      ++it;
      continue;
    }
    const bool has_value = option.size() > key.size();
    if (has_value != with_value)
      bad(key, has_value ? option.substr(key.size() + 1) : "", with_value ? "a value" : "no value");
    found = has_value ? std::string(option.substr(key.size() + 1)) : std::string();
    it = options_.erase(it);
  }
  return found;
}

bool OptionReader::flag(std::string_view key) { return take(key, false).has_value(); }

std::optional<std::string> OptionReader::text(std::string_view key) { return take(key, true); }

std::optional<std::uint64_t> OptionReader::count(std::string_view key) {
  const auto text = take(key, true);
  if (!text) return std::nullopt;
  std::uint64_t n = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), n);
  if (error != std::errc() || end != text->data() + text->size()) bad(key, *text, "a number");
  return n;
}

std::optional<std::uint64_t> OptionReader::bytes(std::string_view key, std::uint64_t whole) {
  const auto text = take(key, true);
  if (!text) return std::nullopt;
  const char *last = text->data() + text->size();
  std::uint64_t n = 0;
  const auto [end, error] = std::from_chars(text->data(), last, n);
  constexpr std::string_view kExpected = "a size such as 4096, 512M, 8G or 50%";
  if (error != std::errc() || last - end > 1) bad(key, *text, kExpected);
  if (end == last) return n;
  if (*end == '%') {
    if (n > 100) bad(key, *text, "at most 100%");
    return per_cent(n, whole);
  }
  const int shift = shift_of(*end);
  if (shift < 0) bad(key, *text, kExpected);
  if (n > (UINT64_MAX >> shift)) bad(key, *text, "a size below 16 EiB");
  return n << shift;
}

std::optional<double> OptionReader::seconds(std::string_view key, bool or_inf) {
  const auto text = take(key, true);
  if (!text) return std::nullopt;
  if (or_inf && *text == "inf") return std::numeric_limits<double>::infinity();
  double s = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), s);
  if (error != std::errc() || end != text->data() + text->size() || !std::isfinite(s) || s < 0)
    bad(key, *text, or_inf ? "seconds, such as 0, 0.5 or 60, or inf" : "seconds, such as 0, 0.5 or 60");
  return s;
}

}  // namespace efuse::fs
