// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse bench: options in, a table and a JSON file out.
#include "commands.hh"

#include "bench.hh"
#include "config.hh"
#include "fastpath_argument.hh"
#include "latency_table.hh"
#include "mount.hh"

#include "../fs/filesystem.hh"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace efuse::cli {

namespace {
constexpr int kExitError = 1;
constexpr int kExitUsage = 2;
constexpr int kExitMarked = 3;
constexpr int kExitInterrupted = 130;

constexpr std::array kTransports{"dev", "ring", "uring", "libfuse"};

struct Arguments {
  perf::Options options;
  std::vector<std::string> ops;
  std::vector<std::string> fs_options;
  std::vector<std::string> fastpaths;  // a list of programs each
  std::vector<std::string> settings;
  std::string config;
  std::string json;
  bool quiet = false;
};

/// What was asked for cannot be; exit status 2.
class UsageError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class T>
void remove_repeated(std::vector<T> &list) {
  for (std::size_t i = 0; i < list.size(); ++i)
    for (std::size_t k = list.size(); --k > i;)
      if (list[k] == list[i])
        list.erase(list.begin() + static_cast<std::ptrdiff_t>(k));
}

// Names in the order in which programs are asked, however the list says it.
perf::FastpathSet parse_fastpath(const std::string &list) {
  FastpathArgument argument = split_fastpath(list);
  Config config;
  try {
    set_config_key(config, fmt::format("fastpath.programs=\"{}\"", argument.names));
  } catch (const ConfigError &e) {
    throw UsageError(fmt::format("--fastpath {}: {}", list, e.what()));
  }
  perf::FastpathSet set{{}, config.fastpath_programs, std::move(argument.objects)};
  for (const std::string &object : set.objects)
    set.names.push_back(std::filesystem::path(object).stem().stem());
  const std::array<std::pair<std::uint32_t, const char *>, 3> shipped{
      {{kFastpathOwn, "own"}, {kFastpathMetadata, "metadata"}, {kFastpathRead, "read"}}};
  for (const auto &[bit, name] : shipped)
    if ((set.programs & bit) != 0 && (bit != kFastpathOwn || set.objects.empty()))
      set.names.emplace_back(name);
  return set;
}

void check(Arguments &a, bool transports_asked) {
  perf::Options &o = a.options;
  const auto names = fs::filesystem_names();
  if (std::find(names.begin(), names.end(), o.fs) == names.end())
    throw UsageError(fmt::format("--fs {}: unknown; there are {}", o.fs, fmt::join(names, ", ")));
  for (const std::string &transport : o.transports)
    if (std::find(kTransports.begin(), kTransports.end(), transport) == kTransports.end())
      throw UsageError(
          fmt::format("--transport {}: unknown; there are {}", transport, fmt::join(kTransports, ", ")));
  for (unsigned threads : o.threads)
    if (threads < 1 || threads > perf::kMaxThreads)
      throw UsageError(fmt::format("--threads {}: expected 1 to {}", threads, perf::kMaxThreads));
  for (const std::string &list : a.fastpaths)
    o.fastpaths.push_back(parse_fastpath(list));
  if (!(o.seconds > 0 && o.seconds <= 86400))
    throw UsageError(fmt::format("--seconds {}: expected more than 0, at most 86400", o.seconds));
  if (o.rounds < 1 || o.rounds > 1000)
    throw UsageError(fmt::format("--rounds {}: expected 1 to 1000", o.rounds));
  o.transports_optional = !transports_asked;
  if (!a.ops.empty())
    o.ops.clear();
  for (const std::string &op : a.ops)
    try {
      o.ops.push_back(perf::parse_op(op));
    } catch (const std::invalid_argument &e) {
      throw UsageError(fmt::format("--{}", e.what()));
    }
  for (const std::string &argument : a.fs_options)
    for (std::string &option : split_mount_options(argument))
      o.fs_options.push_back(std::move(option));
  remove_repeated(o.ops);
  remove_repeated(o.threads);
  remove_repeated(o.transports);
  remove_repeated(o.fastpaths);
}

// As efuse mount: defaults, file, environment, --set; the later wins.
void load_config(Arguments &a) {
  Config &config = a.options.config;
  const char *from_environment = std::getenv("EFUSE_CONFIG");
  if (!a.config.empty())
    load_config_file(config, a.config);
  else if (from_environment && *from_environment)
    load_config_file(config, from_environment);
  load_config_environment(config);
  for (const std::string &setting : a.settings)
    set_config_key(config, setting);
  check_config(config);
}

struct FileCloser {
  void operator()(std::FILE *f) const noexcept { std::fclose(f); }
};
using File = std::unique_ptr<std::FILE, FileCloser>;

// Opened before the run: what cannot be written is known before the minutes are spent.
// Older results stay until there are new ones.
File open_output(const std::string &path) {
  File file(std::fopen(path.c_str(), "ae"));
  if (!file)
    throw std::runtime_error(fmt::format("{}: {}", path, std::strerror(errno)));
  return file;
}

void write_output(File file, const std::string &path, const std::string &text) {
  struct stat st;
  const int fd = fileno(file.get());
  if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && ftruncate(fd, 0) != 0)
    throw std::runtime_error(fmt::format("{}: {}", path, std::strerror(errno)));
  const bool written = std::fputs(text.c_str(), file.get()) >= 0 && std::fputc('\n', file.get()) >= 0;
  if (std::fclose(file.release()) != 0 || !written)
    throw std::runtime_error(fmt::format("{}: cannot be written", path));
}

int bench(Arguments &a, bool transports_asked) {
  check(a, transports_asked);
  load_config(a);
  a.options.progress = a.quiet ? nullptr : stderr;
  File json = a.json.empty() || a.json == "-" ? nullptr : open_output(a.json);
  const perf::Report report = perf::run(a.options);
  // With the JSON on standard output, the table is for the human on standard error.
  fmt::print(a.json == "-" ? stderr : stdout, "{}", perf::format_table(report));
  if (a.json == "-")
    fmt::print("{}\n", perf::to_json(report));
  else if (json)
    write_output(std::move(json), a.json, perf::to_json(report));
  return report.any_marked() ? kExitMarked : 0;
}

int bench_status(Arguments &a, bool transports_asked) {
  try {
    return bench(a, transports_asked);
  } catch (const perf::Interrupted &) {
    fmt::print(stderr, "efuse bench: interrupted\n");
    return kExitInterrupted;
  } catch (const UsageError &e) {
    fmt::print(stderr, "efuse bench: {}\n", e.what());
    return kExitUsage;
  } catch (const std::exception &e) {
    fmt::print(stderr, "efuse bench: {}\n", e.what());
    return kExitError;
  }
}
}  // namespace

void add_bench(CLI::App &app) {
  CLI::App *cmd =
      app.add_subcommand("bench", "Measure throughput and queueing latency of transports, in one run");
  auto a = std::make_shared<Arguments>();
  perf::Options &o = a->options;
  cmd->add_option("--fs", o.fs, "Filesystem to serve")->capture_default_str();
  cmd->add_option("-o", a->fs_options, "Options of the filesystem and the mount");
  auto *transport =
      cmd->add_option("--transport", o.transports,
                      "Transports to compare: dev, ring, uring, libfuse (libfuse's own loop)\n"
                      "(default dev,ring; without ring where it cannot be had)")
          ->delimiter(',');
  cmd->add_option("--threads", o.threads, "Numbers of client threads, each 1 to 64 (default 1,2,4,16,32)")
      ->delimiter(',');
  cmd->add_option("--op", a->ops,
                  "Operations: getattr, lookup, create (and unlink), read, write (default all)")
      ->delimiter(',');
  cmd->add_option("--fastpath", a->fastpaths,
                  "BPF programs that answer in the kernel, as of efuse mount: metadata,read. Measured over ring,\n"
                  "beside the transports; again for another list (default none)")
      ->expected(1)
      ->take_all();
  cmd->add_option("--seconds", o.seconds, "Time for each cell and transport, over all rounds")
      ->capture_default_str();
  cmd->add_option("--rounds", o.rounds, "Slices of that time; transports alternate")->capture_default_str();
  cmd->add_flag("--pin", o.pin, "Pin client thread i to the i-th CPU");
  cmd->add_option("--json", a->json, "Write the rows as a JSON array to this file, - for standard output");
  cmd->add_option("--config", a->config, "Configuration file of efuse's transports");
  cmd->add_option("--set", a->settings, "One configuration key: section.key=value");
  cmd->add_flag("-q,--quiet", a->quiet, "No progress on standard error");
  cmd->footer(
      "Latencies are of whole system calls, in microseconds. queue: system call to the first request's\n"
      "dequeue; service: in the filesystem; reply: from the last reply to the system call's return.\n"
      "ratio: to the first transport, the median of what each round gives, since its slices ran one after the\n"
      "other; (95 %): where the true one is in 95 % of all runs, from six rounds on.\n"
      "ctxsw/op: context switches of clients and daemon; of a create and its unlink together.\n"
      "Exit status 3: a row's requests did not go by its transport.");
  cmd->callback([a, transport] {
    if (const int status = bench_status(*a, transport->count() > 0))
      throw CLI::RuntimeError(status);
  });
}

}  // namespace efuse::cli
