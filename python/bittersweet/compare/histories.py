"""What scorers with a memory recorded during training. The one place where trackers join the comparison.

`MAKERS` maps a scorer's name to a maker of its history. The dense training calls every history after each
optimizer step, before weights or gradients change; the one-shot part then lets it complete the inputs of its
scorer. In the pruned runs a `Pruner` feeds its scorer itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from bittersweet import ScoreInputs


class History(Protocol):
    """A record of one training run for one scorer."""

    def on_step(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """One optimizer step has been taken."""

    def complete(self, inputs: ScoreInputs) -> None:
        """Adds what was recorded (a modifier, an accumulator) to the inputs of the parameter they name."""


MAKERS: dict[str, Callable[[torch.nn.Module, torch.optim.Optimizer], History]] = {}
