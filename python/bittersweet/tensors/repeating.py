"""Tables that are used again: what was checked once stands for as long as nothing but addresses changes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import devices
from .addresses import reader
from .masks import COLUMN, WIDTH
from .threads import follow_torch

if TYPE_CHECKING:
    import torch

    from .addresses import Addresses
    from .masks import Mask
    from .table import Table

__all__ = ["Repeat"]


class Repeat:
    """A checked table, and what it takes to bring its addresses up to date. It keeps no array alive.

    Attributes:
        table: The table; its verbs take ``table.data``.
    """

    def __init__(self, table: Table, walk: Addresses, places: array[int]) -> None:
        self.table = table
        self._walk, self._places = walk, places
        self._queue = _queue_of(table.device)
        table.release()

    @classmethod
    def of(cls, table: Table, tensors: list[torch.Tensor | None], roles: Sequence[str]) -> Repeat | None:
        """For a table of these tensors, row by row in the order of `roles`; None if it has copies of them, or
        if they cannot be read again in one walk."""
        walk = reader()
        if table.relaid or not walk.remember(tensors, apart=bool(table.writes)):
            return None
        starts = range(0, len(table.data), WIDTH)
        return cls(table, walk, array("Q", [at + COLUMN[role] for at in starts for role in roles]))

    def update(self, tensors: list[torch.Tensor | None]) -> bool:
        """Puts the addresses of now into the table. False if more than these has changed: the tensors, or the
        stream of a CUDA device. The full checks are due then, and another `Repeat`."""
        if self._queue is not None and self._queue != _queue_of(self.table.device):
            return False
        if len(tensors) != len(self._places) or not self._walk.read(tensors, self.table.data, self._places):
            return False
        follow_torch()
        return True

    def attach(self, masks: Sequence[Mask]) -> bool:
        """`Table.attach` with other masks than before. False, and nothing is changed, if one does not fit its
        row."""
        if not self._fit(masks):
            return False
        self.table.attach(masks)
        return True

    def _fit(self, masks: Sequence[Mask]) -> bool:
        shapes, device = self.table.shapes, self.table.device
        if len(masks) != len(shapes):
            return False
        return all(
            mask.shape == shape and mask.device == device for mask, shape in zip(masks, shapes, strict=True)
        )


def _queue_of(device: int) -> tuple[int, int] | None:
    return None if device == devices.HOST else devices.runtime.queue(device)
