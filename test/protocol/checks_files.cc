// SPDX-License-Identifier: LGPL-2.1-or-later
// Names, directories, file content, attributes: what one process sees.
#include "checks.hh"

#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>

namespace protocol_test {
namespace {

struct stat status_of(const std::string &path) {
  struct stat st {};
  OK(::lstat(path.c_str(), &st));
  return st;
}

/// Every name in a directory and its type, with one buffer of the C library's size at a time.
std::map<std::string, unsigned char> list(const std::string &path, bool look_at_each) {
  std::map<std::string, unsigned char> found;
  DIR *dir = ::opendir(path.c_str());
  EXPECT(dir != nullptr);
  while (const dirent *entry = ::readdir(dir)) {
    found[entry->d_name] = entry->d_type;
    struct stat st {};
    if (look_at_each) OK(::fstatat(::dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW));
  }
  ::closedir(dir);
  return found;
}

void special_files(Checks &c) {
  const struct {
    const char *name;
    mode_t mode;
    dev_t rdev;
  } kinds[] = {{"fifo", S_IFIFO | 0640, 0},
               {"socket", S_IFSOCK | 0600, 0},
               {"char", S_IFCHR | 0666, makedev(1, 3)},
               {"block", S_IFBLK | 0660, makedev(259, 70000)}};
  ::umask(0);
  for (const auto &kind : kinds) {
    OK(::mknod(c.at(kind.name).c_str(), kind.mode, kind.rdev));
    const struct stat st = status_of(c.at(kind.name));
    EXPECT(st.st_mode == kind.mode);
    EXPECT(st.st_rdev == kind.rdev);
  }
  ::umask(022);
}

void renames(Checks &c) {
  make_file(c.at("r1"), "one");
  make_file(c.at("r2"), "two");
  FAILS(::renameat2(AT_FDCWD, c.at("r1").c_str(), AT_FDCWD, c.at("r2").c_str(), RENAME_NOREPLACE), EEXIST);
  OK(::renameat2(AT_FDCWD, c.at("r1").c_str(), AT_FDCWD, c.at("r2").c_str(), RENAME_EXCHANGE));
  EXPECT(read_file(c.at("r1")) == "two");
  OK(::rename(c.at("r1").c_str(), c.at("r2").c_str()));
  EXPECT(read_file(c.at("r2")) == "two");
  FAILS(::access(c.at("r1").c_str(), F_OK), ENOENT);
}

constexpr int kMany = 700;

void directory(Checks &c) {
  OK(::mkdir(c.at("many").c_str(), 0755));
  for (int i = 0; i < kMany; ++i) {
    const std::string path = c.at("many/entry-with-a-longer-name-" + std::to_string(i));
    if (i % 3 == 0)
      OK(::mkdir(path.c_str(), 0755));
    else if (i % 3 == 1)
      OK(::symlink("x", path.c_str()));
    else
      make_file(path, "");
  }
}

void listing(Checks &c) {
  // With a look at each the kernel goes on with READDIRPLUS, without it changes to READDIR.
  for (const bool look : {true, false}) {
    const auto found = list(c.at("many"), look);
    EXPECT(found.size() == kMany + 2);
    for (int i = 0; i < kMany; ++i) {
      const auto entry = found.find("entry-with-a-longer-name-" + std::to_string(i));
      EXPECT(entry != found.end());
      EXPECT(entry->second == (i % 3 == 0 ? DT_DIR : i % 3 == 1 ? DT_LNK : DT_REG));
    }
  }
  const File dir(c.at("many"), O_RDONLY | O_DIRECTORY);
  OK(::fsync(dir));
}

/// No two of its 4 KiB blocks are alike.
std::string pattern(std::size_t size) {
  std::string data(size, '\0');
  for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<char>(i * 7 + (i >> 12) * 13 + (i >> 20));
  return data;
}

void content(Checks &c) {
  const std::string data = pattern(3u << 20);
  for (const char *name : {"content", "content-direct"}) {
    File file(c.at(name), O_CREAT | O_EXCL | O_RDWR);
    EXPECT(::pwrite(file, data.data(), data.size(), 0) == static_cast<ssize_t>(data.size()));
    OK(::fsync(file));
    std::string back(data.size(), '\0');
    EXPECT(::pread(file, back.data(), back.size(), 0) == static_cast<ssize_t>(back.size()));
    EXPECT(back == data);
    OK(::ftruncate(file, 5000));
    EXPECT(status_of(c.at(name)).st_size == 5000);
    file.close();
    EXPECT(read_file(c.at(name)) == data.substr(0, 5000));
    const File again(c.at(name), O_WRONLY | O_TRUNC);
    EXPECT(status_of(c.at(name)).st_size == 0);
  }
}

void copy(Checks &c) {
  const std::string data = pattern(100'000);
  make_file(c.at("from"), data);
  const File from(c.at("from"), O_RDONLY), to(c.at("to"), O_CREAT | O_RDWR);
  off64_t at_from = 1000, at_to = 500;
  EXPECT(::copy_file_range(from, &at_from, to, &at_to, 50'000, 0) == 50'000);
  std::string back(50'000, '\0');
  EXPECT(::pread(to, back.data(), back.size(), 500) == 50'000);
  EXPECT(back == data.substr(1000, 50'000));
}

void holes(Checks &c) {
  make_file(c.at("holes"), pattern(64 << 10));
  const File file(c.at("holes"), O_RDWR);
  OK(::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 16384));
  OK(::fallocate(file, FALLOC_FL_ZERO_RANGE, 32768, 4096));
  EXPECT(::lseek(file, 0, SEEK_HOLE) == 8192);
  EXPECT(::lseek(file, 8192, SEEK_DATA) == 24576);
  EXPECT(::lseek(file, 24576, SEEK_HOLE) == 32768);
  EXPECT(::lseek(file, 36864, SEEK_HOLE) == 64 << 10);
  FAILS(::lseek(file, 64 << 10, SEEK_DATA), ENXIO);
  std::string back(16384, 'x');
  EXPECT(::pread(file, back.data(), back.size(), 8192) == 16384);
  EXPECT(back == std::string(16384, '\0'));
  OK(::fallocate(file, 0, 0, 100'000));
  EXPECT(status_of(c.at("holes")).st_size == 100'000);
  OK(::fallocate(file, FALLOC_FL_KEEP_SIZE, 0, 200'000));
  EXPECT(status_of(c.at("holes")).st_size == 100'000);
  FAILS(::fallocate(file, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), EOPNOTSUPP);
}

void nameless(Checks &c) {
  const File file(c.server.mountpoint(), O_TMPFILE | O_RDWR, 0600);
  struct stat st {};
  OK(::fstat(file, &st));
  EXPECT(S_ISREG(st.st_mode) && st.st_nlink == 0);
  EXPECT(::write(file, "kept", 4) == 4);
  const std::string proc = "/proc/self/fd/" + std::to_string(file);
  OK(::linkat(AT_FDCWD, proc.c_str(), AT_FDCWD, c.at("named").c_str(), AT_SYMLINK_FOLLOW));
  EXPECT(read_file(c.at("named")) == "kept");
}

void birth(Checks &c) {
  const time_t before = ::time(nullptr);
  make_file(c.at("born"), "x");
  const timespec past[2] = {{1000, 0}, {1000, 0}};
  OK(::utimensat(AT_FDCWD, c.at("born").c_str(), past, 0));
  struct statx st {};
  OK(::statx(AT_FDCWD, c.at("born").c_str(), 0, STATX_BASIC_STATS | STATX_BTIME, &st));
  EXPECT(st.stx_mask & STATX_BTIME);
  EXPECT(st.stx_btime.tv_sec >= before && st.stx_btime.tv_sec <= ::time(nullptr));
  EXPECT(st.stx_mtime.tv_sec == 1000);
}

void xattrs(Checks &c) {
  const std::string path = c.at("xattrs");
  make_file(path, "");
  const std::string large = pattern(64 << 10);
  OK(::setxattr(path.c_str(), "user.small", "value", 5, XATTR_CREATE));
  FAILS(::setxattr(path.c_str(), "user.small", "other", 5, XATTR_CREATE), EEXIST);
  FAILS(::setxattr(path.c_str(), "user.none", "x", 1, XATTR_REPLACE), ENODATA);
  OK(::setxattr(path.c_str(), "user.large", large.data(), large.size(), 0));
  std::string back(64 << 10, '\0');
  EXPECT(::getxattr(path.c_str(), "user.large", nullptr, 0) == 64 << 10);
  EXPECT(::getxattr(path.c_str(), "user.large", back.data(), back.size()) == 64 << 10);
  EXPECT(back == large);
  FAILS(::getxattr(path.c_str(), "user.large", back.data(), 100), ERANGE);
  EXPECT(::listxattr(path.c_str(), back.data(), back.size()) == 22);
  EXPECT(std::memcmp(back.data(), "user.large\0user.small", 22) == 0);
  OK(::removexattr(path.c_str(), "user.small"));
  FAILS(::getxattr(path.c_str(), "user.small", back.data(), back.size()), ENODATA);
}

void changes(Checks &c) {
  const std::string path = c.at("changes");
  make_file(path, "12345678");
  OK(::chmod(path.c_str(), 0751));
  OK(::chown(path.c_str(), 12, 34));
  const timespec times[2] = {{111, 222}, {333, 444}};
  OK(::utimensat(AT_FDCWD, path.c_str(), times, 0));
  OK(::truncate(path.c_str(), 3));
  const struct stat st = status_of(path);
  EXPECT((st.st_mode & 07777) == 0751);
  EXPECT(st.st_uid == 12 && st.st_gid == 34 && st.st_size == 3);
  EXPECT(st.st_atim.tv_sec == 111 && st.st_atim.tv_nsec == 222);
}

void filesystem_status(Checks &c) {
  struct statvfs st {};
  OK(::statvfs(c.server.mountpoint().c_str(), &st));
  EXPECT(st.f_blocks == 1000 && st.f_bfree == 500 && st.f_files == 77 && st.f_namemax == 200);
}

void links(Checks &c) {
  make_file(c.at("l1"), "linked");
  OK(::link(c.at("l1").c_str(), c.at("l2").c_str()));
  EXPECT(status_of(c.at("l2")).st_nlink == 2);
  EXPECT(status_of(c.at("l1")).st_ino == status_of(c.at("l2")).st_ino);
  OK(::symlink("l2", c.at("l3").c_str()));
  char target[16] = {};
  EXPECT(::readlink(c.at("l3").c_str(), target, sizeof(target)) == 2);
  EXPECT(std::string(target) == "l2" && read_file(c.at("l3")) == "linked");
  OK(::unlink(c.at("l1").c_str()));
  EXPECT(read_file(c.at("l2")) == "linked");
}

void backed(Checks &c) {
  if (c.server.number("want_backing") == -EOPNOTSUPP) throw Skipped("this kernel has no FUSE passthrough");
  make_file(c.at("backed"), "");
  const auto requests = [&] { return c.server.carried("READ") + c.server.carried("WRITE"); };
  const long before = requests();
  File file(c.at("backed"), O_RDWR);
  const std::string data = pattern(100'000);
  EXPECT(::pwrite(file, data.data(), data.size(), 0) == static_cast<ssize_t>(data.size()));
  EXPECT(c.server.number("backing_size") == static_cast<long>(data.size()));
  std::string back(data.size(), '\0');
  EXPECT(::pread(file, back.data(), back.size(), 0) == static_cast<ssize_t>(back.size()));
  EXPECT(back == data);
  EXPECT(requests() == before);
}

}  // namespace

void check_names(Checks &c) {
  c.run("names: MKNOD of a FIFO, a socket and devices", {"MKNOD", "LOOKUP"}, [&] { special_files(c); });
  c.run("names: LINK, SYMLINK, READLINK, UNLINK", {"LINK", "SYMLINK", "READLINK", "UNLINK"}, [&] { links(c); });
  c.run("names: RENAME2 with NOREPLACE and EXCHANGE, RENAME", {"RENAME2"}, [&] { renames(c); });
  c.run("names: MKDIR, RMDIR", {"MKDIR", "RMDIR"}, [&] {
    OK(::mkdir(c.at("d").c_str(), 0750));
    make_file(c.at("d/f"), "");
    FAILS(::rmdir(c.at("d").c_str()), ENOTEMPTY);
    OK(::unlink(c.at("d/f").c_str()));
    OK(::rmdir(c.at("d").c_str()));
    FAILS(::access(c.at("d").c_str(), F_OK), ENOENT);
  });
  c.run("names: 700 entries made", {"MKDIR", "SYMLINK", "CREATE"}, [&] { directory(c); });
  c.run("names: READDIR, READDIRPLUS, FSYNCDIR", {"OPENDIR", "READDIR", "READDIRPLUS", "RELEASEDIR", "FSYNCDIR"},
        [&] { listing(c); });
}

void check_files(Checks &c) {
  c.run("files: content, cached and direct", {"CREATE", "WRITE", "READ", "FSYNC", "FLUSH", "RELEASE", "OPEN", "SETATTR"},
        [&] { content(c); });
  c.run("files: COPY_FILE_RANGE", {"COPY_FILE_RANGE"}, [&] { copy(c); });
  c.run("files: FALLOCATE and LSEEK", {"FALLOCATE", "LSEEK"}, [&] { holes(c); });
  c.run("files: TMPFILE gets a name", {"TMPFILE", "LINK"}, [&] { nameless(c); });
}

void check_backing(Checks &c) {
  c.run("files: a backing file is read and written without a request", {"OPEN", "RELEASE"}, [&] { backed(c); });
}

void check_attributes(Checks &c) {
  c.run("attributes: SETATTR of mode, owner, times, size", {"SETATTR"}, [&] { changes(c); });
  c.run("attributes: STATX tells the time of birth", {"STATX"}, [&] { birth(c); });
  c.run("attributes: STATFS", {"STATFS"}, [&] { filesystem_status(c); });
  c.run("attributes: xattrs of up to 64 KiB", {"SETXATTR", "GETXATTR", "LISTXATTR", "REMOVEXATTR"},
        [&] { xattrs(c); });
  c.run("attributes: SYNCFS", {}, [&] {
    const File dir(c.server.mountpoint(), O_RDONLY | O_DIRECTORY);
    OK(::syncfs(dir));
    if (c.server.count("SYNCFS", c.server.way()) == 0)
      throw Skipped("this kernel asks no plain FUSE mount for SYNCFS; the unit tests have its bytes");
  });
}

}  // namespace protocol_test
