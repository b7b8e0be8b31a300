// SPDX-License-Identifier: LGPL-2.1-or-later
// A thread that serves queues over an io_uring of its own: register entries, dispatch requests, hand answers back
// in batches, poll, sleep. One call into the kernel per round: it submits the round's answers and waits for the
// next requests.
#pragma once

#include "commit_pace.hh"
#include "give_way.hh"
#include "hand_back.hh"
#include "placement.hh"
#include "poller.hh"
#include "uring_queue.hh"
#include "uring_ring.hh"
#include "wait_choice.hh"

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace efuse {

/// One queue of one worker, as placed.
struct UringShare {
  std::uint16_t qid;
  unsigned entries;  // to begin with
  unsigned step;     // to have once requests come, and so many more whenever the filesystem keeps them all
};

class UringWorker final : public UringOwner {
 public:
  struct Setup {
    int fuse_fd;                // of the connection; open until run() has returned
    int cpu;                    // -1: not pinned
    int apart_cpu;              // where to look for what senders on `cpu` send, if that pays; -1: nowhere
    std::size_t payload_bytes;  // of each entry
    bool stats;
    WaitCompany *company;       // of all workers
    GiveWatch *watch;           // of workers that give way to whom they wake, if that pays; nullptr: this one may not
  };

  /// Throws std::system_error.
  UringWorker(SessionCore &session, const Setup &setup, std::span<const UringShare> shares,
              const PollSettings &settings);

  // By the worker's thread, in this order.
  /// Make the io_uring and register the entries. Throws std::system_error, or TransportUnavailable where the kernel
  /// refuses them.
  void begin();
  /// Until stop().
  void run() noexcept;

  // Any thread.
  /// Let run() return when its round is done. Requests still with the filesystem are not waited for.
  void stop() noexcept;
  void answered(UringSlot &slot) noexcept override;
  /// The connection has ended.
  [[nodiscard]] bool gone() const noexcept { return gone_.load(std::memory_order_relaxed); }
  [[nodiscard]] const std::vector<std::unique_ptr<UringQueue>> &queues() const noexcept { return queues_; }

 private:
  static constexpr unsigned kBatch = 32;  // requests between two looks at everything else

  void register_entries(UringQueue &queue, unsigned count);
  void collect() noexcept;
  void grow() noexcept;
  void stir(UringQueue &queue) noexcept;
  void prepare_answers() noexcept;
  void choose() noexcept;
  void go() noexcept;
  void wait() noexcept;
  void enter(bool wait) noexcept;
  void serve() noexcept;
  void commit_early(std::uint64_t now) noexcept;
  void completed(UringSlot &slot, int result, std::uint64_t now) noexcept;
  void wake() noexcept;

  static thread_local UringWorker *inside_;  // whose run() this thread is in

  SessionCore &session_;
  const Setup setup_;
  std::vector<std::unique_ptr<UringQueue>> queues_;
  bool elsewhere_ = false;  // senders of requests run on other CPUs than this worker is placed on
  GiveWay give_way_;
  WaitChoice choice_;
  unsigned served_ = 0;  // requests of this round
  WaitWindow window_;    // until choice_ is asked again
  CommitPace pace_;
  Poller poller_;
  int apart_cpu_;        // -1: there is none, or it cannot be had
  bool apart_ = false;   // there
  WorkerPin pin_;
  Fd wake_;                          // eventfd
  std::optional<UringRing> ring_;    // from begin() to the end of run()
  UringSlot *answered_ = nullptr;    // by this thread, not yet prepared
  bool grows_ = true;                // until the kernel refuses an entry
  HandBack<UringSlot> returned_;     // by other threads
  std::atomic<bool> stopping_{false};
  std::atomic<bool> gone_{false};
};

/// Take back that FUSE-over-io_uring was agreed on in INIT, for a connection on which no queue has entries: requests
/// go the stock way from here on. false: it cannot be taken back, and every request waits for ever.
bool decline_uring(int fuse_fd) noexcept;

}  // namespace efuse
