// SPDX-License-Identifier: LGPL-2.1-or-later
// The module's slot and payload pool (kmod/efuse_ring/pool.c, the very code),
// against a model that knows who has what.
#include "kernel_shim/pool_shim.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <vector>

namespace {

class Pool {
 public:
  Pool(std::uint32_t depth, std::uint32_t granules)
      : depth_(depth), granules_(granules), pool_(pool_shim_new(depth, granules * pool_shim_granule())) {
    REQUIRE(pool_ != nullptr);
  }

  int take(std::uint32_t bytes, bool background = false) { return pool_shim_take(get(), bytes, background); }
  int take_payload(std::uint32_t slot, std::uint32_t bytes) {
    return pool_shim_take_payload(get(), slot, bytes);
  }
  void put(std::uint32_t slot) { pool_shim_put(get(), slot); }
  std::uint32_t first(std::uint32_t slot) const { return pool_shim_pay_first(get(), slot); }
  std::uint32_t nr(std::uint32_t slot) const { return pool_shim_pay_nr(get(), slot); }
  std::uint32_t in_flight() const { return pool_shim_in_flight(get()); }
  std::uint32_t pay_used() const { return pool_shim_pay_used(get()); }
  std::uint32_t depth() const { return depth_; }
  std::uint32_t granules() const { return granules_; }
  pool_shim *get() const { return pool_.get(); }

 private:
  struct Free {
    void operator()(pool_shim *pool) const { pool_shim_free(pool); }
  };
  std::uint32_t depth_, granules_;
  std::unique_ptr<pool_shim, Free> pool_;
};

// What was handed out. It judges every answer of the pool by the bitmaps' meaning alone.
class Model {
 public:
  explicit Model(const Pool &pool) : pool_(pool), owner_(pool.granules(), kNobody), taken_(pool.depth()) {}

  bool has_slot() const { return in_flight_ < pool_.depth(); }
  bool has_room(std::uint32_t nr) const {
    std::uint32_t run = 0;
    for (std::uint32_t who : owner_)
      if ((run = who == kNobody ? run + 1 : 0) >= nr)
        return true;
    return nr == 0;
  }

  void took(std::uint32_t slot) {
    REQUIRE(slot < pool_.depth());
    REQUIRE_FALSE(taken_[slot]);
    taken_[slot] = true;
    in_flight_++;
  }
  void got_room(std::uint32_t slot, std::uint32_t nr) {
    REQUIRE(pool_.nr(slot) == nr);
    REQUIRE(pool_.first(slot) + nr <= pool_.granules());
    for (std::uint32_t g = 0; g < nr; g++) {
      REQUIRE(owner_[pool_.first(slot) + g] == kNobody);
      owner_[pool_.first(slot) + g] = slot;
    }
  }
  void put(std::uint32_t slot) {
    taken_[slot] = false;
    in_flight_--;
    std::replace(owner_.begin(), owner_.end(), slot, kNobody);
  }

  // Counters and every bit agree: nothing leaked, nothing lost.
  void check() const {
    const auto used = std::count_if(owner_.begin(), owner_.end(), [](auto who) { return who != kNobody; });
    REQUIRE(pool_.in_flight() == in_flight_);
    REQUIRE(pool_.pay_used() == static_cast<std::uint32_t>(used));
    std::uint32_t wrong = 0;
    for (std::uint32_t i = 0; i < pool_.depth(); i++)
      wrong += pool_shim_slot_bit(pool_.get(), i) != taken_[i];
    for (std::uint32_t i = 0; i < pool_.granules(); i++)
      wrong += pool_shim_pay_bit(pool_.get(), i) != (owner_[i] != kNobody);
    REQUIRE(wrong == 0);
  }

 private:
  static constexpr std::uint32_t kNobody = ~0u;
  const Pool &pool_;
  std::vector<std::uint32_t> owner_;  // slot that has a granule
  std::vector<bool> taken_;
  std::uint32_t in_flight_ = 0;
};

struct RandomRun {
  Pool pool;
  Model model{pool};
  std::mt19937 random{Catch::rngSeed()};
  std::vector<std::uint32_t> taken, bare;  // slots with what they need; slots that still want room
  std::uint32_t busy = 0, nospace = 0;

  std::uint32_t below(std::uint32_t n) {
    return std::uniform_int_distribution<std::uint32_t>(0, n - 1)(random);
  }

  // Mostly small, sometimes up to the whole pool; not multiples of a granule.
  std::uint32_t bytes() {
    const std::uint32_t granule = pool_shim_granule();
    switch (below(8)) {
      case 0: return 0;
      case 1: return 1 + below(pool.granules() * granule);
      default: return 1 + below(std::min(4u, pool.granules()) * granule);
    }
  }
  static std::uint32_t granules(std::uint32_t bytes) {
    return (bytes + pool_shim_granule() - 1) / pool_shim_granule();
  }

  void take() {
    const std::uint32_t want = bytes(), nr = granules(want);
    const bool slot_there = model.has_slot(), room_there = model.has_room(nr);
    const int slot = pool.take(want);
    if (slot < 0) {
      REQUIRE(slot == (slot_there ? -ENOSPC : -EBUSY));
      REQUIRE_FALSE((slot_there && room_there));
      (slot_there ? nospace : busy)++;
      return;
    }
    REQUIRE((slot_there && room_there));
    model.took(static_cast<std::uint32_t>(slot));
    model.got_room(static_cast<std::uint32_t>(slot), nr);
    (nr == 0 ? bare : taken).push_back(static_cast<std::uint32_t>(slot));
  }

  void take_payload() {
    const std::uint32_t want = std::max(1u, bytes()), slot = bare.back();
    const bool room_there = model.has_room(granules(want));
    const int err = pool.take_payload(slot, want);
    REQUIRE(err == (room_there ? 0 : -ENOSPC));
    if (err != 0)
      return;
    model.got_room(slot, granules(want));
    bare.pop_back();
    taken.push_back(slot);
  }

  void put(std::vector<std::uint32_t> &from) {
    const std::uint32_t i = below(static_cast<std::uint32_t>(from.size())), slot = from[i];
    from[i] = from.back();
    from.pop_back();
    pool.put(slot);
    model.put(slot);
    REQUIRE(pool.nr(slot) == 0);
  }

  // Phases that mostly take and phases that mostly give back, so that both ends are met.
  void step(unsigned n) {
    const bool filling = n / 500 % 2 == 0;
    const std::uint32_t dice = below(10);
    if (!bare.empty() && dice < 3)
      take_payload();
    else if (dice < (filling ? 8u : 5u))
      take();
    else if (!taken.empty())
      put(taken);
    else if (!bare.empty())
      put(bare);
  }
};

}  // namespace

TEST_CASE("pool: random takes and puts agree with a model", "[pool]") {
  const auto [depth, granules] =
      GENERATE(table<std::uint32_t, std::uint32_t>({{4, 16}, {16, 64}, {64, 16}, {64, 333}, {128, 1024}}));
  CAPTURE(depth, granules, Catch::rngSeed());
  RandomRun run{Pool(depth, granules)};
  const unsigned steps = granules > 500 ? 4000 : 12000;
  for (unsigned n = 0; n < steps; n++) {
    run.step(n);
    run.model.check();
  }
  // Each exhaustion was met, or the run has shown nothing about it.
  CHECK(run.nospace > 0);
  if (depth < granules / 2)
    CHECK(run.busy > 0);
  while (!run.taken.empty())
    run.put(run.taken);
  while (!run.bare.empty())
    run.put(run.bare);
  run.model.check();
  CHECK(run.pool.in_flight() == 0);
  CHECK(run.pool.pay_used() == 0);
  CHECK(pool_shim_lock_errors() == 0);
}

TEST_CASE("pool: every slot once, then -EBUSY", "[pool]") {
  Pool pool(64, 16);
  std::vector<bool> seen(64);
  for (int i = 0; i < 64; i++) {
    const int slot = pool.take(0);
    REQUIRE(slot >= 0);
    REQUIRE_FALSE(seen.at(static_cast<std::size_t>(slot)));
    seen[static_cast<std::size_t>(slot)] = true;
  }
  CHECK(pool.take(0) == -EBUSY);
  CHECK(pool.take(1) == -EBUSY);  // told before the payload is looked at
  CHECK(pool.in_flight() == 64);
  CHECK(pool.pay_used() == 0);
  pool.put(17);
  CHECK(pool.take(0) == 17);
}

TEST_CASE("pool: no room leaves the slot free", "[pool]") {
  Pool pool(4, 16);
  const int all = pool.take(16 * pool_shim_granule());
  REQUIRE(all >= 0);
  CHECK(pool.nr(static_cast<std::uint32_t>(all)) == 16);
  CHECK(pool.take(1) == -ENOSPC);
  CHECK(pool.in_flight() == 1);
  CHECK(pool.pay_used() == 16);
  CHECK(pool.take(0) >= 0);  // small requests go on
  pool.put(static_cast<std::uint32_t>(all));
  CHECK(pool.take(1) >= 0);
}

TEST_CASE("pool: one granule to the whole pool", "[pool]") {
  const std::uint32_t granule = pool_shim_granule();
  for (std::uint32_t nr = 1; nr <= 40; nr++) {
    Pool pool(64, 40);
    // The last byte decides.
    for (const std::uint32_t bytes : {nr * granule, (nr - 1) * granule + 1}) {
      const int slot = pool.take(bytes);
      REQUIRE(slot >= 0);
      CHECK(pool.nr(static_cast<std::uint32_t>(slot)) == nr);
      CHECK(pool.pay_used() == nr);
      pool.put(static_cast<std::uint32_t>(slot));
    }
    std::uint32_t fit = 0;
    while (pool.take(nr * granule) >= 0)
      fit++;
    CHECK(fit == 40 / nr);
    CHECK(pool.take(41 * granule) == -ENOSPC);
  }
}

TEST_CASE("pool: searches wrap around their hints", "[pool]") {
  const std::uint32_t granule = pool_shim_granule();
  Pool pool(8, 8);
  std::vector<std::uint32_t> slots;
  for (int i = 0; i < 8; i++)
    slots.push_back(static_cast<std::uint32_t>(pool.take(granule)));
  SECTION("the hint is at the end of both maps, the room at the start") {
    const std::uint32_t first = slots[0], last = slots[7];
    pool.put(first);
    REQUIRE(pool.take(granule) == static_cast<int>(first));
    pool.put(first);
    pool.put(last);  // hints now point at the end, where one granule is free
    CHECK(pool.take(granule) == static_cast<int>(last));
    CHECK(pool.first(last) == 7);
    CHECK(pool.take(granule) == static_cast<int>(first));
    CHECK(pool.first(first) == 0);
  }
  SECTION("an area that begins before the hint is found") {
    pool.put(slots[3]);
    pool.put(slots[2]);
    pool.put(slots[4]);  // free: 2, 3, 4; the hint says 4
    const int slot = pool.take(3 * granule);
    REQUIRE(slot >= 0);
    CHECK(pool.first(static_cast<std::uint32_t>(slot)) == 2);
  }
  SECTION("holes that are too small do not add up") {
    pool.put(slots[1]);
    pool.put(slots[3]);
    pool.put(slots[7]);
    CHECK(pool.take(2 * granule) == -ENOSPC);
    CHECK(pool.in_flight() == 5);
    pool.put(slots[2]);
    CHECK(pool.take(3 * granule) >= 0);
  }
}

TEST_CASE("pool: background requests leave a quarter of the slots to others", "[pool]") {
  Pool pool(64, 16);
  std::vector<std::uint32_t> background;
  int slot;
  while ((slot = pool.take(0, true)) >= 0)
    background.push_back(static_cast<std::uint32_t>(slot));
  CHECK(slot == -EBUSY);
  CHECK(background.size() == 48);
  CHECK(pool_shim_background(pool.get()) == 48);
  const auto foreground = static_cast<std::uint32_t>(pool.take(0));
  CHECK(pool.in_flight() == 49);
  CHECK(pool.take(0, true) == -EBUSY);
  pool.put(foreground);
  CHECK(pool.take(0, true) == -EBUSY);  // that was none of theirs
  pool.put(background.back());
  CHECK(pool.take(0, true) >= 0);
  CHECK(pool_shim_background(pool.get()) == 48);
}

TEST_CASE("pool: a put ends the use of the slot that its state word names", "[pool]") {
  Pool pool(4, 16);
  const auto slot = static_cast<std::uint32_t>(pool.take(0));
  pool_shim_use(pool.get(), slot, 0x3fffffff);  // the largest gen
  CHECK_FALSE(pool_shim_slot_free(pool.get(), slot));
  pool.put(slot);
  CHECK(pool_shim_slot_free(pool.get(), slot));
}

TEST_CASE("pool: a worker that waits for room hears of it", "[pool]") {
  Pool pool(4, 16);
  const auto with = static_cast<std::uint32_t>(pool.take(1));
  const auto without = static_cast<std::uint32_t>(pool.take(0));
  SECTION("nobody waits") {
    pool.put(with);
    CHECK(pool_shim_wakes(pool.get()) == 0);
    CHECK(pool_shim_defer_events(pool.get()) == 0);
  }
  SECTION("somebody waits, and room was made") {
    pool_shim_set_deferred(pool.get(), 1);
    pool.put(without);
    CHECK(pool_shim_wakes(pool.get()) == 0);
    pool.put(with);
    CHECK(pool_shim_wakes(pool.get()) == 1);
    CHECK(pool_shim_defer_events(pool.get()) == 1);
  }
  CHECK(pool_shim_lock_errors() == 0);
}
