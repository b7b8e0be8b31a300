// SPDX-License-Identifier: LGPL-2.1-or-later
// passthrough without FUSE: options, and a source on the filesystem that TMPDIR is on.
#include "../../fs/passthrough/source.hh"
#include "../../fs/registry.hh"

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

using namespace efuse;
using namespace efuse::fs;
using namespace efuse::fs::passthrough;

namespace {

struct TemporaryDirectory {
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "efuse-test-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path); }
  std::string path;
};

Settings parse(std::vector<std::string> options) { return parse_settings(options); }

std::string error_of(std::vector<std::string> options) {
  try {
    parse_settings(options);
    return "";
  } catch (const std::invalid_argument &error) {
    return error.what();
  }
}

void put(const std::string &path, const std::string &text) { std::ofstream(path) << text; }

std::size_t open_descriptors() {
  const auto entries = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

/// A source, and how to look about in it.
struct Served {
  explicit Served(InodeHandles handles) : source(settings(handles)) {}
  Settings settings(InodeHandles handles) const {
    Settings s;
    s.source = s.fsname = directory.path;
    s.inode_handles = handles;
    return s;
  }
  int look(const Node &parent, const char *name, Found &found) {
    const NodeFd dir(source, parent);
    return dir.error() != 0 ? dir.error() : source.lookup(parent, dir.get(), name, found);
  }
  std::string path(const std::string &name) const { return directory.path + "/" + name; }

  TemporaryDirectory directory;
  Source source;
};

}  // namespace

TEST_CASE("options of passthrough", "[options]") {
  CHECK(error_of({}) == "passthrough: option source=DIR is missing: which directory is to be served?");
  CHECK(error_of({"source=/", "cache=some"}) == "passthrough: option cache=some: expected none, auto or always");
  CHECK(error_of({"source=/", "inode_handles=1"}).find("auto, always or never") != std::string::npos);
  CHECK(error_of({"source=/", "writeback", "cache=none"}).find("writeback") != std::string::npos);
  CHECK(error_of({"source=/", "writeback", "passthrough"}).find("exclude") != std::string::npos);
  CHECK(error_of({"source=/", "acl", "noxattr"}).find("acl") != std::string::npos);
  CHECK(error_of({"source=/", "timeout=-1"}).find("seconds") != std::string::npos);

  const Settings plain = parse({"source=/usr/.."});
  CHECK(plain.source == "/");
  CHECK(plain.fsname == "/");
  CHECK(plain.attr_timeout == 1.0);
  CHECK((plain.xattr && plain.posix_locks && !plain.flock && !plain.keep_cache && !plain.direct_io));
  const Settings none = parse({"source=/", "cache=none"});
  CHECK((none.direct_io && none.attr_timeout == 0 && none.entry_timeout == 0));
  const Settings always = parse({"source=/", "cache=always", "entry_timeout=5"});
  CHECK((always.keep_cache && always.attr_timeout > 1000 && always.entry_timeout == 5));
  CHECK(parse({"source=/", "timeout=3", "direct_io"}).attr_timeout == 3);

  std::vector<std::string> options{"source=/", "ro", "fsname=mine", "noxattr"};
  CHECK(parse_settings(options).fsname == "mine");
  CHECK(options == std::vector<std::string>{"ro", "fsname=mine"});
}

TEST_CASE("a source that is none", "[source]") {
  std::vector<std::string> options{"source=/nonexistent"};
  CHECK_THROWS_AS(make_passthrough(options), std::system_error);
  options = {"source=/etc/passwd"};
  CHECK_THROWS_AS(make_passthrough(options), std::system_error);
}

TEST_CASE("nodes of a source", "[source]") {
  const InodeHandles handles = GENERATE(InodeHandles::automatic, InodeHandles::never);
  Served s(handles);
  put(s.path("f"), "text");
  std::filesystem::create_directory(s.path("d"));
  std::filesystem::create_symlink("/etc", s.path("etc"));
  std::filesystem::create_hard_link(s.path("f"), s.path("d/g"));
  Found file, directory, again, link;
  REQUIRE(s.look(s.source.root(), "f", file) == 0);
  REQUIRE(s.look(s.source.root(), "d", directory) == 0);
  REQUIRE(s.look(*directory.node, "g", again) == 0);
  CHECK(again.node == file.node);
  CHECK(file.attr.st_size == 4);

  SECTION("names are one component, and links are not followed") {
    for (const char *name : {"", ".", "..", "d/g", "/etc"}) CHECK(s.look(s.source.root(), name, again) == -EINVAL);
    CHECK(s.look(s.source.root(), "none", again) == -ENOENT);
    REQUIRE(s.look(s.source.root(), "etc", link) == 0);
    CHECK(link.node->type == S_IFLNK);
    CHECK(s.look(*link.node, "passwd", again) == -ENOTDIR);
  }
  SECTION("a node stays the file it was") {
    std::filesystem::rename(s.path("f"), s.path("d/h"));
    put(s.path("f"), "another");
    Found other;
    REQUIRE(s.look(s.source.root(), "f", other) == 0);
    CHECK(other.node != file.node);
    Fd fd;
    REQUIRE(s.source.open(*file.node, O_RDONLY, fd) == 0);
    char text[8] = {};
    CHECK(read(fd.get(), text, sizeof text) == 4);
    CHECK(std::string(text) == "text");
  }
  SECTION("an open file is the node that its name is") {
    const Fd fd(::open(s.path("f").c_str(), O_RDWR));
    Found open;
    REQUIRE(s.source.adopt_open(s.source.root(), fd.get(), open) == 0);
    CHECK(open.node == file.node);
  }
  SECTION("numbers of another filesystem are kept apart") {
    struct stat other {};
    REQUIRE(stat("/proc/self", &other) == 0);
    CHECK(s.source.present(s.source.root().dev, 42) == 42);
    const ino_t shown = s.source.present(other.st_dev, 42);
    CHECK(shown != 42);
    CHECK(s.source.present(other.st_dev, 42) == shown);
    CHECK((shown & 0xffff) == 42);
  }
}

TEST_CASE("a file that is gone is stale, and its number another file's", "[source]") {
  Served s(InodeHandles::automatic);
  put(s.path("f"), "1");
  Found found;
  REQUIRE(s.look(s.source.root(), "f", found) == 0);
  if (!found.node->handle) {
    WARN("no file handles here: " << (s.source.privileges().open_handles ? "not by this filesystem" : "not root"));
    return;
  }
  std::filesystem::remove(s.path("f"));
  Fd fd;
  CHECK(s.source.open(*found.node, O_RDONLY, fd) == -ESTALE);
  for (int i = 0; i < 10; ++i) {
    put(s.path("n" + std::to_string(i)), "2");
    Found other;
    REQUIRE(s.look(s.source.root(), ("n" + std::to_string(i)).c_str(), other) == 0);
    CHECK(other.node != found.node);
  }
}

TEST_CASE("handles take no descriptors", "[source]") {
  Served s(InodeHandles::automatic);
  constexpr int kFiles = 200;
  for (int i = 0; i < kFiles; ++i) put(s.path(std::to_string(i)), "");
  const std::size_t before = open_descriptors();
  bool by_handle = true;
  for (int i = 0; i < kFiles; ++i) {
    Found found;
    REQUIRE(s.look(s.source.root(), std::to_string(i).c_str(), found) == 0);
    by_handle = by_handle && found.node->handle;
  }
  CHECK(s.source.table().size() == kFiles + 1);
  CHECK(open_descriptors() == before + (by_handle ? 0 : kFiles));
  rlimit limit{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(limit.rlim_cur == limit.rlim_max);
}
