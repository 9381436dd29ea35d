"""What the callbacks have in common: a `Recipe` of pruning, which becomes a `Pruner` once it is known how
long the training is, and the numbers of an event that are logged."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, CheckpointError
from ..options import keywords
from ..options.budgets import shares
from ..options.schedules import PolynomialDecay, Schedule
from ..options.scorers import resolve_scorer
from ..options.values import as_bool, as_fraction, as_int, shown
from ..training.pruner import Pruner

if TYPE_CHECKING:
    import torch

    from ..select.events import MaskEvent

__all__ = ["Length", "Recipe", "numbers", "release", "restore"]

_LOGGED = ("sparsity", "threshold", "churn", "empty_rows", "v_below_eps", "milliseconds")
_BY_RECIPE = ("sparsity", "begin", "end", "events", "initial_sparsity")


@dataclass(frozen=True)
class Length:
    """How long a training is, in optimizer steps; None for what nobody knows.

    Attributes:
        steps: Of the whole training.
        epoch: Of one epoch.
    """

    steps: int | None
    epoch: float | None


@dataclass(frozen=True)
class _When:
    """A time of training as a caller gave it: `amount` of "steps", "epochs", or a "share" of everything."""

    argument: str
    given: Any
    unit: str
    amount: float

    @classmethod
    def of(cls, argument: str, given: Any) -> _When:
        if isinstance(given, str):
            if found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*epochs?\s*", given):
                return cls(argument, given, "epochs", float(found[1]))
        else:
            with suppress(ArgumentError):
                return cls(argument, given, "steps", as_int(argument, given, 0))
            with suppress(ArgumentError):
                return cls(argument, given, "share", as_fraction(argument, given))
        raise ArgumentError(
            f"{argument}: {shown(given)}; accepted: a float from 0.0 to 1.0 (a share of the training), an "
            "integer (a step), or text such as '2 epochs'"
        )

    def step(self, length: Length) -> int:
        """The nearest optimizer step."""
        unit = {"steps": 1.0, "epochs": length.epoch, "share": length.steps}[self.unit]
        if unit is None:
            unknown = "how long an epoch is" if self.unit == "epochs" else "how long the training is"
            raise ArgumentError(
                f"{self.argument}: {shown(self.given)}, and nobody knows {unknown} (a data set without a "
                "length, or training without an end). Give a number of steps"
            )
        step = round(self.amount * unit)
        if length.steps is not None and step > length.steps:
            raise ArgumentError(
                f"{self.argument}: {shown(self.given)} is step {step:,}, and the training ends at step "
                f"{length.steps:,}. Give an earlier one, or 1.0 for the end"
            )
        return step


class Recipe:
    """Checks what a callback is given as far as that can be done before there is a model.

    Args:
        callback: The class whose arguments these are, for messages.
        scorer: As in `Pruner`.
        sparsity, begin, end, events, initial_sparsity, schedule, keep_zeros, start: As the callbacks describe
            them.
        options: Further arguments of `Pruner`; with `keep_zeros` the ``min_sparsity`` of `Pruner.from_zeros`.

    Raises:
        ArgumentError: One is out of range or unknown, or two exclude each other.
    """

    def __init__(
        self,
        callback: type,
        scorer: Any,
        *,
        sparsity: Any,
        begin: Any,
        end: Any,
        events: Any,
        initial_sparsity: Any,
        schedule: Any,
        keep_zeros: Any,
        start: Any,
        options: Mapping[str, Any],
    ) -> None:
        known = [*_keyword_only(Pruner), "sparsity", "min_sparsity"]
        keywords.refuse(callback, {key: options[key] for key in options if key not in known}, known)
        self._begin, self._end = _When.of("begin", begin), _When.of("end", end)
        self._events = as_int("events", events, 1)
        self._initial = as_fraction("initial_sparsity", initial_sparsity)
        self._goal = _goal(sparsity, self._initial)
        self._schedule = schedule
        if start is not None and keep_zeros is True:
            raise ArgumentError(
                "start, keep_zeros: the first masks are either made or taken from the zeros of the model. "
                "Give one of the two"
            )
        self._keep_zeros, self._start = as_bool("keep_zeros", keep_zeros), start
        if start is not None:
            _check_start(start, schedule is None and not self._initial)
        self._options = {"scorer": scorer, **options}
        self._zeros = {"min_sparsity": self._options.pop("min_sparsity")} if "min_sparsity" in options else {}
        if self._zeros and not self._keep_zeros:
            raise ArgumentError(
                "min_sparsity: given without keep_zeros=True, which reads it. Give both or none"
            )
        if schedule is not None:
            defaults = inspect.signature(callback).parameters
            given = {"sparsity": sparsity, "begin": begin, "end": end, "events": events}
            given["initial_sparsity"] = initial_sparsity
            for argument in _BY_RECIPE:
                if given[argument] != defaults[argument].default:
                    raise ArgumentError(
                        f"schedule, {argument}: a schedule says itself how much is pruned and when. Give one "
                        "of the two"
                    )
        elif self._goal is None and not self._keep_zeros:
            raise ArgumentError(
                "sparsity: None, and no schedule, so that nothing would be pruned. Give a fraction such as "
                "0.5, or keep_zeros=True to hold the zeros that the model has"
            )

    def schedule(self, length: Length) -> Any:
        """What `Pruner` takes as its schedule, for a training of this length.

        Raises:
            ArgumentError: `begin` or `end` lies outside of the training, or they are the same step.
        """
        if self._schedule is not None or self._goal is None:
            return self._schedule
        begin, end = self._begin.step(length), self._end.step(length)
        if begin >= end:
            found = " and ".join(
                f"{shown(one.given)} (step {one.step(length):,})" for one in (self._begin, self._end)
            )
            raise ArgumentError(
                f"begin, end: {found}; begin must lie before end. Train for longer, or give two steps"
            )
        apart = -(-(end - begin) // self._events)

        def ramp(sparsity: float) -> PolynomialDecay:
            return PolynomialDecay(self._initial, sparsity, begin, end, frequency=apart)

        if isinstance(self._goal, dict):
            return {glob: ramp(sparsity) for glob, sparsity in self._goal.items()}
        return ramp(self._goal)

    def pruner(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | list[torch.optim.Optimizer],
        length: Length,
        resumed: bool,
    ) -> Pruner:
        """A pruner of this model for a training of this length, attached to its optimizers. Of one that is
        `resumed` the masks are yet to come, by `restore`."""
        schedule, options = self.schedule(length), self._options
        if self._keep_zeros and not resumed:
            pruner = Pruner.from_zeros(model, optimizer, schedule=schedule, **self._zeros, **options)
        else:
            pruner = Pruner(model, optimizer, schedule=schedule, **options)
        if self._start is not None and not resumed:
            pruner.start(scorer=self._start)
        return pruner.attach()


def numbers(event: MaskEvent) -> dict[str, float]:
    """What is logged of an event, numbers only, under ``pruning/``; `MaskEvent.scalars` has all there are."""
    found = event.scalars()
    return {f"pruning/{name}": found[name] for name in _LOGGED if name in found}


def release(pruner: Pruner | None) -> None:
    """Removes the hooks of a pruner whose training was broken off, if any. Unlike `Pruner.finalize` it writes
    nothing and says nothing: the model may be gone, and that the schedule is unfinished is no news."""
    if pruner is not None:
        pruner._loop.retire()


def restore(pruner: Pruner, state: Mapping[str, Any], where: str) -> None:
    """`Pruner.load_state_dict` of a resumed training; its hooks are removed if that fails.

    Raises:
        CheckpointError: Naming `where` the state comes from, what differs, and what would fit.
    """
    try:
        pruner.load_state_dict(state)
    except CheckpointError as error:
        release(pruner)
        raise CheckpointError(f"{where}: {_advised(str(error), state)}") from None


def _advised(message: str, state: Any) -> str:
    """The message about a state that does not fit, with what can be done about it here."""
    differs, found, _ = message.partition(". Make the Pruner with the saved values")
    if not found:
        return message
    advice = "Give the callback the arguments that it had, and the trainer the same length of training"
    with suppress(ArgumentError):
        saved = Schedule.from_config(state["config"]["schedule"])
        advice += f"; or give the saved schedule: schedule=bs.{saved!r}"
    return f"{differs}. {advice}"


def _keyword_only(function: Any) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]


def _check_start(start: Any, empty: bool) -> None:
    try:
        resolve_scorer(start, None, 0)
    except ArgumentError as error:
        raise ArgumentError(f"start: {shown(start)}; {error}") from None
    if empty:
        raise ArgumentError(
            f"start: {shown(start)} with initial_sparsity=0.0, so that nothing would be pruned then. Give "
            "initial_sparsity, which may equal sparsity, or a schedule that begins with a share"
        )


def _goal(sparsity: Any, initial: float) -> float | dict[str, float] | None:
    if sparsity is None:
        return None
    goal = shares(sparsity) if isinstance(sparsity, Mapping) else as_fraction("sparsity", sparsity)
    least = min(goal.values()) if isinstance(goal, dict) else goal
    if least < initial:
        raise ArgumentError(
            f"initial_sparsity: {initial:g} is above sparsity {least:g}; sparsity never "
            "falls. Give a smaller one"
        )
    return goal
