#include "cpu/lent_threads.hpp"

#include <atomic>
#include <mutex>

#if defined(__unix__)
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace bittersweet::cpu {

#if defined(__unix__)

namespace {

// What compilers call for `#pragma omp parallel`. GNU's, LLVM's and Intel's runtimes all have it.
struct Runtime {
  void (*parallel)(void (*)(void*), void*, unsigned threads, unsigned flags) = nullptr;
  int (*thread_num)() = nullptr;
  int (*max_threads)() = nullptr;
};

Runtime runtime;
std::atomic<bool> lent{false};
std::atomic<bool> is_child{false};

// From the start on: threads that a child is lent first may be its parent's, if the runtime has run there.
[[maybe_unused]] const int watched = pthread_atfork(nullptr, nullptr, [] {
  is_child = true;
  lent = false;
});

struct Region {
  Work work;
  const void* context;
  int threads;
};

void enter(void* of) {
  const auto& region = *static_cast<const Region*>(of);
  if (const int thread = runtime.thread_num(); thread < region.threads) region.work(region.context, thread);
}

template <class F>
bool find(void* library, const char* symbol, F& function) {
  function = reinterpret_cast<F>(dlsym(library, symbol));
  return function != nullptr;
}

}  // namespace

bool lend_threads_of(const char* name) {
  static std::mutex one_at_a_time;
  const std::scoped_lock guard(one_at_a_time);
  if (lent) return true;
  if (is_child) return false;
  void* const library = name ? dlopen(name, RTLD_LAZY | RTLD_NOLOAD) : RTLD_DEFAULT;
  if (name && !library) return false;
  Runtime found;
  const bool complete = find(library, "GOMP_parallel", found.parallel) &&
                        find(library, "omp_get_thread_num", found.thread_num) &&
                        find(library, "omp_get_max_threads", found.max_threads);
  if (!complete) return false;
  runtime = found;
  lent.store(true, std::memory_order_release);
  return true;
}

bool threads_are_lent() noexcept { return lent.load(std::memory_order_acquire); }

// Always a region of all threads that the runtime has: GNU's ends the threads that a smaller one leaves out.
bool run_on_lent(int threads, Work work, const void* context) {
  if (!threads_are_lent() || threads > runtime.max_threads()) return false;
  Region region{work, context, threads};
  runtime.parallel(enter, &region, 0, 0);
  return true;
}

#else

bool lend_threads_of(const char*) { return false; }
bool threads_are_lent() noexcept { return false; }
bool run_on_lent(int, Work, const void*) { return false; }

#endif

}  // namespace bittersweet::cpu
