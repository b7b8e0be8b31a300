// SPDX-License-Identifier: LGPL-2.1-or-later
#include "fakefs.hh"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace hostile {
namespace {

constexpr std::uint64_t kFirstDir = 2, kDirs = 8, kFirstFile = 16, kFiles = 48, kFirstLink = 64, kLinks = 8;
constexpr std::uint64_t kFirstMade = 1000, kMade = 256;
constexpr std::uint32_t kOpTmpfile = 51, kOpStatx = 52;     // newer than some <linux/fuse.h>

bool is_dir(std::uint64_t id) noexcept { return id == FUSE_ROOT_ID || (id >= kFirstDir && id < kFirstDir + kDirs); }
bool is_link(std::uint64_t id) noexcept { return id >= kFirstLink && id < kFirstLink + kLinks; }

/// 0: no such name. Directories are in the root alone: a loop is what the VFS would report.
std::uint64_t id_of(Rng &rng, std::uint64_t parent, const char *name) noexcept {
  unsigned n = 0;
  char kind = 0, end = 0;
  if (std::sscanf(name, "%c%u%c", &kind, &n, &end) == 2) {
    if (kind == 'd' && parent == FUSE_ROOT_ID)
      return kFirstDir + n % kDirs;
    if (kind == 'f')
      return kFirstFile + n % kFiles;
    if (kind == 's')
      return kFirstLink + n % kLinks;
    if (kind == 'n' && rng.one_in(2))
      return kFirstMade + n % kMade;
  }
  return 0;
}

fuse_attr attr_of(Rng &rng, std::uint64_t id) noexcept {
  fuse_attr a{};
  a.ino = id;
  a.size = is_dir(id) ? 4096 : is_link(id) ? 2 : 1 << 20;
  a.blocks = a.size / 512;
  a.mode = is_dir(id) ? S_IFDIR | 0777u : is_link(id) ? S_IFLNK | 0777u : S_IFREG | 0666u;
  a.nlink = 1;
  a.blksize = 4096;
  a.mtime = rng.one_in(16) ? rng.below(1u << 30) : 1000;
  if (rng.one_in(64))
    a.size = rng.next() >> (1 + rng.below(63));    // never like a kernel address
  return a;
}

template <typename T>
Answer give(std::span<char> out, const T &value) noexcept {
  if (out.size() < sizeof value)
    return {-EIO, 0};
  std::memcpy(out.data(), &value, sizeof value);
  return {0, sizeof value};
}

fuse_entry_out entry(Rng &rng, std::uint64_t id) noexcept {
  fuse_entry_out e{};
  e.nodeid = id;
  e.generation = rng.one_in(200) ? rng.next() >> 1 : 1;
  e.entry_valid = rng.below(3);
  e.attr_valid = rng.below(3);
  e.attr = attr_of(rng, id);
  return e;
}

/// CREATE and TMPFILE.
Answer give_created(Rng &rng, std::uint64_t id, std::span<char> out) noexcept {
  struct {
    fuse_entry_out e;
    fuse_open_out o;
  } both{entry(rng, id), {}};
  both.o.fh = id;
  both.o.open_flags = rng.one_in(3) ? FOPEN_DIRECT_IO : rng.one_in(2) ? FOPEN_KEEP_CACHE : 0;
  return give(out, both);
}

std::size_t put_dirent(Rng &rng, std::uint64_t id, const char *name, std::uint64_t off, bool plus,
                       std::span<char> out) noexcept {
  const std::size_t len = std::strlen(name), head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
  const std::size_t size = FUSE_DIRENT_ALIGN(head + len);
  if (size > out.size())
    return 0;
  std::memset(out.data(), 0, size);
  char *at = out.data();
  if (plus) {
    const fuse_entry_out e = entry(rng, id);
    std::memcpy(at, &e, sizeof e);
    at += sizeof e;
  }
  fuse_dirent d{};
  d.ino = id;
  d.off = off;
  d.namelen = static_cast<std::uint32_t>(len);
  d.type = is_dir(id) ? 4 : is_link(id) ? 10 : 8;
  std::memcpy(at, &d, FUSE_NAME_OFFSET);
  std::memcpy(at + FUSE_NAME_OFFSET, name, len);
  return size;
}

Answer give_dir(Rng &rng, std::uint64_t dir, const fuse_read_in &in, bool plus, std::span<char> out) noexcept {
  std::size_t used = 0;
  out = out.first(std::min<std::size_t>(out.size(), in.size));
  for (std::uint64_t i = in.offset; i < kFirstLink + kLinks; ++i) {
    const std::uint64_t id = std::max(i, kFirstDir);
    if ((id >= kFirstDir + kDirs && id < kFirstFile) || (is_dir(id) && dir != FUSE_ROOT_ID))
      continue;
    char name[32];
    const std::uint64_t first = is_dir(id) ? kFirstDir : is_link(id) ? kFirstLink : kFirstFile;
    std::snprintf(name, sizeof name, "%c%u", is_dir(id) ? 'd' : is_link(id) ? 's' : 'f',
                  static_cast<unsigned>(id - first));
    const std::size_t n = put_dirent(rng, id, name, std::max(i, kFirstDir) + 1, plus, out.subspan(used));
    if (!n)
      break;
    used += n;
    i = id;
  }
  return {0, used};
}

template <typename T>
T arg(std::span<const char> args) noexcept {
  T value{};
  std::memcpy(&value, args.data(), std::min(sizeof value, args.size()));
  return value;
}

Answer give_xattr(Rng &rng, std::uint32_t size, std::span<char> out) noexcept {
  const std::uint32_t len = rng.below(4) ? 32 : 600;
  if (size == 0)
    return give(out, fuse_getxattr_out{len, 0});
  if (size < len || out.size() < len)
    return {-ERANGE, 0};
  std::memset(out.data(), 'x', len);
  for (std::uint32_t i = 15; i < len; i += 16)
    out[i] = '\0';
  return {0, len};
}

Answer give_names(Rng &rng, const fuse_in_header &head, std::span<const char> args, std::span<char> out) noexcept {
  char name[256] = "";
  std::size_t skip = 0;
  switch (head.opcode) {
    case FUSE_MKNOD: skip = sizeof(fuse_mknod_in); break;
    case FUSE_MKDIR: skip = sizeof(fuse_mkdir_in); break;
    case FUSE_CREATE: skip = sizeof(fuse_create_in); break;
    case FUSE_LINK: skip = sizeof(fuse_link_in); break;
    default: break;
  }
  if (args.size() > skip) {
    const auto rest = args.subspan(skip);
    std::memcpy(name, rest.data(), std::min(rest.size(), sizeof name - 1));
  }
  std::uint64_t id = id_of(rng, head.nodeid, name);
  if (head.opcode == FUSE_LOOKUP)
    return id ? give(out, entry(rng, id)) : rng.one_in(2) ? Answer{-ENOENT, 0} : give(out, entry(rng, 0));
  if (head.opcode == FUSE_MKDIR)
    return is_dir(id) ? give(out, entry(rng, id)) : Answer{-EACCES, 0};
  if (head.opcode == FUSE_SYMLINK)
    id = kFirstLink + rng.below(kLinks);
  else if (!id || is_dir(id) || is_link(id))
    id = kFirstMade + rng.below(kMade);
  return head.opcode == FUSE_CREATE ? give_created(rng, id, out) : give(out, entry(rng, id));
}

Answer give_attr(Rng &rng, std::uint64_t id, std::span<char> out) noexcept {
  fuse_attr_out a{};
  a.attr_valid = rng.below(3);
  a.attr = attr_of(rng, id);
  return give(out, a);
}

Answer give_open(Rng &rng, std::uint64_t id, std::span<char> out) noexcept {
  fuse_open_out o{};
  o.fh = id;
  o.open_flags = rng.one_in(3) ? FOPEN_DIRECT_IO : rng.one_in(2) ? FOPEN_KEEP_CACHE : 0;
  return give(out, o);
}

Answer give_read(Rng &rng, const fuse_in_header &head, std::uint32_t size, std::span<char> out) noexcept {
  const std::size_t len = rng.one_in(32) ? rng.below(size + 1) : size;
  if (len > out.size())
    return {-EIO, 0};
  std::memset(out.data(), static_cast<char>('A' + head.nodeid % 26), len);
  return {0, len};
}

Answer give_statfs(std::span<char> out) noexcept {
  fuse_statfs_out s{};
  s.st.blocks = s.st.bfree = s.st.bavail = s.st.files = s.st.ffree = 1 << 20;
  s.st.bsize = s.st.frsize = 4096;
  s.st.namelen = 255;
  return give(out, s);
}

}  // namespace

bool wants_answer(std::uint32_t opcode) noexcept {
  return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT &&
         opcode != FUSE_NOTIFY_REPLY;
}

Answer answer(Rng &rng, const fuse_in_header &head, std::span<const char> args, std::span<char> out) noexcept {
  if (rng.one_in(100))
    return {-static_cast<int>(1 + rng.below(133)), 0};
  switch (head.opcode) {
    case FUSE_LOOKUP:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK:
    case FUSE_CREATE: return give_names(rng, head, args, out);
    case kOpTmpfile: return give_created(rng, kFirstMade + rng.below(kMade), out);
    case FUSE_GETATTR:
    case FUSE_SETATTR: return give_attr(rng, head.nodeid, out);
    case FUSE_READLINK:
      std::memcpy(out.data(), "f1", 2);
      return {0, 2};
    case FUSE_OPEN:
    case FUSE_OPENDIR: return give_open(rng, head.nodeid, out);
    case FUSE_READ: return give_read(rng, head, arg<fuse_read_in>(args).size, out);
    case FUSE_WRITE: return give(out, fuse_write_out{arg<fuse_write_in>(args).size, 0});
    case FUSE_COPY_FILE_RANGE:
      return give(out, fuse_write_out{static_cast<std::uint32_t>(arg<fuse_copy_file_range_in>(args).len), 0});
    case FUSE_READDIR: return give_dir(rng, head.nodeid, arg<fuse_read_in>(args), false, out);
    case FUSE_READDIRPLUS: return give_dir(rng, head.nodeid, arg<fuse_read_in>(args), true, out);
    case FUSE_STATFS: return give_statfs(out);
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR: return give_xattr(rng, arg<fuse_getxattr_in>(args).size, out);
    case FUSE_GETLK: return give(out, fuse_lk_out{{0, 0, F_UNLCK, 0}});
    case FUSE_LSEEK: return give(out, fuse_lseek_out{arg<fuse_lseek_in>(args).offset});
    case FUSE_BMAP: return give(out, fuse_bmap_out{0});
    case FUSE_POLL: return give(out, fuse_poll_out{1, 0});
    case FUSE_IOCTL: return give(out, fuse_ioctl_out{0, 0, 0, 0});
    case kOpStatx: return {-ENOSYS, 0};
    default: return {0, 0};
  }
}

Answer answer_init(const fuse_in_header &, std::span<const char> args, std::uint64_t want, std::uint32_t max_write,
                   std::span<char> out) noexcept {
  const auto in = arg<fuse_init_in>(args);
  const std::uint64_t offered = in.flags | static_cast<std::uint64_t>(in.flags & FUSE_INIT_EXT ? in.flags2 : 0) << 32;
  const std::uint64_t flags = (want | FUSE_INIT_EXT | FUSE_BIG_WRITES | FUSE_MAX_PAGES) & offered;
  fuse_init_out o{};
  o.major = FUSE_KERNEL_VERSION;
  o.minor = 41;
  o.max_readahead = in.max_readahead;
  o.flags = static_cast<std::uint32_t>(flags);
  o.flags2 = static_cast<std::uint32_t>(flags >> 32);
  o.max_background = 16;
  o.congestion_threshold = 12;
  o.max_write = max_write;
  o.time_gran = 1;
  o.max_pages = static_cast<std::uint16_t>(std::max(1u, max_write / 4096));
  return give(out, o);
}

}  // namespace hostile
