"""A matrix of few values as delta: three torch tensors, and the functions that make them on the host.

On a CUDA device `delta_on_cuda` does. The layout is that of include/bittersweet/sparse/delta_layout.hpp:
uint8 codes, values in their own dtype, int64 offsets.
"""

from __future__ import annotations

import torch

from .. import _core
from ..tensors.masks import Mask
from .strips import Measured, arrays, code_of, fresh

HEIGHT, GROUP, COLUMNS = _core.DELTA_HEIGHT, _core.DELTA_GROUP, _core.DELTA_COLUMNS


def groups_of(rows: int, columns: int) -> int:
    return -(-rows // GROUP) * -(-columns // COLUMNS)


def measure(matrix: torch.Tensor, keep: Mask | None = None) -> Measured:
    """The offsets of a contiguous matrix on the host, and room for its codes.

    Raises:
        ArgumentError: `keep` drops elements that are not +0.
    """
    rows, columns = matrix.shape
    groups = groups_of(rows, columns)
    offsets = fresh(groups + 2, torch.int64)
    steps, live = _core.measure_delta(
        matrix.data_ptr(), code_of(matrix.dtype), rows, columns, _words(keep), offsets.data_ptr()
    )
    codes = fresh(GROUP * (groups + steps), torch.uint8)
    return Measured(codes, offsets, live, (rows, columns), GROUP * steps, keep)


def pack(matrix: torch.Tensor, measured: Measured) -> torch.Tensor:
    """The values of the matrix that was measured; writes its codes too.

    Raises:
        ArgumentError: The matrix has changed since.
    """
    values = fresh(measured.length, matrix.dtype)
    at = arrays(measured.marks, values, measured.offsets, *matrix.shape)
    _core.pack_delta(matrix.data_ptr(), _words(measured.keep), at)
    return values


# From here on delta is no larger than strips, and faster. (Of the run in docs/sparse.md, AMD EPYC, Zen 4,
# 2026-11-29: bfloat16, one row, two threads, 1.2, 1.4 and 2.0 times as fast at 70, 80 and 90 % zeros, with
# 1.29, 1.21 and 1.00 times the bytes. By hand on the same machine: float32, one thread, level at 82 % for one
# row, 87 for four, 90 for sixteen; AVX2 code, bfloat16, at 70 % for one row, 90 for eight.)
LEAST = 0.895
# With a matrix unit a row of x costs strips nothing more, and delta 0.12 ns a value: what strips take for
# a weight, 0.05 ns, is spent at this density times rows (an estimate from the same figures).
_UNIT_WEIGHTS = 0.4
# Where the tiles that are unpacked for torch's dense product have caught up, in bfloat16 and milliseconds
# as above, by batches of 16, 32 and 128 rows: a row costs delta 0.024 and 0.72 times the density, and the
# dense product 0.086, which has 1.7 to unpack first. So up to a density of 0.085 they never do; nor in the
# other types up to 0.25, whose dense rows take 0.15 and more. With a matrix unit the dense product takes
# 1.7 for any few rows: an estimate.
_ROW, _ROW_OF_VALUES, _DENSE_ROW, _UNPACK, _DENSE_OF_UNIT = 0.024, 0.72, 0.086, 1.7, 2.0
# Other types: denser matrices, which auto never takes, are not measured.
_SPARSE, _FEW_ROWS = 0.25, 16


def least_sparsity(dtype: torch.dtype, batch: int, reproducible: bool) -> float:
    """The share of zeros from which on delta is the better layout for products with `batch` rows."""
    if dtype == torch.bfloat16 and not reproducible and has_matrix_unit() and batch > 1:
        return max(LEAST, 1.0 - _UNIT_WEIGHTS / batch)
    return LEAST


def batch_limit(dtype: torch.dtype, density: float) -> int | None:
    """The largest batch that is multiplied in packed form, where that is faster; None: every one."""
    if dtype != torch.bfloat16 or density == 0.0:
        return None if density <= _SPARSE else _FEW_ROWS
    if has_matrix_unit():
        return int(_DENSE_OF_UNIT / density)
    more = _ROW + _ROW_OF_VALUES * density - _DENSE_ROW  # than a dense row
    return int(_UNPACK / more) if more > 0 else None


def has_matrix_unit() -> bool:
    """Whether bfloat16 goes through AMX here, that of strips and of torch."""
    return _core.strips_isa() == "amx"


def _words(keep: Mask | None) -> int:
    return 0 if keep is None else keep.words.ctypes.data
