"""A Pruner over four ranks: tensor parallelism within fully_shard, replicas of shards, spread state."""

from __future__ import annotations

import copy
from typing import Any

import bittersweet as bs
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from training_support import (
    RAMP,
    adamw,
    backward,
    full,
    here,
    hybrid,
    inputs_of,
    masked_adamw,
    net,
    require_held,
    require_replicas,
    require_same,
    tensor_parallel,
    train,
)


def fsdp2_and_tensor_parallel(rank: int, size: int) -> None:
    for make in (adamw, masked_adamw):
        model = tensor_parallel(net())
        optimizer = make(model)
        pruner = bs.Pruner(model, optimizer, schedule=RAMP)
        events = train(model, optimizer, pruner, number=rank // 2)
        assert [event.ranks for event in events] == [4] * 3
        assert here(model.b.weight).shape == (13, 17)  # a box, in which no row is whole
        assert events[-1].empty_rows is None
        require_replicas(model)


def fsdp2_and_tensor_parallel_with_many_ties(rank: int, size: int) -> None:
    model = tensor_parallel(net(dtype=torch.bfloat16))
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=RAMP)
    train(model, optimizer, pruner, number=rank // 2, scorer="magnitude")


def tensor_parallel_alone(rank: int, size: int) -> None:
    model = net()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "tp"))
    plan = {"a": ColwiseParallel(), "b": RowwiseParallel()}
    parallelize_module(model, mesh["tp"], plan)
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP)
    train(model, optimizer, pruner)
    assert isinstance(pruner.masks["a.weight"], DTensor)
    assert not isinstance(pruner.masks["c.weight"], DTensor)
    require_replicas(model)
    version = model.a.weight._version
    out = model(torch.ones(2, 13)).sum()
    pruner.load_masks({"a.weight": torch.zeros(34, 13, dtype=torch.bool)})
    assert model.a.weight._version > version
    try:
        out.backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        raise AssertionError("backward went on with weights that were written since")


def rows_that_ranks_share_are_refused_for_scopes_of_rows(rank: int, size: int) -> None:
    model = tensor_parallel(net())
    for scope in ("row", "1:2"):
        try:
            bs.Pruner(model, adamw(model), schedule=bs.OneShot(0.5, 1), scope=scope, targets="b.*")
        except bs.ShapeError as error:
            assert "'b.weight'" in str(error) and "Shard(0)" in str(error), error
        else:
            raise AssertionError(scope)


def replicas_of_shards(rank: int, size: int) -> None:
    model = hybrid(net())
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP)
    train(model, optimizer, pruner, number=rank)
    require_replicas(model)
    whole = full(pruner.masks["b.weight"])
    copies: list[Any] = [None] * size
    dist.all_gather_object(copies, whole)
    assert all(torch.equal(copy, whole) for copy in copies)


def copies_that_differ(rank: int, size: int) -> None:
    """Of shards that placements call replicas, and of such that no placement mentions."""
    for spread, name in ((hybrid, "b.weight"), (tensor_parallel, "c.weight")):
        for culprit in range(size):
            model: Any = spread(net())
            optimizer = adamw(model)
            pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
            weight = here(model.get_parameter(name)).detach()
            kept = weight.clone()
            if rank == culprit:
                weight.mul_(torch.linspace(-5, 5, weight.numel()).reshape(weight.shape))
            holds = bool(weight.numel())
            told: list[Any] = [None] * size
            dist.all_gather_object(told, holds)
            try:
                pruner.step()
            except bs.ReplicasDiffer as error:
                assert name in str(error), error
            else:
                assert not told[culprit]
                continue
            assert pruner.steps == 0
            assert not pruner.masks.packed
            weight.copy_(kept)
            items = inputs_of(model, optimizer, pruner)
            expected = bs.make_masks(items, sparsity=0.5, scorer="magnitude")
            event = pruner.step()
            assert event is not None
            require_same(event, pruner, expected)


def a_group_of_some_ranks(rank: int, size: int) -> None:
    """The two halves of the job train and prune models of their own."""
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    half = rank // 2
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("halves", "shards"))
    torch.manual_seed(half)
    model = nn.Sequential(nn.Linear(13, 10 + half), nn.Tanh(), nn.Linear(10 + half, 3))
    fully_shard(model, mesh=mesh["shards"])
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, process_group=groups[half])
    events = train(model, optimizer, pruner, number=rank)
    assert [event.ranks for event in events] == [2] * 3
    dist.barrier()


def norms_of_inputs_that_ranks_share(rank: int, size: int) -> None:
    """b is split along its inputs, so that each rank reads the norms of its own."""
    model = tensor_parallel(net())
    optimizer = adamw(model)
    inputs = {"a.weight": 13, "b.weight": 34, "c.weight": 26, "one.weight": 3}
    norms = {name: torch.linspace(0.1, 3.0, length) for name, length in inputs.items()}
    pruner = bs.Pruner(model, optimizer, scorer="wanda", schedule=RAMP, input_norms=norms)
    for now in range(1, 5):
        backward(model, 1000 * (rank // 2) + now)
        optimizer.step()
        due, sparsity = RAMP(now)
        if due:
            items = inputs_of(model, optimizer, pruner)
            for item in items:
                item.input_norm = norms[str(item.name)]
            expected = bs.make_masks(items, sparsity=sparsity, scorer="wanda")
        event = pruner.step()
        if due:
            assert event is not None
            require_same(event, pruner, expected)
        optimizer.zero_grad()
    wrong = {**norms, "b.weight": norms["b.weight"][1:]}
    try:
        bs.Pruner(model, optimizer, scorer="wanda", schedule=RAMP, input_norms=wrong)
    except bs.ShapeError as error:
        assert "'b.weight' has shape (33,)" in str(error), error
    else:
        raise AssertionError("norms of a wrong length")


def spread_state_by_globs_that_are_due_in_turn(rank: int, size: int) -> None:
    """Masks of a glob that is not due stay as they are on the ranks that do not keep its state."""
    inner = net()
    model = DistributedDataParallel(inner)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.AdamW, lr=1e-2)
    schedules = {
        "a.*": bs.Linear(0.2, 0.8, begin_step=2, end_step=6, frequency=2),
        "b.*": bs.Linear(0.3, 0.7, begin_step=3, end_step=5, frequency=2),
    }
    pruner = bs.Pruner(model, optimizer, schedule=schedules, process_group=dist.group.WORLD)
    kept: dict[str, float] = {}
    for now in range(1, 8):
        backward(model, 1000 * rank + now)
        optimizer.step()
        event = pruner.step()
        kept |= {} if event is None else {name: 1.0 - share for name, share in event.per_tensor.items()}
        for name, mask in pruner.masks.items():
            assert mask.float().mean().item() == pytest.approx(kept.get(name, 1.0), abs=1e-6), (now, name)
        require_held(inner, optimizer, pruner)
        require_replicas(inner)
        optimizer.zero_grad()
    assert {name: round(share, 2) for name, share in kept.items()} == {"a.weight": 0.2, "b.weight": 0.3}


def grouped_convolutions(rank: int, size: int) -> None:
    """Parts of one group, of several, and parts of transposed ones that cut through groups."""
    torch.manual_seed(0)
    whole = nn.Sequential(
        nn.Conv2d(16, 16, 3, groups=8),
        nn.Conv2d(16, 16, 3, groups=4),
        nn.ConvTranspose2d(16, 8, 3, groups=2),
        nn.ConvTranspose2d(6, 4, 3, groups=2),
    )
    model = copy.deepcopy(whole)
    fully_shard(model)
    norms = {f"{name}.weight": torch.rand(layer.in_channels) + 0.5 for name, layer in whole.named_children()}
    for options in ({"scorer": "magnitude"}, {"scorer": "wanda", "input_norms": norms}):
        found, expected = (bs.make_masks(each, sparsity=0.5, **options) for each in (model, whole))
        for name in expected:
            assert torch.equal(full(found[name]), expected[name]), (name, options)
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    assert pruner.step() is not None
    pruner.finalize()
