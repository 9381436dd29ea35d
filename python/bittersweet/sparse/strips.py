"""A matrix as strips: three torch tensors, and the compiled functions that make them on the host.

On a CUDA device `strips_on_cuda` does. The layout is that of include/bittersweet/sparse/strip_layout.hpp:
int32 masks, values in their own dtype with 32 elements behind them that may be read, int64 offsets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .. import _core
from ..errors import DTypeError
from ..tensors import devices
from ..tensors.devices import HOST
from ..tensors.masks import Mask

HEIGHT, WIDTH, SLACK = _core.STRIP_HEIGHT, _core.STRIP_WIDTH, _core.STRIP_SLACK
CODES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}

Arrays = tuple[int, int, int, int, int, int, int, int, int]


class Measured(NamedTuple):
    """What is known of a matrix before its values are packed.

    Attributes:
        marks: Which elements are stored: masks of strips; codes of delta, which packing fills.
        offsets: Where the parts of the layout begin.
        live: How many elements are stored.
        shape: Rows and columns.
        length: Of the tensor of values.
        keep: The mask that was measured with, where packing needs it again.
    """

    marks: torch.Tensor
    offsets: torch.Tensor
    live: int
    shape: tuple[int, int]
    length: int
    keep: Mask | None = None

    @property
    def sparsity(self) -> float:
        """Share of the elements that are not stored; 0.0 without elements."""
        elements = self.shape[0] * self.shape[1]
        return 1.0 - self.live / elements if elements else 0.0

    def nbytes(self, item_size: int) -> int:
        """Bytes of the packed matrix."""
        return self.marks.nbytes + self.offsets.nbytes + self.length * item_size


def code_of(dtype: torch.dtype) -> int:
    """Raises DTypeError unless it is one of the three types that can be packed."""
    if dtype not in CODES:
        raise DTypeError(f"weight: dtype {str(dtype)[6:]}; accepted: float32, float16, bfloat16")
    return CODES[dtype]


def strips_of(rows: int) -> int:
    return -(-rows // HEIGHT)


def mask_words(rows: int, columns: int) -> int:
    return strips_of(rows) * -(-columns // WIDTH) * HEIGHT


def fresh(length: int, dtype: torch.dtype, device: int = HOST) -> torch.Tensor:
    """Memory of a packed weight, yet to be written; made in inference mode, too, it may serve gradients."""
    place = torch.device("cpu") if device == HOST else devices.runtime.place(device)
    with torch.inference_mode(False):
        return torch.empty(length, dtype=dtype, device=place)


def room(rows: int, columns: int, device: int = HOST) -> tuple[torch.Tensor, torch.Tensor]:
    """New masks and offsets, yet to be written."""
    masks = fresh(mask_words(rows, columns), torch.int32, device)
    return masks, fresh(strips_of(rows) + 1, torch.int64, device)


def room_for_values(live: int, dtype: torch.dtype, device: int = HOST) -> torch.Tensor:
    """New values, yet to be written but for the slack, which is 0."""
    values = fresh(live + SLACK, dtype, device)
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
    return Measured(masks, offsets, live, (rows, columns), live + SLACK)


def pack(matrix: torch.Tensor, measured: Measured) -> torch.Tensor:
    """The values of the matrix that was measured."""
    values = room_for_values(measured.live, matrix.dtype)
    _core.pack_strips(matrix.data_ptr(), arrays(measured.marks, values, measured.offsets, *matrix.shape))
    return values


def arrays(
    marks: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor, rows: int, columns: int
) -> Arrays:
    """What the compiled functions take, of either layout; they check that the lengths fit."""
    return (
        marks.data_ptr(),
        marks.numel(),
        values.data_ptr(),
        values.numel(),
        offsets.data_ptr(),
        offsets.numel(),
        CODES.get(values.dtype, 0),
        rows,
        columns,
    )
