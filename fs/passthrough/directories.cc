// SPDX-License-Identifier: LGPL-2.1-or-later
// Open directories. Cookies are the source's own, so a reader finds its place again whatever is made or removed
// meanwhile, as far as the source's filesystem can. Where fi->fh is 0 nobody has opened the directory here (a fast
// path has answered OPENDIR), and each request opens it for itself.
#include "passthrough.hh"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace efuse::fs::passthrough {
namespace {

/// fi->fh is its address.
class Directory {
 public:
  static constexpr std::size_t kBytes = 32 << 10;

  /// `at_a_time`: bytes of entries to ask the source for.
  Directory(Fd fd, Node &node, std::size_t at_a_time = kBytes) noexcept
      : fd_(std::move(fd)), node_(node), at_a_time_(at_a_time) {}

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] Node &node() const noexcept { return node_; }
  /// Held by whoever uses what follows: nobody reads one open directory twice at a time, but nothing forbids it.
  [[nodiscard]] std::mutex &mutex() noexcept { return mutex_; }

  /// Be at the entry after the one with this cookie. Returns 0 or -errno.
  int seek(off_t cookie) noexcept {
    if (cookie == next_) return 0;
    at_ = end_ = 0;
    next_ = cookie;
    return result_of(lseek(fd_.get(), cookie, SEEK_SET));
  }
  /// The entry to come; nullptr at the end, or with an error. Throws std::bad_alloc.
  const dirent64 *peek(int &error) {
    if (at_ == end_) {
      if (entries_.empty()) entries_.resize(at_a_time_);
      const ssize_t got = getdents64(fd_.get(), entries_.data(), entries_.size());
      if (got < 0) error = -errno;
      if (got <= 0) return nullptr;
      at_ = 0;
      end_ = static_cast<std::size_t>(got);
    }
    return reinterpret_cast<const dirent64 *>(entries_.data() + at_);
  }
  void next(const dirent64 &entry) noexcept {
    at_ += entry.d_reclen;
    next_ = entry.d_off;
  }

 private:
  const Fd fd_;
  Node &node_;
  const std::size_t at_a_time_;
  std::mutex mutex_;
  std::vector<char> entries_;      // as the kernel gave them, at_..end_ not handed out yet
  std::size_t at_ = 0, end_ = 0;
  off_t next_ = 0;                 // cookie before the entry at at_
};

/// nullptr: it was not opened here.
Directory *directory_of(const fuse_file_info *fi) noexcept { return reinterpret_cast<Directory *>(fi->fh); }

int open_source(const Passthrough &fs, const Node &node, Fd &fd) noexcept {
  return fs.source.open(node, O_RDONLY | O_DIRECTORY, fd);
}

void opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info *fi) {
  Passthrough &fs = fs_of(req);
  Node &node = node_of(fs, ino);
  Fd fd;
  const int status = open_source(fs, node, fd);
  if (status != 0) return reply_status(req, status);
  auto *directory = new (std::nothrow) Directory(std::move(fd), node);
  if (directory == nullptr) return reply_status(req, -ENOMEM);
  fs.source.table().pin(node);
  fi->fh = reinterpret_cast<std::uint64_t>(directory);
  fi->keep_cache = fs.settings.keep_cache;
  fi->cache_readdir = fs.settings.keep_cache;
  if (fuse_reply_open(req, fi) != -ENOENT) return;
  delete directory;
  fs.source.table().unpin(node);
}

void releasedir(fuse_req_t req, fuse_ino_t, fuse_file_info *fi) {
  if (const std::unique_ptr<Directory> directory(directory_of(fi)); directory != nullptr)
    fs_of(req).source.table().unpin(directory->node());
  reply_status(req, 0);
}

bool is_dot(const char *name) noexcept { return std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0; }

/// What READDIR says of an entry.
struct stat brief(Passthrough &fs, const Node &dir, const dirent64 &entry) noexcept {
  struct stat st {};
  // The root's parent is not part of the tree.
  const bool above = &dir == &fs.source.root() && std::strcmp(entry.d_name, "..") == 0;
  st.st_ino = above ? dir.ino : fs.source.present(dir.dev, entry.d_ino);
  st.st_mode = DTTOIF(entry.d_type);
  return st;
}

/// An entry with its attributes. One that cannot be looked up (gone by now, or the mount that serves this) comes
/// without: the kernel asks if it wants to know. False: there is no room, and no lookup was counted.
bool add_plus(Passthrough &fs, const Directory &directory, const dirent64 &entry, DirReply &reply,
              Found &found) noexcept {
  fuse_entry_param e{};
  if (!is_dot(entry.d_name) &&
      fs.source.lookup(directory.node(), directory.fd(), entry.d_name, found) == 0) {
    e = entry_of(fs, found);
  } else {
    found.node = nullptr;
    e.attr = brief(fs, directory.node(), entry);
  }
  if (reply.add_plus(entry.d_name, e, entry.d_off)) return true;
  if (found.node != nullptr) give_back(fs, found);
  return false;
}

/// Fill the reply. `counted`: nodes that got a lookup; `last`: no entries follow. Returns 0 or -errno.
int collect(Passthrough &fs, Directory &directory, off_t cookie, bool plus, DirReply &reply,
            std::vector<Found> &counted, bool &last) {
  if (const int status = directory.seek(cookie); status != 0) return status;
  int error = 0;
  last = true;
  while (const dirent64 *entry = directory.peek(error)) {
    Found found;
    if (plus) counted.reserve(counted.size() + 1);
    const bool added = plus ? add_plus(fs, directory, *entry, reply, found)
                            : reply.add(entry->d_name, brief(fs, directory.node(), *entry), entry->d_off);
    if (!added) {
      last = false;
      break;
    }
    if (found.node != nullptr) counted.push_back(found);
    directory.next(*entry);
  }
  last = last && error == 0;
  return reply.empty() ? error : 0;
}

void read_entries(fuse_req_t req, Directory &directory, std::size_t size, off_t cookie, bool plus) noexcept {
  Passthrough &fs = fs_of(req);
  std::vector<Found> counted;
  int status = 0;
  bool last = false;
  try {
    DirReply reply(req, size);
    {
      const std::scoped_lock lock(directory.mutex());
      status = collect(fs, directory, cookie, plus, reply, counted, last);
    }
    if (status == 0 && reply.send(last) != -ENOENT) return;
  } catch (const std::bad_alloc &) {
    status = -ENOMEM;
  }
  for (const Found &found : counted) give_back(fs, found);
  if (status != 0) reply_status(req, status);
}

/// About as many bytes of the source's entries as a reply of `size` bytes tells of, and never less than one entry.
std::size_t entries_for(std::size_t size, bool plus) noexcept {
  constexpr std::size_t kLeast = 1 << 10;
  return std::clamp(plus ? size / 4 : size, kLeast, Directory::kBytes);
}

void read_directory(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t cookie, fuse_file_info *fi,
                    bool plus) noexcept {
  if (Directory *opened = directory_of(fi)) return read_entries(req, *opened, size, cookie, plus);
  Passthrough &fs = fs_of(req);
  Node &node = node_of(fs, ino);
  Fd fd;
  if (const int status = open_source(fs, node, fd); status != 0) return reply_status(req, status);
  Directory directory(std::move(fd), node, entries_for(size, plus));
  read_entries(req, directory, size, cookie, plus);
}

void readdir(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset, fuse_file_info *fi) {
  read_directory(req, ino, size, offset, fi, false);
}

void readdirplus(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t offset, fuse_file_info *fi) {
  read_directory(req, ino, size, offset, fi, true);
}

void fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, fuse_file_info *fi) {
  const Directory *opened = directory_of(fi);
  Passthrough &fs = fs_of(req);
  Fd own;
  if (const int status = opened != nullptr ? 0 : open_source(fs, node_of(fs, ino), own); status != 0)
    return reply_status(req, status);
  const int fd = opened != nullptr ? opened->fd() : own.get();
  reply_status(req, result_of(datasync != 0 ? fdatasync(fd) : fsync(fd)));
}

}  // namespace

void add_directories(fuse_lowlevel_ops &ops) noexcept {
  ops.opendir = opendir;
  ops.releasedir = releasedir;
  ops.readdir = readdir;
  ops.readdirplus = readdirplus;
  ops.fsyncdir = fsyncdir;
}

}  // namespace efuse::fs::passthrough
