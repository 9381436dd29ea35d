"""Loops that do odd things between optimizer.step() and pruner.step(), or after both: masks held in the step,
and events within it, leave what torch's fused step and hold="weights" leave."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import optim
from torch import nn

Run = tuple[nn.Module, Any, bs.Pruner]
EVENT = 5  # a due step, counted from 0


def make(ours: bool, **options: Any) -> Run:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(37, 53), nn.ReLU(), nn.Linear(53, 11))
    kind: Any = optim.AdamW if ours else torch.optim.AdamW
    optimizer = kind(model.parameters(), lr=1e-2, fused=True)
    schedule = bs.PolynomialDecay(0.2, 0.8, begin_step=3, end_step=12, frequency=3)
    return (
        model,
        optimizer,
        bs.Pruner(model, optimizer, schedule=schedule, hold="auto" if ours else "weights", **options),
    )


def backward(model: nn.Module, step: int, scale: Callable[[Any], Any] = lambda loss: loss) -> None:
    torch.manual_seed(100 + step)
    inputs, wanted = torch.randn(64, 37), torch.randn(64, 11)
    scale((model(inputs) - wanted).square().mean()).backward()


def outcome(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> list[torch.Tensor]:
    kept = optimizer.state_dict()["state"]
    return [
        *(parameter.detach() for parameter in model.parameters()),
        *(value for entry in kept.values() for value in entry.values()),
        *(pruner.masks[name] for name in sorted(pruner.masks)),
        *(torch.tensor(event.threshold or 0.0) for event in pruner.history),
    ]


def loop(
    run: Run,
    between: Callable[..., Run | None] = lambda *_: None,
    after: Callable[..., Run | None] = lambda *_: None,
) -> Run:
    """Fifteen steps; `between` and `after` do their thing at the due step, and may go on with another run."""
    for step in range(15):
        model, optimizer, _ = run
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        run = (between(*run) if step == EVENT else None) or run
        run[2].step()
        run = (after(*run) if step == EVENT else None) or run
    return run


def load(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def load_another(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> None:
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        values = entry["exp_avg_sq"]
        values *= torch.linspace(0.1, 2.0, values.numel()).view_as(values)
    optimizer.load_state_dict(state)


def duplicate(*run: Any) -> Run:
    return copy.deepcopy(run)


def freeze(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> None:
    model[2].weight.requires_grad_(False)


def replace(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> Run:
    another = type(optimizer)(model.parameters(), lr=1e-2, fused=True)
    another.load_state_dict(optimizer.state_dict())
    pruner.replace_optimizer(another)
    return model, another, pruner


def clamp(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.clamp_(min=0.01)


def scale_data(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> None:
    """Raises no autograd version."""
    for parameter in model.parameters():
        parameter.data.mul_(torch.linspace(0.0, 1.0, parameter.numel()).view_as(parameter))


def other_data(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> None:
    model[0].weight.data = model[0].weight.data.clone() * 0.5


def save(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> None:
    optimizer.state_dict()


def skip(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> None:
    pruner.step(skipped=True)


def scaled(run: Run) -> Run:
    """A GradScaler that skips steps, a due one too."""
    model, optimizer, pruner = run
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(15):
        optimizer.zero_grad()
        backward(model, step, scale=scaler.scale)
        if step in (2, EVENT):
            model[0].weight.grad[0, 0] = float("inf")
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        pruner.step(skipped=scaler.get_scale() < before)
    return run


def not_a_number(run: Run) -> Run:
    """The event at a NaN fails, and is tried again after repairs."""
    model, optimizer, pruner = run
    for step in range(15):
        optimizer.zero_grad()
        backward(model, step)
        if step == EVENT:
            model[0].weight.grad[1, 1] = float("nan")
        optimizer.step()
        if step != EVENT:
            pruner.step()
            continue
        with pytest.raises(bs.NonFiniteScoreError):
            pruner.step()
        with torch.no_grad():
            for parameter in model.parameters():
                for tensor in (parameter, *optimizer.state[parameter].values()):
                    tensor.nan_to_num_(0.0)
        pruner.step()
    return run


def attached(run: Run) -> Run:
    model, optimizer, pruner = run
    pruner.attach()
    for step in range(15):

        def closure(step: int = step) -> torch.Tensor:
            optimizer.zero_grad()
            backward(model, step)
            return torch.tensor(0.0)

        optimizer.step(closure)
    return run


def ended(run: Run) -> Run:
    model, optimizer, pruner = run
    for step in range(EVENT + 1):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        pruner.step()
    pruner.finalize()
    return run


LOOPS: dict[str, Callable[[Run], Run]] = {
    "plain": loop,
    **{
        f"{change.__name__} {where}": lambda run, change=change, where=where: loop(run, **{where: change})
        for change in (load, load_another, duplicate, freeze, replace, clamp, scale_data, other_data, save)
        for where in ("between", "after")
    },
    "skipped after": lambda run: loop(run, after=skip),
    "scaler": scaled,
    "NaN": not_a_number,
    "attached": attached,
    "ended": ended,
}


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_loops(name: str, regrow: bool) -> None:
    theirs, own = (outcome(*LOOPS[name](make(ours, regrow=regrow))) for ours in (False, True))
    assert len(own) == len(theirs)
    for i, (mine, its) in enumerate(zip(own, theirs, strict=True)):
        assert torch.equal(mine, its), i
