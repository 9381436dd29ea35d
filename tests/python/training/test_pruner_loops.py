"""Models and loops of other kinds; attaching and finalizing."""

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
    everything,
    facts,
    mlp,
    train,
    weights,
)
from torch import nn


def test_a_bfloat16_model_is_pruned_with_its_bfloat16_state() -> None:
    model = mlp(dtype=torch.bfloat16)
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    events = train(model, optimizer, pruner, 12)
    assert events[-1].pruned == math.floor(0.7 * SIZE + 0.5)
    assert not dead_values(pruner, weights(model)).any()
    assert model[0].weight.dtype == torch.bfloat16


def test_a_model_that_is_cast_or_moved_keeps_its_masks() -> None:
    model = mlp()
    pruner = bs.Pruner(model, scorer="magnitude", schedule=ONCE)
    pruner.step()
    model.to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    pruner.step()
    assert not dead_values(pruner, weights(model)).any()
    assert bool((model[2].weight != 0).any())


def test_channels_last_convolutions_are_paired_by_logical_index() -> None:
    def run(memory_format: torch.memory_format) -> tuple[bs.Pruner, nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(6, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 16, 5))
        model = model.to(memory_format=memory_format)
        optimizer = adamw(model)
        pruner = bs.Pruner(model, optimizer, schedule=bs.Linear(0.3, 0.6, 1, 3, 1))
        torch.manual_seed(4)
        for _ in range(5):
            model(torch.randn(4, 6, 6, 6)).square().mean().backward()
            for (
                parameter
            ) in model.parameters():  # the same gradients in both runs, whatever the kernels round
                parameter.grad = (
                    torch.randn(parameter.shape)
                    .to(parameter.grad)
                    .contiguous(
                        memory_format=memory_format if parameter.ndim == 4 else torch.contiguous_format
                    )
                )
            optimizer.step()
            pruner.step()
            optimizer.zero_grad()
        return pruner, model, optimizer

    plain, _, _ = run(torch.contiguous_format)
    pruner, model, optimizer = run(torch.channels_last)
    weight = model.get_parameter("0.weight")
    assert not weight.is_contiguous()
    assert not optimizer.state[weight]["exp_avg"].is_contiguous()
    assert pruner.history[0].extra_bytes == plain.history[0].extra_bytes  # nothing is copied
    for name in pruner.masks:
        assert torch.equal(pruner.masks[name], plain.masks[name]), name
    assert not dead_values(pruner, weights(model)).any()
    assert not dead_values(pruner, {"0.weight": optimizer.state[weight]["exp_avg_sq"]}).any()


def test_gradient_accumulation_counts_optimizer_steps() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    for step in range(1, 13):
        backward(model, 2 * step)
        backward(model, 2 * step + 1)
        optimizer.step()
        pruner.step()
        assert not dead_values(pruner, weights(model)).any()
        optimizer.zero_grad()
    assert [event.step for event in pruner.history] == [2, 6, 10]


def test_parameters_are_looked_up_by_name_every_time() -> None:
    model = mlp()
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.Linear(0.5, 0.6, 1, 4, 3))
    pruner.step()
    fresh = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    model.load_state_dict(fresh, assign=True)
    replaced = nn.Linear(40, 33)
    model[2] = replaced
    pruner.step()
    assert not dead_values(pruner, weights(model)).any()
    assert bool((replaced.weight == 0).any())
    pruner.step()
    event = pruner.step()
    assert event is not None
    assert event.achieved_sparsity == pytest.approx(0.6, abs=1e-3)
    assert not dead_values(pruner, weights(model)).any()


def test_attached_it_does_what_the_loop_does() -> None:
    by_hand, model = mlp(), mlp()
    optimizer = adamw(by_hand)
    events = train(by_hand, optimizer, bs.Pruner(by_hand, optimizer, schedule=LINEAR), 12)
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    assert pruner.attach() is pruner
    pruner.attach()
    train(model, optimizer, None, 12)
    assert [facts(event) for event in pruner.history] == [facts(event) for event in events]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True))


def test_attached_a_call_by_hand_is_refused() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR).attach()
    with pytest.raises(bs.Error, match=r"attached.*detach"):
        pruner.step()
    train(model, optimizer, None, 3)
    pruner.detach()
    train(model, optimizer, None, 2, first=4)
    assert pruner.state_dict()["step"] == 3
    assert pruner.step() is None
    with pytest.raises(bs.ArgumentError, match="no optimizer"):
        bs.Pruner(mlp(), scorer="magnitude", schedule=ONCE).attach()


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_grad_scaler_skips_prunes_nothing(fused: bool) -> None:
    model = mlp()
    optimizer = adamw(model, fused=fused)
    pruner = bs.Pruner(model, optimizer, scorer=bs.Bitter7(eps=0), schedule=bs.OneShot(0.5, 2)).attach()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for step in (1, 2, 3):
        scale = math.inf if step == 2 else 1.0
        loss = model(torch.randn(8, 12)).square().mean()
        scaler.scale(loss * scale).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if step == 2:
            assert not pruner.history
    assert [event.step for event in pruner.history] == [
        3 if fused else 2
    ]  # only a fused step is seen and counted
    assert not any(parameter.isnan().any() for parameter in model.parameters())


def test_finalize_holds_verifies_removes_the_hooks_and_ends() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR, hold="grads").attach()
    train(model, optimizer, None, 12)
    with torch.no_grad():
        model[2].weight.add_(1.0)
    report = pruner.finalize()
    assert report.finalized
    assert report.sparsity.zero == report.sparsity.masked == pytest.approx(0.7, abs=1e-3)
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_step_pre_hooks
    for call in (pruner.step, pruner.attach, lambda: pruner.load_state_dict(pruner.state_dict())):
        with pytest.raises(bs.Error, match="finalized"):
            call()
    train(model, optimizer, None, 1)
    assert dead_values(pruner, weights(model)).any()  # nothing holds them any more
    assert pruner.finalize().finalized


def test_finalize_without_an_event_is_a_dense_model() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 100))
    before = everything(model, optimizer)
    report = pruner.finalize()
    assert report.sparsity.masked == 0.0
    assert not report.history
    assert all(torch.equal(value, before[name]) for name, value in everything(model, optimizer).items())


def test_sync_changes_nothing_on_the_cpu() -> None:
    runs = []
    for sync in (True, False):
        model = mlp()
        optimizer = adamw(model)
        runs.append(train(model, optimizer, bs.Pruner(model, optimizer, schedule=LINEAR, sync=sync), 10))
    assert [facts(event) for event in runs[0]] == [facts(event) for event in runs[1]]
