"""`GradientProbe`: prunes what the loss does not miss, judged by gradients before and after a reduction."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ArgumentError
from ..model.binding import Bound, bind, masks_of, missing_reads, score_inputs
from ..model.preserve import preserved
from ..model.targets import Plan, PlanEntry, find_targets, require_rows, unwrap
from ..optimizers.optimizers import Optimizers
from ..options.scopes import Scope, resolve_scope
from ..options.scorers import Scorer, resolve_scorer
from ..options.selectors import Selector, resolve_selector
from ..options.values import as_bool, as_number, one_of, shown
from ..progress import ticking
from ..select.events import MaskEvent
from ..select.functional import apply_masks_, make_masks
from ..tensors import devices
from ..tensors.combining import kept_by_one_alone
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs
from ..training.conflicts import require_inputs
from ..training.report import Sparsity, count_sparsity
from ..wanda.input_norms import InputNorms
from .gradient_check import Batches, GradientTest, ProbedLayer, Rule
from .report import ProbeIteration, ProbeLayer, ProbeResult, ProbeRound

if TYPE_CHECKING:
    import torch

__all__ = ["GradientProbe"]

_ORDERS = ("global", "reverse", "size", "forward")
_ROUNDING = 1e-9  # what sums of steps may miss the limit by, and the smallest step


class _Before(NamedTuple):
    """What comes back if a probe fails."""

    weights: Mapping[str, torch.Tensor]
    masks: dict[str, Mask]


class GradientProbe:
    """Prunes low-scored weights of `model` where a tentative reduction does not raise their gradient.

    The scorer proposes candidates: the lowest-scored live weights, as `make_masks` finds them. They are
    multiplied by `reduction`. With g0 and g1 the maximum of |gradient| over the batches before and after, in
    FP32, a candidate is pruned if and only if ``g1 <= g0 * (1 + gradient_threshold)``. The others get their
    original value back, bit for bit. So the requested sparsity is an upper bound.

    Both passes see the model in the mode it is in; dropout draws the same masks in both. When a call ends,
    also by an error or Ctrl-C, buffers (running statistics), every ``.grad``, ``requires_grad``, train/eval
    modes and the random states of Python, NumPy and torch are as they were, bit for bit; after an error the
    weights are too. It takes a copy of the targets, and two FP32 numbers per candidate under test.

    Gradients are taken with `torch.autograd.grad`: ``.grad`` is not written, and no hook runs that waits for
    it (DDP's averaging, optimizers inside backward). In distributed training give every process the same
    batches. Activation checkpointing works with ``use_reentrant=False``. There is no loss scaling.

    The method is that of GradProbe (github.com/dcifrian/GradProbe), with real copies, FP32 maxima, and
    candidates without any gradient kept.

    Args:
        model: Wrapped or not.
        loss_fn: ``loss_fn(model, batch)`` gives the loss of one batch, a tensor of one element. It gets the
            model inside torch.compile's and DDP's wrappers, and must not write its weights.
        batches: The calibration data: an iterable that can be gone through again (list, DataLoader) and gives
            the same batches each time, or a callable that returns a fresh iterable. Keep it disjoint from the
            data that judges the result.
        scorer: A name or an object. ``"gradient"`` and ``"taylor"`` read ``.grad`` as it is when `prune` is
            called.
        reduction: What candidates are multiplied by, 0 <= reduction < 1; the published value is 0.1.
        gradient_threshold: How much larger g1 may be, relative to g0; from -1 (only what falls to 0 goes) to
            infinity (everything that has a gradient goes).
        prune_zero_gradients: Whether candidates with g0 = g1 = 0 go. The batches say nothing about those.
        order: ``"global"`` tests all layers at once: 2 passes over the batches. The others test one layer
            after the other, with those before it already decided: 2 passes for each layer that has
            candidates, and the gradient of one layer at a time in memory. ``"forward"`` goes in the order of
            the model, ``"reverse"`` backwards, ``"size"`` from the largest (equals in the order of the
            model). The candidates are those of `scope` in every order; published layer-wise runs had what is
            scope ``"tensor"`` here.
        selector, scope, distribution, max_tensor_sparsity, ties, nonfinite: See `make_masks`.
        targets, ignore: See `targets.find_targets`. Frozen parameters are not targets; tied ones act once.
        optimizer: For scorers that read Adam's state. Parameters that it does not hold are not targets.
        input_norms: For scorer ``"wanda"``: parameter name -> one norm per input feature, or a callable that
            returns such a mapping. Read (or called) once, at the first probe, and kept until `invalidate`.
        masks: Weights that are pruned already: parameter name -> `Mask` or bool array, True = keep.
        progress: Show a bar where stderr is a terminal and tqdm is installed.
        seed: For scorer ``"random"`` and for selectors that sample.

    Raises:
        ArgumentError: A bad option, `batches` that can be gone through once only, or nothing to prune.
        ShapeError, DTypeError, DeviceError, LayoutError: A mask that does not fit, or a target out of reach.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss_fn: Callable[[Any, Any], Any],
        batches: Any,
        *,
        scorer: str | Scorer = "magnitude",
        reduction: float = 0.1,
        gradient_threshold: float = 0.0,
        prune_zero_gradients: bool = False,
        order: str = "global",
        selector: str | Selector = "exact",
        scope: str | Scope = "global",
        distribution: str | None = None,
        max_tensor_sparsity: float | None = None,
        ties: str | None = None,
        nonfinite: str = "error",
        targets: Any = None,
        ignore: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        input_norms: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        masks: Mapping[str, Any] | None = None,
        progress: bool = True,
        seed: int = 0,
    ) -> None:
        if not callable(loss_fn):
            raise ArgumentError(
                f"loss_fn: {shown(loss_fn)}; accepted: a callable, loss_fn(model, batch) -> loss"
            )
        self._model = unwrap(model)
        self._loss_fn = loss_fn
        self._batches = Batches(batches)
        self._call = resolve_scorer(scorer, None, seed)
        self._rule = Rule(reduction, gradient_threshold, prune_zero_gradients)
        self._order = one_of("order", order, _ORDERS)
        self._progress = as_bool("progress", progress)
        self._scope = resolve_scope(scope, "nearest", "error")
        resolve_selector(selector)
        self._options: dict[str, Any] = {
            "scorer": scorer, "selector": selector, "scope": scope, "distribution": distribution,
            "max_tensor_sparsity": max_tensor_sparsity, "ties": ties, "nonfinite": nonfinite, "seed": seed,
        }  # fmt: skip
        self._optimizers = Optimizers.of(optimizer)
        self._norms = InputNorms(input_norms)
        require_inputs(self._call, self._optimizers, self._norms.given)
        self._plan = find_targets(self._model, self._optimizers, targets, ignore, self._describe())
        require_rows(self._plan.targets, self._scope.text)
        full = {
            one.entry.name: Mask.full(
                one.entry.shape, one.entry.name, "torch", devices.runtime.index_of(one.parameter)
            )
            for one in bind(self._model, None, self._plan.targets)
        }
        self._masks = {**full, **masks_of(self._plan.targets, masks or {})}
        self._history: list[ProbeResult] = []

    def __repr__(self) -> str:
        return f"<GradientProbe of {len(self._plan.targets)} weights, {len(self._history)} probes>"

    def prune(self, sparsity: float | None = None) -> ProbeResult:
        """Prunes candidates up to `sparsity`; zeroes them, and what was pruned before.

        Args:
            sparsity: Share of all target elements, what is already pruned included, 0 to 1. What is pruned
                stays pruned: the candidates are the live weights that are missing to that share. None only
                for scope ``"N:M"``, which then proposes 1 - N/M.

        Raises:
            Error: A loss or a gradient is not finite; the message names batch and parameter.
            ArgumentError: `sparsity`, or what `loss_fn` or `batches` gave, is not accepted.
            MissingStateError, NonFiniteScoreError, ShapeError, DTypeError, DeviceError, LayoutError: Of
                scoring. What `loss_fn` raises passes through. After any of these everything is as it was.
        """
        with self._undone_on_error() as before:
            result = self._probe(sparsity, before, "gradient probe")
        self._history.append(result)
        return result

    def iterate(
        self,
        step: float,
        budget: float,
        metric: Callable[[Any], float],
        lower_is_better: bool = True,
        *,
        on_round: Callable[[ProbeRound], Any] | None = None,
    ) -> ProbeIteration:
        """Prunes in rounds, `step` more in each, while the metric stays within the budget.

        Round r requests the sparsity at the beginning plus ``r * step``, at most what the scope allows; what
        earlier rounds kept is proposed again. A round after which the metric is worse than the reference
        (the metric before the first round) by more than `budget`, or NaN, is undone and ends the iteration.
        The model is then, bit for bit, what the last accepted round left, or, if the first one failed, what
        it was.

        Args:
            step: Sparsity added to the request in each round, 1e-9 to 1.
            budget: Absolute, in the metric's own units: ``metric - reference <= budget`` is accepted
                (``reference - metric`` where higher is better). From 0; may be infinite.
            metric: ``metric(model)`` gives a number, without gradients. It gets the model inside wrappers,
                and what it does to modes, buffers, ``.grad`` and random states is undone. Use data that
                `batches` does not hold.
            lower_is_better: True for losses and perplexities, False for accuracies.
            on_round: Called after each accepted round; returning True stops there.

        Raises:
            ArgumentError: A bad argument, or a reference that is NaN. Errors of `prune` and of `metric`, and
                Ctrl-C, undo the round they come in; rounds accepted before stay (see `history`).
        """
        step = as_number("step", step, _ROUNDING, 1.0)
        budget = as_number("budget", budget, 0.0, math.inf)
        lower_is_better = as_bool("lower_is_better", lower_is_better)
        reference = self._measure(metric)
        if math.isnan(reference):
            raise ArgumentError("metric: nan for the model before the first round; nothing compares with it")
        initial = self.sparsity().masked
        limit = 1.0 if self._scope.fixed_sparsity is None else self._scope.fixed_sparsity
        most = math.ceil((limit - initial) / step - _ROUNDING)
        rounds: list[ProbeRound] = []
        stopped = "limit"
        while len(rounds) < most:
            number = len(rounds) + 1
            requested = limit if number == most else initial + number * step
            with self._undone_on_error() as before:
                result = self._probe(requested, before, f"gradient probe {number}/{most}")
                value = self._measure(metric)
                worse = value - reference if lower_is_better else reference - value
                accepted = value == reference or worse <= budget
                if not accepted:
                    self._restore(before)
            rounds.append(ProbeRound(result, value, accepted))
            if not accepted:
                stopped = "budget"
                break
            self._history.append(result)
            if on_round is not None and on_round(rounds[-1]) is True:
                stopped = "on_round"
                break
            if result.achieved_sparsity >= limit:
                break
        return ProbeIteration(reference, budget, lower_is_better, initial, tuple(rounds), stopped)

    def invalidate(self) -> None:
        """Forgets the input norms: the next probe reads (or calls) `input_norms` again."""
        self._norms.invalidate()

    def plan(self) -> Plan:
        """What takes part and what not, and why; prints as a table."""
        return self._plan

    @property
    def masks(self) -> dict[str, Mask]:
        """The masks now, by parameter name, one for each target; for `Pruner.load_masks`, for example."""
        return dict(self._masks)

    @property
    def history(self) -> tuple[ProbeResult, ...]:
        """The probes whose pruning is in force."""
        return tuple(self._history)

    def sparsity(self) -> Sparsity:
        """Mask bits and actual zeros in the weights now, over all targets and per tensor."""
        return count_sparsity(self._bind(), self._masks)

    def _probe(self, sparsity: float | None, before: _Before, title: str) -> ProbeResult:
        started = time.perf_counter()
        bound = self._bind()
        event, proposed = self._propose(bound, sparsity)
        groups = self._groups([one for one in bound if proposed[one.entry.name].kept()])
        apply_masks_([one.inputs(()) for one in bound], [self._masks[one.entry.name] for one in bound])
        layers = {one.entry.name: self._untested(one.entry, proposed[one.entry.name]) for one in bound}
        weights = [one.parameter for one in bound]
        with (
            preserved(self._model, self._batches.generators()) as rewind,
            ticking(title, self._evaluations(len(groups)), self._progress and bool(groups)) as tick,
        ):
            test = GradientTest(self._model, weights, self._loss_fn, self._batches, self._rule, rewind, tick)
            for group in groups:
                tested = [
                    ProbedLayer(one.entry.name, one.parameter, proposed[one.entry.name]) for one in group
                ]
                for one, verdict in zip(group, test.decide(tested), strict=True):
                    name = one.entry.name
                    self._settle(one, verdict.pruned, before.weights[name])
                    pruned = int(verdict.pruned.count_nonzero())
                    layers[name] = replace(layers[name], pruned=pruned, zero_gradients=verdict.silent)
        return ProbeResult(
            requested_sparsity=event.requested_sparsity or 0.0,
            layers=tuple(layers.values()),
            threshold=event.threshold,
            scorer=event.scorer,
            scope=event.scope,
            order=self._order,
            reduction=self._rule.reduction,
            gradient_threshold=self._rule.gradient_threshold,
            batches=test.batches,
            evaluations=test.evaluations,
            milliseconds=1e3 * (time.perf_counter() - started),
        )

    def _propose(self, bound: Sequence[Bound], sparsity: float | None) -> tuple[MaskEvent, dict[str, Mask]]:
        """What selection did, and the candidates of each target (bit 1 = candidate)."""
        if "input_norm" in self._call.reads:
            with preserved(self._model):
                self._norms.load()
        made = make_masks([self._inputs(one) for one in bound], sparsity=sparsity, **self._options)
        assert made.event is not None
        return made.event, {mask.name: kept_by_one_alone(self._masks[mask.name], mask) for mask in made}

    def _untested(self, entry: PlanEntry, proposed: Mask) -> ProbeLayer:
        dead = entry.numel - self._masks[entry.name].kept()
        return ProbeLayer(entry.name, entry.numel, dead, proposed.kept(), pruned=0, zero_gradients=0)

    def _settle(self, one: Bound, pruned: torch.Tensor, original: torch.Tensor) -> None:
        """Gives the layer its values back, and zeroes what goes."""
        import torch

        name = one.entry.name
        mask = kept_by_one_alone(self._masks[name], Mask.from_bool(pruned.cpu(), name))
        with torch.no_grad():
            one.parameter.copy_(original)
        apply_masks_(one.inputs(()), mask)
        self._masks = {**self._masks, name: mask}

    def _groups(self, bound: list[Bound]) -> list[list[Bound]]:
        """The layers that are tested together, in the order of the tests."""
        if self._order == "global":
            return [bound] if bound else []
        if self._order == "reverse":
            bound = bound[::-1]
        elif self._order == "size":
            bound = sorted(bound, key=lambda one: -one.entry.numel)
        return [[one] for one in bound]

    def _inputs(self, one: Bound) -> ScoreInputs:
        error = missing_reads(one, self._call.reads)
        if error is not None:
            raise error
        item = score_inputs(one, self._call.reads, self._masks[one.entry.name])
        if "input_norm" in self._call.reads:
            item.input_norm = self._norms.of(one.entry)
        return item

    def _measure(self, metric: Callable[[Any], float]) -> float:
        import torch

        with preserved(self._model), torch.no_grad():
            value = metric(self._model)
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ArgumentError(
                f"metric: it returned {type(value).__name__}; accepted: a number, metric(model) -> float"
            ) from None

    def _bind(self) -> list[Bound]:
        return bind(self._model, self._optimizers, self._plan.targets, self._call.reads)

    @contextmanager
    def _undone_on_error(self) -> Iterator[_Before]:
        """Weights and masks as they are, in real copies; an error or Ctrl-C inside brings them back."""
        import torch

        with torch.inference_mode(False), torch.enable_grad():
            weights = {one.entry.name: one.parameter.detach().clone() for one in self._bind()}
            before = _Before(weights, self._masks)
            try:
                yield before
            except BaseException:
                self._restore(before)
                raise

    def _restore(self, before: _Before) -> None:
        import torch

        with torch.no_grad():
            for one in self._bind():
                one.parameter.copy_(before.weights[one.entry.name])
        self._masks = before.masks

    def _evaluations(self, groups: int) -> int | None:
        """How often a loss will be computed; None where the batches do not know their number."""
        try:
            return 2 * groups * len(self._batches)
        except (TypeError, NotImplementedError):
            return None

    def _describe(self) -> dict[str, str]:
        rule, distribution = self._rule, self._options["distribution"]
        return {
            "scorer": self._call.name,
            "scope": self._scope.text if distribution is None else f"{self._scope.text}, {distribution}",
            "order": self._order,
            "gradient test": f"reduction {rule.reduction:g}, gradient threshold {rule.gradient_threshold:g}",
        }
