// SPDX-License-Identifier: LGPL-2.1-or-later
// ReplyPipe with a pipe in the place of /dev/fuse: a reply's bytes are what comes out of it.
#include "reply_pipe.hh"

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>

namespace {

using efuse::Fd;
using efuse::ReplyPipe;

constexpr std::size_t kPage = 4096;

std::string pattern(std::size_t size) {
  std::string s(size, '\0');
  for (std::size_t i = 0; i < size; ++i) s[i] = static_cast<char>(i * 7 + i / 251);
  return s;
}

Fd file_with(const std::string &content) {
  Fd fd(::memfd_create("reply_pipe_test", MFD_CLOEXEC));
  REQUIRE(::pwrite(fd.get(), content.data(), content.size(), 0) == static_cast<ssize_t>(content.size()));
  return fd;
}

/// What stands for /dev/fuse.
struct Device {
  Device() {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    out.reset(ends[0]);
    in.reset(ends[1]);
    REQUIRE(::fcntl(in.get(), F_SETPIPE_SZ, 1 << 20) >= 0);
  }
  /// All that was written.
  std::string read() {
    std::string all(2 << 20, '\0');
    std::size_t size = 0;
    for (ssize_t n; (n = ::read(out.get(), all.data() + size, all.size() - size)) > 0;)
      size += static_cast<std::size_t>(n);
    all.resize(size);
    return all;
  }
  Fd out, in;
};

void check_reply(const std::string &reply, std::uint64_t unique, const std::string &body) {
  fuse_out_header header;
  REQUIRE(reply.size() == sizeof header + body.size());
  std::memcpy(&header, reply.data(), sizeof header);
  CHECK(header.len == reply.size());
  CHECK(header.error == 0);
  CHECK(header.unique == unique);
  CHECK((reply.substr(sizeof header) == body));
}

TEST_CASE("a file's bytes, wherever they lie and wherever it ends", "[reply_pipe]") {
  ReplyPipe pipe;
  Device device;
  std::uint64_t unique = 1;
  for (const std::size_t size : {std::size_t{1}, kPage - 1, 5 * kPage, std::size_t{100'001}, std::size_t{600'000}}) {
    const std::string content = pattern(size);
    const Fd file = file_with(content);
    for (const std::size_t pos : {std::size_t{0}, std::size_t{1}, kPage - 1, kPage, size - 1, size, size + 3 * kPage})
      for (const std::size_t len : {std::size_t{1}, kPage, 16 * kPage + 1, 128 * kPage})
        for (const bool again : {false, true}) {
          INFO(size << " bytes, " << len << " from " << pos);
          const std::string body = pos < size ? content.substr(pos, len) : "";
          REQUIRE(pipe.take(file.get(), static_cast<off_t>(pos), len, again));
          CHECK(pipe.taken() == body.size());
          CHECK(pipe.send(device.in.get(), unique, again) == 0);
          check_reply(device.read(), unique, body);
          ++unique;
        }
  }
}

TEST_CASE("what was taken and not sent is dropped", "[reply_pipe]") {
  ReplyPipe pipe;
  Device device;
  const Fd file = file_with(pattern(64 * kPage));
  REQUIRE(pipe.take(file.get(), 0, 3 * kPage, true));
  REQUIRE(pipe.take(file.get(), kPage, 2 * kPage, true));
  CHECK(pipe.send(device.in.get(), 5, false) == 0);
  check_reply(device.read(), 5, pattern(64 * kPage).substr(kPage, 2 * kPage));
}

TEST_CASE("a refused reply leaves nothing behind", "[reply_pipe]") {
  ReplyPipe pipe;
  Device device;
  const Fd file = file_with("refused or not");
  REQUIRE(pipe.take(file.get(), 0, 7, true));
  CHECK(pipe.send(device.out.get(), 1, false) == -EBADF);  // as where the device is let go of
  CHECK(pipe.taken() == 0);
  REQUIRE(pipe.take(file.get(), 8, 100, true));
  CHECK(pipe.send(device.in.get(), 2, false) == 0);
  check_reply(device.read(), 2, "or not");
}

TEST_CASE("a source that cannot be spliced is let be for a while", "[reply_pipe]") {
  ReplyPipe pipe;
  Device device;
  const Fd directory(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const Fd file = file_with("abc");
  CHECK_FALSE(pipe.take(directory.get(), 0, kPage, true));
  CHECK(pipe.taken() == 0);
  unsigned refused = 0;
  while (!pipe.take(file.get(), 0, kPage, true)) REQUIRE(++refused < 1000);
  CHECK(refused > 0);
  CHECK(pipe.send(device.in.get(), 3, false) == 0);
  check_reply(device.read(), 3, "abc");
}

TEST_CASE("more than a pipe holds is not for this way", "[reply_pipe]") {
  ReplyPipe pipe;
  Device device;
  const std::string content = pattern(3 * kPage);
  const Fd file = file_with(content);
  CHECK_FALSE(pipe.take(file.get(), 0, SIZE_MAX, true));
  CHECK_FALSE(pipe.take(file.get(), 0, std::size_t{1} << 40, true));
  REQUIRE(pipe.take(file.get(), 0, 3 * kPage, true));  // at once: that was not the source's fault
  CHECK(pipe.send(device.in.get(), 4, false) == 0);
  check_reply(device.read(), 4, content);
}

TEST_CASE("the header is in the pipe, whatever a child does with the memory", "[reply_pipe]") {
  ReplyPipe pipe;
  Device device;
  const Fd file = file_with("forked");
  REQUIRE(pipe.take(file.get(), 0, kPage, true));
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  CHECK(pipe.send(device.in.get(), 6, false) == 0);
  check_reply(device.read(), 6, "forked");
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

}  // namespace
