// Watches the memory of launches. A unit that is compiled with -fsanitize=thread calls a function __tsan_... for every
// access that is not a local variable's own; those functions are defined beside this, not by a sanitizer's library.
// They know the rules of CUDA's memory: which of its accesses are ordered, whose a block's shared memory is, where an
// allocation ends, and what nothing has been written to.
//
// Two accesses of one launch to the same bytes, by different threads, at least one of them a write, not both atomic,
// are a race unless they are ordered: by a __syncwarp() of the warp of both, by a __syncthreads() of the block of both,
// or by a __threadfence() behind the first, an atomic behind that, an atomic on the same number by the second's thread
// later, and a __threadfence() behind that. Shuffles, ballots and atomics alone order nothing. So it takes one run in
// any order of threads to find a race, if only both accesses are made.
//
// watch_calls.cpp has the functions themselves, and those that allocate.
#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <memory>
#include <new>

#include "support/simt/watched_heap.hpp"
#include "support/simt/watcher.hpp"

extern "C" char __executable_start, _end;  // of the program and its own data, by the linker

namespace simt {
namespace {

Range host_stack() {
  pthread_attr_t attributes;
  void* low = nullptr;
  std::size_t bytes = 0;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &low, &bytes);
  pthread_attr_destroy(&attributes);
  const auto begin = reinterpret_cast<std::uintptr_t>(low);
  return {begin, begin + bytes};
}

// ---- what is known of four bytes ----

enum class Scope : unsigned char { thread, warp, block };  // one thread, or several of a warp or a block

struct Access {
  const void* code;
  unsigned next;   // of the same cell; 0: none
  unsigned stamp;  // when, the last of several
  unsigned who;    // the thread's number, or that of the warp's or block's first
  Scope scope;
  Kind kind;
  unsigned char bytes;  // a bit each
};

struct Cell {
  unsigned launch = 0, first = 0;
  unsigned char unwritten = 0;  // a bit a byte
};

constexpr std::uintptr_t page_bytes = 4096;

struct Page {
  Cell cells[page_bytes / 4];
};

unsigned char bits_of(std::uintptr_t word, std::uintptr_t begin, std::uintptr_t end) {
  const std::uintptr_t from = std::max(begin, word) - word, to = std::min(end, word + 4) - word;
  return static_cast<unsigned char>(((1u << to) - 1) & ~((1u << from) - 1));
}

// For every thread of the launch the last stamp of it that is known to lie behind. Null: nothing is.
using Clock = std::shared_ptr<const Vector<unsigned>>;

Clock later_of(const Clock& a, const Clock& b) {
  if (a == b || !b) return a;
  if (!a) return b;
  auto both = std::allocate_shared<Vector<unsigned>>(Plain<Vector<unsigned>>(), *a);
  for (std::size_t i = 0; i < both->size(); ++i) (*both)[i] = std::max((*both)[i], (*b)[i]);
  return both;
}

class Memory final : public Watcher {
 public:
  Memory() : host_stack_(host_stack()) { watcher = this; }

  void begin(const Grid& grid, unsigned char* const* shared) override {
    grid_ = &grid;
    shared_ = shared;
    ++launch_;
    now_ = 1;
    accesses_.assign(1, {});
    const std::size_t threads = std::size_t{grid.blocks} * grid.threads;
    warp_met_.assign(threads / 32, 0);
    block_met_.assign(grid.blocks, 0);
    for (auto* clocks : {&known_, &released_, &acquired_}) clocks->assign(threads, {});
    left_.clear();
    fences_ = false;
    for (unsigned b = 0; b < grid.blocks; ++b) mark(address_of(shared[b]), grid.shared_bytes, true);
  }
  void end() override { grid_ = nullptr; }

  void warp_met() override {
    share_knowledge(me() / 32 * 32, 32);
    warp_met_[me() / 32] = now_++;
  }
  void block_met() override {
    share_knowledge(blockIdx.x * blockDim.x, blockDim.x);
    block_met_[blockIdx.x] = now_++;
  }

  void begin_atomic(const void* address, std::size_t bytes) override {
    access(address, bytes, Kind::atomic, bytes, nullptr);
    in_atomic_ = true;
    if (!fences_) return;
    Clock& left = left_[address];
    acquired_[me()] = later_of(acquired_[me()], left);
    left = later_of(left, released_[me()]);
  }
  void end_atomic() override { in_atomic_ = false; }

  void fence() override {
    fences_ = true;
    Clock& known = known_[me()];
    known = later_of(known, acquired_[me()]);
    auto clock = std::allocate_shared<Vector<unsigned>>(Plain<Vector<unsigned>>(), known_.size());
    if (known) *clock = *known;
    const auto raise = [&](unsigned first, unsigned count, unsigned stamp) {
      for (unsigned i = first; i < first + count; ++i) (*clock)[i] = std::max((*clock)[i], stamp);
    };
    raise(blockIdx.x * blockDim.x, blockDim.x, block_met_[blockIdx.x]);
    raise(me() / 32 * 32, 32, warp_met_[me() / 32]);
    raise(me(), 1, now_++);
    released_[me()] = std::move(clock);
  }

  void rubbish(const void* data, std::size_t bytes) override { mark(address_of(data), bytes, true); }

  // `whole`: a struct that is copied, with bytes between its members that nobody writes.
  void access(const void* address, std::size_t bytes, Kind kind, std::size_t alignment, const void* code,
              bool whole = false) {
    if (in_atomic_) return;
    const std::uintptr_t at = address_of(address), end = at + bytes;
    if (grid_ == nullptr) {  // the host's own
      if (kind == Kind::write) mark(at, bytes, false);
      return;
    }
    if (stack.holds(address, bytes)) return;
    take_step();
    const auto found = [&](const char* fault) { report(fault, at, bytes, kind, code); };
    const std::uintptr_t args = address_of(grid_->args);
    const bool argument = Range{args, args + grid_->args_bytes}.holds(at, bytes);
    // A struct of eights is copied sixteen bytes at a time here, and a member at a time on a device.
    if (at % (argument ? std::min<std::size_t>(alignment, 8) : alignment) != 0) found("a misaligned access");
    if (argument) {
      if (kind != Kind::read) found("a write to a kernel's arguments");
      return;
    }
    if (!is_there(at, bytes)) found("an access out of bounds");
    bool any = false, all = true;
    for (std::uintptr_t word = at & ~std::uintptr_t{3}; word < end; word += 4) {
      const unsigned char mask = bits_of(word, at, end);
      Cell& cell = cell_of(word);
      any = any || (cell.unwritten & mask) != 0;
      all = all && (cell.unwritten & mask) == mask;
      if (kind == Kind::write) cell.unwritten &= static_cast<unsigned char>(~mask);
      if (cell.launch != launch_) cell.launch = launch_, cell.first = 0;
      for (unsigned a = cell.first; a != 0; a = accesses_[a].next)
        if (race(accesses_[a], kind, mask)) report_race(at, bytes, kind, code, accesses_[a]);
      enter(cell, kind, mask, code);
    }
    if (kind != Kind::write && (whole ? all : any)) found("a read of what nobody has written");
  }

  void mark(std::uintptr_t begin, std::size_t bytes, bool unwritten) {
    for (std::uintptr_t word = begin & ~std::uintptr_t{3}; word < begin + bytes; word += 4) {
      if (!unwritten && !pages_.contains(word / page_bytes)) {
        word |= page_bytes - 4;
        continue;
      }
      const unsigned char mask = bits_of(word, begin, begin + bytes);
      Cell& cell = cell_of(word);
      cell.unwritten = static_cast<unsigned char>(unwritten ? cell.unwritten | mask : cell.unwritten & ~mask);
    }
  }

 private:
  static std::uintptr_t address_of(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }
  static unsigned me() { return blockIdx.x * blockDim.x + threadIdx.x; }

  Cell& cell_of(std::uintptr_t at) {
    if (at / page_bytes != last_number_ || last_page_ == nullptr) {
      last_number_ = at / page_bytes;
      std::unique_ptr<Page, Free>& page = pages_[last_number_];
      if (!page) page.reset(new (std::malloc(sizeof(Page))) Page);
      last_page_ = page.get();
    }
    return last_page_->cells[at % page_bytes / 4];
  }

  // Shared memory of the thread's own block, the heap, the host's stack and static data, which stand for device memory.
  bool is_there(std::uintptr_t at, std::size_t bytes) {
    const std::uintptr_t shared = address_of(shared_[blockIdx.x]);
    if (Range{shared, shared + grid_->shared_bytes}.holds(at, bytes)) return true;
    Range& last = last_seen_[at / page_bytes % std::size(last_seen_)];
    if (last.holds(at, bytes)) return true;
    Heap& heap = Heap::only();
    const std::lock_guard lock(heap.mutex);
    if (const auto after = heap.live.upper_bound(at); after != heap.live.begin()) {
      const auto& [begin, size] = *std::prev(after);
      if (Range{begin, begin + size}.holds(at, bytes)) {
        last = {begin, begin + size};
        return true;
      }
    }
    return host_stack_.holds(at, bytes) || Range{address_of(&__executable_start), address_of(&_end)}.holds(at, bytes);
  }

  void share_knowledge(unsigned first, unsigned count) {
    if (!fences_) return;
    Clock all;
    for (unsigned i = first; i < first + count; ++i) all = later_of(all, known_[i]);
    for (unsigned i = first; i < first + count; ++i) known_[i] = all;
  }

  bool ordered(const Access& before) const {
    const unsigned mine = me();
    if (before.scope == Scope::thread && before.who == mine) return true;
    if (before.scope != Scope::block && before.who / 32 == mine / 32 && before.stamp <= warp_met_[mine / 32])
      return true;
    if (before.who / blockDim.x == blockIdx.x && before.stamp <= block_met_[blockIdx.x]) return true;
    const Clock& known = known_[mine];
    if (!known) return false;
    const unsigned count = before.scope == Scope::thread ? 1 : before.scope == Scope::warp ? 32 : blockDim.x;
    return std::all_of(known->begin() + before.who, known->begin() + before.who + count,
                       [&](unsigned stamp) { return before.stamp <= stamp; });
  }

  bool race(const Access& before, Kind kind, unsigned char mask) const {
    if ((before.bytes & mask) == 0) return false;
    if (before.kind == kind && kind != Kind::write) return false;
    return !ordered(before);
  }

  // What is ordered behind another need not be told apart from it later on; what is not is kept as several.
  void enter(Cell& cell, Kind kind, unsigned char mask, const void* code) {
    const unsigned mine = me();
    unsigned* link = &cell.first;
    while (*link != 0) {
      Access& known = accesses_[*link];
      if (kind == Kind::write) {
        known.bytes &= static_cast<unsigned char>(~mask);
        if (known.bytes == 0) {
          *link = known.next;
          continue;
        }
      } else if (known.kind == kind && known.bytes == mask) {
        if (ordered(known)) {
          known = {code, known.next, now_, mine, Scope::thread, kind, mask};
          return;
        }
        if (known.who / blockDim.x == blockIdx.x) {
          const bool warp = known.scope != Scope::block && known.who / 32 == mine / 32;
          known = {code,
                   known.next,
                   now_,
                   warp ? mine / 32 * 32 : blockIdx.x * blockDim.x,
                   warp ? Scope::warp : Scope::block,
                   kind,
                   mask};
          return;
        }
      }
      link = &known.next;
    }
    *link = static_cast<unsigned>(accesses_.size());
    accesses_.push_back({code, 0, now_, mine, Scope::thread, kind, mask});
  }

  static std::string place_of(const void* code) {  // for addr2line
    Dl_info info;
    if (code == nullptr) return "an atomic";
    if (dladdr(code, &info) == 0) return "?";
    char text[64];
    std::snprintf(text, sizeof text, "code at %#zx",
                  static_cast<const char*>(code) - static_cast<char*>(info.dli_fbase));
    return text;
  }

  std::string described(std::uintptr_t at, std::size_t bytes, Kind kind, const void* code) const {
    static constexpr const char* kinds[] = {"a read", "a write", "an atomic"};
    std::string text = std::string(kinds[static_cast<int>(kind)]) + " of " + std::to_string(bytes) + " bytes at ";
    const std::uintptr_t shared = address_of(shared_[blockIdx.x]);
    if (Range{shared, shared + grid_->shared_bytes}.holds(at, 1)) {
      text += "byte " + std::to_string(at - shared) + " of shared memory";
    } else {
      Range nearest;
      {
        const std::lock_guard lock(Heap::only().mutex);
        const auto& live = Heap::only().live;
        if (const auto after = live.upper_bound(at); after != live.begin())
          nearest = {std::prev(after)->first, std::prev(after)->first + std::prev(after)->second};
      }
      text += "byte " + std::to_string(at - nearest.begin) + " from an allocation of " +
              std::to_string(nearest.end - nearest.begin);
    }
    return text + ", " + place_of(code);
  }

  [[noreturn]] void report(const char* fault, std::uintptr_t at, std::size_t bytes, Kind kind, const void* code) const {
    stop((std::string(fault) + ": " + described(at, bytes, kind, code) + ", in " + grid_->kernel).c_str());
  }

  [[noreturn]] void report_race(std::uintptr_t at, std::size_t bytes, Kind kind, const void* code,
                                const Access& other) const {
    static constexpr const char* kinds[] = {"read", "written", "changed by an atomic"};
    static constexpr const char* scopes[] = {"thread", "a warp's threads from", "a block's threads from"};
    const std::uintptr_t shared = address_of(shared_[blockIdx.x]);
    const bool is_shared = Range{shared, shared + grid_->shared_bytes}.holds(at, bytes);
    stop((std::string("a race on ") + (is_shared ? "shared" : "global") + " memory: " +
          described(at, bytes, kind, code) + "; not ordered behind: " + kinds[static_cast<int>(other.kind)] +
          " by block " + std::to_string(other.who / blockDim.x) + ", " + scopes[static_cast<int>(other.scope)] + " " +
          std::to_string(other.who % blockDim.x) + ", " + place_of(other.code) + ", in " + grid_->kernel)
             .c_str());
  }

  struct Free {
    void operator()(Page* page) const { std::free(page); }
  };

  Range host_stack_;
  const Grid* grid_ = nullptr;
  unsigned char* const* shared_ = nullptr;
  bool in_atomic_ = false, fences_ = false;
  unsigned launch_ = 0, now_ = 1;              // a stamp is raised at every meeting and fence
  Vector<unsigned> warp_met_, block_met_;      // the last stamps before they met
  Vector<Clock> known_, released_, acquired_;  // of threads: by fences; at the last fence; by atomics, so far
  Hashed<const void*, Clock> left_;            // on numbers, by atomics behind fences
  Vector<Access> accesses_;
  Hashed<std::uintptr_t, std::unique_ptr<Page, Free>> pages_;
  std::uintptr_t last_number_ = 0;
  Page* last_page_ = nullptr;
  Range last_seen_[64];

 public:
  void forget() { std::fill(std::begin(last_seen_), std::end(last_seen_), Range{}); }
};

Memory& memory() {
  static Memory* const made = new (std::malloc(sizeof(Memory))) Memory;
  return *made;
}
const Memory& begun_early = memory();

}  // namespace

void access(const void* address, std::size_t bytes, Kind kind, std::size_t alignment, const void* code, bool whole) {
  memory().access(address, bytes, kind, alignment, code, whole);
}
void mark_written(const void* data, std::size_t bytes) {
  memory().mark(reinterpret_cast<std::uintptr_t>(data), bytes, false);
}
void forget_ranges() { memory().forget(); }

}  // namespace simt
