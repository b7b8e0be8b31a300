// SPDX-License-Identifier: LGPL-2.1-or-later
// Unbuffered and asynchronous input and output: O_DIRECT, io_submit(), io_uring.
#include "check.hh"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace posix {
namespace {

constexpr std::size_t kBlock = 4096;

struct Free {
  void operator()(void *p) const noexcept { std::free(p); }
};
using Block = std::unique_ptr<char, Free>;

/// `count` aligned blocks, each filled with a letter of its own.
Block blocks(std::size_t count, char first = 'a') {
  Block block(static_cast<char *>(std::aligned_alloc(kBlock, count * kBlock)));
  for (std::size_t i = 0; i < count; ++i) std::memset(block.get() + i * kBlock, first + static_cast<char>(i), kBlock);
  return block;
}

/// The first letters of the blocks of a file.
std::string letters(const std::string &path) {
  const std::string all = contents(path);
  std::string out;
  for (std::size_t at = 0; at < all.size(); at += kBlock) out += all[at] == 0 ? '.' : all[at];
  return out;
}

// O_DIRECT

CHECK("direct.write_and_read", "8192 8192 ab yes") {
  const Fd fd("f", O_CREAT | O_RDWR | O_DIRECT, 0600);
  const Block out = blocks(2), in = blocks(2, 'x');
  const std::string wrote = number(write(fd, out.get(), 2 * kBlock)), got = number(pread(fd, in.get(), 2 * kBlock, 0));
  return seen({wrote, got, letters("f"), yes(std::memcmp(out.get(), in.get(), 2 * kBlock) == 0)});
}
CHECK("direct.read_past_end_is_short", "6 0") {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDONLY | O_DIRECT);
  const Block in = blocks(1);
  const std::string got = number(pread(fd, in.get(), kBlock, 0));
  return seen({got, number(pread(fd, in.get(), kBlock, kBlock))});
}
CHECK("direct.unaligned", "") {
  // Filesystems are free to take it.
  const Fd fd("f", O_CREAT | O_RDWR | O_DIRECT, 0600);
  const Block out = blocks(2);
  return seen({ok(pwrite(fd, out.get() + 1, kBlock, 0)), ok(pwrite(fd, out.get(), 100, 0)),
               ok(pwrite(fd, out.get(), kBlock, 7))});
}
CHECK("direct.sees_buffered_writes", "b") {
  make_file("f", std::string(kBlock, 'a'));
  const Fd buffered("f"), direct("f", O_RDONLY | O_DIRECT);
  must(write(buffered, std::string(kBlock, 'b').data(), kBlock), "write");
  const Block in = blocks(1);
  must(pread(direct, in.get(), kBlock, 0), "pread");
  return {in.get()[0]};
}
CHECK("direct.seen_by_buffered_reads", "a z") {
  make_file("f", std::string(kBlock, 'a'));
  const Fd buffered("f"), direct("f", O_RDWR | O_DIRECT);
  char before, after;
  must(pread(buffered, &before, 1, 0), "pread");
  const Block out = blocks(1, 'z');
  must(pwrite(direct, out.get(), kBlock, 0), "pwrite");
  must(pread(buffered, &after, 1, 0), "pread");
  return seen({{before}, {after}});
}
CHECK("direct.seen_by_mapping", "a z") {
  make_file("f", std::string(kBlock, 'a'));
  const Fd direct("f", O_RDWR | O_DIRECT);
  const auto *memory =
      static_cast<const volatile char *>(must(mmap(nullptr, kBlock, PROT_READ, MAP_SHARED, direct, 0), "mmap"));
  const char before = memory[0];
  const Block out = blocks(1, 'z');
  must(pwrite(direct, out.get(), kBlock, 0), "pwrite");
  return seen({{before}, {memory[0]}});
}
CHECK("direct.append", "8192 ab") {
  const Fd fd("f", O_CREAT | O_WRONLY | O_DIRECT | O_APPEND, 0600);
  const Block out = blocks(2);
  must(write(fd, out.get(), kBlock), "write");
  must(pwrite(fd, out.get() + kBlock, kBlock, 0), "pwrite");
  return seen({size_of("f"), letters("f")});
}
CHECK("direct.into_hole", "..a") {
  const Fd fd("f", O_CREAT | O_RDWR | O_DIRECT, 0600);
  must(pwrite(fd, blocks(1).get(), kBlock, 2 * kBlock), "pwrite");
  return letters("f");
}
CHECK("direct.read_hole", "yes") {
  const Fd fd("f", O_CREAT | O_RDWR | O_DIRECT, 0600);
  must(ftruncate(fd, 4 * kBlock), "ftruncate");
  const Block in = blocks(4);
  must(pread(fd, in.get(), 4 * kBlock, 0), "pread");
  return yes(std::all_of(in.get(), in.get() + 4 * kBlock, [](char c) { return c == 0; }));
}
CHECK("direct.large", "4194304 yes") {
  constexpr std::size_t count = 1024;
  const Fd fd("f", O_CREAT | O_RDWR | O_DIRECT, 0600);
  Block out = blocks(count), in = blocks(count, '0');
  const std::string wrote = number(write(fd, out.get(), count * kBlock));
  must(pread(fd, in.get(), count * kBlock, 0), "pread");
  return seen({wrote, yes(std::memcmp(out.get(), in.get(), count * kBlock) == 0)});
}
CHECK("direct.vector", "8192 ab") {
  const Fd fd("f", O_CREAT | O_RDWR | O_DIRECT, 0600);
  const Block one = blocks(1), two = blocks(1, 'b');
  const iovec pieces[] = {{one.get(), kBlock}, {two.get(), kBlock}};
  const std::string wrote = number(writev(fd, pieces, 2));
  return seen({wrote, letters("f")});
}
CHECK("direct.tail_of_file", "") {
  make_file("f", std::string(kBlock + 100, 'q'));
  const Fd fd("f", O_RDONLY | O_DIRECT);
  const Block in = blocks(2);
  return number(pread(fd, in.get(), 2 * kBlock, 0));
}

// io_submit()

std::string submit_one(iocb &control) {
  aio_context_t context = 0;
  must(syscall(SYS_io_setup, 8, &context), "io_setup");
  iocb *list[] = {&control};
  const long n = syscall(SYS_io_submit, context, 1L, list);
  if (n != 1) return ok(n);
  io_event event;
  must(syscall(SYS_io_getevents, context, 1L, 1L, &event, nullptr), "io_getevents");
  must(syscall(SYS_io_destroy, context), "io_destroy");
  return event.res < 0 ? error_name(static_cast<int>(-event.res)) : number(static_cast<long>(event.res));
}

iocb control(int fd, int operation, void *data, std::size_t length, off_t at) {
  iocb c{};
  c.aio_fildes = static_cast<std::uint32_t>(fd);
  c.aio_lio_opcode = static_cast<std::uint16_t>(operation);
  c.aio_buf = reinterpret_cast<std::uint64_t>(data);
  c.aio_nbytes = length;
  c.aio_offset = at;
  return c;
}

CHECK("aio.write_and_read", "6 6 'abcdef'") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  char out[] = "abcdef", in[6];
  iocb write_it = control(fd, IOCB_CMD_PWRITE, out, 6, 0), read_it = control(fd, IOCB_CMD_PREAD, in, 6, 0);
  const std::string wrote = submit_one(write_it), got = submit_one(read_it);
  return seen({wrote, got, text({in, 6})});
}
CHECK("aio.direct", "4096 4096 yes") {
  const Fd fd("f", O_CREAT | O_RDWR | O_DIRECT, 0600);
  const Block out = blocks(1), in = blocks(1, 'x');
  iocb write_it = control(fd, IOCB_CMD_PWRITE, out.get(), kBlock, 0),
       read_it = control(fd, IOCB_CMD_PREAD, in.get(), kBlock, 0);
  const std::string wrote = submit_one(write_it), got = submit_one(read_it);
  return seen({wrote, got, yes(std::memcmp(out.get(), in.get(), kBlock) == 0)});
}
CHECK("aio.many_direct", "16 yes") {
  constexpr int kCount = 16;
  const Fd fd("f", O_CREAT | O_RDWR | O_DIRECT, 0600);
  const Block out = blocks(kCount);
  aio_context_t context = 0;
  must(syscall(SYS_io_setup, kCount, &context), "io_setup");
  iocb controls[kCount], *list[kCount];
  for (int i = 0; i < kCount; ++i) {
    controls[i] = control(fd, IOCB_CMD_PWRITE, out.get() + static_cast<std::size_t>(i) * kBlock, kBlock,
                          i * static_cast<off_t>(kBlock));
    list[i] = &controls[i];
  }
  must(syscall(SYS_io_submit, context, static_cast<long>(kCount), list), "io_submit");
  io_event events[kCount];
  const std::string done = number(
      syscall(SYS_io_getevents, context, static_cast<long>(kCount), static_cast<long>(kCount), events, nullptr));
  return seen({done, yes(letters("f") == "abcdefghijklmnop")});
}
CHECK("aio.sync", "0 0") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  iocb sync = control(fd, IOCB_CMD_FSYNC, nullptr, 0, 0), data = control(fd, IOCB_CMD_FDSYNC, nullptr, 0, 0);
  return seen({submit_one(sync), submit_one(data)});
}
CHECK("aio.read_only_descriptor", "EBADF") {
  make_file("f", "abc");
  const Fd fd("f", O_RDONLY);
  char out[] = "x";
  iocb write_it = control(fd, IOCB_CMD_PWRITE, out, 1, 0);
  return submit_one(write_it);
}
CHECK("aio.bad_memory", "EFAULT") {
  make_file("f", "abc");
  const Fd fd("f");
  iocb read_it = control(fd, IOCB_CMD_PREAD, bad_address(), 3, 0);
  return submit_one(read_it);
}

// io_uring, without liburing: one entry at a time.

class Uring {
 public:
  Uring() {
    io_uring_params p{};
    const long fd = syscall(SYS_io_uring_setup, 4, &p);
    if (fd == -1) throw Skip("io_uring_setup: " + error_name(errno));
    fd_ = static_cast<int>(fd);
    const std::size_t rings = std::max<std::size_t>(p.sq_off.array + p.sq_entries * sizeof(std::uint32_t),
                                                    p.cq_off.cqes + p.cq_entries * sizeof(io_uring_cqe));
    const auto map = [&](std::size_t length, off_t what) {
      return static_cast<char *>(must(mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, what), "mmap"));
    };
    char *sq = map(rings, IORING_OFF_SQ_RING), *cq = map(rings, IORING_OFF_CQ_RING);
    entries_ = reinterpret_cast<io_uring_sqe *>(map(p.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES));
    sq_tail_ = reinterpret_cast<std::uint32_t *>(sq + p.sq_off.tail);
    sq_mask_ = *reinterpret_cast<std::uint32_t *>(sq + p.sq_off.ring_mask);
    sq_array_ = reinterpret_cast<std::uint32_t *>(sq + p.sq_off.array);
    cq_head_ = reinterpret_cast<std::uint32_t *>(cq + p.cq_off.head);
    cq_mask_ = *reinterpret_cast<std::uint32_t *>(cq + p.cq_off.ring_mask);
    completions_ = reinterpret_cast<io_uring_cqe *>(cq + p.cq_off.cqes);
  }

  /// Submit, wait, and say how it ended.
  std::string run(const std::function<void(io_uring_sqe &)> &fill) {
    const std::uint32_t tail = *sq_tail_, slot = tail & sq_mask_;
    entries_[slot] = {};
    fill(entries_[slot]);
    sq_array_[slot] = slot;
    std::atomic_ref(*sq_tail_).store(tail + 1, std::memory_order_release);
    must(syscall(SYS_io_uring_enter, fd_, 1, 1, IORING_ENTER_GETEVENTS, nullptr, std::size_t{0}), "io_uring_enter");
    const std::uint32_t head = *cq_head_;
    const int result = completions_[head & cq_mask_].res;
    std::atomic_ref(*cq_head_).store(head + 1, std::memory_order_release);
    return result < 0 ? error_name(-result) : number(result);
  }

 private:
  int fd_;
  io_uring_sqe *entries_;
  std::uint32_t *sq_tail_, *sq_array_, *cq_head_, sq_mask_, cq_mask_;
  io_uring_cqe *completions_;
};

void fill_rw(io_uring_sqe &e, int operation, int fd, const void *data, unsigned length, std::uint64_t at) {
  e.opcode = static_cast<std::uint8_t>(operation);
  e.fd = fd;
  e.addr = reinterpret_cast<std::uint64_t>(data);
  e.len = length;
  e.off = at;
}

CHECK("uring.write_and_read", "6 6 'abcdef'") {
  Uring ring;
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  char in[6];
  const std::string wrote = ring.run([&](io_uring_sqe &e) { fill_rw(e, IORING_OP_WRITE, fd, "abcdef", 6, 0); });
  const std::string got = ring.run([&](io_uring_sqe &e) { fill_rw(e, IORING_OP_READ, fd, in, 6, 0); });
  return seen({wrote, got, text({in, 6})});
}
CHECK("uring.direct", "8192 8192 yes") {
  Uring ring;
  const Fd fd("f", O_CREAT | O_RDWR | O_DIRECT, 0600);
  const Block out = blocks(2), in = blocks(2, 'x');
  const std::string wrote =
      ring.run([&](io_uring_sqe &e) { fill_rw(e, IORING_OP_WRITE, fd, out.get(), 2 * kBlock, 0); });
  const std::string got = ring.run([&](io_uring_sqe &e) { fill_rw(e, IORING_OP_READ, fd, in.get(), 2 * kBlock, 0); });
  return seen({wrote, got, yes(std::memcmp(out.get(), in.get(), 2 * kBlock) == 0)});
}
CHECK("uring.open_fsync_close", "yes 0 0") {
  Uring ring;
  make_file("f");
  const std::string opened = ring.run([](io_uring_sqe &e) {
    fill_rw(e, IORING_OP_OPENAT, AT_FDCWD, "f", 0, 0);
    e.open_flags = O_RDWR;
  });
  const int fd = std::atoi(opened.c_str());
  const std::string synced = ring.run([&](io_uring_sqe &e) { fill_rw(e, IORING_OP_FSYNC, fd, nullptr, 0, 0); });
  return seen(
      {yes(fd > 2), synced, ring.run([&](io_uring_sqe &e) { fill_rw(e, IORING_OP_CLOSE, fd, nullptr, 0, 0); })});
}
CHECK("uring.open_absent", "ENOENT") {
  Uring ring;
  return ring.run([](io_uring_sqe &e) { fill_rw(e, IORING_OP_OPENAT, AT_FDCWD, "none", 0, 0); });
}
CHECK("uring.names", "0 0 0 0 ENOENT") {
  Uring ring;
  make_file("f");
  const auto at = [&](int operation, const char *name, const char *other, unsigned length) {
    return ring.run([&](io_uring_sqe &e) {
      fill_rw(e, operation, AT_FDCWD, name, length, reinterpret_cast<std::uint64_t>(other));
    });
  };
  const auto cwd = static_cast<unsigned>(AT_FDCWD);
  const std::string made = at(IORING_OP_MKDIRAT, "d", nullptr, 0700);
  const std::string moved = at(IORING_OP_RENAMEAT, "f", "d/g", cwd);
  const std::string linked = at(IORING_OP_LINKAT, "d/g", "h", cwd);
  const std::string removed = at(IORING_OP_UNLINKAT, "h", nullptr, 0);
  return seen({made, moved, linked, removed, at(IORING_OP_UNLINKAT, "h", nullptr, 0)});
}
CHECK("uring.statx", "0 3") {
  Uring ring;
  make_file("f", "abc");
  struct statx stx {};
  const std::string done = ring.run([&](io_uring_sqe &e) {
    fill_rw(e, IORING_OP_STATX, AT_FDCWD, "f", STATX_BASIC_STATS, reinterpret_cast<std::uint64_t>(&stx));
  });
  return seen({done, number(static_cast<long>(stx.stx_size))});
}
CHECK("uring.fallocate", "0 8192") {
  Uring ring;
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  const std::string done = ring.run([&](io_uring_sqe &e) {
    fill_rw(e, IORING_OP_FALLOCATE, fd, nullptr, 0, 0);
    e.addr = 8192;  // the length
  });
  return seen({done, size_of("f")});
}
CHECK("uring.splice", "6 6 'abcdef'") {
  Uring ring;
  make_file("f", "abcdef");
  make_file("g");
  int ends[2];
  must(pipe(ends), "pipe");
  const Fd from("f"), to("g");
  const auto move = [&](int in, std::uint64_t in_at, int out, std::uint64_t out_at) {
    return ring.run([&](io_uring_sqe &e) {
      fill_rw(e, IORING_OP_SPLICE, out, nullptr, 6, out_at);
      e.splice_off_in = in_at;
      e.splice_fd_in = in;
    });
  };
  const std::string out = move(from, 0, ends[1], UINT64_MAX);
  return seen({out, move(ends[0], UINT64_MAX, to, 0), text(contents("g"))});
}
CHECK("uring.poll_file", "") {
  Uring ring;
  make_file("f");
  const Fd fd("f");
  return ring.run([&](io_uring_sqe &e) {
    fill_rw(e, IORING_OP_POLL_ADD, fd, nullptr, 0, 0);
    e.poll32_events = 1;
  });
}

}  // namespace
}  // namespace posix
