#!/usr/bin/env bash
# Builds Bittersweet with versions of what it builds on, runs a part of the tests with versions of what it runs with,
# and prints a table of what was really used (docs/compatibility.md). CPU only; minutes for each row.
# Usage: scripts/try_versions.sh [ROW ...]   (default: all of them; `-` in a row stands for the newest, `none` for none)
# Environment: PYTHONS, a folder pattern with interpreters, beside those on the PATH, such as "/opt/python/*/bin".
# Not installed by this script: the interpreters, and the compilers (Debian: apt-get install clang-14 ...).
# A torch that this machine's package index has only with CUDA is gigabytes to download.
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# name       python      compiler    scikit-build-core  pybind11  cmake   numpy   torch
table='
home         python3.11  g++-12      -                  -         -       -       2.13.0
oldest       python3.10  g++-12      0.11.0             2.10.0    3.25.0  1.22.0  2.8.0
middle       python3.12  g++-12      -                  2.13.6    3.31.6  1.26.4  2.8.0
newest       python3.13  g++-12      -                  -         -       -       2.13.0
clang-14     python3.11  clang++-14  -                  -         -       -       2.13.0
clang-16     python3.11  clang++-16  -                  -         -       -       2.13.0
clang-19     python3.11  clang++-19  -                  -         -       -       2.13.0
numpy-only   python3.10  g++-12      -                  -         -       1.22.0  none
'
# Every room that meets NumPy, torch, an optimizer or a file; no processes, no CUDA stand-ins.
tests=(
  select/test_score.py select/test_threshold.py select/test_events.py tensors/test_masks.py tensors/test_any_input.py
  tensors/test_errors.py training/test_pruner.py training/test_checkpoint.py optim/test_bits.py optim/test_loops.py
  optimizers/test_optimizers.py sparse/test_packing.py sparse/test_sparse_linear.py whole/test_pruning.py
  checkpoint_files/test_equality.py wanda/test_calibration.py
)

find_python() {
  local folder
  for folder in ${PYTHONS:-}; do
    [ -x "$folder/$1" ] && { echo "$folder/$1"; return; }
  done
  "$1" --version >/dev/null 2>&1 && echo "$1"
}
at() { if [ "$2" = - ]; then echo "$1"; else echo "$1==$2"; fi; }  # a requirement of pip
used() { "$environment/bin/python" -c 'import sys, importlib.metadata as m; print(m.version(sys.argv[1]))' "$1"; }

# try_row: what must succeed; its output goes to the row's log.
try_row() {
  local python=$environment/bin/python build=$PWD/build/versions/$name
  [ -x "$python" ] && "$python" -m pip --version >/dev/null || "$interpreter" -m venv --clear "$environment" || return
  "$python" -m pip install --upgrade "$(at scikit-build-core "$scikit")" "$(at pybind11 "$pybind")" \
    "$(at cmake "$cmake")" ninja || return
  if [ "$torch" = none ]; then
    "$python" -m pip install --upgrade "$(at numpy "$numpy")" || return
  else
    "$python" -m pip install --upgrade "$(at numpy "$numpy")" "$(at torch "$torch")" pytest hypothesis ml_dtypes tqdm \
      safetensors || return
  fi
  rm -rf "$build"
  CC=${compiler/++/$c} CXX=$compiler PATH=$environment/bin:$PATH "$python" -m pip install -v --no-deps \
    --no-build-isolation --force-reinstall --config-settings build-dir="$build" \
    --config-settings cmake.define.BITTERSWEET_CUDA=off . || return
  if [ "$torch" = none ]; then
    "$python" scripts/numpy_only.py
  else
    "$python" -m pytest -q -p no:cacheprovider "${tests[@]/#/tests/python/}"
  fi
}

mkdir -p build/versions
wanted=" $* "
failed=()
echo "| row | Python | compiler | scikit-build-core | pybind11 | CMake | NumPy | torch | outcome |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
while read -r name python compiler scikit pybind cmake numpy torch; do
  [ -n "$name" ] || continue
  [ $# -eq 0 ] || [[ $wanted == *" $name "* ]] || continue
  wanted=${wanted/" $name "/ }
  case $compiler in g++*) c=cc ;; *) c= ;; esac
  interpreter=$(find_python "$python") || interpreter=
  if [ -z "$interpreter" ] || ! command -v "$compiler" >/dev/null; then
    echo "| $name | | | | | | | | untried: no ${interpreter:+$compiler}${interpreter:-$python} here |"
    continue
  fi
  environment=$PWD/build/versions/$python-torch-$torch
  log=build/versions/$name.log
  if try_row </dev/null >"$log" 2>&1; then outcome=$(tail -1 "$log"); else outcome="failed: $log" failed+=("$name"); fi
  [ "$torch" = none ] && torch_used=none || torch_used=$(used torch)
  echo "| $name | $("$environment/bin/python" -c 'import platform; print(platform.python_version())') |" \
    "$("$compiler" --version | head -1) | $(used scikit-build-core) | $(used pybind11) | $(used cmake) |" \
    "$(used numpy) | $torch_used | $outcome |"
done <<<"$table"
wanted=$(xargs <<<"$wanted")
[ -z "$wanted" ] || die "no row is called $wanted; the rows are: $(awk '{print $1}' <<<"$table" | xargs)"
[ "${#failed[@]}" -eq 0 ] || die "failed: ${failed[*]}"
