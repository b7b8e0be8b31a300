// SPDX-License-Identifier: LGPL-2.1-or-later
#include "mount.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <array>
#include <charconv>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

extern char **environ;

namespace efuse {
namespace {

constexpr const char *kDevice = "/dev/fuse";
constexpr const char *kHelper = "fusermount3";

struct FlagOption {
  std::string_view name;
  unsigned long flag;
  bool set;
};
constexpr FlagOption kFlags[] = {
    {"rw", MS_RDONLY, false},           {"ro", MS_RDONLY, true},
    {"suid", MS_NOSUID, false},         {"nosuid", MS_NOSUID, true},
    {"dev", MS_NODEV, false},           {"nodev", MS_NODEV, true},
    {"exec", MS_NOEXEC, false},         {"noexec", MS_NOEXEC, true},
    {"async", MS_SYNCHRONOUS, false},   {"sync", MS_SYNCHRONOUS, true},
    {"atime", MS_NOATIME, false},       {"noatime", MS_NOATIME, true},
    {"diratime", MS_NODIRATIME, false}, {"nodiratime", MS_NODIRATIME, true},
    {"norelatime", MS_RELATIME, false}, {"relatime", MS_RELATIME, true},
    {"dirsync", MS_DIRSYNC, true},      {"lazytime", MS_LAZYTIME, true},
    {"nostrictatime", MS_STRICTATIME, false}, {"strictatime", MS_STRICTATIME, true},
    {"symfollow", MS_NOSYMFOLLOW, false}, {"nosymfollow", MS_NOSYMFOLLOW, true},
};

// Options of the kernel's fuse filesystem; those that end in '=' take a value.
constexpr std::string_view kKernelOptions[] = {"allow_other", "default_permissions", "max_read=",    "blksize=",
                                               "context=",    "fscontext=",          "defcontext=", "rootcontext="};
constexpr std::string_view kOwnOptions[] = {"fd=", "rootmode=", "user_id=", "group_id="};
// What mount(8) and fstab(5) keep to themselves.
constexpr std::string_view kIgnored[] = {"auto", "noauto", "user",   "nouser",  "users", "owner",
                                         "group", "nofail", "_netdev", "defaults", "user=", "nogroup", "noowner",
                                         "nousers", "helper=", "uhelper=", "loud", "silent"};

bool matches(std::string_view option, std::string_view pattern) {
  if (pattern.back() == '=')
    return option.size() > pattern.size() && option.substr(0, pattern.size()) == pattern;
  return option == pattern;
}

template <typename Range>
bool matches_any(std::string_view option, const Range &patterns) {
  for (std::string_view pattern : patterns)
    if (matches(option, pattern))
      return true;
  return false;
}

void append(std::string &list, std::string_view item) {
  if (!list.empty())
    list += ',';
  list += item;
}

bool ignored(std::string_view option) {
  return matches_any(option, kIgnored) || option.substr(0, 2) == "x-" || matches(option, "comment=");
}

/// `key=VALUE`: VALUE; nothing where the option is another one.
std::optional<std::string_view> value_of(std::string_view option, std::string_view key) {
  if (!matches(option, key))
    return std::nullopt;
  return option.substr(key.size());
}

bool take_flag(std::string_view option, ParsedMountOptions &out) {
  for (const FlagOption &f : kFlags) {
    if (f.name != option)
      continue;
    out.flags = f.set ? out.flags | f.flag : out.flags & ~f.flag;
    append(out.helper, option);
    return true;
  }
  return false;
}

unsigned number_of(std::string_view option, std::string_view value) {
  unsigned number = 0;
  auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size())
    throw std::invalid_argument(fmt::format("mount option '{}': expected a number", option));
  return number;
}

void take_option(const std::string &option, ParsedMountOptions &out) {
  if (take_flag(option, out) || ignored(option))
    return;
  if (auto max_read = value_of(option, "max_read="))
    out.max_read = number_of(option, *max_read);
  if (matches_any(option, kKernelOptions)) {
    append(out.data, option);
    append(out.helper, escape_mount_value(option));
  } else if (auto fsname = value_of(option, "fsname=")) {
    out.fsname = *fsname;
  } else if (auto subtype = value_of(option, "subtype=")) {
    out.subtype = *subtype;
  } else if (option == "allow_root") {
    out.allow_root = true;
    append(out.data, "allow_other");
    append(out.helper, "allow_other");
  } else if (option == "blkdev") {
    out.blkdev = true;
    append(out.helper, option);
  } else if (option == "auto_unmount") {
    out.auto_unmount = true;
  } else if (option == "nonempty") {
    out.nonempty = true;
  } else if (option == "debug") {
    out.debug = true;
  } else if (matches_any(option, kOwnOptions)) {
    throw std::invalid_argument(fmt::format("mount option '{}' is set by efuse itself", option));
  } else {
    throw std::invalid_argument(fmt::format("unknown mount option '{}'", option));
  }
}

/// mountinfo writes space, tab, newline and backslash as \ooo.
std::string unescape_octal(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    auto digit = [&](std::size_t k) { return i + k < text.size() && text[i + k] >= '0' && text[i + k] <= '7'; };
    if (text[i] == '\\' && digit(1) && digit(2) && digit(3)) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string errno_text(int error) { return std::generic_category().message(error); }

[[noreturn]] void fail(const std::string &where, const std::string &why) {
  throw std::runtime_error(fmt::format("cannot mount on {}: {}", where, why));
}

bool is_fuse(const std::string &type) {
  return type == "fuse" || type == "fuseblk" || type.starts_with("fuse.") || type.starts_with("fuseblk.");
}

/// The reason why a mountpoint that cannot even be looked at is of no use.
[[noreturn]] void fail_to_look(const std::string &given, int error) {
  switch (error) {
    case ENOENT:
      fail(given, "no such file or directory; create the mountpoint first");
    case ENOTCONN:
    case ECONNABORTED:
      fail(given, fmt::format("{} (a dead daemon left its mount there; remove it with: fusermount3 -u {})",
                              error == ENOTCONN ? "transport endpoint is not connected" : "connection aborted",
                              given));
    case EACCES: {
      std::error_code ignored_error;
      auto lexical = std::filesystem::absolute(given, ignored_error).lexically_normal().string();
      if (auto entry = find_mount(lexical); entry && is_fuse(entry->type))
        fail(given, fmt::format("busy: {} ({}) is mounted there by another user", entry->source, entry->type));
      fail(given, "permission denied");
    }
    default:
      fail(given, errno_text(error));
  }
}

struct Mountpoint {
  std::string path;
  mode_t type;
};

Mountpoint look_at_mountpoint(const std::string &given, bool nonempty) {
  if (given.empty())
    throw std::runtime_error("no mountpoint given");
  struct stat st {};
  if (::stat(given.c_str(), &st) != 0)
    fail_to_look(given, errno);
  if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
    fail(given, "neither a directory nor a regular file");
  std::array<char, PATH_MAX> resolved;
  if (::realpath(given.c_str(), resolved.data()) == nullptr)
    fail_to_look(given, errno);
  Mountpoint point{resolved.data(), st.st_mode & S_IFMT};
  if (auto entry = find_mount(point.path); entry && is_fuse(entry->type) && !nonempty)
    fail(given, fmt::format("busy: {} ({}) is already mounted there; unmount it with: fusermount3 -u {}",
                            entry->source, entry->type, given));
  return point;
}

Fd open_device(const std::string &where) {
  int fd = ::open(kDevice, O_RDWR | O_CLOEXEC);
  if (fd >= 0)
    return Fd(fd);
  if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
    fail(where, fmt::format("{} is missing; load the kernel's fuse module: modprobe fuse", kDevice));
  fail(where, fmt::format("{}: {}", kDevice, errno_text(errno)));
}

/// The helper prints "fusermount3: why"; its last line is the one that counts.
std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n')
    text.pop_back();
  if (auto newline = text.rfind('\n'); newline != std::string::npos)
    text.erase(0, newline + 1);
  return text;
}

std::string read_all(int fd) {
  std::string text;
  std::array<char, 1024> part;
  for (;;) {
    ssize_t n = ::read(fd, part.data(), part.size());
    if (n > 0)
      text.append(part.data(), static_cast<std::size_t>(n));
    else if (n == 0 || errno != EINTR)
      return text;
  }
}

/// Start fusermount3. `socket` is what it sends the descriptor through, -1 for none; `error_output` becomes its
/// stderr. Signals are unblocked in it: it must not inherit what a daemon's threads keep out.
pid_t spawn_helper(const std::vector<std::string> &arguments, int socket, int error_output) {
  std::vector<char *> argv{const_cast<char *>(kHelper)};
  for (const std::string &argument : arguments)
    argv.push_back(const_cast<char *>(argument.c_str()));
  argv.push_back(nullptr);
  std::string comm = fmt::format("_FUSE_COMMFD={}", socket);
  std::vector<char *> envp;
  for (char **e = environ; *e != nullptr; ++e)
    if (std::strncmp(*e, "_FUSE_COMMFD=", 13) != 0)
      envp.push_back(*e);
  if (socket >= 0)
    envp.push_back(comm.data());
  envp.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_adddup2(&actions, error_output, STDERR_FILENO);
  if (socket >= 0)
    posix_spawn_file_actions_adddup2(&actions, socket, socket);  // onto itself: clears close-on-exec
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t pid = -1;
  int error = posix_spawnp(&pid, kHelper, &actions, &attributes, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0)
    throw std::system_error(error, std::generic_category(), kHelper);
  return pid;
}

/// Exit status of a helper that is known to end by itself; -1: nobody knows (SIGCHLD is ignored, say).
int wait_for(pid_t pid) noexcept {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0)
    if (errno != EINTR)
      return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// Receive the one descriptor that fusermount3 sends; none: it has ended without.
Fd receive_fd(int socket) {
  char byte = 0;
  iovec iov{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t n;
  do {
    n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  const cmsghdr *header = n > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
    return Fd();
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return Fd(fd);
}

struct Pipe {
  Fd read, write;
};
/// Both ends above the standard descriptors, which spawn_helper() replaces.
Fd above_stdio(int fd) {
  if (fd > STDERR_FILENO)
    return Fd(fd);
  Fd low(fd);
  return checked_fd(::fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1), "fcntl");
}
Pipe make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "pipe");
  Fd second(ends[1]);
  Fd read = above_stdio(ends[0]);
  return {std::move(read), above_stdio(second.release())};
}
Pipe make_socket_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw std::system_error(errno, std::generic_category(), "socketpair");
  Fd second(ends[1]);
  Fd read = above_stdio(ends[0]);
  return {std::move(read), above_stdio(second.release())};
}

/// Run `fusermount3 -u`; true: it says that the mount is gone.
bool helper_unmounts(const std::string &path, bool lazy) noexcept try {
  std::vector<std::string> arguments{"-u", "-q"};
  if (lazy)
    arguments.emplace_back("-z");
  arguments.insert(arguments.end(), {"--", path});
  Pipe errors = make_pipe();
  pid_t pid = spawn_helper(arguments, -1, errors.write.get());
  errors.write.reset();
  read_all(errors.read.get());
  return wait_for(pid) == 0;
} catch (const std::exception &) {
  return false;
}

}  // namespace

std::string escape_mount_value(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == ',' || c == '\\')
      out += '\\';
    out += c;
  }
  return out;
}

std::vector<std::string> split_mount_options(std::string_view text) {
  std::vector<std::string> parts(1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size())
      parts.back() += text[++i];
    else if (text[i] == ',')
      parts.emplace_back();
    else
      parts.back() += text[i];
  }
  std::erase(parts, std::string());
  return parts;
}

ParsedMountOptions parse_mount_options(const MountOptions &options) {
  ParsedMountOptions out;
  out.flags = MS_NOSUID | MS_NODEV;
  out.fsname = options.fsname;
  out.subtype = options.subtype;
  for (const std::string &element : options.options)
    for (const std::string &option : split_mount_options(element))
      take_option(option, out);
  if (out.auto_unmount)
    append(out.helper, "auto_unmount");
  if (!out.fsname.empty())
    append(out.helper, "fsname=" + escape_mount_value(out.fsname));
  if (!out.subtype.empty())
    append(out.helper, "subtype=" + escape_mount_value(out.subtype));
  return out;
}

std::optional<MountEntry> find_mount(std::istream &mountinfo, std::string_view path) {
  // ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS
  std::optional<MountEntry> found;
  for (std::string line; std::getline(mountinfo, line);) {
    std::istringstream fields(line);
    std::string id, parent, root, word;
    MountEntry entry;
    fields >> id >> parent >> entry.device >> root >> entry.point;
    entry.point = unescape_octal(entry.point);
    if (entry.point != path)
      continue;
    while (fields >> word && word != "-") {
    }
    fields >> entry.type >> entry.source;
    entry.type = unescape_octal(entry.type);
    entry.source = unescape_octal(entry.source);
    found = std::move(entry);
  }
  return found;
}

std::optional<MountEntry> find_mount(std::string_view path) {
  std::ifstream mountinfo("/proc/self/mountinfo");
  return find_mount(mountinfo, path);
}

FuseMount::FuseMount(const std::string &mountpoint, const ParsedMountOptions &options) {
  Mountpoint point = look_at_mountpoint(mountpoint, options.nonempty);
  path_ = point.path;
  // Only fusermount3 can stay behind to unmount for a process that has died.
  if (options.auto_unmount || !mount_directly(point.type, options))
    mount_through_helper(options);
  if (auto entry = find_mount(path_))
    device_ = entry->device;
}

FuseMount::~FuseMount() { unmount(); }

/// false: this process may not mount, the helper has to.
bool FuseMount::mount_directly(mode_t root_type, const ParsedMountOptions &options) {
  Fd device = open_device(path_);
  std::string data = fmt::format("fd={},rootmode={:o},user_id={},group_id={}", device.get(), root_type,
                                 ::getuid(), ::getgid());
  if (!options.data.empty())
    append(data, options.data);
  if (data.size() >= static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)))
    fail(path_, "the mount options are too long");
  std::string type = options.blkdev ? "fuseblk" : "fuse";
  if (!options.subtype.empty())
    type += "." + options.subtype;
  const std::string &source = !options.fsname.empty() ? options.fsname : type;
  if (::mount(source.c_str(), path_.c_str(), type.c_str(), options.flags, data.c_str()) == 0) {
    fd_ = std::move(device);
    return true;
  }
  int error = errno;
  if (error == EPERM)
    return false;
  if (error == ENODEV)
    fail(path_, "this kernel has no fuse filesystem; load its module: modprobe fuse");
  if (error == EINVAL)
    fail(path_, fmt::format("the kernel refuses the mount options '{}'", options.data));
  fail(path_, errno_text(error));
}

void FuseMount::mount_through_helper(const ParsedMountOptions &options) {
  Pipe errors = make_pipe();
  Pipe comm = make_socket_pair();
  try {
    helper_pid_ = spawn_helper({"-o", options.helper, "--", path_}, comm.write.get(), errors.write.get());
  } catch (const std::system_error &e) {
    fail(path_, e.code().value() == ENOENT
                    ? fmt::format("{} is not installed (package fuse3), and this process may not mount", kHelper)
                    : std::string(e.what()));
  }
  comm.write.reset();
  errors.write.reset();
  fd_ = receive_fd(comm.read.get());
  if (!fd_) {
    std::string why = last_line(read_all(errors.read.get()));
    wait_for(helper_pid_);
    helper_pid_ = -1;
    fail(path_, why.empty() ? fmt::format("{} failed without a word", kHelper) : why);
  }
  if (options.auto_unmount) {
    helper_socket_ = std::move(comm.read);
  } else {
    wait_for(helper_pid_);
    helper_pid_ = -1;
  }
}

bool FuseMount::mounted() const noexcept try {
  if (done_ || path_.empty())
    return false;
  if (device_.empty())
    return true;
  auto entry = find_mount(path_);
  return entry && entry->device == device_;
} catch (const std::exception &) {
  return true;  // out of memory: rather try to unmount than leave it
}

bool FuseMount::unmount() noexcept {
  bool gone = true;
  if (mounted() && ::umount2(path_.c_str(), UMOUNT_NOFOLLOW) != 0) {
    switch (errno) {
      case EBUSY:
        gone = ::umount2(path_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0;
        break;
      case EPERM:
        gone = helper_unmounts(path_, false) || helper_unmounts(path_, true);
        break;
      default:
        gone = !mounted();
    }
  }
  end_helper();
  done_ = gone;
  return gone;
}

void FuseMount::disconnect() noexcept {
  Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (null && fd_)
    ::dup3(null.get(), fd_.get(), O_CLOEXEC);
}

/// The helper of auto_unmount ends when its socket does. It is not waited for without limit: a process that
/// the filesystem has forked may hold the socket as well.
void FuseMount::end_helper() noexcept {
  if (helper_pid_ < 0)
    return;
  helper_socket_.reset();
  for (int i = 0; i < 100; ++i) {
    pid_t ended = ::waitpid(helper_pid_, nullptr, WNOHANG);
    if (ended == helper_pid_ || (ended < 0 && errno != EINTR))
      break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  helper_pid_ = -1;
}

}  // namespace efuse
