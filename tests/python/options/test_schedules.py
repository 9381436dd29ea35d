"""Schedules: the curves to the letter, when they are due, and what they refuse."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from fractions import Fraction
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet import Schedule
from hypothesis import given
from hypothesis import strategies as st

RAMPS: list[Any] = [bs.PolynomialDecay, bs.PowerRamp, bs.Linear, bs.Cosine]


@st.composite
def ramps(draw: st.DrawFn) -> Any:
    low, high = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    begin = draw(st.integers(0, 300))
    end = begin + draw(st.integers(1, 300))
    cls = draw(st.sampled_from(RAMPS))
    extra = {"power": draw(st.sampled_from([0.5, 1, 2, 3, 4.5]))} if cls in RAMPS[:2] else {}
    return cls(low, high, begin, end, frequency=draw(st.integers(1, 400)), **extra)


@given(ramps())
def test_ramps(schedule: Any) -> None:
    answers = [schedule(step) for step in range(schedule.end_step + 50)]
    due = [step for step, (is_due, _) in enumerate(answers) if is_due]
    expected = {*range(schedule.begin_step, schedule.end_step, schedule.frequency), schedule.end_step}
    assert due == sorted(expected)
    values = [sparsity for _, sparsity in answers]
    assert values == sorted(values)
    assert all(answer == (False, 0.0) for answer in answers[: schedule.begin_step])
    assert values[schedule.begin_step] == pytest.approx(schedule.initial_sparsity, abs=1e-12)
    assert answers[schedule.end_step] == (True, schedule.final_sparsity)
    assert all(answer == (False, schedule.final_sparsity) for answer in answers[schedule.end_step + 1 :])
    assert all(0 <= sparsity <= schedule.final_sparsity for sparsity in values)


@given(
    st.one_of(ramps(), st.builds(bs.OneShot, st.floats(0, 1), st.integers(1, 700))),
    st.integers(0, 800),
    st.integers(0, 800),
)
def test_last_due(schedule: Any, since: int, now: int) -> None:
    steps = [step for step in range(since + 1, now + 1) if schedule(step)[0]]
    expected = (steps[-1], schedule(steps[-1])[1]) if steps else None
    assert schedule.last_due(since, now) == expected


@given(ramps())
def test_configuration_goes_through_json(schedule: Any) -> None:
    assert Schedule.from_config(json.loads(json.dumps(schedule.to_config()))) == schedule


def test_the_curves() -> None:
    initial, final, begin, end = 0.1, 0.9, 100, 500
    at = {
        bs.PolynomialDecay: lambda p: final + (initial - final) * (1 - p) ** 3,
        bs.PowerRamp: lambda p: initial + (final - initial) * p**3,
        bs.Linear: lambda p: initial + (final - initial) * p,
        bs.Cosine: lambda p: initial + (final - initial) * (1 - math.cos(math.pi * p)) / 2,
    }
    for cls, curve in at.items():
        schedule: Any = cls(initial, final, begin, end)
        for step in range(begin, end):
            assert schedule(step) == (step % 100 == 0, pytest.approx(curve((step - begin) / 400), abs=1e-15))
    assert bs.PolynomialDecay(0, 0.8, 0, 100, power=3)(50)[1] == pytest.approx(0.8 * 0.875)
    assert bs.PowerRamp(0, 0.8, 0, 100, power=3)(50)[1] == pytest.approx(0.8 * 0.125)


def test_rounding_never_leaves_the_bounds() -> None:
    """The curves alone would: 0.3 + (0.9 - 0.3) is not 0.9. The end is the final sparsity itself."""
    for low, high in itertools.combinations([i / 10 for i in range(11)], 2):
        for cls in RAMPS:
            schedule = cls(low, high, 3, 13)
            assert schedule(13) == (True, high)
            assert all(low <= schedule(step)[1] <= high for step in range(3, 13))


def test_nothing_is_due_before_the_beginning() -> None:
    for cls in RAMPS:
        schedule = cls(0.2, 0.5, 100, 200, frequency=7)
        for now in (1, 50, 99):
            assert schedule.last_due(0, now) is None
        assert schedule.last_due(0, 100) == (100, 0.2)
        assert schedule.last_due(100, 106) is None
        assert schedule.last_due(0, 10_000) == (200, 0.5)


def test_one_shot() -> None:
    schedule = bs.OneShot(0.5, 10)
    assert [schedule(s) for s in (0, 9, 10, 11)] == [(False, 0.0), (False, 0.0), (True, 0.5), (False, 0.5)]
    assert schedule.last_due(0, 9) is None
    assert schedule.last_due(9, 30) == (10, 0.5)
    assert schedule.last_due(10, 30) is None


def test_positional_order_and_defaults() -> None:
    assert bs.PolynomialDecay(0.0, 0.5, 10, 90, 2, 20) == bs.PolynomialDecay(
        initial_sparsity=0.0, final_sparsity=0.5, begin_step=10, end_step=90, power=2, frequency=20
    )
    for cls in RAMPS:
        schedule = cls(0, 1, 0, 10)
        assert schedule.frequency == 100
        assert getattr(schedule, "power", 3) == 3
        with pytest.raises(dataclasses.FrozenInstanceError):
            schedule.frequency = 3
    assert bs.Linear(0, 1, np.int64(0), np.int32(10)).to_config()["end_step"] == 10


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"initial_sparsity": -0.1}, "initial_sparsity"),
        ({"final_sparsity": 1.1}, "final_sparsity"),
        ({"final_sparsity": math.nan}, "final_sparsity"),
        ({"final_sparsity": "half"}, "final_sparsity"),
        ({"initial_sparsity": 0.6}, "initial_sparsity"),
        ({"begin_step": -1}, "begin_step"),
        ({"begin_step": 90}, "begin_step"),
        ({"begin_step": 1.5}, "begin_step"),
        ({"end_step": None}, "end_step"),
        ({"frequency": 0}, "frequency"),
        ({"frequency": 5.0}, "frequency: 5.0; accepted: an integer"),
    ],
)
@pytest.mark.parametrize("cls", RAMPS)
def test_refusals(cls: Any, change: dict[str, Any], argument: str) -> None:
    good = {"initial_sparsity": 0.0, "final_sparsity": 0.5, "begin_step": 10, "end_step": 90, "frequency": 10}
    cls(**good)
    with pytest.raises(bs.ArgumentError, match=argument):
        cls(**{**good, **change})


@pytest.mark.parametrize("power", [0, -1, math.inf, math.nan, "3"])
def test_bad_powers(power: Any) -> None:
    for cls in RAMPS[:2]:
        with pytest.raises(bs.ArgumentError, match="power"):
            cls(0, 0.5, 0, 10, power=power)


def test_a_schedule_that_can_never_fire_says_so() -> None:
    for step in (0, -5):
        with pytest.raises(bs.ArgumentError, match="never fire"):
            bs.OneShot(0.5, step)


def test_unknown_configurations() -> None:
    with pytest.raises(bs.ArgumentError, match="Quadratic"):
        Schedule.from_config({"kind": "Quadratic"})
    with pytest.raises(bs.ArgumentError, match="speed"):
        Schedule.from_config({**bs.OneShot(0.5, 3).to_config(), "speed": 1})


@given(
    st.integers(0, 60), st.one_of(st.none(), st.integers(0, 60)), st.integers(1, 30), st.integers(0, 150),
    st.integers(0, 150),
)  # fmt: skip
def test_constant_sparsity(begin: int, length: int | None, frequency: int, since: int, now: int) -> None:
    end = None if length is None else max(begin + length, 1)
    schedule = bs.ConstantSparsity(0.5, begin, end, frequency)
    stop = 200 if end is None else end
    due = {*range(begin, stop + 1, frequency), *([] if end is None else [end])}
    for step in range(200):
        assert schedule(step) == (step in due, 0.5 if step >= begin else 0.0)
    between = [step for step in sorted(due) if since < step <= now]
    assert schedule.last_due(since, now) == ((between[-1], 0.5) if between else None)
    assert schedule.goal == (min(step for step in due if step > 0), 0.5)
    assert Schedule.from_config(json.loads(json.dumps(schedule.to_config()))) == schedule


def test_a_constant_sparsity_without_end_answers_for_any_step() -> None:
    assert bs.ConstantSparsity(0.5, 10, frequency=7).last_due(0, 2**62)[1] == 0.5  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"sparsity": 50}, "50 % is 0.5"),
        ({"begin_step": -1}, "begin_step"),
        ({"end_step": 9}, "end_step"),
        ({"end_step": -1}, "None for no end"),
        ({"begin_step": 0, "end_step": 0}, "end_step"),
        ({"frequency": 0}, "frequency"),
        ({"frequency": 5.0}, "frequency: 5.0; accepted: an integer"),
        ({"frequency": True}, "frequency"),
    ],
)
def test_refusals_of_constant_sparsity(change: dict[str, Any], argument: str) -> None:
    with pytest.raises(bs.ArgumentError, match=argument):
        bs.ConstantSparsity(**{"sparsity": 0.5, "begin_step": 10, "end_step": 20, **change})


def test_goals() -> None:
    assert [cls(0.1, 0.9, 3, 13).goal for cls in RAMPS] == [(13, 0.9)] * 4
    assert bs.OneShot(0.5, 10).goal == (10, 0.5)


def test_the_first_name_of_the_linear_ramp_stays() -> None:
    """In code, and in what was saved under it."""
    assert bs.Linear is bs.LinearRamp
    schedule = bs.LinearRamp(0, 0.5, 10, 90)
    assert schedule.to_config()["kind"] == "Linear"
    assert Schedule.from_config({**schedule.to_config(), "kind": "LinearRamp"}) == schedule


def test_foreign_numbers_become_plain_ones() -> None:
    schedule = bs.PolynomialDecay(
        Fraction(1, 4),
        np.float32(0.5),
        np.int64(10),
        torch.tensor(90),
        power=np.float32(2),
        frequency=np.uint8(5),
    )  # type: ignore[arg-type]
    assert [type(value) for value in dataclasses.astuple(schedule)] == [float, float, int, int, float, int]
    due, sparsity = schedule(np.int64(50))  # type: ignore[arg-type]
    assert type(due) is bool
    assert type(sparsity) is float
    with pytest.raises(bs.ArgumentError, match=r"step: 50\.0"):
        schedule(50.0)  # type: ignore[arg-type]
