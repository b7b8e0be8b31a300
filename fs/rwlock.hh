// SPDX-License-Identifier: LGPL-2.1-or-later
// A reader-writer lock of four bytes. An inode has two of them and there are
// millions of inodes, where std::shared_mutex takes 56 bytes and lets a stream
// of readers starve a writer for ever.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

namespace efuse::fs {

/// Not recursive, not even shared: a waiting writer keeps new readers out, so a
/// thread that takes it shared twice may wait for itself. When a writer leaves,
/// all who wait compete again, so neither side is starved by design.
/// Meets SharedLockable (std::unique_lock, std::shared_lock).
class RwLock {
 public:
  RwLock() = default;
  RwLock(const RwLock &) = delete;
  RwLock &operator=(const RwLock &) = delete;

  void lock_shared() noexcept {
    for (unsigned spins = 0;;) {
      std::uint32_t s = state_.load(std::memory_order_relaxed);
      if ((s & (kWriter | kWriterWaits)) == 0) {
        if (state_.compare_exchange_weak(s, s + 1, std::memory_order_acquire)) return;
      } else if (++spins > kSpins) {
        sleep(s, s | kSleepers);
      } else {
        pause();
      }
    }
  }

  void unlock_shared() noexcept {
    std::uint32_t s = state_.fetch_sub(1, std::memory_order_release);
    if ((s & kReaders) == 1 && (s & kSleepers) != 0) {
      // Whoever sets kSleepers after this and before the wake is woken too early
      // and looks again; nobody is woken too late.
      state_.fetch_and(~kSleepers, std::memory_order_relaxed);
      wake_all();
    }
  }

  void lock() noexcept {
    for (unsigned spins = 0;;) {
      std::uint32_t s = state_.load(std::memory_order_relaxed);
      if ((s & (kWriter | kReaders)) == 0) {
        if (state_.compare_exchange_weak(s, (s | kWriter) & ~kWriterWaits, std::memory_order_acquire)) return;
      } else if (++spins > kSpins) {
        sleep(s, s | kSleepers | kWriterWaits);
      } else {
        pause();
      }
    }
  }

  bool try_lock() noexcept {
    std::uint32_t s = 0;
    return state_.compare_exchange_strong(s, kWriter, std::memory_order_acquire);
  }

  /// Does not touch the lock after giving it up, except as a futex address.
  void unlock() noexcept {
    if (state_.exchange(0, std::memory_order_release) & kSleepers) wake_all();
  }

 private:
  static constexpr std::uint32_t kWriter = 1u << 31;
  static constexpr std::uint32_t kWriterWaits = 1u << 30;
  static constexpr std::uint32_t kSleepers = 1u << 29;
  static constexpr std::uint32_t kReaders = kSleepers - 1;
  static constexpr unsigned kSpins = 64;

  static void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  /// Announce, then sleep unless the word has changed since.
  void sleep(std::uint32_t seen, std::uint32_t announced) noexcept {
    if (seen != announced &&
        !state_.compare_exchange_strong(seen, announced, std::memory_order_relaxed))
      return;
    syscall(SYS_futex, word(), FUTEX_WAIT_PRIVATE, announced, nullptr, nullptr, 0);
  }
  void wake_all() noexcept { syscall(SYS_futex, word(), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }
  std::uint32_t *word() noexcept { return reinterpret_cast<std::uint32_t *>(&state_); }

  std::atomic<std::uint32_t> state_{0};
  static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));
};

}  // namespace efuse::fs
