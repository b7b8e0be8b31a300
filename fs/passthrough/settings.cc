// SPDX-License-Identifier: LGPL-2.1-or-later
#include "settings.hh"

#include "../options.hh"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <memory>
#include <stdexcept>

namespace efuse::fs::passthrough {
namespace {

[[noreturn]] void bad(const std::string &what) { throw std::invalid_argument("passthrough: " + what); }

InodeHandles parse_inode_handles(const std::string &value) {
  if (value == "auto") return InodeHandles::automatic;
  if (value == "always") return InodeHandles::always;
  if (value == "never") return InodeHandles::never;
  bad("option inode_handles=" + value + ": expected auto, always or never");
}

void set_cache(Settings &s, const std::string &policy) {
  constexpr double kDay = 86'400;
  if (policy == "none") {
    s.direct_io = true;
    s.attr_timeout = s.entry_timeout = 0;
  } else if (policy == "always") {
    s.keep_cache = true;
    s.attr_timeout = s.entry_timeout = kDay;
  } else if (policy != "auto") {
    bad("option cache=" + policy + ": expected none, auto or always");
  }
}

void set_timeouts(Settings &s, OptionReader &reader) {
  if (const auto both = reader.seconds("timeout")) s.attr_timeout = s.entry_timeout = *both;
  s.attr_timeout = reader.seconds("attr_timeout").value_or(s.attr_timeout);
  s.entry_timeout = reader.seconds("entry_timeout").value_or(s.entry_timeout);
  s.negative_timeout = reader.seconds("negative_timeout").value_or(s.negative_timeout);
  s.fastpath_timeout = reader.seconds_or_inf("fastpath_timeout").value_or(s.fastpath_timeout);
}

/// What the options say together.
void check(const Settings &s) {
  if (s.writeback && s.direct_io) bad("writeback needs a cache: not with direct_io or cache=none");
  if (s.writeback && s.kernel_passthrough) bad("writeback and passthrough exclude each other");
  if (s.direct_io && s.kernel_passthrough) bad("direct_io (or cache=none) and passthrough exclude each other");
  if (s.acl && !s.xattr) bad("acl needs extended attributes: not with noxattr");
  if (s.flock && !s.posix_locks) bad("flock and nolock exclude each other");
}

std::string real_path(const std::string &path) {
  const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr), &std::free);
  return real ? real.get() : path;  // opening it says what is wrong
}

/// The option stays in the list: it is the mount's.
std::string fsname_of(const std::vector<std::string> &options, const std::string &otherwise) {
  constexpr std::string_view kKey = "fsname=";
  const auto last = std::find_if(options.rbegin(), options.rend(),
                                 [&](const std::string &option) { return option.starts_with(kKey); });
  return last == options.rend() ? otherwise : last->substr(kKey.size());
}

}  // namespace

Settings parse_settings(std::vector<std::string> &options) {
  OptionReader reader("passthrough", options);
  Settings s;
  const auto source = reader.text("source");
  if (!source || source->empty()) bad("option source=DIR is missing: which directory is to be served?");
  s.source = real_path(*source);
  s.inode_handles = parse_inode_handles(reader.text("inode_handles").value_or("auto"));
  set_cache(s, reader.text("cache").value_or("auto"));
  set_timeouts(s, reader);
  if (reader.flag("direct_io")) s.direct_io = true;
  s.writeback = reader.flag("writeback");
  s.kernel_passthrough = reader.flag("passthrough");
  const bool xattr = reader.flag("xattr");  // the default, spelt out
  s.xattr = !reader.flag("noxattr");
  if (xattr && !s.xattr) bad("xattr and noxattr exclude each other");
  s.acl = reader.flag("acl");
  s.flock = reader.flag("flock");
  s.posix_locks = !reader.flag("nolock");
  s.splice_write = !reader.flag("no_splice_write");
  check(s);
  s.fsname = fsname_of(options, s.source);
  return s;
}

}  // namespace efuse::fs::passthrough
