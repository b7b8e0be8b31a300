// SPDX-License-Identifier: LGPL-2.1-or-later
// A tree of names, against a tree in memory: what each operation returns, and
// what there is afterwards.
#pragma once

#include "model.hh"

#include <sys/stat.h>

#include <map>
#include <memory>

namespace model {

class TreeRun : public Run {
 public:
  TreeRun(const Options &options, std::string root, std::uint64_t seed);
  ~TreeRun() override;
  TreeRun(const TreeRun &) = delete;
  TreeRun &operator=(const TreeRun &) = delete;

  void step() override;
  void finish() override;

 private:
  enum class Kind { kFile, kDirectory, kLink };
  struct Node {
    Kind kind = Kind::kFile;
    std::string data;                                      // contents of a file, target of a link
    mode_t mode = 0;
    std::map<std::string, std::shared_ptr<Node>> entries;  // of a directory
    unsigned links = 0;                                    // names, of what is not a directory
    ino_t ino = 0;                                         // as first seen
  };
  using NodePtr = std::shared_ptr<Node>;
  /// A path, and what the model says of it.
  struct Place {
    std::string path;
    NodePtr parent;               // nullptr: the path leads nowhere, with this error
    int error = 0;
    std::string name;
    NodePtr node;                 // nullptr: no such name
    std::vector<Node *> ancestors;  // of the name: the root first, the parent last
  };
  struct Open {
    int fd;
    NodePtr node;
  };

  Place place();
  std::string random_name();
  NodePtr walk(std::string &path, std::vector<Node *> &ancestors);
  /// The call returned `result`. True if it should and did succeed; Mismatch if it did what it should not.
  bool expect(const std::string &what, long result, const std::vector<int> &errors);

  void create();
  void make_directory();
  void make_link();
  void hard_link();
  void remove_file();
  void remove_directory();
  void rename();
  void write_file();
  void truncate_file();
  void change_mode();
  void look();
  void list();
  void open_file();
  void close_file();

  std::vector<int> rename_errors(const Place &from, const Place &to, unsigned flags) const;
  void add_short(std::string what);
  void add(const Place &at, NodePtr node);
  void remove(const Place &at);
  void check_node(const std::string &path, Node &node);
  void check_contents(int fd, const Node &node, const std::string &what);
  void check_directory(const std::string &path, Node &node);
  void check_tree(const std::string &path, Node &node);
  void check_open(const Open &open);

  const Options &options_;
  const std::string root_path_;
  Random random_;
  NodePtr root_ = std::make_shared<Node>();
  std::vector<Open> open_;
};

}  // namespace model
