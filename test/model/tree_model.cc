// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tree_model.hh"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace model {
namespace {

constexpr std::size_t kMaxDepth = 6, kMaxOpen = 16;

std::string kind_name(mode_t mode) {
  return S_ISREG(mode) ? "a file" : S_ISDIR(mode) ? "a directory" : S_ISLNK(mode) ? "a link" : "something else";
}

struct stat stat_of(const std::string &path) {
  struct stat st {};
  must(::lstat(path.c_str(), &st), ("lstat " + path).c_str());
  return st;
}

}  // namespace

TreeRun::TreeRun(const Options &options, std::string root, std::uint64_t seed)
    : options_(options), root_path_(std::move(root)), random_(seed) {
  root_->kind = Kind::kDirectory;
  root_->mode = 0755;
  must(::mkdir(root_path_.c_str(), 0755), "mkdir");
}

TreeRun::~TreeRun() {
  for (const Open &o : open_) ::close(o.fd);
}

void TreeRun::step() {
  static constexpr struct {
    unsigned weight;
    void (TreeRun::*run)();
  } kOperations[] = {{10, &TreeRun::create},      {8, &TreeRun::make_directory}, {3, &TreeRun::make_link},
                     {6, &TreeRun::hard_link},    {8, &TreeRun::remove_file},    {5, &TreeRun::remove_directory},
                     {16, &TreeRun::rename},      {5, &TreeRun::write_file},     {2, &TreeRun::truncate_file},
                     {3, &TreeRun::change_mode},  {6, &TreeRun::look},           {4, &TreeRun::list},
                     {4, &TreeRun::open_file},    {4, &TreeRun::close_file}};
  unsigned total = 0;
  for (const auto &o : kOperations) total += o.weight;
  auto n = static_cast<unsigned>(random_.below(total));
  for (const auto &o : kOperations) {
    if (n < o.weight) {
      (this->*o.run)();
      break;
    }
    n -= o.weight;
  }
  if (random_.one_in(150)) check_tree(root_path_, *root_);
  if (options_.drop_caches && random_.one_in(400)) drop_caches();
}

void TreeRun::finish() {
  check_tree(root_path_, *root_);
  for (const Open &o : open_) check_open(o);
  drop_caches();
  check_tree(root_path_, *root_);
}

// ---- Where ----

/// Few, so that they meet; some of them long.
std::string TreeRun::random_name() {
  const auto n = random_.below(24);
  const std::string name = "n" + std::to_string(n);
  return n % 8 == 7 ? name + std::string(n == 23 ? 252 : 20 * n / 8, 'x') : name;
}

/// Down from the root, at random; `path` and `ancestors` grow with it.
TreeRun::NodePtr TreeRun::walk(std::string &path, std::vector<Node *> &ancestors) {
  NodePtr node = root_;
  for (std::size_t depth = random_.below(kMaxDepth);
       depth > 0 && node->kind == Kind::kDirectory && !node->entries.empty(); --depth) {
    auto it = node->entries.begin();
    std::advance(it, static_cast<long>(random_.below(node->entries.size())));
    if (it->second->kind != Kind::kDirectory && !random_.one_in(12)) break;  // mostly no parent that is none
    ancestors.push_back(node.get());
    path += "/" + it->first;
    node = it->second;
  }
  return node;
}

TreeRun::Place TreeRun::place() {
  Place p;
  p.path = root_path_;
  NodePtr parent = walk(p.path, p.ancestors);
  p.ancestors.push_back(parent.get());
  if (parent->kind == Kind::kDirectory) {
    p.parent = parent;
    p.name = random_name();
    if (!parent->entries.empty() && random_.one_in(2)) {
      auto it = parent->entries.begin();
      std::advance(it, static_cast<long>(random_.below(parent->entries.size())));
      p.name = it->first;
    }
    const auto found = parent->entries.find(p.name);
    if (found != parent->entries.end()) p.node = found->second;
  } else {
    p.error = parent->kind == Kind::kLink ? ENOENT : ENOTDIR;  // links lead nowhere here
    p.name = random_name();
  }
  p.path += "/" + p.name;
  return p;
}

bool TreeRun::expect(const std::string &what, long result, const std::vector<int> &errors) {
  const int error = result == -1 ? errno : 0;
  add_short(what);
  history_.result(error == 0 ? "ok" : error_name(error));
  const bool right = errors.empty() ? error == 0 : std::find(errors.begin(), errors.end(), error) != errors.end();
  if (right) return error == 0;
  std::string wanted = errors.empty() ? "success" : "";
  for (const int e : errors) wanted += (wanted.empty() ? "" : " or ") + error_name(e);
  throw Mismatch(what + ": expected " + wanted + ", got " + (error == 0 ? "success" : error_name(error)));
}

/// Without the part of the paths that is always the same, and long names cut.
void TreeRun::add_short(std::string what) {
  for (std::size_t at; (at = what.find(root_path_)) != std::string::npos;) what.erase(at, root_path_.size());
  for (std::size_t at; (at = what.find("xxxx")) != std::string::npos;)
    what.replace(at, std::min(what.find_first_not_of("x", at), what.size()) - at, "~");
  history_.add(std::move(what));
}

void TreeRun::add(const Place &at, NodePtr node) {
  if (node->kind != Kind::kDirectory) ++node->links;
  at.parent->entries[at.name] = std::move(node);
}

void TreeRun::remove(const Place &at) {
  if (at.node->kind != Kind::kDirectory) --at.node->links;
  at.parent->entries.erase(at.name);
}

// ---- Operations ----

void TreeRun::create() {
  const Place p = place();
  const bool exclusive = random_.one_in(2);
  const mode_t mode = static_cast<mode_t>(0600 | random_.below(0100));
  std::vector<int> errors;
  if (p.parent == nullptr) errors = {p.error};
  else if (p.node != nullptr && exclusive) errors = {EEXIST};
  else if (p.node != nullptr && p.node->kind == Kind::kDirectory) errors = {EISDIR};
  else if (p.node != nullptr && p.node->kind == Kind::kLink) errors = {ELOOP};
  const int fd = ::open(p.path.c_str(), O_CREAT | O_WRONLY | O_NOFOLLOW | (exclusive ? O_EXCL : 0), mode);
  if (!expect(std::string(exclusive ? "create new " : "create ") + p.path, fd, errors)) return;
  ::close(fd);
  if (p.node != nullptr) return;
  auto node = std::make_shared<Node>();
  node->mode = mode;
  add(p, std::move(node));
}

void TreeRun::make_directory() {
  const Place p = place();
  std::vector<int> errors;
  if (p.parent == nullptr) errors = {p.error};
  else if (p.node != nullptr) errors = {EEXIST};
  if (!expect("mkdir " + p.path, ::mkdir(p.path.c_str(), 0750), errors)) return;
  auto node = std::make_shared<Node>();
  node->kind = Kind::kDirectory;
  node->mode = 0750;
  add(p, std::move(node));
}

void TreeRun::make_link() {
  const Place p = place();
  const std::string target = "nowhere-" + std::to_string(history_.count()) + std::string(random_.below(200), 't');
  std::vector<int> errors;
  if (p.parent == nullptr) errors = {p.error};
  else if (p.node != nullptr) errors = {EEXIST};
  if (!expect("symlink " + p.path, ::symlink(target.c_str(), p.path.c_str()), errors)) return;
  auto node = std::make_shared<Node>();
  node->kind = Kind::kLink;
  node->mode = 0777;
  node->data = target;
  add(p, std::move(node));
}

void TreeRun::hard_link() {
  const Place from = place(), to = place();
  std::vector<int> errors;
  for (const Place *p : {&from, &to})
    if (p->parent == nullptr) errors.push_back(p->error);
  if (from.parent != nullptr && from.node == nullptr) errors.push_back(ENOENT);
  if (to.node != nullptr) errors.push_back(EEXIST);
  if (from.node != nullptr && from.node->kind == Kind::kDirectory) errors.push_back(EPERM);
  if (expect("link " + from.path + " " + to.path, ::link(from.path.c_str(), to.path.c_str()), errors))
    add(to, from.node);
}

void TreeRun::remove_file() {
  const Place p = place();
  std::vector<int> errors;
  if (p.parent == nullptr) errors = {p.error};
  else if (p.node == nullptr) errors = {ENOENT};
  else if (p.node->kind == Kind::kDirectory) errors = {EISDIR};
  if (expect("unlink " + p.path, ::unlink(p.path.c_str()), errors)) remove(p);
}

void TreeRun::remove_directory() {
  const Place p = place();
  std::vector<int> errors;
  if (p.parent == nullptr) errors = {p.error};
  else if (p.node == nullptr) errors = {ENOENT};
  else if (p.node->kind != Kind::kDirectory) errors = {ENOTDIR};
  else if (!p.node->entries.empty()) errors = {ENOTEMPTY};
  if (expect("rmdir " + p.path, ::rmdir(p.path.c_str()), errors)) remove(p);
}

/// All that apply: which of them is reported first is the kernel's to choose.
std::vector<int> TreeRun::rename_errors(const Place &from, const Place &to, unsigned flags) const {
  const auto below = [](const Place &p, const NodePtr &node) {
    return node != nullptr && std::find(p.ancestors.begin(), p.ancestors.end(), node.get()) != p.ancestors.end();
  };
  std::vector<int> errors;
  for (const Place *p : {&from, &to})
    if (p->parent == nullptr) errors.push_back(p->error);
  if (from.parent == nullptr || to.parent == nullptr) return errors;
  const bool exchange = (flags & RENAME_EXCHANGE) != 0;
  if (from.node == nullptr) errors.push_back(ENOENT);
  if (to.node == nullptr && exchange) errors.push_back(ENOENT);
  if (to.node != nullptr && (flags & RENAME_NOREPLACE) != 0) errors.push_back(EEXIST);
  if (below(to, from.node)) errors.push_back(EINVAL);
  if (below(from, to.node)) errors.push_back(exchange ? EINVAL : ENOTEMPTY);
  if (from.node == nullptr || to.node == nullptr || exchange || from.node == to.node) return errors;
  const bool directory = from.node->kind == Kind::kDirectory, onto = to.node->kind == Kind::kDirectory;
  if (directory && !onto) errors.push_back(ENOTDIR);
  if (!directory && onto) errors.push_back(EISDIR);
  if (directory && onto && !to.node->entries.empty()) errors.push_back(ENOTEMPTY);
  return errors;
}

void TreeRun::rename() {
  const Place from = place(), to = place();
  constexpr unsigned kFlags[] = {0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
  const unsigned flags = kFlags[random_.below(4)];
  const std::string what = flags == 0 ? "rename " : flags == RENAME_EXCHANGE ? "exchange " : "rename, no replace, ";
  const long result = ::renameat2(AT_FDCWD, from.path.c_str(), AT_FDCWD, to.path.c_str(), flags);
  if (!expect(what + from.path + " " + to.path, result, rename_errors(from, to, flags))) return;
  if (from.node == to.node) return;  // two names of one file: nothing happens
  if ((flags & RENAME_EXCHANGE) != 0) return std::swap(from.parent->entries[from.name], to.parent->entries[to.name]);
  if (to.node != nullptr) remove(to);
  remove(from);
  add(to, from.node);
}

void TreeRun::write_file() {
  const Place p = place();
  if (p.node == nullptr || p.node->kind != Kind::kFile) return;
  const std::string data = "operation " + std::to_string(history_.count()) + std::string(random_.below(6000), '.');
  const int fd = static_cast<int>(must(::open(p.path.c_str(), O_WRONLY | O_APPEND), "open to write"));
  const ssize_t n = ::write(fd, data.data(), data.size());
  expect("write " + std::to_string(data.size()) + " to " + p.path, n == static_cast<ssize_t>(data.size()) ? 0 : -1, {});
  ::close(fd);
  p.node->data += data;
}

void TreeRun::truncate_file() {
  const Place p = place();
  if (p.node == nullptr || p.node->kind != Kind::kFile) return;
  const std::size_t size = random_.below(5000);
  if (expect("truncate " + p.path, ::truncate(p.path.c_str(), static_cast<off_t>(size)), {}))
    p.node->data.resize(size, '\0');
}

void TreeRun::change_mode() {
  const Place p = place();
  if (p.node == nullptr || p.node->kind == Kind::kLink) return;
  const auto mode = static_cast<mode_t>(0700 | random_.below(0100));
  if (expect("chmod " + p.path, ::chmod(p.path.c_str(), mode), {})) p.node->mode = mode;
}

void TreeRun::look() {
  const Place p = place();
  std::vector<int> errors;
  if (p.parent == nullptr) errors = {p.error};
  else if (p.node == nullptr) errors = {ENOENT};
  struct stat st;
  if (expect("stat " + p.path, ::lstat(p.path.c_str(), &st), errors)) check_node(p.path, *p.node);
}

void TreeRun::list() {
  const Place p = place();
  if (p.parent == nullptr) return;
  const std::string path = p.path.substr(0, p.path.size() - p.name.size() - 1);
  add_short("list " + path);
  check_directory(path, *p.parent);
}

void TreeRun::open_file() {
  const Place p = place();
  if (p.node == nullptr || p.node->kind != Kind::kFile || open_.size() >= kMaxOpen) return;
  add_short("open " + p.path);
  open_.push_back({static_cast<int>(must(::open(p.path.c_str(), O_RDWR), "open to keep")), p.node});
}

void TreeRun::close_file() {
  if (open_.empty()) return;
  history_.add("look at an open file and close it");
  const std::size_t i = random_.below(open_.size());
  check_open(open_[i]);
  ::close(open_[i].fd);
  open_.erase(open_.begin() + static_cast<long>(i));
}

// ---- The comparison ----

void TreeRun::check_node(const std::string &path, Node &node) {
  const struct stat st = stat_of(path);
  const mode_t type = node.kind == Kind::kFile ? S_IFREG : node.kind == Kind::kDirectory ? S_IFDIR : S_IFLNK;
  if ((st.st_mode & S_IFMT) != type)
    throw Mismatch(path + " is " + kind_name(st.st_mode) + ", expected " + kind_name(type));
  if ((st.st_mode & 07777) != node.mode) throw Mismatch(path + ": wrong permissions");
  if (node.ino == 0) node.ino = st.st_ino;
  if (node.ino != st.st_ino)
    throw Mismatch(path + ": inode " + std::to_string(st.st_ino) + ", was " + std::to_string(node.ino));
  if (node.kind == Kind::kDirectory) return;
  if (st.st_nlink != node.links)
    throw Mismatch(path + ": " + std::to_string(st.st_nlink) + " links, expected " + std::to_string(node.links));
  if (static_cast<std::size_t>(st.st_size) != node.data.size())
    throw Mismatch(path + ": size " + std::to_string(st.st_size) + ", expected " + std::to_string(node.data.size()));
}

void TreeRun::check_contents(int fd, const Node &node, const std::string &what) {
  std::string data(node.data.size() + 1, '\0');
  const auto n = static_cast<std::size_t>(must(::pread(fd, data.data(), data.size(), 0), "pread"));
  data.resize(n);
  if (data != node.data) throw Mismatch(what + ": contents differ (" + std::to_string(n) + " bytes)");
}

void TreeRun::check_directory(const std::string &path, Node &node) {
  DIR *dir = ::opendir(path.c_str());
  if (dir == nullptr) failed("opendir " + path, errno);
  std::map<std::string, unsigned> names;
  ino_t parent = 0;
  while (const dirent *entry = ::readdir(dir)) {
    ++names[entry->d_name];
    if (std::string(entry->d_name) == "..") parent = entry->d_ino;
  }
  ::closedir(dir);
  unsigned directories = 2;
  for (const auto &[name, child] : node.entries) {
    directories += child->kind == Kind::kDirectory;
    if (names.erase(name) == 0) throw Mismatch(path + ": no " + name);
  }
  for (const char *dots : {".", ".."})
    if (names.erase(dots) == 0) throw Mismatch(path + ": no " + dots);
  if (!names.empty()) throw Mismatch(path + ": there is " + names.begin()->first);
  const struct stat st = stat_of(path);
  if (st.st_nlink != directories)
    throw Mismatch(path + ": " + std::to_string(st.st_nlink) + " links, expected " + std::to_string(directories));
  if (parent != stat_of(path + "/..").st_ino) throw Mismatch(path + ": .. is another directory in the listing");
}

void TreeRun::check_tree(const std::string &path, Node &node) {
  check_node(path, node);
  if (node.kind == Kind::kLink) {
    char target[4096];
    const auto n = static_cast<std::size_t>(must(::readlink(path.c_str(), target, sizeof target), "readlink"));
    if (std::string(target, n) != node.data) throw Mismatch(path + ": wrong target");
  } else if (node.kind == Kind::kFile) {
    const int fd = static_cast<int>(must(::open(path.c_str(), O_RDONLY), ("open " + path).c_str()));
    check_contents(fd, node, path);
    ::close(fd);
  } else {
    check_directory(path, node);
    const ino_t self = stat_of(path).st_ino;
    for (const auto &[name, child] : node.entries) {
      const std::string below = path + "/" + name;
      if (child->kind == Kind::kDirectory && stat_of(below + "/..").st_ino != self)
        throw Mismatch(below + "/.. is not " + path);
      check_tree(below, *child);
    }
  }
}

/// Also when its last name is gone.
void TreeRun::check_open(const Open &open) {
  struct stat st;
  must(::fstat(open.fd, &st), "fstat");
  if (st.st_nlink != open.node->links)
    throw Mismatch("an open file has " + std::to_string(st.st_nlink) + " links, expected " +
                   std::to_string(open.node->links));
  check_contents(open.fd, *open.node, "an open file");
}

}  // namespace model
