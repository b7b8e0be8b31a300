// SPDX-License-Identifier: LGPL-2.1-or-later
// Random operations on a filesystem, each one checked against a model in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace model {

/// The filesystem did what the model does not.
struct Mismatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The same numbers for the same seed, on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  /// Below `end`, which is at least 1.
  std::uint64_t below(std::uint64_t end) { return engine_() % end; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  template <typename T>
  const T &pick(const std::vector<T> &from) {
    return from[below(from.size())];
  }

 private:
  std::mt19937_64 engine_;
};

/// What was done, for whoever has to find out why it went wrong.
class History {
 public:
  /// Returns the number of the operation, from 1.
  std::uint64_t add(std::string operation) {
    last_.push_back("#" + std::to_string(++count_) + " " + std::move(operation));
    if (last_.size() > kKept) last_.pop_front();
    return count_;
  }
  /// What became of the last one.
  void result(const std::string &what) { last_.back() += " = " + what; }
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] const std::deque<std::string> &last() const noexcept { return last_; }

 private:
  static constexpr std::size_t kKept = 40;
  std::deque<std::string> last_;
  std::uint64_t count_ = 0;
};

struct Options {
  std::string mode, directory;
  double seconds = 10;           // 0: no limit
  std::uint64_t operations = 0;  // per process; 0: no limit
  std::uint64_t seed = 0;
  unsigned processes = 2;
  std::size_t size = 256 * 1024;  // bytes that a file grows to
  bool drop_caches = false;       // the kernel's, now and then; needs root
  bool direct = true;             // with O_DIRECT, too
  bool mapped = true;             // with mmap(), too
};

/// A model and the files that it is compared with.
class Run {
 public:
  virtual ~Run() = default;
  /// One random operation. Throws Mismatch.
  virtual void step() = 0;
  /// Everything, once more from the start.
  virtual void finish() = 0;
  [[nodiscard]] const History &history() const noexcept { return history_; }

 protected:
  History history_;
};

/// Throws Mismatch with the error's name.
[[noreturn]] void failed(const std::string &what, int error);
/// -1: throws as above, with errno.
long must(long result, const char *what);
std::string error_name(int error);
void drop_caches();

}  // namespace model
