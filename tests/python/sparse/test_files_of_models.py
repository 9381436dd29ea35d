"""Compressed files of layers with two names or none, and of tensors that share memory."""

from __future__ import annotations

from pathlib import Path

import bittersweet as bs
import pytest
import torch
from bittersweet import sparse
from sparse_support import model_of, same_bits, sparse_linear
from torch import nn


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", ["strips", "delta"])
def test_a_layer_with_two_names(layout: str, packed: bool, tmp_path: Path) -> None:
    layer, other = sparse_linear(64, 64), sparse_linear(64, 64, sparsity=0.9)
    source, target = nn.Sequential(layer, nn.ReLU(), layer), nn.Sequential(other, nn.ReLU(), other)
    weight = layer.weight.detach().clone()
    sparse.pack_(source, layout=layout)
    sparse.save_compressed(source, tmp_path / "f")
    found = sparse.load_compressed(tmp_path / "f")
    assert found.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert same_bits(found["0.weight"], weight) and same_bits(found["2.weight"], weight)
    if packed:
        sparse.pack_(target)
    report = sparse.load_compressed(tmp_path / "f", target, layout=layout)
    assert report.packed == ["0"]
    assert target[0] is target[2]
    assert target[0].layout == layout
    assert same_bits(target[0].to_dense(), weight)


def test_a_layer_by_itself(tmp_path: Path) -> None:
    dense = sparse_linear(70, 45)
    source, target = (
        sparse.SparseLinear.from_linear(layer) for layer in (dense, sparse_linear(70, 45, sparsity=0.2))
    )
    sparse.save_compressed(source, tmp_path / "f")
    assert sparse.load_compressed(tmp_path / "f").keys() == {"weight", "bias"}
    report = sparse.load_compressed(tmp_path / "f", target)
    assert report.packed == ["weight"]
    assert same_bits(target.to_dense(), dense.weight.detach())
    sparse.save_compressed({"weight": torch.ones(45, 70), "bias": torch.zeros(45)}, tmp_path / "f")
    sparse.load_compressed(tmp_path / "f", target)
    assert torch.equal(target.to_dense(), torch.ones(45, 70))


def test_tensors_that_share_memory_are_stored_apart(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    state = {"whole": whole, "flat": whole.view(-1), "bits": whole.view(torch.int32), "turned": whole.t()}
    sparse.save_compressed(state, tmp_path / "f")
    found = sparse.load_compressed(tmp_path / "f")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_a_matrix_without_elements_has_no_zeros(tmp_path: Path) -> None:
    layer = nn.Linear(1, 5)
    layer.in_features, layer.weight = 0, nn.Parameter(torch.zeros(5, 0))
    report = sparse.save_compressed(model_of(sparse.SparseLinear.from_linear(layer)), tmp_path / "f")
    assert [row.sparsity for row in report.layers] == [0.0]


@pytest.mark.parametrize("options", [{"layout": "delta"}, {"batch": 2}])
def test_layouts_need_a_model(options: dict[str, object], tmp_path: Path) -> None:
    sparse.save_compressed({"w": torch.zeros(8, 8)}, tmp_path / "f")
    with pytest.raises(bs.ArgumentError, match="no model is given"):
        sparse.load_compressed(tmp_path / "f", **options)  # type: ignore[call-overload]
