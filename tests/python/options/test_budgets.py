"""Budgets by glob: who belongs to which, and schedules of several groups."""

from __future__ import annotations

import json
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet.options.budgets import Schedules, group, shares

NAMES: dict[str, tuple[str, ...]] = {
    "embed.weight": ("head.weight",),
    "blocks.0.fc.weight": (),
    "blocks.0.proj.weight": (),
    "blocks.1.fc.weight": (),
    "blocks.10.fc.weight": (),
    "tail": (),
}


@pytest.mark.parametrize(
    ("patterns", "members", "dense"),
    [
        (["*"], [list(NAMES)], []),
        (
            ["blocks.1", "blocks.*"],
            [["blocks.1.fc.weight"], ["blocks.0.fc.weight", "blocks.0.proj.weight", "blocks.10.fc.weight"]],
            ["embed.weight", "tail"],
        ),
        (
            ["*.fc", "blocks"],
            [[name for name in NAMES if ".fc." in name], ["blocks.0.proj.weight"]],
            ["embed.weight", "tail"],
        ),
        (["head.*"], [["embed.weight"]], [name for name in NAMES if name != "embed.weight"]),
        (
            ["tail", "blocks.?.fc.weight"],
            [["tail"], ["blocks.0.fc.weight", "blocks.1.fc.weight"]],
            ["embed.weight", "blocks.0.proj.weight", "blocks.10.fc.weight"],
        ),
    ],
)
def test_each_name_belongs_to_the_first_pattern_it_meets(
    patterns: list[str], members: list[list[str]], dense: list[str]
) -> None:
    found = group("sparsity", patterns, NAMES)
    assert list(found.members) == patterns
    assert [list(names) for names in found.members.values()] == members
    assert list(found.dense) == dense


def test_patterns_without_a_weight_are_refused() -> None:
    with pytest.raises(bs.ArgumentError, match=r"sparsity names 'block\.\*'.*blocks\.0\.fc\.weight"):
        group("sparsity", ["block.*"], NAMES)
    with pytest.raises(bs.ArgumentError, match=r"'tail' gets no weight.*\('\*'\).*narrower pattern first"):
        group("sparsity", ["*", "tail"], NAMES)


@pytest.mark.parametrize("bad", [{}, {3: 0.5}, {"a": 1.5}, {"a": "half"}, {"a": None}, {"a": True}], ids=str)
def test_bad_shares(bad: dict[Any, Any]) -> None:
    with pytest.raises(bs.ArgumentError, match="sparsity"):
        shares(bad)


def test_shares_are_plain() -> None:
    found = shares({"a": np.float32(0.5), "b": 1})
    assert found == {"a": 0.5, "b": 1.0}
    assert {type(value) for value in found.values()} == {float}


def test_schedules_of_groups() -> None:
    made = Schedules(
        {
            "blocks.0": bs.LinearRamp(0.0, 0.5, 10, 30, frequency=10),
            "tail": None,
            "*": lambda step: (step % 15 == 0, 0.2),
        }
    )
    groups = made.group(NAMES)
    assert list(groups.members) == ["blocks.0", "*"]
    assert groups.dense == ("tail",)
    assert groups.members["*"] == ("embed.weight", "blocks.1.fc.weight", "blocks.10.fc.weight")
    fired = {step: made.last_due(step - 1, step) for step in range(1, 40)}
    assert {step: answers for step, answers in fired.items() if answers} == {
        10: {"blocks.0": (10, 0.0)},
        15: {"*": (15, 0.2)},
        20: {"blocks.0": (20, 0.25)},
        30: {"blocks.0": (30, 0.5), "*": (30, 0.2)},
    }
    assert made.goals == {"blocks.0": (30, 0.5), "*": None}
    config = made.to_config()
    assert json.loads(json.dumps(config)) == config
    assert [glob for glob, _ in config["schedules"]] == ["blocks.0", "tail", "*"]
    assert config["schedules"][1][1] is None
    assert "'tail': None" in repr(made)


def test_the_order_of_schedules_matters() -> None:
    one, two = bs.OneShot(0.5, 3), bs.OneShot(0.2, 3)
    assert Schedules({"a": one, "b": two}) == Schedules({"a": one, "b": two})
    assert Schedules({"a": one, "b": two}) != Schedules({"b": two, "a": one})
    assert Schedules({"a": one}).to_config() != Schedules({"a": two}).to_config()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "empty"),
        ({"a": None}, "every group is None"),
        ({"a": 0.5}, "schedule of 'a': 0.5, a number"),
        ({1: None}, "key 1"),
    ],
)
def test_bad_schedules_of_groups(bad: dict[Any, Any], message: str) -> None:
    with pytest.raises(bs.ArgumentError, match=message):
        Schedules(bad)
