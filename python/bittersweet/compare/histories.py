"""What scorers with a memory recorded during training. The one place where trackers join the comparison.

`MAKERS` maps a scorer's name to a maker of its history. The dense training calls every history after each
optimizer step, before weights or gradients change; the one-shot part then lets it complete the inputs of its
scorer. In the pruned runs a `Pruner` feeds its scorer itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from bittersweet.model.binding import supply
from bittersweet.options.scorers import TRACKED
from bittersweet.training.remembering import tracker_class

if TYPE_CHECKING:
    import torch

    from bittersweet import ScoreInputs


class History(Protocol):
    """A record of one training run for one scorer."""

    def on_step(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """One optimizer step has been taken."""

    def complete(self, inputs: ScoreInputs) -> None:
        """Adds what was recorded (a modifier, an accumulator) to the inputs of the parameter they name."""


class Tracked:
    """The history of a scorer that the library has a tracker for, with its default parameters."""

    def __init__(self, name: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._tracker = tracker_class(name)(model, optimizer)
        self._answers: dict[str, Any] | None = None

    def on_step(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if self._tracker.follows_step:
            self._tracker.update()
        self._answers = None

    def complete(self, inputs: ScoreInputs) -> None:
        """Raises MissingStateError if the run was too short."""
        if self._answers is None:
            self._answers = self._tracker.answers()
        error = supply(inputs, self._answers[str(inputs.name)])
        if error is not None:
            raise error


MAKERS: dict[str, Callable[[torch.nn.Module, torch.optim.Optimizer], History]] = {
    name: partial(Tracked, name) for name in TRACKED
}
