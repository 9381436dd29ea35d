"""Blocks of files, read ahead by a thread into two pieces of aligned memory, whatever a file's alignment."""

from __future__ import annotations

import itertools
import mmap
import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .blocks import BLOCK_BYTES, Block

__all__ = ["Memory", "aligned", "read_ahead", "read_runs", "read_scattered"]


class Memory:
    """Two blocks of `room` bytes that begin on pages, for all passes: fresh pages cost more than filling them
    again."""

    def __init__(self, size: int = BLOCK_BYTES) -> None:
        self.room = size
        self.blocks = [aligned(size) for _ in range(2)]


def aligned(size: int) -> memoryview:
    """Memory from the system, which costs nothing until it is written to."""
    return memoryview(mmap.mmap(-1, max(size, 1)))


class _Files:
    """The file that is being read; another one takes its place."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: tuple[int, int] | None = None

    def descriptor(self, file: int) -> int:
        if self._open is None or self._open[0] != file:
            self.close()
            found = os.open(self._paths[file], os.O_RDONLY | os.O_CLOEXEC)
            self._open = (file, found)
            os.posix_fadvise(found, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return self._open[1]

    def close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None


def read_ahead(
    paths: Sequence[Path], wanted: Iterable[Block], memory: Memory
) -> Generator[tuple[Block, memoryview], None, None]:
    """Each block with its bytes, in order; the bytes may be written to, and are gone with the next block.

    While the caller works on one block, a thread reads the next, and has told the system of the one behind.
    """
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for piece in memory.blocks:
        free.put(piece)
    thread = threading.Thread(
        target=_fill, args=(paths, wanted, free, ready), name="bittersweet-read-ahead", daemon=True
    )
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            block, piece = found
            yield block, piece[: block.nbytes]
            free.put(piece)
    finally:
        free.put(None)
        thread.join()


def _fill(
    paths: Sequence[Path],
    wanted: Iterable[Block],
    free: queue.SimpleQueue[Any],
    ready: queue.SimpleQueue[Any],
) -> None:
    path = paths[0] if paths else None
    try:
        with closing(_Files(paths)) as files:
            for block, following in _with_next(wanted):
                path = paths[block.tensor.file]
                descriptor = files.descriptor(block.tensor.file)
                if following is not None and following.tensor.file == block.tensor.file:
                    os.posix_fadvise(descriptor, following.begin, _span(following), os.POSIX_FADV_WILLNEED)
                if (piece := free.get()) is None:
                    return
                read_runs(descriptor, block, piece, path)
                ready.put((block, piece))
        ready.put(None)
    except OSError as error:
        ready.put(CheckpointError(f"'{path}' cannot be read ({error.strerror})"))
    except BaseException as error:  # it is raised where the block is waited for
        ready.put(error)


def read_scattered(paths: Sequence[Path], wanted: Sequence[Block]) -> Iterator[tuple[Block, memoryview]]:
    """Small blocks at ascending places of each file. The system is told of all before the first is read, so
    that a disk takes them in its own order.
    """
    memory = memoryview(bytearray(max((block.nbytes for block in wanted), default=0)))
    for file, group in itertools.groupby(wanted, key=lambda block: block.tensor.file):
        try:
            descriptor = os.open(paths[file], os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                blocks = list(group)
                for block in blocks:
                    os.posix_fadvise(descriptor, block.begin, block.nbytes, os.POSIX_FADV_WILLNEED)
                for block in blocks:
                    read_runs(descriptor, block, memory, paths[file])
                    yield block, memory[: block.nbytes]
            finally:
                os.close(descriptor)
        except OSError as error:
            raise CheckpointError(f"'{paths[file]}' cannot be read ({error.strerror})") from None


def _with_next(wanted: Iterable[Block]) -> Iterator[tuple[Block, Block | None]]:
    before: Block | None = None
    for block in wanted:
        if before is not None:
            yield before, block
        before = block
    if before is not None:
        yield before, None


def _span(block: Block) -> int:
    return block.run if block.runs == 1 else (block.runs - 1) * block.stride + block.run


def read_runs(descriptor: int, block: Block, memory: memoryview, path: Path) -> None:
    """Fills `memory` with the block's runs, side by side.

    Raises:
        CheckpointError: The file ended before.
    """
    for at in range(block.runs):
        place, left = block.begin + at * block.stride, memory[at * block.run : (at + 1) * block.run]
        while left:
            count = os.preadv(descriptor, [left], place)
            if count == 0:
                raise CheckpointError(f"'{path}' ended while it was read. Prune it when nobody writes to it")
            place, left = place + count, left[count:]
