"""Noticing between events that zeros do not hold: a few of the pruned places are looked at in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..model.targets import lookup
from ..tensors import devices
from ..tensors.arrays import in_memory
from ..tensors.masks import COLUMN, Mask, kept_counts
from ..tensors.table import ROLES, ScoreInputs, Table

if TYPE_CHECKING:
    import torch

    from ..model.targets import PlanEntry

__all__ = ["ZeroSample"]

_TURNS = 60
"""Looks after which every place has been seen."""

_PLACES = 4096
"""Pruned places that a look sees, on average, at least."""

_DEVICE_TURNS = 8
"""On a CUDA device, steps from a look to its answer, so that nobody waits for it."""

_DEVICE_LENGTH = 16 * _PLACES
"""Places that a look there reads at least, pruned or not."""


class ZeroSample:
    """Looks at stretches of the masked tensors, one after the other.

    A look reads about a sixtieth of the weights, or what has 4,096 pruned ones on average if that is more.
    What has to be copied (see `arrays.in_memory`) is looked at as a whole when its turn comes. On a CUDA
    device every eighth call looks, at a seventh, and its answer is read eight calls later.
    """

    def __init__(self, model: torch.nn.Module, entries: Sequence[PlanEntry], masks: Sequence[Mask]) -> None:
        by_name = {entry.name: entry for entry in entries}
        self._model, self.masks = model, masks
        self._ordered = list(masks)  # as the tensors lay in memory when they were looked at
        self._entries = [by_name[mask.name] for mask in masks]
        self._total = sum(mask.numel for mask in masks)
        self._length = 0
        self._tensor = self._start = self._calls = 0
        self._answer: Callable[[], list[int]] | None = None

    def look(self) -> bool:
        """Whether a pruned weight of this look (on a CUDA device, of the one before) is not 0."""
        on_device = bool(self.masks) and self.masks[0].device != devices.HOST
        if on_device:
            self._calls += 1
            if self._calls % _DEVICE_TURNS:
                return False
        items, masks = self._next(on_device)
        if not items:
            return False
        table = Table(items, writes=("weight",))
        table.attach(masks)
        arguments = table.data, COLUMN["new_mask"], ROLES["weight"]
        if not on_device:
            return any(table.engine.count_violations(*arguments))
        former, self._answer = self._answer, table.engine.enqueue_violations(*arguments)
        return former is not None and any(former())

    def _next(self, on_device: bool) -> tuple[list[ScoreInputs], list[Mask]]:
        turns = _TURNS // (_DEVICE_TURNS if on_device else 1)
        if on_device:  # counting what is dead would wait for the device
            self._length = _DEVICE_LENGTH
        elif not self._length:
            dead = self._total - sum(kept_counts(self.masks))
            if not dead:
                return [], []
            self._length = -(-_PLACES * self._total // dead)
        wanted = min(max(self._length, -(-self._total // turns)), self._total)
        items: list[ScoreInputs] = []
        masks: list[Mask] = []
        while wanted > 0:
            entry, mask = self._entries[self._tensor], self._ordered[self._tensor]
            weight = lookup(self._model, entry).detach()
            flat = None if mask.numel == 0 else in_memory(weight)
            end = mask.numel if flat is None else min(mask.numel, self._start + -(-wanted // 64) * 64)
            if flat is None:
                items.append(ScoreInputs(weight, name=str(len(items))))
                masks.append(mask)
            else:
                if mask.order != flat[1]:
                    mask = self._ordered[self._tensor] = mask.ordered(flat[1])
                words = mask.held[self._start // 64 : -(-end // 64)]
                items.append(ScoreInputs(flat[0][self._start : end], name=str(len(items))))
                masks.append(Mask.of(words, (end - self._start,), mask.name, "torch", mask.device))
            wanted -= max(end - self._start, 1)
            self._start = end
            if end >= mask.numel:
                self._tensor, self._start = (self._tensor + 1) % len(self.masks), 0
        return items, masks
