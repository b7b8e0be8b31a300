// SPDX-License-Identifier: LGPL-2.1-or-later
// What the daemon's other threads do to the kernel. Each function is one burst, over in milliseconds, so that on a
// machine with few CPUs the kernel and the applications get their turn too.
#pragma once

#include "attachment.hh"

#include <vector>

namespace hostile {

/// What an attack may use.
struct Target {
  const Options &options;
  const Episode &episode;
  Shared &shared;
  int fuse_fd;
  Current &current;
};

/// Write anything anywhere in the daemon's own pages.
void attack_memory(const Target &target, Rng &rng, Attachment &attachment);
/// ENTER, DRAIN, DETACH, WAKE, TUNE, ATTACH with edges, unknown commands, bad addresses, on this attachment.
void attack_ioctl(const Target &target, Rng &rng, Attachment &attachment);
/// A second descriptor that wants the same connection, and wrong ones.
void attack_attach(const Target &target, Rng &rng);
/// Mappings in every wrong way; a child that keeps them.
void attack_mappings(const Target &target, Rng &rng, Attachment &attachment);
/// Replies with any unique, notifications.
void attack_fuse(const Target &target, Rng &rng, Attachment &attachment);
/// Look for what the kernel must not show.
void scan(const Target &target, Attachment &attachment, const char marker[kMarkerSize]);
/// Attach again and again, each time with the next allocation failing, until one goes through; returns its result.
int attach_with_faults(const Target &target, std::shared_ptr<Attachment> *made);

}  // namespace hostile
