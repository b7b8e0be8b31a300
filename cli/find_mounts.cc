// SPDX-License-Identifier: LGPL-2.1-or-later
#include "find_mounts.hh"

#include "control.hh"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <system_error>

namespace efuse::cli {
namespace {

using json = nlohmann::json;
namespace stdfs = std::filesystem;

/// Names that the user's MOUNTPOINT may have in a daemon's answer. The mountpoint
/// itself is not looked at: its filesystem may be the one that hangs.
std::vector<std::string> spellings(const std::string &mountpoint) {
  std::error_code ignored;
  stdfs::path path = stdfs::absolute(mountpoint, ignored).lexically_normal();
  if (path.filename().empty() && path.has_relative_path()) path = path.parent_path();
  std::vector<std::string> out{path.string()};
  const stdfs::path parent = stdfs::canonical(path.parent_path(), ignored);
  if (!ignored) out.push_back((parent / path.filename()).lexically_normal().string());
  // readlink() on a mountpoint fails without asking its filesystem.
  const stdfs::path target = stdfs::read_symlink(path, ignored);
  if (!ignored) out.push_back((path.parent_path() / target).lexically_normal().string());
  return out;
}

/// `names`: of the mounts that are wanted, empty for all.
std::vector<json> ask_daemons(const json &request, std::chrono::milliseconds patience,
                              const std::vector<std::string> &names, std::vector<std::string> &problems) {
  std::vector<json> mounts;
  for (json &mount : send_all(request, &problems, patience)) {
    if (mount.is_object() && mount.contains("mountpoint") && mount["mountpoint"].is_string())
      mounts.push_back(std::move(mount));
    else
      problems.push_back("a daemon answered: " + mount.dump());
  }
  if (!names.empty())
    std::erase_if(mounts, [&](const json &mount) {
      return std::find(names.begin(), names.end(), mount["mountpoint"].get<std::string>()) == names.end();
    });
  return mounts;
}

std::vector<std::string> wanted_names(const std::string &mountpoint) {
  return mountpoint.empty() ? std::vector<std::string>() : spellings(mountpoint);
}

}  // namespace

MountWatch::MountWatch(const std::string &mountpoint, std::chrono::milliseconds patience)
    : names_(wanted_names(mountpoint)), patience_(patience) {}

std::vector<json> MountWatch::look() {
  problems_.clear();
  return ask_daemons({{"cmd", "stat"}, {"histograms", true}}, patience_, names_, problems_);
}

std::vector<json> find_mounts(const std::string &mountpoint) {
  std::vector<std::string> problems;
  std::vector<json> mounts =
      ask_daemons({{"cmd", "stat"}}, std::chrono::seconds(3), wanted_names(mountpoint), problems);
  for (const std::string &problem : problems) fmt::print(stderr, "efuse: {}\n", problem);
  if (mounts.empty() && !mountpoint.empty())
    throw std::runtime_error(fmt::format("{}: no efuse mount (looked in {})", mountpoint, control_directory()));
  return mounts;
}

}  // namespace efuse::cli
