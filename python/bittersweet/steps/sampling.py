"""Noticing between events that zeros do not hold: a few of the pruned places are looked at in turn."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..distributed.shards import local
from ..model.targets import follow, lookup
from ..tensors import devices
from ..tensors.arrays import in_memory
from ..tensors.masks import COLUMN, WIDTH, Mask, kept_counts
from ..tensors.repeating import Repeat
from ..tensors.table import ROLES, ScoreInputs, Table
from ..tensors.trails import Trail

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
    """Looks at stretches of the masked tensors, one after the other, and then from the beginning again.

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
        self._turns: list[_Turn] = []
        self._turn = self._tensor = self._start = self._calls = 0
        self._answer: Callable[[], list[int]] | None = None

    def look(self) -> bool:
        """Whether a pruned weight of this look (on a CUDA device, of the one before) is not 0."""
        on_device = bool(self.masks) and self.masks[0].device != devices.HOST
        if on_device:
            self._calls += 1
            if self._calls % _DEVICE_TURNS:
                return False
        turn = self._next(on_device)
        if turn is None:
            return False
        engine = devices.engine_of(self.masks[0].device)
        if not on_device:
            return any(turn.count(self._model, engine.count_violations) or ())
        former, self._answer = self._answer, turn.count(self._model, engine.enqueue_violations)
        return former is not None and any(former())

    def _next(self, on_device: bool) -> _Turn | None:
        """The turns are made as they come, and then come again; None if nothing is pruned."""
        if self._tensor < len(self.masks):
            if not self._choose_length(on_device):
                return None
            self._turns.append(_Turn(self._stretches()))
        turn = self._turns[self._turn]
        last = self._tensor == len(self.masks) and self._turn == len(self._turns) - 1
        self._turn = 0 if last else self._turn + 1
        return turn

    def _choose_length(self, on_device: bool) -> int:
        if on_device:  # counting what is dead would wait for the device
            self._length = max(_DEVICE_LENGTH, -(-self._total // (_TURNS // _DEVICE_TURNS)))
        elif not self._length and (dead := self._total - sum(kept_counts(self.masks))):
            self._length = max(-(-_PLACES * self._total // dead), -(-self._total // _TURNS))
        return self._length

    def _stretches(self) -> list[_Stretch]:
        wanted, stretches = self._length, []
        while wanted > 0 and self._tensor < len(self.masks):
            mask = self.masks[self._tensor]
            end = min(mask.numel, self._start + -(-wanted // 64) * 64)
            stretches.append(_Stretch(self._entries[self._tensor], mask, self._start, end))
            wanted -= max(end - self._start, 1)
            self._start = end
            if end >= mask.numel:
                self._tensor, self._start = self._tensor + 1, 0
        return stretches


@dataclass(frozen=True)
class _Stretch:
    """Elements of one target, from a multiple of 64."""

    entry: PlanEntry
    mask: Mask
    start: int
    end: int

    def item(self, weight: torch.Tensor, name: str) -> tuple[ScoreInputs, Mask] | None:
        """What is looked at: all of a weight that has to be copied when it begins, then nothing."""
        mask, start, end = self.mask, self.start, self.end
        flat = None if mask.numel == 0 else in_memory(weight)
        if flat is None:
            return None if start else (ScoreInputs(weight, name=name), mask)
        words = mask.ordered(flat[1]).held[start // 64 : -(-end // 64)]
        part = Mask.of(words, (end - start,), mask.name, "torch", mask.device)
        return ScoreInputs(flat[0][start:end], name=name), part


class _Turn:
    """What one look sees, and the table of the time before."""

    def __init__(self, stretches: Sequence[_Stretch]) -> None:
        self.stretches = stretches
        self._repeat: Repeat | None = None
        self._trail = Trail()
        self._weights: list[Any] = []
        self._sharded = False
        self._offsets: list[tuple[int, int]] = []

    def count(self, model: torch.nn.Module, verb: Callable[[array[int], int, int], Any]) -> Any:
        """What `verb` counts of the weights that are there now; None if there is nothing to look at."""
        arguments = COLUMN["new_mask"], ROLES["weight"]
        if (data := self._data_again()) is not None:
            return verb(data, *arguments)
        self._repeat = None
        weights = [lookup(model, one.entry) for one in self.stretches]
        found = [
            one.item(local(weight).detach(), str(i))
            for i, (one, weight) in enumerate(zip(self.stretches, weights, strict=True))
        ]
        pairs = [pair for pair in found if pair is not None]
        if not pairs:
            return None
        table = Table([item for item, _ in pairs], writes=("weight",))
        table.attach([mask for _, mask in pairs])
        counted = verb(table.data, *arguments)
        if len(pairs) == len(self.stretches):
            self._remember(model, table, weights)
        return counted

    def _data_again(self) -> array[int] | None:
        """The packed table with the addresses of now; None if more than these has changed."""
        if self._repeat is None or not self._trail.holds() or not self._repeat.update(self._now()):
            return None
        data = self._repeat.table.data
        for place, offset in self._offsets:
            data[place] += offset
        return data

    def _remember(self, model: torch.nn.Module, table: Table, weights: list[Any]) -> None:
        self._trail = Trail()
        follow(self._trail, model, [one.entry for one in self.stretches])
        places = range(COLUMN["weight"], len(table.data), WIDTH)
        self._weights, self._sharded = weights, any(one.entry.shard for one in self.stretches)
        self._offsets = [
            (place, one.start * weight.element_size())
            for place, one, weight in zip(places, self.stretches, weights, strict=True)
            if one.start
        ]
        self._repeat = Repeat.of(table, self._now(), ("weight",))

    def _now(self) -> list[Any]:
        return list(map(local, self._weights)) if self._sharded else self._weights
