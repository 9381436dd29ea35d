"""RigL and SET as values."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet.options.regrowth import Regrowth, checked_regrowth


@pytest.mark.parametrize("step", [0, 1, 33, 50, 99])
def test_the_drop_fraction_follows_its_curve(step: int) -> None:
    assert bs.RigL(0.4).fraction(step, 100) == 0.2 * (1 + math.cos(math.pi * step / 100))
    assert bs.RigL(0.4, decay="linear").fraction(step, 100) == 0.4 * (1 - step / 100)
    assert bs.RigL(0.4, decay="constant").fraction(step, 100) == 0.4
    assert bs.SET(0.4).fraction(step, None) == bs.SET(0.4).fraction(1000, 100) == 0.4


def test_after_the_end_nothing_is_dropped() -> None:
    for decay in ("cosine", "linear"):
        assert bs.RigL(decay=decay).fraction(100, 100) == bs.RigL(decay=decay).fraction(101, 100) == 0.0
    assert bs.RigL(end=40).fraction(40, 100) == 0.0
    assert bs.RigL(end=40).fraction(20, 100) == pytest.approx(0.15)
    assert bs.SET(end=40).fraction(39, None) == 0.3 and bs.SET(end=40).fraction(40, None) == 0.0


def test_it_may_begin_to_fall_later() -> None:
    late = bs.RigL(0.4, begin=50)
    assert late.fraction(10, 100) == late.fraction(50, 100) == 0.4 and late.fraction(100, 100) == 0.0
    assert late.fraction(75, 100) == pytest.approx(0.2)
    assert bs.RigL(0.4, decay="linear", begin=50).fraction(60, 100) == pytest.approx(0.32)
    with pytest.raises(bs.ArgumentError, match=r"begins at step 50.*ends at step 50"):
        late.require_end(50)


def test_they_are_plain_values() -> None:
    assert bs.RigL() == bs.RigL(np.float32(0.3).item() and 0.3) and bs.RigL() != bs.RigL(0.2)
    assert bs.RigL() != bs.SET(decay="cosine")
    assert repr(bs.RigL(0.25)) == (
        "RigL(drop_fraction=0.25, decay='cosine', begin=0, end=None, allow_same=True)"
    )
    for one in (bs.RigL(0.1, end=3), bs.SET(seed=4)):
        assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one and len({one, one}) == 1
    config = bs.SET(np.float64(0.5), end=np.int64(7), seed=np.int64(3)).to_config()
    assert config == {
        "kind": "SET", "drop_fraction": 0.5, "decay": "constant", "begin": 0, "end": 7,
        "allow_same": True, "seed": 3,
    }  # fmt: skip
    assert {type(value) for value in config.values()} == {str, float, int, bool}
    with pytest.raises(AttributeError):
        bs.RigL().drop_fraction = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: bs.RigL(1.5), "drop_fraction"),
        (lambda: bs.RigL(-0.1), "drop_fraction"),
        (lambda: bs.RigL(30), "drop_fraction.*0.3"),
        (lambda: bs.RigL(float("nan")), "drop_fraction"),
        (lambda: bs.RigL(True), "drop_fraction"),
        (lambda: bs.RigL(decay="exponential"), "decay"),
        (lambda: bs.RigL(end=0), "end"),
        (lambda: bs.RigL(begin=-1), "begin"),
        (lambda: bs.RigL(begin=5, end=5), "end.*after begin"),
        (lambda: bs.RigL(allow_same=1), "allow_same"),  # type: ignore[arg-type]
        (lambda: bs.RigL(end=2.5), "end"),  # type: ignore[arg-type]
        (lambda: bs.SET(seed=-1), "seed"),
        (lambda: bs.SET(seed=0.5), "seed"),  # type: ignore[arg-type]
        (Regrowth, "RigL or SET"),
    ],
)
def test_bad_values_are_refused_by_name(make: Any, argument: str) -> None:
    with pytest.raises(bs.ArgumentError, match=argument):
        make()


@pytest.mark.parametrize("value", [bs.RigL, "RigL", 0.3, 1, None, "rigl"])
def test_what_is_no_regrowth_is_refused(value: Any) -> None:
    with pytest.raises(bs.ArgumentError, match=r"regrow: .*RigL\(drop_fraction=0.3\)"):
        checked_regrowth(value)


def test_flags_stay_flags() -> None:
    assert checked_regrowth(np.bool_(True)) is True and checked_regrowth(False) is False
