"""Which scorers have a memory, and the tracker that a `Pruner` makes and feeds for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ._scorers import Bitter10, Bitter10c, Bitter10s, Movement, Scorer
from .errors import MissingStateError

if TYPE_CHECKING:
    import torch

    from ._settings import Settings
    from ._table import ScoreInputs
    from ._tracker import Tracker
    from .targets import PlanEntry

__all__ = ["TRACKED", "checked", "describe", "make_tracker", "parameters_of", "supply"]

TRACKED: dict[str, type[Scorer]] = {cls.name: cls for cls in (Bitter10, Bitter10s, Bitter10c, Movement)}
"""Scorers with a memory, by name."""


def tracker_class(name: str) -> type[Tracker]:
    """The tracker of a scorer in `TRACKED`."""
    from .movement import MovementTracker
    from .snapshots import SnapshotTracker
    from .trackers import CoherenceTracker, SketchTracker

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
    settings: Settings,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None,
    entries: Sequence[PlanEntry],
) -> Tracker | None:
    """The tracker that the scorer of `settings` needs; None if it has no memory."""
    name = settings.call.name
    if name not in TRACKED:
        return None
    given = parameters_of(settings.scorer, settings.seed)
    assert optimizer is not None  # the settings have been checked
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


def supply(item: ScoreInputs, answer: Any) -> MissingStateError | None:
    """Puts a tracker's answer into a tensor's inputs, or returns the error that it is; None is no tracker."""
    if isinstance(answer, MissingStateError):
        return answer
    if isinstance(answer, float):
        item.modifier = answer
    elif answer is not None:
        item.scores = answer
    return None
