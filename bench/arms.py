"""Training loops that differ in the optimizer, and in how it or the pruner holds the masks."""

from __future__ import annotations

import math
import re

import bittersweet as bs
import torch
from torch import nn

TORCH = "torch"
OWN = 'bittersweet.optim, hold="auto"'
ARMS = (TORCH, 'torch, hold="weights"', 'torch, hold="grads"', OWN)
EVERY = 10  # steps from event to event
BATCH = 32
_EVENTS = 100
_BLOCKS = 8


def ramp() -> bs.PolynomialDecay:
    """An event every EVERY steps, each of which prunes 0.4 % more, from half of the weights on."""
    last = EVERY * _EVENTS
    return bs.PolynomialDecay(0.5, 0.9, begin_step=EVERY, end_step=last, frequency=EVERY, power=1)


class Arm:
    """A model with the optimizer of one of ARMS and, but for TORCH, its pruner, which prunes every parameter
    of `targets` (None: what a pruner takes by itself)."""

    def __init__(
        self, name: str, model: nn.Module, schedule: bs.Schedule, targets: list[str] | None = None
    ) -> None:
        parameters = list(model.parameters())
        self.name, self.model, self.events = name, model, 0
        self.optimizer: torch.optim.Optimizer = (
            bs.optim.AdamW(parameters, lr=1e-5)
            if name == OWN
            else torch.optim.AdamW(parameters, lr=1e-5, fused=True)
        )
        self.pruner: bs.Pruner | None = None
        if found := re.search(r'hold="(\w+)"', name):
            self.pruner = bs.Pruner(
                model, self.optimizer, schedule=schedule, targets=targets, hold=found.group(1)
            )

    def step(self) -> None:
        """The optimizer's step, and the pruner's."""
        self.optimizer.step()
        if self.pruner is not None and self.pruner.step() is not None:
            self.events += 1


class Block(nn.Module):
    """The feed-forward half of a transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Training:
    """A stack of blocks of about `total` weights that learns a random linear map, from the same start and on
    the same data whatever the arm."""

    def __init__(self, total: int) -> None:
        width = max(8, round(math.sqrt(total / (8 * _BLOCKS))))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = nn.Sequential(*(Block(width) for _ in range(_BLOCKS)))
            inputs = torch.randn(16, BATCH, width)
            self._batches = list(zip(inputs, inputs @ torch.randn(width, width), strict=True))
        self.weights = sum(parameter.numel() for parameter in self.model.parameters())
        self.steps = 0

    def begin(self, arm: str) -> None:
        self.arm = Arm(arm, self.model, ramp())

    def step(self) -> None:
        """Forward, backward, optimizer and pruner."""
        x, y = self._batches[self.steps % len(self._batches)]
        self.steps += 1
        self.arm.optimizer.zero_grad()
        nn.functional.mse_loss(self.model(x), y).backward()
        self.arm.step()
