// SPDX-License-Identifier: LGPL-2.1-or-later
// One regular file, through several descriptors and mappings, against a string.
// In the manner of fsx (Apple, NeXT), written anew.
#pragma once

#include "model.hh"

namespace model {

class FileRun : public Run {
 public:
  FileRun(const Options &options, std::string path, std::uint64_t seed);
  ~FileRun() override;
  FileRun(const FileRun &) = delete;
  FileRun &operator=(const FileRun &) = delete;

  void step() override;
  void finish() override;

 private:
  struct Range {
    std::size_t at, length;
    [[nodiscard]] std::size_t end() const noexcept { return at + length; }
  };
  struct Operation {
    const char *name;
    unsigned weight;
    void (FileRun::*run)();
  };
  static const std::vector<Operation> kOperations;

  // Where to work.
  Range range(std::size_t limit);     // not empty unless limit is 0, ends at `limit` at most
  Range page_range(std::size_t limit);
  std::size_t offset(std::size_t limit);
  int reader() { return fds_[random_.below(fds_.size())]; }
  int writer() { return fds_[random_.below(2)]; }

  // What is done.
  void read_some();
  void read_direct();
  void read_mapped();
  void write_some();
  void write_vector();
  void write_append();
  void write_direct();
  void write_mapped();
  void cut_or_extend();
  void allocate();
  void punch();
  void zero();
  void collapse();
  void insert();
  void copy();
  void sync();
  void reopen();
  void forget_pages();
  void seek();
  void map_for_long();

  // The model's side.
  void begin(const std::string &what, const Range &r);
  std::string fresh(std::size_t length);
  void put(std::size_t at, const std::string &data);
  void resize(std::size_t size);
  void move_tail(std::size_t from, std::size_t to);
  bool supported(long result, bool &has, const char *what);

  // The comparison.
  void compare(const char *data, const Range &r, const char *how);
  void check_size();
  void check_near();
  void check_all();
  void open_all();
  void close_all() noexcept;

  const Options &options_;
  const std::string path_;
  Random random_;
  std::string model_;
  std::vector<std::uint64_t> writer_of_;  // of each byte: the operation it is from, 0: a hole
  std::vector<int> fds_;                  // [0], [1] read and write, one of them O_SYNC; [2] reads
  int append_ = -1, direct_ = -1;
  char *mapping_ = nullptr;               // of options_.size bytes, kept across operations, or nullptr
  Range last_{0, 0};                      // what the last operation was about
  bool has_zero_ = true, has_collapse_ = true, has_insert_ = true;
};

}  // namespace model
