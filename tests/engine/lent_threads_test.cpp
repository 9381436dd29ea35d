// Calls run on an OpenMP runtime's threads where one is lent, start their own where it has too few, and after a fork.
#include <gtest/gtest.h>

#include <array>
#include <atomic>

#include "cpu/parallel.hpp"

#if defined(_OPENMP)
#include <omp.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace bittersweet::test {
namespace {

TEST(LentThreads, NotOfWhatIsNotThere) {
  EXPECT_FALSE(cpu::lend_threads_of("libthis_is_not_loaded.so"));
  EXPECT_FALSE(cpu::threads_are_lent());
}

#if defined(_OPENMP) && !defined(__SANITIZE_THREAD__)

// Whether every one of `threads` workers ran, each on the OpenMP thread of its number.
bool runs_on_openmp(int threads) {
  cpu::Team team;
  std::array<std::atomic<int>, 8> found{};
  team.run(threads, [&](int thread) {
    found[static_cast<std::size_t>(thread)] = omp_in_parallel() && omp_get_thread_num() == thread ? 1 : 2;
  });
  int on_openmp = 0, ran = 0;
  for (const auto& one : found) on_openmp += one == 1, ran += one != 0;
  EXPECT_EQ(ran, threads);
  return on_openmp == threads;
}

void expect_every_piece_once(int threads) {
  std::array<std::atomic<int>, 1000> pieces{};
  cpu::parallel_for(threads, 1000, [&](int, std::int64_t piece) { ++pieces[static_cast<std::size_t>(piece)]; });
  for (const auto& piece : pieces) EXPECT_EQ(piece, 1);
}

TEST(LentThreads, AreOpenMPs) {
  omp_set_num_threads(3);
  EXPECT_FALSE(runs_on_openmp(2));
  ASSERT_TRUE(cpu::lend_threads_of(nullptr));
  EXPECT_TRUE(cpu::threads_are_lent());
  for (const int threads : {1, 2, 3}) EXPECT_TRUE(runs_on_openmp(threads)) << threads;
  EXPECT_FALSE(runs_on_openmp(4)) << "more than the runtime has";
  expect_every_piece_once(3);
}

TEST(LentThreads, OneInsideAParallelRegion) {
  omp_set_num_threads(2);
  ASSERT_TRUE(cpu::lend_threads_of(nullptr));
#pragma omp parallel
  expect_every_piece_once(2);
}

TEST(LentThreads, AFailureComesBack) {
  omp_set_num_threads(2);
  ASSERT_TRUE(cpu::lend_threads_of(nullptr));
  const auto fail = [](int, std::int64_t piece) {
    if (piece == 7) throw std::runtime_error("seven");
  };
  EXPECT_THROW(cpu::parallel_for(2, 100, fail), std::runtime_error);
}

TEST(LentThreads, AChildStartsItsOwn) {
  omp_set_num_threads(2);
  ASSERT_TRUE(cpu::lend_threads_of(nullptr));
  EXPECT_TRUE(runs_on_openmp(2));  // a runtime that has run would hang in the child
  const pid_t child = fork();
  if (child == 0) {
    const bool own = !cpu::threads_are_lent() && !cpu::lend_threads_of(nullptr) && !runs_on_openmp(2);
    expect_every_piece_once(2);
    _exit(own && !::testing::Test::HasFailure() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// The runtime has run before it was lent to anyone; a child that took it would wait for threads that it has not.
TEST(LentThreads, AChildThatAsksFirstStartsItsOwn) {
  omp_set_num_threads(2);
  int threads = 0;
#pragma omp parallel reduction(+ : threads)
  threads += 1;
  ASSERT_EQ(threads, 2);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    const bool own = !cpu::lend_threads_of(nullptr) && !runs_on_openmp(2);
    expect_every_piece_once(2);
    _exit(own && !::testing::Test::HasFailure() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#endif

}  // namespace
}  // namespace bittersweet::test
