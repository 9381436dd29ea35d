"""The steps of scripts/gpu_check.sh, and the facts of the machine that they run on."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import report
from check import Check, Step, line

ROOT = Path(__file__).resolve().parents[2]
ENGINE = "build the engine"
CARRY, BUILD = ".carry", "build/gpu"
BIN = f"{BUILD}/bench/cuda"
BUDGET_S = {"quick": 150, "full": 480}


def steps(mode: str, dry: bool) -> list[Step]:
    """What a mode does, in order: what matters most first."""
    full = mode == "full"
    python = sys.executable
    flag = ["--dry"] if dry else []
    site = {"PYTHONPATH": str(ROOT / BUILD / "site")}
    jobs = str(os.cpu_count() or 1)

    def build(name: str, limit_s: float, *targets: str, after: Sequence[str] = ("configure",)) -> Step:
        command = ["cmake", "--build", BUILD, "-j", jobs, "--target", *targets]
        return Step(name, command, limit_s, after=after)

    # All at once, on all cores; what fails here fails again, by name, in the step that needs it.
    device_tests = tuple(
        f"test_cuda.device{name}"
        for name in (
            "",
            "_adam",
            "_calibration",
            "_delta",
            "_groups",
            "_ranks",
            "_rounds",
            "_strips",
            "_track",
        )
    )
    targets = ("headline", "equal_bits", "_core", "gpu_site", "topk_cub", *device_tests)
    everything = ["cmake", "--build", BUILD, "-j", jobs, "--target", *targets, "--", "-k", "0"]
    build_all = Step("build everything else", everything, 150, after=("configure",))

    def program(name: str, limit_s: float, binary: str, *sections: str, after: str = ENGINE) -> Step:
        return Step(name, [f"{BIN}/{binary}", *flag, *sections], limit_s, records=True, after=(after,))

    options = ["-DBITTERSWEET_BUILD_CUDA_BENCH=ON", "-DBITTERSWEET_BUILD_BENCH=OFF"]
    options += [f"-DBITTERSWEET_BUILD_TESTS={'ON' if full else 'OFF'}"]
    options += [f"-DBITTERSWEET_BUILD_PYTHON={'ON' if full else 'OFF'}", f"-DPython_EXECUTABLE={python}"]
    if shutil.which("ccache"):
        options += ["-DCMAKE_CUDA_COMPILER_LAUNCHER=ccache", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"]
    all_steps = []
    if full:
        all_steps.append(Step("unpack", ["bash", "scripts/gpu_carry.sh", "--unpack", BUILD], 40))
        options += [
            f"-DCMAKE_PREFIX_PATH={ROOT / BUILD / 'gtest'}",
            f"-DBITTERSWEET_CCCL={ROOT / BUILD / 'cccl'}",
        ]
    configure = ["cmake", "-S", ".", "-B", BUILD, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    configure += ["-DCMAKE_CUDA_ARCHITECTURES=90", "-DBITTERSWEET_CUDA_ARCHITECTURES=90", *options]
    all_steps += [
        Step("configure", configure, 40),
        build("build the bare kernels", 60, "measure_first"),
        program("measure first", 60, "measure_first", after="build the bare kernels"),
        *([build_all] if full else []),
        build(ENGINE, 110, "headline", "equal_bits"),
        program("same bits as the CPU", 60, "equal_bits", "scorers", "bitter8", "gates", "adam"),
        program("headline", 60, "headline", "headline"),
    ]
    if not full:
        return [_patient(step) if dry else step for step in all_steps]
    all_steps += [
        program("capture and replay", 30, "equal_bits", "graph"),
        program("awkward values", 60, "equal_bits", "values"),
        program("data, dtypes, host", 60, "headline", "data", "dtypes", "host"),
        program("sizes", 60, "headline", "sizes"),
        build("build the Python module", 100, "_core", "gpu_site"),
        Step("peers in torch", [python, "bench/cuda/peers.py", *flag], 70, records=True,
             after=("build the Python module",), environment=site),
        Step("the optimizer's step beside torch's", [python, "bench/cuda/adam.py", *flag], 60, records=True,
             after=("build the Python module",), environment=site),
        Step("rows and groups beside torch", [python, "bench/cuda/groups.py", *flag], 40, records=True,
             after=("build the Python module",), environment=site),
        Step("tensors, bounds, calibration", [python, "bench/cuda/scopes.py", *flag], 60, records=True,
             after=("build the Python module",), environment=site),
        Step("packed matrices and rounding", [python, "bench/cuda/packed.py", *flag], 60, records=True,
             after=("build the Python module",), environment=site),
        Step("updates of trackers", [python, "bench/cuda/trackers.py", *flag], 40, records=True,
             after=("build the Python module",), environment=site),
        build("build the CUB peer", 60, "topk_cub"),
        program("peer cub::DeviceTopK", 30, "topk_cub", after="build the CUB peer"),
        Step("Nsight counters",
             [python, "bench/cuda/counters.py", *flag, f"{BIN}/headline"], 60, records=True,
             needs=() if dry else ("ncu",), after=(ENGINE,),
             unavailable=("ERR_NVGPUCTRPERM", "LibraryNotLoaded")),
        program("scorers", 40, "headline", "scorers"),
        program("selectors", 60, "headline", "selectors"),
        program("beyond 2^31 elements", 60, "equal_bits", "large"),
        Step("pytest on the device",
             [python, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests/python",
              *(["--collect-only"] if dry else [])],
             90, after=("build the Python module",), environment=site,
             wants="tests collected" if dry else r"[1-9]\d* passed"),
        build("build the C++ tests", 120, *device_tests),
        *(Step(f"C++ tests on the device: {test.partition('.')[2]}",
               [f"{BUILD}/tests/{test}", *(["--gtest_list_tests"] if dry else [])],
               90, after=("build the C++ tests",), wants=r"\w+" if dry else r"PASSED  \] [1-9]")
          for test in device_tests),
    ]  # fmt: skip
    if dry:
        all_steps += [
            build("build the rehearsal", 120, "equal_bits_emulated"),
            Step(
                "same bits, emulated",
                [f"{BIN}/equal_bits_emulated", "small", "gates", "bitter8"],
                300,
                records=True,
                after=("build the rehearsal",),
            ),
        ]
    else:
        tools = {
            tool: ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
            for tool in ("memcheck", "racecheck", "initcheck", "synccheck")
        }
        for tool, command in tools.items():
            all_steps.append(
                Step(
                    f"compute-sanitizer {tool}",
                    [*command, f"{BIN}/equal_bits", "small"],
                    45,
                    records=True,
                    needs=("compute-sanitizer",),
                    after=(ENGINE,),
                    unavailable=("Device not supported",),
                )
            )
        # Last, since they are slow: the kernels that `equal_bits small` does not launch.
        for tool, command in tools.items():
            for test in device_tests:
                all_steps.append(
                    Step(
                        f"compute-sanitizer {tool}: {test.partition('.')[2]}",
                        [*command, f"{BUILD}/tests/{test}", "--gtest_filter=-*Captured*:*SelfTest*"],
                        60,
                        needs=("compute-sanitizer",),
                        after=("build the C++ tests",),
                        unavailable=("Device not supported",),
                        wants=r"PASSED  \] [1-9]",
                    )
                )
    return [_patient(step) if dry else step for step in all_steps]


def _patient(step: Step) -> Step:
    """A dry run takes whatever machine there is, beside whatever runs there."""
    return dataclasses.replace(step, limit_s=step.limit_s * 30)


def facts(mode: str, dry: bool, command: str) -> dict[str, Any]:
    """What a reader needs to judge the figures. A dry run names no device."""
    about: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "mode": mode,
        "dry": dry,
        "commit": _commit(),
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "system": platform.platform(aliased=True, terse=True),
        "python": platform.python_version(),
        "nvcc": _first(r"release ([\d.]+, V[\d.]+)", _said("nvcc", "--version")),
        "compiler": _said("c++", "--version").split("\n")[0],
    }
    for package in ("torch", "numpy", "pybind11"):
        try:
            about[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            about[package] = "absent"
    if not dry:
        keys = (
            "name",
            "driver_version",
            "memory.total",
            "clocks.max.sm",
            "clocks.max.memory",
            "ecc.mode.current",
        )
        answer = _said("nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader")
        values = [value.strip() for value in answer.split("\n")[0].split(",")]
        about |= dict(zip(("device", *keys[1:]), values, strict=False)) if len(values) == len(keys) else {}
        about.setdefault("device", "unknown")
    return about


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found.group(1) if found else "absent"


def _commit() -> str:
    """The commit, with `+` where the tree differs; a tree without its history names it in a file."""
    commit = _said("git", "-C", str(ROOT), "rev-parse", "HEAD").strip()
    if commit:
        changed = _said("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no").strip()
        return commit + ("+" if changed else "")
    carried = ROOT / CARRY / "commit"
    return carried.read_text(encoding="ascii").strip() if carried.exists() else "unknown"


def folder(about: dict[str, Any]) -> Path:
    """Where results go: $OUT, or a folder named by device and date."""
    if os.environ.get("OUT"):
        return Path(os.environ["OUT"])
    device = "dry" if about["dry"] else re.sub(r"[^a-z0-9]+", "-", about["device"].lower()).strip("-")
    return ROOT / "bench" / "results" / f"gpu-{device}-{about['date'][:10]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.sh", description=__doc__)
    parser.add_argument("mode", choices=BUDGET_S, help="quick: at most 150 s; full: at most 8 minutes")
    parser.add_argument(
        "--dry", action="store_true", help="everything but the device: builds, oracles, formats"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default $OUT, or bench/results/gpu-...)"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="STEP", help="only these steps, as the summary names them"
    )
    options = parser.parse_args(arguments)
    chosen = steps(options.mode, options.dry)
    if options.only:
        unknown = set(options.only) - {step.name for step in chosen}
        if unknown:
            names = ", ".join(step.name for step in chosen)
            parser.error(
                f"--only {', '.join(sorted(unknown))}: no such step in {options.mode}; there are {names}"
            )
        # What a chosen step needs is taken as done before.
        chosen = [dataclasses.replace(step, after=()) for step in chosen if step.name in options.only]
    words = ["scripts/gpu_check.sh", options.mode, *(["--dry"] if options.dry else [])]
    words += ["--only", *(f'"{name}"' for name in options.only)] if options.only else []
    about = facts(options.mode, options.dry, " ".join(words))
    budget_s = 3600.0 if options.dry else float(BUDGET_S[options.mode])
    check = Check(options.out or folder(about), about, budget_s, ROOT)
    print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    for step in chosen:
        check.run(step)
    return summarise(check)


def summarise(check: Check) -> int:
    """Prints the table last (the end of an output is what is kept of it) and writes the report beside it."""
    (check.out / "report.md").write_text(report.document([check.document()]), encoding="utf-8")
    print("\n" + report.table(check.document()))
    print("\n".join(line(step) for step in check.steps))
    for text in check.missed():
        print(f"goal missed: {text}")
    bad = check.bad()
    verdict = f"did not pass: {', '.join(bad)}" if bad else "every step passed"
    print(f"{verdict}; {len(check.missed())} goals missed; results in {check.out}/results.json")
    return check.status()


if __name__ == "__main__":
    sys.exit(main())
