// SPDX-License-Identifier: LGPL-2.1-or-later
// Fast paths: what a filesystem lets BPF programs answer in the kernel. A filesystem that uses the shipped programs
// says so here and writes no BPF and no map code:
//
//   efuse::FastpathOffer offer;
//   offer.metadata = true;
//   session.offer_fastpath(offer);   // before start()
//
// What is offered and what the configuration asks for ([fastpath] programs) is attached once the mount is served over
// rings. Where it cannot be (no rings, no BPF, no capability, a program that does not verify) the mount works without,
// and Session::fastpath_reason() says why.
//
// What the filesystem owes: what it replies does not depend on who asks (who may ask is the kernel's to decide:
// default_permissions); LISTXATTR alone is remembered by user. Every change that another request could see happens before
// the reply to the request that asked for it, or is told with fuse_lowlevel_notify_inval_inode() or _inval_entry(), which
// return after the programs know. Then nothing that a program answers is older than the last completed change.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace efuse {

/// When a read of a file or a directory changes its access time, as a mount option would say it.
enum class AccessTimes : std::uint32_t { never = 0, relative = 1, always = 2 };

struct FastpathOffer {
  /// LOOKUP, GETATTR, READLINK, GETXATTR, LISTXATTR from what earlier replies said, and that a name does not exist.
  bool metadata = false;
  /// How long an answer may be given again, seconds; infinite: until it changes. Less is for filesystems whose
  /// files change without this session knowing.
  double valid = 1.0;
  AccessTimes access_times = AccessTimes::relative;
  /// readdir() and readdirplus() work with fi->fh == 0, without an opendir() before and a releasedir() after: then
  /// OPENDIR, READDIR, READDIRPLUS and RELEASEDIR are answered too. Where a listing goes on (off) means the same to all
  /// who read the directory, until it changes.
  bool stateless_directories = false;
  /// READ from 4 KiB blocks that earlier READs returned.
  bool blocks = false;
  /// READ from the file that efuse_fastpath_open() names for the node.
  bool backing = false;
  /// BPF objects of the filesystem's own (paths), asked before the shipped ones.
  std::vector<std::string> programs;
};

}  // namespace efuse
