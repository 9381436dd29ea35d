"""`strip`: a pruned model is plain tensors, and what is not is named."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import sparse
from pruner_support import mlp
from torch import nn
from torch.nn.utils import prune


def test_a_pruned_model_is_plain_tensors_with_zeros() -> None:
    model = mlp()
    modules, names = [*model.modules()], [*model.state_dict()]
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.OneShot(0.5, step=1))
    pruner.step()
    with pytest.raises(bs.Error, match=r"pruner\.finalize\(\) first"):
        bs.strip(model)
    report = pruner.finalize()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = bs.strip(model)
    assert found.matrices.zeros == round(report.sparsity.masked * found.matrices.elements)
    assert [*model.modules()] == modules and [*model.state_dict()] == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for module in model.modules():
        hooks: Any = (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks)
        assert not any(hooks)


def test_wrappers_are_seen_through_and_other_models_pruners_are_not_minded() -> None:
    model, other = mlp(), mlp()
    pruner = bs.Pruner(other, scorer="magnitude", schedule=bs.OneShot(0.5, step=1))
    bs.prune_(model, sparsity=0.5)
    assert bs.strip(nn.DataParallel(model)).zeros == bs.strip(model).zeros > 0
    assert pruner.steps == 0


def test_torchs_own_pruning_is_named_with_what_removes_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.l1_unstructured(model[1], "weight", 0.5)
    with pytest.raises(bs.Error, match=r"'1' is pruned by torch\.nn.*remove\(layer, 'weight'\)"):
        bs.strip(model)
    prune.remove(model[1], "weight")
    assert bs.strip(model).per_tensor["1.weight"].zeros == 8


def test_packed_layers_are_named() -> None:
    model = mlp()
    bs.prune_(model, sparsity=0.9)
    assert sparse.pack_(model).packed
    with pytest.raises(bs.Error, match=r"packed layer.*unpack_\(model\)"):
        bs.strip(model)
    sparse.unpack_(model)
    bs.strip(model)


class _Ours:
    """A hook as bittersweet.prune has them."""

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        pass


_Ours.__module__ = "bittersweet.prune.holding"


class _Masked(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight


def test_hooks_and_parametrizations_of_ours_are_named_and_others_are_not_minded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_forward_hook(lambda *anything: None)
    bs.strip(model)
    handle = model[0].register_forward_pre_hook(_Ours())
    with pytest.raises(bs.Error, match=r"'0' is pruned by a hook of bittersweet\.prune"):
        bs.strip(model)
    handle.remove()
    nn.utils.parametrize.register_parametrization(model[0], "weight", _Masked())
    bs.strip(model)
    monkeypatch.setattr(_Masked, "__module__", "bittersweet.prune.forms")
    with pytest.raises(bs.Error, match=r"weight pruned by a parametrization: .*remove_parametrizations"):
        bs.strip(model)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(bs.ArgumentError, match="model: found dict"):
        bs.strip({})  # type: ignore[arg-type]
