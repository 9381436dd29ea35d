#!/usr/bin/env bash
# Sets everything up in ./.venv and trains a small GPT while Bittersweet prunes it.
# Usage: scripts/demo.sh [options of `python -m bittersweet demo`, for example --steps 300 --sparsity 0.5]
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

need_system lacks_python lacks_compiler
make_venv
install_torch_and_build_tools
say "Building and installing bittersweet (a few minutes the first time)"
# The CUDA engine takes minutes to compile: only where a GPU can use it.
cuda=()
if ! { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }; then
  cuda=(--config-settings cmake.define.BITTERSWEET_CUDA=off)
fi
pip_install --no-build-isolation --config-settings build-dir=build/demo "${cuda[@]}" ".[torch,demo]"
say "Running: python -m bittersweet demo $*"
exec python -m bittersweet demo "$@"
