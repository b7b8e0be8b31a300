// SPDX-License-Identifier: LGPL-2.1-or-later
// Reading the arguments of a message, every length checked.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

namespace efuse {

/// Goes through a message's arguments in order. They lie one behind the other,
/// the last one possibly in a memory of its own (Message::tail); none straddles
/// the two. What comes back points into the message and lives as long.
class Cursor {
 public:
  Cursor(std::span<const std::byte> args, std::span<const std::byte> tail) noexcept
      : now_(args), tail_(tail) {}

  /// Copy out a structure of the protocol; false: the message is too short.
  template <class T>
  [[nodiscard]] bool take(T &out) noexcept {
    return copy(&out, sizeof(T));
  }

  [[nodiscard]] bool copy(void *out, std::size_t size) noexcept {
    const std::byte *from = bytes(size);
    if (!from) return false;
    std::memcpy(out, from, size);
    return true;
  }

  /// The next `size` bytes; nullptr: there are fewer. Never nullptr for 0 bytes.
  [[nodiscard]] const std::byte *bytes(std::size_t size) noexcept {
    static constexpr std::byte none{};
    if (size == 0) return now_.empty() ? &none : now_.data();
    next();
    if (now_.size() < size) return nullptr;
    const std::byte *at = now_.data();
    now_ = now_.subspan(size);
    return at;
  }

  /// The next NUL-terminated string; nullptr: there is none, or no NUL.
  [[nodiscard]] const char *string() noexcept {
    next();
    if (now_.empty()) return nullptr;
    const void *nul = std::memchr(now_.data(), 0, now_.size());
    if (!nul) return nullptr;
    const auto length = static_cast<std::size_t>(static_cast<const std::byte *>(nul) - now_.data());
    return reinterpret_cast<const char *>(bytes(length + 1));
  }

 private:
  void next() noexcept {
    if (!now_.empty()) return;
    now_ = tail_;
    tail_ = {};
  }

  std::span<const std::byte> now_;
  std::span<const std::byte> tail_;
};

}  // namespace efuse
