"""Decisions over ranks about tensors on CUDA: those of the same ranks on the CPU, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.distributed.shards import Shard
from pruner_support import adamw, backward, mlp, weights
from simulated_ranks import on_all

RANKS = 3
SCHEDULE = bs.Linear(0.2, 0.7, begin_step=1, end_step=5, frequency=2)  # due on steps 1, 3 and 5

VALUES: dict[str, Callable[[torch.Generator], torch.Tensor]] = {
    "normal": lambda g: torch.randn(12, 40, generator=g),
    "ties": lambda g: torch.randint(-2, 3, (12, 40), generator=g).float(),
    "bfloat16": lambda g: torch.randn(12, 40, generator=g).bfloat16(),
    "zeros": lambda g: torch.zeros(12, 40),
}


def part(cuda: Any, rank: int, values: str = "normal", axis: int = 0, **beside: Any) -> bs.ScoreInputs:
    """Rank `rank`'s third of the rows, or of the columns, of a weight."""
    whole = VALUES[values](torch.Generator().manual_seed(4))
    size = whole.shape[axis] // RANKS if axis == 0 else (whole.shape[axis] + RANKS - 1) // RANKS
    own = whole.narrow(axis, rank * size, min(size, whole.shape[axis] - rank * size)).clone()
    offset = (rank * size, 0) if axis == 0 else (0, rank * size)
    return bs.ScoreInputs(cuda.put(own), name="up.weight", shard=Shard((12, 40), offset), **beside)


def bits(mask: Any) -> np.ndarray[Any, Any]:
    return np.asarray(mask.to(-1).bool())


def require_alike(here: list[Any], there: list[Any]) -> None:
    """Events or thresholds, but for what an engine takes for them: rounds and their bytes, too."""
    own = {"passes": 0.0, "extra_bytes": 0, "milliseconds": 0.0}
    for one, other in zip(here, there, strict=True):
        assert not isinstance(one, BaseException), one
        assert not isinstance(other, BaseException), other
        fields = {name: value for name, value in own.items() if hasattr(one, name)}
        assert replace(one, **fields) == replace(other, **fields)


OPTIONS: dict[str, dict[str, Any]] = {
    "global": {"sparsity": 0.5},
    "ties below": {"k": 200, "ties": "below"},
    "by tensor": {"sparsity": 0.3, "scope": "tensor", "distribution": "erk"},
    "capped": {"sparsity": 0.5, "max_tensor_sparsity": 0.6},
    "ranges": {"sparsity": 0.5, "tensor_sparsity": {"*": (0.4, 0.6)}},
    "nothing": {"sparsity": 0.0},
    "everything": {"sparsity": 1.0},
}
GROUPED: dict[str, dict[str, Any]] = {
    "rows": {"sparsity": 0.4, "scope": "row"},
    "2:4": {"scope": "2:4"},
}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("options", [*OPTIONS, *GROUPED])
def test_masks_are_those_of_the_cpu(cuda: Any, options: str, values: str) -> None:
    def make(group: Any) -> Any:
        item = part(cuda, group.rank, values)
        given = {**OPTIONS, **GROUPED}[options]
        return bs.make_masks(item, scorer="magnitude", process_group=group, **given)

    found, _ = on_all(RANKS, make)
    with cuda.on_cpu():
        expected, _ = on_all(RANKS, make)
    require_alike([one.event for one in found], [one.event for one in expected])
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(bits(one[0]), bits(other[0]))


@pytest.mark.parametrize("values", ["normal", "ties"])
def test_parts_that_are_boxes(cuda: Any, values: str) -> None:
    def make(group: Any) -> Any:
        item = part(cuda, group.rank, values, axis=1)
        return bs.make_masks(item, k=333, scorer="magnitude", process_group=group)

    found, _ = on_all(RANKS, make)
    with cuda.on_cpu():
        expected, _ = on_all(RANKS, make)
    require_alike([one.event for one in found], [one.event for one in expected])
    assert sum(int((~bits(one[0])).sum()) for one in found) == 333
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(bits(one[0]), bits(other[0]))


@pytest.mark.parametrize("bounded", [False, True])
def test_thresholds(cuda: Any, bounded: bool) -> None:
    ranges = {"tensor_sparsity": {"*": (0.1, 0.9)}} if bounded else {}

    def find(group: Any) -> Any:
        item = part(cuda, group.rank)
        return bs.threshold(item, sparsity=0.4, scorer="magnitude", process_group=group, **ranges)

    found, _ = on_all(RANKS, find)
    with cuda.on_cpu():
        expected, _ = on_all(RANKS, find)
    require_alike(found, expected)
    assert found[0].rounds >= 2 and found[0].ranks == RANKS


def test_prune_writes_on_every_rank(cuda: Any) -> None:
    held = [part(cuda, rank) for rank in range(RANKS)]
    before = [item.weight.clone() for item in held]
    found, _ = on_all(
        RANKS,
        lambda group: bs.prune_(held[group.rank], sparsity=0.5, scorer="magnitude", process_group=group),
    )
    assert [event.pruned for event in found] == [240] * RANKS
    assert sum(int((item.weight == 0).sum()) for item in held) == 240
    for item, was in zip(held, before, strict=True):
        kept = item.weight != 0
        assert torch.equal(item.weight[kept], was[kept])
        assert float(was[kept].abs().min()) >= found[0].threshold


@pytest.mark.parametrize("there", [{0}, {1, 2}])
def test_ranks_of_both_kinds(host_cuda: Any, there: set[int]) -> None:
    """Vectors are alike, whatever adds them up."""
    held = [part(host_cuda, rank, "ties") for rank in range(RANKS)]
    host_cuda.devices = {item.weight.data_ptr(): -1 for rank, item in enumerate(held) if rank not in there}
    found, _ = on_all(
        RANKS, lambda group: bs.make_masks(held[group.rank], k=222, scorer="magnitude", process_group=group)
    )
    assert not [one for one in found if isinstance(one, BaseException)], found
    assert [one[0].device for one in found] == [0 if rank in there else -1 for rank in range(RANKS)]
    assert sum(int((~bits(one[0])).sum()) for one in found) == 222
    require_alike([one.event for one in found[1:]], [found[0].event] * (RANKS - 1))


def test_nan_is_the_same_error_on_all(cuda: Any) -> None:
    def make(group: Any) -> Any:
        item = part(cuda, group.rank)
        if group.rank == 1:
            item.weight[2, 7] = float("nan")
        return bs.prune_(item, sparsity=0.5, scorer="magnitude", process_group=group)

    found, _ = on_all(RANKS, make)
    for error in found:
        assert type(error) is bs.NonFiniteScoreError, error
        assert (error.parameter, error.count, error.first_index) == ("up.weight", 1, 6 * 40 + 7)


def test_a_captured_stream_is_refused(host_cuda: Any) -> None:
    host_cuda.capturing = True
    found, _ = on_all(
        RANKS,
        lambda group: bs.make_masks(
            part(host_cuda, group.rank), k=3, scorer="magnitude", process_group=group
        ),
    )
    for error in found:
        assert isinstance(error, bs.Error) and "captured into a CUDA graph" in str(error), error


def started(**options: Any) -> tuple[list[Any], Any]:
    """On every rank of a group a replica, its optimizer and its pruner, or what was raised."""
    models = [mlp() for _ in range(RANKS)]  # not by the ranks: threads share torch's generator

    def make(group: Any) -> tuple[Any, Any, Any]:
        model = models[group.rank]
        optimizer = adamw(model)
        chosen = {"schedule": SCHEDULE, "process_group": group, **options}
        return model, optimizer, bs.Pruner(model, optimizer, **chosen)

    return on_all(RANKS, make)


def trained(**options: Any) -> tuple[list[dict[str, torch.Tensor]], list[Any]]:
    """Weights and events after five steps with three events."""
    made, _ = started(**options)
    assert not [one for one in made if isinstance(one, BaseException)], made
    events: list[Any] = []
    for step in range(1, 6):
        for model, optimizer, _ in made:
            backward(model, step)
            optimizer.step()

        def fire(group: Any) -> Any:
            pruner = made[group.rank][2]
            pruner._loop.ranks.group.meeting = group.meeting
            return pruner.step()

        found, _ = on_all(RANKS, fire)
        assert not [one for one in found if isinstance(one, BaseException)], found
        events.append(found[0])
    return [weights(model) for model, _, _ in made], events


@pytest.mark.parametrize("options", [{}, {"scope": "tensor"}, {"scope": "row"}], ids=str)
def test_pruners(host_cuda: Any, options: dict[str, Any]) -> None:
    found, events = trained(**options)
    with host_cuda.on_cpu():
        expected, others = trained(**options)
    due = [event for event in events if event is not None]
    assert len(due) == 3
    require_alike(due, [event for event in others if event is not None])
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.fixture
def one_rank() -> Iterator[Any]:
    """The default group, of this process alone."""
    distributed = torch.distributed
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_dtensors(host_cuda: Any, one_rank: Any) -> None:
    """Without a group of its own: that of the DTensors, and their parts are what lies on the device."""
    from torch.distributed.tensor import Shard as Split
    from torch.distributed.tensor import distribute_tensor

    whole = VALUES["ties"](torch.Generator().manual_seed(4))
    weight = distribute_tensor(whole.clone(), one_rank, [Split(0)])
    event = bs.prune_(bs.ScoreInputs(weight, name="up.weight"), k=300, scorer="magnitude")
    assert (event.ranks, event.pruned) == (1, 300)
    expected = whole.clone()
    with host_cuda.on_cpu():
        bs.prune_(bs.ScoreInputs(expected, name="up.weight"), k=300, scorer="magnitude")
    assert torch.equal(weight.to_local(), expected)


def test_zeros_are_counted_on_cuda(host_cuda: Any) -> None:
    """Counting is no decision: each rank counts what it holds, and the sums are exchanged."""
    model = mlp()
    with torch.no_grad():
        model[0].weight[:10] = 0
    found, _ = on_all(RANKS, lambda group: bs.sparsity(model, process_group=group))
    assert [one.zeros for one in found] == [120] * RANKS, found


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
    """Each rank by itself makes the same masks."""
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
