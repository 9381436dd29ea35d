"""The tracker that a `Pruner` makes and feeds for a scorer with a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..options.scorers import TRACKED, Scorer

if TYPE_CHECKING:
    import torch

    from ..model.targets import PlanEntry
    from ..optimizers.optimizers import Optimizers
    from ..trackers.base import Tracker

__all__ = ["checked", "describe", "make_tracker", "parameters_of", "tracker_class"]


def tracker_class(name: str) -> type[Tracker]:
    """The tracker of a scorer in `TRACKED`."""
    from ..trackers.coherence import CoherenceTracker, SketchTracker
    from ..trackers.movement import MovementTracker
    from ..trackers.snapshot import SnapshotTracker

    known: tuple[type[Tracker], ...] = (CoherenceTracker, SketchTracker, SnapshotTracker, MovementTracker)
    return next(cls for cls in known if cls.scorer.name == name)


def parameters_of(scorer: str | Scorer, seed: int) -> dict[str, Any]:
    """What the scorer's tracker is made with, by name; empty for a scorer without a memory."""
    name = scorer if isinstance(scorer, str) else scorer.name
    if name not in TRACKED:
        return {}
    chosen = TRACKED[name]() if isinstance(scorer, str) else scorer
    given = {item.name: getattr(chosen, item.name) for item in fields(chosen) if item.name != "eps"}
    if "seed" in given:
        given["seed"] = seed if given["seed"] is None else given["seed"]
    return given


def make_tracker(
    scorer: str | Scorer,
    seed: int,
    model: torch.nn.Module,
    optimizer: Optimizers,
    entries: Sequence[PlanEntry],
) -> Tracker | None:
    """The tracker that a scorer needs; None if it has no memory."""
    name = scorer if isinstance(scorer, str) else scorer.name
    if name not in TRACKED:
        return None
    given = parameters_of(scorer, seed)
    return tracker_class(name)(model, optimizer, **given, _entries=entries)


def describe(tracker: Tracker | None) -> dict[str, str]:
    """What a report says of the scorer's memory; nothing if it has none."""
    if tracker is None:
        return {}
    return {"memory": f"{tracker.scorer.name} keeps {tracker.nbytes:,} bytes of {len(tracker.names)} tensors"}


def checked(tracker: Tracker | None, state: Mapping[str, Any] | None, strict: bool) -> Callable[[], None]:
    """A function that takes over what a checkpoint says of the tracker, after checking all of it.

    Not `strict`, a checkpoint of another scorer is accepted: then the memory stays as it is.

    Raises:
        CheckpointError: See `Tracker.load_state_dict`.
    """
    foreign = state is None or (tracker is not None and state.get("scorer") != tracker.scorer.name)
    if tracker is None or (foreign and not strict):
        return lambda: None
    restored = tracker.checked(state or {})
    return lambda: tracker.adopt(restored)
