"""From arguments to masks and the event that describes them: what `make_masks` and `prune_` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import _core
from ..distributed import rounds
from ..notices import warn_once
from ..options.scopes import resolve_scope
from ..options.scorers import ScorerCall, resolve_scorer
from ..options.selectors import resolve_selector
from ..tensors import cuda, devices
from ..tensors.arrays import FLOAT16
from ..tensors.lazy import lazily
from ..tensors.masks import Mask
from ..tensors.table import ROLES, ScoreInputs, Table
from . import over_ranks
from .choices import Options, decision_arguments, global_arguments
from .events import MaskEvent

if TYPE_CHECKING:
    from ..distributed.members import Members

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Those of `_core.make_masks`, by position and by keyword."""


def mask_arguments(
    table: Table, options: Options, members: Members | None = None
) -> tuple[list[Mask], Arguments]:
    """New masks to be written for a checked table, attached to it, and what writes them; with `members`, as
    their part of a decision."""
    call = resolve_scorer(options.scorer, options.eps, options.seed)
    masks = Mask.empty_all(table.shapes, table.names, table.framework, table.device, table.orders)
    table.attach(masks)
    named = {
        "sparsity": options.sparsity,
        "k": options.k,
        **decision_arguments(options, options.counts(table if members is None else members)),
    }
    return masks, ((table.data, table.names, call.spec, resolve_selector(options.selector)), named)


def select_masks(
    items: list[ScoreInputs],
    options: Options,
    writes: Sequence[str],
    table: Table | None = None,
    made: tuple[list[Mask], Any] | None = None,
    members: Members | None = None,
    said: Mapping[str, Any] | None = None,
) -> tuple[Table, list[Mask], MaskEvent]:
    """New masks, attached to the table of checked inputs; its arrays of `writes` are ready to be written.

    `table` is one of `items` that has been checked for this scorer and these `writes`, where there is one;
    `made`, with a table, are masks that have been written for it already, and what `_core.make_masks` says.

    With `members` the ranks decide together: `items` are this rank's parts, plain tensors, and the event is
    that of all ranks, which must give `said` alike (values by what they are called in messages). Collective;
    what is wrong on one rank is raised on all.

    On CUDA they are written already, by the step that makes the masks, but for what ranks decide together.
    Without `sync` the event is read there when a field of it is looked at, and after a step that found NaN
    the masks are the current ones; ranks that decide together have always waited.
    """
    started = time.perf_counter()
    if members is not None:
        return _select_over_ranks(items, options, writes, table, members, said or {}, started)
    call = resolve_scorer(options.scorer, options.eps, options.seed)
    selector = resolve_selector(options.selector)
    scope = resolve_scope(options.scope, options.rounding, options.remainder)
    table = Table(items, call, writes) if table is None else table
    read: Callable[[], Any]
    if table.device != devices.HOST:
        masks = Mask.empty_all(table.shapes, table.names, table.framework, table.device, table.orders)
        table.attach(masks)
        zero = sum(ROLES[role] for role in writes)
        choices = cuda.StepOptions(selector, decision_arguments(options, options.counts(table)), zero)
        step = cuda.run_step(table, call.spec, choices, True, options.sparsity, options.k)
        if not options.sync:
            keep_if_failed(step, masks)
        read = step.fetch()
    else:
        if made is None:
            masks, (arguments, named) = mask_arguments(table, options)
            found = _core.make_masks(*arguments, **named)
        else:
            masks, found = made

        def read() -> Any:
            return found

    requested = _requested(options, table.total)
    source = EventSource(table, call, selector[0], scope.text, requested, options.counts(table))
    if options.sync or table.device == devices.HOST:
        return table, masks, source.event(read(), started)
    spent = time.perf_counter()
    return table, masks, lazily(MaskEvent, lambda: source.event(read(), started, spent))


def _requested(options: Options, total: int) -> float | None:
    """The share that is asked for."""
    if options.sparsity is not None:
        return options.sparsity
    scope = resolve_scope(options.scope, options.rounding, options.remainder)
    return scope.fixed_sparsity if options.k is None else options.k / total if total else 0.0


def _select_over_ranks(
    items: Sequence[ScoreInputs],
    options: Options,
    writes: Sequence[str],
    table: Table | None,
    members: Members,
    said: Mapping[str, Any],
    started: float,
) -> tuple[Table, list[Mask], MaskEvent]:
    made: list[tuple[Table, list[Mask]]] = []

    def start() -> tuple[rounds.Agreement, Any]:
        own, masks, agreed, prune = start_over_ranks(items, options, writes, table, members, said, True)
        made.append((own, masks))
        return agreed, prune

    found = rounds.decide(members.group, start)
    own, masks = made[0]
    for mask in masks:
        mask.shard = members.parts[mask.name].shard
    call, scope = over_ranks.supported(options)
    requested = _requested(options, sum(members.numels))
    source = EventSource(own, call, "exact", scope.text, requested, options.counts(members), members)
    return own, masks, source.event(found, started)


def start_over_ranks(
    items: Sequence[ScoreInputs],
    options: Options,
    writes: Sequence[str],
    table: Table | None,
    members: Members,
    said: Mapping[str, Any],
    masks: bool,
) -> tuple[Table, list[Mask], rounds.Agreement, Any]:
    """This rank's part in a decision, ready for its rounds: its table, the masks that they will write (or
    not, for a threshold alone), what it says, and ``_core.ShardedPrune``, or `cuda.ShardedPrune`.
    """
    call, _ = over_ranks.supported(options)
    table = over_ranks.row_major(table or Table(items, call, writes, True), items, call)
    new, ((data, names, spec, selector), named) = mask_arguments(table, options, members)
    agreed = over_ranks.agreement(members, options, writes, said)
    where = members.map, members.group.rank
    whole = [members.index[name] for name in names]
    text = rounds.as_text(agreed)
    prune: Any
    if table.device == devices.HOST:
        prune = _core.ShardedPrune(
            *where, data, names, whole, members.names, spec, selector, text, masks, **named
        )
    else:
        rest = whole, members.names, spec, selector, text, masks
        prune = cuda.ShardedPrune(table, where, rest, named)
    return table, new, rounds.completed(agreed, prune.agreement), prune


def find_threshold(
    table: Table,
    call: ScorerCall,
    selector: tuple[str, float, bool, float, str],
    sparsity: float | None,
    k: int | None,
    ties: str | None,
    nonfinite: str,
    seed: int,
    regrow: bool,
) -> Callable[[], Any]:
    """Finds a threshold; calling the result gives a `_core.ThresholdResult`, and on CUDA waits for it."""
    if table.device != devices.HOST:
        choices = cuda.StepOptions(selector, global_arguments(ties, nonfinite, seed, regrow))
        return cuda.run_step(table, call.spec, choices, False, sparsity, k).fetch()
    found = _core.threshold(
        table.data,
        table.names,
        call.spec,
        selector,
        sparsity=sparsity,
        k=k,
        ties=ties,
        nonfinite=nonfinite,
        seed=seed,
        regrow=regrow,
    )
    return lambda: found


def keep_if_failed(step: cuda.StepMemory, masks: Sequence[Mask]) -> None:
    """Enqueues: where the step was void, the new masks become the current ones (all kept where there is
    none).
    """
    import torch

    table = step.table
    with devices.runtime.guard(table.device):
        failed = step.failed()
        for mask, current in zip(masks, table.current, strict=True):
            if current is None:
                current = Mask.full(mask.shape, mask.name, mask.framework, mask.device)
            torch.where(failed, current.held, mask.held, out=mask.held)  # both in the tensor's order


class EventSource:
    """What an event says beside the numbers that the engine found, without keeping tensors alive."""

    def __init__(
        self,
        table: Table,
        call: ScorerCall,
        selector: str,
        scope: str,
        sparsity: float | None,
        ranges: Sequence[tuple[int, int]] | None = None,
        members: Members | None = None,
    ) -> None:
        whole: Table | Members = table if members is None else members
        self.names, self.numels, self.copied_bytes = whole.names, whole.numels, table.copied_bytes
        self.ranks = None if members is None else members.group.size
        self.half = table.has_dtype("exp_avg_sq", FLOAT16)
        self.call, self.selector, self.scope, self.sparsity = call, selector, scope, sparsity
        self.ranges = ranges or [(0, numel) for numel in self.numels]

    def event(self, found: Any, started: float, ended: float | None = None) -> MaskEvent:
        """The event of a `_core.MasksResult`; warns about scores that are less than they seem."""
        pruned = found["tensor_pruned"]
        event = MaskEvent(
            step=None,
            requested_sparsity=self.sparsity,
            achieved_sparsity=found["pruned"] / found["total"] if found["total"] else 0.0,
            threshold=found["value"],
            k=found["k"],
            total=found["total"],
            pruned=found["pruned"],
            count_below=found["count_below"],
            count_equal=found["count_equal"],
            churn=found["churn"],
            per_tensor={
                name: count / size if size else 0.0
                for name, count, size in zip(self.names, pruned, self.numels, strict=True)
            },
            per_tensor_threshold=dict(zip(self.names, found["tensor_threshold"], strict=True)),
            empty_rows=found["empty_rows"],
            v_below_eps=found["v_below_eps"],
            v_zero=found["v_zero"],
            nonfinite=found["nonfinite"],
            selector=self.selector,
            scorer=self.call.name,
            scope=self.scope,
            passes=found["passes"],
            milliseconds=1e3 * ((time.perf_counter() if ended is None else ended) - started),
            extra_bytes=found["extra_bytes"] + self.copied_bytes,
            standard_error=found["standard_error"],
            converged=found["converged"],
            ranks=self.ranks,
            rounds=found.get("rounds"),
            bytes_sent=found.get("bytes_sent"),
            at_bounds=self._at_bounds(found),
        )
        _warn_about(event, self.call, self.half)
        return event

    def _at_bounds(self, found: Any) -> dict[str, str]:
        """Tensors for which not the one threshold decided, but a bound."""
        if self.scope != "global":
            return {}
        bounds: dict[str, str] = {}
        columns = (self.names, found["tensor_threshold"], found["tensor_pruned"], self.numels, self.ranges)
        for name, value, pruned, numel, (least, most) in zip(*columns, strict=True):
            if value is None and numel:
                bounds[name] = "exact" if least == most else "low" if pruned <= least else "high"
        return bounds


def _warn_about(event: MaskEvent, call: ScorerCall, half: bool) -> None:
    if "modifier" in call.reads and event.scope != "global":
        warn_once(
            f"modifier {call.name}",
            f"scorer '{call.name}' ranks as bitter3 under scope '{event.scope}': its modifier is one number "
            "per tensor, and only scope 'global' lets tensors compete",
        )
    powers_of_v = call.name in ("bitter7", "bitter8", "bitter9", "adam_variance")
    if powers_of_v and event.v_below_eps is not None and event.v_below_eps > 0.5:
        warn_once(
            f"v_below_eps {call.name}",
            f"{event.v_below_eps:.0%} of the live exp_avg_sq values are below eps={call.eps:g}: scorer "
            f"'{call.name}' then ranks like magnitude. Pass a smaller eps (0 is sound for bitter7) to let "
            "exp_avg_sq count",
        )
    if event.v_zero is not None and event.v_zero > 0.01 and half:
        warn_once(
            "v_zero float16",
            f"{event.v_zero:.0%} of the live exp_avg_sq values are exactly 0: float16 rounds everything "
            "below 3e-8 away. Store exp_avg_sq as bfloat16 or float32",
        )
