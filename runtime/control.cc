// SPDX-License-Identifier: LGPL-2.1-or-later
#include "control.hh"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace efuse {
namespace {

using Clock = std::chrono::steady_clock;
using json = nlohmann::json;

constexpr std::size_t kMaxRequest = 64u << 10;  // bytes, the newline included
constexpr std::size_t kMaxReply = 64u << 20;    // bytes that a client takes
constexpr std::size_t kMaxClients = 32;         // served at a time; more wait in the backlog
// The server waits so long for a request, and for a client that reads nothing of its answer ...
constexpr std::chrono::milliseconds kTimeout{1000};
constexpr std::chrono::milliseconds kLongest{10000};  // ... and for a whole answer to be taken.

[[noreturn]] void fail_errno(const std::string &what) {
  throw std::system_error(errno, std::generic_category(), what);
}

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, kLongest.count()));
}

// ---- the run directory ------------------------------------------------------

/// Open the run directory; an empty Fd where there is none and `create` is false.
/// Everything below goes through this descriptor: what was checked is what is used.
Fd open_directory(const std::string &path, bool create) {
  if (create && ::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) fail_errno(path);
  Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd && errno == ENOENT && !create) return fd;
  if (!fd) fail_errno(path);
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) fail_errno(path);
  if (st.st_uid != ::geteuid())
    throw std::runtime_error(fmt::format("{}: belongs to user {}, not to {}", path, st.st_uid, ::geteuid()));
  if (st.st_mode & (S_IWGRP | S_IWOTH))
    throw std::runtime_error(fmt::format("{}: others may write to it (mode {:o})", path, st.st_mode & 07777));
  return fd;
}

/// An address relative to a directory's descriptor: any path fits the 108 bytes.
sockaddr_un address_in(const Fd &directory, const std::string &name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}/{}", directory.get(), name);
  if (path.size() >= sizeof(address.sun_path))
    throw std::runtime_error(fmt::format("{}: name too long", name));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Fd make_socket() {
  return checked_fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "control socket");
}

// A socket gets its name only once it listens, so one that refuses a connection
// is one whose daemon is gone.
Fd listen_at(const Fd &directory, const std::string &name) {
  const std::string unlistened = name + ".new";
  ::unlinkat(directory.get(), unlistened.c_str(), 0);
  Fd fd = make_socket();
  const sockaddr_un address = address_in(directory, unlistened);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof(address)) != 0)
    fail_errno("bind " + name);
  const bool named = ::fchmodat(directory.get(), unlistened.c_str(), 0600, 0) == 0 &&
                     ::listen(fd.get(), 64) == 0 &&
                     ::renameat(directory.get(), unlistened.c_str(), directory.get(), name.c_str()) == 0;
  if (!named) {
    const int error = errno;
    ::unlinkat(directory.get(), unlistened.c_str(), 0);
    throw std::system_error(error, std::generic_category(), "listen " + name);
  }
  return fd;
}

bool trusted_peer(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  return ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         (peer.uid == 0 || peer.uid == ::geteuid());
}

// ---- the server's side of one exchange --------------------------------------

std::string error_reply(std::string_view what) {
  return json{{"error", what}}.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string answer(const ControlServer::Handler &handler, std::string_view line) {
  try {
    const json request = json::parse(line);
    if (!request.is_object()) return error_reply("expected a JSON object");
    return handler(request);
  } catch (const std::exception &error) {
    return error_reply(error.what());
  }
}

class Client {
 public:
  explicit Client(Fd fd) : fd_(std::move(fd)), deadline_(Clock::now() + kTimeout) {}

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] short events() const noexcept { return answered_ ? POLLOUT : POLLIN; }
  [[nodiscard]] Clock::time_point deadline() const noexcept { return deadline_; }

  /// Go as far as the socket lets us. false: done with this client.
  bool advance(const ControlServer::Handler &handler) {
    if (!answered_ && !receive(handler)) return false;
    return !answered_ || transmit();
  }

 private:
  bool receive(const ControlServer::Handler &handler) {
    char chunk[4096];
    for (;;) {
      const ssize_t n = ::recv(fd_.get(), chunk, sizeof(chunk), 0);
      if (n < 0) return errno == EAGAIN || errno == EINTR;
      if (n == 0 && input_.empty()) return false;
      input_.append(chunk, static_cast<std::size_t>(n));
      const auto newline = input_.find('\n');
      const bool complete = newline != input_.npos || n == 0;
      if (!complete && input_.size() < kMaxRequest) continue;
      output_ = complete && input_.size() <= kMaxRequest
                    ? answer(handler, std::string_view(input_).substr(0, newline))
                    : error_reply("request too long");
      output_ += '\n';
      // The time until here was the client's; what the handler took is ours.
      deadline_ = Clock::now() + kTimeout;
      last_deadline_ = Clock::now() + kLongest;
      return answered_ = true;
    }
  }

  bool transmit() {
    while (sent_ < output_.size()) {
      const ssize_t n = ::send(fd_.get(), output_.data() + sent_, output_.size() - sent_, MSG_NOSIGNAL);
      if (n < 0) return errno == EAGAIN || errno == EINTR;
      sent_ += static_cast<std::size_t>(n);
      deadline_ = std::min(Clock::now() + kTimeout, last_deadline_);
    }
    return false;
  }

  Fd fd_;
  Clock::time_point deadline_;
  Clock::time_point last_deadline_;
  std::string input_;
  std::string output_;
  std::size_t sent_ = 0;
  bool answered_ = false;
};

// ---- the client's side ------------------------------------------------------

void wait_for(const Fd &fd, short events, Clock::time_point deadline) {
  pollfd entry{fd.get(), events, 0};
  for (;;) {
    const int ready = ::poll(&entry, 1, milliseconds_until(deadline));
    if (ready > 0) return;
    if (ready < 0 && errno != EINTR) fail_errno("poll");
    if (Clock::now() >= deadline) throw std::runtime_error("no answer");
  }
}

// `patience`: for the next byte.
json ask(const Fd &fd, std::string_view line, std::chrono::milliseconds patience) {
  auto deadline = Clock::now() + patience;
  while (!line.empty()) {
    const ssize_t n = ::send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL);
    if (n >= 0)
      line.remove_prefix(static_cast<std::size_t>(n));
    else if (errno == EAGAIN)
      wait_for(fd, POLLOUT, deadline);
    else if (errno != EINTR)
      fail_errno("send");
  }
  std::string reply;
  char chunk[16384];
  for (;;) {
    const ssize_t n = ::recv(fd.get(), chunk, sizeof(chunk), 0);
    if (n == 0) return json::parse(reply);
    if (n > 0) {
      if (reply.append(chunk, static_cast<std::size_t>(n)).size() > kMaxReply)
        throw std::runtime_error("answer too long");
      deadline = Clock::now() + patience;
    }
    if (n < 0 && errno == EAGAIN)
      wait_for(fd, POLLIN, deadline);
    else if (n < 0 && errno != EINTR)
      fail_errno("recv");
  }
}

std::vector<std::string> socket_names(const Fd &directory) {
  std::vector<std::string> names;
  const int copy = ::fcntl(directory.get(), F_DUPFD_CLOEXEC, 0);
  DIR *dir = copy < 0 ? nullptr : ::fdopendir(copy);
  if (!dir) {
    const int error = errno;
    if (copy >= 0) ::close(copy);
    throw std::system_error(error, std::generic_category(), "run directory");
  }
  while (const dirent *entry = ::readdir(dir))
    if (std::string_view(entry->d_name).ends_with(".sock")) names.emplace_back(entry->d_name);
  ::closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

/// false: nobody listens any more, and the name is gone.
bool connect_or_remove(const Fd &fd, const Fd &directory, const std::string &name) {
  const sockaddr_un address = address_in(directory, name);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof(address)) == 0) return true;
  if (errno == ENOENT) return false;
  if (errno == EAGAIN) throw std::runtime_error("busy");
  if (errno != ECONNREFUSED) fail_errno("connect");
  ::unlinkat(directory.get(), name.c_str(), 0);
  return false;
}

}  // namespace

std::string control_directory() {
  const auto variable = [](const char *name) {
    const char *value = std::getenv(name);
    return std::string(value ? value : "");
  };
  if (const std::string rundir = variable("EFUSE_RUNDIR"); !rundir.empty()) return rundir;
  if (::geteuid() == 0) return "/run/efuse";
  if (const std::string runtime = variable("XDG_RUNTIME_DIR"); !runtime.empty()) return runtime + "/efuse";
  return fmt::format("/tmp/efuse-{}", ::geteuid());
}

struct ControlServer::Impl {
  Handler handler;
  Fd directory;
  std::string name;
  std::string path;
  Fd listener;
  Fd stop;  // eventfd
  std::list<Client> clients;
  std::thread thread;

  void serve();
  int timeout() const;
  void accept_one();
  void drop_late();
};

// Without clients the thread sleeps without a limit.
int ControlServer::Impl::timeout() const {
  if (clients.empty()) return -1;
  auto first = clients.front().deadline();
  for (const Client &client : clients) first = std::min(first, client.deadline());
  return milliseconds_until(first);
}

void ControlServer::Impl::accept_one() {
  Fd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (fd && trusted_peer(fd.get())) clients.emplace_back(std::move(fd));
  // Out of descriptors: the connection stays in the backlog and poll() comes
  // straight back, so give others time to close theirs.
  if (!fd && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS))
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
}

void ControlServer::Impl::drop_late() {
  const auto now = Clock::now();
  clients.remove_if([now](const Client &client) { return now >= client.deadline(); });
}

void ControlServer::Impl::serve() {
  for (;;) {
    std::vector<pollfd> entries{{stop.get(), POLLIN, 0}};
    // A negative descriptor is skipped.
    entries.push_back({clients.size() < kMaxClients ? listener.get() : -1, POLLIN, 0});
    for (const Client &client : clients) entries.push_back({client.fd(), client.events(), 0});
    if (::poll(entries.data(), entries.size(), timeout()) < 0 && errno != EINTR) return;
    if (entries[0].revents) return;

    std::size_t entry = 2;
    for (auto client = clients.begin(); client != clients.end(); ++entry) {
      const bool keep = !entries[entry].revents || client->advance(handler);
      client = keep ? std::next(client) : clients.erase(client);
    }
    if (entries[1].revents) accept_one();
    drop_late();
  }
}

ControlServer::ControlServer(Handler handler) : impl_(std::make_unique<Impl>()) {
  static std::atomic<unsigned> next{0};
  impl_->handler = std::move(handler);
  const std::string directory = control_directory();
  impl_->directory = open_directory(directory, true);
  impl_->name = fmt::format("{}-{}.sock", ::getpid(), next.fetch_add(1, std::memory_order_relaxed));
  impl_->path = directory + "/" + impl_->name;
  impl_->stop = checked_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd");
  impl_->listener = listen_at(impl_->directory, impl_->name);

  // The thread is not one of those that the process wants its signals in.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  try {
    impl_->thread = std::thread([impl = impl_.get()] { impl->serve(); });
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
    ::unlinkat(impl_->directory.get(), impl_->name.c_str(), 0);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

ControlServer::~ControlServer() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(impl_->stop.get(), &one, sizeof(one));
  impl_->thread.join();
  ::unlinkat(impl_->directory.get(), impl_->name.c_str(), 0);
}

const std::string &ControlServer::path() const noexcept { return impl_->path; }

std::vector<json> send_all(const json &request, std::vector<std::string> *problems,
                           std::chrono::milliseconds patience) {
  std::vector<json> answers;
  const Fd directory = open_directory(control_directory(), false);
  if (!directory) return answers;
  const std::string line = request.dump() + "\n";
  for (const std::string &name : socket_names(directory)) {
    try {
      const Fd fd = make_socket();
      if (connect_or_remove(fd, directory, name)) answers.push_back(ask(fd, line, patience));
    } catch (const std::exception &error) {
      if (problems) problems->push_back(fmt::format("{}: {}", name, error.what()));
    }
  }
  return answers;
}

}  // namespace efuse
