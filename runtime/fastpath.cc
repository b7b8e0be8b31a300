// SPDX-License-Identifier: LGPL-2.1-or-later
#include "fastpath.hh"

#include "bpf_objects.hh"
#include "fuse_api.hh"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <utility>

namespace efuse {
namespace {

// As in bpf/: tables are sets of so many ways; a set is one element of its map.
constexpr std::uint64_t kWays = 8;
constexpr std::uint64_t kBlock = 4096;

std::uint32_t sets_for(std::uint64_t entries) {
  return static_cast<std::uint32_t>(std::bit_ceil(std::max<std::uint64_t>(entries / kWays, 1)));
}

/// As programs take it: 0 is without end.
std::uint64_t valid_ns(const FastpathOffer &offer, const Config &config) {
  constexpr std::uint64_t kForever = 0, kAtOnceOver = 1;
  if (config.fastpath_valid_ns == kValidForever)
    return kForever;
  if (config.fastpath_valid_ns != kValidAsOffered)
    return std::max(config.fastpath_valid_ns, kAtOnceOver);
  if (std::isnan(offer.valid) || offer.valid <= 0)
    return kAtOnceOver;
  if (offer.valid >= static_cast<double>(kMaxValidNs) / 1e9)
    return kForever;
  return std::max(static_cast<std::uint64_t>(std::llround(offer.valid * 1e9)), kAtOnceOver);
}

constexpr std::uint32_t kReadBlocks = 1, kReadBacking = 2;

std::uint32_t offered_reads(const FastpathOffer &offer) {
  return (offer.blocks ? kReadBlocks : 0) | (offer.backing ? kReadBacking : 0);
}

std::uint32_t read_mode(const FastpathOffer &offer, const Config &config) {
  switch (config.fastpath_read) {
    case FastpathRead::blocks:
      return offered_reads(offer) & kReadBlocks;
    case FastpathRead::backing:
      return offered_reads(offer) & kReadBacking;
    default:
      return offered_reads(offer);
  }
}

BpfSettings settings_for(const FastpathOffer &offer, const Config &config) {
  const std::uint32_t mode = read_mode(offer, config);
  const std::uint32_t entries = sets_for(std::uint64_t{config.fastpath_entries} * 2);
  const std::uint32_t blocks =
      (mode & kReadBlocks) != 0 ? sets_for((std::uint64_t{config.fastpath_blocks_mib} << 20) / kBlock) : 1;
  const std::uint32_t quarter = std::max(entries / 4, 1u);

  BpfSettings s;
  s.nodes = config.fastpath_entries;
  const auto table = [&s](const std::string &map, const std::string &mask, std::uint32_t sets) {
    s.maps.emplace_back(map, sets);
    s.variables.emplace_back(mask, sets - 1);
  };
  table("efuse_attrs", "efuse_attr_mask", entries);
  table("efuse_names", "efuse_name_mask", entries);
  table("efuse_xattrs", "efuse_xattr_mask", quarter);
  table("efuse_links", "efuse_link_mask", quarter);
  table("efuse_listings", "efuse_listing_mask", offer.stateless_directories ? quarter : 1);
  table("efuse_long_names", "efuse_long_name_mask", std::max(entries / 32, 1u));
  table("efuse_blocks", "efuse_block_mask", blocks);
  s.variables.emplace_back("efuse_valid_ns", valid_ns(offer, config));
  s.variables.emplace_back("efuse_access_times", static_cast<std::uint32_t>(offer.access_times));
  s.variables.emplace_back("efuse_negative", 1);
  s.variables.emplace_back("efuse_open_dirs", offer.stateless_directories ? 1 : 0);
  s.variables.emplace_back("efuse_read_mode", mode);
  return s;
}

/// Why the program "read" is not to be had; empty: it is.
std::string why_no_read(const FastpathOffer &offer, const Config &config) {
  if (offered_reads(offer) == 0)
    return "read: the filesystem does not offer it";
  if (read_mode(offer, config) == 0)
    return fmt::format("read: the filesystem offers no {}",
                       config.fastpath_read == FastpathRead::blocks ? "blocks" : "backing files");
  return {};
}

/// As in `efuse stat` and messages.
std::string short_name(const FastpathPlan::Program &program) {
  const std::string name = std::filesystem::path(program.name).filename().string();
  return program.own ? name.substr(0, name.find('.')) : program.name;
}

}  // namespace

FastpathPlan plan_fastpath(const FastpathOffer &offer, const Config &config) {
  FastpathPlan plan;
  if (config.fastpath_programs == 0)
    return plan;
  const BpfSettings settings = settings_for(offer, config);
  for (const std::string &path : offer.programs)
    if (std::none_of(plan.programs.begin(), plan.programs.end(), [&](const auto &p) { return p.name == path; }))
      plan.programs.push_back({path, true, offer.backing, settings});
  if ((config.fastpath_programs & kFastpathOwn) != 0 && offer.programs.empty())
    plan.missing.emplace_back("own: the filesystem has none");
  if ((config.fastpath_programs & kFastpathMetadata) != 0) {
    if (offer.metadata)
      plan.programs.push_back({"metadata", false, false, settings});
    else
      plan.missing.emplace_back("metadata: the filesystem does not offer it");
  }
  if ((config.fastpath_programs & kFastpathRead) != 0) {
    if (const std::string why = why_no_read(offer, config); !why.empty())
      plan.missing.push_back(why);
    else
      plan.programs.push_back({"read", false, (read_mode(offer, config) & kReadBacking) != 0, settings});
  }
  return plan;
}

Fastpath::Fastpath(FastpathOffer offer, std::shared_ptr<FastpathControl> control, bool debug)
    : offer_(std::move(offer)), control_(std::move(control)), debug_(debug) {}

BpfProgram Fastpath::load(const FastpathPlan::Program &program) const {
  BpfSettings settings = program.settings;
  settings.efuse_fd = control_->fd();
  settings.debug = debug_;
  return program.own ? BpfProgram(program.name, settings)
                     : BpfProgram(program.name, shipped_bpf_object(program.name), settings);
}

std::vector<Fastpath::Attached>::iterator Fastpath::find(const std::string &name) {
  return std::find_if(attached_.begin(), attached_.end(), [&](const Attached &a) { return a.plan.name == name; });
}

/// Can those that are new come after those that are attached?
bool Fastpath::order_stays(const std::vector<FastpathPlan::Program> &next) {
  bool fresh = false;
  for (const auto &program : next) {
    const bool here = find(program.name) != attached_.end();
    if (here && fresh)
      return false;
    fresh = fresh || !here;
  }
  return true;
}

void Fastpath::attach(Attached next) {
  next.program.attach();
  used_ = true;
  control_->count_changes();
  attached_.push_back(std::move(next));
}

/// `next` is what was loaded for `programs`; those of the same name and settings stay.
void Fastpath::swap(std::vector<Attached> next, const std::vector<FastpathPlan::Program> &programs) {
  std::erase_if(attached_, [&](const Attached &a) {
    return std::none_of(programs.begin(), programs.end(), [&](const auto &p) { return p.name == a.plan.name; });
  });
  for (Attached &program : next) {
    const auto before = find(program.plan.name);
    if (before == attached_.end()) {
      attach(std::move(program));
    } else {
      program.program.replace(before->program);
      *before = std::move(program);
    }
  }
}

void Fastpath::configure(const Config &config, Or otherwise) {
  FastpathPlan plan = plan_fastpath(offer_, config);
  const auto without = [&](const std::string &why) {
    if (otherwise == Or::fail)
      throw FastpathUnavailable(why);
    plan.missing.push_back(why);
  };
  if (otherwise == Or::fail && !plan.missing.empty())
    throw FastpathUnavailable(fmt::format("{}", fmt::join(plan.missing, "; ")));
  if (!plan.programs.empty())
    if (const auto obstacle = find_fastpath_obstacle()) {
      without(obstacle->why);
      plan.programs.clear();
    }

  const bool anew = !order_stays(plan.programs);
  std::vector<Attached> loaded;
  std::vector<FastpathPlan::Program> wanted;
  for (const auto &program : plan.programs) {
    const auto before = find(program.name);
    try {
      if (anew || before == attached_.end() || before->plan.settings != program.settings)
        loaded.push_back({program, load(program)});
      wanted.push_back(program);
    } catch (const FastpathUnavailable &e) {
      without(e.what());
    }
  }
  if (anew)
    attached_.clear();
  try {
    swap(std::move(loaded), wanted);
  } catch (const FastpathUnavailable &e) {
    without(e.what());
  }
  control_->want_backing(std::any_of(attached_.begin(), attached_.end(), [](auto &a) { return a.plan.backing; }));
  reason_ = fmt::format("{}", fmt::join(plan.missing, "; "));
}

void Fastpath::detach() noexcept {
  control_->want_backing(false);
  attached_.clear();
}

std::vector<std::string> Fastpath::names() const {
  std::vector<std::string> names;
  for (const Attached &a : attached_)
    names.push_back(short_name(a.plan));
  return names;
}

}  // namespace efuse
