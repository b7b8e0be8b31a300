// SPDX-License-Identifier: LGPL-2.1-or-later
// Replies in any order, from any thread, twice; requests that come twice.
#include "checks.hh"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

namespace protocol_test {
namespace {

constexpr std::size_t kUnit = 512;

std::string numbered(std::size_t units) {
  std::string data(units * kUnit, '\0');
  for (std::size_t i = 0; i < units; ++i) std::memcpy(&data[i * kUnit], &i, sizeof(i));
  return data;
}

/// Each read must bring what it asked for, whatever was answered before it.
unsigned wrong_reads(const std::string &path, unsigned seed, std::size_t units, unsigned count) {
  const File file(path, O_RDONLY);
  std::mt19937 random(seed);
  std::string data(3 * kUnit, '\0');
  unsigned wrong = 0;
  for (unsigned i = 0; i < count; ++i) {
    const std::size_t unit = random() % (units - 3);
    const std::size_t size = (1 + random() % 3) * kUnit;
    std::size_t first = 0;
    const ssize_t got = ::pread(file, data.data(), size, static_cast<off_t>(unit * kUnit));
    std::memcpy(&first, data.data(), sizeof(first));
    wrong += got != static_cast<ssize_t>(size) || first != unit;
  }
  return wrong;
}

void random_order(Checks &c) {
  constexpr unsigned kThreads = 48, kReads = 100;
  constexpr std::size_t kUnits = 2000;
  make_file(c.at("park-direct-many"), numbered(kUnits));
  const long before = c.server.count("READ", c.server.way());
  EXPECT(c.server.number("automatic 4") == 0);
  Process clients([&] {
    std::atomic<unsigned> wrong{0};
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i)
      threads.emplace_back([&, i] { wrong += wrong_reads(c.at("park-direct-many"), i, kUnits, kReads); });
    for (std::thread &thread : threads) thread.join();
    return wrong == 0 ? 0 : 1;
  });
  EXPECT(clients.wait(120) == 0);
  EXPECT(c.server.number("automatic 0") == 0);
  EXPECT(c.server.number("parked") == 0);
  // Those that found every slot taken went to /dev/fuse.
  EXPECT(c.server.count("READ", c.server.way()) - before >= kThreads * kReads / 2);
}

void replied_twice(Checks &c) {
  make_file(c.at("twice"), "");
  for (int i = 0; i < 50; ++i) {
    EXPECT(c.server.number("inval_inode twice") == 0);
    struct stat st {};
    OK(::stat(c.at("twice").c_str(), &st));
    EXPECT(S_ISREG(st.st_mode) && st.st_size == 0);
  }
  // Of three replies one is taken, and the filesystem is told so of the others.
  EXPECT(eventually([&] { return c.server.number("refused") == 2 * 50; }));
  make_file(c.at("after"), "well");
  EXPECT(read_file(c.at("after")) == "well");
}

/// Both requests wait in the filesystem, are sent again, and are answered once each.
void resent(Checks &c) {
  make_file(c.at("park-direct-again"), "sent again");
  const long mkdirs = c.server.number("mkdirs");
  Process reader([&] { return read_file(c.at("park-direct-again")) == "sent again" ? 0 : 1; });
  Process maker([&] { return ::mkdir(c.at("park-dir").c_str(), 0755) == 0 ? 0 : errno; });
  EXPECT(eventually([&] { return c.server.number("parked") == 2; }));
  const long stock = c.server.count("MKDIR", "stock");
  for (int i = 0; i < 3; ++i) {
    if (const long error = c.server.number("resend"); error == -ENOSYS)
      throw Skipped("this kernel has no FUSE_NOTIFY_RESEND");
    else
      EXPECT(error == 0);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // the copies arrive
  EXPECT(c.server.number("parked") == 2);
  EXPECT(c.server.number("mkdirs") == mkdirs + 1);
  EXPECT(c.server.number("release") >= 2);
  EXPECT(maker.wait() == 0);
  // The reader asks for more until the end of the file.
  EXPECT(eventually([&] { return c.server.number("release") >= 0 && reader.wait(0) != -1; }));
  EXPECT(reader.wait() == 0);
  // That is where the copies were answered. What went over io_uring the kernel does not send again.
  if (c.server.way() != "uring") EXPECT(c.server.count("MKDIR", "stock") > stock);
  EXPECT(c.server.number("mkdirs") == mkdirs + 1);
}

void resent_and_interrupted(Checks &c) {
  make_file(c.at("park-direct-intr"), "x");
  const long before = c.server.number("interrupts");
  Process reader([&] {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, nullptr);
    const File file(c.at("park-direct-intr"), O_RDONLY);
    char byte;
    return ::read(file, &byte, 1) == -1 ? errno : 0;
  });
  EXPECT(eventually([&] { return c.server.number("parked") == 1; }));
  const long error = c.server.number("resend");
  if (error == -ENOSYS) throw Skipped("this kernel has no FUSE_NOTIFY_RESEND");
  EXPECT(error == 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  reader.kill(SIGUSR1);
  EXPECT(reader.wait() == EINTR);
  EXPECT(c.server.number("interrupts") > before);
  EXPECT(c.server.number("parked") == 0);
}

}  // namespace

void check_replies(Checks &c) {
  c.run("replies: 4800 READs answered by four threads in random order", {"READ"}, [&] { random_order(c); });
  c.run("replies: a second and third reply are refused and hurt nobody", {"GETATTR"}, [&] { replied_twice(c); });
}

void check_resend(Checks &c) {
  c.run("resend: requests sent again are not carried out again", {}, [&] { resent(c); });
  c.run("resend: a request that was sent again is interrupted", {}, [&] { resent_and_interrupted(c); });
}

}  // namespace protocol_test
