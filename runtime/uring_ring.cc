// SPDX-License-Identifier: LGPL-2.1-or-later
#include "uring_ring.hh"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>

namespace efuse {
namespace {

// A round's answers go to the kernel together; more than these take a second call.
constexpr unsigned kSubmissions = 64;
constexpr unsigned kMostCompletions = 4096;

// SUBMIT_ALL: an answer that the kernel refuses does not hold up those behind it.
constexpr unsigned kFlags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                            IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE;

static_assert(offsetof(io_uring_sqe, cmd) + sizeof(protocol::UringCommand) <= 128);

unsigned completions(std::size_t entries) noexcept {
  return static_cast<unsigned>(std::bit_ceil(std::clamp<std::size_t>(entries + 1, 2 * kSubmissions, kMostCompletions)));
}

int make_ring(io_uring &ring, unsigned entries) noexcept {
  io_uring_params params{};
  params.flags = kFlags;
  params.cq_entries = completions(entries);
  return io_uring_queue_init_params(kSubmissions, &ring, &params);
}

}  // namespace

UringRing::UringRing(unsigned entries, int fuse_fd, int wake_fd) : fuse_fd_(fuse_fd), wake_fd_(wake_fd) {
  if (const int error = make_ring(ring_, entries); error != 0)
    throw std::system_error(-error, std::generic_category(), "io_uring");
  // Each spares a look-up, per call and per command; without them all works.
  io_uring_register_ring_fd(&ring_);
  registered_ = io_uring_register_files(&ring_, &fuse_fd_, 1) == 0;
  watch();
}

std::size_t UringRing::bytes(std::size_t entries) noexcept {
  return kSubmissions * (128 + sizeof(std::uint32_t)) + completions(entries) * sizeof(io_uring_cqe);
}

UringRing::~UringRing() { io_uring_queue_exit(&ring_); }

void UringRing::watch() noexcept {
  if (wake_fd_ < 0)
    return;
  io_uring_sqe *sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr)
    return;
  std::memset(static_cast<void *>(sqe), 0, 128);
  // Every write to an eventfd completes this once more; nobody has to read it.
  io_uring_prep_poll_multishot(sqe, wake_fd_, POLLIN);
  watching_ = true;
}

bool UringRing::prepare(std::uint32_t op, std::uint16_t qid, std::uint64_t commit_id, std::span<const iovec> buffers,
                        void *data) noexcept {
  io_uring_sqe *sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr)
    return false;
  std::memset(static_cast<void *>(sqe), 0, 128);
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = registered_ ? 0 : fuse_fd_;
  sqe->flags = registered_ ? IOSQE_FIXED_FILE : 0;
  sqe->cmd_op = op;
  sqe->addr = reinterpret_cast<std::uintptr_t>(buffers.data());
  sqe->len = static_cast<std::uint32_t>(buffers.size());
  sqe->user_data = reinterpret_cast<std::uintptr_t>(data);
  const protocol::UringCommand command{0, commit_id, qid, {}};
  std::memcpy(sqe->cmd, &command, sizeof command);
  return true;
}

int UringRing::enter(bool wait) noexcept {
  if (!watching_)
    watch();
  const int result = wait ? io_uring_submit_and_wait(&ring_, 1) : io_uring_submit_and_get_events(&ring_);
  return std::min(result, 0);
}

int UringRing::failure() const noexcept {
  unsigned head = 0;
  io_uring_cqe *cqe = nullptr;
  io_uring_for_each_cqe(&ring_, head, cqe) {
    if (cqe->user_data != 0 && cqe->res < 0)
      return cqe->res;
  }
  return 0;
}

unsigned UringRing::take(std::span<Completion> out) noexcept {
  unsigned head = 0, seen = 0;
  io_uring_cqe *cqe = nullptr;
  io_uring_for_each_cqe(&ring_, head, cqe) {
    if (seen == out.size())
      break;
    out[seen++] = {reinterpret_cast<void *>(static_cast<std::uintptr_t>(cqe->user_data)), cqe->res};
    if (cqe->user_data == 0 && (cqe->flags & IORING_CQE_F_MORE) == 0)
      watching_ = false;
  }
  io_uring_cq_advance(&ring_, seen);
  return seen;
}

std::string find_io_uring_obstacle() {
  io_uring ring;
  const int error = -make_ring(ring, 1);
  if (error == 0) {
    io_uring_queue_exit(&ring);
    return {};
  }
  int disabled = 0;
  std::ifstream("/proc/sys/kernel/io_uring_disabled") >> disabled;
  if (error == EPERM && disabled != 0)
    return fmt::format("io_uring is not allowed here (kernel.io_uring_disabled={})", disabled);
  if (error == EPERM || error == ENOSYS || error == EACCES)
    return fmt::format("io_uring is not allowed here ({})", std::strerror(error));
  if (error == EINVAL)
    return "this kernel's io_uring is too old (Linux 6.1 is needed)";
  return fmt::format("io_uring: {}", std::strerror(error));
}

}  // namespace efuse
