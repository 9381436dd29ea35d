#!/usr/bin/env bash
# Sets up and runs every test and check: the C++ tests, formats, lint and types, the Python tests on the built wheel.
# Usage: scripts/test.sh [--sanitizers]   (also the C++ tests under ASan + UBSan and under TSan)
# Environment: BITTERSWEET_CUDA_ARCHITECTURES, what to compile the CUDA engine for where there is an nvcc (default 90).
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

sanitizers=no
for argument in "$@"; do
  case $argument in
    --sanitizers) sanitizers=yes ;;
    *) die "unknown argument '$argument'; usage: scripts/test.sh [--sanitizers]" ;;
  esac
done
jobs=$(nproc)

need_system lacks_python lacks_compiler lacks_binutils
need_system "lacks_header gtest/gtest.h libgtest-dev" "lacks_header benchmark/benchmark.h libbenchmark-dev"
make_venv
install_torch_and_build_tools

# One build tree: the objects that ctest tests are the objects in the wheel that pytest tests.
say "Building library, C++ tests, benchmarks and wheel (warnings are errors)"
rm -rf build/wheels
CMAKE_BUILD_PARALLEL_LEVEL=$jobs python -m pip wheel . -v --no-deps --no-build-isolation --wheel-dir build/wheels \
  --config-settings build-dir=build/test \
  --config-settings cmake.define.BITTERSWEET_BUILD_TESTS=ON \
  --config-settings cmake.define.BITTERSWEET_CUDA_ARCHITECTURES="${BITTERSWEET_CUDA_ARCHITECTURES:-90}" \
  --config-settings cmake.define.BITTERSWEET_BUILD_BENCH=ON \
  --config-settings cmake.define.BITTERSWEET_WERROR=ON
wheel=$(echo build/wheels/bittersweet-*.whl)
pip_install --no-deps --force-reinstall "$wheel"
pip_install "${wheel}[dev]"

failed=()
check() { "$@" || failed+=("$*"); }  # goes on, so that one run shows everything that is wrong
cpp_is_formatted() {
  find include src cuda python/bindings tests bench examples \
    \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
    xargs -0 clang-format --dry-run --Werror
}

say "Include rules, formats, lint, types"
check python scripts/check_includes.py
check lint-imports
check cpp_is_formatted
check ruff check
check ruff format --check
check mypy
check python -m mypy.stubtest bittersweet._core --allowlist scripts/stubtest_allowlist.txt

say "Documentation as a site"
check env NO_MKDOCS_2_WARNING=1 mkdocs build --strict  # --quiet would hide the warnings from --strict

say "C++ tests"
check ctest --test-dir build/test --output-on-failure --no-tests=error -j "$jobs"

if [ "$sanitizers" = yes ]; then
  for preset in asan tsan; do
    say "C++ tests under $preset"
    cmake --preset "$preset"
    cmake --build --preset "$preset" -j "$jobs"
    check ctest --preset "$preset" -j "$jobs"
  done
fi

say "Python tests"
export BITTERSWEET_CUDA_ON_HOST=$PWD/build/test/tests/python/cuda_on_host  # the CUDA path, tested without a GPU
export OMP_WAIT_POLICY=passive  # torch's threads of one worker do not keep a processor from the other's by waiting
check python -m pytest -n "$jobs"
[ "${#failed[@]}" -eq 0 ] || die "failed: $(printf '%s; ' "${failed[@]}")"
