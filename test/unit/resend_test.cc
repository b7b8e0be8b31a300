// SPDX-License-Identifier: LGPL-2.1-or-later
// Requests that come twice: whichever of the reply and the second copy comes first, the filesystem is asked once
// and the copy is answered once.
#include "channel.hh"
#include "protocol.hh"
#include "request.hh"
#include "resend.hh"
#include "session_core.hh"
#include "stats.hh"

#include <catch2/catch.hpp>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

using namespace efuse;

namespace {

constexpr std::uint64_t kUnique = (1ull << 62) | 42;

/// Stands for a reader of /dev/fuse, and notes what it would write.
class Reader final : public Channel {
 public:
  int reply(fuse_req &req, int error, std::span<const iovec> body) noexcept override {
    answered++;
    last_error = error;
    last_body.clear();
    for (const iovec &part : body)
      last_body.append(static_cast<const char *>(part.iov_base), part.iov_len);
    req.unique = 0;
    return 0;
  }
  int reply_in_place(fuse_req &, std::size_t) noexcept override { return -EINVAL; }
  void drop(fuse_req &) noexcept override {}
  ChannelStats &stats() noexcept override { return stats_; }

  std::atomic<int> answered{0};
  int last_error = 1;
  std::string last_body;

 private:
  ChannelStats stats_{false};
};

const fuse_lowlevel_ops kNoCallbacks{};

/// With one request on a ring that is closed: it is with the filesystem until its unique is 0.
class Closed final : public SessionCore {
 public:
  Closed() : SessionCore(&kNoCallbacks, sizeof kNoCallbacks, nullptr) {}
  int notify(std::int32_t, std::span<const iovec>) noexcept override { return -ENOTCONN; }
  void interrupt(std::uint64_t) noexcept override {}
  void exit(int) noexcept override {}
  bool serves(std::uint64_t unique) noexcept override { return first.unique.load() == unique; }

  fuse_req first;
};

struct Fixture {
  Closed session;
  Reader reader;
  fuse_req copy;

  void take() { session.first.unique = kUnique; }
  void resend() {
    copy.session = &session;
    copy.channel = &reader;
    copy.opcode = FUSE_READ;
    copy.unique = kUnique | protocol::kUniqueResend;
    copy.owed = copy.unique.load();
  }
  int keep(int error, std::string_view text) {
    const iovec body{const_cast<char *>(text.data()), text.size()};
    return session.resends.keep(session.first, error, {&body, 1});
  }
};

}  // namespace

TEST_CASE("resend: the reply first, the copy later", "[resend]") {
  Fixture f;
  f.take();
  CHECK(f.keep(0, "body") == 0);
  CHECK(f.session.first.unique == 0);
  CHECK(f.session.resends.active());
  f.resend();
  CHECK(f.session.resends.hold(f.copy));
  CHECK(f.reader.answered == 1);
  CHECK(f.reader.last_error == 0);
  CHECK(f.reader.last_body == "body");
  CHECK_FALSE(f.session.resends.active());
  f.resend();
  CHECK_FALSE(f.session.resends.hold(f.copy));  // an answer serves once
}

TEST_CASE("resend: the copy first, the reply later", "[resend]") {
  Fixture f;
  f.take();
  f.resend();
  CHECK(f.session.resends.hold(f.copy));
  CHECK(f.reader.answered == 0);
  CHECK(f.keep(-ENOSPC, {}) == 0);
  CHECK(f.reader.answered == 1);
  CHECK(f.reader.last_error == -ENOSPC);
  CHECK_FALSE(f.session.resends.active());
}

TEST_CASE("resend: what the filesystem has not seen is for it to serve", "[resend]") {
  Fixture f;
  f.resend();
  CHECK_FALSE(f.session.resends.hold(f.copy));
  CHECK(f.copy.owed == f.copy.unique);
  CHECK_FALSE(f.session.resends.active());  // no ring is served on which the first copy could lie
  CHECK_FALSE(f.session.resends.overtaken(kUnique));
}

TEST_CASE("resend: a copy that overtakes the first is the one that counts", "[resend]") {
  Fixture f;
  f.session.resends.first_may_follow = true;
  f.resend();
  CHECK_FALSE(f.session.resends.hold(f.copy));
  CHECK(f.session.resends.overtaken(kUnique));
  CHECK_FALSE(f.session.resends.overtaken(kUnique));
}

TEST_CASE("resend: reply and copy at the same time", "[resend][stress]") {
  int answered = 0;
  for (int i = 0; i < 3000; i++) {
    Fixture f;
    f.take();
    f.resend();
    std::atomic<int> ready{0};
    const auto both = [&ready] {
      ready++;
      while (ready < 2)
        std::this_thread::yield();
    };
    std::thread filesystem([&] {
      both();
      f.keep(0, "x");
    });
    both();
    const bool held = f.session.resends.hold(f.copy);
    filesystem.join();
    REQUIRE(held);
    answered += f.reader.answered;
    REQUIRE_FALSE(f.session.resends.active());
  }
  CHECK(answered == 3000);
}
