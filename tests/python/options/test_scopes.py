"""Scopes and distributions: who competes with whom, and how much each tensor gives."""

from __future__ import annotations

import math
from typing import Any

import bittersweet as bs
import numpy as np
import oracle
import pytest
import torch
from oracle import Array, budget, grouped, keep_exact, keep_groups, keep_rows, spread

SHAPES: list[tuple[tuple[int, ...], int | None]] = [
    ((9, 40), None),
    ((9, 40), 0),
    ((65,), None),
    ((6, 8, 3, 3), None),
    ((6, 8, 3, 3), 0),
    ((8, 12, 5), 0),
    ((3, 4, 24), 2),
    ((1, 64), None),
    ((300, 12), None),
]


def tied(shape: tuple[int, ...], seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([0.0, 0.5, 1.0, 2.0, 4.0], np.float32), shape)


def masks_of(values: Array, **options: Any) -> Any:
    in_dim = options.pop("in_dim", None)
    mask = options.pop("mask", None)
    inputs = bs.ScoreInputs(values, scores=values, in_dim=in_dim, mask=mask)
    return bs.make_masks(inputs, scorer="identity", **options)


@pytest.mark.parametrize(("shape", "in_dim"), SHAPES)
@pytest.mark.parametrize("rounding", ["nearest", "floor"])
def test_row_scope(shape: tuple[int, ...], in_dim: int | None, rounding: str) -> None:
    for values in (spread(math.prod(shape), 1).reshape(shape), tied(shape)):
        rows, inputs, inner = grouped(values, in_dim).shape
        for sparsity in (0.0, 0.11, 0.29, 0.5, 0.999, 1.0):
            cols = inputs * inner
            k = budget(sparsity, cols) if rounding == "nearest" else int(sparsity * cols)
            masks = masks_of(values, sparsity=sparsity, scope="row", rounding=rounding, in_dim=in_dim)
            assert np.array_equal(masks.bool(), keep_rows(values, k, in_dim))
            assert masks.event.pruned == masks.event.k == rows * k
            by_object = masks_of(values, sparsity=sparsity, scope=bs.Row(rounding=rounding), in_dim=in_dim)
            assert by_object == masks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wanda_against_a_plain_reference(dtype: torch.dtype) -> None:
    """As its authors' code does it: metric = |W| * norm; sort each row; zero the first int(s * columns)."""
    torch.manual_seed(0)
    weight = torch.randn(48, 96).to(dtype)
    weight[:, ::5] = 0.25  # ties
    norms = torch.rand(96) + 0.5
    norms[[3, 7]] = norms[5] = 0.0  # dead inputs are pruned first
    norms[::5] = 1.0
    metric = weight.float().abs() * norms.reshape(1, -1)
    reference = weight.clone()
    columns = torch.sort(metric, dim=-1, stable=True)[1][:, : int(96 * 0.3)]
    reference.scatter_(1, columns, 0)
    event = bs.prune_(
        bs.ScoreInputs(weight, input_norm=norms), sparsity=0.3, scope="row", rounding="floor", scorer="wanda"
    )
    assert torch.equal(weight, reference)
    assert event.threshold is None
    assert event.scope == "row"


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (3, 4), (4, 4), (1, 2), (1, 1)])
def test_n_of_m(n: int, m: int) -> None:
    for shape, in_dim in (
        ((5, 16), None),
        ((16, 5), 0),
        ((6, 8, 3, 3), None),
        ((8, 6, 2, 2), 0),
        ((24,), None),
    ):
        for values in (spread(math.prod(shape), 2).reshape(shape), tied(shape)):
            expected = keep_groups(values, m, m - n, in_dim)
            masks = masks_of(values, scope=f"{n}:{m}", in_dim=in_dim)
            assert np.array_equal(masks.bool(), expected)
            kept = grouped(masks.bool(), in_dim)
            rows, inputs, inner = kept.shape
            assert (kept.reshape(rows, inputs // m, m, inner).sum(axis=2) == n).all()
            assert masks.event.requested_sparsity == 1 - n / m
            assert masks.event.threshold is None
            assert masks_of(values, scope=bs.NofM(n, m), in_dim=in_dim) == masks


def test_n_of_m_with_a_sparsity() -> None:
    values = tied((7, 24))
    for sparsity, k in ((0.0, 0), (0.1, 1), (0.25, 2), (0.3, 2), (0.5, 4)):
        masks = masks_of(values, scope="4:8", sparsity=sparsity)
        assert np.array_equal(masks.bool(), keep_groups(values, 8, k))
    with pytest.raises(bs.ArgumentError, match="sparsity"):
        masks_of(values, scope="4:8", sparsity=0.6)


def test_n_of_m_remainder() -> None:
    values = tied((5, 11))
    with pytest.raises(bs.ShapeError, match="tensor0"):
        masks_of(values, scope="2:4")
    expected = keep_groups(values, 4, 2)
    for options in ({"scope": "2:4", "remainder": "keep"}, {"scope": bs.NofM(2, 4, remainder="keep")}):
        masks = masks_of(values, **options)
        assert np.array_equal(masks.bool(), expected)
        assert masks.bool()[:, 8:].all()
        assert masks.event.pruned == 5 * 4


@pytest.mark.parametrize(("shape", "in_dim"), SHAPES)
def test_dead_elements_count_in_every_group(shape: tuple[int, ...], in_dim: int | None) -> None:
    live = np.random.default_rng(5).random(shape) < 0.75
    values = tied(shape, 3)
    inputs = grouped(values, in_dim).shape[1]
    cols = grouped(values, in_dim)[0].size
    rows = masks_of(values, sparsity=0.4, scope="row", in_dim=in_dim, mask=live)
    assert np.array_equal(rows.bool(), keep_rows(values, budget(0.4, cols), in_dim, live))
    assert rows.event.churn == int((rows.bool() != live).sum())
    if inputs % 4 == 0:
        groups = masks_of(values, scope="2:4", in_dim=in_dim, mask=live)
        assert np.array_equal(groups.bool(), keep_groups(values, 4, 2, in_dim, live))
        again = masks_of(values, scope="2:4", in_dim=in_dim, mask=live, regrow=True)
        assert np.array_equal(again.bool(), keep_groups(values, 4, 2, in_dim))


def test_tensor_scope() -> None:
    parts = [
        spread(n, n).reshape(shape) for n, shape in ((1000, (10, 100)), (64, (64,)), (7, (7,)), (0, (0, 2)))
    ]
    for sparsity in (0.0, 0.3, 0.5, 1.0):
        masks = bs.make_masks(
            [bs.ScoreInputs(x) for x in parts], sparsity=sparsity, scope="tensor", scorer="magnitude"
        )
        for mask, x in zip(masks.bool(), parts, strict=True):
            expected = keep_exact(np.abs(x).reshape(-1), budget(sparsity, x.size)).reshape(x.shape)
            assert np.array_equal(mask, expected)
        event = masks.event
        assert event is not None
        assert event.threshold is None
        assert event.per_tensor["tensor0"] == budget(sparsity, 1000) / 1000
        if sparsity == 0.5:
            assert np.float32(event.per_tensor_threshold["tensor0"] or 0) == oracle.kth(
                np.abs(parts[0]).ravel(), 500
            )


def pruned_counts(
    shapes: list[tuple[int, ...]], sparsity: float, distribution: str, **options: Any
) -> list[int]:
    inputs = [bs.ScoreInputs(spread(math.prod(s), i).reshape(s)) for i, s in enumerate(shapes)]
    masks = bs.make_masks(
        inputs, sparsity=sparsity, scope="tensor", distribution=distribution, scorer="magnitude", **options
    )
    return [int((~m).sum()) for m in masks.bool()]


LAYERS: list[list[tuple[int, ...]]] = [
    [(64, 64), (128, 64), (16, 128), (10, 7)],
    [(8, 3, 3, 3), (16, 8, 3, 3), (10, 16)],
    [(100, 100)] * 5,
    [(300, 300), (5, 5), (5, 5)],
    [(33, 17)],
]


@pytest.mark.parametrize("shapes", LAYERS)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.333, 0.5, 0.8, 0.95, 0.99, 1.0])
def test_budgets_sum_exactly(shapes: list[tuple[int, ...]], sparsity: float) -> None:
    sizes = [math.prod(s) for s in shapes]
    total = sum(sizes)
    for distribution in ("erk", "layer_adaptive"):
        counts = pruned_counts(shapes, sparsity, distribution)
        assert sum(counts) == budget(sparsity, total), distribution
        assert all(0 <= k <= n for k, n in zip(counts, sizes, strict=True))
    assert pruned_counts(shapes, sparsity, "uniform") == [budget(sparsity, n) for n in sizes]


@pytest.mark.parametrize("shapes", LAYERS)
@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8, 0.95])
def test_erk_densities(shapes: list[tuple[int, ...]], sparsity: float) -> None:
    """Density in proportion to sum(shape) / prod(shape), full layers set aside one after another."""
    raw = np.array([sum(s) / math.prod(s) for s in shapes])
    sizes = np.array([math.prod(s) for s in shapes], float)
    kept = sizes.sum() - budget(sparsity, int(sizes.sum()))
    full = np.zeros(len(shapes), bool)
    while True:
        scale = (kept - sizes[full].sum()) / (raw * sizes)[~full].sum() if not full.all() else 0.0
        density = np.where(full, 1.0, scale * raw)
        if (density <= 1.0).all():
            break
        full |= density >= density.max()
    counts = np.array(pruned_counts(shapes, sparsity, "erk"))
    assert np.abs(counts - (1 - density) * sizes).max() <= 1


def test_layer_adaptive_rises_over_depth() -> None:
    counts = pruned_counts([(100, 100)] * 5, 0.5, "layer_adaptive")
    assert counts == [3500, 4250, 5000, 5750, 6500]
    assert pruned_counts([(33, 17)], 0.5, "layer_adaptive") == [budget(0.5, 33 * 17)]
    capped = pruned_counts([(100, 100)] * 3, 0.9, "layer_adaptive")
    assert capped[2] == 9500  # 1.3 * 0.9 is capped at 0.95; what is cut goes to the others
    assert sum(capped) == 27_000
    assert capped[0] < capped[1] <= 9500
    uneven = pruned_counts([(10, 10), (100, 100)], 0.5, "layer_adaptive")
    assert sum(uneven) == 5050  # by parameter counts, not by layers
    assert uneven[0] < 50


def test_distributions_never_go_below_the_dead() -> None:
    shapes = [(50, 40), (60, 60), (30, 20)]
    dead = [1500, 100, 0]
    inputs = []
    for i, (shape, k) in enumerate(zip(shapes, dead, strict=True)):
        values = spread(math.prod(shape), i)
        inputs.append(
            bs.ScoreInputs(values.reshape(shape), mask=keep_exact(np.abs(values), k).reshape(shape))
        )
    for distribution in ("erk", "layer_adaptive"):
        masks = bs.make_masks(
            inputs, sparsity=0.5, scope="tensor", distribution=distribution, scorer="magnitude"
        )
        counts = [int((~m).sum()) for m in masks.bool()]
        assert counts[0] >= 1500
        assert sum(counts) == budget(0.5, 6200)


def test_distribution_over_rows() -> None:
    shapes = [(10, 30), (20, 50)]
    inputs = [bs.ScoreInputs(spread(math.prod(s), i).reshape(s)) for i, s in enumerate(shapes)]
    masks = bs.make_masks(inputs, sparsity=0.5, scope="row", distribution="erk", scorer="magnitude")
    tensor = pruned_counts(shapes, 0.5, "erk")
    for mask, k in zip(masks.bool(), tensor, strict=True):
        per_row = (~mask).sum(axis=1)
        assert per_row.sum() == k
        assert per_row.max() - per_row.min() <= 1


@pytest.mark.parametrize("distribution", ["uniform", "erk", "layer_adaptive"])
def test_global_scope_takes_no_distribution(distribution: str) -> None:
    with pytest.raises(bs.ArgumentError, match="distribution"):
        masks_of(tied((4, 4)), sparsity=0.5, distribution=distribution)


@pytest.mark.parametrize(
    "options",
    [
        {"scope": "layer"},
        {"scope": "0:4"},
        {"scope": "5:4"},
        {"scope": "2:"},
        {"scope": 3},
        {"scope": "row", "rounding": "up"},
        {"scope": "2:4", "remainder": "drop"},
        {"scope": "tensor", "distribution": "even"},
        {"scope": bs.Row(rounding="floor"), "rounding": "sideways"},
        {"scope": bs.NofM(2, 4), "remainder": "keep"},
    ],
    ids=str,
)
def test_bad_scopes(options: dict[str, Any]) -> None:
    with pytest.raises(bs.ArgumentError):
        masks_of(tied((4, 4)), sparsity=0.5, **options)


def test_scope_objects() -> None:
    values = tied((6, 8))
    for scope, name in (
        (bs.Global(), "global"),
        (bs.Tensor(), "tensor"),
        (bs.Row(), "row"),
        (bs.NofM(2, 4), "2:4"),
    ):
        assert scope.text == name
        by_object, by_name = (
            masks_of(values, sparsity=0.5, scope=scope),
            masks_of(values, sparsity=0.5, scope=name),
        )
        assert by_object == by_name
        assert by_object.event.scope == name
    assert bs.NofM(2, 4) == bs.NofM(2, 4) != bs.NofM(1, 4)
    with pytest.raises(bs.ArgumentError, match="1 <= N <= M"):
        bs.NofM(5, 4)


def test_empty_rows_are_counted() -> None:
    values = np.ones((5, 8), np.float32)
    values[1] = values[3] = 0.0
    assert masks_of(values, k=16).event.empty_rows == 2
    assert masks_of(values, k=15).event.empty_rows == 1
    transposed = np.ascontiguousarray(values.T)
    assert masks_of(transposed, k=16, in_dim=0).event.empty_rows == 2
    assert masks_of(transposed, k=16).event.empty_rows == 0
    dead = np.ones((5, 8), bool)
    dead[1] = False
    assert masks_of(values, k=16, mask=dead).event.empty_rows == 1  # row 1 was empty before
