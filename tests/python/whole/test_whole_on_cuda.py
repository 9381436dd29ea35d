"""Functions of a whole model on CUDA: with host memory in its place, and on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.tensors.devices import HOST
from bittersweet.tensors.lazy import is_unread
from bittersweet.training.apply_to import apply_masks_to
from bittersweet.training.from_zeros import zeros_as_masks
from pruner_support import facts, mlp, weights

BY_GLOB = {"4.*": 0.25, "*": 0.75}


@pytest.mark.parametrize("sparsity", [0.5, BY_GLOB], ids=["one share", "by glob"])
@pytest.mark.parametrize("sync", [True, False])
def test_a_model_is_pruned_as_on_the_cpu(cuda: Any, sparsity: Any, sync: bool) -> None:
    with cuda.on_cpu():
        expected = mlp()
        wanted = bs.prune_(expected, sparsity=sparsity)
    model = cuda.put(mlp())
    event = bs.prune_(model, sparsity=sparsity, sync=sync)
    assert is_unread(event) != sync
    assert facts(event) == facts(wanted)
    for name, weight in weights(expected).items():
        assert torch.equal(weight, model.get_parameter(name).cpu()), name


def test_masks_follow_their_weights(cuda: Any, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model = cuda.put(mlp())
    masks = bs.make_masks(model, sparsity=BY_GLOB)
    bs.save_masks(tmp_path / "masks", masks)
    loaded = bs.load_masks(tmp_path / "masks")
    other = cuda.put(mlp(seed=1))
    bs.apply_masks_(other, loaded)
    for given in (loaded, masks):
        assert not any(bs.count_violations(other, given).values())
    again = bs.make_masks(other, sparsity=0.9, masks=loaded)
    assert again.event is not None
    assert again.event.achieved_sparsity == pytest.approx(0.9, abs=1e-3)
    for name, mask in masks.items():
        assert not (again[name] & ~mask).any()
    found = zeros_as_masks({name: other.get_parameter(name) for name in weights(other)})
    assert all(torch.equal(mask.bool(), masks[name]) for name, mask in found.masks.items())
    assert bs.sparsity(other).matrices.zero == masks.sparsity()


def test_a_copy_on_the_cpu_takes_the_zeros(host_cuda: Any) -> None:
    model, average = host_cuda.put(mlp()), mlp()
    masks = {mask.name: mask for mask in bs.make_masks(model, sparsity=0.5).packed}
    assert {mask.device for mask in masks.values()} == {0}
    host_cuda.devices.update((parameter.data_ptr(), HOST) for parameter in average.parameters())
    report = apply_masks_to(average, masks)
    assert report.masked == report.zero == pytest.approx(0.5, abs=1e-3)
    for name, mask in masks.items():
        assert torch.equal(average.get_parameter(name) != 0, mask.bool())
