"""``optimizer.step(closure)``: what looks at gradients looks after the backward pass inside it."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import pytest
import torch
from pruner_support import LINEAR, adamw, backward, dead_values, mlp, train, weights


def steps_with_closure(model: Any, optimizer: Any, pruner: Any, steps: int, by_name: bool = False) -> None:
    for step in range(1, steps + 1):

        def closure(step: int = step) -> float:
            optimizer.zero_grad()
            backward(model, step)
            return 0.0

        optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        assert not dead_values(pruner, weights(model)).any()
        pruner.step()


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("scorer", ["bitter7", "movement", "taylor"])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_trains_the_same_model(hold: str, scorer: str, by_name: bool) -> None:
    plain = mlp()
    optimizer = adamw(plain)
    expected = bs.Pruner(plain, optimizer, scorer=scorer, schedule=LINEAR, hold=hold)
    train(plain, optimizer, expected, 12)
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=LINEAR, hold=hold)
    for step in range(1, 13):

        def closure(step: int = step) -> float:
            optimizer.zero_grad()
            backward(model, step)
            return 0.0

        optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        if hold == "grads":
            assert not dead_values(pruner, weights(model)).any()  # before the pruner has a chance to write
        pruner.step()
    assert [event.threshold for event in pruner.history] == [event.threshold for event in expected.history]
    for name, weight in weights(plain).items():
        assert torch.equal(weight, weights(model)[name]), name


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.NAdam])
def test_on_gradients_every_optimizer_is_held_inside_its_closure(kind: Any) -> None:
    model = mlp()
    optimizer = kind(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1), hold="grads")
    steps_with_closure(model, optimizer, pruner, 8)
    assert pruner.sparsity().zero == pruner.sparsity().masked > 0.5


def test_accumulated_gradients_inside_a_closure() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(
        model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1), hold="grads"
    ).attach()
    for step in range(6):
        backward(model, 2 * step)  # a micro-batch before the step

        def closure(step: int = step) -> float:
            backward(model, 2 * step + 1)
            return 0.0

        optimizer.step(closure)
        optimizer.zero_grad()
        assert not dead_values(pruner, weights(model)).any()
    assert pruner.steps == 6


def test_what_a_closure_returns_and_is_called_with_is_its_own_affair() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1), hold="grads")
    loss = torch.tensor(3.5)
    assert optimizer.step(lambda: loss) is loss


def test_a_step_that_raises_within_a_subclass_costs_no_later_step() -> None:
    class Outer(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # from here on Adam.step itself runs hooks
    model = mlp()
    optimizer = Outer(model.parameters())
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 2)).attach()

    def closure() -> torch.Tensor:
        backward(model, 1)
        return torch.zeros(())

    def broken() -> torch.Tensor:
        raise RuntimeError("no more data")

    optimizer.step(closure)
    with pytest.raises(RuntimeError, match="no more data"):
        optimizer.step(broken)
    for expected in (2, 3):
        optimizer.step(closure)
        assert pruner.steps == expected
