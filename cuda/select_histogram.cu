#include "select_histogram.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

template void count_digits(Stream&, const Scorer&, const SearchContext&, const Work&, Answers);

}  // namespace bittersweet::cuda
