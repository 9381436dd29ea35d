"""A matrix in row order, as files hold it: a bit an element, the stored values, and where rows begin.

The bytes are those that compressed-tensors called sparse-bitmask: row by row ``packbits(bitorder="little")``,
the stored values in row order, and the index of each row's first one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .. import _core
from ..errors import CheckpointError, Error
from . import ops, strips

LONGEST = 2**31
"""Rows or columns: more are refused, by packing too."""

PARTS = ("shape", "compressed", "bitmask", "row_offsets")


class RowMatrix(NamedTuple):
    """The four tensors of a matrix, in the order of PARTS."""

    shape: torch.Tensor
    compressed: torch.Tensor
    bitmask: torch.Tensor
    row_offsets: torch.Tensor


def to_rows(
    masks: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor, rows: int, columns: int
) -> RowMatrix:
    """The matrix of these strips."""
    made = RowMatrix(
        torch.tensor((rows, columns), dtype=torch.int64, device="cpu"),
        torch.empty(values.numel() - strips.SLACK, dtype=values.dtype, device="cpu"),
        torch.empty((rows, -(-columns // 8)), dtype=torch.uint8, device="cpu"),
        torch.empty(rows, dtype=torch.int64, device="cpu"),
    )
    _core.strips_to_rows(strips.arrays(masks, values, offsets, rows, columns), _arrays(made))
    return made


def to_strips(rows: RowMatrix) -> tuple[strips.Measured, torch.Tensor]:
    """The strips of a matrix that `shape_of` has checked, and their values."""
    (height, width), live = rows.shape.tolist(), rows.compressed.numel()
    measured = strips.Measured(*strips.room(height, width), live, (height, width), live + strips.SLACK)
    values = strips.room_for_values(live, rows.compressed.dtype)
    _core.strips_from_rows(
        _arrays(rows), measured.marks.data_ptr(), measured.offsets.data_ptr(), values.data_ptr()
    )
    return measured, values


def to_dense(rows: RowMatrix) -> torch.Tensor:
    """The matrix, zeros and all."""
    measured, values = to_strips(rows)
    return ops.unpack_strips(measured.marks, values, measured.offsets, *measured.shape)


def dense_and_kept(measured: strips.Measured, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix of these strips, zeros and all, and which of its elements are stored, be they 0."""
    dense, kept = (
        ops.unpack_strips(measured.marks, array, measured.offsets, *measured.shape)
        for array in (values, torch.ones_like(values))
    )
    return dense, kept != 0


def shape_of(rows: RowMatrix, name: str) -> tuple[int, int]:
    """The shape of a matrix, and whether its four tensors fit together.

    Raises:
        CheckpointError: They do not.
    """
    shape, compressed, bitmask, row_offsets = rows
    lengths = shape.tolist() if shape.dtype == torch.int64 and shape.shape == (2,) else []
    if not lengths or not all(0 <= length <= LONGEST for length in lengths):
        raise CheckpointError(f"'{name}.shape' is no pair of lengths from 0 to {LONGEST}")
    height, width = lengths
    for part, found, expected in (
        ("bitmask", (bitmask.dtype, tuple(bitmask.shape)), (torch.uint8, (height, -(-width // 8)))),
        ("row_offsets", (row_offsets.dtype, tuple(row_offsets.shape)), (torch.int64, (height,))),
    ):
        if found != expected:
            raise CheckpointError(
                f"'{name}.{part}': found {found[0]} of shape {found[1]}; a matrix of {height} x {width} "
                f"needs {expected[0]} of shape {expected[1]}"
            )
    if compressed.dtype not in strips.CODES or compressed.dim() != 1:
        raise CheckpointError(
            f"'{name}.compressed': {compressed.dtype} of shape {tuple(compressed.shape)}; accepted: one axis "
            "of float32, float16 or bfloat16"
        )
    try:
        _core.check_rows(_arrays(rows))
    except Error as error:
        raise CheckpointError(f"'{name}': {error}") from None
    return height, width


def _arrays(rows: RowMatrix) -> tuple[int, int, int, int, int, int, int]:
    """What the compiled functions take."""
    shape, compressed, bitmask, row_offsets = rows
    return (
        bitmask.data_ptr(),
        row_offsets.data_ptr(),
        compressed.data_ptr(),
        compressed.numel(),
        strips.CODES[compressed.dtype],
        *shape.tolist(),
    )
