"""From arguments to masks and the event that describes them: what `make_masks` and `prune_` share."""

from __future__ import annotations

import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass

from . import _core
from ._arrays import FLOAT16
from ._scorers import Scorer, ScorerCall, check_seed, resolve_scorer
from ._selectors import Selector, resolve_selector
from ._table import ScoreInputs, Table
from .errors import ArgumentError
from .events import MaskEvent, warn_once
from .masks import Mask
from .scopes import Scope, resolve_scope


@dataclass(frozen=True)
class Options:
    """The arguments of `make_masks` beside its inputs."""

    sparsity: float | None
    k: int | None
    scope: str | Scope
    distribution: str | None
    rounding: str
    remainder: str
    scorer: str | Scorer
    selector: str | Selector
    ties: str | None
    nonfinite: str
    seed: int
    eps: float | None
    regrow: bool
    max_tensor_sparsity: float | None


def select_masks(
    items: list[ScoreInputs], options: Options, writes: Sequence[str]
) -> tuple[Table, list[Mask], MaskEvent]:
    """New masks, attached to the table of checked inputs; its arrays of `writes` are ready to be written."""
    started = time.perf_counter()
    call = resolve_scorer(options.scorer, options.eps, options.seed)
    selector = resolve_selector(options.selector)
    scope = resolve_scope(options.scope, options.rounding, options.remainder)
    sparsity, k = as_fraction("sparsity", options.sparsity), as_count(options.k)
    table = Table(items, call, writes)
    masks = Mask.empty_all(table.shapes, table.names, table.framework)
    table.attach(masks)
    found = _core.make_masks(
        table.data,
        table.names,
        call.spec,
        selector,
        sparsity=sparsity,
        k=k,
        scope=scope.text,
        distribution=options.distribution,
        rounding=scope.rounding,
        remainder=scope.remainder,
        max_tensor_sparsity=as_fraction("max_tensor_sparsity", options.max_tensor_sparsity),
        ties=options.ties,
        nonfinite=options.nonfinite,
        seed=check_seed(options.seed),
        regrow=options.regrow,
    )
    if sparsity is None:
        sparsity = scope.fixed_sparsity if k is None else k / table.total if table.total else 0.0
    pruned = found["tensor_pruned"]
    event = MaskEvent(
        step=None,
        requested_sparsity=sparsity,
        achieved_sparsity=found["pruned"] / found["total"] if found["total"] else 0.0,
        threshold=found["value"],
        k=found["k"],
        total=found["total"],
        pruned=found["pruned"],
        count_below=found["count_below"],
        count_equal=found["count_equal"],
        churn=found["churn"],
        per_tensor={
            n: p / size if size else 0.0 for n, p, size in zip(table.names, pruned, table.numels, strict=True)
        },
        per_tensor_threshold=dict(zip(table.names, found["tensor_threshold"], strict=True)),
        empty_rows=found["empty_rows"],
        v_below_eps=found["v_below_eps"],
        v_zero=found["v_zero"],
        nonfinite=found["nonfinite"],
        selector=selector[0],
        scorer=call.name,
        scope=scope.text,
        passes=found["passes"],
        milliseconds=1e3 * (time.perf_counter() - started),
        extra_bytes=found["extra_bytes"] + table.copied_bytes,
        standard_error=found["standard_error"],
        converged=found["converged"],
    )
    if "modifier" in call.reads and scope.text != "global":
        warn_once(
            f"modifier {call.name}",
            f"scorer '{call.name}' ranks as bitter3 under scope '{scope.text}': its modifier is one number "
            "per tensor, and only scope 'global' lets tensors compete",
        )
    _warn_about(event, call, table)
    return table, masks, event


def _warn_about(event: MaskEvent, call: ScorerCall, table: Table) -> None:
    powers_of_v = call.name in ("bitter7", "bitter8", "bitter9", "adam_variance")
    if powers_of_v and event.v_below_eps is not None and event.v_below_eps > 0.5:
        warn_once(
            f"v_below_eps {call.name}",
            f"{event.v_below_eps:.0%} of the live exp_avg_sq values are below eps={call.eps:g}: scorer "
            f"'{call.name}' then ranks like magnitude. Pass a smaller eps (0 is sound for bitter7) to let "
            "exp_avg_sq count",
        )
    if event.v_zero is not None and event.v_zero > 0.01 and table.has_dtype("exp_avg_sq", FLOAT16):
        warn_once(
            "v_zero float16",
            f"{event.v_zero:.0%} of the live exp_avg_sq values are exactly 0: float16 rounds everything "
            "below 3e-8 away. Store exp_avg_sq as bfloat16 or float32",
        )


def as_fraction(argument: str, value: float | None) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise ArgumentError(f"{argument}: {value!r}; accepted: a fraction from 0 to 1") from None


def as_count(k: int | None) -> int | None:
    try:
        return None if k is None else operator.index(k)
    except TypeError:
        raise ArgumentError(f"k: {k!r}; accepted: an integer count") from None
