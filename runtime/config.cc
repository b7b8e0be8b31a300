// SPDX-License-Identifier: LGPL-2.1-or-later
#include "config.hh"

#include "config_keys.hh"
#include "fd.hh"
#include "uapi/efuse_ring.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

extern char **environ;

namespace efuse {
namespace {

// No configuration is larger; /dev/zero as a file ends here.
constexpr std::size_t kMaxFileBytes = 1u << 20;

// Variables of this shape are keys, or mistyped keys. EFUSE_CONFIG, EFUSE_RUNDIR
// and other names of one word are not, nor is what scripts/vm reads.
bool is_key_variable(std::string_view name) {
  return name.starts_with("EFUSE_") && name.find('_', 6) != name.npos && !name.starts_with("EFUSE_VM_");
}

[[noreturn]] void fail(std::string_view where, std::string_view what, std::string_view problem) {
  throw ConfigError(
      fmt::format("{}{}{}{}{}", where, where.empty() ? "" : ": ", what, what.empty() ? "" : ": ", problem));
}

[[noreturn]] void fail_value(std::string_view where, const Key &key, std::string_view got) {
  fail(where, key.full_name(), fmt::format("expected {}, got {}", key.expected(), got));
}

/// Quoted, printable, not endless.
std::string quoted(std::string_view text) {
  constexpr std::size_t kShown = 60;
  std::string out = "\"";
  for (const char c : text.substr(0, kShown))
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return out + (text.size() > kShown ? "...\"" : "\"");
}

std::string describe(const toml::node &node) {
  if (const auto *v = node.as_integer()) return std::to_string(v->get());
  if (const auto *v = node.as_string()) return quoted(v->get());
  if (const auto *v = node.as_boolean()) return v->get() ? "true" : "false";
  if (const auto *v = node.as_floating_point()) return fmt::format("{}", v->get());
  if (node.is_table()) return "a table";
  return node.is_array() ? "an array" : "a date or time";
}

std::optional<std::uint64_t> number_in(const Key &key, const toml::node &node) {
  if (const auto *v = node.as_integer())
    return v->get() < 0 ? std::nullopt : std::optional(static_cast<std::uint64_t>(v->get()));
  const auto *text = node.as_string();
  if (text && key.kind == Key::Kind::bytes) return parse_bytes(text->get());
  if (text && key.kind == Key::Kind::ns) return parse_duration(text->get());
  return std::nullopt;
}

std::optional<std::uint64_t> seconds_in(const toml::node &node) {
  if (const auto *text = node.as_string())
    return text->get() == "filesystem" ? std::optional(kValidAsOffered)
           : text->get() == "inf"      ? std::optional(kValidForever)
                                       : std::nullopt;
  const auto seconds = node.as_integer() ? std::optional(static_cast<double>(node.as_integer()->get()))
                       : node.as_floating_point() ? std::optional(node.as_floating_point()->get())
                                                  : std::nullopt;
  if (!seconds || std::isnan(*seconds) || *seconds < 0) return std::nullopt;
  if (std::isinf(*seconds)) return kValidForever;
  if (*seconds > static_cast<double>(kMaxValidNs) / 1e9) return std::nullopt;
  return std::min(static_cast<std::uint64_t>(std::llround(*seconds * 1e9)), kMaxValidNs);
}

std::optional<std::uint64_t> value_in(const Key &key, const toml::node &node) {
  switch (key.kind) {
    case Key::Kind::flag:
      return node.as_boolean() ? std::optional<std::uint64_t>(node.as_boolean()->get()) : std::nullopt;
    case Key::Kind::choice: {
      const auto *text = node.as_string();
      const auto it =
          text ? std::find(key.choices.begin(), key.choices.end(), text->get()) : key.choices.end();
      if (it == key.choices.end()) return std::nullopt;
      return static_cast<std::uint64_t>(it - key.choices.begin());
    }
    case Key::Kind::names:
      return node.as_string() ? parse_names(node.as_string()->get(), key.choices) : std::nullopt;
    case Key::Kind::seconds:
      return seconds_in(node);
    default:
      return number_in(key, node);
  }
}

bool is_cpu(const toml::node &node) {
  const auto *number = node.as_integer();
  return number && number->get() >= 0 && number->get() <= kMaxCpuNumber;
}

/// A list in a string, an array of numbers, or one number.
std::optional<std::vector<unsigned>> cpus_in(const toml::node &node) {
  if (const auto *text = node.as_string()) return parse_cpu_list(text->get());
  if (is_cpu(node)) return std::vector{static_cast<unsigned>(node.as_integer()->get())};
  const auto *array = node.as_array();
  if (!array || !std::all_of(array->begin(), array->end(), is_cpu)) return std::nullopt;
  std::vector<unsigned> cpus;
  for (const auto &element : *array) cpus.push_back(static_cast<unsigned>(element.as_integer()->get()));
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

void apply(Config &config, const Key &key, const toml::node &node, std::string_view where) {
  if (key.kind == Key::Kind::cpus) {
    auto cpus = cpus_in(node);
    if (!cpus) fail_value(where, key, describe(node));
    config.cpus = std::move(*cpus);
    return;
  }
  const auto value = value_in(key, node);
  if (!value || !key.allows(*value)) fail_value(where, key, describe(node));
  key.set(config, *value);
}

std::string names_of_keys(std::string_view section) {
  std::string out;
  for (const Key &key : config_keys())
    if (key.section == section) out += fmt::format("{}{}", out.empty() ? "" : ", ", key.name);
  return out;
}

std::string names_of_sections() {
  std::string out;
  for (const Section &section : config_sections())
    out += fmt::format("{}{}", out.empty() ? "" : ", ", section.name);
  return out;
}

bool is_section(std::string_view name) {
  const auto sections = config_sections();
  return std::any_of(sections.begin(), sections.end(), [&](const Section &s) { return s.name == name; });
}

const Key &known_key(std::string_view section, std::string_view name, std::string_view where) {
  if (!is_section(section))
    fail(where, quoted(section), fmt::format("unknown section, expected one of {}", names_of_sections()));
  const Key *key = find_config_key(section, name);
  if (!key)
    fail(where, fmt::format("{}.{}", section, name),
         fmt::format("unknown key, expected one of {}", names_of_keys(section)));
  return *key;
}

std::string position(std::string_view file, const toml::source_region &source) {
  return fmt::format("{}:{}:{}", file, source.begin.line, source.begin.column);
}

void apply_section(Config &config, const toml::key &section, const toml::node &node,
                   const std::string &file) {
  const std::string where = position(file, section.source());
  if (!is_section(section.str()))
    fail(where, quoted(section.str()),
         fmt::format("unknown section, expected one of {}", names_of_sections()));
  const toml::table *table = node.as_table();
  if (!table) fail(where, section.str(), fmt::format("expected a table, got {}", describe(node)));
  for (const auto &[name, value] : *table)
    apply(config, known_key(section.str(), name.str(), position(file, name.source())), value,
          position(file, value.source()));
}

/// A value from outside a file: TOML where it is TOML, a string where it is not.
void apply_text(Config &config, const Key &key, std::string_view text, std::string_view where) {
  try {
    const toml::table table = toml::parse(fmt::format("value = {}", text));
    if (table.size() == 1) return apply(config, key, *table.get("value"), where);
  } catch (const toml::parse_error &) {
  }
  apply(config, key, toml::value<std::string>(std::string(trim(text))), where);
}

std::string read_file(const std::string &path) {
  const auto fail_errno = [&](int error) { fail(path, "", std::strerror(error)); };
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) fail_errno(errno);
  std::string text;
  std::array<char, 16384> chunk;
  for (;;) {
    const ssize_t n = ::read(fd.get(), chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(errno);
    if (n == 0) return text;
    text.append(chunk.data(), static_cast<std::size_t>(n));
    if (text.size() > kMaxFileBytes)
      fail(path, "", fmt::format("larger than {}", format_bytes(kMaxFileBytes)));
  }
}

std::uint64_t round_up(std::uint64_t value, std::uint64_t to) { return (value + to - 1) / to * to; }

}  // namespace

void load_config_file(Config &config, const std::string &path) {
  load_config_text(config, read_file(path), path);
}

void load_config_text(Config &config, std::string_view text, const std::string &name) {
  Config next = config;  // all or nothing
  try {
    const toml::table table = toml::parse(text, name);
    for (const auto &[section, node] : table) apply_section(next, section, node, name);
  } catch (const toml::parse_error &error) {
    fail(position(name, error.source()), "", error.description());
  }
  config = std::move(next);
}

void load_config_environment(Config &config) {
  Config next = config;
  for (char **entry = environ; entry && *entry; ++entry) {
    const std::string_view variable(*entry);
    const auto equals = variable.find('=');
    if (equals == variable.npos) continue;
    const std::string_view name = variable.substr(0, equals);
    if (!is_key_variable(name)) continue;
    const auto keys = config_keys();
    const auto key =
        std::find_if(keys.begin(), keys.end(), [&](const Key &k) { return k.environment_name() == name; });
    if (key == keys.end())
      fail(name, "",
           "names no configuration key; expected EFUSE_SECTION_KEY, such as EFUSE_RING_DEPTH for ring.depth");
    apply_text(next, *key, variable.substr(equals + 1), name);
  }
  config = std::move(next);
}

void set_config_key(Config &config, std::string_view assignment) {
  const auto equals = assignment.find('=');
  const auto dot = assignment.substr(0, equals).find('.');
  if (equals == assignment.npos || dot == assignment.npos)
    fail(quoted(assignment), "", "expected section.key=value, such as ring.depth=256");
  const std::string_view name = assignment.substr(dot + 1, equals - dot - 1);
  const Key &key = known_key(trim(assignment.substr(0, dot)), trim(name), "");
  apply_text(config, key, assignment.substr(equals + 1), "");
}

void set_live_config_key(Config &config, std::string_view assignment) {
  Config next = config;
  set_config_key(next, assignment);
  const auto dot = assignment.find('.');
  const Key *key = find_config_key(trim(assignment.substr(0, dot)),
                                   trim(assignment.substr(dot + 1, assignment.find('=') - dot - 1)));
  if (!key->live)
    fail("", key->full_name(), "cannot change while mounted");
  config = std::move(next);
}

std::uint64_t ring_region_bytes(const Config &config) {
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const auto array = [&](std::uint64_t count, std::uint64_t size) {
    return round_up(count * size, EFUSE_CACHELINE);
  };
  const std::uint64_t depth = config.depth;
  const std::uint64_t kern =
      sizeof(efuse_ring_info) + sizeof(efuse_kern_head) + array(depth, sizeof(efuse_pending_entry)) +
      array(depth, sizeof(efuse_interrupt_entry)) + array(config.forget_depth, sizeof(efuse_forget_entry)) +
      array(depth, config.slot_in_size);
  const std::uint64_t user = sizeof(efuse_user_head) + array(depth, sizeof(efuse_complete_entry)) +
                             array(depth, config.slot_out_size);
  return round_up(kern, page) + round_up(user, page);
}

void check_config(const Config &config) {
  for (const Key &key : config_keys()) {
    if (key.kind == Key::Kind::cpus) continue;
    if (!key.allows(key.get(config))) fail_value("", key, std::to_string(key.get(config)));
  }
  if (config.congestion_threshold > config.max_background)
    fail("", "session.congestion_threshold",
         fmt::format("expected at most session.max_background ({}), got {}", config.max_background,
                     config.congestion_threshold));
  if (config.payload_size < config.max_write)
    fail("", "ring.payload_size",
         fmt::format("expected at least session.max_write ({}), got {}", format_bytes(config.max_write),
                     format_bytes(config.payload_size)));
  if (config.uring_payload_size < config.max_write)
    fail("", "uring.payload_size",
         fmt::format("expected at least session.max_write ({}), got {}", format_bytes(config.max_write),
                     format_bytes(config.uring_payload_size)));
  if (ring_region_bytes(config) > EFUSE_MAX_RING_BYTES)
    fail("", "ring.depth",
         fmt::format(
             "expected depth, slot and forget sizes that take at most {} per ring, got {} with depth {}, "
             "slot_in_size {}, slot_out_size {}, forget_depth {}",
             format_bytes(EFUSE_MAX_RING_BYTES), format_bytes(ring_region_bytes(config)), config.depth,
             config.slot_in_size, config.slot_out_size, config.forget_depth));
}

std::string to_toml(const Config &config) {
  std::string out =
      "# efuse configuration. Each key can be set by EFUSE_SECTION_KEY in the environment and by\n"
      "# --set section.key=value too; what is left out keeps its default.\n";
  for (const Section &section : config_sections()) {
    out += fmt::format("\n[{}]  # {}\n", section.name, section.doc);
    for (const Key &key : config_keys())
      if (key.section == section.name)
        out +=
            fmt::format("\n# {}\n# {}\n{} = {}\n", key.doc, key.expected(), key.name, key.value_toml(config));
  }
  return out;
}

}  // namespace efuse
