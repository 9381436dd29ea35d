#include <memory>
#include <set>
#include <string>
#include <vector>

#include "support/simt/watcher.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SIMT_ASAN 1
#else
#define SIMT_ASAN 0
#endif

#if defined(__x86_64__)
// Saves what a call must preserve and goes on where the other stack left off. swapcontext would enter the kernel for
// the signal mask at every switch.
extern "C" void simt_switch(void** save, void* resume);
asm(R"(
  .text
  .type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size simt_switch, .-simt_switch
)");
#else
#include <ucontext.h>
#endif

simt::Index threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

Watcher* watcher = nullptr;
Span stack;

namespace {

std::size_t stack_bytes() { return (SIMT_ASAN || watcher ? 256u : 32u) << 10; }  // reports of sanitizers are deep

struct Fibre {
#if defined(__x86_64__)
  void* at = nullptr;  // its stack pointer while it waits
#else
  ucontext_t at;
#endif
  unsigned thread = 0, block = 0;
  unsigned char parity = 0;  // of the warp's meetings; the values of two are kept, since a lane may run one ahead
  unsigned char* stack = nullptr;
#if SIMT_ASAN
  void* fake = nullptr;
#endif
};

struct Warp {
  std::uint64_t left[2][32];
  unsigned come = 0;
  Meet kind = Meet::sync;
  Place place;
};

// Memory that is no allocation of the host's, for a watcher.
struct Free {
  void operator()(unsigned char* data) const { std::free(data); }
};
using Bytes = std::unique_ptr<unsigned char[], Free>;

Bytes allocate(std::size_t bytes) {
  void* data = nullptr;
  if (posix_memalign(&data, 256, bytes) != 0) stop("no memory");
  return Bytes(static_cast<unsigned char*>(data));
}

struct Block {
  unsigned come = 0, ended = 0;
  Place place;
};

struct Launch {
  unsigned threads = 0, warps = 0;
  const std::function<void(void*)>* body = nullptr;
  std::vector<Bytes> shared_bytes;
  std::vector<unsigned char*> shared;  // of each block, aligned as its type asks for and no better
  std::vector<Fibre> fibres;
  std::vector<Warp> warp;
  std::vector<Block> block;
  std::vector<unsigned> ready;    // fibres that can go on
  unsigned alive = 0, begun = 0;  // threads, blocks
  std::uint64_t random = 0, steps = 0;
  Fibre* current = nullptr;
  Fibre caller;
};

Launch* launch = nullptr;
std::uint64_t switch_count = 0, patience = std::uint64_t{1} << 32;
std::vector<Bytes> stacks;  // kept from launch to launch

std::uint64_t draw() {  // xorshift64*
  std::uint64_t& x = launch->random;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  return (x * 0x2545f4914f6cdd1du) >> 32;
}

#if SIMT_ASAN
const void* caller_stack = nullptr;
std::size_t caller_bytes = 0;
#endif

void enter(Fibre& to) {
  launch->current = &to;
  threadIdx.x = to.thread;
  blockIdx.x = to.block;
  stack = {to.stack, stack_bytes()};
}

void switch_to(Fibre& from, Fibre& to, [[maybe_unused]] bool last = false) {
  if (&from == &to) return;
  ++switch_count;
  enter(to);
#if SIMT_ASAN
  const bool home = &to == &launch->caller;
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake, home ? caller_stack : to.stack,
                                 home ? caller_bytes : stack_bytes());
#endif
#if defined(__x86_64__)
  simt_switch(&from.at, to.at);
#else
  swapcontext(&from.at, &to.at);
#endif
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
#endif
}

// Takes a fibre that can go on, any of them.
Fibre& next() {
  auto& ready = launch->ready;
  if (ready.empty()) stop("threads wait for others that never come");
  const std::size_t i = draw() % ready.size();
  Fibre& fibre = launch->fibres[ready[i]];
  ready[i] = ready.back();
  ready.pop_back();
  return fibre;
}

unsigned number(const Fibre& fibre) { return static_cast<unsigned>(&fibre - launch->fibres.data()); }

void wait() { switch_to(*launch->current, next()); }

void begin_block() {
  Launch& here = *launch;
  const unsigned first = here.begun++ * here.threads;
  for (unsigned i = first; i < first + here.threads; ++i) here.ready.push_back(i);
}

void begin() {
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, caller_stack ? nullptr : &caller_stack,
                                  caller_stack ? nullptr : &caller_bytes);
#endif
  Launch& here = *launch;
  const unsigned mine = here.current->block;
  (*here.body)(here.shared[mine]);
  --here.alive;
  if (++here.block[mine].ended == here.threads && here.begun < here.block.size()) begin_block();
  switch_to(*here.current, here.alive == 0 ? here.caller : next(), true);
  stop("a finished thread went on");
}

void prepare(Fibre& fibre, std::size_t i) {
  if (i >= stacks.size()) stacks.push_back(allocate(stack_bytes()));
  fibre.stack = stacks[i].get();
#if SIMT_ASAN
  __asan_unpoison_memory_region(fibre.stack, stack_bytes());  // of the frames that its last fibre ended in
#endif
#if defined(__x86_64__)
  // Stacks begin at different places of a page: their tops would share a few lines of the cache.
  auto top = reinterpret_cast<std::uintptr_t>(fibre.stack + stack_bytes() - i * 320 % 4096) & ~std::uintptr_t{15};
  auto* at = reinterpret_cast<void**>(top) - 2;  // as after a call: the return address at 8 modulo 16
  at[1] = nullptr;
  at[0] = reinterpret_cast<void*>(&begin);
  at -= 6;
  std::memset(at, 0, 6 * sizeof(void*));
  fibre.at = at;
#else
  getcontext(&fibre.at);
  fibre.at.uc_stack.ss_sp = fibre.stack;
  fibre.at.uc_stack.ss_size = stack_bytes();
  fibre.at.uc_link = nullptr;
  makecontext(&fibre.at, &begin, 0);
#endif
}

bool differ(const Place& a, const Place& b) { return a.line() != b.line() || a.column() != b.column(); }

void yield() {
  if (draw() % 4 != 0) return;
  launch->ready.push_back(number(*launch->current));
  wait();
}

// Adds the kernel's name to the file that is to list what was launched, if there is one.
void note(const char* kernel) {
  static const char* const path = std::getenv("BITTERSWEET_LAUNCHED");
  static std::set<std::string> known;
  if (path == nullptr || !known.insert(kernel).second) return;
  if (std::FILE* file = std::fopen(path, known.size() == 1 ? "w" : "a")) {
    std::fprintf(file, "%s\n", kernel);
    std::fclose(file);
  }
}

}  // namespace

void stop(const char* message) {
  std::fprintf(stderr, "simt: %s (block %u, thread %u)\n", message, blockIdx.x, threadIdx.x);
  std::abort();
}

std::uint64_t switches() noexcept { return switch_count; }

void fill_with_rubbish(void* data, std::size_t bytes) {
  std::memset(data, 0xa5, bytes);
  if (watcher) watcher->rubbish(data, bytes);
}

void set_patience(std::uint64_t steps) { patience = steps; }

void take_step() {
  if (++launch->steps > patience) stop("threads wait in a loop for what never comes");
}

void run(const Grid& grid, const std::function<void(void*)>& body) {
  if (grid.blocks == 0) stop("an empty grid");
  if (grid.blocks > 0x7fffffffu) stop("a grid of more than 2^31 - 1 blocks");
  if (grid.resident == 0) stop("a grid of which no block is alive");
  note(grid.kernel);
  Launch here;
  here.threads = grid.threads;
  here.warps = grid.threads / 32;
  here.body = &body;
  here.alive = grid.blocks * grid.threads;
  here.random = (grid.seed + 1) * 0x9e3779b97f4a7c15u | 1;
  here.fibres.resize(std::size_t{grid.blocks} * grid.threads);
  here.warp.resize(std::size_t{grid.blocks} * here.warps);
  here.block.resize(grid.blocks);
  here.ready.reserve(here.fibres.size());
  for (unsigned b = 0; b < grid.blocks; ++b) {
    here.shared_bytes.push_back(allocate(grid.shared_bytes + grid.shared_alignment));
    here.shared.push_back(here.shared_bytes.back().get() + grid.shared_alignment);
    std::memset(here.shared.back(), 0xa5, grid.shared_bytes);
  }
  launch = &here;
  gridDim.x = grid.blocks;
  blockDim.x = grid.threads;
  for (unsigned i = 0; i < here.fibres.size(); ++i) {
    here.fibres[i].thread = i % grid.threads;
    here.fibres[i].block = i / grid.threads;
    prepare(here.fibres[i], i);
  }
  while (here.begun < grid.blocks && here.begun < grid.resident) begin_block();
  if (watcher) watcher->begin(grid, here.shared.data());
  switch_to(here.caller, next());
  if (watcher) watcher->end();
  launch = nullptr;
}

void begin_atomic(const void* address, std::size_t bytes) {
  take_step();
  yield();
  if (watcher) watcher->begin_atomic(address, bytes);
}

void end_atomic() {
  if (watcher) watcher->end_atomic();
  yield();
}

void fence() {
  if (watcher) watcher->fence();
}

void meet_warp(Meet kind, std::uint64_t value, const Place& place) {
  Fibre& me = *launch->current;
  Warp& warp = launch->warp[me.block * launch->warps + me.thread / 32];
  if (warp.come == 0) {
    warp.kind = kind;
    warp.place = place;
  }
  if (warp.kind != kind) stop("lanes of a warp meet in different collectives");
  if (differ(warp.place, place)) stop("lanes of a warp meet at different places of the source");
  me.parity ^= 1;
  warp.left[me.parity][me.thread % 32] = value;
  if (++warp.come < 32) return wait();
  if (watcher && kind == Meet::sync) watcher->warp_met();
  warp.come = 0;
  const unsigned first = number(me) / 32 * 32;
  for (unsigned i = first; i < first + 32; ++i) launch->ready.push_back(i);
  wait();
}

std::uint64_t left_by(unsigned lane) {
  const Fibre& me = *launch->current;
  return launch->warp[me.block * launch->warps + me.thread / 32].left[me.parity][lane];
}

void meet_block(const Place& place) {
  const Fibre& me = *launch->current;
  Block& block = launch->block[me.block];
  if (block.come == 0) block.place = place;
  if (differ(block.place, place)) stop("threads of a block meet in different barriers");
  if (++block.come < launch->threads) return wait();
  if (watcher) watcher->block_met();
  block.come = 0;
  const unsigned first = me.block * launch->threads;
  for (unsigned i = first; i < first + launch->threads; ++i) launch->ready.push_back(i);
  wait();
}

}  // namespace simt
