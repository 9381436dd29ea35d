// Bare passes over the arrays of a model: what touching the same memory costs when nothing is computed. bench/run.py
// compiles this file and loads it with ctypes. Work is handed out as in the library: pieces of up to 65,536 elements
// of one tensor, one by one, to threads that live for one call. The vectors are moved by inline assembly, so that one
// load (and one store of the same bytes) a vector is exactly what runs, whatever the compiler and its flags.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t piece_size = 65536, group_size = 64, ahead = 512, max_streams = 8, worth_a_thread = 1 << 18;
constexpr std::int64_t line_size = 64;

enum class Isa { plain, sse, avx2, avx512 };
enum class Pass : int { read_in_turn, read_interleaved, read_prefetched, write };

struct Piece {
  char* data[max_streams];   // one array a stream
  const std::int64_t* size;  // bytes an element of each
  std::int64_t streams;
  std::int64_t count;
};

// One line of 64 bytes: loaded, and written back where asked.
template <Isa isa, bool store>
inline __attribute__((always_inline)) void touch(char* line) {
#if defined(__x86_64__)
  if constexpr (isa == Isa::avx512) {
    if constexpr (store)
      asm volatile("vmovups (%0), %%zmm0\n\tvmovups %%zmm0, (%0)" : : "r"(line) : "xmm0", "memory");
    else
      asm volatile("vmovups (%0), %%zmm0" : : "r"(line) : "xmm0");
    return;
  }
  if constexpr (isa == Isa::avx2) {
    if constexpr (store)
      asm volatile("vmovups (%0), %%ymm0\n\tvmovups 32(%0), %%ymm1\n\tvmovups %%ymm0, (%0)\n\tvmovups %%ymm1, 32(%0)"
                   :
                   : "r"(line)
                   : "xmm0", "xmm1", "memory");
    else
      asm volatile("vmovups (%0), %%ymm0\n\tvmovups 32(%0), %%ymm1" : : "r"(line) : "xmm0", "xmm1");
    return;
  }
  if constexpr (isa == Isa::sse) {
    for (char* at = line; at < line + line_size; at += 16) {
      if constexpr (store)
        asm volatile("movups (%0), %%xmm0\n\tmovups %%xmm0, (%0)" : : "r"(at) : "xmm0", "memory");
      else
        asm volatile("movups (%0), %%xmm0" : : "r"(at) : "xmm0");
    }
    return;
  }
#endif
  typedef std::uint64_t Word __attribute__((aligned(1), may_alias));
  auto* const words = reinterpret_cast<volatile Word*>(line);
  for (std::size_t i = 0; i < line_size / sizeof(Word); ++i) {
    const Word word = words[i];
    if constexpr (store) words[i] = word;
  }
}

template <Isa isa, bool store>
inline __attribute__((always_inline)) void touch_lines(char* data, std::int64_t lines) {
  for (; lines >= 4; lines -= 4, data += 4 * line_size) {
    touch<isa, store>(data);
    touch<isa, store>(data + line_size);
    touch<isa, store>(data + 2 * line_size);
    touch<isa, store>(data + 3 * line_size);
  }
  for (; lines > 0; --lines, data += line_size) touch<isa, store>(data);
}

template <bool store>
void touch_rest(char* data, std::int64_t bytes) {
  auto* const rest = reinterpret_cast<volatile unsigned char*>(data);
  for (std::int64_t i = 0; i < bytes; ++i) {
    const unsigned char byte = rest[i];
    if constexpr (store) rest[i] = byte;
  }
}

// Array after array.
template <Isa isa>
void read_in_turn(const Piece& piece) {
  for (std::int64_t s = 0; s < piece.streams; ++s) {
    const std::int64_t bytes = piece.count * piece.size[s], lines = bytes / line_size;
    touch_lines<isa, false>(piece.data[s], lines);
    touch_rest<false>(piece.data[s] + lines * line_size, bytes - lines * line_size);
  }
}

// 64 elements of every array, then the next 64: a group is as many lines as an element has bytes.
template <Isa isa, bool store, bool prefetch>
void interleaved(const Piece& piece) {
  const std::int64_t groups = piece.count / group_size;
  for (std::int64_t g = 0; g < groups; ++g)
    for (std::int64_t s = 0; s < piece.streams; ++s) {
      char* const data = piece.data[s] + g * group_size * piece.size[s];
      if constexpr (prefetch)
        for (std::int64_t line = 0; line < piece.size[s]; ++line)
          __builtin_prefetch(data + ahead * piece.size[s] + line * line_size);
      touch_lines<isa, store>(data, piece.size[s]);
    }
  for (std::int64_t s = 0; s < piece.streams; ++s)
    touch_rest<store>(piece.data[s] + groups * group_size * piece.size[s],
                      (piece.count - groups * group_size) * piece.size[s]);
}

template <Isa isa>
void run(Pass pass, const Piece& piece) {
  switch (pass) {
    case Pass::read_in_turn: read_in_turn<isa>(piece); break;
    case Pass::read_interleaved: interleaved<isa, false, false>(piece); break;
    case Pass::read_prefetched: interleaved<isa, false, true>(piece); break;
    case Pass::write: interleaved<isa, true, false>(piece); break;
  }
#if defined(__x86_64__)
  // Upper halves left dirty would slow the SSE code that follows.
  if constexpr (isa == Isa::avx2 || isa == Isa::avx512) asm volatile("vzeroupper" : : : "xmm0", "xmm1");
#endif
}

Isa best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return Isa::avx512;
  return __builtin_cpu_supports("avx2") ? Isa::avx2 : Isa::sse;
#else
  return Isa::plain;
#endif
}

void run(Isa isa, Pass pass, const Piece& piece) {
  switch (isa) {
    case Isa::avx512: return run<Isa::avx512>(pass, piece);
    case Isa::avx2: return run<Isa::avx2>(pass, piece);
    case Isa::sse: return run<Isa::sse>(pass, piece);
    case Isa::plain: return run<Isa::plain>(pass, piece);
  }
}

}  // namespace

// The instruction set of the passes on this machine.
extern "C" const char* bittersweet_floor_isa() {
  switch (best()) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    case Isa::sse: return "sse";
    case Isa::plain: break;
  }
  return "plain";
}

// One pass. Array s of tensor t begins at data[t * streams + s] and has count[t] elements of size[s] bytes. `pass` is
// one of Pass. Returns 0, or -1 for arguments out of range. Memory holds the same bytes afterwards.
extern "C" int bittersweet_floor_pass(int pass, void* const* data, const std::int64_t* count, const std::int64_t* size,
                                      std::int64_t tensors, std::int64_t streams, int threads) {
  if (pass < 0 || pass > static_cast<int>(Pass::write) || streams < 1 || streams > max_streams || threads < 1)
    return -1;
  struct Place {
    std::int64_t tensor, first;
  };
  std::vector<Place> places;
  std::int64_t total = 0;
  for (std::int64_t t = 0; t < tensors; ++t) {
    total += count[t];
    for (std::int64_t first = 0; first < count[t]; first += piece_size) places.push_back({t, first});
  }
  const Isa isa = best();
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t p = next++; p < places.size(); p = next++) {
      const auto [t, first] = places[p];
      Piece piece{{}, size, streams, std::min(piece_size, count[t] - first)};
      for (std::int64_t s = 0; s < streams; ++s)
        piece.data[s] = static_cast<char*>(data[t * streams + s]) + first * size[s];
      run(isa, static_cast<Pass>(pass), piece);
    }
  };
  std::vector<std::jthread> workers;
  for (std::int64_t thread = 1; thread < std::min<std::int64_t>(threads, total / worth_a_thread); ++thread)
    workers.emplace_back(work);
  work();
  return 0;
}
