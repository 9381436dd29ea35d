"""Compressed files: what is written comes back bit for bit, what is damaged is refused with the reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet import sparse
from bittersweet.__main__ import main
from safetensors.torch import load_file, safe_open, save_file
from sparse_support import DTYPES, Conv1D, model_of, nasty_weight, same_bits, sparse_linear
from test_packing import conv1d  # noqa: F401
from torch import nn


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return model_of(sparse_linear(70, 45, dtype), nn.LayerNorm(45), sparse_linear(45, 33, dtype, bias=False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (8, 64), (3, 9), (0, 5), (5, 0), (64, 8)])
def test_matrices_come_back_bit_for_bit(shape: tuple[int, int], dtype: torch.dtype, tmp_path: Path) -> None:
    state = {"w": nasty_weight(*shape, dtype), "b": torch.randn(3), "n": torch.tensor(7)}
    state["zeros"] = torch.zeros(shape, dtype=dtype)
    sparse.save_compressed(state, tmp_path / "f", min_sparsity=0.0)
    found = sparse.load_compressed(tmp_path / "f")
    assert found.keys() == state.keys()
    assert same_bits(found["w"], state["w"])
    assert same_bits(found["zeros"], state["zeros"])
    assert torch.equal(found["b"], state["b"])
    assert torch.equal(found["n"], state["n"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_model_is_saved_and_loads_again(dtype: torch.dtype, tmp_path: Path) -> None:
    source, target = model(dtype), model(dtype)
    for parameter in target.parameters():
        nn.init.ones_(parameter)
    dense = copy.deepcopy(source)
    sparse.pack_(source)
    report = sparse.save_compressed(source, tmp_path / "f")
    assert report.packed == ["0.weight", "2.weight"]
    loaded = sparse.load_compressed(tmp_path / "f", target)
    assert loaded.packed == ["0", "2"]
    assert isinstance(target[0], sparse.SparseLinear)
    assert target.state_dict().keys() == source.state_dict().keys()
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name
    sparse.unpack_(target)
    for name, tensor in dense.state_dict().items():
        assert same_bits(target.state_dict()[name], tensor), name


def test_a_file_loads_into_a_packed_model_and_takes_its_dtype(tmp_path: Path) -> None:
    other = model_of(sparse_linear(70, 45, sparsity=0.9), nn.LayerNorm(45), sparse_linear(45, 33, bias=False))
    sparse.save_compressed(other.state_dict(), tmp_path / "f")
    target = model(torch.bfloat16)
    sparse.pack_(target)
    sparse.load_compressed(tmp_path / "f", target)
    assert same_bits(target[0].to_dense(), other[0].weight.bfloat16())
    dense_in_file = model_of(
        sparse_linear(70, 45, sparsity=0.0), nn.LayerNorm(45), sparse_linear(45, 33, bias=False)
    )
    sparse.save_compressed(dense_in_file.state_dict(), tmp_path / "g", min_sparsity=1.0)
    sparse.load_compressed(tmp_path / "g", target)
    assert same_bits(target[0].to_dense(), dense_in_file[0].weight.bfloat16())


def test_kept_zeros_stay_kept(tmp_path: Path) -> None:
    source = model_of(sparse_linear(32, 32))
    keep = source[0].weight.detach() != 0
    keep[0] = True
    target = copy.deepcopy(source)
    sparse.pack_(source, {"0.weight": keep})
    sparse.save_compressed(source, tmp_path / "f")
    sparse.load_compressed(tmp_path / "f", target)
    assert target[0].live == source[0].live == int(keep.sum())


def test_conv1d_in_files(conv1d: type[Conv1D], tmp_path: Path) -> None:  # noqa: F811
    layer = conv1d(48, 70)
    layer.weight.data = sparse_linear(48, 70).weight.detach()
    source, target = model_of(layer), model_of(conv1d(48, 70))
    dense = layer.weight.detach().clone()
    sparse.pack_(source)
    sparse.save_compressed(source, tmp_path / "f")
    assert same_bits(sparse.load_compressed(tmp_path / "f")["0.weight"], dense)
    sparse.load_compressed(tmp_path / "f", target)
    sparse.unpack_(target)
    assert same_bits(target[0].weight, dense)


def test_tied_weights(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        made = model_of(nn.Embedding(33, 45), sparse_linear(45, 20), sparse_linear(45, 33, bias=False))
        made[0].weight = made[2].weight
        return made

    source, target = tied(), tied()
    nn.init.zeros_(target[0].weight)
    sparse.pack_(source)
    sparse.save_compressed(source, tmp_path / "f")
    report = sparse.load_compressed(tmp_path / "f", target)
    assert report.packed == ["1"]
    assert target[0].weight is target[2].weight
    assert same_bits(target[0].weight, source[0].weight)
    sparse.save_compressed(source.state_dict(), tmp_path / "g")
    assert len(sparse.load_compressed(tmp_path / "g")) == len(source.state_dict())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(45, 70), (16, 32), (33, 7), (1, 1), (5, 0), (0, 5)])
def test_rows_in_the_file_are_those_of_numpy(
    shape: tuple[int, int], dtype: torch.dtype, tmp_path: Path
) -> None:
    weight = nasty_weight(*shape, dtype)
    sparse.save_compressed({"w": weight, "b": torch.ones(1)}, tmp_path / "f", min_sparsity=0.0)
    found = load_file(tmp_path / "f")
    if not weight.numel():
        assert same_bits(found["w"], weight)
        return
    raw = weight.view(torch.int16 if dtype.itemsize == 2 else torch.int32)
    keep = raw.numpy() != 0
    counts = keep.sum(axis=1)
    assert found["w.shape"].tolist() == list(shape)
    assert np.array_equal(found["w.bitmask"].numpy(), np.packbits(keep, axis=1, bitorder="little"))
    assert np.array_equal(found["w.row_offsets"].numpy(), np.cumsum(counts) - counts)
    assert same_bits(found["w.compressed"], raw[torch.from_numpy(keep)].view(dtype))


def test_kept_zeros_of_a_conv1d_stay_kept(conv1d: type[Conv1D], tmp_path: Path) -> None:  # noqa: F811
    layer = conv1d(48, 70)
    layer.weight.data = sparse_linear(48, 70).weight.detach()
    source, target = model_of(layer), model_of(conv1d(48, 70))
    keep = layer.weight.detach() != 0
    keep[:, 3] = True
    sparse.pack_(source, {"0.weight": keep})
    sparse.save_compressed(source, tmp_path / "f")
    sparse.load_compressed(tmp_path / "f", target)
    for name, array in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], array), name


def test_bytes_in_the_file(tmp_path: Path) -> None:
    state = {"w": sparse_linear(1024, 512, torch.bfloat16, sparsity=0.5).weight.detach()}
    report = sparse.save_compressed(state, tmp_path / "f")
    elements = 1024 * 512
    share = 1 - report.layers[0].sparsity
    assert report.layers[0].bytes / elements <= share * 2 + 0.125 + 8 / 1024 + 0.001
    assert (tmp_path / "f").stat().st_size <= report.bytes + 1024


# ---- damage ----


def _drop(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: tensors.pop(name)


def _set(name: str, value: torch.Tensor) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: tensors.__setitem__(name, value)


def _change(name: str, change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: change(tensors[name])


DAMAGE = {
    "no shape": (_drop("w.shape"), "missing"),
    "no bitmask": (_drop("w.bitmask"), "missing"),
    "no row_offsets": (_drop("w.row_offsets"), "missing"),
    "no values": (_drop("w.compressed"), "not in the file|in the file and not"),
    "another shape": (_set("w.shape", torch.tensor([20, 30])), "beyond the 30"),
    "one axis": (_set("w.shape", torch.tensor([20])), "no pair"),
    "negative": (_set("w.shape", torch.tensor([-1, 31])), "no pair"),
    "large": (_set("w.shape", torch.tensor([2**30, 2**30])), "needs"),
    "huge": (_set("w.shape", torch.tensor([2**40, 2**40])), "no pair"),
    "shape in int32": (_set("w.shape", torch.tensor([20, 31], dtype=torch.int32)), "no pair"),
    "transposed": (_set("w.shape", torch.tensor([31, 20])), "needs"),
    "values in float64": (_set("w.compressed", torch.zeros(10, dtype=torch.float64)), "float64"),
    "values in rows": (_set("w.compressed", torch.zeros(2, 5)), "one axis"),
    "too few values": (_set("w.compressed", torch.zeros(10)), "holds 10"),
    "a bit more": (_change("w.bitmask", lambda t: t[3].fill_(255)), "disagree|beyond"),
    "a bit beyond": (_change("w.bitmask", lambda t: t[:, -1].bitwise_or_(128)), "beyond"),
    "offsets": (_change("w.row_offsets", lambda t: t[7].add_(1)), "row 7"),
    "first offset": (_change("w.row_offsets", lambda t: t[0].sub_(1)), "row 0"),
    "twice": (_set("w", torch.zeros(20, 31)), "twice"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_refused_and_nothing_changes(kind: str, tmp_path: Path) -> None:
    change, message = DAMAGE[kind]
    target = nn.Module()
    target.w = nn.Parameter(torch.ones(20, 31))
    sparse.save_compressed({"w": sparse_linear(31, 20).weight.detach()}, tmp_path / "f")
    tensors = load_file(tmp_path / "f")
    with safe_open(tmp_path / "f", "pt") as file:
        metadata = file.metadata()
    change(tensors)
    save_file(tensors, tmp_path / "g", metadata)
    with pytest.raises(bs.CheckpointError, match=message):
        sparse.load_compressed(tmp_path / "g", target)
    assert torch.equal(target.w, torch.ones(20, 31))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "no compressed file"),
        ({"bittersweet.sparse": "row-bitmask/2"}, "row-bitmask/2"),
        ({"bittersweet.sparse": "row-bitmask/1", "bittersweet.tied": "["}, "tied"),
        ({"bittersweet.sparse": "row-bitmask/1", "bittersweet.tied": '{"a": 1}'}, "tied"),
        ({"bittersweet.sparse": "row-bitmask/1", "bittersweet.tied": '{"a": "no"}'}, "tied"),
        ({"bittersweet.sparse": "row-bitmask/1", "bittersweet.tied": "[" * 50_000}, "tied"),
        ({"bittersweet.sparse": "row-bitmask/1", "bittersweet.tied": '{"a": "b", "a": "b"}'}, "twice"),
        ({"bittersweet.sparse": "row-bitmask/1", "bittersweet.tied": '{"\\ud800": "b"}'}, "tied"),
    ],
)
def test_metadata_is_checked(metadata: dict[str, str], message: str, tmp_path: Path) -> None:
    save_file({"b": torch.zeros(2)}, tmp_path / "f", metadata)
    with pytest.raises(bs.CheckpointError, match=message):
        sparse.load_compressed(tmp_path / "f")


def _write(path: Path, text: str, data: bytes) -> None:
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + data)


HEAD = '{"__metadata__":{"bittersweet.sparse":"row-bitmask/1"},'


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    """safetensors takes the last one."""
    entry = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    _write(tmp_path / "f", f"{HEAD}{entry},{entry}}}", bytes(4))
    with pytest.raises(bs.CheckpointError, match="'a' twice"):
        sparse.load_compressed(tmp_path / "f")


def test_data_at_odd_bytes(tmp_path: Path) -> None:
    """The format asks for no alignment. Dense in the file, packed in the model."""
    source = model_of(sparse_linear(70, 45))
    target = copy.deepcopy(source)
    sparse.pack_(target)
    nothing = torch.ones(1, dtype=torch.uint8)
    target.register_buffer("a", nothing)
    entries, data = "", b""
    for name, tensor in {"a": nothing, **source.state_dict()}.items():
        dtype, begin = "U8" if name == "a" else "F32", len(data)
        data += bytes(tensor.detach().reshape(-1).view(torch.uint8).numpy())
        shape = list(tensor.shape)
        entries += f',"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{len(data)}]}}'
    _write(tmp_path / "f", HEAD + entries[1:] + "}", data)
    sparse.load_compressed(tmp_path / "f", target)
    assert same_bits(target[0].to_dense(), source[0].weight)
    dense = sparse.load_compressed(tmp_path / "f")["0.weight"]
    assert same_bits(dense, source[0].weight) and dense.data_ptr() % 4 == 0


@pytest.mark.parametrize("width", [2**31 + 1, 2**62, 2**63 - 1])
def test_a_matrix_without_rows_has_no_more_columns_than_others(width: int, tmp_path: Path) -> None:
    empty = "".join(
        f',"w.{part}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[16,16]}}'
        for part, dtype, shape in (
            ("compressed", "F32", [0]),
            ("bitmask", "U8", [0, -(-width // 8)]),
            ("row_offsets", "I64", [0]),
        )
    )
    shape = '"w.shape":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}'
    _write(tmp_path / "f", f"{HEAD}{shape}{empty}}}", bytes(8) + width.to_bytes(8, "little"))
    with pytest.raises(bs.CheckpointError, match="from 0 to 2147483648"):
        sparse.load_compressed(tmp_path / "f")


def test_types_that_do_not_convert_are_refused_before_anything_changes(tmp_path: Path) -> None:
    target = model_of(sparse_linear(70, 45))
    target.register_buffer("scale", torch.ones(2))
    state = {**target.state_dict(), "0.weight": sparse_linear(70, 45, sparsity=0.9).weight.detach()}
    for other in (
        torch.ones(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    ):
        sparse.save_compressed({**state, "scale": other}, tmp_path / "f")
        before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
        with pytest.raises(bs.CheckpointError, match="the model's float32"):
            sparse.load_compressed(tmp_path / "f", target)
        assert isinstance(target[0], nn.Linear)
        assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize("name", ["w.shape", "w.bitmask", "w.row_offsets", "w.compressed", "v.compressed"])
@pytest.mark.parametrize("first", [True, False])
def test_names_that_mean_parts_of_a_matrix_are_not_saved(name: str, first: bool, tmp_path: Path) -> None:
    matrix, other = {"w": sparse_linear(31, 20).weight.detach()}, {name: torch.ones(2)}
    with pytest.raises(bs.ArgumentError, match=f"'{name}'.*rename it"):
        sparse.save_compressed({**other, **matrix} if first else {**matrix, **other}, tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_any_changed_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    sparse.save_compressed({"w": sparse_linear(31, 20).weight.detach()}, tmp_path / "f")
    good = (tmp_path / "f").read_bytes()
    random = np.random.default_rng(3)
    refused = 0
    for trial in range(400):
        bad = bytearray(good)
        if trial % 4 == 0:
            bad = bad[: random.integers(len(bad))]
        else:
            bad[random.integers(len(bad))] ^= 1 << int(random.integers(8))
        (tmp_path / "g").write_bytes(bad)
        try:
            sparse.load_compressed(tmp_path / "g")
        except bs.CheckpointError:
            refused += 1
    assert refused > 100  # what is not, changed a value alone


def test_files_that_do_not_fit_the_model(tmp_path: Path) -> None:
    source = model()
    sparse.save_compressed(source.state_dict(), tmp_path / "f")
    for target in (
        model_of(sparse_linear(70, 45), nn.LayerNorm(45)),
        model_of(*model(), sparse_linear(33, 4)),
        model_of(sparse_linear(71, 45), nn.LayerNorm(45), sparse_linear(45, 33, bias=False)),
    ):
        before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
        with pytest.raises(bs.CheckpointError, match="the model"):
            sparse.load_compressed(tmp_path / "f", target)
        assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(bs.ArgumentError, match="no file"):
        sparse.load_compressed(tmp_path / "absent")
    with pytest.raises(bs.ArgumentError, match="no tensor"):
        sparse.save_compressed({}, tmp_path / "f")
    with pytest.raises(bs.ArgumentError, match="accepted: a model or a state dict"):
        sparse.save_compressed([1], tmp_path / "f")  # type: ignore[arg-type]
    with pytest.raises(bs.ArgumentError, match="cannot be written"):
        sparse.save_compressed({"b": torch.zeros(1)}, tmp_path / "no" / "f")
    (tmp_path / "text").write_text("no weights at all, but long enough to be read")
    with pytest.raises(bs.CheckpointError, match="not a sound safetensors file"):
        sparse.load_compressed(tmp_path / "text")


# ---- the command ----


def test_the_command_packs_reports_and_unpacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {**model(torch.bfloat16).state_dict(), "full": torch.randn(16, 16)}
    save_file(state, tmp_path / "in.safetensors")
    packed, dense = tmp_path / "packed.safetensors", tmp_path / "dense.safetensors"
    assert main(["pack", str(tmp_path / "in.safetensors"), str(packed), "--report"]) == 0
    text = capsys.readouterr().out
    assert "full: left dense" in text
    assert f"{packed.stat().st_size:,} bytes" in text
    assert main(["pack", str(packed), str(dense), "--dense"]) == 0
    found = load_file(dense)
    assert found.keys() == state.keys()
    assert all(same_bits(found[name], state[name]) for name in state)
    capsys.readouterr()
    assert main(["pack", str(tmp_path / "in.safetensors"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 3


def test_the_command_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"b": torch.zeros(2)}, tmp_path / "f")
    for arguments in ([], [str(tmp_path / "f")], ["--report", "--min-sparsity", "7"]):
        assert main(["pack", str(tmp_path / "f"), *arguments]) == 2
        assert "accepted" in capsys.readouterr().err
