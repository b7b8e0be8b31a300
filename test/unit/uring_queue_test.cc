// SPDX-License-Identifier: LGPL-2.1-or-later
// From what the kernel writes into an entry to a message, and from a reply to what the kernel reads: no kernel needed.
#include "uring_queue.hh"

#include "session_core.hh"
#include "transport.hh"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

using namespace efuse;

namespace {

constexpr std::size_t kPayload = 1u << 17;

class Session final : public SessionCore {
 public:
  explicit Session(const fuse_lowlevel_ops &ops) : SessionCore(&ops, sizeof ops, this) { got_init = true; }
  int notify(std::int32_t, std::span<const iovec>) noexcept override { return 0; }
  void interrupt(std::uint64_t) noexcept override {}
  void exit(int) noexcept override {}
};

/// What the callbacks were called with.
struct Seen {
  std::string name, name2, data;
  fuse_req_t kept = nullptr;
  unsigned made = 0;    // directories that were to be made
  unsigned failed = 0;  // of those, the first
  int error = 0;        // with
} seen;

/// Readers of /dev/fuse that rest, and for whom there are FORGETs or none.
class Resting final : public Transport {
 public:
  explicit Resting(bool forgets) : forgets_(forgets) {}
  [[nodiscard]] std::string_view name() const noexcept override { return "resting"; }
  void start() override {}
  void stop() noexcept override {}
  bool interrupt(std::uint64_t) noexcept override { return false; }
  bool serves(std::uint64_t) noexcept override { return false; }
  void visit_stats(const std::function<void(const ChannelStats &)> &) const override {}
  bool stand_in(bool urgent) noexcept override { return asked++, urgently += urgent ? 1 : 0, forgets_; }
  unsigned asked = 0, urgently = 0;

 private:
  bool forgets_;
};

class Owner final : public UringOwner {
 public:
  void answered(UringSlot &slot) noexcept override { last = &slot, count++; }
  UringSlot *last = nullptr;
  unsigned count = 0;
};

fuse_lowlevel_ops callbacks() {
  fuse_lowlevel_ops ops{};
  ops.lookup = [](fuse_req_t req, fuse_ino_t, const char *name) {
    seen.name = name;
    fuse_entry_param entry{};
    entry.ino = 7;
    fuse_reply_entry(req, &entry);
    CHECK(seen.name == name);  // the reply is in place and the name is not where it goes
  };
  ops.rename = [](fuse_req_t req, fuse_ino_t, const char *name, fuse_ino_t, const char *to, unsigned) {
    seen.name = name;
    seen.name2 = to;
    fuse_reply_err(req, 0);
  };
  ops.write = [](fuse_req_t req, fuse_ino_t, const char *data, std::size_t size, off_t, fuse_file_info *) {
    seen.data.assign(data, size);
    fuse_reply_write(req, size);
  };
  ops.read = [](fuse_req_t req, fuse_ino_t, std::size_t size, off_t, fuse_file_info *) {
    const std::string data(size, 'r');
    fuse_reply_buf(req, data.data(), data.size());
  };
  ops.getattr = [](fuse_req_t req, fuse_ino_t, fuse_file_info *) { seen.kept = req; };
  ops.mkdir = [](fuse_req_t req, fuse_ino_t, const char *name, mode_t) {
    seen.name = name;
    if (seen.made++ < seen.failed) {
      fuse_reply_err(req, seen.error);
      return;
    }
    fuse_entry_param entry{};
    entry.ino = 8;
    fuse_reply_entry(req, &entry);
  };
  ops.ioctl = [](fuse_req_t req, fuse_ino_t, unsigned, void *, fuse_file_info *, unsigned, const void *in,
                 std::size_t size, std::size_t) {
    // Its own argument, backwards in two parts: gathered into the memory that they lie in.
    const auto *bytes = static_cast<const char *>(in);
    const iovec parts[] = {{const_cast<char *>(bytes) + size / 2, size - size / 2}, {const_cast<char *>(bytes), size / 2}};
    fuse_reply_ioctl_iov(req, 0, parts, 2);
  };
  return ops;
}

struct Bench {
  explicit Bench(unsigned entries = 1)
      : ops(callbacks()), session(ops), queue(session, owner, 3, kPayload, true), slots(queue.add(entries)) {
    seen = {};
  }

  /// As the kernel does: header, first argument, payload.
  template <class T>
  UringSlot &put(std::uint32_t opcode, const T &argument, std::size_t size, const std::string &payload,
                 std::uint64_t unique = 42) {
    UringSlot &slot = slots[0];
    fuse_in_header in{};
    in.len = static_cast<std::uint32_t>(sizeof in + size + payload.size());
    in.opcode = opcode;
    in.unique = unique;
    in.nodeid = 1;
    std::memcpy(slot.headers->in_out, &in, sizeof in);
    std::memcpy(slot.headers->op_in, &argument, size);
    std::memcpy(slot.payload.data(), payload.data(), payload.size());
    slot.headers->entry = {0, unique, static_cast<std::uint32_t>(payload.size()), 0, 0};
    return slot;
  }
  void serve() { queue.serve(slots[0], 1); }
  [[nodiscard]] fuse_out_header out() const {
    fuse_out_header header;
    std::memcpy(&header, slots[0].headers->in_out, sizeof header);
    return header;
  }
  [[nodiscard]] std::uint32_t body() const { return slots[0].headers->entry.payload_sz; }

  fuse_lowlevel_ops ops;
  Session session;
  Owner owner;
  UringQueue queue;
  std::span<UringSlot> slots;
};

std::string names(std::initializer_list<const char *> all) {
  std::string out;
  for (const char *name : all) out += std::string(name) + '\0';
  return out;
}

struct Nothing {};

}  // namespace

TEST_CASE("an entry's buffers are what REGISTER wants") {
  Bench bench(3);
  for (UringSlot &slot : bench.slots) {
    CHECK(slot.buffers[0].iov_base == slot.headers);
    CHECK(slot.buffers[0].iov_len == sizeof(protocol::UringHeaders));
    CHECK(slot.buffers[1].iov_len == kPayload);
    CHECK(reinterpret_cast<std::uintptr_t>(slot.payload.data()) % 4096 == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(slot.headers) % 8 == 0);
  }
  CHECK(bench.slots[0].payload.data() + kPayload == bench.slots[1].payload.data());
  CHECK(bench.queue.size() == 3);
}

TEST_CASE("a name: no structure before it, and the reply beside it") {
  Bench bench;
  bench.put(FUSE_LOOKUP, Nothing{}, 0, names({"a-name"}));
  bench.serve();
  CHECK(seen.name == "a-name");
  REQUIRE(bench.owner.count == 1);
  CHECK(bench.out().error == 0);
  CHECK(bench.out().unique == 42);
  CHECK(bench.out().len == sizeof(fuse_out_header) + sizeof(fuse_entry_out));
  CHECK(bench.body() == sizeof(fuse_entry_out));
  CHECK(reinterpret_cast<const fuse_entry_out *>(bench.slots[0].payload.data())->nodeid == 7);
  CHECK_FALSE(bench.queue.busy());
}

TEST_CASE("a structure and two names") {
  Bench bench;
  const fuse_rename2_in in{2, 0, 0};
  bench.put(FUSE_RENAME2, in, sizeof in, names({"from", "to"}));
  bench.serve();
  CHECK(seen.name == "from");
  CHECK(seen.name2 == "to");
  CHECK(bench.out().error == 0);
  CHECK(bench.body() == 0);
}

TEST_CASE("WRITE's data stays where the kernel put it, and its reply follows it there") {
  for (const std::size_t size : {std::size_t{1}, kUringKeep, kUringKeep + 1, kPayload}) {
    Bench bench;
    fuse_write_in in{};
    in.size = static_cast<std::uint32_t>(size);
    std::string data(size, 'w');
    data.back() = 'z';
    bench.put(FUSE_WRITE, in, sizeof in, data);
    bench.serve();
    CHECK(seen.data == data);
    CHECK(bench.body() == sizeof(fuse_write_out));
    CHECK(reinterpret_cast<const fuse_write_out *>(bench.slots[0].payload.data())->size == size);
  }
}

TEST_CASE("READ fills the payload; more than it holds fails") {
  Bench bench;
  fuse_read_in in{};
  in.size = kPayload;
  bench.put(FUSE_READ, in, sizeof in, {});
  bench.serve();
  CHECK(bench.out().error == 0);
  CHECK(bench.body() == kPayload);
  CHECK(std::all_of(bench.slots[0].payload.begin(), bench.slots[0].payload.end(),
                    [](std::byte b) { return b == std::byte{'r'}; }));
  in.size = kPayload + 1;
  bench.put(FUSE_READ, in, sizeof in, {});
  bench.serve();
  CHECK(bench.out().error == -EIO);
  CHECK(bench.body() == 0);
}

TEST_CASE("an answer made of parts of its request") {
  Bench bench;
  const std::string half(4096, 'a'), other(4096, 'b');
  fuse_ioctl_in in{};
  in.in_size = 8192;
  in.out_size = 8192;
  bench.put(FUSE_IOCTL, in, sizeof in, half + other);
  bench.serve();
  REQUIRE(bench.body() == sizeof(fuse_ioctl_out) + 8192);
  const std::string got(reinterpret_cast<const char *>(bench.slots[0].payload.data()) + sizeof(fuse_ioctl_out), 8192);
  CHECK(got == other + half);
}

TEST_CASE("lengths that contradict one another fail the request, and the entry goes on") {
  Bench bench;
  const fuse_getattr_in in{};
  const auto spoil = [&](auto change) {
    UringSlot &slot = bench.put(FUSE_GETATTR, in, sizeof in, "xyz");
    fuse_in_header header;
    std::memcpy(&header, slot.headers->in_out, sizeof header);
    change(header, slot.headers->entry);
    std::memcpy(slot.headers->in_out, &header, sizeof header);
    const unsigned before = bench.owner.count;
    bench.serve();
    CHECK(bench.owner.count == before + 1);
    CHECK(bench.out().error == -EIO);
    CHECK(bench.out().unique == 42);
    CHECK(bench.body() == 0);
    CHECK(seen.kept == nullptr);
  };
  spoil([](fuse_in_header &, protocol::UringEntry &entry) { entry.payload_sz = kPayload + 1; });
  spoil([](fuse_in_header &, protocol::UringEntry &entry) { entry.payload_sz = UINT32_MAX; });
  spoil([](fuse_in_header &header, protocol::UringEntry &) { header.len = 0; });
  spoil([](fuse_in_header &header, protocol::UringEntry &) { header.len = sizeof(fuse_in_header) + 2; });
  spoil([](fuse_in_header &header, protocol::UringEntry &) { header.len = UINT32_MAX; });
  spoil([](fuse_in_header &header, protocol::UringEntry &) { header.len = sizeof(fuse_in_header) + 3 + 129; });
  spoil([](fuse_in_header &header, protocol::UringEntry &) { header.total_extlen = 3; });
}

TEST_CASE("a request that is kept is found by its number until it is answered") {
  Bench bench;
  const fuse_getattr_in in{};
  bench.put(FUSE_GETATTR, in, sizeof in, {}, 99);
  bench.serve();
  REQUIRE(seen.kept != nullptr);
  CHECK(bench.owner.count == 0);
  CHECK(bench.queue.busy());
  CHECK(bench.queue.serves(99));
  CHECK_FALSE(bench.queue.serves(98));
  CHECK(bench.queue.interrupt(99));
  CHECK(fuse_req_interrupted(seen.kept) == 1);
  CHECK(fuse_req_is_uring(seen.kept));
  unsigned shown = 0;
  bench.queue.find_kept([&](std::uint64_t nodeid) { return shown++, nodeid == 0; });
  CHECK(shown == 1);
  fuse_reply_err(seen.kept, EINTR);
  CHECK(bench.owner.count == 1);
  CHECK(bench.out().error == -EINTR);
  CHECK_FALSE(bench.queue.serves(99));
  CHECK_FALSE(bench.queue.busy());
}

TEST_CASE("an answer to nobody's RETRIEVE is not the filesystem's") {
  Bench bench;
  const fuse_notify_retrieve_in in{};
  bench.put(FUSE_NOTIFY_REPLY, in, sizeof in, {}, kUringStir);
  bench.serve();
  CHECK(bench.owner.count == 1);
  CHECK(bench.out().unique == kUringStir);
}

TEST_CASE("what the kernel wants of a payload buffer") {
  CHECK(uring_payload_bytes(1u << 20) == 1u << 20);
  CHECK(uring_payload_bytes((1u << 20) - 1) == 1u << 20);
  CHECK(uring_payload_bytes(4096) >= 65536 + 256);
  CHECK(uring_payload_bytes(4096) % 4096 == 0);
}

TEST_CASE("what fails for want of space is tried once more where FORGETs may wait") {
  struct Case {
    const char *what;
    bool due, forgets;
    int error;        // of the first `failed` calls
    unsigned failed;
    bool again;       // is it tried once more
    unsigned calls;
    int result;
  };
  const auto c = GENERATE(Case{"there is space then", true, true, ENOSPC, 1, true, 2, 0},
                          Case{"a quota", true, true, EDQUOT, 1, true, 2, 0},
                          Case{"there is none still", true, true, ENOSPC, 2, true, 2, -ENOSPC},
                          Case{"a reader has served them", true, false, ENOSPC, 1, true, 2, 0},
                          Case{"nothing was let go of", false, true, ENOSPC, 1, false, 1, -ENOSPC},
                          Case{"another error", true, true, EACCES, 1, false, 1, -EACCES});
  CAPTURE(c.what);
  Bench bench;
  Resting readers(c.forgets);
  bench.session.resting_readers = &readers;
  bench.session.forgets_due = c.due;
  seen.failed = c.failed;
  seen.error = c.error;
  const fuse_mkdir_in in{};
  bench.put(FUSE_MKDIR, in, sizeof in, names({"directory"}));
  bench.serve();
  REQUIRE(bench.owner.count == 1);
  CHECK(bench.slots[0].again == c.again);
  CHECK(bench.queue.busy() == c.again);
  CHECK(readers.asked == 0);
  if (c.again) {
    seen.name.clear();
    bench.queue.serve_again(bench.slots[0]);
    CHECK(readers.asked == 1);
    CHECK(readers.urgently == 1);
    CHECK(seen.name == "directory");
    CHECK(bench.owner.count == 2);
  }
  CHECK_FALSE(bench.slots[0].again);
  CHECK_FALSE(bench.queue.busy());
  CHECK(seen.made == c.calls);
  CHECK(bench.out().error == c.result);
  CHECK(bench.out().unique == 42);
  CHECK(bench.session.forgets_due == (c.due && !c.again));
}

TEST_CASE("what goes by what is free waits for FORGETs") {
  Bench bench;
  Resting readers(true);
  bench.session.resting_readers = &readers;
  bench.session.forgets_due = true;
  bench.put(FUSE_LOOKUP, Nothing{}, 0, names({"a-name"}));
  bench.serve();
  CHECK(readers.asked == 0);
  fuse_write_in in{};
  in.size = 3;
  bench.put(FUSE_WRITE, in, sizeof in, "www");
  bench.serve();
  CHECK(readers.asked == 1);
  CHECK_FALSE(bench.session.forgets_due);
  bench.put(FUSE_STATFS, Nothing{}, 0, {});
  bench.serve();
  CHECK(readers.asked == 1);  // nothing has been let go of since
  bench.session.forgets_due = true;
  bench.put(FUSE_STATFS, Nothing{}, 0, {});
  bench.serve();
  CHECK(readers.asked == 2);
  CHECK(readers.urgently == 0);
}
