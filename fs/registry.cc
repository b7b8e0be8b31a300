// SPDX-License-Identifier: LGPL-2.1-or-later
#include "registry.hh"

#include <array>
#include <stdexcept>

namespace efuse::fs {
namespace {

struct Known {
  std::string_view name;
  std::unique_ptr<Filesystem> (*make)(std::vector<std::string> &);
};

constexpr std::array kKnown{Known{"nullfs", make_nullfs}, Known{"memfs", make_memfs},
                            Known{"passthrough", make_passthrough}};

}  // namespace

std::unique_ptr<Filesystem> make_filesystem(std::string_view name, std::vector<std::string> &options) {
  for (const Known &known : kKnown)
    if (known.name == name) return known.make(options);
  std::string message = "unknown filesystem '" + std::string(name) + "': expected one of";
  for (const Known &known : kKnown) message.append(" ").append(known.name);
  throw std::invalid_argument(message);
}

std::vector<std::string> filesystem_names() {
  std::vector<std::string> names;
  for (const Known &known : kKnown) names.emplace_back(known.name);
  return names;
}

}  // namespace efuse::fs
