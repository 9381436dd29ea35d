"""Host memory for the words of masks, kept warm: pages touched for the first time cost more than a pass."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["words"]

LEAST = 1 << 17  # words: smaller blocks stay warm in the allocator
_spare: list[np.ndarray[Any, Any]] = []  # one block at most: that of the masks let go last


class _Lent:
    """A block that comes back when the last array over it is gone."""

    __slots__ = ("block",)

    def __init__(self, block: np.ndarray[Any, Any]) -> None:
        self.block = block

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.block.__array_interface__

    def __del__(self, spare: list[np.ndarray[Any, Any]] = _spare) -> None:
        spare[:] = [self.block]


def words(count: int) -> np.ndarray[Any, Any]:
    """`count` uninitialised words: those of masks that are gone, unless half would lie idle."""
    if count < LEAST:
        return np.empty(count, dtype=np.uint64)
    try:
        block = _spare.pop()
    except IndexError:
        block = np.empty(0, dtype=np.uint64)
    if not count <= block.size <= 2 * count:
        block = np.empty(count, dtype=np.uint64)
    return np.asarray(_Lent(block))[:count]
