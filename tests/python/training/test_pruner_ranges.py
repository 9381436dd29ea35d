"""`Pruner(tensor_sparsity=...)`: ranges on the way to a schedule's end."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from pruner_support import mlp

RAMP = bs.PolynomialDecay(0.0, 0.7, begin_step=2, end_step=20, frequency=2)


def run(model: Any, optimizer: Any, pruner: bs.Pruner, steps: int = 20) -> list[bs.MaskEvent]:
    events = []
    for step in range(steps):
        torch.manual_seed(step)
        width = next(model.parameters()).shape[1]
        model(torch.randn(8, width)).square().mean().backward()
        optimizer.step()
        event = pruner.step()
        optimizer.zero_grad()
        events += [] if event is None else [event]
    return events


def names_of(model: Any) -> list[str]:
    return [entry.name for entry in bs.Pruner(model, scorer="magnitude").plan().targets]


@pytest.mark.parametrize("scorer", ["magnitude", "bitter7"])
@pytest.mark.parametrize("regrow", [False, True])
def test_every_event_keeps_to_the_ranges_and_the_last_meets_them(scorer: str, regrow: bool) -> None:
    model = mlp()
    first, *others, last = names_of(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ranges = {first: (0.6, 0.65), last: 0.25, "*": (0, 0.9)}
    pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=RAMP, tensor_sparsity=ranges, regrow=regrow)
    events = run(model, optimizer, pruner)
    assert len(events) == 10
    for event in events:
        assert event.pruned == event.k == int(event.requested_sparsity * event.total + 0.5)
        assert event.per_tensor[first] <= 0.65 and event.per_tensor[last] <= 0.26
        assert all(event.per_tensor[name] <= 0.9 for name in others)
    assert 0.6 <= events[-1].per_tensor[first] <= 0.65
    sizes = {entry.name: entry.numel for entry in pruner.plan().targets}
    assert round(events[-1].per_tensor[last] * sizes[last]) == int(0.25 * sizes[last] + 0.5)
    assert any(event.at_bounds for event in events)
    assert "tensor_sparsity: " in str(pruner.plan())


def test_ranges_from_zero_are_the_cap_in_training_too() -> None:
    found = []
    for options in ({"max_tensor_sparsity": 0.72}, {"tensor_sparsity": {"*": (0, 0.72)}}):
        model = mlp()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        pruner = bs.Pruner(model, optimizer, schedule=RAMP, **options)
        events = run(model, optimizer, pruner)
        found.append(([event.per_tensor for event in events], dict(model.state_dict())))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_a_run_is_resumed_with_its_ranges_and_with_no_others() -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ranges: Any = {names_of(model)[0]: (0.2, 0.5)}
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, tensor_sparsity=ranges)
    run(model, optimizer, pruner, 10)
    state = pruner.state_dict()
    bs.Pruner(model, optimizer, schedule=RAMP, tensor_sparsity=ranges).load_state_dict(state)
    with pytest.raises(bs.CheckpointError, match="tensor_sparsity"):
        bs.Pruner(model, optimizer, schedule=RAMP).load_state_dict(state)


def test_ranges_hold_within_groups_of_schedules() -> None:
    model = mlp()
    first, second, *_ = names_of(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = {f"{first}": bs.OneShot(0.5, step=1), "*": bs.OneShot(0.5, step=2)}
    pruner = bs.Pruner(
        model, optimizer, scorer="magnitude", schedule=schedule, tensor_sparsity={second: (0, 0.45)}
    )
    events = run(model, optimizer, pruner, 2)
    assert events[1].per_tensor[second] <= 0.45 and events[1].pruned == events[1].k


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_sparsity": {"*": (0, 0.5)}}, r"ends at sparsity 0\.7.*allow 0 \(0\) to"),
        ({"tensor_sparsity": {"*": (0.8, 1)}}, r"ends at sparsity 0\.7.*the ranges allow"),
        ({"tensor_sparsity": {"nowhere.*": 0.5}}, r"'nowhere\.\*'"),
        ({"tensor_sparsity": {"*": (0, 0.9)}, "schedule": None}, "without a schedule"),
        ({"tensor_sparsity": {"*": (0.1, 1)}, "schedule": lambda step: (step == 5, 0.5)}, "where it ends"),
        ({"tensor_sparsity": {"*": (0, 1)}, "scope": "row"}, "scope 'global'"),
        ({"tensor_sparsity": {"*": (0, 1)}, "ties": "below"}, "ties"),
        ({"tensor_sparsity": {"*": (0, 1)}, "max_tensor_sparsity": 0.9}, "one of them"),
        ({"tensor_sparsity": "half"}, "accepted: {glob"),
        (
            {"tensor_sparsity": {"*": np.array([0.1, 0.9])}},
            r"a fraction from 0 to 1, or two of them: \(low, high\)",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_the_pruner_is_made(options: Any, message: str) -> None:
    with pytest.raises(bs.ArgumentError, match=message):
        bs.Pruner(mlp(), **{"schedule": RAMP, "scorer": "magnitude", **options})


def test_what_is_dead_already_is_said_where_it_leaves_no_room() -> None:
    model = mlp()
    first, *others = names_of(model)
    masks = {name: torch.zeros_like(model.get_parameter(name), dtype=torch.bool) for name in others}
    pruner = bs.Pruner(
        model, scorer="magnitude", schedule=bs.OneShot(0.5, step=1), tensor_sparsity={first: (0.5, 1)}
    )
    pruner.load_masks(masks)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(bs.ArgumentError, match="pruned already"):
        pruner.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_whole_model_is_pruned_within_ranges() -> None:
    model = mlp()
    first, *_ = names_of(model)
    event = bs.prune_(model, sparsity=0.6, tensor_sparsity={first: (0.1, 0.2)})
    assert 0.1 <= event.per_tensor[first] <= 0.2 and event.pruned == event.k
    found = bs.threshold(mlp(), sparsity=0.6, tensor_sparsity={first: (0.1, 0.2)})
    assert (found.value, found.pruned) == (event.threshold, event.pruned)
    grouped = bs.make_masks(mlp(), sparsity={"*": 0.6}, tensor_sparsity={first: (0.1, 0.2)})
    assert grouped.event.per_tensor == event.per_tensor
    with pytest.raises(bs.ArgumentError, match="meets none"):
        bs.make_masks(mlp(), sparsity={first: 0.6}, tensor_sparsity={"nowhere": (0.1, 0.2)})
