"""`tensor_sparsity`: ranges under one global budget, against sums over all counts that the ranges allow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet.options.ranges import checked_ranges
from hypothesis import given, settings
from hypothesis import strategies as st

Bounds = Sequence[tuple[int, int]]


def masks_of(scores: Sequence[np.ndarray], alive: Sequence[np.ndarray], bounds: Bounds, k: int) -> Any:
    """Keep masks by trying every cut through (score, tensor, index); None if no cut meets the budget."""
    order = sorted(
        (float(values[i]), t, i)
        for t, values in enumerate(scores)
        for i in range(values.size)
        if alive[t][i] and not math.isnan(values[i])
    )
    dead = [int((~live).sum()) for live in alive]
    numbers = [d + sum(1 for _, t, _ in order if t == at) for at, d in enumerate(dead)]
    limits = [
        (min(max(low, d), most), min(max(high, d), most))
        for (low, high), d, most in zip(bounds, dead, numbers, strict=True)
    ]
    for cut in range(len(order) + 1):
        below = [d + sum(1 for _, t, _ in order[:cut] if t == at) for at, d in enumerate(dead)]
        counts = [min(max(n, low), high) for n, (low, high) in zip(below, limits, strict=True)]
        if sum(counts) == max(k, sum(dead)):
            masks = [live.copy() for live in alive]
            for t, count in enumerate(counts):
                own = [i for _, at, i in order if at == t][: count - dead[t]]
                masks[t][own] = False
            return masks
    return None


def run(
    scores: Sequence[np.ndarray], alive: Sequence[np.ndarray], ranges: Mapping[str, Any], **options: Any
) -> Any:
    inputs = [
        bs.ScoreInputs(
            values,
            scores=values,
            name=f"t{t}",
            mask=None if options.get("regrow") and live.all() else live,
        )
        for t, (values, live) in enumerate(zip(scores, alive, strict=True))
    ]
    masks = bs.make_masks(inputs, scorer="identity", tensor_sparsity=ranges, **options)
    return masks.bool(), masks.event


def bounds_of(ranges: Mapping[str, Any], numels: Sequence[int], k: int) -> Bounds:
    found = checked_ranges(ranges)
    assert found is not None
    return found.counts([f"t{t}" for t in range(len(numels))], numels, None, k)


@st.composite
def cases(draw: Any) -> Any:
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    some = st.sampled_from([0.0, -0.0, 1.0, 1.0, 2.0, 3.5, math.inf, 1e-45, -1.0])
    nan = st.sampled_from([math.nan, 1.0, 2.0]) if draw(st.booleans()) else some
    scores = [np.array(draw(st.lists(some | nan, min_size=n, max_size=n)), np.float32) for n in sizes]
    masked = draw(st.booleans())
    alive = [
        np.array(draw(st.lists(st.booleans() if masked else st.just(True), min_size=n, max_size=n)), bool)
        for n in sizes
    ]
    ranges: dict[str, Any] = {}
    for t in range(len(sizes)):
        low, high = sorted((draw(st.floats(0, 1)), draw(st.floats(0, 1))))
        kind = draw(st.sampled_from(["free", "low", "high", "both", "share"]))
        choices = {"low": (low, 1.0), "high": (0.0, high), "both": (low, high), "share": low}
        if kind != "free":
            ranges[f"t{t}"] = choices[kind]
    ranges = ranges or {"*": (0.0, 1.0)}
    return scores, alive, ranges, draw(st.integers(0, sum(sizes))), draw(st.booleans())


@settings(max_examples=600, deadline=None)
@given(cases())
def test_masks_are_those_of_one_cut_clamped_to_the_ranges(case: Any) -> None:
    scores, alive, ranges, k, regrow = case
    bounds = bounds_of(ranges, [values.size for values in scores], k)
    competing = [np.ones_like(live) for live in alive] if regrow else alive
    dead = [int((~live).sum()) for live in competing]
    least = sum(max(low, d) for (low, _), d in zip(bounds, dead, strict=True))
    most = sum(max(high, d) for (_, high), d in zip(bounds, dead, strict=True))
    if not least <= max(k, sum(dead)) <= most:
        with pytest.raises(bs.ArgumentError, match=r"tensor_sparsity: .*the ranges allow"):
            run(scores, alive, ranges, k=k, regrow=regrow, nonfinite="keep")
        return
    found, event = run(scores, alive, ranges, k=k, regrow=regrow, nonfinite="keep")
    expected = masks_of(scores, competing, bounds, k)
    if expected is None:  # NaN scores that are kept leave too few
        assert any(np.isnan(values).any() for values in scores)
        assert event.pruned < max(k, sum(dead)) and event.nonfinite > 0
        return
    for t, (own, other) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(own, other, err_msg=f"t{t} of {case}")
    assert event.pruned == max(k, sum(dead)) or event.nonfinite


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_other_counts_within_the_ranges_lose_less(seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores = [draw.exponential(10.0 ** draw.uniform(-2, 2), draw.integers(1, 7)) for _ in range(4)]
    scores = [values.astype(np.float32) for values in scores]
    bounds = [tuple(sorted(draw.integers(0, values.size + 1, 2))) for values in scores]
    sums = [np.concatenate([[0.0], np.cumsum(np.sort(values.astype(np.float64)))]) for values in scores]
    every = list(itertools.product(*(range(low, high + 1) for low, high in bounds)))
    k = int(sum(every[draw.integers(len(every))]))
    best = min(sum(s[n] for s, n in zip(sums, counts, strict=True)) for counts in every if sum(counts) == k)
    ranges = {
        f"t{t}": (low / values.size, high / values.size)
        for t, (values, (low, high)) in enumerate(zip(scores, bounds, strict=True))
    }
    found, event = run(scores, [np.ones(values.size, bool) for values in scores], ranges, k=k)
    lost = sum(
        float(values[~mask].astype(np.float64).sum()) for values, mask in zip(scores, found, strict=True)
    )
    assert event.pruned == k
    assert lost == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("cap", [0.0, 0.29, 0.3, 1 / 3, 0.5, 0.9999, 1.0])
@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.29])
def test_a_cap_is_a_range_from_zero_bit_for_bit(cap: float, sparsity: float) -> None:
    draw = np.random.default_rng(7)
    weights = [draw.normal(0, t + 0.1, n).astype(np.float32) for t, n in enumerate((100, 70001, 333, 1, 0))]
    inputs = [bs.ScoreInputs(values, name=f"t{t}") for t, values in enumerate(weights)]
    options: Any = {"scorer": "magnitude", "sparsity": min(sparsity, cap * 0.99)}
    capped = bs.make_masks(inputs, max_tensor_sparsity=cap, **options)
    ranged = bs.make_masks(inputs, tensor_sparsity={"*": (0, cap)}, **options)
    for one, other in zip(capped, ranged, strict=True):
        np.testing.assert_array_equal(one.words, other.words)
    assert capped.event is not None and ranged.event is not None
    assert capped.event.per_tensor == ranged.event.per_tensor
    assert capped.event.threshold == ranged.event.threshold


def test_a_share_of_which_a_count_is_exactly_that_is_allowed() -> None:
    values = np.arange(100, dtype=np.float32)
    inputs = [bs.ScoreInputs(values, name="small"), bs.ScoreInputs(values + 1000, name="large")]
    for cap in ({"max_tensor_sparsity": 0.29}, {"tensor_sparsity": {"small": (0, 0.29)}}):
        event = bs.make_masks(inputs, k=40, scorer="magnitude", **cap).event
        assert event is not None and event.per_tensor["small"] == 0.29


@pytest.mark.parametrize(
    ("low", "high", "numel", "counts"),
    [
        (0.0, 1.0, 0, (0, 0)),
        (0.5, 0.5, 0, (0, 0)),
        (0.5, 0.5, 1, (1, 1)),
        (0.2, 0.4, 1, (0, 0)),  # no whole number of elements: next to the middle
        (0.5, 0.9, 1, (1, 1)),
        (0.07, 0.29, 100, (7, 29)),  # as doubles 7.000000000000001 and 28.999999999999996
        (0.29, 0.29, 100, (29, 29)),
        (0.4, 0.6, 7, (3, 4)),
        (1.0, 1.0, 5, (5, 5)),
    ],
)
def test_counts_of_a_range(low: float, high: float, numel: int, counts: tuple[int, int]) -> None:
    ranges = checked_ranges({"*": (low, high)})
    assert ranges is not None
    assert ranges.counts(["a"], [numel], 0.5, None) == [counts]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1)), min_size=1, max_size=6), st.floats(0, 1))
def test_lower_bounds_on_the_way_to_a_goal_take_nothing_from_later_events(tensors: Any, goal: float) -> None:
    numels = [n for n, _ in tensors]
    names = [f"t{t}" for t in range(len(tensors))]
    ranges = checked_ranges({name: (low, 1.0) for name, (_, low) in zip(names, tensors, strict=True)})
    assert ranges is not None
    final = [low for low, _ in ranges.counts(names, numels, None, sum(numels))]
    last = math.floor(goal * sum(numels) + 0.5)
    if sum(final) > last:
        return
    before = [0] * len(names)
    for k in range(last + 1):
        least = [low for low, _ in ranges.towards(goal).counts(names, numels, None, k)]
        assert all(one >= other for one, other in zip(least, before, strict=True))
        assert sum(least) <= k and sum(least) - sum(before) <= 1
        before = least
    assert before == final


def test_an_event_names_the_tensors_at_their_bounds() -> None:
    inputs = [
        bs.ScoreInputs(np.arange(1, 11, dtype=np.float32) * scale, name=name)
        for scale, name in ((1, "small"), (10, "middle"), (100, "large"), (5, "exact"))
    ]
    ranges = {"small": (0, 0.6), "large": (0.3, 1), "exact": 0.1}
    event = bs.make_masks(inputs, sparsity=0.45, scorer="magnitude", tensor_sparsity=ranges).event
    assert event is not None
    assert event.at_bounds == {"small": "high", "large": "low", "exact": "exact"}
    for words in ("low end of their range: large", "high end: small", "exact share: exact"):
        assert words in str(event)
    assert bs.MaskEvent.from_dict(event.to_dict()).at_bounds == event.at_bounds


def test_a_threshold_under_ranges_is_that_of_the_masks() -> None:
    draw = np.random.default_rng(3)
    inputs = [bs.ScoreInputs(draw.normal(0, s, 500).astype(np.float32), name=f"t{s}") for s in (1, 2, 9)]
    options: Any = {"sparsity": 0.5, "scorer": "magnitude", "tensor_sparsity": {"t1": (0, 0.6), "t9": 0.3}}
    found, event = bs.threshold(inputs, **options), bs.make_masks(inputs, **options).event
    assert event is not None
    for name in ("k", "pruned", "count_below", "count_equal", "total"):
        assert getattr(found, name) == getattr(event, name), name
    assert found.value == event.threshold


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_sparsity": {"a": 0.9, "b": 0.9}}, r"ranges allow 18 \(0\.9"),
        ({"tensor_sparsity": {"*": (0, 0.1)}}, r"ranges allow 0 .* to 2 \(0\.1"),
        ({"tensor_sparsity": {"zz": 0.1}}, "'zz'"),
        ({"tensor_sparsity": {"a": (0.5, 0.2)}}, "lower share first"),
        ({"tensor_sparsity": {"a": (0.5,)}}, "1 numbers"),
        ({"tensor_sparsity": {"a": 1.5}}, "tensor_sparsity of 'a'"),
        ({"tensor_sparsity": {"a": (math.nan, 1.0)}}, "tensor_sparsity of 'a'"),
        ({"tensor_sparsity": {}}, "empty"),
        ({"tensor_sparsity": {3: 0.5}}, "key"),
        ({"tensor_sparsity": 0.5}, "accepted: {glob"),
        ({"tensor_sparsity": {"a": 0.5}, "max_tensor_sparsity": 0.9}, "one of them"),
        ({"tensor_sparsity": {"a": 0.5}, "scope": "tensor"}, "scope 'global'"),
        ({"tensor_sparsity": {"a": 0.5}, "ties": "below"}, "ties"),
        ({"tensor_sparsity": {"a": 0.5}, "selector": "sampling"}, "exact selector"),
    ],
)
def test_what_is_refused_writes_nothing(options: dict[str, Any], message: str) -> None:
    weights = [np.arange(1, 11, dtype=np.float32), np.arange(1, 11, dtype=np.float32)]
    inputs = [bs.ScoreInputs(values, name=name) for values, name in zip(weights, "ab", strict=True)]
    before = [values.copy() for values in weights]
    with pytest.raises(bs.ArgumentError, match=message):
        bs.prune_(inputs, sparsity=0.5, scorer="magnitude", **options)
    for values, old in zip(weights, before, strict=True):
        np.testing.assert_array_equal(values, old)
