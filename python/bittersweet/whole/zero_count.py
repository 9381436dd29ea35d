"""What `sparsity` counts: rows by tensor, their sums, and their union over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ShapeError
from ..training.report import text_table

if TYPE_CHECKING:
    from ..distributed.collective import Group

__all__ = ["PartZeros", "TensorZeros", "ZeroCount", "counted_over_ranks"]


@dataclass(frozen=True)
class TensorZeros:
    """One tensor: its shape and element type, how many elements it has, and how many are exactly 0."""

    shape: tuple[int, ...]
    dtype: str
    elements: int
    zeros: int

    @property
    def zero(self) -> float:
        """Share of the elements that are exactly 0, 0 to 1."""
        return self.zeros / self.elements if self.elements else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "elements": self.elements,
            "zeros": self.zeros,
            "zero": self.zero,
        }


@dataclass(frozen=True)
class ZeroCount:
    """Exact zeros per tensor. Prints as a table of what has two or more axes; `table` shows all.

    Attributes:
        per_tensor: By name, in the order of the model.
        skipped: What was not counted, with the reason: tensors that are no floating-point numbers, and
            values that are no tensors.
    """

    per_tensor: Mapping[str, TensorZeros]
    skipped: Mapping[str, str]

    @property
    def elements(self) -> int:
        return sum(row.elements for row in self.per_tensor.values())

    @property
    def zeros(self) -> int:
        return sum(row.zeros for row in self.per_tensor.values())

    @property
    def zero(self) -> float:
        """Share of all elements that are exactly 0, 0 to 1."""
        return self.zeros / self.elements if self.elements else 0.0

    @property
    def matrices(self) -> ZeroCount:
        """The same of the tensors with two or more axes: not of biases and norms."""
        rows = {name: row for name, row in self.per_tensor.items() if len(row.shape) > 1}
        return ZeroCount(rows, {})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "elements": self.elements,
            "zeros": self.zeros,
            "zero": self.zero,
            "matrices": {key: getattr(self.matrices, key) for key in ("elements", "zeros", "zero")},
            "per_tensor": {name: row.to_dict() for name, row in self.per_tensor.items()},
            "skipped": dict(self.skipped),
        }

    def table(self, *, every: bool = True) -> str:
        """The table; with `every` False, tensors of fewer than two axes are summed up in one line."""
        matrices = self.matrices
        shown = self.per_tensor if every or not matrices.per_tensor else matrices.per_tensor
        rows: list[tuple[str, ...]] = [("tensor", "shape", "dtype", "elements", "zeros", "share")]
        rows += [_row(name, row) for name, row in shown.items()]
        if len(shown) < len(self.per_tensor):
            rest = [row for name, row in self.per_tensor.items() if name not in shown]
            rows.append(_total(f"{len(rest)} of fewer than two axes", rest))
            rows.append(_total("all of two or more axes", shown.values()))
        rows.append(_total("all", self.per_tensor.values()))
        lines = [text_table(rows)]
        if self.skipped:
            reasons = sorted(set(self.skipped.values()))
            listed = "; ".join(
                f"{sum(found == reason for found in self.skipped.values())} {reason}" for reason in reasons
            )
            lines.append(f"not counted: {listed}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table(every=False)

    def __repr__(self) -> str:
        return (
            f"ZeroCount({len(self.per_tensor)} tensors, {self.zeros:,} of {self.elements:,} elements are 0: "
            f"{self.zero:.4f})"
        )


def _row(name: str, row: TensorZeros) -> tuple[str, ...]:
    shape = "x".join(map(str, row.shape)) or "scalar"
    return name, shape, row.dtype, f"{row.elements:,}", f"{row.zeros:,}", f"{row.zero:.4f}"


def _total(title: str, rows: Iterable[TensorZeros]) -> tuple[str, ...]:
    elements, zeros = 0, 0
    for row in rows:
        elements, zeros = elements + row.elements, zeros + row.zeros
    share = zeros / elements if elements else 0.0
    return title, "", "", f"{elements:,}", f"{zeros:,}", f"{share:.4f}"


class PartZeros(NamedTuple):
    """The counts of the part of a tensor that one rank holds, and where it lies in the whole."""

    name: str
    whole: tuple[int, ...]
    offset: tuple[int, ...]
    row: TensorZeros


def counted_over_ranks(
    group: Group, here: Callable[[], tuple[list[PartZeros], dict[str, str]]]
) -> tuple[dict[str, TensorZeros], dict[str, str]]:
    """The counts of whole tensors from the parts of all ranks, copies once; and why others were not counted.
    Collective: what `here` raises on one rank is raised on all.

    Raises:
        ShapeError: The ranks hold less than a whole tensor, or other tensors under one name.
    """
    told = group.gathered(here)
    boxes: dict[str, dict[Any, PartZeros]] = {}
    for parts, _ in told:
        for part in parts:
            boxes.setdefault(part.name, {})[part.offset, part.row.shape] = part
    counted = {}
    for name, found in boxes.items():
        rows, wholes = [part.row for part in found.values()], {part.whole for part in found.values()}
        if len(wholes) > 1:
            raise ShapeError(
                f"source: '{name}' has shape {' and '.join(map(str, sorted(wholes)))} on different ranks; "
                "those that hold one tensor say one shape. Give different tensors names of their own"
            )
        whole = wholes.pop()
        elements = sum(row.elements for row in rows)
        if elements != math.prod(whole):
            raise ShapeError(
                f"source: '{name}' has shape {whole}, and the ranks of the process group hold {elements:,} "
                f"of its {math.prod(whole):,} elements. Pass the group of all ranks that hold a part"
            )
        zeros = sum(row.zeros for row in rows)
        counted[name] = replace(rows[0], shape=whole, elements=elements, zeros=zeros)
    return counted, {name: why for _, skipped in told for name, why in skipped.items()}
