// SPDX-License-Identifier: LGPL-2.1-or-later
// The control socket: answers, bad clients, dead daemons, directories of others.
#include "control.hh"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace efuse;
using json = nlohmann::json;
namespace stdfs = std::filesystem;

namespace {

/// A run directory for one test.
struct RunDirectory {
  RunDirectory() {
    std::string pattern = (stdfs::temp_directory_path() / "efuse-control-XXXXXX").string();
    path = ::mkdtemp(pattern.data());
    ::setenv("EFUSE_RUNDIR", path.c_str(), 1);
  }
  ~RunDirectory() {
    ::unsetenv("EFUSE_RUNDIR");
    stdfs::remove_all(path);
  }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(stdfs::directory_iterator(path), stdfs::directory_iterator()));
  }
  std::string path;
};

std::vector<json> ask_all(std::vector<std::string> *problems = nullptr) {
  return send_all(json{{"cmd", "stat"}}, problems);
}

std::string echo(const json &request) { return json{{"got", request}}.dump(); }

Fd raw_client(const std::string &path) {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  REQUIRE(path.size() < sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr *>(&address), sizeof(address)) == 0);
  return fd;
}

std::string read_all(const Fd &fd) {
  std::string out;
  char chunk[4096];
  for (ssize_t n; (n = ::read(fd.get(), chunk, sizeof(chunk))) > 0;)
    out.append(chunk, static_cast<std::size_t>(n));
  return out;
}

std::string raw_exchange(const std::string &path, const std::string &text) {
  const Fd fd = raw_client(path);
  std::size_t sent = 0;
  while (sent < text.size()) {
    const ssize_t n = ::send(fd.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n < 0) break;  // the server has answered and gone
    sent += static_cast<std::size_t>(n);
  }
  return read_all(fd);
}

}  // namespace

TEST_CASE("ask and answer", "[control]") {
  const RunDirectory run;
  CHECK(ask_all().empty());
  {
    const ControlServer a(echo), b([](const json &) { return std::string(R"({"mountpoint":"/b"})"); });
    CHECK(a.path() != b.path());
    struct stat st;
    REQUIRE(::stat(a.path().c_str(), &st) == 0);
    CHECK((st.st_mode & 07777) == 0600);
    const auto answers = ask_all();
    REQUIRE(answers.size() == 2);
    CHECK(answers[0] == json{{"got", {{"cmd", "stat"}}}});
    CHECK(answers[1]["mountpoint"] == "/b");
    CHECK(send_all({{"cmd", "set"}, {"key", "polling.adaptive"}})[0]["got"]["key"] == "polling.adaptive");
  }
  CHECK(run.files() == 0);
  CHECK(ask_all().empty());
}

TEST_CASE("an answer larger than any socket buffer", "[control]") {
  const RunDirectory run;
  const std::string large(5u << 20, 'x');
  const ControlServer server([&](const json &) { return json(large).dump(); });
  const auto answers = ask_all();
  REQUIRE(answers.size() == 1);
  CHECK(answers[0].get<std::string>() == large);
}

TEST_CASE("bad requests get an error, the next client an answer", "[control]") {
  const RunDirectory run;
  const ControlServer server([](const json &request) -> std::string {
    if (request.value("cmd", "") == "throw") throw std::runtime_error("no \xff such thing");
    return echo(request);
  });
  const auto error_of = [&](const std::string &text) {
    return json::parse(raw_exchange(server.path(), text)).value("error", "");
  };
  CHECK(error_of("nonsense\n").find("parse error") != std::string::npos);
  CHECK(error_of("[1]\n") == "expected a JSON object");
  CHECK(error_of("\n") != "");
  CHECK(error_of("{\"cmd\":\"throw\"}\n").starts_with("no "));
  CHECK(error_of(std::string(200'000, 'x')) == "request too long");
  CHECK(error_of(std::string(200'000, 'x') + "\n") == "request too long");
  CHECK(error_of(std::string(30'000, '[') + "\n") != "");
  // Only the first line counts; its end may be the end of the stream.
  CHECK(raw_exchange(server.path(), "{\"cmd\":\"a\"}\n{\"cmd\":\"b\"}\n") == "{\"got\":{\"cmd\":\"a\"}}\n");
  {
    const Fd fd = raw_client(server.path());
    REQUIRE(::write(fd.get(), "{}", 2) == 2);
    ::shutdown(fd.get(), SHUT_WR);
    CHECK(read_all(fd) == "{\"got\":{}}\n");
  }
  CHECK(ask_all().size() == 1);
}

TEST_CASE("silent and slow clients hold up nobody and are dropped", "[control]") {
  const RunDirectory run;
  const ControlServer server(echo);
  std::vector<Fd> silent;
  for (int i = 0; i < 10; ++i) silent.push_back(raw_client(server.path()));
  REQUIRE(::write(silent[0].get(), "{\"cmd\":", 7) == 7);
  const auto start = std::chrono::steady_clock::now();
  CHECK(ask_all().size() == 1);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(3));
  for (const Fd &fd : silent) CHECK(read_all(fd).empty());
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(6));  // one after the other: 10 s

  // More of them than are served at a time: the one behind them is served after the timeout.
  silent.clear();
  for (int i = 0; i < 40; ++i) silent.push_back(raw_client(server.path()));
  CHECK(raw_exchange(server.path(), "{}\n") == "{\"got\":{}}\n");
}

TEST_CASE("a client that reads nothing does not stop the server from stopping", "[control]") {
  const RunDirectory run;
  const std::string large(5u << 20, 'x');
  auto server = std::make_unique<ControlServer>([&](const json &) { return large; });
  const Fd fd = raw_client(server->path());
  REQUIRE(::write(fd.get(), "{}\n", 3) == 3);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto start = std::chrono::steady_clock::now();
  server.reset();
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::milliseconds(900));
}

TEST_CASE("sockets of dead daemons are removed, stopped daemons are reported", "[control]") {
  const RunDirectory run;
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const ControlServer server(echo);
    [[maybe_unused]] const ssize_t n = ::write(ready[1], "x", 1);
    ::pause();
    ::_exit(0);
  }
  char byte;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  CHECK(ask_all().size() == 1);
  ::kill(child, SIGSTOP);
  ::waitpid(child, nullptr, WUNTRACED);
  std::vector<std::string> problems;
  CHECK(ask_all(&problems).empty());
  CHECK((problems.size() == 1 && problems[0].find("no answer") != std::string::npos));
  CHECK(run.files() == 1);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  problems.clear();
  CHECK(ask_all(&problems).empty());
  CHECK(problems.empty());
  CHECK(run.files() == 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_CASE("a directory that others can write to is refused", "[control]") {
  const RunDirectory run;
  ::chmod(run.path.c_str(), 0777);
  CHECK_THROWS_WITH(ControlServer(echo), Catch::Contains("others may write to it"));
  CHECK_THROWS_WITH(ask_all(), Catch::Contains("others may write to it"));
  ::chmod(run.path.c_str(), 0700);
  if (::geteuid() == 0) {
    REQUIRE(::chown(run.path.c_str(), 12345, 12345) == 0);
    CHECK_THROWS_WITH(ControlServer(echo), Catch::Contains("belongs to user 12345"));
    REQUIRE(::chown(run.path.c_str(), 0, 0) == 0);
  }
  // A link may be anybody's.
  const std::string link = run.path + "/link", target = run.path + "/target";
  REQUIRE(::mkdir(target.c_str(), 0700) == 0);
  REQUIRE(::symlink(target.c_str(), link.c_str()) == 0);
  ::setenv("EFUSE_RUNDIR", link.c_str(), 1);
  CHECK_THROWS_AS(ControlServer(echo), std::system_error);
  ::setenv("EFUSE_RUNDIR", (run.path + "/file/below").c_str(), 1);
  CHECK_THROWS_AS(ControlServer(echo), std::system_error);
}

TEST_CASE("the run directory is made, however long its path", "[control]") {
  const RunDirectory run;
  const std::string deep = run.path + "/" + std::string(200, 'd');
  ::setenv("EFUSE_RUNDIR", deep.c_str(), 1);
  const ControlServer server(echo);
  struct stat st;
  REQUIRE(::stat(deep.c_str(), &st) == 0);
  CHECK((st.st_mode & 07777) == 0700);
  CHECK(ask_all().size() == 1);
}

TEST_CASE("where the run directory is", "[control]") {
  ::unsetenv("EFUSE_RUNDIR");
  ::setenv("XDG_RUNTIME_DIR", "/run/user/1", 1);
  if (::geteuid() == 0) {
    CHECK(control_directory() == "/run/efuse");
  } else {
    CHECK(control_directory() == "/run/user/1/efuse");
    ::unsetenv("XDG_RUNTIME_DIR");
    CHECK(control_directory() == "/tmp/efuse-" + std::to_string(::geteuid()));
  }
  ::setenv("EFUSE_RUNDIR", "/somewhere", 1);
  CHECK(control_directory() == "/somewhere");
  ::unsetenv("EFUSE_RUNDIR");
}
