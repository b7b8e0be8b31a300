// SPDX-License-Identifier: LGPL-2.1-or-later
#include "checks.hh"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

namespace protocol_test {

void expect(bool holds, const char *what, const char *file, int line) {
  if (!holds) throw Failed(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

long expect_ok(long result, const char *what, const char *file, int line) {
  if (result == -1)
    throw Failed(std::string(file) + ":" + std::to_string(line) + ": " + what + ": " + std::strerror(errno));
  return result;
}

void expect_error(long result, int error, const char *what, const char *file, int line) {
  const int now = errno;
  if (result == -1 && now == error) return;
  throw Failed(std::string(file) + ":" + std::to_string(line) + ": " + what + ": expected " + std::strerror(error) +
               ", got " + (result == -1 ? std::strerror(now) : std::to_string(result)));
}

bool eventually(const std::function<bool()> &holds) {
  using namespace std::chrono;
  for (const auto end = steady_clock::now() + 20s; !holds();) {
    if (steady_clock::now() > end) return false;
    std::this_thread::sleep_for(10ms);
  }
  return true;
}

namespace {

/// The way that requests of `opcode` take where others take `way`.
std::string way_of(const std::string &opcode, const std::string &way) {
  if (way == "ring" && opcode == "NOTIFY_REPLY") return "stock";
  if (way == "uring" && (opcode == "INTERRUPT" || opcode == "FORGET" || opcode == "BATCH_FORGET")) return "stock";
  return way;
}

}  // namespace

std::string Checks::missing(const std::vector<std::string> &opcodes, const nlohmann::json &before) {
  const auto count = [this](const nlohmann::json &stat, const std::string &opcode) {
    const auto &by_op = stat["by_op"];
    return by_op.contains(opcode) ? by_op[opcode].value(way_of(opcode, server.way()), 0L) : 0L;
  };
  std::string none;
  const nlohmann::json now = server.stat();
  for (const std::string &opcode : opcodes)
    if (count(now, opcode) <= count(before, opcode)) none += " " + opcode;
  return none;
}

void Checks::run(const std::string &name, const std::vector<std::string> &opcodes,
                 const std::function<void()> &body) {
  try {
    const nlohmann::json before = server.stat();
    body();
    std::string none;
    if (!eventually([&] { return (none = missing(opcodes, before)).empty(); }))
      throw Failed("no request by " + server.way() + ":" + none);
    std::printf("ok   %s\n", name.c_str());
    ++passed;
  } catch (const Skipped &e) {
    std::printf("skip %s: %s\n", name.c_str(), e.what());
    ++skipped;
  } catch (const std::exception &e) {
    std::printf("FAIL %s: %s\n", name.c_str(), e.what());
    ++failed;
  }
  std::fflush(stdout);
}

File::File(const std::string &path, int flags, mode_t mode) : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {
  if (fd_ < 0) throw Failed("open " + path + ": " + std::strerror(errno));
}

File::~File() { close(); }

void File::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void make_file(const std::string &path, const std::string &content) {
  const File file(path, O_CREAT | O_TRUNC | O_WRONLY);
  EXPECT(::write(file, content.data(), content.size()) == static_cast<ssize_t>(content.size()));
}

std::string read_file(const std::string &path) {
  const File file(path, O_RDONLY);
  std::string content;
  char part[4096];
  while (const long n = OK(::read(file, part, sizeof(part)))) content.append(part, static_cast<std::size_t>(n));
  return content;
}

Process::Process(const std::function<int()> &body) {
  std::fflush(nullptr);
  pid_ = ::fork();
  if (pid_ != 0) return;
  int status = 120;
  try {
    status = body();
  } catch (const std::exception &e) {
    std::printf("     in another process: %s\n", e.what());
    std::fflush(stdout);
  }
  std::_Exit(status);
}

Process::~Process() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void Process::kill(int signal) const { ::kill(pid_, signal); }

std::string Process::kernel_stack() const {
  std::ifstream in("/proc/" + std::to_string(pid_) + "/stack");
  std::ostringstream stack;
  stack << in.rdbuf();
  return stack.str();
}

int Process::wait(unsigned seconds) {
  using namespace std::chrono;
  const auto end = steady_clock::now() + std::chrono::seconds(seconds);
  for (int status = 0; pid_ > 0;) {
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    } else if (steady_clock::now() > end) {
      break;
    } else {
      std::this_thread::sleep_for(2ms);
    }
  }
  return status_;
}

}  // namespace protocol_test
