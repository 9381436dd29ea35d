"""One mask event of a pruner: who competes, new masks, and what is said about them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import Error
from ..options.budgets import Schedules
from ..select.events import MaskEvent
from ..select.merge import merge_events
from ..tensors.lazy import is_unread, lazily
from ..tensors.masks import Mask, kept_counts
from .competing import unscorable
from .deciding import decide

if TYPE_CHECKING:
    from ..model.targets import Plan, PlanEntry
    from ..training.settings import Settings
    from .competing import Competition, Competitors
    from .keeping import Keeper
    from .ranks import Ranks
    from .selecting import InStep
    from .watching import Watch

__all__ = ["fire", "group_targets", "listed", "require_zeros"]


def fire(
    step: int,
    due: Mapping[str, float],
    *,
    ready: Callable[[], Competitors],
    competition: Competition,
    in_step: InStep,
    plan: Plan,
    settings: Settings,
    keeper: Keeper,
    watch: Watch,
    sync: bool,
    ranks: Ranks | None,
) -> MaskEvent:
    """Makes masks for the sparsity that is `due` by glob ("": of all targets) and writes their zeros. An
    error leaves everything as it was, on all `ranks` if there are any; what fails on one alone fails in
    `ready`, which gives the competitors."""
    started = time.perf_counter()
    if ranks is not None:
        made, event = decide(step, due, ready, competition, plan, settings, keeper, ranks)
        skipped: Sequence[str] = event.skipped
    else:
        found = ready()
        skipped = found.skipped
        if skipped and not found.inputs:
            raise unscorable(step, skipped, settings, len(plan.targets))
        of_step = in_step.take(due, found.table)
        made, event = _select(step, found, due, plan, settings, sync, of_step)
        competition.remember(found)
    keeper.apply({**keeper.masks, **made}, keeper.masks, owing=True)
    spent, masks = 1e3 * (time.perf_counter() - started), keeper.ordered

    def finished(event: MaskEvent) -> MaskEvent:
        overall = event.achieved_sparsity_all
        if ranks is None:
            overall = None
            if skipped or event.dense:
                elements = sum(entry.numel for entry in plan.targets)
                overall = _dead(masks) / elements if elements else 0.0
        event = replace(event, step=step, milliseconds=spent)
        event = replace(event, skipped=tuple(skipped), achieved_sparsity_all=overall)
        _say_what_is_odd(event, watch, settings)
        return event

    return lazily(MaskEvent, lambda: finished(event)) if is_unread(event) else finished(event)


def group_targets(schedule: Any, plan: Plan) -> dict[str, list[PlanEntry]]:
    """The targets of each glob of a schedule; those of one without globs are all under ""."""
    if not isinstance(schedule, Schedules):
        return {"": list(plan.targets)}
    by_name = {entry.name: entry for entry in plan.targets}
    groups = schedule.group({entry.name: entry.aliases for entry in plan.targets})
    return {glob: [by_name[name] for name in names] for glob, names in groups.members.items()}


def _select(
    step: int,
    competitors: Competitors,
    due: Mapping[str, float],
    plan: Plan,
    settings: Settings,
    sync: bool,
    of_step: tuple[list[Mask], Any] | None,
) -> tuple[dict[str, Mask], MaskEvent]:
    """New masks by name: of all inputs together, or of each group whose schedule is due."""
    if "" in due:
        inputs, table = list(competitors.inputs), competitors.table
        found = settings.select(inputs, due[""], sync, table, of_step, step=step)
        assert found.event is not None
        return {mask.name: mask for mask in found}, found.event
    members = group_targets(settings.schedule, plan)
    made: dict[str, Mask] = {}
    events: dict[str, MaskEvent] = {}
    for glob, sparsity in due.items():
        names = {entry.name for entry in members[glob]}
        inputs = [item for item in competitors.inputs if item.name in names]
        found = settings.select(inputs, sparsity, sync, step=step, glob=glob)
        assert found.event is not None
        made.update((mask.name, mask) for mask in found)
        events[glob] = found.event
    grouped = {entry.name for entries in members.values() for entry in entries}
    dense = {entry.name: entry.numel for entry in plan.targets if entry.name not in grouped}
    return made, merge_events(events, dense)


def require_zeros(keeper: Keeper, why: str) -> None:
    """Raises Error if a pruned weight is not 0, with the names and `why`."""
    if bad := keeper.violations():
        raise Error(f"pruned weights are not 0 ({listed(bad)}): {why}. hold='weights' repairs that")


def listed(violations: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} in '{name}'" for name, count in violations.items())


def _say_what_is_odd(event: MaskEvent, watch: Watch, settings: Settings) -> None:
    where = f"step {event.step}"
    if event.pruned < event.k:
        watch.say(
            "budget",
            f"{where}: {event.k:,} of {event.total:,} weights were to be pruned, and {event.pruned:,} could "
            f"be: {_why_less(event, settings)}",
        )
    if not event.k or event.count_below != 0 or event.count_equal is None:
        return
    live = event.total if settings.regrow is True else event.live_before
    if event.count_equal >= live > 1:
        zeroed = (
            " Were the gradients zeroed before pruner.step()?"
            if "grad" in settings.call.reads and event.threshold == 0.0
            else ""
        )
        watch.say(
            "equal",
            f"{where}: all {live:,} scores of '{settings.call.name}' are equal ({event.threshold:g}), so "
            f"that position alone decided what was pruned.{zeroed}",
        )


def _why_less(event: MaskEvent, settings: Settings) -> str:
    if event.nonfinite:
        return f"{event.nonfinite:,} scores are NaN and are kept"
    if settings.max_tensor_sparsity is not None:
        return f"max_tensor_sparsity={settings.max_tensor_sparsity:g} caps every tensor"
    return f"scope '{event.scope}' or ties={settings.ties!r} prune fewer"


def _dead(masks: Sequence[Mask]) -> int:
    return sum(mask.numel for mask in masks) - sum(kept_counts(masks))
