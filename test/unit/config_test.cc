// SPDX-License-Identifier: LGPL-2.1-or-later
// Configuration: every source, every key, every way to be wrong.
#include "config.hh"
#include "config_keys.hh"
#include "uapi/efuse_ring.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <unistd.h>

using namespace efuse;

namespace {

std::string error_of(const std::string &text) {
  Config config;
  try {
    load_config_text(config, text, "efuse.toml");
  } catch (const ConfigError &error) {
    CHECK(config == Config{});  // all or nothing
    return error.what();
  }
  return "no error";
}

std::string set_error_of(const std::string &assignment) {
  Config config;
  try {
    set_config_key(config, assignment);
  } catch (const ConfigError &error) {
    return error.what();
  }
  return "no error";
}

std::string check_error_of(const Config &config) {
  try {
    check_config(config);
  } catch (const ConfigError &error) {
    return error.what();
  }
  return "no error";
}

Config loaded(const std::string &text) {
  Config config;
  load_config_text(config, text, "efuse.toml");
  return config;
}

/// A variable that is gone at the end of the test.
struct Variable {
  Variable(const char *name, const char *value) : name_(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name_); }
  const char *name_;
};

struct TemporaryFile {
  explicit TemporaryFile(const std::string &text)
      : path(std::filesystem::temp_directory_path() /
             ("efuse-config-test-" + std::to_string(::getpid()) + ".toml")) {
    std::ofstream(path) << text;
  }
  ~TemporaryFile() { std::filesystem::remove(path); }
  std::filesystem::path path;
};

/// Another valid value of a key, and one just outside its range.
std::uint64_t other_value(const Key &key, const Config &config) {
  const std::uint64_t now = key.get(config);
  return now == key.min ? key.max : key.min;
}

}  // namespace

TEST_CASE("defaults are valid and survive TOML", "[config]") {
  Config config;
  CHECK(check_error_of(config) == "no error");
  CHECK(loaded(to_toml(config)) == config);
}

TEST_CASE("every key is read back as it was written", "[config]") {
  for (const Key &key : config_keys()) {
    INFO(key.full_name());
    Config config;
    if (key.kind == Key::Kind::cpus)
      config.cpus = {0, 1, 2, 3, 8, 10, 11};
    else
      key.set(config, other_value(key, config));
    CHECK(config != Config{});
    CHECK(loaded(to_toml(config)) == config);
    Config set;
    set_config_key(set, key.full_name() + "=" + key.value_toml(config));
    CHECK(set == config);
    const std::string name = key.environment_name(), value = key.value_toml(config);
    const Variable variable(name.c_str(), value.c_str());
    Config environment;
    load_config_environment(environment);
    CHECK(environment == config);
  }
}

TEST_CASE("every numeric key refuses what is out of range and what is no number", "[config]") {
  for (const Key &key : config_keys()) {
    if (key.kind == Key::Kind::cpus || key.kind == Key::Kind::seconds) continue;
    const std::string name = key.full_name();
    INFO(name);
    const std::string expected = name + ": expected " + key.expected() + ", got ";
    CHECK(set_error_of(name + "=[1]") == expected + "an array");
    CHECK(set_error_of(name + "={}") == expected + "a table");
    CHECK(set_error_of(name + "=1.5") == expected + "1.5");
    CHECK(set_error_of(name + "=nonsense") == expected + "\"nonsense\"");
    CHECK(set_error_of(name + "=") == expected + "\"\"");
    CHECK(set_error_of(name + "=-1") == expected + "-1");
    CHECK(set_error_of(name + "=18446744073709551616") != "no error");
    if (key.kind == Key::Kind::flag || key.kind == Key::Kind::choice || key.kind == Key::Kind::names) {
      CHECK(set_error_of(name + "=1") == expected + "1");
      continue;
    }
    CHECK(set_error_of(name + "=true") == expected + "true");
    CHECK(set_error_of(name + "=" + std::to_string(key.max + 1)) == expected + std::to_string(key.max + 1));
    CHECK(set_error_of(name + "=" + std::to_string(key.min)) == "no error");
    CHECK(set_error_of(name + "=" + std::to_string(key.max)) == "no error");
    if (key.min > 0) CHECK(set_error_of(name + "=" + std::to_string(key.min - 1)) != "no error");
    if (key.rule != Key::Rule::any)
      CHECK(set_error_of(name + "=" + std::to_string(key.max - 1)) != "no error");
    // 2^32 + a good value must not be cut to the good value.
    CHECK(set_error_of(name + "=" + std::to_string((1ull << 32) + key.min)) != "no error");
  }
}

TEST_CASE("errors carry file, line, column, key and what was expected", "[config]") {
  CHECK(error_of("[ring]\n\ndepth = 100\n") ==
        "efuse.toml:3:9: ring.depth: expected a power of two from 4 to 32768, got 100");
  CHECK(error_of("[ring]\ndepth = \"many\"\n") ==
        "efuse.toml:2:9: ring.depth: expected a power of two from 4 to 32768, got \"many\"");
  CHECK(error_of("[session]\n  transport = \"tcp\"\n") ==
        "efuse.toml:2:15: session.transport: expected \"auto\", \"ring\", \"uring\" or \"dev\", got \"tcp\"");
  CHECK(error_of("[ring]\ndepht = 128\n") ==
        "efuse.toml:2:1: ring.depht: unknown key, expected one of count, depth, slot_in_size, slot_out_size, "
        "forget_depth, payload_size, workers_per_ring, give_way");
  CHECK(error_of("\n[rings]\n") ==
        "efuse.toml:2:2: \"rings\": unknown section, expected one of session, ring, uring, "
        "polling, balance, placement, fastpath, dev, stats");
  CHECK(error_of("depth = 128\n") ==
        "efuse.toml:1:1: \"depth\": unknown section, expected one of session, ring, uring, "
        "polling, balance, placement, fastpath, dev, stats");
  CHECK(error_of("ring = 128\n") == "efuse.toml:1:1: ring: expected a table, got 128");
  CHECK(error_of("[[ring]]\ndepth = 128\n").find("ring: expected a table, got an array") !=
        std::string::npos);
  CHECK(error_of("[ring]\ndepth = 2024-01-01\n").find("got a date or time") != std::string::npos);
  CHECK(error_of("[ring]\ndepth = 128\n[polling]\nadaptive = \"yes\"\n") ==
        "efuse.toml:4:12: polling.adaptive: expected true or false, got \"yes\"");
}

TEST_CASE("syntax errors carry file, line and column", "[config]") {
  for (const std::string text : {"[ring\n", "[ring]\ndepth = \n", "[ring]\ndepth = 1\ndepth = 2\n",
                                 "[ring]\ndepth 1\n", "[ring]\ndepth = \"1\n", "\xff\xfe\n", "a = [1,\n"}) {
    INFO(text);
    const std::string error = error_of(text);
    CHECK(error.starts_with("efuse.toml:"));
    CHECK(error.find('\n') == std::string::npos);
    CHECK(std::count(error.begin(), error.begin() + 20, ':') >= 3);
  }
}

TEST_CASE("long and unprintable values are shown cut and clean", "[config]") {
  const std::string error = set_error_of("session.transport=\"" + std::string(5000, 'x') + "\"");
  CHECK(error.size() < 200);
  CHECK(set_error_of("session.transport=\"a\\u0007b\"").find("\"a?b\"") != std::string::npos);
}

TEST_CASE("sizes and durations", "[config]") {
  CHECK(parse_bytes("8MiB") == 8u << 20);
  CHECK(parse_bytes("512 KiB") == 512u << 10);
  CHECK(parse_bytes("1GiB") == 1u << 30);
  CHECK(parse_bytes("64k") == 64u << 10);
  CHECK(parse_bytes("4096") == 4096u);
  CHECK(parse_bytes("4096B") == 4096u);
  for (const char *bad : {"", "MiB", "8 Mi B", "8MB2", "-1", "1.5MiB", "8TiB", "99999999999999999999",
                          "18446744073709551615KiB"})
    CHECK_FALSE(parse_bytes(bad));
  CHECK(parse_duration("50us") == 50'000u);
  CHECK(parse_duration("1ms") == 1'000'000u);
  CHECK(parse_duration("800ns") == 800u);
  CHECK(parse_duration("2 s") == 2'000'000'000u);
  CHECK(parse_duration("7") == 7u);
  for (const char *bad : {"", "us", "5m", "1h", "1us2", "99999999999999999s"})
    CHECK_FALSE(parse_duration(bad));

  const Config config = loaded(
      "[session]\nmax_write = \"512KiB\"\n[ring]\npayload_size = \"16MiB\"\n"
      "[polling]\nworker_spin_ns = \"20us\"\nrequester_spin_ns = \"1ms\"\n");
  CHECK(config.max_write == 512u << 10);
  CHECK(config.payload_size == 16u << 20);
  CHECK(config.worker_spin_ns == 20'000);
  CHECK(config.requester_spin_ns == 1'000'000);
  // A count is no size.
  CHECK(error_of("[ring]\ndepth = \"1KiB\"\n") != "no error");
}

TEST_CASE("CPU lists", "[config]") {
  using Cpus = std::vector<unsigned>;
  CHECK(parse_cpu_list("0-3,8") == Cpus{0, 1, 2, 3, 8});
  CHECK(parse_cpu_list(" 8 , 2-3, 2 ") == Cpus{2, 3, 8});
  CHECK(parse_cpu_list("") == Cpus{});
  for (const char *bad : {",", "1,", "3-1", "a", "1-", "-1", "0-4294967295", "65536", "1;2", "1 2"})
    CHECK_FALSE(parse_cpu_list(bad));
  CHECK(format_cpu_list(Cpus{0, 1, 2, 3, 8}) == "0-3,8");
  CHECK(format_cpu_list(Cpus{}).empty());
  CHECK(loaded("[placement]\ncpus = [8, 0, 1, 0]\n").cpus == Cpus{0, 1, 8});
  CHECK(loaded("[placement]\ncpus = \"0-3,8\"\n").cpus == Cpus{0, 1, 2, 3, 8});
  CHECK(loaded("[placement]\ncpus = 2\n").cpus == Cpus{2});
  CHECK(error_of("[placement]\ncpus = [1, \"2\"]\n") ==
        "efuse.toml:2:8: placement.cpus: expected a list of CPUs such as \"0-3,8\" or [0, 1, 2, 3, 8], got "
        "an array");
  CHECK(error_of("[placement]\ncpus = [-1]\n") != "no error");
  CHECK(error_of("[placement]\ncpus = true\n") != "no error");
  Config config;
  set_config_key(config, "placement.cpus=0-1,3");
  CHECK(config.cpus == Cpus{0, 1, 3});
}

TEST_CASE("--set takes TOML values and bare words", "[config]") {
  Config config;
  set_config_key(config, "session.transport=ring");
  set_config_key(config, "ring.depth = 256");
  set_config_key(config, "polling.worker_spin_ns=10us");
  set_config_key(config, "polling.adaptive=false");
  set_config_key(config, "placement.policy=\"none\"");
  CHECK(config.transport == TransportChoice::ring);
  CHECK(config.depth == 256);
  CHECK(config.worker_spin_ns == 10'000);
  CHECK_FALSE(config.adaptive);
  CHECK(config.placement == Placement::none);

  CHECK(set_error_of("ring.depth") == "\"ring.depth\": expected section.key=value, such as ring.depth=256");
  CHECK(set_error_of("depth=3") == "\"depth=3\": expected section.key=value, such as ring.depth=256");
  CHECK(set_error_of("ring.dept=3").starts_with("ring.dept: unknown key, expected one of count, depth"));
  CHECK(set_error_of("rings.depth=3").starts_with("\"rings\": unknown section"));
  // One value, not a document.
  CHECK(set_error_of("ring.depth=128\nforget_depth=16").starts_with("ring.depth: expected"));
  CHECK(set_error_of("ring.depth=128\n[polling]").starts_with("ring.depth: expected"));
}

TEST_CASE("environment", "[config]") {
  Config config;
  {
    const Variable depth("EFUSE_RING_DEPTH", "256");
    const Variable transport("EFUSE_SESSION_TRANSPORT", "dev");
    const Variable cpus("EFUSE_PLACEMENT_CPUS", "0-1");
    const Variable cache("EFUSE_CACHE", "/somewhere");
    const Variable file("EFUSE_CONFIG", "/somewhere/efuse.toml");
    const Variable rundir("EFUSE_RUNDIR", "/somewhere");
    const Variable module("EFUSE_MODULE", "/somewhere/efuse_ring.ko");
    const Variable console("EFUSE_VM_EARLYCON", "1");
    load_config_environment(config);
    CHECK(config.depth == 256);
    CHECK(config.transport == TransportChoice::dev);
    CHECK(config.cpus == std::vector<unsigned>{0, 1});
  }
  const Config before = config;
  {
    const Variable good("EFUSE_RING_FORGET_DEPTH", "64");
    const Variable bad("EFUSE_RING_DEPTH", "100");
    CHECK_THROWS_WITH(load_config_environment(config),
                      "EFUSE_RING_DEPTH: ring.depth: expected a power of two from 4 to 32768, got 100");
    CHECK(config == before);
  }
  {
    const Variable unknown("EFUSE_RING_DEPHT", "128");
    CHECK_THROWS_WITH(load_config_environment(config),
                      Catch::StartsWith("EFUSE_RING_DEPHT: names no configuration key"));
  }
  {
    const Variable unknown("EFUSE_RNIG_DEPTH", "128");
    CHECK_THROWS_WITH(load_config_environment(config),
                      Catch::StartsWith("EFUSE_RNIG_DEPTH: names no configuration key"));
  }
}

TEST_CASE("later sources win", "[config]") {
  Config config = loaded("[ring]\ndepth = 64\nforget_depth = 64\nslot_in_size = 1024\n");
  {
    const Variable depth("EFUSE_RING_DEPTH", "32");
    const Variable forget("EFUSE_RING_FORGET_DEPTH", "32");
    load_config_environment(config);
  }
  set_config_key(config, "ring.depth=16");
  CHECK(config.slot_in_size == 1024);
  CHECK(config.forget_depth == 32);
  CHECK(config.depth == 16);
}

TEST_CASE("files", "[config]") {
  Config config;
  CHECK_THROWS_WITH(load_config_file(config, "/nonexistent/efuse.toml"),
                    "/nonexistent/efuse.toml: No such file or directory");
  CHECK_THROWS_WITH(load_config_file(config, "/"), "/: Is a directory");
  CHECK_THROWS_WITH(load_config_file(config, "/dev/zero"), "/dev/zero: larger than 1MiB");
  const TemporaryFile file("[ring]\ndepth = 64\n");
  load_config_file(config, file.path);
  CHECK(config.depth == 64);
  if (::geteuid() != 0) {  // root reads everything
    std::filesystem::permissions(file.path, std::filesystem::perms::none);
    CHECK_THROWS_WITH(load_config_file(config, file.path), file.path.string() + ": Permission denied");
  }
}

TEST_CASE("empty text, comments and byte order mark change nothing", "[config]") {
  CHECK(loaded("") == Config{});
  CHECK(loaded("# nothing\n\n[ring]\n") == Config{});
  CHECK(loaded("\xef\xbb\xbf[ring]\r\ndepth = 64\r\n").depth == 64);
}

TEST_CASE("check_config sees what no single key shows", "[config]") {
  Config config;
  config.max_background = 16;
  CHECK(check_error_of(config) ==
        "session.congestion_threshold: expected at most session.max_background (16), got 48");
  config = {};
  config.payload_size = 512u << 10;
  CHECK(check_error_of(config) ==
        "ring.payload_size: expected at least session.max_write (1MiB), got 512KiB");
  config.max_write = 512u << 10;
  CHECK(check_error_of(config) == "no error");
  config = {};
  config.depth = 1024;
  CHECK(ring_region_bytes(config) > EFUSE_MAX_RING_BYTES);
  CHECK(check_error_of(config).starts_with(
      "ring.depth: expected depth, slot and forget sizes that take at most 512KiB"));
  // What a program sets is checked like what a file says.
  config = {};
  config.depth = 100;
  CHECK(check_error_of(config) == "ring.depth: expected a power of two from 4 to 32768, got 100");
  config = {};
  config.transport = static_cast<TransportChoice>(17);
  CHECK(check_error_of(config) != "no error");
}

TEST_CASE("ring_region_bytes counts whole pages of both regions", "[config]") {
  Config config;
  const std::uint64_t page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  CHECK(ring_region_bytes(config) % page == 0);
  const std::uint64_t slots = std::uint64_t{config.depth} * (config.slot_in_size + config.slot_out_size);
  CHECK(ring_region_bytes(config) > slots + config.forget_depth * sizeof(efuse_forget_entry));
  CHECK(ring_region_bytes(config) < 2 * slots);
  Config deeper = config;
  deeper.depth *= 2;
  CHECK(ring_region_bytes(deeper) >= ring_region_bytes(config) + slots);
}

TEST_CASE("what may change while mounted", "[config]") {
  Config config;
  set_live_config_key(config, "balance.policy=random");
  CHECK(config.balance == Balance::random);
  set_live_config_key(config, "polling.worker_spin_ns=\"7us\"");
  CHECK(config.worker_spin_ns == 7000);
  const Config before = config;
  const auto error_of_live = [&](const char *assignment) -> std::string {
    try {
      set_live_config_key(config, assignment);
    } catch (const ConfigError &error) {
      return error.what();
    }
    return "no error";
  };
  CHECK(error_of_live("ring.depth=64") == "ring.depth: cannot change while mounted");
  CHECK(error_of_live("balance.policy=best") ==
        "balance.policy: expected \"local\", \"round_robin\", \"random\" or \"least_loaded\", got \"best\"");
  CHECK(error_of_live("balance.congestion=0").starts_with("balance.congestion: expected an integer from 1 to"));
  CHECK(config == before);
}

TEST_CASE("fast paths are a list of names", "[config]") {
  CHECK(Config{}.fastpath_programs == 0);
  CHECK(loaded("[fastpath]\nprograms = \"metadata,read\"\n").fastpath_programs ==
        (kFastpathMetadata | kFastpathRead));
  CHECK(loaded("[fastpath]\nprograms = \" read , own \"\n").fastpath_programs == (kFastpathRead | kFastpathOwn));
  CHECK(loaded("[fastpath]\nprograms = \"none\"\n").fastpath_programs == 0);
  Config config;
  set_config_key(config, "fastpath.programs=read,metadata");
  CHECK(find_config_key("fastpath", "programs")->value_toml(config) == "\"metadata,read\"");
  for (const char *bad : {"metadata,", ",", "metadata,none", "writes", "metadata read"})
    CHECK(set_error_of(std::string("fastpath.programs=") + bad)
              .starts_with("fastpath.programs: expected \"none\" or some of \"metadata\", \"read\" or \"own\", with "
                           "commas between, got \""));
  set_live_config_key(config, "fastpath.programs=none");
  CHECK(config.fastpath_programs == 0);
}

TEST_CASE("validity of fast answers is in seconds", "[config]") {
  const auto valid = [](const std::string &text) {
    return loaded("[fastpath]\nvalid = " + text + "\n").fastpath_valid_ns;
  };
  CHECK(Config{}.fastpath_valid_ns == kValidAsOffered);
  CHECK(valid("1") == 1'000'000'000);
  CHECK(valid("1.5") == 1'500'000'000);
  CHECK(valid("0.000001") == 1'000);
  CHECK(valid("0") == 0);
  CHECK(valid("\"inf\"") == kValidForever);
  CHECK(valid("inf") == kValidForever);
  CHECK(valid("\"filesystem\"") == kValidAsOffered);
  for (const std::string text : {"1", "0.25", "3600000000", "\"inf\"", "\"filesystem\"", "0"}) {
    INFO(text);
    Config config = loaded("[fastpath]\nvalid = " + text + "\n");
    CHECK(loaded(to_toml(config)) == config);
  }
  for (const char *bad : {"-1", "nan", "-inf", "true", "\"1\"", "\"soon\"", "[1]", "4e9", "99999999999"})
    CHECK(error_of(std::string("[fastpath]\nvalid = ") + bad + "\n")
              .starts_with("efuse.toml:2:9: fastpath.valid: expected seconds, \"inf\" or \"filesystem\", got "));
  Config config;
  set_config_key(config, "fastpath.valid=inf");
  CHECK(config.fastpath_valid_ns == kValidForever);
  set_config_key(config, "fastpath.valid=filesystem");
  CHECK(config.fastpath_valid_ns == kValidAsOffered);
}

TEST_CASE("the example file is what to_toml() prints", "[config]") {
  if (::sysconf(_SC_PAGESIZE) != 4096) return;  // its comments name the page size
  std::ifstream file(EFUSE_SOURCE_DIR "/docs/efuse.toml.example");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  CHECK(text.find("SPDX-License-Identifier: LGPL-2.1-or-later\n") != std::string::npos);
  CHECK(text.substr(text.find('\n') + 1) == to_toml(Config{}));
}
