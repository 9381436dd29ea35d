"""The tensors that compete over all ranks: one list that every rank has alike, and who holds which part."""

from __future__ import annotations

import itertools
import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import _core
from ..errors import ArgumentError, DTypeError, RanksDisagree, ShapeError
from ..tensors.geometry import geometry_of
from .collective import Group, on_ranks
from .shards import MOST_AXES, Shard

__all__ = ["Members", "Part"]


@dataclass(frozen=True)
class Part:
    """What one rank holds of one tensor, in plain values that travel.

    Attributes:
        name: Of the tensor.
        shard: Where the part lies.
        shape: Of the part.
        alike: What every rank that holds a part of this tensor must say of it too, by what it is called.
        rows: The output rows of the whole tensor, as `Geometry` has them; None: not known here.
        skipped: Why this rank leaves the tensor out, or None.
    """

    name: str
    shard: Shard
    shape: tuple[int, ...]
    alike: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[int, ...] | None = None
    skipped: str | None = None

    @property
    def numel(self) -> int:
        """Elements of the part."""
        return math.prod(self.shape)

    def plain(self) -> tuple[Any, ...]:
        """This part without what belongs to torch."""
        shard = (self.shard.shape, self.shard.offset, self.shard.position)
        return self.name, shard, self.shape, dict(self.alike), self.rows, self.skipped

    @staticmethod
    def of(name: str, shard: Any, *rest: Any) -> Part:
        """The part that `plain` described."""
        return Part(name, Shard(*shard), *rest)


class Members:
    """The united list of tensors, in the order that ranks their ties, and the map of their parts.

    A tensor that every rank with a part of it leaves out is not in the list.

    Attributes:
        group: The ranks.
        names, shapes, numels: Of the whole tensors.
        index: Position in the list by name.
        parts: Those that this rank holds, by name, left out ones too.
        skipped: Names of the tensors that are left out.
        map: Of the compiled module.
    """

    def __init__(
        self, group: Group, parts: Sequence[Part], found: Sequence[Sequence[Part]], order: Any
    ) -> None:
        self.group = group
        self.parts = {part.name: part for part in parts}
        self._found, self._order = found, order
        self._less: dict[frozenset[str], Members] = {}
        everything = _in_order(_united(found, group), order)
        self.skipped = tuple(
            name for name, holders in everything.items() if _is_skipped(name, holders, group)
        )
        kept = {name: holders for name, holders in everything.items() if name not in self.skipped}
        self.names = list(kept)
        self.shapes = [holders[0][1].shard.shape for holders in kept.values()]
        self.numels = [math.prod(shape) for shape in self.shapes]
        self.index = {name: place for place, name in enumerate(self.names)}
        self._holders = everything
        self.map = self._map(list(kept.values()))

    @classmethod
    def meet(
        cls, group: Group, parts: Callable[[], Sequence[Part]], order: Sequence[str] | None = None
    ) -> Members:
        """Unites what all ranks hold. Collective: one exchange.

        Args:
            group: The ranks.
            parts: Gives those of this rank. What it raises is raised on all ranks.
            order: The names of all ranks in the order that ranks ties; None: by `Shard.position` where that
                is given, else of first appearance by (rank, position on the rank).

        Raises:
            ShapeError, DTypeError, RanksDisagree: Ranks say different things of one tensor.
            ShapeError: The parts do not make up a whole tensor, or overlap.
            ArgumentError: `order` does not name each tensor once, or positions that do not tell all tensors
                apart.
        """
        own: list[Part] = []

        def told() -> tuple[Any, list[tuple[Any, ...]]]:
            own.extend(parts())
            return _listed_order(order), [part.plain() for part in own]

        said = group.gathered(told)
        orders = [given for given, _ in said]
        if any(given != orders[0] for given in orders):
            other = next(rank for rank, given in enumerate(orders) if given != orders[0])
            raise RanksDisagree(
                f"order: ranks {group.names[0]} and {group.names[other]} give different lists of names. Give "
                "the same list on all ranks"
            )
        found = [[Part.of(*each) for each in theirs] for _, theirs in said]
        return cls(group, own, found, orders[0])

    def without(self, skipped: Iterable[str]) -> Members:
        """The same without some more tensors, on all ranks: no collective, so all must ask for the same."""
        left_out = frozenset(skipped) - frozenset(self.skipped)
        if not left_out:
            return self
        if (known := self._less.get(left_out)) is not None:
            return known
        found = [
            [
                Part(**{**vars(part), "skipped": "left out"}) if part.name in left_out else part
                for part in theirs
            ]
            for theirs in self._found
        ]
        less = self._less[left_out] = Members(self.group, found[self.group.rank], found, self._order)
        return less

    def holders(self, name: str) -> list[int]:
        """The ranks that hold the same elements of a tensor as this one, this one too; none if it holds none.
        The first of them counts for all.
        """
        own = self.parts.get(name)
        if own is None or not own.numel:
            return []
        box = own.shard.offset, own.shape
        holders = self._holders[name]
        return [rank for rank, part in holders if part.numel and (part.shard.offset, part.shape) == box]

    def counts(self, name: str) -> bool:
        """Whether it is this rank that counts for its part of a tensor, of which others may have copies."""
        return self.holders(name)[:1] == [self.group.rank]

    def _map(self, kept: Sequence[Sequence[tuple[int, Part]]]) -> Any:
        boxes, rows = array("q"), array("q")
        for tensor, holders in enumerate(kept):
            known = (part.rows for _, part in holders if part.rows is not None)
            rows.extend(next(known, geometry_of(self.shapes[tensor])))
            for rank, part in holders:
                if part.numel:
                    unused = [0] * (MOST_AXES - len(part.shape))
                    boxes.extend([tensor, rank, *part.shard.offset, *unused, *part.shape, *unused])
        try:
            return _core.ShardMap([list(shape) for shape in self.shapes], boxes, self.group.size, rows)
        except ShapeError as error:  # it speaks of positions
            said = re.sub(r"\btensor (\d+)", lambda found: f"'{self.names[int(found[1])]}'", str(error))
            raise ShapeError(said.replace("boxes: ", "shard: ", 1)) from None


Holders = list[tuple[int, Part]]
"""(rank, what it holds of one tensor), by rank."""


def _united(found: Sequence[Sequence[Part]], group: Group) -> dict[str, Holders]:
    """Who holds what, by name in order of first appearance."""
    united: dict[str, Holders] = {}
    for rank, parts in enumerate(found):
        for part in parts:
            united.setdefault(part.name, []).append((rank, part))
    for name, holders in united.items():
        _require_alike(name, holders, group)
    return united


def _require_alike(name: str, holders: Holders, group: Group) -> None:
    first_rank, first = holders[0]
    for rank, part in holders[1:]:
        where = f"on rank {group.names[first_rank]}", f"on rank {group.names[rank]}"
        if part.shard.shape != first.shard.shape:
            raise ShapeError(
                f"'{name}' has shape {first.shard.shape} {where[0]} and {part.shard.shape} {where[1]}; ranks "
                "that hold one tensor say one shape. Give different tensors names of their own, and parts of "
                "one the shape of the whole: ScoreInputs(..., shard=Shard(shape, offset))"
            )
        for what in sorted(first.alike.keys() | part.alike.keys()) if first.numel and part.numel else ():
            values = first.alike.get(what), part.alike.get(what)
            if values[0] != values[1]:
                kind = DTypeError if what == "dtype" else RanksDisagree
                raise kind(
                    f"{what} of '{name}' is {values[0]} {where[0]} and {values[1]} {where[1]}; give all "
                    "parts of a tensor the same"
                )
        if part.shard.position != first.shard.position:
            raise RanksDisagree(
                f"position of '{name}' is {first.shard.position} {where[0]} and {part.shard.position} "
                f"{where[1]}; give all parts of a tensor the same"
            )


def _in_order(united: dict[str, Holders], order: Sequence[str] | None) -> dict[str, Holders]:
    positions = {name: holders[0][1].shard.position for name, holders in united.items()}
    given = {name: place for name, place in positions.items() if place is not None}
    if order is not None:
        if given:
            raise ArgumentError(
                f"order: given beside the position of '{next(iter(given))}'; give one of them"
            )
        return _by_names(united, order)
    if not given:
        return united
    if len(given) < len(united):
        without = next(name for name in united if name not in given)
        raise ArgumentError(
            f"shard: '{next(iter(given))}' has a position and '{without}' has none; give one to all tensors "
            "or to none"
        )
    names = sorted(united, key=lambda name: given[name])
    for name, after in itertools.pairwise(names):
        if given[name] == given[after]:
            raise ArgumentError(
                f"shard: '{name}' and '{after}' both have position {given[name]}; positions must differ"
            )
    return {name: united[name] for name in names}


def _by_names(united: dict[str, Holders], order: Sequence[str]) -> dict[str, Holders]:
    known = frozenset(order)
    missing = [name for name in united if name not in known]
    if missing:
        raise ArgumentError(
            f"order: it lacks '{missing[0]}', which a rank holds; accepted: the names of all tensors, "
            f"{len(united)} of them"
        )
    return {name: united[name] for name in order if name in united}


def _listed_order(order: Any) -> list[str] | None:
    if order is None:
        return None
    names = [str(name) for name in order]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ArgumentError(f"order: '{twice[0]}' is named twice; name each tensor once")
    return names


def _is_skipped(name: str, holders: Holders, group: Group) -> bool:
    """Whether all ranks leave this tensor out. A part without elements has no say."""
    real = [(rank, part) for rank, part in holders if part.numel] or holders
    skipping = [rank for rank, part in real if part.skipped is not None]
    if not skipping:
        return False
    if len(skipping) < len(real):
        keeping = [group.names[rank] for rank, part in real if part.skipped is None]
        why = next(part.skipped for _, part in real if part.skipped is not None)
        raise RanksDisagree(
            f"ranks disagree about '{name}': it is left out {on_ranks([group.names[at] for at in skipping])} "
            f"({why}) and not {on_ranks(keeping)}. A tensor competes on all ranks that hold a part of it, or "
            "on none"
        )
    return True
