// SPDX-License-Identifier: LGPL-2.1-or-later
#include "parking.hh"

#include <cerrno>
#include <chrono>

namespace protocol_test {

void Parking::on_interrupt(fuse_req_t req, void *id) {
  parking_of(req).interrupted(reinterpret_cast<std::uintptr_t>(id));
}

// The callback goes in before the entry: nobody answers the request while it is being registered.
std::uint64_t Parking::park(fuse_req_t req, Answer answer, bool deaf) {
  std::uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    id = next_++;
  }
  fuse_req_interrupt_func(req, &Parking::on_interrupt, reinterpret_cast<void *>(id));
  {
    const std::lock_guard lock(mutex_);
    if (early_.erase(id) == 0 || deaf) {
      entries_.emplace(id, Entry{req, std::move(answer), deaf});
      more_.notify_one();
      return id;
    }
  }
  fuse_reply_err(req, EINTR);
  return 0;
}

void Parking::interrupted(std::uint64_t id) {
  fuse_req_t req = nullptr;
  {
    const std::lock_guard lock(mutex_);
    ++interrupts_;
    const auto found = entries_.find(id);
    if (found == entries_.end()) {
      early_.insert(id);
      return;
    }
    if (found->second.deaf) return;
    req = found->second.req;
    entries_.erase(found);
  }
  fuse_reply_err(req, EINTR);
}

bool Parking::answer(std::uint64_t id) {
  Entry entry;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end()) return false;
    entry = std::move(found->second);
    entries_.erase(found);
  }
  entry.answer(entry.req);
  return true;
}

bool Parking::take_any(std::mt19937 &random, Entry &taken) {
  if (entries_.empty()) return false;
  auto any = entries_.begin();
  std::advance(any, std::uniform_int_distribution<std::size_t>(0, entries_.size() - 1)(random));
  taken = std::move(any->second);
  entries_.erase(any);
  return true;
}

std::size_t Parking::release_now(unsigned threads) {
  std::atomic<std::size_t> count{0};
  std::vector<std::thread> pool;
  for (unsigned i = 0; i < threads; ++i)
    pool.emplace_back([this, i, &count] {
      std::mt19937 random(i);
      for (Entry entry;; ++count) {
        {
          const std::lock_guard lock(mutex_);
          if (!take_any(random, entry)) return;
        }
        entry.answer(entry.req);
      }
    });
  for (std::thread &thread : pool) thread.join();
  return count;
}

// One that came late would answer requests that the caller wants to wait.
std::size_t Parking::release(unsigned threads) {
  if (later_.joinable()) later_.join();
  return release_now(threads);
}

void Parking::release_after(unsigned milliseconds, unsigned threads) {
  if (later_.joinable()) later_.join();
  later_ = std::thread([this, milliseconds, threads] {
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    release_now(threads);
  });
}

// Lets a few come together, so that the order in which they are answered means something.
void Parking::serve(unsigned seed) {
  std::mt19937 random(seed);
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (entries_.size() < 8) more_.wait_for(lock, std::chrono::milliseconds(1));
    Entry entry;
    if (stop_ || !take_any(random, entry)) continue;
    lock.unlock();
    entry.answer(entry.req);
    lock.lock();
  }
}

void Parking::automatic(unsigned threads) {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    more_.notify_all();
  }
  for (std::thread &thread : threads_) thread.join();
  threads_.clear();
  stop_ = false;
  for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this, i] { serve(i); });
}

std::size_t Parking::size() {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

unsigned Parking::interrupts() {
  const std::lock_guard lock(mutex_);
  return interrupts_;
}

}  // namespace protocol_test
