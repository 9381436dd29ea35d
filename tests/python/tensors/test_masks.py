"""Masks: exact counts under ties, pruning in place, and what must stay untouched."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bittersweet as bs
import numpy as np
import oracle
import pytest
import torch
from oracle import BF16, Array, awkward, budget, keep_exact, spread

EXACT = ("exact", "histogram", "kthvalue")


def tie_patterns(n: int) -> dict[str, Array]:
    rng = np.random.default_rng(n)
    return {
        "all equal": np.full(n, 2.0, np.float32),
        "zeros of both signs": np.where(rng.random(n) < 0.5, np.float32(0), np.float32(-0.0)),
        "two values": rng.choice(np.array([1.0, 2.0], np.float32), n),
        "five values": rng.choice(np.array([-1.0, 0.0, 1e-45, 1.0, np.inf], np.float32), n),
        "half zeros": np.where(rng.random(n) < 0.5, np.float32(0), rng.random(n).astype(np.float32)),
        "rounded": rng.standard_normal(n).astype(BF16).astype(np.float32),
        "awkward": awkward(n, n),
    }


def identity(values: Any, **options: Any) -> bs.ScoreInputs:
    return bs.ScoreInputs(values, scores=values, **options)


@pytest.mark.parametrize("selector", EXACT)
@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 1000, 65537])
def test_exactly_k_lowest_position_first(selector: str, size: int) -> None:
    for name, values in tie_patterns(size).items():
        for k in sorted({0, 1, size // 3, size // 2, size - 1, size}):
            masks = bs.make_masks(identity(values), k=k, scorer="identity", selector=selector)
            assert np.array_equal(masks.bool(), keep_exact(values, k)), (name, k)
            assert masks.event is not None
            assert masks.event.pruned == k


@pytest.mark.parametrize("selector", EXACT)
def test_ties_across_tensors_go_by_tensor_position(selector: str) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.choice(np.array([0.0, 1.0, 2.0], np.float32), n) for n in (100, 0, 1, 5000, 63, 70_000)]
    joined = np.concatenate(parts)
    for k in (1, 20_000, 40_000, joined.size - 1):
        masks = bs.make_masks([identity(p) for p in parts], k=k, scorer="identity", selector=selector)
        assert np.array_equal(np.concatenate(masks.bool()), keep_exact(joined, k))


def test_tie_rules() -> None:
    values = np.array([3, 1, 2, 2, 2, 5], np.float32)
    for ties, kept in (("exact", [0, 3, 4, 5]), ("at_or_below", [0, 5]), ("below", [0, 2, 3, 4, 5])):
        mask = bs.make_masks(identity(values), k=2, scorer="identity", ties=ties).bool()
        assert np.flatnonzero(mask).tolist() == kept
        assert bs.make_masks(identity(values), k=0, scorer="identity", ties=ties).bool().all()
    approximate = bs.make_masks(identity(values), k=2, scorer="identity", selector="sampling").bool()
    assert np.flatnonzero(approximate).tolist() == [0, 5]
    with pytest.raises(bs.ArgumentError, match="ties"):
        bs.make_masks(identity(values), k=2, scorer="identity", selector="sampling", ties="exact")


@pytest.mark.parametrize("scorer", [n for n in oracle.FORMULAS if n not in ("identity", "movement", "wanda")])
def test_every_scorer_fused(scorer: str) -> None:
    """Masks from scores that are never stored equal masks from stored scores, in every storage."""
    rng = np.random.default_rng(1)
    n = 70_001
    w, m, g = (rng.standard_normal(n).astype(np.float32) for _ in range(3))
    v = (rng.random(n) * 1e-7).astype(np.float32)
    w[::3] = 0.0
    for dtype in (np.dtype(np.float32), BF16):
        arrays = [x.astype(dtype) for x in (w, m, v, g)]
        modifier = oracle.MODIFIER if "k" in oracle.FORMULAS[scorer][1] else None
        inputs = bs.ScoreInputs(*arrays, step=5, modifier=modifier)
        values = oracle.scores(scorer, oracle.Inputs(*arrays, step=5))
        for sparsity in (0.2, 0.5, 0.9):
            masks = bs.make_masks(inputs, sparsity=sparsity, scorer=scorer)
            assert np.array_equal(masks.bool(), keep_exact(values, budget(sparsity, n))), (dtype, sparsity)


def test_dead_stay_dead_and_regrow() -> None:
    values = np.abs(spread(10_000, 3))
    live = np.random.default_rng(0).random(10_000) < 0.6
    for mask in (live, bs.Mask.from_bool(live)):
        masks = bs.make_masks(identity(values, mask=mask), sparsity=0.7, scorer="identity")
        assert np.array_equal(masks.bool(), keep_exact(values, 7000, live))
        assert masks.event is not None
        assert masks.event.churn == int((masks.bool() != live).sum())
        fewer = bs.make_masks(identity(values, mask=mask), sparsity=0.1, scorer="identity")
        assert np.array_equal(fewer.bool(), live)
    again = bs.make_masks(identity(values, mask=live), sparsity=0.7, scorer="identity", regrow=True)
    assert np.array_equal(again.bool(), keep_exact(values, 7000))
    assert again.event is not None
    assert again.event.churn == int((again.bool() != live).sum())


def test_a_ramp_prunes_what_the_oracle_prunes() -> None:
    """Twelve events in a row, each under the masks of the one before."""
    rng = np.random.default_rng(0)
    w = [rng.standard_normal(n).astype(np.float32) for n in (1000, 64, 30_000)]
    masks: Any = [None] * 3
    alive = np.ones(31_064, bool)
    for sparsity in np.linspace(0.05, 0.95, 12):
        made = bs.make_masks(
            [bs.ScoreInputs(x, mask=mask) for x, mask in zip(w, masks, strict=True)],
            sparsity=float(sparsity), scorer="magnitude",
        )  # fmt: skip
        alive = keep_exact(np.abs(np.concatenate(w)), budget(float(sparsity), 31_064), alive)
        assert np.array_equal(np.concatenate(made.bool()), alive)
        masks = list(made)
        bs.apply_masks_([bs.ScoreInputs(x) for x in w], made)
        assert np.array_equal(np.concatenate(w) == 0, ~alive)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("state", [False, True])
def test_prune_writes_zeros_and_nothing_else(framework: str, dtype: str, state: bool) -> None:
    rng = np.random.default_rng(0)
    shape = (130, 77)
    kind = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": BF16}[dtype]
    arrays = [rng.standard_normal(shape).astype(kind) for _ in range(5)]
    arrays[2] = np.abs(arrays[2])
    before = [x.astype(np.float32) for x in arrays]
    given: list[Any] = arrays
    if framework == "torch":
        given = [torch.from_numpy(x.astype(np.float32)).to(getattr(torch, dtype)) for x in arrays]
    w, m, v, g, a = given
    event = bs.prune_(
        bs.ScoreInputs(w, m, v, g, max_exp_avg_sq=a),
        sparsity=0.6,
        scorer="bitter7",
        mask_optimizer_state=state,
    )
    values = oracle.scores("bitter7", oracle.Inputs(before[0], v=before[2])).reshape(-1)
    keep = keep_exact(values, budget(0.6, values.size)).reshape(shape)
    after = [x.float().numpy() if framework == "torch" else x.astype(np.float32) for x in (w, m, v, g, a)]
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        masked = index == 0 or (state and index in (1, 2, 4))
        assert np.array_equal(
            oracle.bits(new), oracle.bits(np.where(keep, old, np.float32(0)) if masked else old)
        )
    assert event.pruned == budget(0.6, values.size)


def test_zeros_are_positive_even_for_nan_and_negative() -> None:
    values = np.array([-1.0, np.nan, -np.inf, 4.0], np.float32)
    bs.apply_masks_(bs.ScoreInputs(values), np.array([False, False, False, True]))
    assert values.view(np.uint32).tolist() == [0, 0, 0, np.float32(4).view(np.uint32)]


def test_neighbours_of_a_view_are_not_written() -> None:
    for offset in range(9):
        buffer = np.full(1100, 7, np.float32)
        bs.prune_(bs.ScoreInputs(buffer[offset : offset + 1000]), sparsity=1.0, scorer="magnitude")
        assert (buffer[offset : offset + 1000] == 0).all()
        assert (buffer[:offset] == 7).all()
        assert (buffer[offset + 1000 :] == 7).all()


def test_layouts_are_written_back() -> None:
    torch.manual_seed(0)
    plain = torch.randn(8, 6, 5, 3)
    state = torch.rand(8, 6, 5, 3)
    last = plain.clone(memory_format=torch.channels_last).to(memory_format=torch.channels_last)
    bs.prune_(bs.ScoreInputs(plain, state, state.square()), sparsity=0.5)
    weight = torch.nn.Parameter(last)
    moment = state.clone().permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert not moment.is_contiguous()
    event = bs.prune_(bs.ScoreInputs(weight, moment, state.square()), sparsity=0.5, mask_optimizer_state=True)
    assert torch.equal(weight, plain)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moment == 0, plain == 0)
    assert event.extra_bytes >= 2 * 4 * plain.numel()


def test_autograd_notices_the_write() -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        weight = torch.nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=memory_format))
        before = weight._version
        (weight * weight).sum().backward()
        loss = (weight * weight).sum()
        bs.prune_(bs.ScoreInputs(weight), sparsity=0.5, scorer="magnitude")
        assert weight._version > before
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    with torch.inference_mode():
        frozen = torch.randn(10)
        bs.prune_(bs.ScoreInputs(frozen), k=4, scorer="magnitude")
        assert int((frozen == 0).sum()) == 4


def test_selection_changes_nothing() -> None:
    weight = torch.nn.Parameter(torch.randn(300, 70))
    weight.grad = torch.randn(300, 70)
    moments = [torch.randn(300, 70), torch.rand(300, 70)]
    tensors = [weight.detach(), weight.grad, *moments]
    before, versions = [t.clone() for t in tensors], [t._version for t in tensors]
    inputs = bs.ScoreInputs(weight, *moments, weight.grad)
    for scope in ("global", "row", "2:4"):
        shape_ok = scope != "2:4"
        options = {} if shape_ok else {"remainder": "keep"}
        bs.make_masks(inputs, sparsity=0.5, scope=scope, **options)  # type: ignore[arg-type]
    bs.threshold(inputs, sparsity=0.5, scorer="taylor")
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert [t._version for t in tensors] == versions
    assert weight.requires_grad


@pytest.mark.parametrize("scope", ["global", "tensor", "row", "2:4"])
@pytest.mark.parametrize("selector", [*EXACT, "sampling", "streaming"])
def test_nan_leaves_every_byte(scope: str, selector: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((257, 260)).astype(np.float32) for _ in range(6)]
    arrays[5][200, 3] = np.nan
    mask = rng.random((257, 260)) < 0.9
    mask[200, 3] = True
    before = [x.tobytes() for x in (*arrays, mask)]
    inputs = [
        bs.ScoreInputs(arrays[0], arrays[1], arrays[2], name="clean"),
        bs.ScoreInputs(arrays[3], arrays[4], arrays[5], mask=mask, name="dirty"),
    ]
    with pytest.raises(bs.NonFiniteScoreError, match="dirty") as caught:
        bs.prune_(inputs, sparsity=0.5, scope=scope, selector=selector, mask_optimizer_state=True)
    assert (caught.value.parameter, caught.value.count) == ("dirty", 1)
    assert caught.value.first_index == 200 * 260 + 3
    assert [x.tobytes() for x in (*arrays, mask)] == before


def test_nan_kept_is_never_pruned() -> None:
    values = awkward(5000, 1)
    values[::9] = np.nan
    for selector in EXACT:
        masks = bs.make_masks(
            identity(values), sparsity=1.0, scorer="identity", nonfinite="keep", selector=selector
        )
        assert np.array_equal(masks.bool(), np.isnan(values))
        assert masks.event is not None
        assert masks.event.nonfinite == int(np.isnan(values).sum())
        half = bs.make_masks(
            identity(values), sparsity=0.5, scorer="identity", nonfinite="keep", selector=selector
        )
        expected = keep_exact(np.where(np.isnan(values), np.inf, values), 2500)
        assert np.array_equal(half.bool(), expected | np.isnan(values))


def test_max_tensor_sparsity_guards_a_small_layer() -> None:
    big, small = np.abs(spread(10_000, 1, -1, 0)), np.abs(spread(100, 2, -9, -8))
    free = bs.make_masks([identity(big), identity(small)], sparsity=0.5, scorer="identity")
    assert not free.bool()[1].any()
    held = bs.make_masks(
        [identity(big), identity(small)], sparsity=0.5, scorer="identity", max_tensor_sparsity=0.8
    )
    assert np.array_equal(held.bool()[1], keep_exact(small, 80))
    assert np.array_equal(held.bool()[0], keep_exact(big, budget(0.5, 10_100) - 80))
    assert held.event is not None
    assert held.event.per_tensor == {"tensor0": 0.497, "tensor1": 0.8}


def test_violations() -> None:
    w, m = np.ones((10, 10), np.float32), np.ones((10, 10), np.float32)
    keep = np.ones((10, 10), bool)
    keep[3] = False
    w[3, :4] = [0.0, -0.0, np.nan, 5.0]
    inputs = bs.ScoreInputs(w, exp_avg=m, name="layer")
    assert bs.count_violations(inputs, keep) == {"layer": 8}
    assert bs.count_violations([inputs], [keep], roles=("weight", "exp_avg")) == {"layer": 18}
    bs.apply_masks_(inputs, keep, roles=("weight", "exp_avg", "grad"))
    assert bs.count_violations(inputs, keep, roles=("weight", "exp_avg")) == {"layer": 0}
    assert w[keep].all()


def test_threads_splits_and_seeds_change_nothing(threads: None) -> None:
    rng = np.random.default_rng(0)
    w = rng.choice(np.linspace(-1, 1, 999).astype(np.float32), 150_000)
    expected = keep_exact(np.abs(w), 75_000)
    for count in (1, 2, 5):
        bs.set_num_threads(count)
        for cuts in ([], [1], [64, 65_536], list(range(1000, 150_000, 7001))):
            inputs = [bs.ScoreInputs(part) for part in np.split(w, cuts)]
            masks = bs.make_masks(inputs, sparsity=0.5, scorer="magnitude", seed=count)
            assert np.array_equal(np.concatenate(masks.bool()), expected)


def test_seeds_of_the_sampling_selector() -> None:
    w = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    made = [
        bs.make_masks(bs.ScoreInputs(w), sparsity=0.5, scorer="magnitude", selector="sampling", seed=seed)
        for seed in (1, 1, 2)
    ]
    assert made[0] == made[1] != made[2]


def test_calls_from_several_threads_at_once() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(100_000).astype(np.float32) for _ in range(4)]
    expected = [keep_exact(np.abs(x), 60_000) for x in arrays]

    def run(i: int) -> bool:
        selector = EXACT[i % 3]
        masks = bs.make_masks(bs.ScoreInputs(arrays[i % 4]), k=60_000, scorer="magnitude", selector=selector)
        return np.array_equal(masks.bool(), expected[i % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(24)))


def test_a_long_call_can_be_interrupted(threads: None) -> None:
    """The handler of a signal that comes while the library reads runs before the call ends."""

    class Stop(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Stop

    w, v = torch.randn(16_000_000), torch.rand(16_000_000)
    inputs = bs.ScoreInputs(w, exp_avg_sq=v)
    options = {"sparsity": 0.7, "scorer": "bitter8", "selector": bs.Streaming(tolerance=0)}
    bs.set_num_threads(1)
    for _ in range(2):  # the first time modules are imported
        began = time.perf_counter()
        bs.make_masks(inputs, **options)
    took = time.perf_counter() - began
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, took / 3)  # within the second of five reads
        with pytest.raises(Stop) as caught:
            bs.prune_(inputs, **options)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught.traceback[-2].name == "select_masks"  # the frame that had called into the library
    assert w._version == 0
    assert int((w == 0).sum()) < 16
