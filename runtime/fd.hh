// SPDX-License-Identifier: LGPL-2.1-or-later
// Owners of descriptors and mappings: move-only, released in the destructor.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <system_error>
#include <utility>

namespace efuse {

/// A file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd &operator=(Fd &&other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { reset(); }

  [[nodiscard]] int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
  void reset(int fd = -1) noexcept {
    if (fd_ >= 0)
      ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

/// `fd` as an owner; throws std::system_error with `what` where it is negative (errno says why).
inline Fd checked_fd(int fd, const char *what) {
  if (fd < 0)
    throw std::system_error(errno, std::generic_category(), what);
  return Fd(fd);
}

/// A range of mapped memory.
class Mapping {
 public:
  Mapping() = default;
  /// As mmap(); throws std::system_error.
  Mapping(std::size_t len, int prot, int flags, int fd, off_t offset) : len_(len) {
    void *p = ::mmap(nullptr, len, prot, flags, fd, offset);
    if (p == MAP_FAILED)
      throw std::system_error(errno, std::generic_category(), "mmap");
    addr_ = static_cast<std::byte *>(p);
  }
  /// Private, zeroed, page-aligned memory. Throws std::system_error.
  static Mapping anonymous(std::size_t len) {
    return Mapping(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  /// As anonymous(), for memory of which most is never touched: not counted before it is.
  static Mapping reserved(std::size_t len) {
    return Mapping(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  Mapping(Mapping &&other) noexcept
      : addr_(std::exchange(other.addr_, nullptr)), len_(std::exchange(other.len_, 0)) {}
  Mapping &operator=(Mapping &&other) noexcept {
    if (this != &other) {
      reset();
      addr_ = std::exchange(other.addr_, nullptr);
      len_ = std::exchange(other.len_, 0);
    }
    return *this;
  }
  ~Mapping() { reset(); }

  [[nodiscard]] std::byte *data() const noexcept { return addr_; }
  [[nodiscard]] std::size_t size() const noexcept { return len_; }
  explicit operator bool() const noexcept { return addr_ != nullptr; }
  void reset() noexcept {
    if (addr_ != nullptr)
      ::munmap(addr_, len_);
    addr_ = nullptr;
    len_ = 0;
  }

 private:
  std::byte *addr_ = nullptr;
  std::size_t len_ = 0;
};

}  // namespace efuse
