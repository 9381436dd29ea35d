"""Layouts of packed layers: how one is chosen, that both hold the same weights, that files know none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import sparse
from bittersweet.__main__ import main
from bittersweet.sparse import delta, layouts
from safetensors.torch import load_file, save_file
from sparse_support import DTYPES, Conv1D, model_of, nasty_weight, same_bits, sparse_linear
from test_packing import conv1d  # noqa: F401
from torch import nn

SHAPES = ((1, 1), (255, 1), (1, 300), (256, 32), (257, 260), (70, 545), (600, 40), (65536, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_delta_comes_back_bit_for_bit(shape: tuple[int, int], dtype: torch.dtype) -> None:
    layer = sparse_linear(*shape, dtype=dtype)
    layer.weight.data = nasty_weight(shape[1], shape[0], dtype)
    packed = sparse.SparseLinear.from_linear(layer, layout="delta")
    assert same_bits(packed.to_dense(), layer.weight)
    assert packed.live == int(
        (layer.weight.view(torch.int16 if dtype.itemsize == 2 else torch.int32) != 0).sum()
    )
    assert torch.equal(packed.kept(), sparse.SparseLinear.from_linear(layer, layout="strips").kept())
    assert packed.nbytes == sum(buffer.nbytes for buffer in packed.buffers())


def test_kept_zeros_are_stored_in_both() -> None:
    for layout in layouts.LAYOUTS:
        model = model_of(sparse_linear(300, 70, sparsity=0.9))
        before = model[0].weight.detach().clone()
        keep = before != 0
        keep[3] = True
        report = sparse.pack_(model, {"0.weight": keep}, layout=layout)
        assert report.layers[0].layout == model[0].layout == layout
        assert report.layers[0].bytes == model[0].nbytes
        assert torch.equal(model[0].kept(), keep)
        assert same_bits(model[0].to_dense(), before)
        model = model_of(sparse_linear(300, 70, sparsity=0.9))
        keep[tuple(before.nonzero()[5])] = False
        with pytest.raises(bs.ArgumentError, match="1 elements that it drops"):
            sparse.pack_(model, {"0.weight": keep}, layout=layout)


# ---- choosing ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_auto_takes_delta_from_its_break_even_on(dtype: torch.dtype) -> None:
    least = delta.least_sparsity(dtype, 1, False)
    few, many = (sparse_linear(256, 256, dtype, sparsity=least + more) for more in (-0.04, 0.04))
    model = model_of(few, many)
    report = sparse.pack_(model)
    assert [layer.layout for layer in report.layers] == ["strips", "delta"]
    assert [layer.layout for layer in model] == ["strips", "delta"]
    assert sparse.SparseLinear.from_linear(many).layout == "delta"
    for layer in report.layers:
        assert f"delta is the better from {least:.0%} zeros on" in layer.choice
        assert layer.choice in str(report)
    assert report.to_dict()["layers"][1]["choice"].startswith("delta, for")


def test_the_expected_batch_counts_where_there_is_a_matrix_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta._core, "strips_isa", lambda: "amx")
    layer = sparse_linear(256, 256, torch.bfloat16, sparsity=0.92)
    taken = [sparse.pack_(model_of(sparse_copy(layer)), batch=batch).layers[0] for batch in (1, 2, 16)]
    assert [row.layout for row in taken] == ["delta", "delta", "strips"]
    assert "16 rows" in taken[2].choice
    exact = sparse.pack_(model_of(sparse_copy(layer)), batch=16, reproducible=True).layers[0]
    assert exact.layout == "delta"
    monkeypatch.setattr(delta._core, "strips_isa", lambda: "v3")
    assert delta.least_sparsity(torch.bfloat16, 16, False) == delta.least_sparsity(torch.bfloat16, 1, False)


@pytest.mark.parametrize("unit", [True, False])
def test_fewer_values_meet_larger_batches(unit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "has_matrix_unit", lambda: unit)
    limits = [delta.batch_limit(torch.bfloat16, density) for density in (0.0, 0.05, 0.1, 0.25)]
    assert limits == ([None, 40, 20, 8] if unit else [None, None, 169, 14])
    assert [delta.batch_limit(torch.float32, density) for density in (0.25, 0.5)] == [None, 16]
    report = sparse.pack_(model_of(sparse_linear(256, 256, torch.bfloat16, sparsity=0.8)), layout="delta")
    limit = report.layers[0].batch_limit
    assert limit is not None
    assert f"up to {limit} rows" in str(report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_reproducible_delta_has_one_order_for_every_batch(dtype: torch.dtype) -> None:
    packed = sparse.SparseLinear.from_linear(sparse_linear(300, 70, dtype, 0.5), None, True, "delta")
    assert packed.batch_limit is None
    x = torch.randn(40, 300, dtype=dtype)  # beyond the limit that it has without
    packed.reproducible = False
    assert packed.batch_limit is not None
    assert packed.batch_limit < len(x)
    packed.reproducible = True
    with torch.inference_mode():
        assert same_bits(packed(x), torch.stack([packed(row) for row in x]))


def sparse_copy(layer: nn.Linear) -> nn.Linear:
    made = nn.Linear(layer.in_features, layer.out_features, dtype=layer.weight.dtype)
    made.load_state_dict(layer.state_dict())
    return made


def test_a_layout_can_be_asked_for() -> None:
    layers = [sparse_linear(64, 64, sparsity=0.95) for _ in range(3)]
    for layout in layouts.LAYOUTS:
        report = sparse.pack_(model_of(*map(sparse_copy, layers)), layout=layout)
        assert {layer.layout for layer in report.layers} == {layout}
        assert f"{layout}, as asked (3 layers)" in str(report)
    report = sparse.pack_(model_of(*map(sparse_copy, layers)), layout={"1": "strips", "2.weight": "auto"})
    assert [layer.layout for layer in report.layers] == ["delta", "strips", "delta"]


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "csr"},
        {"layout": {}},
        {"layout": {"0": "csr"}},
        {"layout": {"absent.*": "delta"}},
        {"layout": {0: "delta"}},
        {"batch": 0},
        {"batch": 1.5},
    ],
)
def test_wrong_options_are_named_and_nothing_changes(options: dict[str, Any]) -> None:
    model = model_of(sparse_linear(64, 64))
    with pytest.raises(bs.ArgumentError, match=next(iter(options))):
        sparse.pack_(model, **options)
    assert type(model[0]) is nn.Linear
    if "absent.*" not in options.get("layout", ()):
        with pytest.raises(bs.ArgumentError, match=next(iter(options))):
            sparse.SparseLinear.from_linear(model[0], **options)


# ---- products ----


def test_what_is_not_stored_is_not_multiplied() -> None:
    layer = sparse_linear(300, 80, sparsity=0.9)
    x = torch.randn(1, 300)
    x[0, 17] = float("inf")
    with torch.inference_mode():
        y = sparse.SparseLinear.from_linear(layer, layout="delta")(x)[0]
        assert not sparse.SparseLinear.from_linear(layer, layout="strips")(x).isfinite().any()
    assert torch.equal(y.isfinite(), layer.weight[:, 17] == 0)


# ---- state and files ----


def test_a_state_brings_its_layout() -> None:
    layer = sparse_linear(300, 80, sparsity=0.9)
    for one, other in (layouts.LAYOUTS, layouts.LAYOUTS[::-1]):
        source = sparse.SparseLinear.from_linear(layer, layout=one)
        target = sparse.SparseLinear.from_linear(sparse_linear(300, 80), layout=other)
        with pytest.raises(RuntimeError):
            target.load_state_dict({**source.state_dict(), "offsets": torch.zeros(3, dtype=torch.int64)})
        assert target.layout == other
        assert same_bits(target.to_dense(), sparse_linear(300, 80).weight)
        target.load_state_dict(source.state_dict())
        assert (target.layout, target.live) == (one, source.live)
        assert target.state_dict().keys() == source.state_dict().keys()
        assert same_bits(target.to_dense(), layer.weight)


@pytest.mark.parametrize("change", ["codes", "places", "values", "steps", "live"])
def test_damaged_delta_is_refused(change: str) -> None:
    packed = sparse.SparseLinear.from_linear(sparse_linear(300, 80, sparsity=0.9), layout="delta")
    state = {name: tensor.clone() for name, tensor in packed.state_dict().items()}
    if change == "codes":
        state["codes"][96] = 255
    elif change == "places":
        state["codes"][0] = state["codes"][1]
    elif change == "values":
        state["values"][-1] = 7.0
    else:
        state["offsets"][-2 if change == "steps" else -1] += 1
    with pytest.raises(RuntimeError, match=r"group|speak of|values"):
        packed.load_state_dict(state)


def test_files_know_no_layout(tmp_path: Path) -> None:
    layers = [sparse_linear(300, 80, torch.bfloat16, sparsity=0.9) for _ in range(2)]
    source = model_of(*map(sparse_copy, layers))
    sparse.pack_(source, layout={"0": "delta", "1": "strips"})
    report = sparse.save_compressed(source, tmp_path / "f")
    sparse.save_compressed(model_of(*map(sparse_copy, layers)).state_dict(), tmp_path / "g")
    one, other = load_file(tmp_path / "f"), load_file(tmp_path / "g")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {layer.layout for layer in report.layers} == {"row-bitmask"}
    target = model_of(*map(sparse_copy, layers))
    for layout, taken in (
        ("strips", ["strips"] * 2),
        ("auto", ["delta"] * 2),
        ({"1": "strips"}, ["delta", "strips"]),
    ):
        for _ in range(2):  # dense layers, then packed ones
            loaded = sparse.load_compressed(tmp_path / "f", target, layout=layout)  # type: ignore[arg-type]
            assert [row.layout for row in loaded.layers] == [layer.layout for layer in target] == taken
            assert all(same_bits(a.to_dense(), b.weight) for a, b in zip(target, layers, strict=True))
    for options in ({"layout": "csr"}, {"layout": {"absent": "delta"}}, {"batch": 0}):
        with pytest.raises(bs.ArgumentError):
            sparse.load_compressed(tmp_path / "f", target, **options)  # type: ignore[call-overload]


def test_conv1d_as_delta(conv1d: type[Conv1D], tmp_path: Path) -> None:  # noqa: F811
    layer = conv1d(48, 70)
    layer.weight.data = sparse_linear(48, 70, sparsity=0.95).weight.detach()
    dense = layer.weight.detach().clone()
    source = model_of(layer)
    assert sparse.pack_(source).layers[0].layout == "delta"
    sparse.save_compressed(source, tmp_path / "f")
    assert same_bits(sparse.load_compressed(tmp_path / "f")["0.weight"], dense)
    sparse.unpack_(source)
    assert same_bits(source[0].weight, dense)


def test_the_command_says_what_auto_would_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"a": sparse_linear(64, 64, sparsity=0.5).weight.detach().clone()}
    state["b"] = sparse_linear(64, 64, sparsity=0.95).weight.detach().clone()
    save_file(state, tmp_path / "f")
    assert main(["pack", str(tmp_path / "f"), "--report"]) == 0
    text = capsys.readouterr().out
    assert "in memory strips, for float32 and 1 row" in text
    assert "in memory delta, for float32 and 1 row" in text
    assert main(["pack", str(tmp_path / "f"), "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["layers"]}
    assert rows["b"]["choice"].startswith("in memory delta")
