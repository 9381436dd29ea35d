"""The movement tracker: what it sums, and when."""

from __future__ import annotations

import bittersweet as bs
import numpy as np
import pytest
import torch


def test_movement_sums_what_the_optimizer_is_given() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.Linear(9, 3))
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups)
    tracker = bs.MovementTracker(model, optimizer)
    sums = {
        name: np.zeros(tuple(p.shape), np.float32) for name, p in model.named_parameters() if "weight" in name
    }
    with pytest.raises(bs.MissingStateError, match=r"0\.weight.*0 of the 1"):
        tracker.scores()
    for step in range(9):
        for _ in range(3):  # accumulated gradients count once, as one step
            model(torch.randn(4, 7)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        for name in sums:
            p, lr = model.get_parameter(name), np.float32(0.1 if name[0] == "0" else 0.01)
            assert p.grad is not None
            sums[name] -= (lr * p.grad.numpy()) * p.detach().numpy()
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        if step == 4:
            optimizer.param_groups[0]["lr"] = 0.1
    found = tracker.scores()
    assert found.keys() == sums.keys()
    for name, expected in sums.items():
        assert np.array_equal(found[name].numpy(), expected), name
    tracker.detach()
    model(torch.randn(4, 7)).sum().backward()
    before = {name: tensor.clone() for name, tensor in found.items()}
    optimizer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in tracker.scores().items())


def test_resumed_movement() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trackers = [bs.MovementTracker(model, optimizer), bs.MovementTracker(model, optimizer)]
    for step in range(6):
        if step == 3:
            trackers[1].detach()
            trackers.append(bs.MovementTracker(model, optimizer))
            trackers[2].load_state_dict(trackers[1].state_dict())
        model(torch.randn(3, 6)).square().sum().backward()
        optimizer.step()
    assert torch.equal(trackers[0].scores()["weight"], trackers[2].scores()["weight"])
    assert not torch.equal(trackers[0].scores()["weight"], trackers[1].scores()["weight"])


def test_movement_follows_gradscaler() -> None:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    tracker = bs.MovementTracker(model, optimizer)
    model(torch.ones(4)).sum().backward()
    assert model.weight.grad is not None
    expected = -(0.5 * model.weight.grad) * model.weight.detach()
    model.weight.grad.mul_(1024.0)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    with torch.no_grad():
        tracker.gradients_ready(optimizer, 0)
    assert torch.equal(tracker.scores()["weight"], expected)
    optimizer.found_inf = torch.tensor(1.0)
    tracker.gradients_ready(optimizer, 0)
    assert torch.equal(tracker.scores()["weight"], expected)


@pytest.mark.parametrize("by_name", [True, False])
def test_movement_looks_inside_a_closure_at_its_first_evaluation(by_name: bool) -> None:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
    tracker = bs.MovementTracker(model, optimizer)
    seen: list[torch.Tensor] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(torch.ones(4)) - 1.0).square().sum()
        loss.backward()
        assert model.weight.grad is not None
        seen.append(-(0.5 * model.weight.grad) * model.weight.detach())
        return loss

    optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    assert len(seen) > 1
    assert torch.equal(tracker.scores()["weight"], seen[0])


def test_movement_of_two_optimizers_counts_each_parameter_once() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    first = torch.optim.SGD(model[0].parameters(), lr=0.5)
    second = torch.optim.SGD(model[1].parameters(), lr=0.25)
    tracker = bs.MovementTracker(model, [first, second])
    model(torch.ones(4)).sum().backward()
    assert model[0].weight.grad is not None and model[1].weight.grad is not None
    expected = {
        "0.weight": -(0.5 * model[0].weight.grad) * model[0].weight.detach(),
        "1.weight": -(0.25 * model[1].weight.grad) * model[1].weight.detach(),
    }
    first.step()
    second.step()
    found = tracker.scores()
    assert all(torch.equal(found[name], sums) for name, sums in expected.items())


def test_movement_of_an_optimizer_that_maximizes() -> None:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, maximize=True)
    tracker = bs.MovementTracker(model, optimizer)
    model(torch.ones(4)).sum().backward()
    assert model.weight.grad is not None
    expected = (0.5 * model.weight.grad) * model.weight.detach()
    optimizer.step()
    assert torch.equal(tracker.scores()["weight"], expected)
