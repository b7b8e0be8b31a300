// SPDX-License-Identifier: LGPL-2.1-or-later
// A mount that a command line asks for: `efuse mount`, and mount(8) through its helper.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace efuse::cli {

struct MountArguments {
  std::string fs;
  std::string mountpoint;
  bool foreground = false;
  bool debug = false;
  bool quiet = false;     // no line on standard output about a mount that works
  std::string transport;  // empty: as configured, the same for fastpath and config
  std::string fastpath;
  std::string config;
  std::vector<std::string> settings;  // section.key=value
  std::vector<std::string> options;   // each as after -o
};

/// Mount and, in the foreground, serve until unmounted; else returns when the mount is usable, and a child serves.
/// Throws with one line that says why it did not work.
int run_mount(const MountArguments &arguments);

/// Whether mount(8) has called this program by that name: /sbin/mount.fuse.efuse, or one like it.
bool is_mount_helper(std::string_view program);
/// Whether that is a SOURCE of mount(8): FS or FS#DIRECTORY, with a filesystem that comes with efuse.
bool is_mount_source(std::string_view text);
/// What mount(8) asks of /sbin/mount.TYPE: SOURCE MOUNTPOINT [-fnsvrw] [-t TYPE] [-o OPTIONS]. Returns its exit status.
int mount_helper(int argc, char **argv);

}  // namespace efuse::cli
