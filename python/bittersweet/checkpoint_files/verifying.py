"""The copy is read again: zeros where they were computed, and every other byte as in the source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np

from ..errors import CheckpointError
from .blocks import Block
from .headers import FileHeader
from .reading import aligned, read_runs

__all__ = ["Copy"]

_AT_ONCE = 8 << 20


class Copy:
    """One file of the copy, read from the disk and not from what the system remembers of writing it."""

    def __init__(self, header: FileHeader, path: Path, room: int) -> None:
        self._header, self._path = header, path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        self._memory = aligned(room)

    def close(self) -> None:
        os.close(self._descriptor)

    def check_size(self) -> None:
        size = os.fstat(self._descriptor).st_size
        if size != self._header.size:
            self._damaged(f"it has {size:,} bytes, and {self._header.size:,} were written")

    def check_block(self, block: Block, expected: memoryview) -> None:
        """Raises CheckpointError unless the copy holds `expected` where the block lies."""
        found = self._memory[: block.nbytes]
        read_runs(self._descriptor, block, found, self._path)
        at = _first_difference(found, expected)
        if at is not None:
            run, rest = divmod(at, block.run)
            index = block.first + (run * block.stride + rest) // block.itemsize
            self._damaged(f"element {index:,} of tensor '{block.tensor.name}' is not what was written")

    def check_range(self, source: int, begin: int, end: int, moved: Callable[[int], None]) -> None:
        """Raises CheckpointError unless both files hold the same from `begin` to `end`."""
        while begin < end:
            count = min(end - begin, _AT_ONCE)
            expected, found = os.pread(source, count, begin), os.pread(self._descriptor, count, begin)
            if expected != found:
                at = _first_difference(memoryview(found), memoryview(expected))
                self._damaged(f"byte {begin + (at or 0):,} is not that of the source")
            if not expected:
                self._damaged("it or the source ended early")
            begin += len(expected)
            moved(len(expected))

    def _damaged(self, why: str) -> NoReturn:
        raise CheckpointError(
            f"verify: the copy of '{self._header.path}' differs on disk: {why}. It has been removed; look at "
            "the disk, and run again"
        )


def _first_difference(one: memoryview, other: memoryview) -> int | None:
    """The first byte in which they differ."""
    if len(one) != len(other):
        return min(len(one), len(other))
    words = len(one) // 8 * 8
    for begin in range(0, words, _AT_ONCE):
        end = min(begin + _AT_ONCE, words)
        pair = (np.frombuffer(part[begin:end], np.uint64) for part in (one, other))
        differs = np.not_equal(*pair)
        if differs.any():
            begin += int(differs.argmax()) * 8
            return next(at for at in range(begin, begin + 8) if one[at] != other[at])
    return next((at for at in range(words, len(one)) if one[at] != other[at]), None)
