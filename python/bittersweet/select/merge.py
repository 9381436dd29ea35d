"""One event out of several: what a decision made group by group did as a whole, and in each group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..tensors.lazy import is_unread, lazily
from .events import MaskEvent

__all__ = ["merge_events"]


def merge_events(events: Mapping[str, MaskEvent], dense: Mapping[str, int]) -> MaskEvent:
    """The event of groups that were decided one after the other, in one step.

    Counts, times and reads are those of all groups; `MaskEvent.groups` has what each one asked for and did.
    `threshold` is None with more than one group, since each has its own.

    Args:
        events: The event of each group, by its glob. Still unread ones make an event that is unread too.
        dense: Targets that belong to no group, with their numbers of elements.
    """
    if any(is_unread(event) for event in events.values()):
        return lazily(MaskEvent, lambda: _merged(events, dense))
    return _merged(events, dense)


def _merged(events: Mapping[str, MaskEvent], dense: Mapping[str, int]) -> MaskEvent:
    found = list(events.values())
    total, pruned = (sum(getattr(event, key) for event in found) for key in ("total", "pruned"))
    everything = total + sum(dense.values())
    return MaskEvent(
        step=found[0].step,
        requested_sparsity=sum(event.k for event in found) / total if total else found[0].requested_sparsity,
        achieved_sparsity=pruned / total if total else 0.0,
        threshold=found[0].threshold if len(found) == 1 else None,
        k=sum(event.k for event in found),
        total=total,
        pruned=pruned,
        count_below=_sum([event.count_below for event in found]),
        count_equal=_sum([event.count_equal for event in found]),
        churn=sum(event.churn for event in found),
        per_tensor={name: share for event in found for name, share in event.per_tensor.items()},
        per_tensor_threshold={n: value for event in found for n, value in event.per_tensor_threshold.items()},
        empty_rows=_sum([event.empty_rows for event in found]),
        v_below_eps=_live_mean(found, [event.v_below_eps for event in found]),
        v_zero=_live_mean(found, [event.v_zero for event in found]),
        nonfinite=sum(event.nonfinite for event in found),
        selector=found[0].selector,
        scorer=found[0].scorer,
        scope=found[0].scope,
        passes=sum(event.passes * event.total for event in found) / total if total else 0.0,
        milliseconds=sum(event.milliseconds for event in found),
        extra_bytes=max(event.extra_bytes for event in found),
        skipped=tuple(name for event in found for name in event.skipped),
        achieved_sparsity_all=pruned / everything if dense and everything else None,
        standard_error=_standard_error(found, total),
        converged=all(event.converged for event in found),
        groups={glob: _budget(event) for glob, event in events.items()},
        dense=tuple(dense),
        ranks=found[0].ranks,
        rounds=_sum([event.rounds for event in found]),
        bytes_sent=_sum([event.bytes_sent for event in found]),
        drop_fraction=_live_mean(found, [event.drop_fraction for event in found]),
        dropped=_sum([event.dropped for event in found]),
        grown=_sum([event.grown for event in found]),
        at_bounds={name: side for event in found for name, side in event.at_bounds.items()},
    )


def _budget(event: MaskEvent) -> dict[str, float | int | None]:
    return {
        "requested": event.requested_sparsity,
        "achieved": event.achieved_sparsity,
        "threshold": event.threshold,
        "pruned": event.pruned,
        "total": event.total,
    }


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _live_mean(events: Sequence[MaskEvent], shares: Sequence[float | None]) -> float | None:
    """The share over all elements that were live before: what stays pruned is not among them."""
    weighted = [
        (share, event.live_before) for event, share in zip(events, shares, strict=True) if share is not None
    ]
    live = sum(weight for _, weight in weighted)
    return sum(share * weight for share, weight in weighted) / live if live else None


def _standard_error(events: Sequence[MaskEvent], total: int) -> float | None:
    """Of the whole sparsity: groups are sampled independently, and one without an error was counted."""
    errors = [event.standard_error for event in events]
    if not total or all(error is None for error in errors):
        return None
    counts = ((error or 0.0) * event.total for error, event in zip(errors, events, strict=True))
    return math.hypot(*counts) / total
