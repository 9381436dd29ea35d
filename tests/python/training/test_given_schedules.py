"""Schedules of one's own and by glob in a Pruner: events, checkpoints, finalize."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from pruner_support import SIZE, adamw, mlp, train, weights


def stairs(step: int) -> tuple[bool, float]:
    return step % 3 == 0, min(step // 3 * 0.2, 0.6)


@dataclasses.dataclass(frozen=True)
class Stairs(bs.Schedule):
    height: float

    def __call__(self, step: int) -> tuple[bool, float]:
        return step % 3 == 0, min(step // 3 * self.height, 0.6)


BY_GLOB = {"0": bs.LinearRamp(0.2, 0.8, 2, 8, frequency=3), "4.*": stairs, "2": None}


def through_a_file(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "schedule", [stairs, lambda step: stairs(step), Stairs(0.2)], ids=["f", "lambda", "class"]
)
def test_a_schedule_of_ones_own_prunes_as_it_says(schedule: Any) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=schedule)
    events = train(model, optimizer, pruner, 10)
    assert [event.step for event in events] == [3, 6, 9]
    assert [event.pruned for event in events] == [
        math.floor(s * SIZE + 0.5) for s in (0.2, 0.4, 0.6000000000000001)
    ]
    assert "0x" not in pruner.plan().settings["schedule"]
    assert pruner.finalize().sparsity.zero == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize(
    "schedule", [stairs, Stairs(np.float64(0.2)), BY_GLOB], ids=["f", "class", "by glob"]
)
def test_a_run_goes_on_bit_for_bit_from_a_file(schedule: Any) -> None:
    whole = mlp()
    optimizer = adamw(whole)
    train(whole, optimizer, bs.Pruner(whole, optimizer, schedule=schedule), 12)

    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=schedule)
    train(model, optimizer, pruner, 7)
    saved = through_a_file({"m": model.state_dict(), "o": optimizer.state_dict(), "p": pruner.state_dict()})

    model = mlp(seed=5)
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=schedule)
    model.load_state_dict(saved["m"])
    optimizer.load_state_dict(saved["o"])
    pruner.load_state_dict(saved["p"])
    train(model, optimizer, pruner, 5, first=8)
    for name, weight in weights(whole).items():
        assert torch.equal(weight, model.get_parameter(name)), name


def test_another_schedule_of_ones_own_is_another_configuration() -> None:
    model = mlp()
    state = bs.Pruner(model, adamw(model), schedule=Stairs(0.2)).state_dict()
    assert state["config"]["schedule"] == {
        "kind": "custom",
        "name": f"{__name__}.Stairs",
        "parameters": {"height": 0.2},
    }
    bs.Pruner(model, adamw(model), schedule=Stairs(0.2)).load_state_dict(state)
    for other in (Stairs(0.1), stairs, bs.OneShot(0.2, 3), {"*": Stairs(0.2)}):
        with pytest.raises(bs.CheckpointError, match="schedule"):
            bs.Pruner(model, adamw(model), schedule=other).load_state_dict(state)


def test_a_schedule_that_breaks_says_so_at_its_step_and_changes_nothing() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=lambda step: (step in (3, 5), 0.5 if step < 5 else 0.4))
    train(model, optimizer, pruner, 4)
    before = weights(model)
    with pytest.raises(bs.ArgumentError, match=r"falls to 0\.4 on step 5, from 0\.5 on step 3"):
        pruner.step()
    assert pruner.steps == 4
    assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())


def test_groups_have_schedules_and_thresholds_of_their_own() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=BY_GLOB)
    events = train(model, optimizer, pruner, 10)
    assert [(event.step, list(event.groups)) for event in events] == [
        (2, ["0"]), (3, ["4.*"]), (5, ["0"]), (6, ["4.*"]), (8, ["0"]), (9, ["4.*"]),
    ]  # fmt: skip
    zeros = {name: int((weight == 0).sum()) for name, weight in weights(model).items()}
    assert zeros == {"0.weight": 384, "2.weight": 0, "4.weight": 99}
    assert events[-1].dense == ("2.weight",)
    assert events[-1].achieved_sparsity_all == pytest.approx((384 + 99) / SIZE)
    both = bs.Pruner(mlp(), scorer="magnitude", schedule={"0": bs.OneShot(0.5, 1), "*": bs.OneShot(0.25, 1)})
    event = both.step()
    assert event is not None
    assert {glob: group["pruned"] for glob, group in event.groups.items()} == {"0": 240, "*": 371}
    assert event.pruned == 240 + 371


def test_a_constant_sparsity_goes_on() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.ConstantSparsity(0.5, 2, frequency=4), regrow=True)
    events = train(model, optimizer, pruner, 12)
    assert [event.step for event in events] == [2, 6, 10]
    assert {event.pruned for event in events} == {math.floor(0.5 * SIZE + 0.5)}
