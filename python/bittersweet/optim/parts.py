"""Which pass takes which tensors of a step: the host's, that of a CUDA device, or torch's step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import TYPE_CHECKING, Any

from ..tensors import devices
from .entries import Gathered, overlapping, why_outside
from .rows import Rows
from .rows_on_cuda import CudaRows

if TYPE_CHECKING:
    import torch

__all__ = ["Parts"]


class Parts:
    """The parts of the last step, for as long as nothing but addresses changes.

    Attributes:
        rows: Those of each device's pass.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Rows] = {}
        self._made: dict[int, Rows] = {}  # all of them: captured steps go on using what theirs hold
        self._known: list[torch.Tensor] = []
        self._inside: list[tuple[Rows, list[int]]] = []
        self._outside: list[int] = []

    def of(
        self, now: Gathered, groups: Sequence[Mapping[str, Any]]
    ) -> tuple[list[tuple[Rows, Gathered]], Gathered]:
        """What each pass takes, its addresses in place, and what none takes; `groups` number parameters."""
        if len(now.parameters) == len(self._known) and all(map(is_, now.parameters, self._known)):
            parts, outside = self._picked(now), now.only(self._outside)
            if all(rows.point(part) for rows, part in parts) and all(map(why_outside, outside.entries())):
                return parts, outside
        entries = now.entries()
        shared = overlapping(entries)
        self._known = now.parameters
        self._outside = [i for i, entry in enumerate(entries) if i in shared or why_outside(entry)]
        chosen: dict[int, list[int]] = {}
        for i in sorted(set(range(len(entries))).difference(self._outside)):
            chosen.setdefault(devices.runtime.index_of(entries[i].parameter), []).append(i)
        for device in set(chosen).difference(self._made):
            self._made[device] = _rows_on(device)
        self.rows = {device: self._made[device] for device in chosen}
        self._inside = [(self.rows[device], numbers) for device, numbers in chosen.items()]
        known = (parameter for group in groups for parameter in group["params"])
        places = {id(parameter): place for place, parameter in enumerate(known)}
        parts = self._picked(now)
        for rows, part in parts:
            rows.build(part, [places[id(parameter)] for parameter in part.parameters])
        return parts, now.only(self._outside)

    def _picked(self, now: Gathered) -> list[tuple[Rows, Gathered]]:
        whole = len(now.parameters)
        return [(rows, now if len(numbers) == whole else now.only(numbers)) for rows, numbers in self._inside]


def _rows_on(device: int) -> Rows:
    return Rows() if device == devices.HOST else CudaRows(device)
