// SPDX-License-Identifier: LGPL-2.1-or-later
// The shipped BPF programs are in the library, and libbpf reads them. The kernel has its say when they are loaded,
// which needs the module.
#include "bpf_objects.hh"

#include <bpf/libbpf.h>
#include <catch2/catch.hpp>

#include <cstring>
#include <memory>
#include <string>

using namespace efuse;

namespace {

std::unique_ptr<bpf_object, decltype(&bpf_object__close)> open(std::span<const std::byte> bytes, const char* name) {
  bpf_object_open_opts options{};
  options.sz = sizeof(options);
  options.object_name = name;
  return {bpf_object__open_mem(bytes.data(), bytes.size(), &options), bpf_object__close};
}

}  // namespace

TEST_CASE("an unknown name has no object", "[bpf]") {
  CHECK(shipped_bpf_object("").empty());
  CHECK(shipped_bpf_object("metadata.bpf.o").empty());
}

TEST_CASE("shipped objects are what libbpf understands", "[bpf]") {
  const std::string name = GENERATE("metadata", "read");
  const auto bytes = shipped_bpf_object(name);
  REQUIRE(!bytes.empty());
  auto object = open(bytes, name.c_str());
  REQUIRE(object);

  const bpf_map* ops = bpf_object__find_map_by_name(object.get(), name.c_str());
  REQUIRE(ops);
  CHECK(bpf_map__type(ops) == BPF_MAP_TYPE_STRUCT_OPS);
  unsigned programs = 0;
  bpf_program* program;
  bpf_object__for_each_program(program, object.get()) {
    CHECK(bpf_program__type(program) == BPF_PROG_TYPE_STRUCT_OPS);
    ++programs;
  }
  CHECK(programs > 0);
}
