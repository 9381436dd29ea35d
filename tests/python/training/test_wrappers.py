"""torch.compile and DDP around the model: seen through, with the names of the model inside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from bittersweet.model.binding import bind
from bittersweet.model.targets import unwrap
from pruner_support import LINEAR, adamw, backward, dead_values, facts, mlp, train, weights
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def compiled(model: nn.Module) -> nn.Module:
    module: Any = torch.compile(model, backend="aot_eager")
    assert isinstance(module, nn.Module)
    return module


def test_a_compiled_model_is_pruned_as_the_model_inside() -> None:
    plain = mlp()
    optimizer = adamw(plain)
    expected = train(plain, optimizer, bs.Pruner(plain, optimizer, schedule=LINEAR), 12)
    inner = mlp()
    model = compiled(inner)
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    assert list(pruner.masks) == ["0.weight", "2.weight", "4.weight"]
    events = train(model, optimizer, pruner, 12)
    assert [event.pruned for event in events] == [event.pruned for event in expected]
    assert not dead_values(pruner, weights(inner)).any()
    with torch.no_grad():  # the compiled code reads the pruned weights
        inputs = torch.randn(3, 12)
        torch.testing.assert_close(model(inputs), inner(inputs))


def test_a_compiled_part_of_a_model_has_no_prefix_in_its_names() -> None:
    model = mlp()
    model[2] = compiled(model[2])
    assert "2._orig_mod.weight" in dict(model.named_parameters())
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR, targets=["0.weight", "2.weight"])
    assert list(pruner.masks) == ["0.weight", "2.weight"]
    assert len(train(model, optimizer, pruner, 12)) == 3
    assert bs.Pruner(model, optimizer, schedule=LINEAR, targets=model[2]).plan().targets[0].name == "2.weight"


def test_a_state_moves_between_a_model_and_its_compiled_form() -> None:
    plain = mlp()
    optimizer = adamw(plain)
    first = bs.Pruner(plain, optimizer, schedule=LINEAR)
    train(plain, optimizer, first, 7)
    model = compiled(mlp())
    second = bs.Pruner(model, adamw(model), schedule=LINEAR)
    second.load_state_dict(first.state_dict())
    assert not dead_values(second, weights(unwrap(model))).any()
    first.load_state_dict(second.state_dict())
    assert first.state_dict()["step"] == 7


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("attached", [True, False])
def test_a_compiled_training_step_runs_the_pruner_untraced(
    hold: str, attached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = mlp()
    optimizer = adamw(plain)
    expected = train(plain, optimizer, bs.Pruner(plain, optimizer, schedule=LINEAR, hold=hold), 7)
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR, hold=hold)
    if attached:
        pruner.attach()
    traced = []

    def watched(*arguments: Any, **options: Any) -> Any:
        traced.append(torch.compiler.is_dynamo_compiling())
        return bind(*arguments, **options)

    monkeypatch.setattr("bittersweet.steps.keeping.bind", watched)

    @torch.compile(backend="eager")
    def step() -> None:
        optimizer.step()
        if not attached:
            pruner.step()

    for number in range(1, 8):
        backward(model, number)
        step()
        optimizer.zero_grad()
    assert traced
    assert not any(traced)
    assert [event.step for event in pruner.history] == [2, 6]
    assert [event.pruned for event in pruner.history] == [event.pruned for event in expected]
    assert not dead_values(pruner, weights(model)).any()


def test_nested_wrappers_are_seen_through() -> None:
    inner = mlp()
    assert unwrap(compiled(nn.DataParallel(inner))) is inner
    pruner = bs.Pruner(compiled(nn.DataParallel(inner)), scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    pruner.step()
    assert list(pruner.masks) == ["0.weight", "2.weight", "4.weight"]


def worker(rank: int, world: int, folder: str) -> None:
    """One process of a data-parallel run: its own batches, shared gradients."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    inner = mlp(seed=rank)  # DDP broadcasts the first one's weights
    model = DistributedDataParallel(inner)
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    for step in range(1, 13):
        backward(model, world * step + rank)
        optimizer.step()
        pruner.step()
        assert not pruner.history or not dead_values(pruner, weights(inner)).any()
        optimizer.zero_grad()
    torch.save(
        {
            "weights": weights(inner),
            "masks": dict(pruner.masks),
            "events": [facts(event) for event in pruner.history],
            "state": pruner.state_dict(),
        },
        os.path.join(folder, f"rank{rank}.pt"),
    )
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
@pytest.mark.parametrize("world", [1, 2])
def test_every_rank_of_a_data_parallel_run_prunes_the_same(world: int, tmp_path: Path) -> None:
    multiprocessing.spawn(worker, args=(world, str(tmp_path)), nprocs=world)
    first, *others = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(world))
    assert len(first["events"]) == 3
    assert set(first["masks"]) == {"0.weight", "2.weight", "4.weight"}
    for other in others:
        assert other["events"] == first["events"]
        for kind in ("weights", "masks"):
            assert all(torch.equal(tensor, other[kind][name]) for name, tensor in first[kind].items())
    alone = mlp()
    pruner = bs.Pruner(alone, adamw(alone), schedule=LINEAR)
    pruner.load_state_dict(first["state"])
    assert all(torch.equal(mask, first["masks"][name]) for name, mask in pruner.masks.items())
