// SPDX-License-Identifier: LGPL-2.1-or-later
// What the filesystem tells the kernel unasked, forgetting, ioctl and poll.
#include "checks.hh"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

namespace protocol_test {
namespace {

bool exists(const std::string &path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0;
}

std::string first_bytes(int fd, std::size_t size) {
  std::string data(size, '\0');
  data.resize(static_cast<std::size_t>(OK(::pread(fd, data.data(), size, 0))));
  return data;
}

void ioctls(Checks &c) {
  make_file(c.at("ioctl"), "");
  const File file(c.at("ioctl"), O_RDWR);
  IoctlPair pair{21, 1ull << 40};
  EXPECT(::ioctl(file, kIoctlDouble, &pair) == 7);
  EXPECT(pair.first == 42 && pair.second == 1ull << 41);
  IoctlBlock set{}, got{};
  std::memset(set.bytes, 'b', sizeof(set.bytes));
  OK(::ioctl(file, kIoctlSet, &set));
  OK(::ioctl(file, kIoctlGet, &got));
  EXPECT(std::memcmp(&set, &got, sizeof(set)) == 0);
  EXPECT(::ioctl(file, kIoctlArgument, 0x1234) == 0x34);
  OK(::ioctl(file, kIoctlParts, &pair));
  EXPECT(pair.first == 1 && pair.second == 2);
  FAILS(::ioctl(file, kIoctlFail), EBADMSG);
  FAILS(::ioctl(file, _IO('e', 99)), ENOTTY);
  const File dir(c.server.mountpoint(), O_RDONLY | O_DIRECTORY);
  EXPECT(::ioctl(dir, kIoctlArgument, 0x1234) == 1000 + 0x34);
}

void polls(Checks &c) {
  make_file(c.at("polled"), "");
  const File file(c.at("polled"), O_RDONLY), epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN;
  OK(::epoll_ctl(epoll, EPOLL_CTL_ADD, file, &event));
  EXPECT(::epoll_wait(epoll, &event, 1, 0) == 0);
  EXPECT(c.server.number("ready polled") == 0);
  EXPECT(::epoll_wait(epoll, &event, 1, 20'000) == 1);
  EXPECT(event.events == EPOLLIN);
}

/// READs so far, whichever way.
long reads(Checks &c) { return c.server.carried("READ"); }
long lookups(Checks &c) { return c.server.carried("LOOKUP"); }

void stores(Checks &c) {
  make_file(c.at("stored"), std::string(8192, 'r'));
  const File file(c.at("stored"), O_RDONLY);
  EXPECT(c.server.number("inval_inode stored") == 0);  // what was written is cached as well
  struct stat st {};
  OK(::fstat(file, &st));  // and so that no later look at the attributes finds another time and drops the pages
  const long before = reads(c);
  EXPECT(c.server.number("store stored 0 8192 S") == 0);
  EXPECT(first_bytes(file, 8192) == std::string(8192, 'S'));
  EXPECT(reads(c) == before);
  EXPECT(c.server.number("inval_inode stored") == 0);
  EXPECT(first_bytes(file, 8192) == std::string(8192, 'r'));
  EXPECT(reads(c) > before);
}

void invalidates_inode(Checks &c) {
  make_file(c.at("cached"), std::string(4096, 'a'));
  const File file(c.at("cached"), O_RDONLY);
  EXPECT(first_bytes(file, 4096) == std::string(4096, 'a'));
  EXPECT(c.server.number("fill cached b") == 0);
  EXPECT(first_bytes(file, 4096) == std::string(4096, 'a'));
  EXPECT(c.server.number("inval_inode cached") == 0);
  EXPECT(first_bytes(file, 4096) == std::string(4096, 'b'));
}

void invalidates_entry(Checks &c) {
  make_file(c.at("entry"), "");
  EXPECT(exists(c.at("entry")));
  EXPECT(c.server.number("hide entry") == 0);
  EXPECT(exists(c.at("entry")));  // the kernel believes what it knows
  EXPECT(c.server.number("inval_entry entry") == 0);
  EXPECT(!exists(c.at("entry")));
  EXPECT(c.server.number("inval_entry never-seen") == -ENOENT);
}

void expires_entry(Checks &c) {
  make_file(c.at("expires"), "x");
  EXPECT(exists(c.at("expires")));
  const long before = lookups(c);
  EXPECT(exists(c.at("expires")));
  EXPECT(lookups(c) == before);
  EXPECT(c.server.number("expire_entry expires") == 0);
  EXPECT(exists(c.at("expires")));
  EXPECT(lookups(c) == before + 1);
}

void deletes(Checks &c) {
  make_file(c.at("deleted"), "still open");
  const File file(c.at("deleted"), O_RDONLY);
  EXPECT(exists(c.at("deleted")));
  EXPECT(c.server.number("delete deleted") == 0);
  EXPECT(!exists(c.at("deleted")));
  EXPECT(first_bytes(file, 10) == "still open");
}

void retrieves(Checks &c) {
  make_file(c.at("retrieved"), std::string(6000, 'q'));
  const File file(c.at("retrieved"), O_RDONLY);
  EXPECT(first_bytes(file, 6000).size() == 6000);
  EXPECT(c.server.number("fill retrieved z") == 0);
  EXPECT(c.server.ask("retrieve retrieved 1000 3000") == "3000 " + std::string(3000, 'q'));
}

void newer(Checks &c) {
  make_file(c.at("newer"), "");
  const long minor = c.server.number("minor");
  EXPECT(c.server.number("epoch") == (minor < 44 ? -ENOSYS : 0));
  EXPECT(c.server.number("prune newer") == (minor < 45 ? -ENOSYS : 0));
}

void drop_caches() {
  const File file("/proc/sys/vm/drop_caches", O_WRONLY);
  EXPECT(::write(file, "2", 1) == 1);
}

void forgets(Checks &c) {
  for (int i = 0; i < 500; ++i) make_file(c.at("forget" + std::to_string(i)), "");
  EXPECT(c.server.number("known") >= 500);
  EXPECT(eventually([&] {
    drop_caches();
    return c.server.number("known") == 0;
  }));
  for (int i = 0; i < 500; ++i) OK(::unlink(c.at("forget" + std::to_string(i)).c_str()));
}

}  // namespace

void check_ioctl_and_poll(Checks &c) {
  c.run("ioctl: data in, out and both, arguments, errors, directories", {"IOCTL"}, [&] { ioctls(c); });
  c.run("ioctl: a RETRY is EIO where only well-formed ioctls are allowed", {"IOCTL"}, [&] {
    make_file(c.at("retry"), "");
    const File file(c.at("retry"), O_RDWR);
    IoctlPair pair{};
    FAILS(::ioctl(file, kIoctlRetry, &pair), EIO);
  });
  c.run("poll: epoll_wait sleeps until fuse_lowlevel_notify_poll", {"POLL"}, [&] { polls(c); });
}

void check_notifications(Checks &c) {
  c.run("notify: store, and the page is read without a READ", {}, [&] { stores(c); });
  c.run("notify: inval_inode, and new content is read", {"READ"}, [&] { invalidates_inode(c); });
  c.run("notify: inval_entry, and a name is gone", {"LOOKUP"}, [&] { invalidates_entry(c); });
  c.run("notify: expire_entry, and a name is looked up again", {"LOOKUP"}, [&] { expires_entry(c); });
  c.run("notify: delete, and a name is gone under an open file", {"LOOKUP"}, [&] { deletes(c); });
  c.run("notify: retrieve brings what the page cache has", {"NOTIFY_REPLY"}, [&] { retrieves(c); });
  c.run("notify: increment_epoch and prune need a newer protocol", {}, [&] { newer(c); });
}

void check_forgets(Checks &c) {
  c.run("forget: caches dropped, every node forgotten", {"BATCH_FORGET"}, [&] { forgets(c); });
}

}  // namespace protocol_test
