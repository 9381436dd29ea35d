// What the watcher of memory (watch.cpp) keeps beside the memory that it watches, what it is told, and the heap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <utility>
#include <vector>

namespace simt {

// Its own books are kept beside the memory that it watches.
template <class T>
struct Plain {
  using value_type = T;
  Plain() = default;
  template <class U>
  Plain(const Plain<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(std::malloc(n * sizeof(T))); }
  void deallocate(T* data, std::size_t) { std::free(data); }
  bool operator==(const Plain&) const { return true; }
};
template <class T>
using Vector = std::vector<T, Plain<T>>;
template <class K, class V>
using Ordered = std::map<K, V, std::less<K>, Plain<std::pair<const K, V>>>;
template <class K, class V>
using Hashed = std::unordered_map<K, V, std::hash<K>, std::equal_to<K>, Plain<std::pair<const K, V>>>;

// ---- the heap, with a zone around each allocation that belongs to nobody ----

constexpr std::size_t zone = 64;

struct Heap {
  std::mutex mutex;
  Ordered<std::uintptr_t, std::size_t> live;  // bytes by address

  static Heap& only() {
    static Heap* const made = new (std::malloc(sizeof(Heap))) Heap;  // it outlives every allocation
    return *made;
  }
};

struct Range {
  std::uintptr_t begin = 0, end = 0;
  bool holds(std::uintptr_t at, std::size_t bytes) const { return at >= begin && at + bytes <= end; }
};

// ---- what it is told ----

enum class Kind : unsigned char { read, write, atomic };

// `whole`: a struct that is copied, with bytes between its members that nobody writes.
void access(const void* address, std::size_t bytes, Kind kind, std::size_t alignment, const void* code,
            bool whole = false);
void mark_written(const void* data, std::size_t bytes);
void forget_ranges();  // an allocation is about to go

}  // namespace simt
