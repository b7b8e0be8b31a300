// SPDX-License-Identifier: LGPL-2.1-or-later
// fuse_bufvec: data in memory or behind descriptors.
#include "fuse_api.hh"
#include "reply.hh"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

namespace efuse {
namespace {

/// Where a copy stands within one buffer.
struct Place {
  const fuse_buf &buf;
  std::size_t off;

  [[nodiscard]] bool is_fd() const noexcept { return buf.flags & FUSE_BUF_IS_FD; }
  [[nodiscard]] bool seeks() const noexcept { return buf.flags & FUSE_BUF_FD_SEEK; }
  [[nodiscard]] bool retries() const noexcept { return buf.flags & FUSE_BUF_FD_RETRY; }
  [[nodiscard]] char *memory() const noexcept { return static_cast<char *>(buf.mem) + off; }
  [[nodiscard]] off_t position() const noexcept { return buf.pos + static_cast<off_t>(off); }
};

ssize_t read_some(const Place &from, char *to, std::size_t size) noexcept {
  return from.seeks() ? pread(from.buf.fd, to, size, from.position()) : read(from.buf.fd, to, size);
}

ssize_t write_some(const Place &to, const char *from, std::size_t size) noexcept {
  return to.seeks() ? pwrite(to.buf.fd, from, size, to.position()) : write(to.buf.fd, from, size);
}

/// `once(done)` moves some bytes of those behind `done`, as read(2) does. Goes on
/// while `again`; an error counts only if nothing was moved before.
template <class Once>
ssize_t repeat(std::size_t size, bool again, Once once) noexcept {
  std::size_t done = 0;
  while (done < size) {
    const ssize_t moved = once(done);
    if (moved < 0 && done == 0) return -errno;
    if (moved <= 0) break;
    done += static_cast<std::size_t>(moved);
    if (!again) break;
  }
  return static_cast<ssize_t>(done);
}

ssize_t read_into(const Place &to, const Place &from, std::size_t size) noexcept {
  return repeat(size, from.retries(), [&](std::size_t done) {
    return read_some({from.buf, from.off + done}, to.memory() + done, size - done);
  });
}

ssize_t write_from(const Place &to, const Place &from, std::size_t size) noexcept {
  return repeat(size, to.retries(), [&](std::size_t done) {
    return write_some({to.buf, to.off + done}, from.memory() + done, size - done);
  });
}

ssize_t copy_through_memory(const Place &to, const Place &from, std::size_t size) noexcept {
  alignas(64) char chunk[32768];
  std::size_t done = 0;
  while (done < size) {
    const std::size_t want = std::min(size - done, sizeof(chunk));
    const fuse_buf memory = memory_bufvec(chunk, want).buf[0];
    const ssize_t got = read_into({memory, 0}, {from.buf, from.off + done}, want);
    if (got < 0 && done == 0) return got;
    if (got <= 0) break;
    const ssize_t put = write_from({to.buf, to.off + done}, {memory, 0}, static_cast<std::size_t>(got));
    if (put < 0 && done == 0) return put;
    if (put <= 0) break;
    done += static_cast<std::size_t>(put);
    if (static_cast<std::size_t>(put) < want) break;
  }
  return static_cast<ssize_t>(done);
}

ssize_t copy_with_splice(const Place &to, const Place &from, std::size_t size, unsigned flags) noexcept {
  unsigned how = 0;
  if (flags & FUSE_BUF_SPLICE_MOVE) how |= SPLICE_F_MOVE;
  if (flags & FUSE_BUF_SPLICE_NONBLOCK) how |= SPLICE_F_NONBLOCK;
  loff_t from_pos = from.position();
  loff_t to_pos = to.position();
  const ssize_t done = repeat(size, from.retries() || to.retries(), [&](std::size_t so_far) {
    return splice(from.buf.fd, from.seeks() ? &from_pos : nullptr, to.buf.fd, to.seeks() ? &to_pos : nullptr,
                  size - so_far, how);
  });
  // Neither end is a pipe, or one cannot splice.
  if (done == -EINVAL && !(flags & FUSE_BUF_FORCE_SPLICE)) return copy_through_memory(to, from, size);
  return done;
}

ssize_t copy_one(const Place &to, const Place &from, std::size_t size, unsigned flags) noexcept {
  if (size == 0) return 0;
  if (to.is_fd() && from.is_fd())
    return flags & FUSE_BUF_NO_SPLICE ? copy_through_memory(to, from, size)
                                      : copy_with_splice(to, from, size, flags);
  if (to.is_fd()) return write_from(to, from, size);
  if (from.is_fd()) return read_into(to, from, size);
  std::memmove(to.memory(), from.memory(), size);
  return static_cast<ssize_t>(size);
}

/// False: the vector is at its end.
bool advance(fuse_bufvec &bufv, std::size_t size) noexcept {
  bufv.off += size;
  if (bufv.off < bufv.buf[bufv.idx].size) return true;
  if (++bufv.idx == bufv.count) return false;
  bufv.off = 0;
  return true;
}

}  // namespace

std::size_t bufvec_left(const fuse_bufvec &bufv) noexcept {
  std::size_t left = 0;
  for (std::size_t i = bufv.idx; i < bufv.count; ++i) {
    std::size_t size = bufv.buf[i].size;
    if (i == bufv.idx) size -= std::min(size, bufv.off);
    if (__builtin_add_overflow(left, size, &left)) return SIZE_MAX;
  }
  return left;
}

}  // namespace efuse

extern "C" {

size_t fuse_buf_size(const struct fuse_bufvec *bufv) {
  std::size_t total = 0;
  for (std::size_t i = 0; i < bufv->count; ++i)
    if (__builtin_add_overflow(total, bufv->buf[i].size, &total)) return SIZE_MAX;
  return total;
}

ssize_t fuse_buf_copy(struct fuse_bufvec *dst, struct fuse_bufvec *src, enum fuse_buf_copy_flags flags) {
  if (dst == src) return static_cast<ssize_t>(fuse_buf_size(dst));
  std::size_t copied = 0;
  while (dst->idx < dst->count && src->idx < src->count) {
    const efuse::Place to{dst->buf[dst->idx], dst->off};
    const efuse::Place from{src->buf[src->idx], src->off};
    const std::size_t size = std::min(to.buf.size - to.off, from.buf.size - from.off);
    const ssize_t moved = efuse::copy_one(to, from, size, flags);
    if (moved < 0 && copied == 0) return moved;
    if (moved < 0) break;
    copied += static_cast<std::size_t>(moved);
    const bool more_from = efuse::advance(*src, static_cast<std::size_t>(moved));
    const bool more_to = efuse::advance(*dst, static_cast<std::size_t>(moved));
    if (!more_from || !more_to || static_cast<std::size_t>(moved) < size) break;
  }
  return static_cast<ssize_t>(copied);
}

}  // extern "C"
