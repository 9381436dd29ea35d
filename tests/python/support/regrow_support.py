"""The update of RigL and SET as the papers have it, in float64 and with sorts; and a recorder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bittersweet as bs
import numpy as np
import torch
from oracle import budget
from torch import nn

Arrays = Mapping[str, Any]


def cosine(fraction: float, step: int, end: int) -> float:
    return fraction / 2 * (1 + math.cos(math.pi * step / end)) if step < end else 0.0


def best(scores: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Flags of the `count` highest scores among some places; of equal ones the later come first."""
    places = np.flatnonzero(among)
    order = places[np.argsort(scores[places], kind="stable")]
    flags = np.zeros(scores.shape, bool)
    flags[order[len(order) - count :]] = True
    return flags


def updated(
    drop: np.ndarray, grow: np.ndarray, live: np.ndarray, k: int, fraction: float, same: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """New keep flags of flat arrays in which `k` are to be dead; and what stays of the live ones. `same`:
    what is dropped may be opened."""
    wanted = len(drop) - k
    reached = min(int(live.sum()), wanted)
    dropped = math.floor(fraction * reached + 0.5)
    while not same and wanted - (reached - dropped) > int((~live).sum()):
        dropped -= 1
    stay = best(drop, live, reached - dropped)
    return stay | best(grow, ~stay if same else ~live, wanted - int(stay.sum())), stay


def budgets(shapes: Sequence[tuple[int, ...]], sparsity: float, distribution: str | None) -> list[int]:
    """Pruned elements per tensor, as a one-shot selection of ones gives them."""
    ones = [bs.ScoreInputs(np.ones(shape, np.float32)) for shape in shapes]
    made = bs.make_masks(
        ones, sparsity=sparsity, scope="tensor", distribution=distribution, scorer="magnitude"
    )
    return [int((~keep).sum()) for keep in made.bool()]


def expected(
    weights: Arrays,
    grads: Arrays,
    masks: Mapping[str, np.ndarray],
    sparsity: float,
    fraction: float,
    scope: str,
    distribution: str | None = None,
    same: bool = True,
) -> dict[str, np.ndarray]:
    """New masks by name: drop by ``|w|``, grow by ``|g|``."""
    names = list(masks)
    drop, grow = (
        [np.abs(np.asarray(x[name], np.float64)).ravel() for name in names] for x in (weights, grads)
    )
    live = [masks[name].ravel() for name in names]
    sizes = [len(x) for x in drop]
    if scope == "global":
        whole = (np.concatenate(x) for x in (drop, grow, live))
        keep, _ = updated(*whole, budget(sparsity, sum(sizes)), fraction, same)
        parts = np.split(keep, np.cumsum(sizes)[:-1])
    else:
        counts = budgets([masks[name].shape for name in names], sparsity, distribution)
        parts = [updated(*x, k, fraction, same)[0] for *x, k in zip(drop, grow, live, counts, strict=True)]
    return {name: part.reshape(masks[name].shape) for name, part in zip(names, parts, strict=True)}


def array(tensor: torch.Tensor) -> np.ndarray:
    """A copy in float64."""
    return tensor.detach().double().numpy().copy()


@dataclass
class Seen:
    """What an optimizer step left."""

    weights: dict[str, np.ndarray]
    grads: dict[str, np.ndarray]
    states: dict[str, dict[str, np.ndarray]]


class Recorder:
    """Records after every step of an optimizer, before the hooks of pruners that are made later."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.last = Seen({}, {}, {})
        optimizer.register_step_post_hook(self._record)

    def _record(self, *_: Any) -> None:
        parameters = {n: p for n, p in self.model.named_parameters() if p.grad is not None}
        self.last = Seen(
            {n: array(p) for n, p in parameters.items()},
            {n: array(p.grad) for n, p in parameters.items() if p.grad is not None},
            {n: self.states(p) for n, p in parameters.items()},
        )

    def states(self, parameter: torch.Tensor) -> dict[str, np.ndarray]:
        """The optimizer's state of a parameter with one number for each element."""
        kept = self.optimizer.state.get(parameter, {})
        return {
            key: array(value)
            for key, value in kept.items()
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape
        }


def flags(pruner: bs.Pruner) -> dict[str, np.ndarray]:
    return {name: mask.numpy().copy() for name, mask in pruner.masks.items()}


def require_afresh(
    recorder: Recorder,
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    *,
    moments: bool = True,
) -> int:
    """What stays keeps its value and state; what was opened has 0 in both. Returns how many were opened."""
    opened = 0
    for name, parameter in recorder.model.named_parameters():
        if name not in after:
            continue
        now, was = array(parameter), recorder.last.weights[name]
        stays, new = before[name] & after[name], ~before[name] & after[name]
        assert np.array_equal(now[stays], was[stays]), name
        assert not now[~stays].any(), name
        opened += int(new.sum())
        for key, state in recorder.states(parameter).items():
            kept = recorder.last.states[name][key]
            assert np.array_equal(state[stays], kept[stays]), (name, key)
            assert not state[new].any(), (name, key)
            if moments and key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                assert not state[~after[name]].any(), (name, key)
    return opened
