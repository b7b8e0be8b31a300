// SPDX-License-Identifier: LGPL-2.1-or-later
// Placement of rings on synthetic machines.
#include "placement.hh"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>
#include <string>

#include <sched.h>

using namespace efuse;

namespace {

using Topology = std::unique_ptr<hwloc_topology, decltype(&hwloc_topology_destroy)>;
using Bitmap = std::unique_ptr<hwloc_bitmap_s, decltype(&hwloc_bitmap_free)>;

struct Machine {
  explicit Machine(const char *synthetic, const char *online = nullptr)
      : topology(load(synthetic), hwloc_topology_destroy) {
    if (!online) return;
    const Bitmap set = bitmap(online);
    REQUIRE(hwloc_topology_restrict(topology.get(), set.get(), 0) == 0);
  }

  static hwloc_topology_t load(const char *synthetic) {
    hwloc_topology_t raw = nullptr;
    REQUIRE(hwloc_topology_init(&raw) == 0);
    REQUIRE(hwloc_topology_set_synthetic(raw, synthetic) == 0);
    REQUIRE(hwloc_topology_load(raw) == 0);
    return raw;
  }
  static Bitmap bitmap(const char *list) {
    Bitmap set(hwloc_bitmap_alloc(), hwloc_bitmap_free);
    REQUIRE(hwloc_bitmap_list_sscanf(set.get(), list) == 0);
    return set;
  }
  CpuTopology describe(const char *usable = "0-4095", unsigned possible = 0) const {
    return describe_topology(topology.get(), bitmap(usable).get(), possible);
  }

  Topology topology;
};

Config with_rings(unsigned rings) {
  Config config;
  config.ring_count = rings;
  return config;
}

std::vector<int> spin_load(const RingPlacement &placement) {
  std::vector<int> load(placement.worker_cpu.size());
  for (const auto &rings : placement.cpu_rings) ++load[rings.spin];
  return load;
}

std::vector<int> home_load(const RingPlacement &placement) {
  std::vector<int> load(placement.worker_cpu.size());
  for (const auto &rings : placement.cpu_rings) ++load[rings.home];
  return load;
}

void check_valid(const RingPlacement &placement, std::size_t rings, std::size_t cpus) {
  REQUIRE(placement.worker_cpu.size() == rings);
  REQUIRE(placement.cpu_rings.size() == cpus);
  for (const auto &[home, spin] : placement.cpu_rings) {
    REQUIRE(home < rings);
    REQUIRE(spin < rings);
  }
}

// 16 CPUs: 2 NUMA nodes with an L3 each, 4 cores each, 2 threads each. CPU
// numbers as Linux deals them: threads 0-7 first, their siblings are 8-15.
constexpr const char *kTwoNodes = "numa:2 l3:1 core:4 pu:2(indexes=0,8,1,9,2,10,3,11,4,12,5,13,6,14,7,15)";

}  // namespace

TEST_CASE("two CPUs serve each other's spinners", "[placement]") {
  for (const char *synthetic : {"l3:1 core:2 pu:1", "core:2 pu:1", "pack:2 core:1 pu:1", "core:1 pu:2"}) {
    INFO(synthetic);
    const RingPlacement placement = place_rings(Config{}, Machine(synthetic).describe());
    check_valid(placement, 2, 2);
    CHECK(placement.worker_cpu == std::vector<int>{0, 1});
    CHECK(placement.cpu_rings[0].home == 0);
    CHECK(placement.cpu_rings[0].spin == 1);
    CHECK(placement.cpu_rings[1].home == 1);
    CHECK(placement.cpu_rings[1].spin == 0);
  }
}

TEST_CASE("one CPU has nobody to spin for", "[placement]") {
  for (unsigned rings : {0u, 1u, 3u}) {
    const RingPlacement placement = place_rings(with_rings(rings), Machine("core:1 pu:1").describe());
    check_valid(placement, rings ? rings : 1, 1);
    CHECK(placement.cpu_rings[0].spin == placement.cpu_rings[0].home);
    for (const int cpu : placement.worker_cpu) CHECK(cpu == 0);
  }
}

TEST_CASE("8 cores with 2 threads on 2 nodes: spinners stay in their cache and off their core",
          "[placement]") {
  const RingPlacement placement = place_rings(Config{}, Machine(kTwoNodes).describe());
  check_valid(placement, 16, 16);
  for (unsigned cpu = 0; cpu < 16; ++cpu) {
    INFO("cpu " << cpu);
    CHECK(placement.worker_cpu[cpu] == static_cast<int>(cpu));
    CHECK(placement.cpu_rings[cpu].home == cpu);
    const unsigned spin = placement.worker_cpu[placement.cpu_rings[cpu].spin];
    CHECK(spin % 8 != cpu % 8);              // another core
    CHECK((spin % 8) / 4 == (cpu % 8) / 4);  // the same L3
  }
  CHECK(spin_load(placement) == std::vector<int>(16, 1));
}

TEST_CASE("a smaller shared cache is closer", "[placement]") {
  // Pairs of cores share an L2, eight an L3.
  const RingPlacement placement = place_rings(Config{}, Machine("l3:2 l2:4 core:2 pu:1").describe());
  check_valid(placement, 16, 16);
  for (unsigned cpu = 0; cpu < 16; ++cpu) CHECK(placement.cpu_rings[cpu].spin == (cpu ^ 1u));
}

TEST_CASE("the sibling thread is the last resort within a cache, and better than another package",
          "[placement]") {
  const RingPlacement placement = place_rings(Config{}, Machine("pack:2 l3:1 core:1 pu:2").describe());
  check_valid(placement, 4, 4);
  for (unsigned cpu = 0; cpu < 4; ++cpu) CHECK(placement.cpu_rings[cpu].spin == (cpu ^ 1u));
}

TEST_CASE("4 rings on 64 CPUs", "[placement]") {
  // 4 packages of 8 cores with 2 threads.
  const RingPlacement placement = place_rings(with_rings(4), Machine("pack:4 l3:1 core:8 pu:2").describe());
  check_valid(placement, 4, 64);
  std::set<int> packages;
  for (const int cpu : placement.worker_cpu) packages.insert(cpu / 16);
  CHECK(packages.size() == 4);
  for (unsigned cpu = 0; cpu < 64; ++cpu) {
    INFO("cpu " << cpu);
    const auto [home, spin] = placement.cpu_rings[cpu];
    CHECK(placement.worker_cpu[home] / 16 == static_cast<int>(cpu / 16));
    CHECK(placement.worker_cpu[spin] != static_cast<int>(cpu));
    // Off the workers' cores there is nothing to choose.
    if (cpu / 2 != static_cast<unsigned>(placement.worker_cpu[home]) / 2) CHECK(spin == home);
  }
  CHECK(home_load(placement) == std::vector<int>(4, 16));
  for (const int load : spin_load(placement)) CHECK((load >= 14 && load <= 18));
}

TEST_CASE("4 rings on 64 CPUs behind one cache share the load", "[placement]") {
  const RingPlacement placement = place_rings(with_rings(4), Machine("l3:1 core:64 pu:1").describe());
  check_valid(placement, 4, 64);
  CHECK(home_load(placement) == std::vector<int>(4, 16));
  CHECK(spin_load(placement) == std::vector<int>(4, 16));
  CHECK(placement.worker_cpu == std::vector<int>{0, 16, 32, 48});
}

TEST_CASE("fewer rings than cores never share a core", "[placement]") {
  const CpuTopology topology = Machine(kTwoNodes).describe();
  for (unsigned rings = 1; rings <= 8; ++rings) {
    const RingPlacement placement = place_rings(with_rings(rings), topology);
    check_valid(placement, rings, 16);
    std::set<int> cores;
    for (const int cpu : placement.worker_cpu) cores.insert(cpu % 8);
    CHECK(cores.size() == rings);
  }
}

TEST_CASE("a CPU with a worker is at home there, the others at the closest", "[placement]") {
  const CpuTopology topology = Machine(kTwoNodes).describe();
  for (unsigned rings = 1; rings <= 16; ++rings) {
    const RingPlacement placement = place_rings(with_rings(rings), topology);
    for (unsigned ring = 0; ring < rings; ++ring)
      CHECK(placement.cpu_rings[placement.worker_cpu[ring]].home == ring);
    if (rings < 2) continue;
    for (unsigned cpu = 0; cpu < 16; ++cpu)  // each node has a worker from 2 rings on
      CHECK((placement.worker_cpu[placement.cpu_rings[cpu].home] % 8) / 4 == static_cast<int>((cpu % 8) / 4));
  }
}

TEST_CASE("NUMA distances decide between equally deep nodes", "[placement]") {
  const Machine machine("numa:3 core:2 pu:1");
  CpuTopology topology = machine.describe();
  REQUIRE(topology.nodes == 3);
  // Node 1 is closer to 2 than to 0.
  topology.node_distance = {10, 40, 40, 40, 10, 20, 40, 20, 10};
  Config config;
  config.cpus = {0, 4};
  RingPlacement placement = place_rings(config, topology);
  CHECK(placement.worker_cpu == std::vector<int>{0, 4});
  CHECK(placement.cpu_rings[2].home == 1);
  CHECK(placement.cpu_rings[3].home == 1);
  // And the other way round.
  topology.node_distance = {10, 20, 40, 20, 10, 40, 40, 40, 10};
  placement = place_rings(config, topology);
  CHECK(placement.cpu_rings[2].home == 0);
  CHECK(placement.cpu_rings[3].home == 0);
}

TEST_CASE("more rings than CPUs: several workers on each", "[placement]") {
  const RingPlacement placement = place_rings(with_rings(5), Machine("l3:1 core:2 pu:1").describe());
  check_valid(placement, 5, 2);
  CHECK(placement.worker_cpu == std::vector<int>{0, 1, 0, 1, 0});
  CHECK(placement.cpu_rings[0].home % 2 == 0);
  CHECK(placement.worker_cpu[placement.cpu_rings[0].spin] == 1);
  CHECK(placement.worker_cpu[placement.cpu_rings[1].spin] == 0);
}

TEST_CASE("extra rings serve the CPUs without workers", "[placement]") {
  Config config = with_rings(8);
  config.cpus = {0, 1};
  const RingPlacement placement = place_rings(config, Machine("l3:1 core:8 pu:1").describe());
  check_valid(placement, 8, 8);
  for (const int cpu : placement.worker_cpu) CHECK(cpu < 2);
  CHECK(home_load(placement) == std::vector<int>(8, 1));
}

TEST_CASE("offline holes and CPUs to come", "[placement]") {
  const Machine machine("l3:1 core:8 pu:1", "0,2-3,6");
  const RingPlacement placement = place_rings(Config{}, machine.describe("0-4095", 12));
  check_valid(placement, 4, 12);
  CHECK(placement.worker_cpu == std::vector<int>{0, 2, 3, 6});
  CHECK(placement.cpu_rings[6].home == 3);
  for (const unsigned cpu : {0u, 2u, 3u, 6u})
    CHECK(placement.worker_cpu[placement.cpu_rings[cpu].spin] != static_cast<int>(cpu));
  for (const unsigned cpu : {1u, 4u, 5u, 7u, 8u, 11u}) CHECK(placement.cpu_rings[cpu].home == cpu % 4);
}

TEST_CASE("affinity and placement.cpus are intersected", "[placement]") {
  const CpuTopology topology = Machine("l3:1 core:8 pu:1").describe("2-5");
  Config config;
  CHECK(place_rings(config, topology).worker_cpu == std::vector<int>{2, 3, 4, 5});
  config.cpus = {0, 1, 4, 5, 9};
  const RingPlacement placement = place_rings(config, topology);
  CHECK(placement.worker_cpu == std::vector<int>{4, 5});
  check_valid(placement, 2, 8);
  CHECK(home_load(placement) == std::vector<int>{4, 4});
  config.cpus = {0, 7};
  CHECK_THROWS_WITH(place_rings(config, topology),
                    "placement.cpus: expected a CPU that this process may use (2-5), got \"0,7\"");
}

TEST_CASE("policies", "[placement]") {
  const CpuTopology topology = Machine(kTwoNodes).describe();
  Config config;
  config.placement = Placement::home;
  RingPlacement placement = place_rings(config, topology);
  for (const auto &[home, spin] : placement.cpu_rings) CHECK(home == spin);
  CHECK(placement.worker_cpu[5] == 5);
  config.placement = Placement::none;
  placement = place_rings(config, topology);
  CHECK(placement.worker_cpu == std::vector<int>(16, -1));
  for (unsigned cpu = 0; cpu < 16; ++cpu) CHECK(placement.cpu_rings[cpu].home == cpu);
  for (const auto &[home, spin] : placement.cpu_rings) CHECK(home == spin);
}

TEST_CASE("any ring count on any machine is valid and level", "[placement]") {
  for (const char *synthetic :
       {"core:3 pu:1", "numa:2 l3:1 core:3 pu:2", "pack:2 l3:2 l2:3 core:2 pu:2", "core:5 pu:4"}) {
    const CpuTopology topology = Machine(synthetic).describe();
    const unsigned cpus = static_cast<unsigned>(topology.cpus.size());
    for (unsigned rings = 1; rings <= cpus + 3; ++rings) {
      INFO(synthetic << ", " << rings << " rings");
      const RingPlacement placement = place_rings(with_rings(rings), topology);
      check_valid(placement, rings, cpus);
      for (unsigned cpu = 0; cpu < cpus; ++cpu)
        if (rings > 1 && rings <= cpus)
          CHECK(placement.worker_cpu[placement.cpu_rings[cpu].spin] != static_cast<int>(cpu));
      // Within a cache of 6 CPUs one more than its share, across small ones a few.
      if (rings == cpus) {
        const auto load = spin_load(placement);
        CHECK(*std::max_element(load.begin(), load.end()) <= 2);
      }
    }
  }
}

TEST_CASE("4096 CPUs are placed in time", "[placement]") {
  const RingPlacement placement = place_rings(Config{}, Machine("numa:16 l3:8 core:16 pu:2").describe());
  check_valid(placement, 4096, 4096);
  CHECK(spin_load(placement) == std::vector<int>(4096, 1));
}

TEST_CASE("this machine", "[placement]") {
  const CpuTopology topology = this_machine();
  CHECK(topology.possible >= topology.cpus.size());
  const RingPlacement placement = place_rings(Config{}, topology);
  CHECK(placement.worker_cpu.size() ==
        static_cast<std::size_t>(
            std::count_if(topology.cpus.begin(), topology.cpus.end(), [](auto &c) { return c.usable; })));
  CHECK(place_rings(Config{}, topology).worker_cpu == placement.worker_cpu);

  cpu_set_t before;
  REQUIRE(::sched_getaffinity(0, sizeof(before), &before) == 0);
  const int last = placement.worker_cpu.back();
  CHECK(pin_this_thread(last) == 0);
  CHECK(::sched_getcpu() == last);
  CHECK(place_rings(Config{}, this_machine()).worker_cpu == std::vector<int>{last});
  CHECK(pin_this_thread(60000) == -EINVAL);
  CHECK(pin_this_thread(-1) == 0);
  CHECK(::sched_setaffinity(0, sizeof(before), &before) == 0);
}

TEST_CASE("a worker is let go from its CPU and comes back", "[placement]") {
  const auto allowed = [] {
    cpu_set_t set;
    REQUIRE(::sched_getaffinity(0, sizeof(set), &set) == 0);
    std::vector<int> cpus;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(static_cast<std::size_t>(cpu), &set))
        cpus.push_back(cpu);
    return cpus;
  };
  const std::vector<int> all = allowed();
  struct Affinity {  // of this thread, restored
    cpu_set_t before;
    Affinity() { REQUIRE(::sched_getaffinity(0, sizeof(before), &before) == 0); }
    ~Affinity() { ::sched_setaffinity(0, sizeof(before), &before); }
  };

  CHECK_FALSE(WorkerPin(-1, all).can_loosen());
  CHECK_FALSE(WorkerPin(all.front()).can_loosen());
  CHECK_FALSE(WorkerPin(all.front(), std::span(all).first(1)).can_loosen());
  CHECK(keep_this_thread_on({}) == -EINVAL);
  {
    const Affinity as_it_was;
    REQUIRE(pin_this_thread(all.front()) == 0);
    WorkerPin nowhere_to_go(all.front());
    nowhere_to_go.loosen(true);
    CHECK(allowed() == std::vector{all.front()});
    const std::vector<int> one_gone{all.front(), 60000};
    WorkerPin pin(all.front(), one_gone);  // a CPU that is not there keeps it from nothing
    pin.loosen(true);
    CHECK(allowed() == std::vector{all.front()});
  }
  if (all.size() < 2) {
    WARN("skipped in part: one CPU");
    return;
  }
  const Affinity as_it_was;
  REQUIRE(pin_this_thread(all.back()) == 0);
  WorkerPin pin(all.back(), all);
  REQUIRE(pin.can_loosen());
  pin.loosen(false);
  CHECK(allowed() == std::vector{all.back()});
  pin.loosen(true);
  CHECK(allowed() == all);
  pin.check();  // leaves it alone wherever it is
  CHECK(allowed() == all);
  pin.loosen(false);
  CHECK(allowed() == std::vector{all.back()});
  CHECK(::sched_getcpu() == all.back());
}
