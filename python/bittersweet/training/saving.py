"""From a pruner's state to its saved form and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import Error
from ..model.gathering import reshard
from ..model.plan import PlanEntry
from ..tensors import devices
from . import checkpoint, remembering

if TYPE_CHECKING:
    from ..steps.loop import Loop

__all__ = ["restore", "saved", "saved_whole"]


def saved(loop: Loop) -> dict[str, Any]:
    """See `Pruner.state_dict`."""
    loop.history.settle()
    config, targets = loop.settings.to_config(), loop.plan.targets
    tracked = remembering.saved(loop.tracker, targets)
    return checkpoint.pack(config, targets, loop.step, loop.fired, loop.keeper.masks, loop.history, tracked)


def saved_whole(loop: Loop) -> dict[str, Any]:
    """See `Pruner.full_state_dict`."""
    ranks = loop.ranks
    if ranks is None:
        return saved(loop)
    if loop.tracker is not None:
        raise Error(
            f"full_state_dict: what scorer '{loop.settings.call.name}' remembers lies with the ranks and is "
            "not gathered. Save state_dict() with torch.distributed.checkpoint"
        )
    loop.history.settle()
    members, first = ranks.members, ranks.group.rank == 0
    entries = [
        PlanEntry(name, (), name, shape, "", None, None)
        for name, shape in zip(members.names, members.shapes, strict=True)
    ]
    masks = {}
    for entry in entries:
        mask = ranks.whole(entry.name, loop.keeper.masks.get(entry.name))
        if first:
            masks[entry.name] = mask
    config = loop.settings.to_config()
    return checkpoint.pack(config, entries, loop.step, loop.fired, masks, loop.history) if first else {}


def restore(loop: Loop, state: Mapping[str, Any], strict: bool) -> None:
    """See `Pruner.load_state_dict`."""
    loop.require_open()
    own = {entry.name for entry in loop.plan.targets}
    elsewhere = [] if loop.ranks is None else [name for name in loop.ranks.members.names if name not in own]
    config = loop.settings.to_config()
    restored = checkpoint.validate(state, config, loop.plan.targets, strict, elsewhere)
    weight = loop.weight
    device = devices.HOST if weight is None else devices.runtime.index_of(weight)
    masks = {name: mask.to(device) for name, mask in restored.masks.items()}
    adopt = remembering.checked(loop.tracker, state.get("tracker"), strict, loop.plan.targets)
    reshard(loop.model)
    loop.keeper.apply(masks)
    adopt()
    loop.step, loop.fired, loop.history = restored.step, restored.fired, restored.history
    loop.watch.restart()
