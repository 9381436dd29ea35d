"""How a weight's elements form output rows: from the axes of its shape to what the engines take."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from ..errors import ArgumentError
from ..options.values import as_int


class Axes(NamedTuple):
    """What the axes of a weight mean, as `ScoreInputs` takes it under the same names."""

    in_dim: int | None = None
    kernel_dims: int | None = None
    groups: int | None = None


class Geometry(NamedTuple):
    """Rows and what they read, of a row-major array; the fields are those of ``Geometry`` in C++.

    The rows fall into `blocks` equal runs, one after another in memory, and each block reads input features
    of its own. Element (input, inner) of a block's r-th row is ``r * row_stride + input * input_stride +
    inner`` from the block's start.
    """

    rows: int
    inputs: int
    inner: int
    row_stride: int
    input_stride: int
    blocks: int = 1

    @property
    def features(self) -> int:
        """The input features that the whole weight reads: those of all blocks, one after another."""
        return self.blocks * self.inputs


def geometry_of(
    shape: tuple[int, ...],
    in_dim: int | None = None,
    kernel_dims: int | None = None,
    groups: int | None = None,
    name: str = "weight",
) -> Geometry:
    """The geometry that these arguments of `ScoreInputs` give to a weight of `shape`.

    Raises:
        ArgumentError: An axis that is not there, more kernel axes than follow the inputs, or groups that do
            not divide the weight.
    """
    try:
        return _geometry_of(shape, in_dim, kernel_dims, groups, name)
    except TypeError:  # an argument that no cache can hold, which the check names
        return _geometry_of.__wrapped__(shape, in_dim, kernel_dims, groups, name)


@functools.lru_cache(maxsize=4096, typed=True)
def _geometry_of(
    shape: tuple[int, ...], in_dim: int | None, kernel_dims: int | None, groups: int | None, name: str
) -> Geometry:
    most = max(len(shape), 1) - 1
    if in_dim is not None:
        in_dim = as_int("in_dim", in_dim, 0, most, f"0 to {most} for '{name}' of shape {shape}")
    if len(shape) < 2:
        _accept("kernel_dims", kernel_dims, 0, name, shape)
        _accept("groups", groups, 1, name, shape)
        numel = math.prod(shape)
        return Geometry(1, numel, 1, numel, 1)
    axis = 1 if in_dim is None else in_dim
    most = len(shape) - 1 - axis
    kernel = len(shape) - 1 - max(axis, 1) if kernel_dims is None else kernel_dims
    if not 0 <= kernel <= most:
        raise ArgumentError(
            f"kernel_dims: {kernel_dims} for '{name}' of shape {shape} with its inputs on axis {axis}; "
            f"accepted: 0 to {most}"
        )
    window = len(shape) - kernel
    before, inputs, behind = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 : window])
    inner = math.prod(shape[window:])
    if axis == 0:
        blocks = _divisor(groups, inputs, name, shape)
        inputs //= blocks
        before = blocks
    elif axis + 1 < window:
        blocks = max(before, 1)
        _accept("groups", groups, blocks, name, shape)
    else:
        blocks = _divisor(groups, before, name, shape)
    rows = before * behind
    if behind == 1 or inputs == 1:  # one row a block, or one input a row: nothing interleaves
        return Geometry(rows, inputs, inner, inputs * inner, inner, blocks)
    return Geometry(rows, inputs, inner, inner, behind * inner, blocks)


def _divisor(groups: int | None, length: int, name: str, shape: tuple[int, ...]) -> int:
    count = 1 if groups is None else groups
    if count < 1 or length % count:
        raise ArgumentError(
            f"groups: {groups} for '{name}' of shape {shape}; accepted: a number that divides {length}"
        )
    return count


def _accept(argument: str, given: int | None, only: int, name: str, shape: tuple[int, ...]) -> None:
    if given is not None and given != only:
        raise ArgumentError(f"{argument}: {given} for '{name}' of shape {shape}; accepted: {only}")
