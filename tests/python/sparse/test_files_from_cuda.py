"""Compressed files of models whose tensors lie on a CUDA device: their bytes are those of the CPU's."""

from __future__ import annotations

import copy
import json
import weakref
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import sparse
from bittersweet.sparse import files, layouts
from sparse_support import DTYPES, Conv1D, model_of, nasty_weight, sparse_linear
from test_packing import conv1d  # noqa: F401
from torch import nn

pytest.importorskip("safetensors")


def model(dtype: torch.dtype) -> nn.Sequential:
    """Layers that become strips and delta, one with two names and one whose file has it transposed."""
    torch.manual_seed(0)
    layers = [sparse_linear(40, 300, dtype, 0.6), sparse_linear(300, 40, dtype, 0.95)]
    layers[0].weight.data = nasty_weight(300, 40, dtype)
    convs = [Conv1D(40, 40).to(dtype) for _ in range(2)]
    for conv, sparsity in zip(convs, (0.5, 0.95), strict=True):
        conv.weight.data = sparse_linear(40, 40, dtype, sparsity).weight.data.t().contiguous()
    others = nn.LayerNorm(40, dtype=dtype), nn.Embedding(7, 40, dtype=dtype)
    made = model_of(*layers, others[0], *convs, layers[1], others[1])
    made.register_buffer("table", torch.arange(12).view(3, 4).t())
    made.register_buffer("part", torch.randn(100, generator=torch.Generator().manual_seed(1))[10:20])
    return made


def content(path: Path) -> tuple[Any, bytes]:
    """The header, whose names safetensors writes in any order, and all bytes behind it."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("conv1d")
def test_a_model_is_saved_from_where_it_is(cuda: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    kept = {"0.weight": torch.ones(300, 40, dtype=torch.bool)}  # whose zeros are stored
    kept["1.weight"] = sparse_linear(300, 40, dtype, 0.95).weight != 0
    kept["1.weight"][3] = True
    with cuda.on_cpu():
        here = model(dtype)
        sparse.pack_(here, {name: mask.clone() for name, mask in kept.items()}, 0.0)
        expected = sparse.save_compressed(here, tmp_path / "here")
    there = cuda.put(model(dtype))
    sparse.pack_(there, {name: cuda.put(mask) for name, mask in kept.items()}, 0.0)
    assert [there[i].layout for i in (0, 1, 3, 4)] == ["strips", "delta", "strips", "delta"]
    assert sparse.save_compressed(there, tmp_path / "there") == expected
    assert content(tmp_path / "there") == content(tmp_path / "here")
    found = sparse.load_compressed(tmp_path / "there")
    assert not any(tensor.is_cuda for tensor in found.values())


def test_a_state_dict_is_saved_from_where_it_is(cuda: Any, tmp_path: Path) -> None:
    whole = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    state = {
        "sparse": sparse_linear(64, 40, sparsity=0.9).weight.detach(),
        "turned": sparse_linear(64, 40, torch.bfloat16, 0.5).weight.detach().t(),
        "whole": whole,
        "again": whole,
        "rows": whole[2:5],
        "flat": whole.view(-1),
        "words": torch.arange(5),
    }
    with cuda.on_cpu():
        expected = sparse.save_compressed(state, tmp_path / "here")
    moved = cuda.put(whole)
    there = {name: cuda.put(tensor) for name, tensor in state.items()}
    there |= {"whole": moved, "again": moved, "rows": moved[2:5], "flat": moved.view(-1)}
    there["turned"] = cuda.put(state["turned"].t()).t()
    assert sparse.save_compressed(there, tmp_path / "there") == expected
    assert content(tmp_path / "there") == content(tmp_path / "here")


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_a_layer_is_copied_for_as_long_as_it_takes(
    host_cuda: Any, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device `.cpu()` makes new tensors: those of a layer are gone when the next one's are made."""
    source = model_of(*(sparse_linear(70, 45, sparsity=0.9, bias=False) for _ in range(3)))
    sparse.pack_(source, layout=layout)
    copies: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    right, whole = files.to_rows, torch.Tensor.cpu

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        made = whole(tensor).clone()
        copies.append(weakref.ref(made))
        return made

    def to_rows(marks: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor, *shape: int) -> Any:
        living = [copied() for copied in copies]
        assert all(any(one is array for one in living) for array in (marks, values, offsets))
        alive.append(sum(one is not None for one in living))
        return right(marks, values, offsets, *shape)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    monkeypatch.setattr(files, "to_rows", to_rows)
    sparse.save_compressed(source, tmp_path / "f")
    assert alive == [3, 3, 3]
    monkeypatch.undo()
    with host_cuda.on_cpu():
        again = copy.deepcopy(source)
        sparse.load_compressed(tmp_path / "f", again)
        for one, other in zip(again, source, strict=True):
            assert torch.equal(one.to_dense(), other.to_dense())


def test_what_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    for tensor in (torch.zeros(3, 3, device="meta"), torch.eye(3).to_sparse()):
        with pytest.raises(bs.ArgumentError, match=r"'w' is on .*accepted: torch.strided.*CUDA device"):
            sparse.save_compressed({"w": tensor}, tmp_path / "f")
    assert not (tmp_path / "f").exists()
