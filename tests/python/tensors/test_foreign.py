"""Arrays of other libraries on a CUDA device, as CuPy's and Numba's: taken through torch, without a copy."""

from __future__ import annotations

import sys
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch


class Dlpack:
    """DLPack alone."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.shape = tensor, tuple(tensor.shape)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)


class Interface:
    """The CUDA array interface alone, as Numba's."""

    read_only = False

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.shape = tensor, tuple(tensor.shape)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        kind = {torch.bool: "|b1", torch.float32: "<f4"}[self.tensor.dtype]
        data = (self.tensor.data_ptr(), self.read_only)
        return {"shape": self.shape, "typestr": kind, "data": data, "strides": None, "version": 3}


class Both(Dlpack, Interface):
    """As CuPy's."""


class ReadOnly(Both):
    """As JAX's."""

    read_only = True


class Other(Both):
    def __dlpack_device__(self) -> tuple[int, int]:
        return 8, 0


@pytest.mark.parametrize("kind", [Dlpack, Interface, Both])
def test_they_are_read_and_written_where_they_are(cuda: Any, kind: Any) -> None:
    start = torch.randn(37, 23, generator=torch.Generator().manual_seed(0))
    keep = torch.rand(37, 23, generator=torch.Generator().manual_seed(1)) < 0.9
    with cuda.on_cpu():
        expected = bs.make_masks(bs.ScoreInputs(start, mask=keep), sparsity=0.6, scorer="magnitude")
        scores, value = bs.score(start, "magnitude"), bs.kth_value(start, 100)
    weight = cuda.put(start)
    item: Any = bs.ScoreInputs(kind(weight), mask=kind(cuda.put(keep)))
    masks = bs.make_masks(item, sparsity=0.6, scorer="magnitude")
    assert isinstance(masks[0].bool(), torch.Tensor) and masks[0].bool().device == weight.device
    assert torch.equal(masks[0].bool().cpu(), expected[0].bool())
    assert torch.equal(bs.score(item.weight, "magnitude").cpu(), scores)
    assert torch.equal(bs.kth_value(item.weight, 100).cpu(), value)
    assert torch.equal(weight.cpu(), start)
    bs.prune_(item, sparsity=0.6, scorer="magnitude")
    assert torch.equal(weight.cpu(), torch.where(expected[0].bool(), start, 0.0))


def test_what_they_may_not_be_is_refused(cuda: Any) -> None:
    weight = cuda.put(torch.ones(8, 4))
    frozen: Any = ReadOnly(weight)
    assert bs.make_masks(bs.ScoreInputs(frozen), sparsity=0.5, scorer="magnitude").sparsity() == 0.5
    with pytest.raises(bs.LayoutError, match="weight of 'tensor0' is read-only"):
        bs.prune_(bs.ScoreInputs(frozen), sparsity=0.5, scorer="magnitude")
    mixed = bs.ScoreInputs(Both(weight), exp_avg_sq=np.ones((8, 4), np.float32))
    with pytest.raises(bs.DeviceError, match="a numpy array and weight of 'tensor0' a torch one"):
        bs.make_masks(mixed, sparsity=0.5)
    with pytest.raises(bs.DeviceError, match=r"on DLPack device type 8.*accepted: arrays on the CPU or, in"):
        bs.score(Other(weight), "magnitude")  # type: ignore[type-var]
    with pytest.raises(bs.DTypeError, match="float64"):
        bs.kth_value(Dlpack(weight.double()), 1)  # type: ignore[type-var]
    assert bool((weight == 1).all())


def test_a_copy_or_nothing_at_all_is_said(host_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    array: Any = Interface(torch.ones(4))
    monkeypatch.setattr(host_cuda, "adopt", lambda value: value.tensor.clone())
    with pytest.raises(bs.DeviceError, match=r"weight of 'tensor' is a Interface on a CUDA device, .*a copy"):
        bs.score(array, "magnitude")
    monkeypatch.setattr(host_cuda, "adopt", lambda value: value.nothing)
    with pytest.raises(bs.DeviceError, match=r"which torch cannot take .*'nothing'"):
        bs.score(array, "magnitude")
    monkeypatch.setitem(sys.modules, "torch", None)  # type: ignore[arg-type]
    with pytest.raises(bs.DeviceError, match=r"reached through torch, and that cannot be imported. Install"):
        bs.score(array, "magnitude")
