"""Masks that are made within the optimizer's step: its pass has every weight in the cache already."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import _core
from ..errors import Error
from ..options.scopes import resolve_scope
from ..options.selectors import resolve_selector
from ..select.selection import mask_arguments
from ..tensors import devices
from ..tensors.masks import COLUMN, WIDTH

if TYPE_CHECKING:
    import torch

    from ..optim.rows import Pass
    from ..tensors.masks import Mask
    from ..tensors.table import Table
    from ..training.settings import Settings
    from .competing import Competition
    from .keeping import Keeper

__all__ = ["InStep"]


@dataclass
class _Made:
    """Masks of what a step left, what the engine says of them, and what must not have changed since."""

    masks: list[Mask]
    found: Any
    due: Mapping[str, float]
    table: Table
    tensors: list[torch.Tensor]
    left: tuple[Any, ...] | None = None

    def note(self) -> None:
        """What the step left."""
        self.left = _state(self.table, self.tensors)


class InStep:
    """Offers a selection to the optimizer's pass before a step that an event is due after, and hands out its
    masks at the event, if nothing has been written in between.

    It does so with one threshold for everything (scope global, selector exact), for scorers that read
    weights, gradients and the moments alone, where one optimizer holds all masks in its step; not where ranks
    decide together (`possible`). Any other event, and one before which something was written since the step,
    is made after the step. (A write through ``.data``, which raises no autograd version, is noticed if it
    changes a whole tensor.)
    """

    def __init__(
        self, competition: Competition, settings: Settings, keeper: Keeper, *, possible: bool = True
    ) -> None:
        self._competition, self._settings, self._keeper = competition, settings, keeper
        scope = resolve_scope(settings.scope, "nearest", "error").text
        plain = possible and scope == "global" and settings.max_tensor_sparsity is None
        plain = plain and settings.tensor_sparsity is None
        self._possible = plain and resolve_selector(settings.selector)[0] == "exact"
        self._made: _Made | None = None

    def offer(self, ask: Callable[[], Mapping[str, float] | None]) -> None:
        """Before an optimizer step; `ask` says what will be due after it, and is asked if that matters."""
        self._made = None
        steppers = self._keeper.in_step
        if not self._possible or len(steppers) != 1:
            return
        if self._keeper.after_step or len(self._keeper.optimizers.inner) > 1:
            return
        try:
            due = ask()
        except Error:  # the event, after the step, says what is wrong with the schedule
            return
        if due is not None and "" in due:
            steppers[0].let_select(functools.partial(self._select, due))

    def take(self, due: Mapping[str, float], table: Table | None) -> tuple[list[Mask], Any] | None:
        """The masks that a step made for this event, and what `_core.make_masks` says of them; None if it
        made none, or not of what is there now."""
        made, self._made = self._made, None
        if made is None or table is None or made.due != due:
            return None
        if made.left is None or made.left != _state(table, made.tensors):
            return None
        return made.masks, made.found

    def _select(self, due: Mapping[str, float], this: Pass) -> None:
        try:
            table = self._competition.gather(together=True).table
        except Error:  # the event, after the step, says what is missing
            return
        if table is None or table.device != devices.HOST or table.relaid:
            return
        rows = {id(parameter): row for row, parameter in enumerate(this.parameters)}
        order = [rows.get(id(parameter), -1) for parameter in self._competition.parameters]
        current = [
            0 if mask is None or self._settings.regrow is True else mask.pointer for mask in table.current
        ]
        if -1 in order or list(map(this.mask_of, order)) != current:
            return
        masks, (arguments, named) = mask_arguments(table, self._settings.options(due[""]))
        found = this.make_masks(order, *arguments, **named)
        if found is not None:
            self._made = _Made(masks, found, due, table, self._competition.tensors())
            this.afterwards = self._made.note


def _state(table: Table, tensors: list[torch.Tensor]) -> tuple[Any, ...] | None:
    """What changes with a write: the table but for its new masks, autograd versions, and a few values, since
    writes through ``.data`` raise no version. None if one has none."""
    if any(tensor.is_inference() for tensor in tensors):
        return None
    words = array("Q", table.data)
    words[COLUMN["new_mask"] :: WIDTH] = array("Q", bytes(8 * len(table.names)))
    return words.tobytes(), [tensor._version for tensor in tensors], _core.fingerprint(table.data)
