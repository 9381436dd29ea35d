// bind_cuda.cpp of the package over a stand-in for the CUDA engine: what tests put in the place of the compiled one.
#include "table.hpp"

PYBIND11_MODULE(STAND_IN, module) {
  bittersweet::python::bind_errors(module);
  bittersweet::python::bind_cuda(module);
}
