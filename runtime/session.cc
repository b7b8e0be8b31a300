// SPDX-License-Identifier: LGPL-2.1-or-later
#include "session.hh"

#include "channel.hh"
#include "dispatch.hh"
#include "fastpath.hh"
#include "mount.hh"
#include "protocol.hh"
#include "request.hh"
#include "stats.hh"
#include "transport_manual.hh"
#include "uapi/efuse_ring.h"
#include "uring_abi.hh"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

namespace efuse {
namespace {

/// INIT is queued before mount(2) returns; a kernel that does not send it within this has a problem.
constexpr int kInitTimeoutMs = 10'000;

/// One message to the kernel. Returns 0 or -errno.
int send_message(int fd, std::int32_t error, std::uint64_t unique, std::span<const iovec> body) noexcept {
  constexpr std::size_t kMost = 64;  // no notification and no reply to INIT has as many parts
  if (body.size() >= kMost)
    return -EINVAL;
  std::array<iovec, kMost> iov;
  fuse_out_header header{};
  std::size_t size = sizeof header;
  for (std::size_t i = 0; i < body.size(); ++i) {
    iov[i + 1] = body[i];
    size += body[i].iov_len;
  }
  header.len = static_cast<std::uint32_t>(size);
  header.error = error;
  header.unique = unique;
  iov[0] = {&header, sizeof header};
  return ::writev(fd, iov.data(), static_cast<int>(body.size() + 1)) < 0 ? -errno : 0;
}

/// Carries INIT, before there is a transport.
class InitChannel final : public Channel {
 public:
  explicit InitChannel(int fd) noexcept : fd_(fd) {}
  int reply(fuse_req &req, int error, std::span<const iovec> body) noexcept override {
    return send_message(fd_, error, req.unique.load(), body);
  }
  int reply_in_place(fuse_req &req, std::size_t len) noexcept override {
    const iovec body{req.out, len};
    return reply(req, 0, {&body, 1});
  }
  void drop(fuse_req &) noexcept override {}
  ChannelStats &stats() noexcept override { return stats_; }

 private:
  int fd_;
  ChannelStats stats_{false};
};

/// Interrupts whose request is still between a reader's read(2) and dispatch. One
/// whose request had been answered already stays here unclaimed: it goes with age.
class EarlyInterrupts {
 public:
  /// `count` is kept at the number of entries, under the lock.
  explicit EarlyInterrupts(std::atomic<std::uint32_t> &count) noexcept : count_(count) {}

  void add(std::uint64_t unique) noexcept {
    std::lock_guard lock(mutex_);
    forget_old();
    if (size_ == waiting_.size())
      remove(0);
    waiting_[size_++] = {unique, now_ns()};
    count_.store(size_);
  }

  /// true: it was here.
  bool take(std::uint64_t unique) noexcept {
    std::lock_guard lock(mutex_);
    forget_old();
    std::uint32_t i = 0;
    while (i < size_ && waiting_[i].unique != unique)
      ++i;
    const bool found = i < size_;
    if (found)
      remove(i);
    count_.store(size_);
    return found;
  }

 private:
  static constexpr std::uint64_t kLifetimeNs = 1'000'000'000;
  struct Entry {
    std::uint64_t unique;
    std::uint64_t since_ns;
  };
  void remove(std::uint32_t i) noexcept {
    std::move(waiting_.begin() + i + 1, waiting_.begin() + size_, waiting_.begin() + i);
    --size_;
  }
  void forget_old() noexcept {
    const std::uint64_t now = now_ns();
    while (size_ > 0 && now - waiting_[0].since_ns > kLifetimeNs)
      remove(0);
  }

  std::atomic<std::uint32_t> &count_;
  std::mutex mutex_;
  std::array<Entry, 256> waiting_{};  // oldest first
  std::uint32_t size_ = 0;
};

bool same_fastpath(const Config &a, const Config &b) noexcept {
  const auto of = [](const Config &c) {
    return std::tie(c.fastpath_programs, c.fastpath_entries, c.fastpath_blocks_mib, c.fastpath_valid_ns,
                    c.fastpath_read);
  };
  return of(a) == of(b);
}

void copy_fastpath(Config &to, const Config &from) noexcept {
  to.fastpath_programs = from.fastpath_programs;
  to.fastpath_entries = from.fastpath_entries;
  to.fastpath_blocks_mib = from.fastpath_blocks_mib;
  to.fastpath_valid_ns = from.fastpath_valid_ns;
  to.fastpath_read = from.fastpath_read;
}

/// What programs have answered is a way of its own.
void add_hits(nlohmann::ordered_json &stat) {
  const auto add = [](nlohmann::ordered_json &counts, std::uint64_t hits) {
    if (counts.is_null())  // an opcode that nothing else has carried
      counts = {{"ring", 0}, {"uring", 0}, {"stock", 0}};
    counts["fastpath"] = counts.value("fastpath", std::uint64_t{0}) + hits;
  };
  for (const auto &program : stat["fastpath"])
    for (const auto &[opcode, count] : program["opcodes"].items())
      if (const auto hits = count["hits"].get<std::uint64_t>(); hits != 0) {
        add(stat["requests"], hits);
        add(stat["by_op"][opcode], hits);
      }
}

}  // namespace

struct Session::Impl {
  explicit Impl(std::atomic<std::uint32_t> &early_count) : early(early_count) {}

  MountOptions options;
  Config config;
  std::unique_ptr<FuseMount> mount;
  // Made in start(), stopped in unmount(), gone with the session: stat_json() and
  // interrupt() may come at any time between.
  std::unique_ptr<Transport> stock;
  std::unique_ptr<Transport> more_stock;  // readers that joined when rings were detached; guarded by transports_mutex
  // Rings come and go with reconfigure(). A transport that is on its way out is in `retired` before it stops.
  mutable std::mutex transports_mutex;
  std::shared_ptr<Transport> fast;  // rings or io_uring; none: everything goes through `stock`; guarded by transports_mutex
  std::vector<std::shared_ptr<Transport>> retired;  // that owe replies still; likewise
  StatsSnapshot retired_stats;                      // of those that are gone; likewise
  std::string reason;                               // likewise
  std::string uring_obstacle;  // start()'s
  std::unique_ptr<ManualTransport> manual;  // guarded by transports_mutex
  std::optional<fuse_custom_io> io;         // before there is a transport
  FastpathOffer offer;
  std::unique_ptr<Fastpath> fastpath;  // with rings, once asked for; guarded by reconfigure_mutex, before by start()
  // Of every attachment that had fast paths, the current one last: a request that began a change ends it there.
  std::vector<std::shared_ptr<FastpathControl>> controls;  // guarded by transports_mutex
  std::vector<std::string> fastpath_names;                 // likewise
  std::string fastpath_reason;                             // likewise
  std::mutex reconfigure_mutex;  // one reconfigure() or unmount() at a time; taken before transports_mutex
  EarlyInterrupts early;
  Fd wake;  // eventfd: exit() was called
  std::atomic<bool> exited{false};
  std::atomic<int> exit_error{0};
  std::atomic<bool> over{false};  // unmount() was called: nothing serves any more

  [[nodiscard]] bool has_rings() const noexcept { return fast && fast->device_fd() >= 0; }
  [[nodiscard]] bool has_uring() const noexcept { return fast && !has_rings(); }

  void set_config(const Config &next) {
    std::lock_guard lock(transports_mutex);
    config = next;
  }

  /// All that serve or have served, the likeliest first.
  std::vector<std::shared_ptr<Transport>> transports() const {
    const auto borrowed = [](const std::unique_ptr<Transport> &t) {
      return std::shared_ptr<Transport>(std::shared_ptr<void>(), t.get());  // lives as long as the session
    };
    std::lock_guard lock(transports_mutex);
    std::vector<std::shared_ptr<Transport>> all{
        fast, borrowed(stock), borrowed(more_stock),
        std::shared_ptr<Transport>(std::shared_ptr<void>(), static_cast<Transport *>(manual.get()))};
    all.insert(all.end(), retired.begin(), retired.end());
    std::erase(all, nullptr);
    return all;
  }

  /// Ask one after the other until one says true. No lock is held meanwhile: it may call the filesystem.
  template <typename Ask>
  bool any_transport(Ask ask) const noexcept {
    try {
      const auto all = transports();
      return std::any_of(all.begin(), all.end(), [&](auto &t) { return ask(*t); });
    } catch (const std::bad_alloc &) {
      return false;
    }
  }

  bool interrupt(std::uint64_t unique) noexcept {
    return any_transport([unique](Transport &t) { return t.interrupt(unique); });
  }

  /// Let go of those whose last reply is given.
  void reap() {
    std::lock_guard lock(transports_mutex);
    std::erase_if(retired, [this](auto &t) {
      if (t->owes_replies() || t.use_count() > 1)
        return false;
      t->visit_stats([this](const ChannelStats &channel) { retired_stats.add(channel); });
      return true;
    });
  }
};

Session::Session(const fuse_lowlevel_ops *callbacks, std::size_t ops_size, void *data, MountOptions mount,
                 Config config)
    : SessionCore(callbacks, ops_size, data), impl_(std::make_unique<Impl>(early_interrupts)) {
  impl_->options = std::move(mount);
  impl_->config = std::move(config);
  impl_->wake = checked_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd");
}

Session::~Session() {
  unmount();
  // While there still are channels: the filesystem may have kept requests, and answers them now.
  if (got_init && !got_destroy.exchange(true) && ops.destroy != nullptr)
    ops.destroy(userdata);
  impl_->fast.reset();
  impl_->retired.clear();
  impl_->more_stock.reset();
  impl_->stock.reset();
  impl_->mount.reset();
}

void Session::mount() {
  connect();
  start();
}

void Session::connect() {
  if (impl_->mount)
    throw std::logic_error("this session is mounted already");
  ParsedMountOptions parsed = parse_mount_options(impl_->options);
  debug = debug || parsed.debug;
  deny_others = parsed.allow_root;
  owner = ::geteuid();
  conn.max_read = parsed.max_read;
  impl_->mount = std::make_unique<FuseMount>(impl_->options.mountpoint, parsed);
  impl_->options.mountpoint = impl_->mount->path();
}

void Session::adopt(Fd device, RawHandler &handler) {
  if (impl_->mount)
    throw std::logic_error("this session is mounted already");
  impl_->mount = std::make_unique<FuseMount>(std::move(device), impl_->options.mountpoint);
  raw_handler = &handler;
  got_init = true;  // by its own library
  start();
}

void Session::start() {
  try {
    if (raw_handler == nullptr)
      negotiate();
    start_transports();
  } catch (...) {
    unmount();
    impl_->fast.reset();
    impl_->stock.reset();
    impl_->mount.reset();
    throw;
  }
}

/// Answer INIT. The kernel asks twice where its major version is larger than ours.
void Session::negotiate() {
  const Config &config = impl_->config;
  conn.max_write = config.max_write;
  conn.max_background = config.max_background;
  conn.congestion_threshold = config.congestion_threshold;
  ask_for_uring();
  const int fd = impl_->mount->fd();
  InitChannel channel(fd);
  std::vector<std::uint64_t> buffer((config.max_write + protocol::kHeaderRoom) / sizeof(std::uint64_t));
  while (!got_init) {
    const std::size_t size = read_init(fd, std::as_writable_bytes(std::span(buffer)));
    fuse_req req;
    req.session = this;
    req.channel = &channel;
    req.msg = {std::as_bytes(std::span(buffer)).first(size), {}};
    dispatch(req);
    if (!got_init && exited())
      throw std::runtime_error(fmt::format("cannot mount on {}: the kernel's FUSE protocol and efuse's do not agree",
                                           impl_->mount->path()));
  }
}

/// Bytes of the next message. A connection that ends meanwhile is an error, never an endless wait.
std::size_t Session::read_init(int fd, std::span<std::byte> buffer) {
  const std::string &where = impl_->mount->path();
  for (;;) {
    pollfd p{fd, POLLIN, 0};
    int n = ::poll(&p, 1, kInitTimeoutMs);
    if (n == 0)
      throw std::runtime_error(fmt::format("cannot mount on {}: the kernel sends no FUSE_INIT", where));
    if (n < 0 && errno == EINTR && !exited())
      continue;
    if (exited())
      throw std::runtime_error(fmt::format("cannot mount on {}: interrupted", where));
    if ((p.revents & POLLERR) != 0)
      throw std::runtime_error(fmt::format("cannot mount on {}: unmounted or aborted before it was usable", where));
    ssize_t size = ::read(fd, buffer.data(), buffer.size());
    if (size >= static_cast<ssize_t>(sizeof(fuse_in_header)))
      return static_cast<std::size_t>(size);
    if (size < 0 && errno != EINTR && errno != EAGAIN && errno != ENOENT)
      throw std::system_error(errno, std::generic_category(), fmt::format("cannot mount on {}: FUSE_INIT", where));
  }
}

void Session::start_transports() {
  const Config &config = impl_->config;
  const int fd = impl_->mount->fd();
  const TransportChoice choice = config.transport;
  if (choice == TransportChoice::ring || choice == TransportChoice::automatic) {
    try {
      attach_rings();
    } catch (const std::exception &e) {
      if (choice == TransportChoice::ring)
        throw std::runtime_error(fmt::format("transport ring: {}", e.what()));
      impl_->reason = fmt::format("ring: {}", e.what());
    }
  }
  if (!impl_->fast && (choice == TransportChoice::uring || choice == TransportChoice::automatic))
    start_uring(choice == TransportChoice::uring);
  configure_fastpath(false);  // before there is a stock reader: no change is under way
  const bool uring = impl_->fast && impl_->fast->name() == "uring";
  const StockShare share = uring ? StockShare::forgets_and_interrupts : StockShare::anything;
  auto stock = impl_->fast ? make_stock_readers(*this, config, fd, share) : make_dev_transport(*this, config, fd);
  stock->start();
  resting_readers = stock.get();
  std::lock_guard lock(impl_->transports_mutex);
  impl_->stock = std::move(stock);
}

/// What INIT is to ask for. The kernel holds requests back from the moment that it is agreed on until all queues have
/// entries, so it is asked for only where no rings are to be expected; what fails after that is declined.
void Session::ask_for_uring() {
  const TransportChoice choice = impl_->config.transport;
  if (choice != TransportChoice::uring && choice != TransportChoice::automatic)
    return;
  if (choice == TransportChoice::automatic && ::access(EFUSE_DEVICE, R_OK | W_OK) == 0) {
    impl_->uring_obstacle = "not asked for, because " EFUSE_DEVICE " is there";
    return;
  }
  impl_->uring_obstacle = find_uring_obstacle().why;
  if (impl_->uring_obstacle.empty())
    init_flags |= protocol::kOverIoUring;
}

/// `required`: throws where it cannot be had; otherwise transport_reason() says why.
void Session::start_uring(bool required) {
  try {
    if (!impl_->uring_obstacle.empty())
      throw TransportUnavailable(impl_->uring_obstacle);
    start_fast(make_uring_transport(*this, impl_->config, impl_->mount->fd()));
    return;
  } catch (const TransportUnavailable &e) {
    impl_->uring_obstacle = e.what();
  } catch (const std::system_error &e) {
    impl_->uring_obstacle = e.what();
  }
  if (required)
    throw std::runtime_error(fmt::format("transport uring: {}", impl_->uring_obstacle));
  impl_->reason += fmt::format("; uring: {}", impl_->uring_obstacle);
}

void Session::offer_fastpath(FastpathOffer offer) { impl_->offer = std::move(offer); }

/// Rings serve, or there are none. `required`: throws where anything that is asked for cannot be had; otherwise the
/// mount does without, and fastpath_reason() says why.
void Session::configure_fastpath(bool required) {
  const Config &config = impl_->config;
  const auto publish = [this](std::vector<std::string> names, std::string reason) {
    std::lock_guard lock(impl_->transports_mutex);
    impl_->fastpath_names = std::move(names);
    impl_->fastpath_reason = std::move(reason);
  };
  if (config.fastpath_programs == 0 && !impl_->fastpath)
    return publish({}, {});
  if (!impl_->has_rings()) {
    const std::string why = "the mount is not served over rings";
    if (required)
      throw FastpathUnavailable(why);
    return publish({}, why);
  }
  try {
    if (!impl_->fastpath) {
      auto control = std::make_shared<FastpathControl>(impl_->fast->device_fd());
      impl_->fastpath = std::make_unique<Fastpath>(impl_->offer, control, debug);
      std::lock_guard lock(impl_->transports_mutex);
      impl_->controls.push_back(std::move(control));
    }
    // Before a program is attached: what is under way then is told when it is done.
    changes.store(impl_->controls.back().get(), std::memory_order_release);
    impl_->fastpath->configure(config, required ? Fastpath::Or::fail : Fastpath::Or::do_without);
    publish(impl_->fastpath->names(), impl_->fastpath->reason());
  } catch (const std::exception &e) {
    if (impl_->fastpath)  // required: the configuration will be the one before
      publish(impl_->fastpath->names(), required ? impl_->fastpath->reason() : e.what());
    else
      publish({}, e.what());
    if (!impl_->fastpath || !impl_->fastpath->used())
      changes.store(nullptr);
    if (required)
      throw;
  }
  if (!impl_->fastpath || !impl_->fastpath->used())
    changes.store(nullptr);  // nobody to tell
}

/// First no program answers any more, then what they have looked up is settled here, then the rings may go.
/// Throws std::bad_alloc.
void Session::detach_fastpath() {
  if (!impl_->fastpath)
    return;
  impl_->fastpath->detach();
  {
    std::lock_guard lock(impl_->transports_mutex);
    impl_->fastpath_names.clear();
  }
  const FastpathControl &control = *impl_->controls.back();
  credits.take_over([&](std::span<LookupCredit> room) { return control.take_credits(room); });
}

/// The rings are gone.
void Session::retire_fastpath() noexcept {
  if (!impl_->fastpath)
    return;
  changes.store(nullptr);
  impl_->controls.back()->retire();
  impl_->fastpath.reset();
}

void Session::attach_rings() {
  std::unique_ptr<Transport> rings = make_ring_transport(*this, impl_->config, impl_->mount->fd());
  resends.first_may_follow = true;
  start_fast(std::move(rings));
}

void Session::start_fast(std::unique_ptr<Transport> transport) {
  const std::shared_ptr<Transport> fast = std::move(transport);
  {
    // Visible before it serves: its requests may be interrupted.
    std::lock_guard lock(impl_->transports_mutex);
    impl_->fast = fast;
  }
  try {
    fast->start();
  } catch (...) {
    // Some workers may have served already, and the filesystem hold requests of theirs.
    std::lock_guard lock(impl_->transports_mutex);
    impl_->retired.push_back(std::move(impl_->fast));
    throw;
  }
}

/// What the rings still have in flight moves to the stock readers, which are joined by as many as there
/// would be without rings.
void Session::detach_rings() {
  const Config &config = impl_->config;
  const std::shared_ptr<Transport> rings = impl_->fast;
  if (!impl_->more_stock) {
    auto more = make_dev_transport(*this, config, impl_->mount->fd());
    more->start();
    std::lock_guard lock(impl_->transports_mutex);
    impl_->more_stock = std::move(more);
  }
  detach_fastpath();
  {
    std::lock_guard lock(impl_->transports_mutex);
    impl_->retired.push_back(rings);
    impl_->fast.reset();
  }
  rings->stop();
  retire_fastpath();
  resends.first_may_follow = false;
}

void Session::reconfigure(std::span<const std::string> assignments) {
  std::lock_guard reconfiguring(impl_->reconfigure_mutex);
  if (!impl_->stock || impl_->over)
    throw std::runtime_error("not mounted");
  Config next = config();
  for (const std::string &assignment : assignments)
    set_live_config_key(next, assignment);
  check_config(next);
  impl_->reap();

  const Config before = impl_->config;
  check_switch(before.transport, next.transport);
  impl_->set_config(next);
  try {
    if (next.transport == TransportChoice::dev && impl_->fast)
      detach_rings();
    else if (next.transport != TransportChoice::dev && !impl_->fast && next.transport != before.transport)
      attach_rings();
  } catch (const std::exception &e) {
    impl_->set_config(before);
    throw std::runtime_error(fmt::format("transport ring: {}", e.what()));
  }
  if (impl_->fast)
    impl_->fast->tune(next);
  const bool transport_stays = next.transport == before.transport;
  if (!transport_stays || !same_fastpath(next, before)) {
    try {
      configure_fastpath(transport_stays);
    } catch (const std::exception &e) {
      copy_fastpath(next, before);
      impl_->set_config(next);
      throw std::runtime_error(fmt::format("fast paths: {}", e.what()));
    }
  }
  std::lock_guard lock(impl_->transports_mutex);
  impl_->reason.clear();
}

/// The kernel takes up io_uring once, before the first request, and never goes back.
void Session::check_switch(TransportChoice before, TransportChoice next) const {
  if (next == before || next == TransportChoice::automatic)
    return;
  if (impl_->has_uring() && next != TransportChoice::uring)
    throw std::runtime_error("this mount is served over io_uring, which the kernel does not give up while it is "
                             "mounted: unmount it, and mount it with another --transport");
  if (!impl_->has_uring() && next == TransportChoice::uring)
    throw std::runtime_error("transport uring: the kernel takes up io_uring at mount time only: unmount, and mount "
                             "with --transport uring");
}

std::string Session::config_toml() const {
  std::lock_guard lock(impl_->transports_mutex);
  return to_toml(impl_->config);
}

ManualTransport *Session::manual() noexcept try {
  std::lock_guard lock(impl_->transports_mutex);
  if (!impl_->manual && impl_->mount && !impl_->stock)
    impl_->manual = std::make_unique<ManualTransport>(*this, impl_->mount->fd(), impl_->io.value_or(fuse_custom_io{}));
  return impl_->manual.get();
} catch (const std::exception &) {
  return nullptr;
}

void Session::set_io(Fd fd, const fuse_custom_io &io) {
  if (impl_->mount)
    throw std::logic_error("this session is mounted already");
  impl_->io = io;
  impl_->mount = std::make_unique<FuseMount>(std::move(fd), std::string());
}

bool Session::has_io() const noexcept { return impl_->io.has_value(); }

void Session::wait(int fd) noexcept {
  pollfd p[] = {{impl_->wake.get(), POLLIN, 0}, {fd, POLLIN, 0}};
  ::poll(p, 2, -1);
}

int Session::run() {
  if (!impl_->stock)
    throw std::logic_error("run() of a session that is not mounted");
  while (!exited() && !impl_->over)
    wait();
  unmount();
  return impl_->exit_error.load();
}

void Session::unmount() noexcept {
  if (!impl_->mount)
    return;
  std::lock_guard reconfiguring(impl_->reconfigure_mutex);
  impl_->over = true;
  impl_->mount->unmount();
  try {
    detach_fastpath();
  } catch (const std::bad_alloc &) {
    fuse_log(FUSE_LOG_ERR, "efuse: no memory for what fast paths have looked up\n");
  }
  // What was in flight on rings goes to the stock readers, so these come last.
  for (Transport *transport : {impl_->fast.get(), impl_->more_stock.get(), impl_->stock.get()})
    if (transport != nullptr)
      transport->stop();
  retire_fastpath();
  impl_->mount->disconnect();
}

MountOptions &Session::mount_options() noexcept { return impl_->options; }
Config &Session::config() noexcept { return impl_->config; }
int Session::fd() const noexcept { return impl_->mount ? impl_->mount->fd() : -1; }
bool Session::started() const noexcept { return impl_->stock != nullptr; }
bool Session::exited() const noexcept { return impl_->exited.load(); }

int Session::exit_error() const noexcept { return impl_->exit_error.load(); }

void Session::reset() noexcept {
  impl_->exit_error = 0;
  impl_->exited = false;
  eventfd_t count;
  ::eventfd_read(impl_->wake.get(), &count);
}

std::string_view Session::transport_name() const noexcept {
  std::lock_guard lock(impl_->transports_mutex);
  return impl_->fast ? impl_->fast->name() : "dev";
}
const std::string &Session::transport_reason() const noexcept { return impl_->reason; }

std::vector<std::string> Session::fastpaths() const {
  std::lock_guard lock(impl_->transports_mutex);
  return impl_->fastpath_names;
}

std::string Session::fastpath_reason() const {
  std::lock_guard lock(impl_->transports_mutex);
  return impl_->fastpath_reason;
}

std::string Session::stat_json(bool histograms) const {
  StatsSnapshot snapshot;
  impl_->reap();
  std::string reason;
  std::string fastpath_reason;
  std::shared_ptr<FastpathControl> control;
  {
    std::lock_guard lock(impl_->transports_mutex);
    fastpath_reason = impl_->fastpath_reason;
    if (!impl_->controls.empty())
      control = impl_->controls.back();
    snapshot.add(impl_->retired_stats);
    reason = impl_->reason;
  }
  for (const auto &transport : impl_->transports())
    transport->visit_stats([&](const ChannelStats &channel) { snapshot.add(channel); });
  const std::uint64_t taken_ns = now_ns();
  auto json = nlohmann::ordered_json::parse(snapshot.json(histograms));
  nlohmann::ordered_json out;
  out["mountpoint"] = impl_->options.mountpoint;
  out["fs"] = impl_->options.subtype;
  out["pid"] = ::getpid();
  out["transport"] = transport_name();
  out["reason"] = reason;
  out.update(json);
  out["fastpath"] = control ? nlohmann::ordered_json::parse(control->stats_json()) : nlohmann::ordered_json::array();
  if (!fastpath_reason.empty())
    out["fastpath_reason"] = fastpath_reason;
  add_hits(out);
  if (histograms)
    out["taken_ns"] = taken_ns;
  // A mountpoint is bytes, JSON is UTF-8.
  return out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

int Session::notify(std::int32_t code, std::span<const iovec> body) noexcept {
  if (!impl_->mount)
    return -ENOTCONN;
  if (!impl_->io) {
    // Once we have let go of the device a notification fails as it does once the kernel has: callers look for that.
    const int result = send_message(impl_->mount->fd(), code, 0, body);
    return result == -EBADF ? -ENODEV : result;
  }
  ManualTransport *transport = manual();
  return transport != nullptr ? transport->notify(code, body) : -ENOMEM;
}

void Session::interrupt(std::uint64_t unique) noexcept {
  if (impl_->interrupt(unique))
    return;
  // Its reader has it and has not dispatched it. Remember first, look again after:
  // dispatch() stores the unique first and looks at early_interrupts after.
  impl_->early.add(unique);
  if (impl_->interrupt(unique))
    take_early_interrupt(unique);
}

bool Session::take_early_interrupt(std::uint64_t unique) noexcept { return impl_->early.take(unique); }

bool Session::serves(std::uint64_t unique) noexcept {
  return impl_->any_transport([unique](Transport &t) { return t.serves(unique); });
}

/// Async-signal-safe: two atomics and a write(2).
void Session::exit(int error) noexcept {
  int none = 0;
  impl_->exit_error.compare_exchange_strong(none, error);
  impl_->exited.store(true);
  const int saved = errno;
  ::eventfd_write(impl_->wake.get(), 1);
  errno = saved;
}

}  // namespace efuse
