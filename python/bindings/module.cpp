// Table of contents of the private module bittersweet._core.
#include "table.hpp"

PYBIND11_MODULE(_core, module) {
  module.doc() = "Compiled core of bittersweet; private, use the functions of the package.";
  bittersweet::python::bind_errors(module);
  bittersweet::python::bind_info(module);
  bittersweet::python::bind_score(module);
  bittersweet::python::bind_prune(module);
  bittersweet::python::bind_sharded(module);
  bittersweet::python::bind_rounds(module);
  bittersweet::python::bind_mask(module);
  bittersweet::python::bind_blockwise(module);
  bittersweet::python::bind_optim(module);
  bittersweet::python::bind_rounding(module);
  bittersweet::python::bind_calibration(module);
  bittersweet::python::bind_sparse(module);
  bittersweet::python::bind_delta(module);
  bittersweet::python::bind_track(module);
  bittersweet::python::bind_addresses(module);
  bittersweet::python::bind_trails(module);
  bittersweet::python::bind_cuda(module);
  bittersweet::python::bind_cuda_sparse(module);
  bittersweet::python::bind_cuda_track(module);
}
