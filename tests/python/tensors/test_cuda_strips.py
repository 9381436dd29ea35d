"""The compiled CUDA forms of packed matrices from addresses, against the CPU's.

Every test runs with the CPU engine in the place of the CUDA engine, with the CUDA engine's kernels on the
emulator, and on a GPU where there is one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bittersweet import DeviceError, LayoutError, ShapeError, _core
from sparse_support import DTYPES, nasty_weight, same_bits

CODES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
SHAPES = ((1, 1), (16, 32), (35, 70), (100, 45), (40, 1100))
SLACK = _core.STRIP_SLACK


class Packed:
    """A matrix on a device, packed there."""

    def __init__(self, cuda: Any, matrix: torch.Tensor, keep: torch.Tensor | None = None) -> None:
        self.cuda, self.native, self.queue = cuda, cuda.native, cuda.queue(0)
        self.shape, self.dtype = tuple(matrix.shape), matrix.dtype
        rows, columns = self.shape
        strips = -(-rows // _core.STRIP_HEIGHT)
        there = cuda.put(matrix)
        words = strips * -(-columns // _core.STRIP_WIDTH) * _core.STRIP_HEIGHT
        self.masks = torch.full((words,), 7, dtype=torch.int32, device=there.device)
        self.offsets = torch.full((strips + 1,), 7, dtype=torch.int64, device=there.device)
        lost = torch.full((1,), 7, dtype=torch.int64, device=there.device)
        self.native.cuda_count_strips(
            self.queue, there.data_ptr(), CODES[self.dtype], rows, columns,
            0 if keep is None else keep.data_ptr(), self.masks.data_ptr(), self.offsets.data_ptr(),
            lost.data_ptr(),
        )  # fmt: skip
        self.lost, live = int(lost), int(self.offsets[-1])
        self.values = torch.zeros(live + SLACK, dtype=self.dtype, device=there.device)
        self.native.cuda_pack_strips(self.queue, there.data_ptr(), self.arrays())

    def arrays(self) -> tuple[int, ...]:
        tensors = (self.masks, self.values, self.offsets)
        flat = [word for tensor in tensors for word in (tensor.data_ptr(), tensor.numel())]
        return (*flat, CODES[self.dtype], *self.shape)

    def unpack(self, first: int, rows: int) -> torch.Tensor:
        out = torch.full((rows, self.shape[1]), 7, dtype=self.dtype, device=self.values.device)
        self.native.cuda_unpack_strips(self.queue, self.arrays(), first, rows, out.data_ptr())
        return out.cpu()

    def multiply(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        x, bias = self.cuda.put(x), None if bias is None else self.cuda.put(bias)
        y = torch.full((len(x), self.shape[0]), 7, dtype=self.dtype, device=x.device)
        address = 0 if bias is None else bias.data_ptr()
        self.native.cuda_multiply_strips(
            self.queue, self.arrays(), x.data_ptr(), len(x), address, y.data_ptr(), CODES[self.dtype]
        )
        return y.cpu()


def packed_here(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from bittersweet.sparse import SparseLinear

    layer = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, dtype=matrix.dtype)
    layer.weight.data = matrix
    packed = SparseLinear.from_linear(layer, layout="strips")
    return packed.masks, packed.values, packed.offsets


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_as_on_the_cpu_and_back(cuda: Any, shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = nasty_weight(*shape, dtype)
    there = Packed(cuda, matrix)
    masks, values, offsets = packed_here(matrix)
    assert torch.equal(there.masks.cpu(), masks)
    assert torch.equal(there.offsets.cpu(), offsets)
    assert same_bits(there.values.cpu(), values)
    assert same_bits(there.unpack(0, shape[0]), matrix)
    if shape[0] > 32:
        assert same_bits(there.unpack(16, 16), matrix[16:32])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 2, 5, 16, 18])
def test_products_have_the_bits_of_the_cpu(cuda: Any, batch: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(batch)
    matrix = torch.randn(45, 300, generator=random).to(dtype)
    matrix[torch.rand(45, 300, generator=random) < 0.6] = 0
    x, bias = torch.randn(batch, 300, generator=random).to(dtype), torch.randn(45, generator=random).to(dtype)
    masks, values, offsets = packed_here(matrix)
    there = Packed(cuda, matrix)
    for given in (None, bias):
        y = torch.empty(batch, 45, dtype=dtype)
        flat = [word for tensor in (masks, values, offsets) for word in (tensor.data_ptr(), tensor.numel())]
        _core.multiply_strips(
            (*flat, CODES[dtype], 45, 300), x.data_ptr(), batch, 0 if given is None else given.data_ptr(),
            y.data_ptr(), CODES[dtype], True,
        )  # fmt: skip
        assert same_bits(there.multiply(x, given), y)


def test_keep_bits_decide_and_what_they_lose_is_counted(cuda: Any) -> None:
    matrix = torch.zeros(20, 64)
    matrix[3, 5], matrix[17, 63], matrix[19, 0] = 1.0, -0.0, 2.0
    keep = torch.zeros(20, dtype=torch.int64)  # a row of 64 columns a word
    keep[3], keep[17] = 1 << 5 | 1 << 6, -(1 << 63)
    there = Packed(cuda, matrix, cuda.put(keep))
    assert there.lost == 1
    assert there.offsets.tolist() == [0, 2, 3]
    assert there.values[:3].tolist() == [1.0, 0.0, -0.0]


def test_what_does_not_fit_is_refused(cuda: Any) -> None:
    there = Packed(cuda, torch.ones(20, 40))
    for i, error in ((1, LayoutError), (3, LayoutError), (5, LayoutError), (7, ShapeError)):
        wrong = list(there.arrays())
        wrong[i] = -1 if error is ShapeError else 4
        with pytest.raises(error):
            there.native.cuda_unpack_strips(there.queue, tuple(wrong), 0, 20, there.values.data_ptr())
    with pytest.raises(ShapeError, match="whole strips of 16 rows"):
        there.unpack(8, 12)


def test_a_build_without_cuda_says_why() -> None:
    if _core.CUDA_BUILT:
        pytest.skip("this build has a CUDA engine")
    with pytest.raises(DeviceError, match="has no CUDA engine"):
        _core.cuda_unpack_strips((0, 0), (0, 0, 16, SLACK, 8, 1, 1, 0, 0), 0, 0, 0)
