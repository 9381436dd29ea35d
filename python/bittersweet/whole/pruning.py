"""`prune_`, `make_masks` and `threshold` for a whole model, or for the tensors of `ScoreInputs`.

A module's weights are found as a `Pruner` finds them; `ScoreInputs` go to `select.functional` as they are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, overload

from ..distributed.rounds import reported
from ..errors import ArgumentError
from ..model.mask_view import MaskView
from ..options import keywords
from ..options.scopes import Scope
from ..options.scorers import Scorer
from ..options.selectors import Selector
from ..options.values import as_bool
from ..select import functional, thresholds
from ..select.choices import Options, SelectOptions
from ..select.events import MaskEvent
from ..select.thresholds import Threshold
from ..tensors.mask_list import Masks
from ..tensors.table import ScoreInputs
from .selecting import mapped, ranges_among, select
from .weights import Given, gather, is_module

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from .options import ModelOptions, TensorOptions

__all__ = ["make_masks", "prune_", "threshold"]

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def prune_(
    inputs: torch.nn.Module | ScoreInputs | Sequence[ScoreInputs],
    *,
    sparsity: float | Mapping[str, float] | None = None,
    k: int | None = None,
    scope: str | Scope = "global",
    optimizer: Any = None,
    targets: Any = None,
    ignore: Any = None,
    mask_optimizer_state: bool = False,
    distribution: str | None = None,
    rounding: str = "nearest",
    remainder: str = "error",
    scorer: str | Scorer | None = None,
    selector: str | Selector = "exact",
    ties: str | None = None,
    nonfinite: str = "error",
    seed: int = 0,
    eps: float | None = None,
    regrow: bool = False,
    max_tensor_sparsity: float | None = None,
    tensor_sparsity: Mapping[str, float | tuple[float, float]] | None = None,
    sync: bool = True,
    masks: Any = None,
    input_norms: Mapping[str, Any] | None = None,
    in_dim: Mapping[Any, int] | None = None,
    missing: str = "error",
    process_group: Any = None,
    **unknown: NoReturn,
) -> MaskEvent:
    """Writes +0 to the weights that matter least, once and in place: ``prune_(model, sparsity=0.5)``.

    Nothing holds the zeros afterwards; to train on, make a `Pruner`, or take them over with
    ``Pruner.from_zeros``. Arguments and errors are those of `make_masks`, and:

    Args:
        mask_optimizer_state: Zero the optimizer's ``exp_avg``, ``exp_avg_sq`` and ``max_exp_avg_sq`` of these
            weights as well, where there are any. Copies from which known optimizers write the weights
            (schedule-free, Lookahead, float32 masters) are zeroed always.

    Returns:
        What happened; with shares by glob, as a whole and in each group. Written torch tensors have their
        autograd version raised.

    Raises:
        LayoutError: Arrays are read-only, or share memory. As after all errors, nothing has been written.
    """
    keywords.refuse(prune_, unknown)
    started = time.perf_counter()
    given = Given(optimizer, targets, ignore, masks, input_norms, in_dim, missing)
    options = SelectOptions(
        scope, distribution, rounding, remainder, selector, ties, nonfinite, seed, eps, regrow,
        max_tensor_sparsity, tensor_sparsity, sync,
    )  # fmt: skip
    if not is_module(inputs):
        given.refuse()
        tensors: Any = inputs
        return functional.prune_(
            tensors, sparsity=_one_share(sparsity), k=k, scorer=_or_default(scorer),
            mask_optimizer_state=mask_optimizer_state, process_group=process_group, **vars(options),
        )  # fmt: skip
    weights = gather(inputs, given, scorer, eps, seed, process_group)
    with reported(weights.group):
        with_state = as_bool("mask_optimizer_state", mask_optimizer_state)
        roles = ("weight", *_MOMENTS) if with_state else ("weight",)
        if weights.group is not None:
            weights.rehearse(roles)
    new, event = select(weights, sparsity, k, options)
    items, writing = weights.written(new, roles)
    functional.apply_masks_(items, writing, roles=roles)
    spent = 1e3 * (time.perf_counter() - started)
    return mapped(event, lambda found: replace(found, milliseconds=spent))


@overload
def make_masks(inputs: ScoreInputs | Sequence[ScoreInputs], **options: Unpack[TensorOptions]) -> Masks: ...
@overload
def make_masks(inputs: torch.nn.Module, **options: Unpack[ModelOptions]) -> MaskView: ...
def make_masks(
    inputs: torch.nn.Module | ScoreInputs | Sequence[ScoreInputs],
    *,
    sparsity: float | Mapping[str, float] | None = None,
    k: int | None = None,
    scope: str | Scope = "global",
    optimizer: Any = None,
    targets: Any = None,
    ignore: Any = None,
    distribution: str | None = None,
    rounding: str = "nearest",
    remainder: str = "error",
    scorer: str | Scorer | None = None,
    selector: str | Selector = "exact",
    ties: str | None = None,
    nonfinite: str = "error",
    seed: int = 0,
    eps: float | None = None,
    regrow: bool = False,
    max_tensor_sparsity: float | None = None,
    tensor_sparsity: Mapping[str, float | tuple[float, float]] | None = None,
    sync: bool = True,
    masks: Any = None,
    input_norms: Mapping[str, Any] | None = None,
    in_dim: Mapping[Any, int] | None = None,
    missing: str = "error",
    process_group: Any = None,
    **unknown: NoReturn,
) -> Masks | MaskView:
    """New masks for a model, one tensor or a list of tensors. Nothing but the masks is written.

    Args:
        inputs: A torch module, whose weights are found as `Pruner` finds them; or a ScoreInputs or a list of
            them. Together they are one sequence in the order of the model, or of the list.
        sparsity: Fraction of all elements to prune, 0 to 1: k = floor(sparsity * n + 0.5). Give this or `k`;
            scope ``"N:M"`` needs neither and prunes 1 - N/M. For a module also ``{glob: fraction}``: each
            weight belongs to the first glob that meets its name or a module around it, each glob has a
            threshold of its own, and what meets none is left as it is and listed in the event.
        k: Number of elements to prune, dead ones included.
        scope: Who competes: ``"global"``, ``"tensor"``, ``"row"``, ``"N:M"`` (N of every M inputs kept), or
            an object.
        optimizer: For a module: the torch optimizer that trained it, or a list of them, whose state the
            scorer reads. Then only parameters that it trains are pruned. Without one, frozen parameters
            (``requires_grad`` False) are pruned like others, since nothing is being trained.
        targets: For a module: globs of names, modules or module types that narrow the choice, as in `Pruner`.
        ignore: The same, for what is to be left alone.
        distribution: How much each tensor gives, for scopes other than global: ``"uniform"`` (None),
            ``"erk"`` or ``"layer_adaptive"``.
        rounding: Elements per row: ``"nearest"``, or ``"floor"`` as in WANDA's reference.
        remainder: For N:M, an input length that M does not divide: ``"error"``, or ``"keep"`` the rest dense.
        scorer: A name or a scorer object. None: ``"magnitude"`` for a module without an optimizer, else
            ``"bitter7"``.
        selector: A name or a selector object.
        ties: ``"exact"`` prunes exactly k, equal scores by lowest (tensor position, flat index) first;
            ``"at_or_below"`` and ``"below"`` compare with the threshold alone. None: exact with exact
            selectors, else at_or_below.
        nonfinite: ``"error"``, or ``"keep"`` to never prune a NaN score.
        seed: For selectors that sample and for scorer ``"random"``; never moves an exact result.
        eps: Overrides the scorer's default.
        regrow: Whether dead elements compete again. False: what is dead stays dead.
        max_tensor_sparsity: Cap per tensor under a global threshold: ``tensor_sparsity={"*": (0, cap)}``, but
            that where caps allow less than is asked for, less is pruned, with a warning. None: no cap.
        tensor_sparsity: Ranges under a global threshold, ``{glob: (low, high)}``, or ``{glob: share}`` for
            exactly that share: of a tensor that meets a glob (the first one counts, as in `sparsity`) no less
            and no more is pruned, and of all tensors together exactly what `sparsity` or `k` say. A range
            that holds no whole number of elements is the count next to its middle. NaN scores that are kept
            are pruned for no range. Needs an exact selector and exact ties, and is an error if the ranges do
            not allow the budget (docs/budgets.md). Of ScoreInputs the globs are of their names.
        sync: Whether numbers are read from a CUDA device at once; False: when a field of the event is first
            looked at. A step (with shares by glob: a group) that finds NaN leaves the masks as they were.
        masks: For a module: the current masks by parameter name, such as ``pruner.masks`` or what
            `load_masks` returns; what they prune is dead. None: everything is live, zeros too.
        input_norms: For a module and scorer ``"wanda"``: norms by parameter name, from a `Calibrator`.
        in_dim: For a module: the axis of the inputs of parameters whose class does not say it, by glob.
        missing: For a module: a weight without what the scorer reads is an ``"error"``, or is left as it is
            and listed in the event (``"skip"``).
        process_group: The ranks that decide together, a ``torch.distributed.ProcessGroup``: all of them call
            this, with the same options. Each gets the masks of what it holds, and all the event of the whole.
            None: the default group if a weight is a DTensor (fully_shard, tensor parallelism), else this
            process alone.

    Returns:
        The masks, one bit per element: for ScoreInputs `Masks` in their order, for a module a mapping by
        parameter name (`MaskView`). ``.event`` says what happened.

    Raises:
        NonFiniteScoreError: A live score is NaN and `nonfinite` is ``"error"``.
        MissingStateError: The scorer reads what a weight does not have.
        ArgumentError, ShapeError, DTypeError, DeviceError, LayoutError: See `bittersweet.errors`.
    """
    keywords.refuse(make_masks, unknown)
    given = Given(optimizer, targets, ignore, masks, input_norms, in_dim, missing)
    options = SelectOptions(
        scope, distribution, rounding, remainder, selector, ties, nonfinite, seed, eps, regrow,
        max_tensor_sparsity, tensor_sparsity, sync,
    )  # fmt: skip
    if not is_module(inputs):
        given.refuse()
        tensors: Any = inputs
        return functional.make_masks(
            tensors,
            sparsity=_one_share(sparsity),
            k=k,
            scorer=_or_default(scorer),
            process_group=process_group,
            **vars(options),
        )
    weights = gather(inputs, given, scorer, eps, seed, process_group)
    new, event = select(weights, sparsity, k, options)
    return MaskView(weights.plan, new, weights.place, event)


def threshold(
    inputs: torch.nn.Module | ScoreInputs | Sequence[ScoreInputs],
    *,
    sparsity: float | None = None,
    k: int | None = None,
    optimizer: Any = None,
    targets: Any = None,
    ignore: Any = None,
    scorer: str | Scorer | None = None,
    selector: str | Selector = "exact",
    ties: str | None = None,
    nonfinite: str = "error",
    seed: int = 0,
    eps: float | None = None,
    regrow: bool = False,
    tensor_sparsity: Mapping[str, float | tuple[float, float]] | None = None,
    sync: bool = True,
    masks: Any = None,
    input_norms: Mapping[str, Any] | None = None,
    in_dim: Mapping[Any, int] | None = None,
    missing: str = "error",
    process_group: Any = None,
    **unknown: NoReturn,
) -> Threshold:
    """The score below which weights go, over all weights as one sequence. Nothing is written.

    Arguments and errors are those of `make_masks` under scope ``"global"``, for a module or for ScoreInputs.
    The value is the k-th smallest score, 1-based, where dead elements (current mask False) count as already
    pruned: it is taken at rank max(0, k - dead) of the live.
    """
    keywords.refuse(threshold, unknown)
    share = _one_share(sparsity)
    given = Given(optimizer, targets, ignore, masks, input_norms, in_dim, missing)
    found: Any = inputs
    ranges: Any = tensor_sparsity
    if is_module(inputs):
        weights = gather(inputs, given, scorer, eps, seed, process_group)
        if weights.members is not None:
            with reported(weights.group):
                options = Options(
                    "global", None, "nearest", "error", selector, ties, nonfinite, seed, eps, regrow,
                    None, ranges_among(weights, tensor_sparsity), sync, share, k, weights.scorer,
                )  # fmt: skip
            return thresholds.threshold_over_ranks(weights.items, options, weights.members)
        ranges = ranges_among(weights, tensor_sparsity)
        found, scorer = weights.items, weights.scorer
    else:
        given.refuse()
    return thresholds.threshold(
        found, sparsity=share, k=k, scorer=_or_default(scorer), selector=selector, ties=ties,
        nonfinite=nonfinite, seed=seed, eps=eps, regrow=regrow, tensor_sparsity=ranges, sync=sync,
        process_group=process_group,
    )  # fmt: skip


def _or_default(scorer: str | Scorer | None) -> str | Scorer:
    return "bitter7" if scorer is None else scorer


def _one_share(sparsity: Any) -> float | None:
    if isinstance(sparsity, Mapping):
        raise ArgumentError(
            "sparsity: shares by glob; accepted here: one fraction from 0 to 1. Globs work for make_masks "
            "and prune_ of a module"
        )
    share: float | None = sparsity
    return share
