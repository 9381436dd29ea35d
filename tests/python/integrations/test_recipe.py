"""What the callbacks make of their arguments, without any of the packages that they are callbacks of."""

from __future__ import annotations

import sys
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.integrations.recipe import Length, Recipe, numbers, release, restore

LENGTH = Length(steps=100, epoch=25)


class Callback:
    """Arguments as those of the callbacks."""

    def __init__(
        self,
        scorer: Any = "bitter7",
        sparsity: Any = 0.5,
        *,
        begin: Any = 0.1,
        end: Any = 0.8,
        events: Any = 20,
        initial_sparsity: Any = 0.0,
        schedule: Any = None,
        keep_zeros: Any = False,
        start: Any = None,
        **options: Any,
    ) -> None:
        self.recipe = Recipe(
            Callback, scorer, sparsity=sparsity, begin=begin, end=end, events=events,
            initial_sparsity=initial_sparsity, schedule=schedule, keep_zeros=keep_zeros,
            start=start, options=options,
        )  # fmt: skip


def schedule(length: Length = LENGTH, **given: Any) -> Any:
    return Callback(**given).recipe.schedule(length)


def due(found: bs.Schedule, steps: int = 100) -> list[int]:
    return [step for step in range(1, steps + 1) if found(step)[0]]


def make(**options: Any) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    return model, torch.optim.AdamW(model.parameters(), **options)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        model(torch.randn(4, 16)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("given", "first", "last"),
    [
        ({}, 10, 80),
        ({"begin": 0.25, "end": 1.0}, 25, 100),
        ({"begin": 7, "end": 93}, 7, 93),
        ({"begin": "1 epoch", "end": "2 epochs"}, 25, 50),
        ({"begin": "0.5 epochs", "end": "3.5epochs"}, 12, 88),
        ({"begin": np.float32(0.5), "end": np.int64(80)}, 50, 80),
        ({"begin": torch.tensor(0.5), "end": torch.tensor(80)}, 50, 80),
        ({"begin": 1, "end": 1.0}, 1, 100),  # one is a step, the other a share
        ({"begin": 0.104, "end": 0.806}, 10, 81),  # the nearest step
    ],
    ids=str,
)
def test_begin_and_end(given: dict[str, Any], first: int, last: int) -> None:
    found = schedule(**given)
    steps = due(found)
    assert (steps[0], steps[-1]) == (first, last)
    assert found(last) == (True, 0.5)
    assert found == bs.PolynomialDecay(0.0, 0.5, first, last, frequency=found.frequency)


@pytest.mark.parametrize("events", [1, 2, 3, 7, 20, 69, 70, 71, 1000])
def test_at_most_so_many_events_follow_on_the_first(events: int) -> None:
    steps = due(schedule(events=events))
    assert len(steps) - 1 <= events
    assert len(steps) - 1 >= min(events, 70) / 2
    assert steps[0] == 10 and steps[-1] == 80


def test_a_share_that_begins_at_zero_has_no_event_before_the_first_step() -> None:
    steps = due(schedule(begin=0.0, end=1.0, events=10))
    assert steps == list(range(10, 101, 10))


def test_shares_by_glob_rise_together() -> None:
    found = schedule(sparsity={"a.*": 0.5, "b.*": 0.9}, initial_sparsity=0.25)
    assert {glob: one(10) for glob, one in found.items()} == {"a.*": (True, 0.25), "b.*": (True, 0.25)}
    assert {glob: one(80) for glob, one in found.items()} == {"a.*": (True, 0.5), "b.*": (True, 0.9)}


def test_a_schedule_is_taken_as_it_is() -> None:
    given = bs.OneShot(0.5, 3)
    assert schedule(schedule=given) is given
    assert schedule(sparsity=None, keep_zeros=True) is None


@pytest.mark.parametrize("argument", ["begin", "end"])
@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.1,
        1.5,
        80.0,
        True,
        None,
        "half",
        "10%",
        "2",
        "epochs",
        "-1 epochs",
        "1 epoch 2",
        float("nan"),
        [0.1],
    ],
    ids=str,
)
def test_times_that_are_none(argument: str, value: Any) -> None:
    with pytest.raises(bs.ArgumentError, match=rf"^{argument}: .*; accepted: a float from 0\.0 to 1\.0"):
        Callback(**{argument: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sparsity": 50}, r"sparsity: 50; .*50 % is 0\.5"),
        ({"sparsity": {"a": 1.5}}, "sparsity of 'a': 1.5"),
        ({"sparsity": {}}, "sparsity: an empty mapping"),
        ({"sparsity": None}, "sparsity: None, and no schedule"),
        ({"sparsity": "2:4"}, "sparsity: '2:4'"),
        ({"events": 0}, "events: 0"),
        ({"events": 2.5}, "events: 2.5"),
        ({"initial_sparsity": 0.6}, r"initial_sparsity: 0\.6 is above sparsity 0\.5"),
        ({"sparsity": {"a": 0.9, "b": 0.1}, "initial_sparsity": 0.2}, r"initial_sparsity: 0\.2 is above"),
        ({"keep_zeros": 1}, "keep_zeros: 1"),
        ({"schedule": bs.OneShot(0.5, 3), "sparsity": 0.7}, "schedule, sparsity: a schedule says itself"),
        ({"schedule": bs.OneShot(0.5, 3), "begin": 3}, "schedule, begin: "),
        ({"schedule": bs.OneShot(0.5, 3), "events": 3}, "schedule, events: "),
        ({"start": "random", "keep_zeros": True}, "start, keep_zeros: the first masks are either made or"),
        ({"start": 0.9}, "start: 0.9; scorer: 0.9; accepted: a scorer"),
        ({"start": "rand"}, "start: 'rand'; scorer: no scorer"),
        ({"start": "random"}, "start: 'random' with initial_sparsity=0.0"),
        ({"start": "random", "sparsity": {"a": 0.5}}, "start: 'random' with initial_sparsity=0.0"),
        ({"min_sparsity": 0.1}, "min_sparsity: given without keep_zeros"),
        ({"frequency": 10}, "frequency: Callback has no such argument; the argument is events"),
        ({"begin_step": 10}, "begin_step: Callback has no such argument; the argument is begin"),
        ({"model": None}, "model: Callback has no such argument; the trainer brings it"),
        ({"amount": 0.5}, "amount: Callback has no such argument; the argument is sparsity"),
        ({"layers": "0.*"}, "layers: Callback has no such argument; the argument is targets"),
        ({"exclude": "0.*"}, "exclude: Callback has no such argument; the argument is ignore"),
        ({"hodl": "grads"}, "hodl: Callback has no such argument; the argument is hold"),
        ({"optimizer": None}, "optimizer: Callback has no such argument; the trainer brings it"),
    ],
    ids=str,
)
def test_bad_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(bs.ArgumentError, match=message):
        Callback(**given)


@pytest.mark.parametrize(
    ("given", "length", "message"),
    [
        ({}, Length(None, None), r"begin: 0\.1, and nobody knows how long the training is"),
        ({"begin": "1 epoch"}, Length(100, None), "begin: '1 epoch', and nobody knows how long an epoch is"),
        ({"begin": 2}, Length(None, 5), r"end: 0\.8, and nobody knows how long the training is"),
        ({"end": 101}, LENGTH, "end: 101 is step 101, and the training ends at step 100"),
        ({"end": "5 epochs"}, LENGTH, "end: '5 epochs' is step 125, and the training ends at step 100"),
        ({"begin": 0.8}, LENGTH, r"begin, end: 0\.8 \(step 80\) and 0\.8 \(step 80\)"),
        ({"begin": 90}, LENGTH, r"begin, end: 90 \(step 90\) and 0\.8 \(step 80\)"),
        ({}, Length(1, 1), r"begin, end: 0\.1 \(step 0\) and 0\.8 \(step 1\)"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_training(given: dict[str, Any], length: Length, message: str) -> None:
    if length == Length(1, 1):
        assert due(schedule(length), 1) == [1]  # one step, one event
        return
    with pytest.raises(bs.ArgumentError, match=message):
        schedule(length, **given)


def test_steps_need_no_known_length() -> None:
    assert due(schedule(Length(None, None), begin=3, end=9, events=2)) == [3, 6, 9]


def test_options_go_to_the_pruner() -> None:
    model, optimizer = make()
    recipe = Callback("magnitude", begin=2, end=4, events=1, ignore="2.*", hold="weights").recipe
    pruner = recipe.pruner(model, optimizer, Length(6, None), False)
    train(model, optimizer, 6)  # it is attached
    assert [event.step for event in pruner.history] == [2, 4]
    assert [*pruner.sparsity().per_tensor] == ["0.weight"]
    assert pruner.report().settings["scorer"] == "magnitude"


def test_zeros_are_kept_and_more_is_pruned() -> None:
    model, optimizer = make()
    bs.prune_(model, sparsity=0.25)
    zeros = model[0].weight == 0
    pruner = Callback(begin=2, end=4, keep_zeros=True, sparsity=0.5).recipe.pruner(
        model, optimizer, Length(6, None), False
    )
    train(model, optimizer, 6)
    assert pruner.finalize().sparsity.zero == pytest.approx(0.5, abs=1e-2)
    assert torch.all(model[0].weight[zeros] == 0)


def test_what_counts_as_a_sparse_layer_can_be_said() -> None:
    model, optimizer = make()
    with torch.no_grad():
        model[0].weight[0, 0] = 0.0  # one of 512
    recipe = Callback(keep_zeros=True, sparsity=None, min_sparsity=1 / 512).recipe
    pruner = recipe.pruner(model, optimizer, Length(6, None), False)
    assert pruner.sparsity().per_tensor["0.weight"].pruned == 1
    pruner.finalize()
    recipe.pruner(model, optimizer, Length(6, None), True)  # resumed: the masks are in the checkpoint
    with pytest.raises(bs.ArgumentError, match=r"min_sparsity: no weight has a share of 0\.01"):
        Callback(keep_zeros=True, sparsity=None).recipe.pruner(model, optimizer, Length(6, None), False)


def test_a_sparse_start_and_regrowth() -> None:
    given = {"sparsity": 0.75, "initial_sparsity": 0.75, "start": "random", "begin": 2, "end": 6, "events": 2}
    recipe = Callback(**given, regrow=bs.RigL(0.3)).recipe
    model, optimizer = make()
    pruner = recipe.pruner(model, optimizer, Length(8, None), False)
    assert pruner.sparsity().zero == pytest.approx(0.75, abs=1e-2)  # before the first step
    before = pruner.masks["0.weight"].clone()
    train(model, optimizer, 8)
    assert [event.step for event in pruner.history] == [0, 2, 4, 6]
    assert pruner.finalize().sparsity.zero == pytest.approx(0.75, abs=1e-2)
    assert torch.any(pruner.masks["0.weight"] & ~before)  # some have grown
    model, optimizer = make()
    pruner = recipe.pruner(model, optimizer, Length(8, None), True)
    assert pruner.sparsity().zero == 0.0  # of a training that goes on, the masks are in the checkpoint


def test_numbers_are_finite_numbers() -> None:
    model, optimizer = make()
    pruner = Callback(begin=2, end=4, events=2).recipe.pruner(model, optimizer, Length(6, None), False)
    train(model, optimizer, 6)
    first, *_, last = pruner.history
    assert first.threshold == -np.inf
    assert "pruning/threshold" not in numbers(first)
    assert numbers(last)["pruning/threshold"] == last.threshold
    assert numbers(last)["pruning/sparsity"] == last.achieved_sparsity
    for event in pruner.history:
        assert {"pruning/sparsity", "pruning/churn", "pruning/milliseconds"} <= numbers(event).keys()
        assert all(
            isinstance(value, (int, float)) and np.isfinite(value) for value in numbers(event).values()
        )


def test_a_pruner_that_is_released_does_nothing_any_more() -> None:
    model, optimizer = make()
    pruner = Callback(begin=1, end=3, hold="grads").recipe.pruner(model, optimizer, Length(6, None), False)
    train(model, optimizer, 2)
    release(pruner)
    train(model, optimizer, 4)
    assert pruner.steps == 2
    assert len(pruner.history) == 2
    assert int((model[0].weight == 0).sum()) == 0  # nothing holds them
    release(None)


def test_a_state_that_does_not_fit_names_where_it_is_from_and_the_saved_schedule() -> None:
    model, optimizer = make()
    state = Callback().recipe.pruner(model, optimizer, LENGTH, False).state_dict()
    again, other = make()
    pruner = Callback().recipe.pruner(again, other, Length(200, 25), False)
    with pytest.raises(bs.CheckpointError, match=r"^folder/5: .*differs in schedule") as error:
        restore(pruner, state, "folder/5")
    text = str(error.value).partition("schedule=bs.")[2]
    assert eval(text, vars(bs) | {"PolynomialDecay": bs.PolynomialDecay}) == schedule()
    train(again, other, 3)
    assert pruner.steps == 0  # it was released
    pruner = Callback().recipe.pruner(again, other, LENGTH, False)
    with pytest.raises(bs.CheckpointError, match=r"^folder/5: this is not the state of a Pruner"):
        restore(pruner, {}, "folder/5")
    pruner = Callback("magnitude", schedule={"0.*": bs.OneShot(0.5, 9)}).recipe.pruner(
        again, other, LENGTH, False
    )
    with pytest.raises(bs.CheckpointError, match=r"differs in scorer .*the same length of training; or give"):
        restore(pruner, state, "folder/5")
    groups = pruner.state_dict() | {"config": {**state["config"], "schedule": {"kind": "by_glob"}}}
    pruner = Callback().recipe.pruner(again, other, LENGTH, False)
    with pytest.raises(bs.CheckpointError, match=r"the same length of training$"):  # no such text for these
        restore(pruner, groups, "folder/5")


@pytest.mark.parametrize(
    ("module", "packages", "message"),
    [
        ("transformers", ("transformers",), r'needs transformers, .*"bittersweet\[transformers\]"'),
        ("lightning", ("lightning", "pytorch_lightning"), r'needs lightning, .*"bittersweet\[lightning\]"'),
    ],
)
def test_a_package_that_is_missing_is_named(
    module: str, packages: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    for package in packages:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"bittersweet.integrations.{module}", raising=False)
    with pytest.raises(bs.MissingPackageError, match=message):
        importlib.import_module(f"bittersweet.integrations.{module}")


def test_the_room_itself_loads_neither() -> None:
    import subprocess

    code = (
        "import sys, bittersweet.integrations; "
        "print([m for m in ('torch', 'transformers', 'lightning', 'pytorch_lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
