// SPDX-License-Identifier: LGPL-2.1-or-later
// The stock path: threads that read /dev/fuse. One read(2) and one writev(2) per
// request and nothing else that enters the kernel; a reply with much of a file in it
// may go through a pipe instead (reply_pipe.hh). Where it pays (wait_choice.hh) one
// reader alone looks for requests, by reads that do not block.
//
// Stopping a thread that sits in a blocking read, without a wake-up descriptor
// to poll and without a lost wake-up: each channel reads from `read_fd_`, a
// descriptor number that nobody else uses, and replies to `write_fd_`, a
// duplicate of it. stop() puts a pipe at end-of-file in the place of read_fd_
// with dup3() and then sends the thread a signal. The thread is
//   - before read(2): read looks the number up anew and finds end-of-file;
//   - in read(2), with the old file already looked up: the signal is pending or
//     arrives, and ends the interruptible wait; the restarted read finds end-of-file;
//   - about to return with a request: it is served, its reply goes to write_fd_,
//     and the next read finds end-of-file.
#include "transport.hh"

#include "channel.hh"
#include "dispatch.hh"
#include "fd.hh"
#include "placement.hh"
#include "poller.hh"
#include "reader_crew.hh"
#include "reply_pipe.hh"
#include "request.hh"
#include "request_pool.hh"
#include "stats.hh"
#include "wait_choice.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace efuse {
namespace {

/// The signal that ends a blocking read: the first real-time one that this process
/// does nothing with, found and given an empty handler once per process. With
/// SA_RESTART, so that a filesystem's own system calls go on.
int wake_signal() {
  static const int number = [] {
    for (int s = SIGRTMIN; s <= SIGRTMAX; ++s) {
      struct sigaction now {};
      if (::sigaction(s, nullptr, &now) != 0 || (now.sa_flags & SA_SIGINFO) != 0 || now.sa_handler != SIG_DFL)
        continue;
      struct sigaction empty {};
      empty.sa_handler = [](int) {};
      empty.sa_flags = SA_RESTART;
      if (::sigaction(s, &empty, nullptr) == 0)
        return s;
    }
    throw std::runtime_error("no real-time signal is free to stop threads with");
  }();
  return number;
}

/// The device number is shared, the fuse_dev behind it is this channel's own: requests read
/// here are answered here and nowhere else.
Fd clone_device(int fuse_fd) noexcept {
  Fd clone(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  auto source = static_cast<std::uint32_t>(fuse_fd);
  if (!clone || ::ioctl(clone.get(), FUSE_DEV_IOC_CLONE, &source) != 0)
    return Fd();
  return clone;
}

/// How often a thread has slept, of its own accord, looked at once per window.
class Naps {
 public:
  /// To be called once per request.
  [[nodiscard]] bool window_full() noexcept { return ++requests_ % ReaderCrew::kWindow == 0; }
  /// What was slept until now does not count.
  void restart() noexcept {
    requests_ = 0;
    (void)count();
  }
  /// Since the last call.
  [[nodiscard]] unsigned count() noexcept {
    rusage usage{};
    ::getrusage(RUSAGE_THREAD, &usage);
    return static_cast<unsigned>(usage.ru_nvcsw - std::exchange(before_, usage.ru_nvcsw));
  }

 private:
  unsigned requests_ = 0;
  long before_ = 0;
};

/// Readers that do not read, as they have just got FORGETs. More of them will come, and each would wake one that waits:
/// what is asked of the CPUs for that is to be the same however many readers there are.
class Resting {
 public:
  explicit Resting(unsigned readers) noexcept : each_ns_(static_cast<long>(kBetweenNs * readers)) {}

  /// How long each of them does.
  [[nodiscard]] timespec time() const noexcept { return {each_ns_ / 1'000'000'000, each_ns_ % 1'000'000'000}; }

  // By a reader, in this order: the FORGETs are here, are served, and it reads again.
  void begin() noexcept {
    begun_.fetch_add(1, std::memory_order_release);
    count_.fetch_add(1, std::memory_order_release);
  }
  void served() noexcept { served_.fetch_add(1, std::memory_order_release); }
  void end() noexcept { count_.fetch_sub(1, std::memory_order_release); }

  // Any thread.
  [[nodiscard]] unsigned count() const noexcept { return count_.load(std::memory_order_acquire); }
  /// How often FORGETs have come to a reader.
  [[nodiscard]] std::uint64_t begun() const noexcept { return begun_.load(std::memory_order_acquire); }
  /// So many are served. (Others that have begun later may be counted instead: for who asks that is as good.)
  [[nodiscard]] bool is_served(std::uint64_t begun) const noexcept {
    return served_.load(std::memory_order_acquire) >= begun;
  }

 private:
  static constexpr std::uint64_t kBetweenNs = 20'000'000;  // fifty wake-ups a second at most
  const long each_ns_;
  std::atomic<unsigned> count_{0};
  std::atomic<std::uint64_t> begun_{0}, served_{0};
};

class DevChannel final : public Channel {
 public:
  /// `device` becomes this channel's; `cloned`: its open file is nobody else's; `resting`: where serve() says that it
  /// rests after a FORGET, nullptr: it never does; `stats` false: no clock is read.
  DevChannel(SessionCore &session, Fd device, bool cloned, Resting *resting, const PollSettings &settings, bool stats)
      : session_(session),
        cloned_(cloned),
        resting_(resting),
        poller_(settings),
        write_fd_(std::move(device)),
        read_fd_(checked_fd(::fcntl(write_fd_.get(), F_DUPFD_CLOEXEC, 0), "dup /dev/fuse")),
        timed_(stats),
        stats_(stats),
        pool_(session, *this) {
    // A WRITE's data starts on a page then.
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t lead = page - sizeof(fuse_in_header) - sizeof(fuse_write_in);
    message_size_ = std::max<std::size_t>(session.buf_size, FUSE_MIN_READ_BUFFER);
    buffer_ = Mapping::anonymous((lead + message_size_ + page - 1) / page * page);
    message_ = buffer_.data() + lead;
  }

  int reply(fuse_req &req, int error, std::span<const iovec> body) noexcept override {
    if (error > 0 || error <= -512 || body.size() >= IOV_MAX) {  // the kernel would not take it, and wait on
      write_reply(req, -EIO, {});
      return -EINVAL;
    }
    return write_reply(req, error, error != 0 ? std::span<const iovec>() : body);
  }

  int reply_in_place(fuse_req &req, std::size_t len) noexcept override {
    const iovec body{req.out, len};
    return write_reply(req, 0, {&body, 1});
  }

  bool hold(int fd, off_t pos, std::size_t len, bool again) noexcept override {
    return current_ == this && pipe_.take(fd, pos, len, again);
  }

  int reply_held(fuse_req &req, bool move) noexcept override {
    const std::uint64_t replied_ns = timed_ ? now_ns() : 0;
    const int result = pipe_.send(write_fd_.get(), req.unique.load(std::memory_order_relaxed), move);
    if (result == 0)
      stats_.spliced();
    finish(static_cast<PooledRequest &>(req), replied_ns);
    return result;
  }

  void drop(fuse_req &req) noexcept override {
    finish(static_cast<PooledRequest &>(req), timed_ ? now_ns() : 0);
  }

  [[nodiscard]] bool unseen() const noexcept override { return true; }

  ChannelStats &stats() noexcept override { return stats_; }
  const ChannelStats &stats() const noexcept { return stats_; }

  /// The thread's body: until stopped or until the connection is gone. `crew` says when to read, `pin` where.
  void serve(ReaderCrew &crew, unsigned index, WorkerPin pin) noexcept {
    current_ = this;
    choice_ = WaitChoice(pin.can_loosen());
    unsigned left = WaitChoice::kWindow;  // of its window
    Naps naps;
    for (;;) {
      if (!crew.wanted(index)) {
        if (!crew.wait(index))
          break;
        naps.restart();
      }
      pin.loosen(crew.is_loose());
      PooledRequest *request = take_request();
      const bool alone = crew.is_alone();
      const ssize_t n = alone ? look_and_read() : read_message();
      const int error = n < 0 ? errno : 0;
      if (n >= static_cast<ssize_t>(sizeof(fuse_in_header))) {
        crew.begin(index);
        const std::uint64_t begun = alone ? now_ns() : 0;
        const bool rests = resting_ != nullptr && forgets();
        if (rests)
          resting_->begin();
        handle(*request, static_cast<std::size_t>(n));
        crew.end(index);
        if (rests)
          rest();
        if (alone && now_ns() - begun > kLongCallNs && ++long_calls_ == kMostLongCalls) [[unlikely]] {
          choice_.reject();
          crew.be_alone(false);
        }
        if (index == 0 && cloned_ && --left == 0) {
          choose(crew);
          left = window_of(crew);
        }
        if (naps.window_full()) {
          if (!crew.is_to_be_alone())
            crew.slept(index, naps.count());
          pin.check();
        }
        continue;
      }
      pool_.put_back(*request);
      if (n == 0 || !go_on(n < 0 ? error : EIO))
        break;
    }
    current_ = nullptr;
  }

  /// Serve what is there up to the FORGETs, which come in one message, on the calling thread, without waiting: for
  /// channels without a thread of their own, on an open file of theirs. One thread at a time. false: there was nothing.
  bool serve_waiting() noexcept {
    if (!set_blocking(false))
      return true;
    current_ = this;
    bool found = false;
    for (unsigned i = 0; i < kMostForGuest; ++i) {
      PooledRequest *request = take_request();
      const ssize_t n = ::read(read_fd_.get(), message_, message_size_);
      if (n < static_cast<ssize_t>(sizeof(fuse_in_header))) {  // none, or the end, of which the readers are told as well
        pool_.put_back(*request);
        break;
      }
      found = forgets();
      handle(*request, static_cast<std::size_t>(n));
      if (found)
        break;
    }
    current_ = nullptr;
    return found;
  }

  /// From here on read_fd_ is at end-of-file; the thread has to be woken as well.
  void end_of_file(int eof_fd) noexcept { ::dup3(eof_fd, read_fd_.get(), O_CLOEXEC); }

  /// Let go of the device. The number stays taken, so that a reply that comes later still fails on it.
  void disconnect(int eof_fd) noexcept { ::dup3(eof_fd, write_fd_.get(), O_CLOEXEC); }

  bool interrupt(std::uint64_t unique) noexcept {
    fuse_req *found = pool_.find([unique](fuse_req &req) { return req.unique.load() == unique; });
    // Not twice: an early interrupt may have got here before.
    if (found != nullptr && found->interrupted_unique.load() != unique)
      mark_interrupted(*found, unique);
    return found != nullptr;
  }

  bool serves(std::uint64_t unique) noexcept {
    return pool_.find([unique](fuse_req &req) { return req.owed.load() == unique; }) != nullptr;
  }

  bool busy() noexcept {
    return pool_.find([](fuse_req &req) { return req.unique.load() != 0; }) != nullptr;
  }

  bool connected() const noexcept {
    pollfd p{write_fd_.get(), 0, 0};
    return ::poll(&p, 1, 0) == 0;
  }

 private:
  /// Of WaitChoice, in requests of reader 0.
  [[nodiscard]] static unsigned window_of(const ReaderCrew &crew) noexcept {
    return std::max(kLeastWindow, WaitChoice::kWindow / crew.active());
  }

  /// Once a window of reader 0: whether it reads alone in the next one, and whether readers are pinned.
  void choose(ReaderCrew &crew) noexcept {
    if (choice_.way() == WaitChoice::Way::apart && !crew.is_to_be_alone())
      choice_.reject();  // a callback has blocked
    long_calls_ = 0;
    if (!crew.is_small())
      return;  // requests wait for callbacks, not for readers
    choice_.look(now_ns(), crew.served());
    if (poller_.off())
      choice_.reject();
    const bool alone = choice_.way() == WaitChoice::Way::apart;
    if (alone != crew.is_to_be_alone())
      poller_.start_anew();
    crew.be_alone(alone);
    crew.be_loose(choice_.way() == WaitChoice::Way::giving);
  }

  /// Is the message about nodes that the kernel has let go of?
  [[nodiscard]] bool forgets() const noexcept {
    std::uint32_t opcode = 0;
    std::memcpy(&opcode, message_ + offsetof(fuse_in_header, opcode), sizeof opcode);
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET;
  }

  void rest() noexcept {
    resting_->served();
    const timespec rest = resting_->time();
    ::nanosleep(&rest, nullptr);  // stop() wakes it from this, too
    resting_->end();
  }

  ssize_t read_message() noexcept {
    set_blocking(true);
    return ::read(read_fd_.get(), message_, message_size_);
  }

  ssize_t look_and_read() noexcept {
    const std::uint32_t budget = poller_.spin_budget(true);
    if (budget == 0 || !set_blocking(false))
      return read_message();
    ssize_t n = -1;
    const auto ready = [&] {
      for (int i = 0; i < kPauses; i++)  // each read takes the lock that senders want
        cpu_relax();
      n = ::read(read_fd_.get(), message_, message_size_);
      return n >= 0 || errno != EAGAIN;
    };
    const bool found = poller_.spin(budget, ready);
    stats_.looked(found);
    return found ? n : read_message();
  }

  /// Of the open file, which the writes share: they never block. Cheap where it is so already.
  bool set_blocking(bool blocking) noexcept {
    if (blocking_ == blocking)
      return true;
    const int flags = ::fcntl(read_fd_.get(), F_GETFL);
    if (flags < 0 || ::fcntl(read_fd_.get(), F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK) != 0)
      return false;
    blocking_ = blocking;
    return true;
  }

  PooledRequest *take_request() noexcept {
    for (;;) {
      try {
        return &pool_.take();
      } catch (const std::bad_alloc &) {  // requests wait in the kernel meanwhile
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
  }

  void handle(PooledRequest &request, std::size_t size) noexcept {
    request.dequeue_ns = timed_ ? now_ns() : 0;
    request.msg = {{message_, size}, {}};
    dispatch(request);
  }

  /// After a read that failed: whether to read again.
  bool go_on(int error) noexcept {
    switch (error) {
      case EINTR:
      case ENOENT:  // the request was aborted while it was being read
        return true;
      case EAGAIN: {  // somebody has made the shared open file non-blocking
        pollfd p{read_fd_.get(), POLLIN, 0};
        ::poll(&p, 1, -1);
        return true;
      }
      case ENOMEM:
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        return true;
      case ENODEV:        // unmounted
      case ECONNABORTED:  // aborted through /sys/fs/fuse/connections
        session_.exit(0);
        return false;
      default:
        session_.exit(error);
        return false;
    }
  }

  int write_reply(fuse_req &req, int error, std::span<const iovec> body) noexcept {
    if (body.size() < 8) [[likely]]
      return write_parts<8>(req, error, body);
    return write_parts<IOV_MAX>(req, error, body);
  }

  /// body.size() < kMost.
  template <std::size_t kMost>
  int write_parts(fuse_req &req, int error, std::span<const iovec> body) noexcept {
    std::array<iovec, kMost> iov;
    fuse_out_header header{};
    std::size_t size = sizeof header;
    for (std::size_t i = 0; i < body.size(); ++i) {
      iov[i + 1] = body[i];
      size += body[i].iov_len;
    }
    header.len = static_cast<std::uint32_t>(size);
    header.error = error;
    header.unique = req.unique.load(std::memory_order_relaxed);
    iov[0] = {&header, sizeof header};
    // The clock before the write: the time until here is the service, and what
    // follows it delays nobody.
    const std::uint64_t replied_ns = timed_ ? now_ns() : 0;
    ssize_t n = ::writev(write_fd_.get(), iov.data(), static_cast<int>(body.size() + 1));
    int result = n < 0 ? -errno : 0;
    finish(static_cast<PooledRequest &>(req), replied_ns);
    return result;
  }

  void finish(PooledRequest &request, std::uint64_t replied_ns) noexcept {
    if (timed_)
      stats_.completed(request.opcode, Way::stock, 0, replied_ns - request.dequeue_ns);
    request.unique.store(0, std::memory_order_relaxed);
    if (current_ == this)
      pool_.put_back(request);
    else
      pool_.give_back(request);
  }

  static constexpr int kPauses = 8;
  static constexpr unsigned kLeastWindow = 8;
  static constexpr unsigned kMostForGuest = 8;           // messages, which are INTERRUPTs up to the last
  static constexpr std::uint64_t kLongCallNs = 500'000;  // others could have served meanwhile
  static constexpr unsigned kMostLongCalls = 3;          // in a window; one may just have lost its CPU

  static thread_local DevChannel *current_;  // whose serve() this thread is in

  SessionCore &session_;
  const bool cloned_;
  Resting *const resting_;
  Poller poller_;       // these four are the serving thread's
  WaitChoice choice_;   // of reader 0
  unsigned long_calls_ = 0;
  bool blocking_ = true;
  Fd write_fd_;
  Fd read_fd_;
  bool timed_;
  Mapping buffer_;
  std::byte *message_ = nullptr;
  std::size_t message_size_ = 0;
  ReplyPipe pipe_;  // the serving thread's
  ChannelStats stats_;
  RequestPool pool_;
};

thread_local DevChannel *DevChannel::current_ = nullptr;

/// How many readers there are, and where: see ReaderCrew.
struct Staff {
  unsigned readers;
  std::vector<int> cpus;  // of the first ones
  bool rests = false;     // after each FORGET
};

constexpr unsigned kReaders = 10;  // for callbacks that block; as many as libfuse's loop has

/// `threads`: of Config::dev_threads.
Staff place_readers(const Config &config, unsigned threads) {
  Config placed = config;
  placed.ring_count = 0;  // that is of rings: here it is a reader for each CPU
  Staff staff{threads, place_rings(placed, this_machine()).worker_cpu};
  if (staff.readers == 0)
    staff.readers = std::max<unsigned>(kReaders, 2 * static_cast<unsigned>(staff.cpus.size()));
  if (staff.cpus.size() > staff.readers)
    staff.cpus.assign(staff.readers, -1);  // fewer than CPUs: they go where they are needed
  return staff;
}

class DevTransport final : public Transport {
 public:
  /// Without `staff.cpus` all readers read, anywhere.
  DevTransport(SessionCore &session, const Config &config, int fuse_fd, const Staff &staff)
      : looks_(!staff.cpus.empty()),
        cpus_(staff.cpus),
        resting_(staff.readers),
        crew_(staff.readers, staff.cpus.empty() ? staff.readers : static_cast<unsigned>(staff.cpus.size())) {
    DevTransport::tune(config);
    Fd guests_device = staff.rests ? clone_device(fuse_fd) : Fd();
    Resting *const resting = guests_device ? &resting_ : nullptr;
    for (unsigned i = 0; i < staff.readers; ++i) {
      Fd device = config.clone_fd ? clone_device(fuse_fd) : Fd();
      const bool cloned = static_cast<bool>(device);
      if (!device)  // an old or strict kernel: share one queue of replies
        device = checked_fd(::fcntl(fuse_fd, F_DUPFD_CLOEXEC, 0), "dup /dev/fuse");
      channels_.push_back(std::make_unique<DevChannel>(session, std::move(device), cloned && looks_, resting, settings_,
                                                       config.stats));
    }
    readers_ = channels_.size();
    if (resting != nullptr)
      channels_.push_back(std::make_unique<DevChannel>(session, std::move(guests_device), true, nullptr, settings_,
                                                       config.stats));
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
      throw std::system_error(errno, std::generic_category(), "pipe");
    eof_.reset(ends[0]);
    ::close(ends[1]);
  }

  ~DevTransport() override { stop(); }

  [[nodiscard]] std::string_view name() const noexcept override { return "dev"; }

  void start() override {
    wake_ = wake_signal();
    try {
      for (std::size_t i = 0; i < readers_; ++i)
        threads_.emplace_back([this, i] { body(i); });
    } catch (...) {
      stop();
      throw;
    }
  }

  void stop() noexcept override {
    for (auto &channel : channels_)
      channel->end_of_file(eof_.get());
    crew_.stop();
    for (std::thread &thread : threads_)
      ::pthread_kill(thread.native_handle(), wake_);
    for (std::thread &thread : threads_)
      thread.join();
    if (!threads_.empty())
      wait_for_replies();
    threads_.clear();
    for (auto &channel : channels_)
      channel->disconnect(eof_.get());
  }

  void tune(const Config &config) noexcept override {
    settings_.spin_ns = config.worker_spin_ns + config.worker_poll_ns;
    settings_.adaptive = config.adaptive;
  }

  bool stand_in(bool urgent) noexcept override {
    if (readers_ == channels_.size())
      return true;  // they never rest
    if (!urgent)
      return resting_.count() == readers_ && serve_as_guest();  // one that waits is woken by what comes, and should find it
    const std::uint64_t begun = resting_.begun();
    bool found = serve_as_guest();
    // What is not in the queue any more may be on its way to a reader.
    for (auto waited = kLook; !found && waited <= kOnTheWay; waited += kLook) {
      std::this_thread::sleep_for(kLook);
      found = resting_.begun() != begun || serve_as_guest();
    }
    const std::uint64_t all = resting_.begun();
    for (auto waited = kLook; waited <= kServing && !resting_.is_served(all); waited += kLook)
      std::this_thread::sleep_for(kLook);
    return found;
  }

  bool interrupt(std::uint64_t unique) noexcept override {
    for (auto &channel : channels_)
      if (channel->interrupt(unique))
        return true;
    return false;
  }

  bool serves(std::uint64_t unique) noexcept override {
    for (auto &channel : channels_)
      if (channel->serves(unique))
        return true;
    return false;
  }

  void visit_stats(const std::function<void(const ChannelStats &)> &visit) const override {
    for (const auto &channel : channels_)
      visit(static_cast<const DevChannel &>(*channel).stats());
  }

 private:
  void body(std::size_t index) noexcept {
    ::pthread_setname_np(::pthread_self(), fmt::format("efuse-dev/{}", index).substr(0, 15).c_str());
    sigset_t set;
    sigemptyset(&set);
    for (int s : {SIGTERM, SIGINT, SIGHUP, SIGQUIT})  // for the thread that runs the session
      sigaddset(&set, s);
    ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
    sigemptyset(&set);
    sigaddset(&set, wake_);
    ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    const int cpu = index < cpus_.size() ? cpus_[index] : -1;
    if (const int error = pin_this_thread(cpu); error != 0)
      fuse_log(FUSE_LOG_WARNING, "efuse: cannot pin reader %zu to CPU %d: %s\n", index, cpu, std::strerror(-error));
    channels_[index]->serve(crew_, static_cast<unsigned>(index), WorkerPin(cpu, cpus_));
  }

  /// false: nothing was there.
  bool serve_as_guest() noexcept {
    const std::unique_lock guest(guest_mutex_, std::try_to_lock);
    return !guest || channels_.back()->serve_waiting();  // else another is at it
  }

  /// Other threads may still owe replies to requests taken here. Where the
  /// connection lives they get a moment; a request that waits for something else
  /// (a lock, an event) ends with the connection.
  void wait_for_replies() noexcept {
    using namespace std::chrono_literals;
    for (auto waited = 0ms; waited < 500ms; waited += 5ms) {
      bool owed = std::any_of(channels_.begin(), channels_.end(),
                              [](auto &channel) { return channel->busy() && channel->connected(); });
      if (!owed)
        return;
      std::this_thread::sleep_for(5ms);
    }
  }

  // For those who need to know what readers have been told.
  static constexpr std::chrono::microseconds kLook{50};
  static constexpr std::chrono::microseconds kOnTheWay{1000};  // at most, from the kernel to a reader
  static constexpr std::chrono::microseconds kServing{10'000};  // longer than that is the filesystem's doing

  Fd eof_;
  int wake_ = 0;
  const bool looks_;       // not those beside another transport, which get little to read
  PollSettings settings_;
  std::vector<int> cpus_;  // of the first readers; -1: not pinned
  Resting resting_;
  ReaderCrew crew_;
  std::size_t readers_ = 0;
  std::mutex guest_mutex_;  // who serves the channel that has no reader
  std::vector<std::unique_ptr<DevChannel>> channels_;  // of the readers, and where they rest one more
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Transport> make_dev_transport(SessionCore &session, const Config &config, int fuse_fd) {
  return std::make_unique<DevTransport>(session, config, fuse_fd, place_readers(config, config.dev_threads));
}

std::unique_ptr<Transport> make_stock_readers(SessionCore &session, const Config &config, int fuse_fd,
                                              StockShare share) {
  const Staff staff{config.stock_threads, {}, share == StockShare::forgets_and_interrupts};
  return std::make_unique<DevTransport>(session, config, fuse_fd, staff);
}

}  // namespace efuse
