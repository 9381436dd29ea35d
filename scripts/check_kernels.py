#!/usr/bin/env python3
"""Checks that every kernel of cuda/*.cuh was launched by an emulated test.

`python scripts/check_kernels.py LAUNCHED ...`: files that the emulator writes where BITTERSWEET_LAUNCHED
names one, a line for each kernel with its parameters. Prints one line for each kernel that none of them has
and exits with 1 if there is any, or with 2 if there are no kernels or a file is missing, since that would
check nothing.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

STRUCT = re.compile(r"^struct (\w+)", re.MULTILINE)
BODY = re.compile(r"static BITTERSWEET_DEVICE void body\(")
LAUNCHED = re.compile(r"\bK = (?:\w+::)*(\w+)")


def kernels(folder: Path) -> dict[str, str]:
    """Names of structs with a body, and the files they stand in."""
    found = {}
    for path in sorted(folder.glob("*.cuh")):
        text = path.read_text(encoding="utf-8")
        structs = list(STRUCT.finditer(text))
        for body in BODY.finditer(text):
            before = [struct for struct in structs if struct.start() < body.start()]
            found[before[-1].group(1)] = path.name
    return found


def main(arguments: list[str]) -> int:
    known = kernels(Path(__file__).resolve().parent.parent / "cuda")
    try:
        texts = [Path(name).read_text(encoding="utf-8") for name in arguments]
    except FileNotFoundError as missing:
        print(f"check_kernels: {missing.filename} is missing; run the emulated tests", file=sys.stderr)
        return 2
    if not known or not texts:
        print("check_kernels: no kernels, or no list of launched ones", file=sys.stderr)
        return 2
    launched = {name for text in texts for name in LAUNCHED.findall(text)}
    idle = sorted(set(known) - launched)
    for name in idle:
        print(f"cuda/{known[name]}: no emulated test launches the kernel {name}")
    if not idle:
        print(f"kernels: all {len(known)} are launched by emulated tests")
    return 1 if idle else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
