#!/usr/bin/env python3
"""Reads the machine code of the CUDA engine and reports what its hot kernels cost; no GPU needed.

`python scripts/sass_report.py` compiles cuda/*.cu for sm_90 (nvcc), disassembles them (cuobjdump, from the
CUDA Toolkit or PyPI's nvidia-cuda-cuobjdump) and writes bench/results/sass_sm90.json and docs/cuda_sass.md.
`--check` writes nothing: it exits with 1 if a kernel breaks a limit, or if the checked-in report tells of
other kernels or of numbers that differ by more than a tenth. It exits with 77, "skipped", and says so, where
a tool is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sass_kernels import (
    BYTES,
    READS,
    REGISTERS,
    SLOTS_PER_BYTE,
    SPECIAL,
    AdamKernel,
    Kernel,
    ProductKernel,
    RoundingKernel,
    Special,
    adam_kernel,
    bracket_kernel,
    product_kernel,
    rounding_kernel,
)

ROOT = Path(__file__).resolve().parent.parent
JSON_REPORT = ROOT / "bench" / "results" / "sass_sm90.json"
PAGE = ROOT / "docs" / "cuda_sass.md"
UNITS = (
    "adam",
    "adam_drawn",
    "bracket",
    "count_runs",
    "engine",
    "group_digits",
    "groups",
    "histogram",
    "multiply_strips",
    "prove_margin",
    "rounding",
    "rows",
    "sample",
    "select",
    "strips",
    "tally",
    "write_mask",
    "write_scores",
)
NVCC = [
    *("-std=c++20", "-arch=sm_90", "-O3", "-cubin", "-Xptxas=-v", "--expt-relaxed-constexpr"),
    *("-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true", "-Xcompiler=-ffp-contract=off"),
]
SKIPPED = 77


class ToolMissing(Exception):
    """A program that reading machine code takes is not there."""


def tool(name: str) -> str:
    """The path of a CUDA program: on PATH, in CUDA_HOME, or from a PyPI package."""
    places = [os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin"]
    places += [str(Path(p) / "nvidia" / "cu13" / "bin") for p in sys.path if p]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise ToolMissing(f"{name} was not found (PyPI: nvidia-cuda-{name})")
    return found


def compile_unit(unit: str, folder: Path) -> tuple[str, str]:
    """SASS and ptxas's report of one unit."""
    cubin = folder / f"{unit}.cubin"
    command = [
        tool("nvcc"),
        *NVCC,
        f"-I{ROOT / 'include'}",
        f"-I{ROOT / 'src'}",
        "-o",
        str(cubin),
        str(ROOT / "cuda" / f"{unit}.cu"),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        sys.exit(built.stderr)
    sass = subprocess.run(
        [tool("cuobjdump"), "-sass", str(cubin)], capture_output=True, text=True, check=True
    )
    return sass.stdout, built.stderr


def resources(ptxas: str) -> dict[str, tuple[int, int]]:
    """Registers, and bytes of stack frame and spills, by kernel."""
    pattern = re.compile(
        r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores,"
        r" (\d+) bytes spill loads.*?Used (\d+) registers",
        re.DOTALL,
    )
    return {
        name: (int(registers), int(stack) + int(stores) + int(loads))
        for name, stack, stores, loads, registers in pattern.findall(ptxas)
    }


def functions(sass: str) -> dict[str, list[str]]:
    """The instructions' names by kernel."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in sass.splitlines():
        if match := re.search(r"Function : (\S+)", line):
            current = found.setdefault(match.group(1), [])
        elif match := re.match(r"\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\d\s+)?([A-Z][\w.]*)", line):
            current.append(match.group(1))
    return found


@dataclass
class Unit:
    """The kernels of one file of cuda/."""

    kernels: int
    registers: int  # of the kernel that takes most


def measure() -> tuple[list[Kernel], list[Special], dict[str, Unit], list[str]]:
    """Every bracket kernel, optimizer's pass, product and rounding, the kernels of each unit, and faults that
    any kernel may have."""
    kernels: list[Kernel] = []
    passes: list[Special] = []
    units: dict[str, Unit] = {}
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for unit in UNITS:
            sass, ptxas = compile_unit(unit, Path(folder))
            used = resources(ptxas)
            code = functions(sass)
            units[unit] = Unit(len(code), max(used[name][0] for name in code))
            if units[unit].registers > REGISTERS:
                faults.append(f"{unit}: {units[unit].registers} registers, more than {REGISTERS}")
            for name, instructions in code.items():
                registers, local = used[name]
                touches = any(re.match(r"(LDL|STL)\b", op) for op in instructions)
                if local or touches:
                    faults.append(f"{unit}: {name}: local memory ({local} bytes)")
                if kernel := bracket_kernel(name, instructions, registers, local):
                    kernels.append(kernel)
                for read in (adam_kernel, product_kernel, rounding_kernel):
                    if special := read(name, instructions, registers, local):
                        passes.append(special)
    kernels.sort(key=lambda k: (k.scorer, k.weight, k.state, k.decides))
    faults += [f"{kernel.name()}: {fault}" for kernel in kernels for fault in kernel.faults()]
    passes.sort(key=lambda special: (type(special).__name__, getattr(special, "batch", 0), special.name()))
    faults += [f"{special.name()}: {fault}" for special in passes for fault in special.faults()]
    return kernels, passes, units, faults


def of_kind(kind: type[Any], specials: list[Special]) -> list[Any]:
    return [special for special in specials if isinstance(special, kind)]


def page(kernels: list[Kernel], passes: list[Special], units: dict[str, Unit]) -> str:
    """The report as a page of the docs."""
    lines = [
        "# Machine code of the hot kernels",
        "",
        "## The bracket pass",
        "",
        "Written by `python scripts/sass_report.py` from nvcc's code for sm_90; no GPU was used. A *slot*",
        "is one instruction issued for one element by a lane, from the first vector load of a tile to its",
        "last comparison; mask transposition and the queue add about 2.5. The *budget* is 70 % of what an",
        "H200's memory rate (4.8 TB/s by its data sheet) leaves for the bytes read, less those 2.5.",
        "Budgets in brackets are not enforced: formulas that divide, `AdamVariance`, `Identity`, and the",
        "exact scores of scorers that have rough ones, which are for eps = 0. *Branches* are those of a",
        "whole tile of 32 elements a lane: one asks whether the tile has dead elements, and none belongs",
        "to a score but where a formula divides. Every kernel of every unit is free of spills and local",
        "memory.",
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
    lines += [
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
    lines += [
        "",
        "## All kernels",
        "",
        "*Registers* are those of a unit's kernel that takes most.",
        "",
        "| unit | kernels | registers |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {name} | {unit.kernels} | {unit.registers} |" for name, unit in units.items()]
    lines += ["", f"{sum(unit.kernels for unit in units.values())} in all.", ""]
    return "\n".join(lines)


def differences(kernels: list[Kernel], passes: list[Special], units: dict[str, Unit]) -> list[str]:
    """How the checked-in report differs from what was measured."""
    if not JSON_REPORT.is_file():
        return [f"{JSON_REPORT.relative_to(ROOT)} is missing"]
    report = json.loads(JSON_REPORT.read_text())
    checked_in = {k.name(): k.slots for k in (Kernel(**k) for k in report["kernels"])}
    for kind in SPECIAL:
        checked_in |= {k.name(): k.slots for k in (kind(**k) for k in report[kind.__name__])}
    was_built = {name: Unit(**unit).kernels for name, unit in report["units"].items()}
    if was_built != (built := {name: unit.kernels for name, unit in units.items()}):
        return [f"kernels by unit: {built}, {was_built} in the report"]
    now = {k.name(): k.slots for k in kernels} | {k.name(): k.slots for k in passes}
    found = [f"{name}: only in one of report and code" for name in sorted(now.keys() ^ checked_in.keys())]
    for name in sorted(now.keys() & checked_in.keys()):
        was, found_now = checked_in[name], now[name]
        if abs(was - found_now) > 0.1 * max(was, found_now):
            found.append(f"{name}: {found_now} slots, {was} in the report")
    return found


def main() -> int:
    """Writes the report, or checks it."""
    parser = argparse.ArgumentParser(
        description="Report what the CUDA engine's kernels cost in machine code."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a limit is broken")
    arguments = parser.parse_args()
    try:
        tool("nvcc"), tool("cuobjdump")
    except ToolMissing as missing:
        print(f"sass_report: skipped: {missing}")
        return SKIPPED
    kernels, passes, units, faults = measure()
    if arguments.check:
        faults += differences(kernels, passes, units)
    else:
        JSON_REPORT.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "architecture": "sm_90",
            "units": {name: asdict(unit) for name, unit in units.items()},
            "kernels": [asdict(k) for k in kernels],
        }
        report |= {kind.__name__: [asdict(k) for k in of_kind(kind, passes)] for kind in SPECIAL}
        JSON_REPORT.write_text(json.dumps(report, indent=1) + "\n")
        PAGE.write_text(page(kernels, passes, units))
    for fault in faults:
        print(f"sass_report: {fault}")
    print(f"sass_report: {len(kernels)} bracket kernels, {len(passes)} others, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
