// SPDX-License-Identifier: LGPL-2.1-or-later
#include "fastpath_argument.hh"

#include <filesystem>
#include <ranges>

namespace efuse::cli {

FastpathArgument split_fastpath(const std::string &list) {
  FastpathArgument out;
  for (const auto part : std::views::split(list, ',')) {
    const std::string item(part.begin(), part.end());
    if (item.find('/') != item.npos || item.ends_with(".o"))
      out.objects.push_back(std::filesystem::absolute(item));
    else
      out.names += (out.names.empty() ? "" : ",") + item;
  }
  if (out.names.empty() && !out.objects.empty())
    out.names = "own";
  return out;
}

}  // namespace efuse::cli
