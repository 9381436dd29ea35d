// Fork and join over fixed pieces of work. Threads live for one call, so nothing survives a fork or the interpreter,
// and no second OpenMP runtime enters the process. Which thread takes which piece never shows in a result.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "fp_environment.hpp"

namespace bittersweet::cpu {

// Threads that a call over this much work uses: a thread must be worth its start.
int threads_for(std::int64_t elements);

void set_thread_limit(int n);  // 0: CPU affinity and cgroup quota
int thread_limit();

// f(thread, piece) for every piece in 0..pieces, handed out one by one in ascending order.
template <class F>
void parallel_for(int threads, std::int64_t pieces, F&& f) {
  if (threads <= 1 || pieces <= 1) {
    for (std::int64_t piece = 0; piece < pieces; ++piece) f(0, piece);
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(threads));
  const auto work = [&](int thread) {
    const FpEnvironment environment;
    try {
      for (std::int64_t piece = next++; piece < pieces; piece = next++) f(thread, piece);
    } catch (...) {
      failures[static_cast<std::size_t>(thread)] = std::current_exception();
      next = pieces;
    }
  };
  {
    std::vector<std::jthread> workers;
    for (int thread = 1; thread < threads && thread < pieces; ++thread) workers.emplace_back(work, thread);
    work(0);
  }
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace bittersweet::cpu
