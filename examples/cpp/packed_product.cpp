// Packs a pruned matrix without its zeros, multiplies with it, and gets it back bit for bit.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "bittersweet/bittersweet.hpp"

int main() {
  namespace bs = bittersweet;
  constexpr std::int64_t rows = 1024, columns = 4096;
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> weight(rows * columns), x(columns), y(rows);  // bfloat16
  for (std::uint16_t& w : weight) {
    const float value = normal(random);
    w = value * value < 1.64f ? std::uint16_t{0} : bs::float_to_bf16(value);  // four in five are zero
  }
  for (std::uint16_t& value : x) value = bs::float_to_bf16(normal(random));

  const bs::sparse::Packed packed = bs::sparse::pack({{weight.data(), bs::DType::bf16}, rows, columns});
  bs::Workspace workspace;  // keep it between products: its memory stays warm
  bs::sparse::multiply(packed.view(), {.x = {x.data(), bs::DType::bf16}, .y = {y.data(), bs::DType::bf16}}, workspace);

  std::vector<std::uint16_t> back(weight.size());
  bs::sparse::unpack(packed.view(), 0, rows, back.data());
  const bool exact = std::memcmp(back.data(), weight.data(), weight.size() * sizeof weight[0]) == 0;
  std::printf("%lld of %lld weights stored in %lld of %lld bytes (%s), y[0] = %g, unpacked %s\n",
              static_cast<long long>(packed.view().live()), static_cast<long long>(rows * columns),
              static_cast<long long>(packed.view().bytes()), static_cast<long long>(2 * rows * columns),
              bs::sparse::isa(), static_cast<double>(bs::bf16_to_float(y[0])), exact ? "exactly" : "WRONGLY");
  return exact ? 0 : 1;
}
