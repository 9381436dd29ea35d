"""One step of the CUDA engine: device memory and torch's current stream go in; numbers come out when asked
for. See `devices` for what may wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import Error
from . import devices

if TYPE_CHECKING:
    import torch

    from .table import Table


@dataclass(frozen=True)
class StepOptions:
    """What `_core.cuda_step` is told beside tensors, scorer and budget."""

    selector: tuple[str, float, bool, float, str]
    named: Mapping[str, Any]
    """The keyword arguments of `_core.make_masks`, but for the budget's."""
    zero: int = 0
    """Roles of the arrays that get zeros in the same step."""

    def spec(self, thresholds: int) -> tuple[Any, ...]:
        return self.selector, dict(self.named), self.zero, thresholds


class StepMemory:
    """What one step needs on the device: its report, a count and a threshold per tensor, its budget, and the
    workspace.
    """

    def __init__(self, table: Table, scorer: Any, options: StepOptions, masks: bool) -> None:
        import torch

        self.table, self.scorer, self.options, self.masks = table, scorer, options, masks
        self.device = table.device
        native, report, tensors = (
            devices.runtime.native,
            devices.runtime.native.CUDA_REPORT_WORDS,
            len(table.names),
        )
        place = devices.runtime.place(self.device)
        with devices.runtime.guard(self.device):
            self.bytes: int = native.cuda_step_bytes(table.data, table.names, scorer, options.spec(0), masks)
            self.workspace = torch.empty(max(self.bytes, 1), dtype=torch.uint8, device=place)
            pairs = (tensors + 1) // 2
            self.words = torch.empty(report + tensors + pairs + 2, dtype=torch.int64, device=place)
        start = self.words.data_ptr()
        self.budget = start + 8 * (report + tensors + pairs)
        counts = start + 8 * report if masks else 0
        self._spec = options.spec(start + 8 * (report + tensors) if masks else 0)
        self._addresses = (self.budget, start, counts, self.workspace.data_ptr(), self.bytes)

    def write_budget(self, sparsity: float | None, k: int | None) -> None:
        """Enqueues a new budget. Raises ArgumentError for one that the scope cannot meet."""
        with devices.runtime.guard(self.device):
            devices.runtime.native.cuda_write_budget(
                devices.runtime.queue(self.device),
                self.budget,
                sparsity,
                k,
                self.options.named["scope"],
                self.table.total,
            )

    def run(self) -> None:
        """Enqueues the step: nothing is allocated, and nothing is waited for."""
        table = self.table
        with devices.runtime.guard(self.device):
            devices.runtime.native.cuda_step(
                devices.runtime.queue(self.device),
                table.data,
                table.names,
                self.scorer,
                self._spec,
                self._addresses,
                self.masks,
            )

    def failed(self) -> torch.Tensor:
        """On the device: whether the step was void, as a bool tensor without dimensions."""
        void: torch.Tensor = (self.words[0] & devices.runtime.native.CUDA_FAILED) != 0
        return void

    def fetch(self) -> Callable[[], dict[str, Any]]:
        """Enqueues a copy of what the step found; calling the result waits for it.

        The result raises NonFiniteScoreError, or ArgumentError for a budget that does not fit.
        """
        table, extra, named = self.table, self.bytes, self.options.named
        names, numels, masks, native = table.names, table.numels, self.masks, devices.runtime.native
        nonfinite, scope = named["nonfinite"], named["scope"]
        bounded = named["max_tensor_sparsity"] is not None or bool(named["tensor_sparsity"])
        with devices.runtime.guard(self.device):
            wait = devices.runtime.fetch(self.words[:-2], self.device)

        def read() -> dict[str, Any]:
            found: dict[str, Any] = native.cuda_read_report(
                wait(), names, numels, nonfinite, masks, scope, bounded
            )
            found["extra_bytes"] = extra
            return found

        return read


class ShardedPrune:
    """`_core.ShardedPrune` over memory of a CUDA device, with what it needs there; `next` waits for it.

    `members`, `rest` and `named` are what `_core.ShardedPrune` takes before its table and behind its names.
    """

    def __init__(
        self, table: Table, members: tuple[Any, int], rest: tuple[Any, ...], named: Mapping[str, Any]
    ) -> None:
        import torch

        if devices.runtime.is_capturing():
            raise Error(
                "a decision over ranks reads what it finds, and the current stream is being captured into a "
                "CUDA graph. Make it outside of the graph"
            )
        self._device, native = table.device, devices.runtime.native
        place = devices.runtime.place(self._device)
        with devices.runtime.guard(self._device):
            self._bytes: int = native.cuda_sharded_bytes(table.data, table.names)
            self._workspace = torch.empty(max(self._bytes, 1), dtype=torch.uint8, device=place)
            memory = devices.runtime.queue(self._device), self._workspace.data_ptr(), self._bytes
            self._prune = native.ShardedPrune(
                *members, table.data, table.names, *rest, device=memory, **named
            )

    @property
    def agreement(self) -> str:
        said: str = self._prune.agreement
        return said

    def next(self, fault: bool = False) -> memoryview | None:
        with devices.runtime.guard(self._device):
            vector: memoryview | None = self._prune.next(fault)
            return vector

    def report(self) -> Any:
        found = self._prune.report()
        found["extra_bytes"] += self._bytes
        return found


def run_step(
    table: Table, scorer: Any, options: StepOptions, masks: bool, sparsity: float | None, k: int | None
) -> StepMemory:
    """Enqueues one step over the tensors of `table`.

    Raises:
        Error: The current stream is being captured into a graph.
        ArgumentError, DeviceError, LayoutError: Before anything is enqueued.
    """
    if devices.runtime.is_capturing():
        raise Error(
            "this call reads its result, and the current stream is being captured into a CUDA graph. "
            "Capture a CapturableStep instead, which leaves the result on the device"
        )
    step = StepMemory(table, scorer, options, masks)
    step.write_budget(sparsity, k)
    step.run()
    return step
