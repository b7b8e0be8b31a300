// SPDX-License-Identifier: LGPL-2.1-or-later
// Which programs are attached, set up how; what cannot be had is one line. Nothing here needs the module.
#include "bpf_program.hh"
#include "fastpath.hh"
#include "fastpath_control.hh"

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <linux/fuse.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

using namespace efuse;

namespace {

FastpathOffer everything() {
  FastpathOffer offer;
  offer.metadata = offer.blocks = offer.backing = offer.stateless_directories = true;
  return offer;
}

Config asking(std::uint32_t programs) {
  Config config;
  config.fastpath_programs = programs;
  return config;
}

std::vector<std::string> names_of(const FastpathPlan &plan) {
  std::vector<std::string> names;
  for (const auto &program : plan.programs) names.push_back(program.name);
  return names;
}

template <class T>
std::map<std::string, T> as_map(const std::vector<std::pair<std::string, T>> &pairs) {
  std::map<std::string, T> map(pairs.begin(), pairs.end());
  CHECK(map.size() == pairs.size());
  return map;
}

std::uint64_t variable(const FastpathOffer &offer, const Config &config, const std::string &name) {
  const FastpathPlan plan = plan_fastpath(offer, config);
  REQUIRE(!plan.programs.empty());
  return as_map(plan.programs.front().settings.variables).at(name);
}

using Names = std::vector<std::string>;
constexpr std::uint32_t kAll = kFastpathMetadata | kFastpathRead | kFastpathOwn;

std::shared_ptr<FastpathControl> control_of_nothing() {
  const Fd nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
  return std::make_shared<FastpathControl>(nothing.get());
}

/// What the constructor of a program says.
template <class... Args>
std::string error_of(Args &&...args) {
  try {
    BpfProgram program(std::forward<Args>(args)...);
  } catch (const FastpathUnavailable &e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("what is asked for and offered is planned, the filesystem's own first", "[fastpath]") {
  FastpathOffer offer = everything();
  CHECK(names_of(plan_fastpath(offer, asking(0))).empty());
  CHECK(plan_fastpath(offer, asking(0)).missing.empty());
  CHECK(names_of(plan_fastpath(offer, asking(kFastpathMetadata | kFastpathRead))) == Names{"metadata", "read"});
  CHECK(names_of(plan_fastpath(offer, asking(kFastpathRead))) == Names{"read"});
  CHECK(plan_fastpath(offer, asking(kFastpathOwn)).missing == Names{"own: the filesystem has none"});
  offer.programs = {"/a.bpf.o", "/b.bpf.o", "/a.bpf.o"};  // once each
  CHECK(names_of(plan_fastpath(offer, asking(kFastpathMetadata))) == Names{"/a.bpf.o", "/b.bpf.o", "metadata"});
  CHECK(names_of(plan_fastpath(offer, asking(kFastpathOwn))) == Names{"/a.bpf.o", "/b.bpf.o"});
  CHECK(names_of(plan_fastpath(offer, asking(0))).empty());
}

TEST_CASE("what is not offered is said", "[fastpath]") {
  const FastpathPlan plan = plan_fastpath({}, asking(kAll));
  CHECK(plan.programs.empty());
  CHECK(plan.missing == Names{"own: the filesystem has none", "metadata: the filesystem does not offer it",
                              "read: the filesystem does not offer it"});
  FastpathOffer offer;
  offer.blocks = true;
  Config config = asking(kFastpathRead);
  config.fastpath_read = FastpathRead::backing;
  CHECK(plan_fastpath(offer, config).missing == Names{"read: the filesystem offers no backing files"});
  config.fastpath_read = FastpathRead::blocks;
  CHECK(plan_fastpath(offer, config).missing.empty());
  CHECK_FALSE(plan_fastpath(offer, config).programs.at(0).backing);
}

TEST_CASE("tables have a power of two of sets, and masks say so", "[fastpath]") {
  Config config = asking(kAll);
  const auto check = [&](std::uint32_t entries, std::uint32_t xattrs, std::uint32_t long_names, std::uint32_t blocks) {
    const FastpathPlan plan = plan_fastpath(everything(), config);
    const auto maps = as_map(plan.programs.at(0).settings.maps);
    const auto variables = as_map(plan.programs.at(0).settings.variables);
    CHECK(maps.at("efuse_attrs") == entries);
    CHECK(maps.at("efuse_names") == entries);
    CHECK(maps.at("efuse_xattrs") == xattrs);
    CHECK(maps.at("efuse_links") == xattrs);
    CHECK(maps.at("efuse_listings") == xattrs);
    CHECK(maps.at("efuse_long_names") == long_names);
    CHECK(maps.at("efuse_blocks") == blocks);
    CHECK(variables.at("efuse_attr_mask") == entries - 1);
    CHECK(variables.at("efuse_name_mask") == entries - 1);
    CHECK(variables.at("efuse_xattr_mask") == xattrs - 1);
    CHECK(variables.at("efuse_link_mask") == xattrs - 1);
    CHECK(variables.at("efuse_listing_mask") == xattrs - 1);
    CHECK(variables.at("efuse_long_name_mask") == long_names - 1);
    CHECK(variables.at("efuse_block_mask") == blocks - 1);
    CHECK(plan.programs.at(0).settings.nodes == config.fastpath_entries);
  };
  check(8192, 2048, 256, 2048);
  config.fastpath_entries = 64;
  config.fastpath_blocks_mib = 1;
  check(16, 4, 1, 32);
  config.fastpath_entries = 100'000;
  config.fastpath_blocks_mib = 100;
  check(32768, 8192, 1024, 4096);
}

TEST_CASE("the filesystem says how long, unless the configuration does", "[fastpath]") {
  FastpathOffer offer = everything();
  Config config = asking(kFastpathMetadata);
  const auto valid = [&] { return variable(offer, config, "efuse_valid_ns"); };
  CHECK(valid() == 1'000'000'000);
  offer.valid = 0.25;
  CHECK(valid() == 250'000'000);
  offer.valid = std::numeric_limits<double>::infinity();
  CHECK(valid() == 0);
  offer.valid = 1e300;
  CHECK(valid() == 0);
  for (double none : {0.0, -1.0, 1e-12, std::nan("")}) {
    offer.valid = none;
    CHECK(valid() == 1);  // 0 would be for ever
  }
  config.fastpath_valid_ns = 0;
  CHECK(valid() == 1);
  config.fastpath_valid_ns = 5'000;
  CHECK(valid() == 5'000);
  config.fastpath_valid_ns = kValidForever;
  CHECK(valid() == 0);
}

TEST_CASE("what programs are told of the filesystem", "[fastpath]") {
  FastpathOffer offer = everything();
  offer.access_times = AccessTimes::always;
  Config config = asking(kFastpathRead);
  CHECK(variable(offer, config, "efuse_access_times") == 2);
  CHECK(variable(offer, config, "efuse_negative") == 1);
  CHECK(variable(offer, config, "efuse_open_dirs") == 1);
  CHECK(variable(offer, config, "efuse_read_mode") == 3);
  config.fastpath_read = FastpathRead::blocks;
  CHECK(variable(offer, config, "efuse_read_mode") == 1);
  config.fastpath_read = FastpathRead::backing;
  CHECK(variable(offer, config, "efuse_read_mode") == 2);
  CHECK(as_map(plan_fastpath(offer, config).programs.at(0).settings.maps).at("efuse_blocks") == 1);
  config.fastpath_read = FastpathRead::adaptive;
  offer.blocks = false;
  offer.stateless_directories = false;
  CHECK(variable(offer, config, "efuse_read_mode") == 2);
  CHECK(variable(offer, config, "efuse_open_dirs") == 0);
  CHECK(as_map(plan_fastpath(offer, config).programs.at(0).settings.maps).at("efuse_listings") == 1);
}

TEST_CASE("telling a device that is gone has no effect", "[fastpath]") {
  const auto control = control_of_nothing();
  CHECK_FALSE(control->begin_change());
  control->count_changes();
  for (bool retired : {false, true}) {
    if (retired) control->retire();
    CHECK(control->begin_change());
    control->end_change();
    control->changed(7);
    control->changed_name(1, "name");
    control->changed_name(1, "");
    control->changed_name(1, std::string(300, 'x'));
    control->changed_all();
    control->want_backing(false);
    CHECK(control->add_backing(7, 0) == -EOPNOTSUPP);
    control->want_backing(true);
    CHECK(control->add_backing(7, 0) == -ENOTTY);
    control->remove_backing(7);
    LookupCredit room[4];
    CHECK(control->take_credits(room) == -ENOTTY);
    CHECK(control->stats_json() == "[]");
    CHECK(::fcntl(control->fd(), F_GETFD) == FD_CLOEXEC);
  }
}

TEST_CASE("a mount does without what cannot be had, unless it is required", "[fastpath]") {
  const auto control = control_of_nothing();
  Fastpath fastpath(everything(), control, false);
  fastpath.configure(asking(0), Fastpath::Or::fail);
  CHECK(fastpath.names().empty());
  CHECK(fastpath.reason().empty());
  // There is no attachment: at the latest, the module will say so.
  fastpath.configure(asking(kFastpathMetadata), Fastpath::Or::do_without);
  CHECK(fastpath.names().empty());
  CHECK_FALSE(fastpath.reason().empty());
  CHECK(fastpath.reason().find('\n') == std::string::npos);
  CHECK_FALSE(fastpath.used());
  CHECK_FALSE(control->wants_backing());
  CHECK_THROWS_AS(fastpath.configure(asking(kFastpathRead), Fastpath::Or::fail), FastpathUnavailable);
  Fastpath bare({}, control, false);
  CHECK_THROWS_WITH(bare.configure(asking(kFastpathRead), Fastpath::Or::fail),
                    "read: the filesystem does not offer it");
  fastpath.configure(asking(0), Fastpath::Or::fail);
  CHECK(fastpath.reason().empty());
  fastpath.detach();
}

#ifdef EFUSE_HAVE_LIBBPF
TEST_CASE("what is wrong with an object is one line", "[fastpath]") {
  const BpfSettings settings;
  CHECK(error_of("/nonexistent/x.bpf.o", settings) == "/nonexistent/x.bpf.o: No such file or directory");
  CHECK(error_of("/", settings) == "/: Is a directory");
  const std::string text = EFUSE_SOURCE_DIR "/README.md";
  CHECK(error_of(text, settings).starts_with(text + ": is no BPF object"));
  const std::string program = "/proc/self/exe";
  CHECK(error_of(program, settings).find('\n') == std::string::npos);
  CHECK(error_of(program, settings) != "no error");
  CHECK(error_of("unheard", std::span<const std::byte>(), settings) == "unheard: no such program in this efuse");
  CHECK(error_of(std::string(EFUSE_TEST_OBJECTS "/old_abi.bpf.o"), settings) ==
        EFUSE_TEST_OBJECTS "/old_abi.bpf.o: is for fast path ABI 77, and this efuse has 1");
  CHECK(error_of(std::string(EFUSE_TEST_OBJECTS "/no_ops.bpf.o"), settings) ==
        EFUSE_TEST_OBJECTS "/no_ops.bpf.o: has no struct efuse_fastpath_ops in SEC(\".struct_ops.link\")");
}

TEST_CASE("settings that do not fit are refused, those of other names are not looked at", "[fastpath]") {
  const std::string path = EFUSE_TEST_OBJECTS "/settings.bpf.o";
  BpfSettings settings;
  settings.maps = {{"efuse_attrs", 4}, {"nobody", 3}};
  settings.variables = {{"efuse_attr_mask", 3}, {"efuse_valid_ns", 1ull << 40}, {"efuse_negative", 1}, {"nobody", 3}};
  const std::string loaded = error_of(path, settings);  // nothing but the module is missing, or the right to ask
  CHECK((loaded == "no error" || loaded.starts_with(path + ": cannot be loaded: ") ||
         loaded.starts_with(path + ": not allowed")));
  CHECK(loaded.find('\n') == std::string::npos);
  settings.variables = {{"too_large", 1}};
  CHECK(error_of(path, settings) == path + ": too_large is of 16 bytes");
}
#else
TEST_CASE("built without libbpf there are none", "[fastpath]") {
  CHECK(find_fastpath_obstacle()->why == "built without libbpf >= 1.4");
  CHECK(error_of("/x", BpfSettings{}) == "built without libbpf >= 1.4");
}
#endif
