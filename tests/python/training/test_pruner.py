"""The pruner in a training loop: when it fires, what it prunes, what it leaves alone."""

from __future__ import annotations

import math

import bittersweet as bs
import pytest
import torch
from pruner_support import (
    LINEAR,
    ONCE,
    SIZE,
    adamw,
    backward,
    dead_values,
    flat,
    mlp,
    named_state,
    train,
    unchanged,
    weights,
)
from torch import nn


def test_events_come_on_the_due_steps_with_the_exact_count() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    events = train(model, optimizer, pruner, 12)
    assert [event.step for event in events] == [2, 6, 10]
    for event in events:
        assert event.step is not None
        asked = LINEAR(event.step)[1]
        assert event.requested_sparsity == asked
        assert event.pruned == event.k == math.floor(asked * SIZE + 0.5)
        assert event.total == SIZE
        assert event.achieved_sparsity == event.pruned / SIZE
        assert event.milliseconds > 0
        assert set(event.per_tensor) == {"0.weight", "2.weight", "4.weight"}
    assert list(pruner.history) == events
    assert sum(event.churn for event in events) == events[-1].pruned


def test_before_the_first_event_nothing_is_written() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    backward(model, 1)
    optimizer.step()
    versions = [parameter._version for parameter in model.parameters()]
    with unchanged(model, optimizer):
        assert pruner.step() is None
    assert [parameter._version for parameter in model.parameters()] == versions
    assert pruner.masks.nbytes == 0
    assert bool(pruner.masks["2.weight"].all())


def test_a_skipped_step_counts_and_defers_the_event() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    for step in (1, 2, 3):
        backward(model, step)
        optimizer.step()
        assert pruner.step(skipped=step > 1) is None
    event = pruner.step()
    assert event is not None
    assert (event.step, event.requested_sparsity) == (4, LINEAR(2)[1])
    for _ in range(3):  # steps 5, 6, 7: the due step 6 waits for step 7
        event = pruner.step(skipped=pruner.state_dict()["step"] == 5)
    assert event is not None
    assert (event.step, event.requested_sparsity) == (7, LINEAR(6)[1])


def test_a_skipped_step_still_holds_the_masks() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 1))
    train(model, optimizer, pruner, 2)
    with torch.no_grad():
        model[2].weight.add_(1.0)
    pruner.step(skipped=True)
    assert not dead_values(pruner, weights(model)).any()


def test_when_several_due_steps_were_missed_the_last_one_counts() -> None:
    model = mlp()
    pruner = bs.Pruner(model, scorer="magnitude", schedule=LINEAR)
    for _ in range(11):
        assert pruner.step(skipped=True) is None
    event = pruner.step()
    assert event is not None
    assert event.requested_sparsity == 0.7
    assert pruner.step() is None


def test_every_event_prunes_the_lowest_live_scores_and_nothing_comes_back() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    dead = torch.zeros(SIZE, dtype=torch.bool)
    for step in range(1, 12):
        backward(model, step)
        optimizer.step()
        v = flat(named_state(model, optimizer, "exp_avg_sq"))
        score = flat(weights(model)).abs() * (v.abs() + 1e-8).sqrt().sqrt()
        if pruner.step() is not None:
            score[dead] = -1.0
            k = math.floor(LINEAR(step)[1] * SIZE + 0.5)
            dead[score.sort(stable=True).indices[:k]] = True
            assert torch.equal(flat(dict(pruner.masks)), ~dead)
        optimizer.zero_grad()
    assert len(pruner.history) == 3


def test_weights_and_moments_of_pruned_weights_stay_zero_under_weight_decay() -> None:
    model = mlp()
    optimizer = adamw(model, amsgrad=True)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)

    def check(step: int) -> None:
        if step < 2:
            return
        assert not dead_values(pruner, weights(model)).any()
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            assert not dead_values(pruner, named_state(model, optimizer, key)).any(), key

    train(model, optimizer, pruner, 14, after=check)
    assert pruner.sparsity().masked == pytest.approx(0.7, abs=1e-3)


def test_optimizer_state_is_left_alone_on_request() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=ONCE, mask_optimizer_state=False)
    train(model, optimizer, pruner, 3)
    assert not dead_values(pruner, weights(model)).any()
    assert dead_values(pruner, named_state(model, optimizer, "exp_avg")).all()
    assert dead_values(pruner, named_state(model, optimizer, "exp_avg_sq")).all()


def test_gradients_and_modes_are_left_alone_and_no_randomness_is_drawn() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=ONCE)
    backward(model, 1)
    optimizer.step()
    model[0].eval()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    random, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    assert pruner.step() is not None
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_numbers_of_sparsity_are_those_of_masks_and_weights() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=ONCE)
    assert pruner.sparsity().masked == 0.0
    train(model, optimizer, pruner, 1)
    with torch.no_grad():
        model[4].weight[:, 0] = 0.0
    found = pruner.sparsity()
    for name, weight in weights(model).items():
        assert found.per_tensor[name].masked == float((~pruner.masks[name]).sum()) / weight.numel()
        assert found.per_tensor[name].zero == float((weight == 0).sum()) / weight.numel()
    assert found.masked == pytest.approx(0.5, abs=1e-3)
    assert found.zero > found.masked


def test_masks_answer_to_every_name_of_a_tied_parameter_and_act_once() -> None:
    model = mlp()
    model.add_module("twin", nn.Linear(40, 33))
    model.twin.weight = model[2].weight
    model.forward = lambda x: nn.Sequential.forward(model[:5], x)
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=ONCE)
    (event,) = train(model, optimizer, pruner, 1)
    assert event.total == SIZE
    assert torch.equal(pruner.masks["twin.weight"], pruner.masks["2.weight"])
    assert list(pruner.masks) == ["0.weight", "2.weight", "4.weight"]
    assert pruner.masks.nbytes == 8 * sum(math.ceil(n / 64) for n in (480, 1320, 165))
    with pytest.raises(KeyError):
        pruner.masks["0.bias"]


@pytest.mark.parametrize(
    "scorer", ["magnitude", "bitter0", "bitter3", "bitter5", "bitter8", "adam_variance", "random"]
)
def test_masks_agree_with_the_functional_layer(scorer: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.4, 3), scorer=scorer, seed=7)
    train(model, optimizer, pruner, 2)
    backward(model, 3)
    optimizer.step()
    inputs = [
        bs.ScoreInputs(
            p, **{key: optimizer.state[p][key].clone() for key in ("exp_avg", "exp_avg_sq")}, name=name
        )
        for name, p in ((name, model.get_parameter(name)) for name in weights(model))
    ]
    expected = bs.make_masks(inputs, sparsity=0.4, scorer=scorer, seed=7)
    event = pruner.step()
    assert event is not None
    assert event.scorer == scorer
    assert all(torch.equal(mask.bool(), pruner.masks[mask.name]) for mask in expected)


def test_bias_correction_uses_the_step_and_betas_of_each_group() -> None:
    model = mlp()
    groups = [
        {"params": model[0].parameters(), "betas": (0.5, 0.9)},
        {"params": [*model[2].parameters(), *model[4].parameters()], "betas": (0.95, 0.999)},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.4, 3), scorer="bitter8_bias_corrected")
    train(model, optimizer, pruner, 2)
    backward(model, 3)
    optimizer.step()
    scores = []
    for name, beta in (("0.weight", 0.5), ("2.weight", 0.95), ("4.weight", 0.95)):
        w = model.get_parameter(name).detach()
        m = optimizer.state[model.get_parameter(name)]["exp_avg"] / torch.tensor(1 - beta**3)
        scores.append((w.abs() * (m.abs() + 1e-8).sqrt()).reshape(-1))
    order = torch.cat(scores).sort(stable=True).indices
    pruner.step()
    assert set(order[: math.floor(0.4 * SIZE + 0.5)].tolist()) == set(
        (~flat(dict(pruner.masks))).nonzero().reshape(-1).tolist()
    )


@pytest.mark.parametrize("scorer", ["gradient", "taylor"])
def test_gradient_scorers_read_the_gradients_that_are_there(scorer: str) -> None:
    model = mlp()
    pruner = bs.Pruner(model, scorer=scorer, schedule=bs.OneShot(0.25, 1))
    with pytest.raises(bs.MissingStateError, match=r"'0\.weight' has no gradient.*before|between"):
        pruner.step()
    backward(model, 1)
    gradient = flat({name: model.get_parameter(name).grad for name in weights(model)}).abs()
    score = gradient if scorer == "gradient" else gradient * flat(weights(model)).abs()
    event = pruner.step()
    assert event is not None
    assert event.threshold == score.kthvalue(event.k).values.item()


def test_bitter4_comes_with_its_scope_and_distribution() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 1), scorer="bitter4")
    (event,) = train(model, optimizer, pruner, 1)
    assert event.scope == "tensor"
    assert event.pruned == math.floor(0.5 * SIZE + 0.5)
    first, middle, last = event.per_tensor.values()
    assert first < middle < last
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(
        model,
        optimizer,
        schedule=bs.OneShot(0.5, 1),
        scorer="bitter4",
        scope="tensor",
        distribution="uniform",
    )
    (event,) = train(model, optimizer, pruner, 1)
    assert max(event.per_tensor.values()) - min(event.per_tensor.values()) < 0.01
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.6, 1), scorer="bitter4", scope=bs.Global())
    (event,) = train(model, optimizer, pruner, 1)
    assert event.scope == "global"


def test_scopes_with_rows_and_groups() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 1), scope="row")
    train(model, optimizer, pruner, 1)
    assert torch.equal((~pruner.masks["2.weight"]).sum(dim=1), torch.full((33,), 20))
    model = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 5))
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.Linear(0.25, 0.5, 1, 3, 1), scope="2:4")
    train(model, optimizer, pruner, 3)
    assert torch.equal(pruner.masks["0.weight"].reshape(8, 3, 4).sum(dim=2), torch.full((8, 3), 2))


def test_a_cap_per_tensor_protects_a_layer_that_the_threshold_would_empty() -> None:
    events = []
    for cap in (None, 0.6):
        model = mlp()
        with torch.no_grad():
            model[4].weight.mul_(1e-6)
        pruner = bs.Pruner(model, scorer="magnitude", schedule=ONCE, max_tensor_sparsity=cap)
        events.append(pruner.step())
    event, other = events
    assert event is not None
    assert other is not None
    assert event.per_tensor["4.weight"] == 1.0
    assert event.empty_rows == 5
    assert other.per_tensor["4.weight"] <= 0.6
    assert other.pruned == event.pruned


def test_regrown_weights_start_from_zero() -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3)
    pruner = bs.Pruner(
        model, optimizer, schedule=bs.Linear(0.6, 0.6, 1, 8, 2), scorer="gradient", regrow=True
    )
    reopened = 0
    before = dict(pruner.masks)
    for step in range(1, 9):
        backward(model, step)
        optimizer.step()
        if pruner.step() is not None:
            after = dict(pruner.masks)
            for name, weight in weights(model).items():
                again = ~before[name] & after[name]
                reopened += int(again.sum())
                assert not weight[again].any()
                assert not optimizer.state[model.get_parameter(name)]["exp_avg"][again].any()
            before = after
        assert not dead_values(pruner, weights(model)).any()
        optimizer.zero_grad()
    assert reopened > 0
    assert [event.pruned for event in pruner.history] == [math.floor(0.6 * SIZE + 0.5)] * 5
