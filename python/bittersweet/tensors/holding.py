"""Keeping masks between events: the pass that runs on every training step.

`Holder` writes +0 wherever a mask says so, in one pass over all tensors. What it reads and writes is always
where the tensors are now: as long as nothing but addresses has changed, it puts those into the table of the
call before.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import _core
from . import devices
from .addresses import reader
from .arrays import raise_versions
from .masks import COLUMN, WIDTH, Mask
from .table import ROLES, ScoreInputs, Table
from .threads import follow_torch

if TYPE_CHECKING:
    import torch

    from .addresses import Addresses

__all__ = ["Holder", "kept_by_both"]

_MASK_COLUMN = COLUMN["new_mask"]


class Holder:
    """Applies masks to the tensors of some roles (``weight``, ``exp_avg``, ``exp_avg_sq``,
    ``max_exp_avg_sq``, ``grad``).

    Row-major tensors are written where they are. Others (channels_last) are re-laid, masked and written back.
    On CUDA everything is enqueued on torch's current stream, and nothing waits for it.
    """

    def __init__(self, roles: Sequence[str]) -> None:
        self._roles = tuple(roles)
        self._bits = sum(ROLES[role] for role in roles)
        self._masks: Sequence[Mask] = ()
        self._walk: Addresses | None = None
        self._table: array[int] = array("Q")
        self._places: array[int] = array("Q")
        self._queue: tuple[int, int] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Holder, (self._roles,)  # a copy knows no addresses of the original

    def tensors_of(self, items: Sequence[ScoreInputs]) -> list[torch.Tensor | None]:
        """What `again` takes: the tensors of the roles, item by item; None where an item lacks one."""
        return [getattr(item, role) for item in items for role in self._roles]

    def apply(self, items: Sequence[ScoreInputs], masks: Sequence[Mask]) -> None:
        """Zeroes the pruned elements of `items` (torch tensors), one mask each; a role that an item lacks is
        skipped. Every tensor that is written has its autograd version raised.

        Raises:
            ShapeError, DTypeError, DeviceError, LayoutError: Before anything is written.
        """
        if not items:
            return
        tensors = self.tensors_of(items)
        if self.again(tensors, masks):
            return
        self._walk = None
        table = Table(items, writes=self._roles)
        table.attach(masks)
        table.engine.apply_masks(table.data, _MASK_COLUMN, self._bits)
        table.write_back()
        if not table.copied_bytes:
            self._remember(table, tensors, masks)

    def again(
        self,
        tensors: list[torch.Tensor | None],
        masks: Sequence[Mask],
        written: list[torch.Tensor] | None = None,
    ) -> bool:
        """`apply` for these tensors, if nothing but addresses has changed since the call before: a few
        microseconds of preparation. Else False, and nothing is written.

        Args:
            masks: The object that the call before was given.
            written: `tensors` without None, where the caller knows them.
        """
        walk, queue = self._walk, self._queue
        if walk is None or masks is not self._masks:
            return False
        if queue is not None and queue != devices.runtime.queue(queue[0]):
            return False
        if not walk.read(tensors, self._table, self._places):
            return False
        follow_torch()
        engine = _core if queue is None else devices.Engine(queue[0])
        engine.apply_masks(self._table, _MASK_COLUMN, self._bits)
        raise_versions([one for one in tensors if one is not None] if written is None else written)
        return True

    def _remember(self, table: Table, tensors: list[torch.Tensor | None], masks: Sequence[Mask]) -> None:
        walk = reader()
        if walk.remember(tensors):
            starts = range(0, len(table.data), WIDTH)
            self._places = array("Q", [at + COLUMN[role] for at in starts for role in self._roles])
            self._queue = None if table.device == devices.HOST else devices.runtime.queue(table.device)
            self._walk, self._table, self._masks = walk, table.data, masks


def kept_by_both(mask: Mask, other: Mask | None) -> Mask:
    """A mask that keeps what both keep; `mask` itself if there is no other."""
    return (
        mask
        if other is None
        else Mask.of(mask.words & other.words, mask.shape, mask.name, mask.framework, mask.device)
    )
