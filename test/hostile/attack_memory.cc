// SPDX-License-Identifier: LGPL-2.1-or-later
#include "attack.hh"

#include <linux/fuse.h>

#include <algorithm>
#include <cstring>

namespace hostile {
namespace {

/// Plain stores that the compiler must not join or leave out.
template <typename T>
void scribble(T &word, T value) noexcept {
  __atomic_store_n(&word, value, __ATOMIC_RELAXED);
}
template <typename T>
T peek(const T &word) noexcept {
  return __atomic_load_n(&word, __ATOMIC_RELAXED);
}

/// Numbers at which comparisons go wrong.
std::uint32_t edge(Rng &rng, std::uint32_t near) noexcept {
  const std::uint32_t edges[] = {0,          1,          near,           near + 1,  near - 1,
                                 0x7fffffff, 0x80000000, 0xffffffff,     near * 2,  4096,
                                 near + 64,  near - 64,  rng.below(512), 0xfffffe00};
  return rng.one_in(4) ? static_cast<std::uint32_t>(rng.next()) : rng.pick(edges);
}

/// Most bytes of a burst of noise.
constexpr std::size_t kPage = 4096;

class MemoryAttack {
 public:
  MemoryAttack(Shared &shared, Rng &rng, const RingView &ring) : shared_(shared), rng_(rng), ring_(ring) {}

  void index() {
    efuse_user_head *u = ring_.user_head();
    const efuse_kern_head *k = ring_.kern_head();
    const std::uint32_t depth = ring_.info.depth;
    switch (rng_.below(4)) {
      case 0: scribble(u->pending_head, edge(rng_, peek(k->pending_tail))); break;
      case 1: scribble(u->interrupt_head, edge(rng_, peek(k->interrupt_tail))); break;
      case 2: scribble(u->forget_head, edge(rng_, peek(k->forget_tail))); break;
      default: scribble(u->complete_tail, rng_.one_in(2) ? peek(k->complete_head) + rng_.below(depth + 2)
                                                         : edge(rng_, peek(k->complete_head) + depth));
    }
  }

  void complete() {
    efuse_complete_entry *e = ring_.complete(rng_.below(ring_.info.depth));
    const std::uint32_t slot = rng_.one_in(8) ? edge(rng_, ring_.info.depth) : rng_.below(ring_.info.depth);
    scribble(e->slot, slot);
    scribble(e->gen, generation(slot));
  }

  void slot_out() {
    const std::uint32_t slot = rng_.below(ring_.info.depth);
    efuse_slot_out *out = ring_.slot_out(slot);
    switch (rng_.below(3)) {
      case 0: scribble(out->done_gen, generation(slot)); break;
      case 1: scribble(out->error, error()); break;
      default: scribble(out->len, length(slot));
    }
  }

  void bit() {
    const std::size_t at = rng_.next() % (std::size_t{ring_.info.user_size} + ring_.info.payload_size);
    char *p = at < ring_.info.user_size ? ring_.user + at : ring_.payload + (at - ring_.info.user_size);
    scribble(*p, static_cast<char>(*p ^ 1 << rng_.below(8)));
  }

  void page() {
    const std::size_t size = rng_.one_in(2) ? ring_.info.user_size : ring_.info.payload_size;
    char *base = size == ring_.info.user_size ? ring_.user : ring_.payload;
    const std::size_t len = 8 * (1 + rng_.below(kPage / 8)), at = rng_.next() % (size - len + 1) / 8 * 8;
    const std::uint64_t noise = rng_.one_in(2) ? rng_.next() : 0 - std::uint64_t{rng_.one_in(2)};
    for (std::size_t i = 0; i < len; i += 8)
      scribble(*reinterpret_cast<std::uint64_t *>(base + at + i), noise + (rng_.one_in(2) ? i : 0));
  }

  /// A word that is right and wrong in turn, as fast as this CPU can. Returns how often it was written.
  std::uint64_t flip() {
    const std::uint32_t slot = rng_.below(ring_.info.depth);
    efuse_slot_out *out = ring_.slot_out(slot);
    efuse_user_head *u = ring_.user_head();
    const std::uint32_t gen = peek(ring_.slot_in(slot)->gen), cap = peek(ring_.slot_in(slot)->out_cap);
    const std::uint32_t wrong = length(slot), head = peek(ring_.kern_head()->complete_head), n = 200 + rng_.below(2000);
    const unsigned what = rng_.below(4);
    for (std::uint32_t i = 0; i < n; ++i) {
      switch (what) {
        case 0: scribble(out->len, i & 1 ? wrong : cap); break;
        case 1: scribble(out->error, i & 1 ? -1000 : 0); break;
        case 2: scribble(out->done_gen, i & 1 ? gen : gen - 1); break;
        default: scribble(u->complete_tail, i & 1 ? head + 1 : head + 0x10000);
      }
    }
    return n;
  }

  /// Bytes that a reply's reader interprets: node ids, sizes, name lengths.
  void payload() {
    const std::uint32_t slot = rng_.below(ring_.info.depth);
    const std::uint32_t cap = peek(ring_.slot_in(slot)->out_payload_cap);
    const std::uint32_t off = peek(ring_.slot_in(slot)->out_payload_off);
    char *body = reinterpret_cast<char *>(ring_.slot_out(slot) + 1);
    std::size_t room = ring_.info.slot_out_size - sizeof(efuse_slot_out);
    if (cap && std::uint64_t{off} + cap <= ring_.info.payload_size) {
      body = ring_.payload + off;
      room = std::min<std::size_t>(cap, 512);
    }
    scribble(*reinterpret_cast<std::uint32_t *>(body + rng_.below(room / 4) * 4), edge(rng_, 4096));
  }

  void completion_of_everything() {
    const std::uint32_t depth = ring_.info.depth, head = peek(ring_.kern_head()->complete_head);
    for (std::uint32_t i = 0; i < depth; ++i) {
      efuse_complete_entry *e = ring_.complete(head + i);
      scribble(e->slot, i);
      scribble(e->gen, peek(ring_.slot_in(i)->gen));
    }
    __atomic_store_n(&ring_.user_head()->complete_tail, head + depth, __ATOMIC_RELEASE);
    count(shared_, Kind::kComplete, depth + 1);
  }

 private:
  /// Right, right with the bits above it set, of the use before or after, or none.
  std::uint32_t generation(std::uint32_t slot) {
    const std::uint32_t gen = slot < ring_.info.depth ? peek(ring_.slot_in(slot)->gen) : 1;
    const std::uint32_t choice[] = {gen, gen, gen, gen | 0xc0000000, gen - 1, gen + 1, 0};
    return rng_.one_in(10) ? static_cast<std::uint32_t>(rng_.next()) : rng_.pick(choice);
  }

  std::int32_t error() {
    const std::int32_t choice[] = {0, -1, -5, -11, -511, -512, -513, 1, -4095, -4096, INT32_MIN, INT32_MAX};
    return rng_.pick(choice);
  }

  std::uint32_t length(std::uint32_t slot) {
    const std::uint32_t cap = peek(ring_.slot_in(slot)->out_cap);
    return rng_.one_in(2) ? rng_.below(std::uint64_t{cap} + 1) : edge(rng_, cap);
  }

  Shared &shared_;
  Rng &rng_;
  const RingView &ring_;
};

}  // namespace

void attack_memory(const Target &target, Rng &rng, Attachment &attachment) {
  MemoryAttack attack(target.shared, rng, attachment.rings()[rng.below(attachment.rings().size())]);
  std::uint64_t done[static_cast<unsigned>(Kind::kEnter)] = {};
  const auto add = [&done](Kind kind, std::uint64_t n = 1) { done[static_cast<unsigned>(kind)] += n; };
  // A burst has a taste of its own: all the same, or all mixed.
  const unsigned taste = rng.below(12);
  const unsigned length = taste == 4 || taste == 5 ? 8 : 500 + rng.below(1500);
  for (unsigned i = 0; i < length; ++i) {
    switch (taste < 8 ? taste : rng.below(64)) {
      case 0: attack.index(); add(Kind::kIndex); break;
      case 1: attack.complete(); add(Kind::kComplete); break;
      case 2: attack.slot_out(); add(Kind::kSlotOut); break;
      case 3: attack.bit(); add(Kind::kBit); break;
      case 4: attack.page(); add(Kind::kPage); break;
      case 5: add(Kind::kFlip, attack.flip()); break;
      case 6: attack.payload(); add(Kind::kPayload); break;
      case 7: attack.completion_of_everything(); i += 200; break;
      default: attack.slot_out(); add(Kind::kSlotOut);
    }
  }
  for (unsigned k = 0; k < static_cast<unsigned>(Kind::kEnter); ++k)
    if (done[k])
      count(target.shared, static_cast<Kind>(k), done[k]);
}

}  // namespace hostile
