"""The layouts of a packed matrix behind one set of functions, and the choice between them.

A matrix is three tensors. The first tells its layout: int32 masks of strips, uint8 codes of delta.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .. import _core
from ..errors import DTypeError, LayoutError
from ..options.budgets import check_globs, group
from ..options.values import one_of
from ..tensors.masks import Mask
from . import delta, strips
from .strips import Arrays, Measured

LAYOUTS = ("strips", "delta")
ACCEPTED = ("auto", *LAYOUTS)
ARRAYS = {"strips": ("masks", "values", "offsets"), "delta": ("codes", "values", "offsets")}
"""The names of the three tensors in a state dict."""

_FIRST = {"strips": torch.int32, "delta": torch.uint8}


class Kernels(NamedTuple):
    """The compiled functions of a layout; tiles of the matrix are whole multiples of `height` rows."""

    height: int
    multiply: Callable[..., None]
    unpack: Callable[[Arrays, int, int, int], None]
    check: Callable[[Arrays], None]


_KERNELS = {
    "strips": Kernels(strips.HEIGHT, _core.multiply_strips, _core.unpack_strips, _core.check_strips),
    "delta": Kernels(delta.HEIGHT, _core.multiply_delta, _core.unpack_delta, _core.check_delta),
}


def layout_of(marks: torch.Tensor) -> str:
    """The layout of the matrix whose first tensor this is."""
    return "delta" if marks.dtype == torch.uint8 else "strips"


def kernels(marks: torch.Tensor) -> Kernels:
    """The compiled functions for the matrix whose first tensor this is."""
    return _KERNELS[layout_of(marks)]


def measure(layout: str, matrix: torch.Tensor, keep: Mask | None = None) -> Measured:
    """What packing a contiguous matrix on the host as "strips" or "delta" will take.

    Raises:
        ArgumentError: `keep` drops elements that are not +0.
    """
    return delta.measure(matrix, keep) if layout == "delta" else strips.measure(matrix, keep)


def pack(matrix: torch.Tensor, measured: Measured) -> torch.Tensor:
    """The values of the matrix that was measured."""
    if layout_of(measured.marks) == "delta":
        return delta.pack(matrix, measured)
    return strips.pack(matrix, measured)


def auto(sparsity: float, dtype: torch.dtype, batch: int, reproducible: bool) -> tuple[str, str]:
    """The better layout for products with `batch` rows, and why."""
    least = delta.least_sparsity(dtype, batch, reproducible)
    layout = "delta" if sparsity >= least else "strips"
    rows = "1 row" if batch == 1 else f"{batch} rows"
    return layout, f"{layout}, for {str(dtype)[6:]} and {rows}: delta is the better from {least:.0%} zeros on"


def decide(
    asked: str, sparsity: float, dtype: torch.dtype, batch: int, reproducible: bool
) -> tuple[str, str]:
    """The layout that was asked for, or that of `auto`, and why that one."""
    return (asked, f"{asked}, as asked") if asked != "auto" else auto(sparsity, dtype, batch, reproducible)


def choose(
    asked: str, matrix: torch.Tensor, keep: Mask | None, batch: int, reproducible: bool
) -> tuple[Measured, str]:
    """A matrix measured in the layout that `decide` says, and why in that."""
    measured = measure("delta" if asked == "delta" else "strips", matrix, keep)
    layout, reason = decide(asked, measured.sparsity, matrix.dtype, batch, reproducible)
    return measured if layout == layout_of(measured.marks) else measure(layout, matrix, keep), reason


def by_layer(layout: Any, weights: Sequence[str]) -> dict[str, str]:
    """The layout asked for each weight: one for all, or the first glob that meets its name; else "auto".

    Raises:
        ArgumentError: Another layout, or a glob that meets none of the weights.
    """
    if not isinstance(layout, Mapping):
        return dict.fromkeys(weights, one_of("layout", layout, ACCEPTED))
    check_globs("layout", layout)
    asked = {glob: one_of(f"layout of '{glob}'", value, ACCEPTED) for glob, value in layout.items()}
    found = group("layout", asked, dict.fromkeys(weights, ()))
    given = {name: asked[glob] for glob, names in found.members.items() for name in names}
    return {name: given.get(name, "auto") for name in weights}


def check(
    layout: str, marks: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor, rows: int, columns: int
) -> None:
    """Raises LayoutError or DTypeError unless the three tensors are a matrix of this layout and shape."""
    for name, tensor, dtypes in (
        (ARRAYS[layout][0], marks, (_FIRST[layout],)),
        ("values", values, tuple(strips.CODES)),
        ("offsets", offsets, (torch.int64,)),
    ):
        if tensor.device.type != "cpu" or tensor.dim() != 1 or not tensor.is_contiguous():
            raise LayoutError(f"packed weight: its {name} are no flat tensor on the CPU")
        if tensor.dtype not in dtypes:
            raise DTypeError(f"packed weight: its {name} are {str(tensor.dtype)[6:]}")
    _KERNELS[layout].check(strips.arrays(marks, values, offsets, rows, columns))


def live_of(marks: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor) -> int:
    """How many elements a checked matrix on the host stores."""
    return int(offsets[-1]) if layout_of(marks) == "delta" else values.numel() - strips.SLACK
