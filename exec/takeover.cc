// SPDX-License-Identifier: LGPL-2.1-or-later
// A session of an unmodified libfuse, served by efuse's transports.
//
// libfuse parses requests and calls the filesystem as ever: fuse_session_process_buf() gets each message that a
// transport has received, in the transport's thread. Replies come out of fuse_session_custom_io()'s writev and
// splice_send, from any thread, and find the request that they answer by its unique. Notifications, and INIT and its
// reply, go through /dev/fuse.
#include "host.h"
#include "negotiation.hh"
#include "request_table.hh"

#include "config.hh"
#include "protocol.hh"
#include "reply.hh"
#include "session.hh"
#include "session_control.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <semaphore>
#include <shared_mutex>
#include <string>
#include <vector>

namespace efuse::exec {
namespace {

/// In a reply's unique: it is to an INTERRUPT of the request with the rest of it. What the kernel adds, and so do we.
constexpr std::uint64_t kInterruptBit = 1;

/// What is read from /dev/fuse before INIT has set a length.
constexpr std::size_t kInitRoom = 64 * 1024;

/// At most so many threads of ours are in libfuse.
class Gate {
 public:
  /// 0: any number.
  explicit Gate(unsigned most) {
    if (most != 0)
      places_.emplace(most);
  }
  void enter() noexcept {
    if (places_)
      places_->acquire();
  }
  void leave() noexcept {
    if (places_)
      places_->release();
  }

 private:
  std::optional<std::counting_semaphore<>> places_;
};

/// Memory for a message that a transport keeps in two places, or lets us only read. Laid out so that a WRITE's data
/// starts on a page, for filesystems that write it on with O_DIRECT.
class Gather {
 public:
  /// Valid until the next call. Throws std::bad_alloc.
  std::span<std::byte> join(const Message &msg) {
    const std::size_t lead = kPage - msg.head.size() % kPage;
    const std::size_t size = lead + msg.head.size() + msg.tail.size();
    if (size > room_) {
      memory_.reset(static_cast<std::byte *>(std::aligned_alloc(kPage, (size + kPage - 1) / kPage * kPage)));
      room_ = memory_ ? size : 0;
      if (!memory_)
        throw std::bad_alloc();
    }
    std::byte *start = memory_.get() + lead;
    std::memcpy(start, msg.head.data(), msg.head.size());
    std::memcpy(start + msg.head.size(), msg.tail.data(), msg.tail.size());
    return {start, msg.head.size() + msg.tail.size()};
  }

 private:
  static constexpr std::size_t kPage = 4096;
  struct Free {
    void operator()(std::byte *memory) const noexcept { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t room_ = 0;
};

thread_local Gather gather;

class Takeover final : public RawHandler {
 public:
  /// Throws ConfigError.
  explicit Takeover(const efuse_exec_host &host)
      : host_(host),
        gate_(host.limit ? host.threads : 0),
        session_(nullptr, 0, nullptr, {.mountpoint = host.mountpoint, .subtype = program_invocation_short_name},
                 configuration(host)) {}

  [[nodiscard]] fuse_session *session() const noexcept { return host_.session; }
  [[nodiscard]] int fd() const noexcept { return host_.fd; }
  Negotiation negotiation;

  /// INIT, through /dev/fuse. false: the session has ended meanwhile. Throws std::system_error.
  bool negotiate();
  /// Serve until the session ends; returns its errno or 0. Throws std::exception where no transport can be had.
  int serve();

  // RawHandler
  void request(fuse_req &req) noexcept override;
  void interrupt(std::uint64_t unique) noexcept override;

  /// libfuse's reply or notification. Bytes, or -1 and errno.
  ssize_t send(iovec *iov, int count) noexcept;
  ssize_t send_from_pipe(int pipe, std::size_t size) noexcept;

 private:
  static Config configuration(const efuse_exec_host &host);
  void process(std::span<const std::byte> message) noexcept;
  int reply(fuse_req &req, const fuse_out_header &header, std::span<const iovec> body) noexcept;
  [[nodiscard]] bool ended() const noexcept { return session_.exited() || host_.exited(host_.session) != 0; }

  efuse_exec_host host_;
  Gate gate_;
  RequestTable requests_;
  Session session_;
};

// What libfuse calls has no argument of ours: a reply is told by its descriptor.
std::shared_mutex takeovers_mutex;
std::vector<std::unique_ptr<Takeover>> takeovers;  // guarded by it
thread_local Takeover *inside = nullptr;           // whose process() this thread is in

Takeover *find_by_fd(int fd) noexcept {
  if (inside != nullptr && inside->fd() == fd)
    return inside;
  std::shared_lock lock(takeovers_mutex);
  const auto it = std::find_if(takeovers.begin(), takeovers.end(), [fd](auto &t) { return t->fd() == fd; });
  return it != takeovers.end() ? it->get() : nullptr;
}

ssize_t on_writev(int fd, iovec *iov, int count, void *) {
  Takeover *takeover = find_by_fd(fd);
  return takeover != nullptr ? takeover->send(iov, count) : ::writev(fd, iov, count);
}

ssize_t on_read(int fd, void *buffer, size_t size, void *) { return ::read(fd, buffer, size); }

// Offering these leaves the program the splice capabilities that it would have without us.
ssize_t on_splice_receive(int in, off_t *in_at, int out, off_t *out_at, size_t size, unsigned flags, void *) {
  return ::splice(in, in_at, out, out_at, size, flags);
}
ssize_t on_splice_send(int in, off_t *in_at, int out, off_t *out_at, size_t size, unsigned flags, void *) {
  Takeover *takeover = find_by_fd(out);
  return takeover != nullptr ? takeover->send_from_pipe(in, size) : ::splice(in, in_at, out, out_at, size, flags);
}

constexpr fuse_custom_io kIo{.writev = on_writev,
                             .read = on_read,
                             .splice_receive = on_splice_receive,
                             .splice_send = on_splice_send};

/// Defaults for a program that runs libfuse's loop with so many threads; file and environment win.
Config Takeover::configuration(const efuse_exec_host &host) {
  Config config;
  config.dev_threads = host.threads;
  if (host.limit && host.threads == 1) {
    // Nothing is served beside anything else: one worker, whose thread the filesystem always sees.
    config.ring_count = 1;
    config.stock_threads = 1;
  } else {
    // A request that blocks must not keep others waiting that libfuse's threads would have taken.
    config.workers_per_ring = std::clamp(host.threads, 1u, 64u);
  }
  if (const char *file = std::getenv("EFUSE_CONFIG"); file != nullptr && *file != '\0')
    load_config_file(config, file);
  load_config_environment(config);
  check_config(config);
  return config;
}

void Takeover::process(std::span<const std::byte> message) noexcept {
  // A newer libfuse's structure is longer than the one compiled in here, and is copied whole.
  struct {
    fuse_buf buf{};
    std::byte newer[64]{};
  } padded;
  padded.buf.size = message.size();
  padded.buf.mem = const_cast<std::byte *>(message.data());
  padded.buf.fd = -1;
  Takeover *const outer = inside;  // a reply may bring an interrupt to be told of
  if (outer != this)
    gate_.enter();
  inside = this;
  host_.process_buf(host_.session, &padded.buf);
  inside = outer;
  if (outer != this)
    gate_.leave();
}

void Takeover::request(fuse_req &req) noexcept {
  const bool answered = protocol::expects_reply(req.opcode);
  std::span<const std::byte> message = req.msg.head;
  // libfuse wants one piece, and writes to it: SETATTR's flags, for one.
  if (!req.msg.tail.empty() || !req.channel->owns_messages()) {
    try {
      message = gather.join(req.msg);
    } catch (const std::bad_alloc &) {
      if (answered)
        send_error(req, -ENOMEM);
      else
        send_nothing(req);
      return;
    }
  }
  if (answered)
    requests_.add(req);  // from here on it may be answered, and gone
  process(message);
  if (!answered)
    send_nothing(req);
  if (host_.exited(host_.session) != 0)
    session_.exit(0);
}

void Takeover::interrupt(std::uint64_t unique) noexcept {
  struct {
    fuse_in_header header{};
    fuse_interrupt_in in{};
  } message;
  message.header.len = sizeof message;
  message.header.opcode = FUSE_INTERRUPT;
  message.header.unique = unique | kInterruptBit;
  message.in.unique = unique;
  process(std::as_bytes(std::span(&message, 1)));
}

int Takeover::reply(fuse_req &req, const fuse_out_header &header, std::span<const iovec> body) noexcept {
  return header.error != 0 ? send_error(req, header.error) : send_body(req, body);
}

ssize_t Takeover::send(iovec *iov, int count) noexcept {
  fuse_out_header header;
  if (count < 1 || iov[0].iov_len < sizeof header)
    return ::writev(host_.fd, iov, count);
  std::memcpy(&header, iov[0].iov_base, sizeof header);
  if (header.unique == 0)
    return ::writev(host_.fd, iov, count);
  if (fuse_req *req = requests_.take(header.unique)) {
    const iovec first{static_cast<std::byte *>(iov[0].iov_base) + sizeof header, iov[0].iov_len - sizeof header};
    const std::span<const iovec> whole(iov, static_cast<std::size_t>(count));
    const int error = first.iov_len == 0 ? reply(*req, header, whole.subspan(1)) : [&] {
      iov[0] = first;
      return reply(*req, header, whole);
    }();
    errno = -error;
    return error < 0 ? -1 : static_cast<ssize_t>(header.len);
  }
  if ((header.unique & kInterruptBit) != 0 && header.error == -EAGAIN) {
    // libfuse does not know the request: it is on its way there, or answered.
    session_.interrupt(header.unique & ~kInterruptBit);
    return static_cast<ssize_t>(header.len);
  }
  return negotiation.send(host_.fd, {iov, static_cast<std::size_t>(count)});
}

/// All of it, or false.
bool read_whole(int fd, void *to, std::size_t size) noexcept {
  auto *at = static_cast<std::byte *>(to);
  while (size > 0) {
    const ssize_t n = ::read(fd, at, size);
    if (n <= 0) {
      if (n < 0 && errno == EINTR)
        continue;
      return false;
    }
    at += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

/// The message is in the pipe, as a whole. Its body goes where the requester reads it, if it can.
ssize_t Takeover::send_from_pipe(int pipe, std::size_t size) noexcept {
  fuse_out_header header;
  if (size < sizeof header || !read_whole(pipe, &header, sizeof header))
    return errno = EIO, -1;
  const std::size_t len = size - sizeof header;
  fuse_req *req = header.unique != 0 ? requests_.take(header.unique) : nullptr;
  const bool in_place = req != nullptr && len <= req->out_cap && is_owed(*req);
  std::unique_ptr<std::byte[]> memory;
  if (!in_place)
    memory.reset(new (std::nothrow) std::byte[len]);
  std::byte *body = in_place ? req->out : memory.get();
  int error = 0;
  if (body == nullptr || !read_whole(pipe, body, len))
    error = req != nullptr ? send_error(*req, -EIO) : -EIO;
  else if (in_place)
    error = send_in_place(*req, len);
  else {
    iovec iov[] = {{&header, sizeof header}, {body, len}};
    if (req == nullptr)
      return send(iov, 2);
    error = send_body(*req, {iov + 1, 1});
  }
  errno = -error;
  return error < 0 ? -1 : static_cast<ssize_t>(size);
}

bool Takeover::negotiate() {
  session_.ask_for_uring();
  negotiation.add_flags = session_.init_flags;
  std::vector<std::uint64_t> buffer(kInitRoom / sizeof(std::uint64_t));
  const auto bytes = std::as_writable_bytes(std::span(buffer));
  while (!negotiation.done()) {
    pollfd p[] = {{host_.fd, POLLIN, 0}, {host_.wake_fd, POLLIN, 0}};
    if (::poll(p, 2, -1) < 0 && errno != EINTR)
      throw std::system_error(errno, std::generic_category(), "poll");
    if (ended())
      return false;
    const ssize_t size = p[0].revents != 0 ? ::read(host_.fd, bytes.data(), bytes.size()) : -1;
    if (size < 0) {
      if (p[0].revents == 0 || errno == EINTR || errno == EAGAIN || errno == ENOENT)
        continue;
      if (errno == ENODEV)
        return false;
      throw std::system_error(errno, std::generic_category(), "FUSE_INIT");
    }
    const auto message = std::as_bytes(bytes.first(static_cast<std::size_t>(size)));
    negotiation.receive(message);
    process(message);
  }
  return true;
}

/// One line that says what serves, and why not something better.
void announce(const Session &session, const char *mountpoint) {
  const std::string &reason = session.transport_reason();
  fmt::print(stderr, "efuse exec: {} on {}: transport {}{}\n", program_invocation_short_name,
             *mountpoint != '\0' ? mountpoint : "/dev/fuse", session.transport_name(),
             reason.empty() ? "" : fmt::format(" ({})", reason));
}

int Takeover::serve() {
  negotiation.tell(session_);
  session_.adopt(checked_fd(::fcntl(host_.fd, F_DUPFD_CLOEXEC, 0), "dup /dev/fuse"), *this);
  {
    const auto control = serve_control(session_);
    announce(session_, host_.mountpoint);
    while (!ended()) {
      session_.wait(host_.wake_fd);
      eventfd_t calls;
      ::eventfd_read(host_.wake_fd, &calls);
    }
  }
  session_.exit(0);
  const int error = session_.run();  // takes the transports down: descriptors that keep the connection alive go now
  return error;
}

/// Nobody replies any more.
void forget(const fuse_session *session) noexcept {
  std::unique_lock lock(takeovers_mutex);
  std::erase_if(takeovers, [session](auto &t) { return t->session() == session; });
}

/// From here on libfuse's replies are seen. Throws std::bad_alloc.
Takeover &enlist(std::unique_ptr<Takeover> takeover) {
  Takeover &listed = *takeover;
  std::unique_lock lock(takeovers_mutex);
  takeovers.insert(takeovers.begin(), std::move(takeover));  // before those of the session's earlier loops
  return listed;
}

/// What an earlier loop of this session has agreed on; it has taken libfuse's place at the descriptor already.
std::optional<Negotiation> agreed_before(const fuse_session *session) {
  std::shared_lock lock(takeovers_mutex);
  for (const auto &t : takeovers)
    if (t->session() == session)
      return t->negotiation;
  return std::nullopt;
}

efuse_exec_outcome serve(const efuse_exec_host &host, int &error, std::string &why) {
  efuse_exec_outcome failed = host.negotiated ? EFUSE_EXEC_NEGOTIATED : EFUSE_EXEC_UNTOUCHED;
  try {
    const std::optional<Negotiation> before = agreed_before(host.session);
    if (host.negotiated && !before) {
      why = "the session was negotiated by libfuse's own loop";
      return failed;
    }
    auto made = std::make_unique<Takeover>(host);
    if (before && host.negotiated)
      made->negotiation = *before;
    if (!before && host.custom_io(host.session, &kIo, host.fd) != 0) {
      why = "libfuse refuses fuse_session_custom_io()";
      return failed;
    }
    Takeover &takeover = enlist(std::move(made));
    if (!takeover.negotiation.done() && !takeover.negotiate())
      return EFUSE_EXEC_SERVED;
    failed = EFUSE_EXEC_NEGOTIATED;
    error = takeover.serve();
    return EFUSE_EXEC_SERVED;
  } catch (const std::exception &e) {
    why = e.what();
    return failed;
  }
}

}  // namespace
}  // namespace efuse::exec

extern "C" __attribute__((visibility("default"))) efuse_exec_outcome efuse_exec_serve(const efuse_exec_host *host,
                                                                                      int *error, char *why,
                                                                                      size_t why_size) {
  std::string text;
  const efuse_exec_outcome outcome = efuse::exec::serve(*host, *error, text);
  std::snprintf(why, why_size, "%s", text.c_str());
  return outcome;
}

extern "C" __attribute__((visibility("default"))) void efuse_exec_forget(fuse_session *session) {
  efuse::exec::forget(session);
}
