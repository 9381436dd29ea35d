"""Counting exact zeros in models, state dicts and arrays, against NumPy."""

from __future__ import annotations

import json
from typing import Any

import bittersweet as bs
import ml_dtypes
import numpy as np
import pytest
import torch
from pruner_support import mlp
from torch import nn

FLOATS = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]  # fmt: skip


def test_the_zeros_of_a_model() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].weight[::3] = 0.0
        model[2].weight[0, :2] = torch.tensor([-0.0, float("nan")])
        model[0].bias.zero_()
    found = bs.sparsity(model)
    assert list(found.per_tensor) == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        row = found.per_tensor[name]
        assert row.zeros == int((parameter == 0).sum())
        assert (row.elements, row.shape, row.dtype) == (parameter.numel(), tuple(parameter.shape), "float32")
    assert found.per_tensor["2.weight"].zeros == 11 * 40 - 1
    assert found.zeros == 11 * 40 - 1 + 40
    assert found.matrices.zero == (11 * 40 - 1) / (12 * 40 + 40 * 33 + 33 * 5)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (7, 9), (3, 5, 64)], ids=str)
def test_every_type_of_number(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.randint(-2, 3, shape).float()
    values[values == 2] = float("nan")
    tensor = (values * torch.where(torch.rand(shape) < 0.5, -1.0, 1.0)).to(dtype)
    row = bs.sparsity(tensor).per_tensor["tensor"]
    fnuz = str(dtype).endswith("fnuz")  # has no -0
    expected = int((tensor.to(torch.float64 if not dtype.is_complex else dtype) == 0).sum())
    assert (row.zeros, row.elements) == (expected, values.numel())
    assert fnuz or row.zeros == int((values == 0).sum())
    assert row.zero == (expected / values.numel() if values.numel() else 0.0)


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
)
def test_numpy_arrays(dtype: Any) -> None:
    array = np.array([[0.0, -0.0, 1.0], [np.nan, 2.0, 0.0]], np.float32).astype(dtype)
    found = bs.sparsity({"w": array, "ids": np.arange(3)})
    assert found.per_tensor["w"].zeros == 3
    assert found.skipped == {"ids": "of int64"}


def test_sparse_layouts_count_what_they_leave_out() -> None:
    dense = torch.tensor([[0.0, 2.0, 0.0, -0.0], [1.0, 0.0, 0.0, 5.0]])
    for sparse in (dense.to_sparse(), dense.to_sparse_csr(), dense.to_sparse_csc()):
        assert bs.sparsity({"w": sparse}).per_tensor["w"].zeros == 5


def test_tied_weights_count_once_and_wrappers_are_seen_through() -> None:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    assert list(bs.sparsity(model).per_tensor) == ["0.weight"]
    assert list(bs.sparsity(nn.DataParallel(mlp())).per_tensor) == list(bs.sparsity(mlp()).per_tensor)


def test_what_is_no_floating_point_tensor_is_listed() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    found = bs.sparsity(model)
    assert found.skipped == {"1.num_batches_tracked": "of int64"}
    assert "not counted: 1 of int64" in str(found)
    found = bs.sparsity(
        {"w": torch.zeros(2, 2), "step": 3, "name": "x", "codes": torch.zeros(4, dtype=torch.int8)}
    )
    assert found.skipped == {"step": "int, no tensor", "name": "str, no tensor", "codes": "of int8"}


def test_a_lazy_layer_is_listed() -> None:
    found = bs.sparsity(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3)))
    assert set(found.skipped) == {"1.weight", "1.bias"}
    assert set(found.skipped.values()) == {"not initialised yet"}


def test_the_state_dict_of_a_larger_checkpoint() -> None:
    state = mlp().state_dict()
    expected = bs.sparsity(state).per_tensor
    for key in ("state_dict", "model", "model_state_dict", "module"):
        assert bs.sparsity({"epoch": 3, key: state, "optimizer": {"state": {}}}).per_tensor == expected
    with pytest.raises(bs.ArgumentError, match=r"a mapping without tensors \(keys: 'net', 'epoch'\)"):
        bs.sparsity({"net": {"inner": state}, "epoch": 3})


def test_data_and_tables() -> None:
    model = mlp()
    bs.prune_(model, sparsity=0.5)
    found = bs.sparsity(model)
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["zeros"] == found.zeros
    assert values["matrices"]["zero"] == found.matrices.zero
    assert values["per_tensor"]["2.weight"] == {
        "shape": [33, 40],
        "dtype": "float32",
        "elements": 1320,
        "zeros": found.per_tensor["2.weight"].zeros,
        "zero": found.per_tensor["2.weight"].zero,
    }
    short, long = str(found), found.table()
    assert "3 of fewer than two axes" in short
    assert "0.bias" not in short
    assert "0.bias" in long
    line = next(line for line in short.splitlines() if line.startswith("all of two or more axes"))
    assert line.split()[-3:] == [f"{found.matrices.elements:,}", f"{found.matrices.zeros:,}", "0.5003"]
    assert repr(found).startswith("ZeroCount(6 tensors, ")
    only_biases = bs.sparsity({"bias": torch.zeros(3)})
    assert "bias" in str(only_biases).splitlines()[2]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (3, bs.ArgumentError, "source: found int; accepted: a torch module, a state dict"),
        ({}, bs.ArgumentError, r"keys: none"),
        ({"a": torch.arange(3)}, bs.ArgumentError, r"no floating-point tensor \(a \(of int64\)\)"),
        (nn.Linear(2, 2, device="meta"), bs.DeviceError, "'weight' is on the meta device"),
        (
            bs.Pruner(mlp(), scorer="magnitude", schedule=bs.OneShot(0.5, 3)),
            bs.ArgumentError,
            r"its own sparsity\(\)",
        ),
    ],
    ids=["number", "empty", "integers", "meta", "pruner"],
)
def test_refusals(source: Any, error: type[bs.Error], message: str) -> None:
    with pytest.raises(error, match=message):
        bs.sparsity(source)


def test_nothing_is_changed() -> None:
    model = mlp()
    versions = [parameter._version for parameter in model.parameters()]
    bs.sparsity(model)
    assert [parameter._version for parameter in model.parameters()] == versions
