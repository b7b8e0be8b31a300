// SPDX-License-Identifier: LGPL-2.1-or-later
// The benchmark's view into a daemon: when did it take a request, when did it
// reply? Measured in the same way for every transport and for libfuse's own loop,
// so nothing here knows of efuse: it wraps a struct fuse_lowlevel_ops and, at link
// time, the fuse_reply_*() functions (-Wl,--wrap, see meson.build's probe_dep).
//
// The benchmark and the daemon share a table with one cell per client thread. A
// request finds its cell by fuse_req_ctx(req)->pid, which is the client's thread.
//
// Use in a daemon that is given the table's descriptor (efuse-libfuse --probe FD):
//
//   efuse::perf::Probe probe(efuse::perf::ProbeTable::attach(fd), filesystem->ops());
//   fuse_session_new(&args, &probe.ops(), sizeof(fuse_lowlevel_ops), filesystem->userdata());
//
// and link with probe_dep. One Probe per process: a callback of the C interface
// has nowhere to keep a pointer that the filesystem would not see.
//
// Barriers
//   A0  client: record cleared            -> store-release seq (odd)
//   A1  daemon: load-acquire seq (odd)    -> write the record
//   R0  daemon: record written            -> add-release done, before the reply is sent
//   R1  client: load-acquire done         -> read the record, after its system call returned
#pragma once

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 312
#endif
#include <fuse_lowlevel.h>

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace efuse::perf {

/// CLOCK_MONOTONIC in ns: one clock for all processes.
std::uint64_t monotonic_ns() noexcept;

/// How the time of one system call splits up, in ns. A system call may need
/// several requests (CREATE follows a LOOKUP); the kernel's time between two of
/// them belongs to none of the three.
struct Split {
  std::uint64_t queue;     // system call entered -> first request dequeued
  std::uint64_t service;   // dequeued -> reply about to be sent, of all its requests
  std::uint64_t reply;     // last reply about to be sent -> system call returned
  std::uint32_t requests;
};

/// One client thread. A cache line per writer.
class ProbeCell {
 public:
  // The client.

  /// The next system call is one to measure; its request of interest is `opcode`.
  void arm(std::uint32_t opcode) noexcept;
  /// It has returned. `t0` and `t1` are monotonic_ns() around it. Nothing where the
  /// record is not whole: answered elsewhere (a cache, a fast path), two requests at
  /// once, a reply from another thread, no request of that opcode.
  std::optional<Split> collect(std::uint64_t t0, std::uint64_t t1) noexcept;

  // The daemon; any of its threads.

  /// Returns the number to give to replied(), 0 where nothing is being measured.
  std::uint64_t dequeued() noexcept;
  void replied(std::uint64_t seq, std::uint32_t opcode, std::uint64_t dequeue_ns) noexcept;

 private:
  alignas(64) std::atomic<std::uint64_t> seq_;  // odd: being measured
  std::atomic<std::uint32_t> opcode_;

  alignas(64) std::atomic<std::uint64_t> first_dequeue_;  // CLOCK_MONOTONIC, 0: none yet
  std::atomic<std::uint64_t> last_reply_;
  std::atomic<std::uint64_t> service_;  // ns
  std::atomic<std::uint32_t> begun_;
  std::atomic<std::uint32_t> done_;
  std::atomic<std::uint32_t> matched_;   // requests of opcode_
  std::atomic<std::uint32_t> overlaps_;  // requests that began before another was done
};

/// The shared table: a mapping of a memfd. Movable.
class ProbeTable {
 public:
  /// A new table for `cells` client threads. Throws std::system_error.
  static ProbeTable create(unsigned cells);
  /// The table behind `fd`, which stays the caller's. Throws std::system_error, or
  /// std::runtime_error where the descriptor holds something else.
  static ProbeTable attach(int fd);
  ~ProbeTable();
  ProbeTable(ProbeTable &&other) noexcept;
  ProbeTable &operator=(ProbeTable &&other) noexcept;

  /// To hand to a daemon; close-on-exec. -1 after attach().
  [[nodiscard]] int fd() const noexcept { return fd_; }
  [[nodiscard]] unsigned cells() const noexcept;
  /// Cell `index` belongs to thread `tid` from now on. Each cell once.
  ProbeCell &claim(unsigned index, pid_t tid) noexcept;
  /// The cell of thread `tid`, nullptr: not a client. Any thread, any time.
  [[nodiscard]] ProbeCell *find(pid_t tid) const noexcept;

 private:
  struct Head;
  ProbeTable(int fd, void *base, std::size_t size) noexcept : fd_(fd), base_(base), size_(size) {}
  [[nodiscard]] Head &head() const noexcept;
  [[nodiscard]] std::atomic<std::uint64_t> *owners() const noexcept;
  [[nodiscard]] ProbeCell *cell(unsigned index) const noexcept;

  int fd_ = -1;
  void *base_ = nullptr;
  std::size_t size_ = 0;
};

/// The daemon's side: the callbacks of a filesystem, with the time taken around them.
class Probe {
 public:
  /// Throws std::logic_error where this process has a probe already.
  Probe(ProbeTable table, const fuse_lowlevel_ops &real);
  ~Probe();
  Probe(const Probe &) = delete;
  Probe &operator=(const Probe &) = delete;

  [[nodiscard]] const fuse_lowlevel_ops &ops() const noexcept { return ops_; }

  struct Callbacks;  // the wrappers; only probe.cc knows them

 private:
  ProbeTable table_;
  fuse_lowlevel_ops real_;
  fuse_lowlevel_ops ops_;
};

}  // namespace efuse::perf
