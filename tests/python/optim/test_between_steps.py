"""What is written where no step of the optimizer follows: pruner.step() leaves what it leaves with
hold="weights"; and what a failed step or write leaves behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import optim
from optim_support import MOMENTS, assert_held, some_mask, values
from torch import nn

Change = Callable[[nn.Linear, Any], Any]
EVERY = bs.PolynomialDecay(0.3, 0.8, begin_step=1, end_step=20, frequency=1)
EVERY_OTHER = bs.PolynomialDecay(0.3, 0.8, begin_step=1, end_step=21, frequency=2)


def make(
    hold: str, regrow: bool = False, schedule: Any = EVERY_OTHER, shape: tuple[int, int] = (37, 23)
) -> tuple[nn.Linear, optim.AdamW, bs.Pruner]:
    torch.manual_seed(0)
    model = nn.Linear(shape[1], shape[0])
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", hold=hold, regrow=regrow, schedule=schedule)
    return model, optimizer, pruner


def backward(model: nn.Linear, step: int) -> None:
    model.zero_grad()
    model.weight.grad = values(model.weight.shape, 50 + step)
    model.bias.grad = values(model.bias.shape, 90 + step)


def write_weights(model: nn.Linear, optimizer: Any) -> None:
    with torch.no_grad():
        model.weight.add_(0.5)


def load_state(model: nn.Linear, optimizer: Any) -> None:
    state = copy.deepcopy(optimizer.state_dict())
    for key in MOMENTS[:2]:
        state["state"][0][key].add_(0.25)
    optimizer.load_state_dict(state)


def infinite_step(model: nn.Linear, optimizer: Any) -> None:
    """One that a loss scaler has the optimizer skip, with weights written before it."""
    write_weights(model, optimizer)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf


CHANGES: dict[str, Change] = {"weights": write_weights, "state": load_state, "infinite": infinite_step}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("steps", [1, 2])  # an event is the last that there was, or a step that only holds
@pytest.mark.parametrize("hold", ["auto", "weights"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_skipped_step_holds_what_was_written(hold: str, steps: int, change: str) -> None:
    model, optimizer, pruner = make(hold)
    for step in range(steps):
        backward(model, step)
        optimizer.step()
        pruner.step()
    CHANGES[change](model, optimizer)
    pruner.step(skipped=True)
    assert_held(optimizer, model.weight, pruner.masks["weight"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_loaded_states_are_zero_where_weights_are_pruned_after_the_next_call() -> None:
    model, optimizer, pruner = make("auto")
    for step in range(4):
        backward(model, step)
        optimizer.step()
        if step == 3:
            load_state(model, optimizer)
        pruner.step()
    assert_held(optimizer, model.weight, pruner.masks["weight"])


@pytest.mark.parametrize("hold", ["auto", "weights"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_masks_that_were_let_drift_hold_after_a_call_that_is_skipped(hold: str) -> None:
    model, optimizer, pruner = make(
        hold, regrow=True, schedule=bs.PolynomialDecay(0.3, 0.8, 1, 20, frequency=1)
    )
    for step in range(2):
        backward(model, step)
        optimizer.step()
        pruner.step(skipped=step == 1)
    assert_held(optimizer, model.weight, pruner.masks["weight"])


def test_a_selection_goes_with_the_step_that_it_was_offered_to() -> None:
    """A closure that fails takes it along: no later step is shown it."""
    model = nn.Linear(23, 37)
    optimizer = optim.AdamW(model.parameters())
    shown: list[Any] = []
    optimizer.let_select(shown.append)

    def fails() -> Any:
        raise RuntimeError("closure")

    with pytest.raises(RuntimeError, match="closure"):
        optimizer.step(fails)
    backward(model, 0)
    optimizer.step()
    assert not shown


@pytest.mark.parametrize("hold", ["auto", "weights"])
def test_a_schedule_with_a_wrong_answer_is_refused_by_the_pruner_and_not_by_the_optimizer(hold: str) -> None:
    model, optimizer, pruner = make(hold, schedule=lambda step: (True, 0.5 if step == 1 else 7.0))
    for step in range(2):
        backward(model, step)
        optimizer.step()
        if step == 0:
            pruner.step()
    with pytest.raises(bs.ArgumentError, match=r"7\.0"):
        pruner.step()
    assert float(optimizer.state[model.weight]["step"]) == 2


def test_a_schedule_is_asked_before_a_step_only_if_masks_may_be_made_in_it() -> None:
    asked: list[int] = []

    def schedule(step: int) -> tuple[bool, float]:
        asked.append(step)
        return False, 0.0

    model, optimizer, _ = make("weights", schedule=schedule)
    asked.clear()
    backward(model, 0)
    optimizer.step()
    assert not asked


def test_zeros_stay_owed_if_writing_them_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, _ = make("weights")
    backward(model, 0)
    optimizer.step()
    mask = some_mask(model.weight.shape, 0.5)
    optimizer.hold({model.weight: mask})
    optimizer.state[model.weight]["exp_avg"].fill_(1.0)
    optimizer.owe_zeros()

    def fails(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(optimizer, "_write_zeros", fails)
        with pytest.raises(MemoryError):
            optimizer.state_dict()
    optimizer.state_dict()
    assert_held(optimizer, model.weight, mask)


@pytest.mark.parametrize("shape", [(37, 23), (1, 1), (301, 257)])
@pytest.mark.parametrize("dead", [0.0, 0.5, 0.9, 0.98])
def test_a_write_to_the_data_of_a_sparse_tensor_is_noticed_before_an_event(
    dead: float, shape: tuple[int, int]
) -> None:
    """Autograd does not learn of it: the two layers trade places in the order of magnitudes between the last
    step and the event that is due after it."""
    masks = {}
    for hold in ("auto", "weights"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(shape[1], shape[0]), nn.Linear(shape[1], shape[0]))
        optimizer = optim.AdamW(model.parameters(), lr=1e-2)
        schedule = lambda step: (step in (2, 4), dead if step == 2 else 1 - 0.5 * (1 - dead))  # noqa: E731
        pruner = bs.Pruner(model, optimizer, scorer="magnitude", hold=hold, schedule=schedule)
        for step in range(4):
            for i, parameter in enumerate(model.parameters()):
                parameter.grad = values(parameter.shape, 10 * step + i)
            optimizer.step()
            if step == 3:
                model[1].weight.data.mul_(100.0)
            pruner.step()
        masks[hold] = {name: mask.clone() for name, mask in pruner.masks.items()}
    for name, mask in masks["weights"].items():
        assert torch.equal(masks["auto"][name], mask), name
