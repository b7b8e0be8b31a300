// SPDX-License-Identifier: LGPL-2.1-or-later
// How long answers wait for their batch, by what a call costs.
#include "commit_pace.hh"

#include <catch2/catch.hpp>

using efuse::CommitPace;

TEST_CASE("an answer waits for the least time where calls cost next to nothing") {
  CommitPace pace;
  CHECK_FALSE(pace.due(CommitPace::kLeastNs));
  CHECK(pace.due(CommitPace::kLeastNs + 1));
  for (int i = 0; i < 100; i++)
    pace.called(1000);
  CHECK_FALSE(pace.due(CommitPace::kLeastNs));
  CHECK(pace.due(CommitPace::kLeastNs + 1));
}

TEST_CASE("where calls are slow, it waits in proportion") {
  CommitPace pace;
  for (int i = 0; i < 200; i++)
    pace.called(60'000);
  CHECK_FALSE(pace.due(CommitPace::kCalls * 60'000));
  CHECK(pace.due(CommitPace::kCalls * 60'000 + 1));
  pace.called(5'000);  // and not any longer
  CHECK(pace.due(CommitPace::kCalls * 5'000 + 1));
}

TEST_CASE("a call in which the thread was preempted does not count for much") {
  CommitPace pace;
  for (int i = 0; i < 20; i++) {
    pace.called(4'000);
    pace.called(20'000'000);
    CHECK(pace.due(CommitPace::kCalls * 4'600));
  }
}

TEST_CASE("it never waits longer than the most") {
  CommitPace pace;
  for (int i = 0; i < 1000; i++)
    pace.called(1'000'000'000);
  CHECK_FALSE(pace.due(CommitPace::kMostNs));
  CHECK(pace.due(CommitPace::kMostNs + 1));
}
