// SPDX-License-Identifier: LGPL-2.1-or-later
// lseek(), truncate(), fallocate(): positions, sizes, holes.
#include "check.hh"

#include <linux/falloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace posix {
namespace {

constexpr off_t kPage = 4096;

/// Data in the pages named by 'd', holes in those by '.'.
Fd paged(const char *pages) {
  Fd fd("f", O_CREAT | O_RDWR, 0600);
  const std::string page(kPage, 'd');
  off_t at = 0;
  for (; pages[at] != '\0'; ++at)
    if (pages[at] == 'd') must(pwrite(fd, page.data(), page.size(), at * kPage), "pwrite");
  must(ftruncate(fd, at * kPage), "ftruncate");
  return fd;
}

/// 'd' for a page of 'd's, '.' for one of zeros, '?' for another.
std::string pages_of(const std::string &path) {
  const std::string all = contents(path);
  std::string shape;
  for (std::size_t at = 0; at < all.size(); at += kPage) {
    const std::string page = all.substr(at, kPage);
    const bool same = std::all_of(page.begin(), page.end(), [&](char c) { return c == page[0]; });
    shape += !same ? '?' : page[0] == 'd' ? 'd' : page[0] == 0 ? '.' : '?';
  }
  return shape;
}

CHECK("lseek.set_cur_end", "5 7 4") {
  make_file("f", "abcdef");
  const Fd fd("f");
  const std::string set = number(lseek(fd, 5, SEEK_SET)), cur = number(lseek(fd, 2, SEEK_CUR));
  return seen({set, cur, number(lseek(fd, -2, SEEK_END))});
}
CHECK("lseek.errors", "EINVAL EINVAL EINVAL EINVAL") {
  make_file("f", "abcdef");
  const Fd fd("f");
  return seen({ok(lseek(fd, -1, SEEK_SET)), ok(lseek(fd, -7, SEEK_END)), ok(lseek(fd, 0, 99)),
               ok(lseek(fd, -1, SEEK_CUR))});
}
CHECK("lseek.far_behind_end", "1099511627776 0") {
  make_file("f", "abcdef");
  const Fd fd("f");
  char c;
  return seen({number(lseek(fd, off_t{1} << 40, SEEK_SET)), number(read(fd, &c, 1))});
}
CHECK("lseek.overflow", "EOVERFLOW|EINVAL") {
  make_file("f", "abcdef");
  const Fd fd("f");
  lseek(fd, 1, SEEK_SET);
  return ok(lseek(fd, INT64_MAX, SEEK_CUR));
}
CHECK("lseek.pipe", "ESPIPE ESPIPE") {
  must(mkfifo("p", 0600), "mkfifo");
  const Fd fd("p", O_RDWR);
  char c;
  return seen({ok(lseek(fd, 0, SEEK_SET)), ok(pread(fd, &c, 1, 0))});
}
CHECK("lseek.end_after_write_by_other", "9") {
  make_file("f", "abcdef");
  const Fd fd("f"), other("f", O_WRONLY | O_APPEND);
  lseek(fd, 0, SEEK_END);
  must(write(other, "ghi", 3), "write");
  return number(lseek(fd, 0, SEEK_END));
}
CHECK("lseek.data_hole.sparse", "4096 8192 12288 16384 0") {
  const Fd fd = paged(".d.d");
  return seen({number(lseek(fd, 0, SEEK_DATA)), number(lseek(fd, 4096, SEEK_HOLE)), number(lseek(fd, 8192, SEEK_DATA)),
               number(lseek(fd, 12288, SEEK_HOLE)), number(lseek(fd, 0, SEEK_HOLE))});
}
CHECK("lseek.data_hole.inside", "5000 8192 8192") {
  const Fd fd = paged(".d.d");
  return seen(
      {number(lseek(fd, 5000, SEEK_DATA)), number(lseek(fd, 5000, SEEK_HOLE)), number(lseek(fd, 8192, SEEK_HOLE))});
}
CHECK("lseek.data_hole.at_end", "ENXIO ENXIO ENXIO") {
  make_file("f", "abcdef");
  const Fd fd("f");
  return seen({ok(lseek(fd, 6, SEEK_DATA)), ok(lseek(fd, 6, SEEK_HOLE)), ok(lseek(fd, -1, SEEK_DATA))});
}
CHECK("lseek.data_hole.implicit_hole_at_end", "6 0") {
  make_file("f", "abcdef");
  const Fd fd("f");
  return seen({number(lseek(fd, 0, SEEK_HOLE)), number(lseek(fd, 0, SEEK_DATA))});
}
CHECK("lseek.data_hole.no_data", "ENXIO 0") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(ftruncate(fd, 100000), "ftruncate");
  return seen({ok(lseek(fd, 0, SEEK_DATA)), number(lseek(fd, 0, SEEK_HOLE))});
}
CHECK("lseek.data_hole.empty", "ENXIO ENXIO") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  return seen({ok(lseek(fd, 0, SEEK_DATA)), ok(lseek(fd, 0, SEEK_HOLE))});
}
CHECK("lseek.data_hole.mapped_write", "4096") {
  // What a mapping has dirtied is data.
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(ftruncate(fd, 3 * kPage), "ftruncate");
  auto *memory = static_cast<char *>(must(mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), "mmap"));
  memory[kPage] = 'd';
  must(msync(memory, 3 * kPage, MS_SYNC), "msync");
  return number(lseek(fd, 0, SEEK_DATA));
}
CHECK("lseek.data_hole.moves_position", "4096 4096") {
  const Fd fd = paged(".d");
  const std::string found = number(lseek(fd, 0, SEEK_DATA));
  return seen({found, number(lseek(fd, 0, SEEK_CUR))});
}
CHECK("lseek.directory", "0 ok") {
  const Fd fd(".", O_RDONLY);
  return seen({number(lseek(fd, 0, SEEK_SET)), ok(lseek(fd, 1, SEEK_SET))});
}

CHECK("truncate.shorter", "ok 'abc'") {
  make_file("f", "abcdef");
  return seen({ok(truncate("f", 3)), text(contents("f"))});
}
CHECK("truncate.longer", "ok 'abc\\00\\00'") {
  make_file("f", "abc");
  return seen({ok(truncate("f", 5)), text(contents("f"))});
}
CHECK("truncate.cut_part_reads_zero", "'ab\\00\\00\\00\\00'") {
  make_file("f", "abcdef");
  must(truncate("f", 2), "truncate");
  must(truncate("f", 6), "truncate");
  return text(contents("f"));
}
CHECK("truncate.cut_page_reads_zero", "?.") {
  const Fd fd = paged("dd");
  must(ftruncate(fd, 100), "ftruncate");
  must(ftruncate(fd, 2 * kPage), "ftruncate");
  return pages_of("f");
}
CHECK("truncate.errors", "EINVAL EINVAL EINVAL") {
  make_file("f", "abc");
  const Fd reader("f", O_RDONLY), both("f");
  return seen({ok(truncate("f", -1)), ok(ftruncate(reader, 1)), ok(ftruncate(both, -1))});
}
CHECK("truncate.no_permission", "EACCES") {
  make_file("f", "abc", 0444);
  return as_user([] { return ok(truncate("f", 1)); });
}
CHECK("truncate.descriptor_outlives_permission", "ok 1") {
  make_file("f", "abc");
  must(chown("f", kUser, kGroup), "chown");
  return as_user([] {
    const Fd fd("f", O_RDWR);
    must(chmod("f", 0400), "chmod");
    return seen({ok(ftruncate(fd, 1)), size_of("f")});
  });
}
CHECK("truncate.directory", "EISDIR") { return ok(truncate(".", 0)); }
CHECK("truncate.fifo", "EINVAL") {
  must(mkfifo("p", 0600), "mkfifo");
  return ok(truncate("p", 0));
}
CHECK("truncate.huge", "ok 4611686018427387904|EFBIG 3") {
  make_file("f", "abc");
  return seen({ok(truncate("f", off_t{1} << 62)), size_of("f")});
}
CHECK("truncate.times", "mtime ctime") {
  make_file("f", "abc");
  return times_changed("f", [] { must(truncate("f", 1), "truncate"); });
}
CHECK("truncate.same_size_times", "mtime ctime") {
  make_file("f", "abc");
  return times_changed("f", [] { must(truncate("f", 3), "truncate"); });
}
CHECK("truncate.descriptor_same_size_times", "mtime ctime|none") {
  make_file("f", "abc");
  const Fd fd("f");
  return times_changed("f", [&] { must(ftruncate(fd, 3), "ftruncate"); });
}
CHECK("truncate.drops_setid", "ok 0777") {
  make_file("f", "abc", 06777);
  const std::string done = as_user([] { return ok(truncate("f", 1)); });
  return seen({done, mode_of("f")});
}
CHECK("truncate.frees_blocks", "yes 0") {
  const Fd fd = paged("dddd");
  must(fsync(fd), "fsync");
  const bool had = stat_of("f").st_blocks >= 32;
  must(ftruncate(fd, 0), "ftruncate");
  return seen({yes(had), number(stat_of("f").st_blocks)});
}

CHECK("fallocate.extends", "ok 8192 ..") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  return seen({ok(fallocate(fd, 0, 0, 8192)), size_of("f"), pages_of("f")});
}
CHECK("fallocate.reserves_blocks", "yes") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(fallocate(fd, 0, 0, 8192), "fallocate");
  return yes(stat_of("f").st_blocks >= 16);
}
CHECK("fallocate.keep_size", "ok 0 yes") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  const std::string done = ok(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 8192));
  return seen({done, size_of("f"), yes(stat_of("f").st_blocks >= 16)});
}
CHECK("fallocate.keeps_data", "dd.") {
  const Fd fd = paged("dd");
  must(fallocate(fd, 0, 0, 3 * kPage), "fallocate");
  return pages_of("f");
}
CHECK("fallocate.punch", "ok d.d 12288") {
  const Fd fd = paged("ddd");
  return seen(
      {ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kPage, kPage)), pages_of("f"), size_of("f")});
}
CHECK("fallocate.punch_part_of_page", "ok 'abc\\00\\00\\00ghi'") {
  make_file("f", "abcdefghi");
  const Fd fd("f");
  return seen({ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3, 3)), text(contents("f"))});
}
CHECK("fallocate.punch_makes_hole", "4096 8192") {
  const Fd fd = paged("ddd");
  must(fsync(fd), "fsync");
  must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kPage, kPage), "fallocate");
  return seen({number(lseek(fd, 0, SEEK_HOLE)), number(lseek(fd, kPage, SEEK_DATA))});
}
CHECK("fallocate.punch_behind_end", "ok 6") {
  make_file("f", "abcdef");
  const Fd fd("f");
  return seen({ok(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kPage, kPage)), size_of("f")});
}
CHECK("fallocate.punch_without_keep_size", "EOPNOTSUPP") {
  make_file("f", "abcdef");
  return ok(fallocate(Fd("f"), FALLOC_FL_PUNCH_HOLE, 0, 3));
}
CHECK("fallocate.punch_times", "mtime ctime") {
  make_file("f", "abcdef");
  const Fd fd("f");
  return times_changed("f", [&] {
    must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 3), "fallocate");
  });
}
CHECK("fallocate.times", "mtime ctime|ctime") {
  make_file("f", "abcdef");
  const Fd fd("f");
  return times_changed("f", [&] { must(fallocate(fd, 0, 0, 100), "fallocate"); });
}
CHECK("fallocate.drops_setid", "ok 0777") {
  make_file("f", "abc", 06777);
  const std::string done = as_user([] { return ok(fallocate(Fd("f"), 0, 0, 100)); });
  return seen({done, mode_of("f")});
}
CHECK("fallocate.zero_range", "ok d.d|EOPNOTSUPP ddd") {
  const Fd fd = paged("ddd");
  return seen({ok(fallocate(fd, FALLOC_FL_ZERO_RANGE, kPage, kPage)), pages_of("f")});
}
CHECK("fallocate.zero_range_extends", "ok d. 8192|EOPNOTSUPP d 4096") {
  const Fd fd = paged("d");
  return seen({ok(fallocate(fd, FALLOC_FL_ZERO_RANGE, kPage, kPage)), pages_of("f"), size_of("f")});
}
CHECK("fallocate.zero_range_keep_size", "ok d 4096|EOPNOTSUPP d 4096") {
  const Fd fd = paged("d");
  return seen(
      {ok(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, kPage, kPage)), pages_of("f"), size_of("f")});
}
CHECK("fallocate.collapse", "ok dd 8192|EOPNOTSUPP d.d 12288") {
  const Fd fd = paged("d.d");
  return seen({ok(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, kPage, kPage)), pages_of("f"), size_of("f")});
}
CHECK("fallocate.insert", "ok d.d 12288|EOPNOTSUPP dd 8192") {
  const Fd fd = paged("dd");
  return seen({ok(fallocate(fd, FALLOC_FL_INSERT_RANGE, kPage, kPage)), pages_of("f"), size_of("f")});
}
CHECK("fallocate.unshare", "") {
  const Fd fd = paged("d");
  return ok(fallocate(fd, FALLOC_FL_UNSHARE_RANGE, 0, kPage));
}
CHECK("fallocate.errors", "EINVAL EINVAL EINVAL EFBIG EOPNOTSUPP") {
  make_file("f", "abc");
  const Fd fd("f");
  return seen({ok(fallocate(fd, 0, -1, 5)), ok(fallocate(fd, 0, 0, 0)), ok(fallocate(fd, 0, 0, -5)),
               ok(fallocate(fd, 0, INT64_MAX - 4, 100)), ok(fallocate(fd, 1 << 20, 0, 5))});
}
CHECK("fallocate.fifo", "ESPIPE") {
  must(mkfifo("p", 0600), "mkfifo");
  return ok(fallocate(Fd("p", O_RDWR), 0, 0, 5));
}
CHECK("fallocate.directory", "EBADF") { return ok(fallocate(Fd(".", O_RDONLY), 0, 0, 5)); }
CHECK("posix_fallocate", "0 100 'abc'") {
  make_file("f", "abc");
  const Fd fd("f");
  const std::string done = number(posix_fallocate(fd, 0, 100)), size = size_of("f");
  return seen({done, size, text(contents("f").substr(0, 3))});
}

}  // namespace
}  // namespace posix
