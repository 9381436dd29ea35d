"""Tiny models with random weights, data, and eyes on every forward pass."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import torch
from torch import nn

RAMP = bs.LinearRamp(0.2, 0.5, begin_step=2, end_step=8, frequency=2)  # due on steps 2, 4, 6 and 8
STEPS = 12


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))


def inputs(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 16)


def loss_of(model: Any) -> torch.Tensor:
    loss: torch.Tensor = model(inputs()).float().square().mean()
    return loss


def pruned_places(model: nn.Module, pruner: bs.Pruner) -> torch.Tensor:
    """All that the masks prune, as one vector."""
    return torch.cat([model.get_parameter(name)[~mask].float() for name, mask in pruner.masks.items()])


class Forwards:
    """What the forward passes of `model` saw: the zeros of each, and how many pruned weights were not 0."""

    def __init__(self, model: nn.Module, pruner: bs.Pruner | None = None) -> None:
        self.pruner, self.zeros, self.violations = pruner, [], 0
        self._model = model
        self._handle = model.register_forward_pre_hook(self._look)

    def _look(self, *_: Any) -> None:
        if self.pruner is None or not len(self.pruner.history):
            return
        masks = dict(self.pruner.masks.items())
        weights = [self._model.get_parameter(name).detach() for name in masks]
        elements = sum(weight.numel() for weight in weights)
        self.zeros.append(sum(int((weight == 0).sum()) for weight in weights) / elements)
        self.violations += int(torch.count_nonzero(pruned_places(self._model, self.pruner)))

    def check(self, passes: int, last: float = 0.5) -> None:
        """There were that many passes since the first event, all with the zeros of their masks."""
        assert len(self.zeros) == passes, (len(self.zeros), passes)
        assert self.violations == 0
        assert self.zeros == sorted(self.zeros)
        assert abs(self.zeros[-1] - last) < 1e-3, self.zeros[-1]


def check_report(report: Any, sparsity: float = 0.5, steps: int = STEPS, events: int = 4) -> None:
    """finalize() found a finished schedule whose zeros held."""
    assert report.finalized
    assert report.violations == {}
    assert report.unfinished is None
    assert report.step == steps
    assert len(report.history) == events
    assert abs(report.sparsity.masked - sparsity) < 1e-3
    assert report.sparsity.zero == report.sparsity.masked


def loop(model: Any, optimizer: Any, pruner: Any, steps: int = STEPS, by_hand: bool = False) -> None:
    """The plain loop; with an attached pruner, or one that is called."""
    for _ in range(steps):
        loss_of(model).backward()
        optimizer.step()
        if by_hand:
            pruner.step()
        optimizer.zero_grad()
