#!/usr/bin/env bash
# Sets up and runs the tests with other people's packages: trainers, adapters, optimizers, models. Skips are printed.
# Usage: scripts/test_clients.sh [pytest arguments]
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

need_system lacks_python lacks_compiler
make_venv
install_torch_and_build_tools

say "Building the package, and installing the packages to train with"
python -m pip install --no-build-isolation ".[clients]"
# One that was built for another torch breaks every import of it; without one a stand-in takes its place.
python -c "import torchvision" 2>/dev/null || python -m pip uninstall --quiet --yes torchvision

say "Tests with other packages"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # the models are tiny
exec python -m pytest -ra tests/clients tests/python/optimizers/test_optimizer_packages.py \
  tests/python/model/test_experts.py tests/python/model/test_adapters.py tests/python/whole/test_lora.py "$@"
