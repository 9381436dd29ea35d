"""What `prune_checkpoint` did, or would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..training.report import text_table

__all__ = ["CheckpointReport", "StoredTensorReport"]


@dataclass(frozen=True)
class StoredTensorReport:
    """One tensor of the checkpoint.

    Attributes:
        file: The name of the file that holds it.
        pruned: How many of its elements were set to 0 or were 0 already among the lowest; 0 if it was copied;
            None in a dry run of scope global, which does not read them.
        threshold: The threshold that decided it, where there is one and it is known.
        transposed: Its inputs are its first axis.
        reason: Why it was copied as it is; None if it was pruned.
    """

    file: str
    shape: tuple[int, ...]
    dtype: str
    elements: int
    pruned: int | None
    threshold: float | None
    transposed: bool
    reason: str | None

    @property
    def sparsity(self) -> float | None:
        """Share of the elements that are pruned, 0 to 1."""
        return None if self.pruned is None else self.pruned / max(self.elements, 1)


@dataclass(frozen=True)
class CheckpointReport:
    """Prints as a table; `to_dict` gives plain values for JSON.

    Attributes:
        sparsity: What was asked for, of the elements that are pruned.
        total: Elements of the tensors that are pruned; `k`: those to prune; `pruned`: those that were.
        threshold: That of scope global, in float32 as the engine sees it.
        count_below, count_equal: Scores under that threshold, and equal to it.
        reads: How often the chosen tensors were read before the copy was written; the copy reads once more.
        size: Bytes of the copy, which are those of the source: zeros are stored as other numbers are.
        verified: The copy was read again and compared; None if that was not asked for.
        left_out: Files of the folder that are not in the copy: weights in other files and formats.
    """

    source: str
    out: str | None
    dry_run: bool
    scorer: str
    scope: str
    sparsity: float
    total: int
    k: int | None
    pruned: int
    threshold: float | None
    count_below: int | None
    count_equal: int | None
    per_tensor: Mapping[str, StoredTensorReport]
    files: int
    size: int
    reads: int
    seconds: float
    verified: bool | None
    left_out: tuple[str, ...]

    @property
    def elements(self) -> int:
        """Of all tensors, pruned or not."""
        return sum(row.elements for row in self.per_tensor.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = asdict(self)
        found["per_tensor"] = {
            name: {**asdict(row), "shape": list(row.shape)} for name, row in self.per_tensor.items()
        }
        found["left_out"] = list(self.left_out)
        found["elements"] = self.elements
        return found

    def table(self) -> str:
        """One line for every tensor that is pruned, and one for every reason why others are not."""
        rows: list[tuple[str, ...]] = [("tensor", "shape", "dtype", "elements", "pruned", "share")]
        rows += [_row(name, row) for name, row in self.per_tensor.items() if row.reason is None]
        return "\n".join([text_table(rows), *_reasons(self.per_tensor)])

    def __str__(self) -> str:
        scope = f"{self.scorer}, scope {self.scope}"
        if self.dry_run:
            said = f"would prune {self.sparsity:.4g} of {self.total:,} elements ({scope}); nothing is written"
        else:
            threshold = "" if self.threshold is None else f" at threshold {self.threshold:.6g}"
            said = f"{self.pruned:,} of {self.total:,} elements are 0 ({scope}){threshold}"
        files = f"{self.files} files" if self.files > 1 else "one file"
        lines = [
            self.table(),
            f"{said}; that is {self._share():.4f} of all {self.elements:,} elements",
            f"{files}, {_gigabytes(self.size)}: as large as the source, since zeros are stored as other "
            "numbers are",
        ]
        if self.left_out:
            lines.append(f"not in the copy: {', '.join(self.left_out)}")
        if self.verified:
            lines.append("verified: every byte of the copy is as computed, or as in the source")
        if not self.dry_run:
            lines.append(
                f"{self.out}: {self.seconds:.1f} s, read {self.reads + 1} times and written once, "
                f"{_gigabytes(round(self.size / max(self.seconds, 1e-9)))}/s"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"CheckpointReport({self.out!r}, {self.pruned:,} of {self.total:,} elements are 0)"

    def _share(self) -> float:
        count = self.k if self.dry_run else self.pruned
        return (count or 0) / max(self.elements, 1)


def _row(name: str, row: StoredTensorReport) -> tuple[str, ...]:
    shape = "x".join(map(str, row.shape)) + (" (transposed)" if row.transposed else "")
    pruned = "?" if row.pruned is None else f"{row.pruned:,}"
    share = "?" if row.sparsity is None else f"{row.sparsity:.4f}"
    return name, shape, row.dtype, f"{row.elements:,}", pruned, share


def _reasons(per_tensor: Mapping[str, StoredTensorReport]) -> list[str]:
    by_reason: dict[str, list[tuple[str, int]]] = {}
    for name, row in per_tensor.items():
        if row.reason is not None:
            by_reason.setdefault(row.reason, []).append((name, row.elements))
    lines = []
    for reason, found in by_reason.items():
        names = ", ".join(name for name, _ in found[:3]) + (", ..." if len(found) > 3 else "")
        lines.append(
            f"copied as they are, {reason}: {len(found)} tensors of {sum(size for _, size in found):,} "
            f"elements ({names})"
        )
    return lines


def _gigabytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
