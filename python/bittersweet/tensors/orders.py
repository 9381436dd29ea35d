"""In which order the elements of a dense array lie in memory."""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple


class Order(NamedTuple):
    """A batch of transposed matrices: element (b, p, q) lies at (b, q, p); ``MemoryOrder`` in C++.

    channels_last convolutions are (inputs, kernel positions), the transposed view of a row-major matrix is
    (rows, columns).
    """

    p: int
    q: int


ROW_MAJOR = Order(1, 1)


@functools.lru_cache(maxsize=1024)
def order_of(shape: tuple[int, ...], strides: tuple[int, ...]) -> Order | None:
    """The order of an array with these strides, in elements; None if it has gaps or no such order."""
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    axes.sort(key=lambda axis: strides[axis], reverse=True)
    extent = 1
    for axis in reversed(axes):
        if strides[axis] != extent:
            return None
        extent *= shape[axis]
    apart = [0] + [
        at
        for at, (axis, following) in enumerate(itertools.pairwise(axes), 1)
        if following < axis or any(shape[between] > 1 for between in range(axis + 1, following))
    ]
    runs = [axes[start:end] for start, end in zip(apart, [*apart[1:], len(axes)], strict=True)]
    if len(runs) < 2:
        return ROW_MAJOR
    *batch, inner, outer = runs  # by strides: what changes slowest comes first
    if len(batch) > 1 or outer > inner or (batch and batch[0] > outer):
        return None
    return Order(math.prod(shape[axis] for axis in outer), math.prod(shape[axis] for axis in inner))
