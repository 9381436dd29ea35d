// AVX2 kernels of packed matrices beside a dense product by AVX2 of our own, which reads its matrix about as fast as
// memory gives it: so the gain is that of the bytes, not of a slow peer. bfloat16, one column, one thread, matrices
// beyond the caches in turn.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdlib>
#include <random>
#include <vector>

#include "bittersweet/engine/cpu_sparse.hpp"
#include "bittersweet/sparse.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

namespace {

using namespace bittersweet;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// y = W x of bf16: even and odd elements become floats where they lie; x has the even ones of 16 before the odd ones.
// A row at a time and no prefetching: the processor's own finds one stream best.
__attribute__((target("avx2,fma"))) void multiply_dense(const std::uint16_t* w, const float* x, std::int64_t rows,
                                                        std::int64_t columns, float* y) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  for (std::int64_t row = 0; row < rows; ++row, w += columns) {
    __m256 sums[4]{};
    for (std::int64_t c = 0; c < columns; c += 32)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const std::int64_t at = c + 16 * half;
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + at));
        const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
        const __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(words, upper));
        sums[half] = _mm256_fmadd_ps(even, _mm256_loadu_ps(x + at), sums[half]);
        sums[half + 2] = _mm256_fmadd_ps(odd, _mm256_loadu_ps(x + at + 8), sums[half + 2]);
      }
    float lanes[8];
    _mm256_storeu_ps(lanes, _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
    y[row] = 0.0f;
    for (const float lane : lanes) y[row] += lane;
  }
}

void avx2_strips_over_dense(benchmark::State& state) {
  if (!__builtin_cpu_supports("avx2")) return state.SkipWithError("no AVX2 here");
  const char* const asked = std::getenv("BITTERSWEET_BENCH_WEIGHTS");
  const std::int64_t weights = asked != nullptr ? std::atoll(asked) : 100'000'000;
  const std::int64_t side = weights < (1 << 24) ? 512 : 4096, elements = side * side;
  const std::int64_t copies = std::max<std::int64_t>(1, weights / elements);
  std::mt19937 random(1);
  std::vector<std::uint16_t> one(static_cast<std::size_t>(elements));
  for (std::uint16_t& w : one)
    w = random() % 100 < static_cast<unsigned>(state.range(0)) ? 0 : static_cast<std::uint16_t>(0x3f80 + random() % 64);
  const std::vector<std::vector<std::uint16_t>> dense(static_cast<std::size_t>(copies), one);
  const sparse::Packed first = sparse::pack({{one.data(), DType::bf16}, side, side});
  const std::vector<sparse::Packed> packed(static_cast<std::size_t>(copies), first);
  std::vector<float> x(static_cast<std::size_t>(side)), arranged(x), y(x), z(x);
  for (std::size_t c = 0; c < x.size(); ++c)
    arranged[c / 16 * 16 + c % 2 * 8 + c % 16 / 2] = x[c] = static_cast<float>(random() % 16) / 16;
  CpuSparse engine("v3", 1);
  Workspace workspace;
  double by_dense = 0, by_strips = 0;
  for (auto _ : state) {
    Clock::time_point begin = Clock::now();
    for (const auto& matrix : dense) multiply_dense(matrix.data(), arranged.data(), side, side, y.data());
    by_dense += since(begin);
    begin = Clock::now();
    for (const auto& matrix : packed)
      engine.multiply_strips(matrix.view(), {.x = {x.data(), DType::f32}, .y = {z.data(), DType::f32}}, workspace);
    const double seconds = since(begin);
    by_strips += seconds;
    state.SetIterationTime(seconds);
  }
  for (std::size_t row = 0; row < y.size(); ++row)
    if (std::abs(y[row] - z[row]) > 1e-3f * y[row]) return state.SkipWithError("the two products differ");
  state.SetBytesProcessed(state.iterations() * copies * first.view().bytes());
  state.counters["dense_bytes_per_second"] = static_cast<double>(state.iterations() * copies * elements * 2) / by_dense;
  state.counters["over_dense"] = by_dense / by_strips;  // asked for: 1.35 at 50 % zeros, 1.7 at 80 %
}
BENCHMARK(avx2_strips_over_dense)->ArgName("zeros")->Arg(50)->Arg(80)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
#endif

BENCHMARK_MAIN();
