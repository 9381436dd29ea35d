"""Decisions over ranks about tensors on CUDA are refused by name, on all ranks alike, and nobody waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import _core
from bittersweet.distributed.shards import Shard
from pruner_support import adamw, backward, mlp, weights
from simulated_ranks import on_all

RANKS = 3
REFUSED = r"weight of '{}' is on cuda:0; decisions over ranks take tensors on the CPU so far"
SCHEDULE = bs.Linear(0.2, 0.7, begin_step=1, end_step=5, frequency=2)  # due on steps 1, 3 and 5


def part(rank: int) -> tuple[torch.Tensor, bs.ScoreInputs]:
    """Four of the twelve rows of a weight."""
    weight = torch.randn(12, 10, generator=torch.Generator().manual_seed(4))[4 * rank : 4 * rank + 4].clone()
    return weight, bs.ScoreInputs(weight, name="up.weight", shard=Shard((12, 10), (4 * rank, 0)))


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "make_masks": lambda item, group: bs.make_masks(
        item, sparsity=0.5, scorer="magnitude", process_group=group
    ),
    "threshold": lambda item, group: bs.threshold(
        item, sparsity=0.5, scorer="magnitude", process_group=group
    ),
    "prune_": lambda item, group: bs.prune_(item, sparsity=0.5, scorer="magnitude", process_group=group),
}


def require_refused(found: list[Any], name: str, here: set[int]) -> None:
    """DeviceError on all ranks: its own on those of `here`, and that of the first of them elsewhere."""
    for rank, error in enumerate(found):
        assert type(error) is bs.DeviceError, (rank, error)
        prefix = "" if rank in here else f"on rank {min(here)}: "
        assert str(error).startswith(prefix + REFUSED.format(name)), (rank, error)


@pytest.mark.parametrize("call", CALLS)
def test_functions_refuse_before_the_first_round(host_cuda: Any, call: str) -> None:
    before = [part(rank)[0] for rank in range(RANKS)]
    held = [part(rank) for rank in range(RANKS)]
    found, meeting = on_all(RANKS, lambda group: CALLS[call](held[group.rank][1], group))
    require_refused(found, "up.weight", set(range(RANKS)))
    assert meeting.sums == [] and meeting.exchanges == 1
    assert all(torch.equal(weight, was) for (weight, _), was in zip(held, before, strict=True))
    with host_cuda.on_cpu():
        found, _ = on_all(RANKS, lambda group: CALLS[call](held[group.rank][1], group))
    assert not [one for one in found if isinstance(one, BaseException)]


@pytest.mark.parametrize("there", range(RANKS))
@pytest.mark.parametrize("call", CALLS)
def test_one_rank_on_cuda_ends_all(host_cuda: Any, call: str, there: int) -> None:
    held = [part(rank) for rank in range(RANKS)]
    host_cuda.devices = {weight.data_ptr(): -1 for rank, (weight, _) in enumerate(held) if rank != there}
    found, meeting = on_all(RANKS, lambda group: CALLS[call](held[group.rank][1], group))
    require_refused(found, "up.weight", {there})
    assert meeting.sums == []


def started(**options: Any) -> tuple[list[Any], Any]:
    """On every rank of a group a replica, its optimizer and its pruner, or what was raised."""
    models = [mlp() for _ in range(RANKS)]  # not by the ranks: threads share torch's generator

    def make(group: Any) -> tuple[Any, Any, Any]:
        model = models[group.rank]
        optimizer = adamw(model)
        chosen = {"schedule": SCHEDULE, "process_group": group, **options}
        return model, optimizer, bs.Pruner(model, optimizer, **chosen)

    return on_all(RANKS, make)


@pytest.mark.parametrize("there", [{0, 1, 2}, {1}, {2}])
def test_models_are_refused_too(host_cuda: Any, there: set[int]) -> None:
    models = [mlp() for _ in range(RANKS)]
    before = [weights(model) for model in models]
    host_cuda.devices = {
        tensor.data_ptr(): -1
        for rank, model in enumerate(models)
        if rank not in there
        for tensor in model.parameters()
    }

    def prune(group: Any) -> Any:
        return bs.prune_(models[group.rank], sparsity=0.5, scorer="magnitude", process_group=group)

    found, meeting = on_all(RANKS, prune)
    require_refused(found, "0.weight", there)
    assert len(meeting.sums) <= 1
    for model, was in zip(models, before, strict=True):
        assert all(torch.equal(weight, was[name]) for name, weight in weights(model).items())
    with host_cuda.on_cpu():
        found, _ = on_all(RANKS, prune)
    assert [event.pruned for event in found] == [983] * RANKS


def test_zeros_are_counted_on_cuda(host_cuda: Any) -> None:
    """Counting is no decision: each rank counts what it holds, and the sums are exchanged."""
    model = mlp()
    with torch.no_grad():
        model[0].weight[:10] = 0
    found, _ = on_all(RANKS, lambda group: bs.sparsity(model, process_group=group))
    assert [one.zeros for one in found] == [120] * RANKS, found


def test_a_pruner_is_refused_when_it_is_made(host_cuda: Any) -> None:
    found, meeting = started()
    require_refused(found, "0.weight", set(range(RANKS)))
    assert "replicas (DistributedDataParallel) need no process_group" in str(found[0])
    assert meeting.sums == []


def test_a_pruner_of_one_rank_on_cuda_is_refused_on_all(host_cuda: Any) -> None:
    models = [mlp() for _ in range(RANKS)]
    host_cuda.devices = {tensor.data_ptr(): -1 for rank in (0, 2) for tensor in models[rank].parameters()}

    def make(group: Any) -> Any:
        model = models[group.rank]
        return bs.Pruner(model, adamw(model), schedule=SCHEDULE, process_group=group)

    found, meeting = on_all(RANKS, make)
    require_refused(found, "0.weight", {1})
    assert meeting.sums == []


def test_a_model_that_moved_is_refused_at_the_event(host_cuda: Any) -> None:
    """In the first round: the others are in it already, and hear of it by its fault."""
    with host_cuda.on_cpu():
        made, _ = started()
        for model, optimizer, _ in made:
            backward(model, 1)
            optimizer.step()
    before = [weights(model) for model, _, _ in made]

    def step(group: Any) -> Any:
        pruner = made[group.rank][2]
        pruner._loop.ranks.group.meeting = group.meeting
        return pruner.step()

    found, meeting = on_all(RANKS, step)
    require_refused(found, "0.weight", set(range(RANKS)))
    assert len(meeting.sums) == 1 and meeting.sums[0] == 4 * len(_core.fault_vector())
    for (model, _, _), was in zip(made, before, strict=True):
        assert all(torch.equal(weight, was[name]) for name, weight in weights(model).items())
    with host_cuda.on_cpu():
        found, _ = on_all(RANKS, step)
    assert not [one for one in found if isinstance(one, BaseException)]
    assert [event.pruned for event in found] == [round(0.2 * 1965)] * RANKS


def test_holding_given_masks_is_no_decision(host_cuda: Any) -> None:
    made, meeting = started(schedule=None)
    for model, optimizer, pruner in made:
        given = {"0.weight": torch.arange(480).reshape(40, 12) % 3 != 0}
        pruner.load_masks(given)
        for step in (1, 2):
            backward(model, step)
            optimizer.step()
            pruner.step()
        weight = model[0].weight.detach().abs()
        assert float(weight[~given["0.weight"]].max()) == 0.0 < float(weight.max())
    assert meeting.sums == []


def test_replicas_on_cuda_need_no_group(host_cuda: Any) -> None:
    """As the message says: each rank by itself makes the same masks."""
    found = []
    for _ in range(2):
        model = mlp()
        optimizer = adamw(model)
        pruner = bs.Pruner(model, optimizer, schedule=SCHEDULE)
        backward(model, 1)
        optimizer.step()
        found.append((pruner.step(), pruner.masks))
    assert found[0][0].pruned == found[1][0].pruned > 0
    assert all(torch.equal(mask, found[1][1][name]) for name, mask in found[0][1].items())
