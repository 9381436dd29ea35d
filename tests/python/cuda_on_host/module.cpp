// bind_cuda.cpp and bind_cuda_sparse.cpp of the package over a stand-in for the CUDA engine: what tests put in the
// place of the compiled one.
#include "table.hpp"

PYBIND11_MODULE(STAND_IN, module) {
  bittersweet::python::bind_errors(module);
  bittersweet::python::bind_cuda(module);
  bittersweet::python::bind_cuda_sparse(module);
}
