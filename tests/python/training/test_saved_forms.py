"""The saved form: earlier formats, torch.distributed.checkpoint, and how little it grows."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
import torch.distributed.checkpoint as dcp
from bittersweet.select.columns import from_text, to_text
from pruner_support import mlp, train

SCORERS: list[Any] = ["bitter7", "bitter10", "bitter10s", bs.Bitter10c(every=3), "movement"]

# What the release before wrote, for the model of `small` after four steps.
VERSION_1: dict[str, Any] = {
    "format": "bittersweet.pruner",
    "version": 1,
    "config": {
        "scorer": {"name": "magnitude", "eps": None, "q": None, "seed": 0},
        "schedule": {
            "kind": "Linear",
            "initial_sparsity": 0.0,
            "final_sparsity": 0.5,
            "begin_step": 1,
            "end_step": 5,
            "frequency": 2,
        },
        "selector": {"name": "exact", "fraction": 0.02, "verify": False, "tolerance": 0.001},
        "scope": {"name": "global", "rounding": "nearest", "remainder": "error"},
        "distribution": None,
        "max_tensor_sparsity": None,
        "mask_optimizer_state": True,
        "hold": "weights",
        "regrow": False,
        "missing": "error",
        "nonfinite": "error",
        "ties": None,
        "seed": 0,
    },
    "step": 4,
    "fired": 4,
    "shapes": {"0.weight": [3, 5], "1.weight": [2, 3]},
    "masks": {"0.weight": torch.tensor([32736]), "1.weight": torch.tensor([63])},
    "history": [
        {
            "step": 3,
            "requested_sparsity": 0.25,
            "achieved_sparsity": 0.23809523809523808,
            "threshold": 5.0,
            "k": 5,
            "total": 21,
            "pruned": 5,
            "count_below": 4,
            "count_equal": 1,
            "churn": 5,
            "per_tensor": {"0.weight": 0.3333333333333333, "1.weight": 0.0},
            "per_tensor_threshold": {"0.weight": "-inf", "1.weight": None},
            "empty_rows": 1,
            "v_below_eps": None,
            "v_zero": None,
            "nonfinite": 0,
            "selector": "exact",
            "scorer": "magnitude",
            "scope": "global",
            "passes": 1.0,
            "milliseconds": 0.5,
            "extra_bytes": 126,
            "skipped": [],
            "achieved_sparsity_all": None,
            "standard_error": None,
            "converged": True,
        }
    ],
}


def small() -> tuple[torch.nn.Module, bs.Pruner]:
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(1.0, 16.0).reshape(3, 5))
        model[1].weight.copy_(torch.arange(101.0, 107.0).reshape(2, 3))
    return model, bs.Pruner(model, scorer="magnitude", schedule=bs.Linear(0.0, 0.5, 1, 5, 2))


@pytest.mark.parametrize("masks", [("0.weight", "1.weight"), ("0.weight",), ()])
def test_the_format_of_earlier_releases_is_read(masks: tuple[str, ...]) -> None:
    """There a weight that was not pruned yet had no mask."""
    model, pruner = small()
    state = {**VERSION_1, "masks": {name: VERSION_1["masks"][name] for name in masks}}
    pruner.load_state_dict(state)
    kept = torch.arange(15).reshape(3, 5) >= (5 if masks else 0)  # the five smallest went
    assert torch.equal(pruner.masks["0.weight"], kept) and pruner.masks["1.weight"].all()
    assert torch.equal(model.get_parameter("0.weight") != 0, kept)
    (event,) = pruner.history
    assert (event.step, event.pruned, event.per_tensor_threshold["0.weight"]) == (3, 5, -math.inf)
    pruner.step()
    assert [event.step for event in pruner.history] == [3, 5]
    assert pruner.state_dict()["version"] == 2


def test_a_tracker_of_earlier_releases_is_read() -> None:
    """There nothing was saved of a parameter without an update."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 2, bias=False), torch.nn.Linear(2, 1, bias=False))
    tracker = bs.MovementTracker(model, torch.optim.SGD(model.parameters(), lr=0.5), hook=False)
    sums = torch.arange(1.0, 9.0)
    state = {
        "format": "bittersweet.tracker",
        "version": 1,
        "scorer": "movement",
        "step": 1,
        "counts": {},
        "shapes": {"0.weight": [2, 4], "1.weight": [1, 2]},
        "tensors": {"0.weight": {"sums": sums, "updates": torch.tensor([1])}, "1.weight": {}},
    }
    tracker.load_state_dict(state)
    found = tracker.scores(missing="skip")
    assert list(found) == ["0.weight"] and torch.equal(found["0.weight"], sums.reshape(2, 4))
    saved = tracker.state_dict()
    assert saved["version"] == 2 and saved["seen"] == {"0.weight": True, "1.weight": False}
    assert saved["tensors"]["1.weight"]["sums"].tolist() == [0.0, 0.0]
    tracker.load_state_dict(saved)
    assert list(tracker.scores(missing="skip")) == ["0.weight"]


def trained(scorer: Any, steps: int) -> tuple[Any, Any, bs.Pruner]:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=bs.Linear(0.0, 0.5, 4, 10, 2))
    train(model, optimizer, pruner, steps)
    return model, optimizer, pruner


def leaves(state: Any, path: str = "") -> dict[str, Any]:
    """Every leaf by its path, with the shape and dtype of tensors and the type of others."""
    if isinstance(state, dict):
        assert state or path.endswith("counts"), path
        return {k: v for key, value in state.items() for k, v in leaves(value, f"{path}/{key}").items()}
    if isinstance(state, torch.Tensor):
        return {path: (state.dtype, tuple(state.shape))}
    return {path: None}


@pytest.mark.parametrize("scorer", SCORERS, ids=str)
def test_the_leaves_of_a_state_are_the_same_at_every_step(scorer: Any) -> None:
    found = [leaves(trained(scorer, steps)[2].state_dict()) for steps in (0, 1, 4, 9, 12)]
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("scorer", SCORERS, ids=str)
@pytest.mark.parametrize("steps", [0, 3, 9])
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoints_save_and_load_it(scorer: Any, steps: int, tmp_path: Path) -> None:
    """In one process, into the state of a fresh pruner, as torch's guide says; then training goes on."""
    model, optimizer, pruner = trained(scorer, steps)
    state = {"model": model.state_dict(), "pruner": pruner.state_dict()}
    dcp.save(state, checkpoint_id=tmp_path, no_dist=True)
    train(model, optimizer, pruner, 4, first=steps + 1)

    fresh, fresh_optimizer, other = trained(scorer, 0)
    state = {"model": fresh.state_dict(), "pruner": other.state_dict()}
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    fresh.load_state_dict(state["model"])
    other.load_state_dict(state["pruner"])
    _, again_optimizer, _ = trained(scorer, steps)
    fresh_optimizer.load_state_dict(again_optimizer.state_dict())
    train(fresh, fresh_optimizer, other, 4, first=steps + 1)
    for name, mask in pruner.masks.items():
        assert torch.equal(mask, other.masks[name])
        assert torch.equal(model.get_parameter(name), fresh.get_parameter(name))


def event_of(step: int, names: int = 3) -> bs.MaskEvent:
    items = [
        bs.ScoreInputs(torch.arange(1.0, 9.0), name=f"a.long.name.of.layer.{i}.weight") for i in range(names)
    ]
    event = bs.make_masks(items, sparsity=0.5, scorer="magnitude").event
    assert event is not None
    return dataclasses.replace(event, step=step, requested_sparsity=step / 1e6, churn=step)


def size_of(state: Any) -> int:
    file = io.BytesIO()
    torch.save(state, file)
    return len(file.getvalue())


def test_history_and_state_stay_small_however_long_training_runs() -> None:
    """The rule that `MaskHistory` states, counted out; and bytes of a state after 20,000 events."""
    history, template = bs.MaskHistory(), event_of(0, names=50)
    reached: dict[int, int] = {}
    for step in range(1, 20_001):
        history.append(dataclasses.replace(template, step=step, churn=step))
        if step in (1024, 20_000):
            reached[step] = len(to_text(history))
    steps = [event.step for event in history]
    assert steps == [*range(1, 513), *range(20_000 - 511, 20_001)]
    assert history.dropped == 20_000 - 1024
    whole = [event.step for event in history if event.per_tensor]
    assert whole == [*range(1, 9), *range(20_000 - 23, 20_001)]
    assert all(bool(event.per_tensor) == bool(event.per_tensor_threshold) for event in history)
    assert reached[20_000] < 1.1 * reached[1024] < 40_000  # digits of the numbers
    assert "... 19,960 more events ..." in str(history) and len(str(history).splitlines()) == 43

    again = from_text(to_text(history))
    assert again == history and again.dropped == history.dropped


def test_a_pruner_that_fires_at_every_step_keeps_a_small_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bs.MaskHistory, "FIRST", 10)
    monkeypatch.setattr(bs.MaskHistory, "LAST", 30)
    pruner = bs.Pruner(mlp(), scorer="magnitude", schedule=bs.Linear(0.0, 0.5, 1, 400, 1))
    sizes = []
    for _ in range(400):
        pruner.step()
        if len(pruner.history) == 40:
            sizes.append(size_of(pruner.state_dict()))
    assert len(sizes) > 300 and max(sizes) < 1.1 * min(sizes)
    assert [event.step for event in pruner.history] == [*range(1, 11), *range(371, 401)]
    other = bs.Pruner(mlp(), scorer="magnitude", schedule=bs.Linear(0.0, 0.5, 1, 400, 1))
    other.load_state_dict(pruner.state_dict())
    assert other.history == pruner.history and other.history.dropped == 360


def test_short_histories_keep_everything_and_print_every_event() -> None:
    history = bs.MaskHistory(event_of(step) for step in range(1, 33))
    assert all(len(event.per_tensor) == 3 for event in history) and history.dropped == 0
    assert len(str(history).splitlines()) == 34 and "more events" not in str(history)
    assert from_text(to_text(history)) == history


@pytest.mark.parametrize("count", [0, 1, 2, 41, 42])
def test_text_of_a_history_gives_it_back(count: int) -> None:
    events = [event_of(step) for step in range(count)]
    if count > 1:
        events[1] = dataclasses.replace(events[1], threshold=-math.inf, skipped=("a", "b"), v_zero=0.25)
    history = bs.MaskHistory(events)
    assert from_text(to_text(history)) == history
    assert ("more events" in str(history)) == (count > 41)


def test_logged_numbers_are_numbers() -> None:
    event = dataclasses.replace(event_of(7), threshold=-math.inf, v_zero=0.0)
    numbers = event.scalars("pruning/")
    assert numbers["pruning/sparsity"] == 0.5 and numbers["pruning/churn"] == 7
    assert numbers["pruning/v_zero"] == 0.0 and numbers["pruning/requested_sparsity"] == 7e-6
    assert {type(value) for value in numbers.values()} <= {int, float}
    assert not {"pruning/threshold", "pruning/v_below_eps", "pruning/step"} & numbers.keys()
    assert event_of(7).scalars()["threshold"] == 4.0
    finite = dataclasses.replace(event, achieved_sparsity_all=0.25, standard_error=0.125)
    assert (finite.scalars()["sparsity_all"], finite.scalars()["standard_error"]) == (0.25, 0.125)
