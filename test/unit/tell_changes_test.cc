// SPDX-License-Identifier: LGPL-2.1-or-later
// What is told to those who answer in the kernel, and when: a change begins before the filesystem is called and ends
// before the reply; what a notification says is told before that is sent.
#include "changes.hh"
#include "channel.hh"
#include "dispatch.hh"
#include "protocol.hh"
#include "reply.hh"
#include "session_core.hh"
#include "stats.hh"

#include "uapi/efuse_ring.h"

#include <efuse/efuse_lowlevel.h>

#include <catch2/catch.hpp>

#include <fcntl.h>

#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

using namespace efuse;

namespace {

/// What happened, in order; of the session's threads one at a time.
struct Journal {
  void add(std::string what) {
    const std::lock_guard lock(mutex);
    lines.push_back(std::move(what));
  }
  std::vector<std::string> take() { return std::exchange(lines, {}); }
  std::mutex mutex;
  std::vector<std::string> lines;
};

class Listener final : public ChangeListener {
 public:
  explicit Listener(Journal &journal, std::string name = "") : journal_(journal), name_(std::move(name)) {}
  bool begin_change() noexcept override {
    if (counts) journal_.add(name_ + "begin");
    return counts;
  }
  void end_change() noexcept override { journal_.add(name_ + "end"); }
  void changed(std::uint64_t node) noexcept override { journal_.add(name_ + "node " + std::to_string(node)); }
  void changed_name(std::uint64_t parent, std::string_view name) noexcept override {
    journal_.add(name_ + "name " + std::to_string(parent) + " " + std::string(name));
  }
  void changed_all() noexcept override { journal_.add(name_ + "all"); }
  int add_backing(std::uint64_t node, int fd) noexcept override {
    journal_.add("backing " + std::to_string(node) + " " + std::to_string(fd));
    return 0;
  }
  void remove_backing(std::uint64_t node) noexcept override { journal_.add("no backing " + std::to_string(node)); }

  bool counts = true;

 private:
  Journal &journal_;
  std::string name_;
};

class TestChannel final : public Channel {
 public:
  TestChannel(Journal &journal, bool unseen) : journal_(journal), unseen_(unseen) {}
  int reply(fuse_req &, int error, std::span<const iovec>) noexcept override {
    journal_.add("reply " + std::to_string(error));
    return 0;
  }
  int reply_in_place(fuse_req &req, std::size_t) noexcept override { return reply(req, 0, {}); }
  void drop(fuse_req &) noexcept override { journal_.add("drop"); }
  [[nodiscard]] bool unseen() const noexcept override { return unseen_; }
  ChannelStats &stats() noexcept override { return stats_; }

 private:
  Journal &journal_;
  bool unseen_;
  ChannelStats stats_{false};
};

class TestSession final : public SessionCore {
 public:
  TestSession() : SessionCore(&kOps, sizeof kOps, this) {
    conn.proto_minor = proto_minor = protocol::kMinor;
    got_init = true;
    changes = &listener;
  }
  int notify(std::int32_t code, std::span<const iovec>) noexcept override {
    journal.add("notify " + std::to_string(code));
    return notify_result;
  }
  void interrupt(std::uint64_t) noexcept override {}
  void exit(int) noexcept override {}

  Journal journal;
  Listener listener{journal};
  int notify_result = 0;
  bool keep = false;  // the filesystem answers later

 private:
  static const fuse_lowlevel_ops kOps;
};

void called(fuse_req_t req) {
  auto &session = *static_cast<TestSession *>(fuse_req_userdata(req));
  session.journal.add("call");
  if (!session.keep) fuse_reply_err(req, 0);
}

fuse_lowlevel_ops recording_ops() {
  fuse_lowlevel_ops ops{};
  ops.getattr = [](fuse_req_t r, fuse_ino_t, fuse_file_info *) { called(r); };
  ops.mkdir = [](fuse_req_t r, fuse_ino_t, const char *, mode_t) { called(r); };
  ops.open = [](fuse_req_t r, fuse_ino_t, fuse_file_info *) { called(r); };
  ops.forget = [](fuse_req_t r, fuse_ino_t node, std::uint64_t n) {
    static_cast<TestSession *>(fuse_req_userdata(r))
        ->journal.add("forget " + std::to_string(node) + " " + std::to_string(n));
    fuse_reply_none(r);
  };
  return ops;
}
const fuse_lowlevel_ops TestSession::kOps = recording_ops();

/// One request, with its memory.
struct Request {
  Request(TestSession &session, Channel &channel, std::uint32_t opcode, std::string arguments) {
    fuse_in_header in{};
    in.len = static_cast<std::uint32_t>(sizeof in + arguments.size());
    in.opcode = opcode;
    in.unique = 42;
    in.nodeid = 7;
    bytes.resize((in.len + 7) / 8);
    std::memcpy(bytes.data(), &in, sizeof in);
    std::memcpy(reinterpret_cast<char *>(bytes.data()) + sizeof in, arguments.data(), arguments.size());
    req.session = &session;
    req.channel = &channel;
    req.msg = {std::as_bytes(std::span(bytes)).first(in.len), {}};
  }
  void dispatch() { efuse::dispatch(req); }
  fuse_req req;
  std::vector<std::uint64_t> bytes;
};

template <class T>
std::string raw(const T &object) {
  return {reinterpret_cast<const char *>(&object), sizeof object};
}
std::string mkdir_arguments() { return raw(fuse_mkdir_in{0700, 0}) + std::string("d", 2); }
std::string open_arguments(std::uint32_t flags) { return raw(fuse_open_in{flags, 0}); }

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("a change begins before the filesystem has it, and ends before the reply", "[tell]") {
  TestSession session;
  TestChannel dev(session.journal, true);
  SECTION("answered at once") {
    Request(session, dev, FUSE_MKDIR, mkdir_arguments()).dispatch();
    CHECK(session.journal.lines == Lines{"begin", "call", "end", "reply 0"});
  }
  SECTION("answered later, elsewhere, and twice") {
    session.keep = true;
    Request request(session, dev, FUSE_MKDIR, mkdir_arguments());
    request.dispatch();
    CHECK(session.journal.lines == Lines{"begin", "call"});
    std::thread([&] { fuse_reply_err(&request.req, ENOSPC); }).join();
    fuse_set_log_func([](fuse_log_level, const char *, va_list) {});
    CHECK(fuse_reply_err(&request.req, 0) == -ENOENT);
    fuse_set_log_func(nullptr);
    CHECK(session.journal.lines == Lines{"begin", "call", "end", "reply -28"});
  }
  SECTION("answered with none") {
    session.keep = true;
    Request request(session, dev, FUSE_MKDIR, mkdir_arguments());
    request.dispatch();
    fuse_set_log_func([](fuse_log_level, const char *, va_list) {});
    fuse_reply_none(&request.req);
    fuse_set_log_func(nullptr);
    CHECK(session.journal.lines == Lines{"begin", "call", "end", "reply -5"});
  }
  SECTION("malformed") {
    Request(session, dev, FUSE_MKDIR, "d").dispatch();
    CHECK(session.journal.lines == Lines{"begin", "end", "reply -5"});
  }
  SECTION("no callback") {
    Request(session, dev, FUSE_RMDIR, std::string("d", 2)).dispatch();
    CHECK(session.journal.lines == Lines{"begin", "end", "reply -38"});
  }
  SECTION("not let in") {
    session.deny_others = true;
    session.owner = 1;
    Request request(session, dev, FUSE_MKDIR, mkdir_arguments());
    reinterpret_cast<fuse_in_header *>(request.bytes.data())->uid = 5;
    request.dispatch();
    CHECK(session.journal.lines == Lines{"reply -13"});
  }
  SECTION("a request of an opcode that nobody knows") {
    Request(session, dev, 60, "").dispatch();
    CHECK(session.journal.lines == Lines{"reply -38"});
  }
}

TEST_CASE("what changes nothing is not told", "[tell]") {
  TestSession session;
  TestChannel dev(session.journal, true);
  Request(session, dev, FUSE_GETATTR, raw(fuse_getattr_in{})).dispatch();
  CHECK(session.journal.take() == Lines{"call", "reply 0"});
  Request(session, dev, FUSE_OPEN, open_arguments(O_RDWR)).dispatch();
  CHECK(session.journal.take() == Lines{"call", "reply 0"});
  Request(session, dev, FUSE_FORGET, raw(fuse_forget_in{2})).dispatch();
  CHECK(session.journal.take() == Lines{"forget 7 2", "drop"});
  Request(session, dev, FUSE_OPEN, open_arguments(O_RDWR | O_TRUNC)).dispatch();
  CHECK(session.journal.take() == Lines{"begin", "call", "end", "reply 0"});
}

TEST_CASE("the opcodes that change nothing", "[tell]") {
  int harmless = 0;
  for (std::uint32_t opcode = 0; opcode < 64; ++opcode) harmless += !may_change(opcode);
  CHECK(harmless == 30);
  CHECK_FALSE(may_change(protocol::kOpStatx));
  for (std::uint32_t opcode : {FUSE_WRITE, FUSE_SETATTR, FUSE_CREATE, FUSE_IOCTL, FUSE_TMPFILE, FUSE_COPY_FILE_RANGE})
    CHECK(may_change(opcode));
  CHECK(may_change(61));
  CHECK(may_change(CUSE_INIT));
}

TEST_CASE("what comes over a ring is the module's to know", "[tell]") {
  TestSession session;
  TestChannel ring(session.journal, false);
  Request(session, ring, FUSE_MKDIR, mkdir_arguments()).dispatch();
  CHECK(session.journal.lines == Lines{"call", "reply 0"});
}

TEST_CASE("nobody listens", "[tell]") {
  TestSession session;
  session.changes = nullptr;
  TestChannel dev(session.journal, true);
  Request(session, dev, FUSE_MKDIR, mkdir_arguments()).dispatch();
  CHECK(session.journal.take() == Lines{"call", "reply 0"});
  CHECK(fuse_lowlevel_notify_inval_inode(to_handle(session), 5, 0, 0) == 0);
  CHECK(session.journal.take() == Lines{"notify 2"});
  CHECK(efuse_fastpath_open(to_handle(session), 5, 0) == -EOPNOTSUPP);
  efuse_fastpath_close(to_handle(session), 5);
}

TEST_CASE("who begins to listen hears of what was under way", "[tell]") {
  TestSession session;
  TestChannel dev(session.journal, true);
  session.keep = true;
  Request request(session, dev, FUSE_MKDIR, mkdir_arguments());
  SECTION("nobody listened before") {
    session.changes = nullptr;
    request.dispatch();
    session.changes = &session.listener;
    fuse_reply_err(&request.req, 0);
    CHECK(session.journal.lines == Lines{"call", "all", "reply 0"});
  }
  SECTION("nobody counted before") {
    session.listener.counts = false;
    request.dispatch();
    session.listener.counts = true;
    fuse_reply_err(&request.req, 0);
    CHECK(session.journal.lines == Lines{"call", "all", "reply 0"});
  }
  SECTION("another one listened before") {
    Listener next(session.journal, "next ");
    request.dispatch();
    session.changes = &next;
    fuse_reply_err(&request.req, 0);
    CHECK(session.journal.lines == Lines{"begin", "call", "end", "next all", "reply 0"});
  }
  SECTION("nobody listens any more") {
    request.dispatch();
    session.changes = nullptr;
    fuse_reply_err(&request.req, 0);
    CHECK(session.journal.lines == Lines{"begin", "call", "end", "reply 0"});
  }
}

TEST_CASE("notifications are told before they are sent, and whatever the kernel says", "[tell]") {
  TestSession session;
  fuse_session *se = to_handle(session);
  const char name[] = {'n', 'a', 'm', 'e'};
  CHECK(fuse_lowlevel_notify_inval_inode(se, 5, -1, 10) == 0);
  CHECK(session.journal.take() == Lines{"node 5", "notify 2"});
  CHECK(fuse_lowlevel_notify_inval_entry(se, 5, name, 4) == 0);
  CHECK(session.journal.take() == Lines{"name 5 name", "node 5", "notify 3"});
#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 17)
  CHECK(fuse_lowlevel_notify_expire_entry(se, 5, name, 4, FUSE_LL_EXPIRE_ONLY) == 0);
  CHECK(session.journal.take() == Lines{"name 5 name", "node 5", "notify 3"});
#endif
  CHECK(fuse_lowlevel_notify_delete(se, 5, 6, name, 4) == 0);
  CHECK(session.journal.take() == Lines{"name 5 name", "node 5", "node 6", "notify 6"});
  fuse_bufvec data = memory_bufvec("x", 1);
  CHECK(fuse_lowlevel_notify_store(se, 5, 0, &data, fuse_buf_copy_flags{}) == 0);
  CHECK(session.journal.take() == Lines{"node 5", "notify 4"});

  session.notify_result = -ENOENT;
  CHECK(fuse_lowlevel_notify_inval_inode(se, 5, -1, 10) == -ENOENT);
  CHECK(session.journal.take() == Lines{"node 5", "notify 2"});
  fuse_ino_t nodes[] = {8, 9};
  CHECK(fuse_lowlevel_notify_prune(se, nodes, 2) == -ENOSYS);
  CHECK(session.journal.take() == Lines{"node 8", "node 9"});
  CHECK(fuse_lowlevel_notify_increment_epoch(se) == -ENOSYS);
  CHECK(session.journal.take() == Lines{"all"});
  CHECK(fuse_lowlevel_notify_inval_entry(nullptr, 5, name, 4) == -EINVAL);
}

TEST_CASE("FORGETs are lessened by what programs have looked up", "[tell]") {
  TestSession session;
  TestChannel dev(session.journal, true);
  bool given = false;
  session.credits.take_over([&](std::span<LookupCredit> room) {
    if (std::exchange(given, true)) return 0;
    room[0] = {7, 3};
    room[1] = {100, 1};
    room[2] = {101, 5};
    return 3;
  });
  Request(session, dev, FUSE_FORGET, raw(fuse_forget_in{2})).dispatch();
  CHECK(session.journal.take() == Lines{"drop"});
  Request(session, dev, FUSE_FORGET, raw(fuse_forget_in{2})).dispatch();
  CHECK(session.journal.take() == Lines{"forget 7 1", "drop"});
  const std::string batch = raw(fuse_batch_forget_in{3, 0}) + raw(fuse_forget_one{100, 1}) +
                            raw(fuse_forget_one{101, 6}) + raw(fuse_forget_one{102, 2});
  Request(session, dev, FUSE_BATCH_FORGET, batch).dispatch();
  CHECK(session.journal.take() == Lines{"forget 101 1", "forget 102 2", "drop"});
  CHECK_FALSE(session.credits.any());
  Request(session, dev, FUSE_BATCH_FORGET, batch).dispatch();
  CHECK(session.journal.take() == Lines{"forget 100 1", "forget 101 6", "forget 102 2", "drop"});
}

TEST_CASE("backing files go to who listens", "[tell]") {
  TestSession session;
  CHECK(efuse_fastpath_open(to_handle(session), 5, 3) == 0);
  efuse_fastpath_close(to_handle(session), 5);
  CHECK(session.journal.take() == Lines{"backing 5 3", "no backing 5"});
  CHECK(efuse_fastpath_open(to_handle(session), 5, -1) == -EINVAL);
  CHECK(efuse_fastpath_open(nullptr, 5, 3) == -EINVAL);
}

TEST_CASE("hints go with the reply, where somebody remembers it", "[tell]") {
  TestSession session;
  TestChannel ring(session.journal, false), dev(session.journal, true);
  std::vector<std::string> asked;
  const auto absent = [](const char *name, void *data) {
    static_cast<std::vector<std::string> *>(data)->emplace_back(name);
    return std::string_view(name) != "security.capability";
  };
  const auto ask = [&](TestChannel &channel, const char *name) {
    fuse_req req;
    req.session = &session;
    req.channel = &channel;
    asked.clear();
    efuse_hint_absent_xattrs(&req, name, absent, &asked);
    return req.hints;
  };
  // Others are asked about once somebody has asked for them.
  CHECK(ask(ring, "security.selinux") == 0);
  CHECK(asked.empty());
  CHECK(ask(ring, "user.something") == EFUSE_HINT_NO_SELINUX);
  CHECK(asked == Lines{"security.selinux"});
  CHECK(ask(ring, "security.capability") == EFUSE_HINT_NO_SELINUX);
  CHECK(ask(ring, "system.posix_acl_access") == EFUSE_HINT_NO_SELINUX);
  CHECK(asked == Lines{"security.selinux", "security.capability"});
  CHECK(ask(ring, "security.selinux") == EFUSE_HINT_NO_ACCESS_ACL);
  CHECK(ask(ring, "system.posix_acl_default") == (EFUSE_HINT_NO_SELINUX | EFUSE_HINT_NO_ACCESS_ACL));

  // The module does not see this reply.
  CHECK(ask(dev, "security.selinux") == 0);
  CHECK(asked.empty());
  // Nobody is there to remember it.
  session.changes = nullptr;
  CHECK(ask(ring, "security.selinux") == 0);
  CHECK(asked.empty());

  fuse_req req;
  efuse_hint_last_entries(&req);
  CHECK(req.hints == EFUSE_HINT_LAST);
}

TEST_CASE("hints are of one request", "[tell]") {
  TestSession session;
  TestChannel ring(session.journal, false);
  Request request(session, ring, FUSE_STATFS, "");
  request.req.hints = EFUSE_HINT_LAST;
  request.dispatch();
  CHECK(request.req.hints == 0);
}
