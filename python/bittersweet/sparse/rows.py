"""A matrix in row order, as files hold it: a bit an element, the stored values, and where rows begin.

The bytes are those that compressed-tensors called sparse-bitmask: row by row ``packbits(bitorder="little")``,
the stored values in row order, and the index of each row's first one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import CheckpointError
from . import strips

LONGEST = 2**31
"""Rows or columns: more are refused, by packing too."""

PARTS = ("shape", "compressed", "bitmask", "row_offsets")


class RowMatrix(NamedTuple):
    """The four tensors of a matrix, in the order of PARTS."""

    shape: torch.Tensor
    compressed: torch.Tensor
    bitmask: torch.Tensor
    row_offsets: torch.Tensor


def to_rows(dense: torch.Tensor, keep: np.ndarray[Any, Any]) -> RowMatrix:
    """A contiguous matrix on the host, of which the elements that `keep` marks are stored."""
    keep = np.ascontiguousarray(keep)
    counts = keep.sum(axis=1, dtype=np.int64)
    return RowMatrix(
        torch.tensor(dense.shape, dtype=torch.int64),
        torch.from_numpy(_bits(dense)[keep]).view(dense.dtype),
        torch.from_numpy(np.packbits(keep, axis=1, bitorder="little")),
        torch.from_numpy(np.cumsum(counts) - counts),
    )


def kept_of(rows: RowMatrix, name: str) -> np.ndarray[Any, Any]:
    """Which elements are stored, as a bool matrix.

    Raises:
        CheckpointError: The four tensors do not fit together.
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
    every = np.unpackbits(bitmask.numpy(), axis=1, bitorder="little")
    if every[:, width:].any():
        raise CheckpointError(f"'{name}.bitmask' has bits beyond the {width} columns")
    keep = every[:, :width].view(np.bool_)
    counts = keep.sum(axis=1, dtype=np.int64)
    wrong = np.flatnonzero(np.cumsum(counts) - counts != row_offsets.numpy())
    if wrong.size:
        raise CheckpointError(f"'{name}': row_offsets and bitmask disagree from row {wrong[0]} on")
    if compressed.numel() != counts.sum():
        raise CheckpointError(
            f"'{name}.compressed' holds {compressed.numel()} values; the bitmask has {counts.sum()} bits"
        )
    return keep


def to_dense(rows: RowMatrix, keep: np.ndarray[Any, Any]) -> torch.Tensor:
    """The matrix, zeros and all; `keep` is what `kept_of` returned."""
    dense = torch.zeros(keep.shape, dtype=rows.compressed.dtype)
    _bits(dense)[keep] = _bits(rows.compressed)
    return dense


def _bits(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The elements as integers, so that no NaN is touched; shares memory."""
    found: np.ndarray[Any, Any] = tensor.view(
        torch.int16 if tensor.element_size() == 2 else torch.int32
    ).numpy()
    return found
