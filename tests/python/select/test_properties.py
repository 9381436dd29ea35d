"""Properties that hold for whatever inputs hypothesis makes up."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import BF16, Array, budget, keep_exact, keep_rows, kth

EXACT = st.sampled_from(["exact", "histogram", "kthvalue"])
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-40, 2.0, float("inf"), float("-inf")])
ANY = st.floats(width=32, allow_nan=False)
ELEMENTS = st.one_of(FEW, ANY)
SPARSITY = st.floats(0, 1)


def vectors(least: int = 0, most: int = 300, elements: Any = ELEMENTS) -> st.SearchStrategy[Array]:
    return st.one_of(
        hnp.arrays(np.float32, st.integers(least, most), elements=elements),
        hnp.arrays(np.float32, st.integers(least, most), elements=FEW),
    )


def cut(values: Array, data: st.DataObject) -> list[Array]:
    cuts = sorted(data.draw(st.lists(st.integers(0, values.size), max_size=5)))
    return np.split(values, cuts)


def inputs_of(parts: list[Array], masks: list[Array] | None = None) -> list[bs.ScoreInputs]:
    chosen: Any = masks or [None] * len(parts)
    return [bs.ScoreInputs(p, scores=p, mask=m) for p, m in zip(parts, chosen, strict=True)]


@given(vectors(1), st.data(), EXACT)
def test_kth_value_is_the_kth_of_the_sorted(values: Array, data: st.DataObject, selector: str) -> None:
    k = data.draw(st.integers(1, values.size))
    assert bs.kth_value(cut(values, data), k, selector=selector) == kth(values, k)


@given(vectors(), st.data(), EXACT, SPARSITY, st.booleans())
def test_masks_are_those_of_the_sort(
    values: Array, data: st.DataObject, selector: str, sparsity: float, regrow: bool
) -> None:
    live = data.draw(hnp.arrays(np.bool_, values.shape))
    parts = cut(values, data)
    sizes = np.cumsum([p.size for p in parts])[:-1]
    masks = bs.make_masks(
        inputs_of(parts, np.split(live, sizes)),
        sparsity=sparsity,
        scorer="identity",
        selector=selector,
        regrow=regrow,
    )
    k = budget(sparsity, values.size)
    keep = np.concatenate(masks.bool())
    assert np.array_equal(keep, keep_exact(values, k, None if regrow else live))
    event = masks.event
    assert event is not None
    assert event.pruned == int((~keep).sum())
    assert event.churn == int((keep != live).sum())
    assert event.total == values.size
    assert event.k == k
    scored = values if regrow else values[live]
    if event.threshold is not None and np.isfinite(event.threshold):
        assert event.count_below == int((scored < np.float32(event.threshold)).sum())
        assert event.count_equal == int((scored == np.float32(event.threshold)).sum())


@given(vectors(1), SPARSITY, st.sampled_from(["at_or_below", "below"]), EXACT)
def test_comparing_tie_rules(values: Array, sparsity: float, ties: str, selector: str) -> None:
    k = budget(sparsity, values.size)
    mask = bs.make_masks(
        inputs_of([values])[0], sparsity=sparsity, scorer="identity", ties=ties, selector=selector
    ).bool()
    if k == 0:
        assert mask.all()
    elif ties == "below":
        assert np.array_equal(mask, values >= kth(values, k))
    else:
        assert np.array_equal(mask, values > kth(values, k))


@given(vectors(1), st.tuples(SPARSITY, SPARSITY))
def test_more_sparsity_prunes_a_superset(values: Array, pair: tuple[float, float]) -> None:
    low, high = (
        bs.make_masks(inputs_of([values])[0], sparsity=s, scorer="identity").bool() for s in sorted(pair)
    )
    assert not (high & ~low).any()


@given(vectors(1), vectors(1), SPARSITY)
def test_the_order_of_tensors_moves_only_ties(a: Array, b: Array, sparsity: float) -> None:
    one = bs.threshold(inputs_of([a, b]), sparsity=sparsity, scorer="identity")
    two = bs.threshold(inputs_of([b, a]), sparsity=sparsity, scorer="identity")
    assert (one.value, one.pruned, one.count_below) == (two.value, two.pruned, two.count_below)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=9), elements=ELEMENTS), SPARSITY
)
def test_rows(values: Array, sparsity: float) -> None:
    cols = values[0].size
    masks = bs.make_masks(inputs_of([values])[0], sparsity=sparsity, scope="row", scorer="identity")
    assert np.array_equal(masks.bool(), keep_rows(values, budget(sparsity, cols)))


@given(vectors(1, elements=ANY), SPARSITY, st.sampled_from([np.float32, np.float16, BF16]))
def test_pruning_zeroes_exactly_the_pruned(values: Array, sparsity: float, dtype: Any) -> None:
    with np.errstate(over="ignore"):
        weight = values.astype(dtype)
    before = weight.copy()
    keep = keep_exact(np.abs(before.astype(np.float32)), budget(sparsity, values.size))
    event = bs.prune_(bs.ScoreInputs(weight), sparsity=sparsity, scorer="magnitude")
    assert np.array_equal(weight.view(np.uint8), np.where(keep, before, before.dtype.type(0)).view(np.uint8))
    again = bs.prune_(bs.ScoreInputs(weight), sparsity=sparsity, scorer="magnitude")
    assert again.pruned == event.pruned


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=0, max_dims=3, max_side=90)))
def test_packing_and_unpacking(keep: Array) -> None:
    mask = bs.Mask.from_bool(keep)
    assert np.array_equal(mask.bool(), keep)
    assert mask.kept() == int(keep.sum())
    assert mask.sparsity() == (0.0 if keep.size == 0 else 1.0 - keep.sum() / keep.size)


@given(vectors(1, 200, elements=ANY), st.data())
@settings(max_examples=50)
def test_streaming_converges(values: Array, data: st.DataObject) -> None:
    sparsity, tolerance = data.draw(SPARSITY), data.draw(st.sampled_from([0.0, 1e-3, 0.05]))
    found = bs.threshold(
        inputs_of([values])[0],
        sparsity=sparsity,
        scorer="identity",
        selector=bs.Streaming(tolerance=tolerance),
    )
    assert found.converged
    k = budget(sparsity, values.size)
    if k == 0:
        return
    value = np.float32(found.value)
    at_most, below = int((values <= value).sum()), int((values < value).sum())
    assert below < k <= at_most or abs(at_most - k) <= tolerance * values.size
