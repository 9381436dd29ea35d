"""What this installation is and can do: ``python -m bittersweet info``."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import re
from typing import Any

from . import _core
from .errors import Error
from .options.scorers import scorers
from .options.selectors import selectors
from .options.values import as_int
from .tensors import devices, threads


def build_info() -> dict[str, Any]:
    """Version, compiler, instruction sets, threads and CUDA support of the compiled library."""
    return dict(_core.build_info())


def set_num_threads(n: int) -> None:
    """Sets how many threads the CPU engine uses from now on, torch or not. Results do not depend on it.

    Raises:
        ArgumentError: `n` is not an integer from 1.
    """
    threads.choose(as_int("n", n, 1, 2**31 - 1, "an integer from 1"))


def get_num_threads() -> int:
    """How many threads the CPU engine uses.

    What was set, else the CPUs this process may use, and never more than torch uses once torch is loaded.
    """
    threads.follow_torch()
    return _core.get_num_threads()


def get_include() -> str:
    """Directory of the C++ headers inside the installed package, for ``-I``."""
    return str(_package() / "include")


def get_cmake_dir() -> str:
    """Directory of the CMake package inside the installed package, for ``-Dbittersweet_DIR=``."""
    return str(_package() / "lib" / "cmake" / "bittersweet")


def cuda_devices() -> list[dict[str, Any]]:
    """The GPUs that the driver shows, and what this build can do on each.

    Every entry has ``index``, ``name``, ``capability``, ``verdict`` (``"native code"``, ``"PTX, compiled at
    first use"``, ``"unsupported: ..."`` or ``"driver too old: ..."``), ``usable``, and ``self_test``:
    ``"passed"`` where a small step gave the bits of the reference engine, else what happened; None where it
    is not usable. Without a driver, a GPU or a CUDA engine in this build the list is empty.
    """
    native = devices.runtime.native
    return [
        {**row, "self_test": _self_test(native, row["index"]) if row["usable"] else None}
        for row in native.cuda_devices()
    ]


def _self_test(native: Any, index: int) -> str:
    try:
        return native.cuda_self_test(index) or "passed"
    except Error as error:
        return f"failed: {error}"


def collect() -> dict[str, Any]:
    """Everything that ``info`` prints, as plain values."""
    return {
        **build_info(),
        "gpus": cuda_devices(),
        "threads": get_num_threads(),
        "scorers": scorers(),
        "selectors": selectors(),
        "include": get_include(),
        "cmake": get_cmake_dir(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "packages": {name: _installed(name) for name in ("numpy", "torch", "tqdm", "matplotlib")},
    }


def cpu_name() -> str:
    """The processor's own name where the system tells it, else the name of its architecture."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine()


def print_info(*, as_json: bool) -> None:
    """Prints `collect` to standard output, as one JSON object or as aligned lines."""
    values = collect()
    if as_json:
        print(json.dumps(values, indent=2))
        return
    width = max(len(key) for key in values)
    for key, value in values.items():
        lines = _gpu_lines(value) if key == "gpus" else [_text(value)]
        for label, line in zip([key, *[""] * len(lines)], lines, strict=False):
            print(f"{label.ljust(width)}  {line}")


def _gpu_lines(gpus: list[dict[str, Any]]) -> list[str]:
    if not gpus:
        if devices.runtime.native.CUDA_BUILT:
            return ["none: no NVIDIA driver answered, or it shows no GPU (nvidia-smi says more)"]
        return ["not looked for: this build has no CUDA engine"]
    return [
        f"{gpu['index']}: {gpu['name']}, compute capability {gpu['capability']}: {gpu['verdict']}"
        + ("" if gpu["self_test"] is None else f"; self-test {gpu['self_test']}")
        for gpu in gpus
    ]


def _package() -> pathlib.Path:
    return pathlib.Path(__file__).resolve().parent


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item or 'absent'}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return str(value)
