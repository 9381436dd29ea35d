"""From a pruner's state to its saved form and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..model.targets import lookup
from ..tensors import devices
from ..tensors.masks import Mask
from . import checkpoint, remembering

if TYPE_CHECKING:
    from ..steps.loop import Loop

__all__ = ["restore", "saved"]


def saved(loop: Loop) -> dict[str, Any]:
    """See `Pruner.state_dict`."""
    words = {name: mask.to_host() for name, mask in loop.keeper.masks.items()}
    loop.history.settle()
    config, targets = loop.settings.to_config(), loop.plan.targets
    tracked = None if loop.tracker is None else loop.tracker.state_dict()
    return checkpoint.pack(config, targets, loop.step, loop.fired, words, loop.history, tracked)


def restore(loop: Loop, state: Mapping[str, Any], strict: bool) -> None:
    """See `Pruner.load_state_dict`."""
    loop.require_open()
    restored = checkpoint.validate(state, loop.settings.to_config(), loop.plan.targets, strict)
    shapes = {entry.name: entry.shape for entry in loop.plan.targets}
    device = devices.runtime.index_of(lookup(loop.model, loop.plan.targets[0]))
    masks = {
        name: Mask(words, shapes[name], name, "torch").to(device) for name, words in restored.masks.items()
    }
    adopt = remembering.checked(loop.tracker, state.get("tracker"), strict)
    loop.keeper.apply(masks)
    adopt()
    loop.step, loop.fired, loop.history = restored.step, restored.fired, restored.history
    loop.watch.restart()
