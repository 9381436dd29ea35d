"""How a tensor in a file is cut into blocks that fit into memory, and what each block means to the engine."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ShapeError
from .headers import StoredTensor

__all__ = ["BLOCK_BYTES", "Block", "Cut", "Matrix", "blocks", "matrices", "sample_block"]

BLOCK_BYTES = 8 << 20
"""Of one block; two are in memory, so that one is read while the other is worked on."""

CODES = {"F32": 1, "F16": 2, "BF16": 3}
"""Element types that are pruned, as the engine numbers them."""

_SIZES = {"F32": 4, "F16": 2, "BF16": 2}


class Cut(enum.Enum):
    """Where a block may end: anywhere, between features that have norms, between output rows, or between
    groups of inputs."""

    ANYWHERE = "anywhere"
    FEATURES = "features"
    ROWS = "rows"
    GROUPS = "groups"


@dataclass(frozen=True)
class Matrix:
    """A weight of one layer within a tensor: `lines` lines of `cells` cells of `inner` elements in the file.

    A line is an output and its cells are inputs; or the reverse, where `transposed`. `first` is the flat
    index of its first element in the tensor, `feature` the place of its first norm in the tensor's.
    """

    tensor: StoredTensor
    lines: int
    cells: int
    inner: int
    transposed: bool
    first: int = 0
    feature: int = 0

    @property
    def inputs(self) -> int:
        return self.lines if self.transposed else self.cells

    @property
    def line(self) -> int:
        return self.cells * self.inner


@dataclass(frozen=True)
class Block:
    """A part of a tensor as it lies in memory: `shape` is (rows, inputs, inner, transposed) for the engine.

    `runs` equal runs of `run` bytes, `stride` bytes apart in the file, lie side by side in the block.
    """

    tensor: StoredTensor
    first: int
    shape: tuple[int, int, int, bool]
    features: tuple[int, int]
    begin: int
    run: int
    runs: int = 1
    stride: int = 0

    @property
    def nbytes(self) -> int:
        return self.run * self.runs

    @property
    def itemsize(self) -> int:
        return _SIZES[self.tensor.dtype]

    @property
    def code(self) -> int:
        return CODES[self.tensor.dtype]


def matrices(tensor: StoredTensor, transposed: bool) -> list[Matrix]:
    """What the axes mean: (outputs, inputs, window...), or (inputs, outputs, window...) if transposed.

    A tensor of three axes with ``experts`` in its name holds one matrix each, (experts, outputs, inputs).
    """
    shape = tensor.shape
    if is_stacked(tensor):
        count, lines, cells = shape
        inputs = lines if transposed else cells
        return [
            Matrix(tensor, lines, cells, 1, transposed, at * lines * cells, at * inputs)
            for at in range(count)
        ]
    inner = 1
    for size in shape[2:]:
        inner *= size
    return [Matrix(tensor, shape[0], shape[1], inner, transposed)]


def is_stacked(tensor: StoredTensor) -> bool:
    return len(tensor.shape) == 3 and "experts" in tensor.name.lower()


def blocks(tensor: StoredTensor, transposed: bool, cut: Cut, group: int, room: int) -> Iterator[Block]:
    """All of a tensor in blocks of at most `room` bytes, in the order of the file where rows allow that.

    Raises:
        ShapeError: What must stay together is longer than a block.
    """
    elements = room // _SIZES[tensor.dtype]
    if cut is Cut.ANYWHERE:
        for first in range(0, tensor.numel, elements):
            yield _flat(tensor, first, min(elements, tensor.numel - first))
        return
    for matrix in matrices(tensor, transposed):
        yield from _of_matrix(matrix, cut, group, elements)


def _of_matrix(matrix: Matrix, cut: Cut, group: int, elements: int) -> Iterator[Block]:
    lines = matrix.lines
    if cut is Cut.ROWS and matrix.transposed:  # a row is one cell of every line
        step = min(matrix.cells, elements // max(lines * matrix.inner, 1))
        _fits(step, matrix, "a row")
        for cell in range(0, matrix.cells, step):
            yield _part(matrix, 0, lines, cell, min(cell + step, matrix.cells))
        return
    together = group if cut is Cut.GROUPS and matrix.transposed else 1
    step = elements // max(matrix.line, 1) // together * together
    if step == 0 and cut is Cut.FEATURES:
        cells = elements // max(matrix.inner, 1)
        _fits(cells, matrix, "the window of an input")
        for line in range(lines):
            for cell in range(0, matrix.cells, cells):
                yield _part(matrix, line, line + 1, cell, min(cell + cells, matrix.cells))
        return
    _fits(step, matrix, "a row" if together == 1 else f"a group of {group} inputs")
    for line in range(0, lines, step):
        yield _part(matrix, line, min(line + step, lines), 0, matrix.cells)


def sample_block(tensor: StoredTensor, transposed: bool, cut: Cut, first: int, most: int) -> Block:
    """Up to `most` neighbours from the flat index `first` on, as many as share a line of the file."""
    if cut is Cut.ANYWHERE:
        return _flat(tensor, first, min(most, tensor.numel - first))
    found = matrices(tensor, transposed)
    size = found[0].lines * found[0].line
    matrix = found[first // size]
    line, place = divmod(first - matrix.first, matrix.line)
    cell, inner = divmod(place, matrix.inner)
    if matrix.inner == 1:
        return _part(matrix, line, line + 1, cell, min(cell + most, matrix.cells))
    count = min(most, matrix.inner - inner)
    feature = matrix.feature + (line if transposed else cell)
    itemsize = _SIZES[tensor.dtype]
    shape = (1, 1, count, False)
    return Block(
        tensor, first, shape, (feature, feature + 1), tensor.begin + first * itemsize, count * itemsize
    )


def _flat(tensor: StoredTensor, first: int, count: int) -> Block:
    itemsize = _SIZES[tensor.dtype]
    return Block(
        tensor, first, (1, count, 1, False), (0, 0), tensor.begin + first * itemsize, count * itemsize
    )


def _part(matrix: Matrix, begin: int, end: int, cell: int, last: int) -> Block:
    """Lines `begin` to `end` and their cells `cell` to `last`."""
    itemsize = _SIZES[matrix.tensor.dtype]
    lines, cells = end - begin, last - cell
    first = matrix.first + begin * matrix.line + cell * matrix.inner
    start = matrix.tensor.begin + first * itemsize
    if matrix.transposed:
        shape = (cells, lines, matrix.inner, True)
        features = (matrix.feature + begin, matrix.feature + end)
    else:
        shape = (lines, cells, matrix.inner, False)
        features = (matrix.feature + cell, matrix.feature + last)
    run = cells * matrix.inner * itemsize
    if cells == matrix.cells or lines == 1:
        return Block(matrix.tensor, first, shape, features, start, lines * run)
    return Block(matrix.tensor, first, shape, features, start, run, lines, matrix.line * itemsize)


def _fits(step: int, matrix: Matrix, what: str) -> None:
    if step < 1:
        raise ShapeError(
            f"'{matrix.tensor.name}' of shape {matrix.tensor.shape}: {what} does not fit into a block of "
            "memory. Leave it out by exclude, or take scope 'global' or 'tensor'"
        )
