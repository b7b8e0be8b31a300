// SPDX-License-Identifier: LGPL-2.1-or-later
// Rings that are detached while the filesystem holds requests of theirs, and attached again.
#include "checks.hh"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace protocol_test {
namespace {

constexpr unsigned kReaders = 8;

/// Processes that each wait for one READ of a file of their own, and one for a MKDIR.
class Waiting {
 public:
  explicit Waiting(Checks &c, const std::string &tag) : c_(c) {
    for (unsigned i = 0; i < kReaders; ++i) {
      const std::string name = "park-direct-" + tag + std::to_string(i);
      make_file(c.at(name), "content of " + name);
      processes_.push_back(std::make_unique<Process>(
          [&c, name] { return read_file(c.at(name)) == "content of " + name ? 0 : 1; }));
    }
    processes_.push_back(std::make_unique<Process>(
        [&c, tag] { return ::mkdir(c.at("park-dir-" + tag).c_str(), 0755) == 0 ? 0 : errno; }));
    if (!eventually([&] { return c.server.number("parked") == kReaders + 1; }))
      throw Failed(std::to_string(c.server.number("parked")) + " of " + std::to_string(kReaders + 1) +
                   " requests are with the filesystem;" + where());
  }

  /// Answer whatever waits until all are done: a reader asks until the end of its file.
  void finish() {
    EXPECT(eventually([&] {
      if (c_.server.number("release") < 0) return false;
      for (auto &process : processes_)
        if (process->wait(0) == -1) return false;
      return true;
    }));
    for (auto &process : processes_) EXPECT(process->wait() == 0);
    EXPECT(c_.server.number("parked") == 0);
  }

 private:
  std::string where() {
    std::string all;
    for (std::size_t i = 0; i < processes_.size(); ++i)
      all += "\n     process " + std::to_string(i) +
             (processes_[i]->wait(0) == -1 ? " waits:\n" + processes_[i]->kernel_stack() : " has ended");
    return all;
  }

  Checks &c_;
  std::vector<std::unique_ptr<Process>> processes_;
};

void use(Checks &c, const std::string &transport) {
  EXPECT(c.server.number("set session.transport=" + transport) == 0);
  EXPECT(c.server.stat()["transport"] == transport);
}

void held_over_detach(Checks &c) {
  const long mkdirs = c.server.number("mkdirs");
  const long stock = c.server.count("MKDIR", "stock");
  Waiting waiting(c, "a");
  use(c, "dev");
  make_file(c.at("other/meanwhile"), "by dev");
  EXPECT(read_file(c.at("other/meanwhile")) == "by dev");
  EXPECT(c.server.number("parked") == kReaders + 1);  // asked once
  waiting.finish();
  EXPECT(c.server.number("mkdirs") == mkdirs + 1);
  EXPECT(c.server.count("MKDIR", "stock") >= stock);
  use(c, "ring");
}

void held_over_both(Checks &c) {
  const long mkdirs = c.server.number("mkdirs");
  Waiting waiting(c, "b");
  for (int i = 0; i < 2; ++i) {
    use(c, "dev");
    use(c, "ring");
  }
  const long ring = c.server.count("MKDIR", "ring");
  OK(::mkdir(c.at("other/by-the-new-ring").c_str(), 0755));
  EXPECT(c.server.count("MKDIR", "ring") == ring + 1);
  EXPECT(c.server.number("parked") == kReaders + 1);
  waiting.finish();
  EXPECT(c.server.number("mkdirs") == mkdirs + 2);
}

/// Replies that come just when the rings go: each is given once, by the one way or the other.
void answered_during_detach(Checks &c) {
  const long mkdirs = c.server.number("mkdirs");
  std::mt19937 random(7);
  for (unsigned round = 0; round < 10; ++round) {
    Waiting waiting(c, "c" + std::to_string(round) + "-");
    // The server takes one command at a time: it answers by itself meanwhile, a little later each round.
    EXPECT(c.server.number("release_after " + std::to_string(440 + random() % 300)) == 0);
    use(c, "dev");
    waiting.finish();
    use(c, "ring");
  }
  EXPECT(c.server.number("mkdirs") == mkdirs + 10);
}

void interrupted_after_detach(Checks &c) {
  make_file(c.at("park-direct-gone"), "x");
  const long before = c.server.number("interrupts");
  Process reader([&] { return read_file(c.at("park-direct-gone")) == "x" ? 0 : 1; });
  EXPECT(eventually([&] { return c.server.number("parked") == 1; }));
  use(c, "dev");
  reader.kill(SIGKILL);
  EXPECT(eventually([&] { return c.server.number("interrupts") > before; }));
  EXPECT(c.server.number("parked") == 0);
  use(c, "ring");
}

}  // namespace

void check_detach(Checks &c) {
  OK(::mkdir(c.at("other").c_str(), 0755));  // the MKDIR that waits keeps the root directory locked
  c.run("detach: requests that the filesystem holds are answered once", {}, [&] { held_over_detach(c); });
  c.run("detach: and over several attachments", {}, [&] { held_over_both(c); });
  c.run("detach: replies given while the rings go", {}, [&] { answered_during_detach(c); });
  c.run("detach: an interrupt finds its request", {}, [&] { interrupted_after_detach(c); });
}

}  // namespace protocol_test
