"""From the source to the copy, file by file: chosen tensors through the engine, all else by the kernel."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .choosing import Choice
from .headers import FileHeader, StoredTensor
from .output import Partial, copy_range, write_runs
from .scopes import Strategy
from .source import Checkpoint
from .verifying import Copy

__all__ = ["verify", "write"]

Moved = Callable[[int], None]


def write(
    checkpoint: Checkpoint, choices: list[Choice], strategy: Strategy, partial: Partial, moved: Moved
) -> dict[str, int]:
    """Writes the copy; returns how many elements of each chosen tensor were pruned."""
    pruned = {choice.tensor.name: 0 for choice in choices}
    chosen_of = _by_file(choices)
    with closing(strategy.job.read(strategy.blocks())) as stream:
        by_tensor = itertools.groupby(stream, key=lambda found: found[0].tensor)
        for at, header in enumerate(checkpoint.files):
            with _reading(header.path) as source, partial.file(Path(header.path.name)) as target:
                for begin, end in _between(header, chosen_of.get(at, frozenset())):
                    copy_range(source, target, begin, end)
                    moved(end - begin)
                    if end == header.size:
                        continue
                    tensor, blocks = next(by_tensor)
                    for block, memory in blocks:
                        pruned[tensor.name] += strategy.write(block, memory)
                        write_runs(target, block, memory)
    strategy.finish(sum(pruned.values()))
    for name in checkpoint.beside:
        with _reading(checkpoint.root / name) as source, partial.file(name) as target:
            size = os.fstat(source).st_size
            copy_range(source, target, 0, size)
            moved(size)
    return pruned


def verify(
    checkpoint: Checkpoint, choices: list[Choice], strategy: Strategy, partial: Partial, moved: Moved
) -> None:
    """Reads source and copy, and compares. Raises CheckpointError where they are not as they should be."""
    pruned, chosen_of = 0, _by_file(choices)
    with closing(strategy.job.read(strategy.blocks())) as stream:
        by_tensor = itertools.groupby(stream, key=lambda found: found[0].tensor)
        for at, header in enumerate(checkpoint.files):
            path = partial.path / header.path.name if partial.folder else partial.path
            with (
                _reading(header.path) as source,
                closing(Copy(header, path, strategy.job.memory.room)) as copy,
            ):
                copy.check_size()
                for begin, end in _between(header, chosen_of.get(at, frozenset())):
                    copy.check_range(source, begin, end, moved)
                    if end == header.size:
                        continue
                    _, blocks = next(by_tensor)
                    for block, memory in blocks:
                        pruned += strategy.write(block, memory)
                        copy.check_block(block, memory)
    strategy.finish(pruned)
    for name in checkpoint.beside:
        with _reading(checkpoint.root / name) as source:
            size = os.fstat(source).st_size
            header = FileHeader(checkpoint.root / name, size, 0, ())
            copy = Copy(header, partial.path / name, 0)
            with closing(copy):
                copy.check_size()
                copy.check_range(source, 0, size, moved)


def _by_file(choices: list[Choice]) -> dict[int, frozenset[StoredTensor]]:
    by_file = itertools.groupby((choice.tensor for choice in choices), key=lambda tensor: tensor.file)
    return {file: frozenset(tensors) for file, tensors in by_file}


def _between(header: FileHeader, chosen: frozenset[StoredTensor]) -> Iterator[tuple[int, int]]:
    """What is copied before each chosen tensor of the file, and after the last one, to the file's end."""
    place = 0
    for tensor in header.tensors:
        if tensor in chosen:
            yield place, tensor.begin
            place = tensor.end
    yield place, header.size


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read ({error.strerror})") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)
