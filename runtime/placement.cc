// SPDX-License-Identifier: LGPL-2.1-or-later
#include "placement.hh"

#include "config_keys.hh"
#include "stats.hh"

#include <fmt/format.h>

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <system_error>
#include <tuple>

namespace efuse {
namespace {

using Cpu = CpuTopology::Cpu;
using Topology = std::unique_ptr<hwloc_topology, decltype(&hwloc_topology_destroy)>;
using Bitmap = std::unique_ptr<hwloc_bitmap_s, decltype(&hwloc_bitmap_free)>;

// ---- the machine ----------------------------------------------------------

class Describer {
 public:
  Describer(hwloc_topology_t topology, CpuTopology &out) : topology_(topology), out_(out) {}

  void cpus(hwloc_const_cpuset_t usable) {
    for (hwloc_obj_t pu = nullptr; (pu = hwloc_get_next_obj_by_type(topology_, HWLOC_OBJ_PU, pu));) {
      Cpu cpu;
      cpu.number = pu->os_index;
      cpu.domain = domain_of(pu->parent);
      cpu.usable = hwloc_bitmap_isset(usable, pu->os_index);
      if (hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology_, HWLOC_OBJ_CORE, pu))
        cpu.core = static_cast<int>(core->logical_index);
      cpu.node = std::max(0, hwloc_bitmap_first(pu->nodeset));
      out_.cpus.push_back(cpu);
    }
  }

  void distances() {
    int last = 0;
    for (Cpu &cpu : out_.cpus) last = std::max(last, cpu.node);
    out_.nodes = static_cast<unsigned>(last) + 1;
    unsigned count = 1;
    hwloc_distances_s *found = nullptr;
    if (hwloc_distances_get_by_type(topology_, HWLOC_OBJ_NUMANODE, &count, &found,
                                    HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) != 0 ||
        count == 0)
      return;
    out_.node_distance.assign(std::size_t{out_.nodes} * out_.nodes, 0);
    for (unsigned a = 0; a < found->nbobjs; ++a)
      for (unsigned b = 0; b < found->nbobjs; ++b) {
        const unsigned row = found->objs[a]->os_index, column = found->objs[b]->os_index;
        if (row < out_.nodes && column < out_.nodes)
          out_.node_distance[std::size_t{row} * out_.nodes + column] =
              found->values[std::size_t{a} * found->nbobjs + b];
      }
    hwloc_distances_release(topology_, found);
  }

 private:
  // Parents first, so that an index is always higher than its parent's.
  int domain_of(hwloc_obj_t object) {
    if (const auto it = index_.find(object); it != index_.end()) return it->second;
    CpuTopology::Domain domain;
    domain.cpus = static_cast<unsigned>(hwloc_bitmap_weight(object->cpuset));
    domain.cache = hwloc_obj_type_is_cache(object->type);
    if (object->parent) {
      domain.parent = domain_of(object->parent);
      domain.depth = out_.domains[domain.parent].depth + 1;
      domain.cache |= out_.domains[domain.parent].cache;
    }
    out_.domains.push_back(domain);
    return index_[object] = static_cast<int>(out_.domains.size()) - 1;
  }

  hwloc_topology_t topology_;
  CpuTopology &out_;
  std::map<hwloc_obj_t, int> index_;
};

std::vector<unsigned> possible_list() {
  std::ifstream file("/sys/devices/system/cpu/possible");
  std::string text;
  if (!std::getline(file, text)) return {};
  return parse_cpu_list(text).value_or(std::vector<unsigned>());
}

/// Above all possible CPUs' numbers.
unsigned possible_end() {
  const auto list = possible_list();
  return list.empty() ? 0 : list.back() + 1;
}

// ---- placing --------------------------------------------------------------

class Placer {
 public:
  Placer(const Config &config, const CpuTopology &topology) : config_(config), topology_(topology) {}

  RingPlacement place() {
    workers();
    result_.cpu_rings.resize(topology_.possible);
    homes();
    spins();
    offline();
    if (config_.placement == Placement::none) result_.worker_cpu.assign(result_.worker_cpu.size(), -1);
    return std::move(result_);
  }

 private:
  // How far a CPU is from another; less is closer. CPUs that meet in a smaller
  // domain are closer; where that says nothing, the NUMA distance may.
  using Distance = std::pair<unsigned, std::uint64_t>;

  const CpuTopology::Domain &meeting(const Cpu &a, const Cpu &b) const {
    int x = a.domain, y = b.domain;
    while (x != y) {
      const auto &dx = topology_.domains[x];
      const auto &dy = topology_.domains[y];
      if (dx.depth >= dy.depth) x = dx.parent;
      if (dy.depth >= dx.depth) y = dy.parent;
    }
    return topology_.domains[x];
  }

  Distance distance(const Cpu &a, const Cpu &b) const {
    if (a.number == b.number) return {0, 0};
    const std::size_t cell =
        static_cast<std::size_t>(a.node) * topology_.nodes + static_cast<std::size_t>(b.node);
    return {meeting(a, b).cpus, topology_.node_distance.empty() ? 0 : topology_.node_distance[cell]};
  }

  // Hardware threads of one core compete for it, so a spinner slows the worker
  // that it waits for: worse than another core behind the same cache, better than none.
  using SpinClass = std::pair<int, Distance>;
  SpinClass spin_class(const Cpu &requester, const Cpu &worker) const {
    const bool sibling = requester.core >= 0 && requester.core == worker.core;
    const int rank = sibling ? 1 : meeting(requester, worker).cache ? 0 : 2;
    return {rank, distance(requester, worker)};
  }

  std::vector<const Cpu *> usable() const {
    std::vector<const Cpu *> out;
    for (const Cpu &cpu : topology_.cpus)
      if (cpu.usable && (config_.cpus.empty() || std::find(config_.cpus.begin(), config_.cpus.end(),
                                                           cpu.number) != config_.cpus.end()))
        out.push_back(&cpu);
    return out;
  }

  [[noreturn]] void no_cpu() const {
    std::vector<unsigned> allowed;
    for (const Cpu &cpu : topology_.cpus)
      if (cpu.usable) allowed.push_back(cpu.number);
    std::sort(allowed.begin(), allowed.end());
    throw ConfigError(fmt::format("placement.cpus: expected a CPU that this process may use ({}), got \"{}\"",
                                  format_cpu_list(allowed), format_cpu_list(config_.cpus)));
  }

  /// One CPU of each core, the rest where there are more rings than cores.
  static std::vector<const Cpu *> candidates(const std::vector<const Cpu *> &cpus, std::size_t rings) {
    std::vector<const Cpu *> firsts;
    for (const Cpu *cpu : cpus)
      if (cpu->core < 0 ||
          std::none_of(firsts.begin(), firsts.end(), [&](const Cpu *f) { return f->core == cpu->core; }))
        firsts.push_back(cpu);
    return rings <= firsts.size() ? firsts : cpus;
  }

  // Workers are spread evenly over the machine; rings are numbered as their CPUs
  // are, so that with a ring per CPU ring N is CPU N's.
  void workers() {
    const auto cpus = usable();
    if (cpus.empty()) no_cpu();
    const std::size_t rings = config_.ring_count ? config_.ring_count : cpus.size();
    const auto from = candidates(cpus, rings);
    const std::size_t distinct = std::min(rings, from.size());
    for (std::size_t i = 0; i < distinct; ++i) worker_.push_back(from[i * from.size() / distinct]);
    std::sort(worker_.begin(), worker_.end(),
              [](const Cpu *a, const Cpu *b) { return a->number < b->number; });
    for (std::size_t ring = distinct; ring < rings; ++ring) worker_.push_back(worker_[ring % distinct]);
    for (const Cpu *cpu : worker_) result_.worker_cpu.push_back(static_cast<int>(cpu->number));
  }

  /// The closest worker's ring, of equally close ones the ring that serves the fewest CPUs.
  void homes() {
    std::vector<unsigned> load(worker_.size());
    std::vector<const Cpu *> order;
    for (const Cpu &cpu : topology_.cpus) order.push_back(&cpu);
    // CPUs with a worker choose first: theirs is fixed, the others level the load.
    std::stable_partition(order.begin(), order.end(), [this](const Cpu *cpu) {
      return std::find(worker_.begin(), worker_.end(), cpu) != worker_.end();
    });
    for (const Cpu *cpu : order) {
      std::uint32_t best = 0;
      auto rank = [&](std::uint32_t ring) { return std::tuple(distance(*cpu, *worker_[ring]), load[ring]); };
      for (std::uint32_t ring = 1; ring < worker_.size(); ++ring)
        if (rank(ring) < rank(best)) best = ring;
      ++load[best];
      result_.cpu_rings[cpu->number] = {best, best};
    }
  }

  /// The closest class of rings that a requester on `cpu` may spin for; empty: none.
  std::vector<std::uint32_t> spin_candidates(const Cpu &cpu) const {
    std::vector<std::uint32_t> out;
    std::optional<SpinClass> best;
    for (std::uint32_t ring = 0; ring < worker_.size(); ++ring) {
      if (worker_[ring]->number == cpu.number) continue;
      const SpinClass rank = spin_class(cpu, *worker_[ring]);
      if (best && rank > *best) continue;
      if (!best || rank < *best) out.clear();
      best = rank;
      out.push_back(ring);
    }
    return out;
  }

  // Where home is as good a ring to spin for as any, there is nothing to choose.
  // The others take the least chosen of the candidates, from the one behind
  // their home ring on: neighbours form a cycle, and no ring gets all spinners.
  void spins() {
    if (config_.placement != Placement::neighbour) return;
    std::vector<unsigned> load(worker_.size());
    std::vector<std::pair<const Cpu *, std::vector<std::uint32_t>>> choosers;
    for (const Cpu &cpu : topology_.cpus) {
      auto candidates = spin_candidates(cpu);
      const std::uint32_t home = result_.cpu_rings[cpu.number].home;
      if (candidates.empty()) continue;
      if (std::find(candidates.begin(), candidates.end(), home) != candidates.end())
        ++load[home];
      else
        choosers.emplace_back(&cpu, std::move(candidates));
    }
    for (const auto &[cpu, candidates] : choosers) {
      auto &rings = result_.cpu_rings[cpu->number];
      const auto count = static_cast<std::uint32_t>(worker_.size());
      rings.spin =
          *std::min_element(candidates.begin(), candidates.end(), [&, home = rings.home](auto a, auto b) {
            return std::tuple(load[a], (a + count - home) % count) <
                   std::tuple(load[b], (b + count - home) % count);
          });
      ++load[rings.spin];
    }
  }

  // CPUs that are not there now may come: nothing is known of their neighbours,
  // so they are dealt out as the kernel deals out CPUs it was told nothing about.
  void offline() {
    std::vector<bool> online(topology_.possible);
    for (const Cpu &cpu : topology_.cpus) online[cpu.number] = true;
    const auto rings = static_cast<std::uint32_t>(worker_.size());
    for (std::uint32_t cpu = 0; cpu < topology_.possible; ++cpu)
      if (!online[cpu]) result_.cpu_rings[cpu] = {cpu % rings, cpu % rings};
  }

  const Config &config_;
  const CpuTopology &topology_;
  std::vector<const Cpu *> worker_;  // by ring
  RingPlacement result_;
};

}  // namespace

CpuTopology describe_topology(hwloc_topology_t topology, hwloc_const_cpuset_t usable, unsigned possible) {
  CpuTopology out;
  Describer describer(topology, out);
  describer.cpus(usable);
  describer.distances();
  out.possible = possible;
  for (const Cpu &cpu : out.cpus) out.possible = std::max(out.possible, cpu.number + 1);
  return out;
}

CpuTopology this_machine() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0)
    throw std::system_error(errno, std::generic_category(), "hwloc_topology_init");
  const Topology topology(raw, hwloc_topology_destroy);
  // Applications run on CPUs that this process's cgroup does not allow, too.
  hwloc_topology_set_flags(raw, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
  if (hwloc_topology_load(raw) != 0)
    throw std::system_error(errno, std::generic_category(), "hwloc_topology_load");
  const Bitmap usable(hwloc_bitmap_alloc(), hwloc_bitmap_free);
  if (!usable || hwloc_get_cpubind(raw, usable.get(), HWLOC_CPUBIND_THREAD) != 0)
    throw std::system_error(errno, std::generic_category(), "sched_getaffinity");
  return describe_topology(raw, usable.get(), possible_end());
}

unsigned possible_cpus() { return static_cast<unsigned>(possible_list().size()); }

RingPlacement place_rings(const Config &config, const CpuTopology &topology) {
  return Placer(config, topology).place();
}

std::string describe_placement(const RingPlacement &placement) {
  std::string out;
  for (std::size_t ring = 0; ring < placement.worker_cpu.size(); ++ring) {
    const int cpu = placement.worker_cpu[ring];
    out += fmt::format("{}ring {} {}", out.empty() ? "" : ", ", ring,
                       cpu < 0 ? std::string("not pinned") : fmt::format("on CPU {}", cpu));
  }
  return out;
}

int keep_this_thread_on(std::span<const int> cpus) noexcept {
  if (cpus.empty()) return -EINVAL;
  const int last = *std::max_element(cpus.begin(), cpus.end());
  cpu_set_t *set = CPU_ALLOC(last + 1);
  if (!set) return -ENOMEM;
  const std::size_t size = CPU_ALLOC_SIZE(last + 1);
  CPU_ZERO_S(size, set);
  for (const int cpu : cpus) CPU_SET_S(static_cast<std::size_t>(cpu), size, set);
  const int result = sched_setaffinity(0, size, set) == 0 ? 0 : -errno;
  CPU_FREE(set);
  return result;
}

int pin_this_thread(int cpu) noexcept { return cpu < 0 ? 0 : keep_this_thread_on({&cpu, 1}); }

void WorkerPin::check() noexcept {
  if (cpu_ < 0 || loose_ || ::sched_getcpu() == cpu_) return;
  const std::uint64_t now = now_ns();
  if (now < next_try_) return;
  next_try_ = now + kRetryNs;
  pin_this_thread(cpu_);  // fails while the CPU is offline
}

void WorkerPin::change(bool loose) noexcept {
  if (!can_loosen()) return;
  // What fails is not tried again: loose, it is where it was; pinned again, check() sees to it.
  loose ? keep_this_thread_on(around_) : pin_this_thread(cpu_);
  loose_ = loose;
}

}  // namespace efuse
