"""One event out of several: against the same decision counted from the masks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet.select.merge import merge_events
from bittersweet.tensors.lazy import is_unread, lazily

SHAPES = {"a": (40, 33), "b": (7, 65), "c": (1, 129), "d": (64, 2)}
GROUPS = {"first": (["a", "c"], 0.25), "second": (["b"], 0.8), "third": (["d"], 0.0)}


def events(**options: Any) -> tuple[dict[str, bs.MaskEvent], dict[str, bs.Masks]]:
    rng = np.random.default_rng(0)
    items = {
        name: bs.ScoreInputs(
            rng.standard_normal(shape, dtype=np.float32),
            exp_avg_sq=rng.choice([0.0, 1e-12, 1.0], shape).astype(np.float32),
            name=name,
        )
        for name, shape in SHAPES.items()
    }
    made = {
        glob: bs.make_masks([items[name] for name in names], sparsity=share, **options)
        for glob, (names, share) in GROUPS.items()
    }
    return {glob: masks.event for glob, masks in made.items() if masks.event}, made


def test_counts_are_those_of_the_whole() -> None:
    found, made = events()
    merged = merge_events(found, {"dense": 100})
    dead = {mask.name: mask.numel - mask.kept() for masks in made.values() for mask in masks}
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    assert merged.total == sum(sizes.values())
    assert merged.pruned == merged.churn == merged.k == sum(dead.values())
    assert merged.achieved_sparsity == sum(dead.values()) / sum(sizes.values())
    assert merged.requested_sparsity == merged.achieved_sparsity
    assert merged.achieved_sparsity_all == sum(dead.values()) / (sum(sizes.values()) + 100)
    assert merged.per_tensor == {name: dead[name] / sizes[name] for name in merged.per_tensor}
    assert merged.threshold is None
    assert merged.dense == ("dense",)
    assert set(merged.per_tensor) == set(SHAPES)
    assert merged.groups["second"]["threshold"] == found["second"].threshold
    for glob, (names, share) in GROUPS.items():
        total = sum(sizes[name] for name in names)
        assert merged.groups[glob]["total"] == total
        assert merged.groups[glob]["pruned"] == sum(dead[name] for name in names) == int(share * total + 0.5)
        assert merged.groups[glob]["requested"] == share


def test_shares_of_live_elements_are_those_of_one_call_over_all() -> None:
    found, _ = events(scorer="bitter7")
    rng = np.random.default_rng(0)
    values = []
    for shape in SHAPES.values():
        rng.standard_normal(shape, dtype=np.float32)
        values.append(rng.choice([0.0, 1e-12, 1.0], shape).astype(np.float32).ravel())
    merged = merge_events(found, {})
    everything = np.concatenate(values)
    assert merged.v_zero == pytest.approx((everything == 0).mean(), abs=1e-12)
    assert merged.v_below_eps == pytest.approx((everything < 1e-8).mean(), abs=1e-12)
    assert merged.achieved_sparsity_all is None


def test_the_event_goes_through_json_and_prints_every_group() -> None:
    merged = merge_events(events()[0], {"left": 3})
    again = bs.MaskEvent.from_dict(json.loads(json.dumps(merged.to_dict(), allow_nan=False)))
    assert again == merged
    assert again.groups["third"]["threshold"] == -math.inf
    text = str(merged)
    for glob in GROUPS:
        assert f"'{glob}': sparsity" in text
    assert "left dense: left" in text


def test_a_sampled_group_leaves_the_whole_uncounted() -> None:
    found, _ = events()
    sampled = replace(found["second"], count_below=None, standard_error=0.01, converged=False)
    merged = merge_events({**found, "second": sampled}, {})
    assert merged.count_below is None
    assert merged.count_equal == sum(event.count_equal or 0 for event in found.values())
    assert merged.standard_error == pytest.approx(0.01 * sampled.total / merged.total)
    assert merged.converged is False
    both = {**found, "first": replace(found["first"], standard_error=0.02), "second": sampled}
    variance = (0.02 * found["first"].total) ** 2 + (0.01 * sampled.total) ** 2
    assert merge_events(both, {}).standard_error == pytest.approx(variance**0.5 / merged.total)
    assert merge_events(found, {}).standard_error is None


def test_an_unread_group_makes_an_unread_event() -> None:
    found, _ = events()
    read = []
    unread = lazily(bs.MaskEvent, lambda: (read.append(1), found["second"])[1])
    merged = merge_events({**found, "second": unread}, {})
    assert is_unread(merged)
    assert not read
    assert merged.pruned == merge_events(found, {}).pruned
    assert read == [1]


def test_one_group_keeps_its_threshold() -> None:
    found, _ = events()
    assert merge_events({"second": found["second"]}, {}).threshold == found["second"].threshold
