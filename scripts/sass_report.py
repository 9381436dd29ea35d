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
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JSON_REPORT = ROOT / "bench" / "results" / "sass_sm90.json"
PAGE = ROOT / "docs" / "cuda_sass.md"
UNITS = (
    "adam",
    "bracket",
    "count_runs",
    "engine",
    "histogram",
    "prove_margin",
    "sample",
    "select",
    "tally",
    "write_mask",
    "write_scores",
)
NVCC = [
    *("-std=c++20", "-arch=sm_90", "-O3", "-cubin", "-Xptxas=-v", "--expt-relaxed-constexpr"),
    *("-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true", "-Xcompiler=-ffp-contract=off"),
]
SKIPPED = 77
ELEMENTS = 32  # that one lane takes of a tile of 1024

# A lane may issue so many instructions an element before an H200 waits for them rather than for memory
# (132 x 128 lanes at 1.98 GHz, 4.8 TB/s), per byte read; kernels should stay below this share of it.
SLOTS_PER_BYTE = 132 * 128 * 1.98e9 / 4.8e12
SHARE = 0.7
TRANSPOSE_AND_QUEUE = 2.5
REGISTERS = 80
# Division is a call behind a branch, and some formulas cannot meet the budget: reported, not limited.
DIVIDING = {"Bitter0", "Bitter5", "Bitter6", "Bitter9Hybrid", "Bitter10z", "Bitter8BiasCorrected"}
# AdamVariance has one kernel for all its powers: every root is computed and one is chosen. Identity reads
# scores that the caller computed, as a rule in f32.
UNLIMITED_SLOTS = DIVIDING | {"AdamVariance", "Identity"}
DECIDES = {"0": "score", "1": "rough", "2": "pairs"}
ROUGH = {"Bitter3", "Bitter7", "Bitter8"}
STORED = {"1": "f32", "2": "f16", "3": "bf16"}
READS = {  # arrays; two where a scorer is not named
    **dict.fromkeys(("Magnitude", "Gradient", "Identity"), 1),
    **dict.fromkeys(("Bitter0", "Bitter5", "Bitter6", "Bitter9Hybrid", "Bitter10z"), 3),
}
BYTES = {"f32": 4, "f16": 2, "bf16": 2}


@dataclass
class Kernel:
    """One bracket kernel. Its hot loop reaches from the first vector load to a tile's last comparison."""

    scorer: str
    weight: str
    state: str
    decides: str
    registers: int
    local_bytes: int
    instructions: int
    slots: float  # issued for each element, mask transposition and queue not included
    budget: float  # SHARE of the slots that memory leaves, less those of transposition and queue
    loads: dict[str, int]
    branches: int  # BSSY in the hot loop: one may ask whether the tile has a mask of dead elements

    def name(self) -> str:
        state = f" {self.state}" if READS.get(self.scorer, 2) > 1 else ""
        return f"{self.scorer} {self.weight}{state} by {self.decides}"

    def unlimited(self) -> bool:
        """Exact scores of scorers that have rough ones are for eps = 0."""
        return self.scorer in UNLIMITED_SLOTS or (self.scorer in ROUGH and self.decides == "score")

    def faults(self) -> list[str]:
        wide = "LDG.E.EF.128"
        found = []
        if self.registers > REGISTERS:
            found.append(f"{self.registers} registers, more than {REGISTERS}")
        if wide not in self.loads or any(load not in (wide, "LDG.E.EF.64") for load in self.loads):
            found.append(f"loads {self.loads}, not vectors")
        if self.scorer not in DIVIDING and self.branches > 1:
            found.append(f"{self.branches} branches in the hot loop, where one a tile is allowed")
        if not self.unlimited() and self.slots > self.budget:
            found.append(f"{self.slots:.1f} slots an element, more than {self.budget:.1f}")
        return found


ADAM_STORED = {"0": "f32", "1": "bf16", "3": "bf16, state f32", "4": "f16, state f32"}
ADAM_BYTES = {"f32": 4 * 7, "bf16": 2 * 7, "bf16, state f32": 2 * 3 + 4 * 4, "f16, state f32": 2 * 3 + 4 * 4}
ADAM_BUFFER = {"f32": 8, "bf16": 4, "bf16, state f32": 8, "f16, state f32": 8}


@dataclass
class AdamKernel:
    """One form of the optimizer's pass. Its hot part reaches from the first vector load of neighbours with a
    live element to the last store of them; what it branches around (slow paths of divisions, the gradient's
    own) is counted as well."""

    storage: str
    contracted: bool
    amsgrad: bool
    registers: int
    local_bytes: int
    instructions: int
    slots: float  # for each element
    memory_slots: float  # that memory leaves for the bytes read and written
    loads: dict[str, int]
    stores: dict[str, int]

    def name(self) -> str:
        return f"Adam {self.storage}{', amsgrad' * self.amsgrad}{', contracted' * self.contracted}"

    def faults(self) -> list[str]:
        narrow = 2 if self.storage.endswith("state f32") else 0  # four halves: weight and gradient
        expected = {"LDG.E.EF.128": 4 - narrow + self.amsgrad} | ({"LDG.E.EF.64": narrow} if narrow else {})
        found = []
        if self.registers > REGISTERS:
            found.append(f"{self.registers} registers, more than {REGISTERS}")
        if self.loads != expected:
            found.append(f"loads {self.loads}, not {expected}")
        if self.stores.keys() != {load.replace("LDG", "STG") for load in expected}:
            found.append(f"stores {self.stores}, not vectors")
        return found


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


def bracket_kernel(name: str, code: list[str], registers: int, local: int) -> Kernel | None:
    """The kernel's figures, if it is a bracket pass over vectors."""
    match = re.search(r"BracketTilesINS_\d+(\w+?)ELNS_5DTypeE(\d)ELS\d+_(\d)ELNS\w*?6DecideE(\d)E", name)
    vectors = [i for i, op in enumerate(code) if op.startswith("LDG.E.EF")]
    if match is None or not vectors:
        return None
    scorer, weight, state = match.group(1), STORED[match.group(2)], STORED[match.group(3)]
    end = next(i for i in range(vectors[-1], len(code)) if code[i].startswith("POPC"))
    while not code[end].startswith(("FSETP", "HSET2")):
        end -= 1  # the last comparison of a score
    hot = code[vectors[0] : end + 1]
    size = BYTES[weight] + BYTES[state] * (READS.get(scorer, 2) - 1)
    return Kernel(
        scorer,
        weight,
        state,
        DECIDES[match.group(4)],
        registers,
        local,
        len(code),
        round(len(hot) / ELEMENTS, 2),
        round(SHARE * SLOTS_PER_BYTE * size - TRANSPOSE_AND_QUEUE, 1),
        dict(sorted(collections.Counter(code[i] for i in vectors).items())),
        sum(op.startswith("BSSY") for op in hot),
    )


def adam_kernel(name: str, code: list[str], registers: int, local: int) -> AdamKernel | None:
    """The kernel's figures, if it is an optimizer's pass."""
    match = re.search(r"AdamPassILNS\w*?StorageE(\d)ELb(\d)ELb(\d)E", name)
    loads = [i for i, op in enumerate(code) if op.startswith("LDG.E.EF")]
    if match is None or not loads:
        return None
    storage, amsgrad = ADAM_STORED[match.group(1)], match.group(3) == "1"
    width = 8 if storage == "bf16" else 4
    arrays = 4 + amsgrad
    hot = loads[:arrays]
    stores = [i for i, op in enumerate(code) if op.startswith("STG.E.EF") and i > hot[-1]][:arrays]
    size = ADAM_BYTES[storage] + ADAM_BUFFER[storage] * amsgrad
    return AdamKernel(
        storage,
        match.group(2) == "1",
        amsgrad,
        registers,
        local,
        len(code),
        round((stores[-1] + 1 - hot[0]) / width, 1),
        round(SLOTS_PER_BYTE * size, 1),
        dict(sorted(collections.Counter(code[i] for i in hot).items())),
        dict(sorted(collections.Counter(code[i] for i in stores).items())),
    )


@dataclass
class Unit:
    """The kernels of one file of cuda/."""

    kernels: int
    registers: int  # of the kernel that takes most


def measure() -> tuple[list[Kernel], list[AdamKernel], dict[str, Unit], list[str]]:
    """Every bracket kernel and optimizer's pass, the kernels of each unit, and faults that any kernel may
    have."""
    kernels: list[Kernel] = []
    passes: list[AdamKernel] = []
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
                if adam := adam_kernel(name, instructions, registers, local):
                    passes.append(adam)
    kernels.sort(key=lambda k: (k.scorer, k.weight, k.state, k.decides))
    faults += [f"{kernel.name()}: {fault}" for kernel in kernels for fault in kernel.faults()]
    passes.sort(key=AdamKernel.name)
    faults += [f"{adam.name()}: {fault}" for adam in passes for fault in adam.faults()]
    return kernels, passes, units, faults


def page(kernels: list[Kernel], passes: list[AdamKernel], units: dict[str, Unit]) -> str:
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
        "written, gradients not written.",
        "",
        "| storage | amsgrad | contracted | slots | memory | registers | vector loads | vector stores |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for adam in passes:
        accesses = [
            ", ".join(f"{n} x {op.rsplit('.', 1)[1]} bits" for op, n in found.items())
            for found in (adam.loads, adam.stores)
        ]
        said = ("yes" if flag else "no" for flag in (adam.amsgrad, adam.contracted))
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


def differences(kernels: list[Kernel], passes: list[AdamKernel], units: dict[str, Unit]) -> list[str]:
    """How the checked-in report differs from what was measured."""
    if not JSON_REPORT.is_file():
        return [f"{JSON_REPORT.relative_to(ROOT)} is missing"]
    report = json.loads(JSON_REPORT.read_text())
    checked_in = {k.name(): k.slots for k in (Kernel(**k) for k in report["kernels"])}
    checked_in |= {k.name(): k.slots for k in (AdamKernel(**k) for k in report["adam"])}
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
            "adam": [asdict(k) for k in passes],
        }
        JSON_REPORT.write_text(json.dumps(report, indent=1) + "\n")
        PAGE.write_text(page(kernels, passes, units))
    for fault in faults:
        print(f"sass_report: {fault}")
    print(f"sass_report: {len(kernels)} bracket kernels, {len(passes)} passes, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
