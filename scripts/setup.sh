# Sourced by demo.sh and test.sh: what a fresh machine lacks, and a virtual environment in ./.venv.
# shellcheck shell=bash
# Environment: PYTHON, the interpreter that makes the virtual environment (default python3); CXX, the compiler.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 DEBIAN_FRONTEND=noninteractive
PYTHON=${PYTHON:-python3}

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Each check prints the Debian packages that would satisfy it, or nothing.
lacks_compiler() { command -v "${CXX:-c++}" >/dev/null || echo g++; }
lacks_binutils() { command -v ar >/dev/null && command -v nm >/dev/null || echo binutils; }
lacks_python() {
  command -v "$PYTHON" >/dev/null || { echo "python3 python3-venv python3-dev"; return; }
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  "$PYTHON" -c 'import os, sysconfig as s; raise SystemExit(not os.path.exists(s.get_path("include") + "/Python.h"))' \
    || echo python3-dev
}
lacks_header() { echo "#include <$1>" | "${CXX:-c++}" -E -x c++ - >/dev/null 2>&1 || echo "$2"; }

install_packages() {
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo env DEBIAN_FRONTEND=noninteractive)
  command -v apt-get >/dev/null || die "this machine lacks the equivalent of the Debian packages: $*. Install them and run again."
  if [ "${#as_root[@]}" -gt 0 ] && ! { command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; }; then
    die "these packages are missing and need an administrator: apt-get install $*"
  fi
  say "Installing $*"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

# need_system CHECK...: runs the checks, installs what they ask for, and runs them again.
need_system() {
  local missing
  missing=$(for check in "$@"; do eval "$check"; done | xargs)
  [ -z "$missing" ] && return
  # shellcheck disable=SC2086
  install_packages $missing
  missing=$(for check in "$@"; do eval "$check"; done | xargs)
  [ -z "$missing" ] || die "still missing after installing: $missing (PYTHON=$PYTHON, CXX=${CXX:-c++})"
}

make_venv() {
  "$PYTHON" -c 'import sys; raise SystemExit(sys.version_info < (3, 10))' ||
    die "$PYTHON is $("$PYTHON" --version); Bittersweet needs Python 3.10 or newer. Set PYTHON to one."
  if ! [ -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "Creating a virtual environment in .venv"
    "$PYTHON" -m venv --clear .venv
  fi
  export VIRTUAL_ENV=$PWD/.venv PATH=$PWD/.venv/bin:$PATH
  unset PYTHONHOME PYTHONPATH
}

pip_install() { python -m pip install --quiet "$@"; }

# The build tools live in the environment, not in a temporary one, so that a second run compiles only what changed.
install_torch_and_build_tools() {
  say "Installing PyTorch and the build tools (a few minutes the first time)"
  python -m pip install "torch==2.13.0"
  pip_install "scikit-build-core>=0.11" "pybind11>=2.10" "cmake>=3.25" ninja
}
