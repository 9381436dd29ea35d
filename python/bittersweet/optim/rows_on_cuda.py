"""The rows of an optimizer step on a CUDA device: everything is enqueued on torch's current stream."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import ArgumentError
from ..tensors import devices
from .entries import Gathered
from .rows import COLUMN, WIDTH, Rows, Selection, Step, pays

if TYPE_CHECKING:
    from ..tensors.masks import Mask

__all__ = ["CudaRows"]

_TURNS = 8
"""Passes from one look at what the device has found to the next."""


class CudaRows(Rows):
    """`Rows` on a device. Step counts, learning rates, scales and `found_inf` are read there, so that nothing
    waits and a step can be captured; whether a step was forbidden, nobody here knows.

    In a captured step the zeros of dead rows are always looked at: a replay cannot know who wrote in between.
    """

    def __init__(self, device: int) -> None:
        super().__init__()
        self.device = device
        self._memory: _Memory | None = None
        self._queue: tuple[int, int] | None = None
        self._flags = _Flags(device, 0)
        self._unknown: list[int] = []
        self._count: Callable[[], devices.Words] | None = None
        self._captured: list[Any] = []  # what captured steps point to, which their replays go on using

    def build(self, now: Gathered, numbers: Sequence[int]) -> None:
        super().build(now, numbers)
        self._memory, self._flags = None, _Flags(self.device, len(now.parameters))

    def forget(self) -> None:
        self._flags.forget()

    def violated(self) -> list[torch.Tensor]:
        return [self._now.parameters[row] for row in self._flags.last()]

    def violated_lately(self) -> list[torch.Tensor]:
        return [self._now.parameters[row] for row in self._flags.lately]

    def _make(self, step: Step, selection: Selection | None) -> Callable[[], None] | None:
        runtime, device = devices.runtime, self.device
        with runtime.guard(device):
            queue = runtime.queue(device)
            if self._memory is None:
                self._memory = _Memory(device, runtime.native.cuda_adam_bytes(self._table, step.groups))
            if queue != self._queue:
                self._share(queue)
            names = ("grad_scale", "found_inf", *["lr"] * len(step.rates))
            values = (step.scale, step.found_inf, *step.rates)
            given = [_there(value, device, name) for value, name in zip(values, names, strict=True)]
            scale, found_inf, *rates = (0 if one is None else one.data_ptr() for one in given)
            runtime.native.cuda_step_adam(
                queue,
                self._table,
                step.groups,
                *step.rounding,
                step.weights_only,
                array("Q", rates if any(rates) else ()),
                (scale, found_inf, self._flags.next(), self._memory.address, self._memory.bytes),
            )
            if runtime.is_capturing():
                self._captured.append((self._memory, self._flags, list(self._held), given))
            elif self._flags.passed():
                self._count_empty()
        return None

    def _share(self, queue: tuple[int, int]) -> None:
        """What was made on another stream is kept from other uses until this one is done with it."""
        for mask in self._held:
            if mask is not None:
                mask.require_on(self.device, mask.name, queue[1])
        for tensor in (self._memory.room, self._flags.words) if self._memory is not None else ():
            devices.runtime.share(tensor, self.device)
        self._queue = queue

    def _looks_again(self) -> bool:
        return super()._looks_again() or devices.runtime.is_capturing()

    def _sure(self, step: Step) -> Sequence[int]:
        """Of a step that may have been forbidden, those whose zeros were there before it."""
        if step.found_inf is None:
            return self._skippable
        return [row for row in self._skippable if self._table[row * WIDTH + COLUMN["trusted"]]]

    def _choose_skippable(self) -> None:
        """How many words of a mask are empty is asked for now, and known when the device has been past it."""
        self._unknown, self._skippable, self._count = self._skippable, [], None

    def _count_empty(self) -> None:
        """Enqueues the count, or takes what came of it; after every eighth pass."""
        if not self._unknown:
            return
        if self._count is None:
            counts = torch.stack([(self._mask(row).held == 0).sum() for row in self._unknown])
            self._count = devices.runtime.fetch(counts, self.device)
            return
        pairs = zip(self._unknown, self._count().tolist(), strict=True)
        self._skippable = [row for row, count in pairs if pays(self._mask(row), count)]
        self._unknown, self._count = [], None

    def _set_masks(self, masks: Mapping[torch.Tensor, Mask]) -> None:
        super()._set_masks(masks)
        self._queue = None


class _Memory:
    """What the pass needs beside its tensors."""

    def __init__(self, device: int, size: int) -> None:
        self.bytes = size
        self.room = torch.empty(max(size, 1), dtype=torch.uint8, device=devices.runtime.place(device))
        self.address = self.room.data_ptr()


class _Flags:
    """Which rows passes found dirty, in device memory: eight passes fill it before it is copied to the host,
    and that copy is looked at when the next one is enqueued, so that nobody waits.

    Attributes:
        words: A slot for each of these passes, with a flag of 32 bits a row.
        slot: That of the last pass; None: there was none in this step.
        lately: The rows that passes some time ago found dirty, if that came out in this step.
    """

    def __init__(self, device: int, rows: int) -> None:
        self._device, self._rows, self._width = device, rows, (rows + 1) // 2
        self.words = devices.words_on(device, _TURNS * self._width).zero_()
        self.slot: int | None = None
        self._turn = 0
        self._answer: Callable[[], devices.Words] | None = None
        self.lately: list[int] = []

    def next(self) -> int:
        """Where the coming pass writes its flags."""
        self.slot = self._turn
        return self.words.data_ptr() + 8 * self._width * self._turn

    def passed(self) -> bool:
        """The pass has been enqueued; whether it is the last of eight."""
        self._turn = (self._turn + 1) % _TURNS
        if self._turn == 0:
            former, self._answer = self._answer, devices.runtime.fetch(self.words, self._device)
            if former is not None:
                self.lately = self._rows_of(former())
        return self._turn == 0

    def last(self) -> list[int]:
        """The rows that the last pass found dirty; waits for it."""
        if self.slot is None:
            return []
        start = self.slot * self._width
        return self._rows_of(devices.runtime.fetch(self.words[start : start + self._width], self._device)())

    def forget(self) -> None:
        """Another step begins."""
        self.slot, self.lately = None, []

    def _rows_of(self, words: devices.Words) -> list[int]:
        flags = words.view(np.uint32).reshape(-1, 2 * self._width)[:, : self._rows]
        found: list[int] = np.flatnonzero(flags.any(axis=0)).tolist()
        return found


def _there(value: Any, device: int, name: str) -> torch.Tensor | None:
    """A number as a float32 on the device: itself if it is one, else a copy.

    Raises:
        ArgumentError: It is a tensor of several.
    """
    if value is None:
        return None
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        raise ArgumentError(
            f"{name}: a tensor of {value.numel()} elements; accepted: a number, or a tensor of one"
        )
    return torch.as_tensor(value, dtype=torch.float32, device=devices.runtime.place(device))
