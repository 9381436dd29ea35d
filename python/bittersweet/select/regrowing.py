"""Masks that lose weights by one score and gain weights by another: two exact selections, and their union."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from ..notices import warn_once
from ..options.scopes import resolve_scope
from ..options.scorers import resolve_scorer
from ..options.selectors import resolve_selector
from ..tensors.combining import kept_by_both, kept_by_either, opposite
from ..tensors.masks import WIDTH, Mask, kept_counts
from ..tensors.orders import ROW_MAJOR
from ..tensors.table import ScoreInputs, Table
from .choices import Options
from .events import MaskEvent
from .merge import merge_events
from .selection import EventSource, mask_arguments, select_masks

if TYPE_CHECKING:
    from ..distributed.members import Members

__all__ = ["Growth", "drawn", "regrow_masks"]

Found = tuple[dict[str, Mask], MaskEvent]


@dataclass(frozen=True)
class Growth:
    """How an event grows: the share of the live weights that is dropped beyond the budget, the scorer that
    says what is opened instead, the seed of its numbers, and whether what is dropped may be opened."""

    fraction: float
    scorer: str
    seed: int
    allow_same: bool = True


class Wanted(NamedTuple):
    """A group of tensors that compete, all or one; how many of them are to be pruned; the seed of numbers."""

    names: list[str]
    k: int
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
    """New masks for the sparsity of the options, scope ``"global"`` or ``"tensor"``; see `RigL` for what
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
    dropping: list[Wanted] = []
    growing: list[Wanted] = []
    for place, (names, k) in enumerate(_budgets(options, here)):
        total, before = sum(sizes[name] for name in names), sum(live[name] for name in names)
        reached = min(before, total - k)
        dropped = math.floor(growth.fraction * reached + 0.5)
        if not growth.allow_same:
            dropped = min(dropped, k - before + reached)
        stay = reached - dropped
        dropping.append(Wanted(names, total - stay, options.seed))
        if stay < total - k:
            growing.append(Wanted(names, stay + k, (growth.seed + place) % 2**63))
    kept, drops = here.select(dropping, options, former)
    if not growing:
        return _finished(here, kept, former, drops, None, options, growth, started)
    closed = kept if growth.allow_same else former
    candidates = {name: opposite(closed[name]) for name in kept}
    opened, grown = here.select(growing, replace(options, scorer=growth.scorer), candidates)
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

    def select(self, wanted: Sequence[Wanted], options: Options, masks: Mapping[str, Mask]) -> Found:
        """New masks for each group that is wanted, where `masks` say what competes; and one event of all."""
        table = self.table
        table.compete([masks[name] for name in table.names])
        if len(wanted) == 1 and len(wanted[0].names) == len(self.names):
            _, made, event = select_masks([], _of_group(options, wanted[0]), (), table)
            return {mask.name: mask for mask in made}, event
        call, selector = resolve_scorer(options.scorer, options.eps, 0), resolve_selector(options.selector)
        made, (_, named) = mask_arguments(table, _of_group(options, wanted[0]))
        rows = {name: row for row, name in enumerate(table.names)}
        found, started = [], time.perf_counter()
        for one in wanted:
            row = rows[one.names[0]]
            data = table.data[row * WIDTH : (row + 1) * WIDTH]
            spec = (*call.spec[:3], one.seed)
            found.append(
                _core.make_masks(data, one.names, spec, selector, **{**named, "k": one.k, "seed": one.seed})
            )
        names = [one.names[0] for one in wanted]
        source = EventSource(table, call, selector[0], "tensor", None)
        source.names, source.numels = names, [table.numels[rows[name]] for name in names]
        event = source.event(_together(found), started)
        return {name: made[rows[name]] for name in names}, event


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

    def select(self, wanted: Sequence[Wanted], options: Options, masks: Mapping[str, Mask]) -> Found:
        made: dict[str, Mask] = {}
        events: dict[str, MaskEvent] = {}
        for one in wanted:
            table, members = self.table, self.members
            if len(one.names) < len(self.names):
                table = self._row(one.names[0])
                members = members.without(name for name in self.names if name not in one.names)
            table.compete([masks[name] for name in table.names])
            options, said = _of_group(options, one), {**self.said, "k": one.k}
            _, parts, events[one.names[0]] = select_masks([], options, (), table, None, members, said)
            made.update((mask.name, mask) for mask in parts)
        return made, replace(merge_events(events, {}), groups={})

    def _row(self, name: str) -> Table:
        names = self.table.names
        return self.table.row(names.index(name)) if name in names else Table([])


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


def _budgets(options: Options, here: _Here) -> list[tuple[list[str], int]]:
    """Who competes with whom, and how many of them are to be pruned in the end. Where there is nobody to
    compete, that is one group too."""
    if not here.names or resolve_scope(options.scope, "nearest", "error").text == "global":
        return [(list(here.names), _core.resolve_budget(options.sparsity, None, sum(here.numels)))]
    assert options.sparsity is not None
    shapes = [list(shape) for shape in here.shapes]
    budgets = _core.tensor_budgets(shapes, options.sparsity, options.distribution or "uniform")
    return [([name], k) for name, k in zip(here.names, budgets, strict=True)]


def _of_group(options: Options, wanted: Wanted) -> Options:
    """The same for one group, whose tensors compete for a count."""
    return replace(
        options, sparsity=None, k=wanted.k, scope="global", distribution=None, seed=wanted.seed, sync=True
    )


def _together(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the engine says of several selections, a tensor each, as of one."""
    totals = [one["total"] for one in found]

    def mean(key: str, weights: Sequence[int]) -> float | None:
        pairs = [(one[key], by) for one, by in zip(found, weights, strict=True) if one[key] is not None]
        weight = sum(by for _, by in pairs)
        return sum(value * by for value, by in pairs) / weight if weight else None

    live = [one["total"] - one["dead"] for one in found]
    counts = ("k", "total", "pruned", "count_below", "count_equal", "churn", "empty_rows", "nonfinite")
    return {
        **{key: sum(one[key] for one in found) for key in counts},
        **{key: mean(key, live) for key in ("v_below_eps", "v_zero")},
        **{key: [x for one in found for x in one[key]] for key in ("tensor_pruned", "tensor_threshold")},
        "value": None,
        "passes": mean("passes", totals) or 0.0,
        "extra_bytes": max(one["extra_bytes"] for one in found),
        "standard_error": None,
        "converged": True,
    }


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
    if grown is not None:
        _warn_of_zeros(growth, grown, total - (kept - opened + drops.churn), kept - sum(both.values()))
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
        rounds=_sum(drops.rounds, None if grown is None else grown.rounds),
        bytes_sent=_sum(drops.bytes_sent, None if grown is None else grown.bytes_sent),
        milliseconds=1e3 * (time.perf_counter() - started),
        drop_fraction=growth.fraction,
        dropped=drops.churn,
        grown=opened,
    )
    return [masks[name] for name in former], event


def _warn_of_zeros(growth: Growth, grown: MaskEvent, dead: int, back: int) -> None:
    """`dead`: how many places had been pruned before the event; `back`: how many of these were opened."""
    if set(grown.per_tensor_threshold.values()) != {0.0}:
        return
    if grown.count_equal == grown.live_before > 1:
        warn_once(
            f"{growth.scorer} all equal",
            f"weights were opened by '{growth.scorer}', and all {grown.live_before:,} candidates have score "
            "0, so that position alone decided. Were the gradients zeroed before pruner.step()?",
        )
    elif dead and not back:
        warn_once(
            f"{growth.scorer} none back",
            f"by '{growth.scorer}' weights were opened that had just been dropped, and no others: all those "
            "that were pruned before have score 0. Were their gradients zeroed (by mask_grads_(), or hooks) "
            "before pruner.step()?",
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return one if other is None else (one or 0) + other
