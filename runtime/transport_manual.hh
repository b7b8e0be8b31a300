// SPDX-License-Identifier: LGPL-2.1-or-later
// Messages that the program receives and hands over itself: a loop of its own (fuse_session_receive_buf(),
// fuse_session_process_buf()), or a descriptor with functions of its own (fuse_session_custom_io()).
#pragma once

#include "channel.hh"
#include "request.hh"
#include "stats.hh"
#include "transport.hh"

#include <memory>
#include <mutex>
#include <vector>

namespace efuse {

class ManualTransport final : public Transport, public Channel {
 public:
  /// `io`: all members null: read(2) and writev(2). `fd` stays the caller's.
  ManualTransport(SessionCore &session, int fd, const fuse_custom_io &io) noexcept
      : session_(session), fd_(fd), io_(io) {}

  /// As fuse_session_receive_buf(): buf.mem is made if it is null, and is the caller's to free(). Any thread.
  int receive(fuse_buf &buf) noexcept;
  /// As fuse_session_process_buf(). Any thread.
  void process(const fuse_buf &buf) noexcept;
  /// As SessionCore::notify(). Any thread.
  int notify(std::int32_t code, std::span<const iovec> body) noexcept { return send(code, 0, body); }

  // Transport
  [[nodiscard]] std::string_view name() const noexcept override { return "dev"; }
  void start() override {}
  void stop() noexcept override {}
  bool interrupt(std::uint64_t unique) noexcept override;
  bool serves(std::uint64_t unique) noexcept override;
  void visit_stats(const std::function<void(const ChannelStats &)> &visit) const override { visit(stats_); }

  // Channel
  int reply(fuse_req &req, int error, std::span<const iovec> body) noexcept override;
  int reply_in_place(fuse_req &req, std::size_t len) noexcept override;
  void drop(fuse_req &req) noexcept override;
  [[nodiscard]] bool unseen() const noexcept override { return true; }
  ChannelStats &stats() noexcept override { return stats_; }

 private:
  fuse_req *take() noexcept;
  int send(std::int32_t error, std::uint64_t unique, std::span<const iovec> body) noexcept;

  SessionCore &session_;
  int fd_;
  fuse_custom_io io_;
  ChannelStats stats_{true};
  std::mutex mutex_;
  std::vector<std::unique_ptr<fuse_req>> requests_;  // all there are, as long as this: interrupters look at any; guarded
  std::vector<fuse_req *> free_;                     // guarded by mutex_; room for all of requests_
};

}  // namespace efuse
