// SPDX-License-Identifier: LGPL-2.1-or-later
// Other users, other processes: permissions, fork, descriptors that are passed on.
#include "checks.hh"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <linux/fs.h>

#include <cstring>

namespace protocol_test {
namespace {

struct AclEntry {
  std::uint16_t tag, permissions;
  std::uint32_t id;
};
struct Acl {
  std::uint32_t version = 2;
  AclEntry entries[5];
};
static_assert(sizeof(Acl) == 44);

/// Owner rw, user 4711 r, group none, mask r, others none.
Acl readable_by_4711() {
  constexpr std::uint32_t kNobody = UINT32_MAX;
  return {2, {{0x01, 6, kNobody}, {0x02, 4, 4711}, {0x04, 0, kNobody}, {0x10, 4, kNobody}, {0x20, 0, kNobody}}};
}

/// What open(2) says to another user: 0 or errno.
int open_as(uid_t user, const std::string &path, int flags) {
  Process other([&] {
    OK(::setgid(user));
    OK(::setuid(user));
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC);
    return fd < 0 ? errno : 0;
  });
  return other.wait();
}

void acl(Checks &c) {
  const std::string path = c.at("acl");
  make_file(path, "secret");
  OK(::chmod(path.c_str(), 0644));
  EXPECT(open_as(4711, path, O_RDONLY) == 0);  // the way there is open
  OK(::chmod(path.c_str(), 0600));
  EXPECT(open_as(4711, path, O_RDONLY) == EACCES);
  const Acl set = readable_by_4711();
  OK(::setxattr(path.c_str(), "system.posix_acl_access", &set, sizeof(set), 0));
  Acl got{};
  EXPECT(::getxattr(path.c_str(), "system.posix_acl_access", &got, sizeof(got)) == sizeof(got));
  EXPECT(std::memcmp(&set, &got, sizeof(set)) == 0);
  struct stat st {};
  OK(::stat(path.c_str(), &st));
  EXPECT((st.st_mode & 0777) == 0640);
  EXPECT(open_as(4711, path, O_RDONLY) == 0);
  EXPECT(open_as(4711, path, O_RDWR) == EACCES);
  EXPECT(open_as(4712, path, O_RDONLY) == EACCES);
  OK(::removexattr(path.c_str(), "system.posix_acl_access"));
  OK(::chmod(path.c_str(), 0600));
  EXPECT(open_as(4711, path, O_RDONLY) == EACCES);
}

/// Send `fd` to the other end.
void send_descriptor(int socket, int fd) {
  char byte = 'd';
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  OK(::sendmsg(socket, &message, 0));
}

int receive_descriptor(int socket) {
  char byte;
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  EXPECT(::recvmsg(socket, &message, 0) == 1);
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
  return fd;
}

/// The descriptor outlives the process that opened the file, and its name.
void passed_on(Checks &c) {
  int ends[2];
  OK(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
  const File mine(ends[0]), theirs(ends[1]);
  Process opener([&] {
    const File file(c.at("passed-direct"), O_CREAT | O_RDWR);
    EXPECT(::write(file, "from the opener", 15) == 15);
    send_descriptor(theirs, file);
    return 0;
  });
  const File file(receive_descriptor(mine));
  EXPECT(opener.wait() == 0);
  OK(::unlink(c.at("passed-direct").c_str()));
  char data[16] = {};
  EXPECT(::pread(file, data, 15, 0) == 15);
  EXPECT(std::string(data) == "from the opener");
  EXPECT(::pwrite(file, "FROM", 4, 0) == 4);
  struct stat st {};
  OK(::fstat(file, &st));
  EXPECT(st.st_size == 15);
}

/// Parent and child share an open file: one offset, and its RELEASE comes once, with the last of them.
void forked(Checks &c) {
  File file(c.at("forked-direct"), O_CREAT | O_RDWR);
  const auto releases = [&] { return c.server.carried("RELEASE"); };
  const long before = releases();
  for (int i = 0; i < 5; ++i) {
    Process child([&] {
      EXPECT(::write(file, "child ", 6) == 6);
      return 0;
    });
    EXPECT(child.wait() == 0);
    EXPECT(::write(file, "parent ", 7) == 7);
  }
  EXPECT(releases() == before);
  file.close();
  EXPECT(eventually([&] { return releases() == before + 1; }));
  EXPECT(read_file(c.at("forked-direct")).size() == 5 * 13);
}

void mapped(Checks &c) {
  make_file(c.at("mapped"), std::string(8192, 'm'));
  const File file(c.at("mapped"), O_RDWR);
  void *at = ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  EXPECT(at != MAP_FAILED);
  auto *bytes = static_cast<char *>(at);
  Process child([&] {
    bytes[5000] = 'c';
    return bytes[0] == 'm' ? 0 : 1;
  });
  EXPECT(child.wait() == 0);
  EXPECT(bytes[5000] == 'c');
  OK(::msync(at, 8192, MS_SYNC));
  ::munmap(at, 8192);
  EXPECT(c.server.number("inval_inode mapped") == 0);
  EXPECT(read_file(c.at("mapped"))[5000] == 'c');
}

}  // namespace

void check_acl(Checks &c) {
  c.run("acl: stored by the filesystem, enforced by the kernel", {"SETXATTR", "GETXATTR", "REMOVEXATTR"},
        [&] { acl(c); });
}

void check_access(Checks &c) {
  c.run("access: the filesystem decides without default_permissions", {"ACCESS"}, [&] {
    make_file(c.at("readonly"), "");
    OK(::access(c.at("readonly").c_str(), R_OK));
    FAILS(::access(c.at("readonly").c_str(), W_OK), EROFS);
  });
}

void check_descriptors(Checks &c) {
  c.run("processes: a descriptor passed by SCM_RIGHTS outlives its opener", {"CREATE", "READ", "WRITE", "RELEASE"},
        [&] { passed_on(c); });
  c.run("processes: an open file shared over fork(2) is released once", {"WRITE", "FLUSH", "RELEASE"},
        [&] { forked(c); });
  c.run("processes: a shared mapping over fork(2)", {"READ", "WRITE"}, [&] { mapped(c); });
}

void check_bmap(Checks &c) {
  c.run("bmap: FIBMAP on a fuseblk mount", {"BMAP"}, [&] {
    make_file(c.at("bmap"), std::string(16384, 'x'));
    const File file(c.at("bmap"), O_RDONLY);
    int block = 3;
    OK(::ioctl(file, FIBMAP, &block));
    EXPECT(block == 1003);
  });
}

}  // namespace protocol_test
