"""Masks that lose weights by one score and gain weights by another: two exact selections, and their union."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..notices import warn_once
from ..options.scopes import resolve_scope
from ..options.scorers import resolve_scorer
from ..tensors.combining import kept_by_both, kept_by_either, opposite
from ..tensors.masks import Mask, kept_counts
from ..tensors.orders import ROW_MAJOR
from ..tensors.table import ScoreInputs, Table
from .events import MaskEvent
from .merge import merge_events
from .selection import Options, select_masks

if TYPE_CHECKING:
    from ..distributed.members import Members

__all__ = ["Growth", "drawn", "regrow_masks"]

Found = tuple[dict[str, Mask], MaskEvent]


@dataclass(frozen=True)
class Growth:
    """How an event grows: the share of the live weights that is dropped beyond the budget, the scorer that
    says what is opened instead, and the seed of its numbers."""

    fraction: float
    scorer: str
    seed: int


def drawn(seed: int, *words: int) -> int:
    """A seed of its own for each series of words, the same everywhere."""
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def regrow_masks(
    items: Sequence[ScoreInputs],
    options: Options,
    growth: Growth,
    table: Table | None = None,
    members: Members | None = None,
    said: Mapping[str, Any] | None = None,
) -> tuple[list[Mask], MaskEvent]:
    """New masks for the sparsity of the options, scope ``"global"`` or ``"tensor"``; see `Regrowth` for what
    stays and what comes.

    Args: As `select_masks`; current masks are those of the inputs. Both scorers read what is there now.

    Raises:
        What `select_masks` raises, of either score. Nothing has been written.
    """
    started = time.perf_counter()
    assert options.sparsity is not None
    here = _gathered(items, options, growth, table, members, said or {})
    former, sizes = here.current, dict(zip(here.names, here.numels, strict=True))
    live = here.count(former)
    dropping, growing = [], []
    for place, (names, k) in enumerate(_budgets(options, here)):
        total, before = sum(sizes[name] for name in names), sum(live[name] for name in names)
        reached = min(before, total - k)
        stay = reached - math.floor(growth.fraction * reached + 0.5)
        dropping.append((names, total - stay, options.seed))
        if stay < total - k:
            growing.append((names, stay + k, drawn(growth.seed, place)))
    kept, drops = _selected(here, dropping, options, former)
    if not growing:
        return _finished(here, kept, former, drops, None, options, growth, started)
    candidates = {name: opposite(mask) for name, mask in kept.items()}
    opened, grown = _selected(here, growing, replace(options, scorer=growth.scorer), candidates)
    _warn_of_equal(growth, grown)
    masks = {name: kept_by_either(m, opened[name]) if name in opened else m for name, m in kept.items()}
    return _finished(here, masks, former, drops, grown, options, growth, started)


class _Here:
    """The tensors of one process: one table for everything, and its rows."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.names: Sequence[str] = table.names
        self.numels: Sequence[int] = table.numels
        self.shapes: Sequence[tuple[int, ...]] = table.shapes
        self.current = {
            name: mask or Mask.full(shape, name, table.framework, table.device)
            for name, shape, mask in zip(table.names, table.shapes, table.current, strict=True)
        }

    def count(self, masks: Mapping[str, Mask]) -> dict[str, int]:
        """Kept elements by name."""
        return dict(zip(masks, kept_counts(list(masks.values())), strict=True))

    def select(self, names: Sequence[str], options: Options, masks: Mapping[str, Mask]) -> Found:
        """New masks of these tensors, all or one, where `masks` say what competes."""
        return self._selected(
            self.table if len(names) == len(self.names) else self._row(names), options, masks
        )

    def _row(self, names: Sequence[str]) -> Table:
        return self.table.row(self.table.names.index(names[0]))

    def _selected(
        self,
        table: Table,
        options: Options,
        masks: Mapping[str, Mask],
        members: Members | None = None,
        said: Mapping[str, Any] | None = None,
    ) -> Found:
        table.compete([masks[name] for name in table.names])
        _, made, event = select_masks([], options, (), table, None, members, said)
        return {mask.name: mask for mask in made}, event


class _OverRanks(_Here):
    """The parts of one rank, and what all ranks decide about them. Its methods are collective."""

    def __init__(self, table: Table, members: Members, said: Mapping[str, Any]) -> None:
        super().__init__(table)
        self.members, self.said = members, said
        self.names, self.numels, self.shapes = members.names, members.numels, members.shapes

    def count(self, masks: Mapping[str, Mask]) -> dict[str, int]:
        """Kept elements by name, each counted once."""

        def own() -> dict[str, int]:
            counts = zip(masks, kept_counts(list(masks.values())), strict=True)
            return {name: kept for name, kept in counts if self.members.counts(name)}

        counted = dict.fromkeys(self.names, 0)
        for told in self.members.group.gathered(own):
            for name, kept in told.items():
                counted[name] += kept
        return counted

    def select(self, names: Sequence[str], options: Options, masks: Mapping[str, Mask]) -> Found:
        said = {**self.said, "k": options.k}
        if len(names) == len(self.names):
            return self._selected(self.table, options, masks, self.members, said)
        members = self.members.without(name for name in self.names if name not in names)
        table = self._row(names) if names[0] in self.table.names else Table([])
        return self._selected(table, options, masks, members, said)


def _gathered(
    items: Sequence[ScoreInputs],
    options: Options,
    growth: Growth,
    table: Table | None,
    members: Members | None,
    said: Mapping[str, Any],
) -> _Here:
    """What is looked at, checked for both scores; over ranks in row-major memory, as parts are."""

    def checked() -> Table:
        if table is not None and (members is None or all(order == ROW_MAJOR for order in table.orders)):
            return table
        call = resolve_scorer(options.scorer, options.eps, options.seed)
        reads = call.reads | resolve_scorer(growth.scorer, None, 0).reads
        return Table(items, call._replace(reads=reads), row_major=members is not None)

    if members is None:
        return _Here(checked())
    return _OverRanks(members.group.together(checked), members, said)


def _budgets(options: Options, here: _Here) -> list[tuple[Sequence[str], int]]:
    """Who competes with whom, and how many of them are to be pruned in the end."""
    if resolve_scope(options.scope, "nearest", "error").text == "global":
        return [(here.names, _core.resolve_budget(options.sparsity, None, sum(here.numels)))]
    assert options.sparsity is not None
    shapes = [list(shape) for shape in here.shapes]
    budgets = _core.tensor_budgets(shapes, options.sparsity, options.distribution or "uniform")
    return [([name], k) for name, k in zip(here.names, budgets, strict=True)]


def _selected(
    here: _Here,
    wanted: Sequence[tuple[Sequence[str], int, int]],
    options: Options,
    masks: Mapping[str, Mask],
) -> Found:
    """One selection for each group of names, with its number to be pruned and its seed."""
    made: dict[str, Mask] = {}
    events: dict[str, MaskEvent] = {}
    for names, k, seed in wanted:
        own = replace(options, sparsity=None, k=k, scope="global", distribution=None, seed=seed, sync=True)
        found, events[names[0] if names else ""] = here.select(names, own, masks)
        made.update(found)
    return made, merge_events(events, {})


def _finished(
    here: _Here,
    masks: Mapping[str, Mask],
    former: Mapping[str, Mask],
    drops: MaskEvent,
    grown: MaskEvent | None,
    options: Options,
    growth: Growth,
    started: float,
) -> tuple[list[Mask], MaskEvent]:
    """The masks, and the event of both selections."""
    live = here.count(masks)
    both = here.count({name: kept_by_both(mask, former[name]) for name, mask in masks.items()})
    total, kept = sum(here.numels), sum(live.values())
    opened = 0 if grown is None else grown.total - grown.pruned
    also, bits = grown or drops, sum(mask.nbytes for mask in masks.values())
    event = replace(
        drops,
        requested_sparsity=options.sparsity,
        achieved_sparsity=(total - kept) / total if total else 0.0,
        k=total - kept,
        total=total,
        pruned=total - kept,
        churn=kept - opened + drops.churn + kept - 2 * sum(both.values()),
        per_tensor={
            name: (numel - live[name]) / numel if numel else 0.0
            for name, numel in zip(here.names, here.numels, strict=True)
        },
        empty_rows=drops.empty_rows if grown is None else None,
        scope=resolve_scope(options.scope, "nearest", "error").text,
        passes=drops.passes + (0.0 if grown is None else grown.passes),
        extra_bytes=max(drops.extra_bytes, also.extra_bytes) + 2 * bits,
        groups={},
        rounds=_sum(drops.rounds, None if grown is None else grown.rounds),
        bytes_sent=_sum(drops.bytes_sent, None if grown is None else grown.bytes_sent),
        milliseconds=1e3 * (time.perf_counter() - started),
        drop_fraction=growth.fraction,
        dropped=drops.churn,
        grown=opened,
    )
    return [masks[name] for name in former], event


def _warn_of_equal(growth: Growth, grown: MaskEvent) -> None:
    thresholds = set(grown.per_tensor_threshold.values())
    if grown.count_equal == grown.live_before > 1 and thresholds == {0.0}:
        warn_once(
            f"{growth.scorer} all equal",
            f"weights were opened by '{growth.scorer}', and all {grown.live_before:,} candidates have score "
            "0, so that position alone decided. Were the gradients zeroed before pruner.step()?",
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return one if other is None else (one or 0) + other
