"""The masks of one event over ranks: what each brings, one decision for all, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..options.budgets import Schedules
from ..select.events import MaskEvent
from ..select.merge import merge_events
from ..tensors.masks import Mask
from ..tensors.orders import ROW_MAJOR
from .competing import unscorable

if TYPE_CHECKING:
    from ..distributed.members import Members
    from ..model.targets import Plan
    from ..training.settings import Settings
    from .competing import Competition, Competitors
    from .keeping import Keeper
    from .ranks import Ranks

__all__ = ["decide"]


def decide(
    step: int,
    due: Mapping[str, float],
    ready: Callable[[], Competitors],
    competition: Competition,
    plan: Plan,
    settings: Settings,
    keeper: Keeper,
    ranks: Ranks,
) -> tuple[dict[str, Mask], MaskEvent]:
    """New masks of what this rank holds, by name, and the event of the whole model. Collective.

    Nothing has been written when it returns, and what could keep this rank from writing has been looked at
    before any rank decided.
    """

    ours: list[Competitors] = []

    def left_out() -> Sequence[str]:
        ours.append(ready())
        keeper.rehearse()
        if {*ours[0].skipped} >= {*ranks.members.names}:
            raise unscorable(step, ours[0].skipped, settings, len(ranks.members.names))
        return ours[0].skipped

    members = ranks.competing(left_out, asked=settings.growth is not None)
    skipped = [name for name in ranks.members.names if name not in members.index]
    if not members.names:
        raise unscorable(step, skipped, settings, len(ranks.members.names))
    said = {"step": step, **settings.agreement()}
    found = ours[0]
    made, event = _select(found, due, settings, ranks, members, said)
    if found.table is not None and all(order == ROW_MAJOR for order in found.table.orders):
        competition.remember(found)
    if skipped or event.dense:
        pruned = event.pruned + ranks.dead(keeper.masks, plan.targets, {*skipped, *event.dense})
        total = sum(ranks.members.numels)
        event = replace(event, achieved_sparsity_all=pruned / total if total else 0.0)
    return ranks.pass_on(made, list(event.per_tensor)), replace(event, skipped=tuple(skipped))


def _select(
    found: Competitors,
    due: Mapping[str, float],
    settings: Settings,
    ranks: Ranks,
    members: Members,
    said: Mapping[str, Any],
) -> tuple[dict[str, Mask], MaskEvent]:
    """New masks by name: of all inputs together, or of each group whose schedule is due."""
    if "" in due:
        masks = settings.select(
            list(found.inputs), due[""], table=found.table, members=members, said=said, step=said["step"]
        )
        assert masks.event is not None
        return {mask.name: mask for mask in masks}, masks.event
    assert isinstance(settings.schedule, Schedules)
    globs = ranks.groups(settings.schedule)
    made: dict[str, Mask] = {}
    events: dict[str, MaskEvent] = {}
    for glob, sparsity in due.items():
        chosen = {name for name in globs[glob] if name in members.index}
        items = [item for item in found.inputs if item.name in chosen]
        of_glob = members.without(name for name in members.names if name not in chosen)
        told = {**said, "glob": glob}
        masks = settings.select(items, sparsity, members=of_glob, said=told, step=said["step"], glob=glob)
        assert masks.event is not None
        made.update((mask.name, mask) for mask in masks)
        events[glob] = masks.event
    grouped = {name for names in globs.values() for name in names}
    sizes = zip(ranks.members.names, ranks.members.numels, strict=True)
    return made, merge_events(events, {name: numel for name, numel in sizes if name not in grouped})
