"""Layers whose training is scripted, trackers by name, and their formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bittersweet as bs
import numpy as np
import torch

Array = np.ndarray[Any, Any]
SHAPES = {"layers.0.weight": (37, 65), "layers.1.weight": (5, 4, 3, 3), "odd": (4099,), "one": (1,)}

MAKERS: dict[str, Callable[..., Any]] = {
    "bitter10": bs.CoherenceTracker,
    "bitter10s": bs.SketchTracker,
    "bitter10c": lambda *a, **k: bs.SnapshotTracker(*a, every=3, **k),
    "bitter10 in bfloat16": lambda *a, **k: bs.CoherenceTracker(*a, storage="bfloat16", **k),
    "bitter10c in bfloat16": lambda *a, **k: bs.SnapshotTracker(*a, every=3, storage="bfloat16", **k),
}


class Scripted:
    """Parameters and Adam states that move as a script says, in an optimizer that does nothing."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.named = {name: torch.nn.Parameter(self.tensor(shape, 0.02)) for name, shape in shapes.items()}
        self.optimizer = torch.optim.Adam(self.named.values())
        for parameter in self.named.values():
            state = self.optimizer.state[parameter]
            state["step"] = torch.tensor(1.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)

    def tensor(self, shape: tuple[int, ...], scale: float) -> torch.Tensor:
        return torch.from_numpy((self.random.standard_normal(shape) * scale).astype(np.float32))

    def set(self, name: str, *, step: Any = None, exp_avg: Any = None, exp_avg_sq: Any = None) -> None:
        state = self.optimizer.state[self.named[name]]
        with torch.no_grad():
            if step is not None:
                self.named[name].add_(step)
            if exp_avg is not None:
                state["exp_avg"].copy_(exp_avg)
            if exp_avg_sq is not None:
                state["exp_avg_sq"].copy_(exp_avg_sq)

    def advance(self) -> None:
        """A step of every parameter: a drift that stays, growth where it is large, and noise."""
        for name, parameter in self.named.items():
            shape = tuple(parameter.shape)
            drift = torch.linspace(-1e-3, 2e-3, parameter.numel()).view(shape)
            self.set(
                name,
                step=drift + self.tensor(shape, 2e-3),
                exp_avg=-drift - 0.2 * parameter.detach() + self.tensor(shape, 1e-3),
                exp_avg_sq=self.tensor(shape, 1e-3).square(),
            )

    def arrays(self, name: str) -> tuple[Array, Array, Array]:
        """w, m and v as float64."""
        state = self.optimizer.state[self.named[name]]
        tensors = (self.named[name].detach(), state["exp_avg"], state["exp_avg_sq"])
        return tuple(tensor.double().numpy().reshape(-1).copy() for tensor in tensors)  # type: ignore[return-value]


# ---- the oracle: the formulas in float64 ----


class Ema:
    def __init__(self, decay: float) -> None:
        self.decay, self.value, self.weight = decay, 0.0, 0.0

    def __call__(self, x: float | None) -> None:
        if x is not None:
            self.value = self.decay * self.value + (1 - self.decay) * x
            self.weight = self.decay * self.weight + (1 - self.decay)

    @property
    def mean(self) -> float:
        return self.value / self.weight


def cosine(a: Array, b: Array) -> float | None:
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms > 0 else None


def jitter(x: Array) -> float | None:
    return float(np.var(np.abs(x)) / np.mean(np.abs(x)) ** 2) if x.size and np.abs(x).sum() > 0 else None


def modifier(s: bs.Bitter10, flip: float, direction: float, retention: float, noise: float) -> float:
    def p(x: float, exponent: float) -> float:
        return float(max(x, s.floor) ** exponent)

    product = s.alpha * p(1 - flip, s.a) * p(direction, s.b) * p(retention, s.c)
    return max(s.floor, product / (1 + s.d * noise))
