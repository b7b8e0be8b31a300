// SPDX-License-Identifier: LGPL-2.1-or-later
// Requests that an unmodified libfuse has: it answers by `unique`, and the channel that a request came by wants its own
// object back.
#pragma once

#include "request.hh"

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace efuse::exec {

/// Any thread. Nothing is allocated: the requests are linked.
class RequestTable {
 public:
  /// `req.unique` is set, and stays until take().
  void add(fuse_req &req) noexcept {
    Bucket &bucket = of(req.unique.load(std::memory_order_relaxed));
    std::lock_guard lock(bucket.mutex);
    req.next_raw = bucket.first;
    bucket.first = &req;
  }

  /// Whoever takes a request answers it. nullptr: it is not here, or not any more.
  fuse_req *take(std::uint64_t unique) noexcept {
    Bucket &bucket = of(unique);
    std::lock_guard lock(bucket.mutex);
    for (fuse_req **link = &bucket.first; *link != nullptr; link = &(*link)->next_raw)
      if (fuse_req *req = *link; req->unique.load(std::memory_order_relaxed) == unique) {
        *link = req->next_raw;
        return req;
      }
    return nullptr;
  }

 private:
  struct alignas(64) Bucket {
    std::mutex mutex;
    fuse_req *first = nullptr;
  };

  // Uniques of one CPU are evenly spaced: multiplication spreads them.
  Bucket &of(std::uint64_t unique) noexcept {
    return buckets_[((unique >> 1) * 0x9E3779B97F4A7C15ull) >> (64 - kBits)];
  }

  static constexpr unsigned kBits = 8;
  std::array<Bucket, std::size_t{1} << kBits> buckets_;
};

}  // namespace efuse::exec
