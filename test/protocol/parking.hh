// SPDX-License-Identifier: LGPL-2.1-or-later
// Requests that wait: answered later, by another thread, in any order, or interrupted.
#pragma once

#include <efuse/efuse_lowlevel.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace protocol_test {

/// Any thread. A request is either here, or somebody has taken it and answers it.
class Parking {
 public:
  using Answer = std::function<void(fuse_req_t)>;

  ~Parking() {
    automatic(0);
    if (later_.joinable()) later_.join();
  }

  /// Keep `req`; whoever takes it calls `answer`. An INTERRUPT answers EINTR, unless `deaf`.
  /// The number is what take() and answer() want; 0: it was interrupted already, and answered.
  std::uint64_t park(fuse_req_t req, Answer answer, bool deaf = false);
  /// Answer one; false: it is not here (any more).
  bool answer(std::uint64_t id);
  /// Answer what is here, from `threads` threads, in random order, once what release_after() announced is done.
  /// Returns how many. By one thread at a time.
  std::size_t release(unsigned threads);
  /// The same in so many milliseconds, from a thread of its own. By the thread that calls release().
  void release_after(unsigned milliseconds, unsigned threads);
  /// From now on `threads` threads answer whatever comes, in random order; 0: none.
  void automatic(unsigned threads);

  std::size_t size();
  /// INTERRUPTs that reached a request here.
  unsigned interrupts();

 private:
  struct Entry {
    fuse_req_t req;
    Answer answer;
    bool deaf;
  };
  static void on_interrupt(fuse_req_t req, void *id);
  void interrupted(std::uint64_t id);
  bool take_any(std::mt19937 &random, Entry &taken);
  std::size_t release_now(unsigned threads);
  void serve(unsigned seed);

  std::mutex mutex_;  // guards all below
  std::condition_variable more_;
  std::map<std::uint64_t, Entry> entries_;
  std::set<std::uint64_t> early_;  // interrupted between the callback's registration and park()'s end
  std::uint64_t next_ = 1;
  unsigned interrupts_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
  std::thread later_;
};

/// Which Parking a request's filesystem has; the test filesystem defines it.
Parking &parking_of(fuse_req_t req);

}  // namespace protocol_test
