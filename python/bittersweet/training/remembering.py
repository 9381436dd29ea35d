"""The tracker that a `Pruner` makes and feeds for a scorer with a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..distributed.shards import is_dtensor
from ..model.binding import part_of
from ..model.mask_view import whole_of
from ..options.scorers import TRACKED, Scorer

if TYPE_CHECKING:
    import torch

    from ..model.targets import PlanEntry
    from ..optimizers.optimizers import Optimizers
    from ..trackers.base import Tracker

__all__ = ["checked", "describe", "make_tracker", "parameters_of", "saved", "tracker_class"]


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
    if given.get("seed") is None:
        given["seed"] = seed
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
    return tracker_class(name)(model, optimizer, **given, _entries=[entry.here() for entry in entries])


def describe(tracker: Tracker | None) -> dict[str, str]:
    """What a report says of the scorer's memory; nothing if it has none."""
    if tracker is None:
        return {}
    storage = "" if tracker.storage == "float32" else f", in {tracker.storage}"
    kept = f"{tracker.nbytes:,} bytes of {len(tracker.names)} tensors{storage}"
    return {"memory": f"{tracker.scorer.name} keeps {kept}"}


def saved(tracker: Tracker | None, entries: Sequence[PlanEntry]) -> dict[str, Any] | None:
    """The tracker's state for a checkpoint: what it keeps of a DTensor as a DTensor of the same layout, and
    of a part that is given by hand under the name of its box."""
    if tracker is None:
        return None
    state = tracker.state_dict()
    for entry in entries:
        if entry.shard is not None:
            kept = state["tensors"].pop(entry.name)
            if entry.shard.layout is not None:
                kept = {key: _whole(tensor, entry) for key, tensor in kept.items()}
            state["shapes"].pop(entry.name)
            state["shapes"][entry.key], state["tensors"][entry.key] = list(entry.shape), kept
            state["seen"][entry.key] = state["seen"].pop(entry.name)
    return state


def _whole(tensor: torch.Tensor, entry: PlanEntry) -> torch.Tensor:
    is_part = tensor.dtype.is_floating_point and tensor.numel() == entry.local_numel
    return whole_of(tensor.view(entry.local_shape), entry) if is_part else tensor


def _here(state: Mapping[str, Any], entries: Sequence[PlanEntry]) -> Mapping[str, Any]:
    """The state of what this rank holds, from what `saved` gave, or from that of a single process."""
    names = [key for key in ("shapes", "tensors", "seen") if isinstance(state.get(key), Mapping)]
    found = {**state, **{key: dict(state[key]) for key in names}}
    for entry in entries:
        if entry.shard is None or not all(entry.key in found[key] for key in names):
            continue
        for key in names:
            found[key][entry.name] = found[key].pop(entry.key)
        if tuple(found["shapes"][entry.name]) == entry.shape:
            found["shapes"][entry.name] = list(entry.local_shape)
        kept = found["tensors"][entry.name]
        found["tensors"][entry.name] = {key: _part(tensor, entry) for key, tensor in kept.items()}
    return found


def _part(tensor: torch.Tensor, entry: PlanEntry) -> torch.Tensor:
    if is_dtensor(tensor):
        tensor = part_of(tensor, entry).reshape(-1)
    elif tensor.numel() == entry.numel and tensor.dtype.is_floating_point:
        tensor = part_of(tensor.view(entry.shape), entry).reshape(-1)
    return tensor


def checked(
    tracker: Tracker | None, state: Mapping[str, Any] | None, strict: bool, entries: Sequence[PlanEntry]
) -> Callable[[], None]:
    """A function that takes over what a checkpoint says of the tracker, after checking all of it.

    Not `strict`, a checkpoint of another scorer is accepted: then the memory stays as it is. So is one of
    another `storage`: then it is converted.

    Raises:
        CheckpointError: See `Tracker.load_state_dict`.
    """
    foreign = state is None or (tracker is not None and state.get("scorer") != tracker.scorer.name)
    if tracker is None or (foreign and not strict):
        return lambda: None
    restored = tracker.checked(_here(state or {}, entries), convert=not strict)
    return lambda: tracker.adopt(restored)
