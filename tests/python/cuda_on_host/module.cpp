// The bindings of the CUDA engine over a stand-in for it: what tests put in the place of the compiled one.
#include "table.hpp"

PYBIND11_MODULE(STAND_IN, module) {
  bittersweet::python::bind_errors(module);
  bittersweet::python::bind_rounds(module);
  bittersweet::python::bind_calibration(module);
  bittersweet::python::bind_cuda(module);
  bittersweet::python::bind_cuda_sparse(module);
  bittersweet::python::bind_cuda_track(module);
}
