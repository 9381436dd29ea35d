"""Ranges of a pruner: those that its targets have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..options.budgets import Schedules
from ..options.ranges import Ranges
from ..options.schedules import Schedule

__all__ = ["among"]

Goals = Mapping[str, tuple[int, float] | None]


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
