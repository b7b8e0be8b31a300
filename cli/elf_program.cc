// SPDX-License-Identifier: LGPL-2.1-or-later
#include "elf_program.hh"

#include "fd.hh"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <link.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <sstream>
#include <string_view>
#include <vector>

namespace efuse::cli {
namespace {

using Header = ElfW(Ehdr);
using Segment = ElfW(Phdr);

constexpr int kMostInterpreters = 4;  // of scripts of scripts; the kernel's own limit is near

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
constexpr unsigned char kOurByteOrder = ELFDATA2LSB;
#else
constexpr unsigned char kOurByteOrder = ELFDATA2MSB;
#endif
constexpr unsigned char kOurClass = sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32;

/// A file, mapped; empty where it cannot be read.
class Image {
 public:
  explicit Image(const std::string &path) {
    const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat st {};
    if (fd && ::fstat(fd.get(), &st) == 0 && st.st_size > 0)
      map_ = Mapping(static_cast<std::size_t>(st.st_size), PROT_READ, MAP_PRIVATE, fd.get(), 0);
  }
  [[nodiscard]] std::string_view text() const noexcept {
    return {reinterpret_cast<const char *>(map_.data()), map_.size()};
  }
  /// false: not all of it is in the file.
  template <typename T>
  bool read(std::size_t at, T &out) const noexcept {
    if (map_.size() < sizeof out || at > map_.size() - sizeof out)
      return false;
    std::memcpy(&out, map_.data() + at, sizeof out);
    return true;
  }

 private:
  Mapping map_;
};

/// The kernel lets nobody preload into a program that has more rights than who starts it.
bool gains_rights(const std::string &path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0)
    return false;
  if ((st.st_mode & S_ISUID) != 0 && st.st_uid != ::geteuid())
    return true;
  if ((st.st_mode & S_ISGID) != 0 && (st.st_mode & S_IXGRP) != 0 && st.st_gid != ::getegid())
    return true;
  return ::geteuid() != 0 && ::getxattr(path.c_str(), "security.capability", nullptr, 0) > 0;
}

/// "#!INTERPRETER ARGUMENT": the interpreter, or nothing.
std::optional<std::string> script_interpreter(std::string_view text) {
  if (!text.starts_with("#!"))
    return std::nullopt;
  std::string_view line = text.substr(2, text.find('\n') - 2);
  line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  return std::string(line.substr(0, line.find_first_of(" \t\r")));
}

/// The dynamic linker that the program asks for; empty: none, so it is static.
std::string dynamic_linker(const Image &image, const Header &header) {
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Segment segment;
    if (!image.read(header.e_phoff + std::size_t{i} * header.e_phentsize, segment))
      break;
    if (segment.p_type == PT_INTERP && segment.p_offset < image.text().size()) {
      const std::string_view name = image.text().substr(segment.p_offset, segment.p_filesz);
      return std::string(name.substr(0, name.find('\0')));
    }
  }
  return {};
}

/// What a program prints; empty where it does not start.
std::string output_of(std::vector<std::string> command) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    return {};
  const Fd from(ends[0]);
  Fd to(ends[1]);
  std::vector<char *> argv;
  for (std::string &argument : command)
    argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, to.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = -1;
  const int failed = ::posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  to.reset();
  if (failed != 0)
    return {};
  std::string text;
  char part[4096];
  for (;;) {
    const ssize_t n = ::read(from.get(), part, sizeof part);
    if (n > 0)
      text.append(part, static_cast<std::size_t>(n));
    else if (n == 0 || errno != EINTR)
      break;
  }
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  return text;
}

/// Libraries of a dynamically linked program, all that they need included: the dynamic linker's own answer, which knows
/// of its cache, LD_LIBRARY_PATH and RUNPATH. It does not run the program.
std::vector<std::string> libraries_of(const std::string &linker, const std::string &path) {
  std::vector<std::string> names;
  std::istringstream lines(output_of({linker, "--list", path}));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    if (words >> name)
      names.push_back(name.substr(name.rfind('/') + 1));
  }
  return names;
}

Preloadable look_at_elf(const std::string &path, const Image &image, const Header &header) {
  if (header.e_ident[EI_CLASS] != kOurClass || header.e_ident[EI_DATA] != kOurByteOrder)
    return {false, "is for another architecture than efuse"};
  const std::string linker = dynamic_linker(image, header);
  if (linker.empty())
    return {false, "is statically linked"};
  const std::vector<std::string> libraries = libraries_of(linker, path);
  const auto has = [&](std::string_view start) {
    return std::any_of(libraries.begin(), libraries.end(), [=](auto &name) { return name.starts_with(start); });
  };
  if (has("libfuse3.so."))
    return {true, {}};
  if (image.text().find("libfuse3.so") != std::string_view::npos)
    return {true, {}};  // loads it when it wants it
  if (has("libfuse.so.2"))
    return {false, "uses libfuse 2"};
  return {true, "is not linked with libfuse3: only a program that it starts, or a library that it loads, can be taken over"};
}

}  // namespace

std::string find_program(const std::string &name) {
  if (name.find('/') != name.npos)
    return name;
  const char *variable = std::getenv("PATH");
  std::istringstream folders(variable != nullptr ? variable : "/bin:/usr/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string path = (folder.empty() ? "." : folder) + "/" + name;
    struct stat st {};
    if (::access(path.c_str(), X_OK) == 0 && ::stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode))
      return path;
  }
  return name;
}

Preloadable look_at_program(const std::string &path) {
  std::string program = path;
  for (int depth = 0; depth <= kMostInterpreters; ++depth) {
    if (gains_rights(program))
      return {false, "is set-user-ID, set-group-ID or has file capabilities"};
    const Image image(program);
    if (const auto interpreter = script_interpreter(image.text())) {
      program = *interpreter;
      continue;
    }
    Header header{};
    if (!image.read(0, header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
      return {true, {}};  // execve() will say what it thinks of it
    Preloadable seen = look_at_elf(program, image, header);
    if (depth > 0 && seen.possible)
      seen.remark.clear();  // nobody can tell what a script starts
    return seen;
  }
  return {true, {}};
}

}  // namespace efuse::cli
