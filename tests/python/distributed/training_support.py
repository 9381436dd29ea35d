"""Models spread over ranks, training loops, and the single process that they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import bittersweet as bs
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

RAMP = bs.Linear(0.2, 0.8, begin_step=2, end_step=6, frequency=2)  # due on steps 2, 4 and 6
STEPS = 8


class Net(nn.Module):
    """Rows that no number of ranks divides, a layer of 3 rows, and one of a single row."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(13, 34)
        self.b = nn.Linear(34, 26, bias=False)
        self.c = nn.Linear(26, 3)
        self.one = nn.Linear(3, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(torch.tanh(self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))))


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(seed)
    return Net().to(dtype)


def sharded(model: Net, **options: Any) -> Net:
    """By fully_shard: a and b in groups of their own, the rest in the root's."""
    for layer in (model.a, model.b):
        fully_shard(layer, **options)
    fully_shard(model, **options)
    return model


def tensor_parallel(model: Net) -> Net:
    """fully_shard around tensor parallelism, in squares of two ranks each way; c and one are left alone by
    the latter, so that ranks hold copies which no placement mentions."""
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("dp", "tp"))
    parallelize_module(model, mesh["tp"], {"a": ColwiseParallel(), "b": RowwiseParallel()})
    return sharded(model, mesh=mesh["dp"])


def hybrid(model: Net) -> Net:
    """Two replicas, each spread over the other ranks."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicas", "shards"))
    return sharded(model, mesh=mesh)


def adamw(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), **{"lr": 1e-2, "weight_decay": 0.1, **options})


def masked_adamw(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return bs.optim.AdamW(model.parameters(), **{"lr": 1e-2, "weight_decay": 0.1, **options})


def batch(number: int, features: int = 13) -> torch.Tensor:
    return torch.randn(8, features, generator=torch.Generator().manual_seed(number))


def backward(model: nn.Module, number: int) -> None:
    dtype = next(model.parameters()).dtype
    model(batch(number).to(dtype)).float().square().mean().backward()


def full(tensor: Any) -> Any:
    """Gathered, if ranks hold parts."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def here(tensor: Any) -> torch.Tensor:
    """What this rank holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def state_of(optimizer: Any, parameter: torch.Tensor) -> Mapping[str, Any]:
    return getattr(optimizer, "optim", optimizer).state.get(parameter, {})


def inputs_of(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> list[bs.ScoreInputs]:
    """The targets of the whole model as one process has them. Collective."""
    items = []
    for entry in pruner.plan().targets:
        parameter = model.get_parameter(entry.path)
        state = state_of(optimizer, parameter)
        found = {key: full(state[key]) for key in ("exp_avg", "exp_avg_sq") if key in state}
        grad = None if parameter.grad is None else full(parameter.grad)
        mask = full(pruner.masks[entry.name])
        items.append(bs.ScoreInputs(full(parameter.detach()), grad=grad, mask=mask, name=entry.name, **found))
    return items


def require_held(model: nn.Module, optimizer: Any, pruner: bs.Pruner) -> None:
    """Pruned weights and their states are 0 on this rank."""
    if isinstance(optimizer, bs.optim.AdamW):
        optimizer.state_dict()  # states of newly pruned weights are in order when they are asked for
    for entry in pruner.plan().targets:
        parameter = model.get_parameter(entry.path)
        dead = ~here(pruner.masks[entry.name])
        tensors = {"weight": parameter.detach(), **state_of(optimizer, parameter)}
        for key in ("weight", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            if key in tensors:
                assert not here(tensors[key])[dead].any(), f"{key} of {entry.name}"


Step = Callable[[nn.Module, int], None]


def train(
    model: nn.Module,
    optimizer: Any,
    pruner: bs.Pruner,
    *,
    number: int = 0,
    first: int = 1,
    steps: int = STEPS,
    step: Step = backward,
    **options: Any,
) -> list[bs.MaskEvent]:
    """Trains; every event is held against `make_masks` of the gathered model, with these options.

    Args:
        number: Which batches this rank sees.
    """
    events, schedule = [], options.pop("schedule", RAMP)
    for now in range(first, first + steps):
        step(model, 1000 * number + now)
        optimizer.step()
        due, sparsity = schedule(now)
        expected = None
        if due:
            items = inputs_of(model, optimizer, pruner)
            expected = bs.make_masks(items, sparsity=sparsity, **options)
        event = pruner.step()
        assert (event is not None) == due
        if expected is not None and event is not None:
            require_same(event, pruner, expected)
            events.append(event)
        if pruner.history:
            require_held(model, optimizer, pruner)
        optimizer.zero_grad()
    assert events
    return events


def require_same(event: bs.MaskEvent, pruner: bs.Pruner, expected: Any) -> None:
    """The event of all ranks is the one of the gathered model, bit for bit."""
    for key in ("threshold", "k", "total", "pruned", "count_below", "count_equal", "churn", "per_tensor"):
        assert getattr(event, key) == getattr(expected.event, key), key
    assert event.achieved_sparsity == expected.event.achieved_sparsity
    for mask in expected:
        assert torch.equal(full(pruner.masks[mask.name]), mask.bool()), mask.name


def require_replicas(model: nn.Module) -> None:
    """All ranks have the same weights, bit for bit. Collective."""
    for name, parameter in model.named_parameters():
        whole = full(parameter.detach())
        copies = [torch.empty_like(whole) for _ in range(dist.get_world_size())]
        dist.all_gather(copies, whole.contiguous())
        assert all(torch.equal(copy, whole) for copy in copies), name


@contextmanager
def no_collectives() -> Iterator[None]:
    """Whatever talks to other ranks within fails."""
    names = [
        name
        for name in dir(dist)
        if name.startswith(("all_", "broadcast", "gather", "reduce", "scatter", "barrier", "send", "recv"))
        and callable(getattr(dist, name))
    ]
    kept = {name: getattr(dist, name) for name in names}

    def refuse(name: str) -> Callable[..., Any]:
        def refused(*_: Any, **__: Any) -> Any:
            raise AssertionError(f"{name} between events")

        return refused

    for name in names:
        setattr(dist, name, refuse(name))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(dist, name, function)
