// The threads of one call: all of them work, on every processor that the caller may use, and failures come back.
#include <gtest/gtest.h>

#include <array>
#include <stdexcept>

#include "cpu/parallel.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace bittersweet::test {
namespace {

TEST(Threads, EachTakesPart) {
  cpu::Team team;
  for (const int threads : {1, 2, 3, 2, 5}) {
    std::array<std::atomic<int>, 5> ran{};
    team.run(threads, [&](int thread) { ++ran[static_cast<std::size_t>(thread)]; });
    for (int thread = 0; thread < 5; ++thread) EXPECT_EQ(ran[static_cast<std::size_t>(thread)], thread < threads);
  }
}

TEST(Threads, EveryPieceOnce) {
  std::array<std::atomic<int>, 1000> pieces{};
  cpu::parallel_for(3, 1000, [&](int, std::int64_t piece) { ++pieces[static_cast<std::size_t>(piece)]; });
  for (const auto& piece : pieces) EXPECT_EQ(piece, 1);
}

TEST(Threads, AFailureComesBack) {
  const auto fail = [](int, std::int64_t piece) {
    if (piece == 7) throw std::runtime_error("seven");
  };
  EXPECT_THROW(cpu::parallel_for(2, 100, fail), std::runtime_error);
}

#if defined(__linux__)
// New threads are sent away from their maker's processor; that must not tie them down.
void expect_the_callers_processors() {
  cpu_set_t callers;
  ASSERT_EQ(sched_getaffinity(0, sizeof callers, &callers), 0);
  cpu::Team team;
  std::array<cpu_set_t, 2> found{};
  team.run(2, [&](int thread) {
    auto& mine = found[static_cast<std::size_t>(thread)];
    sched_getaffinity(0, sizeof mine, &mine);
  });
  for (const cpu_set_t& mine : found) EXPECT_TRUE(CPU_EQUAL(&mine, &callers));
}

TEST(Threads, MayRunWhereTheCallerMay) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  if (CPU_COUNT(&before) < 2) GTEST_SKIP() << "needs two processors";
  expect_the_callers_processors();
  CPU_ZERO(&one);
  CPU_SET(static_cast<std::size_t>(sched_getcpu()), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);  // a caller that was narrowed after the first use
  expect_the_callers_processors();
  sched_setaffinity(0, sizeof before, &before);
}
#endif

}  // namespace
}  // namespace bittersweet::test
