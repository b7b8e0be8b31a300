// SPDX-License-Identifier: LGPL-2.1-or-later
// Everything a user can tune. Sources, the later wins: defaults, TOML file,
// environment (EFUSE_*), command line (--set section.key=value and options).
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace efuse {

enum class TransportChoice { automatic, ring, uring, dev };
enum class Placement {
  neighbour,  // a ring's worker on its home CPU; requesters spin for a neighbour's ring (default)
  home,       // as neighbour, but requesters only use their home ring (never spins across CPUs)
  none,       // workers are not pinned
};

/// Bits of Config::fastpath_programs: a set.
inline constexpr std::uint32_t kFastpathMetadata = 1u << 0;
inline constexpr std::uint32_t kFastpathRead = 1u << 1;
inline constexpr std::uint32_t kFastpathOwn = 1u << 2;
enum class FastpathRead { adaptive, blocks, backing };
/// Of Config::fastpath_valid_ns.
inline constexpr std::uint64_t kValidAsOffered = UINT64_MAX;
inline constexpr std::uint64_t kValidForever = UINT64_MAX - 1;
inline constexpr std::uint64_t kMaxValidNs = 3'600'000'000'000'000'000;  // a century, and some

enum class Balance { local, round_robin, random, least_loaded };  // values as EFUSE_BALANCE_*

struct Config {
  // [session]
  TransportChoice transport = TransportChoice::automatic;  // transport = "auto"|"ring"|"uring"|"dev"
  std::uint32_t max_write = 1u << 20;       // bytes, 4096 ... 1 MiB (what 6.12 carries), multiple of the page size
  std::uint32_t max_background = 64;        // requests, 1 ... 65535
  std::uint32_t congestion_threshold = 48;  // requests, 1 ... max_background
  bool starts_nothing = false;              // the filesystem's callbacks start neither threads nor processes, or these
                                            // set their own policy: they may be called as SCHED_IDLE (give_way.hh)

  // [ring]
  std::uint32_t ring_count = 0;             // ring.count; 0: one per usable CPU
  std::uint32_t depth = 128;                // slots per ring, power of two, EFUSE_MIN_DEPTH ... EFUSE_MAX_DEPTH
  std::uint32_t slot_in_size = 512;         // bytes, power of two, EFUSE_MIN_SLOT ... EFUSE_MAX_SLOT
  std::uint32_t slot_out_size = 512;        // bytes, likewise
  std::uint32_t forget_depth = 1024;        // entries per ring, power of two, 16 ... 16384
  std::uint64_t payload_size = 4u << 20;    // bytes per ring ("4MiB" is understood too), multiple of the page size,
                                            // EFUSE_MIN_PAYLOAD ... EFUSE_MAX_PAYLOAD
  std::uint32_t workers_per_ring = 1;       // 1 ... 64; more for filesystems that block
  bool ring_give_way = true;                // ring.give_way: workers may be SCHED_IDLE while they answer and sleep

  // [uring]
  std::uint32_t uring_depth = 8;            // uring.depth: requests that a CPU's queue holds at a time, 1 ... 4096
  std::uint64_t uring_payload_size = 8u << 20;  // uring.payload_size: bytes per queue, as ring.payload_size
  std::uint32_t uring_workers = 1;          // uring.workers_per_queue: 1 ... 64; more for filesystems that block
  bool uring_give_way = true;               // workers may be SCHED_IDLE while they answer and sleep

  // [polling], nanoseconds ("50us" is understood too)
  std::uint32_t worker_spin_ns = 50'000;    // worker looks at its ring so long in user space; 0 ... EFUSE_MAX_POLL_NS
  std::uint32_t worker_poll_ns = 200'000;   // then so long in the kernel, while its CPU is idle; 0 ... EFUSE_MAX_POLL_NS
  std::uint32_t requester_spin_ns = 200'000; // the waiting application; 0 ... EFUSE_MAX_SPIN_NS
  bool adaptive = true;                     // budgets shrink to zero where polling does not pay

  // [balance]: background requests (read-ahead, writeback, asynchronous I/O)
  Balance balance = Balance::least_loaded;  // policy = "local"|"round_robin"|"random"|"least_loaded"
  std::uint32_t congestion = 8;             // requests in flight from which on a ring is congested, 1 ... EFUSE_MAX_DEPTH

  // [placement]
  Placement placement = Placement::neighbour;  // policy = "neighbour"|"home"|"none"
  std::vector<unsigned> cpus;               // cpus = "0-3,8" or [0,1,2,3,8]; empty: all this process may use

  // [fastpath]: BPF programs that answer in the kernel, where the filesystem offers it
  std::uint32_t fastpath_programs = 0;      // programs = "metadata,read,own" in any choice, or "none"
  std::uint32_t fastpath_entries = 32768;   // files to remember, 64 ... 16777216
  std::uint32_t fastpath_blocks_mib = 64;   // of data to remember, 1 ... 16384
  std::uint64_t fastpath_valid_ns = kValidAsOffered;  // valid = seconds, "inf" or "filesystem"
  FastpathRead fastpath_read = FastpathRead::adaptive;  // read = "adaptive"|"blocks"|"backing"

  // [dev]
  std::uint32_t dev_threads = 0;            // dev.threads: readers without rings; 0: one per usable CPU, at least 2
  std::uint32_t stock_threads = 2;          // readers of /dev/fuse beside rings, 1 ... 64
  bool clone_fd = true;                     // a descriptor per reader

  // [stats]
  bool stats = true;                        // stats.enabled: histograms and counters

  friend bool operator==(const Config &, const Config &) = default;
};

/// What was wrong, where, and what was expected: "efuse.toml:3:9: ring.depth: expected a power of two from 4 to 32768, got 100".
class ConfigError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Apply a TOML file. Throws ConfigError (also when it cannot be read).
void load_config_file(Config &config, const std::string &path);
/// Apply TOML text; `name` stands for the file in errors.
void load_config_text(Config &config, std::string_view text, const std::string &name);
/// Apply EFUSE_SECTION_KEY variables, e.g. EFUSE_RING_DEPTH=256. One of that shape that names no key is an error;
/// EFUSE_CONFIG, EFUSE_RUNDIR and other names of one word are left alone, and so is EFUSE_VM_*.
void load_config_environment(Config &config);
/// Apply one "section.key=value" from the command line; the value is TOML, bare words are strings.
void set_config_key(Config &config, std::string_view assignment);
/// As set_config_key(), for a mount that is being served: a ConfigError for a key that cannot change then.
void set_live_config_key(Config &config, std::string_view assignment);
/// Check what no single key can show (ring bytes over EFUSE_MAX_RING_BYTES, payload pool smaller than one max_write, ...).
void check_config(const Config &config);
/// Bytes of the kernel's and the daemon's region of one ring (EFUSE_REGION_KERN + EFUSE_REGION_USER).
std::uint64_t ring_region_bytes(const Config &config);
/// The effective configuration as TOML with comments; load_config_text() of it gives the same Config.
std::string to_toml(const Config &config);

}  // namespace efuse
