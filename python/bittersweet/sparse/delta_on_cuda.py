"""Delta on a CUDA device: packed, unpacked and multiplied where it lies, on torch's current stream.

Sums go in the order of the contract (include/bittersweet/engine/sparse.hpp) for any number of rows: the bits
are the CPU's. Nothing waits for the device but `measure`, which reads how many steps and values there are.
"""

from __future__ import annotations

import torch

from ..tensors import devices
from ..tensors.masks import Mask
from .delta import GROUP, groups_of
from .strips import Arrays, Measured, arrays, code_of, fresh
from .strips_on_cuda import mask_there, refuse_lost


def measure(matrix: torch.Tensor, keep: Mask | None = None) -> Measured:
    """`delta.measure` for a matrix on a device; a mask that lies elsewhere is copied there.

    Raises:
        ArgumentError: `keep` drops elements that are not +0.
    """
    device, runtime = devices.runtime.index_of(matrix), devices.runtime
    rows, columns = matrix.shape
    groups = groups_of(rows, columns)
    keep = mask_there(keep, device)
    with runtime.guard(device):
        offsets, lost = fresh(groups + 2, torch.int64, device), fresh(1, torch.int64, device)
        runtime.native.cuda_count_delta(
            runtime.queue(device),
            matrix.data_ptr(),
            code_of(matrix.dtype),
            rows,
            columns,
            _address(keep),
            offsets.data_ptr(),
            0 if keep is None else lost.data_ptr(),
        )
        found = offsets[-2:] if keep is None else torch.cat((offsets[-2:], lost))
        steps, live, *dropped = (int(word) for word in runtime.fetch(found, device)())
        refuse_lost(dropped)
        codes = fresh(GROUP * (groups + steps), torch.uint8, device)
    return Measured(codes, offsets, live, (rows, columns), GROUP * steps, keep)


def pack(matrix: torch.Tensor, measured: Measured) -> torch.Tensor:
    """The values of the matrix that was measured, which must not have changed since; writes its codes too."""
    device, runtime = devices.runtime.index_of(matrix), devices.runtime
    with runtime.guard(device):
        values = fresh(measured.length, matrix.dtype, device)
        at = arrays(measured.marks, values, measured.offsets, *matrix.shape)
        keep = _address(measured.keep)
        runtime.native.cuda_pack_delta(runtime.queue(device), matrix.data_ptr(), keep, at)
    return values


def multiply(device: int, at: Arrays, x: int, batch: int, bias: int, y: int, dtype: int, _: bool) -> None:
    """y = x * transposed matrix + bias, by addresses; reproducible in any case."""
    runtime = devices.runtime
    with runtime.guard(device):
        size = runtime.native.cuda_delta_bytes(*at[-2:], batch)
        sums = fresh(size, torch.uint8, device)  # torch's allocator keeps it for the stream, or for a graph
        runtime.native.cuda_multiply_delta(
            runtime.queue(device), at, x, batch, bias, y, dtype, sums.data_ptr(), size
        )


def unpack(device: int, at: Arrays, first: int, rows: int, out: int) -> None:
    """Some rows of the dense matrix, by addresses."""
    runtime = devices.runtime
    with runtime.guard(device):
        runtime.native.cuda_unpack_delta(runtime.queue(device), at, first, rows, out)


def _address(keep: Mask | None) -> int:
    return 0 if keep is None else keep.words.data_ptr()
