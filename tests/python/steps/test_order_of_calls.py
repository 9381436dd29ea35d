"""Calls in the wrong place are said at their first occurrence, and right ones never."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from pruner_support import ONCE, adamw, backward, dead_values, everything, mlp, train, weights


@contextmanager
def warned(match: str | None) -> Iterator[None]:
    """Asserts that exactly one warning comes inside, of this text; None: that none comes."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    texts = [str(one.message) for one in found]
    if match is None:
        assert texts == []
    else:
        assert len(texts) == 1 and match in texts[0], texts
        assert found[0].filename == __file__


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.step(0),
        lambda p: p.step(5),
        lambda p: p.step(True),
        lambda p: p.step(torch.tensor(0.5)),
        lambda p: p.step(None),
        lambda p: p.step(skipped=1),
        lambda p: p.step(skipped=None),
        lambda p: p.step(skipped=np.bool_(True)),
        lambda p: p.step(skipped=torch.tensor(True)),
        lambda p: p.step(1, skipped=True),
    ],
)
def test_a_step_takes_nothing_but_skipped(call: Callable[[Any], Any]) -> None:
    model = mlp()
    pruner = bs.Pruner(model, scorer="magnitude", schedule=ONCE)
    before = everything(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(bs.ArgumentError, match=r"step: found .*accepted: skipped=True"):
        call(pruner)
    assert pruner.steps == 0 and not pruner.history
    after = everything(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_documented_loop_is_not_warned_of() -> None:
    model = mlp()
    optimizer = adamw(model)
    schedule = bs.Linear(0.2, 0.7, begin_step=2, end_step=10, frequency=4)
    with warned(None):
        pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=schedule)
        train(model, optimizer, pruner, 12)
        assert pruner.steps == 12
        pruner.finalize()


def test_before_the_optimizer_is_said_at_the_first_call() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 50))
    backward(model, 1)
    with warned("1 call of pruner.step() so far and 0 steps of the optimizer (AdamW)"):
        pruner.step()
    optimizer.step()
    with warned(None):  # once
        backward(model, 2)
        pruner.step()
        pruner.step()


@pytest.mark.parametrize("calls", [2, 3])
def test_twice_for_one_is_said_at_the_second_call(calls: int) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 50))
    backward(model, 1)
    optimizer.step()
    with warned(None):
        pruner.step()
    with warned("2 calls of pruner.step() so far and 1 step of the optimizer"):
        for _ in range(calls):
            pruner.step()


def test_once_per_micro_batch_is_said_at_the_first_extra_call() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 50))
    with warned("once per micro-batch"):
        for micro in range(4):
            backward(model, micro)
            if micro % 2:
                optimizer.step()
                optimizer.zero_grad()
            pruner.step()


def test_fewer_calls_than_optimizer_steps_are_said() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 50))
    for step in (1, 2, 3):
        backward(model, step)
        optimizer.step()
    with warned("once for 3 optimizer steps"):
        pruner.step()


def test_skipped_steps_and_a_loss_scaler_are_understood() -> None:
    model = mlp()
    optimizer = adamw(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 3))
    with warned(None):
        for step in range(1, 7):
            parameter = next(model.parameters())
            scaler.scale(model(torch.randn(4, 12)).square().mean()).backward()
            if step in (1, 3):
                assert parameter.grad is not None
                parameter.grad[0, 0] = torch.inf
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            pruner.step(skipped=scaler.get_scale() < scale)
            optimizer.zero_grad()
    assert [event.step for event in pruner.history] == [4]  # due on the skipped third


@pytest.mark.parametrize("fused", [False, True])
def test_attached_a_loss_scaler_is_understood(fused: bool) -> None:
    model = mlp()
    optimizer = adamw(model, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 3)).attach()
    with warned(None):
        for step in range(1, 7):
            scaler.scale(model(torch.randn(4, 12)).square().mean()).backward()
            if step == 3:
                parameter = next(model.parameters())
                assert parameter.grad is not None
                parameter.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert len(pruner.history) == 1
    assert not dead_values(pruner, weights(model)).any()


def test_a_closure_is_one_step() -> None:
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 2))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(torch.ones(3, 12)).square().mean()
        loss.backward()
        return loss

    with warned(None):
        for _ in range(4):
            optimizer.step(closure)
            pruner.step()
    assert pruner.sparsity().zero == pruner.sparsity().masked > 0.5


class Halving(torch.optim.AdamW):
    """Its step is its parent's, called inside its own; torch gives both their hooks."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        result = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(0.5)
        return result


def test_a_step_inside_a_step_is_one() -> None:
    adamw(mlp())  # torch hooks a class's step when the class has its first instance
    model = mlp()
    optimizer = Halving(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 2)).attach()
    with warned(None):
        for step in range(4):
            backward(model, step)
            optimizer.step()
            optimizer.zero_grad()
    assert pruner.steps == 4


def test_after_a_step_that_raised_the_next_ones_count() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 50)).attach()

    def closure() -> float:
        raise KeyError("batch")

    with pytest.raises(KeyError):
        optimizer.step(closure)
    train(model, optimizer, None, 3)
    assert pruner.steps == 3


def test_a_pruner_without_schedule_and_masks_is_an_error_at_the_first_step() -> None:
    model = mlp()
    pruner = bs.Pruner(model, adamw(model))
    with pytest.raises(bs.Error, match="neither a schedule nor masks"):
        pruner.step()
    assert pruner.steps == 0


def test_finalize_says_what_is_missing_of_the_schedule() -> None:
    model = mlp()
    optimizer = adamw(model)
    schedule = bs.Linear(0.0, 0.9, begin_step=5, end_step=100, frequency=5)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=schedule)
    train(model, optimizer, pruner, 25)
    with warned("sparsity 0.9 was asked for at step 100, and 0.1"):
        report = pruner.finalize()
    assert report.unfinished is not None and report.unfinished in str(report)
    assert report.to_dict()["unfinished"] == report.unfinished
    never = bs.Pruner(mlp(), scorer="magnitude", schedule=bs.OneShot(0.8, 9))
    with warned("no mask event came"):
        never.finalize()
    with warned(None):
        never.finalize()


def test_finalize_counts_before_it_writes() -> None:
    model = mlp()
    pruner = bs.Pruner(model, scorer="magnitude", schedule=ONCE)
    pruner.step()
    with torch.no_grad():
        model[2].weight.fill_(1.0)
    dead = int((~pruner.masks["2.weight"]).sum())
    with warned(f"not 0 ({dead:,} in '2.weight')"):
        report = pruner.finalize()
    assert report.violations == {"2.weight": dead}
    assert "zeros verified" not in str(report) and "NOT 0 before" in str(report)
    assert report.sparsity.zero == report.sparsity.masked
