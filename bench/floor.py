"""The floor: bare read and read-and-write passes over torch tensors, from floor.cpp by ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("floor.cpp")
READS = ("in turn", "interleaved", "prefetched")  # in the order of floor.cpp
WRITE = len(READS)


def compiler() -> str | None:
    """The C++ compiler at hand: CXX, else c++; None where there is none."""
    return shutil.which(os.environ.get("CXX", "c++"))


def build(directory: str | os.PathLike[str]) -> Path:
    """Compiles floor.cpp into `directory`. Raises RuntimeError without a compiler or when it fails."""
    command = compiler()
    if command is None:
        raise RuntimeError("the floor is C++ and no compiler was found: install g++, or set CXX to one")
    library = Path(directory) / "libbittersweet_floor.so"
    flags = ["-std=c++20", "-O2", "-shared", "-fPIC", "-pthread"]
    done = subprocess.run(
        [command, *flags, str(SOURCE), "-o", str(library)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command} could not compile {SOURCE.name}:\n{done.stderr}")
    return library


class Floor:
    """The loaded library.

    Args:
        library: A built `bittersweet_floor`; None compiles it into a temporary directory.
    """

    def __init__(self, library: str | os.PathLike[str] | None = None) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = build(directory) if library is None else Path(library).resolve()
            self._library = ctypes.CDLL(str(path))
        self._library.bittersweet_floor_isa.restype = ctypes.c_char_p
        self.run = self._library.bittersweet_floor_pass
        self.run.argtypes = [
            ctypes.c_int,
            *[ctypes.c_void_p] * 3,
            *[ctypes.c_int64] * 2,
            ctypes.c_int,
        ]

    @property
    def isa(self) -> str:
        """The vectors that the passes use on this machine."""
        return bytes(self._library.bittersweet_floor_isa()).decode()

    def over(self, *arrays: Sequence[torch.Tensor]) -> Passes:
        """Passes over some arrays of every tensor of a model, each a list of contiguous tensors."""
        return Passes(self, arrays)


class Passes:
    """Bare passes over fixed arrays; `bytes` is how much one of them reads."""

    def __init__(self, floor: Floor, arrays: Sequence[Sequence[torch.Tensor]]) -> None:
        rows = list(zip(*arrays, strict=True))
        for row in rows:
            if not all(x.is_contiguous() and x.numel() == row[0].numel() for x in row):
                raise ValueError("arrays of one tensor must be contiguous and have one size")
        self._run = floor.run
        self._arrays = arrays  # keeps the memory alive
        self._tensors, self._streams = len(rows), len(arrays)
        self._data = (ctypes.c_void_p * (self._tensors * self._streams))(
            *[x.data_ptr() for row in rows for x in row]
        )
        self._counts = (ctypes.c_int64 * self._tensors)(*[row[0].numel() for row in rows])
        self._sizes = (ctypes.c_int64 * self._streams)(*[array[0].element_size() for array in arrays])
        self.bytes = sum(x.numel() * x.element_size() for row in rows for x in row)

    def read(self, variant: int, threads: int) -> None:
        """Reads every byte once, by one of `READS`."""
        self._pass(variant, threads)

    def write(self, threads: int) -> None:
        """Reads every byte and writes it back, 64 elements of each array in turn."""
        self._pass(WRITE, threads)

    def _pass(self, kind: int, threads: int) -> None:
        status = self._run(kind, self._data, self._counts, self._sizes, self._tensors, self._streams, threads)
        if status != 0:
            raise ValueError(f"pass {kind} over {self._streams} arrays with {threads} threads was refused")
