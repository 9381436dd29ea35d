"""Small models and training loops that the pruner tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import bittersweet as bs
import torch
from torch import nn

SIZE = 12 * 40 + 40 * 33 + 33 * 5  # elements of the weights of `mlp`
ONCE = bs.OneShot(0.5, 1)
LINEAR = bs.Linear(0.2, 0.7, begin_step=2, end_step=10, frequency=4)  # due on steps 2, 6 and 10


def mlp(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 33), nn.Tanh(), nn.Linear(33, 5)).to(
        dtype
    )


def adamw(model: nn.Module, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, **options)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all weights of Linear and Conv layers, by name."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return {
        f"{name}.weight": module.weight.detach().clone()
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    }


def batch(step: int, features: int = 12, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of a step, the same in every run and process."""
    generator = torch.Generator().manual_seed(1000 + step)
    return (
        torch.randn(16, features, generator=generator),
        torch.randint(0, classes, (16,), generator=generator),
    )


def backward(model: nn.Module, step: int) -> None:
    parameter = next(model.parameters())
    inputs, labels = batch(step)
    output = model(inputs.to(parameter))
    nn.functional.cross_entropy(output.float(), labels.to(parameter.device)).backward()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pruner: Any,
    steps: int,
    first: int = 1,
    after: Callable[[int], None] | None = None,
) -> list[bs.MaskEvent]:
    """The documented loop from step `first`; returns the events. `after` runs before zero_grad()."""
    events = []
    for step in range(first, first + steps):
        backward(model, step)
        optimizer.step()
        event = pruner.step() if pruner is not None else None
        if event is not None:
            events.append(event)
        if after is not None:
            after(step)
        optimizer.zero_grad()
    return events


def facts(event: bs.MaskEvent) -> dict[str, Any]:
    """An event without what may differ between equal runs: time, and how the threshold was found."""
    values = event.to_dict()
    return {key: values[key] for key in values if key not in ("milliseconds", "passes", "extra_bytes")}


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def dead_values(pruner: bs.Pruner, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Everything in `tensors` (by parameter name) that the masks prune, as one vector."""
    return torch.cat([tensor.detach()[~pruner.masks[name]].float() for name, tensor in tensors.items()])


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> dict[str, torch.Tensor]:
    """One kind of optimizer state for the Linear weights, by name."""
    return {name: optimizer.state[model.get_parameter(name)][key] for name in weights(model)}


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """A copy of every parameter, gradient and optimizer tensor."""
    found = {}
    for name, parameter in model.named_parameters():
        found[name] = parameter
        if parameter.grad is not None:
            found[f"{name} grad"] = parameter.grad
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                found[f"{name} {key}"] = value
    return {name: tensor.detach().clone() for name, tensor in found.items()}


@contextmanager
def unchanged(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Asserts that not one byte of weights, gradients and optimizer state changes inside."""
    before = everything(model, optimizer)
    yield
    after = everything(model, optimizer)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        old, new = (x.contiguous().reshape(-1).view(torch.uint8) for x in (tensor, after[name]))
        assert torch.equal(old, new), name
