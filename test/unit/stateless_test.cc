// SPDX-License-Identifier: LGPL-2.1-or-later
// Directories that nobody has opened: what a filesystem offers as FastpathOffer::stateless_directories. Requests come
// with fh 0, as they do where a fast path has answered OPENDIR.
#include "../../fs/filesystem.hh"

#include "channel.hh"
#include "dispatch.hh"
#include "protocol.hh"
#include "session_core.hh"

#include <catch2/catch.hpp>

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace {

using Bytes = std::vector<std::byte>;

template <typename T>
Bytes raw(const T &object) {
  const auto *at = reinterpret_cast<const std::byte *>(&object);
  return {at, at + sizeof object};
}
Bytes operator+(Bytes a, const Bytes &b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
Bytes text(const std::string &s) {
  const auto *at = reinterpret_cast<const std::byte *>(s.c_str());
  return {at, at + s.size() + 1};
}

class OneReply final : public efuse::Channel {
 public:
  int reply(fuse_req &req, int status, std::span<const iovec> body) noexcept override {
    error = status;
    for (const iovec &part : body)
      bytes = bytes + Bytes(static_cast<std::byte *>(part.iov_base),
                            static_cast<std::byte *>(part.iov_base) + part.iov_len);
    return end(req);
  }
  int reply_in_place(fuse_req &req, std::size_t len) noexcept override {
    error = 0;
    bytes.assign(req.out, req.out + len);
    return end(req);
  }
  void drop(fuse_req &req) noexcept override { end(req); }
  efuse::ChannelStats &stats() noexcept override { std::abort(); }

  int error = 1;
  Bytes bytes;

 private:
  static int end(fuse_req &req) noexcept {
    req.unique = 0;
    return 0;
  }
};

class Served final : public efuse::SessionCore {
 public:
  explicit Served(efuse::fs::Filesystem &fs) : SessionCore(&fs.ops(), fs.ops_size(), fs.userdata()) {
    conn.proto_minor = proto_minor = efuse::protocol::kMinor;
    got_init = true;
  }
  int notify(std::int32_t, std::span<const iovec>) noexcept override { return 0; }
  void interrupt(std::uint64_t) noexcept override {}
  void exit(int) noexcept override {}

  /// 0 or -errno.
  int ask(std::uint32_t opcode, std::uint64_t node, const Bytes &arguments, Bytes &out) {
    fuse_in_header header{};
    header.len = static_cast<std::uint32_t>(sizeof header + arguments.size());
    header.opcode = opcode;
    header.unique = ++unique_;
    header.nodeid = node;
    header.pid = static_cast<std::uint32_t>(getpid());
    header.uid = getuid();
    header.gid = getgid();
    const Bytes message = raw(header) + arguments;
    OneReply channel;
    fuse_req req;
    req.session = this;
    req.channel = &channel;
    req.msg.head = message;
    efuse::dispatch(req);
    out = channel.bytes;
    return channel.error;
  }
  std::uint64_t lookup(std::uint64_t node, const std::string &name) {
    Bytes out;
    REQUIRE(ask(FUSE_LOOKUP, node, text(name), out) == 0);
    fuse_entry_out entry{};
    REQUIRE(out.size() >= sizeof entry);
    std::memcpy(&entry, out.data(), sizeof entry);
    return entry.nodeid;
  }
  void forget(std::uint64_t node, std::uint64_t count) {
    Bytes out;
    ask(FUSE_FORGET, node, raw(fuse_forget_in{count}), out);
  }

 private:
  std::uint64_t unique_ = 0;
};

struct Seen {
  std::map<std::string, int> names;  // how often
  std::uint64_t last_cookie = 0;
};

/// The entries of one reply. Lookups that it counts are given back.
void take(Served &served, const Bytes &reply, bool plus, Seen &seen) {
  for (std::size_t at = 0; at < reply.size();) {
    fuse_entry_out node{};
    std::size_t head = 0;
    if (plus) {
      std::memcpy(&node, reply.data() + at, sizeof node);
      head = offsetof(fuse_direntplus, dirent);
    }
    fuse_dirent entry{};
    std::memcpy(&entry, reply.data() + at + head, FUSE_NAME_OFFSET);
    const std::string name(reinterpret_cast<const char *>(reply.data()) + at + head + FUSE_NAME_OFFSET, entry.namelen);
    ++seen.names[name];
    seen.last_cookie = entry.off;
    if (plus && name != "." && name != "..") {
      CHECK(node.nodeid != 0);
      served.forget(node.nodeid, 1);
    }
    at += head + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + entry.namelen);
  }
}

/// Read `node` from fh 0; `between` is called after each reply.
template <typename Between>
Seen read_all(Served &served, std::uint64_t node, bool plus, Between &&between) {
  Seen seen;
  for (;;) {
    fuse_read_in in{};
    in.offset = seen.last_cookie;
    in.size = 4096;
    Bytes out;
    REQUIRE(served.ask(plus ? FUSE_READDIRPLUS : FUSE_READDIR, node, raw(in), out) == 0);
    if (out.empty()) return seen;
    take(served, out, plus, seen);
    between(seen);
  }
}

struct TemporaryDirectory {
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "efuse-test-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path); }
  std::string path;
};

constexpr int kFiles = 500;

std::string name_of(int i) { return "some-name-of-a-file-" + std::to_string(i); }

/// A directory "d" of kFiles files.
void fill(Served &served, std::uint64_t root) {
  Bytes out;
  REQUIRE(served.ask(FUSE_MKDIR, root, raw(fuse_mkdir_in{0755, 0}) + text("d"), out) == 0);
  const std::uint64_t d = served.lookup(root, "d");
  for (int i = 0; i < kFiles; ++i) {
    fuse_mknod_in in{};
    in.mode = S_IFREG | 0644;
    REQUIRE(served.ask(FUSE_MKNOD, d, raw(in) + text(name_of(i)), out) == 0);
  }
}

}  // namespace

TEST_CASE("a directory is read without being opened") {
  const TemporaryDirectory source;
  const std::string name = GENERATE("memfs", "passthrough");
  const bool plus = GENERATE(false, true);
  std::vector<std::string> options;
  if (name == "passthrough") options.push_back("source=" + source.path);
  const auto fs = efuse::fs::make_filesystem(name, options);
  CHECK(fs->fastpath().metadata);
  Served served(*fs);
  fill(served, FUSE_ROOT_ID);
  const std::uint64_t d = served.lookup(FUSE_ROOT_ID, "d");
  Bytes out;

  SECTION("all of it, once") {
    const Seen seen = read_all(served, d, plus, [](const Seen &) {});
    CHECK(seen.names.size() == kFiles + 2);
    for (const auto &[entry, times] : seen.names) CHECK(times == 1);
  }
  SECTION("while it is being emptied, as rm -r does") {
    if (!fs->fastpath().stateless_directories) return;  // as TMPDIR's filesystem has it
    const Seen seen = read_all(served, d, plus, [&, removed = std::set<std::string>()](const Seen &now) mutable {
      for (const auto &[entry, times] : now.names)
        if (entry[0] != '.' && removed.insert(entry).second)
          REQUIRE(served.ask(FUSE_UNLINK, d, text(entry), out) == 0);
    });
    CHECK(seen.names.size() == kFiles + 2);
    CHECK(served.ask(FUSE_RMDIR, FUSE_ROOT_ID, text("d"), out) == 0);
  }
  SECTION("and there is nothing to be given back") {
    for (int i = 0; i < 3; ++i) CHECK(served.ask(FUSE_RELEASEDIR, d, raw(fuse_release_in{}), out) == 0);
    const int synced = served.ask(FUSE_FSYNCDIR, d, raw(fuse_fsync_in{}), out);
    CHECK((synced == 0 || (synced == -ENOSYS && name == "memfs")));
    CHECK(read_all(served, d, plus, [](const Seen &) {}).names.size() == kFiles + 2);
  }
  SECTION("beside one that was opened") {
    REQUIRE(served.ask(FUSE_OPENDIR, d, raw(fuse_open_in{}), out) == 0);
    fuse_open_out opened{};
    std::memcpy(&opened, out.data(), sizeof opened);
    CHECK(opened.fh != 0);
    fuse_release_in release{};
    release.fh = opened.fh;
    CHECK(served.ask(FUSE_RELEASEDIR, d, raw(release), out) == 0);
    CHECK(read_all(served, d, plus, [](const Seen &) {}).names.size() == kFiles + 2);
  }
}

TEST_CASE("for how long a fast path may answer") {
  const TemporaryDirectory source;
  const auto valid = [&](const std::string &name, std::vector<std::string> options) {
    return efuse::fs::make_filesystem(name, options)->fastpath().valid;
  };
  const std::string at = "source=" + source.path;
  CHECK(std::isinf(valid("memfs", {})));
  CHECK(valid("passthrough", {at}) == 1.0);
  CHECK(valid("passthrough", {at, "fastpath_timeout=0.25"}) == 0.25);
  CHECK(std::isinf(valid("passthrough", {at, "fastpath_timeout=inf"})));
  CHECK_THROWS_AS(valid("passthrough", {at, "fastpath_timeout=never"}), std::invalid_argument);
  CHECK_THROWS_AS(valid("passthrough", {at, "attr_timeout=inf"}), std::invalid_argument);
  CHECK(std::isinf(valid("nullfs", {})));
  std::vector<std::string> none;
  const efuse::FastpathOffer offer = efuse::fs::make_filesystem("nullfs", none)->fastpath();
  CHECK(offer.metadata);
  CHECK_FALSE(offer.blocks);
  CHECK_FALSE(offer.backing);
}
