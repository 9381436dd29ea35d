#!/usr/bin/env bash
# Usage: check_symbols.sh LIBRARY.a [MODULE.so]
#
# 1. No instruction-set unit (members verbs_*.o of the library) may define a weak symbol: the linker keeps one copy of
#    each, and the copy from verbs_v4 would crash a machine without AVX-512.
# 2. cpu::prefetch must have kept its instructions, as track.cpp shows, which asks the memory ahead by it alone: compilers
#    drop calls of functions that do no more.
# 3. The Python module must export PyInit__core and nothing else.
set -euo pipefail

# Weak symbols that hold no code: type names and tables of exceptions, and the reference to their handler.
allowed='^(typeinfo (name )?for |vtable for |DW\.ref\.)'

fail=0
archive=$1
units=$(ar t "$archive" | grep -c '^verbs_.*\.o$' || true)
if [ "$units" -eq 0 ]; then
  echo "check_symbols: $archive has no member verbs_*.o, so there is nothing to check" >&2
  exit 2
fi

weak=$(nm -A -C --defined-only "$archive" | sed -n 's/^[^:]*:\(verbs_[^:]*\.o\):[0-9a-f]* [WVu] \(.*\)$/\1 \2/p' |
  while read -r unit symbol; do
    printf '%s\n' "$symbol" | grep -qE "$allowed" || printf '  %s: %s\n' "$unit" "$symbol"
  done)
if [ -n "$weak" ]; then
  printf 'Weak symbols in instruction-set units (force inlining, or move them to an unnamed namespace):\n%s\n' "$weak"
  fail=1
fi

if ! ar t "$archive" | grep -qx track.cpp.o; then
  echo "symbols: no track.cpp.o in this archive, so prefetches were not looked for"
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  ar p "$archive" track.cpp.o >"$work/track.o"
  objdump -d "$work/track.o" >"$work/code"
  if ! grep -qE '[[:space:]](prefetch[a-z0-9]*|prfm)[[:space:]]' "$work/code"; then
    echo "track.cpp.o asks the memory for nothing ahead: the compiler dropped cpu::prefetch"
    fail=1
  fi
fi

if [ $# -ge 2 ]; then
  exported=$(nm -D --defined-only "$2" | awk '{print $3}')
  if [ "$exported" != PyInit__core ]; then
    printf '%s must export PyInit__core alone; it exports:\n%s\n' "$2" "$exported"
    fail=1
  fi
fi

[ "$fail" -eq 0 ] && echo "symbols: $units instruction-set units without weak symbols${2:+, the module exports PyInit__core alone}"
exit "$fail"
