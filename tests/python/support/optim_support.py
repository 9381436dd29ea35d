"""Pairs of optimizers over equal parameters: torch's fused one, and ours in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from bittersweet import optim
from torch import nn

KINDS = {"Adam": (optim.Adam, torch.optim.Adam), "AdamW": (optim.AdamW, torch.optim.AdamW)}
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
ODD = ((7, 13), (127, 129), (256, 257), (70001,))


def values(
    shape: Sequence[int], seed: int, low: float = 0.0, high: float = 0.0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Normal numbers, times powers of ten between these two."""
    draw = np.random.default_rng(seed)
    made = draw.standard_normal(tuple(shape)) * 10.0 ** draw.uniform(low, high, tuple(shape))
    return torch.from_numpy(np.asarray(made)).to(dtype)


def parameters(
    shapes: Sequence[Sequence[int]], dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[nn.Parameter]:
    return [nn.Parameter(values(shape, seed + i, dtype=dtype)) for i, shape in enumerate(shapes)]


def give_gradients(
    of: Sequence[nn.Parameter], step: int, low: float = -6.0, high: float = 1.0, seed: int = 5
) -> None:
    """The gradients of a step, over many orders of magnitude: the same for parameters of the same shapes."""
    for i, parameter in enumerate(of):
        parameter.grad = values(parameter.shape, 1000 * seed + 100 * step + i, low, high, parameter.dtype)


class Pair:
    """Ours and torch's fused optimizer over copies of the same parameters."""

    def __init__(
        self,
        kind: str,
        shapes: Sequence[Sequence[int]],
        dtype: torch.dtype = torch.float32,
        groups: Sequence[dict[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        self.own_parameters, self.their_parameters = parameters(shapes, dtype), parameters(shapes, dtype)
        own, theirs = KINDS[kind]
        self.own: Any = own(self._grouped(self.own_parameters, groups), **options)
        self.theirs: Any = theirs(self._grouped(self.their_parameters, groups), fused=True, **options)

    @staticmethod
    def _grouped(of: list[nn.Parameter], groups: Sequence[dict[str, Any]] | None) -> list[Any]:
        """Parameters dealt out to the groups in turn."""
        if groups is None:
            return list(of)
        return [{"params": of[i :: len(groups)], **group} for i, group in enumerate(groups)]

    def step(self, step: int, **gradients: Any) -> None:
        for of in (self.own_parameters, self.their_parameters):
            give_gradients(of, step, **gradients)
        self.own.step()
        self.theirs.step()

    def run(self, steps: int, **gradients: Any) -> None:
        for step in range(steps):
            self.step(step, **gradients)

    def assert_equal(self, gradients: bool = False) -> None:
        assert_equal(self.own_parameters, self.own, self.their_parameters, self.theirs, gradients)


def bits(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The bytes of a tensor, in its logical order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Of dtype, shape and every element; one NaN is as good as another."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if np.array_equal(bits(one), bits(other)):
        return True
    both = one.isnan() & other.isnan()
    return np.array_equal(bits(torch.where(both, 0.0, one)), bits(torch.where(both, 0.0, other)))


def assert_equal(
    own: Sequence[torch.Tensor],
    own_optimizer: torch.optim.Optimizer,
    theirs: Sequence[torch.Tensor],
    their_optimizer: torch.optim.Optimizer,
    gradients: bool = False,
) -> None:
    """Weights and all state are the same, bit for bit."""
    own_optimizer.state_dict()  # an event leaves zeros of the state to the next step, or to this
    for i, (mine, other) in enumerate(zip(own, theirs, strict=True)):
        assert same_bits(mine, other), f"parameter {i}: {tuple(mine.shape)} {mine.dtype}"
        my_state, their_state = own_optimizer.state[mine], their_optimizer.state[other]
        assert my_state.keys() == their_state.keys(), i
        for key, value in my_state.items():
            assert same_bits(value, their_state[key]), f"{key} of parameter {i}: {tuple(mine.shape)}"
        if gradients and mine.grad is not None:
            assert same_bits(mine.grad, other.grad), f"gradient of parameter {i}"


def some_mask(shape: Sequence[int], sparsity: float, seed: int = 0) -> torch.Tensor:
    """True = keep."""
    draw = np.random.default_rng(100 + seed)
    return torch.from_numpy(np.asarray(draw.random(tuple(shape)) >= sparsity))


def dead_tensors(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a mask holds at zero: the weight and its moments."""
    state = optimizer.state[parameter]
    return {
        "weight": parameter.detach(),
        **{key: state[key] for key in MOMENTS if key in state},
    }


def assert_held(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, mask: torch.Tensor) -> None:
    """Every dead element is +0, by its bits."""
    for key, tensor in dead_tensors(optimizer, parameter).items():
        assert not bits(tensor[~mask]).any(), key
