"""A pruned model in torch's own hands: exported, traced, copied, averaged, clipped, normalised."""

from __future__ import annotations

import copy
import io
from typing import Any

import bittersweet as bs
import pytest
import torch
from client_support import RAMP, STEPS, Forwards, check_report, inputs, loop, loss_of, mlp, pruned_places
from torch import nn


def adamw(model: nn.Module, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, **options)


def pruned() -> tuple[nn.Sequential, dict[str, torch.Tensor]]:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
    loop(model, optimizer, pruner)
    check_report(pruner.finalize())
    return model, dict(pruner.masks.items())


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec")
def test_an_exported_program_keeps_the_zeros() -> None:
    model, masks = pruned()
    program = torch.export.export(model, (inputs(),))
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    loaded = torch.export.load(stream)
    for name, mask in masks.items():
        assert torch.equal(loaded.state_dict[name] != 0, mask), name
    x = inputs()
    torch.testing.assert_close(loaded.module()(x), model(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_traced_program_keeps_the_zeros() -> None:
    model, masks = pruned()
    traced = torch.jit.trace(model, (inputs(),))
    state = traced.state_dict()
    for name, mask in masks.items():
        assert torch.equal(state[name] != 0, mask), name


def test_an_export_while_the_pruner_is_attached() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
    loop(model, optimizer, pruner, steps=5)
    program = torch.export.export(model, (inputs(),))
    shares = {name: int((program.state_dict[name] == 0).sum()) for name in pruner.masks}
    assert shares == {name: int((~mask).sum()) for name, mask in pruner.masks.items()}
    loop(model, optimizer, pruner, steps=STEPS - 5)
    check_report(pruner.finalize())


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_copies_train_on_sparse(hold: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, hold=hold).attach()
    loop(model, optimizer, pruner, steps=5)
    again, stepping, pruning = copy.deepcopy((model, optimizer, pruner))
    seen = Forwards(again, pruning)
    torch.manual_seed(1)
    loop(again, stepping, pruning, steps=STEPS - 5)
    seen.check(STEPS - 5)
    torch.manual_seed(1)
    loop(model, optimizer, pruner, steps=STEPS - 5)
    check_report(pruner.finalize())
    check_report(pruning.finalize())
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_an_average_by_hand_gets_the_zeros(hold: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, hold=hold).attach()
    ema = copy.deepcopy(model).requires_grad_(False)
    for _ in range(STEPS):
        loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad()
        for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.1)
    assert pruned_places(ema, pruner).any()
    assert pruner.apply_to(ema).zero == 0.5
    assert not pruned_places(ema, pruner).any()
    check_report(pruner.finalize())


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_autocast_scaler_unscale_and_clipping(hold: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, hold=hold).attach()
    scaler = torch.amp.GradScaler("cpu")
    seen = Forwards(model, pruner)
    for _ in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        pruner.mask_grads_()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        assert torch.isfinite(norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    seen.check(STEPS - 2)
    check_report(pruner.finalize())


@pytest.mark.parametrize("normalise", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_a_model_of_normalised_weights_only_is_refused(normalise: Any) -> None:
    model = nn.Sequential(normalise(nn.Linear(16, 32)), nn.ReLU(), normalise(nn.Linear(32, 8)))
    with pytest.raises(bs.ArgumentError, match="nothing to prune"):
        bs.Pruner(model, adamw(model), schedule=RAMP)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_in_both_layouts(layout: torch.memory_format, transposed: bool) -> None:
    last = nn.ConvTranspose2d(16, 8, 3, groups=2) if transposed else nn.Conv2d(16, 8, 3, groups=2)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), last).to(memory_format=layout)
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
    assert [entry.name for entry in pruner.plan().targets] == ["0.weight", "3.weight"]
    seen = Forwards(model, pruner)
    for _ in range(STEPS):
        model(torch.randn(2, 3, 8, 8).to(memory_format=layout)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    seen.check(STEPS - 2)
    check_report(pruner.finalize())


def test_recurrent_layers_are_warned_of_and_pruned_when_named(said: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = nn.GRU(16, 24, num_layers=2, batch_first=True), nn.Linear(24, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.recurrent(x)[0]
            out: torch.Tensor = self.head(hidden)
            return out

    model = Net()
    optimizer = adamw(model)
    assert list(bs.Pruner(model, optimizer, schedule=RAMP).masks) == ["head.weight"]
    said.expect("97.1%: recurrent.weight_hh_l0 .*Name what is to be pruned in targets")
    assert list(bs.Pruner(model, optimizer, schedule=RAMP, targets="*weight*").masks) == ["head.weight"]
    said.expect("give its exact name in targets")
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, targets=[nn.GRU, "head"]).attach()
    assert set(pruner.masks) == {name for name, p in model.named_parameters() if p.ndim == 2}
    for _ in range(STEPS):
        model(torch.randn(4, 5, 16)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not pruned_places(model, pruner).any()
    check_report(pruner.finalize())
