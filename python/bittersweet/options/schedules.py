"""Sparsity schedules: pure functions of the step, ``schedule(step) -> (due, sparsity)``.

Before ``begin_step`` the answer is ``(False, 0.0)``; a ramp is due every ``frequency`` steps from
``begin_step`` and always on ``end_step``, which returns ``final_sparsity`` itself; afterwards nothing is due.
Between due steps the sparsity of the curve is returned with ``due`` False. Sparsity never falls.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ArgumentError


class Schedule:
    """Base of all schedules: immutable, comparable, saved as plain values by `to_config`."""

    def __call__(self, step: int) -> tuple[bool, float]:
        """Whether masks are due on `step`, and the sparsity wanted there."""
        raise TypeError(f"{type(self).__name__} is not a schedule of its own; use one of {', '.join(_KINDS)}")

    def last_due(self, since: int, now: int) -> tuple[int, float] | None:
        """The latest due step in (`since`, `now`] with its sparsity, or None."""
        raise TypeError(f"{type(self).__name__} is not a schedule of its own; use one of {', '.join(_KINDS)}")

    def to_config(self) -> dict[str, Any]:
        """Plain values: the kind and the parameters."""
        return {"kind": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Schedule:
        """The schedule that `to_config` described. Raises ArgumentError for an unknown kind or parameter."""
        parameters = dict(config)
        kind = parameters.pop("kind", None)
        if kind not in _KINDS:
            raise ArgumentError(f"kind: {kind!r}; known schedules: {', '.join(_KINDS)}")
        try:
            return _KINDS[kind](**parameters)
        except TypeError as error:
            raise ArgumentError(f"{kind}: {error}") from None


class _Ramp(Schedule):
    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int

    def __post_init__(self) -> None:
        for argument in ("begin_step", "end_step", "frequency"):
            _as_int(self, argument)
        for argument in ("initial_sparsity", "final_sparsity"):
            _as_fraction(self, argument)
        if self.initial_sparsity > self.final_sparsity:
            raise ArgumentError(
                f"initial_sparsity: {self.initial_sparsity} is above final_sparsity {self.final_sparsity}; "
                "sparsity never falls"
            )
        if not 0 <= self.begin_step < self.end_step:
            raise ArgumentError(
                f"begin_step, end_step: {self.begin_step}, {self.end_step}; accepted: 0 <= begin_step < "
                "end_step"
            )
        if self.frequency < 1:
            raise ArgumentError(f"frequency: {self.frequency}; accepted: at least 1 step")

    def _curve(self, progress: float) -> float:
        raise TypeError("a ramp needs a curve")

    def __call__(self, step: int) -> tuple[bool, float]:
        if step < self.begin_step:
            return False, 0.0
        if step >= self.end_step:
            return step == self.end_step, self.final_sparsity
        progress = (step - self.begin_step) / (self.end_step - self.begin_step)
        sparsity = min(max(self._curve(progress), self.initial_sparsity), self.final_sparsity)
        return (step - self.begin_step) % self.frequency == 0, sparsity

    def last_due(self, since: int, now: int) -> tuple[int, float] | None:
        due = min(now, self.end_step)
        if due < self.end_step:
            due -= (due - self.begin_step) % self.frequency
        if due < self.begin_step or due <= since:
            return None
        return due, self(due)[1]


@dataclass(frozen=True)
class PolynomialDecay(_Ramp):
    """``s_f + (s_i - s_f) * (1 - p)^power``: steep first (Zhu and Gupta; power 3 is called cubic).

    Args:
        initial_sparsity: Sparsity at `begin_step`, 0 to 1.
        final_sparsity: Sparsity at `end_step`, at least `initial_sparsity`, at most 1.
        begin_step: First due step, from 0.
        end_step: Last due step, above `begin_step`.
        power: Exponent, above 0.
        frequency: Steps between due steps, from 1.

    Raises:
        ArgumentError: A value outside these ranges.
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    power: float = 3
    frequency: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_power(self.power)

    def _curve(self, progress: float) -> float:
        remaining = float((1.0 - progress) ** self.power)
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * remaining


@dataclass(frozen=True)
class PowerRamp(_Ramp):
    """``s_i + (s_f - s_i) * p^power``: slow first (AdamWPrune's ramp). Parameters as in `PolynomialDecay`."""

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    power: float = 3
    frequency: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_power(self.power)

    def _curve(self, progress: float) -> float:
        rise = float(progress**self.power)
        return self.initial_sparsity + (self.final_sparsity - self.initial_sparsity) * rise


@dataclass(frozen=True)
class Linear(_Ramp):
    """``s_i + (s_f - s_i) * p``. Parameters as in `PolynomialDecay`, without `power`."""

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int = 100

    def _curve(self, progress: float) -> float:
        return self.initial_sparsity + (self.final_sparsity - self.initial_sparsity) * progress


@dataclass(frozen=True)
class Cosine(_Ramp):
    """``s_i + (s_f - s_i) * (1 - cos(pi p)) / 2``. Parameters as in `PolynomialDecay`, without `power`."""

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int = 100

    def _curve(self, progress: float) -> float:
        rise = (1.0 - math.cos(math.pi * progress)) / 2.0
        return self.initial_sparsity + (self.final_sparsity - self.initial_sparsity) * rise


@dataclass(frozen=True)
class OneShot(Schedule):
    """The whole sparsity at one step.

    Args:
        sparsity: 0 to 1.
        step: The due step, from 1 (steps are counted from 1, so step 0 would never fire).
    """

    sparsity: float
    step: int

    def __post_init__(self) -> None:
        _as_fraction(self, "sparsity")
        _as_int(self, "step")
        if self.step < 1:
            raise ArgumentError(
                f"step: {self.step}; this schedule can never fire, because steps are counted from 1. Pass "
                "step >= 1"
            )

    def __call__(self, step: int) -> tuple[bool, float]:
        return step == self.step, self.sparsity if step >= self.step else 0.0

    def last_due(self, since: int, now: int) -> tuple[int, float] | None:
        return (self.step, self.sparsity) if since < self.step <= now else None


_KINDS: dict[str, type[Schedule]] = {
    cls.__name__: cls for cls in (PolynomialDecay, PowerRamp, Linear, Cosine, OneShot)
}


def _as_int(schedule: Schedule, argument: str) -> None:
    value = getattr(schedule, argument)
    try:
        object.__setattr__(schedule, argument, operator.index(value))
    except TypeError:
        raise ArgumentError(f"{argument}: {value!r}; accepted: an integer number of steps") from None


def _as_fraction(schedule: Schedule, argument: str) -> None:
    value = getattr(schedule, argument)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 <= number <= 1.0:
        raise ArgumentError(f"{argument}: {value!r}; accepted: a fraction from 0 to 1")
    object.__setattr__(schedule, argument, number)


def _check_power(power: float) -> None:
    if not (isinstance(power, (int, float)) and math.isfinite(power) and power > 0):
        raise ArgumentError(f"power: {power!r}; accepted: a finite number above 0")
