"""`pack_` and `unpack_`: what is packed, what is left with which reason, and that nothing is lost."""

from __future__ import annotations

import copy
import sys
import types
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import sparse
from sparse_support import DTYPES, Conv1D, model_of, nasty_weight, same_bits, sparse_linear
from torch import nn
from torch.nn.utils import parametrize, prune

SHAPES = ((1, 1), (33, 1), (1, 33), (32, 16), (70, 45), (64, 200))


@pytest.fixture
def conv1d(monkeypatch: pytest.MonkeyPatch) -> type[Conv1D]:
    module = types.ModuleType("transformers.pytorch_utils")
    module.Conv1D = Conv1D  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", module)
    return Conv1D


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_comes_back_bit_for_bit(shape: tuple[int, int], dtype: torch.dtype) -> None:
    layer = sparse_linear(*shape, dtype=dtype)
    layer.weight.data = nasty_weight(shape[1], shape[0], dtype)
    layer.weight.requires_grad_(False)
    model = model_of(layer)
    sparse.pack_(model, min_sparsity=0.0)
    assert isinstance(model[0], sparse.SparseLinear)
    assert sparse.unpack_(model) == ["0"]
    assert type(model[0]) is nn.Linear
    assert same_bits(model[0].weight, layer.weight)
    assert model[0].bias is layer.bias
    assert not model[0].weight.requires_grad
    assert (model[0].in_features, model[0].out_features) == shape


@pytest.mark.parametrize("layout", ["strips", "delta"])
def test_torchs_default_device_is_not_where_a_weight_is_packed(layout: str) -> None:
    model = model_of(sparse_linear(64, 48))
    dense = copy.deepcopy(model)
    x = torch.randn(3, 64)
    with torch.device("meta"):
        sparse.pack_(model, layout=layout)
        found = model(x)
    torch.testing.assert_close(found, dense(x))
    assert sparse.unpack_(model) == ["0"] and same_bits(model[0].weight, dense[0].weight)


@pytest.mark.parametrize("layout", ["strips", "delta"])
def test_a_layer_packed_in_inference_mode_hands_gradients_on(layout: str) -> None:
    model = model_of(sparse_linear(64, 48))
    dense = copy.deepcopy(model)
    with torch.inference_mode():
        sparse.pack_(model, layout=layout)
    x = torch.randn(2, 64, requires_grad=True)
    found, expected = (torch.autograd.grad(layer(x).sum(), x)[0] for layer in (model, dense))
    torch.testing.assert_close(found, expected)


def test_the_report_says_what_was_done() -> None:
    model = model_of(sparse_linear(64, 64), sparse_linear(64, 48, sparsity=0.02), nn.GELU())
    report = sparse.pack_(model)
    assert report.packed == ["0"]
    assert "below 0.1" in report.left["1"]
    row = report.layers[0]
    assert (row.shape, row.dtype, row.layout) == ((64, 64), "float32", "strips")
    assert row.sparsity == pytest.approx(1 - model[0].live / 64**2)
    assert row.bytes == model[0].nbytes == sum(x.nbytes for x in model[0].buffers())
    assert report.dense_bytes == 4 * (64 * 64 + 64 * 48)
    assert report.bytes == row.bytes + 4 * 64 * 48
    text = str(report)
    assert "1: left dense" in text
    assert report.to_dict()["layers"][0]["shape"] == [64, 64]
    assert "1 of 2 layers packed" in repr(report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_are_as_promised(dtype: torch.dtype) -> None:
    model = model_of(sparse_linear(1024, 512, dtype, sparsity=0.5))
    row = sparse.pack_(model).layers[0]
    share = model[0].density
    assert row.bytes / (1024 * 512) <= share * dtype.itemsize + 0.125 + 0.002


def test_masks_decide_and_kept_zeros_are_stored() -> None:
    model = model_of(sparse_linear(70, 40))
    keep = model[0].weight.detach() != 0
    keep[3, :] = True
    before = model[0].weight.detach().clone()
    sparse.pack_(model, masks={"0.weight": keep})
    assert model[0].live == int(keep.sum())
    assert same_bits(model[0].to_dense(), before)


def test_masks_of_a_pruner() -> None:
    model = model_of(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.OneShot(0.7, 1))
    pruner.step()
    before = copy.deepcopy(model)
    report = sparse.pack_(model, pruner.masks)
    assert report.packed == ["0", "2"]
    for name in ("0", "2"):
        assert same_bits(getattr(model, name).to_dense(), getattr(before, name).weight)


def test_a_mask_that_would_lose_weights_is_refused_and_nothing_changes() -> None:
    model = model_of(sparse_linear(32, 32), sparse_linear(40, 32))
    keep = model[1].weight.detach() != 0
    lost = keep.nonzero()[7]
    keep[tuple(lost)] = False
    before = list(model)
    with pytest.raises(bs.ArgumentError, match=r"'1\.weight'.*1 elements that it drops are not \+0"):
        sparse.pack_(model, masks={"1.weight": keep})
    assert list(model) == before


@pytest.mark.parametrize(
    ("masks", "error"),
    [
        ({"5.weight": torch.ones(32, 32, dtype=torch.bool)}, bs.ArgumentError),
        ({"0.weight": torch.ones(32, 31, dtype=torch.bool)}, bs.ShapeError),
        ([1], bs.ArgumentError),
    ],
)
def test_wrong_masks(masks: Any, error: type[Exception]) -> None:
    model = model_of(sparse_linear(32, 32))
    with pytest.raises(error):
        sparse.pack_(model, masks=masks)
    assert type(model[0]) is nn.Linear


def test_conv1d_is_packed_and_comes_back(conv1d: type[Conv1D]) -> None:
    layer = conv1d(48, 70)
    layer.weight.data = sparse_linear(48, 70).weight.detach()
    layer.bias.data = torch.randn(48)
    dense = copy.deepcopy(layer)
    model = model_of(layer)
    keep = layer.weight.detach() != 0
    keep[2, 3] = True
    report = sparse.pack_(model, {"0.weight": keep})
    assert report.layers[0].shape == (48, 70)
    assert model[0].live == int(keep.sum())
    x = torch.randn(2, 5, 70)
    with torch.no_grad():
        torch.testing.assert_close(model(x), dense(x))
    sparse.unpack_(model)
    assert type(model[0]) is conv1d
    assert (model[0].nf, model[0].nx) == (48, 70)
    assert same_bits(model[0].weight, dense.weight)
    with torch.no_grad():
        assert torch.equal(model(x), dense(x))


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


def _parametrized(layer: nn.Linear) -> None:
    parametrize.register_parametrization(layer, "weight", Doubled())


def _masked(layer: nn.Linear) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)


def _hooked(layer: nn.Linear) -> None:
    layer.register_forward_hook(lambda *_: None)


def _pre_hooked(layer: nn.Linear) -> None:
    layer.register_forward_pre_hook(lambda *_: None)


def _backward_hooked(layer: nn.Linear) -> None:
    layer.register_full_backward_hook(lambda *_: None)


def _in_double(layer: nn.Linear) -> None:
    layer.double()


def _on_meta(layer: nn.Linear) -> None:
    layer.to("meta")


def _other_bias(layer: nn.Linear) -> None:
    layer.bias = nn.Parameter(torch.zeros(32, dtype=torch.bfloat16))


def _subclass(layer: nn.Linear) -> None:
    layer.__class__ = type("Special", (nn.Linear,), {})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_parametrized, "parametrized"),
        (_masked, "no parameter"),
        (_hooked, "hooks"),
        (_pre_hooked, "hooks"),
        (_backward_hooked, "hooks"),
        (_in_double, "float64"),
        (_on_meta, "on meta"),
        (_other_bias, "bias is bfloat16"),
        (_subclass, "a Special may do more"),
    ],
)
def test_layers_that_cannot_be_packed_are_named(change: Any, reason: str) -> None:
    model = model_of(sparse_linear(32, 32), sparse_linear(32, 32))
    change(model[0])
    before = model[0]
    report = sparse.pack_(model)
    assert report.packed == ["1"]
    assert reason in report.left["0"]
    assert model[0] is before


def test_tied_weights_are_left() -> None:
    first, second = sparse_linear(32, 32), sparse_linear(32, 32)
    second.weight = first.weight
    embedding = nn.Embedding(32, 24)
    head = sparse_linear(24, 32)
    embedding.weight = head.weight
    block = nn.Parameter(torch.randn(64, 8) * (torch.rand(64, 8) < 0.3))
    part = sparse_linear(8, 32)
    part.weight = nn.Parameter(block.data[16:48])
    model = nn.ModuleList([first, second, embedding, head, part, sparse_linear(8, 8)])
    model.register_parameter("block", block)
    report = sparse.pack_(model)
    assert report.packed == ["5"]
    assert all("tied" in report.left[name] for name in ("0", "1", "3", "4"))


def test_a_layer_in_two_places_stays_one() -> None:
    layer = sparse_linear(32, 32)
    model = model_of(layer, nn.ReLU(), layer)
    sparse.pack_(model)
    assert isinstance(model[0], sparse.SparseLinear)
    assert model[0] is model[2]
    sparse.unpack_(model)
    assert type(model[0]) is nn.Linear
    assert model[0] is model[2]


def test_torchs_own_transformers_still_run() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    bs.prune_(model, sparsity=0.7)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        before = model(x)
        report = sparse.pack_(model)
        assert torch.equal(model(x), before)
    assert not report.packed
    assert "reads the weight itself" in report.left["layers.0.linear1"]
    assert "NonDynamicallyQuantizableLinear" in report.left["layers.0.self_attn.out_proj"]


def test_a_model_that_is_one_layer() -> None:
    layer = sparse_linear(32, 32)
    with pytest.raises(bs.ArgumentError, match="from_linear"):
        sparse.pack_(layer)
    packed = sparse.SparseLinear.from_linear(layer)
    with pytest.raises(bs.ArgumentError, match="to_linear"):
        sparse.unpack_(packed)
    assert same_bits(packed.to_linear().weight, layer.weight)  # type: ignore[arg-type]
    with pytest.raises(bs.ArgumentError, match=r"accepted: torch\.nn\.Linear"):
        sparse.SparseLinear.from_linear(nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize("least", [-0.1, 1.5, "half"])
def test_min_sparsity_is_a_fraction(least: Any) -> None:
    with pytest.raises(bs.ArgumentError, match="min_sparsity"):
        sparse.pack_(model_of(sparse_linear(32, 32)), min_sparsity=least)
