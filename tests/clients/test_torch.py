"""What torch itself puts around models and optimizers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
import torch.distributed as dist
from client_support import RAMP, STEPS, Forwards, check_report, inputs, loop, loss_of, mlp, pruned_places
from torch import multiprocessing, nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn


def adamw(model: nn.Module, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, **options)


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_compiled_model_and_compiled_optimizer_step(hold: str, attached: bool) -> None:
    torch._dynamo.reset()
    inner = mlp()
    model: Any = torch.compile(inner, backend="aot_eager")
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, hold=hold)
    if attached:
        pruner.attach()
    optimizer_step = torch.compile(lambda: optimizer.step(), backend="aot_eager")
    for _ in range(STEPS):
        loss_of(model).backward()
        optimizer_step()
        if not attached:
            pruner.step()
        optimizer.zero_grad()
        assert not pruned_places(inner, pruner).any()
    check_report(pruner.finalize())


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("attached", [True, False])
def test_grad_scaler_with_skipped_steps(attached: bool, fused: bool, hold: str) -> None:
    model = mlp()
    optimizer = adamw(model, fused=fused)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, hold=hold)
    if attached:
        pruner.attach()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for i in range(STEPS + 2):
        overflows = i in (2, 5)
        loss = loss_of(model) * (float("inf") if overflows else 1.0)
        scaler.scale(loss).backward()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if not attached:
            pruner.step(skipped=scaler.get_scale() < before)
        assert (scaler.get_scale() < before) == overflows
        optimizer.zero_grad()
        assert not pruned_places(model, pruner).any()
    report = pruner.finalize()
    assert report.violations == {}
    assert report.unfinished is None
    assert report.sparsity.zero == pytest.approx(0.5, abs=1e-3)
    # A step that is skipped on the host never reaches an attached pruner; one skipped by the optimizer does.
    assert report.step == STEPS + (0 if attached and not fused else 2)


def test_averaged_models_get_the_zeros() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
    swa = AveragedModel(model)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    scheduler = SWALR(optimizer, swa_lr=1e-2)
    for _ in range(STEPS):
        loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        swa.update_parameters(model)
        ema.update_parameters(model)
    for average in (swa, ema):
        dense = bs.count_violations(average, dict(pruner.masks.items()))
        assert sum(dense.values()) > 0
        found = pruner.apply_to(average)
        assert found.zero == found.masked == 0.5
        for name, mask in pruner.masks.items():
            assert torch.equal(average.get_parameter(f"module.{name}") != 0, mask)
    update_bn([inputs() for _ in range(2)], ema)
    check_report(pruner.finalize())


def test_parametrized_weights_are_left_out_and_plain_ones_pruned(said: Any) -> None:
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(16, 16)),
        parametrizations.spectral_norm(nn.Linear(16, 16)),
        parametrizations.orthogonal(nn.Linear(16, 16)),
        nn.Linear(16, 32),
        nn.Linear(32, 32),
        nn.Linear(32, 8),
    )
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
    said.expect("are left out")
    assert [entry.name for entry in pruner.plan().targets] == ["3.weight", "4.weight", "5.weight"]
    loop(model, optimizer, pruner)
    check_report(pruner.finalize())


def test_masks_of_torch_prune_are_taken_over() -> None:
    from torch.nn.utils import prune

    model = mlp()
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", 0.5)
    masks = {f"{i}.weight": model[i].weight_mask.bool() for i in (0, 2)}
    for i in (0, 2):
        prune.remove(model[i], "weight")
    optimizer = adamw(model)
    taken = bs.Pruner.from_zeros(model, optimizer).attach()
    for name, mask in masks.items():
        assert torch.equal(taken.masks[name], mask)
    loop(model, optimizer, taken)
    report = taken.finalize()
    assert (report.violations, report.sparsity.zero) == ({}, 0.5)


@pytest.mark.parametrize("attached", [True, False])
def test_muon_and_adamw_have_one_threshold(attached: bool) -> None:
    model = mlp()
    optimizers = [torch.optim.Muon([model[0].weight], lr=1e-2),
                  torch.optim.AdamW([model[2].weight, model[0].bias, model[2].bias], lr=1e-2)]  # fmt: skip
    pruner = bs.Pruner(model, optimizers, scorer="magnitude", schedule=RAMP)
    if attached:
        pruner.attach()
    seen = Forwards(model, pruner)
    for _ in range(STEPS):
        loss_of(model).backward()
        for optimizer in optimizers:
            optimizer.step()
        if not attached:
            pruner.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
    seen.check(STEPS - 2)
    report = pruner.finalize()
    check_report(report)
    shares = [row.masked for row in report.sparsity.per_tensor.values()]
    assert shares[0] != shares[1]  # one threshold over both
    with pytest.raises(bs.ArgumentError, match="Muon keeps no exp_avg_sq"):
        bs.Pruner(model, optimizers, schedule=RAMP)


@pytest.mark.parametrize("scope", ["global", "row", "2:4"])
def test_multihead_attention_is_a_target(scope: str) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 8))
    optimizer = adamw(model)
    schedule = bs.OneShot(0.5, 3)
    pruner = bs.Pruner(model, optimizer, schedule=schedule, scope=scope).attach()
    names = {entry.name for entry in pruner.plan().targets}
    assert {
        f"0.layers.{i}.self_attn.{kind}" for i in (0, 1) for kind in ("in_proj_weight", "out_proj.weight")
    } < names
    for _ in range(STEPS):
        model(torch.randn(4, 6, 16)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name in ("0.layers.0.self_attn.in_proj_weight", "0.layers.1.self_attn.out_proj.weight"):
        zero = model.get_parameter(name) == 0
        if scope == "row":
            assert (zero.sum(1) == 8).all()
        if scope == "2:4":
            assert (zero.unflatten(1, (-1, 4)).sum(2) == 2).all()
    check_report(pruner.finalize(), events=1)


CASES = [(hold, scorer, closure) for hold, scorer in (("grads", "bitter7"), ("weights", "movement"),
         ("grads", "movement")) for closure in (True, False)]  # fmt: skip


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for number, case in enumerate(CASES):
        torch.save(_train(rank, *case), os.path.join(folder, f"{number}_{rank}.pt"))
    dist.destroy_process_group()


def _train(rank: int, hold: str, scorer: str, closure: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    inner = mlp()
    model = nn.parallel.DistributedDataParallel(inner)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, hold=hold, scorer=scorer).attach()
    seen = Forwards(inner, pruner)
    torch.manual_seed(10 + rank)

    def evaluate() -> torch.Tensor:
        optimizer.zero_grad()
        with model.no_sync():
            loss_of(model).backward()
        loss = loss_of(model)
        loss.backward()
        return loss

    for _ in range(STEPS):
        if closure:
            optimizer.step(evaluate)
        else:
            evaluate()
            optimizer.step()
    seen.check(2 * (STEPS - 2))
    check_report(pruner.finalize())
    return inner.state_dict()


def test_two_processes_stay_equal(tmp_path: Path) -> None:
    multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    for number, case in enumerate(CASES):
        first, second = (torch.load(tmp_path / f"{number}_{rank}.pt") for rank in (0, 1))
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), (case, name)
