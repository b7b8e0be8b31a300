// SPDX-License-Identifier: LGPL-2.1-or-later
// Between fuse_reply_*() and a channel.
#pragma once

#include "request.hh"

#include <cstring>
#include <new>
#include <span>

namespace efuse {

/// To be called before every reply or drop: from here on no interrupt callback
/// starts for this request.
void before_reply(fuse_req &req) noexcept;

/// Not answered yet: req.out may be written to.
inline bool is_owed(const fuse_req &req) noexcept { return req.owed.load(std::memory_order_relaxed) != 0; }

// Of several replies to one request the first counts; the others return -ENOENT and are logged.

/// Reply with `error` (0 or a negative errno) and no body.
int send_error(fuse_req &req, int error) noexcept;
/// Reply with the `len` bytes that are in req.out.
int send_in_place(fuse_req &req, std::size_t len) noexcept;
/// Reply with `body`: gathered into req.out where it fits, handed on otherwise.
int send_body(fuse_req &req, std::span<const iovec> body) noexcept;
/// Let go of a request that has no reply.
void send_nothing(fuse_req &req) noexcept;

std::size_t iov_size(std::span<const iovec> iov) noexcept;
/// FUSE_BUFVEC_INIT for memory, in C++.
inline fuse_bufvec memory_bufvec(const void *memory, std::size_t size) noexcept {
  fuse_bufvec bufv{};
  bufv.count = 1;
  bufv.buf[0].size = size;
  bufv.buf[0].mem = const_cast<void *>(memory);
  bufv.buf[0].fd = -1;
  return bufv;
}
/// Bytes from the current position of `bufv` to its end.
std::size_t bufvec_left(const fuse_bufvec &bufv) noexcept;

/// A reply of one fixed structure, built where it will be read if there is room,
/// zeroed.
template <class T>
class Body {
 public:
  explicit Body(fuse_req &req) noexcept
      : req_(req), in_place_(req.out_cap >= sizeof(T) && is_owed(req)), body_(new (in_place_ ? req.out : here_) T{}) {}
  Body(const Body &) = delete;
  Body &operator=(const Body &) = delete;
  T *operator->() noexcept { return body_; }
  T &operator*() noexcept { return *body_; }
  int send() noexcept {
    if (in_place_) return send_in_place(req_, sizeof(T));
    const iovec iov{body_, sizeof(T)};
    return send_body(req_, {&iov, 1});
  }

 private:
  fuse_req &req_;
  bool in_place_;
  alignas(T) std::byte here_[sizeof(T)];
  T *body_;
};

}  // namespace efuse
