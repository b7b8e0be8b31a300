// SPDX-License-Identifier: LGPL-2.1-or-later
#include "negotiation.hh"

#include "session_core.hh"

#include <algorithm>
#include <array>
#include <cstring>

namespace efuse::exec {
namespace {

std::uint64_t flags_of(std::uint32_t low, std::uint32_t high) noexcept {
  return low | ((low & FUSE_INIT_EXT) != 0 ? std::uint64_t{high} << 32 : 0);
}

}  // namespace

void Negotiation::receive(std::span<const std::byte> message) noexcept {
  fuse_in_header header;
  if (message.size() < sizeof header)
    return;
  std::memcpy(&header, message.data(), sizeof header);
  if (header.opcode != FUSE_INIT)
    return;
  unique_ = header.unique;
  asked_ = {};
  const auto arguments = message.subspan(sizeof header);
  std::memcpy(&asked_, arguments.data(), std::min(arguments.size(), sizeof asked_));
}

ssize_t Negotiation::send(int fd, std::span<const iovec> message) noexcept {
  fuse_out_header header;
  if (unique_ == 0 || message.size() != 2 || message[0].iov_len != sizeof header)
    return ::writev(fd, message.data(), static_cast<int>(message.size()));
  std::memcpy(&header, message[0].iov_base, sizeof header);
  if (header.unique != unique_ || header.error != 0)
    return ::writev(fd, message.data(), static_cast<int>(message.size()));
  return send_reply(fd, message);
}

ssize_t Negotiation::send_reply(int fd, std::span<const iovec> message) noexcept {
  const std::size_t size = message[1].iov_len;
  agreed_ = {};
  std::memcpy(&agreed_, message[1].iov_base, std::min(size, sizeof agreed_));
  if (agreed_.major != protocol::kMajor)  // the kernel comes down to it and asks again
    return ::writev(fd, message.data(), static_cast<int>(message.size()));
  const std::uint64_t added = add_flags & flags_of(asked_.flags, asked_.flags2);
  if (size == sizeof agreed_ && added != 0) {
    agreed_.flags |= static_cast<std::uint32_t>(added) | (asked_.flags & FUSE_INIT_EXT);
    agreed_.flags2 |= static_cast<std::uint32_t>(added >> 32);
  }
  const std::array<iovec, 2> reply{message[0], iovec{&agreed_, std::min(size, sizeof agreed_)}};
  const ssize_t written = ::writev(fd, size <= sizeof agreed_ ? reply.data() : message.data(), 2);
  done_ = written >= 0;
  unique_ = 0;
  return written;
}

void Negotiation::tell(SessionCore &session) const noexcept {
  session.kernel_flags = flags_of(asked_.flags, asked_.flags2);
  session.init_flags = flags_of(agreed_.flags, agreed_.flags2);
  session.proto_minor = std::min(asked_.minor, agreed_.minor);
  fuse_conn_info &conn = session.conn;
  conn.proto_major = asked_.major;
  conn.proto_minor = asked_.minor;
  conn.max_write = std::max(agreed_.max_write, static_cast<std::uint32_t>(protocol::kMinWrite));
  conn.max_readahead = agreed_.max_readahead;
  conn.max_background = agreed_.max_background;
  conn.congestion_threshold = agreed_.congestion_threshold;
  conn.time_gran = agreed_.time_gran;
  session.buf_size = std::max<std::size_t>(conn.max_write, protocol::kMaxXattr) + protocol::kHeaderRoom;
}

}  // namespace efuse::exec
