#!/usr/bin/env bash
# What scripts/gpu_check.sh full needs on a machine without a network, gathered into the ignored folder .carry.
# Usage: scripts/gpu_carry.sh               gathers: GoogleTest (Debian: apt-get install googletest), CCCL from PyPI
#        scripts/gpu_carry.sh --unpack DIR  there: builds GoogleTest into DIR/gtest, CCCL's headers into DIR/cccl
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
CCCL=13.3.5.0.6  # CCCL 3.5: the first with a correct cub::DeviceTopK

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

gather() {
  local sources=${GOOGLETEST:-/usr/src/googletest}
  [ -f "$sources/CMakeLists.txt" ] ||
    die "no GoogleTest sources in $sources: apt-get install googletest, or set GOOGLETEST to them"
  rm -rf .carry
  mkdir -p .carry
  tar -C "$sources" -czf .carry/googletest.tar.gz .
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux2014_x86_64 \
    --dest .carry "nvidia-cuda-cccl==$CCCL"
  git rev-parse HEAD >.carry/commit
  [ -z "$(git status --porcelain --untracked-files=no)" ] || echo "$(cat .carry/commit)+" >.carry/commit
  du -ch .carry/*
}

unpack() {
  local to
  mkdir -p "$1"
  to=$(cd "$1" && pwd)
  [ -f .carry/googletest.tar.gz ] || die ".carry is empty: run scripts/gpu_carry.sh before you leave the network"
  if ! [ -d "$to/cccl" ]; then
    "$PYTHON" -m zipfile -e .carry/nvidia_cuda_cccl-*.whl "$to/cccl.part"
    mv "$to/cccl.part" "$to/cccl"
  fi
  if ! [ -d "$to/gtest/include" ]; then
    mkdir -p "$to/googletest"
    tar -C "$to/googletest" -xzf .carry/googletest.tar.gz
    cmake -S "$to/googletest" -B "$to/googletest/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_GMOCK=OFF \
      -DCMAKE_INSTALL_PREFIX="$to/gtest" -DCMAKE_POLICY_VERSION_MINIMUM=3.5
    cmake --build "$to/googletest/build" --target install
  fi
}

case ${1:-} in
  "") gather ;;
  --unpack) [ $# -eq 2 ] || die "--unpack needs a folder"; unpack "$2" ;;
  *) die "unknown argument '$1'; usage: scripts/gpu_carry.sh [--unpack DIR]" ;;
esac
