// SPDX-License-Identifier: LGPL-2.1-or-later
// fuse_req_*(): what a filesystem may ask of a request, and interruption.
//
// The callback is the filesystem's and may take its locks, wait for its other
// requests, and reply. So interrupt_mutex is not held while it runs, and a reply
// never waits for it: a reply only keeps a callback from starting, as in libfuse.
// What does wait is fuse_req_interrupt_func(): having called it with no function,
// a filesystem knows that the old one is done.
#include "request.hh"

#include "reply.hh"
#include "session_core.hh"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>

namespace efuse {

/// A callback that runs now: on the stack of the thread that runs it, linked from
/// SessionCore::running_interrupts. By unique, not by request: that may be reused.
struct RunningInterrupt {
  std::uint64_t unique;
  std::thread::id thread;
  RunningInterrupt *next;
};

namespace {

void run_callback(std::unique_lock<std::mutex> &lock, fuse_req &req, std::uint64_t unique) noexcept {
  SessionCore &session = *req.session;
  RunningInterrupt self{unique, std::this_thread::get_id(), session.running_interrupts};
  session.running_interrupts = &self;
  const auto func = req.interrupt_func;
  void *const data = req.interrupt_data;

  lock.unlock();
  func(&req, data);
  lock.lock();

  RunningInterrupt **link = &session.running_interrupts;
  while (*link != &self) link = &(*link)->next;
  *link = self.next;
  session.interrupt_done.notify_all();
}

bool runs_elsewhere(const SessionCore &session, std::uint64_t unique) noexcept {
  for (auto *running = session.running_interrupts; running; running = running->next)
    if (running->unique == unique && running->thread != std::this_thread::get_id()) return true;
  return false;
}

}  // namespace

void mark_interrupted(fuse_req &req, std::uint64_t unique) noexcept {
  if (RawHandler *raw = req.session->raw_handler) return raw->interrupt(unique);
  std::unique_lock lock(req.session->interrupt_mutex);
  const std::uint64_t now = req.unique.load();
  // Another request's object by now, and that one is interrupted itself: keep its mark.
  if (now != unique && now != 0 && req.interrupted_unique.load() == now) return;
  req.interrupted_unique.store(unique);
  // A request that has a function is not finished: before_reply() takes it away first.
  if (now == unique && req.interrupt_func) run_callback(lock, req, unique);
}

void before_reply(fuse_req &req) noexcept {
  if (!req.has_interrupt_func.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(req.session->interrupt_mutex);
  req.interrupt_func = nullptr;
  req.interrupt_data = nullptr;
  req.has_interrupt_func.store(false, std::memory_order_relaxed);
}

namespace {

/// All of a small file in /proc, NUL-terminated. Returns 0 or -errno.
int read_all(const char *path, std::unique_ptr<char, decltype(&std::free)> &text) noexcept {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -EIO;
  std::size_t used = 0;
  std::size_t size = 0;
  int result = 0;
  for (;;) {
    if (size - used < 2) {
      size = size ? size * 2 : 4096;
      auto *larger = static_cast<char *>(std::realloc(text.get(), size));
      if (!larger) {
        result = -ENOMEM;
        break;
      }
      static_cast<void>(text.release());
      text.reset(larger);
    }
    const ssize_t got = read(fd, text.get() + used, size - used - 1);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) result = -EIO;
    if (got <= 0) break;
    used += static_cast<std::size_t>(got);
  }
  close(fd);
  if (result == 0) text.get()[used] = '\0';
  return result;
}

}  // namespace
}  // namespace efuse

extern "C" {

void *fuse_req_userdata(fuse_req_t req) { return req->session->userdata; }

struct fuse_session *efuse_req_session(fuse_req_t req) { return efuse::to_handle(*req->session); }

const struct fuse_ctx *fuse_req_ctx(fuse_req_t req) { return &req->ctx; }

int fuse_req_getgroups(fuse_req_t req, int size, gid_t list[]) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%ld/task/%ld/status", static_cast<long>(req->ctx.pid),
                static_cast<long>(req->ctx.pid));
  std::unique_ptr<char, decltype(&std::free)> text(nullptr, &std::free);
  if (const int error = efuse::read_all(path, text)) return error;

  static constexpr char kLabel[] = "\nGroups:";
  const char *at = std::strstr(text.get(), kLabel);
  if (!at) return -EIO;
  at += sizeof(kLabel) - 1;
  int count = 0;
  while (*at == ' ' || *at == '\t') {
    char *end = nullptr;
    const unsigned long group = std::strtoul(at, &end, 10);
    if (end == at) break;
    if (std::memchr(at, '\n', static_cast<std::size_t>(end - at))) break;  // a number of the next line
    if (count < size) list[count] = static_cast<gid_t>(group);
    ++count;
    at = end;
  }
  return count;
}

void fuse_req_interrupt_func(fuse_req_t req, fuse_interrupt_func_t func, void *data) {
  efuse::SessionCore &session = *req->session;
  const std::uint64_t unique = req->unique.load();
  std::unique_lock lock(session.interrupt_mutex);
  while (efuse::runs_elsewhere(session, unique)) session.interrupt_done.wait(lock);
  req->interrupt_func = func;
  req->interrupt_data = data;
  req->has_interrupt_func.store(func != nullptr, std::memory_order_relaxed);
  if (func && req->interrupted_unique.load() == unique) efuse::run_callback(lock, *req, unique);
}

int fuse_req_interrupted(fuse_req_t req) {
  return req->interrupted_unique.load() == req->unique.load() ? 1 : 0;
}

}  // extern "C"
