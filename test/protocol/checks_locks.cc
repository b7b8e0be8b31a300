// SPDX-License-Identifier: LGPL-2.1-or-later
// Locks that wait, and interruption.
#include "checks.hh"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

namespace protocol_test {
namespace {

int lock_bytes(int fd, int command, short type, off_t start, off_t length) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_start = start;
  lock.l_len = length;
  return ::fcntl(fd, command, &lock);
}

/// SIGUSR1 ends a system call with EINTR.
void interrupt_by_signal() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  ::sigaction(SIGUSR1, &action, nullptr);
}

/// In a process: 0 when the call succeeded, errno when it failed.
int result_of(long result) { return result == -1 ? errno : 0; }

/// A waiter is in the filesystem.
bool parked(Checks &c, long how_many) {
  return eventually([&] { return c.server.number("parked") == how_many; });
}

void conflicts(Checks &c) {
  make_file(c.at("locked"), "0123456789");
  const File file(c.at("locked"), O_RDWR);
  OK(lock_bytes(file, F_SETLK, F_WRLCK, 2, 3));
  Process other([&] {
    const File mine(c.at("locked"), O_RDWR);
    FAILS(lock_bytes(mine, F_SETLK, F_RDLCK, 0, 0), EAGAIN);
    OK(lock_bytes(mine, F_SETLK, F_WRLCK, 5, 0));
    struct flock lock {};
    lock.l_type = F_RDLCK;
    OK(::fcntl(mine, F_GETLK, &lock));
    EXPECT(lock.l_type == F_WRLCK && lock.l_start == 2 && lock.l_len == 3);
    EXPECT(lock.l_pid == ::getppid());
    return 0;
  });
  EXPECT(other.wait() == 0);
  OK(lock_bytes(file, F_SETLK, F_UNLCK, 0, 0));
}

void waits_for_posix_lock(Checks &c) {
  make_file(c.at("waited"), "0123456789");
  File file(c.at("waited"), O_RDWR);
  OK(lock_bytes(file, F_SETLK, F_WRLCK, 0, 0));
  Process other([&] {
    const File mine(c.at("waited"), O_RDWR);
    OK(lock_bytes(mine, F_SETLKW, F_WRLCK, 3, 1));
    return 0;
  });
  EXPECT(parked(c, 1));
  EXPECT(other.wait(0) == -1);  // it waits
  OK(lock_bytes(file, F_SETLK, F_UNLCK, 0, 0));
  EXPECT(other.wait() == 0);
}

void waits_for_bsd_lock(Checks &c) {
  make_file(c.at("flocked"), "");
  File file(c.at("flocked"), O_RDWR);
  OK(::flock(file, LOCK_EX));
  Process other([&] {
    file.close();  // what fork(2) copied would keep the lock
    const File mine(c.at("flocked"), O_RDWR);
    FAILS(::flock(mine, LOCK_EX | LOCK_NB), EAGAIN);
    OK(::flock(mine, LOCK_SH));
    return 0;
  });
  EXPECT(parked(c, 1));
  file.close();  // RELEASE gives the lock up
  EXPECT(other.wait() == 0);
}

/// Another process waits in `call`; `signal` must end that, and the request get its INTERRUPT.
void interrupted(Checks &c, const std::function<int()> &call, int signal, int expected) {
  const long before = c.server.number("interrupts");
  Process waiter([&] {
    interrupt_by_signal();
    return call();
  });
  EXPECT(parked(c, 1));
  waiter.kill(signal);
  EXPECT(waiter.wait() == expected);
  EXPECT(c.server.number("interrupts") == before + 1);
  EXPECT(c.server.number("parked") == 0);
}

void interrupted_locks(Checks &c) {
  make_file(c.at("intr"), "");
  const File file(c.at("intr"), O_RDWR);
  OK(lock_bytes(file, F_SETLK, F_WRLCK, 0, 0));
  OK(::flock(file, LOCK_EX));
  const auto posix = [&] {
    const File mine(c.at("intr"), O_RDWR);
    return result_of(lock_bytes(mine, F_SETLKW, F_WRLCK, 0, 0));
  };
  const auto bsd = [&] {
    const File mine(c.at("intr"), O_RDWR);
    return result_of(::flock(mine, LOCK_EX));
  };
  interrupted(c, posix, SIGUSR1, EINTR);
  interrupted(c, posix, SIGKILL, 1000 + SIGKILL);
  interrupted(c, bsd, SIGUSR1, EINTR);
  interrupted(c, bsd, SIGKILL, 1000 + SIGKILL);
}

int read_some(const std::string &path) {
  const File file(path, O_RDONLY);
  char bytes[64];
  return result_of(::read(file, bytes, sizeof(bytes)));
}

/// The filesystem does not react: the request stays until it is answered, whoever is dead by then.
void killed_before_reply(Checks &c) {
  make_file(c.at("park-direct-deaf"), "late");
  const long before = c.server.number("interrupts");
  Process reader([&] { return read_some(c.at("park-direct-deaf")); });
  EXPECT(parked(c, 1));
  reader.kill(SIGKILL);
  EXPECT(eventually([&] { return c.server.number("interrupts") == before + 1; }));
  EXPECT(c.server.number("release") == 1);
  EXPECT(reader.wait() == 1000 + SIGKILL);
  EXPECT(c.server.number("parked") == 0);
}

/// What two processes of a test share.
struct Shared {
  std::atomic<unsigned> holds{0};
};

Shared &shared_memory() {
  void *at = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  EXPECT(at != MAP_FAILED);
  return *new (at) Shared;
}

void stay_on_one_cpu() {
  cpu_set_t set;
  OK(::sched_getaffinity(0, sizeof(set), &set));
  int cpu = 0;
  while (!CPU_ISSET(cpu, &set)) ++cpu;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  OK(::sched_setaffinity(0, sizeof(set), &set));
}

/// SETLKW blocks the worker that calls it, and the unlock comes over the same ring.
void blocked_workers(Checks &c) {
  constexpr int kProcesses = 3, kRounds = 20;
  make_file(c.at("blocked"), "");
  stay_on_one_cpu();
  Shared &shared = shared_memory();
  std::vector<std::unique_ptr<Process>> all;
  for (int i = 0; i < kProcesses; ++i)
    all.push_back(std::make_unique<Process>([&] {
      const File mine(c.at("blocked"), O_RDWR);
      for (int round = 0; round < kRounds; ++round) {
        OK(lock_bytes(mine, F_SETLKW, F_WRLCK, 0, 1));
        EXPECT(shared.holds.fetch_add(1) == 0);
        ::usleep(500);  // the others are waiting by now, each in a worker
        EXPECT(shared.holds.fetch_sub(1) == 1);
        OK(lock_bytes(mine, F_SETLK, F_UNLCK, 0, 1));
      }
      return 0;
    }));
  for (auto &process : all) EXPECT(process->wait(60) == 0);
}

void blocked_worker_interrupted(Checks &c) {
  make_file(c.at("blocked2"), "");
  const File file(c.at("blocked2"), O_RDWR);
  OK(lock_bytes(file, F_SETLK, F_WRLCK, 0, 0));
  Process waiter([&] {
    interrupt_by_signal();
    const File mine(c.at("blocked2"), O_RDWR);
    return result_of(lock_bytes(mine, F_SETLKW, F_WRLCK, 0, 0));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT(waiter.wait(0) == -1);
  waiter.kill(SIGUSR1);
  EXPECT(waiter.wait() == EINTR);
}

}  // namespace

void check_locks(Checks &c) {
  c.run("locks: GETLK and SETLK between processes", {"GETLK", "SETLK"}, [&] { conflicts(c); });
  c.run("locks: SETLKW waits until another process unlocks", {"SETLKW", "SETLK"}, [&] { waits_for_posix_lock(c); });
  c.run("locks: flock(2) waits until another process closes", {"SETLKW", "RELEASE"}, [&] { waits_for_bsd_lock(c); });
  c.run("locks: a signal ends the waiting, SIGKILL too", {"SETLKW", "INTERRUPT"}, [&] { interrupted_locks(c); });
}

void check_interrupts(Checks &c) {
  make_file(c.at("park-direct"), "waited for");
  const auto read = [&] { return read_some(c.at("park-direct")); };
  c.run("interrupt: a READ that sleeps ends with EINTR", {"READ", "INTERRUPT"},
        [&] { interrupted(c, read, SIGUSR1, EINTR); });
  c.run("interrupt: SIGKILL ends the wait for a READ", {"READ", "INTERRUPT"},
        [&] { interrupted(c, read, SIGKILL, 1000 + SIGKILL); });
  c.run("interrupt: a reply after its requester was killed", {"READ", "INTERRUPT"}, [&] { killed_before_reply(c); });
}

void check_blocking(Checks &c) {
  c.run("blocking: SETLKW blocks workers, the unlock comes on the same ring", {"SETLKW", "SETLK"},
        [&] { blocked_workers(c); });
  c.run("blocking: a blocked worker's request is interrupted", {"SETLKW", "INTERRUPT"},
        [&] { blocked_worker_interrupted(c); });
}

}  // namespace protocol_test
