"""Ranges by glob under one global budget: ``{"head.*": 0.5, "blocks.*": (0.2, 0.9)}``.

One threshold decides for all tensors, and none gives less than its range's first share or more than its
second. Each tensor belongs to the first pattern that it meets; what meets none is free.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from ..errors import ArgumentError
from .budgets import check_globs, group
from .values import as_fraction, shown

__all__ = ["Range", "Ranges", "checked_ranges"]

Range = tuple[float, float]
"""The least and the greatest share of one tensor that is pruned; equal ones are exactly that share."""

_FREE = (0.0, 1.0)


@dataclass(frozen=True)
class Ranges:
    """Checked ranges.

    Attributes:
        by_glob: As they were given, in order.
        by_name: The range of each tensor that has one, once names have been looked at (`among`).
        goal: The sparsity at which a schedule ends: before it, lower bounds are reached for in proportion.
            None: the budget is the final one.
    """

    by_glob: Mapping[str, Range]
    by_name: Mapping[str, Range] | None = None
    goal: float | None = None

    def among(self, names: Mapping[str, Sequence[str]]) -> Ranges:
        """The same, for these names, each with its aliases. Raises ArgumentError as `budgets.group`."""
        members = group("tensor_sparsity", self.by_glob, names).members
        return replace(
            self, by_name={name: self.by_glob[glob] for glob, given in members.items() for name in given}
        )

    def towards(self, goal: float | None) -> Ranges:
        """The same, for an event of a schedule that ends at this sparsity."""
        return replace(self, goal=goal)

    @property
    def has_least(self) -> bool:
        """Whether any tensor must give something."""
        return any(low > 0.0 for low, _ in self.by_glob.values())

    def counts(
        self, names: Sequence[str], numels: Sequence[int], sparsity: float | None, k: int | None
    ) -> list[tuple[int, int]]:
        """How many elements each tensor gives, at least and at most, for this budget of all of them.

        The least is the smallest count that is no smaller a share, the most the greatest that is no larger
        one; an exact share is floor(share * n + 0.5), and so is the middle of a range between two counts.

        Towards a goal of K elements, of which the least counts are L together, an event that prunes k < K
        asks for floor(L * k / K) of them, in the order in which counts that grew evenly would be reached. So
        k less that never falls, and no event takes what a later one needs.
        """
        found = self if self.by_name is not None else self.among(dict.fromkeys(names, ()))
        assert found.by_name is not None
        ranges = [found.by_name.get(name, _FREE) for name in names]
        counts = [_counts(*of, numel) for of, numel in zip(ranges, numels, strict=True)]
        if self.goal is None:
            return counts
        total = sum(numels)
        now = k if k is not None else _share(sparsity or 0.0, total)
        least = [low for low, _ in counts]
        if now < (goal := _share(self.goal, total)):
            least = _prefix(least, sum(least) * max(now, 0) // goal)
        return [(low, high) for low, (_, high) in zip(least, counts, strict=True)]

    def check(self, numels: Mapping[str, int], sparsity: float) -> None:
        """Raises ArgumentError if the ranges do not allow this share of the tensors of these sizes."""
        counts = self.towards(None).counts(list(numels), list(numels.values()), sparsity, None)
        total, least, most = (
            sum(numels.values()),
            sum(low for low, _ in counts),
            sum(high for _, high in counts),
        )
        wanted = _share(sparsity, total)
        if not least <= wanted <= most:
            raise ArgumentError(
                f"tensor_sparsity: the schedule ends at sparsity {sparsity:g}, {wanted:,} of {total:,} "
                f"weights, and the ranges allow {least:,} ({least / total:g}) to {most:,} "
                f"({most / total:g}). End it there, or widen them"
            )

    def to_config(self) -> list[list[Any]]:
        """Plain values; the order of the patterns is part of them."""
        return [[glob, low, high] for glob, (low, high) in self.by_glob.items()]

    def __str__(self) -> str:
        return ", ".join(f"'{glob}' {low:g} to {high:g}" for glob, (low, high) in self.by_glob.items())


def checked_ranges(given: Any) -> Ranges | None:
    """Ranges of a mapping from globs to shares, or to pairs of them; None and checked ones stay.

    Raises:
        ArgumentError: No mapping, an empty one, a key that is no text, a share that is no fraction, or a pair
            whose first is larger.
    """
    if given is None or isinstance(given, Ranges):
        return given
    if not isinstance(given, Mapping):
        raise ArgumentError(
            f"tensor_sparsity: {shown(given)}; accepted: {{glob: (low, high)}} or {{glob: share}}, such as "
            "{'*': (0.0, 0.9)}"
        )
    check_globs("tensor_sparsity", given)
    return Ranges({glob: _range(glob, value) for glob, value in given.items()})


def _range(glob: str, given: Any) -> Range:
    argument = f"tensor_sparsity of '{glob}'"
    if not isinstance(given, (tuple, list)):
        try:
            share = as_fraction(argument, given)
        except ArgumentError as error:
            raise ArgumentError(f"{error}, or two of them: (low, high)") from None
        return share, share
    if len(given) != 2:
        raise ArgumentError(f"{argument}: {len(given)} numbers; accepted: (low, high), or one share")
    low, high = (as_fraction(argument, share) for share in given)
    if low > high:
        raise ArgumentError(f"{argument}: ({low:g}, {high:g}); accepted: the lower share first")
    return low, high


def _counts(low: float, high: float, numel: int) -> tuple[int, int]:
    if low == high:
        return (_share(low, numel),) * 2
    least, most = math.ceil(low * numel), math.floor(high * numel)
    least -= least > 0 and (least - 1) / numel >= low
    most += most < numel and (most + 1) / numel <= high
    return (least, most) if least <= most else (_share((low + high) / 2, numel),) * 2


def _share(share: float, numel: int) -> int:
    return math.floor(share * numel + 0.5)


def _prefix(counts: Iterable[int], taken: int) -> list[int]:
    """The first `taken` units of all counts, where unit j of a count c comes at time j / c; at equal times
    the earlier count's comes first."""
    full = list(counts)
    total = sum(full)
    reached = [taken * count // total if total else 0 for count in full]
    queue = [_due(reached, full, at) for at in range(len(full)) if reached[at] < full[at]]
    heapq.heapify(queue)
    for _ in range(taken - sum(reached)):
        *_, at = heapq.heappop(queue)
        reached[at] += 1
        if reached[at] < full[at]:
            heapq.heappush(queue, _due(reached, full, at))
    return reached


def _due(reached: Sequence[int], full: Sequence[int], at: int) -> tuple[Fraction, int]:
    return Fraction(reached[at] + 1, full[at]), at
