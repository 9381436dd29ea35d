"""Every scorer on the same frozen weights: masks, held-out loss under them, and the weights back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import bittersweet
from bittersweet import ScoreInputs
from bittersweet.compare.catalogue import Entry
from bittersweet.compare.histories import History
from bittersweet.compare.inputs import score_inputs
from bittersweet.demo.plan import percent
from bittersweet.demo.progress import Progress
from bittersweet.demo.train import Trainer

SCOPES = ("global", "tensor", "row")
NM_SCOPE, NM_SPARSITY = "2:4", 0.5
EVALUATION_UNITS = 4
"""What one evaluation counts in the progress bar, in training steps."""


@dataclass(frozen=True)
class OneShotResult:
    """One scorer, scope and sparsity on the frozen weights of one seed.

    `achieved` is the share of the eligible weights that were pruned, ties broken exactly;
    `achieved_at_or_below`, under scope global, the share that score at or below the same threshold.
    """

    seed: int
    scorer: str
    scope: str
    sparsity: float
    achieved: float
    achieved_at_or_below: float | None
    held_out_loss: float


@dataclass
class Frozen:
    """Results of one seed; `kept` holds the keep bits by scorer, scope global at the overlap's sparsity."""

    results: list[OneShotResult] = field(default_factory=list)
    kept: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def combinations(levels: Sequence[float]) -> list[tuple[str, float]]:
    """Every scope at every level; where half of the weights go, 2:4 too."""
    extra = [(NM_SCOPE, NM_SPARSITY)] if NM_SPARSITY in levels else []
    return [(scope, level) for level in levels for scope in SCOPES] + extra


def score_frozen(
    trainer: Trainer,
    scored: Sequence[Entry],
    levels: Sequence[float],
    seed: int,
    columns: Mapping[str, Mapping[str, Tensor]],
    histories: Mapping[str, History],
    progress: Progress,
) -> Frozen:
    """Prunes the model once per scorer, scope and level, evaluates, and restores its weights bit for bit.

    Args:
        columns: ``"grad"`` and ``"input_norm"`` by parameter name.
        histories: By scorer, what completes its inputs.

    Overlaps are of the masks at the first of `levels`. A scorer that the library refuses is in `failures`.
    """
    frozen = Frozen()
    todo = combinations(levels)
    for entry in scored:
        progress.begin(f"seed {seed} · one-shot · {entry.name}")
        done = 0
        try:
            inputs = _inputs(trainer, entry, columns, histories.get(entry.name))
            for scope, level in todo:
                masks = bittersweet.make_masks(
                    inputs, sparsity=level, scope=scope, scorer=entry.name, seed=seed
                )
                assert masks.event is not None
                loss = _loss_under(trainer, inputs, masks)
                tied = _at_or_below(inputs, entry, level, seed) if scope == "global" else None
                frozen.results.append(
                    OneShotResult(seed, entry.name, scope, level, masks.event.achieved_sparsity, tied, loss)
                )
                if (scope, level) == todo[0]:
                    frozen.kept[entry.name] = np.concatenate([mask.bool().numpy().ravel() for mask in masks])
                done += 1
                progress.advance(EVALUATION_UNITS, f"{scope} {percent(level)}: loss {loss:.3f}")
        except bittersweet.Error as refusal:
            frozen.failures[entry.name] = str(refusal)
            progress.advance(EVALUATION_UNITS * (len(todo) - done), "refused")
    return frozen


def _inputs(
    trainer: Trainer, entry: Entry, columns: Mapping[str, Mapping[str, Tensor]], history: History | None
) -> list[ScoreInputs]:
    found = score_inputs(trainer.model, trainer.optimizer)
    for inputs in found:
        for column, values in columns.items():
            if column in entry.reads:
                setattr(inputs, column, values[str(inputs.name)])
        if history is not None:
            history.complete(inputs)
    return found


def _at_or_below(inputs: list[ScoreInputs], entry: Entry, level: float, seed: int) -> float | None:
    found = bittersweet.threshold(inputs, sparsity=level, scorer=entry.name, ties="at_or_below", seed=seed)
    return None if found.pruned is None else found.pruned / found.total


def _loss_under(trainer: Trainer, inputs: list[ScoreInputs], masks: bittersweet.Masks) -> float:
    before = [item.weight.detach().clone() for item in inputs]
    try:
        bittersweet.apply_masks_(inputs, masks)
        return trainer.evaluate()
    finally:
        with torch.no_grad():
            for item, weight in zip(inputs, before, strict=True):
                item.weight.copy_(weight)


def jaccard(first: np.ndarray[Any, np.dtype[np.bool_]], second: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    """Size of the intersection of two sets by the size of their union; 1 for two empty sets."""
    union = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / union if union else 1.0


def overlaps(kept: Mapping[str, np.ndarray[Any, np.dtype[np.bool_]]]) -> Iterator[tuple[str, str, float]]:
    """(scorer, scorer, Jaccard index of what they keep) for every ordered pair, each with itself too."""
    for first, left in kept.items():
        for second, right in kept.items():
            yield first, second, jaccard(left, right)
