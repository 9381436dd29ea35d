"""The verbs of trackers on memory of a CUDA device, by the names that the compiled module has for the host.

Everything is enqueued on torch's current stream. `fetched` and `measure_retention` alone wait for the device.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..tensors import devices

if TYPE_CHECKING:
    import torch

__all__ = ["DeviceVerbs", "fetched", "verbs_of"]


class DeviceVerbs:
    """Those of one device. Tables and memory are as the compiled module takes them, with addresses there."""

    def __init__(self, device: int) -> None:
        self.device = device

    def track_coherence(
        self, table: array[int], names: list[str], memory: array[int], decay: float, seed: int
    ) -> None:
        self._enqueue(
            "cuda_track_coherence", table, names, memory, decay, seed, *self._workspace(table, names)
        )

    def measure_retention(self, table: array[int], names: list[str], memory: array[int]) -> list[float]:
        words = devices.words_on(self.device, len(names))  # of doubles
        pointers = (words.data_ptr(), *self._workspace(table, names))
        self._enqueue("cuda_measure_retention", table, names, memory, *pointers)
        found: list[float] = devices.runtime.fetch(words, self.device)().view(np.float64).tolist()
        return found

    def track_sketch(self, table: array[int], names: list[str], memory: array[int], decay: float) -> None:
        self._enqueue("cuda_track_sketch", table, names, memory, decay)

    def compare_snapshot(self, table: array[int], names: list[str], memory: array[int]) -> None:
        self._enqueue("cuda_compare_snapshot", table, names, memory, *self._workspace(table, names))

    def accumulate_movement(
        self, table: array[int], names: list[str], memory: array[int], rates: list[float], seed: int
    ) -> None:
        self._enqueue("cuda_accumulate_movement", table, names, memory, rates, seed)

    def stochastic_round(self, rows: array[int], seed: int, step: int, stream: int) -> None:
        self._enqueue("cuda_stochastic_round", rows, seed, step, stream)

    def _enqueue(self, verb: str, *arguments: Any) -> None:
        with devices.runtime.guard(self.device):
            getattr(devices.runtime.native, verb)(devices.runtime.queue(self.device), *arguments)

    def _workspace(self, table: array[int], names: list[str]) -> tuple[int, int]:
        """The address and size of memory for one call: torch keeps it from other uses until then."""
        count: int = devices.runtime.native.cuda_track_bytes(table, names)
        self._kept = devices.words_on(self.device, -(-count // 8))
        return self._kept.data_ptr(), count


def verbs_of(device: int) -> Any:
    """The verbs where a table's memory is: the compiled module for the host, or `DeviceVerbs`."""
    return _core if device == devices.HOST else DeviceVerbs(device)


def fetched(tensors: Sequence[torch.Tensor], device: int) -> list[torch.Tensor]:
    """Small tensors of 8-byte numbers in memory of the host: themselves if they are there, else copies, for
    which it waits once."""
    if device == devices.HOST or not tensors:
        return list(tensors)
    import torch

    words = devices.runtime.fetch(torch.cat([tensor.view(torch.int64) for tensor in tensors]), device)()
    with torch.inference_mode(False):
        whole = torch.from_numpy(words.view(np.int64).copy())
        parts = torch.split(whole, [tensor.numel() for tensor in tensors])
        return [part.view(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]
