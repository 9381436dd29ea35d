"""`Pruner(model, [one, other])`: several optimizers, one threshold."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import bittersweet as bs
import pytest
import torch
from pruner_support import LINEAR, backward, dead_values, mlp, named_state, train, weights
from torch import nn

NAMES = ("0.weight", "2.weight", "4.weight")


class Steps:
    """Two optimizers as a loop steps them."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()


def two(model: nn.Sequential, kind: Any = torch.optim.AdamW) -> list[torch.optim.Optimizer]:
    first = kind([*model[0].parameters(), *model[2].parameters()], lr=1e-2, weight_decay=0.1)
    return [first, kind(model[4].parameters(), lr=1e-2, weight_decay=0.1)]


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("scorer", ["bitter7", "bitter0", "movement", "bitter10", "bitter8_bias_corrected"])
def test_two_that_share_the_model_prune_as_one_that_has_it_all(hold: str, scorer: str) -> None:
    whole = mlp()
    one = torch.optim.AdamW(whole.parameters(), lr=1e-2, weight_decay=0.1)
    schedule = bs.Linear(0.2, 0.7, begin_step=4, end_step=12, frequency=4)
    expected = bs.Pruner(whole, one, scorer=scorer, schedule=schedule, hold=hold)
    train(whole, one, expected, 14)
    model = mlp()
    pair = two(model)
    pruner = bs.Pruner(model, pair, scorer=scorer, schedule=schedule, hold=hold)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, Steps(*pair), pruner, 14)  # type: ignore[arg-type]
    assert [e.threshold for e in pruner.history] == [e.threshold for e in expected.history]
    assert all(torch.equal(weights(whole)[name], weight) for name, weight in weights(model).items())


@pytest.mark.parametrize("attached", [False, True])
def test_moments_of_each_are_zeroed(attached: bool) -> None:
    model = mlp()
    pair = two(model)
    pruner = bs.Pruner(model, pair, schedule=LINEAR)
    if attached:
        pruner.attach()
    train(model, Steps(*pair), None if attached else pruner, 7)  # type: ignore[arg-type]
    assert pruner.steps == 7 and [event.step for event in pruner.history] == [2, 6]
    for optimizer, names in ((pair[0], NAMES[:2]), (pair[1], NAMES[2:])):
        for name in names:
            state = optimizer.state[model.get_parameter(name)]
            dead = ~pruner.masks[name]
            assert dead.any() and not state["exp_avg"][dead].any() and not state["exp_avg_sq"][dead].any()


def test_attached_the_masks_hold_after_each_of_them() -> None:
    model = mlp()
    critic, actor = two(model)
    pruner = bs.Pruner(model, [critic, actor], scorer="magnitude", schedule=bs.OneShot(0.5, 1)).attach()
    for step in range(6):
        backward(model, step)
        critic.step()
        if step:
            assert not dead_values(pruner, weights(model)).any()
        if step % 2:
            actor.step()
            assert not dead_values(pruner, weights(model)).any()
        Steps(critic, actor).zero_grad()
    assert pruner.steps == 3  # a step counts when both have stepped


def test_one_that_keeps_no_moments_is_refused_by_name() -> None:
    model = mlp()
    adam = torch.optim.AdamW([*model[0].parameters(), *model[2].parameters()])
    sgd = torch.optim.SGD(model[4].parameters(), lr=0.1)
    with pytest.raises(bs.ArgumentError, match=r"SGD keeps no exp_avg_sq.*bitter7"):
        bs.Pruner(model, [adam, sgd], schedule=LINEAR)
    pruner = bs.Pruner(model, [adam, sgd], scorer="magnitude", schedule=LINEAR)
    train(model, Steps(adam, sgd), pruner, 6)  # type: ignore[arg-type]
    assert not dead_values(pruner, weights(model)).any()


def test_muon_and_adamw_share_a_threshold() -> None:
    model = mlp()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    pair = [torch.optim.Muon(matrices, lr=1e-2), torch.optim.AdamW(rest, lr=1e-2)]
    pruner = bs.Pruner(model, pair, scorer="magnitude", schedule=LINEAR).attach()
    train(model, Steps(*pair), None, 12)  # type: ignore[arg-type]
    assert pruner.history[-1].pruned == round(0.7 * (12 * 40 + 40 * 33 + 33 * 5) + 1e-9)
    assert not dead_values(pruner, weights(model)).any()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "empty list"),
        (torch.optim.AdamW, "class AdamW"),
        ({"a": 1}, "dict"),
        ("twice", "the same optimizer twice"),
        ("shared", "a parameter of shape"),
    ],
)
def test_wrong_lists_are_refused(bad: Any, message: str) -> None:
    model = mlp()
    first = torch.optim.AdamW(model.parameters())
    if bad == "twice":
        bad = [first, first]
    elif bad == "shared":
        bad = [first, torch.optim.SGD(model[0].parameters(), lr=0.1)]
    with pytest.raises(bs.ArgumentError, match=message):
        bs.Pruner(model, bad, schedule=LINEAR)


def test_copies_of_all_of_it_train_on() -> None:
    model = mlp()
    pair = two(model)
    pruner = bs.Pruner(model, pair, schedule=LINEAR).attach()
    train(model, Steps(*pair), None, 4)  # type: ignore[arg-type]
    model2, pair2, pruner2 = copy.deepcopy((model, pair, pruner))
    train(model, Steps(*pair), None, 6, first=5)  # type: ignore[arg-type]
    train(model2, Steps(*pair2), None, 6, first=5)  # type: ignore[arg-type]
    assert pruner2.steps == 10
    assert all(torch.equal(weights(model)[name], weight) for name, weight in weights(model2).items())


def test_from_zeros_takes_over_and_keeps_the_zeros() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[::2] = -0.0
        model[2].weight[:, :4] = 0.0
        model[4].weight[0, 0] = 0.0  # one in 165: an accident
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner.from_zeros(model, optimizer, min_sparsity=0.05)
    assert "zeros kept in 2 of 3 tensors" in str(pruner.plan())
    train(model, optimizer, pruner, 8)
    assert not model[0].weight[::2].any() and not model[2].weight[:, :4].any()
    assert model[4].weight[0, 0] != 0 and not pruner.history
    assert not named_state(model, optimizer, "exp_avg")["0.weight"][::2].any()
    resumed = bs.Pruner(model, optimizer)
    resumed.load_state_dict(pruner.state_dict())
    assert resumed.sparsity().masked == pruner.sparsity().masked > 0
    report = pruner.finalize()
    assert report.unfinished is None and not report.violations
    further = bs.Pruner.from_zeros(
        model, optimizer, min_sparsity=0.05, scorer="magnitude", schedule=bs.OneShot(0.7, 2)
    )
    train(model, optimizer, further, 3)
    assert further.history[-1].achieved_sparsity == pytest.approx(0.7, abs=1e-3)
    assert not model[0].weight[::2].any()


def test_apply_to_writes_the_zeros_of_an_average() -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=LINEAR)
    for step in range(1, 13):
        train(model, optimizer, pruner, 1, first=step)
        average.update_parameters(model)
    assert bs.sparsity(average).zero < 0.1
    found = pruner.apply_to(average)
    assert found.zero == found.masked == pruner.sparsity().masked
    before = copy.deepcopy(average.state_dict())
    with pytest.raises(bs.ArgumentError, match="module"):
        pruner.apply_to(nn.Linear(3, 3))
    assert all(torch.equal(before[key], value) for key, value in average.state_dict().items())


def test_a_round_that_one_of_them_missed_is_not_counted_half() -> None:
    model = mlp()
    first, second = two(model)
    pruner = bs.Pruner(model, [first, second], scorer="magnitude", schedule=bs.OneShot(0.5, 2)).attach()
    for step in range(6):
        backward(model, step)
        first.step()
        if step != 2:  # a GradScaler skips it
            second.step()
            assert pruner.steps == step + (step < 2)
        Steps(first, second).zero_grad()
    assert pruner.steps == 5
