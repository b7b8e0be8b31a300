// SPDX-License-Identifier: LGPL-2.1-or-later
#include "fastpath_control.hh"

#include "stats.hh"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace efuse {

static_assert(sizeof(LookupCredit) == sizeof(efuse_credit));
static_assert(offsetof(LookupCredit, nlookup) == offsetof(efuse_credit, nlookup));

FastpathControl::FastpathControl(int efuse_fd)
    : fd_(checked_fd(::fcntl(efuse_fd, F_DUPFD_CLOEXEC, 0), "dup /dev/efuse")) {}

/// The number stays taken, by something that knows none of the calls.
void FastpathControl::retire() noexcept {
  const Fd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (nothing)
    ::dup3(nothing.get(), fd_.get(), O_CLOEXEC);
}

// An error means that nothing is attached any more, so there is nobody to tell.
void FastpathControl::tell(efuse_change &change) const noexcept {
  change.size = sizeof change;
  while (::ioctl(fd_.get(), EFUSE_IOC_CHANGE, &change) != 0 && errno == EINTR) {
  }
}

bool FastpathControl::begin_change() noexcept {
  if (!counting_.load(std::memory_order_acquire))
    return false;
  efuse_change change{};
  change.phase = EFUSE_CHANGE_BEGIN;
  change.what = EFUSE_CHANGED_ALL;
  tell(change);
  return true;
}

void FastpathControl::end_change() noexcept {
  efuse_change change{};
  change.phase = EFUSE_CHANGE_END;
  change.what = EFUSE_CHANGED_ALL;
  tell(change);
}

void FastpathControl::changed(std::uint64_t node) noexcept {
  efuse_change change{};
  change.phase = EFUSE_CHANGE_NOW;
  change.what = EFUSE_CHANGED_NODE;
  change.nodeid = node;
  tell(change);
}

void FastpathControl::changed_name(std::uint64_t parent, std::string_view name) noexcept {
  constexpr std::size_t kLongest = 255;
  if (name.empty() || name.size() > kLongest)
    return;  // no program knows such a name
  efuse_change change{};
  change.phase = EFUSE_CHANGE_NOW;
  change.what = EFUSE_CHANGED_NAME;
  change.name_len = static_cast<std::uint32_t>(name.size());
  change.nodeid = parent;
  change.name = reinterpret_cast<std::uintptr_t>(name.data());
  tell(change);
}

void FastpathControl::changed_all() noexcept {
  efuse_change change{};
  change.phase = EFUSE_CHANGE_NOW;
  change.what = EFUSE_CHANGED_ALL;
  tell(change);
}

int FastpathControl::set_backing(std::uint64_t node, int fd) const noexcept {
  efuse_backing backing{};
  backing.size = sizeof backing;
  backing.fd = fd;
  backing.nodeid = node;
  return ::ioctl(fd_.get(), EFUSE_IOC_BACKING, &backing) != 0 ? -errno : 0;
}

int FastpathControl::add_backing(std::uint64_t node, int fd) noexcept {
  return wants_backing() ? set_backing(node, fd) : -EOPNOTSUPP;
}

void FastpathControl::remove_backing(std::uint64_t node) noexcept { set_backing(node, -1); }

int FastpathControl::take_credits(std::span<LookupCredit> room) const noexcept {
  efuse_credits credits{};
  credits.size = sizeof credits;
  credits.nr = static_cast<std::uint32_t>(room.size());
  credits.credits = reinterpret_cast<std::uintptr_t>(room.data());
  for (;;) {
    const int n = ::ioctl(fd_.get(), EFUSE_IOC_CREDITS, &credits);
    if (n >= 0 || errno != EINTR)
      return n >= 0 ? n : -errno;
  }
}

bool FastpathControl::stats(std::uint32_t program, efuse_fastpath_stats &stats) const noexcept {
  stats = {};
  stats.size = sizeof stats;
  stats.program = program;
  return ::ioctl(fd_.get(), EFUSE_IOC_FASTPATH_STATS, &stats) == 0;
}

std::string FastpathControl::stats_json() const {
  auto programs = nlohmann::ordered_json::array();
  for (std::uint32_t i = 0; i < EFUSE_MAX_PROGRAMS; ++i) {
    efuse_fastpath_stats s;
    if (!stats(i, s))
      continue;
    auto ops = nlohmann::ordered_json::object();
    for (std::uint32_t opcode = 0; opcode < EFUSE_FASTPATH_OPCODES; ++opcode) {
      const efuse_fastpath_count &c = s.count[opcode];
      if (c.hits || c.misses || c.declines || c.errors)
        ops[opcode_name(opcode)] = {
            {"hits", c.hits}, {"misses", c.misses}, {"declines", c.declines}, {"errors", c.errors}};
    }
    programs.push_back({{"program", std::string(s.name, ::strnlen(s.name, sizeof s.name))}, {"opcodes", std::move(ops)}});
  }
  return programs.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace efuse
