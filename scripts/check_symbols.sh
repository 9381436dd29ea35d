#!/usr/bin/env bash
# Usage: check_symbols.sh LIBRARY.a [MODULE.so]
#
# 1. No instruction-set unit (members verbs_*.o of the library) may define a weak symbol: the linker keeps one copy of
#    each, and the copy from verbs_v4 would crash a machine without AVX-512.
# 2. The Python module must export PyInit__core and nothing else.
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

if [ $# -ge 2 ]; then
  exported=$(nm -D --defined-only "$2" | awk '{print $3}')
  if [ "$exported" != PyInit__core ]; then
    printf '%s must export PyInit__core alone; it exports:\n%s\n' "$2" "$exported"
    fail=1
  fi
fi

[ "$fail" -eq 0 ] && echo "symbols: $units instruction-set units without weak symbols${2:+, the module exports PyInit__core alone}"
exit "$fail"
