// SPDX-License-Identifier: LGPL-2.1-or-later
// fs-model: random operations on a filesystem, checked against a model.
#include "file_model.hh"
#include "model.hh"
#include "tree_model.hh"

#include <fcntl.h>
#include <getopt.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace model {
namespace {

constexpr const char *kUsage =
    "usage: fs-model file|tree [OPTION...] DIR\n"
    "Random operations in DIR, each checked against a model in memory: on a file per process, or on a tree of names.\n"
    "  --seconds N     for so long (default 10; 0: until --ops)\n"
    "  --ops N         that many per process (default 0: until --seconds)\n"
    "  --seed S        to repeat a run (default: from the clock; it is printed)\n"
    "  --processes N   side by side, each on its own (default 2)\n"
    "  --size BYTES    that files grow to (default 262144, at least 8192)\n"
    "  --drop-caches   the kernel's, now and then; needs root\n"
    "  --no-direct     no O_DIRECT\n"
    "  --no-mmap       no mmap()\n"
    "Exit status: 0 all was as the model says, 1 it was not, 2 usage.\n";

[[noreturn]] void usage(const std::string &why) {
  std::fprintf(stderr, "fs-model: %s\n%s", why.c_str(), kUsage);
  std::exit(2);
}

std::uint64_t parse_number(const char *text) {
  std::uint64_t n = 0;
  const char *end = text + ::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, n);
  if (error != std::errc() || stop != end) usage(std::string("not a number: ") + text);
  return n;
}

double seconds_now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

Options parse(int argc, char **argv) {
  static const option kLong[] = {
      {"seconds", required_argument, nullptr, 't'}, {"ops", required_argument, nullptr, 'n'},
      {"seed", required_argument, nullptr, 's'},    {"processes", required_argument, nullptr, 'p'},
      {"size", required_argument, nullptr, 'z'},    {"drop-caches", no_argument, nullptr, 'c'},
      {"no-direct", no_argument, nullptr, 'd'},     {"no-mmap", no_argument, nullptr, 'm'},
      {"help", no_argument, nullptr, 'h'},          {nullptr, 0, nullptr, 0}};
  Options o;
  timespec clock;
  clock_gettime(CLOCK_REALTIME, &clock);
  o.seed = static_cast<std::uint64_t>(clock.tv_sec) * 1000 + static_cast<std::uint64_t>(clock.tv_nsec / 1000000);
  for (int c; (c = getopt_long(argc, argv, "h", kLong, nullptr)) != -1;) {
    switch (c) {
      case 't': o.seconds = static_cast<double>(parse_number(optarg)); break;
      case 'n': o.operations = parse_number(optarg); break;
      case 's': o.seed = parse_number(optarg); break;
      case 'p': o.processes = static_cast<unsigned>(parse_number(optarg)); break;
      case 'z': o.size = parse_number(optarg); break;
      case 'c': o.drop_caches = true; break;
      case 'd': o.direct = false; break;
      case 'm': o.mapped = false; break;
      case 'h': std::fputs(kUsage, stdout); std::exit(0);
      default: std::exit(2);
    }
  }
  if (argc - optind != 2) usage("a mode and a directory, please");
  o.mode = argv[optind];
  o.directory = argv[optind + 1];
  if (o.mode != "file" && o.mode != "tree") usage("no such mode: " + o.mode);
  if (o.size < 8192 || o.processes < 1) usage("--size or --processes is too small");
  if (o.seconds == 0 && o.operations == 0) usage("--seconds or --ops, or it never ends");
  return o;
}

std::unique_ptr<Run> make_run(const Options &o, unsigned process) {
  const std::string path = o.directory + "/model." + std::to_string(getpid()) + "." + std::to_string(process);
  const std::uint64_t seed = o.seed * 1000 + process;
  if (o.mode == "file") return std::make_unique<FileRun>(o, path, seed);
  return std::make_unique<TreeRun>(o, path, seed);
}

/// 0, or 1 after a mismatch.
int run_one(const Options &o, unsigned process) {
  std::unique_ptr<Run> run;
  ::umask(0);
  const double end = seconds_now() + o.seconds;
  try {
    run = make_run(o, process);
    std::uint64_t steps = 0;
    while ((o.operations == 0 || steps < o.operations) && (o.seconds == 0 || seconds_now() < end)) {
      run->step();
      ++steps;
    }
    run->finish();
    std::printf("%s %u: %llu operations as in the model\n", o.mode.c_str(), process,
                static_cast<unsigned long long>(run->history().count()));
    std::fflush(stdout);
    return 0;
  } catch (const Mismatch &e) {
    std::fprintf(stderr, "%s %u: %s\n", o.mode.c_str(), process, e.what());
    if (run != nullptr)
      for (const std::string &line : run->history().last()) std::fprintf(stderr, "  %s\n", line.c_str());
    std::fprintf(stderr, "again: fs-model %s --seed %llu --processes %u --size %zu DIR\n", o.mode.c_str(),
                 static_cast<unsigned long long>(o.seed), o.processes, o.size);
    return 1;
  }
}

}  // namespace

std::string error_name(int error) {
  const char *name = strerrorname_np(error);
  return name != nullptr ? name : "errno " + std::to_string(error);
}

void failed(const std::string &what, int error) { throw Mismatch(what + ": " + error_name(error)); }

long must(long result, const char *what) {
  if (result == -1) failed(what, errno);
  return result;
}

void drop_caches() {
  ::sync();
  const int fd = ::open("/proc/sys/vm/drop_caches", O_WRONLY);
  if (fd < 0) return;  // not root: then what is cached is compared
  const ssize_t n = ::write(fd, "3\n", 2);
  ::close(fd);
  if (n != 2) failed("drop_caches", errno);
}

}  // namespace model

int main(int argc, char **argv) {
  using namespace model;
  const Options o = parse(argc, argv);
  std::printf("fs-model %s: seed %llu, %u processes\n", o.mode.c_str(), static_cast<unsigned long long>(o.seed),
              o.processes);
  std::fflush(stdout);
  for (unsigned i = 0; i < o.processes; ++i) {
    const pid_t child = ::fork();
    if (child == 0) std::exit(run_one(o, i));
    if (child < 0) usage("fork: " + error_name(errno));
  }
  int result = 0;
  for (int status; ::wait(&status) > 0 || errno == EINTR;)
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      if (WIFSIGNALED(status)) std::fprintf(stderr, "a process was killed by signal %d\n", WTERMSIG(status));
      result = 1;
    }
  return result;
}
