#include "cuda_engine.hpp"

namespace bittersweet::cuda {

std::string describe() { return "absent: this build has no CUDA engine; tensors on the CPU only"; }

}  // namespace bittersweet::cuda
