// SPDX-License-Identifier: LGPL-2.1-or-later
// hostile_maps MOUNT SECONDS [SEED]: what if the maps of the fast paths hold anything at all?
//
// One process writes into the programs' maps, as their owner may at any time: flipped bits, parts of other elements,
// whole random elements. Others use the mount meanwhile and do not mind errors. The kernel must stay as it is:
// no message, and the mount works again once the maps are left alone and what they hold has been replaced.
//
// Ends before its time where the kernel refuses the root for good, as it does with an inode whose attributes are suddenly
// those of another type (fuse_make_bad()): from then on no program is asked.
#include <bpf/bpf.h>

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Rng = std::mt19937_64;

/// Of all processes.
struct Shared {
  std::atomic<bool> over{false};
};

struct Map {
  int fd;
  std::uint32_t entries, value_size;
  std::string name;
};

std::vector<Map> open_maps() {
  std::vector<Map> maps;
  for (std::uint32_t id = 0; bpf_map_get_next_id(id, &id) == 0;) {
    const int fd = bpf_map_get_fd_by_id(id);
    bpf_map_info info{};
    std::uint32_t size = sizeof info;
    if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &size) != 0) continue;
    if (info.type == BPF_MAP_TYPE_ARRAY && std::strncmp(info.name, "efuse_", 6) == 0)
      maps.push_back({fd, info.max_entries, info.value_size, info.name});
    else
      close(fd);
  }
  return maps;
}

/// One element, made worse.
void spoil(std::vector<char> &value, const std::vector<char> &other, Rng &rng) {
  switch (rng() % 4) {
    case 0:
      for (unsigned i = 1 + rng() % 16; i > 0; --i) value[rng() % value.size()] ^= static_cast<char>(1u << rng() % 8);
      break;
    case 1: {  // a piece of another element, most of the time where it belongs
      const std::size_t from = rng() % value.size() & ~std::size_t{7};
      const std::size_t to = rng() % 2 ? from : rng() % value.size();
      std::memcpy(&value[to], &other[from], std::min(1 + rng() % 512, value.size() - std::max(from, to)));
      break;
    }
    case 2:  // words that mean something: 0, 1, all ones, addresses
      for (unsigned i = 1 + rng() % 8; i > 0; --i) {
        const std::uint64_t words[] = {0, 1, ~0ull, 0xffff888000000000, 1ull << 63, rng()};
        std::memcpy(&value[rng() % (value.size() / 8) * 8], &words[rng() % 6], 8);
      }
      break;
    default:
      for (char &c : value) c = static_cast<char>(rng());
  }
}

[[noreturn]] void scribble(const std::vector<Map> &maps, const Shared &shared, Rng rng) {
  std::uint64_t written = 0;
  while (!shared.over) {
    const Map &map = maps[rng() % maps.size()];
    std::vector<char> value(map.value_size), other(map.value_size);
    // Elements in use are few where the tree is small.
    std::uint32_t key = 0, from = 0;
    for (int i = 0; i < 8; ++i) {
      key = static_cast<std::uint32_t>(rng() % map.entries);
      if (bpf_map_lookup_elem(map.fd, &key, value.data()) == 0 &&
          std::any_of(value.begin(), value.end(), [](char c) { return c != 0; }))
        break;
    }
    from = static_cast<std::uint32_t>(rng() % map.entries);
    bpf_map_lookup_elem(map.fd, &from, other.data());
    spoil(value, other, rng);
    written += bpf_map_update_elem(map.fd, &key, value.data(), BPF_EXIST) == 0;
    if (rng() % 4 == 0) usleep(200);
  }
  std::printf("%llu map elements overwritten\n", static_cast<unsigned long long>(written));
  std::fflush(stdout);
  _exit(written > 0 ? 0 : 1);
}

void use(const std::string &path, Rng &rng, std::vector<char> &buffer) {
  struct stat st;
  lstat(path.c_str(), &st);
  switch (rng() % 8) {
    case 0: {
      [[maybe_unused]] const ssize_t n = readlink(path.c_str(), buffer.data(), 4096);
      break;
    }
    case 1: getxattr(path.c_str(), "user.a", buffer.data(), 256); break;
    case 2: listxattr(path.c_str(), buffer.data(), 256); break;
    case 3:
    case 4: {
      const int fd = open(path.c_str(), O_RDONLY | O_NONBLOCK | (rng() % 2 ? O_DIRECT : 0));
      if (fd < 0) break;
      void *aligned = buffer.data() + (4096 - reinterpret_cast<std::uintptr_t>(buffer.data()) % 4096);
      [[maybe_unused]] const ssize_t n = pread(fd, aligned, 4096u << rng() % 9, static_cast<off_t>(rng() % 64 * 4096));
      close(fd);
      break;
    }
    case 5: lstat((path + "-none").c_str(), &st); break;
    case 6:
      if (rng() % 8 == 0) utimensat(AT_FDCWD, path.c_str(), nullptr, AT_SYMLINK_NOFOLLOW);
      break;
    default: break;
  }
}

[[noreturn]] void client(const std::vector<std::string> &paths, const std::string &mount, const Shared &shared, Rng rng) {
  std::vector<char> buffer((2u << 20) + 8192);
  while (!shared.over) {
    use(paths[rng() % paths.size()], rng, buffer);
    if (rng() % 16 == 0)  // most are no directories
      if (DIR *dir = opendir(rng() % 8 ? paths[rng() % paths.size()].c_str() : mount.c_str())) {
        while (readdir(dir) != nullptr) {
        }
        closedir(dir);
      }
    if (rng() % 4096 == 0)  // forget, and look up anew
      if (const int fd = open("/proc/sys/vm/drop_caches", O_WRONLY); fd >= 0) {
        [[maybe_unused]] const ssize_t n = write(fd, "2", 1);
        close(fd);
      }
  }
  _exit(0);
}

/// Not only for once: a program may have said EIO.
bool is_bad(const std::string &mount) {
  struct stat st;
  for (int i = 0; i < 20; ++i, usleep(10'000))
    if (stat(mount.c_str(), &st) == 0 || errno != EIO) return false;
  return true;
}

std::vector<std::string> make_tree(const std::string &mount) {
  std::vector<std::string> paths;
  const std::vector<char> data(1 << 18, 'x');
  for (int d = 0; d < 8; ++d) {
    const std::string dir = mount + "/d" + std::to_string(d);
    mkdir(dir.c_str(), 0755);
    paths.push_back(dir);
    for (int f = 0; f < 16; ++f) {
      const std::string path = dir + "/file" + std::to_string(f);
      const int fd = open(path.c_str(), O_CREAT | O_WRONLY, 0644);
      if (fd < 0 || write(fd, data.data(), data.size()) != static_cast<ssize_t>(data.size())) {
        std::perror(path.c_str());
        std::exit(1);
      }
      close(fd);
      setxattr(path.c_str(), "user.a", "value", 5, 0);
      paths.push_back(path);
      const std::string link = path + "-link";
      if (symlink("elsewhere", link.c_str()) == 0 || errno == EEXIST) paths.push_back(link);
    }
  }
  return paths;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: hostile_maps MOUNT SECONDS [SEED]\n");
    return 2;
  }
  const std::string mount = argv[1];
  const auto end = Clock::now() + std::chrono::seconds(std::atoi(argv[2]));
  const std::uint64_t seed = argc > 3 ? std::strtoull(argv[3], nullptr, 0) : std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  const std::vector<Map> maps = open_maps();
  if (maps.empty()) {
    std::fprintf(stderr, "hostile_maps: no map of a fast path is loaded\n");
    return 1;
  }
  for (const Map &map : maps) std::printf("map %s: %u elements of %u bytes\n", map.name.c_str(), map.entries, map.value_size);
  std::fflush(stdout);
  const std::vector<std::string> paths = make_tree(mount);

  void *memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return std::perror("mmap"), 1;
  Shared &shared = *new (memory) Shared;
  std::vector<pid_t> clients;
  for (unsigned i = 0; i < 4; ++i) {
    const pid_t pid = fork();
    if (pid == 0) client(paths, mount, shared, Rng(seed + 1 + i));
    clients.push_back(pid);
  }
  const pid_t scribbler = fork();
  if (scribbler == 0) scribble(maps, shared, Rng(seed));
  bool bad = false;
  while (!bad && Clock::now() < end) {
    usleep(100'000);
    bad = is_bad(mount);
  }
  shared.over = true;
  if (bad) std::printf("the kernel refuses the root now\n");
  int status = 0, failed = 0;
  for (const pid_t pid : clients) {
    waitpid(pid, &status, 0);
    failed += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  }
  waitpid(scribbler, &status, 0);
  failed += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  return failed ? 1 : 0;
}
