"""The CUDA engine's units as machine code: compiled for one architecture each, kept, read back. No GPU."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What users have: Turing, Ampere (data centre, GeForce), Ada, Hopper, Blackwell (data centre, GeForce).
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
FLAGS = (
    *("-std=c++20", "-O3", "-cubin", "-Xptxas=-v", "--expt-relaxed-constexpr"),
    *("-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true", "-Xcompiler=-ffp-contract=off"),
)
ROOMS = ("include", "src")


class ToolMissing(Exception):
    """A program that reading machine code takes is not there."""


class NotCompiled(Exception):
    """nvcc refused a unit."""


@dataclass
class Code:
    """One kernel: what ptxas says of it, and the names of its instructions where they were asked for."""

    registers: int
    spilled: int  # bytes, stored and loaded
    local: int  # bytes of stack, of what it calls too
    instructions: list[str]


@functools.cache
def tool(name: str) -> str:
    """The path of a CUDA program: on PATH, in CUDA_HOME, or from a PyPI package."""
    places = [os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin"]
    places += [str(Path(p) / "nvidia" / "cu13" / "bin") for p in sys.path if p]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise ToolMissing(f"{name} was not found (PyPI: nvidia-cuda-{name})")
    return found


@functools.cache
def compiler() -> str:
    """What the compiler calls itself."""
    told = subprocess.run([tool("nvcc"), "--version"], capture_output=True, text=True, check=True)
    return told.stdout


def units() -> list[str]:
    """Every file of cuda/ that nvcc compiles."""
    return sorted(path.stem for path in (ROOT / "cuda").glob("*.cu"))


@functools.cache
def text_of(path: Path) -> tuple[str, tuple[Path, ...]]:
    """A source without its comments and line ends, and the files of the project that it includes."""
    literal_or_comment = r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/'
    text = re.sub(
        literal_or_comment,
        lambda found: found[0] if found[0].startswith('"') else " ",
        path.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    places = [path.parent, *(ROOT / room for room in ROOMS)]
    included = []
    for name in re.findall(r'^\s*#\s*include\s+"([^"\n]+)"', text, re.MULTILINE):
        found = (place / name for place in places)
        included += [file.resolve() for file in found if file.is_file()][:1]
    return " ".join(text.split()), tuple(included)


def digest(unit: str) -> str:
    """Stands for what a unit's machine code depends on but the architecture: sources, options, compiler."""
    todo, seen = [(ROOT / "cuda" / f"{unit}.cu").resolve()], set[Path]()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += text_of(path)[1]
    whole = hashlib.sha256("\0".join((*FLAGS, compiler())).encode())
    for path in sorted(seen):
        whole.update(f"\0{path.relative_to(ROOT.resolve())}\0{text_of(path)[0]}".encode())
    return whole.hexdigest()[:16]


def compile_unit(unit: str, architecture: int, kept: Path) -> Path:
    """The cubin of a unit, with ptxas's report beside it: made now, or when these sources were met before."""
    name = f"{unit}.sm_{architecture}"
    cubin = kept / f"{name}.{digest(unit)}.cubin"
    report = cubin.with_suffix(".txt")
    if cubin.is_file() and report.is_file():
        return cubin
    kept.mkdir(parents=True, exist_ok=True)
    made = cubin.with_suffix(f".{os.getpid()}.part")
    command = [tool("nvcc"), *FLAGS, f"-arch=sm_{architecture}", "-o", str(made)]
    command += [f"-I{ROOT / room}" for room in ROOMS]
    built = subprocess.run(
        [*command, str(ROOT / "cuda" / f"{unit}.cu")], capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        raise NotCompiled(built.stderr)
    for old in (*kept.glob(f"{name}.*.cubin"), *kept.glob(f"{name}.*.txt")):
        old.unlink()
    report.write_text(built.stderr, encoding="utf-8")
    made.replace(cubin)
    return cubin


def resources(ptxas: str) -> dict[str, Code]:
    """Registers, stack frame and spills by kernel, without instructions."""
    pattern = re.compile(
        r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores,"
        r" (\d+) bytes spill loads.*?Used (\d+) registers(?:[^\n]*? (\d+) bytes cumulative stack size)?",
        re.DOTALL,
    )
    return {
        name: Code(int(registers), int(stores) + int(loads), max(int(frame), int(stack or 0)), [])
        for name, frame, stores, loads, registers, stack in pattern.findall(ptxas)
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


def read_unit(cubin: Path, *, instructions: bool) -> dict[str, Code]:
    """The kernels in a cubin of compile_unit()."""
    kernels = resources(cubin.with_suffix(".txt").read_text(encoding="utf-8"))
    if instructions and kernels:
        sass = subprocess.run(
            [tool("cuobjdump"), "-sass", str(cubin)], capture_output=True, text=True, check=True
        )
        code = functions(sass.stdout)
        if code.keys() != kernels.keys():
            raise NotCompiled(f"{cubin.name}: ptxas and cuobjdump tell of different kernels")
        for name, found in code.items():
            kernels[name].instructions = found
    return kernels
