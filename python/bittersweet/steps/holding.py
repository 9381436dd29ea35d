"""Keeping masks between events: the pass that runs on every training step.

`Holder` writes +0 wherever a mask says so, in one pass over all tensors. It looks at the tensors it is given
on every call and remembers addresses only to reuse its table: what it reads and writes is always where the
tensors are now.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import _core
from ..tensors import devices
from ..tensors.arrays import pointer_within
from ..tensors.masks import COLUMN, WIDTH, Mask
from ..tensors.table import ROLES, ScoreInputs, Table
from ..tensors.threads import follow_torch

if TYPE_CHECKING:
    import torch

__all__ = ["Holder", "kept_by_both"]

_MASK_COLUMN = COLUMN["new_mask"]


class Holder:
    """Applies masks to the tensors of some roles (``weight``, ``exp_avg``, ``exp_avg_sq``,
    ``max_exp_avg_sq``, ``grad``).

    Tensors that lie in memory in the order of their weight are written where they are, channels_last and
    transposed ones too. Others are re-laid, masked and written back.
    On CUDA everything is enqueued on torch's current stream, and nothing waits for it.
    """

    def __init__(self, roles: Sequence[str]) -> None:
        self._roles = tuple(roles)
        self._bits = sum(ROLES[role] for role in roles)
        self._masks: Sequence[Mask] = ()
        self._structure: tuple[Any, ...] | None = None
        self._table: array[int] = array("Q")
        self._attached: list[Mask] = []  # in the orders of the tensors
        self._queue: tuple[int, int] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Holder, (self._roles,)  # a copy knows no addresses of the original

    def apply(self, items: Sequence[ScoreInputs], masks: Sequence[Mask]) -> None:
        """Zeroes the pruned elements of `items` (torch tensors), one mask each; a role that an item lacks is
        skipped.

        Every tensor that is written has its autograd version raised. A call with the same `masks` object and
        tensors of the same kind as before costs a few microseconds of preparation.

        Raises:
            ShapeError, DTypeError, DeviceError, LayoutError: Before anything is written.
        """
        if not items:
            return
        tensors = [getattr(item, role) for item in items for role in self._roles]
        structure = tuple(map(_kind, tensors))
        same = masks is self._masks and structure == self._structure
        same = same and (self._queue is None or self._queue == devices.runtime.queue(self._queue[0]))
        if same and self._point(tensors):
            follow_torch()
            engine = _core if self._queue is None else devices.Engine(self._queue[0])
            engine.apply_masks(self._table, _MASK_COLUMN, self._bits)
            _bump(tensors)
            return
        table = Table(items, writes=self._roles)
        table.attach(masks)
        table.engine.apply_masks(table.data, _MASK_COLUMN, self._bits)
        table.write_back()
        self._masks = masks
        self._queue = None if table.device == devices.HOST else devices.runtime.queue(table.device)
        self._structure = None if table.relaid else structure
        self._table, self._attached = table.data, table.attached

    def _point(self, tensors: Sequence[torch.Tensor | None]) -> bool:
        """Puts the addresses of now into the table; False if one has no memory for its elements any more."""
        position = 0
        for start in range(0, len(self._table), WIDTH):
            for role in self._roles:
                tensor = tensors[position]
                if tensor is not None and (pointer := tensor.data_ptr()) != self._table[start + COLUMN[role]]:
                    if not pointer_within(tensor) and tensor.numel():
                        return False
                    self._table[start + COLUMN[role]] = pointer
                position += 1
        return True


def kept_by_both(mask: Mask, other: Mask | None) -> Mask:
    """A mask that keeps what both keep; `mask` itself if there is no other."""
    return mask if other is None else mask.of_words(mask.held & other.ordered(mask.order).held)


def _kind(tensor: torch.Tensor | None) -> Any:
    """All that the table depends on beside the address."""
    if tensor is None:
        return None
    place = tensor.is_cpu, devices.runtime.index_of(tensor)
    dense = tensor.layout is not sys.modules["torch"].strided or tensor.is_contiguous() or tensor.stride()
    return type(tensor), tensor.dtype, tensor.shape, tensor.layout, place, dense


def _bump(tensors: Sequence[torch.Tensor | None]) -> None:
    from torch.autograd.graph import increment_version

    increment_version([tensor for tensor in tensors if tensor is not None and not tensor.is_inference()])
