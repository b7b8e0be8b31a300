// SPDX-License-Identifier: LGPL-2.1-or-later
#include "config_keys.hh"

#include "uapi/efuse_ring.h"

#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <charconv>

namespace efuse {
namespace {

using Kind = Key::Kind;
using Rule = Key::Rule;

template <typename T>
struct MemberType;
template <typename T>
struct MemberType<T Config::*> {
  using type = T;
};

// Range checks are done on 64 bits before this narrows.
template <auto Member>
std::uint64_t get(const Config &config) {
  return static_cast<std::uint64_t>(config.*Member);
}
template <auto Member>
void set(Config &config, std::uint64_t value) {
  config.*Member = static_cast<typename MemberType<decltype(Member)>::type>(value);
}

template <auto Member>
constexpr Key number(std::string_view section, std::string_view name, Kind kind, Rule rule, std::uint64_t min,
                     std::uint64_t max, std::string_view doc) {
  return {section, name, kind, doc, rule, min, max, {}, false, get<Member>, set<Member>};
}
template <auto Member>
constexpr Key flag(std::string_view section, std::string_view name, std::string_view doc) {
  return {section, name, Kind::flag, doc, Rule::any, 0, 1, {}, false, get<Member>, set<Member>};
}
template <auto Member>
constexpr Key choice(std::string_view section, std::string_view name,
                     std::span<const std::string_view> choices, std::string_view doc) {
  return {section, name,        Kind::choice, doc, Rule::any, 0, choices.size() - 1,
          choices, false, get<Member>, set<Member>};
}
template <auto Member>
constexpr Key names(std::string_view section, std::string_view name, std::span<const std::string_view> choices,
                    std::string_view doc) {
  return {section, name,        Kind::names, doc, Rule::any, 0, (1ull << choices.size()) - 1,
          choices, false, get<Member>, set<Member>};
}
/// A key that may change while mounted.
constexpr Key live(Key key) {
  key.live = true;
  return key;
}

// In the order of the enumerators.
constexpr std::array<std::string_view, 4> kTransports{"auto", "ring", "uring", "dev"};
static_assert(static_cast<int>(TransportChoice::dev) == kTransports.size() - 1);
constexpr std::array<std::string_view, 4> kBalances{"local", "round_robin", "random", "least_loaded"};
static_assert(static_cast<int>(Balance::least_loaded) == kBalances.size() - 1);
static_assert(static_cast<int>(Balance::least_loaded) == EFUSE_BALANCE_LEAST_LOADED);
constexpr std::array<std::string_view, 3> kPlacements{"neighbour", "home", "none"};
static_assert(static_cast<int>(Placement::none) == kPlacements.size() - 1);
// By bit.
constexpr std::array<std::string_view, 3> kFastpaths{"metadata", "read", "own"};
static_assert(kFastpathOwn == 1u << (kFastpaths.size() - 1));
constexpr std::array<std::string_view, 3> kFastpathReads{"adaptive", "blocks", "backing"};
static_assert(static_cast<int>(FastpathRead::backing) == kFastpathReads.size() - 1);

constexpr std::array kSections{
    Section{"session", "the mount and what is negotiated with the kernel"},
    Section{"ring", "shared-memory rings of the efuse_ring module"},
    Section{"uring", "the kernel's FUSE over io_uring"},
    Section{"polling",
            "how long each end looks before it sleeps; durations are nanoseconds or \"50us\", \"1ms\""},
    Section{"balance", "where background requests go"},
    Section{"placement", "which CPU serves which"},
    Section{"fastpath", "what BPF programs answer in the kernel, over rings, where the filesystem offers it"},
    Section{"dev", "readers of /dev/fuse"},
    Section{"stats", "what `efuse stat` shows"},
};

// More than any kernel has CPUs for; a mistyped number fails here, not at the thousandth thread.
constexpr std::uint64_t kMaxDevThreads = 65535;

constexpr std::array kKeys{
    live(choice<&Config::transport>("session", "transport", kTransports,
                               "the way requests take; auto: the best that works here")),
    number<&Config::max_write>("session", "max_write", Kind::bytes, Rule::pages, 4096, 1u << 20,
                               "longest WRITE that the kernel may send"),
    number<&Config::max_background>(
        "session", "max_background", Kind::count, Rule::any, 1, 65535,
        "background requests (read-ahead, writeback, async I/O) in flight at most"),
    number<&Config::congestion_threshold>(
        "session", "congestion_threshold", Kind::count, Rule::any, 1, 65535,
        "from so many background requests on the kernel holds back; at most max_background"),
    flag<&Config::starts_nothing>("session", "starts_nothing",
                                  "callbacks start no threads or processes: workers that give way stay SCHED_IDLE for them"),

    number<&Config::ring_count>("ring", "count", Kind::count, Rule::any, 0, EFUSE_MAX_RINGS,
                                "rings; 0: one per CPU that may be used"),
    number<&Config::depth>("ring", "depth", Kind::count, Rule::power_of_two, EFUSE_MIN_DEPTH, EFUSE_MAX_DEPTH,
                           "requests that a ring holds"),
    number<&Config::slot_in_size>("ring", "slot_in_size", Kind::bytes, Rule::power_of_two, EFUSE_MIN_SLOT,
                                  EFUSE_MAX_SLOT,
                                  "per request: its header and arguments; longer ones use the payload pool"),
    number<&Config::slot_out_size>("ring", "slot_out_size", Kind::bytes, Rule::power_of_two, EFUSE_MIN_SLOT,
                                   EFUSE_MAX_SLOT,
                                   "per request: its reply; longer ones use the payload pool"),
    number<&Config::forget_depth>("ring", "forget_depth", Kind::count, Rule::power_of_two, 16, 16384,
                                  "FORGETs that a ring holds"),
    number<&Config::payload_size>("ring", "payload_size", Kind::bytes, Rule::pages, EFUSE_MIN_PAYLOAD,
                                  EFUSE_MAX_PAYLOAD, "payload pool of a ring; at least max_write"),
    number<&Config::workers_per_ring>("ring", "workers_per_ring", Kind::count, Rule::any, 1, 64,
                                      "threads that serve a ring; more than 1 for filesystems that block"),
    flag<&Config::ring_give_way>("ring", "give_way",
                                 "workers answer and sleep as SCHED_IDLE where that pays: whom they wake stays on its CPU"),

    number<&Config::uring_depth>("uring", "depth", Kind::count, Rule::any, 1, 4096,
                                 "requests that a CPU's queue takes at a time; more wait in the kernel"),
    number<&Config::uring_payload_size>(
        "uring", "payload_size", Kind::bytes, Rule::pages, EFUSE_MIN_PAYLOAD, EFUSE_MAX_PAYLOAD,
        "for the data of a queue's requests; each takes max_write of it, which may lower the depth; at least max_write"),
    number<&Config::uring_workers>("uring", "workers_per_queue", Kind::count, Rule::any, 1, 64,
                                   "threads that serve a queue; more than 1 for filesystems that block"),
    flag<&Config::uring_give_way>("uring", "give_way",
                                  "workers answer and sleep as SCHED_IDLE where that pays: whom they wake stays on its CPU"),

    live(number<&Config::worker_spin_ns>("polling", "worker_spin_ns", Kind::ns, Rule::any, 0, EFUSE_MAX_POLL_NS,
                                    "a worker looks at its ring so long in user space")),
    live(number<&Config::worker_poll_ns>("polling", "worker_poll_ns", Kind::ns, Rule::any, 0, EFUSE_MAX_POLL_NS,
                                    "then so long in the kernel, while its CPU has nothing else to run; adaptive: after background requests")),
    live(number<&Config::requester_spin_ns>("polling", "requester_spin_ns", Kind::ns, Rule::any, 0,
                                       EFUSE_MAX_SPIN_NS,
                                       "a waiting application looks for its reply at most so long; tries after "
                                       "failures up to 1 ms")),
    live(flag<&Config::adaptive>("polling", "adaptive",
                            "shrink these budgets, down to zero, where polling does not pay")),

    live(choice<&Config::balance>("balance", "policy", kBalances,
                                  "local: the sending CPU's own ring; else a neighbour's, and from there the next in turn, one at "
                                  "random on which nobody waits, or the least loaded")),
    live(number<&Config::congestion>("balance", "congestion", Kind::count, Rule::any, 1, EFUSE_MAX_DEPTH,
                                     "requests in flight from which on a ring is congested")),

    choice<&Config::placement>("placement", "policy", kPlacements,
                               "neighbour: requesters spin for a ring on a CPU close by; home: only for "
                               "their own; none: no pinning"),
    Key{"placement", "cpus", Kind::cpus, "CPUs for workers; empty: all that this process may use"},

    live(names<&Config::fastpath_programs>(
        "fastpath", "programs", kFastpaths,
        "metadata: names, attributes, links, xattrs; read: data; own: the filesystem's own, also with the others")),
    live(number<&Config::fastpath_entries>("fastpath", "entries", Kind::count, Rule::any, 64, 1u << 24,
                                           "files whose metadata is remembered")),
    live(number<&Config::fastpath_blocks_mib>("fastpath", "blocks_mib", Kind::count, Rule::any, 1, 16384,
                                              "MiB of data that are remembered")),
    live(number<&Config::fastpath_valid_ns>(
        "fastpath", "valid", Kind::seconds, Rule::any, 0, kMaxValidNs,
        "how long an answer may be given again; inf: until it changes; filesystem: as that says")),
    live(choice<&Config::fastpath_read>("fastpath", "read", kFastpathReads,
                                        "where read answers from; adaptive: what has been faster of late")),

    number<&Config::dev_threads>(
        "dev", "threads", Kind::count, Rule::any, 0, kMaxDevThreads,
        "readers where there are neither rings nor io_uring, at most; as many read as pay. 0: two per CPU that may be used, at least 10"),
    number<&Config::stock_threads>("dev", "stock_threads", Kind::count, Rule::any, 1, 64,
                                   "readers beside rings and io_uring"),
    flag<&Config::clone_fd>("dev", "clone_fd", "a descriptor of its own for each reader"),

    flag<&Config::stats>("stats", "enabled", "count requests and measure their latency"),
};

struct Unit {
  std::string_view suffix;
  std::uint64_t factor;
};
// Largest first: format_*() takes the first that leaves no remainder.
constexpr std::array kByteUnits{Unit{"GiB", 1ull << 30},
                                Unit{"MiB", 1ull << 20},
                                Unit{"KiB", 1ull << 10},
                                Unit{"G", 1ull << 30},
                                Unit{"M", 1ull << 20},
                                Unit{"K", 1ull << 10},
                                Unit{"B", 1},
                                Unit{"", 1}};
constexpr std::array kTimeUnits{Unit{"s", 1'000'000'000}, Unit{"ms", 1'000'000}, Unit{"us", 1000},
                                Unit{"ns", 1}, Unit{"", 1}};

bool same_letters(std::string_view a, std::string_view b) noexcept {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

template <typename T>
bool take_number(std::string_view &text, T &value) noexcept {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

std::optional<std::uint64_t> parse_with_unit(std::string_view text, std::span<const Unit> units) noexcept {
  text = trim(text);
  std::uint64_t number = 0;
  if (!take_number(text, number)) return std::nullopt;
  text = trim(text);
  for (const Unit &unit : units) {
    std::uint64_t value = 0;
    if (!same_letters(text, unit.suffix)) continue;
    if (__builtin_mul_overflow(number, unit.factor, &value)) return std::nullopt;
    return value;
  }
  return std::nullopt;
}

std::string join_choices(std::span<const std::string_view> choices) {
  std::string out;
  for (std::size_t i = 0; i < choices.size(); ++i)
    out += fmt::format("{}\"{}\"", i == 0 ? "" : i + 1 == choices.size() ? " or " : ", ", choices[i]);
  return out;
}

std::uint64_t page_size() noexcept { return static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

std::string_view trim(std::string_view text) noexcept {
  const auto begin = text.find_first_not_of(" \t\r\n");
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

std::span<const Section> config_sections() noexcept { return kSections; }
std::span<const Key> config_keys() noexcept { return kKeys; }

const Key *find_config_key(std::string_view section, std::string_view name) noexcept {
  const auto it = std::find_if(kKeys.begin(), kKeys.end(),
                               [&](const Key &key) { return key.section == section && key.name == name; });
  return it == kKeys.end() ? nullptr : &*it;
}

std::string Key::environment_name() const {
  std::string out = fmt::format("EFUSE_{}_{}", section, name);
  for (char &c : out) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

std::string Key::expected() const {
  switch (kind) {
    case Kind::flag:
      return "true or false";
    case Kind::choice:
      return join_choices(choices);
    case Kind::names:
      return fmt::format("\"none\" or some of {}, with commas between", join_choices(choices));
    case Kind::seconds:
      return "seconds, \"inf\" or \"filesystem\"";
    case Kind::cpus:
      return "a list of CPUs such as \"0-3,8\" or [0, 1, 2, 3, 8]";
    default:
      break;
  }
  const auto show = [this](std::uint64_t value) {
    return kind == Kind::bytes ? format_bytes(value)
           : kind == Kind::ns  ? format_duration(value)
                               : std::to_string(value);
  };
  const std::string_view noun = rule == Rule::power_of_two ? "a power of two"
                                : kind == Kind::bytes      ? "a size"
                                : kind == Kind::ns         ? "a duration"
                                                           : "an integer";
  const std::string pages =
      rule == Rule::pages ? fmt::format(", a multiple of {}", format_bytes(page_size())) : "";
  return fmt::format("{} from {} to {}{}", noun, show(min), show(max), pages);
}

bool Key::allows(std::uint64_t value) const noexcept {
  if (kind == Kind::seconds && (value == kValidForever || value == kValidAsOffered)) return true;
  if (value < min || value > max) return false;
  if (rule == Rule::power_of_two) return std::has_single_bit(value);
  return rule != Rule::pages || value % page_size() == 0;
}

std::string Key::value_toml(const Config &config) const {
  if (kind == Kind::cpus) return fmt::format("\"{}\"", format_cpu_list(config.cpus));
  const std::uint64_t value = get(config);
  switch (kind) {
    case Kind::flag:
      return value ? "true" : "false";
    case Kind::choice:
      return fmt::format("\"{}\"", choices[value]);
    case Kind::names:
      return fmt::format("\"{}\"", format_names(value, choices));
    case Kind::seconds:
      return value == kValidForever     ? "\"inf\""
             : value == kValidAsOffered ? "\"filesystem\""
                                        : format_seconds(value);
    case Kind::bytes: {
      const std::string text = format_bytes(value);
      return std::isdigit(static_cast<unsigned char>(text.back())) ? text : fmt::format("\"{}\"", text);
    }
    default:
      return std::to_string(value);
  }
}

std::optional<std::uint64_t> parse_bytes(std::string_view text) noexcept {
  return parse_with_unit(text, kByteUnits);
}
std::optional<std::uint64_t> parse_duration(std::string_view text) noexcept {
  return parse_with_unit(text, kTimeUnits);
}

std::optional<std::vector<unsigned>> parse_cpu_list(std::string_view text) {
  std::vector<unsigned> cpus;
  text = trim(text);
  while (!text.empty()) {
    unsigned first = 0;
    if (!take_number(text, first)) return std::nullopt;
    unsigned last = first;
    if (text.starts_with('-')) {
      text.remove_prefix(1);
      if (!take_number(text, last)) return std::nullopt;
    }
    if (last < first || last > kMaxCpuNumber) return std::nullopt;
    for (unsigned cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    text = trim(text);
    if (text.empty()) break;
    if (!text.starts_with(',')) return std::nullopt;
    text = trim(text.substr(1));
    if (text.empty()) return std::nullopt;
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

std::optional<std::uint64_t> parse_names(std::string_view text, std::span<const std::string_view> choices) noexcept {
  std::uint64_t bits = 0;
  text = trim(text);
  if (text == "none") return 0;
  for (;;) {
    const auto comma = text.find(',');
    const auto found = std::find(choices.begin(), choices.end(), trim(text.substr(0, comma)));
    if (found == choices.end()) return std::nullopt;
    bits |= 1ull << (found - choices.begin());
    if (comma == text.npos) return bits;
    text.remove_prefix(comma + 1);
  }
}

std::string format_names(std::uint64_t bits, std::span<const std::string_view> choices) {
  std::string out;
  for (std::size_t i = 0; i < choices.size(); ++i)
    if (bits >> i & 1) out += fmt::format("{}{}", out.empty() ? "" : ",", choices[i]);
  return out.empty() ? "none" : out;
}

std::string format_seconds(std::uint64_t ns) {
  std::string out = fmt::format("{}.{:09}", ns / 1'000'000'000, ns % 1'000'000'000);
  while (out.back() == '0' && out[out.size() - 2] != '.') out.pop_back();
  return out;
}

std::string format_bytes(std::uint64_t bytes) {
  for (const Unit &unit : kByteUnits)
    if (unit.suffix.size() == 3 && bytes != 0 && bytes % unit.factor == 0)
      return fmt::format("{}{}", bytes / unit.factor, unit.suffix);
  return std::to_string(bytes);
}

std::string format_duration(std::uint64_t ns) {
  if (ns == 0) return "0";
  for (const Unit &unit : kTimeUnits)
    if (ns % unit.factor == 0) return fmt::format("{}{}", ns / unit.factor, unit.suffix);
  return std::to_string(ns);
}

std::string format_cpu_list(std::span<const unsigned> cpus) {
  std::string out;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t end = i + 1;
    while (end < cpus.size() && cpus[end] == cpus[end - 1] + 1) ++end;
    out += fmt::format("{}{}", out.empty() ? "" : ",", cpus[i]);
    if (end - i > 1) out += fmt::format("-{}", cpus[end - 1]);
    i = end;
  }
  return out;
}

}  // namespace efuse
