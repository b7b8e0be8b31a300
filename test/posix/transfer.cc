// SPDX-License-Identifier: LGPL-2.1-or-later
// Data between descriptors, and data to the disk: copy_file_range(), sendfile(),
// splice(), sync() and its kin, advice.
#include "check.hh"

#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cstdint>

namespace posix {
namespace {

struct Pipe {
  Pipe() {
    int both[2];
    must(pipe(both), "pipe");
    out = both[0];
    in = both[1];
  }
  int out, in;
};

std::string bytes_of(int fd) {
  char buffer[64];
  const ssize_t n = read(fd, buffer, sizeof buffer);
  return n < 0 ? error_name(errno) : text({buffer, static_cast<std::size_t>(n)});
}

/// copy_file_range() between files f and g.
std::string copy(int from, off_t from_at, int to, off_t to_at, std::size_t length, unsigned flags = 0) {
  return number(copy_file_range(from, &from_at, to, &to_at, length, flags));
}

CHECK("copy.whole", "6 'abcdef'") {
  make_file("f", "abcdef");
  make_file("g");
  return seen({copy(Fd("f"), 0, Fd("g"), 0, 100), text(contents("g"))});
}
CHECK("copy.part_into_middle", "2 'xxcdxx'") {
  make_file("f", "abcdef");
  make_file("g", "xxxxxx");
  return seen({copy(Fd("f"), 2, Fd("g"), 2, 2), text(contents("g"))});
}
CHECK("copy.behind_end", "0 3") {
  make_file("f", "abcdef");
  make_file("g", "xyz");
  return seen({copy(Fd("f"), 6, Fd("g"), 0, 10), size_of("g")});
}
CHECK("copy.creates_hole", "3 'x\\00\\00\\00abc'") {
  make_file("f", "abc");
  make_file("g", "x");
  return seen({copy(Fd("f"), 0, Fd("g"), 4, 3), text(contents("g"))});
}
CHECK("copy.positions_move", "4 4 4") {
  make_file("f", "abcdef");
  const Fd from("f"), to("g", O_CREAT | O_RDWR, 0600);
  const std::string n = number(copy_file_range(from, nullptr, to, nullptr, 4, 0));
  return seen({n, number(lseek(from, 0, SEEK_CUR)), number(lseek(to, 0, SEEK_CUR))});
}
CHECK("copy.same_file_apart", "3 'abcabc'") {
  make_file("f", "abcdef");
  const Fd fd("f");
  return seen({copy(fd, 0, fd, 3, 3), text(contents("f"))});
}
CHECK("copy.same_file_overlapping", "EINVAL") {
  make_file("f", "abcdef");
  const Fd fd("f");
  return copy(fd, 0, fd, 1, 3);
}
CHECK("copy.errors", "EINVAL EISDIR EBADF EINVAL EBADF") {
  make_file("f", "abcdef");
  make_dir("d");
  make_file("g");
  const Fd from("f"), to("g");
  const Pipe p;
  return seen({copy(from, 0, to, 0, 3, 1), ok(copy_file_range(Fd("d", O_RDONLY), nullptr, to, nullptr, 3, 0)),
               copy(from, 0, Fd("g", O_WRONLY | O_APPEND), 0, 3),
               ok(copy_file_range(from, nullptr, p.in, nullptr, 3, 0)), copy(from, 0, Fd("g", O_RDONLY), 0, 3)});
}
CHECK("copy.other_filesystem", "") {
  make_file("f", "abcdef");
  return copy(Fd("f"), 0, Fd(other_directory() + "/g", O_CREAT | O_RDWR, 0600), 0, 6);
}
CHECK("copy.of_dirty_pages", "9000 yes") {
  const std::string data(9000, 'q');
  const Fd from("f", O_CREAT | O_RDWR, 0600), to("g", O_CREAT | O_RDWR, 0600);
  must(write(from, data.data(), data.size()), "write");
  const std::string n = copy(from, 0, to, 0, data.size());
  return seen({n, yes(contents("g") == data)});
}
CHECK("copy.replaces_cached_pages", "'new' 3") {
  make_file("f", "new");
  make_file("g", "old");
  const Fd to("g");
  char before[3];
  must(pread(to, before, 3, 0), "pread");
  const std::string n = copy(Fd("f"), 0, to, 0, 3);
  return seen({text(contents("g")), n});
}
CHECK("copy.times", "mtime ctime") {
  make_file("f", "abc");
  make_file("g");
  return times_changed("g", [] { copy(Fd("f"), 0, Fd("g"), 0, 3); });
}
CHECK("copy.drops_setid", "0777") {
  make_file("f", "abc", 0666);
  make_file("g", "", 06777);
  as_user([] { return copy(Fd("f", O_RDONLY), 0, Fd("g"), 0, 3); });
  return mode_of("g");
}
CHECK("copy.large", "yes") {
  std::string data(5 << 20, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i >> 8);
  make_file("f", data);
  const Fd from("f"), to("g", O_CREAT | O_RDWR, 0600);
  while (must(copy_file_range(from, nullptr, to, nullptr, data.size(), 0), "copy_file_range") > 0) {
  }
  return yes(contents("g") == data);
}

CHECK("sendfile.to_pipe_and_position", "4 'abcd' 4") {
  make_file("f", "abcdef");
  const Fd fd("f");
  const Pipe p;
  const std::string n = number(sendfile(p.in, fd, nullptr, 4));
  return seen({n, bytes_of(p.out), number(lseek(fd, 0, SEEK_CUR))});
}
CHECK("sendfile.offset", "3 'def' 6 0") {
  make_file("f", "abcdef");
  const Fd fd("f");
  const Pipe p;
  off_t at = 3;
  const std::string n = number(sendfile(p.in, fd, &at, 100));
  return seen({n, bytes_of(p.out), number(at), number(lseek(fd, 0, SEEK_CUR))});
}
CHECK("sendfile.to_file", "6 'abcdef'") {
  make_file("f", "abcdef");
  make_file("g");
  return seen({number(sendfile(Fd("g"), Fd("f"), nullptr, 100)), text(contents("g"))});
}
CHECK("sendfile.to_socket", "6 'abcdef'") {
  make_file("f", "abcdef");
  int ends[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
  const std::string n = number(sendfile(ends[0], Fd("f"), nullptr, 6));
  return seen({n, bytes_of(ends[1])});
}
CHECK("sendfile.errors", "EINVAL EBADF EINVAL|EBADF EBADF EINVAL|EINVAL EBADF ESPIPE") {
  make_file("f", "abcdef");
  make_file("g");
  const Pipe p;
  off_t negative = -1;
  return seen({ok(sendfile(Fd("g"), Fd("f"), &negative, 3)), ok(sendfile(Fd("g", O_RDONLY), Fd("f"), nullptr, 3)),
               ok(sendfile(Fd("g"), p.out, &negative, 3))});
}
CHECK("sendfile.to_appending_file", "EINVAL") {
  make_file("f", "abcdef");
  make_file("g");
  return ok(sendfile(Fd("g", O_WRONLY | O_APPEND), Fd("f"), nullptr, 3));
}

CHECK("splice.from_file", "4 'abcd' 4") {
  make_file("f", "abcdef");
  const Fd fd("f");
  const Pipe p;
  const std::string n = number(splice(fd, nullptr, p.in, nullptr, 4, 0));
  return seen({n, bytes_of(p.out), number(lseek(fd, 0, SEEK_CUR))});
}
CHECK("splice.from_file_at_offset", "3 'def'") {
  make_file("f", "abcdef");
  const Pipe p;
  loff_t at = 3;
  const std::string n = number(splice(Fd("f"), &at, p.in, nullptr, 100, 0));
  return seen({n, bytes_of(p.out)});
}
CHECK("splice.to_file", "4 'ab1234'") {
  make_file("f", "abcdef");
  const Pipe p;
  must(write(p.in, "1234", 4), "write");
  loff_t at = 2;
  return seen({number(splice(p.out, nullptr, Fd("f"), &at, 100, SPLICE_F_MOVE)), text(contents("f"))});
}
CHECK("splice.large_through_pipe", "yes") {
  std::string data(300000, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 11 + (i >> 9));
  make_file("f", data);
  const Fd from("f"), to("g", O_CREAT | O_RDWR, 0600);
  const Pipe p;
  for (;;) {
    long n = must(splice(from, nullptr, p.in, nullptr, 65536, 0), "splice");
    if (n == 0) break;
    while (n > 0) n -= must(splice(p.out, nullptr, to, nullptr, static_cast<std::size_t>(n), SPLICE_F_MOVE), "splice");
  }
  return yes(contents("g") == data);
}
CHECK("splice.errors", "EINVAL ESPIPE EINVAL") {
  make_file("f", "abcdef");
  make_file("g");
  const Pipe p;
  loff_t at = 0;
  return seen({ok(splice(Fd("f"), nullptr, Fd("g"), nullptr, 3, 0)), ok(splice(Fd("f"), nullptr, p.in, &at, 3, 0)),
               ok(splice(p.out, nullptr, Fd("g", O_WRONLY | O_APPEND), nullptr, 3, 0))});
}
CHECK("splice.unlinked_while_in_pipe", "'abcdef'") {
  make_file("f", "abcdef");
  Fd fd("f");
  const Pipe p;
  must(splice(fd, nullptr, p.in, nullptr, 6, 0), "splice");
  must(unlink("f"), "unlink");
  fd.close();
  return bytes_of(p.out);
}
CHECK("tee_and_splice", "6 'abcdef' 'abcdef'") {
  make_file("f", "abcdef");
  make_file("g");
  const Pipe one, two;
  must(splice(Fd("f"), nullptr, one.in, nullptr, 6, 0), "splice");
  const std::string n = number(tee(one.out, two.in, 6, 0));
  must(splice(one.out, nullptr, Fd("g"), nullptr, 6, 0), "splice");
  return seen({n, bytes_of(two.out), text(contents("g"))});
}
CHECK("vmsplice_to_file", "6 6 'memory'") {
  make_file("f");
  const Pipe p;
  char data[] = "memory";
  const iovec piece{data, 6};
  const std::string n = number(vmsplice(p.in, &piece, 1, 0));
  return seen({n, number(splice(p.out, nullptr, Fd("f"), nullptr, 6, 0)), text(contents("f"))});
}

CHECK("sync.calls", "ok ok ok ok ok") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600), dir(".", O_RDONLY);
  must(write(fd, "abc", 3), "write");
  return seen({ok(fsync(fd)), ok(fdatasync(fd)), ok(syncfs(fd)), ok(fsync(dir)), ok(fdatasync(dir))});
}
CHECK("sync.file_range", "ok EINVAL EINVAL") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(write(fd, "abc", 3), "write");
  constexpr unsigned all = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  return seen({ok(sync_file_range(fd, 0, 0, all)), ok(sync_file_range(fd, -1, 0, all)),
               ok(sync_file_range(fd, 0, 0, 1 << 20))});
}
CHECK("sync.fifo", "EINVAL ESPIPE|EINVAL EINVAL") {
  must(mkfifo("p", 0600), "mkfifo");
  const Fd fd("p", O_RDWR);
  return seen({ok(fsync(fd)), ok(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE))});
}
CHECK("sync.unlinked", "ok") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(write(fd, "abc", 3), "write");
  must(unlink("f"), "unlink");
  return ok(fsync(fd));
}
CHECK("advice.kinds", "0 0 0 0 0 0 22") {
  make_file("f", "abcdef");
  const Fd fd("f");
  std::string all;
  for (const int advice : {POSIX_FADV_NORMAL, POSIX_FADV_SEQUENTIAL, POSIX_FADV_RANDOM, POSIX_FADV_NOREUSE,
                           POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED, 77})
    all += " " + number(posix_fadvise(fd, 0, 0, advice));
  return all.substr(1);
}
CHECK("advice.negative_length", "22") {
  make_file("f", "abcdef");
  return number(posix_fadvise(Fd("f"), 0, -1, POSIX_FADV_NORMAL));
}
CHECK("advice.pipe", "29") {
  must(mkfifo("p", 0600), "mkfifo");
  return number(posix_fadvise(Fd("p", O_RDWR), 0, 0, POSIX_FADV_NORMAL));
}
CHECK("advice.readahead", "") {
  make_file("f", std::string(100000, 'a'));
  return ok(readahead(Fd("f"), 0, 100000));
}

}  // namespace
}  // namespace posix
