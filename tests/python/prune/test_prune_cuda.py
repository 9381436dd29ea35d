"""On CUDA: with host memory in its place, and on a GPU where there is one."""

from __future__ import annotations

import copy
from typing import Any

import bittersweet.prune as prune
import torch
from torch import nn


def trained(model: nn.Sequential) -> list[torch.Tensor]:
    """Masks, gradients and weights after pruning in every way, some steps, and a copy's."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    place = model[0].weight.device
    x = (torch.arange(48.0).reshape(4, 12) / 48.0).to(place)
    for _ in range(2):
        model(x).square().sum().backward()
        optimizer.step()
    keep = torch.arange(12, device=place) % 3 != 0
    prune.global_unstructured([(model[0], "weight"), (model[2], "weight")], prune.L1Unstructured, amount=0.3)
    prune.random_unstructured(model[0], "weight", 0.2, seed=1)
    prune.ln_structured(model[2], "weight", 1, 2, 0)
    prune.random_structured(model[2], "weight", 3, 1, seed=2)
    prune.custom_from_mask(model[0], "weight", keep.expand(20, 12))
    prune.identity(model[2], "bias")
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        model(x).square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    model(x)
    held = [(model[0], "weight"), (model[2], "weight"), (model[2], "bias")]
    found = [prune.mask_of(module, name).bool() for module, name in held]
    found += [value for module, name in held for value in (getattr(module, name), getattr(module, name).grad)]
    state = prune.to_torch_state_dict(model)
    prune.load_torch_state_dict(model, state)
    return [one.detach().cpu() for one in (*found, *state.values())]


def test_masks_and_training_are_those_of_the_cpu(cuda: Any) -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 5))
    with cuda.on_cpu():
        expected = trained(copy.deepcopy(start))
    found = trained(cuda.put(copy.deepcopy(start)))
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        exact = cuda.name != "gpu" or mine.dtype is torch.bool
        torch.testing.assert_close(mine, other, atol=0 if exact else 1e-4, rtol=0 if exact else 1e-4)
