// One exact pruning by two ranks. Each holds half of the rows of one weight and sees only its own; what they exchange
// are vectors of int32, which MPI_Allreduce or NCCL would add. Here both live in one process, and a loop adds them.
#include <bittersweet/bittersweet.hpp>
#include <cmath>
#include <cstdio>
#include <vector>

namespace bs = bittersweet;

int main() {
  constexpr std::int64_t rows = 256, columns = 512, half = rows / 2;
  std::vector<float> weight(rows * columns);
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = std::sin(static_cast<float>(i * i % 10007));

  std::vector<bs::Box> boxes(2);
  for (std::int64_t rank = 0; rank < 2; ++rank)
    boxes[static_cast<std::size_t>(rank)] = {
        .tensor = 0, .rank = rank, .offset = {rank * half}, .size = {half, columns}};
  const bs::ShardMap map({{rows, columns}}, boxes, 2);  // every rank makes the same

  const std::vector<std::string> names{"weight"};
  const std::vector<std::int64_t> whole{0};  // what a rank brings is a part of tensor 0
  std::vector<bs::Workspace> workspaces(2);
  std::vector<std::vector<std::uint64_t>> bits(2, std::vector<std::uint64_t>(bs::bits::words(half * columns)));
  std::vector<bs::ShardedPrune> ranks;
  for (std::size_t r = 0; r < 2; ++r) {
    const bs::ScoreInputs part{.weight = bs::view(weight.data() + r * half * columns),
                               .numel = half * columns,
                               .geometry = bs::matrix(half, columns)};
    std::uint64_t* const mask = bits[r].data();
    ranks.emplace_back(map, static_cast<std::int64_t>(r), std::span(&part, 1), whole, names, bs::Magnitude{},
                       bs::Budget{.sparsity = 0.75}, bs::PruneOptions{}, "step: 1", bs::MaskTable(&mask, 1),
                       workspaces[r]);
  }
  for (;;) {
    const std::span<std::int32_t> a = ranks[0].next(), b = ranks[1].next();
    if (a.empty()) break;
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = b[i] = a[i] + b[i];
  }

  const bs::PruneReport& report = ranks[0].report();
  std::printf("threshold %.6f, %lld of %lld pruned, in %lld rounds of %lld bytes together\n",
              static_cast<double>(*report.value), static_cast<long long>(report.pruned),
              static_cast<long long>(report.total), static_cast<long long>(ranks[0].rounds()),
              static_cast<long long>(ranks[0].bytes()));
  return report.pruned == rows * columns * 3 / 4 && *ranks[1].report().value == *report.value ? 0 : 1;
}
