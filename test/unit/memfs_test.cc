// SPDX-License-Identifier: LGPL-2.1-or-later
// memfs without FUSE: names, attributes, data, limits, and many threads at once.
#include "../../fs/memfs/store.hh"

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <shared_mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace efuse::fs;
using namespace efuse::fs::memfs;

namespace {

constexpr Limits kRoomy{std::uint64_t{1} << 30, 2'000'000};
constexpr Cred kRootUser{0, 0};
constexpr Cred kUser{1000, 1000};
constexpr std::uint64_t kRoot = Store::kRoot;

/// A store with calls that check what a test takes for granted.
struct Fixture {
  explicit Fixture(Limits limits = kRoomy) : store(limits, 0755, kRootUser) {}

  std::uint64_t make(std::uint64_t dir, std::string_view name, mode_t mode = S_IFREG | 0644) {
    NodeInfo info;
    REQUIRE(store.mknod(dir, name, mode, 0, kRootUser, info) == 0);
    return info.ino;
  }
  std::uint64_t make_dir(std::uint64_t dir, std::string_view name) { return make(dir, name, S_IFDIR | 0755); }
  struct stat attr(std::uint64_t ino) {
    struct stat st;
    REQUIRE(store.getattr(ino, st) == 0);
    return st;
  }
  /// 0 if there is none.
  std::uint64_t look(std::uint64_t dir, std::string_view name) {
    NodeInfo info;
    const int status = store.lookup(dir, name, info);
    REQUIRE((status == 0 || status == -ENOENT));
    if (status != 0) return 0;
    store.forget(info.ino, 1);
    return info.ino;
  }
  std::string read(std::uint64_t ino, std::int64_t offset, std::size_t length) {
    std::string out;
    REQUIRE(store.read(ino, offset, length, [&](std::span<const iovec> pieces) {
      for (const iovec &p : pieces) out.append(static_cast<const char *>(p.iov_base), p.iov_len);
      return 0;
    }) == 0);
    return out;
  }
  std::int64_t write(std::uint64_t ino, std::int64_t offset, std::string_view data, Cred cred = kRootUser) {
    return store.write(ino, offset, {data.data(), data.size()}, cred);
  }
  std::vector<std::string> list(std::uint64_t dir) {
    std::vector<std::string> names;
    REQUIRE(store.readdir(dir, 2, [&](const DirEntry &e) {
      names.emplace_back(e.name);
      return true;
    }) == 0);
    return names;
  }
  struct statvfs space() {
    struct statvfs st;
    store.statfs(st);
    return st;
  }

  Store store;
};

bool later(const timespec &a, const timespec &b) {
  return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

}  // namespace

TEST_CASE("rwlock excludes writers and lets readers in together", "[rwlock]") {
  RwLock lock;
  std::uint64_t guarded = 0;  // TSan sees to it that the lock orders these
  std::atomic<bool> torn{false};
  constexpr int kThreads = 4, kRounds = 20'000;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        if ((i + t) % 4 == 0) {
          const std::scoped_lock exclusive(lock);
          ++guarded;
        } else {
          const std::shared_lock shared(lock);
          const std::uint64_t a = guarded, b = guarded;
          if (a != b) torn = true;
        }
      }
    });
  for (auto &t : threads) t.join();
  CHECK(guarded == kThreads * kRounds / 4);
  CHECK_FALSE(torn);
  lock.lock_shared();
  CHECK_FALSE(lock.try_lock());
  lock.lock_shared();
  lock.unlock_shared();
  lock.unlock_shared();
  REQUIRE(lock.try_lock());
  CHECK_FALSE(lock.try_lock());
  lock.unlock();
}

TEST_CASE("budget gives exactly its limit, whoever holds the credit", "[budget]") {
  Budget budget(100'000);
  std::atomic<std::uint64_t> got{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      while (budget.charge(7)) got += 7;
    });
  for (auto &t : threads) t.join();
  CHECK(got == 100'000 / 7 * 7);
  CHECK(budget.used() == got);
  CHECK(budget.charge(100'000 % 7));
  CHECK_FALSE(budget.charge(1));
  budget.refund(100'000);
  CHECK(budget.used() == 0);
  CHECK(budget.charge(100'000));
  CHECK_FALSE(Budget(10).charge(UINT64_MAX));
}

TEST_CASE("page pool hands out each page once and adjacent where it can", "[page_pool]") {
  PagePool pool;
  std::set<char *> pages;
  bool adjacent = false;
  for (int i = 0; i < 400; ++i) {
    const PagePool::Run run = pool.allocate(static_cast<std::size_t>(i % 40 + 1));
    REQUIRE(run.pages != nullptr);
    REQUIRE(run.count >= 1);
    adjacent |= run.count == 40;
    for (std::size_t p = 0; p < run.count; ++p) {
      char *page = run.pages + p * kPageSize;
      REQUIRE(reinterpret_cast<std::uintptr_t>(page) % kPageSize == 0);
      REQUIRE(pages.insert(page).second);
      std::memset(page, i, kPageSize);
    }
  }
  CHECK(adjacent);
  for (char *page : pages) pool.free(page);
}

TEST_CASE("page map against a model", "[page_map]") {
  PageMap map;
  std::map<std::uint64_t, char *> model;
  std::mt19937_64 random(7);
  alignas(16) static char memory[1 << 12];
  const auto some_page = [&] {
    const std::uint64_t range = std::uint64_t{1} << (random() % 52);
    return random() % range;
  };
  for (int i = 0; i < 20'000; ++i) {
    const std::uint64_t page = some_page();
    if (random() % 8 != 0) {
      char *p = memory + 16 * (random() % 256);
      map.set(page, PageRef(p));
      model[page] = p;
    } else {
      const std::uint64_t end = random() % 2 ? PageMap::kEnd : page + random() % 5000;
      std::size_t dropped = 0;
      map.erase(page, end, [&](PageRef) { ++dropped; });
      const auto first = model.lower_bound(page), last = model.lower_bound(end);
      REQUIRE(dropped == static_cast<std::size_t>(std::distance(first, last)));
      model.erase(first, last);
    }
    const std::uint64_t probe = some_page();
    const auto found = model.find(probe);
    REQUIRE(map.get(probe).data() == (found == model.end() ? nullptr : found->second));
  }
  auto expected = model.begin();
  map.scan(0, PageMap::kEnd, [&](std::uint64_t page, PageRef ref) {
    REQUIRE(expected != model.end());
    REQUIRE(page == expected->first);
    REQUIRE(ref.data() == expected->second);
    ++expected;
    return true;
  });
  CHECK(expected == model.end());
}

TEST_CASE("a million names in one directory", "[dir_index]") {
  constexpr std::uint64_t kNames = 1'000'000;
  DirIndex index;
  for (std::uint64_t i = 0; i < kNames; ++i) index.insert("name-" + std::to_string(i), i);
  REQUIRE(index.size() == kNames);
  for (std::uint64_t i = 0; i < kNames; i += 37) {
    const DirIndex::Entry *e = index.find("name-" + std::to_string(i));
    REQUIRE(e != nullptr);
    REQUIRE(e->value == i);
  }
  CHECK(index.find("name-") == nullptr);
  CHECK(index.find("name-1000000") == nullptr);

  SECTION("a walk in parts sees each once, in order") {
    std::uint64_t cookie = 0, next = 0;
    for (bool more = true; more;) {
      more = false;
      int in_part = 0;
      index.scan(cookie, [&](const DirIndex::Entry &e) {
        if (++in_part > 1000) return more = true, false;
        REQUIRE(e.value == next++);
        cookie = e.cookie;
        return true;
      });
    }
    CHECK(next == kNames);
  }
  SECTION("removing almost all leaves the rest") {
    for (std::uint64_t i = 0; i < kNames; ++i)
      if (i % 1000 != 0) index.erase(index.find("name-" + std::to_string(i)));
    REQUIRE(index.size() == kNames / 1000);
    for (std::uint64_t i = 0; i < kNames; i += 1000)
      REQUIRE(index.find("name-" + std::to_string(i)) != nullptr);
    CHECK(index.find("name-1") == nullptr);
    std::uint64_t seen = 0;
    index.scan(0, [&](const DirIndex::Entry &e) {
      REQUIRE(e.value == 1000 * seen++);
      return true;
    });
    CHECK(seen == kNames / 1000);
  }
}

TEST_CASE("a million files in one directory of a store", "[store]") {
  constexpr int kFiles = 1'000'000;
  Fixture f;
  NodeInfo info;
  for (int i = 0; i < kFiles; ++i) {
    REQUIRE(f.store.mknod(kRoot, "f" + std::to_string(i), S_IFREG | 0644, 0, kUser, info) == 0);
    f.store.forget(info.ino, 1);
  }
  CHECK(f.look(kRoot, "f999999") != 0);
  CHECK(f.list(kRoot).size() == kFiles);
  for (int i = 0; i < kFiles; ++i) REQUIRE(f.store.unlink(kRoot, "f" + std::to_string(i)) == 0);
  CHECK(f.space().f_ffree == f.space().f_files - 1);
  CHECK(f.space().f_bfree == f.space().f_blocks);
}

TEST_CASE("readdir neither misses nor repeats what stays", "[store]") {
  Fixture f;
  const std::uint64_t dir = f.make_dir(kRoot, "d");
  std::set<std::string> staying;
  for (int i = 0; i < 1000; ++i) {
    const std::string name = (i % 2 ? "stay" : "go") + std::to_string(i);
    f.make(dir, name);
    if (i % 2) staying.insert(name);
  }
  std::multiset<std::string> seen;
  std::uint64_t cookie = 0;
  for (int part = 0; part < 2000; ++part) {
    std::string one;
    REQUIRE(f.store.readdir(dir, cookie, [&](const DirEntry &e) {
      if (!one.empty()) return false;
      one = e.name;
      cookie = e.cookie;
      return true;
    }) == 0);
    if (one.empty()) break;
    seen.insert(one);
    // Churn between the parts: remove one, make one, replace one that stays.
    f.store.unlink(dir, "go" + std::to_string(998 - part % 500 * 2));
    if (part < 500) {
      NodeInfo info;
      REQUIRE(f.store.mknod(dir, "new" + std::to_string(part), S_IFREG, 0, kUser, info) == 0);
      REQUIRE(f.store.rename(dir, "new" + std::to_string(part), dir, "stay" + std::to_string(part | 1), 0) ==
              0);
    }
  }
  for (const std::string &name : staying) {
    INFO(name);
    REQUIRE(seen.count(name) == 1);
  }
  CHECK(seen.count(".") == 1);
  CHECK(seen.count("..") == 1);
}

TEST_CASE("names: errors", "[store]") {
  Fixture f;
  NodeInfo info;
  const std::uint64_t dir = f.make_dir(kRoot, "d"), file = f.make(kRoot, "f");
  CHECK(f.store.mknod(kRoot, "f", S_IFREG, 0, kUser, info) == -EEXIST);
  CHECK(f.store.mknod(file, "x", S_IFREG, 0, kUser, info) == -ENOTDIR);
  CHECK(f.store.mknod(kRoot, "x", S_IFLNK, 0, kUser, info) == -EINVAL);
  CHECK(f.store.mknod(1'000'000, "x", S_IFREG, 0, kUser, info) == -ESTALE);
  CHECK(f.store.mknod(kRoot, std::string(256, 'x'), S_IFREG, 0, kUser, info) == -ENAMETOOLONG);
  CHECK(f.store.mknod(kRoot, std::string(255, 'x'), S_IFREG, 0, kUser, info) == 0);
  CHECK(f.store.lookup(kRoot, std::string(256, 'x'), info) == -ENAMETOOLONG);
  CHECK(f.store.lookup(kRoot, "nothing", info) == -ENOENT);
  CHECK(f.store.unlink(kRoot, "nothing") == -ENOENT);
  CHECK(f.store.unlink(kRoot, "d") == -EISDIR);
  CHECK(f.store.rmdir(kRoot, "f") == -ENOTDIR);
  CHECK(f.store.rmdir(kRoot, "nothing") == -ENOENT);
  f.make(dir, "x");
  CHECK(f.store.rmdir(kRoot, "d") == -ENOTEMPTY);
  CHECK(f.store.link(dir, kRoot, "l", info) == -EPERM);
  CHECK(f.store.link(file, kRoot, "d", info) == -EEXIST);
  CHECK(f.store.open(1'000'000) == -ESTALE);
  struct stat st;
  CHECK(f.store.getattr(0, st) == -ESTALE);
  CHECK(f.store.getattr(UINT64_MAX, st) == -ESTALE);
}

// The reply to a READ may be the last that its application waits for.
TEST_CASE("memfs: a file that goes while it is read", "[memfs]") {
  Fixture f;
  const std::size_t length = GENERATE(std::size_t{100}, std::size_t{1} << 24);  // too many stripes: one lock
  const auto before = f.space();
  const auto file = f.make(kRoot, "f");
  REQUIRE(f.write(file, 0, "content") == 7);
  REQUIRE(f.store.read(file, 0, length, [&](std::span<const iovec> pieces) {
    REQUIRE(f.store.unlink(kRoot, "f") == 0);
    f.store.forget(file, 1);
    CHECK(f.space().f_ffree == before.f_ffree - 1);
    REQUIRE(pieces.size() == 1);
    CHECK(std::string_view(static_cast<const char *>(pieces[0].iov_base), pieces[0].iov_len) == "content");
    return 0;
  }) == 0);
  CHECK(f.space().f_ffree == before.f_ffree);
  CHECK(f.space().f_bfree == before.f_bfree);
}

TEST_CASE("links, and the life of an inode", "[store]") {
  Fixture f;
  const std::uint64_t file = f.make(kRoot, "a");
  NodeInfo info;
  REQUIRE(f.store.link(file, kRoot, "b", info) == 0);
  CHECK(info.ino == file);
  CHECK(info.attr.st_nlink == 2);
  REQUIRE(f.write(file, 0, "content") == 7);
  REQUIRE(f.store.unlink(kRoot, "a") == 0);
  CHECK(f.attr(file).st_nlink == 1);
  CHECK(f.look(kRoot, "b") == file);

  REQUIRE(f.store.open(file) == 0);
  REQUIRE(f.store.unlink(kRoot, "b") == 0);
  f.store.forget(file, 2);  // mknod and link counted one each
  CHECK(f.attr(file).st_nlink == 0);
  CHECK(f.read(file, 0, 100) == "content");
  CHECK(f.store.link(file, kRoot, "c", info) == -ENOENT);
  const auto before = f.space();
  f.store.release(file);
  struct stat st;
  CHECK(f.store.getattr(file, st) == -ESTALE);
  CHECK(f.space().f_ffree == before.f_ffree + 1);
  CHECK(f.space().f_bfree > before.f_bfree);
  f.store.forget(file, 5);  // a number that is not there any more

  // The number may come again, with another generation; NFS handles rely on it.
  const std::uint64_t again = f.make(kRoot, "again");
  REQUIRE(f.store.lookup(again, ".", info) == 0);
  if (again == file) CHECK(info.generation > 1);
  REQUIRE(f.store.unlink(kRoot, "again") == 0);
  CHECK(f.store.lookup(again, ".", info) == -ESTALE);  // the kernel's FORGET is not here yet
  f.store.forget(again, 2);
  CHECK(f.store.lookup(again, ".", info) == -ESTALE);
}

TEST_CASE("a file without a name", "[store]") {
  Fixture f;
  const struct statvfs before = f.space();
  NodeInfo made, info;
  REQUIRE(f.store.tmpfile(kRoot, 0666, true, {1000, 1000, 022}, made) == 0);
  CHECK(made.attr.st_mode == (S_IFREG | 0644));
  CHECK(made.attr.st_nlink == 0);
  REQUIRE(f.write(made.ino, 0, "data") == 4);

  SECTION("gets one") {
    REQUIRE(f.store.link(made.ino, kRoot, "a", info) == 0);
    CHECK(info.attr.st_nlink == 1);
    f.store.forget(made.ino, 2);
    CHECK(f.read(f.look(kRoot, "a"), 0, 10) == "data");
    NodeInfo again;
    REQUIRE(f.store.lookup(kRoot, "a", again) == 0);
    REQUIRE(f.store.unlink(kRoot, "a") == 0);
    CHECK(f.store.link(made.ino, kRoot, "b", info) == -ENOENT);  // once only
    f.store.forget(made.ino, 1);
  }
  SECTION("goes when nobody has it open") { f.store.forget(made.ino, 1); }
  SECTION("or may not get one") {
    f.store.forget(made.ino, 1);
    REQUIRE(f.store.tmpfile(kRoot, 0600, false, kUser, made) == 0);
    CHECK(f.store.link(made.ino, kRoot, "a", info) == -ENOENT);
    f.store.forget(made.ino, 1);
  }
  SECTION("has a time of birth that stays") {
    struct stat st;
    timespec born, later_on;
    REQUIRE(f.store.getattr(made.ino, st, &born) == 0);
    REQUIRE(f.write(made.ino, 0, "more") == 4);
    REQUIRE(f.store.getattr(made.ino, st, &later_on) == 0);
    CHECK(born.tv_sec == later_on.tv_sec);
    CHECK(born.tv_nsec == later_on.tv_nsec);
    f.store.forget(made.ino, 1);
  }
  CHECK(f.space().f_ffree == before.f_ffree);
  CHECK(f.space().f_bfree == before.f_bfree);
}

TEST_CASE("directories count their subdirectories", "[store]") {
  Fixture f;
  CHECK(f.attr(kRoot).st_nlink == 2);
  const std::uint64_t a = f.make_dir(kRoot, "a"), b = f.make_dir(kRoot, "b"), c = f.make_dir(a, "c");
  CHECK(f.attr(kRoot).st_nlink == 4);
  CHECK(f.attr(a).st_nlink == 3);
  REQUIRE(f.store.rename(a, "c", b, "c", 0) == 0);
  CHECK(f.attr(a).st_nlink == 2);
  CHECK(f.attr(b).st_nlink == 3);
  CHECK(f.look(c, "..") == b);
  REQUIRE(f.store.rmdir(b, "c") == 0);
  CHECK(f.attr(b).st_nlink == 2);
  CHECK(f.attr(c).st_nlink == 0);
  NodeInfo info;
  CHECK(f.store.mknod(c, "x", S_IFREG, 0, kUser, info) == -ENOENT);
  CHECK(f.store.rename(kRoot, "a", c, "x", 0) == -ENOENT);
  REQUIRE(f.store.rename(kRoot, "a", kRoot, "b", 0) == 0);  // over an empty directory
  CHECK(f.attr(kRoot).st_nlink == 3);
  CHECK(f.look(kRoot, "b") == a);
  CHECK(f.attr(b).st_nlink == 0);
}

TEST_CASE("rename and its flags", "[store]") {
  Fixture f;
  const std::uint64_t a = f.make(kRoot, "a"), b = f.make(kRoot, "b"), d = f.make_dir(kRoot, "d"),
                      e = f.make_dir(d, "e"), g = f.make_dir(e, "g");
  CHECK(f.store.rename(kRoot, "a", kRoot, "b", RENAME_NOREPLACE) == -EEXIST);
  CHECK(f.store.rename(kRoot, "a", kRoot, "x", RENAME_EXCHANGE) == -ENOENT);
  CHECK(f.store.rename(kRoot, "x", kRoot, "a", 0) == -ENOENT);
  CHECK(f.store.rename(kRoot, "a", kRoot, "b", RENAME_WHITEOUT | RENAME_EXCHANGE) == -EINVAL);
  CHECK(f.store.rename(kRoot, "a", kRoot, "b", RENAME_NOREPLACE | RENAME_EXCHANGE) == -EINVAL);
  CHECK(f.store.rename(kRoot, "a", kRoot, "d", 0) == -EISDIR);
  CHECK(f.store.rename(kRoot, "d", kRoot, "a", 0) == -ENOTDIR);
  CHECK(f.store.rename(kRoot, "a", kRoot, std::string(256, 'x'), 0) == -ENAMETOOLONG);

  SECTION("no directory goes below itself") {
    CHECK(f.store.rename(kRoot, "d", d, "x", 0) == -EINVAL);
    CHECK(f.store.rename(kRoot, "d", g, "x", 0) == -EINVAL);
    CHECK(f.store.rename(kRoot, "d", e, "g", RENAME_EXCHANGE) == -EINVAL);
    CHECK(f.store.rename(e, "g", kRoot, "d", RENAME_EXCHANGE) == -EINVAL);
    CHECK(f.store.rename(e, "g", kRoot, "d", 0) == -ENOTEMPTY);
  }
  SECTION("noreplace moves where the name is free") {
    REQUIRE(f.store.rename(kRoot, "a", d, "x", RENAME_NOREPLACE) == 0);
    CHECK(f.look(kRoot, "a") == 0);
    CHECK(f.look(d, "x") == a);
  }
  SECTION("replacing frees what was there") {
    f.store.forget(b, 1);
    REQUIRE(f.store.rename(kRoot, "a", kRoot, "b", 0) == 0);
    CHECK(f.look(kRoot, "b") == a);
    struct stat st;
    CHECK(f.store.getattr(b, st) == -ESTALE);
  }
  SECTION("exchange, a file and a directory, across directories") {
    const struct stat before = f.attr(a);
    REQUIRE(f.store.rename(kRoot, "a", d, "e", RENAME_EXCHANGE) == 0);
    CHECK(f.look(kRoot, "a") == e);
    CHECK(f.look(d, "e") == a);
    CHECK(f.attr(kRoot).st_nlink == 4);
    CHECK(f.attr(d).st_nlink == 2);
    CHECK(f.look(e, "..") == kRoot);
    CHECK(later(f.attr(a).st_ctim, before.st_ctim));
  }
  SECTION("a whiteout stays where a name was") {
    const struct statvfs before = f.space();
    REQUIRE(f.store.rename(kRoot, "a", d, "x", RENAME_WHITEOUT, kUser) == 0);
    const std::uint64_t left = f.look(kRoot, "a");
    REQUIRE(left != 0);
    CHECK(f.look(d, "x") == a);
    const struct stat st = f.attr(left);
    CHECK(st.st_mode == S_IFCHR);
    CHECK(st.st_rdev == 0);
    CHECK(st.st_uid == kUser.uid);
    CHECK(f.space().f_ffree == before.f_ffree - 1);
    REQUIRE(f.store.rename(d, "x", kRoot, "b", RENAME_WHITEOUT) == 0);  // over another
    CHECK(f.look(kRoot, "b") == a);
    CHECK(f.attr(f.look(d, "x")).st_mode == S_IFCHR);
    REQUIRE(f.store.unlink(d, "x") == 0);
    REQUIRE(f.store.unlink(kRoot, "a") == 0);
    f.store.forget(b, 1);
    CHECK(f.space().f_ffree == before.f_ffree + 1);
  }
  SECTION("a whiteout that is not needed leaves nothing") {
    const struct statvfs before = f.space();
    CHECK(f.store.rename(kRoot, "a", kRoot, "b", RENAME_WHITEOUT | RENAME_NOREPLACE) == -EEXIST);
    CHECK(f.store.rename(kRoot, "a", kRoot, "d", RENAME_WHITEOUT) == -EISDIR);
    CHECK(f.space().f_ffree == before.f_ffree);
  }
  SECTION("two names of one file both stay") {
    NodeInfo info;
    REQUIRE(f.store.link(a, kRoot, "l", info) == 0);
    REQUIRE(f.store.rename(kRoot, "a", kRoot, "l", 0) == 0);
    CHECK(f.look(kRoot, "a") == a);
    CHECK(f.look(kRoot, "l") == a);
  }
}

TEST_CASE("types, modes, groups", "[store]") {
  Fixture f;
  NodeInfo info;
  for (const mode_t type : {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK}) {
    REQUIRE(f.store.mknod(kRoot, "t" + std::to_string(type), type | 0600, 0x123, kUser, info) == 0);
    CHECK(info.attr.st_mode == (type | 0600));
    CHECK(info.attr.st_rdev == (type == S_IFCHR || type == S_IFBLK ? 0x123u : 0u));
    CHECK(info.attr.st_uid == 1000);
    CHECK(f.write(info.ino, 0, "x") == -EINVAL);
  }
  const std::uint64_t dir = f.make_dir(kRoot, "shared");
  AttrChange change;
  change.mode = 02775;
  change.gid = 42;
  struct stat st;
  REQUIRE(f.store.setattr(dir, change, kRootUser, st) == 0);
  REQUIRE(f.store.mknod(dir, "f", S_IFREG | 0644, 0, kUser, info) == 0);
  CHECK(info.attr.st_gid == 42);
  CHECK((info.attr.st_mode & S_ISGID) == 0);
  REQUIRE(f.store.mknod(dir, "d", S_IFDIR | 0755, 0, kUser, info) == 0);
  CHECK(info.attr.st_gid == 42);
  CHECK((info.attr.st_mode & S_ISGID) != 0);

  const char *target = nullptr;
  REQUIRE(f.store.symlink(kRoot, "s", "somewhere/else", kUser, info) == 0);
  CHECK(info.attr.st_size == 14);
  REQUIRE(f.store.readlink(info.ino, target) == 0);
  CHECK(std::string(target) == "somewhere/else");
  CHECK(f.store.readlink(dir, target) == -EINVAL);
}

TEST_CASE("set-user-ID goes with chown, write and truncate", "[store]") {
  Fixture f;
  const std::uint64_t file = f.make(kRoot, "f", S_IFREG | 06755);
  struct stat st;
  const auto arm = [&](mode_t mode) {
    AttrChange change;
    change.mode = mode;
    REQUIRE(f.store.setattr(file, change, kRootUser, st) == 0);
    REQUIRE((st.st_mode & 07777) == mode);
  };
  REQUIRE(f.write(file, 0, "x", kRootUser) == 1);
  CHECK((f.attr(file).st_mode & 07777) == 06755);  // the privileged keep it
  REQUIRE(f.write(file, 0, "x", kUser) == 1);
  CHECK((f.attr(file).st_mode & 07777) == 0755);
  arm(06755);
  AttrChange cut;
  cut.size = 0;
  REQUIRE(f.store.setattr(file, cut, kUser, st) == 0);
  CHECK((st.st_mode & 07777) == 0755);
  arm(06745);
  AttrChange owner;
  owner.uid = 7;
  REQUIRE(f.store.setattr(file, owner, kRootUser, st) == 0);
  CHECK((st.st_mode & 07777) == 02745);  // without group execution it means mandatory locking
}

TEST_CASE("times follow what happens", "[store]") {
  Fixture f;
  const std::uint64_t file = f.make(kRoot, "f");
  const struct stat made = f.attr(file);
  const struct stat dir_made = f.attr(kRoot);
  REQUIRE(f.write(file, 0, "x") == 1);
  const struct stat written = f.attr(file);
  CHECK(later(written.st_mtim, made.st_mtim));
  CHECK(later(written.st_ctim, made.st_ctim));
  CHECK_FALSE(later(written.st_atim, made.st_atim));
  f.read(file, 0, 1);
  const struct stat was_read = f.attr(file);
  CHECK(later(was_read.st_atim, written.st_mtim));
  CHECK_FALSE(later(was_read.st_ctim, written.st_ctim));
  f.read(file, 0, 1);
  CHECK_FALSE(later(f.attr(file).st_atim, was_read.st_atim));  // relatime

  AttrChange change;
  change.mtime = timespec{123, 456789};
  change.atime_now = true;
  struct stat st;
  REQUIRE(f.store.setattr(file, change, kRootUser, st) == 0);
  CHECK(st.st_mtim.tv_sec == 123);
  CHECK(st.st_mtim.tv_nsec == 456789);
  CHECK(later(st.st_atim, was_read.st_atim));
  CHECK(later(st.st_ctim, was_read.st_ctim));

  const auto ctime_moves = [&](auto &&action) {
    const struct stat before = f.attr(file);
    action();
    CHECK(later(f.attr(file).st_ctim, before.st_ctim));
    CHECK(f.attr(file).st_mtim.tv_sec == 123);
  };
  NodeInfo info;
  ctime_moves([&] { REQUIRE(f.store.link(file, kRoot, "l", info) == 0); });
  ctime_moves([&] { REQUIRE(f.store.unlink(kRoot, "l") == 0); });
  ctime_moves([&] { REQUIRE(f.store.rename(kRoot, "f", kRoot, "g", 0) == 0); });
  ctime_moves([&] { REQUIRE(f.store.setxattr(file, "user.x", "v", 0) == 0); });
  ctime_moves([&] { REQUIRE(f.store.removexattr(file, "user.x") == 0); });
  CHECK(later(f.attr(kRoot).st_mtim, dir_made.st_mtim));
}

TEST_CASE("extended attributes", "[store]") {
  Fixture f;
  const std::uint64_t file = f.make(kRoot, "f");
  char buffer[64];
  CHECK(f.store.getxattr(file, "user.a", buffer, sizeof buffer) == -ENODATA);
  CHECK(f.store.setxattr(file, "user.a", "1", XATTR_REPLACE) == -ENODATA);
  CHECK(f.store.setxattr(file, "user.a", "one", XATTR_CREATE) == 0);
  CHECK(f.store.setxattr(file, "user.a", "two", XATTR_CREATE) == -EEXIST);
  CHECK(f.store.setxattr(file, "user.a", "three", XATTR_REPLACE) == 0);
  CHECK(f.store.setxattr(file, "trusted.t", "", 0) == 0);
  CHECK(f.store.setxattr(file, "security.s", std::string_view("\0\1", 2), 0) == 0);
  CHECK(f.store.setxattr(file, "system.x", "x", 0) == -EOPNOTSUPP);
  CHECK(f.store.setxattr(file, "other.x", "x", 0) == -EOPNOTSUPP);
  CHECK(f.store.setxattr(file, "user.", "x", 0) == -EINVAL);
  CHECK(f.store.getxattr(file, "user.a", buffer, 0) == 5);
  CHECK(f.store.getxattr(file, "user.a", buffer, 4) == -ERANGE);
  REQUIRE(f.store.getxattr(file, "user.a", buffer, 5) == 5);
  CHECK(std::string(buffer, 5) == "three");
  CHECK(f.store.getxattr(file, "trusted.t", buffer, 5) == 0);

  const int all = f.store.listxattr(file, true, nullptr, 0);
  CHECK(all == 11 + 10 + 7);
  CHECK(f.store.listxattr(file, false, nullptr, 0) == all - 10);
  CHECK(f.store.listxattr(file, true, buffer, static_cast<std::size_t>(all - 1)) == -ERANGE);
  REQUIRE(f.store.listxattr(file, true, buffer, sizeof buffer) == all);
  CHECK(std::string(buffer, static_cast<std::size_t>(all)) ==
        std::string("security.s\0trusted.t\0user.a\0", 28));

  const std::string huge(Store::kMaxXattrValue, 'v');
  CHECK(f.store.setxattr(file, "user.h", huge, 0) == 0);
  CHECK(f.store.setxattr(file, "user.h", huge + "v", 0) == -E2BIG);
  CHECK(f.store.removexattr(file, "user.h") == 0);
  CHECK(f.store.removexattr(file, "user.h") == -ENODATA);
  int made = 0, status = 0;
  for (; status == 0; ++made)
    status = f.store.setxattr(file, "user." + std::to_string(made) + std::string(200, 'n'), "", 0);
  CHECK(status == -ENOSPC);
  CHECK(f.store.listxattr(file, true, nullptr, 0) <= static_cast<int>(Store::kMaxXattrNames));
}

constexpr const char *kAccessList = "system.posix_acl_access", *kDefaultList = "system.posix_acl_default";

/// Entries are tag, permissions; the ids of named ones do not matter here.
std::string acl_of(std::initializer_list<std::pair<int, int>> entries) {
  std::string list("\2\0\0\0", 4);
  for (const auto &[tag, permissions] : entries) {
    list += {static_cast<char>(tag), '\0', static_cast<char>(permissions), '\0'};
    list += std::string("\350\3\0\0", 4);
  }
  return list;
}

TEST_CASE("access control lists follow the mode, and the mode follows them", "[store]") {
  enum { kOwner = 1, kNamed = 2, kGroup = 4, kMask = 16, kOther = 32 };
  Fixture f;
  const std::uint64_t file = f.make(kRoot, "f", S_IFREG | 02600);
  const std::string list = acl_of({{kOwner, 6}, {kNamed, 7}, {kGroup, 0}, {kMask, 4}, {kOther, 1}});
  const auto get = [&](std::uint64_t ino, const char *name) {
    char buffer[128];
    const int n = f.store.getxattr(ino, name, buffer, sizeof buffer);
    return n < 0 ? std::string() : std::string(buffer, static_cast<std::size_t>(n));
  };

  SECTION("what is malformed is refused") {
    for (const std::string &bad :
         {std::string(), std::string("\2\0\0", 3), list + "x", list.substr(0, list.size() - 8),
          acl_of({{kOwner, 6}, {kNamed, 7}, {kGroup, 0}, {kOther, 1}}),
          acl_of({{kGroup, 6}, {kOwner, 7}, {kOther, 1}}), acl_of({{kOwner, 8}, {kGroup, 0}, {kOther, 1}}),
          acl_of({{kOwner, 6}, {kOwner, 6}, {kGroup, 0}, {kOther, 1}}),
          acl_of({{kOwner, 6}, {3, 6}, {kGroup, 0}, {kOther, 1}})})
      CHECK(f.store.setxattr(file, kAccessList, bad, 0) == -EINVAL);
    CHECK(f.store.setxattr(file, kDefaultList, list, 0) == -EACCES);
  }
  SECTION("the mode shows owner, mask and others") {
    REQUIRE(f.store.setxattr(file, kAccessList, list, 0) == 0);
    CHECK(f.attr(file).st_mode == (S_IFREG | 02641));
    CHECK(get(file, kAccessList) == list);
    REQUIRE(f.store.setxattr(file, kAccessList, list, 0, false) == 0);
    CHECK(f.attr(file).st_mode == (S_IFREG | 0641));
  }
  SECTION("chmod changes owner, mask and others") {
    REQUIRE(f.store.setxattr(file, kAccessList, list, 0) == 0);
    AttrChange change;
    change.mode = 0752;
    struct stat st;
    REQUIRE(f.store.setattr(file, change, kRootUser, st) == 0);
    CHECK(get(file, kAccessList) == acl_of({{kOwner, 7}, {kNamed, 7}, {kGroup, 0}, {kMask, 5}, {kOther, 2}}));
  }
  SECTION("a list that is only a mode is not kept") {
    REQUIRE(f.store.setxattr(file, kAccessList, list, 0) == 0);
    REQUIRE(f.store.setxattr(file, kAccessList, acl_of({{kOwner, 7}, {kGroup, 5}, {kOther, 0}}), 0) == 0);
    CHECK(get(file, kAccessList).empty());
    CHECK(f.attr(file).st_mode == (S_IFREG | 02750));
    CHECK(f.store.removexattr(file, kAccessList) == 0);
  }
  SECTION("a default list is inherited in place of the umask, and paid for") {
    const std::uint64_t dir = f.make_dir(kRoot, "d");
    REQUIRE(f.store.setxattr(dir, kDefaultList, list, 0) == 0);
    const struct statvfs before = f.space();
    NodeInfo made, sub;
    REQUIRE(f.store.mknod(dir, "f", S_IFREG | 0666, 0, {0, 0, 077}, made) == 0);
    CHECK(made.attr.st_mode == (S_IFREG | 0640));
    CHECK(get(made.ino, kAccessList) == acl_of({{kOwner, 6}, {kNamed, 7}, {kGroup, 0}, {kMask, 4}, {kOther, 0}}));
    REQUIRE(f.store.mknod(dir, "d", S_IFDIR | 0777, 0, {0, 0, 077}, sub) == 0);
    CHECK(get(sub.ino, kDefaultList) == list);
    CHECK(sub.attr.st_mode == (S_IFDIR | 0641));
    REQUIRE(f.store.unlink(dir, "f") == 0);
    REQUIRE(f.store.rmdir(dir, "d") == 0);
    f.store.forget(made.ino, 1);
    f.store.forget(sub.ino, 1);
    CHECK(f.space().f_bfree == before.f_bfree);
  }
  SECTION("without one the umask counts") {
    NodeInfo made;
    REQUIRE(f.store.mknod(kRoot, "m", S_IFREG | 0666, 0, {0, 0, 027}, made) == 0);
    CHECK(made.attr.st_mode == (S_IFREG | 0640));
    REQUIRE(f.store.symlink(kRoot, "s", "x", {0, 0, 077}, made) == 0);
    CHECK(made.attr.st_mode == (S_IFLNK | 0777));
  }
}

TEST_CASE("sparse files and their blocks", "[store]") {
  Fixture f;
  const std::uint64_t file = f.make(kRoot, "f");
  constexpr std::int64_t kFar = INT64_MAX - 10;
  CHECK(f.write(file, INT64_MAX, "x") == -EFBIG);
  CHECK(f.write(file, -1, "x") == -EINVAL);
  REQUIRE(f.write(file, kFar, "0123456789") == 10);
  CHECK(f.attr(file).st_size == INT64_MAX);
  CHECK(f.attr(file).st_blocks == 8);
  CHECK(f.read(file, kFar, 100) == "0123456789");
  CHECK(f.read(file, 5000, 3) == std::string(3, '\0'));
  CHECK(f.read(file, kFar - 3, 5) == std::string("\0\0\0" "01", 5));
  CHECK(f.store.lseek(file, 0, SEEK_HOLE) == 0);
  CHECK(f.store.lseek(file, 0, SEEK_DATA) == kFar / 4096 * 4096);
  CHECK(f.store.lseek(file, kFar, SEEK_HOLE) == INT64_MAX);
  REQUIRE(f.write(file, 8192, std::string(5000, 'x')) == 5000);
  CHECK(f.attr(file).st_blocks == 24);
  CHECK(f.store.lseek(file, 1, SEEK_DATA) == 8192);
  CHECK(f.store.lseek(file, 9000, SEEK_DATA) == 9000);
  CHECK(f.store.lseek(file, 9000, SEEK_HOLE) == 16384);
  CHECK(f.store.lseek(file, -1, SEEK_DATA) == -ENXIO);
  CHECK(f.store.lseek(file, 0, SEEK_SET) == -EINVAL);
  AttrChange change;
  struct stat st;
  change.size = 8195;
  REQUIRE(f.store.setattr(file, change, kRootUser, st) == 0);
  CHECK(st.st_blocks == 8);
  CHECK(f.store.lseek(file, 8195, SEEK_DATA) == -ENXIO);
  change.size = 10000;  // what was behind the end must not come back
  REQUIRE(f.store.setattr(file, change, kRootUser, st) == 0);
  CHECK(f.read(file, 8190, 10) == std::string("\0\0xxx\0\0\0\0\0", 10));
  change.size = -1;
  CHECK(f.store.setattr(file, change, kRootUser, st) == -EINVAL);
  change.size = 0;
  CHECK(f.store.setattr(kRoot, change, kRootUser, st) == -EISDIR);
}

TEST_CASE("fallocate", "[store]") {
  Fixture f({1 << 20, 10});
  const std::uint64_t file = f.make(kRoot, "f");
  CHECK(f.store.fallocate(file, 0, 0, 0, kRootUser) == -EINVAL);
  CHECK(f.store.fallocate(file, 0, INT64_MAX, 2, kRootUser) == -EFBIG);
  CHECK(f.store.fallocate(file, FALLOC_FL_COLLAPSE_RANGE, 0, 4096, kRootUser) == -EOPNOTSUPP);
  CHECK(f.store.fallocate(file, FALLOC_FL_INSERT_RANGE, 0, 4096, kRootUser) == -EOPNOTSUPP);
  CHECK(f.store.fallocate(file, FALLOC_FL_PUNCH_HOLE, 0, 4096, kRootUser) == -EOPNOTSUPP);
  CHECK(f.store.fallocate(file, 0, 0, INT64_MAX, kRootUser) == -ENOSPC);
  CHECK(f.attr(file).st_size == 0);

  REQUIRE(f.store.fallocate(file, FALLOC_FL_KEEP_SIZE, 0, 10'000, kRootUser) == 0);
  CHECK(f.attr(file).st_size == 0);
  CHECK(f.attr(file).st_blocks == 24);
  REQUIRE(f.store.fallocate(file, 0, 0, 512 * 1024, kRootUser) == 0);
  CHECK(f.attr(file).st_size == 512 * 1024);
  CHECK(f.attr(file).st_blocks == 1024);
  CHECK(f.read(file, 100, 3) == std::string(3, '\0'));

  // What is reserved stays writable when all else is full.
  const std::uint64_t other = f.make(kRoot, "g");
  const std::int64_t got = f.write(other, 0, std::string(2 << 20, 'y'));
  CHECK(got > 400'000);
  CHECK(got < 524'288);
  CHECK(f.write(other, got, "y") == -ENOSPC);
  REQUIRE(f.write(file, 0, std::string(512 * 1024, 'x')) == 512 * 1024);
  CHECK(f.attr(file).st_blocks == 1024);

  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  REQUIRE(f.store.fallocate(file, kPunch, 4000, 8400, kRootUser) == 0);
  CHECK(f.attr(file).st_blocks == 1024 - 16);
  CHECK(f.read(file, 3998, 4) == std::string("xx\0\0", 4));
  CHECK(f.read(file, 12'398, 4) == std::string("\0\0xx", 4));
  CHECK(f.store.lseek(file, 0, SEEK_HOLE) == 4096);
  REQUIRE(f.store.fallocate(file, FALLOC_FL_ZERO_RANGE, 3000, 5000, kRootUser) == 0);
  CHECK(f.attr(file).st_blocks == 1024 - 8);
  CHECK(f.read(file, 2999, 2) == std::string("x\0", 2));
}

TEST_CASE("limits give ENOSPC, and what is freed can be used again", "[store]") {
  Fixture f({256 * 1024, 4});
  NodeInfo info;
  f.make(kRoot, "a");
  f.make(kRoot, "b");
  const std::uint64_t c = f.make(kRoot, "c");
  CHECK(f.store.mknod(kRoot, "d", S_IFREG, 0, kUser, info) == -ENOSPC);
  CHECK(f.store.mknod(kRoot, "c", S_IFREG, 0, kUser, info) == -EEXIST);
  for (int round = 0; round < 20; ++round) {
    const std::int64_t got = f.write(c, 0, std::string(1 << 20, 'x'));
    CHECK(got == 252 * 1024);
    CHECK(f.space().f_bfree == 0);
    CHECK(f.store.setxattr(c, "user.big", std::string(8192, 'x'), 0) == -ENOSPC);
    REQUIRE(f.store.rename(kRoot, "a", kRoot, "A", 0) == 0);
    REQUIRE(f.store.rename(kRoot, "A", kRoot, "a", 0) == 0);
    AttrChange change;
    change.size = 0;
    struct stat st;
    REQUIRE(f.store.setattr(c, change, kRootUser, st) == 0);
  }
  REQUIRE(f.store.unlink(kRoot, "a") == 0);
  CHECK(f.store.mknod(kRoot, "d", S_IFREG, 0, kUser, info) == -ENOSPC);  // still looked up
  f.store.forget(2, 1);
  CHECK(f.store.mknod(kRoot, "d", S_IFREG, 0, kUser, info) == 0);
  CHECK_THROWS_AS(Store({4096, 0}, 0755, kRootUser), std::invalid_argument);
}

TEST_CASE("copy_file_range", "[store]") {
  Fixture f;
  const std::uint64_t a = f.make(kRoot, "a"), b = f.make(kRoot, "b");
  REQUIRE(f.write(a, 0, std::string(5000, 'a')) == 5000);
  REQUIRE(f.write(a, 20'000, std::string(5000, 'z')) == 5000);
  REQUIRE(f.write(b, 0, std::string(30'000, 'b')) == 30'000);
  REQUIRE(f.store.copy_file_range(a, 100, b, 50, 100'000, kRootUser) == 24'900);
  CHECK(f.read(b, 0, 30'000) == std::string(50, 'b') + f.read(a, 100, 24'900) + std::string(5'050, 'b'));
  CHECK(f.store.copy_file_range(a, 25'000, b, 0, 10, kRootUser) == 0);
  CHECK(f.store.copy_file_range(a, 0, a, 10, 100, kRootUser) == -EINVAL);
  REQUIRE(f.store.copy_file_range(a, 0, a, 30'000, 25'000, kRootUser) == 25'000);
  CHECK(f.read(a, 30'000, 25'000) == f.read(a, 0, 25'000));
  const std::uint64_t sparse = f.make(kRoot, "s");
  REQUIRE(f.store.copy_file_range(a, 8192, sparse, 0, 8192, kRootUser) == 8192);
  CHECK(f.attr(sparse).st_size == 8192);
  CHECK(f.attr(sparse).st_blocks == 0);
  CHECK(f.store.copy_file_range(a, 0, kRoot, 0, 1, kRootUser) == -EISDIR);
  CHECK(f.store.copy_file_range(a, 0, b, INT64_MAX - 5, 10, kRootUser) == -EFBIG);
}

TEST_CASE("content against a model", "[store]") {
  Fixture f;
  const std::uint64_t file = f.make(kRoot, "f");
  constexpr std::int64_t kRange = 600'000;
  std::vector<char> model;
  std::mt19937 random(20240607);
  const auto grow_to = [&](std::int64_t size) {
    if (static_cast<std::int64_t>(model.size()) < size) model.resize(static_cast<std::size_t>(size));
  };
  const auto clear = [&](std::int64_t from, std::int64_t to) {
    const auto size = static_cast<std::int64_t>(model.size());
    std::fill(model.begin() + std::min(from, size), model.begin() + std::min(to, size), '\0');
  };
  struct stat st;
  for (int step = 0; step < 6000; ++step) {
    const std::int64_t offset = random() % kRange;
    // Lengths of all magnitudes, ends often on page borders.
    std::int64_t length = 1 + static_cast<std::int64_t>(random() % (1u << (random() % 18)));
    if (random() % 4 == 0) length = ((offset + length + 4095) & ~4095) - offset;
    switch (random() % 8) {
      case 0: case 1: case 2: case 3: {
        const std::string data(static_cast<std::size_t>(length), static_cast<char>('a' + step % 26));
        REQUIRE(f.write(file, offset, data) == length);
        grow_to(offset + length);
        std::copy(data.begin(), data.end(), model.begin() + offset);
        break;
      }
      case 4: {
        AttrChange change;
        change.size = offset;
        REQUIRE(f.store.setattr(file, change, kUser, st) == 0);
        model.resize(static_cast<std::size_t>(offset));
        break;
      }
      case 5:
        REQUIRE(f.store.fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length, kUser) ==
                0);
        clear(offset, offset + length);
        break;
      case 6: {
        const bool keep = random() % 2, zero = random() % 2;
        const int mode = (keep ? FALLOC_FL_KEEP_SIZE : 0) | (zero ? FALLOC_FL_ZERO_RANGE : 0);
        REQUIRE(f.store.fallocate(file, mode, offset, length, kUser) == 0);
        if (zero) clear(offset, offset + length);
        if (!keep) grow_to(offset + length);
        break;
      }
      case 7: {
        const auto size = static_cast<std::int64_t>(model.size());
        const std::int64_t to = random() % kRange;
        if (offset >= size || (offset < to + length && to < offset + length)) break;
        length = std::min(length, size - offset);
        REQUIRE(f.store.copy_file_range(file, offset, file, to, static_cast<std::uint64_t>(length), kUser) ==
                length);
        grow_to(to + length);
        std::copy_n(model.begin() + offset, length, model.begin() + to);
        break;
      }
    }
    REQUIRE(f.attr(file).st_size == static_cast<off_t>(model.size()));
    const std::int64_t at = random() % kRange;
    const std::string part = f.read(file, at, 70'000);
    const auto size = static_cast<std::int64_t>(model.size());
    const auto expected = static_cast<std::size_t>(std::clamp<std::int64_t>(size - at, 0, 70'000));
    REQUIRE(part.size() == expected);
    REQUIRE(std::equal(part.begin(), part.end(), model.begin() + std::min(at, size)));
    if (step % 500 == 0) REQUIRE(f.read(file, 0, kRange * 2) == std::string(model.begin(), model.end()));
  }
  // Blocks are what SEEK_DATA and SEEK_HOLE do not contradict.
  std::int64_t data_bytes = 0;
  for (std::int64_t at = 0; (at = f.store.lseek(file, at, SEEK_DATA)) >= 0;) {
    const std::int64_t hole = f.store.lseek(file, at, SEEK_HOLE);
    data_bytes += (hole + 4095) / 4096 * 4096 - at;
    at = hole;
    if (at >= static_cast<std::int64_t>(model.size())) break;
  }
  CHECK(f.attr(file).st_blocks * 512 >= data_bytes);
  const auto before = f.space();
  REQUIRE(before.f_bfree < before.f_blocks);
  REQUIRE(f.store.unlink(kRoot, "f") == 0);
  f.store.forget(file, 1);
  CHECK(f.space().f_bfree == f.space().f_blocks);
}

TEST_CASE("a read of many scattered pages comes in pieces that writev takes", "[store]") {
  Fixture f;
  const std::uint64_t file = f.make(kRoot, "f");
  constexpr std::int64_t kPages = 5000;
  for (std::int64_t page = 0; page < kPages; page += 2) REQUIRE(f.write(file, page * 4096, "x") == 1);
  std::size_t pieces = 0, bytes = 0;
  REQUIRE(f.store.read(file, 0, kPages * 4096, [&](std::span<const iovec> iov) {
    pieces = iov.size();
    for (const iovec &p : iov) bytes += p.iov_len;
    return 0;
  }) == 0);
  CHECK(pieces < IOV_MAX);
  CHECK(bytes == (kPages - 2) * 4096 + 1);
}

TEST_CASE("overlapping writes and reads are whole", "[store][stress]") {
  Fixture f;
  const std::uint64_t file = f.make(kRoot, "f");
  constexpr std::size_t kLength = 3 * 4096 + 100;
  REQUIRE(f.write(file, 1000, std::string(kLength, 'a')) == kLength);
  std::atomic<bool> mixed{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      const std::string data(kLength, static_cast<char>('a' + t));
      for (int i = 0; i < 2000; ++i) f.store.write(file, 1000, {data.data(), data.size()}, kUser);
    });
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i)
        f.store.read(file, 1000, kLength, [&](std::span<const iovec> pieces) {
          const char first = *static_cast<const char *>(pieces[0].iov_base);
          for (const iovec &p : pieces)
            for (std::size_t b = 0; b < p.iov_len; b += 97)
              if (static_cast<const char *>(p.iov_base)[b] != first) mixed = true;
          return 0;
        });
    });
  for (auto &t : threads) t.join();
  CHECK_FALSE(mixed);
}

TEST_CASE("many threads, one tree", "[store][stress]") {
  Fixture f({std::uint64_t{64} << 20, 20'000});
  constexpr int kThreads = 4, kSteps = 8'000, kNames = 24;
  std::vector<std::uint64_t> dirs{kRoot};
  for (int d = 0; d < 3; ++d) dirs.push_back(f.make_dir(d == 2 ? dirs[1] : kRoot, "dir" + std::to_string(d)));
  std::atomic<int> wrong{0};

  const auto worker = [&](unsigned seed) {
    std::mt19937 random(seed);
    const auto dir = [&] { return dirs[random() % dirs.size()]; };
    const auto name = [&] { return "n" + std::to_string(random() % kNames); };
    const auto allowed = [&](std::int64_t status, std::initializer_list<int> errors) {
      if (status >= 0) return;
      for (const int e : errors)
        if (status == -e) return;
      ++wrong;
    };
    std::string data(20'000, static_cast<char>(seed));
    for (int step = 0; step < kSteps; ++step) {
      NodeInfo info;
      struct stat st;
      switch (random() % 10) {
        case 0: case 1: {
          const mode_t type = random() % 4 == 0 ? S_IFDIR : S_IFREG;
          const int status = f.store.mknod(dir(), name(), type | 0755, 0, kUser, info);
          allowed(status, {EEXIST, ENOSPC});
          if (status == 0) f.store.forget(info.ino, 1);
          break;
        }
        case 2: allowed(f.store.unlink(dir(), name()), {ENOENT, EISDIR}); break;
        case 3: allowed(f.store.rmdir(dir(), name()), {ENOENT, ENOTDIR, ENOTEMPTY}); break;
        case 4: {
          const unsigned flags = random() % 3 == 0   ? RENAME_EXCHANGE
                                 : random() % 3 == 0 ? RENAME_NOREPLACE
                                                     : 0;
          allowed(f.store.rename(dir(), name(), dir(), name(), flags),
                  {ENOENT, EEXIST, EISDIR, ENOTDIR, ENOTEMPTY, EINVAL});
          break;
        }
        case 5: {
          if (f.store.lookup(dir(), name(), info) != 0) break;
          NodeInfo linked;
          const int status = f.store.link(info.ino, dir(), name(), linked);
          allowed(status, {EPERM, EEXIST, ENOENT});
          f.store.forget(info.ino, status == 0 ? 2 : 1);
          break;
        }
        case 6: {
          if (f.store.lookup(dir(), name(), info) != 0) break;
          allowed(f.store.write(info.ino, random() % 50'000, {data.data(), random() % data.size()}, kUser),
                  {EISDIR, ENOSPC});
          AttrChange change;
          change.size = random() % 60'000;
          allowed(f.store.setattr(info.ino, change, kUser, st), {EISDIR});
          f.store.forget(info.ino, 1);
          break;
        }
        case 7: {
          if (f.store.lookup(dir(), name(), info) != 0) break;
          unsigned sum = 0;
          allowed(f.store.read(info.ino, 0, 100'000, [&](std::span<const iovec> pieces) {
            for (const iovec &p : pieces) sum += *static_cast<const unsigned char *>(p.iov_base);
            return static_cast<int>(sum & 1);
          }), {EISDIR});
          allowed(f.store.fallocate(info.ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, random() % 50'000,
                                    9'000, kUser),
                  {EISDIR});
          f.store.forget(info.ino, 1);
          break;
        }
        case 8: {
          std::vector<std::uint64_t> counted;
          allowed(f.store.readdir(dir(), random() % 4, [&](const DirEntry &e) {
            if (e.node == nullptr) return true;
            NodeInfo child;
            Store::describe(*e.node, child);
            if (child.attr.st_nlink == 0 || (child.attr.st_mode & S_IFMT) != e.type) ++wrong;
            Store::count_lookup(*e.node);
            counted.push_back(e.ino);
            return true;
          }), {});
          for (const std::uint64_t ino : counted) f.store.forget(ino, 1);
          break;
        }
        case 9: {
          if (f.store.lookup(dir(), name(), info) != 0) break;
          allowed(f.store.setxattr(info.ino, "user." + name(), data.substr(0, 100), 0), {ENOSPC});
          char buffer[4096];
          allowed(f.store.listxattr(info.ino, true, buffer, sizeof buffer), {});
          allowed(f.store.removexattr(info.ino, "user." + name()), {ENODATA});
          f.store.forget(info.ino, 1);
          break;
        }
      }
    }
  };
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) threads.emplace_back(worker, t + 1);
  for (auto &t : threads) t.join();
  CHECK(wrong == 0);

  // The tree is a tree, and its counts are right.
  std::set<std::uint64_t> seen_dirs;
  std::map<std::uint64_t, nlink_t> names_of;
  std::vector<std::uint64_t> to_visit{kRoot};
  while (!to_visit.empty()) {
    const std::uint64_t at = to_visit.back();
    to_visit.pop_back();
    REQUIRE(seen_dirs.insert(at).second);
    nlink_t subdirs = 0;
    REQUIRE(f.store.readdir(at, 2, [&](const DirEntry &e) {
      if (S_ISDIR(e.type)) {
        ++subdirs;
        to_visit.push_back(e.ino);
      } else {
        ++names_of[e.ino];
      }
      return true;
    }) == 0);
    REQUIRE(f.attr(at).st_nlink == 2 + subdirs);
  }
  for (const auto &[ino, names] : names_of) REQUIRE(f.attr(ino).st_nlink == names);

  // Removing everything gives everything back. The workers may have removed the
  // directories that the test still has a lookup of.
  const std::function<void(std::uint64_t)> empty = [&](std::uint64_t at) {
    for (const std::string &name : f.list(at)) {
      if (f.store.unlink(at, name) == 0) continue;
      empty(f.look(at, name));
      REQUIRE(f.store.rmdir(at, name) == 0);
    }
  };
  empty(kRoot);
  for (std::size_t d = 1; d < dirs.size(); ++d) f.store.forget(dirs[d], 1);
  CHECK(f.space().f_ffree == f.space().f_files - 1);
  CHECK(f.space().f_bfree == f.space().f_blocks);
}
