// SPDX-License-Identifier: LGPL-2.1-or-later
// fuse_reply_*(): from the filesystem's answer to the channel. A body that fits
// is written straight to where the kernel reads it (req.out).
#include "reply.hh"

#include "changes.hh"
#include "convert.hh"
#include "protocol.hh"
#include "session_core.hh"

#include <efuse/efuse_lowlevel.h>

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace efuse {
namespace {

/// A request that has no reply gets none, whatever the filesystem says.
bool unanswerable(fuse_req &req) noexcept {
  if (protocol::expects_reply(req.opcode)) [[likely]]
    return false;
  fuse_log(FUSE_LOG_ERR, "efuse: reply to %s, which has none\n", protocol::opcode_name(req.opcode));
  send_nothing(req);
  return true;
}

void debug_reply(const fuse_req &req, int error, std::size_t size) noexcept {
  if (!req.session->debug) [[likely]]
    return;
  const auto unique = static_cast<unsigned long long>(req.unique.load(std::memory_order_relaxed));
  if (error)
    fuse_log(FUSE_LOG_DEBUG, "   unique: %llu, error: %d (%s)\n", unique, error, strerrordesc_np(-error));
  else
    fuse_log(FUSE_LOG_DEBUG, "   unique: %llu, success, outsize: %zu\n", unique,
             sizeof(fuse_out_header) + size);
}

void gather(std::byte *to, std::span<const iovec> from) noexcept {
  for (const iovec &part : from) {
    if (part.iov_len && part.iov_base != to) std::memmove(to, part.iov_base, part.iov_len);
    to += part.iov_len;
  }
}

/// Some part of `iov` lies in req.out, where gathering in place could overwrite it before it is moved.
bool overlaps(const fuse_req &req, std::span<const iovec> iov) noexcept {
  const auto from = reinterpret_cast<std::uintptr_t>(req.out);
  return std::any_of(iov.begin(), iov.end(), [&](const iovec &part) {
    const auto at = reinterpret_cast<std::uintptr_t>(part.iov_base);
    return part.iov_len && at < from + req.out_cap && from < at + part.iov_len;
  });
}

using Memory = std::unique_ptr<void, decltype(&std::free)>;

/// By way of memory of our own.
int send_gathered(fuse_req &req, std::span<const iovec> body, std::size_t size) noexcept {
  const Memory memory(std::malloc(size), &std::free);
  if (!memory) return send_error(req, -ENOMEM);
  gather(static_cast<std::byte *>(memory.get()), body);
  const iovec whole{memory.get(), size};
  return send_body(req, {&whole, 1});
}

}  // namespace

std::size_t iov_size(std::span<const iovec> iov) noexcept {
  std::size_t size = 0;
  for (const iovec &part : iov) size += part.iov_len;
  return size;
}

namespace {

/// From here on the request is ours to finish. False: somebody has, or is about to. One line
/// says so; a filesystem that does it does it often.
bool claim(fuse_req &req, std::uint64_t &unique) noexcept {
  unique = req.owed.load(std::memory_order_relaxed);
  if (unique != fuse_req::kNoUnique) unique = req.owed.exchange(0);
  if (unique != 0) [[likely]]
    return true;
  if (!req.session->second_reply.exchange(true))
    fuse_log(FUSE_LOG_ERR, "efuse: the filesystem has replied twice to a request (%s); second replies are ignored\n",
             protocol::opcode_name(req.opcode));
  return false;
}

/// The change, if the request was one, is done and its requester does not know yet. Whoever began to listen meanwhile
/// has not been told of the beginning, and hears of the change as a whole.
void end_change(fuse_req &req) noexcept {
  ChangeListener *began = req.changing.load(std::memory_order_relaxed);
  if (began) [[unlikely]] {
    began = req.changing.exchange(nullptr, std::memory_order_relaxed);
    if (began) began->end_change();
  }
  ChangeListener *listener = req.session->changes.load(std::memory_order_acquire);
  if (listener && listener != began && !req.harmless && may_change(req.opcode) && req.channel->unseen()) [[unlikely]]
    listener->changed_all();
}

/// After claim(). `in_place`: `body` is the start of req.out.
int deliver_claimed(fuse_req &req, std::uint64_t unique, int error, std::span<const iovec> body,
                    bool in_place) noexcept {
  before_reply(req);
  end_change(req);
  debug_reply(req, error, iov_size(body));
  Resends &resends = req.session->resends;  // req is gone after the reply
  const bool resent = resends.active() && resends.answer(unique, error, body);
  const int result =
      in_place ? req.channel->reply_in_place(req, body[0].iov_len) : req.channel->reply(req, error, body);
  if (resent) [[unlikely]]
    resends.done(unique);
  return result;
}

/// The one way out of here, but for send_held().
int deliver(fuse_req &req, int error, std::span<const iovec> body, bool in_place) noexcept {
  std::uint64_t unique = 0;
  if (!claim(req, unique)) return -ENOENT;
  return deliver_claimed(req, unique, error, body, in_place);
}

}  // namespace

int send_error(fuse_req &req, int error) noexcept {
  if (unanswerable(req)) return -ENOENT;
  if (error > 0 || error <= protocol::kErrorLimit) {
    fuse_log(FUSE_LOG_ERR, "efuse: bad error value: %d\n", error);
    error = -ERANGE;
  }
  return deliver(req, error, {}, false);
}

int send_in_place(fuse_req &req, std::size_t len) noexcept {
  if (unanswerable(req)) return -ENOENT;
  const iovec body{req.out, len};
  return deliver(req, 0, {&body, 1}, true);
}

int send_body(fuse_req &req, std::span<const iovec> body) noexcept {
  if (unanswerable(req)) return -ENOENT;
  const std::size_t size = iov_size(body);
  if (body.size() > 1 && overlaps(req, body)) return send_gathered(req, body, size);
  if (size <= req.out_cap && size > 0 && is_owed(req)) {
    gather(req.out, body);
    return send_in_place(req, size);
  }
  return deliver(req, 0, body, false);
}

void send_nothing(fuse_req &req) noexcept {
  std::uint64_t unique = 0;
  if (!claim(req, unique)) return;
  before_reply(req);
  end_change(req);
  req.channel->drop(req);
}

namespace {

int send_bytes(fuse_req &req, const void *data, std::size_t size) noexcept {
  const iovec iov{const_cast<void *>(data), size};
  return send_body(req, {&iov, size ? 1u : 0u});
}

/// Copy what is left of `from` to `to`; returns the bytes or -errno.
ssize_t copy_to_memory(void *to, std::size_t size, fuse_bufvec &from, fuse_buf_copy_flags flags) noexcept {
  fuse_bufvec memory = memory_bufvec(to, size);
  return fuse_buf_copy(&memory, &from, flags);
}

/// What is left of `bufv` as iovecs, if all of it is memory and fits in `out`; 0: it does not.
std::size_t as_iovecs(const fuse_bufvec &bufv, std::span<iovec> out) noexcept {
  std::size_t used = 0;
  for (std::size_t i = bufv.idx; i < bufv.count; ++i) {
    const std::size_t off = i == bufv.idx ? bufv.off : 0;
    if (bufv.buf[i].flags & FUSE_BUF_IS_FD || used == out.size() || off > bufv.buf[i].size) return 0;
    out[used++] = {static_cast<char *>(bufv.buf[i].mem) + off, bufv.buf[i].size - off};
  }
  return used;
}

/// `send(error, data, size)` replies with what is left of `bufv`, in memory, or with the error.
template <class Send>
int send_from_memory(fuse_bufvec &bufv, std::size_t size, fuse_buf_copy_flags flags, Send send) noexcept {
  void *memory = nullptr;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  if (posix_memalign(&memory, page, size) != 0) return send(-ENOMEM, nullptr, 0);
  const Memory owner(memory, &std::free);
  const ssize_t got = copy_to_memory(memory, size, bufv, flags);
  return got < 0 ? send(static_cast<int>(got), nullptr, 0) : send(0, memory, static_cast<std::size_t>(got));
}

/// From here up two copies cost more than a pipe and its system calls.
constexpr std::size_t kSpliceMin = 16u << 10;

/// Hold what is left of `bufv` for send_held(): a large piece of a file, where the filesystem wants such to be spliced.
bool hold(fuse_req &req, const fuse_bufvec &bufv, std::size_t size, fuse_buf_copy_flags flags) noexcept {
  if (size < kSpliceMin || req.opcode != FUSE_READ || !(req.session->conn.want & FUSE_CAP_SPLICE_WRITE) ||
      flags & FUSE_BUF_NO_SPLICE || bufv.idx + 1 != bufv.count || !is_owed(req))
    return false;
  const fuse_buf &file = bufv.buf[bufv.idx];
  constexpr int kWhere = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
  const off_t pos = file.pos + static_cast<off_t>(bufv.off);
  return (file.flags & kWhere) == kWhere && pos >= 0 &&
         req.channel->hold(file.fd, pos, size, file.flags & FUSE_BUF_FD_RETRY);
}

int send_held(fuse_req &req, fuse_bufvec &bufv, std::size_t size, fuse_buf_copy_flags flags) noexcept {
  std::uint64_t unique = 0;
  if (!claim(req, unique)) return -ENOENT;
  if (req.session->resends.active()) [[unlikely]]  // a copy of the request may wait for the same data
    return send_from_memory(bufv, size, flags, [&](int error, void *data, std::size_t got) {
      const iovec body{data, got};
      return deliver_claimed(req, unique, error, {&body, got ? 1u : 0u}, false);
    });
  before_reply(req);
  end_change(req);
  debug_reply(req, 0, size);
  return req.channel->reply_held(req, flags & FUSE_BUF_SPLICE_MOVE && req.session->conn.want & FUSE_CAP_SPLICE_MOVE);
}

void fill_open(const fuse_req &req, protocol::OpenOut &out, const fuse_file_info &in) noexcept {
  out.fh = in.fh;
  if (req.backing_id > 0) out.backing_id = req.backing_id;
  if (in.direct_io) out.open_flags |= FOPEN_DIRECT_IO;
  if (in.keep_cache) out.open_flags |= FOPEN_KEEP_CACHE;
  if (in.cache_readdir) out.open_flags |= FOPEN_CACHE_DIR;
  if (in.nonseekable) out.open_flags |= FOPEN_NONSEEKABLE;
  if (in.noflush) out.open_flags |= FOPEN_NOFLUSH;
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 15)
  if (in.parallel_direct_writes) out.open_flags |= FOPEN_PARALLEL_DIRECT_WRITES;
#endif
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
  if (in.backing_id > 0) out.backing_id = in.backing_id;
#endif
  if (out.backing_id > 0) out.open_flags |= protocol::kFopenPassthrough;
}

struct CreateOut {
  fuse_entry_out entry;
  protocol::OpenOut open;
};
static_assert(sizeof(CreateOut) == sizeof(fuse_entry_out) + sizeof(fuse_open_out));

/// iovecs of `first` and then `rest`, on the heap where they are many; nullptr: no memory.
class Joined {
 public:
  Joined(iovec first, std::span<const iovec> rest) noexcept : size_(rest.size() + 1) {
    if (size_ > here_.size()) heap_.reset(std::malloc(size_ * sizeof(iovec)));
    if (iovec *to = data()) {
      to[0] = first;
      std::copy(rest.begin(), rest.end(), to + 1);
    }
  }
  [[nodiscard]] iovec *data() noexcept {
    return size_ > here_.size() ? static_cast<iovec *>(heap_.get()) : here_.data();
  }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  std::size_t size_;
  std::array<iovec, 8> here_;
  Memory heap_{nullptr, &std::free};
};

void put_ioctl_iovecs(fuse_ioctl_iovec *to, const iovec *from, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i)
    to[i] = {reinterpret_cast<std::uintptr_t>(from[i].iov_base), from[i].iov_len};
}

}  // namespace
}  // namespace efuse

extern "C" {

int fuse_reply_err(fuse_req_t req, int err) { return efuse::send_error(*req, err == INT_MIN ? err : -err); }

void fuse_reply_none(fuse_req_t req) {
  if (!efuse::protocol::expects_reply(req->opcode)) {
    efuse::send_nothing(*req);
    return;
  }
  fuse_log(FUSE_LOG_ERR, "efuse: no reply to %s, which waits for one\n",
           efuse::protocol::opcode_name(req->opcode));
  efuse::send_error(*req, -EIO);
}

int fuse_reply_entry(fuse_req_t req, const struct fuse_entry_param *e) {
  efuse::Body<fuse_entry_out> body(*req);
  efuse::fill_entry(*body, *e);
  return body.send();
}

int fuse_reply_create(fuse_req_t req, const struct fuse_entry_param *e, const struct fuse_file_info *fi) {
  efuse::Body<efuse::CreateOut> body(*req);
  efuse::fill_entry(body->entry, *e);
  efuse::fill_open(*req, body->open, *fi);
  return body.send();
}

int fuse_reply_attr(fuse_req_t req, const struct stat *attr, double attr_timeout) {
  efuse::Body<fuse_attr_out> body(*req);
  efuse::fill_timeout(attr_timeout, body->attr_valid, body->attr_valid_nsec);
  efuse::fill_attr(body->attr, *attr);
  return body.send();
}

int fuse_reply_readlink(fuse_req_t req, const char *link) {
  return efuse::send_bytes(*req, link, std::strlen(link));
}

int fuse_reply_open(fuse_req_t req, const struct fuse_file_info *fi) {
  efuse::Body<efuse::protocol::OpenOut> body(*req);
  efuse::fill_open(*req, *body, *fi);
  return body.send();
}

int fuse_reply_write(fuse_req_t req, size_t count) {
  efuse::Body<fuse_write_out> body(*req);
  body->size = static_cast<std::uint32_t>(count);
  return body.send();
}

int fuse_reply_buf(fuse_req_t req, const char *buf, size_t size) {
  return efuse::send_bytes(*req, buf, size);
}

int fuse_reply_data(fuse_req_t req, struct fuse_bufvec *bufv, enum fuse_buf_copy_flags flags) {
  const std::size_t size = efuse::bufvec_left(*bufv);
  if (size == 0) return efuse::send_error(*req, 0);
  std::array<iovec, 16> iov;
  if (const std::size_t count = efuse::as_iovecs(*bufv, iov))
    return efuse::send_body(*req, {iov.data(), count});
  if (size <= req->out_cap && efuse::is_owed(*req)) {
    const ssize_t got = efuse::copy_to_memory(req->out, size, *bufv, flags);
    return got < 0 ? efuse::send_error(*req, static_cast<int>(got))
                   : efuse::send_in_place(*req, static_cast<std::size_t>(got));
  }
  if (efuse::hold(*req, *bufv, size, flags)) return efuse::send_held(*req, *bufv, size, flags);
  return efuse::send_from_memory(*bufv, size, flags, [req](int error, void *data, std::size_t got) {
    return error ? efuse::send_error(*req, error) : efuse::send_bytes(*req, data, got);
  });
}

int fuse_reply_iov(fuse_req_t req, const struct iovec *iov, int count) {
  return efuse::send_body(*req, {iov, static_cast<std::size_t>(std::max(count, 0))});
}

int fuse_reply_statfs(fuse_req_t req, const struct statvfs *stbuf) {
  efuse::Body<fuse_statfs_out> body(*req);
  fuse_kstatfs &st = body->st;
  st.blocks = stbuf->f_blocks;
  st.bfree = stbuf->f_bfree;
  st.bavail = stbuf->f_bavail;
  st.files = stbuf->f_files;
  st.ffree = stbuf->f_ffree;
  st.bsize = static_cast<std::uint32_t>(stbuf->f_bsize);
  st.namelen = static_cast<std::uint32_t>(stbuf->f_namemax);
  st.frsize = static_cast<std::uint32_t>(stbuf->f_frsize);
  return body.send();
}

int fuse_reply_xattr(fuse_req_t req, size_t count) {
  efuse::Body<fuse_getxattr_out> body(*req);
  body->size = static_cast<std::uint32_t>(count);
  return body.send();
}

int fuse_reply_lock(fuse_req_t req, const struct flock *lock) {
  efuse::Body<fuse_lk_out> body(*req);
  efuse::fill_lock(body->lk, *lock);
  return body.send();
}

int fuse_reply_bmap(fuse_req_t req, uint64_t idx) {
  efuse::Body<fuse_bmap_out> body(*req);
  body->block = idx;
  return body.send();
}

int fuse_reply_ioctl_retry(fuse_req_t req, const struct iovec *in_iov, size_t in_count,
                           const struct iovec *out_iov, size_t out_count) {
  std::array<fuse_ioctl_iovec, FUSE_IOCTL_MAX_IOV> parts;
  if (in_count > parts.size() || out_count > parts.size() - in_count) return efuse::send_error(*req, -EINVAL);
  efuse::put_ioctl_iovecs(parts.data(), in_iov, in_count);
  efuse::put_ioctl_iovecs(parts.data() + in_count, out_iov, out_count);
  fuse_ioctl_out out{};
  out.flags = FUSE_IOCTL_RETRY;
  out.in_iovs = static_cast<std::uint32_t>(in_count);
  out.out_iovs = static_cast<std::uint32_t>(out_count);
  const iovec body[] = {{&out, sizeof(out)}, {parts.data(), (in_count + out_count) * sizeof(parts[0])}};
  return efuse::send_body(*req, body);
}

int fuse_reply_ioctl(fuse_req_t req, int result, const void *buf, size_t size) {
  const iovec iov{const_cast<void *>(buf), size};
  return fuse_reply_ioctl_iov(req, result, &iov, size ? 1 : 0);
}

int fuse_reply_ioctl_iov(fuse_req_t req, int result, const struct iovec *iov, int count) {
  fuse_ioctl_out out{};
  out.result = result;
  efuse::Joined body({&out, sizeof(out)}, {iov, static_cast<std::size_t>(std::max(count, 0))});
  if (!body.data()) return efuse::send_error(*req, -ENOMEM);
  return efuse::send_body(*req, {body.data(), body.size()});
}

int fuse_reply_poll(fuse_req_t req, unsigned revents) {
  efuse::Body<fuse_poll_out> body(*req);
  body->revents = revents;
  return body.send();
}

int fuse_reply_lseek(fuse_req_t req, off_t off) {
  efuse::Body<fuse_lseek_out> body(*req);
  body->offset = static_cast<std::uint64_t>(off);
  return body.send();
}

int fuse_reply_statx(fuse_req_t req, int flags, struct statx *statx, double attr_timeout) {
  static_assert(sizeof(efuse::protocol::Statx) == sizeof(struct statx));
  efuse::Body<efuse::protocol::StatxOut> body(*req);
  body->flags = static_cast<std::uint32_t>(flags);
  efuse::fill_timeout(attr_timeout, body->attr_valid, body->attr_valid_nsec);
  std::memcpy(&body->stat, statx, sizeof(body->stat));
  return body.send();
}

void *efuse_req_reply_area(fuse_req_t req, size_t *cap) {
  *cap = req->out_cap;
  return req->out_cap ? req->out : nullptr;
}

int fuse_req_get_payload(fuse_req_t req, char **payload, size_t *payload_sz, void **mr) {
  if (!req->out_cap) return -EINVAL;
  *payload = reinterpret_cast<char *>(req->out);
  *payload_sz = req->out_cap;
  if (mr) *mr = nullptr;
  return 0;
}

bool fuse_req_is_uring(fuse_req_t req) { return req->channel->over_uring(); }

int efuse_reply_in_place(fuse_req_t req, size_t len) {
  if (len > req->out_cap) {
    efuse::send_error(*req, -EIO);
    return -EINVAL;
  }
  if (len == 0) return efuse::send_error(*req, 0);
  return efuse::send_in_place(*req, len);
}

}  // extern "C"
