"""WANDA's masks against the published procedure: a stable sort per output row, and topk per N:M group."""

from __future__ import annotations

import bittersweet as bs
import numpy as np
import pytest

torch = pytest.importorskip("torch")


def published_row(weight: torch.Tensor, norm: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Keep mask: per row, the first int(columns * sparsity) of a stable ascending sort go."""
    metric = weight.abs() * norm.reshape(1, -1)
    prune = torch.zeros_like(metric, dtype=torch.bool)
    order = torch.sort(metric, dim=-1, stable=True)[1]
    prune.scatter_(1, order[:, : int(metric.shape[1] * sparsity)], True)
    return ~prune


def published_n_of_m(weight: torch.Tensor, norm: torch.Tensor, pruned: int, of: int) -> torch.Tensor:
    """Keep mask: `pruned` of every `of` neighbours go, lowest first. topk leaves the order of equals open, so
    that a stable sort stands for it."""
    metric = weight.abs() * norm.reshape(1, -1)
    prune = torch.zeros_like(metric, dtype=torch.bool)
    for begin in range(0, metric.shape[1], of):
        order = torch.sort(metric[:, begin : begin + of], dim=1, stable=True)[1]
        prune.scatter_(1, begin + order[:, :pruned], True)
    return ~prune


def case(rows: int, columns: int, seed: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=random) * 0.02
    norm = torch.randn(columns, generator=random).exp()
    if kind == "ties":  # few values, of both signs, with zeros
        weight = torch.randint(-2, 3, (rows, columns), generator=random).float()
        norm = torch.randint(1, 3, (columns,), generator=random).float()
    elif kind == "equal rows":
        weight = torch.full((rows, columns), 0.5)
        norm = torch.ones(columns)
    elif kind == "zero norms":
        norm[torch.rand(columns, generator=random) < 0.4] = 0.0
    elif kind == "outliers":
        norm[: max(1, columns // 50)] *= 1e6
        weight[0] = 0.0
    return weight, norm


KINDS = ["random", "ties", "equal rows", "zero norms", "outliers"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 64), (65, 100), (17, 2049), (40, 4096)])
def test_rows_equal_the_published_sort(shape: tuple[int, int], kind: str) -> None:
    for seed, sparsity in enumerate((0.0, 0.29, 0.5, 0.7, 0.999, 1.0)):
        weight, norm = case(*shape, seed, kind)
        expected = torch.where(published_row(weight, norm, sparsity), weight, torch.zeros(()))
        bs.prune_(
            bs.ScoreInputs(weight, input_norm=norm),
            sparsity=sparsity,
            scorer="wanda",
            scope="row",
            rounding="floor",
        )
        assert torch.equal(weight.view(torch.int32), expected.view(torch.int32)), (seed, sparsity)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (3, 4), (1, 2)])
def test_n_of_m_equals_the_published_groups(n: int, m: int, kind: str) -> None:
    for shape in ((1, m), (3, 3 * m), (33, 40 * m)):
        weight, norm = case(*shape, m, kind)
        kept = bs.make_masks(bs.ScoreInputs(weight, input_norm=norm), scorer="wanda", scope=f"{n}:{m}")[
            0
        ].bool()
        assert torch.equal(kept, published_n_of_m(weight, norm, m - n, m))


def test_n_of_m_equals_topk_where_nothing_ties() -> None:
    weight, norm = case(64, 256, 1, "random")
    metric, prune = weight.abs() * norm, torch.zeros(64, 256, dtype=torch.bool)
    for begin in range(0, 256, 4):
        lowest = torch.topk(metric[:, begin : begin + 4], 2, dim=1, largest=False)[1]
        prune.scatter_(1, begin + lowest, True)
    kept = bs.make_masks(bs.ScoreInputs(weight, input_norm=norm), scorer="wanda", scope="2:4")[0].bool()
    assert torch.equal(kept, ~prune)


def test_worked_by_hand() -> None:
    weight = torch.tensor([[1.0, -1.0, 2.0, 0.0], [4.0, 1.0, -2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    norm = torch.tensor([2.0, 2.0, 1.0, 5.0])
    # scores: 2 2 2 0 | 8 2 2 5 | 2 2 1 5: equals go from the left
    expected = [[False, True, True, False], [True, False, False, True], [False, True, False, True]]
    inputs = bs.ScoreInputs(weight, input_norm=norm)
    for scope, options in (("row", {"sparsity": 0.5, "rounding": "floor"}), ("2:4", {})):
        assert bs.make_masks(inputs, scorer="wanda", scope=scope, **options)[0].bool().tolist() == expected
    # 0.4 of 4 columns: int(1.6) = 1 as published, floor(2.1) = 2 to the nearest
    floor, nearest = (
        bs.make_masks(inputs, scorer="wanda", scope="row", sparsity=0.4, rounding=rounding)[0].bool().sum(1)
        for rounding in ("floor", "nearest")
    )
    assert floor.tolist() == [3, 3, 3]
    assert nearest.tolist() == [2, 2, 2]


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("kind", KINDS)
def test_tensor_and_global_thresholds_equal_a_stable_sort(scope: str, kind: str) -> None:
    pairs = [case(9, 33, 1, kind), case(40, 65, 2, kind), case(1, 130, 3, kind)]
    inputs = [bs.ScoreInputs(w, input_norm=x, name=str(i)) for i, (w, x) in enumerate(pairs)]
    scores = [(w.abs() * x).flatten().numpy() for w, x in pairs]
    found = [
        m.bool().flatten().numpy() for m in bs.make_masks(inputs, sparsity=0.6, scorer="wanda", scope=scope)
    ]
    groups = [np.concatenate(scores)] if scope == "global" else scores
    kept = []
    for group in groups:
        keep = np.ones(group.size, dtype=bool)
        keep[np.argsort(group, kind="stable")[: int(0.6 * group.size + 0.5)]] = False
        kept.append(keep)
    assert np.array_equal(np.concatenate(found), np.concatenate(kept))


@pytest.mark.parametrize("scope", ["row", "2:4"])
def test_transposed_weights_give_the_transposed_mask(scope: str) -> None:
    weight, norm = case(70, 96, 5, "ties")
    options = {"scorer": "wanda", "scope": scope, "sparsity": 0.5}
    linear = bs.make_masks(bs.ScoreInputs(weight, input_norm=norm), **options)[0].bool()
    transposed = bs.ScoreInputs(weight.t().contiguous(), input_norm=norm, in_dim=0)
    assert torch.equal(bs.make_masks(transposed, **options)[0].bool(), linear.t())


def test_resumed_masks_prune_the_lowest_of_what_lives() -> None:
    weight, norm = case(30, 260, 6, "random")
    first = bs.make_masks(bs.ScoreInputs(weight, input_norm=norm), sparsity=0.3, scorer="wanda", scope="row")[
        0
    ]
    again = bs.ScoreInputs(weight * 0 + 1.0, input_norm=norm, mask=first)
    second = bs.make_masks(again, sparsity=0.6, scorer="wanda", scope="row")[0].bool()
    metric = torch.where(first.bool(), norm.expand(30, 260), torch.full((), -1.0))
    expected = torch.ones(30, 260, dtype=torch.bool)
    expected.scatter_(1, torch.sort(metric, dim=1, stable=True)[1][:, :156], False)
    assert torch.equal(second, expected)
