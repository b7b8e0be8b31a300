// SPDX-License-Identifier: LGPL-2.1-or-later
// Locks are taken in the source, where processes of the host see them, and their own are seen. One that is not
// free is waited for in a thread (LockWaiters). Two processes that wait for each other are not found out (EDEADLK),
// as with any lock of an open file description, but can be interrupted.
#include "passthrough.hh"

#include <fcntl.h>
#include <sys/file.h>

#include <memory>
#include <new>
#include <utility>

namespace efuse::fs::passthrough {
namespace {

/// The file that `owner` locks this node with; made if there is none and `make`. Returns 0 or -errno.
int owner_file(Passthrough &fs, Node &node, std::uint64_t owner, pid_t pid, bool make,
               std::shared_ptr<Fd> &file) noexcept {
  const std::scoped_lock lock(fs.source.table().open_mutex(node));
  try {
    if (!node.locks && make) node.locks = std::make_unique<LockOwners>();
    LockOwners::Owner *found = node.locks ? node.locks->find(owner) : nullptr;
    if (found == nullptr && make) {
      Fd fd;
      int status = fs.source.open(node, O_RDWR | O_NONBLOCK, fd);
      if (status != 0) status = fs.source.open(node, O_RDONLY | O_NONBLOCK, fd);  // good for shared locks
      if (status != 0) return status;
      found = &node.locks->add({owner, pid, std::make_shared<Fd>(std::move(fd))});
    }
    if (found == nullptr) return 0;
    found->pid = pid;
    file = found->file;
    return 0;
  } catch (const std::bad_alloc &) {
    return -ENOMEM;
  }
}

pid_t holder_beside(Passthrough &fs, Node &node, std::uint64_t owner) noexcept {
  const std::scoped_lock lock(fs.source.table().open_mutex(node));
  return node.locks ? node.locks->other_than(owner) : 0;
}

void getlk(fuse_req_t req, fuse_ino_t ino, fuse_file_info *fi, struct flock *lock) {
  Passthrough &fs = fs_of(req);
  Node &node = node_of(fs, ino);
  std::shared_ptr<Fd> file;
  int status = owner_file(fs, node, fi->lock_owner, fuse_req_ctx(req)->pid, true, file);
  lock->l_pid = 0;  // as open file description locks want it
  if (status == 0) status = result_of(fcntl(file->get(), F_OFD_GETLK, lock));
  if (status != 0) return reply_status(req, status);
  // Held by an open file, which is nobody in particular.
  if (lock->l_type != F_UNLCK && lock->l_pid < 0) lock->l_pid = holder_beside(fs, node, fi->lock_owner);
  fuse_reply_lock(req, lock);
}

bool is_everything(const struct flock &lock) noexcept {
  return lock.l_whence == SEEK_SET && lock.l_start == 0 && lock.l_len == 0;
}

void unlock(fuse_req_t req, Passthrough &fs, Node &node, std::uint64_t owner, struct flock &lock) noexcept {
  std::shared_ptr<Fd> file;
  int status = owner_file(fs, node, owner, fuse_req_ctx(req)->pid, false, file);
  if (status == 0 && file) status = result_of(fcntl(file->get(), F_OFD_SETLK, &lock));
  file.reset();
  if (status == 0 && is_everything(lock)) release_locks(fs, node, owner);
  reply_status(req, status);
}

void setlk(fuse_req_t req, fuse_ino_t ino, fuse_file_info *fi, struct flock *lock, int sleep) {
  Passthrough &fs = fs_of(req);
  Node &node = node_of(fs, ino);
  lock->l_pid = 0;
  if (lock->l_type == F_UNLCK) return unlock(req, fs, node, fi->lock_owner, *lock);
  std::shared_ptr<Fd> file;
  int status = owner_file(fs, node, fi->lock_owner, fuse_req_ctx(req)->pid, true, file);
  if (status == 0) status = result_of(fcntl(file->get(), F_OFD_SETLK, lock));
  if (sleep == 0 || (status != -EAGAIN && status != -EACCES)) return reply_status(req, status);
  fs.waiters.start(req, [file = std::move(file), wanted = *lock]() mutable {
    return result_of(fcntl(file->get(), F_OFD_SETLKW, &wanted));
  });
}

/// flock(2) locks an open file, and each has its own in the source: release() ends the lock by closing it.
void flock(fuse_req_t req, fuse_ino_t, fuse_file_info *fi, int operation) {
  const int fd = file_of(fi).fd.get();
  const int status = result_of(::flock(fd, operation | LOCK_NB));
  if (status != -EWOULDBLOCK || (operation & LOCK_NB) != 0) return reply_status(req, status);
  fs_of(req).waiters.start(req, [fd, operation] { return result_of(::flock(fd, operation)); });
}

}  // namespace

void release_locks(Passthrough &fs, Node &node, std::uint64_t owner) noexcept {
  const std::scoped_lock lock(fs.source.table().open_mutex(node));
  if (!node.locks) return;
  node.locks->erase(owner);
  if (node.locks->empty()) node.locks.reset();
}

void add_locking(fuse_lowlevel_ops &ops) noexcept {
  ops.getlk = getlk;
  ops.setlk = setlk;
  ops.flock = flock;
}

}  // namespace efuse::fs::passthrough
