#!/usr/bin/env python3
"""Checks who may include whom, so that a room of the house stays a room (docs/architecture.md).

Run from anywhere: `python scripts/check_includes.py [ROOT]`. Prints one line per offence and exits with 1 if
there is any. Exits with 2 if a folder that a rule speaks of is missing, since that rule would check nothing.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]', re.MULTILINE)
SOURCES = {".hpp", ".cpp", ".cuh", ".cu"}
FOREIGN = r"(cuda|cub/|thrust/|cooperative_groups|nv/|torch/|ATen/|c10/|pybind11/|Python\.h$)"


@dataclass(frozen=True)
class Rule:
    """Includes that match `forbidden` and not `allowed` are offences in every source under `room`."""

    room: str
    forbidden: str
    reason: str
    allowed: str = r"(?!)"
    required: bool = True


VERBS_KNOW_NO_SELECTOR = "verbs never name selectors: the pure steps come through engine/"
RULES = (
    Rule("include", FOREIGN, "public headers need a plain host compiler only: no CUDA, torch, pybind11"),
    Rule("include", r"(\.\./|src/|cuda/|python/)", "public headers name public headers only, by full path"),
    Rule("src", r"(torch/|ATen/|c10/|pybind11/|Python\.h$)", "the library knows no Python and no torch"),
    Rule(
        "include/bittersweet/score",
        r"bittersweet/(engine|select|prune)",
        "a formula is mathematics only: it knows no engine and no selector",
    ),
    Rule(
        "include/bittersweet/select",
        r"bittersweet/(engine|prune)",
        "a selector knows the engine's concept, its summaries and its workspace, never an engine",
        allowed=r"bittersweet/engine/(engine|summaries|workspace)\.hpp$",
    ),
    Rule(
        "include/bittersweet/sharded",
        r"bittersweet/(engine/(cpu|reference)|cuda|sharded\.hpp)",
        "the flow over ranks is written for any engine",
    ),
    Rule("src/cpu", r"bittersweet/select/", VERBS_KNOW_NO_SELECTOR),
    Rule("cuda", r"bittersweet/select/", VERBS_KNOW_NO_SELECTOR, required=False),
    Rule(
        "python/bindings",
        r"(bittersweet/.+/|cpu/|src/|cuda)",
        "the bindings see the public face only: the headers directly in include/bittersweet",
    ),
)


def offences(root: Path, rule: Rule) -> list[str]:
    """The lines to print for one rule; raises FileNotFoundError when its room is missing but required."""
    room = root / rule.room
    if not room.is_dir():
        if rule.required:
            raise FileNotFoundError(room)
        return []
    found = []
    for path in sorted(p for p in room.rglob("*") if p.suffix in SOURCES):
        text = path.read_text(encoding="utf-8")
        for match in INCLUDE.finditer(text):
            name = match.group(1)
            if re.match(rule.forbidden, name) and not re.match(rule.allowed, name):
                line = text.count("\n", 0, match.start(1)) + 1
                found.append(f'{path.relative_to(root)}:{line}: #include "{name}": {rule.reason}')
    return found


def main(argv: list[str]) -> int:
    root = Path(argv[1]) if len(argv) > 1 else Path(__file__).resolve().parent.parent
    try:
        found = [line for rule in RULES for line in offences(root, rule)]
    except FileNotFoundError as missing:
        print(f"check_includes: {missing} does not exist; update RULES", file=sys.stderr)
        return 2
    print("\n".join(found) if found else f"include rules: {len(RULES)} kept")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
