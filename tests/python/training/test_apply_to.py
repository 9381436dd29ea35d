"""Zeros written into other modules of the same names."""

from __future__ import annotations

import copy
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.tensors.masks import Mask
from bittersweet.training.apply_to import apply_masks_to
from pruner_support import mlp, weights
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def masks_for(model: nn.Module, share: float = 0.5) -> dict[str, Mask]:
    return {mask.name: mask for mask in bs.make_masks(model, sparsity=share).packed}


class Holder(nn.Module):
    """Keeps its copy of the weights as buffers, as some averaged models do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.net = nn.ModuleDict()
        for name, value in model.state_dict().items():
            owner: Any = self
            *path, last = name.split(".")
            for part in path:
                owner._modules.setdefault(part, nn.Module())
                owner = owner._modules[part]
            owner.register_buffer(last, value.clone())


WRAPPERS: list[Any] = [
    lambda m: m,
    copy.deepcopy,
    AveragedModel,
    lambda m: AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
    nn.DataParallel,
    lambda m: torch.compile(m, backend="eager"),
    lambda m: AveragedModel(torch.compile(copy.deepcopy(m), backend="eager")),
    Holder,
    lambda m: copy.deepcopy(m).to(torch.bfloat16),
    lambda m: copy.deepcopy(m).requires_grad_(False),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_zeros_are_those_of_the_masks(wrap: Any) -> None:
    model = mlp()
    masks = masks_for(model)
    other = wrap(model)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    report = apply_masks_to(other, masks)
    for name, value in other.state_dict().items():
        bare = name.replace("module.", "").replace("_orig_mod.", "")
        expected = before[name]
        if bare in masks:
            expected = expected.masked_fill(~masks[bare].bool(), 0)
        assert torch.equal(value, expected), name
    assert list(report.per_tensor) == list(weights(model))
    assert report.masked == report.zero == pytest.approx(0.5, abs=1e-3)


def test_the_copy_keeps_training_and_notices_the_write() -> None:
    model = mlp()
    other = copy.deepcopy(model)
    loss = other(torch.randn(4, 12)).square().sum()
    apply_masks_to(other, masks_for(model))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    other(torch.randn(4, 12)).square().sum().backward()
    for parameter in other.parameters():
        assert parameter.is_leaf
        assert parameter.requires_grad
        assert parameter.grad is not None


def test_another_name_of_a_tied_weight_will_do() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    masks = masks_for(model)
    assert list(masks) == ["0.weight"]
    partial = nn.Module()
    partial.register_module("1", nn.Linear(4, 4))
    apply_masks_to(partial, masks, {"0.weight": ("1.weight",)})
    assert int((partial.get_parameter("1.weight") == 0).sum()) == 8
    with pytest.raises(bs.ArgumentError, match=r"'0\.weight' is pruned, and it has no such tensor"):
        apply_masks_to(partial, masks)


def last(layer: nn.Module) -> nn.Module:
    model = mlp(seed=1)
    model[4] = layer
    return model


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (lambda: mlp()[:4], bs.ArgumentError, r"'4\.weight' is pruned.*Near names: 2"),
        (lambda: last(nn.Linear(5, 33)), bs.ShapeError, r"'4\.weight' has shape \(33, 5\)"),
        (lambda: last(nn.Linear(33, 5).double()), bs.DTypeError, r"'4\.weight' has dtype float64"),
        (lambda: last(nn.Linear(33, 5, device="meta")), bs.DeviceError, r"'4\.weight' is on the meta"),
        (lambda: mlp().state_dict(), bs.ArgumentError, "module: found OrderedDict"),
        (lambda: nn.ModuleDict({"one": mlp(), "two": mlp()}), bs.ArgumentError, r"'0\.weight'"),
    ],
)
def test_a_module_that_does_not_fit_is_left_as_it_was(
    other: Any, error: type[bs.Error], message: str
) -> None:
    module = other()
    state = module if isinstance(module, dict) else module.state_dict()
    before = {name: value.clone() for name, value in state.items() if value.device.type == "cpu"}
    with pytest.raises(error, match=message):
        apply_masks_to(module, masks_for(mlp()))
    for name, value in before.items():
        assert torch.equal(state[name], value), name


def test_two_copies_under_wrapper_prefixes_are_no_counterpart() -> None:
    both = nn.ModuleDict({"module": mlp(), "_orig_mod": mlp()})
    with pytest.raises(bs.ArgumentError, match=r"it has .* and .* for it"):
        apply_masks_to(both, masks_for(mlp()))


def test_without_masks_nothing_is_written() -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match="no masks yet"):
        assert apply_masks_to(model, {}).per_tensor == {}
    with pytest.raises(bs.ArgumentError, match="module: found OrderedDict"):  # and no warning beside it
        apply_masks_to(model.state_dict(), {})
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
