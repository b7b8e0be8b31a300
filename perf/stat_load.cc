// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse-stat-load stat|fstat DIRECTORY SECONDS CLIENTS: stat(2) by path, or fstat(2) of an open file, over and over.
// Each client is a thread pinned to a CPU, with a file of its own: DIRECTORY/file0, file1, ...
// Prints {"ops_per_s":N,"p50_us":N,"p99_us":N}. For perf/fastpath: what it measures is short, and an interpreter's own
// time would be most of it.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Client {
  std::string path;
  std::vector<std::uint32_t> ns;  // of each call
  int error = 0;
};

/// Two clients that the scheduler puts on one CPU for a while would look like requests that wait for each other.
void pin(unsigned client) {
  cpu_set_t usable, one;
  if (sched_getaffinity(0, sizeof usable, &usable) != 0) return;
  unsigned skip = client % static_cast<unsigned>(CPU_COUNT(&usable));
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &usable) || skip-- != 0) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    return;
  }
}

template <typename Call>
void repeat(Client &client, const std::atomic<bool> &stop, Call call) {
  for (auto before = Clock::now(); client.error == 0 && !stop.load(std::memory_order_relaxed);) {
    if (call() != 0) client.error = errno;
    const auto after = Clock::now();
    client.ns.push_back(static_cast<std::uint32_t>((after - before).count()));
    before = after;
  }
}

void run(Client &client, unsigned number, bool by_path, const std::atomic<bool> &stop) {
  pin(number);
  struct stat st;
  if (by_path) return repeat(client, stop, [&] { return stat(client.path.c_str(), &st); });
  const int fd = open(client.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    client.error = errno;
    return;
  }
  repeat(client, stop, [&] { return fstat(fd, &st); });
  close(fd);
}

double quantile_us(std::vector<std::uint32_t> &ns, double q) {
  const auto at = ns.begin() + static_cast<std::ptrdiff_t>(q * static_cast<double>(ns.size() - 1));
  std::nth_element(ns.begin(), at, ns.end());
  return *at / 1e3;
}

}  // namespace

int main(int argc, char **argv) {
  const bool by_path = argc == 5 && std::strcmp(argv[1], "stat") == 0;
  const bool known = by_path || (argc == 5 && std::strcmp(argv[1], "fstat") == 0);
  const double seconds = known ? std::atof(argv[3]) : 0;
  const int count = known ? std::atoi(argv[4]) : 0;
  if (seconds <= 0 || count < 1) {
    std::fputs("usage: efuse-stat-load stat|fstat DIRECTORY SECONDS CLIENTS\n", stderr);
    return 2;
  }
  std::vector<Client> clients(static_cast<std::size_t>(count));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  const auto begin = Clock::now();
  for (unsigned i = 0; i < clients.size(); ++i) {
    clients[i].path = std::string(argv[2]) + "/file" + std::to_string(i);
    clients[i].ns.reserve(static_cast<std::size_t>(seconds * 3e6));
    threads.emplace_back(run, std::ref(clients[i]), i, by_path, std::cref(stop));
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop = true;
  for (std::thread &thread : threads) thread.join();
  const double took = std::chrono::duration<double>(Clock::now() - begin).count();

  std::vector<std::uint32_t> all;
  for (const Client &client : clients) {
    if (client.error != 0) {
      std::fprintf(stderr, "efuse-stat-load: %s: %s\n", client.path.c_str(), std::strerror(client.error));
      return 1;
    }
    all.insert(all.end(), client.ns.begin(), client.ns.end());
  }
  const double rate = static_cast<double>(all.size()) / took;
  const double p50 = quantile_us(all, 0.5), p99 = quantile_us(all, 0.99);
  std::printf("{\"ops_per_s\":%.0f,\"p50_us\":%.2f,\"p99_us\":%.2f}\n", rate, p50, p99);
}
