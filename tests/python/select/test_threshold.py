"""Thresholds: every selector against sorting, over many tensors as one sequence."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import bittersweet as bs
import numpy as np
import oracle
import pytest
import torch
from oracle import BF16, SIZES, Array, awkward, bits, kth, spread

EXACT = ("exact", "histogram", "kthvalue", bs.Streaming(tolerance=0))


def patterns(n: int) -> dict[str, Array]:
    rng = np.random.default_rng(n)
    normal = rng.standard_normal(n).astype(np.float32)
    return {
        "normal": normal,
        "half-normal": np.abs(normal),
        "awkward": awkward(n, n),
        "all equal": np.full(n, 0.25, np.float32),
        "all zero": np.where(rng.random(n) < 0.5, np.float32(0), np.float32(-0.0)),
        "two values": rng.choice(np.array([1.0, 2.0], np.float32), n),
        "half zeros": np.where(rng.random(n) < 0.5, np.float32(0), np.abs(normal)),
        "bf16-rounded": normal.astype(BF16).astype(np.float32),
        "sorted": np.sort(normal),
        "reversed": np.sort(normal)[::-1].copy(),
        "heavy tail": spread(n, n, -40, 38),
        "denormals": spread(n, n, -45, -38),
        "infinities": rng.choice(np.array([np.inf, -np.inf, 0.0, 1.0], np.float32), n),
        "adjacent": np.float32(1) + rng.integers(0, 3, n).astype(np.float32) * np.float32(2.0**-23),
    }


def ranks(n: int) -> list[int]:
    return sorted({1, 2, n // 3, n // 2, (9 * n) // 10, n - 1, n} & set(range(1, n + 1)))


@pytest.mark.parametrize("selector", EXACT, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_exact_selectors_find_the_kth_of_a_sort(selector: Any, size: int) -> None:
    chosen = patterns(size)
    if size > 1000:
        chosen = {key: chosen[key] for key in ("normal", "half zeros", "heavy tail", "two values")}
    for name, values in chosen.items():
        ordered = np.sort(values)
        for k in ranks(size):
            found = bs.kth_value(values, k, selector=selector)
            assert found.dtype == np.float32
            assert found.shape == ()
            assert found == ordered[k - 1], (name, k)


@pytest.mark.parametrize("size", [1, 17, 1000, 65537])
def test_against_torch_kthvalue(size: int) -> None:
    values = torch.from_numpy(awkward(size, 3))
    for k in ranks(size):
        for tensor in (values, values.to(torch.bfloat16), values.to(torch.float16)):
            found = bs.kth_value(tensor, k)
            assert found.dtype == torch.float32
            assert found.shape == ()
            assert found == torch.kthvalue(tensor.float(), k).values


@pytest.mark.parametrize("selector", EXACT, ids=str)
def test_every_rank(selector: Any) -> None:
    values = awkward(257, 1)
    found = [bs.kth_value(values, k, selector=selector) for k in range(1, 258)]
    assert np.array_equal(np.array(found), np.sort(values))


def test_lists_are_one_sequence() -> None:
    values = awkward(70_000, 2)
    whole = kth(values, 31_000)
    cuts = [0, 1, 1, 64, 1000, 65_000, 65_001, 70_000]
    parts = [values[a:b] for a, b in pairwise(cuts)]
    assert bs.kth_value(parts, 31_000) == whole
    assert bs.kth_value(parts[::-1], 31_000) == whole
    mixed = [parts[4].astype(np.float16), parts[5].astype(BF16), parts[3].reshape(8, -1)]
    joined = np.concatenate([x.astype(np.float32).reshape(-1) for x in mixed])
    assert bs.kth_value(mixed, 40_000) == kth(joined, 40_000)


@pytest.mark.parametrize("offset", range(9))
def test_offset_memory_between_sentinels(offset: int) -> None:
    """Reads start at any element and stop where they should: the neighbours would win if they were read."""
    values = np.full(1000, -np.inf, np.float32)
    inside = spread(900, 1)
    values[offset : offset + 900] = inside
    assert bs.kth_value(values[offset : offset + 900], 1) == inside.min()
    half = values.astype(np.float16)
    assert bs.kth_value(half[offset : offset + 900], 450) == kth(
        inside.astype(np.float16).astype(np.float32), 450
    )


def test_layouts() -> None:
    values = torch.randn(4, 6, 5, 3)
    expected = values.flatten().sort().values[99]
    for tensor in (values, values.to(memory_format=torch.channels_last), values.permute(3, 1, 0, 2)):
        assert bs.kth_value(tensor, 100) == expected


@pytest.mark.parametrize("selector", EXACT, ids=str)
def test_threads_and_seeds_change_nothing(selector: Any, threads: None) -> None:
    values = np.abs(awkward(200_003, 5))
    results = set()
    for count in (1, 2, 3, 7):
        bs.set_num_threads(count)
        for seed in (0, 1, 12345):
            results.add(float(bs.kth_value(values, 120_000, selector=selector, seed=seed)))
    assert results == {float(kth(values, 120_000))}


def test_counters_beyond_float32() -> None:
    """2^24 + 1 equal scores: a float32 counter or histogram bin would stop at 2^24."""
    n = 2**24 + 5
    values = np.ones(n, BF16)
    values[:3] = 0.5
    for selector in ("exact", "histogram"):
        found = bs.threshold(
            bs.ScoreInputs(values, scores=values), k=2**24 + 2, scorer="identity", selector=selector
        )
        assert (found.value, found.count_below, found.count_equal) == (1.0, 3, n - 3)
        assert (found.pruned, found.total, found.k) == (2**24 + 2, n, 2**24 + 2)


def test_counts() -> None:
    values = np.array([3, 1, 2, 2, 2, 5, -1, 0], np.float32)
    inputs = bs.ScoreInputs(values, scores=values)
    found = bs.threshold(inputs, k=4, scorer="identity")
    assert (found.value, found.k, found.count_below, found.count_equal) == (2.0, 4, 3, 3)
    assert (found.pruned, found.total, found.dead, found.nonfinite) == (4, 8, 0, 0)
    assert bs.threshold(inputs, k=4, scorer="identity", ties="at_or_below").pruned == 6
    assert bs.threshold(inputs, k=4, scorer="identity", ties="below").pruned == 3
    none = bs.threshold(inputs, sparsity=0.0, scorer="identity")
    assert (none.value, none.k, none.pruned, none.count_below) == (-math.inf, 0, 0, 0)
    everything = bs.threshold(inputs, sparsity=1.0, scorer="identity")
    assert (everything.value, everything.pruned) == (5.0, 8)


@pytest.mark.parametrize(
    ("sparsity", "n", "k"), [(0.29, 100, 29), (0.57, 100, 57), (0.5, 5, 3), (0.1, 4, 0), (1, 7, 7)]
)
def test_budget_rounds_to_nearest(sparsity: float, n: int, k: int) -> None:
    values = np.arange(n, dtype=np.float32)
    assert bs.threshold(bs.ScoreInputs(values), sparsity=sparsity, scorer="magnitude").k == k
    assert oracle.budget(sparsity, n) == k


def test_scores_are_evaluated_on_the_way() -> None:
    rng = np.random.default_rng(0)
    shapes = [(64, 33), (1000,), (7, 5, 3, 3), (0,), ()]
    inputs, all_scores = [], []
    for i, shape in enumerate(shapes):
        w = rng.standard_normal(shape).astype(np.float32)
        v = (rng.random(shape) * 1e-6).astype(np.float32)
        inputs.append(bs.ScoreInputs(np.asarray(w), exp_avg_sq=np.asarray(v).astype(BF16)))
        x = oracle.Inputs(np.asarray(w), v=np.asarray(v).astype(BF16))
        all_scores.append(oracle.scores("bitter7", x).reshape(-1))
        assert inputs[i].weight.shape == shape
    joined = np.concatenate(all_scores)
    for sparsity in (0.01, 0.5, 0.99):
        found = bs.threshold(inputs, sparsity=sparsity)
        k = oracle.budget(sparsity, joined.size)
        assert bits(np.float32(found.value)) == bits(kth(joined, k))
        assert found.count_below == int((joined < kth(joined, k)).sum())
        assert found.total == joined.size


def test_modifiers_scale_whole_tensors() -> None:
    a, b = spread(1000, 1), spread(1000, 2)
    found = bs.threshold(
        [bs.ScoreInputs(a, modifier=0.125), bs.ScoreInputs(b, modifier=3.0)], sparsity=0.5, scorer="magnitude"
    )
    joined = np.concatenate([np.abs(a) * np.float32(0.125), np.abs(b) * np.float32(3.0)])
    assert np.float32(found.value) == kth(joined, 1000)


def test_dead_elements_count_as_pruned() -> None:
    values = np.abs(spread(5000, 1))
    mask = np.random.default_rng(0).random(5000) < 0.7
    inputs = bs.ScoreInputs(values, mask=mask)
    dead = int((~mask).sum())
    for k in (0, 100, dead, dead + 1, 4000, 5000):
        found = bs.threshold(inputs, k=k, scorer="magnitude")
        assert found.dead == dead
        assert found.pruned == max(k, dead)
        rank = k - dead
        assert found.value == (kth(values[mask], rank) if rank > 0 else -math.inf)
    again = bs.threshold(inputs, k=4000, scorer="magnitude", regrow=True)
    assert again.value == kth(values, 4000)


def test_dead_nan_is_not_scored() -> None:
    values = np.array([np.nan, 1, 2, 3], np.float32)
    mask = np.array([False, True, True, True])
    found = bs.threshold(bs.ScoreInputs(values, mask=mask), k=2, scorer="magnitude")
    assert (found.value, found.nonfinite) == (1.0, 0)


@pytest.mark.parametrize("selector", [*EXACT, "sampling", "streaming"], ids=str)
def test_nan_raises_with_its_place(selector: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(70_000).astype(np.float32) for _ in range(2))
    b[[1234, 60_000]] = np.nan
    inputs = [bs.ScoreInputs(a, name="first"), bs.ScoreInputs(b, name="second")]
    with pytest.raises(bs.NonFiniteScoreError, match="second") as caught:
        bs.make_masks(inputs, sparsity=0.5, scorer="magnitude", selector=selector)
    assert (caught.value.parameter, caught.value.count, caught.value.first_index) == ("second", 2, 1234)
    if selector != "sampling":  # a sample may miss two of 140,000; masks, which read everything, may not
        with pytest.raises(bs.NonFiniteScoreError):
            bs.threshold(inputs, sparsity=0.5, scorer="magnitude", selector=selector)
        with pytest.raises(bs.NonFiniteScoreError):
            bs.kth_value([a, b], 5, selector=selector)


@pytest.mark.parametrize("selector", EXACT, ids=str)
def test_nan_kept_caps_k(selector: Any) -> None:
    values = np.abs(spread(1000, 1))
    values[::10] = np.nan
    inputs = bs.ScoreInputs(values)
    for k in (10, 900, 950, 1000):
        found = bs.threshold(inputs, k=k, scorer="magnitude", nonfinite="keep", selector=selector)
        assert found.nonfinite == 100
        assert found.value == kth(values[~np.isnan(values)], min(k, 900))
        assert found.pruned == min(k, 900)


@pytest.mark.parametrize("by", ["line", "element"])
def test_sampling_stays_within_its_error(by: str) -> None:
    """Over many seeds: unbiased, of the stated spread, never beyond five standard errors."""
    n, fraction = 600_000, 0.02
    values = np.abs(np.random.default_rng(0).standard_normal(n)).astype(np.float32)
    ordered = np.sort(values)
    for sparsity in (0.5, 0.9):
        error = []
        for seed in range(40):
            found = bs.threshold(
                bs.ScoreInputs(values), sparsity=sparsity, scorer="magnitude", seed=seed,
                selector=bs.Sampling(fraction=fraction, by=by),
            )  # fmt: skip
            stated = math.sqrt(sparsity * (1 - sparsity) / (fraction * n))
            assert found.standard_error == pytest.approx(stated, rel=0.05 if by == "element" else 0.25)
            assert found.passes < 1
            reached = np.searchsorted(ordered, np.float32(found.value), side="right") / n
            error.append((reached - sparsity) / stated)
        assert max(map(abs, error)) < 5
        assert abs(np.mean(error)) < 4 / math.sqrt(len(error))
        assert 0.7 < np.std(error) < 1.35


@pytest.mark.parametrize("by", ["line", "element"])
def test_sampling_is_seeded_and_verified(threads: None, by: str) -> None:
    values = np.abs(np.random.default_rng(0).standard_normal(300_000)).astype(np.float32)
    parts = [bs.ScoreInputs(x) for x in np.split(values, [7, 100_000, 100_001])]

    def run(inputs: Any, seed: int, verify: bool = False) -> bs.Threshold:
        selector = bs.Sampling(fraction=0.05, verify=verify, by=by)
        return bs.threshold(inputs, sparsity=0.4, scorer="magnitude", selector=selector, seed=seed)

    one = run(parts, seed=1).value
    if by == "element":  # a line does not reach over the end of a tensor
        assert run(bs.ScoreInputs(values), seed=1).value == one
    bs.set_num_threads(1)
    assert run(parts, seed=1).value == one
    assert run(parts, seed=2).value != one
    checked = run(parts, seed=1, verify=True)
    assert checked.value == one
    assert checked.count_below == int((values < np.float32(one)).sum())
    assert checked.pruned == int((values <= np.float32(one)).sum())
    assert checked.passes > run(parts, seed=1).passes


def test_sampling_by_line_knows_that_neighbours_are_alike() -> None:
    rows = np.random.default_rng(0).lognormal(0, 1.5, (10_000, 1)).astype(np.float32)
    values = bs.ScoreInputs(np.random.default_rng(1).standard_normal((10_000, 64), dtype=np.float32) * rows)

    def error(by: str) -> float:
        found = bs.threshold(values, sparsity=0.5, scorer="magnitude", selector=bs.Sampling(by=by))
        assert found.standard_error is not None
        return found.standard_error

    assert error("line") > 2 * error("element")
    with pytest.raises(bs.ArgumentError, match="by: 'row'; accepted: 'line', 'element'"):
        bs.Sampling(by="row")


def test_sampling_is_exact_below_ten_thousand() -> None:
    values = awkward(9_999, 1)
    assert bs.kth_value(values, 5000, selector="sampling") == kth(values, 5000)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-2])
def test_streaming_never_ends_unconverged(tolerance: float) -> None:
    n = 30_000
    for name, values in patterns(n).items():
        ordered = np.sort(values)
        for sparsity in (0.001, 0.5, 0.9, 0.999):
            found = bs.threshold(
                bs.ScoreInputs(values, scores=values), sparsity=sparsity, scorer="identity",
                selector=bs.Streaming(tolerance=tolerance),
            )  # fmt: skip
            assert found.converged, name
            value = np.float32(found.value)
            at_most = np.searchsorted(ordered, value, side="right") / n
            below = np.searchsorted(ordered, value, side="left") / n
            close = abs(at_most - sparsity) <= tolerance
            atom = below < sparsity <= at_most  # a value so frequent that nothing is closer
            assert close or atom, (name, sparsity, at_most)
            assert found.passes <= 40


def test_empty_inputs() -> None:
    for inputs in ([], [bs.ScoreInputs(np.zeros((0, 3), np.float32))]):
        found = bs.threshold(inputs, sparsity=0.5, scorer="magnitude")
        assert (found.value, found.k, found.total, found.pruned) == (-math.inf, 0, 0, 0)
    with pytest.raises(bs.ArgumentError, match="k: 1"):
        bs.kth_value(np.zeros(0, np.float32), 1)
    with pytest.raises(bs.ArgumentError, match="k: 1"):
        bs.kth_value([], 1)  # type: ignore[type-var]


@pytest.mark.parametrize("k", [0, -1, 11, 1.5, None])
def test_rank_out_of_range(k: Any) -> None:
    with pytest.raises(bs.ArgumentError, match="k: "):
        bs.kth_value(np.zeros(10, np.float32), k)


def test_bytes_are_reported_for_relayed_inputs() -> None:
    last = torch.randn(4, 6, 5, 5).to(memory_format=torch.channels_last)
    plain = bs.threshold(bs.ScoreInputs(last.contiguous()), sparsity=0.5, scorer="magnitude")
    moments = last.abs().contiguous()
    for weight, moment, copied in (
        (last, last.abs(), 0),
        (last, moments, 1),
        (last.permute(3, 2, 1, 0), None, 1),
    ):
        item = bs.ScoreInputs(weight, exp_avg_sq=moment)
        scorer = "magnitude" if moment is None else "bitter7"
        found = bs.threshold(item, sparsity=0.5, scorer=scorer)
        assert found.extra_bytes == plain.extra_bytes + copied * 4 * last.numel()
    assert found.value == plain.value
    live = torch.ones(last.shape, dtype=torch.bool)
    for mask, packed in ((live, 8 * math.ceil(last.numel() / 64)), (bs.Mask.from_bool(live), 0)):
        masked = bs.threshold(bs.ScoreInputs(last.contiguous(), mask=mask), sparsity=0.5, scorer="magnitude")
        assert masked.extra_bytes == plain.extra_bytes + packed
