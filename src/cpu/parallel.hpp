// Fork and join over fixed pieces of work, by threads that are lent (lent_threads.hpp), or that live for one public
// call, so that nothing survives a fork or the interpreter. Which thread takes which piece never shows in a result.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "cpu/lent_threads.hpp"
#include "fp_environment.hpp"

namespace bittersweet::cpu {

// Threads that a call over this much work uses: a thread must be worth its start.
int threads_for(std::int64_t elements);

void set_thread_limit(int n);  // 0: CPU affinity and cgroup quota
int thread_limit();

// The threads of one call: those that are lent, or its own. Its own start with the first work that needs them and wait
// for more until the Team ends: awake for a moment, since one verb follows another, then asleep. Work does not start
// work on the same team. A Team inside another's life is the same team.
class Team {
 public:
  Team();
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  static Team& current();  // of this thread; there must be one

  // work(thread) on the caller (thread 0) and on threads - 1 others, or on as many as are lent; returns when all have.
  template <class F>
  void run(int threads, const F& work) {
    const auto call = [](const void* context, int thread) { (*static_cast<const F*>(context))(thread); };
    if (!run_on_lent(threads, call, &work)) fork_and_join(threads, call, &work);
  }

 private:
  struct Worker;

  void fork_and_join(int threads, Work work, const void* context);

  Team* const outer_;
  std::atomic<bool> awake_{false};
  std::atomic<int> working_{0};
  std::vector<std::unique_ptr<Worker>> workers_;  // last: they use the others until they have ended
};

// f(thread, piece) for every piece in 0..pieces, handed out one by one in ascending order, in the floating-point
// environment `mode`; without other threads, in the caller's.
template <class F>
void parallel_for(int threads, std::int64_t pieces, F&& f,
                  const FpEnvironment::Mode& mode = FpEnvironment::standard()) {
  if (threads <= 1 || pieces <= 1) {
    for (std::int64_t piece = 0; piece < pieces; ++piece) f(0, piece);
    return;
  }
  threads = static_cast<int>(std::min<std::int64_t>(threads, pieces));
  std::atomic<std::int64_t> next{0};
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(threads));
  Team team;
  Team::current().run(threads, [&](int thread) {
    const FpEnvironment environment(mode);
    try {
      for (std::int64_t piece = next++; piece < pieces; piece = next++) f(thread, piece);
    } catch (...) {
      failures[static_cast<std::size_t>(thread)] = std::current_exception();
      next = pieces;
    }
  });
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace bittersweet::cpu
