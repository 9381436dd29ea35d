"""The saved form of a `Pruner`: plain values and tensors that ``torch.load(weights_only=True)`` accepts.

::

    {"format": "bittersweet.pruner", "version": 2,
     "config":  {...},                      scorer, selector, scope, schedule ... as plain values
     "step":    int,                        calls of step() so far
     "fired":   int,                        due steps up to here have been served
     "shapes":  {name: [int, ...]},         one per pruned parameter
     "masks":   {name: tensor},             one per pruned parameter, all kept where none was made yet:
                                            int64, ceil(numel / 64) words of keep bits, lowest bit first, rest
                                            0; of a DTensor: a bool DTensor laid out like it, True = keep
     "history": str,                        the mask events, as columns: see `select.columns`
     "tracker": {...}}                      of scorers with a memory only: see `trackers.state`

Keys, shapes and dtypes are the same at every step, as torch.distributed.checkpoint needs them: a fresh
pruner's state is a place for a saved one, whatever the number of ranks. A part of a weight that is given by
`Shard` has its box in the name of its mask, ``name[0:4, 0:64]``, and goes to that box only. The history is
bounded (see `MaskHistory`), so that the state does not grow with training. Nothing in it refers to optimizer
state, so it may be saved and loaded before or after the model and the optimizer.

Whole masks, as words or as bool tensors, fit any pruner: each rank takes its part. Version 1, of earlier
releases, is read too: its masks lack what was not pruned yet, and its history is a list of events.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..distributed.shards import is_dtensor
from ..errors import ArgumentError, CheckpointError, Error
from ..model.binding import part_of
from ..model.mask_view import whole_of
from ..model.names import match_names, shape_of
from ..options.values import shown
from ..select import columns
from ..select.events import MaskEvent, MaskHistory
from ..tensors.devices import HOST
from ..tensors.masks import Mask
from ..tensors.owned import flat_copy, is_plain, zeros
from ..tensors.packing import words_for
from ..tensors.table import as_mask

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from ..model.targets import PlanEntry

__all__ = ["FORMAT", "VERSION", "Restored", "pack", "validate"]

FORMAT = "bittersweet.pruner"
VERSION = 2
_MAPPINGS = ("config", "shapes", "masks")
_KEYS = (*_MAPPINGS, "step", "fired", "history")


@dataclass(frozen=True)
class Restored:
    """A state that fits: masks of what this rank holds, under this model's own names; only of what is not
    all kept."""

    step: int
    fired: int
    masks: dict[str, Mask]
    history: MaskHistory


def pack(
    config: Mapping[str, Any],
    targets: Sequence[PlanEntry],
    step: int,
    fired: int,
    masks: Mapping[str, Mask],
    history: MaskHistory,
    tracker: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The saved form. Masks are copied; nothing in it changes when training goes on."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": _plain(config),
        "step": step,
        "fired": fired,
        "shapes": {entry.name: list(entry.shape) for entry in targets},
        "masks": {entry.key: _saved(masks.get(entry.name), entry) for entry in targets},
        "history": columns.to_text(history),
        **({} if tracker is None else {"tracker": tracker}),
    }


def validate(
    state: Mapping[str, Any],
    config: Mapping[str, Any],
    targets: Sequence[PlanEntry],
    strict: bool = True,
    elsewhere: Collection[str] = (),
) -> Restored:
    """Checks a saved state against this configuration and these targets.

    Names are matched with the prefixes of torch.compile (``_orig_mod.``) and DDP (``module.``) taken off on
    both sides where they differ. With `strict` False, a differing configuration is accepted; names, shapes
    and masks never are. Targets that other ranks have, by their names `elsewhere`, are passed over.

    Raises:
        CheckpointError: Naming what differs. Nothing has been changed.
    """
    _check_format(state)
    if strict:
        _check_config(state["config"], _plain(config))
    own = {entry.name: entry for entry in targets}
    names = match_names([name for name in state["shapes"] if name not in elsewhere], targets)
    for saved, name in names.items():
        if (shape := shape_of(state["shapes"][saved])) != own[name].shape:
            raise CheckpointError(
                f"parameter '{name}': the saved state has shape {shape}, the model {own[name].shape}. Load "
                "it into the model it was saved from"
            )
    values, parts = _masks_of(state["masks"], names, elsewhere)
    masks = {}
    for saved, name in names.items():
        entry = own[name]
        value = parts.get(saved, {}).get(entry.key[len(name) :], values.get(saved))
        if value is not None:
            mask = _mask(name, value, entry, saved not in values)
            if not np.array_equal(mask.words, Mask.full(mask.shape, name, "torch").words):
                masks[name] = mask
        elif state["version"] > 1:
            boxes = f", only parts of it {', '.join(parts[saved])}" if saved in parts else ""
            raise CheckpointError(
                f"the saved state has no mask for '{entry.key}'{boxes}. Load it on the ranks it was saved "
                "on, or save Pruner.full_state_dict()"
                if boxes or entry.key != name
                else f"the saved state has no mask for '{saved}'; the file is damaged"
            )
    step, fired = (_count(key, state[key]) for key in ("step", "fired"))
    if fired > step:
        raise CheckpointError(
            f"the saved state has fired {fired} beyond its step {step}; the file is damaged"
        )
    try:
        history = _history(state["history"])
    except (ArgumentError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the saved history cannot be read ({error}); the file is damaged") from None
    return Restored(step, fired, masks, history)


def _check_format(state: Mapping[str, Any]) -> None:
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        mapping = isinstance(state, Mapping)
        found = f"format {shown(state.get('format'))}" if mapping else f"a {type(state).__name__}"
        raise CheckpointError(
            f"this is not the state of a Pruner (found {found}). Pass what Pruner.state_dict() returned"
        )
    if type(state.get("version")) is not int or state["version"] not in (1, VERSION):
        raise CheckpointError(
            f"the saved state has format version {shown(state.get('version'))}; this release reads versions "
            f"1 and {VERSION}. Load it with the release that wrote it"
        )
    missing = [key for key in _KEYS if key not in state]
    missing += [key for key in _MAPPINGS if key in state and not isinstance(state[key], Mapping)]
    if missing:
        raise CheckpointError(f"the saved state lacks {', '.join(missing)}; the file is damaged")


def _check_config(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    differing = [
        f"{key} (saved {saved.get(key)!r}, here {own.get(key)!r})"
        for key in dict.fromkeys((*own, *saved))
        if saved.get(key) != own.get(key)
    ]
    if differing:
        raise CheckpointError(
            f"the saved configuration differs in {'; '.join(differing)}. Make the Pruner with the saved "
            "values, or pass strict=False to continue with the new ones"
        )


def _history(saved: Any) -> MaskHistory:
    """The events of a state of any version. Raises what is wrong with them."""
    if isinstance(saved, str):
        return columns.from_text(saved)
    if not isinstance(saved, (list, tuple)):
        raise TypeError(f"found {type(saved).__name__}")
    return MaskHistory(MaskEvent.from_dict(event) for event in saved)


def _masks_of(
    saved: Mapping[str, Any], names: Mapping[str, str], elsewhere: Collection[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The masks in a state by saved name: of whole targets, and of parts, by their boxes."""
    whole: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for key, value in saved.items():
        name, bracket, box = key.rpartition("[")
        if key in names:
            whole[key] = value
        elif bracket and name in names:
            parts.setdefault(name, {})[bracket + box] = value
        elif key not in elsewhere and name not in elsewhere:
            raise CheckpointError(f"the saved state has a mask for '{key}' but no shape; the file is damaged")
    return whole, parts


def _saved(mask: Mask | None, entry: PlanEntry) -> torch.Tensor:
    """A mask in memory of its own."""
    if mask is None:
        mask = Mask.full(entry.local_shape, entry.name, "torch")
    if entry.shard is not None and entry.shard.layout is not None:
        return whole_of(mask.bool(), entry)
    copy = zeros(words_for(mask.numel), "int64")
    copy.numpy()[:] = mask.to_host().view(np.int64)
    return copy


def _mask(name: str, value: Any, entry: PlanEntry, is_part: bool) -> Mask:
    """What this rank holds of a saved mask, on the host."""
    import torch

    shape = entry.local_shape if is_part else entry.shape
    if getattr(value, "dtype", None) == torch.bool and tuple(value.shape) == shape:
        found = value
    else:
        found = Mask(_words(name, value, math.prod(shape)), shape, name, "torch")
    try:
        return as_mask(part_of(found, entry), entry.local_shape, name).called(name).to(HOST)
    except Error as error:
        raise CheckpointError(f"the saved mask of '{name}' does not fit: {error}") from None


def _words(name: str, value: Any, numel: int) -> npt.NDArray[np.uint64]:
    import torch

    count = words_for(numel)
    if not is_plain(value) or value.dtype != torch.int64 or tuple(value.shape) != (count,):
        has_shape = is_plain(value) or is_dtensor(value)
        found = f"{value.dtype} {tuple(value.shape)}" if has_shape else f"a {type(value).__name__}"
        raise CheckpointError(f"the saved mask of '{name}' is {found}; expected {count} words of torch.int64")
    words: npt.NDArray[np.uint64] = flat_copy(value.detach().cpu(), "int64").numpy().view(np.uint64)
    tail = numel % 64
    if tail and int(words[-1]) >> tail:
        raise CheckpointError(
            f"the saved mask of '{name}' has bits beyond its {numel} elements; the file is damaged"
        )
    return words


def _count(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CheckpointError(f"the saved state has {key} {shown(value)}; expected a count")
    return value


def _plain(value: Any) -> Any:
    """Lists for sequences, dicts for mappings: what compares equal before and after a trip through a file."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
