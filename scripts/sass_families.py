"""Every kernel of every unit, by family: what it takes on an architecture, and what is allowed."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass

from sass_compile import Code
from sass_kernels import REGISTERS


@dataclass
class Family:
    """The kernels of one template: how many, and the most that one of them takes."""

    kernels: int = 0
    registers: int = 0
    spilled: int = 0  # bytes
    local: int = 0  # bytes

    def join(self, other: Family) -> None:
        self.kernels += other.kernels
        self.registers = max(self.registers, other.registers)
        self.spilled = max(self.spilled, other.spilled)
        self.local = max(self.local, other.local)

    def cell(self) -> str:
        """As it stands in the page's table."""
        more = [f"{self.spilled} spilled"] * (self.spilled > 0) + [f"{self.local} local"] * (self.local > 0)
        return ", ".join((str(self.registers), *more))

    def figures(self) -> list[int]:
        return list(astuple(self))


def identifiers(mangled: str, at: int) -> list[str]:
    """The names of a nested name, `<length><name>` one after the other, up to arguments or its end."""
    found = []
    while match := re.compile(r"(?:S[0-9A-Z]*_)?(\d+)").match(mangled, at):
        begin, length = match.end(), int(match[1])
        found.append(mangled[begin : begin + length])
        at = begin + length
    return found


def family_of(mangled: str) -> str:
    """What a kernel belongs to: the struct that `run` launches, else the function. One of another library
    names that library, for its registers are not ours to limit."""
    start = 3 if mangled.startswith("_ZN") else 2
    path = identifiers(mangled, start) if mangled.startswith("_Z") else [mangled]
    if not path:
        return mangled
    if path[0] != "bittersweet" and len(path) > 1:
        return f"{path[0]}: {path[-1]}"
    if path[-1] == "run" and (match := re.search(r"3runIN?", mangled)):
        launched = identifiers(mangled, match.end())
        return launched[-1] if launched else path[-1]
    return path[-1]


def is_ours(family: str) -> bool:
    return ":" not in family


Families = dict[str, Family]


def families_of(code: dict[str, Code]) -> Families:
    """A unit's kernels by family."""
    found: Families = {}
    for name in sorted(code):
        kernel = Family(1, code[name].registers, code[name].spilled, code[name].local)
        found.setdefault(family_of(name), Family()).join(kernel)
    return found


def faults_of(where: str, families: Families) -> list[str]:
    """What breaks a limit: no spills and no local memory anywhere, and the registers of our own kernels."""
    found = []
    for name, family in families.items():
        if is_ours(name) and family.registers > REGISTERS:
            found.append(f"{where}: {name}: {family.registers} registers, more than {REGISTERS}")
        if family.spilled:
            found.append(f"{where}: {name}: {family.spilled} bytes spilled")
        if family.local:
            found.append(f"{where}: {name}: {family.local} bytes of local memory")
    return found
