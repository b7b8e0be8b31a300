// SPDX-License-Identifier: LGPL-2.1-or-later
// How many readers read: more where requests wait or all callbacks block, fewer where they sleep.
#include "reader_crew.hh"

#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

using namespace efuse;
using namespace std::chrono_literals;

namespace {

void windows(ReaderCrew &crew, unsigned index, unsigned sleeps, unsigned count) {
  for (unsigned i = 0; i < count; i++)
    crew.slept(index, sleeps);
}

template <typename Holds>
bool eventually(Holds holds) {
  for (const auto end = std::chrono::steady_clock::now() + 20s; !holds(); std::this_thread::sleep_for(1ms))
    if (std::chrono::steady_clock::now() > end)
      return false;
  return true;
}

/// Readers that wait whenever they are not wanted, and count how often they were let in.
class Readers {
 public:
  explicit Readers(ReaderCrew &crew, unsigned from, unsigned to) : crew_(crew) {
    for (unsigned i = from; i < to; i++)
      threads_.emplace_back([this, i] {
        while (crew_.wait(i)) {
          reading++;
          while (crew_.wanted(i))
            std::this_thread::sleep_for(100us);
          reading--;
        }
      });
  }
  ~Readers() {
    crew_.stop();
    for (std::thread &thread : threads_)
      thread.join();
  }
  std::atomic<unsigned> reading{0};

 private:
  ReaderCrew &crew_;
  std::vector<std::thread> threads_;
};

}  // namespace

TEST_CASE("busy windows in a row take a reader in, one that sleeps does not let it come to that") {
  ReaderCrew crew(6, 2);
  CHECK(crew.active() == 2);
  windows(crew, 0, 0, 3);
  windows(crew, 1, ReaderCrew::kWindow, 1);
  windows(crew, 0, 0, 3);
  CHECK(crew.active() == 2);
  windows(crew, 1, 0, 1);
  CHECK(crew.active() == 3);
  windows(crew, 0, 0, 100);
  CHECK(crew.active() == 6);
}

TEST_CASE("the last reader leaves when it mostly sleeps, the base never does") {
  ReaderCrew crew(4, 2);
  windows(crew, 0, 0, 100);
  REQUIRE(crew.active() == 4);
  windows(crew, 2, ReaderCrew::kWindow, 10);  // not the last
  CHECK(crew.active() == 4);
  windows(crew, 3, ReaderCrew::kWindow, 1);
  CHECK(crew.active() == 3);
  windows(crew, 2, ReaderCrew::kWindow, 1);
  windows(crew, 1, ReaderCrew::kWindow, 10);
  windows(crew, 0, ReaderCrew::kWindow, 10);
  CHECK(crew.active() == 2);
}

TEST_CASE("half of the readers that are too many leave at once when they always sleep") {
  ReaderCrew crew(10, 2);
  const auto full = [&] {
    windows(crew, 0, 0, 200);
    return crew.active() == 10;
  };
  REQUIRE(full());
  windows(crew, 9, ReaderCrew::kWindow, 1);
  CHECK(crew.active() == 6);
  windows(crew, 5, ReaderCrew::kWindow, 1);
  CHECK(crew.active() == 4);
  windows(crew, 3, ReaderCrew::kWindow, 1);
  windows(crew, 2, ReaderCrew::kWindow, 1);
  CHECK(crew.active() == 2);
  REQUIRE(full());
  windows(crew, 9, ReaderCrew::kWindow * 3 / 4, 1);  // of some requests there were several at once
  CHECK(crew.active() == 9);
  windows(crew, 8, ReaderCrew::kWindow / 2, 10);
  CHECK(crew.active() == 9);
}

TEST_CASE("a crew whose readers are all in callbacks gets another reader, until one is free") {
  ReaderCrew crew(5, 2);
  Readers others(crew, 2, 5);
  crew.begin(0);
  std::this_thread::sleep_for(10 * ReaderCrew::kTick);
  CHECK(crew.active() == 2);  // reader 1 is free
  crew.begin(1);
  REQUIRE(eventually([&] { return crew.active() == 3 && others.reading == 1; }));
  std::this_thread::sleep_for(10 * ReaderCrew::kTick);
  CHECK(crew.active() == 3);  // reader 2 is free
  crew.begin(2);
  crew.begin(3);
  REQUIRE(eventually([&] { return crew.active() == 5 && others.reading == 3; }));
  for (unsigned i = 0; i < 4; i++)
    crew.end(i);
}

TEST_CASE("the clock that has stopped goes on with the next request") {
  ReaderCrew crew(3, 1);
  Readers others(crew, 1, 3);
  std::this_thread::sleep_for(100 * ReaderCrew::kTick);
  for (unsigned round = 0; round < 3; round++) {
    const auto begun = std::chrono::steady_clock::now();
    crew.begin(0);
    REQUIRE(eventually([&] { return crew.active() == 2 && others.reading == 1; }));
    crew.end(0);
    // What a blocked crew took in stays for a while, however often it sleeps, and then leaves.
    REQUIRE(eventually([&] {
      crew.slept(1, ReaderCrew::kWindow);
      return crew.active() == 1 && others.reading == 0;
    }));
    CHECK(std::chrono::steady_clock::now() - begun >= ReaderCrew::kHold);
    std::this_thread::sleep_for(round * 40 * ReaderCrew::kTick);
  }
}

TEST_CASE("reader 0 reads alone once the others have stopped, and the others come back") {
  ReaderCrew crew(4, 2);
  CHECK_FALSE(crew.is_alone());
  Readers readers(crew, 1, 4);
  REQUIRE(eventually([&] { return readers.reading == 1; }));
  crew.be_alone(true);
  CHECK(crew.is_to_be_alone());
  CHECK(eventually([&] { return crew.is_alone() && readers.reading == 0; }));
  windows(crew, 0, 0, 100);  // of a reader that looks and so never sleeps
  CHECK(crew.is_alone());
  crew.be_alone(false);
  CHECK_FALSE(crew.is_alone());
  CHECK(eventually([&] { return readers.reading == 1; }));
}

TEST_CASE("a callback that blocks brings the others back") {
  ReaderCrew crew(4, 2);
  Readers readers(crew, 1, 4);
  crew.be_alone(true);
  REQUIRE(eventually([&] { return crew.is_alone(); }));
  crew.begin(0);
  CHECK(eventually([&] { return !crew.is_to_be_alone() && readers.reading >= 1; }));
  crew.end(0);
}

TEST_CASE("requests are counted") {
  ReaderCrew crew(2, 2);
  for (unsigned i = 0; i < 5; i++) {
    crew.begin(i % 2);
    crew.end(i % 2);
  }
  CHECK(crew.served() == 5);
}
