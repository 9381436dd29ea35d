"""A matrix as strips: three torch tensors, and the compiled functions that make, read and multiply them.

The layout is that of include/bittersweet/sparse/strip_layout.hpp: int32 masks, values in their own dtype with
32 elements behind them that may be read, int64 offsets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .. import _core
from ..errors import DTypeError, LayoutError
from ..tensors.masks import Mask

HEIGHT, WIDTH, SLACK = _core.STRIP_HEIGHT, _core.STRIP_WIDTH, _core.STRIP_SLACK
CODES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}

Arrays = tuple[int, int, int, int, int, int, int, int, int]


class Measured(NamedTuple):
    """What is known of a matrix before its values are packed."""

    masks: torch.Tensor
    offsets: torch.Tensor
    live: int
    shape: tuple[int, int]


def code_of(dtype: torch.dtype) -> int:
    """Raises DTypeError unless it is one of the three types that can be packed."""
    if dtype not in CODES:
        raise DTypeError(f"weight: dtype {str(dtype)[6:]}; accepted: float32, float16, bfloat16")
    return CODES[dtype]


def strips_of(rows: int) -> int:
    return -(-rows // HEIGHT)


def mask_words(rows: int, columns: int) -> int:
    return strips_of(rows) * -(-columns // WIDTH) * HEIGHT


def room(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """New masks and offsets, yet to be written."""
    masks = torch.empty(mask_words(rows, columns), dtype=torch.int32)
    return masks, torch.empty(strips_of(rows) + 1, dtype=torch.int64)


def room_for_values(live: int, dtype: torch.dtype) -> torch.Tensor:
    """New values, yet to be written but for the slack, which is 0."""
    values = torch.empty(live + SLACK, dtype=dtype)
    values[live:] = 0
    return values


def measure(matrix: torch.Tensor, keep: Mask | None = None) -> Measured:
    """The masks and offsets of a contiguous matrix on the host.

    Raises:
        ArgumentError: `keep` drops elements that are not +0.
    """
    rows, columns = matrix.shape
    masks, offsets = room(rows, columns)
    words = None if keep is None else keep.words
    live = _core.measure_strips(
        matrix.data_ptr(),
        code_of(matrix.dtype),
        rows,
        columns,
        0 if words is None else words.ctypes.data,
        masks.data_ptr(),
        offsets.data_ptr(),
    )
    return Measured(masks, offsets, live, (rows, columns))


def pack(matrix: torch.Tensor, measured: Measured) -> torch.Tensor:
    """The values of the matrix that was measured."""
    values = room_for_values(measured.live, matrix.dtype)
    _core.pack_strips(matrix.data_ptr(), arrays(measured.masks, values, measured.offsets, *matrix.shape))
    return values


def arrays(
    masks: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor, rows: int, columns: int
) -> Arrays:
    """What the compiled functions take; they check that the lengths fit."""
    return (
        masks.data_ptr(),
        masks.numel(),
        values.data_ptr(),
        values.numel(),
        offsets.data_ptr(),
        offsets.numel(),
        CODES.get(values.dtype, 0),
        rows,
        columns,
    )


def check(masks: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor, rows: int, columns: int) -> None:
    """Raises LayoutError or DTypeError unless masks, offsets and values agree with each other and with the
    shape."""
    for name, tensor, dtypes in (
        ("masks", masks, (torch.int32,)),
        ("values", values, tuple(CODES)),
        ("offsets", offsets, (torch.int64,)),
    ):
        if tensor.device.type != "cpu" or tensor.dim() != 1 or not tensor.is_contiguous():
            raise LayoutError(f"packed weight: its {name} are no flat tensor on the CPU")
        if tensor.dtype not in dtypes:
            raise DTypeError(f"packed weight: its {name} are {str(tensor.dtype)[6:]}")
    _core.check_strips(arrays(masks, values, offsets, rows, columns))


def packed_bytes(rows: int, columns: int, live: int, item_size: int) -> int:
    """Bytes of a packed matrix."""
    return (live + SLACK) * item_size + 4 * mask_words(rows, columns) + 8 * (strips_of(rows) + 1)
