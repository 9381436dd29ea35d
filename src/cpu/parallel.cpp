#include "cpu/parallel.hpp"

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace bittersweet::cpu {
namespace {

std::atomic<int> limit{0};

int affinity() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// Whole CPUs that the cgroup's quota allows, or a large number.
int quota() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string most;
  double period = 0;
  if (!(file >> most >> period) || most == "max" || period <= 0) return 1 << 20;
  return std::max(1, static_cast<int>(std::ceil(std::strtod(most.c_str(), nullptr) / period)));
}

int processors() {
  static const int value = std::min(affinity(), quota());
  return value;
}

int default_limit() {
  static const int value = [] {
    const char* const asked = std::getenv("BITTERSWEET_NUM_THREADS");
    const int n = asked ? std::atoi(asked) : 0;
    return n > 0 ? n : processors();
  }();
  return value;
}

thread_local Team* team_of_thread = nullptr;

// A new thread often lands on its maker's own processor, and waits there for the scheduler's next tick while another is
// idle. Forbidding it that one for a moment moves it; where it may run afterwards is unchanged.
void move_to_another_processor([[maybe_unused]] std::jthread& thread) {
#if defined(__linux__)
  cpu_set_t allowed;
  const int here = sched_getcpu();
  if (here < 0 || sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
  cpu_set_t others = allowed;
  CPU_CLR(static_cast<std::size_t>(here), &others);
  if (pthread_setaffinity_np(thread.native_handle(), sizeof others, &others) == 0)
    pthread_setaffinity_np(thread.native_handle(), sizeof allowed, &allowed);
#endif
}

void relax() noexcept {
#if defined(__SSE2__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns the new value when it is no longer `old`. The kernel takes longer to wake a thread than most verbs leave
// between them, so the first millisecond is spent awake, where every thread has a processor to itself.
int await_change(std::atomic<int>& value, int old, bool awake) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point until = Clock::now() + std::chrono::milliseconds(awake ? 1 : 0);
  do {
    for (int i = 0; i < 64; ++i, relax())
      if (const int now = value.load(std::memory_order_acquire); now != old) return now;
  } while (Clock::now() < until);
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

struct Team::Worker {
  Worker(Team& owner, int index) : team(owner), thread_index(index), thread([this] { live(); }) {}

  ~Worker() { give(nullptr, nullptr); }

  void give(Work new_work, const void* new_context) {  // a null work ends the thread
    work = new_work;
    context = new_context;
    ticket.fetch_add(1, std::memory_order_release);
    ticket.notify_one();
  }

  void live() {
    for (int seen = 0;;) {
      seen = await_change(ticket, seen, team.awake_);
      if (work == nullptr) return;
      work(context, thread_index);
      if (team.working_.fetch_sub(1, std::memory_order_acq_rel) == 1) team.working_.notify_one();
    }
  }

  Team& team;
  const int thread_index;
  Work work = nullptr;
  const void* context = nullptr;
  std::atomic<int> ticket{0};
  std::jthread thread;  // last: it uses the others, and is joined before they go
};

Team::Team() : outer_(team_of_thread) {
  if (!outer_) team_of_thread = this;
}

Team::~Team() {
  if (!outer_) team_of_thread = nullptr;
}

Team& Team::current() { return *team_of_thread; }

void Team::fork_and_join(int threads, Work work, const void* context) {
  const auto others = static_cast<std::size_t>(threads - 1);
  awake_ = std::max(threads, static_cast<int>(workers_.size()) + 1) <= processors();
  while (workers_.size() < others) {
    workers_.push_back(std::make_unique<Worker>(*this, static_cast<int>(workers_.size()) + 1));
    if (awake_) move_to_another_processor(workers_.back()->thread);
  }
  working_.store(threads - 1, std::memory_order_relaxed);
  for (std::size_t i = 0; i < others; ++i) workers_[i]->give(work, context);
  work(context, 0);
  for (int left = working_.load(std::memory_order_acquire); left != 0;) left = await_change(working_, left, awake_);
}

void set_thread_limit(int n) { limit = std::max(0, n); }

int thread_limit() {
  const int n = limit;
  return n > 0 ? n : default_limit();
}

int threads_for(std::int64_t elements) {
  const std::int64_t worth = threads_are_lent() ? 1 << 16 : 1 << 18;
  return static_cast<int>(std::clamp<std::int64_t>(elements / worth, 1, thread_limit()));
}

}  // namespace bittersweet::cpu
