// SPDX-License-Identifier: LGPL-2.1-or-later
// The uring transport: the kernel's FUSE-over-io_uring, a queue for every possible CPU and a worker for every CPU
// that this process may use. FORGET and INTERRUPT come by /dev/fuse still, whose readers carry on beside.
//
// The kernel starts to use the queues when each of them has an entry, and does not stop before the connection ends.
#include "transport.hh"

#include "placement.hh"
#include "uring_worker.hh"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/utsname.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace efuse {
namespace {

/// Entries of a queue, all of its workers together, as far as the payload's budget goes.
unsigned entries_per_queue(const Config &config, std::size_t payload_bytes) noexcept {
  const auto fit = static_cast<unsigned>(std::min<std::uint64_t>(config.uring_payload_size / payload_bytes, UINT32_MAX));
  return std::clamp(fit, 1u, config.uring_depth);
}

/// A worker that shares its queue takes one request at a time: those it had taken would wait for a callback that
/// blocks, while another worker is free.
unsigned entries_per_worker(const Config &config, std::size_t payload_bytes) noexcept {
  return config.uring_workers > 1 ? 1 : entries_per_queue(config, payload_bytes);
}

/// Both looks of a ring's worker in one: there is no look in the kernel here. One that is not adaptive looks beside its
/// senders, too, whom it keeps waiting: only so long as asked for.
std::uint32_t look_ns(const Config &config) noexcept {
  return config.worker_spin_ns + (config.adaptive ? config.worker_poll_ns : 0);
}

/// The CPU whose worker is the one to look for requests from `cpu`, as placed for rings; -1: none.
int apart_from(int cpu, const RingPlacement &placement) noexcept {
  if (cpu < 0 || static_cast<std::size_t>(cpu) >= placement.cpu_rings.size())
    return -1;
  const efuse_cpu_rings &rings = placement.cpu_rings[static_cast<std::size_t>(cpu)];
  const int apart = placement.worker_cpu[rings.spin];
  return apart == cpu ? -1 : apart;
}

class UringTransport final : public Transport {
 public:
  UringTransport(SessionCore &session, const Config &config, int fuse_fd)
      : fuse_fd_(fuse_fd), may_give_way_(config.uring_give_way), starts_nothing_(config.starts_nothing) {
    settings_.spin_ns = look_ns(config);
    settings_.adaptive = config.adaptive;
    const std::size_t queues = possible_cpus();
    if (queues == 0)
      throw TransportUnavailable("/sys does not tell how many CPUs are possible");
    make_workers(session, config, queues);
  }

  ~UringTransport() override { stop(); }

  [[nodiscard]] std::string_view name() const noexcept override { return "uring"; }

  void start() override {
    if (may_give_way_)
      watch_.start(starts_nothing_);
    std::vector<std::future<void>> begun;
    try {
      for (std::size_t i = 0; i < workers_.size(); i++) {
        std::promise<void> promise;
        begun.push_back(promise.get_future());
        threads_.emplace_back([this, i, p = std::move(promise)]() mutable { body(i, std::move(p)); });
      }
      for (auto &each : begun)
        each.get();
    } catch (...) {
      stop();
      if (!decline_uring(fuse_fd_))
        throw std::runtime_error("io_uring was agreed on with the kernel, cannot be had, and cannot be declined");
      throw;
    }
  }

  // The kernel does not let go of queues, so new requests come until the connection ends, which the session sees to
  // right after this.
  void stop() noexcept override {
    if (!threads_.empty())
      wait_for_replies();
    for (auto &worker : workers_)
      worker->stop();
    for (std::thread &thread : threads_)
      thread.join();
    threads_.clear();
  }

  void tune(const Config &config) noexcept override {
    settings_.spin_ns = look_ns(config);
    settings_.adaptive = config.adaptive;
  }

  [[nodiscard]] bool owes_replies() const noexcept override {
    return any_queue([](UringQueue &queue) { return queue.busy(); });
  }

  bool interrupt(std::uint64_t unique) noexcept override {
    return any_queue([unique](UringQueue &queue) { return queue.interrupt(unique); });
  }

  bool serves(std::uint64_t unique) noexcept override {
    return any_queue([unique](UringQueue &queue) { return queue.serves(unique); });
  }

  void visit_stats(const std::function<void(const ChannelStats &)> &visit) const override {
    for (const auto &worker : workers_)
      for (const auto &queue : worker->queues())
        visit(static_cast<const UringQueue &>(*queue).stats());
  }

 private:
  template <typename Ask>
  bool any_queue(Ask ask) const noexcept {
    for (const auto &worker : workers_)
      for (const auto &queue : worker->queues())
        if (ask(*queue))
          return true;
    return false;
  }

  void make_workers(SessionCore &session, const Config &config, std::size_t queues) {
    Config placed = config;
    placed.ring_count = 0;  // that is of rings: here it is a worker for each CPU
    const CpuTopology topology = this_machine();
    const RingPlacement placement = place_rings(placed, topology);
    std::vector<bool> online(queues);
    for (const auto &cpu : topology.cpus)
      if (cpu.number < queues)
        online[cpu.number] = true;
    const std::size_t payload = uring_payload_bytes(session.conn.max_write);
    const unsigned step = entries_per_worker(config, payload);
    for (std::size_t home = 0; home < placement.worker_cpu.size(); home++) {
      std::vector<UringShare> shares;
      for (std::size_t qid = 0; qid < queues; qid++)
        if (placement.cpu_rings[qid].home == home)
          shares.push_back({static_cast<std::uint16_t>(qid), online[qid] ? step : 1, step});
      const int cpu = placement.worker_cpu[home];
      const UringWorker::Setup setup{fuse_fd_,     cpu,       apart_from(cpu, placement), payload,
                                     config.stats, &company_, may_give_way_ ? &watch_ : nullptr};
      for (unsigned i = 0; i < config.uring_workers && !shares.empty(); i++)
        workers_.push_back(std::make_unique<UringWorker>(session, setup, shares, settings_));
      cpus_.resize(workers_.size(), placement.worker_cpu[home]);
    }
  }

  void body(std::size_t index, std::promise<void> begun) noexcept {
    ::pthread_setname_np(::pthread_self(), fmt::format("efuse-u{}", index).substr(0, 15).c_str());
    sigset_t all;
    sigfillset(&all);  // signals are for the thread that runs the session
    ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
    if (const int error = pin_this_thread(cpus_[index]); error != 0)
      fuse_log(FUSE_LOG_WARNING, "efuse: cannot pin worker %zu to CPU %d: %s\n", index, cpus_[index],
               std::strerror(-error));
    try {
      workers_[index]->begin();
      begun.set_value();
    } catch (...) {
      begun.set_exception(std::current_exception());
      return;
    }
    workers_[index]->run();
  }

  /// As the stock readers do: where the connection lives, those who hold requests get a moment.
  void wait_for_replies() noexcept {
    using namespace std::chrono_literals;
    for (auto waited = 0ms; waited < 500ms && owes_replies() && connected(); waited += 5ms)
      std::this_thread::sleep_for(5ms);
  }

  [[nodiscard]] bool connected() const noexcept {
    pollfd p{fuse_fd_, 0, 0};
    return ::poll(&p, 1, 0) == 0;
  }

  int fuse_fd_;
  bool may_give_way_;
  bool starts_nothing_;
  PollSettings settings_;
  WaitCompany company_;
  GiveWatch watch_;
  std::vector<std::unique_ptr<UringWorker>> workers_;
  std::vector<int> cpus_;  // by worker
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Transport> make_uring_transport(SessionCore &session, const Config &config, int fuse_fd) {
  if ((session.init_flags & protocol::kOverIoUring) == 0)
    throw TransportUnavailable("the kernel did not offer it in FUSE_INIT");
  try {
    return std::make_unique<UringTransport>(session, config, fuse_fd);
  } catch (const std::exception &e) {
    if (!decline_uring(fuse_fd))
      throw std::runtime_error(fmt::format("io_uring was agreed on with the kernel and cannot be had: {}", e.what()));
    throw TransportUnavailable(e.what());
  }
}

UringObstacle find_uring_obstacle() {
  std::string parameter;
  if (!std::getline(std::ifstream("/sys/module/fuse/parameters/enable_uring") >> std::ws, parameter)) {
    utsname name{};
    ::uname(&name);
    return {fmt::format("Linux {} does not have it (6.14 or later with CONFIG_FUSE_IO_URING)", name.release),
            "boot a newer kernel"};
  }
  if (parameter != "Y" && parameter != "1")
    return {"the kernel has it, switched off", "echo Y > /sys/module/fuse/parameters/enable_uring"};
  if (std::string why = find_io_uring_obstacle(); !why.empty())
    return {std::move(why), "sysctl kernel.io_uring_disabled=0, and no seccomp filter that forbids it"};
  if (possible_cpus() == 0)
    return {"/sys does not tell how many CPUs are possible", "mount -t sysfs sysfs /sys"};
  return {};
}

UringMemory uring_memory(const Config &config) {
  const std::size_t payload = uring_payload_bytes(config.max_write);
  const std::size_t entries = std::size_t{entries_per_worker(config, payload)} * config.uring_workers;
  const std::size_t each = sizeof(UringWorker) + sizeof(UringQueue) + UringRing::bytes(entries);
  return {possible_cpus(), entries * (kUringHeadersBytes + sizeof(UringSlot)) + config.uring_workers * each,
          entries * payload};
}

}  // namespace efuse
