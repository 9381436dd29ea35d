#!/usr/bin/env bash
# Runs Bittersweet under the packages that people train with, on tiny random models. Skips are printed, with reasons.
# Usage: scripts/test_clients.sh [options of pytest]
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

need_system lacks_python lacks_compiler
make_venv
install_torch_and_build_tools
say "Building and installing bittersweet and its clients (a few minutes the first time)"
pip_install --no-build-isolation --config-settings build-dir=build/clients \
  --config-settings cmake.define.BITTERSWEET_CUDA=off ".[clients]"
pip_install --no-deps "timm==1.0.31"  # its models need no torchvision
say "Tests under other packages"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # the models are tiny
exec python -m pytest -ra -n 2 --dist worksteal tests/clients tests/python/optimizers/test_optimizer_packages.py \
  tests/python/model/test_experts.py tests/python/model/test_adapters.py tests/python/whole/test_lora.py "$@"
