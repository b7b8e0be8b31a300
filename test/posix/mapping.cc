// SPDX-License-Identifier: LGPL-2.1-or-later
// mmap() of files, and programs started from them.
#include "check.hh"

#include <linux/falloc.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include <cstring>

namespace posix {
namespace {

constexpr std::size_t kPage = 4096;

char *map(int fd, std::size_t length = kPage, int protection = PROT_READ | PROT_WRITE, int flags = MAP_SHARED,
          off_t offset = 0) {
  return static_cast<char *>(must(mmap(nullptr, length, protection, flags, fd, offset), "mmap"));
}

/// What touching an address ends with.
std::string touch(const std::function<void()> &access) {
  return in_child([&] {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    access();
    return std::string("ok");
  });
}

CHECK("mmap.reads_file", "'abcdef' 0") {
  make_file("f", "abcdef");
  const char *memory = map(Fd("f"));
  return seen({text({memory, 6}), number(memory[6])});
}
CHECK("mmap.shared_write_is_read", "'aXcdef'") {
  make_file("f", "abcdef");
  const Fd fd("f");
  map(fd)[1] = 'X';
  return text(contents("f"));
}
CHECK("mmap.write_is_seen_in_mapping", "'aXcdef'") {
  make_file("f", "abcdef");
  const Fd fd("f");
  const char *memory = map(fd);
  const volatile char first = memory[0];
  static_cast<void>(first);
  must(pwrite(fd, "X", 1, 1), "pwrite");
  return text({memory, 6});
}
CHECK("mmap.two_processes", "'from the child'") {
  make_file("f", std::string(kPage, '\0'));
  const char *memory = map(Fd("f"));
  in_child([] {
    std::strcpy(map(Fd("f")), "from the child");
    return std::string();
  });
  return text({memory, std::strlen(memory)});
}
CHECK("mmap.private_is_private", "'abcdef' 'aXcdef'") {
  make_file("f", "abcdef");
  const Fd fd("f", O_RDONLY);
  char *memory = map(fd, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  memory[1] = 'X';
  return seen({text(contents("f")), text({memory, 6})});
}
CHECK("mmap.stays_after_close_and_unlink", "'abcdef'") {
  make_file("f", "abcdef");
  const char *memory = map(Fd("f"));
  must(unlink("f"), "unlink");
  return text({memory, 6});
}
CHECK("mmap.write_after_close_reaches_file", "'aXcdef'") {
  make_file("f", "abcdef");
  char *memory = map(Fd("f"));
  memory[1] = 'X';
  must(munmap(memory, kPage), "munmap");
  return text(contents("f"));
}
CHECK("mmap.offset", "'d'") {
  make_file("f", std::string(kPage, 'a') + std::string(kPage, 'd'));
  return text({map(Fd("f"), kPage, PROT_READ, MAP_SHARED, kPage), 1});
}
CHECK("mmap.large", "yes") {
  const std::size_t length = 3 << 20;
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(ftruncate(fd, length), "ftruncate");
  char *memory = map(fd, length);
  for (std::size_t at = 0; at < length; at += kPage) memory[at] = static_cast<char>(at / kPage);
  must(msync(memory, length, MS_SYNC), "msync");
  const std::string all = contents("f");
  bool right = all.size() == length;
  for (std::size_t at = 0; right && at < length; at += kPage) right = all[at] == static_cast<char>(at / kPage);
  return yes(right);
}
CHECK("mmap.errors", "EINVAL EINVAL EINVAL EACCES EACCES EOVERFLOW|EINVAL EINVAL EINVAL EACCES EACCES EINVAL") {
  make_file("f", "abcdef");
  const Fd fd("f"), reader("f", O_RDONLY);
  const auto attempt = [](std::size_t length, int protection, int flags, int file, off_t offset) {
    return ok(mmap(nullptr, length, protection, flags, file, offset));
  };
  return seen({attempt(0, PROT_READ, MAP_SHARED, fd, 0), attempt(kPage, PROT_READ, MAP_SHARED, fd, 1),
               attempt(kPage, PROT_READ, 0, fd, 0), attempt(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0),
               attempt(kPage, PROT_READ, MAP_SHARED, Fd("f", O_WRONLY), 0),
               attempt(kPage, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(INT64_MAX & ~0xfffL))});
}
CHECK("mmap.append_only_descriptor", "EACCES|ok") {
  make_file("f", "abcdef");
  return ok(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, Fd("f", O_RDWR | O_APPEND), 0));
}
CHECK("mmap.protection.write_to_read_only", "killed by SIGSEGV") {
  make_file("f", "abcdef");
  char *memory = map(Fd("f"), kPage, PROT_READ);
  return touch([&] { memory[0] = 'X'; });
}
CHECK("mmap.protection.mprotect", "ok EACCES 'Xbcdef'") {
  make_file("f", "abcdef");
  char *memory = map(Fd("f"), kPage, PROT_READ), *reader = map(Fd("f", O_RDONLY), kPage, PROT_READ);
  const std::string allowed = ok(mprotect(memory, kPage, PROT_READ | PROT_WRITE));
  const std::string refused = ok(mprotect(reader, kPage, PROT_READ | PROT_WRITE));
  memory[0] = 'X';
  return seen({allowed, refused, text({reader, 6})});
}
CHECK("mmap.past_end.same_page", "ok 0") {
  make_file("f", "abcdef");
  const char *memory = map(Fd("f"));
  return seen({touch([&] { static_cast<void>(static_cast<const volatile char *>(memory)[kPage - 1]); }),
               number(memory[kPage - 1])});
}
CHECK("mmap.past_end.next_page", "killed by SIGBUS") {
  make_file("f", "abcdef");
  const char *memory = map(Fd("f"), 2 * kPage);
  return touch([&] { static_cast<void>(static_cast<const volatile char *>(memory)[kPage]); });
}
CHECK("mmap.past_end.write", "killed by SIGBUS") {
  make_file("f", "abcdef");
  char *memory = map(Fd("f"), 2 * kPage);
  return touch([&] { memory[kPage] = 'X'; });
}
CHECK("mmap.past_end.after_truncate", "ok killed by SIGBUS") {
  make_file("f", std::string(2 * kPage, 'a'));
  const char *memory = map(Fd("f"), 2 * kPage);
  const auto second_page = [&] { static_cast<void>(static_cast<const volatile char *>(memory)[kPage]); };
  const std::string before = touch(second_page);
  must(truncate("f", 10), "truncate");
  return seen({before, touch(second_page)});
}
CHECK("mmap.past_end.after_extension", "ok 'x'") {
  make_file("f", "abcdef");
  char *memory = map(Fd("f"), 2 * kPage);
  must(truncate("f", 2 * kPage), "truncate");
  const std::string wrote = touch([&] { memory[kPage] = 'x'; });
  return seen({wrote, text({memory + kPage, 1})});
}
CHECK("mmap.past_end.bytes_behind_end_then_extended", "") {
  make_file("f", "abcdef");
  char *memory = map(Fd("f"));
  memory[8] = 'X';  // in the page, behind the end
  must(msync(memory, kPage, MS_SYNC), "msync");
  must(munmap(memory, kPage), "munmap");
  must(truncate("f", 10), "truncate");
  return text(contents("f"));
}
CHECK("mmap.truncated_page_is_zero", "'ab\\00\\00\\00\\00'") {
  make_file("f", "abcdef");
  const char *memory = map(Fd("f"));
  const volatile char first = memory[0];
  static_cast<void>(first);
  must(truncate("f", 2), "truncate");
  must(truncate("f", 6), "truncate");
  return text({memory, 6});
}
CHECK("mmap.punched_page_is_zero", "0 'a'") {
  make_file("f", std::string(2 * kPage, 'a'));
  const Fd fd("f");
  const char *memory = map(fd, 2 * kPage);
  const volatile char first = memory[0];
  static_cast<void>(first);
  must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPage), "fallocate");
  return seen({number(memory[0]), text({memory + kPage, 1})});
}
CHECK("mmap.hole", "0 'x' 1") {
  const Fd fd("f", O_CREAT | O_RDWR, 0600);
  must(ftruncate(fd, 4 * kPage), "ftruncate");
  char *memory = map(fd, 4 * kPage);
  const char before = memory[2 * kPage];
  memory[2 * kPage] = 'x';
  const std::string all = contents("f");
  return seen({number(before), text(all.substr(2 * kPage, 1)), yes(all[0] == 0) == "yes" ? "1" : "0"});
}
CHECK("mmap.times", "mtime ctime|atime mtime ctime") {
  make_file("f", std::string(kPage, 'a'));
  return times_changed("f", [] {
    char *memory = map(Fd("f"));
    memory[0] = 'X';
    must(msync(memory, kPage, MS_SYNC), "msync");
    munmap(memory, kPage);
  });
}
CHECK("mmap.read_from_mapping_into_same_file", "4096") {
  // The source of the write is the page that is written.
  make_file("f", std::string(kPage, 'a'));
  const Fd fd("f");
  const char *memory = map(fd);
  return number(pwrite(fd, memory, kPage, 0));
}
CHECK("mmap.write_from_unread_mapping_of_other_file", "4096 yes") {
  make_file("f", std::string(kPage, 'a'));
  make_file("g");
  const char *memory = map(Fd("f"), kPage, PROT_READ);
  const std::string wrote = number(write(Fd("g"), memory, kPage));
  return seen({wrote, yes(contents("g") == std::string(kPage, 'a'))});
}
CHECK("mmap.read_into_mapping_of_other_file", "4096 yes") {
  make_file("f", std::string(kPage, 'a'));
  make_file("g", std::string(kPage, 'b'));
  const std::string got = number(read(Fd("f"), map(Fd("g")), kPage));
  return seen({got, yes(contents("g") == std::string(kPage, 'a'))});
}
CHECK("msync", "ok ok EINVAL EINVAL ENOMEM") {
  make_file("f", std::string(kPage, 'a'));
  char *memory = map(Fd("f"));
  const std::string whole = seen({ok(msync(memory, kPage, MS_SYNC)), ok(msync(memory, kPage, MS_ASYNC | MS_INVALIDATE)),
                                  ok(msync(memory, kPage, MS_SYNC | MS_ASYNC)), ok(msync(memory + 1, kPage, MS_SYNC))});
  munmap(memory, kPage);
  return seen({whole, ok(msync(memory, kPage, MS_SYNC))});
}
CHECK("mmap.advice", "ok ok ok") {
  make_file("f", std::string(kPage, 'a'));
  char *memory = map(Fd("f"));
  return seen({ok(madvise(memory, kPage, MADV_WILLNEED)), ok(madvise(memory, kPage, MADV_DONTNEED)),
               ok(madvise(memory, kPage, MADV_SEQUENTIAL))});
}
CHECK("mmap.advice_remove", "ok 0|EOPNOTSUPP 97") {
  make_file("f", std::string(kPage, 'a'));
  char *memory = map(Fd("f"));
  const std::string done = ok(madvise(memory, kPage, MADV_REMOVE));
  return seen({done, number(memory[0])});
}
CHECK("mmap.locked", "ok 'a'") {
  make_file("f", std::string(kPage, 'a'));
  char *memory = map(Fd("f"));
  return seen({ok(mlock(memory, kPage)), text({memory, 1})});
}
CHECK("mmap.populated", "'a'") {
  make_file("f", std::string(kPage, 'a'));
  return text({map(Fd("f"), kPage, PROT_READ, MAP_SHARED | MAP_POPULATE), 1});
}
CHECK("mmap.sync_mapping", "") {
  make_file("f", "abc");
  return ok(mmap(nullptr, kPage, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, Fd("f"), 0));
}
CHECK("mmap.executable_code", "42") {
  // mov $42, %eax; ret
  make_file("f", std::string("\xb8\x2a\0\0\0\xc3", 6), 0755);
#if defined(__x86_64__)
  auto *code = map(Fd("f", O_RDONLY), kPage, PROT_READ | PROT_EXEC, MAP_PRIVATE);
  return number(reinterpret_cast<int (*)()>(code)());
#else
  throw Skip("the code is for x86-64");
#endif
}

// Programs

/// This machine's /bin/true, copied here; or a script that ends with 7.
void copy_program(const std::string &path, mode_t mode = 0755) { make_file(path, contents("/bin/true"), mode); }
void make_script(const std::string &path, mode_t mode = 0755) { make_file(path, "#!/bin/sh\nexit 7\n", mode); }

CHECK("exec.program", "exit 0") {
  copy_program("p");
  return run_program("./p", {});
}
CHECK("exec.script", "exit 7") {
  make_script("s");
  return run_program("./s", {});
}
CHECK("exec.through_link", "exit 7") {
  make_script("s");
  make_link("s", "l");
  return run_program("./l", {});
}
CHECK("exec.not_executable", "EACCES") {
  copy_program("p", 0644);
  return run_program("./p", {});
}
CHECK("exec.format", "ENOEXEC") {
  make_file("f", "nonsense", 0755);
  return run_program("./f", {});
}
CHECK("exec.empty", "ENOEXEC") {
  make_file("f", "", 0755);
  return run_program("./f", {});
}
CHECK("exec.no_interpreter", "ENOENT") {
  make_file("f", "#!/no/such/interpreter\n", 0755);
  return run_program("./f", {});
}
CHECK("exec.directory", "EACCES") { return run_program(".", {}); }
CHECK("exec.open_for_writing", "ETXTBSY exit 0") {
  copy_program("p");
  Fd writer("p", O_WRONLY | O_CLOEXEC);
  const std::string busy = run_program("./p", {});
  writer.close();
  return seen({busy, run_program("./p", {})});
}
CHECK("exec.write_while_running", "ETXTBSY ETXTBSY") {
  make_file("p", contents("/bin/sleep"), 0755);
  const pid_t child = static_cast<pid_t>(must(fork(), "fork"));
  if (child == 0) {
    for (int fd = 3; fd < 100; ++fd) ::close(fd);
    execl("./p", "p", "60", nullptr);
    _exit(1);
  }
  std::string opened = "not yet";
  for (int i = 0; i < 200 && opened != "ETXTBSY"; ++i) {  // until it has started
    usleep(10000);
    const int fd = open("p", O_WRONLY);
    opened = ok(fd);
    if (fd >= 0) ::close(fd);
  }
  const std::string cut = ok(truncate("p", 0));
  kill(child, SIGKILL);
  return seen({opened, cut});
}
CHECK("exec.set_user_id", "exit 0 12345") {
  make_file("p", contents("/usr/bin/id"), 0755);
  must(chown("p", kUser, kGroup), "chown");
  must(chmod("p", 04755), "chmod");
  const std::string status = in_child([] {
    const Fd out("out", O_CREAT | O_WRONLY, 0666);
    dup2(out, 1);
    return run_program("./p", {"-u"});
  });
  const std::string who = contents("out");
  return seen({status, who.empty() ? "nothing" : who.substr(0, who.size() - 1)});
}
CHECK("exec.set_user_id_on_nosuid_mount", "") {
  // Whether this mount honours them at all.
  make_file("p", contents("/usr/bin/id"), 0755);
  must(chmod("p", 04755), "chmod");
  struct statvfs st;
  must(statvfs(".", &st), "statvfs");
  return yes(st.f_flag & ST_NOSUID);
}
CHECK("exec.descriptor", "exit 7|exit 127") {
  make_script("s");
  return in_child([] {
    const int fd = open("s", O_RDONLY);
    return run_program("/proc/self/fd/" + std::to_string(fd), {});
  });
}
CHECK("exec.unreadable_but_executable", "exit 0") {
  chmod(".", 0755);
  copy_program("p", 0711);
  return in_child([] {
    become(kUser, kGroup);
    return run_program("./p", {});
  });
}

}  // namespace
}  // namespace posix
