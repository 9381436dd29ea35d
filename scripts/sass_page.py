"""docs/cuda_sass.md: what scripts/sass_report.py found, as tables."""

from __future__ import annotations

from typing import Any

from sass_compile import ARCHITECTURES
from sass_families import Families, Family, is_ours
from sass_kernels import (
    BYTES,
    READS,
    REGISTERS,
    SLOTS_PER_BYTE,
    AdamKernel,
    Kernel,
    ProductKernel,
    RoundingKernel,
    Special,
)

MIB = 1 << 20


def of_kind(kind: type[Any], specials: list[Special]) -> list[Any]:
    return [special for special in specials if isinstance(special, kind)]


Units = dict[str, dict[int, Families]]  # families by unit and architecture


def merged(units: Units) -> dict[str, dict[int, Family]]:
    """By family and architecture: what several units have is one row."""
    rows: dict[str, dict[int, Family]] = {}
    for by_architecture in units.values():
        for architecture, families in by_architecture.items():
            for name, family in families.items():
                rows.setdefault(name, {}).setdefault(architecture, Family()).join(family)
    return dict(sorted(rows.items()))


def every_architecture(units: Units, sizes: dict[int, int]) -> list[str]:
    rows = merged(units)
    told = [a for a in ARCHITECTURES if a in sizes]
    missing = [a for a in ARCHITECTURES if a not in sizes]
    cells = [family for row in rows.values() for family in row.values()]
    clean = not any(family.spilled or family.local for family in cells)
    most = max(family.registers for name, row in rows.items() if is_ours(name) for family in row.values())
    lines = [
        "# Machine code of the kernels",
        "",
        "Written by `python scripts/sass_report.py` from nvcc's code; no GPU was used.",
        "",
        "## Every architecture",
        "",
        "Registers of the kernel of a family that takes most, and behind them bytes that it spills and bytes",
        "of local memory, where there are any. "
        + (
            "There are none: 0 bytes in every kernel below, for each"
            if clean
            else "**There are some**, on some"
        ),
        f"architecture. At most {REGISTERS} registers are allowed, {most} are taken. Kernels of another",
        "library, whose name stands before theirs, may take more. The last line is all code for an",
        "architecture.",
        "",
        *([f"Not compiled for this report: {', '.join(f'sm_{a}' for a in missing)}.", ""] if missing else []),
        "| kernels of | number | " + " | ".join(f"sm_{a}" for a in told) + " |",
        "| --- | --- |" + " --- |" * len(told),
    ]
    for name, row in rows.items():
        number = "/".join(sorted({str(family.kernels) for family in row.values()}))
        figures = (row[a].cell() if a in row else "-" for a in told)
        lines.append(f"| {name} | {number} | " + " | ".join(figures) + " |")
    total = sum(row[90].kernels for row in rows.values() if 90 in row)
    code = " | ".join(f"{sizes[a] / MIB:.1f}" for a in told)
    lines.append(f"| all, MiB | {total} | {code} |")
    return lines


def page(units: Units, sizes: dict[int, int], kernels: list[Kernel], passes: list[Special]) -> str:
    """The report as a page of the docs."""
    return "\n".join([*every_architecture(units, sizes), *bracket_pass(kernels), *others(passes), ""])


def bracket_pass(kernels: list[Kernel]) -> list[str]:
    lines = [
        "",
        "## The bracket pass",
        "",
        "This and what follows is the code for sm_90. A *slot* is one instruction issued for one element by",
        "a lane, from the first vector load of a tile to its last comparison; mask transposition and the",
        "queue add about 2.5. The *budget* is 70 % of what an H200's memory rate (4.8 TB/s by its data",
        "sheet) leaves for the bytes read, less those 2.5. Budgets in brackets are not enforced: formulas",
        "that divide, `AdamVariance`, `Identity`, and the exact scores of scorers that have rough ones,",
        "which are for eps = 0. *Branches* are those of a whole tile of 32 elements a lane: one asks",
        "whether the tile has dead elements, and none belongs to a score but where a formula divides.",
        "",
        "| scorer | weight | state | decides by | slots | budget | registers | vector loads | branches |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for k in kernels:
        loads = ", ".join(f"{n} x {load.rsplit('.', 1)[1]} bits" for load, n in k.loads.items())
        state = k.state if READS.get(k.scorer, 2) > 1 else "-"
        budget = f"({k.budget:.1f})" if k.unlimited() else f"{k.budget:.1f}"
        cells = (
            k.scorer,
            k.weight,
            state,
            k.decides,
            f"{k.slots:.1f}",
            budget,
            k.registers,
            loads,
            k.branches,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def others(passes: list[Special]) -> list[str]:
    lines = [
        "",
        "## The optimizer's pass",
        "",
        "Slots are counted from the first vector load of neighbours with a live element to the last store,",
        "what is branched around included: the slow paths of two divisions, and the whole division of the",
        "gradient where nothing scales it. *Memory* is what an H200's rate leaves for the bytes read and",
        "written, gradients not written. *Drawn* ones round stochastically; two of the four words of a",
        "random number that they make are used.",
        "",
        "| storage | amsgrad | contracted | drawn | slots | memory | registers | loads | stores |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for adam in of_kind(AdamKernel, passes):
        accesses = [
            ", ".join(f"{n} x {op.rsplit('.', 1)[1]} bits" for op, n in found.items())
            for found in (adam.loads, adam.stores)
        ]
        said = ("yes" if flag else "no" for flag in (adam.amsgrad, adam.contracted, adam.drawn))
        row = (
            adam.storage,
            *said,
            f"{adam.slots:.1f}",
            f"{adam.memory_slots:.1f}",
            adam.registers,
            *accesses,
        )
        lines.append("| " + " | ".join(map(str, row)) + " |")
    lines += [
        "",
        "## Packed products",
        "",
        "Slots for each weight, dead or alive, of the loop over tiles: what brings values to shared memory",
        "and adds up the counts of masks is not in it. *Memory* is what an H200's rate leaves for the bytes",
        "of a weight, packed at 50 % zeros, and for those of a dense one: a product waits for instructions",
        "rather than memory where its slots are the more.",
        "",
        "| weight | batch | slots | memory, packed | memory, dense | registers |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for product in of_kind(ProductKernel, passes):
        dense = f"{SLOTS_PER_BYTE * BYTES[product.weight]:.1f}"
        figures = (
            product.batch,
            f"{product.slots:.1f}",
            f"{product.memory_slots:.1f}",
            dense,
            product.registers,
        )
        lines.append("| " + " | ".join(map(str, (product.weight, *figures))) + " |")
    for rounding in of_kind(RoundingKernel, passes):
        lines += [
            "",
            "## Stochastic rounding",
            "",
            f"{rounding.slots:.1f} slots an element, of {rounding.memory_slots:.1f} that memory leaves for",
            f"the 6 bytes that are read and written; {rounding.registers} registers.",
        ]
    return lines
