"""A mask event is data: what one pruning decision asked for, found and did."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..errors import ArgumentError, NonFiniteScoreError
from ..tensors.lazy import has_failed, read


@dataclass(frozen=True)
class MaskEvent:
    """The numbers of one mask event. Counts are of elements; ``None`` means "does not apply".

    With ``sync=False`` on CUDA they are read when one of them is looked at first; see `functional`.

    Attributes:
        step: Training step, or None outside a training loop.
        requested_sparsity: Fraction asked for (``k / total`` where a count was given).
        achieved_sparsity: ``pruned / total``.
        threshold: The score at the threshold; None for scopes without a single one; -inf where k is 0.
        k: Elements asked for, dead ones included.
        total: Eligible elements.
        pruned: Dead elements after the event.
        count_below: Live scores below the threshold; None where an approximate selector did not count.
        count_equal: Live scores equal to the threshold; None likewise.
        churn: Mask bits that changed.
        per_tensor: Sparsity by tensor name.
        per_tensor_threshold: Threshold by tensor name; None where a tensor has no single one.
        empty_rows: Output rows in which nothing was kept although they had live elements before; None where
            ranks hold parts of rows.
        v_below_eps: Share of live ``exp_avg_sq`` below the scorer's eps; None where the scorer has no such
            pair.
        v_zero: Share of live ``exp_avg_sq`` that is exactly 0.
        nonfinite: NaN scores (kept, under ``nonfinite="keep"``).
        selector: Name of the selector.
        scorer: Name of the scorer.
        scope: Scope, such as ``"global"`` or ``"2:4"``.
        passes: Reads of all inputs.
        milliseconds: Wall time of the whole call; with ``sync=False`` on CUDA, of enqueuing it.
        extra_bytes: Scratch memory, re-laid copies and packed current masks; the new masks are not in it.
        skipped: Names of tensors left out for missing state.
        achieved_sparsity_all: Sparsity over all targets, skipped ones included.
        standard_error: Of the achieved sparsity, from the sampling selector.
        converged: False if an iterative selector stopped early; it says so instead of passing in silence.
        groups: Where budgets were given by glob, for each glob: ``requested``, ``achieved``, ``threshold``,
            ``pruned`` and ``total`` of its tensors.
        dense: Names of targets that no glob met; they were left alone.
        ranks: How many ranks decided together; None for one process alone. `passes`, `milliseconds` and
            `extra_bytes` are then this rank's, and all other numbers those of the whole model.
        rounds: How many vectors they added up for it.
        bytes_sent: Bytes of these vectors, on each rank.
        drop_fraction: Where weights are grown by another score (`RigL`, `SET`): the share of live weights
            that was to be dropped beyond the budget. Threshold and counts are then those of the dropping.
        dropped: How many live weights the scorer let go; None otherwise.
        grown: How many places were opened by the other score. Those just dropped may be among them, so that
            `churn` may be less than both together.
        at_bounds: Under a cap or ranges, the tensors for which these decided instead of the threshold:
            ``"low"`` or ``"high"`` by name, or ``"exact"`` where a range is one count.
    """

    step: int | None
    requested_sparsity: float | None
    achieved_sparsity: float
    threshold: float | None
    k: int
    total: int
    pruned: int
    count_below: int | None
    count_equal: int | None
    churn: int
    per_tensor: Mapping[str, float]
    per_tensor_threshold: Mapping[str, float | None]
    empty_rows: int | None
    v_below_eps: float | None
    v_zero: float | None
    nonfinite: int
    selector: str
    scorer: str
    scope: str
    passes: float
    milliseconds: float
    extra_bytes: int
    skipped: tuple[str, ...] = field(default=())
    achieved_sparsity_all: float | None = None
    standard_error: float | None = None
    converged: bool = True
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dense: tuple[str, ...] = field(default=())
    ranks: int | None = None
    rounds: int | None = None
    bytes_sent: int | None = None
    drop_fraction: float | None = None
    dropped: int | None = None
    grown: int | None = None
    at_bounds: Mapping[str, str] = field(default_factory=dict)

    @property
    def live_before(self) -> int:
        """How many elements had a score that could let them go."""
        if self.dropped is None or self.grown is None:
            return self.total - self.pruned + self.churn
        return self.total - self.pruned + self.dropped - self.grown

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; infinities become the strings ``"inf"`` and ``"-inf"``."""
        return {item.name: encode(getattr(self, item.name)) for item in fields(self)}

    def scalars(self, prefix: str = "") -> dict[str, float]:
        """The numbers for a logger (TensorBoard, W&B, a CSV file), flat and numbers only, under these names,
        with `prefix` (such as ``"pruning/"``) in front:

        ``sparsity`` (achieved), ``requested_sparsity``, ``sparsity_all`` (over all targets, skipped ones
        included), ``threshold``, ``k``, ``total``, ``pruned``, ``count_below``, ``count_equal``, ``churn``,
        ``empty_rows``, ``v_below_eps``, ``v_zero``, ``nonfinite``, ``passes``, ``milliseconds``,
        ``extra_bytes``, ``standard_error``, ``ranks``, ``rounds``, ``bytes_sent``, ``drop_fraction``,
        ``dropped``, ``grown``.
        What does not apply (None) or is not finite (a threshold of -inf)
        is left out.
        """
        values = {_LOGGED.get(name, name): getattr(self, name) for name in _NUMBERS}
        return {prefix + name: v for name, v in values.items() if v is not None and math.isfinite(v)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> MaskEvent:
        """The event that `to_dict` described. Raises ArgumentError for a missing or unknown field."""
        if not isinstance(values, Mapping):
            raise ArgumentError(
                f"mask event: found {type(values).__name__}; accepted: what to_dict() returned"
            )
        decoded = {key: _decode(value) if key in _FLOAT_FIELDS else value for key, value in values.items()}
        for listed in ("skipped", "dense"):
            if listed in decoded:
                decoded[listed] = tuple(decoded[listed])
        try:
            return MaskEvent(**decoded)
        except TypeError as error:
            raise ArgumentError(f"mask event: {error}") from None

    def __repr__(self) -> str:
        return (
            f"MaskEvent(step={self.step}, {self.scorer}, sparsity={self.achieved_sparsity:.4f}, "
            f"{self.pruned:,} of {self.total:,} pruned; print it for more)"
        )

    def __str__(self) -> str:
        head = "mask event" if self.step is None else f"step {self.step}"
        asked = "" if self.requested_sparsity is None else f" (requested {self.requested_sparsity:.4f})"
        value = "per group" if self.threshold is None else f"{self.threshold:.6g}"
        lines = [
            f"{head}: sparsity {self.achieved_sparsity:.4f}{asked}, {self.pruned:,} of {self.total:,} pruned",
            f"  {self.scorer}, {self.selector}, scope {self.scope}, threshold {value}, "
            f"{_count(self.count_below)} below and {_count(self.count_equal)} equal",
            f"  churn {self.churn:,}, empty rows {_count(self.empty_rows)}, {self.passes:.2f} passes, "
            f"{self.milliseconds:.2f} ms, {self.extra_bytes:,} extra bytes",
        ]
        notes = []
        if self.grown is not None:
            notes.append(
                f"dropped {_count(self.dropped)} (fraction {self.drop_fraction:.3g}), grown {self.grown:,}"
            )
        if self.ranks is not None:
            notes.append(f"{self.ranks} ranks, {self.rounds} rounds, {_count(self.bytes_sent)} bytes summed")
        if self.v_below_eps is not None:
            notes.append(f"exp_avg_sq below eps {self.v_below_eps:.1%}")
        if self.v_zero is not None:
            notes.append(f"exp_avg_sq zero {self.v_zero:.1%}")
        if self.nonfinite:
            notes.append(f"NaN scores {self.nonfinite:,}")
        if self.standard_error is not None:
            notes.append(f"standard error of the sparsity {self.standard_error:.2g}")
        if not self.converged:
            notes.append("not converged")
        if self.skipped:
            notes.append(f"skipped for missing state: {', '.join(self.skipped)}")
        if self.achieved_sparsity_all is not None:
            notes.append(f"sparsity over all targets {self.achieved_sparsity_all:.4f}")
        if self.dense:
            notes.append(f"left dense: {', '.join(self.dense)}")
        for side, words in _SIDES.items():
            if names := [name for name, at in self.at_bounds.items() if at == side]:
                notes.append(f"{words}: {', '.join(names)}")
        lines += [_group_line(glob, found) for glob, found in self.groups.items()]
        return "\n".join([*lines, "  " + ", ".join(notes)] if notes else lines)


class MaskHistory(list[MaskEvent]):
    """A list of events that prints as a table and reads and writes JSON lines. It stays small.

    It holds the first 512 and the last 512 events; `dropped` counts those between that were let go. Of the
    first 8 and the last 24 it holds everything; of the others `per_tensor`, `per_tensor_threshold` and
    `at_bounds`, which are as long as the model has tensors, are empty.
    """

    FIRST, LAST = 512, 512
    FIRST_WHOLE, LAST_WHOLE = 8, 24

    dropped = 0
    _news: NonFiniteScoreError | None = None

    def __init__(self, events: Iterable[MaskEvent] = ()) -> None:
        super().__init__()
        self.dropped = getattr(events, "dropped", 0)
        self.extend(events)

    def append(self, event: MaskEvent) -> None:
        """Adds an event, and lets go of what the rule above does not keep."""
        super().append(event)
        self._shorten(len(self) - 1 - self.LAST_WHOLE)
        if len(self) > self.FIRST + self.LAST:
            del self[self.FIRST]
            self.dropped += 1

    def extend(self, events: Iterable[MaskEvent]) -> None:
        """`append`, one after the other."""
        for event in events:
            self.append(event)

    def settle(self) -> None:
        """Reads what is still on a CUDA device; events that turn out void are taken out.

        Raises:
            NonFiniteScoreError: For the first void event that nobody had looked at.
        """
        kept: list[MaskEvent] = []
        news, self._news = self._news, None
        for event in self:
            known = has_failed(event)
            try:
                read(event)
                kept.append(event)
            except NonFiniteScoreError as error:
                news = news or (None if known else error)
        self[:] = kept
        if news is not None:
            raise news

    def _shorten(self, place: int) -> None:
        """Takes what is said of single tensors out of an event, and what it was still to be read from."""
        if place < self.FIRST_WHOLE:
            return
        known = has_failed(self[place])
        try:
            read(self[place])
            self[place] = replace(self[place], per_tensor={}, per_tensor_threshold={}, at_bounds={})
        except NonFiniteScoreError as error:
            self._news = self._news or (None if known else error)

    def __repr__(self) -> str:
        last = f", the last one {self[-1]!r}" if self else ""
        return f"MaskHistory({len(self)} events{last})"

    def __str__(self) -> str:
        if not self:
            return "no mask events yet"
        shares, costs = ("requested", "achieved", "threshold"), ("passes", "ms")
        header = ("step", *shares, "pruned", "churn", "empty rows", *costs)
        head, tail = (_HEAD, _TAIL) if len(self) > _HEAD + _TAIL + 1 else (len(self), 0)
        rows = [header, *(_row(event) for event in self[:head]), *(_row(e) for e in self[len(self) - tail :])]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        if tail:
            lines.insert(2 + head, f"... {len(self) + self.dropped - head - tail:,} more events ...")
        return "\n".join(lines)

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Writes one JSON object per line, UTF-8."""
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(event.to_dict(), allow_nan=False) + "\n" for event in self)

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str]) -> MaskHistory:
        """Reads what `to_jsonl` wrote."""
        with open(path, encoding="utf-8") as file:
            return cls(MaskEvent.from_dict(json.loads(line)) for line in file if line.strip())


_HEAD, _TAIL = 10, 30
"""Rows that a long history prints."""

_LOGGED = {"achieved_sparsity": "sparsity", "achieved_sparsity_all": "sparsity_all"}
_NUMBERS = (
    *("achieved_sparsity", "requested_sparsity", "achieved_sparsity_all", "threshold", "k", "total"),
    *("pruned", "count_below", "count_equal", "churn", "empty_rows", "v_below_eps", "v_zero", "nonfinite"),
    *("passes", "milliseconds", "extra_bytes", "standard_error", "ranks", "rounds", "bytes_sent"),
    *("drop_fraction", "dropped", "grown"),
)
_SIDES = {
    "low": "at the low end of their range",
    "high": "at the high end",
    "exact": "held to an exact share",
}
_FLOAT_FIELDS = frozenset(
    (
        "threshold", "per_tensor_threshold", "requested_sparsity", "achieved_sparsity", "v_below_eps",
        "v_zero", "groups", "drop_fraction",
    )
)  # fmt: skip


def _group_line(glob: str, found: Mapping[str, Any]) -> str:
    asked = "" if found["requested"] is None else f" (requested {found['requested']:.4f})"
    value = "per group" if found["threshold"] is None else f"{found['threshold']:.6g}"
    return (
        f"  '{glob}': sparsity {found['achieved']:.4f}{asked}, {found['pruned']:,} of {found['total']:,} "
        f"pruned, threshold {value}"
    )


def _row(event: MaskEvent) -> tuple[str, ...]:
    return (
        "-" if event.step is None else str(event.step),
        "-" if event.requested_sparsity is None else f"{event.requested_sparsity:.4f}",
        f"{event.achieved_sparsity:.4f}",
        "per group" if event.threshold is None else f"{event.threshold:.4g}",
        f"{event.pruned:,}",
        f"{event.churn:,}",
        _count(event.empty_rows),
        f"{event.passes:.2f}",
        f"{event.milliseconds:.2f}",
    )


def _count(value: int | None) -> str:
    return "uncounted" if value is None else f"{value:,}"


def encode(value: Any) -> Any:
    """A plain value for JSON: infinities and NaN as strings, tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _decode(item) for key, item in value.items()}
    return float(value) if isinstance(value, str) else value
