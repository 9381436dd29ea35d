"""Sparsity schedules: pure functions of the step, ``schedule(step) -> (due, sparsity)``.

Before ``begin_step`` the answer is ``(False, 0.0)``; a ramp is due every ``frequency`` steps from
``begin_step`` and always on ``end_step``, which returns ``final_sparsity`` itself; afterwards nothing is due.
Between due steps the sparsity of the curve is returned with ``due`` False. Sparsity never falls.

What may be given where a schedule is wanted, functions too: see `custom_schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ArgumentError
from .schedule_answers import CUSTOM, checked_answer, custom_config, never_falling, title
from .values import ABOVE_ZERO, as_fraction, as_int, as_number, shown

__all__ = [
    "ConstantSparsity",
    "Cosine",
    "Linear",
    "LinearRamp",
    "OneShot",
    "PolynomialDecay",
    "PowerRamp",
    "Schedule",
]


class Schedule:
    """When masks are made, and how much is pruned then: ``schedule(step) -> (due, sparsity)``.

    The base of all schedules, and of your own. A subclass defines ``__call__``: for a step, counted from 1,
    whether masks are due and the share to prune there, from 0 to 1. It depends on the step alone, and the
    share never falls from one due step to the next. A frozen dataclass also makes its fields part of what
    checkpoints compare. A plain function ``step -> (due, sparsity)`` works wherever a schedule does.
    """

    def __call__(self, step: int) -> tuple[bool, float]:
        """Whether masks are due on `step`, and the sparsity wanted there."""
        raise ArgumentError(
            f"schedule: {type(self).__name__} defines no __call__(step) -> (due, sparsity). Define it, or "
            f"use one of {', '.join(_KINDS)}"
        )

    def last_due(self, since: int, now: int) -> tuple[int, float] | None:
        """The latest due step in (`since`, `now`] with its sparsity, or None. Asks for every step between.

        Raises:
            ArgumentError: The schedule's answer is no pair of a bool and a fraction, or falls.
        """
        last = None
        for step in range(since + 1, now + 1):
            if (found := checked_answer(self._subject, step, self(step)))[0]:
                last = never_falling(self._subject, last, (step, found[1]))
        return last

    @property
    def _subject(self) -> Any:
        """What messages are about."""
        return self

    @property
    def goal(self) -> tuple[int, float] | None:
        """The step that reaches the final sparsity, and that sparsity; None if only asking would tell."""
        return None

    @property
    def first_sparsity(self) -> float | None:
        """The sparsity that it begins with; None if only asking would tell."""
        return None

    @property
    def last_step(self) -> int | None:
        """The last due step; None if there is none, or if only asking would tell."""
        return None

    def __repr__(self) -> str:
        return title(self)

    def to_config(self) -> dict[str, Any]:
        """Plain values: the kind and the parameters; of a schedule of one's own its name, and its dataclass
        fields where they are plain."""
        kind = next((kind for kind, cls in _KINDS.items() if cls is type(self)), None)
        if kind is None:
            return custom_config(self)
        return {"kind": kind, **asdict(self)}  # type: ignore[call-overload]

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Schedule:
        """The schedule that `to_config` described. Raises ArgumentError for an unknown kind or parameter, and
        for a schedule of one's own, which cannot be rebuilt."""
        parameters = dict(config)
        kind = parameters.pop("kind", None)
        if kind == CUSTOM:
            raise ArgumentError(
                f"kind: '{CUSTOM}'; {parameters.get('name')} is no schedule of this package and cannot be "
                "rebuilt from what was saved. Make it again and give it as schedule"
            )
        if kind not in _KINDS and kind != "LinearRamp":
            raise ArgumentError(f"kind: {shown(kind)}; known schedules: {', '.join(_KINDS)}")
        try:
            return _KINDS.get(kind, LinearRamp)(**parameters)
        except TypeError as error:
            raise ArgumentError(f"{kind}: {error}") from None


class _Ramp(Schedule):
    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int

    def __post_init__(self) -> None:
        for argument in ("begin_step", "end_step"):
            _set(self, argument, as_int(argument, getattr(self, argument), what="an integer number of steps"))
        for argument in ("initial_sparsity", "final_sparsity"):
            _set(self, argument, as_fraction(argument, getattr(self, argument)))
        _set(
            self,
            "frequency",
            as_int("frequency", self.frequency, 1, what="an integer number of steps, from 1"),
        )
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

    def _curve(self, progress: float) -> float:
        raise TypeError("a ramp needs a curve")

    def __call__(self, step: int) -> tuple[bool, float]:
        step = as_int("step", step)
        if step < self.begin_step:
            return False, 0.0
        if step >= self.end_step:
            return step == self.end_step, self.final_sparsity
        progress = (step - self.begin_step) / (self.end_step - self.begin_step)
        sparsity = min(max(self._curve(progress), self.initial_sparsity), self.final_sparsity)
        return (step - self.begin_step) % self.frequency == 0, sparsity

    def last_due(self, since: int, now: int) -> tuple[int, float] | None:
        due = _latest(self.begin_step, self.end_step, self.frequency, now)
        return None if due <= since or due < self.begin_step else (due, self(due)[1])

    @property
    def goal(self) -> tuple[int, float]:
        return self.end_step, self.final_sparsity

    @property
    def first_sparsity(self) -> float:
        return self.initial_sparsity

    @property
    def last_step(self) -> int:
        return self.end_step


class _PowerOfProgress(_Ramp):
    power: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _set(self, "power", as_number("power", self.power, ABOVE_ZERO, what="a finite number above 0"))


@dataclass(frozen=True)
class PolynomialDecay(_PowerOfProgress):
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
    power: float = 3.0
    frequency: int = 100

    def _curve(self, progress: float) -> float:
        remaining = float((1.0 - progress) ** self.power)
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * remaining


@dataclass(frozen=True)
class PowerRamp(_PowerOfProgress):
    """``s_i + (s_f - s_i) * p^power``: slow first (AdamWPrune's ramp). Parameters as in `PolynomialDecay`."""

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    power: float = 3.0
    frequency: int = 100

    def _curve(self, progress: float) -> float:
        rise = float(progress**self.power)
        return self.initial_sparsity + (self.final_sparsity - self.initial_sparsity) * rise


@dataclass(frozen=True)
class LinearRamp(_Ramp):
    """``s_i + (s_f - s_i) * p``. Parameters as in `PolynomialDecay`, without `power`.

    `Linear` is its first name, and stays.
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int = 100

    def _curve(self, progress: float) -> float:
        return self.initial_sparsity + (self.final_sparsity - self.initial_sparsity) * progress


Linear = LinearRamp
"""The first name of `LinearRamp`."""


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
class ConstantSparsity(Schedule):
    """The same sparsity at every event: every `frequency` steps from `begin_step`, and on `end_step`.

    Later events find less to do: what is pruned stays pruned, unless the pruner has `regrow`.

    Args:
        sparsity: 0 to 1.
        begin_step: First due step, from 0 (steps are counted from 1, so that step 0 never fires).
        end_step: Last due step, from `begin_step`; None: there is no last one.
        frequency: Steps between due steps, from 1.

    Raises:
        ArgumentError: A value outside these ranges.
    """

    sparsity: float
    begin_step: int
    end_step: int | None = None
    frequency: int = 100

    def __post_init__(self) -> None:
        _set(self, "sparsity", as_fraction("sparsity", self.sparsity))
        _set(self, "begin_step", as_int("begin_step", self.begin_step, 0, what="a number of steps from 0"))
        _set(
            self,
            "frequency",
            as_int("frequency", self.frequency, 1, what="an integer number of steps, from 1"),
        )
        if self.end_step is not None:
            least = max(self.begin_step, 1)
            what = f"an integer from {least} (begin_step, and at least 1), or None for no end"
            _set(self, "end_step", as_int("end_step", self.end_step, least, what=what))

    def __call__(self, step: int) -> tuple[bool, float]:
        step = as_int("step", step)
        due = _latest(self.begin_step, self.end_step, self.frequency, step) == step >= self.begin_step
        return due, self.sparsity if step >= self.begin_step else 0.0

    def last_due(self, since: int, now: int) -> tuple[int, float] | None:
        due = _latest(self.begin_step, self.end_step, self.frequency, now)
        return None if due <= since or due < self.begin_step else (due, self.sparsity)

    @property
    def goal(self) -> tuple[int, float]:
        first = self.begin_step or self.frequency
        return first if self.end_step is None else min(first, self.end_step), self.sparsity

    @property
    def first_sparsity(self) -> float:
        return self.sparsity

    @property
    def last_step(self) -> int | None:
        return self.end_step


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
        _set(self, "sparsity", as_fraction("sparsity", self.sparsity))
        _set(self, "step", as_int("step", self.step, what="an integer number of steps"))
        if self.step < 1:
            raise ArgumentError(
                f"step: {self.step}; this schedule can never fire, because steps are counted from 1. Pass "
                "step >= 1"
            )

    def __call__(self, step: int) -> tuple[bool, float]:
        step = as_int("step", step)
        return step == self.step, self.sparsity if step >= self.step else 0.0

    def last_due(self, since: int, now: int) -> tuple[int, float] | None:
        return (self.step, self.sparsity) if since < self.step <= now else None

    @property
    def goal(self) -> tuple[int, float]:
        return self.step, self.sparsity

    @property
    def first_sparsity(self) -> float:
        return self.sparsity

    @property
    def last_step(self) -> int:
        return self.step


_KINDS: dict[str, type[Schedule]] = {
    "PolynomialDecay": PolynomialDecay,
    "PowerRamp": PowerRamp,
    "Linear": LinearRamp,  # what checkpoints call it
    "Cosine": Cosine,
    "ConstantSparsity": ConstantSparsity,
    "OneShot": OneShot,
}


def is_built_in(schedule: object) -> bool:
    """Whether this is one of the schedules above, not a subclass of one's own."""
    return type(schedule) in _KINDS.values()


def _latest(begin: int, end: int | None, frequency: int, now: int) -> int:
    """The latest step up to `now` of those every `frequency` steps from `begin`, and `end`; if there is none,
    something below `begin`."""
    if end is not None and now >= end:
        return end
    return now - (now - begin) % frequency


def _set(schedule: Schedule, argument: str, value: object) -> None:
    """Puts a plain value into a frozen schedule while it is made."""
    object.__setattr__(schedule, argument, value)
