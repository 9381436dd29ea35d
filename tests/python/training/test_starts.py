"""Sparse starts: the first masks before training."""

from __future__ import annotations

import math
from typing import Any

import bittersweet as bs
import pytest
import torch
from pruner_support import ONCE, SIZE, adamw, backward, facts, mlp, train, unchanged, weights
from regrow_support import budgets, flags
from torch import nn

CONSTANT = bs.ConstantSparsity(0.7, 3, 9, 3)
RAMP = bs.PolynomialDecay(0.0, 0.5, 3, 9, frequency=3)


@pytest.mark.parametrize("scorer", ["random", "magnitude", bs.Random(seed=4)], ids=str)
@pytest.mark.parametrize(
    ("scope", "distribution"),
    [("global", None), ("tensor", None), ("tensor", "erk"), ("tensor", "layer_adaptive"), ("row", None)],
)
def test_it_is_a_one_shot_selection_of_the_fresh_weights(
    scope: str, distribution: str | None, scorer: Any
) -> None:
    model = mlp()
    fresh = weights(model)
    items = [bs.ScoreInputs(tensor, name=name) for name, tensor in fresh.items()]
    wanted = bs.make_masks(items, sparsity=0.7, scope=scope, distribution=distribution, scorer=scorer, seed=5)
    pruner = bs.Pruner(model, adamw(model), schedule=CONSTANT, scope=scope, distribution=distribution, seed=5)
    event = pruner.start(scorer=scorer)
    for mask in wanted:
        keep = mask.bool()
        assert torch.equal(pruner.masks[mask.name], keep)
        assert torch.equal(model.get_parameter(mask.name).detach(), fresh[mask.name] * keep)
    assert wanted.event is not None
    assert facts(event) == facts(wanted.event) | {"step": 0}
    assert pruner.history[0] == event and pruner.steps == 0


def test_static_sparse_training_holds_what_it_began_with() -> None:
    for make in (adamw, lambda model: bs.optim.AdamW(model.parameters(), lr=1e-2)):
        model = mlp()
        optimizer = make(model)
        pruner = bs.Pruner(model, optimizer, schedule=None, scope="tensor", distribution="erk")
        event = pruner.start(0.9)
        began = flags(pruner)
        assert [int((~keep).sum()) for keep in began.values()] == budgets(
            [keep.shape for keep in began.values()], 0.9, "erk"
        )
        assert event.pruned == math.floor(0.9 * SIZE + 0.5)
        train(model, optimizer, pruner, 20)
        assert all((keep == began[name]).all() for name, keep in flags(pruner).items())
        report = pruner.finalize()
        assert report.unfinished is None and report.sparsity.masked == pytest.approx(0.9, abs=1e-3)
        for name, keep in began.items():
            values = model.get_parameter(name).detach().numpy()
            assert not values[~keep].any() and (values[keep] != 0).all()


def test_the_schedule_says_how_much_where_nobody_else_does() -> None:
    for schedule, wanted in (
        (bs.PolynomialDecay(0.4, 0.9, 5, 10), 0.4),
        (bs.ConstantSparsity(0.7, 5, 10), 0.7),
        (ONCE, 0.5),
    ):
        model = mlp()
        pruner = bs.Pruner(model, adamw(model), schedule=schedule)
        assert pruner.start().requested_sparsity == wanted
    model = mlp()
    pruner = bs.Pruner(model, adamw(model), schedule={"0.*": CONSTANT, "4.*": ONCE}, scope="tensor")
    event = pruner.start()
    assert (event.per_tensor, event.dense) == ({"0.weight": 0.7, "4.weight": 83 / 165}, ("2.weight",))
    model = mlp()
    pruner = bs.Pruner(model, adamw(model), schedule={"0.*": CONSTANT, "4.*": ONCE})
    assert pruner.start(0.2).per_tensor == {"0.weight": 0.2, "4.weight": 0.2}


def test_two_of_four_needs_no_share() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8))
    pruner = bs.Pruner(model, adamw(model), schedule=None, scope="2:4")
    assert pruner.start().achieved_sparsity == 0.5
    assert (pruner.masks["0.weight"].reshape(8, 4, 4).sum(-1) == 2).all()


@pytest.mark.parametrize("scorer", ["gradient", "taylor"])
def test_what_gradients_say_before_training(scorer: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=None)
    with unchanged(model, optimizer), pytest.raises(bs.MissingStateError, match="no gradient"):
        pruner.start(0.5, scorer)
    backward(model, 1)
    assert pruner.start(0.5, scorer).scorer == scorer
    optimizer.zero_grad()


def test_a_saved_start_is_resumed() -> None:
    runs = []
    for stop in (0, 5, 12):
        model = mlp()
        optimizer = adamw(model)
        pruner = bs.Pruner(model, optimizer, schedule=CONSTANT)
        pruner.start()
        train(model, optimizer, pruner, stop)
        state = [one.state_dict() for one in (model, optimizer, pruner)]
        model = mlp(1)
        optimizer = adamw(model)
        pruner = bs.Pruner(model, optimizer, schedule=CONSTANT)
        for one, saved in zip((model, optimizer, pruner), state, strict=True):
            one.load_state_dict(saved)
        train(model, optimizer, pruner, 12 - stop, first=stop + 1)
        runs.append((weights(model), [facts(event) for event in pruner.history]))
    assert [event["step"] for event in runs[0][1]] == [0, 3, 6, 9]
    for values, events in runs[1:]:
        assert events == runs[0][1]
        assert all(torch.equal(value, runs[0][0][name]) for name, value in values.items())


def test_it_comes_first_and_once() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=CONSTANT)
    pruner.start()
    with pytest.raises(bs.Error, match="has masks already"):
        pruner.start()
    pruner = bs.Pruner(model, optimizer, schedule=CONSTANT)
    train(model, optimizer, pruner, 1)
    with pytest.raises(bs.Error, match="start: step 1;"):
        pruner.start()
    pruner.finalize()
    with pytest.raises(bs.Error, match="finalized"):
        pruner.start()


def test_a_start_is_no_event_of_the_schedule() -> None:
    model = mlp()
    pruner = bs.Pruner(model, adamw(model), schedule=CONSTANT)
    pruner.start()
    with pytest.warns(UserWarning, match="no mask event came"):
        assert pruner.finalize().unfinished


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((None,), r"sparsity: None, and no schedule.*start\(0.9\)"),
        ((90,), "sparsity: 90.*90 % is 0.9"),
        ((0.5, "bitter7"), "'bitter7' reads exp_avg_sq.*'random'"),
        ((0.5, "identity"), "'identity' reads scores"),
        ((0.5, "wanda"), "'wanda' reads input_norm"),
        ((0.5, "bitter12"), "no scorer is called"),
    ],
)
def test_bad_starts_are_refused(arguments: tuple[Any, ...], match: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=None)
    with unchanged(model, optimizer), pytest.raises(bs.ArgumentError, match=match):
        pruner.start(*arguments)
    assert not pruner.history
    pruner.start(0.5)


@pytest.mark.parametrize("schedule", [RAMP, {"0.*": RAMP}, {"0.*": RAMP, "2.*": RAMP}], ids=str)
def test_a_schedule_that_begins_with_nothing_is_no_sparse_start(schedule: Any) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=schedule)
    with unchanged(model, optimizer), pytest.raises(bs.ArgumentError, match=r"begins with 0.*start\(0\.9\)"):
        pruner.start()
    assert not pruner.history and pruner.sparsity().masked == 0
    assert pruner.start(0.0).pruned == 0  # who says 0 means it


def test_one_part_of_a_schedule_may_begin_with_nothing() -> None:
    model = mlp()
    pruner = bs.Pruner(model, adamw(model), schedule={"0.*": RAMP, "2.*": ONCE})
    assert pruner.start().per_tensor == {"0.weight": 0.0, "2.weight": 0.5}


def test_a_function_as_schedule_must_be_told() -> None:
    model = mlp()
    pruner = bs.Pruner(model, adamw(model), schedule=lambda step: (step == 5, 0.5))
    with pytest.raises(bs.ArgumentError, match="sparsity: None"):
        pruner.start()
    assert pruner.start(0.25).achieved_sparsity == pytest.approx(0.25, abs=1e-3)
