"""Masks from zeros that are there."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.training.from_zeros import zeros_as_masks
from torch import nn


def tensor(shape: tuple[int, ...], share: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(hash(shape) % 1000)
    values = torch.randn(shape, generator=generator) + 3.0
    places = torch.randperm(values.numel(), generator=generator)[: round(share * values.numel())]
    values.view(-1)[places[::2]] = 0.0
    values.view(-1)[places[1::2]] = -0.0
    return values.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dead_is_plus_or_minus_zero_and_nothing_else(dtype: torch.dtype) -> None:
    values = tensor((7, 65), 0.5, dtype)
    values[0, :3] = torch.tensor([float("nan"), float("inf"), torch.finfo(dtype).smallest_normal / 2])
    found = zeros_as_masks({"w": values})
    expected = np.asarray(values.double().numpy() != 0.0)
    assert np.array_equal(found.masks["w"].bool().numpy(), expected)
    assert found.taken == {"w": pytest.approx(1 - expected.mean())}
    assert found.left == {}


def test_a_tensor_needs_its_share_of_zeros() -> None:
    tensors = {
        "half": tensor((40, 33), 0.5),
        "accident": tensor((100, 100), 0.0099),
        "just": tensor((100, 100), 0.01),
        "dense": tensor((5, 3), 0.0),
        "all": torch.zeros(3, 3),
        "none": torch.zeros(0, 3),
    }
    versions = [value._version for value in tensors.values()]
    found = zeros_as_masks(tensors)
    assert list(found.taken) == ["half", "just", "all"] == list(found.masks)
    assert list(found.left) == ["accident", "dense", "none"]
    assert found.taken["just"] == 0.01
    assert [value._version for value in tensors.values()] == versions
    assert "accident (0.0099)" in str(found)
    assert list(zeros_as_masks(tensors, 0.0).taken) == ["half", "accident", "just", "dense", "all"]
    assert list(zeros_as_masks(tensors, 1).taken) == ["all"]


@pytest.mark.parametrize(
    ("tensors", "least", "message"),
    [
        ({"w": torch.ones(3, 3)}, 0.01, r"no weight has a share of 0\.01 zeros \(w \(0\.0000\)\)"),
        ({"w": tensor((10, 10), 0.5)}, 0.6, "no weight has a share of 0.6"),
        ({"w": torch.zeros(3)}, 2, r"min_sparsity: 2; .*2 % is 0\.02"),
        ({}, 0.01, "no weight"),
    ],
)
def test_refusals(tensors: Any, least: float, message: str) -> None:
    with pytest.raises(bs.ArgumentError, match=message):
        zeros_as_masks(tensors, least)


def test_the_masks_hold_in_a_pruner() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(12, 9), torch.nn.Linear(9, 3))
    bs.prune_(model, sparsity={"0": 0.5})
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.OneShot(0.9, 10**6))
    pruner.load_masks(zeros_as_masks({n: p for n, p in model.named_parameters() if p.ndim > 1}).masks)
    assert int((~pruner.masks["0.weight"]).sum()) == 54
    assert bool(pruner.masks["1.weight"].all())


def test_a_refusal_leaves_no_hooks_behind(recwarn: pytest.WarningsRecorder) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(bs.ArgumentError, match="min_sparsity"):
        bs.Pruner.from_zeros(model, optimizer, hold="grads")
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    assert not recwarn.list
