// SPDX-License-Identifier: LGPL-2.1-or-later
// The data of regular files.
//
// Who may do what, with an inode's content lock and the stripes of its ranges:
//   read             content shared,    stripes shared
//   overwrite pages  content shared,    stripes exclusive
//   all else         content exclusive (allocates, extends, cuts)
// So reads, and writes to different parts of a file that is there already, run
// side by side; a read never sees half of a write.
//
// Between the end of a file and the end of its last page there are zeros.
#include "store.hh"

#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <vector>

namespace efuse::fs::memfs {
namespace {

constexpr std::int64_t kMaxSize = INT64_MAX;
constexpr std::size_t kZeroBytes = 64 * 1024;
alignas(kPageSize) const char zeros[kZeroBytes] = {};

std::uint64_t page_at(std::int64_t offset) noexcept {
  return static_cast<std::uint64_t>(offset) >> kPageShift;
}
/// The first page that starts at or behind `offset`.
std::uint64_t page_behind(std::int64_t offset) noexcept {
  return (static_cast<std::uint64_t>(offset) + kPageSize - 1) >> kPageShift;
}
std::size_t in_page(std::int64_t offset) noexcept {
  return static_cast<std::size_t>(offset) & (kPageSize - 1);
}
std::int64_t offset_of(std::uint64_t page) noexcept { return static_cast<std::int64_t>(page << kPageShift); }

/// Pieces of a read. Neighbours in memory become one.
class Pieces {
 public:
  explicit Pieces(std::vector<iovec> &iov) noexcept : iov_(iov) { iov_.clear(); }
  void add_data(char *data, std::size_t length) {
    if (!iov_.empty() && static_cast<char *>(iov_.back().iov_base) + iov_.back().iov_len == data)
      iov_.back().iov_len += length;
    else
      iov_.push_back({data, length});
  }
  void add_zeros(std::size_t length) {
    if (!iov_.empty() && iov_.back().iov_base == zeros && iov_.back().iov_len + length <= kZeroBytes)
      iov_.back().iov_len += length;
    else
      iov_.push_back({const_cast<char *>(zeros), length});
  }

 private:
  std::vector<iovec> &iov_;
};

int file_error(const Inode *node) noexcept {
  if (node == nullptr) return -ESTALE;
  if (node->is_file()) return 0;
  return node->is_dir() ? -EISDIR : -EINVAL;
}

}  // namespace

/// The stripes of one range of a file. Different ranges may share stripes, so
/// they are taken once each, in ascending order.
class Store::StripeLock {
 public:
  [[nodiscard]] static bool fits(std::size_t length) noexcept { return length <= (kMost - 1) << kShift; }

  StripeLock(Store &store, const Inode &node, std::int64_t offset, std::size_t length,
             bool exclusive) noexcept
      : stripes_(*store.stripes_), exclusive_(exclusive) {
    const auto first = static_cast<std::uint64_t>(offset) >> kShift;
    const auto last = (static_cast<std::uint64_t>(offset) + length - 1) >> kShift;
    for (std::uint64_t part = first; part <= last; ++part)
      index_[count_++] =
          static_cast<std::uint16_t>((node.ino * 0x9e3779b97f4a7c15u + part) % stripes_.size());
    std::sort(index_.begin(), index_.begin() + count_);
    count_ = static_cast<std::size_t>(std::unique(index_.begin(), index_.begin() + count_) - index_.begin());
    for (std::size_t i = 0; i < count_; ++i) {
      RwLock &lock = stripes_[index_[i]].lock;
      exclusive_ ? lock.lock() : lock.lock_shared();
    }
  }
  ~StripeLock() {
    for (std::size_t i = 0; i < count_; ++i) {
      RwLock &lock = stripes_[index_[i]].lock;
      exclusive_ ? lock.unlock() : lock.unlock_shared();
    }
  }
  StripeLock(const StripeLock &) = delete;
  StripeLock &operator=(const StripeLock &) = delete;

 private:
  static constexpr unsigned kShift = 18;  // 256 KiB
  static constexpr std::size_t kMost = 33;
  std::array<Stripe, 512> &stripes_;
  std::array<std::uint16_t, kMost> index_;
  std::size_t count_ = 0;
  bool exclusive_;
};

/// Pages for a write, in runs.
class Store::PageSource {
 public:
  explicit PageSource(PagePool &pool) noexcept : pool_(pool) {}
  ~PageSource() {
    for (; used_ < run_.count; ++used_) pool_.free(run_.pages + used_ * kPageSize);
  }
  PageSource(const PageSource &) = delete;
  PageSource &operator=(const PageSource &) = delete;
  /// nullptr: no memory. `wanted`: how many will be asked for from now on, at most.
  [[nodiscard]] char *take(std::size_t wanted) noexcept {
    if (used_ == run_.count) {
      run_ = pool_.allocate(wanted);
      used_ = 0;
    }
    return run_.pages == nullptr ? nullptr : run_.pages + used_++ * kPageSize;
  }

 private:
  PagePool &pool_;
  PagePool::Run run_;
  std::size_t used_ = 0;
};

void Store::drop_privileges(Inode &node) noexcept {
  node.mode &= ~static_cast<mode_t>(S_ISUID);
  if ((node.mode & S_IXGRP) != 0) node.mode &= ~static_cast<mode_t>(S_ISGID);
}

/// Data has changed: the new size, and how many pages came (or went).
void Store::modified(Inode &node, std::int64_t size, std::int64_t pages, const Cred &cred) noexcept {
  const std::scoped_lock meta(node.meta);
  // Several may overwrite at once, with content shared; then size is only read.
  if (node.size != size) node.size = size;
  node.pages += static_cast<std::uint64_t>(pages);
  node.mtime = node.ctime = now();
  if (cred.uid != 0) drop_privileges(node);
}

int Store::read(std::uint64_t ino, std::int64_t offset, std::size_t length,
                FunctionRef<int(std::span<const iovec>)> use, bool touch) noexcept try {
  Inode *node = table_.get(ino);
  if (const int error = file_error(node)) return error;
  if (offset < 0) return -EINVAL;
  Pin pin(*this);
  pin.hold(*node);
  int result;
  if (StripeLock::fits(length)) {
    const std::shared_lock content(node->content);
    if (length == 0 || offset >= node->size) return use({});
    const StripeLock stripes(*this, *node, offset, length, false);
    result = read_locked(*node, offset, length, use);
  } else {
    const std::scoped_lock content(node->content);
    result = read_locked(*node, offset, length, use);
  }
  if (touch) touch_atime(*node);
  return result;
} catch (const std::bad_alloc &) {
  return -ENOMEM;
}

int Store::read_locked(Inode &node, std::int64_t offset, std::size_t length,
                       FunctionRef<int(std::span<const iovec>)> use) {
  // writev() takes IOV_MAX pieces, one of them the header of the reply.
  constexpr std::size_t kMostPieces = IOV_MAX - 1;
  thread_local std::vector<iovec> iov;
  Pieces pieces(iov);
  const std::int64_t left_in_file = std::max<std::int64_t>(node.size - offset, 0);
  std::size_t left = std::min(length, static_cast<std::size_t>(left_in_file));
  while (left > 0) {
    const std::size_t in = in_page(offset), n = std::min(left, kPageSize - in);
    if (char *data = node.data.get(page_at(offset)).data())
      pieces.add_data(data + in, n);
    else
      pieces.add_zeros(n);
    offset += static_cast<std::int64_t>(n);
    left -= n;
  }
  if (iov.size() <= kMostPieces) return use(iov);

  std::vector<char> whole;
  for (const iovec &piece : iov) {
    const char *data = static_cast<const char *>(piece.iov_base);
    whole.insert(whole.end(), data, data + piece.iov_len);
  }
  const iovec one{whole.data(), whole.size()};
  return use({&one, 1});
}

std::int64_t Store::write(std::uint64_t ino, std::int64_t offset, std::span<const char> data,
                          const Cred &cred) noexcept {
  Inode *node = table_.get(ino);
  if (const int error = file_error(node)) return error;
  if (offset < 0) return -EINVAL;
  if (data.empty()) return 0;
  if (data.size() > static_cast<std::uint64_t>(kMaxSize - offset)) return -EFBIG;
  if (write_in_place(*node, offset, data, cred)) return static_cast<std::int64_t>(data.size());
  const std::scoped_lock content(node->content);
  return write_locked(*node, offset, data, cred);
}

/// False if the write is not inside of pages that are there.
bool Store::write_in_place(Inode &node, std::int64_t offset, std::span<const char> data,
                           const Cred &cred) noexcept {
  if (!StripeLock::fits(data.size())) return false;
  const std::int64_t end = offset + static_cast<std::int64_t>(data.size());
  const std::shared_lock content(node.content);
  if (end > node.size) return false;
  for (std::uint64_t page = page_at(offset); page < page_behind(end); ++page)
    if (!node.data.get(page).has_data()) return false;
  const StripeLock stripes(*this, node, offset, data.size(), true);
  for (std::size_t done = 0; done < data.size();) {
    const std::int64_t at = offset + static_cast<std::int64_t>(done);
    const std::size_t in = in_page(at), n = std::min(data.size() - done, kPageSize - in);
    std::memcpy(node.data.get(page_at(at)).data() + in, data.data() + done, n);
    done += n;
  }
  modified(node, node.size, 0, cred);
  return true;
}

/// The page for a write of [in, in + n), with zeros around it where it is new.
/// Returns nullptr and sets `error` if there is no room.
char *Store::page_for_write(Inode &node, std::uint64_t page, std::size_t in, std::size_t n,
                            PageSource &source, std::size_t wanted, std::int64_t &added,
                            int &error) noexcept {
  const PageRef ref = node.data.get(page);
  if (ref.has_data()) return ref.data();
  const bool charge = ref.hole();  // reserved pages have been paid for
  if (charge && !bytes_.charge(kPageSize)) {
    error = -ENOSPC;
    return nullptr;
  }
  char *data = source.take(wanted);
  try {
    if (data == nullptr) throw std::bad_alloc();
    node.data.set(page, PageRef(data));
  } catch (const std::bad_alloc &) {
    if (data != nullptr) pool_.free(data);
    if (charge) bytes_.refund(kPageSize);
    error = -ENOMEM;
    return nullptr;
  }
  std::memset(data, 0, in);
  std::memset(data + in + n, 0, kPageSize - in - n);
  added += charge;
  return data;
}

std::int64_t Store::write_locked(Inode &node, std::int64_t offset, std::span<const char> data,
                                 const Cred &cred) noexcept {
  PageSource source(pool_);
  std::int64_t added = 0;
  std::size_t done = 0;
  int error = 0;
  while (done < data.size()) {
    const std::int64_t at = offset + static_cast<std::int64_t>(done);
    const std::size_t in = in_page(at), n = std::min(data.size() - done, kPageSize - in);
    const std::size_t wanted = (in + data.size() - done + kPageSize - 1) / kPageSize;
    char *page = page_for_write(node, page_at(at), in, n, source, wanted, added, error);
    if (page == nullptr) break;
    std::memcpy(page + in, data.data() + done, n);
    done += n;
  }
  if (done == 0) return error;
  modified(node, std::max(node.size, offset + static_cast<std::int64_t>(done)), added, cred);
  return static_cast<std::int64_t>(done);
}

/// Holes from page `first` to `end`. Returns how many pages went.
std::int64_t Store::drop_pages(Inode &node, std::uint64_t first, std::uint64_t end) noexcept {
  std::uint64_t dropped = 0;
  node.data.erase(first, end, [&](PageRef ref) {
    if (ref.has_data()) pool_.free(ref.data());
    ++dropped;
  });
  if (dropped != 0) bytes_.refund(dropped * kPageSize);
  return static_cast<std::int64_t>(dropped);
}

void Store::free_data(Inode &node) noexcept { drop_pages(node, 0, PageMap::kEnd); }

int Store::truncate_locked(Inode &node, std::int64_t size, const Cred &cred) noexcept {
  if (size < 0) return -EINVAL;
  std::int64_t dropped = 0;
  if (size <= node.size) {
    dropped = drop_pages(node, page_behind(size), PageMap::kEnd);
    zero(node, size, offset_of(page_behind(size)));
  }
  modified(node, size, -dropped, cred);
  return 0;
}

/// Overwrite with zeros what has data in [offset, end), which may end behind the last page.
void Store::zero(Inode &node, std::int64_t offset, std::int64_t end) noexcept {
  // The end of the last page of the largest file is 2^63: compare without sign.
  const auto start = static_cast<std::uint64_t>(offset), stop = static_cast<std::uint64_t>(end);
  node.data.scan(start >> kPageShift, (stop + kPageSize - 1) >> kPageShift,
                 [&](std::uint64_t page, PageRef ref) {
                   const std::uint64_t base = page << kPageShift;
                   const std::uint64_t from = std::max(start, base), to = std::min(stop, base + kPageSize);
                   if (ref.has_data()) std::memset(ref.data() + (from - base), 0, to - from);
                   return true;
                 });
}

/// Account for the pages [first, end) without filling them.
int Store::reserve(Inode &node, std::uint64_t first, std::uint64_t end) noexcept {
  if (end - first > bytes_.limit() / kPageSize) return -ENOSPC;
  std::uint64_t missing = end - first;
  node.data.scan(first, end, [&](std::uint64_t, PageRef) {
    --missing;
    return true;
  });
  if (!bytes_.charge(missing * kPageSize)) return -ENOSPC;
  std::uint64_t added = 0;
  try {
    for (std::uint64_t page = first; page < end && added < missing; ++page) {
      if (!node.data.get(page).hole()) continue;
      node.data.set(page, PageRef::reserved());
      ++added;
    }
  } catch (const std::bad_alloc &) {
    bytes_.refund((missing - added) * kPageSize);
  }
  const std::scoped_lock meta(node.meta);
  node.pages += added;
  return added == missing ? 0 : -ENOMEM;
}

int Store::fallocate(std::uint64_t ino, int mode, std::int64_t offset, std::int64_t length,
                     const Cred &cred) noexcept {
  Inode *node = table_.get(ino);
  if (const int error = file_error(node)) return error;
  if (offset < 0 || length <= 0) return -EINVAL;
  if (length > kMaxSize - offset) return -EFBIG;
  const bool punch = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
  const bool zero_range = (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
  if (!punch && !zero_range && (mode & ~FALLOC_FL_KEEP_SIZE) != 0) return -EOPNOTSUPP;

  const std::int64_t end = offset + length;
  const std::scoped_lock content(node->content);
  std::int64_t dropped = 0;
  if (punch) {
    const std::uint64_t first = page_behind(offset), behind = page_at(end);
    zero(*node, offset, end);
    if (first < behind) dropped = drop_pages(*node, first, behind);
  } else {
    if (const int error = reserve(*node, page_at(offset), page_behind(end))) return error;
    if (zero_range) zero(*node, offset, end);
  }
  const bool keep_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  modified(*node, keep_size ? node->size : std::max(node->size, end), -dropped, cred);
  return 0;
}

std::int64_t Store::lseek(std::uint64_t ino, std::int64_t offset, int whence) noexcept {
  Inode *node = table_.get(ino);
  if (const int error = file_error(node)) return error;
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return -EINVAL;
  const std::shared_lock content(node->content);
  if (offset < 0 || offset >= node->size) return -ENXIO;
  const std::uint64_t first = page_at(offset), end = page_behind(node->size);
  std::uint64_t found = whence == SEEK_DATA ? end : first;
  node->data.scan(first, end, [&](std::uint64_t page, PageRef ref) {
    if (whence == SEEK_DATA) {
      if (ref.has_data()) found = page;
      return !ref.has_data();
    }
    if (page != found || !ref.has_data()) return false;
    ++found;
    return true;
  });
  if (whence == SEEK_DATA && found == end) return -ENXIO;
  // The end of the last page may be 2^63.
  const auto at = std::max(static_cast<std::uint64_t>(offset), found << kPageShift);
  return static_cast<std::int64_t>(std::min(at, static_cast<std::uint64_t>(node->size)));
}

std::int64_t Store::copy_file_range(std::uint64_t from, std::int64_t from_offset, std::uint64_t to,
                                    std::int64_t to_offset, std::uint64_t length, const Cred &cred) noexcept {
  // Others wait for the locks; callers go on after a short copy.
  constexpr std::uint64_t kMostAtOnce = 64 << 20;
  Inode *source = table_.get(from), *dest = table_.get(to);
  if (const int error = file_error(source)) return error;
  if (const int error = file_error(dest)) return error;
  if (from_offset < 0 || to_offset < 0) return -EINVAL;
  auto n = static_cast<std::int64_t>(std::min(length, kMostAtOnce));

  std::unique_lock first((source->ino < dest->ino ? source : dest)->content);
  std::unique_lock<RwLock> second;
  if (source != dest) second = std::unique_lock((source->ino < dest->ino ? dest : source)->content);
  if (from_offset >= source->size) return 0;
  n = std::min(n, source->size - from_offset);
  if (n > kMaxSize - to_offset) return -EFBIG;
  if (source == dest && from_offset < to_offset + n && to_offset < from_offset + n) return -EINVAL;
  return copy_locked(*source, from_offset, *dest, to_offset, n, cred);
}

/// Holes of the source cost nothing in the destination.
std::int64_t Store::copy_locked(Inode &from, std::int64_t from_offset, Inode &to, std::int64_t to_offset,
                                std::int64_t length, const Cred &cred) noexcept {
  std::int64_t done = 0;
  while (done < length) {
    const std::int64_t source = from_offset + done, dest = to_offset + done;
    const std::size_t in = in_page(source);
    std::int64_t n = std::min<std::int64_t>(length - done, static_cast<std::int64_t>(kPageSize - in));
    if (const char *data = from.data.get(page_at(source)).data()) {
      const std::int64_t written =
          write_locked(to, dest, {data + in, static_cast<std::size_t>(n)}, cred);
      if (written < 0) return done > 0 ? done : written;
      n = written;
    } else {
      zero(to, dest, dest + n);
      modified(to, std::max(to.size, dest + n), 0, cred);
    }
    done += n;
  }
  return done;
}

}  // namespace efuse::fs::memfs
