"""Masks of a model's weights: under one budget, or under one for each glob."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..distributed.rounds import reported
from ..errors import ArgumentError, MissingStateError
from ..notices import warn
from ..options import budgets
from ..options.ranges import Ranges, checked_ranges
from ..select import functional
from ..select.choices import Options, SelectOptions
from ..select.events import MaskEvent
from ..select.merge import merge_events
from ..select.selection import select_masks
from ..tensors.lazy import is_unread, lazily
from ..tensors.masks import Mask, kept_counts
from ..tensors.table import ScoreInputs
from .weights import ModelWeights

__all__ = ["mapped", "ranges_among", "select"]


def select(
    weights: ModelWeights, sparsity: Any, k: int | None, options: SelectOptions
) -> tuple[dict[str, Mask], MaskEvent]:
    """The masks of every target that has one now, and the event."""
    dense: dict[str, int] = {}
    if isinstance(sparsity, Mapping):
        made, event, dense = _select_groups(weights, sparsity, k, options)
    else:
        with reported(weights.group):
            options = replace(options, tensor_sparsity=ranges_among(weights, options.tensor_sparsity))
        made, event = _decide(weights, weights.items, sparsity, k, options)
    new = {**weights.masks, **made}
    if not (weights.skipped or dense):
        return new, event

    def over_all(event: MaskEvent) -> MaskEvent:
        dead = event.pruned + _dead(weights, {*weights.skipped, *dense})
        return replace(event, skipped=weights.skipped, achieved_sparsity_all=dead / max(weights.numel, 1))

    return new, mapped(event, over_all)


def _select_groups(
    weights: ModelWeights, sparsity: Mapping[str, Any], k: int | None, options: SelectOptions
) -> tuple[dict[str, Mask], MaskEvent, dict[str, int]]:
    with reported(weights.group):
        if k is not None:
            raise ArgumentError("k: given beside sparsity by glob; give one of them")
        shares = budgets.shares(sparsity)
        groups = budgets.group("sparsity", shares, _aliases(weights))
        ranges = ranges_among(weights, options.tensor_sparsity, groups.dense)
        options = replace(options, tensor_sparsity=ranges)
    items = {str(item.name): item for item in weights.items}
    made: dict[str, Mask] = {}
    events: dict[str, MaskEvent] = {}
    for glob, names in groups.members.items():
        competing = [items[name] for name in names if name in items]
        if not (set(names) & set(items if weights.members is None else weights.members.names)):
            raise MissingStateError(
                f"missing: every weight of '{glob}' lacks what the scorer reads. Leave it out of sparsity"
            )
        masks, events[glob] = _decide(weights, competing, shares[glob], None, options, names)
        made.update(masks)
    sizes = _sizes(weights)
    dense = {name: sizes[name] for name in groups.dense}
    return made, merge_events(events, dense), dense


def _decide(
    weights: ModelWeights,
    items: Sequence[ScoreInputs],
    share: Any,
    k: int | None,
    options: SelectOptions,
    names: Collection[str] | None = None,
) -> tuple[dict[str, Mask], MaskEvent]:
    """The masks of some items, and the event; with ranks, `names` are those that compete on all of them
    (None: all)."""
    found: Iterable[Mask]
    if weights.members is None:
        masks = functional.make_masks(items, sparsity=share, k=k, scorer=weights.scorer, **vars(options))
        assert masks.event is not None
        found, event = masks, masks.event
    else:
        members = weights.members
        if names is not None:
            members = members.without(name for name in members.names if name not in names)
        with reported(weights.group):
            chosen = Options(sparsity=share, k=k, scorer=weights.scorer, **vars(options))
        _, found, event = select_masks(list(items), chosen, (), members=members)
    return {mask.name: mask for mask in found}, mapped(event, lambda event: _said(event, options))


def ranges_among(weights: ModelWeights, given: Any, dense: Collection[str] = ()) -> Ranges | None:
    """Ranges for the weights of this model (of all ranks) that are not `dense`.

    Raises:
        ArgumentError: See `checked_ranges`; or a glob meets none of them.
    """
    ranges = checked_ranges(given)
    if ranges is None:
        return None
    return ranges.among({name: also for name, also in _aliases(weights).items() if name not in dense})


def _aliases(weights: ModelWeights) -> dict[str, tuple[str, ...]]:
    """The targets of the model, of all ranks, and their further names."""
    here = {entry.name: entry.aliases for entry in weights.plan.targets}
    return here if weights.ranks is None else weights.ranks.aliases()


def _sizes(weights: ModelWeights) -> dict[str, int]:
    if weights.ranks is not None:
        members = weights.ranks.members
        return dict(zip(members.names, members.numels, strict=True))
    return {entry.name: entry.numel for entry in weights.plan.targets}


def _dead(weights: ModelWeights, names: Collection[str]) -> int:
    """How many elements of these targets are dead by the masks that they have already."""
    if weights.ranks is not None:
        return weights.ranks.dead(weights.masks, weights.plan.targets, names)
    masks = [mask for name, mask in weights.masks.items() if name in names]
    return sum(mask.numel for mask in masks) - sum(kept_counts(masks))


def _said(event: MaskEvent, options: SelectOptions) -> MaskEvent:
    """The event, after a warning if it did not do what was asked for, or did it without a reason."""
    if event.pruned < event.k:
        warn(
            f"{event.k:,} of {event.total:,} weights were to be pruned, and {event.pruned:,} could be. "
            "A cap, NaN scores that are kept, a scope, or ties prune fewer"
        )
    live = event.total - (0 if options.regrow else event.pruned - event.churn)
    undecided = event.count_below == 0 and (event.count_equal or 0) >= live > 1
    if undecided and event.threshold is not None and 0 < event.pruned < event.total:
        zeroed = ". Were the gradients zeroed before?" if event.scorer in ("gradient", "taylor") else ""
        warn(
            f"all {live:,} scores of '{event.scorer}' are equal ({event.threshold:g}), so that position "
            f"alone decided what was pruned{zeroed}"
        )
    return event


def mapped(event: MaskEvent, change: Callable[[MaskEvent], MaskEvent]) -> MaskEvent:
    """`change` of an event; later, if the event is still unread."""
    return lazily(MaskEvent, lambda: change(event)) if is_unread(event) else change(event)
