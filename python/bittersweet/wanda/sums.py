"""Sums of squares of layers' inputs: `RunningSum` while they are collected, `InputSum` when they are settled.

Adding only enqueues where the inputs lie on a device: what it counts stays there, and `settle` waits once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import _core
from ..errors import ArgumentError, DeviceError, ShapeError
from ..tensors import devices
from ..tensors.arrays import BFLOAT16, FLOAT16, FLOAT32
from ..tensors.threads import follow_torch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class InputSum:
    """Sums of squares (float64, one per input feature) over a number of positions."""

    squares: torch.Tensor
    positions: int

    def reached_all(self, blocks: int) -> bool:
        """Whether each of the equal blocks of features has a sum above zero."""
        return bool((self.squares.view(blocks, -1).sum(1) > 0).all())

    def norm(self) -> torch.Tensor:
        """sqrt(sum / positions) as float32; 0 where there was no position."""
        return (self.squares / max(self.positions, 1)).sqrt().float()


class RunningSum:
    """What the inputs of one layer have added up to so far, on top of `start`."""

    def __init__(self, name: str, features: int, start: InputSum | None) -> None:
        self._name, self._features, self._start = name, features, start
        self._squares: torch.Tensor | None = None
        self._values = 0
        self._queue: tuple[int, int] | None = None
        self._done: Callable[[], None] | None = None
        self._positions = 0 if start is None else start.positions

    def add(
        self,
        x: torch.Tensor,
        *,
        first: int = 0,
        counted: torch.Tensor | None = None,
        times: torch.Tensor | None = None,
        positions: int | torch.Tensor | None = None,
    ) -> None:
        """Adds the squares of a matrix: a row per position, a column per feature from `first` on.

        Args:
            counted: A bool for every so many rows, whether they count; else all do.
            times: float64; how often a row counts, from the first on, again and again.
            positions: How many positions these are, where that is not the number of rows that count.

        Raises:
            ArgumentError: A value is not finite, where that can be seen without waiting.
            DeviceError: The matrix is on a CUDA device that this build has no engine for.
            ShapeError: It has more columns than there are features from `first` on.
        """
        import torch

        codes = {torch.float32: FLOAT32, torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}
        device = devices.runtime.index_of(x)
        if device == devices.HOST:
            x = x.cpu()
        elif (refusal := devices.refusal()) is not None:
            raise DeviceError(f"the input of the layer of '{self._name}' is on {x.device}, and {refusal}")
        x = (x if x.dtype in codes else x.float()).contiguous()
        squares, counts = self._here(x.device)
        if positions is not None:
            counts = counts[2:]
            if isinstance(positions, int):
                self._positions += positions
            else:
                self._counts[0] += positions.to(self._counts.device)
        self._values += x.numel()
        if not x.numel():
            return
        if counted is not None:
            counted = counted.flatten().to(device=x.device, dtype=torch.bool).contiguous()
        if times is not None:
            times = times.to(x.device)
        if first + x.shape[1] > self._features:
            raise ShapeError(
                f"the layer of '{self._name}' was called with {x.shape[1]} input features, and its weight "
                f"has {self._features - first}"
            )
        squares = squares[first : first + x.shape[1]]
        spec = (
            x.data_ptr(),
            codes[x.dtype],
            *x.shape,
            0 if counted is None else counted.data_ptr(),
            1 if counted is None else len(x) // counted.numel(),
            0 if times is None else times.data_ptr(),
            1 if times is None else times.numel(),
        )
        into = (squares.data_ptr(), counts.data_ptr())
        if device == devices.HOST:
            follow_torch()
            _core.add_squares(spec, into)
            self._require_finite(int(counts[1]), x.numel())
            return
        with devices.runtime.guard(device):
            self.follow(device)
            size = devices.runtime.native.cuda_calibration_bytes(*x.shape)
            room = torch.empty(max(size, 1), dtype=torch.uint8, device=x.device)
            devices.runtime.native.cuda_add_squares(
                devices.runtime.queue(device), spec, into, room.data_ptr(), size
            )
            self._queue, self._done = devices.runtime.queue(device), devices.runtime.milestone(device)

    def follow(self, device: int) -> None:
        """Lets the current stream wait for what another one was given to add."""
        if self._done is None or self._queue == devices.runtime.queue(device):
            return
        self._done()
        assert self._squares is not None
        for tensor in (self._squares, self._counts):
            devices.runtime.share(tensor, device)

    def _here(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums and counts on a device: rows that are positions, values that are not finite; and the same of
        what counts its positions otherwise."""
        import torch

        if self._squares is None:
            self._squares = torch.zeros(self._features, dtype=torch.float64, device=device)
            self._counts = torch.zeros(4, dtype=torch.int64, device=device)
            if self._start is not None:
                self._squares.copy_(self._start.squares)
        elif self._squares.device != device:
            self._squares, self._counts = self._squares.to(device), self._counts.to(device)
        return self._squares, self._counts

    def _require_finite(self, bad: int, of: int) -> None:
        if bad:
            raise ArgumentError(
                f"the input of the layer of '{self._name}' has {bad:,} values that are not finite, of "
                f"{of:,}. Look at the data and at the layers in front of it; nothing of this collection is "
                "kept"
            )


def settle(running: Mapping[str, RunningSum]) -> dict[str, InputSum]:
    """What was added up, waiting once for each device.

    Raises:
        ArgumentError: Values were not finite.
    """
    import torch

    by_device: dict[torch.device, list[RunningSum]] = {}
    for one in running.values():
        if one._squares is not None:
            by_device.setdefault(one._squares.device, []).append(one)
    counts: dict[int, list[int]] = {}
    for listed in by_device.values():
        device = devices.runtime.index_of(listed[0]._counts)
        for one in listed if device != devices.HOST else ():
            one.follow(device)
        words = torch.stack([one._counts for one in listed])
        read = words if device == devices.HOST else devices.runtime.fetch(words, device)().view("int64")
        counts.update({id(one): found for one, found in zip(listed, read.tolist(), strict=True)})
    settled = {}
    for name, one in running.items():
        rows, bad, _, more = counts.get(id(one), [0, 0, 0, 0])
        one._require_finite(bad + more, one._values)
        if one._squares is not None and one._positions + rows > 0:
            settled[name] = InputSum(one._squares, one._positions + rows)
    return settled
