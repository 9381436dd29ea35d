"""Trails: whether a search through attributes and dictionaries would find the same objects."""

from __future__ import annotations

import copy
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import _core
from bittersweet.tensors.trails import Trail


class Thing:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Slots:
    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}


class Answering(Thing):
    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)


class WithProperty:
    @property
    def held(self) -> dict[str, Any]:
        return {}


class WithDefault(Thing):
    held: Any = None


def walked(thing: Thing) -> Trail:
    trail = Trail()
    trail.contents(trail.attribute(thing, "held"))
    return trail


def thing() -> Thing:
    return Thing(held={"a": object(), "b": torch.ones(1), "c": None}, other=1)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a value": lambda t: t.held.update(a=object()),
    "an equal value": lambda t: t.held.update(b=torch.ones(1)),
    "a key more": lambda t: t.held.update(d=1),
    "a key less": lambda t: t.held.pop("c"),
    "another key": lambda t: t.held.update(d=t.held.pop("c")),
    "the order": lambda t: t.held.update(a=t.held.pop("a")),
    "nothing left": lambda t: t.held.clear(),
    "the dictionary": lambda t: setattr(t, "held", dict(t.held)),
    "the attribute, removed": lambda t: delattr(t, "held"),
    "all attributes": lambda t: setattr(t, "__dict__", {"held": {}}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_trail_holds_until_something_changes(change: str) -> None:
    one = thing()
    trail = walked(one)
    assert trail.holds()
    one.other = 2
    one.more = 3  # type: ignore[attr-defined]
    assert trail.holds()
    CHANGES[change](one)
    assert not trail.holds()
    assert walked(one).holds() is hasattr(one, "held")


def test_a_change_that_is_taken_back_is_none() -> None:
    one = thing()
    trail = walked(one)
    kept, one.held = one.held, {}  # type: ignore[attr-defined]
    assert not trail.holds()
    one.held = kept  # type: ignore[attr-defined]
    assert trail.holds()


def test_loosely_only_tensors_count() -> None:
    held: dict[str, Any] = {"m": torch.ones(2), "step": 1, "x": None}
    trail = Trail()
    trail.contents(held, loosely=True)
    held["step"], held["x"] = 2, "three"
    assert trail.holds()
    held["m"] = torch.ones(2)
    assert not trail.holds()


@pytest.mark.parametrize("held", [OrderedDict(a=1), defaultdict(dict, a=1), {}])
def test_the_dictionaries_that_torch_uses_can_be_followed(held: Any) -> None:
    trail = Trail()
    trail.contents(held)
    assert trail.holds()
    held["b"] = 2
    assert not trail.holds()


@pytest.mark.parametrize(
    "held", [UserDict(a=1), MappingProxyType({"a": 1}), type("D", (dict,), {})(a=1), [1], None, 3]
)
def test_other_mappings_lose_the_trail(held: Any) -> None:
    trail = Trail()
    trail.contents({"a": 1})
    trail.contents(held)
    assert trail.is_lost and not trail.holds()


@pytest.mark.parametrize(
    "owner", [Slots(), Answering(held={}), WithProperty(), WithDefault(held={}), Thing(), 3, None, Thing]
)
def test_attributes_that_something_else_may_answer_for_lose_the_trail(owner: Any) -> None:
    trail = Trail()
    assert trail.attribute(owner, "held") is None
    assert trail.is_lost and not trail.holds()


def test_nothing_holds_nothing() -> None:
    assert not Trail().holds()
    trail = walked(thing())
    assert not copy.deepcopy(trail).holds()


@pytest.mark.parametrize(
    "steps", [[3], [(1, 2)], [(1, 2, 3)], [({}, None, {})], [({}, b"a", 1)], [[Thing(), "a", 1]]]
)
def test_steps_of_another_form_are_errors(steps: Any) -> None:
    with pytest.raises(bs.ArgumentError, match="trail"):
        _core.trail_holds(steps)


@pytest.mark.parametrize(
    "steps",
    [
        [({}, "a", 1)],
        [(3, "a", 1)],
        [(3, (), ())],
        [({1: 2}, (1,), ())],
        [({}, (), (1,))],
        [(None, "a", None)],
    ],
)
def test_steps_that_lead_nowhere_do_not_hold(steps: Any) -> None:
    assert not _core.trail_holds(steps)


def test_python_code_that_runs_in_between_does_no_harm() -> None:
    steps: list[Any] = []

    class Key(str):
        def __hash__(self) -> int:
            return hash("held")

        def __eq__(self, other: object) -> bool:
            steps.clear()
            return False

    owner = Thing()
    vars(owner)[Key("x")] = 1
    steps += [(owner, "held", 1)] * 1000
    assert not _core.trail_holds(steps)
