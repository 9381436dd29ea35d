"""Every number of a demo run in one place: the model, the optimizer, and who is pruned when."""

from __future__ import annotations

import math
from dataclasses import dataclass

DEFAULT_STEPS = 640
MIN_STEPS = 20
MIN_EVENTS = 10
TARGET_EVENTS = 16
EVALUATIONS = 12
SLOW_STEP_MS = 40.0
"""Above this time per training step the default run (never an explicit --steps) takes fewer steps, so that
seven arms stay below four minutes."""


class DemoError(Exception):
    """A request that cannot be served, here or in the comparison. The message is one line: what to do."""


@dataclass(frozen=True)
class Arm:
    """One training run: `scorer` None is the dense reference, and then `sparsity` is 0."""

    scorer: str | None
    sparsity: float

    @property
    def name(self) -> str:
        return "dense" if self.scorer is None else f"{self.scorer} {percent(self.sparsity)}"


@dataclass(frozen=True)
class Plan:
    """Steps count optimizer updates from 1. Pruning starts after `begin_step` and ends at `ramp_end`."""

    steps: int
    begin_step: int
    ramp_end: int
    frequency: int
    width: int = 160
    heads: int = 5
    layers: int = 3
    context: int = 64
    batch: int = 12
    held_out_windows: int = 128
    learning_rate: float = 2e-3
    final_learning_rate: float = 2e-4
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0

    @classmethod
    def for_steps(cls, steps: int) -> Plan:
        """A quarter of the steps dense, half of them ramping, a quarter to recover.

        Raises `DemoError` below `MIN_STEPS`, where the ramp would hold fewer than ten mask events.
        """
        if steps < MIN_STEPS:
            raise DemoError(
                f"--steps {steps} is too small: half of the steps must hold {MIN_EVENTS} mask events; "
                f"give --steps {MIN_STEPS} or more"
            )
        return cls._split(steps, steps // 4)

    @classmethod
    def _split(cls, steps: int, begin: int) -> Plan:
        ramp = (steps - begin) * 2 // 3
        return cls(
            steps=steps,
            begin_step=begin,
            ramp_end=begin + ramp,
            frequency=max(1, ramp // TARGET_EVENTS),
        )

    def shortened(self, step_ms: float) -> Plan:
        """The same dense part, and fewer steps after it in proportion to how slow the machine is."""
        if step_ms <= SLOW_STEP_MS:
            return self
        rest = max(MIN_STEPS, int((self.steps - self.begin_step) * SLOW_STEP_MS / step_ms))
        return self._split(self.begin_step + rest, self.begin_step)

    @property
    def events(self) -> int:
        """Mask events in one ramp; the last falls on `ramp_end`."""
        return math.ceil((self.ramp_end - self.begin_step) / self.frequency)

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.context

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, constant until pruning begins, then a cosine to `final_learning_rate` at the end.

        So the dense part does not depend on the length of the run.
        """
        warm_up = max(1, self.begin_step // 3)
        if step <= warm_up:
            return self.learning_rate * step / warm_up
        progress = max(0.0, (step - self.begin_step) / (self.steps - self.begin_step))
        span = self.learning_rate - self.final_learning_rate
        return self.final_learning_rate + 0.5 * span * (1.0 + math.cos(math.pi * progress))

    def evaluates_at(self, step: int) -> bool:
        """Whether the held-out loss is taken.

        It is on `begin_step`, `EVALUATIONS` times from there to the last step (in short runs fewer), and as
        densely before.
        """
        done, span = step - self.begin_step, self.steps - self.begin_step
        count = min(EVALUATIONS, max(2, span // 10))
        return -(-done * count // span) * span // count == done


def percent(fraction: float) -> str:
    """0.5 -> "50 %"; 0.875 -> "87.5 %"."""
    return f"{100 * fraction:.4g} %"
