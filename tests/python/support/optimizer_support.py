"""Tiny models with real optimizers of any make: a few steps, and what is left where weights are pruned."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import numpy as np
import torch
from bittersweet.optimizers.optimizers import Optimizers
from torch import nn

TARGETS = ("0.weight", "2.weight")


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """8,192 elements a weight: above the size from which 8-bit optimizers quantise."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64, bias=False)).to(dtype)


def step(model: nn.Module, *optimizers: Any, seed: int = 0, closure: bool = False) -> None:
    torch.manual_seed(seed)
    parameter = next(model.parameters())
    batch = torch.randn(8, 64).to(parameter.dtype)

    def evaluate() -> torch.Tensor:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = (model(batch).float() - 1.0).square().mean()
        loss.backward()
        return loss

    if closure:
        for optimizer in optimizers:
            optimizer.step(evaluate)
        return
    evaluate()
    for optimizer in optimizers:
        optimizer.step()


def held_run(model: nn.Module, optimizer: Any, closure: bool = False, **options: Any) -> bs.Pruner:
    """Three dense steps, an event that prunes half by bitter7 (or another scorer), and ten held ones.

    After each of the ten, pruned weights are 0, and so is every second copy of them.
    """
    given = {"schedule": bs.OneShot(0.5, 3), "targets": "*weight", **options}
    pruner = bs.Pruner(model, optimizer, **given)
    several = optimizer if isinstance(optimizer, list) else [optimizer]
    for now in range(13):
        step(model, *several, seed=now, closure=closure)
        pruner.step()
        if now >= 2:
            assert_dead(model, optimizer, pruner)
    assert pruner.history[-1].achieved_sparsity == 0.5
    assert pruner.sparsity().zero == 0.5
    return pruner


def assert_dead(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> None:
    kept = Optimizers.of(optimizer)
    for name in TARGETS:
        weight, dead = model.get_parameter(name), ~pruner.masks[name]
        assert not weight[dead].any()
        for key, copy in kept.companions(weight).items():
            assert not copy[dead].any(), key


def double(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """In float64, for oracles."""
    return tensor.detach().double().numpy()


class Gradients:
    """Running means of the gradients of every step, in float64."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.seen: list[np.ndarray[Any, Any]] = []
        weight.register_post_accumulate_grad_hook(lambda one: self.seen.append(double(one.grad)))

    def mean(self, beta: float, power: int) -> np.ndarray[Any, Any]:
        mean = np.zeros_like(self.seen[0])
        for gradient in self.seen:
            mean = beta * mean + (1.0 - beta) * gradient**power
        return mean
