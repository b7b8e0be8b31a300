// SPDX-License-Identifier: LGPL-2.1-or-later
// The daemon's side of one ring (runtime/ring.hh) against the kernel's side in fake_kernel.hh.
#include "fake_kernel.hh"
#include "ring.hh"

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <barrier>
#include <chrono>
#include <deque>
#include <functional>
#include <random>

using namespace efuse;
using namespace efuse::test;

namespace {

Ring ring_of(FakeKernel &kernel, bool shared = false) {
  return Ring(kernel.kern(), kernel.user(), kernel.payload(), shared);
}

std::span<const std::byte> bytes_of(const std::uint64_t &value) {
  return std::as_bytes(std::span(&value, 1));
}

std::uint64_t number_in(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  if (bytes.size() == sizeof value)
    std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

std::span<const std::byte> body_of(const RingRequest &r) {
  return r.tail.empty() ? r.head.subspan(sizeof(fuse_in_header)) : r.tail;
}

// A request that nobody waits for in a thread; its owner looks at it.
struct Asked {
  explicit Asked(std::uint64_t value) : number(value) {
    req.body = bytes_of(number);
    req.out_cap = sizeof number;
  }
  std::uint64_t number;
  FakeKernel::Request req;
  FakeKernel::Use use{};
};

Asked &submit(FakeKernel &kernel, Asked &asked) {
  const auto use = kernel.take(asked.req);
  REQUIRE(use.has_value());
  asked.use = *use;
  REQUIRE(kernel.publish(*use));
  return asked;
}

void reply(Ring &ring, const RingRequest &r, std::uint64_t value) {
  std::memcpy(r.out.data(), &value, sizeof value);
  if (ring.finish(r.slot, r.gen, 0, sizeof value))
    REQUIRE(ring.complete(r.slot, r.gen));
}

// All bytes of what a request gives access to: AddressSanitizer objects to one outside.
unsigned touch(const RingRequest &r) {
  unsigned sum = 0;
  for (std::byte b : r.head)
    sum += std::to_integer<unsigned>(b);
  for (std::byte b : r.tail)
    sum += std::to_integer<unsigned>(b);
  for (std::byte &b : r.out)
    b = std::byte{0x5a};
  return sum;
}

bool lies_in(std::span<const std::byte> part, std::span<const std::byte> whole) {
  return part.empty() ||
         (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

// Indices that wrap soon, and those that a fresh attachment has.
std::uint32_t first_index() { return GENERATE(0u, 0xfffffff0u, 0xffffffffu); }

}  // namespace

TEST_CASE("ring: a header as attach writes it is accepted", "[ring]") {
  const auto depth = GENERATE(4u, 16u, 1024u);
  FakeKernel kernel({.depth = depth, .forget_depth = 8, .slot_in_size = 512, .slot_out_size = 1024});
  const Ring ring = ring_of(kernel);
  CHECK(ring.info().depth == depth);
  CHECK(ring.info().slot_out_size == 1024);
  CHECK_FALSE(ring.has_requests());
  CHECK_FALSE(ring.has_messages());
  CHECK_FALSE(ring.has_deferred());
  CHECK(ring.uncommitted() == 0);
}

TEST_CASE("ring: each bad field of the header is refused by name", "[ring]") {
  using Info = efuse_ring_info;
  struct Case {
    const char *says;
    std::function<void(Info &)> spoil;
  };
  const std::vector<Case> cases = {
      {"does not start with a ring header", [](Info &i) { i.magic ^= 1; }},
      {"ABI version 2", [](Info &i) { i.abi_version = 2; }},
      {"features", [](Info &i) { i.features = 1ull << 63; }},
      {"ring 1 of 1", [](Info &i) { i.ring = 1; }},
      {"ring 0 of 0", [](Info &i) { i.nr_rings = 0; }},
      {"sizes are not those of the mappings", [](Info &i) { i.kern_size += 4096; }},
      {"sizes are not those of the mappings", [](Info &i) { i.kern_size -= 4096; }},
      {"sizes are not those of the mappings", [](Info &i) { i.user_size *= 2; }},
      {"sizes are not those of the mappings", [](Info &i) { i.payload_size -= 1; }},
      {"depth = 0", [](Info &i) { i.depth = 0; }},
      {"depth = 12", [](Info &i) { i.depth = 12; }},
      {"outside its region", [](Info &i) { i.depth = 1u << 31; }},
      {"interrupt_depth = 3", [](Info &i) { i.interrupt_depth = 3; }},
      {"interrupt at byte", [](Info &i) { i.interrupt_depth = 1u << 20; }},
      {"forget_depth = 0", [](Info &i) { i.forget_depth = 0; }},
      {"forget at byte", [](Info &i) { i.forget_depth = 1u << 20; }},
      {"slot_in_size = 255", [](Info &i) { i.slot_in_size = 255; }},
      {"slots are too small", [](Info &i) { i.slot_in_size = 64; }},
      {"slot_in at byte", [](Info &i) { i.slot_in_size = 1u << 31; }},
      {"slot_out_size = 24", [](Info &i) { i.slot_out_size = 24; }},
      {"slots are too small", [](Info &i) { i.slot_out_size = 8; }},
      {"slot_out at byte", [](Info &i) { i.slot_out_size = 1u << 20; }},
      {"kern_head at byte", [](Info &i) { i.kern_head_off = i.kern_size - 8; }},
      {"pending at byte", [](Info &i) { i.pending_off = i.kern_size - 8; }},
      {"pending at byte", [](Info &i) { i.pending_off += 4; }},
      {"interrupt at byte", [](Info &i) { i.interrupt_off = 0xfffffff8; }},
      {"forget at byte", [](Info &i) { i.forget_off = i.kern_size; }},
      {"slot_in at byte", [](Info &i) { i.slot_in_off = i.kern_size - i.slot_in_size; }},
      {"user_head at byte", [](Info &i) { i.user_head_off = 0xfffffff8; }},
      {"complete at byte", [](Info &i) { i.complete_off = i.user_size - 8; }},
      {"slot_out at byte", [](Info &i) { i.slot_out_off = i.user_size; }},
  };
  for (const Case &c : cases) {
    CAPTURE(c.says);
    FakeKernel kernel({});
    c.spoil(kernel.header());
    CHECK_THROWS_WITH(ring_of(kernel), Catch::StartsWith("efuse_ring: ") && Catch::Contains(c.says));
  }
  std::array<std::byte, 64> tiny{};
  CHECK_THROWS_WITH(Ring(tiny, {}, {}, false), Catch::Contains("too small for a ring header"));
}

TEST_CASE("ring: take, finish, commit over many laps and past the end of the indices", "[ring]") {
  const bool shared = GENERATE(false, true);
  FakeKernel kernel({.depth = 8, .first_index = first_index()});
  Ring ring = ring_of(kernel, shared);
  std::mt19937 random{Catch::rngSeed()};
  std::deque<Asked> open;  // published, not taken
  std::uint64_t next = 1, answered = 0;
  while (answered < 3000) {
    if (random() % 2 != 0 && open.size() < 8) {
      Asked &a = open.emplace_back(next++);
      a.req.in_payload = random() % 4 == 0;
      a.req.out_payload = random() % 4 == 0;
      submit(kernel, a);
      continue;
    }
    CHECK(ring.has_requests() == !open.empty());
    const auto r = ring.take_request();
    REQUIRE(r.has_value() == !open.empty());
    if (!r)
      continue;
    Asked &a = open.front();  // in order
    REQUIRE(r->slot == a.use.slot);
    REQUIRE(r->gen == a.use.gen);
    REQUIRE(r->tail.empty() == !a.req.in_payload);
    REQUIRE(number_in(body_of(*r)) == a.number);
    REQUIRE(r->out.size() == sizeof a.number);
    reply(ring, *r, ~a.number);
    REQUIRE(ring.uncommitted() == 1);
    REQUIRE(kernel.enter(false, 0) == 1);
    REQUIRE(ring.uncommitted() == 0);
    REQUIRE(a.req.finished);
    REQUIRE(a.req.error == 0);
    REQUIRE(number_in(a.req.reply) == ~a.number);
    open.pop_front();
    answered++;
  }
  CHECK(kernel.user_head().pending_head + open.size() == kernel.kern_head().pending_tail);
}

TEST_CASE("ring: a full ring of requests", "[ring]") {
  FakeKernel kernel({.depth = 8, .first_index = first_index()});
  Ring ring = ring_of(kernel);
  std::deque<Asked> asked;
  for (std::uint64_t i = 0; i < 8; i++)
    submit(kernel, asked.emplace_back(i));
  Asked one_more(8);
  CHECK_FALSE(kernel.take(one_more.req).has_value());
  for (std::uint64_t i = 0; i < 8; i++) {
    const auto r = ring.take_request();
    REQUIRE(r.has_value());
    CHECK(number_in(body_of(*r)) == i);
    reply(ring, *r, i);
  }
  CHECK_FALSE(ring.take_request().has_value());
  CHECK(kernel.enter(false, 0) == 8);
  CHECK(std::all_of(asked.begin(), asked.end(), [](const Asked &a) { return a.req.finished; }));
  submit(kernel, one_more);
  CHECK(ring.take_request().has_value());
}

TEST_CASE("ring: complete() refuses what does not fit until the kernel has consumed", "[ring]") {
  FakeKernel kernel({.depth = 4, .first_index = first_index()});
  Ring ring = ring_of(kernel);
  // Completions of uses that are over: nothing to finish, but they take entries.
  for (std::uint32_t i = 0; i < 4; i++)
    REQUIRE(ring.complete(i, 77));
  CHECK(ring.uncommitted() == 4);
  CHECK_FALSE(ring.complete(0, 77));
  CHECK_FALSE(ring.complete(1, 77));
  CHECK(ring.uncommitted() == 4);
  CHECK(kernel.enter(false, 0) == 4);
  CHECK(kernel.counters().stale == 4);
  CHECK(ring.uncommitted() == 0);
  CHECK(ring.complete(0, 77));
}

TEST_CASE("ring: hints are of one reply", "[ring]") {
  FakeKernel kernel({.depth = 4});
  Ring ring = ring_of(kernel);
  for (const std::uint32_t hints : {std::uint32_t{EFUSE_HINT_LAST | EFUSE_HINT_NO_SELINUX}, 0u}) {
    for (int i = 0; i < 4; i++) {  // every slot
      Asked asked(1);
      submit(kernel, asked);
      const auto r = ring.take_request();
      REQUIRE(r.has_value());
      CHECK(ring.finish(r->slot, r->gen, 0, 0, hints));
      CHECK(kernel.slot_out(r->slot).hints == hints);
      CHECK(ring.complete(r->slot, r->gen));
      CHECK(kernel.enter(false, 0) == 1);
    }
  }
}

TEST_CASE("ring: finish() tells whether the requester sleeps", "[ring]") {
  FakeKernel kernel({});
  Ring ring = ring_of(kernel);
  Asked asked(1);
  asked.req.spin = 1;
  submit(kernel, asked);
  const auto r = ring.take_request();
  REQUIRE(r.has_value());
  SECTION("it spins: nothing to commit, its next look finds the reply") {
    CHECK_FALSE(ring.finish(r->slot, r->gen, -ENOENT, 0));
    CHECK(kernel.is_done(asked.use));
    kernel.wait(asked.use, asked.req);
    CHECK(asked.req.error == -ENOENT);
    CHECK(kernel.counters().done_spin == 1);
  }
  SECTION("it stopped spinning after the reply: S0's second look finds it") {
    kernel.hook = [&](Point p) {
      if (p == Point::requester_spun)
        CHECK_FALSE(ring.finish(r->slot, r->gen, -ENOENT, 0));
    };
    kernel.wait(asked.use, asked.req);
    CHECK(asked.req.error == -ENOENT);
    CHECK(kernel.counters().done_recheck == 1);
  }
  SECTION("it announced sleep before the reply") {
    kernel.hook = [&](Point p) {
      if (p == Point::requester_announced) {
        CHECK(ring.finish(r->slot, r->gen, -ENOENT, 0));
        CHECK(ring.complete(r->slot, r->gen));
      }
    };
    kernel.wait(asked.use, asked.req);
    CHECK(asked.req.error == -ENOENT);
    // Its second look came after the reply, so the entry is stale by now.
    CHECK(kernel.enter(false, 0) == 1);
    CHECK(kernel.counters().stale == 1);
  }
}

TEST_CASE("ring: forgets and interrupts in order, past the end of the indices", "[ring]") {
  FakeKernel kernel({.depth = 8, .forget_depth = 16, .first_index = first_index()});
  Ring ring = ring_of(kernel);
  std::mt19937 random{Catch::rngSeed()};
  std::uint64_t sent = 0, got = 0, interrupts_sent = 0, interrupts_got = 0;
  std::array<efuse_forget_entry, 5> some;
  while (got < 2000) {
    for (std::uint32_t n = static_cast<std::uint32_t>(random() % 24); n-- != 0;) {
      const bool room = sent - got < 16;
      REQUIRE(kernel.push_forget(sent + 1, 2 * sent) == room);
      sent += room;
    }
    if (random() % 2 != 0 && interrupts_sent - interrupts_got < 8)
      REQUIRE(kernel.push_interrupt(++interrupts_sent, {3, 4}));
    CHECK(ring.has_messages() == (sent != got || interrupts_sent != interrupts_got));
    const std::size_t n = ring.take_forgets(std::span(some).first(random() % 6));
    for (std::size_t i = 0; i < n; i++, got++) {
      REQUIRE(some[i].nodeid == got + 1);
      REQUIRE(some[i].nlookup == 2 * got);
    }
    if (const auto e = ring.take_interrupt()) {
      REQUIRE(e->unique == ++interrupts_got);
      REQUIRE(e->slot == 3);
      REQUIRE(e->gen == 4);
    } else {
      REQUIRE(interrupts_got == interrupts_sent);
    }
  }
  for (std::uint64_t i = interrupts_sent - interrupts_got; i < 8; i++)
    REQUIRE(kernel.push_interrupt(i, {0, 0}));
  CHECK_FALSE(kernel.push_interrupt(0, {0, 0}));
  CHECK_FALSE(ring.has_requests());
}

TEST_CASE("ring: slots described wrongly come with an empty head", "[ring]") {
  using In = efuse_slot_in;
  const std::uint32_t pool = 64u << 10;
  const std::vector<std::function<void(In &)>> spoilers = {
      [](In &in) { in.in_len = 0; },
      [](In &in) { in.in_len = sizeof(fuse_in_header) - 1; },
      [](In &in) { in.in_len = 256 - sizeof in + 1; },
      [](In &in) { in.in_len = ~0u; },
      [](In &in) { in.in_payload_len = pool + 1; },
      [](In &in) { in.in_payload_off = pool, in.in_payload_len = 1; },
      [](In &in) { in.in_payload_off = ~0u, in.in_payload_len = ~0u; },
      [](In &in) { in.in_payload_off = ~0u, in.in_payload_len = 2; },  // wraps in 32 bits
      [](In &in) { in.out_payload_cap = pool + 1; },
      [](In &in) { in.out_payload_off = pool - 8, in.out_payload_cap = 9; },
      [](In &in) { in.out_payload_off = ~0u, in.out_payload_cap = 2; },
      [](In &in) { in.out_cap = 256 - sizeof(efuse_slot_out) + 1; },
      [](In &in) { in.out_cap = ~0u; },
  };
  for (const auto &spoil : spoilers) {
    FakeKernel kernel({});
    Ring ring = ring_of(kernel);
    Asked asked(1);
    submit(kernel, asked);
    spoil(kernel.slot_in(asked.use.slot));
    const auto r = ring.take_request();
    REQUIRE(r.has_value());
    CHECK(r->slot == asked.use.slot);
    CHECK(r->head.empty());
    CHECK(r->tail.empty());
    CHECK(r->out.empty());
    // It can still be failed, and the ring goes on.
    REQUIRE(ring.finish(r->slot, r->gen, -EIO, 0));
    REQUIRE(ring.complete(r->slot, r->gen));
    CHECK(kernel.enter(false, 0) == 1);
    CHECK(asked.req.error == -EIO);
    Asked next(2);
    submit(kernel, next);
    CHECK(number_in(body_of(*ring.take_request())) == 2);
  }
}

TEST_CASE("ring: pending entries that name no slot", "[ring]") {
  const std::uint32_t slot = GENERATE(16u, 17u, 0x7fffffffu, 0xffffffffu);
  FakeKernel kernel({});
  Ring ring = ring_of(kernel);
  Asked asked(1);
  submit(kernel, asked);
  auto *entry = reinterpret_cast<efuse_pending_entry *>(kernel.kern().data() + kernel.header().pending_off);
  entry->slot = slot;
  const auto r = ring.take_request();
  REQUIRE(r.has_value());
  CHECK(r->slot == slot);
  CHECK(r->head.empty());
  CHECK(r->out.empty());
}

TEST_CASE("ring: whatever stands in a slot, a request stays inside the regions", "[ring]") {
  FakeKernel kernel({});
  Ring ring = ring_of(kernel);
  std::mt19937 random{Catch::rngSeed()};
  // Near the limits more often than anywhere.
  const auto word = [&] {
    const std::uint32_t bases[] = {0, 40, 192, 240, 256, 64u << 10, 0x80000000u, 0};
    const std::uint32_t base = bases[random() % 8];
    const auto any = static_cast<std::uint32_t>(random());
    return random() % 8 == 0 ? any : base + any % 5 - 2;
  };
  unsigned accepted = 0, refused = 0, sum = 0;
  for (int i = 0; i < 20000; i++) {
    Asked asked(1);
    submit(kernel, asked);
    efuse_slot_in &in = kernel.slot_in(asked.use.slot);
    if (random() % 4 != 0)
      in.in_len = word();
    for (std::uint32_t *w : {&in.in_payload_off, &in.in_payload_len, &in.out_payload_off, &in.out_payload_cap,
                             &in.out_cap})
      if (random() % 2 != 0)
        *w = word();
    const auto r = ring.take_request();
    REQUIRE(r.has_value());
    (r->head.empty() ? refused : accepted)++;
    REQUIRE(lies_in(r->head, kernel.kern()));
    REQUIRE(lies_in(r->tail, kernel.payload()));
    REQUIRE((lies_in(r->out, kernel.payload()) || lies_in(r->out, kernel.user())));
    sum += touch(*r);
    REQUIRE(ring.finish(r->slot, r->gen, -EIO, 0));
    REQUIRE(ring.complete(r->slot, r->gen));
    REQUIRE(kernel.enter(false, 0) == 1);
    REQUIRE(asked.req.error == -EIO);
  }
  CAPTURE(sum);
  CHECK(accepted > 100);
  CHECK(refused > 100);
}

// Rings that stay full: then P2 alone keeps an entry from being written while it is read.
TEST_CASE("ring: forgets and interrupts at full speed", "[ring][stress]") {
  constexpr std::uint64_t kMessages = 20000;
  FakeKernel kernel({.depth = 4, .forget_depth = 4, .first_index = 0u - 10000u});
  Ring ring = ring_of(kernel);
  std::atomic<bool> over{false};
  std::thread sender([&] {
    for (std::uint64_t f = 0, i = 0; (f < kMessages || i < kMessages) && !over;) {
      const bool forget = f < kMessages && kernel.push_forget(f + 1, f);
      const bool interrupt = i < kMessages && kernel.push_interrupt(i + 1, {1, 2});
      f += forget;
      i += interrupt;
      if (!forget && !interrupt)
        std::this_thread::yield();
    }
  });
  std::uint64_t forgets = 0, interrupts = 0, wrong = 0;
  std::array<efuse_forget_entry, 3> some;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while ((forgets < kMessages || interrupts < kMessages) && std::chrono::steady_clock::now() < end) {
    const std::size_t n = ring.take_forgets(some);
    for (std::size_t k = 0; k < n; k++, forgets++)
      wrong += some[k].nodeid != forgets + 1 || some[k].nlookup != forgets;
    const auto e = ring.take_interrupt();
    if (e)
      wrong += e->unique != ++interrupts;
    if (n == 0 && !e)
      std::this_thread::yield();
  }
  over = true;
  sender.join();
  CHECK(forgets == kMessages);
  CHECK(interrupts == kMessages);
  CHECK(wrong == 0);
}

// Nothing but takes, so that consumers meet at every one of them.
TEST_CASE("ring: four consumers drain a full ring at once", "[ring][stress]") {
  constexpr std::uint32_t kDepth = 1024, kConsumers = 4, kRounds = 200;
  FakeKernel kernel({.depth = kDepth, .first_index = 0u - kDepth * kRounds / 2});
  Ring ring = ring_of(kernel, true);
  std::array<std::vector<RingRequest>, kConsumers> taken;
  std::barrier<> gate(kConsumers + 1);
  std::vector<std::thread> consumers;
  for (auto &mine : taken)
    consumers.emplace_back([&] {
      for (std::uint32_t round = 0; round < kRounds; round++) {
        gate.arrive_and_wait();
        while (const auto r = ring.take_request()) {
          mine.push_back(*r);
          if (mine.size() % 16 == 0)  // let the others in, also on one CPU
            std::this_thread::yield();
        }
        gate.arrive_and_wait();
      }
    });
  std::uint32_t twice = 0, never = 0, empty = 0, at_once = 0;
  for (std::uint32_t round = 0; round < kRounds; round++) {
    std::deque<Asked> asked;
    for (std::uint32_t n = 0; n < kDepth; n++)
      submit(kernel, asked.emplace_back(n));
    gate.arrive_and_wait();
    gate.arrive_and_wait();
    std::array<std::uint32_t, kDepth> times{};
    std::uint32_t busy = 0;
    for (auto &mine : taken) {
      busy += !mine.empty();
      for (const RingRequest &r : mine)
        if (r.head.empty())
          empty++;
        else if (times[r.slot]++ == 0 && ring.finish(r.slot, r.gen, 0, 0))
          while (!ring.complete(r.slot, r.gen))
            kernel.enter(false, 0);
      mine.clear();
    }
    kernel.enter(false, 0);
    at_once += busy > 1;
    for (const std::uint32_t n : times) {
      twice += n > 1;
      never += n == 0;
    }
  }
  for (std::thread &t : consumers)
    t.join();
  CHECK(twice == 0);
  CHECK(never == 0);
  CHECK(empty == 0);
  CHECK(at_once > 0);
}

TEST_CASE("ring: four consumers, every request exactly once", "[ring][stress]") {
  constexpr std::uint64_t kRequests = 40000;
  FakeKernel kernel({.depth = 64, .first_index = 0u - 20000u});
  Ring ring = ring_of(kernel, true);
  std::vector<std::atomic<std::uint8_t>> taken(kRequests);
  std::atomic<std::uint64_t> done{0}, wrong{0};
  std::vector<std::thread> consumers;
  for (int i = 0; i < 4; i++)
    consumers.emplace_back([&] {
      while (done < kRequests) {
        const auto r = ring.take_request();
        if (!r) {
          std::this_thread::yield();
          continue;
        }
        const std::uint64_t n = number_in(body_of(*r));
        if (n >= kRequests || taken[n].fetch_add(1) != 0) {
          wrong++;
          continue;
        }
        std::memcpy(r->out.data(), &n, sizeof n);
        if (ring.finish(r->slot, r->gen, 0, sizeof n))
          while (!ring.complete(r->slot, r->gen))
            kernel.enter(false, 0);
        kernel.enter(false, 0);
        done++;
      }
      ring.publish_head();
    });
  std::deque<Asked> open;
  std::uint64_t mixed_up = 0;
  for (std::uint64_t n = 0; n < kRequests || !open.empty();) {
    if (n < kRequests && open.size() < 64) {
      Asked &a = open.emplace_back(n);
      if (const auto use = kernel.take(a.req)) {
        kernel.publish(*use);
        n++;
        continue;
      }
      open.pop_back();
    }
    FakeKernel::Request &req = open.front().req;
    std::unique_lock lock(req.mutex);
    if (!req.wake.wait_for(lock, std::chrono::seconds(20), [&] { return req.finished; }))
      break;
    mixed_up += number_in(req.reply) != open.front().number;
    lock.unlock();
    open.pop_front();
  }
  INFO(kernel.state());
  const bool all = open.empty();
  done = kRequests;  // let the consumers go also when some request was lost
  for (std::thread &t : consumers)
    t.join();
  CHECK(all);
  CHECK(wrong == 0);
  CHECK(mixed_up == 0);
  CHECK(std::all_of(taken.begin(), taken.end(), [](const auto &t) { return t == 1; }));
  ring.publish_head();
  CHECK(kernel.user_head().pending_head == kernel.kern_head().pending_tail);
  kernel.kill();
}
