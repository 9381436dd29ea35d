"""The saved form of a tracker: plain values and tensors that ``torch.load(weights_only=True)`` accepts.

::

    {"format": "bittersweet.tracker", "version": 2,
     "scorer":  str,                          which tracker it is
     "step":    int | None,                   number of the last step that was observed
     "counts":  {name: int, ...},             what the tracker counts
     "seed":    int,                          of its random bits; only with storage="bfloat16"
     "shapes":  {name: [int, ...]},           one per tracked parameter
     "seen":    {name: bool},                 whether it has had an update
     "tensors": {name: {key: tensor, ...}}}   what is remembered of it; zeros before its first update

Keys, shapes and dtypes are the same at every step. Version 1, of earlier releases, is read too: it lacks
``seen``, and its tensors are absent before the first update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..model.names import match_names, shape_of
from ..options.storage import STORAGES
from ..options.values import shown
from ..tensors.owned import flat_copy, is_plain, zeros

if TYPE_CHECKING:
    import torch

    from ..model.targets import PlanEntry

__all__ = ["Layout", "Restored", "pack", "validate"]

FORMAT = "bittersweet.tracker"
VERSION = 2
_KEYS = ("scorer", "step", "counts", "shapes", "tensors")
_MAPPINGS = ("counts", "shapes", "tensors", "seen")

Layout = Mapping[str, tuple[str, int]]
"""By key, the dtype of a remembered tensor (such as ``float32``) and how many elements it has."""


@dataclass(frozen=True)
class Restored:
    """A state that fits: copies of its tensors, in the order of the tracker's parameters."""

    step: int | None
    counts: dict[str, int]
    tensors: list[dict[str, torch.Tensor]]
    seed: int | None


def pack(
    scorer: str,
    entries: Sequence[PlanEntry],
    step: int | None,
    counts: Mapping[str, int],
    tensors: Sequence[Mapping[str, torch.Tensor]],
    layouts: Sequence[Layout],
    seed: int | None,
) -> dict[str, Any]:
    """The saved form, with copies of the tensors."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "scorer": scorer,
        "step": step,
        "counts": dict(counts),
        **({} if seed is None else {"seed": seed}),
        "shapes": {entry.name: list(entry.shape) for entry in entries},
        "seen": {entry.name: bool(kept) for entry, kept in zip(entries, tensors, strict=True)},
        "tensors": {
            entry.name: {key: _copied(kept.get(key), *how) for key, how in layout.items()}
            for entry, kept, layout in zip(entries, tensors, layouts, strict=True)
        },
    }


def validate(
    state: Mapping[str, Any],
    scorer: str,
    entries: Sequence[PlanEntry],
    layouts: Sequence[Layout],
    counts: Mapping[str, int],
    convert: bool = False,
) -> Restored:
    """Checks a saved state against a tracker's parameters and what it remembers of each; see
    `Tracker.checked`.

    Raises:
        CheckpointError: Naming what differs.
    """
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise CheckpointError(
            "this is not the state of a tracker. Pass what its state_dict() returned (the state of a Pruner "
            "belongs into Pruner.load_state_dict)"
        )
    version = state["version"] if type(state.get("version")) is int else None
    keys = _KEYS if version == 1 else (*_KEYS, "seen")
    lacking = [key for key in keys if key not in state]
    lacking += [key for key in _MAPPINGS if key in keys and not isinstance(state.get(key), Mapping)]
    if version not in (1, VERSION) or lacking:
        raise CheckpointError(
            f"the saved tracker has format version {shown(state.get('version'))} and keys "
            f"{', '.join(map(str, state))}; this release reads versions 1 and {VERSION}, with "
            f"{', '.join(keys)}"
        )
    if not isinstance(state["scorer"], str) or state["scorer"] != scorer:
        raise CheckpointError(
            f"the saved tracker is of scorer {shown(state['scorer'])} and this one of '{scorer}'. Load it "
            "into a tracker of its own kind"
        )
    step, saved_counts = state["step"], state["counts"]
    counted = all(type(count) is int and count >= 0 for count in saved_counts.values())
    counted = counted and saved_counts.keys() == counts.keys()
    seed = state.get("seed")
    sound = seed is None or (type(seed) is int and 0 <= seed < 2**63)
    if not (step is None or isinstance(step, int)) or not counted or not sound:
        raise CheckpointError(
            f"the saved tracker has step {shown(step)}, counts {shown(saved_counts)} and seed {shown(seed)}; "
            "it is damaged"
        )
    names = {own: saved for saved, own in match_names(list(state["shapes"]), entries).items()}
    tensors = []
    for entry, layout in zip(entries, layouts, strict=True):
        saved = names[entry.name]
        if (shape := shape_of(state["shapes"][saved])) != entry.shape:
            raise CheckpointError(
                f"parameter '{entry.name}': the saved tracker has shape {shape}, the model "
                f"{entry.shape}. Load it into the model it was saved from"
            )
        seen = state["seen"].get(saved) if "seen" in keys else True
        tensors.append(_checked(entry.name, state["tensors"].get(saved), layout, convert) if seen else {})
    return Restored(step, dict(saved_counts), tensors, seed)


def _checked(name: str, kept: Any, layout: Layout, convert: bool) -> dict[str, torch.Tensor]:
    if not isinstance(kept, Mapping) or not (not kept or kept.keys() == layout.keys()):
        found = ", ".join(map(str, kept)) if isinstance(kept, Mapping) else type(kept).__name__
        raise CheckpointError(
            f"the saved tracker keeps {found} of '{name}'; expected {', '.join(layout)}, or nothing"
        )
    for key, tensor in kept.items():
        dtype, count = layout[key]
        fits = is_plain(tensor) and tuple(tensor.shape) == (count,)
        found = str(tensor.dtype).removeprefix("torch.") if fits else ""
        if found != dtype and {found, dtype} == {*STORAGES}:
            if not convert:
                raise CheckpointError(
                    f"the saved {key} of '{name}' is {found}, and this tracker keeps {dtype}. Make it with "
                    "the storage that was saved, for weights of the dtype that was saved"
                )
        elif found != dtype:
            raise CheckpointError(f"the saved {key} of '{name}' is not {count} elements of {dtype}")
    return {key: _copied(tensor.cpu(), *layout[key]) for key, tensor in kept.items()}


def _copied(tensor: torch.Tensor | None, dtype: str, count: int) -> torch.Tensor:
    return zeros(count, dtype) if tensor is None else flat_copy(tensor, dtype)
