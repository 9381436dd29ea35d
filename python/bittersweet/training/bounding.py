"""Ranges of a pruner: whether they go with its schedule, and with its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import ArgumentError
from ..options.budgets import Schedules
from ..options.ranges import Ranges
from ..options.schedules import Schedule

__all__ = ["among", "check_ranges"]

Goals = Mapping[str, tuple[int, float] | None]


def check_ranges(ranges: Ranges | None, schedule: Schedule | Schedules | None, goals: Goals) -> None:
    """Raises ArgumentError for ranges without a schedule, or with lower ends and one without an end."""
    if ranges is None:
        return
    if schedule is None:
        raise ArgumentError(
            "tensor_sparsity: given without a schedule, so that no event would heed it. Pass a schedule"
        )
    if ranges.has_least and None in goals.values():
        raise ArgumentError(
            f"tensor_sparsity: a lower share with {schedule!r}, which does not say where it ends, so that "
            "nobody knows how to go towards it. Use a schedule that does (Schedule.goal), or ranges from 0"
        )


def among(
    ranges: Ranges | None,
    schedule: Schedule | Schedules | None,
    names: Mapping[str, Sequence[str]],
    numels: Mapping[str, int],
) -> Ranges | None:
    """The ranges for these targets: their names with aliases, and their sizes.

    Raises:
        ArgumentError: A glob meets none that is scheduled, or what the schedule ends at is not allowed.
    """
    if ranges is None or schedule is None:
        return ranges
    groups: Mapping[str, Sequence[str]] = {"": list(names)}
    goals: Goals = {}
    if isinstance(schedule, Schedules):
        groups, goals = schedule.group(names).members, schedule.goals
    else:
        goals = {"": schedule.goal}
    ranges = ranges.among({name: names[name] for given in groups.values() for name in given})
    for glob, given in groups.items():
        if (goal := goals[glob]) is not None:
            ranges.check({name: numels[name] for name in given}, goal[1])
    return ranges
