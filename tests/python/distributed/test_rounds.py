"""Simulated ranks through the compiled module: equal to one process, whatever the model and its cuts."""

from __future__ import annotations

import math
import weakref
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet.options.scorers import resolve_scorer
from bittersweet.select import thresholds
from ranks_events import require_equal_events
from sharded_models import DATA, DTYPES, KINDS, Model, pieces, random_model
from simulated_ranks import Meeting, on_all

CASES = 400
SCORERS = ("magnitude", "bitter7", "bitter3", "wanda")


def over_ranks(model: Model, ranks: int, **options: Any) -> tuple[list[Any], Meeting]:
    """The masks on every rank, or what was raised there."""
    return on_all(ranks, lambda group: bs.make_masks(model.of(group.rank), process_group=group, **options))


def alone(model: Model, **options: Any) -> Any:
    """The masks of one process, or what it raises."""
    try:
        return bs.make_masks(model.items, **options)
    except bs.Error as error:
        return error


def require_equal(model: Model, found: list[Any], expected: Any) -> None:
    """That every rank has its parts of these masks, and the event; or that all raised the same."""
    for rank, masks in enumerate(found):
        if isinstance(expected, Exception):
            assert type(masks) is type(expected), (rank, masks, expected)
            assert str(masks) == str(expected)
            continue
        if isinstance(masks, BaseException):
            raise masks
        require_equal_events(masks.event, expected.event)
        names = [
            item.name for item, boxes in zip(model.items, model.boxes, strict=True) if boxes[rank] is not None
        ]
        assert masks.names == names
        for whole, boxes in zip(expected, model.boxes, strict=True):
            if boxes[rank] is not None:
                assert np.array_equal(masks[whole.name].bool(), whole.bool()[boxes[rank]]), (rank, whole.name)


@pytest.mark.parametrize("seed", range(CASES))
def test_as_one_process(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranks, scorer = int(rng.integers(1, 9)), str(rng.choice(SCORERS))
    model = random_model(rng, ranks, resolve_scorer(scorer, None, 0).reads)
    total = sum(item.weight.size for item in model.items)
    options: dict[str, Any] = {"scorer": scorer, "regrow": bool(rng.random() < 0.3)}
    options["ties"] = [None, "exact", "at_or_below", "below"][rng.integers(4)]
    if rng.random() < 0.2:
        options["k"] = int(rng.integers(0, total + 1))
    else:
        options["sparsity"] = float(rng.choice([0.0, 0.1, 0.5, 0.9, 1.0, rng.random()]))
    if rng.random() < 0.2 and total:
        options["nonfinite"] = str(rng.choice(["keep", "error"]))
        for _ in range(int(rng.integers(1, 4))):
            item = model.items[rng.integers(len(model.items))]
            if item.weight.size:
                item.weight.flat[rng.integers(item.weight.size)] = np.nan
    found, meeting = over_ranks(model, ranks, **options)
    require_equal(model, found, alone(model, **options))
    assert len(meeting.sums) < 12 and sum(meeting.sums) < 4 << 20
    assert meeting.exchanges == 1  # that of the set-up


@pytest.mark.parametrize("seed", range(60))
def test_pieces_that_form_no_grid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranks = int(rng.integers(2, 9))
    data = str(rng.choice(["equal", "three values", "mostly zeros", "normal"]))  # ties within a piece
    model = random_model(rng, ranks, frozenset(("weight",)), data=data)
    model.boxes = [pieces(item.weight.shape, ranks, rng) for item in model.items]
    options: dict[str, Any] = {"scorer": "magnitude", "sparsity": float(rng.random())}
    options["scope"] = str(rng.choice(["global", "tensor"]))
    found, _ = over_ranks(model, ranks, **options)
    require_equal(model, found, alone(model, **options))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("data", DATA)
def test_every_kind_of_numbers_in_every_layout(data: str, dtype: Any) -> None:
    for place, kind in enumerate(KINDS):
        rng = np.random.default_rng(place)
        model = random_model(rng, 4, frozenset(), kind=kind, data=data, dtype=dtype)
        found, _ = over_ranks(model, 4, scorer="magnitude", sparsity=0.5)
        require_equal(model, found, alone(model, scorer="magnitude", sparsity=0.5))


def rows_of(weights: list[np.ndarray[Any, Any]], ranks: int) -> Model:
    """Each tensor cut into rows as torch.chunk cuts."""
    boxes: list[Any] = []
    for weight in weights:
        size = -(-len(weight) // ranks)
        rows = [(min(rank * size, len(weight)), min((rank + 1) * size, len(weight))) for rank in range(ranks)]
        boxes.append([(slice(*row), *(slice(0, n) for n in weight.shape[1:])) for row in rows])
    return Model([bs.ScoreInputs(weight, name=f"w{i}") for i, weight in enumerate(weights)], boxes)


@pytest.mark.parametrize("k", range(0, 61, 5))
def test_ties_are_cut_at_every_border(k: int) -> None:
    """Equal scores: the cut falls at, before and behind borders of shards, of tensors, and of empty ranks."""
    model = rows_of(
        [np.ones((5, 4), np.float32), np.ones((1, 6), np.float32), np.ones((17, 2), np.float32)], 4
    )
    for at in (k, k + 1, k + 4):
        at = min(at, 60)
        found, _ = over_ranks(model, 4, scorer="magnitude", k=at)
        expected = alone(model, scorer="magnitude", k=at)
        assert expected.event.pruned == at
        require_equal(model, found, expected)


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_one_element_and_none(ranks: int) -> None:
    for shapes in ([(1,)], [(0, 3)], [(0,), (1, 1)], [()]):
        weights = [np.ones(shape, np.float32) for shape in shapes]
        model = rows_of([one for one in weights if one.ndim], ranks)
        if not model.items:
            model = Model([bs.ScoreInputs(weights[0], name="w0")], [[()] * ranks])
        for sparsity in (0.0, 0.4, 1.0):
            found, _ = over_ranks(model, ranks, scorer="magnitude", sparsity=sparsity)
            require_equal(model, found, alone(model, scorer="magnitude", sparsity=sparsity))


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("scorer", ["magnitude", "bitter7"])
def test_nan_is_named_as_in_one_process(scorer: str, where: int) -> None:
    rng = np.random.default_rng(where)
    model = random_model(rng, 3, resolve_scorer(scorer, None, 0).reads, kind="rows", data="normal")
    item = max(model.items, key=lambda one: one.weight.size)
    item.mask = None
    item.weight.flat[[item.weight.size * (where + 1) // 3 - 1, -1]] = np.nan
    found, meeting = over_ranks(model, 3, scorer=scorer, sparsity=0.5)
    expected = alone(model, scorer=scorer, sparsity=0.5)
    assert isinstance(expected, bs.NonFiniteScoreError)
    for error in found:
        assert type(error) is bs.NonFiniteScoreError and str(error) == str(expected)
        for field in ("parameter", "count", "first_index"):
            assert getattr(error, field) == getattr(expected, field)
    assert meeting.exchanges == 1, "the sums say which: no words"


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_scopes_of_tensors_and_rows(ranks: int) -> None:
    rng = np.random.default_rng(ranks)
    for _ in range(12):
        model = random_model(rng, ranks, frozenset(), kind="rows")
        for options in (
            {"scope": "tensor", "sparsity": 0.5},
            {"scope": "tensor", "sparsity": 0.7, "distribution": "erk"},
            {"scope": "tensor", "sparsity": 0.4, "distribution": "layer_adaptive"},
            {"scope": "row", "sparsity": 0.5},
            {"scope": "row", "sparsity": 0.3, "rounding": "floor"},
            {"scope": "row", "sparsity": 0.6, "distribution": "erk"},
            {"scope": "2:4", "remainder": "keep"},
            {"sparsity": 0.5, "max_tensor_sparsity": 0.6},
            {"sparsity": 0.5, "tensor_sparsity": {"*": (0.4, 0.6)}},
            {"sparsity": 0.5, "tensor_sparsity": {"*": 0.5}},
        ):
            split = any(item.weight.ndim == 1 and item.weight.size > 1 for item in model.items)
            if split and options.get("scope") in ("row", "2:4"):
                continue  # a vector is one row, which is then cut
            found, _ = over_ranks(model, ranks, scorer="magnitude", **options)
            require_equal(model, found, alone(model, scorer="magnitude", **options))


@pytest.mark.parametrize("scope", ["row", "2:4"])
def test_rows_that_are_cut_are_refused(scope: str) -> None:
    weight = np.arange(48, dtype=np.float32).reshape(4, 12)
    for cut, fits in ((4, scope == "2:4"), (8, scope == "2:4"), (6, False)):
        whole = slice(0, 4)
        boxes: list[Any] = [(whole, slice(0, cut)), (whole, slice(cut, 12))]
        model = Model([bs.ScoreInputs(weight, name="w")], [boxes])
        options: dict[str, Any] = {"scope": scope} | ({"sparsity": 0.5} if scope == "row" else {})
        found, _ = over_ranks(model, 2, scorer="magnitude", **options)
        if fits:
            require_equal(model, found, alone(model, scorer="magnitude", **options))
        else:
            assert {type(one) for one in found} == {bs.ShapeError}
            assert all("'w'" in str(one) and "split between ranks" in str(one) for one in found)


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_random_numbers_are_those_of_the_whole(ranks: int) -> None:
    rng = np.random.default_rng(ranks)
    for _ in range(10):
        model = random_model(rng, ranks, frozenset(), kind="rows")
        for options in ({"seed": 5}, {"seed": 5, "ties": "below"}):
            found, _ = over_ranks(model, ranks, scorer="random", sparsity=0.5, **options)
            require_equal(model, found, alone(model, scorer="random", sparsity=0.5, **options))


def test_random_numbers_of_parts_that_are_no_stretch_are_refused() -> None:
    weight = np.ones((4, 6), np.float32)
    boxes = [(slice(0, 4), slice(0, 3)), (slice(0, 4), slice(3, 6))]
    found, _ = over_ranks(
        Model([bs.ScoreInputs(weight, name="w")], [boxes]), 2, scorer="random", sparsity=0.5
    )
    assert {type(one) for one in found} == {bs.ShapeError}
    assert all("random" in str(one) and "'w'" in str(one) for one in found)


def test_a_threshold_and_a_write() -> None:
    rng = np.random.default_rng(11)
    model = random_model(rng, 4, resolve_scorer("bitter7", None, 0).reads, kind="mixed", data="normal")
    expected = bs.threshold(model.items, sparsity=0.6)
    event = alone(model, sparsity=0.6).event

    def work(group: Any) -> Any:
        items = model.of(group.rank)
        one = bs.threshold(items, sparsity=0.6, process_group=group)
        return one, bs.prune_(items, sparsity=0.6, process_group=group, mask_optimizer_state=True), items

    found, _ = on_all(4, work)
    bs.prune_(model.items, sparsity=0.6, mask_optimizer_state=True)
    parts = [model.of(rank) for rank in range(4)]
    for rank, (one, made, items) in enumerate(found):
        for field in ("value", "k", "count_below", "count_equal", "pruned", "total", "dead", "nonfinite"):
            assert getattr(one, field) == getattr(expected, field), field
        assert one.ranks == made.ranks == 4 and one.rounds and made.bytes_sent
        require_equal_events(made, event)
        for item, whole in zip(items, parts[rank], strict=True):
            for role in ("weight", "exp_avg_sq"):
                assert getattr(item, role).tobytes() == getattr(whole, role).tobytes(), (item.name, role)


def test_rounds_and_bytes() -> None:
    """What an event over ranks costs, by the numbers that are summed."""
    rng = np.random.default_rng(0)
    model = rows_of([rng.standard_normal((600, 500)).astype(np.float32) for _ in range(3)], 4)
    found, meeting = over_ranks(model, 4, scorer="magnitude", sparsity=0.5)
    event = found[0].event
    assert event.rounds == len(meeting.sums) <= 4
    assert event.bytes_sent == sum(meeting.sums) <= 1300 << 10
    assert math.isclose(event.passes, 1.0, abs_tol=0.2)


def test_a_threshold_keeps_the_memory_of_its_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    alive: list[bool] = []
    start = thresholds.start_over_ranks

    def watched(*arguments: Any) -> Any:
        table, masks, agreed, prune = start(*arguments)
        kept = [weakref.ref(table), *(weakref.ref(mask.held) for mask in masks)]

        class Watched:
            def next(self, fault: bool = False) -> Any:
                alive.extend(reference() is not None for reference in kept)
                return prune.next(fault)

            def report(self) -> Any:
                return prune.report()

        return table, masks, agreed, Watched()

    monkeypatch.setattr(thresholds, "start_over_ranks", watched)
    model = torch.nn.Linear(8, 16, bias=False)
    on_all(
        1,
        lambda group: bs.threshold(
            model, sparsity=0.5, scorer="magnitude", tensor_sparsity={"*": (0.1, 0.9)}, process_group=group
        ),
    )
    assert alive and all(alive)
