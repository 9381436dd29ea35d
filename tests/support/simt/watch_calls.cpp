// Functions of everybody that the watcher of memory (watch.cpp) takes the place of: those that allocate, and those that
// GCC calls for every access in a unit that is compiled with -fsanitize=thread.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

#include "support/simt/watched_heap.hpp"

namespace simt {
namespace {

void* allocate(std::size_t bytes, std::size_t alignment) {
  const std::size_t before = std::max(zone, alignment);
  void* raw = nullptr;
  if (posix_memalign(&raw, std::max<std::size_t>(alignment, 16), before + bytes + zone) != 0) throw std::bad_alloc();
  unsigned char* const data = static_cast<unsigned char*>(raw) + before;
  const std::lock_guard lock(Heap::only().mutex);
  Heap::only().live[reinterpret_cast<std::uintptr_t>(data)] = bytes;
  mark_written(data, bytes);
  return data;
}

void release(void* data, std::size_t alignment) {
  if (data == nullptr) return;
  const std::lock_guard lock(Heap::only().mutex);
  const auto found = Heap::only().live.find(reinterpret_cast<std::uintptr_t>(data));
  if (found == Heap::only().live.end()) std::abort();
  const std::size_t bytes = found->second;
  forget_ranges();
  Heap::only().live.erase(found);
  void* gone = static_cast<unsigned char*>(data) - std::max(zone, alignment);
  if (bytes <= (1u << 20)) {  // kept for a while, so that nobody else gets it and hides a late access
    static void* late[256];
    static std::size_t next = 0;
    std::swap(gone, late[next++ % std::size(late)]);
  }
  std::free(gone);
}

}  // namespace
}  // namespace simt

void* operator new(std::size_t bytes) { return simt::allocate(bytes, 16); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return simt::allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* data) noexcept { simt::release(data, 16); }
void operator delete(void* data, std::size_t) noexcept { simt::release(data, 16); }
void operator delete(void* data, std::align_val_t alignment) noexcept {
  simt::release(data, static_cast<std::size_t>(alignment));
}
void operator delete(void* data, std::size_t, std::align_val_t alignment) noexcept {
  simt::release(data, static_cast<std::size_t>(alignment));
}

// Tests that keep arrays before a page that nobody may touch map them.
extern "C" void* mmap(void* at, std::size_t bytes, int protection, int flags, int file, off_t offset) noexcept {
  void* const data = reinterpret_cast<void*>(syscall(SYS_mmap, at, bytes, protection, flags, file, offset));
  if (data == MAP_FAILED) return data;
  const std::lock_guard lock(simt::Heap::only().mutex);
  simt::Heap::only().live[reinterpret_cast<std::uintptr_t>(data)] = bytes;
  simt::mark_written(data, bytes);
  return data;
}
extern "C" int munmap(void* data, std::size_t bytes) noexcept {
  const std::lock_guard lock(simt::Heap::only().mutex);
  simt::Heap::only().live.erase(reinterpret_cast<std::uintptr_t>(data));
  simt::forget_ranges();
  return static_cast<int>(syscall(SYS_munmap, data, bytes));
}

// ---- what the compiler calls for every access ----

#define SIMT_ACCESS(name, bytes, kind, alignment)                                           \
  extern "C" void __tsan_##name(const void* address) {                                      \
    simt::access(address, bytes, simt::Kind::kind, alignment, __builtin_return_address(0)); \
  }
#define SIMT_ACCESSES(bytes)                         \
  SIMT_ACCESS(read##bytes, bytes, read, bytes)       \
  SIMT_ACCESS(write##bytes, bytes, write, bytes)     \
  SIMT_ACCESS(unaligned_read##bytes, bytes, read, 1) \
  SIMT_ACCESS(unaligned_write##bytes, bytes, write, 1)
SIMT_ACCESSES(1)
SIMT_ACCESSES(2)
SIMT_ACCESSES(4)
SIMT_ACCESSES(8)
SIMT_ACCESSES(16)

extern "C" {
void __tsan_read_range(const void* address, std::size_t bytes) {
  simt::access(address, bytes, simt::Kind::read, 1, __builtin_return_address(0), true);
}
void __tsan_write_range(const void* address, std::size_t bytes) {
  simt::access(address, bytes, simt::Kind::write, 1, __builtin_return_address(0), true);
}
void __tsan_vptr_update(const void*, const void*) {}
void __tsan_init() {}
void __tsan_func_entry(const void*) {}
void __tsan_func_exit() {}
// Counts of shared_ptr, in what tests do beside kernels.
int __tsan_atomic32_fetch_add(volatile int* count, int by, int) {
  return __atomic_fetch_add(count, by, __ATOMIC_SEQ_CST);
}
int __tsan_atomic32_fetch_sub(volatile int* count, int by, int) {
  return __atomic_fetch_sub(count, by, __ATOMIC_SEQ_CST);
}
}
