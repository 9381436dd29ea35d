"""Keeping masks between events: the pass that runs on every training step.

`Holder` writes +0 wherever a mask says so, in one pass over all tensors. What it reads and writes is always
where the tensors are now: as long as nothing but addresses has changed, it puts those into the table of the
call before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .arrays import raise_versions
from .masks import COLUMN
from .repeating import Repeat
from .table import ROLES, ScoreInputs, Table

if TYPE_CHECKING:
    import torch

    from .masks import Mask

__all__ = ["Holder"]

_MASK_COLUMN = COLUMN["new_mask"]


class Holder:
    """Applies masks to the tensors of some `roles` (``weight``, ``exp_avg``, ``exp_avg_sq``,
    ``max_exp_avg_sq``, ``grad``).

    Tensors that lie in memory in the order of their weight are written where they are, channels_last and
    transposed ones too. Others are re-laid, masked and written back.
    On CUDA everything is enqueued on torch's current stream, and nothing waits for it.
    """

    def __init__(self, roles: Sequence[str]) -> None:
        self.roles = tuple(roles)
        self._bits = sum(ROLES[role] for role in roles)
        self._masks: Sequence[Mask] = ()
        self._repeat: Repeat | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Holder, (self.roles,)  # a copy knows no addresses of the original

    def tensors_of(self, items: Sequence[ScoreInputs]) -> list[torch.Tensor | None]:
        """What `again` takes: the tensors of the roles, item by item; None where an item lacks one."""
        return [getattr(item, role) for item in items for role in self.roles]

    def apply(self, items: Sequence[ScoreInputs], masks: Sequence[Mask]) -> None:
        """Zeroes the pruned elements of `items` (torch tensors), one mask each; a role that an item lacks is
        skipped. Every tensor that is written has its autograd version raised.

        Raises:
            ShapeError, DTypeError, DeviceError, LayoutError: Before anything is written.
        """
        if not items:
            return
        tensors = self.tensors_of(items)
        if "weight" in self.roles and self.again(tensors, masks):  # else the weights need a look too
            return
        self._repeat = None
        table = Table(items, writes=self.roles)
        table.attach(masks)
        table.engine.apply_masks(table.data, _MASK_COLUMN, self._bits)
        table.write_back()
        self._repeat, self._masks = Repeat.of(table, tensors, self.roles), masks

    def count(self, items: Sequence[ScoreInputs], masks: Sequence[Mask]) -> list[int]:
        """How many elements of each item `apply` would change; nothing is written. Errors are those of
        `apply`."""
        if not items:
            return []
        tensors = self.tensors_of(items)
        if (found := self.count_again(tensors, masks)) is not None:
            return found
        self._repeat = None
        table = Table(items, writes=self.roles)
        table.attach(masks)
        counts: list[int] = table.engine.count_violations(table.data, _MASK_COLUMN, self._bits)
        self._repeat, self._masks = Repeat.of(table, tensors, self.roles), masks
        return counts

    def count_again(self, tensors: list[torch.Tensor | None], masks: Sequence[Mask]) -> list[int] | None:
        """`count` for these tensors, if nothing but addresses and masks has changed; else None."""
        repeat = self._again(tensors, masks)
        if repeat is None:
            return None
        counts: list[int] = repeat.table.engine.count_violations(repeat.table.data, _MASK_COLUMN, self._bits)
        return counts

    def again(
        self,
        tensors: list[torch.Tensor | None],
        masks: Sequence[Mask],
        written: list[torch.Tensor] | None = None,
    ) -> bool:
        """`apply` for these tensors, if nothing but addresses and masks has changed since the call before: a
        few microseconds of preparation. Else False, and nothing is written.

        Args:
            masks: Taken for the same ones if it is the object that the call before was given.
            written: `tensors` without None, where the caller knows them.
        """
        repeat = self._again(tensors, masks)
        if repeat is None:
            return False
        repeat.table.engine.apply_masks(repeat.table.data, _MASK_COLUMN, self._bits)
        raise_versions([one for one in tensors if one is not None] if written is None else written)
        return True

    def knows(self, tensors: list[torch.Tensor | None]) -> bool:
        """Whether `again` would write to these tensors."""
        return self._repeat is not None and self._repeat.update(tensors)

    def _again(self, tensors: list[torch.Tensor | None], masks: Sequence[Mask]) -> Repeat | None:
        repeat = self._repeat
        if repeat is None or not repeat.update(tensors):
            return None
        if masks is not self._masks and not repeat.attach(masks):
            return None
        self._masks = masks
        return repeat
