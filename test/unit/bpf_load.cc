// SPDX-License-Identifier: LGPL-2.1-or-later
// bpf_load [OBJECT...]: have the kernel verify the shipped programs, with all that can be set in them, and those in
// the files, and print what each function cost the verifier. Needs the module and CAP_BPF. Exit status 1: one was
// refused; its log is on stderr.
#include "bpf_objects.hh"

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using Settings = std::vector<std::pair<const char*, std::uint64_t>>;
constexpr std::size_t most_log = std::size_t{8} << 20, shown_log = 4000;

/// Set a variable of .rodata.
bool set(bpf_object* object, const char* name, std::uint64_t value) {
  const btf* types = bpf_object__btf(object);
  const int section = btf__find_by_name_kind(types, ".rodata", BTF_KIND_DATASEC);
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    if (std::string_view(bpf_map__name(map)).ends_with(".rodata")) break;
  }
  if (section < 0 || !map) return false;
  std::size_t size = 0;
  auto* data = static_cast<char*>(bpf_map__initial_value(map, &size));
  const btf_type* type = btf__type_by_id(types, static_cast<std::uint32_t>(section));
  for (const auto& var : std::span(btf_var_secinfos(type), btf_vlen(type))) {
    if (std::strcmp(btf__name_by_offset(types, btf__type_by_id(types, var.type)->name_off), name) != 0) continue;
    std::memcpy(data + var.offset, &value, var.size);
    return true;
  }
  return false;
}

bool load(bpf_object* object, const std::string& name, const Settings& settings = {}) {
  if (!object) {
    std::perror(name.c_str());
    return false;
  }
  for (const auto& [variable, value] : settings) {
    if (!set(object, variable, value)) {
      std::fprintf(stderr, "%s has no %s\n", name.c_str(), variable);
      return false;
    }
  }
  std::vector<std::vector<char>> logs;
  std::vector<bpf_program*> programs;
  bpf_program* program;
  bpf_object__for_each_program(program, object) {
    programs.push_back(program);
    logs.emplace_back(most_log);
    bpf_program__set_log_buf(program, logs.back().data(), logs.back().size());
    bpf_program__set_log_level(program, 4);
  }
  const int err = bpf_object__load(object);
  for (std::size_t i = 0; i < programs.size(); ++i) {
    const std::string log = logs[i].data();
    const auto cost = log.find("processed ");
    std::printf("%s %s: %s", name.c_str(), bpf_program__name(programs[i]),
                cost == std::string::npos ? "not looked at\n"
                                          : log.substr(cost, log.find('\n', cost) + 1 - cost).c_str());
    if (err) std::fprintf(stderr, "%s\n", log.substr(log.size() - std::min(log.size(), shown_log)).c_str());
  }
  bpf_object__close(object);
  return err == 0;
}

bool load_shipped(const char* name, const Settings& settings) {
  const auto bytes = efuse::shipped_bpf_object(name);
  bpf_object_open_opts options{};
  options.sz = sizeof(options);
  options.object_name = name;
  return load(bpf_object__open_mem(bytes.data(), bytes.size(), &options), name, settings);
}

}  // namespace

int main(int argc, char** argv) {
  // What is off is dead code to the verifier.
  const Settings sizes = {{"efuse_attr_mask", 0}, {"efuse_name_mask", 1023}, {"efuse_long_name_mask", 63},
                          {"efuse_xattr_mask", 1023}, {"efuse_link_mask", 255}, {"efuse_listing_mask", 255}, {"efuse_open_dirs", 1}};
  bool good = load_shipped("metadata", {}) && load_shipped("metadata", sizes);
  for (std::uint64_t times : {0, 1, 2}) {
    good &= load_shipped("metadata", {{"efuse_access_times", times}, {"efuse_valid_ns", 1000 * times},
                                      {"efuse_negative", times == 1}, {"efuse_open_dirs", 1}});
  }
  for (std::uint64_t mode : {1, 2, 3}) {
    good &= load_shipped("read", {{"efuse_read_mode", mode}});
    good &= load_shipped("read", {{"efuse_read_mode", mode}, {"efuse_block_mask", 1023}, {"efuse_valid_ns", 1000}});
  }
  for (int i = 1; i < argc; ++i) good &= load(bpf_object__open(argv[i]), argv[i]);
  return good ? 0 : 1;
}
