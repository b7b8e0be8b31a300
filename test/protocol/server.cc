// SPDX-License-Identifier: LGPL-2.1-or-later
#include "server.hh"

#include "config.hh"
#include "control.hh"
#include "session.hh"

#include <poll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <system_error>

namespace protocol_test {
namespace {

/// Carries out commands in a thread of the daemon, so that notifications come from where
/// no request is being served.
class Commands {
 public:
  Commands(TestFs &fs, efuse::Session &session) : fs_(fs), session_(session) {}

  std::string run(const std::string &line) {
    std::istringstream in(line);
    std::string name;
    in >> name;
    for (const auto &[known, action] : table_)
      if (name == known) return action(*this, in);
    return "error unknown command " + name;
  }

 private:
  using Action = std::function<std::string(Commands &, std::istringstream &)>;
  struct Entry {
    const char *name;
    Action action;
  };

  fuse_session *handle() { return efuse::to_handle(session_); }

  /// "NAME" in the root directory.
  fuse_ino_t ino(std::istringstream &in) {
    std::string name;
    in >> name;
    const std::lock_guard lock(fs_.mutex);
    const Node *node = fs_.find(FUSE_ROOT_ID, name);
    return node ? node->ino : 0;
  }

  static std::string rest(std::istringstream &in) {
    std::string text;
    std::getline(in >> std::ws, text);
    return text;
  }

  std::string notify_name(std::istringstream &in, int kind) {
    std::string name;
    in >> name;
    if (kind == 0)
      return std::to_string(fuse_lowlevel_notify_inval_entry(handle(), FUSE_ROOT_ID, name.data(), name.size()));
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
    return std::to_string(fuse_lowlevel_notify_expire_entry(handle(), FUSE_ROOT_ID, name.data(), name.size()));
#else
    return std::to_string(fuse_lowlevel_notify_expire_entry(handle(), FUSE_ROOT_ID, name.data(), name.size(),
                                                            FUSE_LL_EXPIRE_ONLY));
#endif
  }

  /// NAME: the file goes, and the kernel is told.
  std::string remove(std::istringstream &in) {
    std::string name;
    in >> name;
    fuse_ino_t child = 0;
    {
      const std::lock_guard lock(fs_.mutex);
      child = fs_.find(FUSE_ROOT_ID, name)->ino;
      fs_.unlink(*fs_.find(FUSE_ROOT_ID), name);
    }
    return std::to_string(fuse_lowlevel_notify_delete(handle(), FUSE_ROOT_ID, child, name.data(), name.size()));
  }

  /// NAME OFFSET SIZE BYTE
  std::string store(std::istringstream &in) {
    const fuse_ino_t node = ino(in);
    off_t offset = 0;
    std::size_t size = 0;
    char byte = 0;
    in >> offset >> size >> byte;
    std::string data(size, byte);
    fuse_bufvec from = memory_of(data.data(), size);
    return std::to_string(fuse_lowlevel_notify_store(handle(), node, offset, &from, fuse_buf_copy_flags{}));
  }

  /// NAME OFFSET SIZE: what the kernel's page cache has.
  std::string retrieve(std::istringstream &in) {
    const fuse_ino_t node = ino(in);
    off_t offset = 0;
    std::size_t size = 0;
    in >> offset >> size;
    const std::uintptr_t cookie = ++cookie_;
    const int error = fuse_lowlevel_notify_retrieve(handle(), node, size, offset, reinterpret_cast<void *>(cookie));
    if (error != 0) return "error " + std::to_string(error);
    std::unique_lock lock(fs_.retrieved_mutex);
    if (!fs_.retrieved_changed.wait_for(lock, std::chrono::seconds(20), [&] { return fs_.retrieved.contains(cookie); }))
      return "error no retrieve_reply";
    return std::to_string(fs_.retrieved[cookie].size()) + " " + fs_.retrieved[cookie];
  }

  /// NAME BYTE: other content of the same size, unknown to the kernel.
  std::string fill(std::istringstream &in) {
    const fuse_ino_t node = ino(in);
    char byte = 0;
    in >> byte;
    const std::lock_guard lock(fs_.mutex);
    std::string &data = fs_.find(node)->data;
    data.assign(data.size(), byte);
    return "0";
  }

  std::string hide(std::istringstream &in) {
    const std::lock_guard lock(fs_.mutex);
    return std::to_string(fs_.find(FUSE_ROOT_ID)->entries.erase(rest(in)) - 1);
  }

  std::string ready(std::istringstream &in) {
    const fuse_ino_t node = ino(in);
    fuse_pollhandle *handle = nullptr;
    {
      const std::lock_guard lock(fs_.mutex);
      fs_.find(node)->ready = true;
      std::swap(handle, fs_.find(node)->poll);
    }
    if (!handle) return "error nobody polls";
    const int error = fuse_lowlevel_notify_poll(handle);
    fuse_pollhandle_destroy(handle);
    return std::to_string(error);
  }

  std::string prune(std::istringstream &in) {
    fuse_ino_t node = ino(in);
    return std::to_string(fuse_lowlevel_notify_prune(handle(), &node, 1));
  }

  std::string automatic(std::istringstream &in) {
    unsigned threads = 0;
    in >> threads;
    fs_.parking.automatic(threads);
    return "0";
  }

  std::string inval_inode(std::istringstream &in) {
    const fuse_ino_t node = ino(in);
    return std::to_string(fuse_lowlevel_notify_inval_inode(handle(), node, 0, 0));
  }

  const std::vector<Entry> table_ = {
      {"parked", [](Commands &c, std::istringstream &) { return std::to_string(c.fs_.parking.size()); }},
      {"release", [](Commands &c, std::istringstream &) { return std::to_string(c.fs_.parking.release(3)); }},
      {"release_after", [](Commands &c, std::istringstream &in) {
         unsigned milliseconds = 0;
         in >> milliseconds;
         c.fs_.parking.release_after(milliseconds, 3);
         return std::string("0");
       }},
      {"automatic", [](Commands &c, std::istringstream &in) { return c.automatic(in); }},
      {"interrupts", [](Commands &c, std::istringstream &) { return std::to_string(c.fs_.parking.interrupts()); }},
      {"known", [](Commands &c, std::istringstream &) { return std::to_string(c.fs_.known_to_kernel()); }},
      {"mkdirs", [](Commands &c, std::istringstream &) { return std::to_string(c.fs_.mkdirs.load()); }},
      {"refused", [](Commands &c, std::istringstream &) { return std::to_string(c.fs_.second_replies_refused.load()); }},
      {"minor", [](Commands &c, std::istringstream &) { return std::to_string(c.session_.conn.proto_minor); }},
      {"want_backing", [](Commands &c, std::istringstream &) { return std::to_string(c.fs_.want_backing.load()); }},
      {"backing_size", [](Commands &c, std::istringstream &) {
         return std::to_string(::lseek(c.fs_.backing_fd, 0, SEEK_END));
       }},
      {"fill", [](Commands &c, std::istringstream &in) { return c.fill(in); }},
      {"hide", [](Commands &c, std::istringstream &in) { return c.hide(in); }},
      {"ready", [](Commands &c, std::istringstream &in) { return c.ready(in); }},
      {"inval_inode", [](Commands &c, std::istringstream &in) { return c.inval_inode(in); }},
      {"inval_entry", [](Commands &c, std::istringstream &in) { return c.notify_name(in, 0); }},
      {"expire_entry", [](Commands &c, std::istringstream &in) { return c.notify_name(in, 1); }},
      {"delete", [](Commands &c, std::istringstream &in) { return c.remove(in); }},
      {"store", [](Commands &c, std::istringstream &in) { return c.store(in); }},
      {"retrieve", [](Commands &c, std::istringstream &in) { return c.retrieve(in); }},
      {"set", [](Commands &c, std::istringstream &in) {
         const std::string assignment = c.rest(in);
         c.session_.reconfigure({&assignment, 1});
         return std::string("0");
       }},
      {"resend", [](Commands &c, std::istringstream &) { return std::to_string(efuse_notify_resend(c.handle())); }},
      {"epoch", [](Commands &c, std::istringstream &) {
         return std::to_string(fuse_lowlevel_notify_increment_epoch(c.handle()));
       }},
      {"prune", [](Commands &c, std::istringstream &in) { return c.prune(in); }},
      {"stat", [](Commands &c, std::istringstream &) { return c.session_.stat_json(); }},
  };

  TestFs &fs_;
  efuse::Session &session_;
  std::uintptr_t cookie_ = 0;
};

bool send_line(int fd, const std::string &text) {
  const std::string line = text + "\n";
  for (std::size_t at = 0; at < line.size();) {
    const ssize_t n = ::send(fd, line.data() + at, line.size() - at, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += static_cast<std::size_t>(n);
  }
  return true;
}

/// One line; false: the other end is gone, or silent for a minute.
bool receive_line(int fd, std::string &line, int timeout_ms) {
  line.clear();
  for (char c;;) {
    pollfd p{fd, POLLIN, 0};
    const int ready = ::poll(&p, 1, timeout_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0 || ::recv(fd, &c, 1, 0) != 1) return false;
    if (c == '\n') return true;
    line.push_back(c);
  }
}

efuse::Config config_of(const MountSettings &settings) {
  efuse::Config config;
  efuse::set_config_key(config, "session.transport=" + settings.transport);
  for (const std::string &setting : settings.settings) efuse::set_config_key(config, setting);
  efuse::check_config(config);
  return config;
}

/// The daemon's life. Returns its exit status.
int serve(const MountSettings &settings, const std::string &mountpoint, int socket) {
  TestFs fs(settings.fs);
  const efuse_lowlevel_ops ops = test_ops();
  efuse::MountOptions mount{.mountpoint = mountpoint, .fsname = "protocol", .subtype = "test",
                            .options = {"allow_other"}};
  if (!settings.blkdev.empty()) {
    mount.fsname = settings.blkdev;
    mount.options.emplace_back("blkdev");
  }
  efuse::Session session(&ops.base, sizeof(ops), &fs, mount, config_of(settings));
  session.mount();
  const efuse::ControlServer control([&](const nlohmann::json &) { return session.stat_json(); });
  Commands commands(fs, session);
  std::thread listener([&] {
    send_line(socket, "mounted");
    for (std::string line; receive_line(socket, line, -1);)
      if (!send_line(socket, commands.run(line))) break;
  });
  const int error = session.run();
  ::shutdown(socket, SHUT_RDWR);
  listener.join();
  return error;
}

}  // namespace

Server::Server(const MountSettings &settings, const std::string &mountpoint)
    : mountpoint_(mountpoint), way_(settings.transport == "dev" ? "stock" : settings.transport) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw std::system_error(errno, std::generic_category(), "socketpair");
  std::fflush(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::close(ends[0]);
    int status = 1;
    try {
      status = serve(settings, mountpoint, ends[1]);
    } catch (const std::exception &e) {
      send_line(ends[1], std::string("error ") + e.what());
    }
    std::_Exit(status);
  }
  ::close(ends[1]);
  socket_ = ends[0];
  std::string line;
  if (!receive_line(socket_, line, 60'000) || line != "mounted") {
    ::waitpid(pid_, nullptr, 0);
    ::close(socket_);
    throw std::runtime_error("the daemon does not mount: " + line);
  }
}

std::string Server::ask(const std::string &command) {
  std::string answer;
  if (!send_line(socket_, command) || !receive_line(socket_, answer, 60'000))
    throw std::runtime_error("the daemon does not answer " + command);
  if (answer.starts_with("error")) throw std::runtime_error(command + ": " + answer);
  return answer;
}

nlohmann::json Server::stat() { return nlohmann::json::parse(ask("stat")); }

long Server::count(const std::string &opcode, const std::string &way) {
  const nlohmann::json by_op = stat()["by_op"];
  return by_op.contains(opcode) ? by_op[opcode].value(way, 0L) : 0L;
}

long Server::carried(const std::string &opcode) {
  return count(opcode, "ring") + count(opcode, "uring") + count(opcode, "stock");
}

int Server::stop() {
  if (pid_ < 0) return 0;
  int status = -1;
  if (::umount2(mountpoint_.c_str(), 0) != 0) ::umount2(mountpoint_.c_str(), MNT_DETACH);
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  ::close(socket_);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Server::~Server() { stop(); }

}  // namespace protocol_test
