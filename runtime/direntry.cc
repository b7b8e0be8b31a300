// SPDX-License-Identifier: LGPL-2.1-or-later
// Directory entries as READDIR and READDIRPLUS carry them.
#include "fuse_api.hh"
#include "convert.hh"

#include <sys/stat.h>

#include <cstddef>
#include <cstring>

namespace efuse {
namespace {

/// Writes the entry and its padding to the next multiple of 8; `at` needs no alignment.
void put_dirent(char *at, const char *name, std::size_t name_length, const struct stat &attr, off_t off,
                std::size_t padded) noexcept {
  fuse_dirent entry{};
  entry.ino = attr.st_ino;
  entry.off = static_cast<std::uint64_t>(off);
  entry.namelen = static_cast<std::uint32_t>(name_length);
  entry.type = (attr.st_mode & S_IFMT) >> 12;  // S_IFx >> 12 is DT_x
  std::memcpy(at, &entry, FUSE_NAME_OFFSET);
  std::memcpy(at + FUSE_NAME_OFFSET, name, name_length);
  std::memset(at + FUSE_NAME_OFFSET + name_length, 0, padded - FUSE_NAME_OFFSET - name_length);
}

}  // namespace
}  // namespace efuse

extern "C" {

size_t fuse_add_direntry(fuse_req_t /*req*/, char *buf, size_t bufsize, const char *name,
                         const struct stat *stbuf, off_t off) {
  const std::size_t length = std::strlen(name);
  const std::size_t padded = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + length);
  if (buf && padded <= bufsize) efuse::put_dirent(buf, name, length, *stbuf, off, padded);
  return padded;
}

size_t fuse_add_direntry_plus(fuse_req_t /*req*/, char *buf, size_t bufsize, const char *name,
                              const struct fuse_entry_param *e, off_t off) {
  constexpr std::size_t kEntry = offsetof(fuse_direntplus, dirent);
  const std::size_t length = std::strlen(name);
  const std::size_t padded = FUSE_DIRENT_ALIGN(kEntry + FUSE_NAME_OFFSET + length);
  if (!buf || padded > bufsize) return padded;
  fuse_entry_out entry{};
  efuse::fill_entry(entry, *e);
  std::memcpy(buf, &entry, sizeof(entry));
  efuse::put_dirent(buf + kEntry, name, length, e->attr, off, padded - kEntry);
  return padded;
}

}  // extern "C"
