// SPDX-License-Identifier: LGPL-2.1-or-later
#include "transport_manual.hh"

#include "dispatch.hh"
#include "protocol.hh"
#include "reply.hh"
#include "request.hh"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace efuse {

int ManualTransport::receive(fuse_buf &buf) noexcept {
  // Until INIT is answered nothing longer comes, but its answer may allow longer ones.
  const std::size_t size = std::max<std::size_t>(session_.buf_size, FUSE_MIN_READ_BUFFER);
  if (buf.mem == nullptr && (buf.mem = std::malloc(size)) == nullptr)
    return -ENOMEM;
  for (;;) {
    const ssize_t n = io_.read != nullptr ? io_.read(fd_, buf.mem, size, session_.userdata)
                                          : ::read(fd_, buf.mem, size);
    if (n >= static_cast<ssize_t>(sizeof(fuse_in_header))) {
      buf.size = static_cast<std::size_t>(n);
      buf.flags = fuse_buf_flags{};
      return static_cast<int>(n);
    }
    if (n >= 0)
      return -EIO;
    if (errno == ENODEV) {  // unmounted
      session_.exit(0);
      return 0;
    }
    if (errno != ENOENT)  // ENOENT: the request was aborted while it was being read
      return -errno;
  }
}

void ManualTransport::process(const fuse_buf &buf) noexcept {
  std::unique_ptr<void, decltype(&std::free)> piped(nullptr, &std::free);
  const void *message = buf.mem;
  if ((buf.flags & FUSE_BUF_IS_FD) != 0) {
    piped.reset(std::malloc(buf.size));
    fuse_bufvec from = memory_bufvec(nullptr, 0), to = memory_bufvec(piped.get(), buf.size);
    from.buf[0] = buf;
    if (!piped || fuse_buf_copy(&to, &from, fuse_buf_copy_flags{}) != static_cast<ssize_t>(buf.size)) {
      fuse_log(FUSE_LOG_ERR, "efuse: cannot read a request from its pipe\n");
      return;
    }
    message = piped.get();
  }
  fuse_req *req = take();
  if (req == nullptr) {
    fuse_log(FUSE_LOG_ERR, "efuse: no memory for a request\n");
    return;
  }
  req->dequeue_ns = now_ns();
  req->msg = {{static_cast<const std::byte *>(message), buf.size}, {}};
  dispatch(*req);
}

fuse_req *ManualTransport::take() noexcept try {
  std::lock_guard lock(mutex_);
  if (free_.empty()) {
    auto made = std::make_unique<fuse_req>();
    made->session = &session_;
    made->channel = this;
    free_.reserve(requests_.size() + 1);
    requests_.push_back(std::move(made));
    return requests_.back().get();
  }
  fuse_req *req = free_.back();
  free_.pop_back();
  return req;
} catch (const std::bad_alloc &) {
  return nullptr;
}

int ManualTransport::send(std::int32_t error, std::uint64_t unique, std::span<const iovec> body) noexcept {
  std::array<iovec, IOV_MAX> iov;
  if (body.size() >= iov.size())
    return -EINVAL;
  fuse_out_header header{};
  header.len = static_cast<std::uint32_t>(sizeof header + iov_size(body));
  header.error = error;
  header.unique = unique;
  iov[0] = {&header, sizeof header};
  std::copy(body.begin(), body.end(), iov.begin() + 1);
  const int count = static_cast<int>(body.size() + 1);
  const ssize_t n = io_.writev != nullptr ? io_.writev(fd_, iov.data(), count, session_.userdata)
                                          : ::writev(fd_, iov.data(), count);
  return n < 0 ? -errno : 0;
}

bool ManualTransport::interrupt(std::uint64_t unique) noexcept {
  fuse_req *found = nullptr;
  {
    std::lock_guard lock(mutex_);
    for (const auto &req : requests_)
      if (req->unique.load() == unique)
        found = req.get();
  }
  // One that is answered meanwhile, or another request's by now, is left alone.
  if (found != nullptr && found->interrupted_unique.load() != unique)
    mark_interrupted(*found, unique);
  return found != nullptr;
}

bool ManualTransport::serves(std::uint64_t unique) noexcept {
  std::lock_guard lock(mutex_);
  return std::any_of(requests_.begin(), requests_.end(), [=](auto &req) { return req->owed.load() == unique; });
}

int ManualTransport::reply(fuse_req &req, int error, std::span<const iovec> body) noexcept {
  const bool bad = error > 0 || error <= protocol::kErrorLimit || body.size() >= IOV_MAX;
  const std::uint64_t unique = req.unique.load(std::memory_order_relaxed);
  const int result = bad ? send(-EIO, unique, {}) : send(error, unique, error != 0 ? std::span<const iovec>() : body);
  drop(req);
  return bad ? -EINVAL : result;
}

int ManualTransport::reply_in_place(fuse_req &req, std::size_t len) noexcept {
  const iovec body{req.out, len};
  return reply(req, 0, {&body, 1});
}

void ManualTransport::drop(fuse_req &req) noexcept {
  stats_.completed(req.opcode, Way::stock, 0, now_ns() - req.dequeue_ns);
  req.unique.store(0);
  std::lock_guard lock(mutex_);
  free_.push_back(&req);
}

}  // namespace efuse
