// SPDX-License-Identifier: LGPL-2.1-or-later
// Open files and their data.
#include "passthrough.hh"

#include "../file_info.hh"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <memory>
#include <new>
#include <utility>

namespace efuse::fs::passthrough {
namespace {

/// How the source's file is opened. O_DIRECT is left out: buffers here are not aligned as it wants them. O_APPEND
/// is left to each write, which knows whether it still holds.
int source_flags(const Settings &settings, int flags) noexcept {
  int kept = flags & (O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC | O_NOATIME | O_NONBLOCK);
  // The kernel reads what a page lacks before it writes it back.
  if (settings.writeback && (kept & O_ACCMODE) == O_WRONLY) kept = (kept & ~O_ACCMODE) | O_RDWR;
  return kept;
}

/// `uncached`: the file cannot be read, so the kernel must not keep pages of it.
int open_source(const Passthrough &fs, const Node &node, int flags, Fd &fd, bool &uncached) noexcept {
  int wanted = source_flags(fs.settings, flags);
  int status = fs.source.open(node, wanted, fd);
  if (status == -EPERM && (wanted & O_NOATIME) != 0) {  // not the daemon's file, but the caller's
    wanted &= ~O_NOATIME;
    status = fs.source.open(node, wanted, fd);
  }
  uncached = status == -EACCES && (wanted & O_ACCMODE) == O_RDWR && (flags & O_ACCMODE) == O_WRONLY;
  return uncached ? fs.source.open(node, (wanted & ~O_ACCMODE) | O_WRONLY, fd) : status;
}

/// The first file that can be read is what fast paths read. Under the node's open_mutex.
void offer_to_fastpath(fuse_req_t req, Node &node, int fd) noexcept {
  Passthrough &fs = fs_of(req);
  if (node.fastpath_backing || node.backing_id > 0 || !fs.fastpath_backing.load(std::memory_order_relaxed)) return;
  const int status = efuse_fastpath_open(efuse_req_session(req), reinterpret_cast<fuse_ino_t>(&node), fd);
  node.fastpath_backing = status == 0;
  if (status == -EOPNOTSUPP) fs.fastpath_backing.store(false, std::memory_order_relaxed);
}

/// One file more of this node. Returns the id of its backing file, 0 for none. The kernel wants all files of an
/// inode alike, so the first one decides.
int enter(fuse_req_t req, Node &node, int fd, bool readable) noexcept {
  Passthrough &fs = fs_of(req);
  fs.source.table().pin(node);
  const std::scoped_lock lock(fs.source.table().open_mutex(node));
  if (node.opens++ == 0 && node.backing_id == 0 && fs.kernel_passthrough.load(std::memory_order_relaxed)) {
    node.backing_id = fuse_passthrough_open(req, fd);
    // Nor for any other file; the runtime has said so in the log.
    if (node.backing_id <= 0 && errno == EPERM) fs.kernel_passthrough.store(false, std::memory_order_relaxed);
  }
  if (readable) offer_to_fastpath(req, node, fd);
  return node.backing_id;
}

/// One file less. `req`: nullptr where it has been answered; a backing file then waits for the next open().
void leave(Passthrough &fs, fuse_req_t req, Node &node) noexcept {
  {
    const std::scoped_lock lock(fs.source.table().open_mutex(node));
    if (--node.opens == 0) {
      if (req != nullptr && node.backing_id > 0) fuse_passthrough_close(req, std::exchange(node.backing_id, 0));
      if (req != nullptr && std::exchange(node.fastpath_backing, false))
        efuse_fastpath_close(efuse_req_session(req), reinterpret_cast<fuse_ino_t>(&node));
      node.locks.reset();
    }
  }
  fs.source.table().unpin(node);
}

/// Fill `fi` in. nullptr: no memory.
File *make_file(fuse_req_t req, Node &node, Fd fd, bool uncached, fuse_file_info &fi) noexcept {
  const Settings &settings = fs_of(req).settings;
  auto *file = new (std::nothrow) File{std::move(fd), node};
  if (file == nullptr) return nullptr;
  fi.fh = reinterpret_cast<std::uint64_t>(file);
  fi.direct_io = settings.direct_io || uncached;
  fi.keep_cache = settings.keep_cache;
  allow_parallel_writes(fi);
  const bool readable = !uncached && (source_flags(settings, fi.flags) & O_ACCMODE) != O_WRONLY;
  if (const int id = enter(req, node, file->fd.get(), readable); id > 0) efuse_reply_backing(req, id);
  return file;
}

void open(fuse_req_t req, fuse_ino_t ino, fuse_file_info *fi) {
  Passthrough &fs = fs_of(req);
  Node &node = node_of(fs, ino);
  if (!S_ISREG(node.type)) return reply_status(req, -EINVAL);  // the kernel opens the others itself
  if ((fi->flags & O_TRUNC) != 0) write_as_caller(req);
  Fd fd;
  bool uncached = false;
  const int status = open_source(fs, node, fi->flags, fd, uncached);
  if (status != 0) return reply_status(req, status);
  File *file = make_file(req, node, std::move(fd), uncached, *fi);
  if (file == nullptr) return reply_status(req, -ENOMEM);
  if (fuse_reply_open(req, fi) != -ENOENT) return;
  delete file;
  leave(fs, nullptr, node);
}

/// Answer with a file that has just been made in `dir`.
void reply_created(fuse_req_t req, const Node &dir, Fd fd, fuse_file_info *fi) noexcept {
  Passthrough &fs = fs_of(req);
  Found found;
  if (const int status = fs.source.adopt_open(dir, fd.get(), found); status != 0) return reply_status(req, status);
  File *file = make_file(req, *found.node, std::move(fd), false, *fi);
  if (file == nullptr) {
    give_back(fs, found);
    return reply_status(req, -ENOMEM);
  }
  const fuse_entry_param e = entry_of(fs, found);
  if (fuse_reply_create(req, &e, fi) != -ENOENT) return;
  delete file;
  leave(fs, nullptr, *found.node);
  give_back(fs, found);
}

/// The file must be new: of what is there already the caller's rights have not been checked. ESTALE makes the kernel
/// look again and open that.
void create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, fuse_file_info *fi) {
  Passthrough &fs = fs_of(req);
  const Node &dir = node_of(fs, parent);
  const NodeFd dir_fd(fs.source, dir);
  if (dir_fd.error() != 0) return reply_status(req, dir_fd.error());
  const int flags = (source_flags(fs.settings, fi->flags) & ~O_TRUNC) | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
  Fd fd;
  const int status = as_caller(req, fs.source.privileges().switch_user, (mode & S_ISGID) != 0, [&] {
    fd.reset(openat(dir_fd.get(), name, flags, mode & 07777));
    return fd ? 0 : -errno;
  });
  if (status == -EEXIST && (fi->flags & O_EXCL) == 0) return reply_status(req, -ESTALE);
  if (status != 0) return reply_status(req, status);
  reply_created(req, dir, std::move(fd), fi);
}

void tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, fuse_file_info *fi) {
  Passthrough &fs = fs_of(req);
  const Node &dir = node_of(fs, parent);
  const NodeFd dir_fd(fs.source, dir);
  if (dir_fd.error() != 0) return reply_status(req, dir_fd.error());
  const int flags = source_flags(fs.settings, fi->flags) | O_TMPFILE | (fi->flags & O_EXCL) | O_CLOEXEC;
  Fd fd;
  const int status = as_caller(req, fs.source.privileges().switch_user, (mode & S_ISGID) != 0, [&] {
    fd.reset(openat(dir_fd.get(), ".", flags, mode & 07777));
    return fd ? 0 : -errno;
  });
  if (status != 0) return reply_status(req, status);
  reply_created(req, dir, std::move(fd), fi);
}

void release(fuse_req_t req, fuse_ino_t, fuse_file_info *fi) {
  const std::unique_ptr<File> file(&file_of(fi));
  file->fd.reset();  // before the locks of others are looked at: flock(2) ends here
  leave(fs_of(req), req, file->node);
  reply_status(req, 0);
}

/// Some filesystems tell of failed writes only when a file is closed.
void flush(fuse_req_t req, fuse_ino_t, fuse_file_info *fi) {
  File &file = file_of(fi);
  release_locks(fs_of(req), file.node, fi->lock_owner);
  const int copy = fcntl(file.fd.get(), F_DUPFD_CLOEXEC, 0);
  reply_status(req, copy < 0 ? -errno : result_of(close(copy)));
}

void fsync(fuse_req_t req, fuse_ino_t, int datasync, fuse_file_info *fi) {
  const int fd = file_of(fi).fd.get();
  reply_status(req, result_of(datasync != 0 ? fdatasync(fd) : ::fsync(fd)));
}

// ---- data ------------------------------------------------------------------

fuse_bufvec memory_buffer(void *memory, std::size_t size) noexcept {
  fuse_bufvec vec{};
  vec.count = 1;
  vec.buf[0].size = size;
  vec.buf[0].mem = memory;
  vec.buf[0].fd = -1;
  return vec;
}

fuse_bufvec file_buffer(int fd, std::size_t size, off_t offset) noexcept {
  fuse_bufvec vec = memory_buffer(nullptr, size);
  vec.buf[0].flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK | FUSE_BUF_FD_RETRY);
  vec.buf[0].fd = fd;
  vec.buf[0].pos = offset;
  return vec;
}

/// Where there is a place for the reply the data is read there, and nowhere else.
void read(fuse_req_t req, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info *fi) {
  fuse_bufvec data = file_buffer(file_of(fi).fd.get(), size, offset);
  fuse_reply_data(req, &data, FUSE_BUF_SPLICE_MOVE);
}

/// With O_APPEND the source finds the end itself, whoever else appends. In pages that the kernel has cached, and
/// with writeback, it is the kernel who knows where the end is.
bool appends(const Passthrough &fs, const fuse_file_info &fi) noexcept {
  return (fi.flags & O_APPEND) != 0 && !fi.writepage && !fs.settings.writeback;
}

/// Bytes written, or -errno if there were none.
ssize_t write_memory(int fd, const void *data, std::size_t size, off_t offset, int flags) noexcept {
  std::size_t done = 0;
  while (done < size) {
    const iovec part{static_cast<char *>(const_cast<void *>(data)) + done, size - done};
    const ssize_t n = pwritev2(fd, &part, 1, offset + static_cast<off_t>(done), flags);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && done == 0) return -errno;
    if (n <= 0) break;
    done += static_cast<std::size_t>(n);
  }
  return static_cast<ssize_t>(done);
}

/// Data that came as anything but one piece of memory: libfuse has pipes.
ssize_t write_pieces(int fd, fuse_bufvec &from, off_t offset, bool append) {
  const std::size_t size = fuse_buf_size(&from);
  if (!append) {
    fuse_bufvec to = file_buffer(fd, size, offset);
    return fuse_buf_copy(&to, &from, FUSE_BUF_SPLICE_NONBLOCK);
  }
  const std::unique_ptr<char[]> memory(new (std::nothrow) char[size]);
  if (!memory) return -ENOMEM;
  fuse_bufvec to = memory_buffer(memory.get(), size);
  const ssize_t got = fuse_buf_copy(&to, &from, static_cast<fuse_buf_copy_flags>(0));
  return got <= 0 ? got : write_memory(fd, memory.get(), static_cast<std::size_t>(got), offset, RWF_APPEND);
}

void write_buf(fuse_req_t req, fuse_ino_t, fuse_bufvec *from, off_t offset, fuse_file_info *fi) {
  const int fd = file_of(fi).fd.get();
  const bool append = appends(fs_of(req), *fi);
  if (fi->writepage)  // nobody's: the kernel has done what there was to do
    write_as_daemon(req);
  else
    write_as_caller(req);
  const fuse_buf &first = from->buf[0];
  const bool memory = from->count == 1 && (first.flags & FUSE_BUF_IS_FD) == 0;
  const ssize_t written = memory ? write_memory(fd, first.mem, first.size, offset, append ? RWF_APPEND : 0)
                                 : write_pieces(fd, *from, offset, append);
  if (written < 0) return reply_status(req, static_cast<int>(written));
  fuse_reply_write(req, static_cast<std::size_t>(written));
}

void fallocate(fuse_req_t req, fuse_ino_t, int mode, off_t offset, off_t length, fuse_file_info *fi) {
  write_as_caller(req);
  reply_status(req, result_of(::fallocate(file_of(fi).fd.get(), mode, offset, length)));
}

void copy_file_range(fuse_req_t req, fuse_ino_t, off_t from_offset, fuse_file_info *from, fuse_ino_t, off_t to_offset,
                     fuse_file_info *to, std::size_t length, int flags) {
  write_as_caller(req);
  const ssize_t n = ::copy_file_range(file_of(from).fd.get(), &from_offset, file_of(to).fd.get(), &to_offset, length,
                                      static_cast<unsigned>(flags));
  if (n < 0) return reply_status(req, -errno);
  fuse_reply_write(req, static_cast<std::size_t>(n));
}

void lseek(fuse_req_t req, fuse_ino_t, off_t offset, int whence, fuse_file_info *fi) {
  // The kernel asks without writing back first, so what it holds would look like holes. Told that there is no
  // lseek, it takes the whole file for data.
  if (fs_of(req).settings.writeback) return reply_status(req, -ENOSYS);
  const off_t at = ::lseek(file_of(fi).fd.get(), offset, whence);
  if (at < 0) return reply_status(req, -errno);
  fuse_reply_lseek(req, at);
}

}  // namespace

/// bmap and poll are absent: blocks of the source mean nothing here, and a regular file is always ready.
void add_files(efuse_lowlevel_ops &ops) noexcept {
  ops.base.open = open;
  ops.base.create = create;
  ops.base.release = release;
  ops.base.flush = flush;
  ops.base.fsync = fsync;
  ops.base.read = read;
  ops.base.write_buf = write_buf;
  ops.base.fallocate = fallocate;
  ops.base.copy_file_range = copy_file_range;
  ops.base.lseek = lseek;
  ops.tmpfile = tmpfile;
}

}  // namespace efuse::fs::passthrough
