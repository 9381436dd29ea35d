"""Models that ranks share in every way that torch has, and what the gathered model would be."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import bittersweet as bs
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


class Net(nn.Module):
    """Layers whose rows no number of ranks divides, a norm, and a tensor of a single row."""

    def __init__(self, inputs: int = 22, hidden: int = 46) -> None:
        super().__init__()
        self.a = nn.Linear(inputs, hidden)
        self.b = nn.Linear(hidden, inputs, bias=False)
        self.norm = nn.LayerNorm(inputs)
        self.c = nn.Linear(inputs, 3)
        self.one = nn.Linear(3, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.b(torch.relu(self.a(x))))
        found: torch.Tensor = self.one(torch.relu(self.c(x)))
        return found


def net(dtype: torch.dtype = torch.float32, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().to(dtype)


def fsdp(model: nn.Module, mesh: Any = None) -> nn.Module:
    """fully_shard of two layers and of the rest."""
    options = {} if mesh is None else {"mesh": mesh}
    for layer in (model.a, model.b):
        fully_shard(layer, **options)  # type: ignore[arg-type]
    fully_shard(model, **options)
    return model


def fsdp_tp(model: nn.Module) -> nn.Module:
    """fully_shard over tensor parallelism of two; of the last layers are copies that no placement names."""
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("data", "model"))
    parallelize_module(model, mesh["model"], {"a": ColwiseParallel(), "b": RowwiseParallel()})
    return fsdp(model, mesh["data"])


def hsdp(model: nn.Module) -> nn.Module:
    """fully_shard over two copies of the model, or over two ranks with one."""
    size = dist.get_world_size()
    mesh: DeviceMesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("copies", "parts"))
    return fsdp(model, mesh)


BUILDS: dict[str, Callable[[nn.Module], nn.Module]] = {"fsdp": fsdp, "fsdp_tp": fsdp_tp, "hsdp": hsdp}


def full(tensor: Any) -> torch.Tensor:
    """The whole of a tensor, a copy; collective for a DTensor."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def train(model: nn.Module, optimizer: Any, steps: int, seed: int = 7) -> None:
    """Some steps on data that is the same on all ranks; the last gradients stay."""
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 22, generator=generator).to(dtype)
        model(x).float().square().mean().backward()
        optimizer.step()


def weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What is pruned by default."""
    model.reshard() if hasattr(model, "reshard") else None
    yield from ((name, one) for name, one in model.named_parameters() if one.ndim > 1)


def inputs(model: nn.Module, optimizer: Any, masks: Any = None) -> list[bs.ScoreInputs]:
    """What ranks give of their model."""
    items = []
    for name, weight in weights(model):
        state = optimizer.state[weight]
        mask = None if masks is None else masks[name]
        items.append(
            bs.ScoreInputs(
                weight, exp_avg=state["exp_avg"], exp_avg_sq=state["exp_avg_sq"], grad=weight.grad, mask=mask,
                step=state["step"], name=name,
            )
        )  # fmt: skip
    return items


def gathered(items: list[bs.ScoreInputs]) -> list[bs.ScoreInputs]:
    """The same of the gathered model."""
    found = []
    for item in items:
        whole = copy.copy(item)
        for argument in ("weight", "exp_avg", "exp_avg_sq", "grad", "mask"):
            value = getattr(item, argument)
            if isinstance(value, bs.Mask):
                value = value.dtensor() if isinstance(item.weight, DTensor) else value.bool()
            if isinstance(value, torch.Tensor):
                setattr(whole, argument, full(value))
        found.append(whole)
    return found


def require_equal_masks(found: bs.Masks, expected: bs.Masks, items: list[bs.ScoreInputs]) -> None:
    """That this rank's masks are its parts of those of the gathered model, bit for bit."""
    for mask, whole, item in zip(found, expected, items, strict=True):
        assert mask.name == whole.name == item.name
        if isinstance(item.weight, DTensor):
            made = mask.dtensor()
            assert made.placements == item.weight.placements and made.dtype == torch.bool
            assert torch.equal(made.full_tensor(), whole.bool()), mask.name
        else:
            assert torch.equal(mask.bool(), whole.bool()), mask.name
