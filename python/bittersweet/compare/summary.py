"""From single runs to means and spreads over seeds, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bittersweet.demo.report import Spread

if TYPE_CHECKING:
    from bittersweet.compare.oneshot import OneShotResult
    from bittersweet.demo.train import ArmResult


def one_shot(results: Sequence[OneShotResult], dense: Mapping[int, float]) -> list[dict[str, Any]]:
    """One row per (scorer, scope, sparsity), in order of first appearance.

    `dense` is the loss before pruning by seed; differences to it are taken within each seed.
    """
    groups = _grouped((run.scorer, run.scope, run.sparsity, run) for run in results)
    return [
        {
            "scorer": scorer,
            "scope": scope,
            "sparsity": sparsity,
            "seeds": len(runs),
            "achieved": Spread.of([run.achieved for run in runs]).mean,
            "achieved_at_or_below": _mean_of_known([run.achieved_at_or_below for run in runs]),
            **_losses([(run.held_out_loss, dense[run.seed]) for run in runs]),
        }
        for (scorer, scope, sparsity), runs in groups.items()
    ]


def training(results: Sequence[ArmResult], dense: Mapping[int, float]) -> list[dict[str, Any]]:
    """One row per scorer, in order of first appearance; `dense` as in `one_shot`."""
    groups = _grouped((run.arm.scorer, run.arm.sparsity, run) for run in results)
    return [
        {
            "scorer": scorer,
            "sparsity": sparsity,
            "seeds": len(runs),
            "achieved": Spread.of([run.achieved for run in runs]).mean,
            **_losses([(run.held_out_loss, dense[run.seed]) for run in runs]),
        }
        for (scorer, sparsity), runs in groups.items()
    ]


def overlap(values: Mapping[tuple[str, str], Sequence[float]]) -> dict[str, Any]:
    """Square matrices in the order of ``"scorers"``: mean, lowest and highest over seeds."""
    names = list(dict.fromkeys(first for first, _ in values))
    spreads = [[Spread.of(values[first, second]) for second in names] for first in names]
    matrices = {
        key: [[getattr(spread, key) for spread in row] for row in spreads] for key in ("mean", "low", "high")
    }
    return {"scorers": names, **matrices}


def _grouped(rows: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], list[Any]]:
    """The last element of each row, by all the others."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for *key, run in rows:
        groups.setdefault(tuple(key), []).append(run)
    return groups


def _losses(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {
        "held_out_loss": asdict(Spread.of([loss for loss, _ in pairs])),
        "difference_to_dense": asdict(Spread.of([loss - base for loss, base in pairs])),
    }


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return Spread.of(known).mean if known else None
