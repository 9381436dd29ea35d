"""What a pruner says about itself: sparsity, the report and its figure."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..distributed.shards import local
from ..extras import require
from ..model.binding import Bound, bind
from ..model.gathering import reshard
from ..select.events import MaskHistory
from ..tensors.masks import Mask, kept_counts
from .remembering import describe

if TYPE_CHECKING:
    import torch

    from ..steps.loop import Loop

__all__ = ["PruneReport", "Sparsity", "TensorSparsity", "count_sparsity", "plot", "sparsity_of", "text_table"]


@dataclass(frozen=True)
class TensorSparsity:
    """One tensor: its elements, how many its mask prunes, and how many are exactly 0 in the weight now."""

    elements: int
    pruned: int
    zeros: int

    @property
    def masked(self) -> float:
        """Share of the elements that the mask prunes, 0 to 1."""
        return self.pruned / self.elements if self.elements else 0.0

    @property
    def zero(self) -> float:
        """Share of the elements that are exactly 0, 0 to 1; what is pruned and held is among them."""
        return self.zeros / self.elements if self.elements else 0.0


@dataclass(frozen=True)
class Sparsity:
    """Mask bits and actual zeros, over all targets and per tensor."""

    per_tensor: Mapping[str, TensorSparsity]

    @property
    def overall(self) -> TensorSparsity:
        rows = self.per_tensor.values()
        return TensorSparsity(
            *(sum(getattr(row, key) for row in rows) for key in ("elements", "pruned", "zeros"))
        )

    @property
    def masked(self) -> float:
        """Share of all target elements that the masks prune."""
        return self.overall.masked

    @property
    def zero(self) -> float:
        """Share of all target elements that are exactly 0."""
        return self.overall.zero

    def to_dict(self) -> dict[str, Any]:
        return {
            "masked": self.masked,
            "zero": self.zero,
            "per_tensor": {
                name: {"elements": row.elements, "masked": row.masked, "zero": row.zero}
                for name, row in self.per_tensor.items()
            },
        }

    def __repr__(self) -> str:
        return f"Sparsity({len(self.per_tensor)} tensors, masked={self.masked:.4f}, zero={self.zero:.4f})"

    def __str__(self) -> str:
        rows = [("tensor", "elements", "masked", "zero")]
        rows += [_sparsity_row(name, row) for name, row in self.per_tensor.items()]
        rows.append(_sparsity_row("all", self.overall))
        return text_table(rows)


def count_sparsity(bound: Iterable[Bound], masks: Mapping[str, Mask]) -> Sparsity:
    """Counts mask bits and zeros of these targets; one without a mask is all kept."""
    return sparsity_of({one.entry.name: one.parameter for one in bound}, masks)


def sparsity_of(tensors: Mapping[str, torch.Tensor], masks: Mapping[str, Mask]) -> Sparsity:
    """Counts mask bits and zeros of tensors on one device, by name; one without a mask is all kept. Of
    DTensors what this rank holds is counted."""
    kept = dict(zip(masks, kept_counts(list(masks.values())), strict=True))
    if not tensors:
        return Sparsity({})
    here = {name: local(tensor).detach() for name, tensor in tensors.items()}
    counts = [tensor.count_nonzero() for tensor in here.values()]
    rows = {}
    for (name, tensor), nonzero in zip(
        here.items(), sys.modules["torch"].stack(counts).tolist(), strict=True
    ):
        elements = tensor.numel()
        rows[name] = TensorSparsity(elements, elements - kept.get(name, elements), elements - nonzero)
    return Sparsity(rows)


def _sparsity_row(name: str, row: TensorSparsity) -> tuple[str, str, str, str]:
    return name, f"{row.elements:,}", f"{row.masked:.4f}", f"{row.zero:.4f}"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as text: the first row is the header, the first column is flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        row[0].ljust(widths[0])
        + "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


@dataclass(frozen=True)
class PruneReport:
    """The state of a pruner: prints as tables; `to_dict` gives plain values for JSON.

    Attributes:
        settings: Scorer, selector, scope, schedule, as text.
        step: Calls of ``step()`` so far.
        sparsity: Mask bits and actual zeros.
        history: The mask events.
        mask_bytes: Memory of the packed masks.
        finalized: Whether ``finalize()`` has run, which verified that every pruned weight is 0.
        violations: Pruned weights that were not 0 when ``finalize()`` began, by name.
        unfinished: What ``finalize()`` found missing of the schedule; None if nothing.
    """

    settings: Mapping[str, str]
    step: int
    sparsity: Sparsity
    history: MaskHistory
    mask_bytes: int
    finalized: bool
    violations: Mapping[str, int] = field(default_factory=dict)
    unfinished: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "settings": dict(self.settings),
            "step": self.step,
            "sparsity": self.sparsity.to_dict(),
            "events": [event.to_dict() for event in self.history],
            "mask_bytes": self.mask_bytes,
            "finalized": self.finalized,
            "violations": dict(self.violations),
            "unfinished": self.unfinished,
        }

    def __repr__(self) -> str:
        events = f"{len(self.history)} events"
        return f"PruneReport(step={self.step}, {events}, {self.sparsity!r}; print it for the tables)"

    def __str__(self) -> str:
        head = "finalized, zeros verified" if self.finalized else "in training"
        if self.violations:
            head = f"finalized; {sum(self.violations.values()):,} pruned weights were not 0 before"
        spent = sum(event.milliseconds for event in self.history)
        lines = [
            f"Bittersweet report after {self.step:,} steps ({head}): sparsity {self.sparsity.masked:.4f} by "
            f"masks, {self.sparsity.zero:.4f} exact zeros",
            *(f"  {key}: {value}" for key, value in self.settings.items()),
            f"  {len(self.history)} mask events took {spent:.1f} ms; masks take {self.mask_bytes:,} bytes",
        ]
        if self.violations:
            listed = ", ".join(f"{count:,} in '{name}'" for name, count in self.violations.items())
            lines.append(f"  NOT 0 before finalize() wrote the zeros: {listed}")
        if self.unfinished:
            lines.append(f"  {self.unfinished}")
        return "\n".join([*lines, "", str(self.history), "", str(self.sparsity)])


def plot(report: PruneReport, path: str | os.PathLike[str]) -> None:
    """Draws sparsity over steps (requested, achieved), sparsity per tensor, and milliseconds per mask event
    as a PNG.

    Its global state (pyplot, backend) is left alone.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    rows = report.sparsity.per_tensor
    library = require("matplotlib.figure", "a figure")
    figure = library.Figure(figsize=(13, max(4.0, 1.5 + 0.22 * len(rows))), layout="constrained")
    require("matplotlib.backends.backend_agg", "a figure").FigureCanvasAgg(figure)
    ramp, layers, cost = figure.subplots(1, 3)

    events = [event for event in report.history if event.step is not None]
    steps = [event.step for event in events]
    requested = [float("nan") if e.requested_sparsity is None else e.requested_sparsity for e in events]
    ramp.plot(steps, requested, color="0.6", linewidth=4, label="requested")
    ramp.plot(
        steps, [event.achieved_sparsity for event in events], marker=".", color="tab:red", label="achieved"
    )
    ramp.set(
        title="Sparsity at mask events", xlabel="step", ylabel="pruned share of the targets", ylim=(0, 1)
    )
    ramp.legend()

    positions = range(len(rows))
    layers.barh(positions, [row.masked for row in rows.values()], color="tab:blue")
    layers.axvline(report.sparsity.masked, color="0.4", linestyle="--", label="all targets")
    layers.set_yticks(positions, list(rows), fontsize=7)
    layers.invert_yaxis()
    layers.set(title="Sparsity per tensor", xlabel="pruned share", xlim=(0, 1))
    layers.legend()

    cost.bar(range(len(events)), [event.milliseconds for event in events], color="tab:green")
    cost.set_xticks(range(len(events)), [str(step) for step in steps], rotation=90, fontsize=7)
    cost.set(title="Time per mask event", xlabel="step", ylabel="milliseconds")
    figure.savefig(path, format="png", dpi=120)


def _ranks_of(loop: Loop) -> dict[str, str]:
    if loop.ranks is None or loop.ranks.group.size == 1:
        return {}
    group = loop.ranks.group
    return {
        "ranks": f"rank {group.rank} of {group.size}: sparsity below is of what it holds, events are of the "
        "whole model"
    }


def report_of(loop: Loop) -> PruneReport:
    """What `Pruner.report` returns."""
    loop.history.settle()
    reshard(loop.model)
    return PruneReport(
        {**loop.settings.describe(loop.optimizers), **describe(loop.tracker), **_ranks_of(loop)},
        loop.step,
        count_sparsity(bind(loop.model, None, loop.plan.targets), loop.keeper.masks),
        MaskHistory(loop.history),
        sum(mask.nbytes for mask in loop.keeper.ordered),
        loop.finalized,
        loop.violations,
        loop.unfinished,
    )
