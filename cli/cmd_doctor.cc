// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse doctor: what each transport needs, whether it is here, and the command
// that would provide it. Nothing is changed and nothing is mounted.
#include "commands.hh"

#include "bpf_program.hh"
#include "config.hh"
#include "config_keys.hh"
#include "fd.hh"
#include "placement.hh"
#include "transport.hh"
#include "uapi/efuse_ring.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace efuse::cli {
namespace {

using json = nlohmann::json;
namespace stdfs = std::filesystem;

enum class Status { ok, missing, note };

constexpr const char *name_of(Status status) {
  return status == Status::ok ? "ok" : status == Status::missing ? "missing" : "note";
}

struct Check {
  std::string name;
  Status status;
  std::string why;
  std::string enable;  // a command or a step; empty: nothing to do
};

struct Options {
  std::string config_file;
  bool as_json = false;
};

struct Diagnosis {
  std::vector<Check> checks;
  std::vector<std::string> usable;  // transports, the best first
  json placement;                   // null: no CPU to use
  json memory;                      // null: likewise

  bool add(std::string name, Status status, std::string why, std::string enable = {}) {
    checks.push_back({std::move(name), status, std::move(why), std::move(enable)});
    return status == Status::ok;
  }
};

// ---- looking ----------------------------------------------------------------

std::optional<std::string> first_line(const stdfs::path &path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

/// 0, or the errno of opening it for reading and writing.
int open_error(const char *path) {
  const Fd fd(::open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK));
  return fd ? 0 : errno;
}

bool has_capability(unsigned capability) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("CapEff:")) return std::strtoull(line.c_str() + 7, nullptr, 16) >> capability & 1;
  return ::geteuid() == 0;
}

std::optional<stdfs::path> find_program(std::string_view name) {
  const char *path = std::getenv("PATH");
  std::string rest = fmt::format("{}:/usr/local/bin:/usr/bin:/bin", path ? path : "");
  for (std::size_t start = 0; start <= rest.size();) {
    const std::size_t end = std::min(rest.find(':', start), rest.size());
    const stdfs::path candidate = stdfs::path(rest.substr(start, end - start)) / name;
    if (end > start && ::access(candidate.c_str(), X_OK) == 0) return candidate;
    start = end + 1;
  }
  return std::nullopt;
}

bool is_setuid_root(const stdfs::path &path) {
  struct stat st;
  return ::stat(path.c_str(), &st) == 0 && st.st_uid == 0 && (st.st_mode & S_ISUID);
}

struct KernelVersion {
  std::string release;
  unsigned major = 0;
  unsigned minor = 0;
  [[nodiscard]] bool at_least(unsigned a, unsigned b) const {
    return major > a || (major == a && minor >= b);
  }
};

KernelVersion kernel_version() {
  utsname name{};
  ::uname(&name);
  KernelVersion version{name.release};
  std::sscanf(name.release, "%u.%u", &version.major, &version.minor);
  return version;
}

bool module_installed(const std::string &release) {
  std::error_code error;
  const auto skip = stdfs::directory_options::skip_permission_denied;
  for (stdfs::recursive_directory_iterator it("/lib/modules/" + release, skip, error), end; it != end;
       it.increment(error)) {
    if (error) return false;
    if (it->path().filename().string().starts_with("efuse_ring.ko")) return true;
  }
  return false;
}

std::string human(std::uint64_t bytes) {
  if (bytes >= 1u << 20) return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1u << 20));
  return fmt::format("{:.0f} KiB", static_cast<double>(bytes) / 1024);
}

// ---- the checks ---------------------------------------------------------------

Config check_config_sources(Diagnosis &out, const Options &options) {
  Config config;
  const std::string name = options.config_file.empty() ? "configuration" : options.config_file;
  try {
    if (!options.config_file.empty()) load_config_file(config, options.config_file);
    load_config_environment(config);
    check_config(config);
    out.add("configuration", Status::ok,
            config == Config{}
                ? "defaults"
                : fmt::format("{}, valid", options.config_file.empty() ? "from the environment" : name));
    return config;
  } catch (const ConfigError &error) {
    out.add("configuration", Status::missing,
            fmt::format("{} (the rest is told for the defaults)", error.what()), "efuse config show");
    return {};
  }
}

void check_kernel(Diagnosis &out, const KernelVersion &kernel) {
  if (kernel.at_least(6, 12))
    out.add("kernel", Status::ok, fmt::format("Linux {}", kernel.release));
  else
    out.add("kernel", Status::note,
            fmt::format("Linux {}; the efuse_ring module is for 6.12 and later", kernel.release));
}

bool check_fuse(Diagnosis &out) {
  const int error = open_error("/dev/fuse");
  if (error == 0) return out.add("/dev/fuse", Status::ok, "can be opened");
  const bool in_kernel = stdfs::exists("/sys/module/fuse") || stdfs::exists("/sys/fs/fuse");
  std::string enable = "modprobe fuse";
  if (error == EACCES)
    enable = "chmod 0666 /dev/fuse";
  else if (error == EPERM)
    enable = "give the container the device: docker run --device /dev/fuse ...";
  else if (in_kernel)
    enable = "mknod -m 0666 /dev/fuse c 10 229";
  return out.add("/dev/fuse", Status::missing, std::strerror(error), enable);
}

bool check_mounting(Diagnosis &out) {
  const auto helper = find_program("fusermount3");
  const bool privileged = has_capability(CAP_SYS_ADMIN);
  if (helper && (privileged || is_setuid_root(*helper)))
    out.add("fusermount3", Status::ok, helper->string());
  else if (helper)
    out.add("fusermount3", Status::missing, fmt::format("{} is not setuid root", helper->string()),
            fmt::format("chown root {0} && chmod u+s {0}", helper->string()));
  else
    out.add(
        "fusermount3", privileged ? Status::note : Status::missing,
        privileged ? "not installed; root can do without" : "not installed, and only root can mount without",
        "apt-get install fuse3");
  if (privileged) return out.add("mounting", Status::ok, "this process may mount (CAP_SYS_ADMIN)");
  if (helper && is_setuid_root(*helper)) return out.add("mounting", Status::ok, "through fusermount3");
  return out.add("mounting", Status::missing, "neither CAP_SYS_ADMIN nor a working fusermount3",
                 "sudo efuse ...");
}

/// Why the module is not loaded, and what would load it.
std::pair<std::string, std::string> module_absence(const KernelVersion &kernel) {
  if (!stdfs::exists("/proc/modules"))
    return {"this kernel takes no modules (CONFIG_MODULES is not set)", "scripts/vm -- efuse doctor"};
  if (first_line("/proc/sys/kernel/modules_disabled").value_or("0") == "1")
    return {"loading modules is switched off until the next boot (kernel.modules_disabled=1)", "reboot"};
  const std::string lockdown = first_line("/sys/kernel/security/lockdown").value_or("");
  const bool locked = lockdown.find('[') != lockdown.npos && lockdown.find("[none]") == lockdown.npos;
  const std::string note = locked ? " (the kernel is locked down: it takes signed modules only)" : "";
  if (module_installed(kernel.release))
    return {"the efuse_ring module is installed, not loaded" + note, "modprobe efuse_ring"};
  if (!stdfs::exists(fmt::format("/lib/modules/{}/build", kernel.release)))
    return {"the efuse_ring module is not built, and there are no headers for this kernel" + note,
            fmt::format("apt-get install linux-headers-{0} && make -C kmod/efuse_ring", kernel.release)};
  return {"the efuse_ring module is not built for this kernel" + note, "make -C kmod/efuse_ring"};
}

bool check_ring(Diagnosis &out, const KernelVersion &kernel) {
  const bool loaded = stdfs::exists("/sys/module/efuse_ring");
  if (loaded) {
    out.add("efuse_ring module", Status::ok, "loaded");
  } else {
    const auto [why, enable] = module_absence(kernel);
    out.add("efuse_ring module", Status::missing, why, enable);
  }
  const int error = open_error(EFUSE_DEVICE);
  if (error == 0)
    return out.add(EFUSE_DEVICE, Status::ok,
                   fmt::format("can be opened; ABI {}, compared at each attach", EFUSE_ABI_VERSION));
  std::string enable = loaded ? "udevadm trigger --name-match=efuse" : "load the module, as above";
  if (error == EACCES || error == EPERM)
    enable = fmt::format("chgrp, chmod g+rw {}, or run as root", EFUSE_DEVICE);
  return out.add(EFUSE_DEVICE, Status::missing, std::strerror(error), enable);
}

/// Never more than a note: mounts work without.
void check_fastpath(Diagnosis &out, bool ring) {
  const auto obstacle = find_fastpath_obstacle();
  if (obstacle)
    out.add("fast paths", Status::note, fmt::format("off: {}", obstacle->why), obstacle->enable);
  else if (!ring)
    out.add("fast paths", Status::note, "off: they need rings", "see " EFUSE_DEVICE);
  else
    out.add("fast paths", Status::ok, "BPF programs can be attached; efuse mount --fastpath metadata,read");
}

bool check_uring(Diagnosis &out) {
  const auto [why, enable] = find_uring_obstacle();
  if (why.empty()) return out.add("FUSE over io_uring", Status::ok, "switched on in the kernel, and io_uring is allowed");
  return out.add("FUSE over io_uring", Status::missing, why, enable);
}

std::optional<RingPlacement> check_cpus(Diagnosis &out, const Config &config) {
  try {
    const CpuTopology topology = this_machine();
    RingPlacement placement = place_rings(config, topology);
    std::vector<unsigned> usable;
    for (const auto &cpu : topology.cpus)
      if (cpu.usable) usable.push_back(cpu.number);
    std::sort(usable.begin(), usable.end());
    const std::size_t rings = placement.worker_cpu.size();
    if (rings > topology.possible) {
      out.add("CPUs", Status::missing,
              fmt::format("{} rings, and the module takes one for each of {} CPUs at most", rings,
                          topology.possible),
              fmt::format("ring.count = {}", topology.possible));
      return std::nullopt;
    }
    const std::string where = rings <= 8 ? describe_placement(placement) : fmt::format("{} rings", rings);
    out.add("CPUs", Status::ok,
            fmt::format("{} online, {} usable ({}): {}", topology.cpus.size(), usable.size(),
                        format_cpu_list(usable), where));
    out.placement["worker_cpu"] = placement.worker_cpu;
    for (const auto &[home, spin] : placement.cpu_rings)
      out.placement["cpu_rings"].push_back({{"home", home}, {"spin", spin}});
    return placement;
  } catch (const std::exception &error) {
    out.add("CPUs", Status::missing, error.what(), "taskset, or placement.cpus in the configuration");
    return std::nullopt;
  }
}

/// The lowest memory.max from this process's cgroup up to the root.
std::optional<std::uint64_t> cgroup_limit() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line) && !line.starts_with("0::/")) {
  }
  if (!line.starts_with("0::/")) return std::nullopt;
  std::optional<std::uint64_t> lowest;
  for (stdfs::path path = line.substr(3); path.has_relative_path(); path = path.parent_path())
    if (const auto limit =
            parse_bytes(first_line("/sys/fs/cgroup" + path.string() + "/memory.max").value_or("max")))
      lowest = std::min(lowest.value_or(*limit), *limit);
  return lowest;
}

/// The module charges rings to the memory cgroup and to RLIMIT_MEMLOCK of the daemon.
bool check_memory(Diagnosis &out, const Config &config, const RingPlacement &placement) {
  const std::uint64_t rings = placement.worker_cpu.size();
  const std::uint64_t ring_bytes = ring_region_bytes(config);
  const std::uint64_t total = rings * (ring_bytes + config.payload_size);
  out.memory = {{"rings", rings},
                {"ring_bytes", ring_bytes},
                {"payload_bytes", config.payload_size},
                {"total_bytes", total}};
  const std::string why = fmt::format("{} per mount with rings: {} x ({} ring + {} payload pool)",
                                      human(total), rings, human(ring_bytes), human(config.payload_size));
  const auto limit = cgroup_limit();
  const bool fits = !limit || *limit >= total;
  if (fits)
    out.add("memory", Status::ok, why);
  else
    out.add("memory", Status::missing, fmt::format("{}; the memory cgroup allows {}", why, human(*limit)),
            "lower ring.payload_size or ring.count, or raise memory.max");

  rlimit lock{};
  ::getrlimit(RLIMIT_MEMLOCK, &lock);
  if (has_capability(CAP_IPC_LOCK))
    return out.add("RLIMIT_MEMLOCK", Status::ok, "does not limit this process (CAP_IPC_LOCK)") && fits;
  const std::string allowed = lock.rlim_cur == RLIM_INFINITY ? "unlimited" : human(lock.rlim_cur);
  if (lock.rlim_cur >= total) return out.add("RLIMIT_MEMLOCK", Status::ok, allowed) && fits;
  return out.add("RLIMIT_MEMLOCK", Status::missing,
                 fmt::format("{}, and rings would take {}", allowed, human(total)),
                 fmt::format("ulimit -l {}, or a smaller ring.payload_size", (total + 1023) / 1024));
}

/// Ordinary memory of the daemon's: nothing is pinned, and nothing limits it but the cgroup.
void check_uring_memory(Diagnosis &out, const Config &config) {
  const UringMemory memory = uring_memory(config);
  const std::uint64_t total = memory.queues * (memory.queue_bytes + memory.payload_bytes);
  out.memory["uring"] = {{"queues", memory.queues},
                         {"queue_bytes", memory.queue_bytes},
                         {"payload_bytes", memory.payload_bytes},
                         {"total_bytes", total}};
  out.add("memory, uring", Status::ok,
          fmt::format("at most {} per mount with io_uring: {} x ({} queue + {} payload buffers, as far as they are used)",
                      human(total), memory.queues, human(memory.queue_bytes), human(memory.payload_bytes)));
}

Diagnosis diagnose(const Options &options) {
  Diagnosis out;
  const KernelVersion kernel = kernel_version();
  check_kernel(out, kernel);
  const bool fuse = check_fuse(out);
  const bool mounting = check_mounting(out);
  const bool ring = check_ring(out, kernel);
  check_fastpath(out, ring);
  const bool uring = check_uring(out);
  const Config config = check_config_sources(out, options);
  const auto placement = check_cpus(out, config);
  const bool memory = placement && check_memory(out, config, *placement);
  check_uring_memory(out, config);
  if (fuse && mounting && ring && memory) out.usable.push_back("ring");
  if (fuse && mounting && uring) out.usable.push_back("uring");
  if (fuse && mounting) out.usable.push_back("dev");
  return out;
}

// ---- telling ------------------------------------------------------------------

void print_text(const Diagnosis &diagnosis) {
  std::size_t width = 0;
  for (const Check &check : diagnosis.checks) width = std::max(width, check.name.size());
  for (const Check &check : diagnosis.checks) {
    fmt::print("{:<8} {:<{}}  {}\n", name_of(check.status), check.name, width, check.why);
    if (!check.enable.empty()) fmt::print("{:<8} {:<{}}  -> {}\n", "", "", width, check.enable);
  }
  if (diagnosis.usable.empty())
    fmt::print("\nno transport can be used here\n");
  else
    fmt::print("\ntransports that can be used here: {}; --transport auto takes {}\n",
               fmt::join(diagnosis.usable, ", "), diagnosis.usable.front());
}

void print_json(const Diagnosis &diagnosis) {
  json out{{"version", EFUSE_VERSION},
           {"usable", diagnosis.usable},
           {"placement", diagnosis.placement},
           {"memory_per_mount", diagnosis.memory},
           {"checks", json::array()}};
  for (const Check &check : diagnosis.checks)
    out["checks"].push_back({{"name", check.name},
                             {"status", name_of(check.status)},
                             {"why", check.why},
                             {"enable", check.enable}});
  fmt::print("{}\n", out.dump(2, ' ', false, json::error_handler_t::replace));
}

}  // namespace

void add_doctor(CLI::App &app) {
  auto options = std::make_shared<Options>();
  CLI::App *command =
      app.add_subcommand("doctor", "which transports work here, why not the others, what would enable them");
  command->add_flag("--json", options->as_json, "as JSON");
  command->add_option("--config", options->config_file, "look with this configuration")
      ->envname("EFUSE_CONFIG");
  command->callback([options] {
    const Diagnosis diagnosis = diagnose(*options);
    options->as_json ? print_json(diagnosis) : print_text(diagnosis);
    if (diagnosis.usable.empty()) throw CLI::RuntimeError(1);
  });
}

}  // namespace efuse::cli
