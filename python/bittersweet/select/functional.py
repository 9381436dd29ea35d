"""The functions: scores, thresholds, masks and pruning over a tensor or a list of tensors.

Common promises. Inputs are borrowed, never concatenated, and never changed by a function whose name has no
trailing underscore. Same inputs and seed give the same bits on every engine, thread count and instruction
set. An error leaves everything as it was.

Torch tensors on a CUDA device are worked on there, on torch's current stream. `sync` says when their numbers
are read: True at the end of the call, which waits for the device; False when a field of the result is first
looked at, and then NonFiniteScoreError is raised there: until then a step that found NaN has written nothing,
and its masks are the current ones. On the CPU `sync` changes nothing.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from ..distributed.collective import Group
from ..distributed.parts import mask_of_part, plain_items
from ..errors import ArgumentError, DeviceError, ShapeError
from ..options.scopes import Scope
from ..options.scorers import Scorer, check_seed, resolve_scorer
from ..options.selectors import Selector, resolve_selector
from ..options.values import as_bool, shown
from ..tensors import devices
from ..tensors.arrays import (
    FLOAT32,
    ArrayT,
    empty,
    float32_scalar,
    inspect,
    require_disjoint,
    require_writable,
    write_back,
)
from ..tensors.lazy import is_unread
from ..tensors.mask_list import Masks
from ..tensors.masks import COLUMN, Mask
from ..tensors.table import ROLES, ScoreInputs, Table, as_items, as_mask
from .choices import Options, count_or_none
from .events import MaskEvent
from .over_ranks import Given, group_of, meet
from .selection import find_threshold, select_masks

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def score(
    weight: ArrayT,
    scorer: str | Scorer = "bitter7",
    *,
    exp_avg: ArrayT | None = None,
    exp_avg_sq: ArrayT | None = None,
    grad: ArrayT | None = None,
    input_norm: ArrayT | None = None,
    scores: ArrayT | None = None,
    modifier: float | None = None,
    step: Any = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float | None = None,
    seed: int = 0,
    out: ArrayT | None = None,
) -> ArrayT:
    """The scores of one tensor, for inspection; selection itself never stores them.

    Args:
        weight: float32, float16 or bfloat16, any shape. For scorer ``"identity"`` these are the scores
            themselves, returned as float32.
        scorer: A name or a scorer object.
        exp_avg, exp_avg_sq, grad: Of the weight's shape, where the scorer reads them.
        input_norm: One norm per input feature (axis 1; all elements of a one-dimensional weight), for
            ``"wanda"``.
        scores: Of the weight's shape, for ``"movement"``: what a `MovementTracker` summed.
        modifier: Multiplies every score; the scorers bitter10, bitter10s and bitter10c need it.
        step, betas: Adam's step count and betas, for ``"bitter8_bias_corrected"``.
        eps: Overrides the scorer's default.
        seed: For ``"random"``.
        out: Where to write: float32, the weight's shape, its framework, no memory shared with an input.

    Returns:
        `out`, or a new row-major float32 array of the weight's shape: a torch tensor for torch inputs, else
        NumPy. NaN scores are returned as NaN.

    Raises:
        MissingStateError: The scorer reads an input that was not given.
        ArgumentError, ShapeError, DTypeError, DeviceError, LayoutError: See `bittersweet.errors`.
    """
    call = resolve_scorer(scorer, eps, seed)
    item = ScoreInputs(
        weight, exp_avg, exp_avg_sq, grad, input_norm, scores,
        modifier=modifier, step=step, betas=betas, name="tensor",
    )  # fmt: skip
    if call.name == "identity":
        item.scores = weight
    table = Table([item], call, row_major=True)
    target: Any = empty(table.framework, table.shapes[0], FLOAT32, table.device) if out is None else out
    view = inspect(target, "out", "tensor", frozenset((FLOAT32,)))
    if view.shape != table.shapes[0]:
        raise ShapeError(
            f"out has shape {tuple(view.shape)} and weight {table.shapes[0]}; they must be equal"
        )
    if view.framework != table.framework:
        raise DeviceError(
            f"out is a {view.framework} array and weight a {table.framework} one; give both in one"
        )
    if view.device != table.device:
        raise DeviceError(
            f"out is on {devices.name_of(view.device)} and weight on {devices.name_of(table.device)}; "
            "give both on one device"
        )
    if out is not None:
        require_writable(view, "out", "tensor")
        for argument, used in table.views(0).items():
            require_disjoint(
                [("out", view), (argument, used)], "Selection never changes its inputs; pass another out"
            )
        view.relay()
    table.engine.write_scores(table.data, table.names, call.spec, array("Q", [view.pointer]))
    if out is not None:
        write_back([view])
    return target  # type: ignore[no-any-return]


def kth_value(
    values: ArrayT | Sequence[ArrayT], k: int, *, selector: str | Selector = "exact", seed: int = 0
) -> ArrayT:
    """The k-th smallest value of one array, or of a list of arrays taken as one sequence.

    Args:
        values: float32, float16 or bfloat16 arrays of any shape and layout. -0 equals +0; infinities are
            ordered.
        k: 1-based rank, 1 to the number of values.
        selector: A name or a selector object; an approximate one gives an approximate value.
        seed: For selectors that sample.

    Returns:
        A 0-d float32 tensor (a 0-d NumPy array for NumPy inputs).

    Raises:
        ArgumentError: `k` out of range.
        NonFiniteScoreError: A value is NaN.
    """
    arrays: list[Any] = list(values) if isinstance(values, (list, tuple)) else [values]
    names = ["values"] if len(arrays) == 1 else [f"values[{i}]" for i in range(len(arrays))]
    call = resolve_scorer("identity", None, seed)
    table = Table([ScoreInputs(x, scores=x, name=n) for x, n in zip(arrays, names, strict=True)], call)
    rank = count_or_none(k)
    if rank is None or not 1 <= rank <= table.total:
        raise ArgumentError(f"k: {k}; accepted: 1 to {table.total}, the number of values")
    read = find_threshold(
        table, call, resolve_selector(selector), None, rank, None, "error", check_seed(seed), False
    )
    result: Any = float32_scalar(read()["value"])
    if table.framework == "torch":
        import torch

        result = torch.from_numpy(result)
        inspect(result, "the value", "values", frozenset((FLOAT32,)))  # fake-tensor mode makes fakes of all
        if table.device != devices.HOST:
            result = result.to(devices.runtime.place(table.device))
    return result  # type: ignore[no-any-return]


def make_masks(
    inputs: ScoreInputs | Sequence[ScoreInputs],
    *,
    sparsity: float | None = None,
    k: int | None = None,
    scope: str | Scope = "global",
    distribution: str | None = None,
    rounding: str = "nearest",
    remainder: str = "error",
    scorer: str | Scorer = "bitter7",
    selector: str | Selector = "exact",
    ties: str | None = None,
    nonfinite: str = "error",
    seed: int = 0,
    eps: float | None = None,
    regrow: bool = False,
    max_tensor_sparsity: float | None = None,
    tensor_sparsity: Any = None,
    sync: bool = True,
    process_group: Any = None,
) -> Masks:
    """New masks for one tensor or a list of tensors, which are one sequence in the order of the list.

    Nothing but the masks is written. Options and errors are those of ``bittersweet.make_masks``, which this
    is for tensors. Returns the masks, one bit per element; `Masks.event` says what happened.
    """

    def given() -> Given:
        options = Options(
            scope, distribution, rounding, remainder, selector, ties, nonfinite, seed, eps, regrow,
            max_tensor_sparsity, tensor_sparsity, sync, sparsity, k, scorer,
        )  # fmt: skip
        return as_items(inputs)[1], options, ()

    _, masks, event = _decided(given, group_of(process_group, inputs))
    return Masks(masks, event, single=isinstance(inputs, ScoreInputs))


def prune_(
    inputs: ScoreInputs | Sequence[ScoreInputs],
    *,
    sparsity: float | None = None,
    k: int | None = None,
    scope: str | Scope = "global",
    mask_optimizer_state: bool = False,
    distribution: str | None = None,
    rounding: str = "nearest",
    remainder: str = "error",
    scorer: str | Scorer = "bitter7",
    selector: str | Selector = "exact",
    ties: str | None = None,
    nonfinite: str = "error",
    seed: int = 0,
    eps: float | None = None,
    regrow: bool = False,
    max_tensor_sparsity: float | None = None,
    tensor_sparsity: Any = None,
    sync: bool = True,
    process_group: Any = None,
) -> MaskEvent:
    """Makes masks and writes +0 to every weight they prune, in place; parameters may be given directly.

    Args:
        mask_optimizer_state: Zero `exp_avg`, `exp_avg_sq` and `max_exp_avg_sq` likewise, where given.
        inputs: And all the others: see `make_masks`.

    Returns:
        What happened. Written torch tensors have their autograd version raised.

    Raises:
        As `make_masks`; also LayoutError for read-only arrays and for arrays that share memory.
    """
    started = time.perf_counter()

    def given() -> Given:
        options = Options(
            scope, distribution, rounding, remainder, selector, ties, nonfinite, seed, eps, regrow,
            max_tensor_sparsity, tensor_sparsity, sync, sparsity, k, scorer,
        )  # fmt: skip
        with_state = as_bool("mask_optimizer_state", mask_optimizer_state)
        return as_items(inputs)[1], options, ("weight", *_MOMENTS) if with_state else ("weight",)

    group = group_of(process_group, inputs)
    table, _, event = _decided(given, group)
    if table.device == devices.HOST or group is not None:
        table.engine.apply_masks(table.data, COLUMN["new_mask"], _role_bits(table.writes))
    table.write_back()
    return event if is_unread(event) else replace(event, milliseconds=1e3 * (time.perf_counter() - started))


def _decided(given: Callable[[], Given], group: Group | None) -> tuple[Table, list[Mask], MaskEvent]:
    """`select_masks`, by this process or by all ranks together."""
    if group is None:
        return select_masks(*given())
    table, options, writes, members = meet(group, given)
    return select_masks([], options, writes, table, members=members)


def apply_masks_(
    inputs: ScoreInputs | Sequence[ScoreInputs], masks: Any, *, roles: Sequence[str] = ("weight",)
) -> None:
    """Writes +0 wherever a mask is False, in place, in one pass over the arrays of `roles`.

    Of DTensors each rank writes its own part, and none talks to another.

    Args:
        inputs: A ScoreInputs or a list of them.
        masks: `Masks`, a `Mask`, a bool array, or a list of these, in the order of `inputs`. For DTensors: of
            this rank's parts, or bool DTensors laid out alike.
        roles: Of ``"weight"``, ``"exp_avg"``, ``"exp_avg_sq"``, ``"max_exp_avg_sq"``, ``"grad"``. A tensor
            that lacks one is skipped for it.

    Raises:
        ShapeError: A mask does not have its weight's shape, or the lists differ in length.
        ArgumentError, DTypeError, DeviceError, LayoutError: See `bittersweet.errors`.
    """
    table = _masked_table(inputs, masks, roles)
    table.engine.apply_masks(table.data, COLUMN["new_mask"], _role_bits(roles))
    table.write_back()


def count_violations(
    inputs: ScoreInputs | Sequence[ScoreInputs], masks: Any, *, roles: Sequence[str] = ("weight",)
) -> dict[str, int]:
    """How many elements are not 0 although their mask is False, by tensor name, summed over `roles`.

    Arguments and errors are those of `apply_masks_`; nothing is written. NaN counts as not 0, -0 as 0. Of
    DTensors this is of the parts on this rank.
    """
    table = _masked_table(inputs, masks, roles)
    counts = table.engine.count_violations(table.data, COLUMN["new_mask"], _role_bits(roles))
    return dict(zip(table.names, counts, strict=True))


def _masked_table(inputs: ScoreInputs | Sequence[ScoreInputs], masks: Any, roles: Sequence[str]) -> Table:
    """A table with `masks` attached."""
    _role_bits(roles)
    items = plain_items(as_items(inputs)[1])
    table = Table(items, writes=roles)
    given = list(masks) if isinstance(masks, (Masks, list, tuple)) else [masks]
    if len(given) != len(table.names):
        raise ShapeError(f"masks: {len(given)} for {len(table.names)} tensors; give one for each")
    rows = zip(given, items, table.shapes, table.names, strict=True)
    table.attach([as_mask(mask_of_part(m, item.shard, s, n), s, n) for m, item, s, n in rows])
    return table


def _role_bits(roles: Sequence[str]) -> int:
    known = not isinstance(roles, str) and isinstance(roles, Collection)
    if not known or any(role not in list(ROLES) for role in roles):
        raise ArgumentError(f"roles: {shown(roles)}; accepted: a sequence of {', '.join(ROLES)}")
    return sum(ROLES[role] for role in set(roles))
