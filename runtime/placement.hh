// SPDX-License-Identifier: LGPL-2.1-or-later
// Where workers run and which ring a CPU's requests take. Requests go to the
// home ring; a requester that wants to spin takes its spin ring, whose worker
// runs on another CPU close by: spinning for a worker on one's own CPU only
// keeps it from running.
#pragma once

#include "config.hh"
#include "uapi/efuse_ring.h"

#include <hwloc.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace efuse {

/// The machine as placement sees it: CPUs at the leaves of a tree of domains
/// (cores, caches, NUMA nodes, packages), as hwloc finds it.
struct CpuTopology {
  struct Domain {
    int parent = -1;     // index, lower than this one's; -1: the machine
    unsigned depth = 0;  // of the machine: 0
    unsigned cpus = 0;   // in it: how close two CPUs are that meet here
    bool cache = false;  // a cache, or inside one
  };
  struct Cpu {
    unsigned number = 0;  // the kernel's
    int domain = 0;       // the smallest that holds this CPU
    int core = -1;        // hardware threads of one core share it; -1: a core of its own
    int node = 0;         // index of the NUMA node
    bool usable = true;   // this process may run there
  };
  std::vector<Domain> domains;               // [0] is the machine
  std::vector<Cpu> cpus;                     // online CPUs, neighbours side by side
  std::vector<std::uint64_t> node_distance;  // nodes * nodes, row-major, any unit; empty: unknown
  unsigned nodes = 1;
  unsigned possible = 0;  // CPU numbers are below it, offline ones included
};

/// `usable`: the CPUs this process may run on; `possible`: as in CpuTopology, raised where a CPU's number is
/// above it.
CpuTopology describe_topology(hwloc_topology_t topology, hwloc_const_cpuset_t usable, unsigned possible);
/// This machine and the calling thread's affinity. Throws std::system_error.
CpuTopology this_machine();

/// How many CPUs the kernel counts as possible, which is how many queues FUSE-over-io_uring has; 0: it does not tell.
unsigned possible_cpus();

struct RingPlacement {
  std::vector<int> worker_cpu;             // per ring; -1: not pinned
  std::vector<efuse_cpu_rings> cpu_rings;  // by CPU number, up to the highest possible one
};

/// config.ring_count rings, or one per usable CPU (usable, and in config.cpus where that is not empty).
/// Throws ConfigError where no CPU is left. The result depends on the arguments alone.
RingPlacement place_rings(const Config &config, const CpuTopology &topology);

/// For people: "ring 0 on CPU 0, ring 1 on CPU 1".
std::string describe_placement(const RingPlacement &placement);

/// Keep the calling thread on these CPUs, which are numbers >= 0; returns 0 or -errno.
int keep_this_thread_on(std::span<const int> cpus) noexcept;
/// Pin the calling thread to one CPU; returns 0 or -errno. `cpu` < 0 does nothing.
int pin_this_thread(int cpu) noexcept;

/// Keeps a worker on its CPU. One that goes offline sheds its threads to other CPUs and does not take
/// them back; what a worker that is elsewhere costs is a look at where it is, after it has slept.
/// Or it lets the worker go, for as long as that is wanted, to any of the CPUs that it and its like have.
class WorkerPin {
 public:
  /// `cpu` < 0: not pinned. `around`: CPUs to let it go to, `cpu` among them; they outlive this. By the worker, as is
  /// all of this.
  explicit WorkerPin(int cpu, std::span<const int> around = {}) noexcept : cpu_(cpu), around_(around) {}
  void check() noexcept;

  /// Is there anywhere to let it go to?
  [[nodiscard]] bool can_loosen() const noexcept { return cpu_ >= 0 && around_.size() > 1; }
  /// Let it go, or pin it again. Cheap where it is so already; does nothing where it cannot.
  void loosen(bool loose) noexcept {
    if (loose != loose_) [[unlikely]]
      change(loose);
  }

 private:
  void change(bool loose) noexcept;

  static constexpr std::uint64_t kRetryNs = 1'000'000'000;
  int cpu_;
  std::span<const int> around_;
  bool loose_ = false;
  std::uint64_t next_try_ = 0;
};

}  // namespace efuse
