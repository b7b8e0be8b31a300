// SPDX-License-Identifier: LGPL-2.1-or-later
// /sbin/mount.fuse.efuse: what `mount -t fuse.efuse SOURCE MOUNTPOINT -o ...`, fstab and a systemd mount unit come to.
// libfuse's mount.fuse3 calls `efuse SOURCE MOUNTPOINT -o ...` for the same, where the type is fuse and the source begins
// with efuse#.
#include "mount_command.hh"

#include "mount.hh"

#include "../fs/filesystem.hh"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <stdexcept>
#include <system_error>

namespace efuse::cli {
namespace {

// mount(8)'s exit statuses.
constexpr int kUsage = 1;
constexpr int kFailed = 32;

struct Request {
  std::string source;
  MountArguments mount;
  std::string user;   // setuid=USER: serve as that user
  bool fake = false;  // -f: all but the mount
};

struct Source {
  std::string fs;
  std::string directory;
};
Source split_source(std::string_view text) {
  const std::size_t at = text.find('#');
  if (at == text.npos)
    return {std::string(text), {}};
  return {std::string(text.substr(0, at)), std::string(text.substr(at + 1))};
}

/// `key=VALUE`: VALUE.
std::optional<std::string> value_of(std::string_view option, std::string_view key) {
  if (!option.starts_with(key) || option.size() <= key.size() || option[key.size()] != '=')
    return std::nullopt;
  return std::string(option.substr(key.size() + 1));
}

/// Options that are not the filesystem's or the kernel's, but `efuse mount`'s own.
bool take_own_option(const std::string &option, Request &r) {
  if (auto transport = value_of(option, "transport"))
    r.mount.transport = *transport;
  else if (auto config = value_of(option, "config"))
    r.mount.config = *config;
  else if (auto setting = value_of(option, "set"))
    r.mount.settings.push_back(*setting);
  else if (auto user = value_of(option, "setuid"))
    r.user = *user;
  else if (auto fastpath = value_of(option, "fastpath")) {
    r.mount.fastpath = *fastpath;  // a comma would end the option
    std::ranges::replace(r.mount.fastpath, ':', ',');
  } else {
    return false;
  }
  return true;
}

void take_options(std::string_view text, Request &r) {
  for (const std::string &option : split_mount_options(text))
    if (!take_own_option(option, r))
      r.mount.options.push_back(escape_mount_value(option));
}

/// The flags that mount(8) hands on. -s is for filesystems that pass over options they do not know; this one does not.
void take_flags(std::string_view flags, Request &r) {
  for (char flag : flags) {
    switch (flag) {
      case 'f': r.fake = true; break;
      case 'v': r.mount.quiet = false; break;
      case 'r': r.mount.options.emplace_back("ro"); break;
      case 'w': r.mount.options.emplace_back("rw"); break;
      case 'n':
      case 's': break;
      default: throw std::invalid_argument(fmt::format("unknown option -{}", flag));
    }
  }
}

Request parse(int argc, char **argv) {
  Request r;
  r.mount.quiet = true;
  std::vector<std::string> places;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.size() < 2 || argument.front() != '-') {
      places.emplace_back(argument);
    } else if (argument == "-o" || argument == "-t" || argument == "-N") {
      if (++i == argc)
        throw std::invalid_argument(fmt::format("{} needs an argument", argument));
      if (argument == "-N")
        throw std::invalid_argument("no mounting in another namespace (-N): use nsenter");
      if (argument == "-o")
        take_options(argv[i], r);
    } else {
      take_flags(argument.substr(1), r);
    }
  }
  if (places.size() != 2)
    throw std::invalid_argument("expected SOURCE and MOUNTPOINT");
  r.source = places[0];
  r.mount.mountpoint = places[1];
  return r;
}

/// What is in front of the options given. In the mount table mount(8) finds what fstab has as the source and the type.
void complete(Request &r) {
  const Source source = split_source(r.source);
  r.mount.fs = source.fs;
  std::vector<std::string> first{"subtype=efuse", "fsname=" + escape_mount_value(r.source)};
  // As mount(8) does for any other filesystem; what it adds for an ordinary user's comes behind and wins.
  if (::geteuid() == 0 && r.user.empty())
    first.emplace_back("dev,suid");
  r.mount.options.insert(r.mount.options.begin(), first.begin(), first.end());
  if (!source.directory.empty())
    r.mount.options.push_back("source=" + escape_mount_value(source.directory));
}

void become(const std::string &name) {
  const passwd *user = ::getpwnam(name.c_str());
  if (user == nullptr)
    throw std::runtime_error(fmt::format("setuid={}: no such user", name));
  const uid_t uid = user->pw_uid;
  const gid_t gid = user->pw_gid;
  if (::initgroups(name.c_str(), gid) != 0 || ::setgid(gid) != 0 || ::setuid(uid) != 0)
    throw std::system_error(errno, std::generic_category(), "setuid=" + name);
}

}  // namespace

bool is_mount_helper(std::string_view program) {
  if (const std::size_t slash = program.rfind('/'); slash != program.npos)
    program.remove_prefix(slash + 1);
  return program == "mount.fuse.efuse" || program == "mount.efuse";
}

bool is_mount_source(std::string_view text) {
  const std::vector<std::string> names = fs::filesystem_names();
  return std::ranges::find(names, split_source(text).fs) != names.end();
}

int mount_helper(int argc, char **argv) {
  Request r;
  try {
    r = parse(argc, argv);
    if (!is_mount_source(r.source))
      throw std::invalid_argument(fmt::format("'{}' is no filesystem of efuse's: one of {}, and #DIRECTORY where it has a "
                                              "source", r.source, fmt::join(fs::filesystem_names(), ", ")));
    complete(r);
  } catch (const std::invalid_argument &error) {
    fmt::print(stderr, "mount.fuse.efuse: {}\nusage: mount.fuse.efuse SOURCE MOUNTPOINT [-fnsvrw] [-o OPTION[,OPTION...]]\n",
               error.what());
    return kUsage;
  }
  try {
    if (!r.user.empty())
      become(r.user);
    return r.fake ? 0 : run_mount(r.mount);
  } catch (const std::exception &error) {
    fmt::print(stderr, "mount.fuse.efuse: {}\n", error.what());
    return kFailed;
  }
}

}  // namespace efuse::cli
