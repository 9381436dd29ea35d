#include "support/simt/simt.hpp"

#include <vector>

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
namespace {

#if SIMT_ASAN
constexpr std::size_t stack_bytes = 256u << 10;
#else
constexpr std::size_t stack_bytes = 32u << 10;
#endif

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
};

struct Block {
  unsigned come = 0;
};

struct Launch {
  unsigned threads = 0, warps = 0;
  const std::function<void(unsigned)>* body = nullptr;
  std::vector<Fibre> fibres;
  std::vector<Warp> warp;
  std::vector<Block> block;
  std::vector<unsigned> ready;  // fibres that can go on
  unsigned alive = 0;
  std::uint64_t random = 0;
  Fibre* current = nullptr;
  Fibre caller;
};

Launch* launch = nullptr;
std::uint64_t switch_count = 0;
std::vector<std::unique_ptr<unsigned char[]>> stacks;  // kept from launch to launch

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
}

void switch_to(Fibre& from, Fibre& to, [[maybe_unused]] bool last = false) {
  if (&from == &to) return;
  ++switch_count;
  enter(to);
#if SIMT_ASAN
  const bool home = &to == &launch->caller;
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake, home ? caller_stack : to.stack,
                                 home ? caller_bytes : stack_bytes);
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

void begin() {
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, caller_stack ? nullptr : &caller_stack,
                                  caller_stack ? nullptr : &caller_bytes);
#endif
  Launch& here = *launch;
  (*here.body)(here.current->block);
  --here.alive;
  switch_to(*here.current, here.alive == 0 ? here.caller : next(), true);
  stop("a finished thread went on");
}

void prepare(Fibre& fibre, std::size_t i) {
  if (i >= stacks.size()) stacks.emplace_back(new unsigned char[stack_bytes]);
  fibre.stack = stacks[i].get();
#if SIMT_ASAN
  __asan_unpoison_memory_region(fibre.stack, stack_bytes);  // of the frames that its last fibre ended in
#endif
#if defined(__x86_64__)
  // Stacks begin at different places of a page: their tops would share a few lines of the cache.
  auto top = reinterpret_cast<std::uintptr_t>(fibre.stack + stack_bytes - i * 320 % 4096) & ~std::uintptr_t{15};
  auto* at = reinterpret_cast<void**>(top) - 2;  // as after a call: the return address at 8 modulo 16
  at[1] = nullptr;
  at[0] = reinterpret_cast<void*>(&begin);
  at -= 6;
  std::memset(at, 0, 6 * sizeof(void*));
  fibre.at = at;
#else
  getcontext(&fibre.at);
  fibre.at.uc_stack.ss_sp = fibre.stack;
  fibre.at.uc_stack.ss_size = stack_bytes;
  fibre.at.uc_link = nullptr;
  makecontext(&fibre.at, &begin, 0);
#endif
}

}  // namespace

void stop(const char* message) {
  std::fprintf(stderr, "simt: %s (block %u, thread %u)\n", message, blockIdx.x, threadIdx.x);
  std::abort();
}

std::uint64_t switches() noexcept { return switch_count; }

void run(unsigned grid, unsigned threads, std::uint64_t seed, const std::function<void(unsigned)>& body) {
  if (threads == 0 || threads % 32 != 0) stop("a block that is not whole warps");
  if (grid == 0) stop("an empty grid");
  Launch here;
  here.threads = threads;
  here.warps = threads / 32;
  here.body = &body;
  here.alive = grid * threads;
  here.random = (seed + 1) * 0x9e3779b97f4a7c15u | 1;
  here.fibres.resize(std::size_t{grid} * threads);
  here.warp.resize(std::size_t{grid} * here.warps);
  here.block.resize(grid);
  here.ready.resize(here.fibres.size());
  launch = &here;
  gridDim.x = grid;
  blockDim.x = threads;
  for (unsigned i = 0; i < here.fibres.size(); ++i) {
    here.fibres[i].thread = i % threads;
    here.fibres[i].block = i / threads;
    prepare(here.fibres[i], i);
    here.ready[i] = i;
  }
  switch_to(here.caller, next());
  launch = nullptr;
}

void yield() {
  if (draw() % 4 != 0) return;
  launch->ready.push_back(number(*launch->current));
  wait();
}

void meet_warp(Meet kind, std::uint64_t value) {
  Fibre& me = *launch->current;
  Warp& warp = launch->warp[me.block * launch->warps + me.thread / 32];
  if (warp.come == 0) warp.kind = kind;
  if (warp.kind != kind) stop("lanes of a warp meet in different collectives");
  me.parity ^= 1;
  warp.left[me.parity][me.thread % 32] = value;
  if (++warp.come < 32) return wait();
  warp.come = 0;
  const unsigned first = number(me) / 32 * 32;
  for (unsigned i = first; i < first + 32; ++i) launch->ready.push_back(i);
  wait();
}

std::uint64_t left_by(unsigned lane) {
  const Fibre& me = *launch->current;
  return launch->warp[me.block * launch->warps + me.thread / 32].left[me.parity][lane];
}

void meet_block() {
  const Fibre& me = *launch->current;
  if (++launch->block[me.block].come < launch->threads) return wait();
  launch->block[me.block].come = 0;
  const unsigned first = me.block * launch->threads;
  for (unsigned i = first; i < first + launch->threads; ++i) launch->ready.push_back(i);
  wait();
}

}  // namespace simt
