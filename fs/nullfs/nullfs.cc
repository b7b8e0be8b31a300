// SPDX-License-Identifier: LGPL-2.1-or-later
// nullfs: the filesystem that costs nothing, so that what is measured is the way
// to it. Reads give zeros, writes vanish, attributes are never cached, names that
// are created stay until they are removed. Files f0, f1, ... are always there.
#include "../dir_index.hh"
#include "../file_info.hh"
#include "../options.hh"
#include "../registry.hh"
#include "../rwlock.hh"

#include <sched.h>
#include <sys/statvfs.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <unordered_map>
#include <vector>

namespace efuse::fs {
namespace {

constexpr std::size_t kZeroBytes = 1 << 20;
alignas(4096) const char zeros[kZeroBytes] = {};

// A node id tells all there is to know of the node: the file type in the top
// byte, a number below. GETATTR needs no memory but its request.
constexpr unsigned kTypeShift = 56;
constexpr std::uint64_t kNumberMask = (std::uint64_t{1} << kTypeShift) - 1;
constexpr std::uint64_t kFirstNumber = 2;

std::uint64_t make_id(mode_t type, std::uint64_t number) noexcept {
  return (std::uint64_t{(type & S_IFMT) >> 12} << kTypeShift) | number;
}
mode_t type_of(fuse_ino_t id) noexcept {
  return id == FUSE_ROOT_ID ? S_IFDIR : static_cast<mode_t>(id >> kTypeShift) << 12;
}

struct Directory {
  RwLock lock;
  DirIndex names;     // to node ids; protected by lock
  bool dead = false;  // protected by lock
};

struct Settings {
  std::uint64_t files = 1024;
  std::uint64_t file_size = std::uint64_t{1} << 30;
  double attr_timeout = 0;
  double entry_timeout = 0;
  timespec delay{};    // before READ and WRITE are answered
  std::optional<std::uint64_t> delay_cpu;  // only by threads on this CPU: one slow worker
};

Settings parse(std::vector<std::string> &options) {
  OptionReader reader("nullfs", options);
  Settings s;
  s.files = reader.count("files").value_or(s.files);
  if (s.files > kNumberMask / 2) throw std::invalid_argument("nullfs: option files: expected less than 2^55");
  s.file_size = reader.bytes("file_size", s.file_size).value_or(s.file_size);
  if (s.file_size > INT64_MAX)
    throw std::invalid_argument("nullfs: option file_size: expected less than 8 EiB");
  s.attr_timeout = reader.seconds("attr_timeout").value_or(s.attr_timeout);
  s.entry_timeout = reader.seconds("entry_timeout").value_or(s.entry_timeout);
  if (const auto delay = reader.seconds("delay")) {
    if (*delay > 1e9) throw std::invalid_argument("nullfs: option delay: expected less than 1e9 seconds");
    s.delay.tv_sec = static_cast<time_t>(*delay);
    s.delay.tv_nsec = static_cast<long>((*delay - static_cast<double>(s.delay.tv_sec)) * 1e9);
  }
  s.delay_cpu = reader.count("delay_cpu");
  return s;
}

/// Directories by node id; the root is always there.
class Directories {
 public:
  /// nullptr if it has been removed or is none.
  [[nodiscard]] std::shared_ptr<Directory> find(fuse_ino_t id) {
    if (id == FUSE_ROOT_ID) return root_;
    Shard &shard = shard_of(id);
    const std::shared_lock lock(shard.lock);
    const auto found = shard.map.find(id);
    return found == shard.map.end() ? nullptr : found->second;
  }
  void add(fuse_ino_t id) {
    auto dir = std::make_shared<Directory>();
    Shard &shard = shard_of(id);
    const std::scoped_lock lock(shard.lock);
    shard.map.emplace(id, std::move(dir));
  }
  void remove(fuse_ino_t id) noexcept {
    Shard &shard = shard_of(id);
    const std::scoped_lock lock(shard.lock);
    shard.map.erase(id);
  }

 private:
  struct alignas(64) Shard {
    RwLock lock;
    std::unordered_map<fuse_ino_t, std::shared_ptr<Directory>> map;
  };
  Shard &shard_of(fuse_ino_t id) noexcept { return shards_[id % shards_.size()]; }

  const std::shared_ptr<Directory> root_ = std::make_shared<Directory>();
  std::array<Shard, 32> shards_;
};

class Nullfs : public Filesystem {
 public:
  explicit Nullfs(const Settings &s) : settings(s), next_number_(kFirstNumber + s.files) {
    clock_gettime(CLOCK_REALTIME, &started_);
  }

  [[nodiscard]] const fuse_lowlevel_ops &ops() const noexcept override;
  [[nodiscard]] void *userdata() noexcept override { return this; }
  [[nodiscard]] bool starts_nothing() const noexcept override { return true; }
  /// Nothing changes but by requests. No blocks: what is read is no data.
  [[nodiscard]] FastpathOffer fastpath() const override {
    FastpathOffer offer;
    offer.metadata = offer.stateless_directories = true;
    offer.valid = std::numeric_limits<double>::infinity();
    offer.access_times = AccessTimes::never;
    return offer;
  }

  void fill(fuse_ino_t id, struct stat &st) const noexcept {
    const mode_t type = type_of(id);
    st = {};
    st.st_ino = id;
    st.st_mode = type | (S_ISDIR(type) ? 0777 : 0666);
    st.st_nlink = S_ISDIR(type) ? 2 : 1;
    st.st_size = S_ISREG(type) ? static_cast<off_t>(settings.file_size) : 0;
    st.st_blksize = 4096;
    st.st_atim = st.st_mtim = st.st_ctim = started_;
  }

  [[nodiscard]] fuse_entry_param entry(fuse_ino_t id) const noexcept {
    fuse_entry_param e{};
    e.ino = id;
    fill(id, e.attr);
    e.attr_timeout = settings.attr_timeout;
    e.entry_timeout = settings.entry_timeout;
    return e;
  }

  /// The node id of a name that is always there, or 0.
  [[nodiscard]] fuse_ino_t standing(fuse_ino_t parent, std::string_view name) const noexcept {
    if (parent != FUSE_ROOT_ID || name.size() < 2 || name[0] != 'f') return 0;
    if (name[1] == '0' && name.size() > 2) return 0;
    std::uint64_t n = 0;
    const char *last = name.data() + name.size();
    const auto [end, error] = std::from_chars(name.data() + 1, last, n);
    if (error != std::errc() || end != last || n >= settings.files) return 0;
    return make_id(S_IFREG, kFirstNumber + n);
  }

  /// 0 and the id, or -errno.
  int find(fuse_ino_t parent, std::string_view name, fuse_ino_t &id) noexcept {
    id = standing(parent, name);
    if (id != 0) return 0;
    const auto dir = directories_.find(parent);
    if (!dir) return -ENOENT;
    const std::shared_lock lock(dir->lock);
    const DirIndex::Entry *found = dir->names.find(name);
    if (found == nullptr) return -ENOENT;
    id = found->value;
    return 0;
  }

  int make(fuse_ino_t parent, std::string_view name, mode_t mode, fuse_ino_t &id) noexcept try {
    if (name.size() > DirIndex::kMaxName) return -ENAMETOOLONG;
    if (standing(parent, name) != 0) return -EEXIST;
    const auto dir = directories_.find(parent);
    if (!dir) return -ENOENT;
    const std::scoped_lock lock(dir->lock);
    if (dir->dead) return -ENOENT;
    if (dir->names.find(name) != nullptr) return -EEXIST;
    if ((mode & S_IFMT) == 0) mode |= S_IFREG;
    id = make_id(mode, next_number_.fetch_add(1, std::memory_order_relaxed));
    DirIndex::Entry *entry = dir->names.insert(name, id);
    if (!S_ISDIR(mode)) return 0;
    try {
      directories_.add(id);
    } catch (const std::bad_alloc &) {
      dir->names.erase(entry);
      throw;
    }
    return 0;
  } catch (const std::bad_alloc &) {
    return -ENOMEM;
  }

  int remove(fuse_ino_t parent, std::string_view name, bool directory) noexcept {
    if (standing(parent, name) != 0) return directory ? -ENOTDIR : -EPERM;
    const auto dir = directories_.find(parent);
    if (!dir) return -ENOENT;
    const std::scoped_lock lock(dir->lock);
    DirIndex::Entry *found = dir->names.find(name);
    if (found == nullptr) return -ENOENT;
    if (S_ISDIR(type_of(found->value)) != directory) return directory ? -ENOTDIR : -EISDIR;
    if (directory && !bury(found->value)) return -ENOTEMPTY;
    dir->names.erase(found);
    return 0;
  }

  /// Call emit(name, id, offset) for what is behind `offset` until it returns
  /// false. Offsets: 1 ".", 2 "..", then the standing files, then what was made.
  template <typename Emit>
  int list(fuse_ino_t id, std::uint64_t offset, Emit &&emit) {
    const auto dir = directories_.find(id);
    if (!dir) return -ENOENT;
    if (offset < 1 && !emit(".", id, 1)) return 0;
    if (offset < 2 && !emit("..", FUSE_ROOT_ID, 2)) return 0;
    const std::uint64_t standing_files = id == FUSE_ROOT_ID ? settings.files : 0;
    std::string name;
    for (std::uint64_t n = offset > 2 ? offset - 2 : 0; n < standing_files; ++n) {
      name.assign("f").append(std::to_string(n));
      if (!emit(name.c_str(), make_id(S_IFREG, kFirstNumber + n), n + 3)) return 0;
    }
    const std::shared_lock lock(dir->lock);
    const std::uint64_t after = offset > standing_files + 2 ? offset - standing_files : 2;
    dir->names.scan(after, [&](const DirIndex::Entry &e) {
      name.assign(e.name());
      return emit(name.c_str(), e.value, e.cookie + standing_files);
    });
    return 0;
  }

  const Settings settings;

 private:
  /// Remove a directory that is empty. Its parent is locked; nothing ever moves, so
  /// parents before children is an order.
  bool bury(fuse_ino_t id) noexcept {
    const auto dir = directories_.find(id);
    if (!dir) return true;
    const std::scoped_lock lock(dir->lock);
    if (dir->names.size() != 0) return false;
    dir->dead = true;
    directories_.remove(id);
    return true;
  }

  Directories directories_;
  std::atomic<std::uint64_t> next_number_;
  timespec started_{};
};

Nullfs &nullfs_of(fuse_req_t req) noexcept { return *static_cast<Nullfs *>(fuse_req_userdata(req)); }

void reply_node(fuse_req_t req, const Nullfs &fs, int status, fuse_ino_t id) noexcept {
  if (status != 0) {
    fuse_reply_err(req, -status);
    return;
  }
  const fuse_entry_param e = fs.entry(id);
  fuse_reply_entry(req, &e);
}

void lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
  Nullfs &fs = nullfs_of(req);
  fuse_ino_t id = 0;
  const int status = fs.find(parent, name, id);
  reply_node(req, fs, status, id);
}

void forget(fuse_req_t req, fuse_ino_t, std::uint64_t) { fuse_reply_none(req); }
void forget_multi(fuse_req_t req, std::size_t, fuse_forget_data *) { fuse_reply_none(req); }

void getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info *) {
  const Nullfs &fs = nullfs_of(req);
  struct stat st;
  fs.fill(ino, st);
  fuse_reply_attr(req, &st, fs.settings.attr_timeout);
}

void setattr(fuse_req_t req, fuse_ino_t ino, struct stat *, int, fuse_file_info *fi) {
  getattr(req, ino, fi);
}

void mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t) {
  Nullfs &fs = nullfs_of(req);
  fuse_ino_t id = 0;
  const int status = fs.make(parent, name, mode, id);
  reply_node(req, fs, status, id);
}

void mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode) {
  mknod(req, parent, name, S_IFDIR | (mode & 07777), 0);
}

void unlink(fuse_req_t req, fuse_ino_t parent, const char *name) {
  fuse_reply_err(req, -nullfs_of(req).remove(parent, name, false));
}

void rmdir(fuse_req_t req, fuse_ino_t parent, const char *name) {
  fuse_reply_err(req, -nullfs_of(req).remove(parent, name, true));
}

void open(fuse_req_t req, fuse_ino_t, fuse_file_info *fi) {
  fi->direct_io = 1;
  allow_parallel_writes(*fi);
  fuse_reply_open(req, fi);
}

void create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, fuse_file_info *fi) {
  Nullfs &fs = nullfs_of(req);
  fuse_ino_t id = 0;
  const int status = fs.make(parent, name, S_IFREG | (mode & 07777), id);
  if (status != 0) {
    fuse_reply_err(req, -status);
    return;
  }
  fi->direct_io = 1;
  allow_parallel_writes(*fi);
  const fuse_entry_param e = fs.entry(id);
  fuse_reply_create(req, &e, fi);
}

void delay(const Settings &s) noexcept {
  if ((s.delay.tv_sec != 0 || s.delay.tv_nsec != 0) &&
      (!s.delay_cpu || *s.delay_cpu == static_cast<std::uint64_t>(sched_getcpu())))
    clock_nanosleep(CLOCK_MONOTONIC, 0, &s.delay, nullptr);
}

void read(fuse_req_t req, fuse_ino_t, std::size_t size, off_t, fuse_file_info *) {
  delay(nullfs_of(req).settings);
  std::array<iovec, 256> pieces;
  std::size_t count = 0;
  for (; size > 0 && count < pieces.size(); ++count) {
    const std::size_t n = std::min(size, kZeroBytes);
    pieces[count] = {const_cast<char *>(zeros), n};
    size -= n;
  }
  fuse_reply_iov(req, pieces.data(), static_cast<int>(count));
}

void write(fuse_req_t req, fuse_ino_t, const char *, std::size_t size, off_t, fuse_file_info *) {
  delay(nullfs_of(req).settings);
  fuse_reply_write(req, size);
}

void succeed(fuse_req_t req, fuse_ino_t, fuse_file_info *) { fuse_reply_err(req, 0); }
void succeed_sync(fuse_req_t req, fuse_ino_t, int, fuse_file_info *) { fuse_reply_err(req, 0); }
void opendir(fuse_req_t req, fuse_ino_t, fuse_file_info *fi) { fuse_reply_open(req, fi); }

void readdir(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset, fuse_file_info *) {
  Nullfs &fs = nullfs_of(req);
  try {
    std::vector<char> buffer(size);
    std::size_t used = 0;
    const auto emit = [&](const char *name, fuse_ino_t id, std::uint64_t next) {
      struct stat st;
      fs.fill(id, st);
      const std::size_t n =
          fuse_add_direntry(req, buffer.data() + used, size - used, name, &st, static_cast<off_t>(next));
      if (n > size - used) return false;
      used += n;
      return true;
    };
    const int status = fs.list(ino, static_cast<std::uint64_t>(offset), emit);
    status == 0 ? fuse_reply_buf(req, buffer.data(), used) : fuse_reply_err(req, -status);
  } catch (const std::bad_alloc &) {
    fuse_reply_err(req, ENOMEM);
  }
}

void statfs(fuse_req_t req, fuse_ino_t) {
  struct statvfs st {};
  st.f_bsize = st.f_frsize = 4096;
  st.f_blocks = st.f_bfree = st.f_bavail = std::uint64_t{1} << 40;
  st.f_files = st.f_ffree = st.f_favail = kNumberMask;
  st.f_namemax = DirIndex::kMaxName;
  fuse_reply_statfs(req, &st);
}

fuse_lowlevel_ops make_ops() {
  fuse_lowlevel_ops ops{};
  ops.lookup = lookup;
  ops.forget = forget;
  ops.forget_multi = forget_multi;
  ops.getattr = getattr;
  ops.setattr = setattr;
  ops.mknod = mknod;
  ops.mkdir = mkdir;
  ops.unlink = unlink;
  ops.rmdir = rmdir;
  ops.open = open;
  ops.create = create;
  ops.read = read;
  ops.write = write;
  ops.flush = succeed;
  ops.release = succeed;
  ops.fsync = succeed_sync;
  ops.opendir = opendir;
  ops.readdir = readdir;
  ops.releasedir = succeed;
  ops.fsyncdir = succeed_sync;
  ops.statfs = statfs;
  return ops;
}

const fuse_lowlevel_ops &Nullfs::ops() const noexcept {
  static const fuse_lowlevel_ops ops = make_ops();
  return ops;
}

}  // namespace

std::unique_ptr<Filesystem> make_nullfs(std::vector<std::string> &options) {
  return std::make_unique<Nullfs>(parse(options));
}

}  // namespace efuse::fs
