"""`CapturableStep`: a prune step on CUDA that a CUDA graph can hold, with everything allocated beforehand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import DeviceError, Error, LayoutError
from ..options.scopes import Scope, resolve_scope
from ..options.scorers import Scorer, resolve_scorer
from ..options.selectors import Selector, resolve_selector
from ..options.values import as_bool
from ..tensors import cuda, devices
from ..tensors.mask_list import Masks
from ..tensors.masks import COLUMN, Mask
from ..tensors.table import ROLES, ScoreInputs, Table, as_items
from .choices import Options, count_or_none, decision_arguments, fraction_or_none
from .events import MaskEvent
from .selection import EventSource

__all__ = ["CapturableStep"]

_STATES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class CapturableStep:
    """Prunes the same CUDA tensors again and again, in place, and never waits for the device.

    `run` only enqueues work on torch's current stream, so that ``torch.cuda.graph`` can capture it and replay
    it. The budget lies in device memory, so that `set_budget` changes what later replays prune. What is dead
    stays dead from run to run (unless `regrow`); a run that finds NaN scores, or a budget that it cannot
    meet, changes nothing, and `read` says so.

    Each tensor must stay where it is: a step knows addresses. Update tensors in place, and make a new step
    (and capture again) after anything that replaces them. Replays do not raise autograd versions, as no
    Python runs.

    Args:
        inputs: A ScoreInputs or a list of them, all torch tensors on one CUDA device, row-major or in
            channels_last or transposed memory, each tensor's arrays alike. Their masks, where given, say what
            is dead at first; they are copied.
        scorer, selector, ties, nonfinite, seed, eps, regrow: See `make_masks`. A scorer that reads `step`
            keeps the step count of now.
        scope, distribution, rounding, remainder, max_tensor_sparsity, tensor_sparsity: See `make_masks`. What
            each tensor gives is computed on the device, from the budget there.
        mask_optimizer_state: See `prune_`.

    Raises:
        DeviceError: Tensors that are not on CUDA, or a build without CUDA.
        LayoutError: A tensor in memory that no engine works in, or that its weight is not in; or two that
            share memory.
        MissingStateError, ArgumentError, ShapeError, DTypeError: As `prune_`.
    """

    def __init__(
        self,
        inputs: ScoreInputs | Sequence[ScoreInputs],
        *,
        scorer: str | Scorer = "bitter7",
        ties: str | None = None,
        nonfinite: str = "error",
        seed: int = 0,
        eps: float | None = None,
        regrow: bool = False,
        mask_optimizer_state: bool = False,
        selector: str | Selector = "exact",
        scope: str | Scope = "global",
        distribution: str | None = None,
        rounding: str = "nearest",
        remainder: str = "error",
        max_tensor_sparsity: float | None = None,
        tensor_sparsity: Any = None,
    ) -> None:
        asked = Options(
            scope, distribution, rounding, remainder, selector, ties, nonfinite, seed, eps, regrow,
            max_tensor_sparsity, tensor_sparsity, True, None, None, scorer,
        )  # fmt: skip
        chosen, text = resolve_selector(selector), resolve_scope(scope, rounding, remainder).text
        mask_optimizer_state = as_bool("mask_optimizer_state", mask_optimizer_state)
        self._roles = ("weight", *_STATES) if mask_optimizer_state else ("weight",)
        single, items = as_items(inputs)
        call = resolve_scorer(scorer, eps, asked.seed)
        table = Table(items, call, self._roles)
        if table.device == devices.HOST:
            raise DeviceError(
                "inputs: they are on the CPU; a CapturableStep works on torch tensors on a CUDA device. Use "
                "prune_"
            )
        if table.relaid:
            raise LayoutError(
                "inputs: a tensor is neither row-major nor channels_last nor transposed, or in other memory "
                "than its weight; a captured step would work on a copy of it. Make it contiguous"
            )
        self._table = table
        self._current = Mask.empty_all(table.shapes, table.names, table.framework, table.device, table.orders)
        for row, (mask, given) in enumerate(zip(self._current, table.current, strict=True)):
            kept = given
            if kept is None:
                kept = Mask.full(mask.shape, mask.name, mask.framework, mask.device)
            mask.held.copy_(kept.held)
            table.data[row * len(COLUMN) + COLUMN["mask"]] = mask.pointer
        self._new = Mask.empty_all(table.shapes, table.names, table.framework, table.device, table.orders)
        table.attach(self._new)
        table.current = list(self._current)
        zero, counts = sum(ROLES[role] for role in self._roles), asked.counts(table)
        options = cuda.StepOptions(chosen, decision_arguments(asked, counts), zero)
        self._step = cuda.StepMemory(table, call.spec, options, True)
        self._source = EventSource(table, call, chosen[0], text, None, counts)
        self._masks = Masks(self._current, single=single)
        self.set_budget(k=0)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise Error(
            "a CapturableStep knows the addresses of its tensors and cannot be copied or pickled. Make a new "
            "one of the copied tensors, with masks=step.masks as their masks"
        )

    def __repr__(self) -> str:
        return f"<CapturableStep of {len(self._table.names)} tensors, {self._table.total:,} elements>"

    @property
    def masks(self) -> Masks:
        """The masks after the last run on this stream; every run writes them anew, in place."""
        return self._masks

    def set_budget(self, *, sparsity: float | None = None, k: int | None = None) -> None:
        """Enqueues a new budget for the runs and replays that follow. Give one of the two; see `make_masks`
        (with scope N:M none means 1 - N/M). Until the first call it is 0.

        The number travels as an argument of a kernel: captured into a graph it is the same at each replay.

        Raises:
            ArgumentError: None or both, or no budget of these tensors under this scope. What
                `tensor_sparsity` allows depends on the masks, and is seen by the run: `read` raises then.
        """
        fraction, count = fraction_or_none("sparsity", sparsity), count_or_none(k)
        self._step.write_budget(fraction, count)

    def run(self) -> None:
        """Enqueues one step on torch's current stream: threshold, masks, zeros. Capturable."""
        import torch

        self._step.run()
        with devices.runtime.guard(self._table.device):
            failed = self._step.failed()
            for current, new in zip(self._current, self._new, strict=True):
                torch.where(failed, current.held, new.held, out=current.held)
        self._table.write_back()

    def hold(self) -> None:
        """Enqueues the zeros of the masks as they are, for training steps between two runs. Capturable."""
        bits = sum(ROLES[role] for role in self._roles)
        self._table.engine.apply_masks(self._table.data, COLUMN["mask"], bits)
        self._table.write_back()

    def read(self) -> MaskEvent:
        """Waits for the last run or replay on the current stream, and says what it did.

        Raises:
            NonFiniteScoreError: It found NaN scores, and changed nothing.
            ArgumentError: `tensor_sparsity` does not allow its budget; it changed nothing.
        """
        started = time.perf_counter()
        event = self._source.event(self._step.fetch()(), started)
        return replace(event, requested_sparsity=event.k / event.total if event.total else 0.0)
