// bind_cuda.cpp of the package over host_cuda.cpp: the module that tests put in the place of the compiled CUDA engine.
#include "table.hpp"

PYBIND11_MODULE(_cuda_on_host, module) {
  bittersweet::python::bind_errors(module);
  bittersweet::python::bind_cuda(module);
}
