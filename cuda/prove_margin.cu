#include "prove_margin.cuh"

#include "launch.cuh"

namespace bittersweet::cuda {

void prove_margin(const Queue& queue, MarginProof* proof) {
  Stream stream(queue.device, queue.stream);
  prove_margin(stream, proof, 1);
}

}  // namespace bittersweet::cuda
