"""The saved form of a `Pruner`: plain values and tensors that ``torch.load(weights_only=True)`` accepts.

::

    {"format": "bittersweet.pruner", "version": 2,
     "config":  {...},                      scorer, selector, scope, schedule ... as plain values
     "step":    int,                        calls of step() so far
     "fired":   int,                        due steps up to here have been served
     "shapes":  {name: [int, ...]},         one per pruned parameter
     "masks":   {name: int64 tensor},       ceil(numel / 64) words of keep bits, lowest bit first, rest 0;
                                            one per pruned parameter, all kept where none was made yet
     "history": str,                        the mask events, as columns: see `select.columns`
     "tracker": {...}}                      of scorers with a memory only: see `trackers.state`

Keys, shapes and dtypes are the same at every step, as torch.distributed.checkpoint needs them: a fresh
pruner's state is a place for a saved one. The history is bounded (see `MaskHistory`), so that the state
does not grow with training. Nothing in it refers to optimizer state, so it may be saved and loaded before or
after the model and the optimizer.

Version 1, of earlier releases, is read too: its masks lack what was not pruned yet, and its history is a list
of events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ArgumentError, CheckpointError
from ..model.names import match_names, shape_of
from ..options.values import shown
from ..select import columns
from ..select.events import MaskEvent, MaskHistory
from ..tensors.masks import Mask
from ..tensors.owned import flat_copy, is_plain, zeros
from ..tensors.packing import words_for

if TYPE_CHECKING:
    import torch

    from ..model.targets import PlanEntry

__all__ = ["FORMAT", "VERSION", "Restored", "Words", "pack", "validate"]

Words = npt.NDArray[np.uint64]

FORMAT = "bittersweet.pruner"
VERSION = 2
_MAPPINGS = ("config", "shapes", "masks")
_KEYS = (*_MAPPINGS, "step", "fired", "history")


@dataclass(frozen=True)
class Restored:
    """A state that fits: masks under this model's own names."""

    step: int
    fired: int
    masks: dict[str, Words]
    history: MaskHistory


def pack(
    config: Mapping[str, Any],
    targets: Sequence[PlanEntry],
    step: int,
    fired: int,
    masks: Mapping[str, Words],
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
        "masks": {entry.name: _saved(masks.get(entry.name), entry) for entry in targets},
        "history": columns.to_text(history),
        **({} if tracker is None else {"tracker": tracker}),
    }


def validate(
    state: Mapping[str, Any], config: Mapping[str, Any], targets: Sequence[PlanEntry], strict: bool = True
) -> Restored:
    """Checks a saved state against this configuration and these targets.

    Names are matched with the prefixes of torch.compile (``_orig_mod.``) and DDP (``module.``) taken off on
    both sides where they differ. With `strict` False, a differing configuration is accepted; names, shapes
    and masks never are.

    Raises:
        CheckpointError: Naming what differs. Nothing has been changed.
    """
    _check_format(state)
    if strict:
        _check_config(state["config"], _plain(config))
    own = {entry.name: entry for entry in targets}
    names = match_names(list(state["shapes"]), targets)
    for saved, name in names.items():
        if (shape := shape_of(state["shapes"][saved])) != own[name].shape:
            raise CheckpointError(
                f"parameter '{name}': the saved state has shape {shape}, the model {own[name].shape}. Load "
                "it into the model it was saved from"
            )
    unknown = [saved for saved in state["masks"] if saved not in names]
    if unknown:
        raise CheckpointError(
            f"the saved state has a mask for '{unknown[0]}' but no shape; the file is damaged"
        )
    absent = [] if state["version"] == 1 else [saved for saved in names if saved not in state["masks"]]
    if absent:
        raise CheckpointError(f"the saved state has no mask for '{absent[0]}'; the file is damaged")
    masks = {
        names[saved]: _words(names[saved], value, own[names[saved]])
        for saved, value in state["masks"].items()
    }
    masks = {name: words for name, words in masks.items() if not np.array_equal(words, _all_kept(own[name]))}
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


def _saved(words: Words | None, entry: PlanEntry) -> torch.Tensor:
    """The words of a mask in memory of their own."""
    copy = zeros(words_for(entry.numel), "int64")
    copy.numpy()[:] = (_all_kept(entry) if words is None else words).view(np.int64)
    return copy


def _all_kept(entry: PlanEntry) -> Words:
    words: Words = Mask.full(entry.shape, entry.name, "torch").words
    return words


def _words(name: str, value: Any, entry: PlanEntry) -> Words:
    import torch

    count = -(-entry.numel // 64)
    if not is_plain(value) or value.dtype != torch.int64 or tuple(value.shape) != (count,):
        found = f"{value.dtype} {tuple(value.shape)}" if is_plain(value) else f"a {type(value).__name__}"
        raise CheckpointError(f"the saved mask of '{name}' is {found}; expected {count} words of torch.int64")
    words: Words = flat_copy(value.detach().cpu(), "int64").numpy().view(np.uint64)
    tail = entry.numel % 64
    if tail and int(words[-1]) >> tail:
        raise CheckpointError(
            f"the saved mask of '{name}' has bits beyond its {entry.numel} elements; the file is damaged"
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
