"""The layouts of a packed matrix behind one set of functions, and the choice between them.

A matrix is three tensors on the CPU or a CUDA device. The first tells its layout: int32 masks of strips,
uint8 codes of delta.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .. import _core
from ..errors import DeviceError, DTypeError, LayoutError
from ..options.budgets import check_globs, group
from ..options.values import one_of
from ..tensors import devices
from ..tensors.devices import HOST
from ..tensors.masks import Mask
from . import delta, delta_on_cuda, strips, strips_on_cuda
from .strips import Arrays, Measured

LAYOUTS = ("strips", "delta")
ACCEPTED = ("auto", *LAYOUTS)
ARRAYS = {"strips": ("masks", "values", "offsets"), "delta": ("codes", "values", "offsets")}
"""The names of the three tensors in a state dict."""

_FIRST = {"strips": torch.int32, "delta": torch.uint8}


class Kernels(NamedTuple):
    """The compiled functions of a layout; tiles of the matrix are whole multiples of `height` rows, and take
    up to `tile_bytes`."""

    height: int
    multiply: Callable[..., None]
    unpack: Callable[[Arrays, int, int, int], None]
    tile_bytes: int


_CACHED_BYTES = 4 << 20
_KERNELS = {
    "strips": Kernels(strips.HEIGHT, _core.multiply_strips, _core.unpack_strips, _CACHED_BYTES),
    "delta": Kernels(delta.HEIGHT, _core.multiply_delta, _core.unpack_delta, _CACHED_BYTES),
}
_THERE: dict[str, Any] = {"strips": strips_on_cuda, "delta": delta_on_cuda}
_CHECKS = {"strips": _core.check_strips, "delta": _core.check_delta}


def layout_of(marks: torch.Tensor) -> str:
    """The layout of the matrix whose first tensor this is."""
    return "delta" if marks.dtype == torch.uint8 else "strips"


def kernels(marks: torch.Tensor) -> Kernels:
    """The compiled functions for the matrix whose first tensor this is.

    Raises:
        DeviceError: It is on a CUDA device, and this build has no engine for it.
    """
    if (device := devices.runtime.index_of(marks)) == HOST:
        return _KERNELS[layout_of(marks)]
    require_place(marks)
    return _on_cuda(layout_of(marks), device)


@functools.cache
def _on_cuda(layout: str, device: int) -> Kernels:
    there = _THERE[layout]
    multiply, unpack = (functools.partial(function, device) for function in (there.multiply, there.unpack))
    return Kernels(_KERNELS[layout].height, multiply, unpack, strips_on_cuda.TILE_BYTES)


def why_not_there(place: torch.device, device: int) -> str:
    """Why no layout lives there (`device` is the runtime's number of it); empty if one does."""
    if device != HOST:
        return f"{place}: {why}" if (why := devices.refusal()) is not None else ""
    return "" if place.type == "cpu" else f"{place}, neither the CPU nor a CUDA device"


def require_place(tensor: torch.Tensor) -> None:
    """Raises DeviceError unless a packed matrix can be where `tensor` is."""
    device = devices.runtime.index_of(tensor)
    if why := "" if tensor.is_meta else why_not_there(tensor.device, device):
        raise DeviceError(f"packed layer on {why}. Or unpack_(model) before it is moved there")


def measure(layout: str, matrix: torch.Tensor, keep: Mask | None = None) -> Measured:
    """What packing a contiguous matrix as "strips" or "delta", where it is, will take.

    Raises:
        ArgumentError: `keep` drops elements that are not +0.
    """
    if devices.runtime.index_of(matrix) != HOST:
        there: Measured = _THERE[layout].measure(matrix, keep)
        return there
    keep = None if keep is None else keep.to(HOST)
    return delta.measure(matrix, keep) if layout == "delta" else strips.measure(matrix, keep)


def pack(matrix: torch.Tensor, measured: Measured) -> torch.Tensor:
    """The values of the matrix that was measured."""
    layout = layout_of(measured.marks)
    if devices.runtime.index_of(matrix) != HOST:
        values: torch.Tensor = _THERE[layout].pack(matrix, measured)
        return values
    return delta.pack(matrix, measured) if layout == "delta" else strips.pack(matrix, measured)


def moved(measured: Measured, values: torch.Tensor, like: torch.Tensor) -> tuple[Measured, torch.Tensor]:
    """A packed matrix where `like` is."""
    with torch.inference_mode(False):
        there = measured._replace(
            marks=measured.marks.to(like.device), offsets=measured.offsets.to(like.device)
        )
        return there, values.to(like.device)


def auto(sparsity: float, dtype: torch.dtype, batch: int, reproducible: bool) -> tuple[str, str]:
    """The better layout for products with `batch` rows, and why."""
    least = delta.least_sparsity(dtype, batch, reproducible)
    layout = "delta" if sparsity >= least else "strips"
    rows = "1 row" if batch == 1 else f"{batch} rows"
    return layout, f"{layout}, for {str(dtype)[6:]} and {rows}: delta is the better from {least:.0%} zeros on"


def decide(
    asked: str, sparsity: float, matrix: torch.Tensor, batch: int, reproducible: bool
) -> tuple[str, str]:
    """The layout that was asked for, or that of `auto`, for a matrix like this one, and why that one."""
    if asked != "auto":
        return asked, f"{asked}, as asked"
    if devices.runtime.index_of(matrix) != HOST:
        layout = "delta" if sparsity >= delta.LEAST else "strips"
        return layout, f"{layout}, as the CPU does for 1 row: delta from {delta.LEAST:.0%} zeros on"
    return auto(sparsity, matrix.dtype, batch, reproducible)


def choose(
    asked: str, matrix: torch.Tensor, keep: Mask | None, batch: int, reproducible: bool
) -> tuple[Measured, str]:
    """A matrix measured in the layout that `decide` says, and why in that."""
    measured = measure("delta" if asked == "delta" else "strips", matrix, keep)
    layout, reason = decide(asked, measured.sparsity, matrix, batch, reproducible)
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
        if tensor.device.type not in ("cpu", "cuda") or tensor.dim() != 1 or not tensor.is_contiguous():
            raise LayoutError(f"packed weight: its {name} are no flat tensor on the CPU or a CUDA device")
        if tensor.dtype not in dtypes:
            raise DTypeError(f"packed weight: its {name} are {str(tensor.dtype)[6:]}")
    # Values are not looked at: any bits are some.
    here, places = marks.cpu(), offsets.cpu()  # an address keeps no tensor alive
    _CHECKS[layout](strips.arrays(here, values, places, rows, columns))


def live_of(marks: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor) -> int:
    """How many elements a checked matrix stores; waits for a device."""
    return int(offsets[-1]) if layout_of(marks) == "delta" else values.numel() - strips.SLACK
