"""`threshold`: the score below which weights go, without masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import _core
from ..distributed.rounds import Agreement, decide
from ..options.scorers import Scorer, resolve_scorer
from ..options.selectors import Selector, resolve_selector
from ..tensors import cuda, devices
from ..tensors.lazy import lazily
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs, Table, as_items
from .choices import Options, decision_arguments
from .over_ranks import Given, group_of, meet
from .selection import find_threshold, mask_arguments, start_over_ranks

if TYPE_CHECKING:
    from ..distributed.members import Members

__all__ = ["Threshold", "threshold", "threshold_over_ranks"]


@dataclass(frozen=True)
class Threshold:
    """The answer of `threshold`. Counts are of elements.

    Attributes:
        value: The threshold; -inf where k is 0 or nothing live remains to be pruned.
        k: Elements asked for, dead ones included.
        count_below: Live scores below `value`; None where an approximate selector did not count.
        count_equal: Live scores equal to `value`; None likewise.
        pruned: Elements that masks with this threshold prune, dead ones included; None likewise.
        total: Elements in all tensors.
        passes: Reads of all inputs.
        extra_bytes: Scratch memory, re-laid copies and packed current masks.
        standard_error: Of the achieved sparsity, from the sampling selector.
        converged: Whether an iterative selector met its tolerance.
        nonfinite: NaN scores.
        dead: Elements that the current masks had already pruned.
        ranks, rounds, bytes_sent: See `MaskEvent`.
    """

    value: float
    k: int
    count_below: int | None
    count_equal: int | None
    pruned: int | None
    total: int
    passes: float
    extra_bytes: int
    standard_error: float | None = None
    converged: bool = True
    nonfinite: int = 0
    dead: int = 0
    ranks: int | None = field(default=None, repr=False)
    rounds: int | None = field(default=None, repr=False)
    bytes_sent: int | None = field(default=None, repr=False)


def threshold(
    inputs: ScoreInputs | Sequence[ScoreInputs],
    *,
    sparsity: float | None = None,
    k: int | None = None,
    scorer: str | Scorer = "bitter7",
    selector: str | Selector = "exact",
    ties: str | None = None,
    nonfinite: str = "error",
    seed: int = 0,
    eps: float | None = None,
    regrow: bool = False,
    tensor_sparsity: Any = None,
    sync: bool = True,
    process_group: Any = None,
) -> Threshold:
    """The score below which weights go, over all tensors as one sequence. Nothing is written.

    The arguments are those of `make_masks` under scope ``"global"``. The value is the k-th smallest score,
    1-based, where dead elements (current mask False) count as already pruned: it is taken at rank max(0, k -
    dead) of the live. With `tensor_sparsity` it is that of the tensors which no bound decides for, and
    `count_below` and `count_equal` are theirs.

    Raises:
        NonFiniteScoreError: A live score is NaN and `nonfinite` is ``"error"``.
        MissingStateError, ArgumentError, ShapeError, DTypeError, DeviceError, LayoutError: See
            `bittersweet.errors`.
    """

    def given() -> Given:
        options = Options(
            "global", None, "nearest", "error", selector, ties, nonfinite, seed, eps, regrow, None,
            tensor_sparsity, sync, sparsity, k, scorer,
        )  # fmt: skip
        return as_items(inputs)[1], options, ()

    if (group := group_of(process_group, inputs)) is not None:
        table, options, _, members = meet(group, given)
        return threshold_over_ranks([], options, members, table)
    items, options, _ = given()
    call = resolve_scorer(options.scorer, options.eps, options.seed)
    table = Table(items, call)
    if options.tensor_sparsity is not None:
        masks, (arguments, named) = mask_arguments(table, options)
        if table.device == devices.HOST:
            found: Any = _core.make_masks(*arguments, **named)
        else:
            choices = cuda.StepOptions(arguments[-1], decision_arguments(options, options.counts(table)))
            found = cuda.run_step(table, call.spec, choices, True, options.sparsity, options.k).fetch()()
        return _threshold(found, table.copied_bytes + _bytes(masks))
    read = find_threshold(
        table, call, resolve_selector(selector), options.sparsity, options.k, options.ties,
        options.nonfinite, options.seed, options.regrow,
    )  # fmt: skip
    copied = table.copied_bytes
    if options.sync or table.device == devices.HOST:
        return _threshold(read(), copied)
    return lazily(Threshold, lambda: _threshold(read(), copied))


def threshold_over_ranks(
    items: Sequence[ScoreInputs], options: Options, members: Members, table: Table | None = None
) -> Threshold:
    """The threshold of the parts that all ranks hold; `table` is one of `items` that has been checked.
    Collective.
    """
    made: list[tuple[Table, Sequence[Mask]]] = []  # rounds read and write their memory

    def start() -> tuple[Agreement, Any]:
        bounded = options.tensor_sparsity is not None
        own, masks, agreed, prune = start_over_ranks(items, options, (), table, members, {}, bounded)
        made.append((own, masks if bounded else ()))
        return agreed, prune

    found = decide(members.group, start)
    own, masks = made[0]
    return _threshold(found, own.copied_bytes + _bytes(masks), members.group.size)


def _bytes(masks: Sequence[Mask]) -> int:
    """Bounds hold for masks, so that under them a threshold is found by making some."""
    return 8 * sum((mask.numel + 63) // 64 for mask in masks)


def _threshold(found: Any, copied: int, ranks: int | None = None) -> Threshold:
    return Threshold(
        value=found["value"],
        k=found["k"],
        count_below=found["count_below"],
        count_equal=found["count_equal"],
        pruned=found["pruned"],
        total=found["total"],
        passes=found["passes"],
        extra_bytes=found["extra_bytes"] + copied,
        standard_error=found["standard_error"],
        converged=found["converged"],
        nonfinite=found["nonfinite"],
        dead=found["dead"],
        ranks=ranks,
        rounds=found.get("rounds"),
        bytes_sent=found.get("bytes_sent"),
    )
