"""One argument of many tensors, checked in one walk where that can be."""

from __future__ import annotations

import functools
import sys
from array import array
from collections.abc import Sequence
from typing import Any

from .. import _core
from . import devices
from .arrays import FLOATS, View, inspect
from .orders import ROW_MAJOR

__all__ = ["Column", "of_other_shapes"]

Shape = tuple[int, ...]


class Column:
    """One argument of many tensors, as an engine takes it.

    Plain row-major torch tensors on the host are described by compiled code, where torch offers DLPack's C
    exchange API. What any other value is, and what is wrong with one, `arrays.inspect` says.

    Args:
        values: What was given; None where nothing was.
        argument, names: What the values are called in messages.
        like: Shapes that the values should have. A tensor of another is not plain.

    Attributes:
        pointers, dtypes: Address and element type of each; 0 where nothing was given.
        shapes: The shape of each. Where nothing was given it is that of `like`, or ().
        is_plain: Whether all are plain tensors, or None.
    """

    __slots__ = ("_values", "_views", "dtypes", "is_plain", "pointers", "shapes")

    def __init__(
        self, values: list[Any], argument: str, names: Sequence[str], like: list[Shape] | None = None
    ) -> None:
        self._values = values
        self._views: dict[int, View] = {}
        walk, odd = _walk_of_now(), [row for row, value in enumerate(values) if value is not None]
        if walk is None:
            self.pointers, self.dtypes = (array("Q", bytes(8 * len(values))) for _ in range(2))
            self.shapes: list[Shape] = [()] * len(values) if like is None else list(like)
        else:
            pointers, dtypes, shapes, odd = walk.host_columns(values, like)
            self.pointers, self.dtypes = array("Q", pointers), array("Q", dtypes)
            self.shapes = shapes
        self.is_plain = not odd
        for row in odd:
            self.put(row, inspect(values[row], argument, names[row], FLOATS))

    def __contains__(self, row: int) -> bool:
        return self._values[row] is not None

    def view(self, row: int) -> View:
        """What lies in a row where something was given."""
        if row not in self._views:
            self._views[row] = View(
                self._values[row], "torch", self.pointers[row], self.dtypes[row], self.shapes[row], ROW_MAJOR
            )
        return self._views[row]

    def put(self, row: int, view: View) -> None:
        """Takes another view for a row, or what has become of its own."""
        self._views[row] = view
        self.pointers[row], self.dtypes[row], self.shapes[row] = view.pointer, view.dtype, view.shape

    def one(self, row: int) -> Column:
        """The column of one tensor alone."""
        made = object.__new__(Column)
        made._values, made.shapes = self._values[row : row + 1], self.shapes[row : row + 1]
        made.pointers, made.dtypes = self.pointers[row : row + 1], self.dtypes[row : row + 1]
        made.is_plain = self.is_plain
        made._views = {0: self._views[row]} if row in self._views else {}
        return made

    def release(self) -> None:
        """Lets go of the values."""
        self._values, self._views = [None] * len(self._values), {}


def of_other_shapes(values: list[Any], shapes: list[Shape]) -> list[int]:
    """The places of the values, of those that have a shape, whose shape is another."""
    walk = _walk_of_now()
    rows = range(len(values)) if walk is None else walk.of_other_shapes(values, shapes)
    found = ((row, getattr(values[row], "shape", None)) for row in rows)
    return [row for row, shape in found if shape is not None and shape != shapes[row]]


def _walk_of_now() -> _core.Addresses | None:
    return None if sys.modules.get("torch") is None else _walk(devices.runtime.exchange_api())


@functools.cache
def _walk(api: Any) -> _core.Addresses | None:
    if api is None or not _core.Addresses.knows(api):
        return None
    torch = sys.modules["torch"]
    return _core.Addresses(api, (torch.Tensor, torch.nn.Parameter))
