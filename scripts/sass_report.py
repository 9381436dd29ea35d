#!/usr/bin/env python3
"""Reads the machine code of the CUDA engine and reports what its kernels take and cost; no GPU needed.

`python scripts/sass_report.py` compiles every cuda/*.cu for every architecture that users have (nvcc),
disassembles the code for sm_90 (cuobjdump, from the CUDA Toolkit or PyPI's nvidia-cuda-cuobjdump) and writes
bench/results/sass.json and docs/cuda_sass.md; with `--architectures` for fewer: the page names the others.
What was compiled is kept in build/sass and compiled again when its sources change, comments left out.

`--check` writes nothing: it exits with 1 if a kernel breaks a limit on any architecture, or if the checked-in
report tells of other kernels or of numbers that differ by more than a tenth. The code for sm_90 is always
looked at; for other architectures a unit is compiled if the report was made from other sources or by another
compiler (`--afresh`: in any case), and else the report's numbers are held to the limits.

It exits with 77, "skipped", and says so, where a tool is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sass_compile import (
    ARCHITECTURES,
    ROOT,
    Code,
    NotCompiled,
    ToolMissing,
    compile_unit,
    digest,
    read_unit,
    tool,
    units,
)
from sass_families import Family, families_of, faults_of
from sass_kernels import (
    SPECIAL,
    Kernel,
    Special,
    adam_kernel,
    bracket_kernel,
    product_kernel,
    rounding_kernel,
)
from sass_page import Units, of_kind, page

JSON_REPORT = ROOT / "bench" / "results" / "sass.json"
PAGE = ROOT / "docs" / "cuda_sass.md"
KEPT = ROOT / "build" / "sass"
DETAILED = 90  # the architecture whose instructions are read
SKIPPED = 77

Record = dict[str, Any]  # the checked-in report


@dataclass
class Measured:
    """The kernels by unit and architecture, those that are looked at closely, and what is wrong."""

    units: Units = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)  # bytes of code by architecture, of what was compiled
    kernels: list[Kernel] = field(default_factory=list)
    passes: list[Special] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def told_by(record: Record) -> Measured:
    """The checked-in report, as if it were measured."""
    told = Measured(sizes={int(architecture): size for architecture, size in record["bytes"].items()})
    for unit, entry in record["units"].items():
        told.units[unit] = {
            int(architecture): {name: Family(*figures) for name, figures in families.items()}
            for architecture, families in entry["families"].items()
        }
    told.kernels = [Kernel(**kernel) for kernel in record["kernels"]]
    told.passes = [kind(**special) for kind in SPECIAL for special in record[kind.__name__]]
    return told


def measure(architectures: list[int], kept: Path, jobs: int, record: Record | None) -> Measured:
    """Every kernel for these architectures. What `record` tells of units as they are now is taken from it."""
    found = Measured()
    told = told_by(record) if record else Measured()
    todo: list[tuple[str, int]] = []
    for unit in units():
        same = record is not None and record["units"].get(unit, {}).get("digest") == digest(unit)
        known = told.units[unit] if same else {}
        found.units[unit] = {a: known[a] for a in architectures if a in known and a != DETAILED}
        todo += [(unit, a) for a in architectures if a not in found.units[unit]]
    with ThreadPoolExecutor(jobs) as pool:
        cubins = list(pool.map(lambda each: compile_unit(each[0], each[1], kept), todo))
    for (unit, architecture), cubin in zip(todo, cubins, strict=True):
        code = read_unit(cubin, instructions=architecture == DETAILED)
        found.sizes[architecture] = found.sizes.get(architecture, 0) + cubin.stat().st_size * bool(code)
        found.units[unit][architecture] = families_of(code)
        if architecture == DETAILED:
            look_closely(unit, code, found)
    for unit, by_architecture in found.units.items():
        for architecture, families in by_architecture.items():
            found.faults += faults_of(f"{unit}, sm_{architecture}", families)
    found.kernels.sort(key=lambda k: (k.scorer, k.weight, k.state, k.decides))
    found.passes.sort(key=lambda each: (type(each).__name__, getattr(each, "batch", 0), each.name()))
    for kernel in (*found.kernels, *found.passes):
        found.faults += [f"{kernel.name()}: {fault}" for fault in kernel.faults()]
    return found


def look_closely(unit: str, code: dict[str, Code], found: Measured) -> None:
    """Reads the instructions of the kernels whose cost is told one by one."""
    for name, kernel in code.items():
        figures = (name, kernel.instructions, kernel.registers, kernel.local)
        if any(re.match(r"(LDL|STL)\b", op) for op in kernel.instructions):
            found.faults.append(f"{unit}: {name}: instructions on local memory")
        if bracket := bracket_kernel(*figures):
            found.kernels.append(bracket)
        for read in (adam_kernel, product_kernel, rounding_kernel):
            if special := read(*figures):
                found.passes.append(special)


def record_of(found: Measured) -> Record:
    """What is checked in."""
    record: Record = {"bytes": found.sizes, "units": {}, "kernels": [asdict(k) for k in found.kernels]}
    for unit, by_architecture in found.units.items():
        families = {
            str(architecture): {name: family.figures() for name, family in families.items()}
            for architecture, families in by_architecture.items()
        }
        record["units"][unit] = {"digest": digest(unit), "families": families}
    return record | {kind.__name__: [asdict(k) for k in of_kind(kind, found.passes)] for kind in SPECIAL}


def far(was: float, now: float) -> bool:
    return abs(was - now) > 0.1 * max(was, now)


def differences(found: Measured, told: Measured) -> list[str]:
    """How the checked-in report differs from what was measured."""
    either = sorted(told.units.keys() ^ found.units.keys())
    faults = [f"{unit}: only in one of report and code" for unit in either]
    for unit in sorted(told.units.keys() & found.units.keys()):
        for architecture, now in found.units[unit].items():
            if architecture not in told.sizes:
                continue  # the report does not tell of it
            was = told.units[unit].get(architecture, {})
            for name in sorted(now.keys() | was.keys()):
                one, other = now.get(name, Family()), was.get(name, Family())
                where = f"{unit}, sm_{architecture}: {name}"
                if one.kernels != other.kernels:
                    faults.append(f"{where}: {one.kernels} kernels, {other.kernels} in the report")
                elif far(one.registers, other.registers):
                    faults.append(f"{where}: {one.registers} registers, {other.registers} in the report")
    if not any(DETAILED in by_architecture for by_architecture in found.units.values()):
        return faults
    slots, known = ({k.name(): k.slots for k in (*each.kernels, *each.passes)} for each in (found, told))
    faults += [f"{name}: only in one of report and code" for name in sorted(slots.keys() ^ known.keys())]
    return faults + [
        f"{name}: {slots[name]} slots, {known[name]} in the report"
        for name in sorted(slots.keys() & known.keys())
        if far(slots[name], known[name])
    ]


def as_page(found: Measured) -> str:
    return page(found.units, found.sizes, found.kernels, found.passes)


def written(record: Record) -> str:
    """As JSON, a family's figures on one line."""
    text = json.dumps(record, indent=1)
    return re.sub(r"\[\s+([\d,\s]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Report what the CUDA engine's kernels cost in machine code."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a limit is broken")
    parser.add_argument("--afresh", action="store_true", help="with --check: believe nothing in the report")
    parser.add_argument(
        "--architectures", nargs="+", type=int, choices=ARCHITECTURES, help="only these, sm_90 among them"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    parser.add_argument("--kept", type=Path, default=KEPT, help="where compiled units are kept (build/sass)")
    options = parser.parse_args(arguments)
    options.architectures = options.architectures or list(ARCHITECTURES)
    if not options.check and options.afresh:
        parser.error("--afresh goes with --check: a report is made of what is compiled")
    if not options.check and DETAILED not in options.architectures:
        parser.error(f"--architectures: a report needs {DETAILED}, whose instructions are read")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Writes the report, or checks it."""
    options = parsed(arguments)
    try:
        tool("nvcc"), tool("cuobjdump")
    except ToolMissing as missing:
        print(f"sass_report: skipped: {missing}")
        return SKIPPED
    record = json.loads(JSON_REPORT.read_text(encoding="utf-8")) if JSON_REPORT.is_file() else None
    if options.check and record is None:
        print(f"sass_report: {JSON_REPORT} is missing: run it without --check")
        return 1
    try:
        believed = record if options.check and not options.afresh else None
        found = measure(options.architectures, options.kept, options.jobs, believed)
    except NotCompiled as error:
        sys.exit(str(error))
    if record is not None and options.check:
        told = told_by(record)
        found.faults += differences(found, told)
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != as_page(told):
            found.faults.append(
                f"{PAGE.name} does not say what {JSON_REPORT.name} says: run it without --check"
            )
    else:
        JSON_REPORT.parent.mkdir(parents=True, exist_ok=True)
        JSON_REPORT.write_text(written(record_of(found)), encoding="utf-8")
        PAGE.write_text(as_page(found), encoding="utf-8")
    for fault in found.faults:
        print(f"sass_report: {fault}")
    close = len(found.kernels) + len(found.passes)
    number = sum(f.kernels for by in found.units.values() for each in by.values() for f in each.values())
    print(f"sass_report: {number} kernels, {close} of them looked at closely, {len(found.faults)} faults")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
