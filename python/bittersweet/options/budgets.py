"""Budgets by glob of parameter names: ``{"blocks.*": 0.8, "head.*": 0.5}``, with shares or with schedules.

Each target belongs to the first pattern that it meets, and each pattern to a group with a threshold of its
own. What meets none stays dense.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError
from .custom_schedule import checked_schedule
from .schedules import Schedule
from .values import as_fraction, shown

__all__ = ["Groups", "Schedules", "check_globs", "group", "shares"]


@dataclass(frozen=True)
class Groups:
    """Names by the pattern they belong to, and those that belong to none; all in the order of the names."""

    members: Mapping[str, tuple[str, ...]]
    dense: tuple[str, ...]


def group(argument: str, patterns: Iterable[str], names: Mapping[str, Sequence[str]]) -> Groups:
    """Gives each name to the first pattern that it meets.

    Args:
        argument: For messages.
        patterns: Globs, in order. One meets a name if it matches the name, an alias of it, or a module
            around it (``blocks.0`` is around ``blocks.0.fc.weight``).
        names: The targets, each with its aliases.

    Raises:
        ArgumentError: A pattern meets nothing, or everything that it meets went to patterns before it.
    """
    members: dict[str, list[str]] = {pattern: [] for pattern in patterns}
    met: dict[str, str] = {}
    dense: list[str] = []
    for name, aliases in names.items():
        found = [pattern for pattern in members if _meets(pattern, (name, *aliases))]
        for pattern in found:
            met.setdefault(pattern, found[0])
        (members[found[0]] if found else dense).append(name)
    for pattern, given in members.items():
        if pattern not in met:
            near = difflib.get_close_matches(pattern, list(names), n=5, cutoff=0.4) or list(names)[:5]
            raise ArgumentError(
                f"{argument} names '{pattern}', which meets none of the weights that are pruned. Near or "
                f"known names: {', '.join(near)}"
            )
        if not given:
            raise ArgumentError(
                f"{argument}: '{pattern}' gets no weight, because all that it meets went to patterns before "
                f"it ('{met[pattern]}'). Put the narrower pattern first"
            )
    return Groups({pattern: tuple(given) for pattern, given in members.items()}, tuple(dense))


def shares(sparsity: Mapping[str, Any]) -> dict[str, float]:
    """The shares to prune by glob, as plain floats.

    Raises:
        ArgumentError: The mapping is empty, a key is no text, or a share is no fraction.
    """
    check_globs("sparsity", sparsity)
    return {glob: as_fraction(f"sparsity of '{glob}'", share) for glob, share in sparsity.items()}


class Schedules:
    """Schedules by glob, under one pruner: ``{glob: schedule}``; None says that a group stays dense.

    Raises:
        ArgumentError: The mapping is empty, a key is no text, all are None, or one is no schedule.
    """

    def __init__(self, schedules: Mapping[str, Any]) -> None:
        check_globs("schedule", schedules)
        self.by_glob: dict[str, Schedule | None] = {}
        for glob, given in schedules.items():
            try:
                self.by_glob[glob] = None if given is None else checked_schedule(given)
            except ArgumentError as error:
                raise ArgumentError(
                    f"schedule of '{glob}': {str(error).removeprefix('schedule: ')}"
                ) from None
        if not any(self.by_glob.values()):
            raise ArgumentError("schedule: every group is None. Give one of them a schedule")

    def group(self, names: Mapping[str, Sequence[str]]) -> Groups:
        """The targets of each schedule, by `group`; those whose schedule is None are among the dense."""
        found = group("schedule", self.by_glob, names)
        active = {glob: given for glob, given in found.members.items() if self.by_glob[glob] is not None}
        taken = {name for given in active.values() for name in given}
        return Groups(active, tuple(name for name in names if name not in taken))

    def last_due(self, since: int, now: int) -> dict[str, tuple[int, float]]:
        """For each group with a due step in (`since`, `now`]: the latest one, and its sparsity."""
        answers = {
            glob: schedule.last_due(since, now)
            for glob, schedule in self.by_glob.items()
            if schedule is not None
        }
        return {glob: answer for glob, answer in answers.items() if answer is not None}

    @property
    def goals(self) -> dict[str, tuple[int, float] | None]:
        """`Schedule.goal` of each group that has a schedule."""
        return {glob: schedule.goal for glob, schedule in self.given.items()}

    @property
    def given(self) -> dict[str, Schedule]:
        """The schedule of each group that has one."""
        return {glob: schedule for glob, schedule in self.by_glob.items() if schedule is not None}

    def to_config(self) -> dict[str, Any]:
        """Plain values; the order of the patterns is part of them."""
        saved = [
            [glob, None if schedule is None else schedule.to_config()]
            for glob, schedule in self.by_glob.items()
        ]
        return {"kind": "by_glob", "schedules": saved}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedules) and list(self.by_glob.items()) == list(other.by_glob.items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{glob!r}: {schedule!r}" for glob, schedule in self.by_glob.items()) + "}"


def _meets(pattern: str, names: Sequence[str]) -> bool:
    for name in names:
        parts = name.split(".")
        around = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        if any(fnmatch.fnmatchcase(one, pattern) for one in around):
            return True
    return False


def check_globs(argument: str, mapping: Mapping[str, Any]) -> None:
    """Raises ArgumentError for an empty mapping, and for a key that is no text."""
    if not mapping:
        raise ArgumentError(f"{argument}: an empty mapping; accepted: at least one glob of names")
    for glob in mapping:
        if not isinstance(glob, str):
            raise ArgumentError(
                f"{argument}: the key {shown(glob)}; accepted: globs of parameter names, such as 'blocks.*'"
            )
