// SPDX-License-Identifier: LGPL-2.1-or-later
// efuse-fstat-load FILE SECONDS CLIENTS: fstat(2) of an open file over and over, each client in a thread with a
// descriptor of its own. Prints {"ops_per_s":N,"p50_us":N,"p99_us":N}. For perf/fastpath: what it measures is short,
// and an interpreter's own time would be most of it.
#include <fcntl.h>
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
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Client {
  std::vector<std::uint32_t> ns;  // of each call
  int error = 0;
};

void run(Client &client, const char *path, const std::atomic<bool> &stop) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) client.error = errno;
  for (auto before = Clock::now(); client.error == 0 && !stop.load(std::memory_order_relaxed);) {
    struct stat st;
    if (fstat(fd, &st) != 0) client.error = errno;
    const auto after = Clock::now();
    client.ns.push_back(static_cast<std::uint32_t>((after - before).count()));
    before = after;
  }
  if (fd >= 0) close(fd);
}

double quantile_us(std::vector<std::uint32_t> &ns, double q) {
  const auto at = ns.begin() + static_cast<std::ptrdiff_t>(q * static_cast<double>(ns.size() - 1));
  std::nth_element(ns.begin(), at, ns.end());
  return *at / 1e3;
}

}  // namespace

int main(int argc, char **argv) {
  const double seconds = argc == 4 ? std::atof(argv[2]) : 0;
  const int count = argc == 4 ? std::atoi(argv[3]) : 0;
  if (seconds <= 0 || count < 1) {
    std::fputs("usage: efuse-fstat-load FILE SECONDS CLIENTS\n", stderr);
    return 2;
  }
  std::vector<Client> clients(static_cast<std::size_t>(count));
  for (Client &client : clients) client.ns.reserve(static_cast<std::size_t>(seconds * 3e6));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  const auto begin = Clock::now();
  for (Client &client : clients) threads.emplace_back(run, std::ref(client), argv[1], std::cref(stop));
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop = true;
  for (std::thread &thread : threads) thread.join();
  const double took = std::chrono::duration<double>(Clock::now() - begin).count();

  std::vector<std::uint32_t> all;
  for (const Client &client : clients) {
    if (client.error != 0) {
      std::fprintf(stderr, "efuse-fstat-load: %s: %s\n", argv[1], std::strerror(client.error));
      return 1;
    }
    all.insert(all.end(), client.ns.begin(), client.ns.end());
  }
  const double rate = static_cast<double>(all.size()) / took;
  const double p50 = quantile_us(all, 0.5), p99 = quantile_us(all, 0.99);
  std::printf("{\"ops_per_s\":%.0f,\"p50_us\":%.2f,\"p99_us\":%.2f}\n", rate, p50, p99);
}
