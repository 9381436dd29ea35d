"""What the gradient probe tests share: a net whose arithmetic is exact, an oracle in NumPy, and snapshots."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import bittersweet as bs
import numpy as np
import torch
from torch import nn

Array = np.ndarray[Any, Any]
SIZES = (6, 7, 5, 3)
ORDERS = ("global", "reverse", "size", "forward")
NAMES = ["0.weight", "2.weight", "4.weight"]
TOTAL = sum(a * b for a, b in itertools.pairwise(SIZES))
Batch = tuple[torch.Tensor, torch.Tensor]


def integer_net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Small integers everywhere, so that float32 computes losses and gradients without rounding."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(SIZES):
        layer = nn.Linear(inputs, outputs, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.randint(-3, 4, layer.weight.shape))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def integer_batches(count: int = 3, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randint(-1, 2, (4, SIZES[0]), generator=generator).float(),
            torch.randint(-2, 3, (4, SIZES[-1]), generator=generator).float(),
        )
        for _ in range(count)
    ]


def square_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    inputs, wanted = batch
    outputs: torch.Tensor = model(inputs.to(next(model.parameters()).dtype))
    return (outputs.float() - wanted).square().sum()


def matrices(model: nn.Module) -> list[Array]:
    """The weights in float64, copied."""
    return [parameter.detach().double().numpy().copy() for parameter in model.parameters()]


def gradients(weights: Sequence[Array], batch: Batch) -> list[Array]:
    """Of `square_loss`, by hand, in float64."""
    signal, wanted = (tensor.double().numpy() for tensor in batch)
    inputs, before = [signal], []
    for index, weight in enumerate(weights):
        before.append(inputs[-1] @ weight.T)
        inputs.append(np.maximum(before[-1], 0) if index + 1 < len(weights) else before[-1])
    error = 2 * (inputs[-1] - wanted)
    found: list[Array] = []
    for index in reversed(range(len(weights))):
        if index + 1 < len(weights):
            error = error * (before[index] > 0)
        found.insert(0, error.T @ inputs[index])
        error = error @ weights[index]
    return found


def peaks(weights: Sequence[Array], batches: Sequence[Batch]) -> list[Array]:
    per_batch = [gradients(weights, batch) for batch in batches]
    return [np.max([np.abs(one[i]) for one in per_batch], axis=0) for i in range(len(weights))]


def candidates(weights: Sequence[Array], live: Sequence[Array], sparsity: float, scope: str) -> list[Array]:
    """The lowest |w| of the live, ties to the lowest position; bool arrays."""
    if scope == "tensor":
        return [
            candidates([weight], [alive], sparsity, "global")[0]
            for weight, alive in zip(weights, live, strict=True)
        ]
    alive = np.concatenate([one.ravel() for one in live])
    score = np.concatenate([np.abs(one).ravel() for one in weights])
    k = int(np.floor(sparsity * alive.size + 0.5)) - int((~alive).sum())
    places = np.flatnonzero(alive)
    chosen = np.zeros(alive.size, dtype=bool)
    chosen[places[np.argsort(score[places], kind="stable")][: max(k, 0)]] = True
    parts = np.split(chosen, np.cumsum([one.size for one in weights])[:-1])
    return [part.reshape(one.shape) for part, one in zip(parts, weights, strict=True)]


def probed(
    weights: list[Array],
    live: list[Array],
    batches: Sequence[Batch],
    sparsity: float,
    *,
    order: str = "global",
    scope: str = "global",
    reduction: float = 0.5,
    threshold: float = 0.0,
    prune_zero: bool = False,
) -> tuple[list[Array], list[Array]]:
    """The method in float64: new weights and new live masks."""
    chosen = candidates(weights, live, sparsity, scope)
    weights = [weight * alive for weight, alive in zip(weights, live, strict=True)]
    live = [alive.copy() for alive in live]
    turns = [i for i in range(len(weights)) if chosen[i].any()]
    if order == "reverse":
        turns.reverse()
    elif order == "size":
        turns.sort(key=lambda i: -weights[i].size)
    for group in [turns] if order == "global" else [[i] for i in turns]:
        reduced = [
            np.where(chosen[i], weight * reduction, weight) if i in group else weight
            for i, weight in enumerate(weights)
        ]
        before, after = peaks(weights, batches), peaks(reduced, batches)
        for i in group:
            silent = (before[i] == 0) & (after[i] == 0)
            limit = np.inf if np.isinf(threshold) else before[i] * (1 + threshold)
            goes = (after[i] <= limit) & ~silent
            dead = chosen[i] & (goes | silent if prune_zero else goes)
            live[i] &= ~dead
            weights[i] = np.where(dead, 0.0, weights[i])
    return weights, live


def all_live(weights: Sequence[Array]) -> list[Array]:
    return [np.ones(weight.shape, dtype=bool) for weight in weights]


def kept(probe: bs.GradientProbe) -> list[Array]:
    return [mask.bool().numpy() for mask in probe.masks.values()]


def assert_as_probed(model: nn.Module, probe: bs.GradientProbe, weights: Any, live: Any) -> None:
    assert list(probe.masks) == NAMES
    for found, expected in zip(kept(probe), live, strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(matrices(model), weights, strict=True):
        np.testing.assert_array_equal(found, expected)


class Noisy(nn.Module):
    """A model that draws from every generator, keeps statistics, and replaces a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.first = nn.Linear(64, 12)
        self.second = nn.Linear(12, 12, bias=False)
        self.third = nn.Linear(12, 12, bias=False)
        self.third.weight = self.second.weight
        self.frozen = nn.Linear(12, 5)
        self.frozen.weight.requires_grad_(False)
        self.register_buffer("odd", torch.tensor([float("nan"), -0.0, float("inf")]))
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("wide", torch.arange(3.0).expand(2, 3))
        self.register_buffer("nothing", None)
        self.seen: torch.Tensor

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.conv(inputs))).flatten(1)
        hidden = torch.tanh(self.first(self.drop(hidden)))
        hidden = hidden + 0.01 * random.random() + 0.01 * np.random.rand()
        hidden = self.third(torch.tanh(self.second(hidden)))
        self.seen = self.seen + 1
        output: torch.Tensor = self.frozen(hidden)
        return output


def noisy() -> Noisy:
    """In train mode but for one part, with a gradient on some parameters."""
    torch.manual_seed(3)
    model = Noisy()
    model.frozen.eval()
    model.first.weight.grad = torch.full((12, 64), float("nan"))
    model.conv.weight.grad = torch.zeros(4, 2, 3, 3)
    model.conv.weight.grad[0] = -0.0
    return model


def noisy_batches(count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(8)
    return [
        (torch.randn(6, 2, 4, 4, generator=generator), torch.randint(0, 5, (6,), generator=generator))
        for _ in range(count)
    ]


def cross_entropy(model: nn.Module, batch: Batch) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def raw(tensor: torch.Tensor) -> bytes:
    data: bytes = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return data


def surroundings(model: nn.Module) -> dict[str, Any]:
    """Everything about a model but the values of its parameters, and the random states, for comparing."""
    generator = np.random.get_state()
    return {
        "buffers": {n: (id(b), raw(b)) for n, b in model.named_buffers(remove_duplicate=False)},
        "grads": {
            n: None if p.grad is None else (id(p.grad), raw(p.grad)) for n, p in model.named_parameters()
        },
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "modes": {n: module.training for n, module in model.named_modules()},
        "identities": {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)},
        "python": random.getstate(),
        "numpy": (generator[0], generator[1].tobytes(), *generator[2:]),
        "torch": raw(torch.get_rng_state()),
    }


def values(model: nn.Module) -> dict[str, bytes]:
    return {name: raw(parameter) for name, parameter in model.named_parameters()}


def noting(
    loss_fn: Callable[[nn.Module, Any], torch.Tensor], seen: list[Any], note: Callable[[nn.Module], Any]
) -> Callable[[nn.Module, Any], torch.Tensor]:
    """`loss_fn` that appends what `note` finds about the model on every call to `seen`."""

    def wrapped(model: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(note(model))
        return loss_fn(model, batch)

    return wrapped
