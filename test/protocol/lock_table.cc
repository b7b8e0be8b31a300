// SPDX-License-Identifier: LGPL-2.1-or-later
#include "lock_table.hh"

#include <algorithm>
#include <cerrno>
#include <chrono>

namespace protocol_test {

const Lock *LockTable::find_conflict(const File &file, const Lock &wanted) {
  for (const Lock &held : file.held)
    if (held.owner != wanted.owner && held.start <= wanted.end && wanted.start <= held.end &&
        (held.type == F_WRLCK || wanted.type == F_WRLCK))
      return &held;
  return nullptr;
}

/// Take [start, end] out of what the owner holds; a lock in its middle leaves two.
void LockTable::cut(File &file, std::uint64_t owner, std::uint64_t start, std::uint64_t end) {
  for (auto it = file.held.begin(); it != file.held.end();) {
    const Lock old = *it;
    if (old.owner != owner || old.end < start || old.start > end) {
      ++it;
      continue;
    }
    it = file.held.erase(it);
    if (old.start < start) file.held.push_front({owner, old.type, old.start, start - 1, old.pid});
    if (old.end > end) file.held.push_front({owner, old.type, end + 1, old.end, old.pid});
  }
}

void LockTable::put(File &file, const Lock &wanted) {
  cut(file, wanted.owner, wanted.start, wanted.end);
  file.held.push_back(wanted);
}

std::optional<Lock> LockTable::conflict(fuse_ino_t ino, const Lock &wanted) {
  const std::lock_guard lock(mutex_);
  const Lock *found = find_conflict(files_[ino], wanted);
  return found ? std::optional(*found) : std::nullopt;
}

int LockTable::take(fuse_ino_t ino, const Lock &wanted) {
  const std::lock_guard lock(mutex_);
  File &file = files_[ino];
  if (find_conflict(file, wanted)) return EAGAIN;
  put(file, wanted);
  return 0;
}

void LockTable::take_or_wait(fuse_ino_t ino, const Lock &wanted, fuse_req_t req, Parking &parking) {
  const std::lock_guard lock(mutex_);
  File &file = files_[ino];
  if (find_conflict(file, wanted)) {
    const auto id = parking.park(req, [](fuse_req_t r) { fuse_reply_err(r, 0); });
    if (id != 0) file.waiters.push_back({wanted, id});
    return;
  }
  put(file, wanted);
  fuse_reply_err(req, 0);
}

int LockTable::take_blocking(fuse_ino_t ino, const Lock &wanted, fuse_req_t req) {
  std::unique_lock lock(mutex_);
  while (find_conflict(files_[ino], wanted)) {
    changed_.wait_for(lock, std::chrono::milliseconds(20));  // an INTERRUPT only sets a mark
    if (fuse_req_interrupted(req)) return EINTR;
  }
  put(files_[ino], wanted);
  return 0;
}

void LockTable::release(fuse_ino_t ino, std::uint64_t owner, std::uint64_t start, std::uint64_t end,
                        Parking &parking) {
  const std::lock_guard lock(mutex_);
  File &file = files_[ino];
  cut(file, owner, start, end);
  changed_.notify_all();
  for (auto it = file.waiters.begin(); it != file.waiters.end();) {
    if (find_conflict(file, it->wanted)) {
      ++it;
      continue;
    }
    put(file, it->wanted);
    if (!parking.answer(it->parked)) cut(file, it->wanted.owner, it->wanted.start, it->wanted.end);  // interrupted
    it = file.waiters.erase(it);
  }
}

}  // namespace protocol_test
