// SPDX-License-Identifier: LGPL-2.1-or-later
#include "bpf_program.hh"

#include <fmt/format.h>

#ifdef EFUSE_HAVE_LIBBPF
#include "fuse_api.hh"
#include "uapi/efuse_ring.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fuse_log.h>
#include <linux/capability.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string_view>
#endif

namespace efuse {

#ifndef EFUSE_HAVE_LIBBPF

std::optional<FastpathObstacle> find_fastpath_obstacle() {
  return FastpathObstacle{"built without libbpf >= 1.4", "scripts/setup && scripts/build"};
}

struct BpfProgram::Impl {};
BpfProgram::BpfProgram(const std::string &, std::span<const std::byte>, const BpfSettings &) {
  throw FastpathUnavailable(find_fastpath_obstacle()->why);
}
BpfProgram::BpfProgram(const std::string &, const BpfSettings &) {
  throw FastpathUnavailable(find_fastpath_obstacle()->why);
}
void BpfProgram::attach() {}
void BpfProgram::replace(BpfProgram &) {}

#else

namespace {

constexpr const char *kOps = "efuse_fastpath_ops";
constexpr const char *kKernelBtf = "/sys/kernel/btf/vmlinux";
constexpr const char *kModuleBtf = "/sys/kernel/btf/efuse_ring";

// ---- what libbpf says -----------------------------------------------------------

/// Keeps what libbpf says while it lives. libbpf knows one function for all of the process, and gives it no argument:
/// one of these at a time.
class LibbpfLog {
 public:
  explicit LibbpfLog(bool debug) : lock_(mutex), debug_(debug) {
    current = this;
    before_ = ::libbpf_set_print(print);
  }
  ~LibbpfLog() {
    ::libbpf_set_print(before_);
    current = nullptr;
  }
  LibbpfLog(const LibbpfLog &) = delete;

  /// The verifier's last word; empty: it was not asked, or has not objected.
  [[nodiscard]] std::string verifier() const {
    const auto end = text_.rfind("-- END PROG LOAD LOG --");
    const auto begin = end == text_.npos ? end : text_.rfind("-- BEGIN PROG LOAD LOG --", end);
    return begin == text_.npos ? "" : last_line(std::string_view(text_).substr(begin, end - begin));
  }
  /// The last complaint of libbpf's own.
  [[nodiscard]] std::string complaint() const { return last_line(text_); }

 private:
  static std::string last_line(std::string_view text) {
    while (!text.empty()) {
      const auto newline = text.find_last_of('\n');
      std::string_view line = newline == text.npos ? text : text.substr(newline + 1);
      text = newline == text.npos ? std::string_view() : text.substr(0, newline);
      if (line.starts_with("libbpf: "))
        line.remove_prefix(8);
      const auto is = [line](std::string_view start) { return line.starts_with(start); };
      // Statistics of the verifier; what libbpf adds to any failure.
      if (line.empty() || is("processed ") || is("verification time") || is("stack depth") || is("-- ") ||
          is("failed to load object") || line.find("failed to load: -") != line.npos)
        continue;
      return std::string(line);
    }
    return {};
  }

  static int print(libbpf_print_level level, const char *format, va_list arguments) {
    LibbpfLog *log = current;
    char *line = nullptr;
    if (log == nullptr || (level == LIBBPF_DEBUG && !log->debug_) || ::vasprintf(&line, format, arguments) < 0)
      return 0;
    const std::unique_ptr<char, decltype(&std::free)> owner(line, &std::free);
    if (log->debug_)
      fuse_log(FUSE_LOG_DEBUG, "%s", line);
    try {
      if (level == LIBBPF_WARN)
        log->text_ += line;
    } catch (const std::bad_alloc &) {
    }
    return 0;
  }

  static inline std::mutex mutex;
  static inline thread_local LibbpfLog *current = nullptr;
  std::lock_guard<std::mutex> lock_;
  bool debug_;
  libbpf_print_fn_t before_;
  std::string text_;
};

std::string error_text(int error) {
  char text[128] = "";
  ::libbpf_strerror(error, text, sizeof text);
  return text;
}

[[noreturn]] void fail(const std::string &name, const std::string &problem) {
  throw FastpathUnavailable(fmt::format("{}: {}", name, problem));
}

// ---- what is here -----------------------------------------------------------------

bool file_has(const char *path, std::string_view text) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  return bytes.find(text) != bytes.npos;
}

bool may_load() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("CapEff:"))
      return std::strtoull(line.c_str() + 7, nullptr, 16) >> CAP_SYS_ADMIN & 1;
  return ::geteuid() == 0;
}

// ---- types ------------------------------------------------------------------------

const btf_member *find_member(const btf *types, const btf_type *of, std::string_view name) {
  const btf_member *members = btf_members(of);
  const auto *end = members + btf_vlen(of);
  const auto *found =
      std::find_if(members, end, [&](const btf_member &m) { return name == btf__name_by_offset(types, m.name_off); });
  return found == end ? nullptr : found;
}

bool is_function(const btf *types, std::uint32_t id) {
  const btf_type *type = btf__type_by_id(types, id);
  if (!type || !btf_is_ptr(type))
    return false;
  type = btf__type_by_id(types, type->type);
  return type && btf_is_func_proto(type);
}

/// The module's efuse_fastpath_ops. Its BTF goes on from the kernel's.
class ModuleOps {
 public:
  ModuleOps()
      : kernel_(btf__load_vmlinux_btf(), btf__free),
        module_(btf__load_module_btf("efuse_ring", kernel_.get()), btf__free) {
    const int id = module_ ? btf__find_by_name_kind(module_.get(), kOps, BTF_KIND_STRUCT) : -1;
    ops_ = id > 0 ? btf__type_by_id(module_.get(), static_cast<std::uint32_t>(id)) : nullptr;
  }
  [[nodiscard]] bool knows(std::string_view member) const {
    return !ops_ || find_member(module_.get(), ops_, member) != nullptr;  // without BTF, libbpf will say
  }

 private:
  using Btf = std::unique_ptr<btf, decltype(&btf__free)>;
  Btf kernel_, module_;
  const btf_type *ops_;
};

}  // namespace

std::optional<FastpathObstacle> find_fastpath_obstacle() {
  namespace stdfs = std::filesystem;
  if (!stdfs::exists(kKernelBtf))
    return FastpathObstacle{"this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)", "boot a kernel that has it"};
  if (!stdfs::exists("/sys/module/efuse_ring"))
    return FastpathObstacle{"the efuse_ring module is not loaded", "modprobe efuse_ring"};
  if (!stdfs::exists(kModuleBtf))
    return FastpathObstacle{"the loaded efuse_ring module has no BTF",
                            "apt-get install dwarves, and build the module anew where the headers have vmlinux"};
  if (!file_has(kModuleBtf, kOps))
    return FastpathObstacle{"the loaded efuse_ring module has no fast paths", "make -C kmod/efuse_ring, and reload it"};
  if (!may_load())
    return FastpathObstacle{"to load BPF programs takes CAP_SYS_ADMIN", "run as root"};
  return std::nullopt;
}

// ---- one object ----------------------------------------------------------------

struct BpfProgram::Impl {
  using Object = std::unique_ptr<bpf_object, decltype(&bpf_object__close)>;
  struct DestroyLink {
    void operator()(bpf_link *link) const noexcept { bpf_link__destroy(link); }
  };
  using Link = std::unique_ptr<bpf_link, DestroyLink>;

  std::string name;
  BpfSettings settings;
  Object object{nullptr, bpf_object__close};
  std::vector<Link> links;  // gone before the object

  Impl(std::string n, const BpfSettings &s) : name(std::move(n)), settings(s) {}

  std::vector<bpf_map *> ops() const {
    std::vector<bpf_map *> found;
    bpf_map *map = nullptr;
    bpf_object__for_each_map(map, object.get()) if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS) found.push_back(map);
    return found;
  }

  void prepare();
  void fill_in(bpf_map *map, const ModuleOps &module) const;
  void set_variables() const;
  void load(const LibbpfLog &log);
};

void BpfProgram::Impl::prepare() {
  if (!bpf_object__btf(object.get()))
    fail(name, "has no BTF: compile with -g");
  const auto maps = ops();
  if (maps.empty())
    fail(name, fmt::format("has no struct {} in SEC(\".struct_ops.link\")", kOps));
  const ModuleOps module;
  for (bpf_map *map : maps)
    fill_in(map, module);
  for (const auto &[map_name, entries] : settings.maps)
    if (bpf_map *map = bpf_object__find_map_by_name(object.get(), map_name.c_str()))
      if (const int error = bpf_map__set_max_entries(map, entries); error != 0)
        fail(name, fmt::format("map {}: {}", map_name, error_text(error)));
  set_variables();
}

/// What the programs of an object say about themselves, before the kernel looks at them.
void BpfProgram::Impl::fill_in(bpf_map *map, const ModuleOps &module) const {
  const btf *types = bpf_object__btf(object.get());
  const btf_type *type = btf__type_by_id(types, bpf_map__btf_value_type_id(map));
  std::size_t size = 0;
  auto *value = static_cast<std::byte *>(bpf_map__initial_value(map, &size));
  if (!type || !btf_is_struct(type) || !value || std::strcmp(btf__name_by_offset(types, type->name_off), kOps) != 0)
    fail(name, fmt::format("{} is no struct {}", bpf_map__name(map), kOps));

  const auto word = [&](const char *member) {
    const btf_member *m = find_member(types, type, member);
    if (!m || m->offset % 32 != 0 || m->offset / 8 + sizeof(std::uint32_t) > size)
      fail(name, fmt::format("struct {} has no {}", kOps, member));
    return value + m->offset / 8;
  };
  std::uint32_t abi = 0;
  std::memcpy(&abi, word("abi_version"), sizeof abi);
  if (abi != EFUSE_FASTPATH_ABI)
    fail(name, fmt::format("is for fast path ABI {}, and this efuse has {}", abi, EFUSE_FASTPATH_ABI));
  std::memcpy(word("efuse_fd"), &settings.efuse_fd, sizeof settings.efuse_fd);
  std::uint32_t nodes = 0;
  std::memcpy(&nodes, word("nodes"), sizeof nodes);
  if (nodes == 0)
    std::memcpy(word("nodes"), &settings.nodes, sizeof settings.nodes);

  const btf_member *members = btf_members(type);
  for (std::uint32_t i = 0; i < btf_vlen(type); ++i) {
    const void *program = nullptr;
    if (!is_function(types, members[i].type) || members[i].offset / 8 + sizeof program > size)
      continue;
    std::memcpy(&program, value + members[i].offset / 8, sizeof program);
    const char *member = btf__name_by_offset(types, members[i].name_off);
    if (program && !module.knows(member))
      fail(name, fmt::format("a program for '{}', which this module does not know", member));
  }
}

void BpfProgram::Impl::set_variables() const {
  bpf_map *map = bpf_object__find_map_by_name(object.get(), ".rodata");
  const btf *types = bpf_object__btf(object.get());
  const int id = btf__find_by_name_kind(types, ".rodata", BTF_KIND_DATASEC);
  std::size_t size = 0;
  auto *value = map ? static_cast<std::byte *>(bpf_map__initial_value(map, &size)) : nullptr;
  if (!value || id < 0)
    return;
  const btf_type *section = btf__type_by_id(types, static_cast<std::uint32_t>(id));
  const btf_var_secinfo *variables = btf_var_secinfos(section);
  for (std::uint32_t i = 0; i < btf_vlen(section); ++i) {
    const btf_var_secinfo &v = variables[i];
    const btf_type *type = btf__type_by_id(types, v.type);
    const std::string_view called = type ? btf__name_by_offset(types, type->name_off) : "";
    const auto wanted = std::find_if(settings.variables.begin(), settings.variables.end(),
                                     [&](const auto &one) { return one.first == called; });
    if (wanted == settings.variables.end())
      continue;
    if (v.size > sizeof wanted->second || std::size_t{v.offset} + v.size > size)
      fail(name, fmt::format("{} is of {} bytes", called, v.size));
    // The lower bytes, in this machine's order.
    const auto *from = reinterpret_cast<const std::byte *>(&wanted->second);
    if constexpr (std::endian::native == std::endian::big)
      from += sizeof wanted->second - v.size;
    std::memcpy(value + v.offset, from, v.size);
  }
}

void BpfProgram::Impl::load(const LibbpfLog &log) {
  const int error = bpf_object__load(object.get());
  if (error == 0)
    return;
  if (const std::string why = log.verifier(); !why.empty())
    fail(name, fmt::format("does not verify: {}", why));
  if (error == -EPERM)
    fail(name, "not allowed to load BPF programs (it takes CAP_SYS_ADMIN)");
  const std::string why = log.complaint();
  fail(name, fmt::format("cannot be loaded: {}", why.empty() ? error_text(error) : why));
}

BpfProgram::BpfProgram(const std::string &name, std::span<const std::byte> object, const BpfSettings &settings)
    : impl_(std::make_unique<Impl>(name, settings)) {
  if (object.empty())
    fail(name, "no such program in this efuse");
  const LibbpfLog log(settings.debug);
  LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name.c_str());
  impl_->object.reset(bpf_object__open_mem(object.data(), object.size(), &options));
  if (!impl_->object)
    fail(name, fmt::format("is no BPF object: {}", log.complaint()));
  impl_->prepare();
  impl_->load(log);
}

BpfProgram::BpfProgram(const std::string &path, const BpfSettings &settings)
    : impl_(std::make_unique<Impl>(path, settings)) {
  const LibbpfLog log(settings.debug);
  std::error_code ignored;
  if (::access(path.c_str(), R_OK) != 0)
    fail(path, std::strerror(errno));
  if (std::filesystem::is_directory(path, ignored))
    fail(path, std::strerror(EISDIR));
  impl_->object.reset(bpf_object__open_file(path.c_str(), nullptr));
  if (!impl_->object)
    fail(path, fmt::format("is no BPF object: {}", log.complaint()));
  impl_->prepare();
  impl_->load(log);
}

void BpfProgram::attach() {
  const LibbpfLog log(impl_->settings.debug);
  for (bpf_map *map : impl_->ops()) {
    bpf_link *link = bpf_map__attach_struct_ops(map);
    if (link) {
      impl_->links.emplace_back(link);
      continue;
    }
    const int error = errno;
    impl_->links.clear();
    if (error == EBUSY || error == ENOSPC)
      fail(impl_->name, fmt::format("cannot be attached: a mount has at most {} programs", EFUSE_MAX_PROGRAMS));
    fail(impl_->name, fmt::format("cannot be attached: {}", error_text(error)));
  }
}

void BpfProgram::replace(BpfProgram &old) {
  const LibbpfLog log(impl_->settings.debug);
  const auto maps = impl_->ops();
  if (maps.size() != 1 || old.impl_->links.size() != 1)
    fail(impl_->name, "objects with more than one struct_ops cannot be replaced");
  if (const int error = bpf_link__update_map(old.impl_->links.front().get(), maps.front()); error != 0)
    fail(impl_->name, fmt::format("cannot replace the one before: {}", error_text(error)));
  impl_->links = std::move(old.impl_->links);
  old.impl_->links.clear();
}

#endif

BpfProgram::BpfProgram(BpfProgram &&) noexcept = default;
BpfProgram &BpfProgram::operator=(BpfProgram &&) noexcept = default;
BpfProgram::~BpfProgram() = default;

}  // namespace efuse
