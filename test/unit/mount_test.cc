// SPDX-License-Identifier: LGPL-2.1-or-later
// Mount options, mountinfo, and the errors that need no mount.
#include "mount.hh"

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <string>

using namespace efuse;
using Catch::Matchers::Contains;

namespace {

ParsedMountOptions parse(std::vector<std::string> options) {
  MountOptions m;
  m.fsname = "src";
  m.subtype = "type";
  m.options = std::move(options);
  return parse_mount_options(m);
}

struct TemporaryDirectory {
  TemporaryDirectory() {
    char name[] = "/tmp/efuse-mount-test-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path); }
  std::string path;
};

std::string mount_error(const std::string &where) {
  try {
    FuseMount mount(where, parse({}));
  } catch (const std::runtime_error &e) {
    return e.what();
  }
  return "";
}

constexpr const char *kMountInfo =
    "22 28 0:21 / /proc rw,nosuid - proc proc rw\n"
    "36 28 0:50 / /mnt/a\\040b\\134c rw,relatime shared:1 master:2 - fuse.first one rw,user_id=0\n"
    "37 36 0:51 / /mnt/a\\040b\\134c rw,relatime - fuse.second t\\040wo rw,user_id=0\n"
    "38 28 0:52 / /mnt/a rw - tmpfs none rw\n";

}  // namespace

TEST_CASE("what mount(8) keeps to itself is passed over") {
  auto p = parse({"auto,noauto,nofail,_netdev,user,user=alice,users,owner,group,defaults,silent,uhelper=udisks2,"
                  "x-systemd.automount,comment=text"});
  CHECK(p.data.empty());
  CHECK(p.flags == (MS_NOSUID | MS_NODEV));
  CHECK(p.helper == "fsname=src,subtype=type");
  CHECK_THROWS_WITH(parse({"remount"}), Contains("remount"));
}

TEST_CASE("links on the mount may be refused") {
  CHECK((parse({"nosymfollow"}).flags & MS_NOSYMFOLLOW) != 0);
  CHECK((parse({"nosymfollow,symfollow"}).flags & MS_NOSYMFOLLOW) == 0);
}

TEST_CASE("mount options are divided between flags and data") {
  auto p = parse({"ro,default_permissions", "noatime", "max_read=65536"});
  CHECK(p.flags == (MS_RDONLY | MS_NOATIME | MS_NOSUID | MS_NODEV));
  CHECK(p.data == "default_permissions,max_read=65536");
  CHECK(p.max_read == 65536);
  CHECK(p.helper == "ro,default_permissions,noatime,max_read=65536,fsname=src,subtype=type");
  CHECK_FALSE(p.auto_unmount);
}

TEST_CASE("nosuid and nodev are the default, the last word on a flag counts") {
  CHECK(parse({}).flags == (MS_NOSUID | MS_NODEV));
  CHECK(parse({"suid,dev"}).flags == 0);
  CHECK(parse({"suid", "nosuid", "ro", "rw"}).flags == (MS_NOSUID | MS_NODEV));
}

TEST_CASE("names keep their commas and backslashes") {
  auto p = parse({"fsname=a\\,b\\\\c", "subtype=x"});
  CHECK(p.fsname == "a,b\\c");
  CHECK(p.subtype == "x");
  CHECK_THAT(p.helper, Contains("fsname=a\\,b\\\\c,subtype=x"));
  CHECK(p.data.empty());
  CHECK(split_mount_options("a,,b\\,c,d\\\\") == std::vector<std::string>{"a", "b,c", "d\\"});
  for (std::string text : {"", "plain", "a,b", "\\", "\\,", ",,\\\\,"}) {
    auto parts = split_mount_options(escape_mount_value(text));
    CHECK(parts == (text.empty() ? std::vector<std::string>{} : std::vector<std::string>{text}));
  }
}

TEST_CASE("options for the session are not the kernel's") {
  auto p = parse({"allow_root,auto_unmount,nonempty,debug"});
  CHECK(p.allow_root);
  CHECK(p.auto_unmount);
  CHECK(p.nonempty);
  CHECK(p.debug);
  CHECK(p.data == "allow_other");
  CHECK(p.helper == "allow_other,auto_unmount,fsname=src,subtype=type");
}

TEST_CASE("options of fstab are passed over") {
  auto p = parse({"noauto,user,_netdev,nofail,x-systemd.automount,x-gvfs-hide,comment=abc,defaults"});
  CHECK(p.data.empty());
  CHECK(p.helper == "fsname=src,subtype=type");
}

TEST_CASE("options that are refused are named") {
  CHECK_THROWS_WITH(parse({"ro,no_such"}), Contains("unknown mount option 'no_such'"));
  CHECK_THROWS_WITH(parse({"allow_other=1"}), Contains("'allow_other=1'"));
  CHECK_THROWS_WITH(parse({"fsname"}), Contains("'fsname'"));
  CHECK_THROWS_WITH(parse({"max_read="}), Contains("'max_read='"));
  CHECK_THROWS_WITH(parse({"max_read=1k"}), Contains("max_read=1k") && Contains("number"));
  for (std::string own : {"fd=3", "rootmode=40000", "user_id=0", "group_id=0"})
    CHECK_THROWS_WITH(parse({own}), Contains(own) && Contains("set by efuse itself"));
}

TEST_CASE("the topmost mount is found, with its escapes undone") {
  std::istringstream in(kMountInfo);
  auto entry = find_mount(in, "/mnt/a b\\c");
  REQUIRE(entry);
  CHECK(entry->device == "0:51");
  CHECK(entry->type == "fuse.second");
  CHECK(entry->source == "t wo");

  std::istringstream again(kMountInfo);
  entry = find_mount(again, "/mnt/a");
  REQUIRE(entry);
  CHECK(entry->type == "tmpfs");

  std::istringstream none(kMountInfo);
  CHECK_FALSE(find_mount(none, "/mnt"));
}

TEST_CASE("a mountpoint that cannot be one is refused with its reason") {
  TemporaryDirectory dir;
  CHECK_THAT(mount_error(""), Contains("no mountpoint"));
  CHECK_THAT(mount_error(dir.path + "/missing"), Contains(dir.path + "/missing") && Contains("no such file"));
  std::string fifo = dir.path + "/fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THAT(mount_error(fifo), Contains("neither a directory nor a regular file"));
  std::string file = dir.path + "/file";
  Fd(::open(file.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  CHECK_THAT(mount_error(file + "/below"), Contains("Not a directory"));
  std::string loop = dir.path + "/loop";
  REQUIRE(::symlink(loop.c_str(), loop.c_str()) == 0);
  CHECK_THAT(mount_error(loop), Contains("symbolic links"));
}

TEST_CASE("a descriptor has one owner") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  auto open = [](int fd) { return ::fcntl(fd, F_GETFD) >= 0; };
  {
    Fd a(ends[0]);
    Fd b(std::move(a));
    CHECK_FALSE(a);
    CHECK(b.get() == ends[0]);
    a = Fd(ends[1]);
    b = std::move(a);
    CHECK_FALSE(open(ends[0]));
    CHECK(open(ends[1]));
    b = std::move(*&b);
    CHECK(open(ends[1]));
  }
  CHECK_FALSE(open(ends[1]));
  errno = EMFILE;
  CHECK_THROWS_WITH(checked_fd(-1, "thing"), Contains("thing") && Contains("Too many open files"));
}
