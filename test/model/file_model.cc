// SPDX-License-Identifier: LGPL-2.1-or-later
#include "file_model.hh"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

namespace model {
namespace {

constexpr std::size_t kPage = 4096;

struct Free {
  void operator()(char *p) const noexcept { std::free(p); }
};
std::unique_ptr<char, Free> aligned(std::size_t length) {
  return std::unique_ptr<char, Free>(static_cast<char *>(std::aligned_alloc(kPage, length)));
}

off_t off(std::size_t n) { return static_cast<off_t>(n); }

}  // namespace

// A write of every kind is more frequent than what only looks: there is no bug to see in a file at rest.
const std::vector<FileRun::Operation> FileRun::kOperations = {
    {"read", 6, &FileRun::read_some},        {"direct read", 3, &FileRun::read_direct},
    {"mapped read", 4, &FileRun::read_mapped}, {"write", 12, &FileRun::write_some},
    {"writev", 4, &FileRun::write_vector},   {"append", 3, &FileRun::write_append},
    {"direct write", 5, &FileRun::write_direct}, {"mapped write", 8, &FileRun::write_mapped},
    {"truncate", 6, &FileRun::cut_or_extend}, {"fallocate", 3, &FileRun::allocate},
    {"punch", 5, &FileRun::punch},           {"zero", 3, &FileRun::zero},
    {"collapse", 2, &FileRun::collapse},     {"insert", 2, &FileRun::insert},
    {"copy", 5, &FileRun::copy},             {"sync", 2, &FileRun::sync},
    {"reopen", 2, &FileRun::reopen},         {"forget pages", 2, &FileRun::forget_pages},
    {"seek", 3, &FileRun::seek},             {"map", 1, &FileRun::map_for_long},
};

FileRun::FileRun(const Options &options, std::string path, std::uint64_t seed)
    : options_(options), path_(std::move(path)), random_(seed) {
  ::close(static_cast<int>(must(::open(path_.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600), "create")));
  open_all();
}

FileRun::~FileRun() {
  close_all();
  ::unlink(path_.c_str());
}

void FileRun::open_all() {
  for (const int flags : {O_RDWR, O_RDWR | O_SYNC, O_RDONLY})
    fds_.push_back(static_cast<int>(must(::open(path_.c_str(), flags), "open")));
  append_ = static_cast<int>(must(::open(path_.c_str(), O_WRONLY | O_APPEND), "open"));
  if (options_.direct) direct_ = static_cast<int>(must(::open(path_.c_str(), O_RDWR | O_DIRECT), "open with O_DIRECT"));
}

void FileRun::close_all() noexcept {
  for (const int fd : fds_) ::close(fd);
  fds_.clear();
  for (int *fd : {&append_, &direct_}) {
    if (*fd >= 0) ::close(*fd);
    *fd = -1;
  }
  if (mapping_ != nullptr) ::munmap(mapping_, options_.size);
  mapping_ = nullptr;
}

void FileRun::step() {
  unsigned total = 0;
  for (const Operation &o : kOperations) total += o.weight;
  auto n = static_cast<unsigned>(random_.below(total));
  for (const Operation &o : kOperations) {
    if (n < o.weight) {
      (this->*o.run)();
      break;
    }
    n -= o.weight;
  }
  check_size();
  check_near();
  if (random_.one_in(50)) check_all();
  if (options_.drop_caches && random_.one_in(400)) drop_caches();
}

void FileRun::finish() {
  check_all();
  drop_caches();
  check_all();
}

// ---- Where ----

/// Plain, at a page, or around the end of the file: that is where the bugs are.
std::size_t FileRun::offset(std::size_t limit) {
  std::size_t at = random_.below(limit + 1);
  if (random_.one_in(4)) at = at / kPage * kPage;
  if (random_.one_in(5)) at = model_.size() - std::min<std::size_t>(model_.size(), random_.below(64));
  return std::min(at, limit);
}

FileRun::Range FileRun::range(std::size_t limit) {
  if (limit == 0) return {0, 0};
  const std::size_t at = std::min(offset(limit), limit - 1);
  constexpr std::size_t kLengths[] = {16, 600, 5000, 70000};
  const std::size_t length = 1 + random_.below(kLengths[random_.below(4)]);
  return {at, std::min(length, limit - at)};
}

FileRun::Range FileRun::page_range(std::size_t limit) {
  const std::size_t pages = limit / kPage;
  if (pages == 0) return {0, 0};
  const std::size_t at = random_.below(pages);
  return {at * kPage, std::min<std::size_t>(1 + random_.below(12), pages - at) * kPage};
}

// ---- The model's side ----

void FileRun::begin(const std::string &what, const Range &r) {
  last_ = r;
  history_.add(what + " [" + std::to_string(r.at) + ", " + std::to_string(r.end()) + ") of " +
               std::to_string(model_.size()));
}

/// Bytes that say which operation they are from.
std::string FileRun::fresh(std::size_t length) {
  const std::uint64_t number = history_.count() + 1;
  std::string data(length, '\0');
  for (std::size_t i = 0; i < length; ++i) data[i] = static_cast<char>(1 + (number * 37 + i * 5 + (i >> 8)) % 255);
  return data;
}

void FileRun::resize(std::size_t size) {
  model_.resize(size, '\0');
  writer_of_.resize(size, 0);
}

void FileRun::put(std::size_t at, const std::string &data) {
  resize(std::max(model_.size(), at + data.size()));
  model_.replace(at, data.size(), data);
  std::fill_n(writer_of_.begin() + off(at), data.size(), history_.count());
}

/// What begins at `from` begins at `to` from now on; a gap is zeros.
void FileRun::move_tail(std::size_t from, std::size_t to) {
  const std::string tail = model_.substr(from);
  resize(to < from ? to : from);
  resize(to);
  put(to, tail);
}

bool FileRun::supported(long result, bool &has, const char *what) {
  if (result == -1 && errno == EOPNOTSUPP) {
    has = false;
    history_.result("not supported");
    return false;
  }
  must(result, what);
  return true;
}

// ---- The comparison ----

void FileRun::compare(const char *data, const Range &r, const char *how) {
  if (r.length == 0 || std::memcmp(data, model_.data() + r.at, r.length) == 0) return;
  const char *wanted = model_.data() + r.at;
  const auto first = static_cast<std::size_t>(std::mismatch(data, data + r.length, wanted).first - data);
  std::size_t wrong = 0;
  for (std::size_t i = first; i < r.length; ++i) wrong += data[i] != wanted[i];
  throw Mismatch(std::string(how) + " at offset " + std::to_string(r.at + first) + ": expected byte " +
                 std::to_string(static_cast<unsigned char>(wanted[first])) + " (of operation #" +
                 std::to_string(writer_of_[r.at + first]) + "), got " +
                 std::to_string(static_cast<unsigned char>(data[first])) + "; " + std::to_string(wrong) + " of the " +
                 std::to_string(r.length - first) + " bytes from there on differ; the file has " +
                 std::to_string(model_.size()));
}

void FileRun::check_size() {
  struct stat by_name, by_fd;
  must(::stat(path_.c_str(), &by_name), "stat");
  must(::fstat(reader(), &by_fd), "fstat");
  for (const auto &[st, how] : {std::pair(&by_name, "stat"), std::pair(&by_fd, "fstat")})
    if (static_cast<std::size_t>(st->st_size) != model_.size())
      throw Mismatch(std::string(how) + ": size " + std::to_string(st->st_size) + ", expected " +
                     std::to_string(model_.size()));
}

/// What the last operation was about, and a page around it.
void FileRun::check_near() {
  const std::size_t from = last_.at - std::min(last_.at, kPage), to = std::min(last_.end() + kPage, model_.size());
  if (from >= to) return;
  std::string data(to - from, '\0');
  if (static_cast<std::size_t>(must(::pread(reader(), data.data(), data.size(), off(from)), "pread")) != data.size())
    throw Mismatch("short read at " + std::to_string(from));
  compare(data.data(), {from, data.size()}, "read behind an operation");
}

void FileRun::check_all() {
  std::string data(model_.size() + kPage, 'x');
  const auto n = static_cast<std::size_t>(must(::pread(reader(), data.data(), data.size(), 0), "pread"));
  if (n != model_.size())
    throw Mismatch("read of all: " + std::to_string(n) + " bytes, expected " + std::to_string(model_.size()));
  compare(data.data(), {0, n}, "read of all");
  if (mapping_ != nullptr) compare(mapping_, {0, n}, "the kept mapping");
}

// ---- Operations: reading ----

void FileRun::read_some() {
  const Range r{offset(model_.size() + 100), 1 + random_.below(40000)};
  begin("read", r);
  std::string data(r.length, '\0');
  const auto n = static_cast<std::size_t>(must(::pread(reader(), data.data(), data.size(), off(r.at)), "pread"));
  const std::size_t wanted = r.at < model_.size() ? std::min(r.length, model_.size() - r.at) : 0;
  if (n != wanted) throw Mismatch("pread: " + std::to_string(n) + " bytes, expected " + std::to_string(wanted));
  compare(data.data(), {r.at, n}, "read");
}

void FileRun::read_direct() {
  const Range r = page_range(model_.size());
  if (direct_ < 0 || r.length == 0) return;
  begin("direct read", r);
  const auto data = aligned(r.length);
  const auto n = static_cast<std::size_t>(must(::pread(direct_, data.get(), r.length, off(r.at)), "direct read"));
  if (n != r.length)
    throw Mismatch("direct read: " + std::to_string(n) + " bytes, expected " + std::to_string(r.length));
  compare(data.get(), r, "direct read");
}

void FileRun::read_mapped() {
  const Range r = range(model_.size());
  if (!options_.mapped || r.length == 0) return;
  begin("mapped read", r);
  const std::size_t start = r.at / kPage * kPage;
  void *memory = ::mmap(nullptr, r.end() - start, PROT_READ, random_.one_in(2) ? MAP_SHARED : MAP_PRIVATE, reader(),
                        off(start));
  if (memory == MAP_FAILED) failed("mmap", errno);
  compare(static_cast<const char *>(memory) + (r.at - start), r, "mapped read");
  must(::munmap(memory, r.end() - start), "munmap");
}

// ---- Operations: writing ----

void FileRun::write_some() {
  const Range r = range(options_.size);
  const std::string data = fresh(r.length);
  begin("write", r);
  if (static_cast<std::size_t>(must(::pwrite(writer(), data.data(), data.size(), off(r.at)), "pwrite")) != data.size())
    throw Mismatch("short write");
  put(r.at, data);
}

void FileRun::write_vector() {
  const Range r = range(options_.size);
  std::string data = fresh(r.length);
  begin("writev", r);
  const std::size_t cut = random_.below(r.length + 1);
  const iovec pieces[] = {{data.data(), cut}, {data.data() + cut, r.length - cut}};
  if (static_cast<std::size_t>(must(::pwritev(writer(), pieces, 2, off(r.at)), "pwritev")) != data.size())
    throw Mismatch("short vector write");
  put(r.at, data);
}

void FileRun::write_append() {
  if (model_.size() >= options_.size) return;
  const Range r{model_.size(), 1 + random_.below(std::min<std::size_t>(options_.size - model_.size(), 20000))};
  const std::string data = fresh(r.length);
  begin("append", r);
  if (static_cast<std::size_t>(must(::write(append_, data.data(), data.size()), "append")) != data.size())
    throw Mismatch("short append");
  put(r.at, data);
}

void FileRun::write_direct() {
  const Range r = page_range(options_.size);
  if (direct_ < 0 || r.length == 0) return;
  const std::string data = fresh(r.length);
  begin("direct write", r);
  const auto memory = aligned(r.length);
  std::memcpy(memory.get(), data.data(), r.length);
  if (static_cast<std::size_t>(must(::pwrite(direct_, memory.get(), r.length, off(r.at)), "direct write")) != r.length)
    throw Mismatch("short direct write");
  put(r.at, data);
}

void FileRun::write_mapped() {
  const Range r = range(model_.size());
  if (!options_.mapped || r.length == 0) return;
  const std::string data = fresh(r.length);
  if (mapping_ != nullptr && random_.one_in(2)) {
    begin("write to the kept mapping", r);
    std::memcpy(mapping_ + r.at, data.data(), r.length);
    return put(r.at, data);
  }
  begin("mapped write", r);
  const std::size_t start = r.at / kPage * kPage;
  void *memory = ::mmap(nullptr, r.end() - start, PROT_READ | PROT_WRITE, MAP_SHARED, writer(), off(start));
  if (memory == MAP_FAILED) failed("mmap", errno);
  std::memcpy(static_cast<char *>(memory) + (r.at - start), data.data(), r.length);
  if (random_.one_in(3)) must(::msync(memory, r.end() - start, MS_SYNC), "msync");
  must(::munmap(memory, r.end() - start), "munmap");
  put(r.at, data);
}

// ---- Operations: size and holes ----

void FileRun::cut_or_extend() {
  const std::size_t size = offset(options_.size);
  begin("truncate to", {size, 0});
  must(random_.one_in(2) ? ::truncate(path_.c_str(), off(size)) : ::ftruncate(writer(), off(size)), "truncate");
  resize(size);
}

void FileRun::allocate() {
  const Range r = range(options_.size);
  const bool keep = random_.one_in(2);
  begin(keep ? "fallocate, keep size" : "fallocate", r);
  must(::fallocate(writer(), keep ? FALLOC_FL_KEEP_SIZE : 0, off(r.at), off(r.length)), "fallocate");
  if (!keep) resize(std::max(model_.size(), r.end()));
}

void FileRun::punch() {
  const Range r = range(options_.size);
  begin("punch", r);
  must(::fallocate(writer(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off(r.at), off(r.length)), "punch");
  if (r.at < model_.size()) put(r.at, std::string(std::min(r.length, model_.size() - r.at), '\0'));
}

void FileRun::zero() {
  if (!has_zero_) return;
  const Range r = range(options_.size);
  const bool keep = random_.one_in(2);
  begin(keep ? "zero range, keep size" : "zero range", r);
  const int mode = FALLOC_FL_ZERO_RANGE | (keep ? FALLOC_FL_KEEP_SIZE : 0);
  if (!supported(::fallocate(writer(), mode, off(r.at), off(r.length)), has_zero_, "zero range")) return;
  const std::size_t end = keep ? std::min(r.end(), model_.size()) : r.end();
  if (r.at < end) put(r.at, std::string(end - r.at, '\0'));
}

void FileRun::collapse() {
  const Range r = page_range(model_.size());
  if (!has_collapse_ || r.length == 0 || r.end() >= model_.size()) return;
  begin("collapse", r);
  if (!supported(::fallocate(writer(), FALLOC_FL_COLLAPSE_RANGE, off(r.at), off(r.length)), has_collapse_,
                 "collapse"))
    return;
  move_tail(r.end(), r.at);
}

void FileRun::insert() {
  const Range r = page_range(model_.size());
  if (!has_insert_ || r.length == 0 || model_.size() + r.length > options_.size) return;
  begin("insert", r);
  if (!supported(::fallocate(writer(), FALLOC_FL_INSERT_RANGE, off(r.at), off(r.length)), has_insert_, "insert"))
    return;
  move_tail(r.at, r.end());
}

/// Within the file; the ranges do not overlap.
void FileRun::copy() {
  const Range from = range(model_.size());
  if (from.length == 0) return;
  const std::size_t to = offset(options_.size - from.length);
  if (to < from.end() && from.at < to + from.length) return;
  begin("copy to " + std::to_string(to), from);
  off_t in = off(from.at), out = off(to);
  const auto n = static_cast<std::size_t>(
      must(::copy_file_range(writer(), &in, writer(), &out, from.length, 0), "copy_file_range"));
  if (n == 0 || n > from.length)
    throw Mismatch("copy_file_range: " + std::to_string(n) + " of " + std::to_string(from.length));
  history_.result(std::to_string(n));
  put(to, model_.substr(from.at, n));
  last_ = {to, n};
}

// ---- Operations: around the data ----

void FileRun::sync() {
  begin("sync", {0, model_.size()});
  must(random_.one_in(2) ? ::fsync(reader()) : ::fdatasync(reader()), "fsync");
}

void FileRun::reopen() {
  begin("close and open", {0, model_.size()});
  close_all();
  open_all();
  check_all();
}

void FileRun::forget_pages() {
  begin("sync and forget pages", {0, model_.size()});
  must(::fsync(reader()), "fsync");
  errno = ::posix_fadvise(reader(), 0, 0, POSIX_FADV_DONTNEED);
  if (errno != 0) failed("posix_fadvise", errno);
}

/// Holes are zeros. What is data may be zeros, too, and filesystems may have no holes at all. On tmpfs a page that
/// was only read in a mapping is data, until another process drops the caches: between the two questions, maybe.
void FileRun::seek() {
  begin("seek", {0, model_.size()});
  must(::fsync(reader()), "fsync");  // pages that are dirty in a mapping only are not data yet
  const int fd = reader();
  std::size_t at = 0;
  off_t dropped = -1;  // said to be data, then a hole
  while (at < model_.size()) {
    const off_t data = ::lseek(fd, off(at), SEEK_DATA);
    if (data < 0 && errno != ENXIO) failed("SEEK_DATA", errno);
    const std::size_t hole_end = data < 0 ? model_.size() : static_cast<std::size_t>(data);
    if (hole_end < at || hole_end > model_.size())
      throw Mismatch("SEEK_DATA from " + std::to_string(at) + ": " + std::to_string(data));
    const auto from = model_.begin() + off(at), to = model_.begin() + off(hole_end);
    const auto byte = std::find_if(from, to, [](char c) { return c != 0; });
    if (byte != to) throw Mismatch("there is data at " + std::to_string(byte - model_.begin()) + ", SEEK_DATA from " +
                                   std::to_string(at) + " says a hole up to " + std::to_string(hole_end));
    if (data < 0) return;
    const off_t hole = must(::lseek(fd, data, SEEK_HOLE), "SEEK_HOLE");
    const bool gone = hole == data && std::exchange(dropped, data) != data;
    if ((hole <= data && !gone) || static_cast<std::size_t>(hole) > model_.size())
      throw Mismatch("SEEK_HOLE from " + std::to_string(data) + ": " + std::to_string(hole));
    at = static_cast<std::size_t>(hole);
  }
}

void FileRun::map_for_long() {
  if (!options_.mapped) return;
  begin("map for long", {0, options_.size});
  if (mapping_ != nullptr) must(::munmap(mapping_, options_.size), "munmap");
  void *memory = ::mmap(nullptr, options_.size, PROT_READ | PROT_WRITE, MAP_SHARED, writer(), 0);
  if (memory == MAP_FAILED) failed("mmap", errno);
  mapping_ = static_cast<char *>(memory);
}

}  // namespace model
