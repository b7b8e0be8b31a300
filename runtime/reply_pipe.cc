// SPDX-License-Identifier: LGPL-2.1-or-later
#include "reply_pipe.hh"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace efuse {
namespace {

const std::size_t kPage = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));

}  // namespace

bool ReplyPipe::take(int fd, off_t pos, std::size_t len, bool again) noexcept {
  if (filled_) clear();
  if (pause_ > 0) {
    --pause_;
    return false;
  }
  if (len > most_ * kPage) return false;
  const std::size_t slots = 1 + (static_cast<std::size_t>(pos) % kPage + len + kPage - 1) / kPage;
  if (slots > most_ || !make() || !make_room(slots)) return false;
  if (take_data(fd, pos, len, again)) return true;
  clear();
  pause_ = kPause;
  return false;
}

bool ReplyPipe::make() noexcept {
  if (in_) return true;
  if (!header_page_) {
    try {
      header_page_ = Mapping(kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    } catch (const std::system_error &) {
      pause_ = kPause;
      return false;
    }
    header_ = reinterpret_cast<fuse_out_header *>(header_page_.data());
  }
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    pause_ = kPause;
    return false;
  }
  out_.reset(ends[0]);
  in_.reset(ends[1]);
  const int size = ::fcntl(in_.get(), F_GETPIPE_SZ);
  slots_ = static_cast<std::size_t>(std::max(size, 0)) / kPage;
  return true;
}

/// Refused above /proc/sys/fs/pipe-max-size, or where the user has many large ones. It will be again.
bool ReplyPipe::make_room(std::size_t slots) noexcept {
  if (slots <= slots_) return true;
  const int size = ::fcntl(in_.get(), F_SETPIPE_SZ, static_cast<int>(slots * kPage));
  if (size < 0) {
    most_ = slots - 1;
    return false;
  }
  slots_ = static_cast<std::size_t>(size) / kPage;
  return slots <= slots_;
}

/// Less than all is the end of the file, and not a full pipe: there is a slot for each page. Were it not so, EAGAIN
/// would say it (SPLICE_F_NONBLOCK is about the pipe alone), where a reply cut short would be data lost.
bool ReplyPipe::take_data(int fd, off_t pos, std::size_t len, bool again) noexcept {
  filled_ = true;
  taken_ = 0;
  *header_ = {};
  const iovec header{header_, sizeof *header_};
  if (::vmsplice(in_.get(), &header, 1, SPLICE_F_NONBLOCK) != static_cast<ssize_t>(sizeof *header_)) return false;
  while (taken_ < len) {
    const ssize_t n = ::splice(fd, &pos, in_.get(), nullptr, len - taken_, SPLICE_F_NONBLOCK);
    if (n < 0) return false;
    if (n == 0) break;
    taken_ += static_cast<std::size_t>(n);
    if (!again) break;
  }
  return true;
}

int ReplyPipe::send(int fuse_fd, std::uint64_t unique, bool move) noexcept {
  header_->len = static_cast<std::uint32_t>(sizeof *header_ + taken_);
  header_->unique = unique;
  const ssize_t n = ::splice(out_.get(), nullptr, fuse_fd, nullptr, header_->len, move ? SPLICE_F_MOVE : 0);
  const int error = n < 0 ? errno : 0;
  filled_ = false;
  taken_ = 0;
  // A refused reply is mostly used up, and not always.
  if (n < 0) clear();
  return -error;
}

void ReplyPipe::clear() noexcept {
  in_.reset();
  out_.reset();
  slots_ = 0;
  taken_ = 0;
  filled_ = false;
}

}  // namespace efuse
