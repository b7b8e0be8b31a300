// SPDX-License-Identifier: LGPL-2.1-or-later
// The module's stamps (kmod/efuse_ring/changes.c, the very code): what was kept is never answered once it may be
// older than what somebody has been told.
#include "kernel_shim/changes_shim.h"

#include <catch2/catch.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

namespace {

enum : std::uint32_t { kAttr, kData, kName, kAll };
constexpr std::uint64_t kWhole = ~std::uint64_t{0};

struct Free {
  void operator()(changes_shim *c) const { changes_shim_free(c); }
};
using Changes = std::unique_ptr<changes_shim, Free>;

bool fresh(const Changes &c, std::uint32_t kind, std::uint64_t node, std::uint64_t tag, std::uint64_t where = 0) {
  return changes_shim_fresh(c.get(), kind, node, where, tag);
}

}  // namespace

TEST_CASE("changes: an answer is fresh until its subject changes") {
  Changes c(changes_shim_new(1 << 12));
  REQUIRE(c);
  const std::uint64_t tag = changes_shim_tag(c.get());
  CHECK(fresh(c, kAttr, 7, tag));

  effects_shim *e = effects_shim_begin(c.get());
  effects_shim_add(c.get(), e, kAttr, 7, 0);
  CHECK_FALSE(fresh(c, kAttr, 7, tag));   // busy
  CHECK(fresh(c, kData, 7, tag));         // of another kind
  CHECK(fresh(c, kAttr, 8, tag));         // of another node
  const std::uint64_t during = changes_shim_tag(c.get());
  std::uint64_t stamp = 0;
  CHECK(effects_shim_end(c.get(), e, &stamp));
  CHECK_FALSE(fresh(c, kAttr, 7, tag));
  CHECK_FALSE(fresh(c, kAttr, 7, during));  // it may have been answered before the change
  CHECK(fresh(c, kAttr, 7, stamp));
  CHECK(fresh(c, kAttr, 7, changes_shim_tag(c.get())));
}

TEST_CASE("changes: data by piece and as a whole") {
  Changes c(changes_shim_new(1 << 12));
  const std::uint64_t tag = changes_shim_tag(c.get());
  changes_shim_changed(c.get(), kData, 7, 5 << 20);
  CHECK_FALSE(fresh(c, kData, 7, tag, (5 << 20) + 4096));
  CHECK(fresh(c, kData, 7, tag, 4 << 20));
  CHECK(fresh(c, kData, 7, tag, 6 << 20));
  changes_shim_changed(c.get(), kData, 7, kWhole);
  CHECK_FALSE(fresh(c, kData, 7, tag, 4 << 20));
  CHECK(fresh(c, kData, 8, tag, 4 << 20));
}

TEST_CASE("changes: everything") {
  Changes c(changes_shim_new(1 << 12));
  const std::uint64_t tag = changes_shim_tag(c.get());
  effects_shim *e = effects_shim_begin(c.get());
  effects_shim_add(c.get(), e, kAll, 0, 0);
  effects_shim_add(c.get(), e, kAll, 0, 0);
  CHECK_FALSE(fresh(c, kName, 123, tag));
  std::uint64_t stamp = 0;
  effects_shim_end(c.get(), e, &stamp);
  CHECK_FALSE(fresh(c, kName, 123, tag));
  CHECK(fresh(c, kName, 123, stamp));

  // More than a request keeps a list of.
  e = effects_shim_begin(c.get());
  for (std::uint64_t node = 0; node < 100; ++node)
    effects_shim_add(c.get(), e, kAttr, node, 0);
  CHECK_FALSE(fresh(c, kAttr, 99, stamp));
  CHECK_FALSE(fresh(c, kAttr, 1000, stamp));
  effects_shim_end(c.get(), e, &stamp);
  CHECK(fresh(c, kAttr, 1000, stamp));
}

TEST_CASE("changes: a change that was not alone cannot tell of its subject") {
  Changes c(changes_shim_new(1 << 12));
  std::uint64_t stamp = 0;
  effects_shim *a = effects_shim_begin(c.get());
  effects_shim_add(c.get(), a, kName, 7, 0);
  effects_shim *b = effects_shim_begin(c.get());
  effects_shim_add(c.get(), b, kName, 7, 0);
  CHECK_FALSE(effects_shim_end(c.get(), a, &stamp));
  CHECK_FALSE(effects_shim_end(c.get(), b, &stamp));

  a = effects_shim_begin(c.get());
  effects_shim_add(c.get(), a, kName, 7, 0);
  changes_shim_changed(c.get(), kName, 7, 0);
  CHECK_FALSE(effects_shim_end(c.get(), a, &stamp));

  a = effects_shim_begin(c.get());
  effects_shim_add(c.get(), a, kName, 7, 0);
  changes_shim_changed(c.get(), kAll, 0, 0);
  CHECK_FALSE(effects_shim_end(c.get(), a, &stamp));

  a = effects_shim_begin(c.get());
  effects_shim_add(c.get(), a, kName, 7, 0);
  changes_shim_changed(c.get(), kName, std::uint64_t{1} << 60, 0);
  CHECK(effects_shim_end(c.get(), a, &stamp));
}

namespace {

/// A server whose files are numbers that only grow, and a cache of its answers before it.
class Race {
 public:
  explicit Race(bool look) : look_(look) {}

  /// Stale answers in `ms` milliseconds.
  std::uint64_t run(int ms) {
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 2; ++i)
      threads.emplace_back([this, i] { write(i); });
    for (unsigned i = 0; i < 3; ++i)
      threads.emplace_back([this, i] { read(100 + i); });
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
    stop_ = true;
    for (auto &thread : threads)
      thread.join();
    return stale_;
  }
  std::uint64_t hits() const { return hits_; }
  std::uint64_t told() const { return told_; }

 private:
  static constexpr std::size_t kFiles = 4;
  using Rng = std::minstd_rand;

  static void dawdle(Rng &rng) {
    if (rng() % 8 == 0)
      std::this_thread::yield();
    for (unsigned i = rng() % 64; i > 0; --i)
      std::atomic_signal_fence(std::memory_order_seq_cst);
  }

  static void raise(std::atomic<std::uint64_t> &to, std::uint64_t value) {
    std::uint64_t now = to.load();
    while (now < value && !to.compare_exchange_weak(now, value)) {
    }
  }

  void keep(std::size_t file, std::uint64_t tag, std::uint64_t value) {
    const std::lock_guard lock(cache_mutex_);
    cache_[file] = {tag, value, true};
  }

  void write(unsigned seed) {
    Rng rng(seed + 1);
    while (!stop_) {
      const std::size_t file = rng() % kFiles;
      effects_shim *e = effects_shim_begin(changes_.get());
      effects_shim_add(changes_.get(), e, kData, file, 0);
      dawdle(rng);
      const std::uint64_t value = ++server_[file];
      dawdle(rng);
      std::uint64_t stamp = 0;
      if (effects_shim_end(changes_.get(), e, &stamp)) {
        keep(file, stamp, value);
        ++told_;
      }
      raise(known_[file], value);
      for (unsigned i = rng() % 16; i > 0; --i)
        dawdle(rng);
    }
  }

  void read(unsigned seed) {
    Rng rng(seed);
    while (!stop_) {
      const std::size_t file = rng() % kFiles;
      const std::uint64_t known = known_[file].load();
      Kept kept;
      {
        const std::lock_guard lock(cache_mutex_);
        kept = cache_[file];
      }
      std::uint64_t value = 0;
      if (kept.valid && (!look_ || fresh(changes_, kData, file, kept.tag))) {
        value = kept.value;
        ++hits_;
      } else {
        const std::uint64_t tag = changes_shim_tag(changes_.get());
        dawdle(rng);
        value = server_[file].load();
        dawdle(rng);
        keep(file, tag, value);
      }
      if (value < known)
        ++stale_;
      raise(known_[file], value);   // who comes now must not see less
    }
  }

  struct Kept {
    std::uint64_t tag = 0, value = 0;
    bool valid = false;
  };
  const bool look_;
  Changes changes_{changes_shim_new(1 << 10)};
  std::array<std::atomic<std::uint64_t>, kFiles> server_{}, known_{};
  std::mutex cache_mutex_;
  std::array<Kept, kFiles> cache_;
  std::atomic<std::uint64_t> stale_{0}, hits_{0}, told_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace

TEST_CASE("changes: no answer is older than what anybody has been told") {
  Race race(true);
  CHECK(race.run(3000) == 0);
  CHECK(race.hits() > 1000);
  CHECK(race.told() > 100);
}

TEST_CASE("changes: who does not ask is told old things (the test can fail)") {
  std::uint64_t stale = 0;
  for (int i = 0; i < 50 && stale == 0; ++i)  // how often threads meet is the machine's to say
    stale = Race(false).run(300);
  CHECK(stale > 0);
}
