"""The saved form of a tracker: plain values and tensors that ``torch.load(weights_only=True)`` accepts.

::

    {"format": "bittersweet.tracker", "version": 1,
     "scorer":  str,                          which tracker it is
     "step":    int | None,                   number of the last step that was observed
     "counts":  {name: int, ...},             what the tracker counts
     "shapes":  {name: [int, ...]},           one per tracked parameter
     "tensors": {name: {key: tensor, ...}}}   what is remembered of it; empty before its first update
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..model.names import match_names

if TYPE_CHECKING:
    import torch

    from ..model.targets import PlanEntry

__all__ = ["Layout", "Restored", "pack", "validate"]

FORMAT = "bittersweet.tracker"
VERSION = 1
_KEYS = ("scorer", "step", "counts", "shapes", "tensors")

Layout = Mapping[str, tuple[str, int]]
"""By key, the dtype of a remembered tensor (such as ``float32``) and how many elements it has."""


@dataclass(frozen=True)
class Restored:
    """A state that fits: copies of its tensors, in the order of the tracker's parameters."""

    step: int | None
    counts: dict[str, int]
    tensors: list[dict[str, torch.Tensor]]


def pack(
    scorer: str,
    entries: Sequence[PlanEntry],
    step: int | None,
    counts: Mapping[str, int],
    tensors: Sequence[Mapping[str, torch.Tensor]],
) -> dict[str, Any]:
    """The saved form, with copies of the tensors."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "scorer": scorer,
        "step": step,
        "counts": dict(counts),
        "shapes": {entry.name: list(entry.shape) for entry in entries},
        "tensors": {
            entry.name: {key: tensor.clone() for key, tensor in kept.items()}
            for entry, kept in zip(entries, tensors, strict=True)
        },
    }


def validate(
    state: Mapping[str, Any],
    scorer: str,
    entries: Sequence[PlanEntry],
    layouts: Sequence[Layout],
    counts: Mapping[str, int],
) -> Restored:
    """Checks a saved state against a tracker's parameters and what it remembers of each.

    Raises:
        CheckpointError: Naming what differs.
    """
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise CheckpointError(
            "this is not the state of a tracker. Pass what its state_dict() returned (the state of a Pruner "
            "belongs into Pruner.load_state_dict)"
        )
    if state.get("version") != VERSION or any(key not in state for key in _KEYS):
        raise CheckpointError(
            f"the saved tracker has format version {state.get('version')!r} and keys "
            f"{', '.join(map(str, state))}; this release reads version {VERSION} with {', '.join(_KEYS)}"
        )
    if state["scorer"] != scorer:
        raise CheckpointError(
            f"the saved tracker is of scorer '{state['scorer']}' and this one of '{scorer}'. Load it into a "
            "tracker of its own kind"
        )
    step, saved_counts = state["step"], state["counts"]
    if not (step is None or isinstance(step, int)) or saved_counts.keys() != counts.keys():
        raise CheckpointError(
            f"the saved tracker has step {step!r} and counts {saved_counts!r}; it is damaged"
        )
    names = {own: saved for saved, own in match_names(list(state["shapes"]), entries).items()}
    tensors = []
    for entry, layout in zip(entries, layouts, strict=True):
        saved = names[entry.name]
        if tuple(state["shapes"][saved]) != entry.shape:
            raise CheckpointError(
                f"parameter '{entry.name}': the saved tracker has shape {tuple(state['shapes'][saved])}, the "
                f"model {entry.shape}. Load it into the model it was saved from"
            )
        tensors.append(_checked(entry.name, state["tensors"].get(saved), layout))
    return Restored(step, dict(saved_counts), tensors)


def _checked(name: str, kept: Any, layout: Layout) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(kept, Mapping) or not (not kept or kept.keys() == layout.keys()):
        found = ", ".join(map(str, kept)) if isinstance(kept, Mapping) else type(kept).__name__
        raise CheckpointError(
            f"the saved tracker keeps {found} of '{name}'; expected {', '.join(layout)}, or nothing"
        )
    for key, tensor in kept.items():
        dtype, count = layout[key]
        if not (
            isinstance(tensor, torch.Tensor)
            and tensor.dtype == getattr(torch, dtype)
            and tuple(tensor.shape) == (count,)
        ):
            raise CheckpointError(f"the saved {key} of '{name}' is not {count} elements of {dtype}")
    return {key: tensor.detach().cpu().contiguous().clone() for key, tensor in kept.items()}
