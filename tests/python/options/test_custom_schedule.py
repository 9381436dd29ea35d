"""Schedules of one's own: functions and subclasses, what is checked of them, and what is saved."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.options.custom_schedule import checked_schedule


def stairs(step: int, height: float = 0.1) -> tuple[bool, float]:
    return step % 10 == 0, min(height * (step // 10), 0.5)


@dataclasses.dataclass(frozen=True)
class Stairs(bs.Schedule):
    every: int
    height: float
    shape: Any = None

    def __call__(self, step: int) -> tuple[bool, float]:
        return step % self.every == 0, min(self.height * (step // self.every), 0.5)


class Jump(bs.Schedule):
    """Not a dataclass, with a closed form of its own."""

    def __call__(self, step: int) -> tuple[bool, float]:
        return step == 7, 0.5

    def last_due(self, since: int, now: int) -> tuple[int, float] | None:
        return (7, 0.5) if since < 7 <= now else None

    @property
    def goal(self) -> tuple[int, float]:
        return 7, 0.5


SOURCES: list[Any] = [
    stairs,
    lambda step: stairs(step),
    functools.partial(stairs, height=0.05),
    Stairs(5, 0.2),
    Jump(),
]


@pytest.mark.parametrize("source", SOURCES, ids=["function", "lambda", "partial", "class", "closed form"])
def test_walking_finds_the_latest_due_step(source: Any) -> None:
    schedule = checked_schedule(source)
    assert isinstance(schedule, bs.Schedule)
    for since in range(30):
        for now in range(since, 40):
            due = [step for step in range(since + 1, now + 1) if source(step)[0]]
            expected = (due[-1], source(due[-1])[1]) if due else None
            assert checked_schedule(source).last_due(since, now) == expected
            assert schedule(now) == source(now)


def test_built_in_ones_are_returned_as_they_are() -> None:
    for schedule in (bs.OneShot(0.5, 3), bs.LinearRamp(0, 0.5, 0, 10), bs.ConstantSparsity(0.5, 10)):
        assert checked_schedule(schedule) is schedule
    wrapped = checked_schedule(stairs)
    assert checked_schedule(wrapped) is wrapped


@pytest.mark.parametrize(
    "answer",
    [
        (np.bool_(True), np.float32(0.5)),
        (torch.tensor(True), torch.tensor(0.5)),
        [True, Decimal("0.5")],
        (True, Fraction(1, 2)),
        (True, 0.5),
    ],
    ids=repr,
)
def test_answers_become_plain_values(answer: Any) -> None:
    found = checked_schedule(lambda step: answer).last_due(0, 3)
    assert found == (3, 0.5)
    assert [type(value) for value in found or ()] == [int, float]


@pytest.mark.parametrize(
    "answer",
    [
        0.5,
        (0.5, True),
        (1, 0.5),
        (True, 50),
        (True, -0.1),
        (True, float("nan")),
        (True, "0.5"),
        None,
        (True,),
    ],
    ids=repr,
)
def test_a_wrong_kind_of_answer_is_noticed_at_once_and_at_its_step(answer: Any) -> None:
    with pytest.raises(bs.ArgumentError, match=r"for step 1; accepted: a pair \(due, sparsity\)"):
        checked_schedule(lambda step: answer)
    later = checked_schedule(lambda step: answer if step == 4 else (False, 0.0))
    assert later.last_due(0, 3) is None
    with pytest.raises(bs.ArgumentError, match=r"test_a_wrong_kind.*lambda.*for step 4"):
        later.last_due(3, 4)


def test_a_fall_is_noticed_within_a_call_and_between_calls() -> None:
    def falling(step: int) -> tuple[bool, float]:
        return step in (3, 6), 0.5 if step < 6 else 0.4

    with pytest.raises(bs.ArgumentError, match=r"falling falls to 0.4 on step 6, from 0.5 on step 3"):
        checked_schedule(falling).last_due(0, 6)
    schedule = checked_schedule(falling)
    for step in range(1, 6):
        schedule.last_due(step - 1, step)
    with pytest.raises(bs.ArgumentError, match=r"falls to 0\.4 on step 6, from 0.5 on step 3"):
        schedule.last_due(5, 6)


def test_a_schedule_that_is_rewound_may_start_again() -> None:
    schedule = checked_schedule(stairs)
    assert schedule.last_due(0, 50) == (50, 0.5)
    assert schedule.last_due(9, 10) == (10, 0.1)
    assert copy.deepcopy(schedule).last_due(10, 20) == (20, 0.2)


def test_a_closed_form_of_ones_own_is_used_and_checked() -> None:
    class Wrong(Jump):
        def last_due(self, since: int, now: int) -> Any:
            return now + 1, 0.5

    class Far(Jump):
        def __call__(self, step: int) -> tuple[bool, float]:
            assert step == 1, "nobody walks"
            return False, 0.0

    assert checked_schedule(Far()).last_due(0, 2**62) == (7, 0.5)
    assert checked_schedule(Far()).goal == (7, 0.5)
    assert checked_schedule(stairs).goal is None
    with pytest.raises(bs.ArgumentError, match=r"last_due\(2, 5\) of .*Wrong gives \(6, 0.5\)"):
        checked_schedule(Wrong()).last_due(2, 5)


def test_what_is_saved() -> None:
    assert checked_schedule(stairs).to_config() == {"kind": "custom", "name": f"{__name__}.stairs"}
    assert checked_schedule(functools.partial(stairs, height=np.float64(0.05))).to_config() == {
        "kind": "custom",
        "name": f"{__name__}.stairs",
        "parameters": {"args": [], "height": 0.05},
    }
    plain = checked_schedule(Stairs(np.int64(5), 0.2, shape=(1, 2))).to_config()  # type: ignore[arg-type]
    assert plain == {
        "kind": "custom",
        "name": f"{__name__}.Stairs",
        "parameters": {"every": 5, "height": 0.2, "shape": [1, 2]},
    }
    assert json.loads(json.dumps(plain)) == plain
    opaque = checked_schedule(Stairs(5, 0.2, shape=object())).to_config()
    assert opaque["parameters"] == {"every": 5, "height": 0.2}
    assert Stairs(5, 0.2).to_config() == checked_schedule(Stairs(5, 0.2)).to_config()
    with pytest.raises(bs.ArgumentError, match=r"Stairs is no schedule of this package.*Make it again"):
        bs.Schedule.from_config(plain)


def test_a_subclass_of_a_built_in_one_is_ones_own() -> None:
    class Steeper(bs.PolynomialDecay):
        def _curve(self, progress: float) -> float:
            return super()._curve(progress**0.5)

    schedule = checked_schedule(Steeper(0.0, 0.8, 0, 100))
    assert schedule.to_config()["name"].endswith("Steeper")
    assert schedule.goal == (100, 0.8)
    assert schedule.last_due(0, 10**12) == (100, 0.8)


def test_equality_and_repr() -> None:
    assert checked_schedule(stairs) == checked_schedule(stairs)
    assert checked_schedule(Stairs(5, 0.2)) == checked_schedule(Stairs(5, 0.2))
    assert checked_schedule(Stairs(5, 0.2)) != checked_schedule(Stairs(5, 0.3))
    assert checked_schedule(stairs) != bs.OneShot(0.5, 1)
    assert hash(checked_schedule(stairs)) == hash(checked_schedule(stairs))
    assert repr(checked_schedule(stairs)) == f"{__name__}.stairs"
    assert repr(checked_schedule(Stairs(5, 0.2))) == "Stairs(every=5, height=0.2, shape=None)"
    assert "0x" not in repr(checked_schedule(Jump()))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "None; say when to prune"),
        ("cubic", "'cubic' is PolynomialDecay"),
        (0.5, r"OneShot\(0.5, step=1000\) in training or prune_\(model, sparsity=0.5\)"),
        (np.float32(0.5), r"prune_\(model, sparsity=0.5\)"),
        (50, "50; accepted: a schedule"),
        (bs.OneShot, "the class OneShot; make one"),
        ([0.1, 0.5], "accepted: a schedule, or a function"),
        (lambda: (True, 0.5), "cannot be called with a step"),
        (bs.Schedule(), r"Schedule defines no __call__\(step\)"),
    ],
)
def test_what_is_no_schedule(value: Any, message: str) -> None:
    with pytest.raises(bs.ArgumentError, match=f"schedule: .*{message}"):
        checked_schedule(value)


@pytest.mark.parametrize("source", SOURCES, ids=["function", "lambda", "partial", "class", "closed form"])
def test_a_copy_answers_alike_and_a_pickle_does_or_says_what_to_save(source: Any) -> None:
    schedule = checked_schedule(source)
    schedule.last_due(0, 20)
    copies = [copy.deepcopy(schedule)]
    if getattr(source, "__name__", "") == "<lambda>":
        with pytest.raises(bs.Error, match=r"schedule: .*<lambda> cannot be pickled.*state_dict\(\)"):
            pickle.dumps(schedule)
    else:
        copies.append(pickle.loads(pickle.dumps(schedule)))
    for other in copies:
        assert other.last_due(20, 40) == schedule.last_due(20, 40)
