"""Strips on a CUDA device: packed, unpacked and multiplied where they lie, on torch's current stream.

Sums go in the order of the contract (include/bittersweet/engine/sparse.hpp) for any number of rows: the bits
are the CPU's. Nothing waits for the device but `measure`, which reads how many values there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import ArgumentError
from ..tensors import devices
from ..tensors.masks import Mask
from .strips import SLACK, Arrays, Measured, arrays, code_of, fresh, room, room_for_values

BATCH_LIMIT = 16
"""Rows of x that one launch multiplies; for more, the packed weight would be read once more for each 16."""

TILE_BYTES = 64 << 20
"""Of the dense tiles of the weight that more rows than these meet, for the time of a product."""


def measure(matrix: torch.Tensor, keep: Mask | None = None) -> Measured:
    """`strips.measure` for a matrix on a device; a mask that lies elsewhere is copied there.

    Raises:
        ArgumentError: `keep` drops elements that are not +0.
    """
    device, runtime = devices.runtime.index_of(matrix), devices.runtime
    rows, columns = matrix.shape
    keep = mask_there(keep, device)
    words: torch.Tensor | None = None if keep is None else keep.words
    with runtime.guard(device):
        masks, offsets = room(rows, columns, device)
        lost = fresh(1, torch.int64, device)
        runtime.native.cuda_count_strips(
            runtime.queue(device),
            matrix.data_ptr(),
            code_of(matrix.dtype),
            rows,
            columns,
            0 if words is None else words.data_ptr(),
            masks.data_ptr(),
            offsets.data_ptr(),
            0 if words is None else lost.data_ptr(),
        )
        found = offsets[-1:] if words is None else torch.cat((offsets[-1:], lost))
        live, *dropped = (int(word) for word in runtime.fetch(found, device)())
    refuse_lost(dropped)
    return Measured(masks, offsets, live, (rows, columns), live + SLACK)


def pack(matrix: torch.Tensor, measured: Measured) -> torch.Tensor:
    """The values of the matrix that was measured."""
    device, runtime = devices.runtime.index_of(matrix), devices.runtime
    with runtime.guard(device):
        values = room_for_values(measured.live, matrix.dtype, device)
        at = arrays(measured.marks, values, measured.offsets, *matrix.shape)
        runtime.native.cuda_pack_strips(runtime.queue(device), matrix.data_ptr(), at)
    return values


def multiply(device: int, at: Arrays, x: int, batch: int, bias: int, y: int, dtype: int, _: bool) -> None:
    """y = x * transposed matrix + bias, by addresses; reproducible in any case."""
    runtime = devices.runtime
    with runtime.guard(device):
        runtime.native.cuda_multiply_strips(runtime.queue(device), at, x, batch, bias, y, dtype)


def unpack(device: int, at: Arrays, first: int, rows: int, out: int) -> None:
    """Some rows of the dense matrix, by addresses."""
    runtime = devices.runtime
    with runtime.guard(device):
        runtime.native.cuda_unpack_strips(runtime.queue(device), at, first, rows, out)


def mask_there(keep: Mask | None, device: int) -> Mask | None:
    """The mask on a device, for the current stream."""
    if keep is None:
        return None
    there = keep.to(device)
    there.require_on(device, keep.name, devices.stream_of(device))
    return there


def refuse_lost(dropped: Sequence[int]) -> None:
    """Raises ArgumentError for the number, if one was asked for, of elements that packing would lose."""
    if any(dropped):
        raise ArgumentError(
            f"keep: {dropped[0]} elements that it drops are not +0, and packing would lose them; write the "
            "zeros first (apply_masks_), or pack without masks"
        )
