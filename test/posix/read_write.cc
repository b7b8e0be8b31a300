// SPDX-License-Identifier: LGPL-2.1-or-later
// Reading and writing: positions, vectors, flags, limits, append.
#include "check.hh"

#include <limits.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND 0x20
#endif

namespace posix {
namespace {

constexpr off_t kLargest = INT64_MAX;

std::string bytes(const char *buffer, long n) {
  return n < 0 ? error_name(errno) : text({buffer, static_cast<std::size_t>(n)});
}

/// `size` bytes, different at each offset up to 64 KiB.
std::string pattern(std::size_t size) {
  std::string data(size, '\0');
  for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<char>(i * 7 + (i >> 8) * 13);
  return data;
}

CHECK("read.short_at_end", "'cdef' '' ''") {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDONLY);
  char buffer[16];
  lseek(fd, 2, SEEK_SET);
  const std::string first = bytes(buffer, read(fd, buffer, sizeof buffer));
  const std::string second = bytes(buffer, read(fd, buffer, sizeof buffer));
  return seen({first, second, bytes(buffer, pread(fd, buffer, sizeof buffer, 1 << 20))});
}
CHECK("read.moves_position_pread_does_not", "3 3 6") {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDONLY);
  char buffer[16];
  must(read(fd, buffer, 3), "read");
  const std::string after_read = number(lseek(fd, 0, SEEK_CUR));
  must(pread(fd, buffer, 3, 1), "pread");
  const std::string after_pread = number(lseek(fd, 0, SEEK_CUR));
  must(read(fd, buffer, 3), "read");
  return seen({after_read, after_pread, number(lseek(fd, 0, SEEK_CUR))});
}
CHECK("read.nothing", "0 0") {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDWR);
  char c;
  return seen({number(read(fd, &c, 0)), number(write(fd, &c, 0))});
}
CHECK("read.bad_memory", "EFAULT EFAULT") {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDWR);
  return seen({ok(read(fd, bad_address(), 4)), ok(write(fd, bad_address(), 4))});
}
CHECK("read.negative_offset", "EINVAL EINVAL") {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDWR);
  char c = 0;
  return seen({ok(pread(fd, &c, 1, -1)), ok(pwrite(fd, &c, 1, -1))});
}
CHECK("read.hole_is_zero", "yes 1048580") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(pwrite(fd, "tail", 4, 1 << 20), "pwrite");
  std::string data(1 << 20, 'x');
  must(pread(fd, data.data(), data.size(), 0), "pread");
  return seen({yes(std::all_of(data.begin(), data.end(), [](char c) { return c == 0; })), size_of("f")});
}
CHECK("read.atime", "atime") {
  make_file("f", "abcdef");
  return times_changed("f", [] {
    const Fd fd("f", O_RDONLY);
    char c;
    must(read(fd, &c, 1), "read");
  });
}
CHECK("read.atime_relative", "none") {
  // relatime: newer than the last change already.
  make_file("f", "abcdef");
  const Fd fd("f", O_RDONLY);
  char c;
  wait_for_clock();
  must(read(fd, &c, 1), "read");
  stat_of("f");
  return times_changed("f", [&] { must(pread(fd, &c, 1, 2), "pread"); });
}
CHECK("read.zero_bytes_atime", "") {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDONLY);
  char c;
  return times_changed("f", [&] { must(read(fd, &c, 0), "read"); });
}

CHECK("write.extends", "3 3 'abcdef'") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  const std::string first = number(write(fd, "abc", 3));
  return seen({first, number(write(fd, "def", 3)), text(contents("f"))});
}
CHECK("write.over_the_middle", "'abXYef'") {
  make_file("f", "abcdef");
  const Fd fd("f", O_WRONLY);
  must(pwrite(fd, "XY", 2, 2), "pwrite");
  return text(contents("f"));
}
CHECK("write.times", "mtime ctime") {
  make_file("f", "abcdef");
  return times_changed("f", [] {
    const Fd fd("f", O_WRONLY);
    must(write(fd, "X", 1), "write");
  });
}
CHECK("write.zero_bytes_times", "none") {
  make_file("f", "abcdef");
  return times_changed("f", [] {
    const Fd fd("f", O_WRONLY);
    must(write(fd, "", 0), "write");
  });
}
CHECK("write.drops_setid", "0777 0777 2767 6777|0777 0777 0767 6777") {
  // Of users; set-group-ID without execution by the group meant mandatory locks, and stayed until Linux 6.2. Not of
  // root.
  for (const mode_t mode : {04777u, 06777u, 02767u})
    make_file("f" + octal(mode), "", mode);
  make_file("root", "", 06777);
  as_user([] {
    for (const char *name : {"f4777", "f6777", "f2767"}) {
      const Fd fd(name, O_WRONLY);
      must(write(fd, "x", 1), "write");
    }
    return std::string();
  });
  const Fd fd("root", O_WRONLY);
  must(write(fd, "x", 1), "write");
  return seen({mode_of("f4777"), mode_of("f6777"), mode_of("f2767"), mode_of("root")});
}
CHECK("write.beyond_largest_offset", "EFBIG EFBIG|EINVAL EFBIG|EINVAL EINVAL") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  return seen({ok(pwrite(fd, "ab", 2, kLargest)), ok(pwrite(fd, "ab", 2, kLargest - 1))});
}
CHECK("write.limit.nothing_fits", "EFBIG 100") {
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{100, 100};
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(ftruncate(fd, 100), "ftruncate");
  must(setrlimit(RLIMIT_FSIZE, &limit), "setrlimit");
  return seen({ok(pwrite(fd, "abc", 3, 100)), size_of("f")});
}
CHECK("write.limit.part_fits", "10 100") {
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{100, 100};
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(setrlimit(RLIMIT_FSIZE, &limit), "setrlimit");
  return seen({number(pwrite(fd, pattern(50).data(), 50, 90)), size_of("f")});
}
CHECK("write.limit.signal", "killed by SIGXFSZ") {
  return in_child([] {
    const rlimit limit{100, 100}, no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    const Fd fd("f", O_CREAT | O_RDWR, 0600);
    must(setrlimit(RLIMIT_FSIZE, &limit), "setrlimit");
    return ok(pwrite(fd, "abc", 3, 100));
  });
}
CHECK("write.limit.truncate", "EFBIG ok") {
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{100, 100};
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(setrlimit(RLIMIT_FSIZE, &limit), "setrlimit");
  return seen({ok(ftruncate(fd, 101)), ok(ftruncate(fd, 100))});
}
CHECK("write.limit.fallocate", "EFBIG") {
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{100, 100};
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(setrlimit(RLIMIT_FSIZE, &limit), "setrlimit");
  return ok(fallocate(fd, 0, 0, 200));
}
CHECK("write.large", "300000 yes") {
  const std::string data = pattern(300000);
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  const std::string wrote = number(write(fd, data.data(), data.size()));
  return seen({wrote, yes(contents("f") == data)});
}
CHECK("write.unaligned_pieces", "yes") {
  std::string model;
  const std::string data = pattern(9001);
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  for (std::size_t i = 0; i < 7; ++i) {
    const std::size_t at = i * 8191;
    must(pwrite(fd, data.data(), data.size(), static_cast<off_t>(at)), "pwrite");
    model.resize(std::max(model.size(), at + data.size()));
    model.replace(at, data.size(), data);
  }
  return yes(contents("f") == model);
}
CHECK("write.seen_by_others_at_once", "'new'") {
  make_file("f", "old");
  const Fd reader("f", O_RDONLY), writer("f", O_WRONLY);
  char buffer[8];
  must(pread(reader, buffer, sizeof buffer, 0), "pread");
  must(write(writer, "new", 3), "write");
  return bytes(buffer, pread(reader, buffer, sizeof buffer, 0));
}
CHECK("write.full.no_space", "ENOSPC ok") {
  // More than there is, promised at once; a small file fits again after.
  struct statvfs st;
  must(statvfs(".", &st), "statvfs");
  const off_t too_much = static_cast<off_t>((st.f_bfree + 1024) * st.f_frsize);
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  const std::string refused = ok(fallocate(fd, 0, 0, too_much));
  must(ftruncate(fd, 0), "ftruncate");
  return seen({refused, ok(write(fd, "abc", 3))});
}

CHECK("append.goes_to_end", "'abcdefX' 7") {
  make_file("f", "abcdef");
  const Fd fd("f", O_WRONLY | O_APPEND);
  lseek(fd, 1, SEEK_SET);
  must(write(fd, "X", 1), "write");
  return seen({text(contents("f")), number(lseek(fd, 0, SEEK_CUR))});
}
CHECK("append.pwrite_ignores_offset", "'abcdefX'") {
  make_file("f", "abcdef");
  const Fd fd("f", O_WRONLY | O_APPEND);
  must(pwrite(fd, "X", 1, 2), "pwrite");  // as Linux has it, see BUGS in pwrite(2)
  return text(contents("f"));
}
CHECK("append.set_later", "'Xbcdef' 'XbcdefY'") {
  make_file("f", "abcdef");
  const Fd fd("f", O_WRONLY);
  must(write(fd, "X", 1), "write");
  const std::string before = text(contents("f"));
  must(fcntl(fd, F_SETFL, O_APPEND), "fcntl");
  must(write(fd, "Y", 1), "write");
  return seen({before, text(contents("f"))});
}
CHECK("append.after_truncate_by_other", "'X'") {
  make_file("f", "abcdef");
  const Fd fd("f", O_WRONLY | O_APPEND);
  must(truncate("f", 0), "truncate");
  must(write(fd, "X", 1), "write");
  return text(contents("f"));
}
CHECK("append.processes_do_not_overwrite", "8000 yes") {
  constexpr int kProcesses = 4, kLines = 200, kLength = 10;
  make_file("f");
  for (int p = 0; p < kProcesses; ++p) {
    if (must(fork(), "fork") != 0) continue;
    const Fd fd("f", O_WRONLY | O_APPEND);
    const std::string line = std::string(kLength - 1, static_cast<char>('a' + p)) + "\n";
    for (int i = 0; i < kLines; ++i) must(write(fd, line.data(), line.size()), "write");
    _exit(0);
  }
  for (int p = 0; p < kProcesses; ++p) wait(nullptr);
  const std::string all = contents("f");
  bool whole = true;
  for (std::size_t i = 0; i + kLength <= all.size(); i += kLength)
    whole = whole && all.substr(i, kLength - 1) == std::string(kLength - 1, all[i]) && all[i + kLength - 1] == '\n';
  return seen({number(static_cast<long>(all.size())), yes(whole)});
}
CHECK("append.position_shared_after_fork", "'parent.child.'") {
  const Fd fd("f", O_CREAT | O_WRONLY, 0600);
  must(write(fd, "parent.", 7), "write");
  in_child([&] { return number(write(fd, "child.", 6)); });
  return text(contents("f"));
}

CHECK("vector.gathers_and_scatters", "6 6 'ab' 'cdef'") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  char one[2], two[8], a[] = "abc", d[] = "def";
  const iovec out[] = {{a, 3}, {nullptr, 0}, {d, 3}};
  const std::string wrote = number(writev(fd, out, 3));
  const iovec in[] = {{one, 2}, {two, 8}};
  const std::string got = number(preadv(fd, in, 2, 0));
  return seen({wrote, got, text({one, 2}), text({two, 4})});
}
CHECK("vector.counts", "0 EINVAL EINVAL") {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDWR);
  std::vector<iovec> many(IOV_MAX + 1);
  return seen({number(readv(fd, many.data(), 0)), ok(readv(fd, many.data(), IOV_MAX + 1)),
               ok(syscall(SYS_readv, int{fd}, many.data(), -1L))});
}
CHECK("vector.bad_memory_behind_good", "3 'abc'") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  char a[] = "abc";
  const iovec out[] = {{a, 3}, {bad_address(), 3}};
  return seen({number(writev(fd, out, 2)), text(contents("f"))});
}
CHECK("vector.length_overflow", "EINVAL") {
  make_file("f");
  const Fd fd("f", O_RDWR);
  char a[4];
  const iovec in[] = {{a, 4}, {a, SIZE_MAX / 2 + 1}};
  return ok(readv(fd, in, 2));
}

std::string with_flags(int flags, bool writing) {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDWR);
  char data[] = "XYZ";
  const iovec piece{data, 3};
  return number(writing ? pwritev2(fd, &piece, 1, 0, flags) : preadv2(fd, &piece, 1, 0, flags));
}
CHECK("flags.hipri", "3|EOPNOTSUPP") { return with_flags(RWF_HIPRI, false); }
CHECK("flags.dsync", "3") { return with_flags(RWF_DSYNC, true); }
CHECK("flags.sync", "3") { return with_flags(RWF_SYNC, true); }
CHECK("flags.nowait_read", "3|EAGAIN|EOPNOTSUPP") { return with_flags(RWF_NOWAIT, false); }
CHECK("flags.nowait_write", "3|EAGAIN|EOPNOTSUPP") { return with_flags(RWF_NOWAIT, true); }
CHECK("flags.unknown", "EOPNOTSUPP EOPNOTSUPP") {
  const std::string read_result = with_flags(1 << 30, false);
  unlink("f");
  return seen({read_result, with_flags(1 << 30, true)});
}
CHECK("flags.append", "3 'abcdefXYZ'") {
  const std::string wrote = with_flags(RWF_APPEND, true);
  return seen({wrote, text(contents("f"))});
}
CHECK("flags.append_at_position", "3 9") {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDWR);
  char data[] = "XYZ";
  const iovec piece{data, 3};
  const std::string wrote = number(pwritev2(fd, &piece, 1, -1, RWF_APPEND));
  return seen({wrote, number(lseek(fd, 0, SEEK_CUR))});
}
CHECK("flags.noappend", "3 'aXYZef'") {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDWR | O_APPEND);
  char data[] = "XYZ";
  const iovec piece{data, 3};
  const std::string wrote = number(pwritev2(fd, &piece, 1, 1, RWF_NOAPPEND));
  return seen({wrote, text(contents("f"))});
}

}  // namespace
}  // namespace posix
