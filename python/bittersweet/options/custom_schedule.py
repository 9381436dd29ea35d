"""What may be given as a schedule: those of `schedules`, a subclass of `Schedule`, or a plain function."""

from __future__ import annotations

import copy
import pickle
from types import FunctionType
from typing import Any

from ..errors import ArgumentError, Error
from .schedule_answers import CUSTOM, checked_answer, custom_config, never_falling, title
from .schedules import Schedule, is_built_in
from .values import as_fraction, shown

__all__ = ["CustomSchedule", "checked_schedule"]

_EXAMPLE = "PolynomialDecay(0.0, 0.5, begin_step=100, end_step=1000, frequency=100)"


class CustomSchedule(Schedule):
    """A schedule of the user's own, whose answers are checked: `source` is a function or a `Schedule`.

    It remembers the last due step it was asked for, so that a fall is noticed between two calls as well.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self._reached: tuple[int, float] | None = None

    def __call__(self, step: int) -> tuple[bool, float]:
        return checked_answer(self.source, step, self.source(step))

    def last_due(self, since: int, now: int) -> tuple[int, float] | None:
        if getattr(type(self.source), "last_due", Schedule.last_due) is Schedule.last_due:
            found = super().last_due(since, now)
        else:  # a closed form of the user's
            found = self._checked_step(self.source.last_due(since, now), since, now)
        if found is not None:
            known = self._reached if self._reached is not None and self._reached[0] <= since else None
            self._reached = never_falling(self.source, known, found)
        return found

    def _checked_step(self, found: Any, since: int, now: int) -> tuple[int, float] | None:
        if found is None:
            return None
        try:
            step, sparsity = found
            if since < step <= now:
                return int(step), as_fraction("sparsity", sparsity)
        except (ArgumentError, TypeError, ValueError):
            pass
        raise ArgumentError(
            f"schedule: last_due({since}, {now}) of {title(self.source)} gives {shown(found)}; accepted: "
            f"None, or a pair of a due step from {since + 1} to {now} and its sparsity"
        )

    @property
    def _subject(self) -> Any:
        return self.source

    @property
    def goal(self) -> tuple[int, float] | None:
        return self.source.goal if isinstance(self.source, Schedule) else None

    @property
    def first_sparsity(self) -> float | None:
        return self.source.first_sparsity if isinstance(self.source, Schedule) else None

    @property
    def last_step(self) -> int | None:
        return self.source.last_step if isinstance(self.source, Schedule) else None

    def to_config(self) -> dict[str, Any]:
        return custom_config(self.source)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CustomSchedule) and bool(self.source == other.source)

    def __hash__(self) -> int:
        return hash((CUSTOM, title(self.source)))

    def __deepcopy__(self, memo: dict[int, Any]) -> CustomSchedule:
        made = CustomSchedule(copy.deepcopy(self.source, memo))
        made._reached = self._reached
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A function is pickled by its name, which lambdas and nested functions do not have."""
        if isinstance(self.source, FunctionType):
            try:
                pickle.dumps(self.source)
            except (pickle.PicklingError, AttributeError) as error:
                raise Error(
                    f"schedule: {title(self.source)} cannot be pickled ({error}). Define it at the top of a "
                    "module, or save Pruner.state_dict(), which needs no function"
                ) from None
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(self.source) if isinstance(self.source, Schedule) else title(self.source)


def checked_schedule(value: Any) -> Schedule:
    """`value` as a schedule: one of `schedules` as it is, anything of the user's as a `CustomSchedule`.

    A schedule of the user's own is asked for step 1, so that a wrong kind of answer is noticed at once.

    Raises:
        ArgumentError: It is no schedule; the message says what to give instead.
    """
    if isinstance(value, Schedule) and (is_built_in(value) or isinstance(value, CustomSchedule)):
        return value
    if callable(value) and not isinstance(value, type):
        made = CustomSchedule(value)
        try:
            answer = value(1)
        except TypeError as error:
            raise ArgumentError(
                f"schedule: {title(value)} cannot be called with a step ({error}); accepted: a function step "
                f"-> (due, sparsity), or a schedule such as {_EXAMPLE}"
            ) from None
        checked_answer(value, 1, answer)
        return made
    raise ArgumentError(f"schedule: {_found(value)}. A schedule is, for example, {_EXAMPLE}")


def _found(value: Any) -> str:
    if value is None:
        return "None; say when to prune, and how much"
    if isinstance(value, type) and issubclass(value, Schedule):
        return f"the class {value.__name__}; make one with its parameters"
    if isinstance(value, str):
        return (
            f"'{value}'; a name says neither when nor how much ('cubic' is PolynomialDecay, whose power is 3)"
        )
    try:
        fraction = as_fraction("schedule", value)
    except ArgumentError:
        return f"{shown(value)}; accepted: a schedule, or a function step -> (due, sparsity)"
    return (
        f"{fraction:g}, a number; to prune once use OneShot({fraction:g}, step=1000) in training or "
        f"prune_(model, sparsity={fraction:g}) outside of it"
    )
