// SPDX-License-Identifier: LGPL-2.1-or-later
// The hostile daemon: what its parts share. One process supervises; every episode has a daemon process that serves
// and attacks, and client processes that must never notice more than an error. Counters, the clients' clocks and the
// first failure live in memory that all of them map.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <string>

namespace hostile {

/// xoshiro256**: seeded, fast, one for each thread.
class Rng {
 public:
  explicit Rng(std::uint64_t seed) noexcept {
    for (auto &word : s_) {
      seed += 0x9e3779b97f4a7c15u;
      std::uint64_t z = seed;
      z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
      z = (z ^ z >> 27) * 0x94d049bb133111ebu;
      word = z ^ z >> 31;
    }
  }
  std::uint64_t next() noexcept {
    const std::uint64_t result = rotate(s_[1] * 5, 7) * 9, t = s_[1] << 17;
    s_[2] ^= s_[0];
    s_[3] ^= s_[1];
    s_[1] ^= s_[2];
    s_[0] ^= s_[3];
    s_[2] ^= t;
    s_[3] = rotate(s_[3], 45);
    return result;
  }
  /// 0 ... n - 1; 0 where n is 0.
  std::uint32_t below(std::uint64_t n) noexcept { return n ? static_cast<std::uint32_t>(next() % n) : 0; }
  bool one_in(std::uint32_t n) noexcept { return below(n) == 0; }
  template <typename T, std::size_t N>
  T pick(const T (&from)[N]) noexcept {
    return from[below(N)];
  }

 private:
  static std::uint64_t rotate(std::uint64_t x, int n) noexcept { return x << n | x >> (64 - n); }
  std::uint64_t s_[4];
};

/// What is counted as a mutation; the names are in main.cc.
enum class Kind : unsigned {
  kIndex,       // a word of the user head
  kComplete,    // an entry of the complete ring
  kSlotOut,     // a reply's header
  kBit,         // one bit anywhere
  kPage,        // a page or less of noise
  kFlip,        // valid, invalid, valid, ... while the kernel looks
  kPayload,     // bytes of a reply's body
  kEnter,
  kAttach,
  kControl,     // DRAIN, DETACH, WAKE, TUNE
  kBadIoctl,
  kMap,         // mmap, mremap, munmap, mprotect, madvise, fork with mappings
  kFuseWrite,   // replies to /dev/fuse with uniques of all kinds
  kNotify,
  kClose,       // descriptors in flight
  kFault,       // an allocation that was made to fail
  kCount,
};

enum class Op : unsigned { kIdle, kMeta, kRead, kWrite, kDirect, kMap, kAio, kDir, kXattr, kLock, kSync, kExit, kCount };

/// Of one client process: what it is doing, and since when.
struct ClientClock {
  std::atomic<std::uint64_t> since_ns;  // 0: between two calls
  std::atomic<unsigned> op;
};

inline constexpr unsigned kMaxClients = 16;

struct Shared {
  std::atomic<std::uint64_t> mutations[static_cast<unsigned>(Kind::kCount)];
  std::atomic<std::uint64_t> client_ops, client_errors, honest_ops;
  std::atomic<std::uint64_t> served_ring, served_stock, attaches, scans;
  std::atomic<bool> ready;         // the daemon of this episode serves, or has given up
  std::atomic<bool> stop_clients;  // of this episode
  std::atomic<bool> settle;        // nobody attacks any more: what was asked must now be answered
  std::atomic<bool> stop;          // everything
  std::atomic<unsigned> finale;    // what the daemon does to itself, see Finale
  ClientClock clients[kMaxClients];
  ClientClock honest[kMaxClients];
  std::atomic<bool> failed;
  char failure[512];
};

/// How an episode's daemon ends.
enum class Finale : unsigned { kNone, kKill, kAbort, kForceUmount, kLazyUmount, kDetach, kCloseFuse, kCount };

struct Options {
  std::uint64_t seed = 1;
  unsigned seconds = 60;
  unsigned limit_s = 30;      // for a client's call while the daemon serves
  unsigned end_limit_s = 5;   // for what still runs when the connection has ended
  unsigned clients = 6;
  std::string work;           // a directory of our own
  std::string honest;         // an honest mount
  bool faults = false;        // make allocations fail
  int only = -1;              // this episode alone
};

/// Drawn from the seed and the episode's number.
struct Episode {
  std::uint64_t seed;
  unsigned number;
  std::uint32_t rings, depth, forget_depth, slot_in, slot_out, payload, spin_ns, balance, congestion;
  std::uint64_t init_flags;   // asked for, as far as the kernel offers them
  std::uint32_t max_write;
  unsigned life_ms;           // before the finale
  Finale finale;
  bool calm;                  // nobody writes noise: what is found in the rings is the kernel's
  bool reattach;              // detach and attach anew, all the time
  bool lossy;                 // requests are lost: only the end must free their callers
  bool signals;               // clients have an interval timer
  bool kills;                 // clients are killed
  bool notifies;              // a thread of the daemon may wait for locks that its own clients hold
  bool stops;                 // the daemon is stopped and continued
  bool unprivileged;          // the daemon is nobody, with a limit on locked memory
  bool faults;
};

/// 24 bytes that only honest files hold.
inline constexpr std::size_t kMarkerSize = 24;
void make_marker(std::uint64_t seed, char out[kMarkerSize]) noexcept;

inline std::uint64_t now_ns() noexcept {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1000000000u + static_cast<std::uint64_t>(t.tv_nsec);
}
void sleep_us(unsigned us) noexcept;

inline void count(Shared &shared, Kind kind, std::uint64_t n = 1) noexcept {
  shared.mutations[static_cast<unsigned>(kind)].fetch_add(n, std::memory_order_relaxed);
}

/// Note the first failure; the supervisor ends the run for it.
[[gnu::format(printf, 2, 3)]] void fail(Shared &shared, const char *format, ...) noexcept;

/// Processes; none of them returns.
[[noreturn]] void run_daemon(const Options &options, const Episode &episode, Shared &shared,
                             const std::string &mountpoint);
[[noreturn]] void run_client(const Options &options, const Episode &episode, Shared &shared, unsigned number,
                             std::uint64_t seed, const std::string &mountpoint);
[[noreturn]] void run_honest(const Options &options, Shared &shared, unsigned number);

}  // namespace hostile
