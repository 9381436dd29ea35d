"""`Pruner`: prunes a torch model while it trains, and keeps it pruned."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, Error
from ..model.binding import Bound, bind, companion_items, competitors, element_items, masks_of
from ..model.compilation import outside_of_compilation
from ..model.mask_view import MaskView
from ..optimizers.optimizers import MOMENTS, Optimizers
from ..model.targets import Plan, find_targets, lookup, unwrap
from ..options.schedules import Schedule
from ..options.scopes import Scope
from ..options.scorers import Scorer
from ..options.selectors import Selector
from ..select.events import MaskEvent, MaskHistory
from ..select.functional import count_violations
from ..tensors import devices
from ..tensors.lazy import is_unread, lazily
from ..tensors.masks import Mask, kept_counts
from ..wanda.input_norms import InputNorms
from . import checkpoint, remembering, report
from .holding import Holder, kept_by_both
from .report import PruneReport, Sparsity, count_sparsity
from .settings import Settings

if TYPE_CHECKING:
    import torch

    from ..trackers.base import Tracker

__all__ = ["Pruner"]


class Pruner:
    """Prunes `model` by `schedule` while it trains, and keeps pruned weights at exactly 0.

    Call `step` after every ``optimizer.step()`` and before ``zero_grad()``, or `attach` it to the optimizer.
    Masks live here, one bit per element, never in ``optimizer.state``. Parameters are looked up by name every
    time; which names are pruned is settled here (see `plan`). Wrappers (torch.compile, DDP) are seen through.

    Args:
        model: The model. Wrapped or not.
        optimizer: The torch optimizer that trains it, whose state most scorers read (not magnitude, random,
            gradient and taylor). Parameters that it does not hold are not pruned.
        scorer: A name or an object. ``"bitter4"`` alone means scope ``"tensor"`` with ``"layer_adaptive"``
            too. Scorers with a memory (bitter10, bitter10s, bitter10c, movement) are fed on every step.
        schedule: When to prune, and how much.
        selector: How the threshold is found; a name or an object.
        scope: Who competes with whom: ``"global"``, ``"tensor"``, ``"row"``, ``"N:M"``, or an object.
        distribution: How much each tensor gives, for scopes other than global; see `make_masks`.
        targets: Globs of names, modules or module types that narrow the choice; see `targets.find_targets`.
        ignore: The same, for what is to be left alone.
        max_tensor_sparsity: Cap per tensor under a global threshold.
        mask_optimizer_state: Zero ``exp_avg``, ``exp_avg_sq`` and ``max_exp_avg_sq`` of pruned weights as
            well.
        hold: Between events, ``"weights"`` writes the zeros again after every step, which is right for every
            optimizer. ``"grads"`` zeroes gradients before every ``optimizer.step()`` instead, at a third of
            the memory traffic; all per-element state of newly pruned weights (momentum too) is zeroed at the
            event, and the zeros are verified at the next one. It needs an optimizer that is known to update
            element by element.
        regrow: Pruned weights compete again at each event, with the score of what is in them then; a reopened
            weight starts from 0. False: what is pruned stays pruned.
        missing: A target without the state that the scorer reads is an ``"error"``, or is left dense and
            listed in the event (``"skip"``).
        nonfinite: A NaN score is an ``"error"``, or that weight is kept and counted (``"keep"``).
        ties: See `make_masks`.
        sync: On CUDA: whether the numbers of an event are read at once, for which `step` waits for the device
            at events and never between them. False: they are read when a field of the event is looked at (or
            the history, the report, or what is saved), and nothing waits before; a NaN score then raises
            there, and until then the masks have stayed as they were. On the CPU always at once.
        seed: For scorer ``"random"`` and for selectors that sample.
        input_norms: Norms by parameter name for scorer ``"wanda"``, as `Calibrator.norms` gives them. They
            are copied, and used at every event; a resumed pruner must be given the same ones.

    Raises:
        ArgumentError: A bad option, options that exclude each other, a pattern that matches nothing, or
            nothing to prune. Most of what could fail at the first event fails here.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        scorer: str | Scorer = "bitter7",
        schedule: Schedule,
        selector: str | Selector = "exact",
        scope: str | Scope = "global",
        distribution: str | None = None,
        targets: Any = None,
        ignore: Any = None,
        max_tensor_sparsity: float | None = None,
        mask_optimizer_state: bool = True,
        hold: str = "weights",
        regrow: bool = False,
        missing: str = "error",
        nonfinite: str = "error",
        ties: str | None = None,
        sync: bool = True,
        seed: int = 0,
        input_norms: Mapping[str, Any] | None = None,
    ) -> None:
        if sync not in (True, False):
            raise ArgumentError(f"sync: {sync!r}; accepted: True, False")
        self._sync = sync
        self._model = unwrap(model)
        self._optimizers = Optimizers.of(optimizer)
        self._norms = InputNorms(input_norms)
        self._settings = Settings.checked(
            self._optimizers,
            scorer,
            schedule=schedule,
            selector=selector,
            scope=scope,
            distribution=distribution,
            max_tensor_sparsity=max_tensor_sparsity,
            mask_optimizer_state=mask_optimizer_state,
            hold=hold,
            regrow=regrow,
            missing=missing,
            nonfinite=nonfinite,
            ties=ties,
            seed=seed,
            norms_digest=self._norms.digest(),
        )
        self._plan = find_targets(
            self._model, self._optimizers or None, targets, ignore, self._settings.describe()
        )
        self._settings.check_shapes(self._plan.targets)
        parameters = [one.parameter for one in bind(self._model, None, self._plan.targets)]
        self._settings.check_devices(parameters)
        if missing == "error":
            call = self._settings.call
            self._optimizers.require_state(call.reads, call.name, parameters)
        self._norms.check(self._plan.targets, skip=missing == "skip")
        self._tracker = remembering.make_tracker(
            scorer, self._settings.seed, self._model, self._optimizers, self._plan.targets
        )
        self._eagerly = outside_of_compilation()
        self._step = 0
        self._fired = 0
        self._masks: dict[str, Mask] = {}
        self._ordered: tuple[Mask, ...] = ()
        self._history = MaskHistory()
        self._finalized = False
        self._attached: Any = None
        self._gradient_hooks: list[Any] = []
        self._roles = ("weight", *MOMENTS) if mask_optimizer_state else ("weight",)
        self._holder = Holder(self._roles)
        self._copy_holder = Holder(("weight",))
        self._gradient_holder = Holder(("grad",))
        if hold == "grads":
            self._gradient_hooks = [
                one.register_step_pre_hook(lambda *_: self.mask_grads_()) for one in self._optimizers.outer
            ]

    def step(self, skipped: bool = False) -> MaskEvent | None:
        """One training step has been taken: holds the masks, and makes new ones if the schedule says so.

        Steps are the calls of this function, from 1. An event fires if a step on which the schedule is due
        lies after the last call that could fire, up to this one.

        Args:
            skipped: The optimizer skipped its step (GradScaler found infinities). The call counts and holds
                the masks; an event that is due waits for the next call.

        Returns:
            The event, or None.

        Raises:
            MissingStateError: A target lacks what the scorer reads, under ``missing="error"``.
            NonFiniteScoreError: A score is NaN, under ``nonfinite="error"``.
            Error: After `finalize`; while attached; or if pruned weights left zero under ``hold="grads"``.
        After any error weights, state, masks and the step count are as they were.
        """
        if self._attached is not None:
            raise Error(
                "attached: optimizer.step() calls this pruner. Do not call step() too, or detach() it"
            )
        event: MaskEvent | None = self._eagerly(self._advance, skipped)
        return event

    def attach(self) -> Pruner:
        """Runs `step` after every ``optimizer.step()``, for loops that a trainer owns; twice is once.

        A step that GradScaler skips on the host does not reach the optimizer and is not counted; one that a
        fused optimizer skips counts as ``skipped``. Returns the pruner itself. `detach` or `finalize` undoes
        it.

        Raises:
            ArgumentError: There is no optimizer.
            Error: After `finalize`.
        """
        self._require_open()
        if not self._optimizers:
            raise ArgumentError("attach: no optimizer. Pass one to Pruner, or call step() in the loop")
        if self._attached is None:
            self._attached = self._optimizers.outer[0].register_step_post_hook(self._after_optimizer_step)
        return self

    def detach(self) -> None:
        """Undoes `attach`: `step` is called by hand again. Does nothing if not attached."""
        if self._attached is not None:
            self._attached.remove()
            self._attached = None

    def plan(self) -> Plan:
        """What is pruned and what not, and why; prints as a table. Settled when the pruner was made."""
        return self._plan

    @property
    def masks(self) -> MaskView:
        """The masks now, by parameter name."""
        return MaskView(self._plan, self._masks, lookup(self._model, self._plan.targets[0]).device)

    @property
    def history(self) -> MaskHistory:
        """The mask events so far. With ``sync=False`` they are read now, which may raise NonFiniteScoreError
        for an event not looked at before, and void ones are taken out."""
        self._history.settle()
        return self._history

    @property
    def tracker(self) -> Tracker | None:
        """What a scorer with a memory remembers, fed by `step`; None with any other scorer."""
        return self._tracker

    def sparsity(self) -> Sparsity:
        """Mask bits and actual zeros in the weights now, over all targets and per tensor."""
        return count_sparsity(bind(self._model, None, self._plan.targets), self._masks)

    def report(self) -> PruneReport:
        """Settings, events and sparsity now; prints as tables, `to_dict` for JSON."""
        sparsity, history = self.sparsity(), MaskHistory(self.history)
        settings = {**self._settings.describe(), **remembering.describe(self._tracker)}
        return PruneReport(settings, self._step, sparsity, history, self.masks.nbytes, self._finalized)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Writes a PNG: sparsity over steps and per tensor, milliseconds per event. Needs matplotlib."""
        report.plot(self.report(), path)

    def mask_grads_(self) -> None:
        """Zeroes the gradients of pruned weights, in one pass; before clipping, for example.

        Parameters without a gradient are passed over. With ``hold="grads"`` this happens before every
        optimizer step.

        Raises:
            LayoutError: A gradient is sparse.
        """
        self._eagerly(self._mask_grads)

    def finalize(self) -> PruneReport:
        """Holds the masks once more, verifies that every pruned weight is 0, and removes all hooks.

        Returns the report. A later `step` raises; calling this again returns the report again.

        Raises:
            Error: A pruned weight is not 0.
        """
        if not self._finalized:
            self._apply(self._masks, {})
            self._verify("finalize() has just written the zeros, so that something else writes this memory")
            self.detach()
            if self._tracker is not None:
                self._tracker.detach()
            for hook in self._gradient_hooks:
                hook.remove()
            self._finalized = True
        return self.report()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, for ``torch.load(weights_only=True)``, on the CPU; see `checkpoint`."""
        words = {name: mask.to_host() for name, mask in self._masks.items()}
        events = [event.to_dict() for event in self.history]
        config = self._settings.to_config()
        tracked = None if self._tracker is None else self._tracker.state_dict()
        return checkpoint.pack(config, self._plan.targets, self._step, self._fired, words, events, tracked)

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Takes over a saved state and writes the zeros of its masks at once, where the model is now.

        With model and optimizer restored too, training goes on bit for bit as if it had not stopped.

        Args:
            state: What `state_dict` returned, of this model under any wrapper.
            strict: A different configuration is an error; False continues with the new one.

        Raises:
            CheckpointError: Naming what differs. Nothing has been changed.
        """
        self._require_open()
        restored = checkpoint.validate(state, self._settings.to_config(), self._plan.targets, strict)
        shapes = {entry.name: entry.shape for entry in self._plan.targets}
        device = devices.runtime.index_of(lookup(self._model, self._plan.targets[0]))
        masks = {
            name: Mask(words, shapes[name], name, "torch").to(device)
            for name, words in restored.masks.items()
        }
        adopt = remembering.checked(self._tracker, state.get("tracker"), strict)
        self._apply(masks, {})
        adopt()
        self._step, self._fired, self._history = restored.step, restored.fired, restored.history

    def load_masks(self, masks: Mapping[str, Any]) -> None:
        """Takes over masks made elsewhere, such as `GradientProbe.masks`, and writes their zeros at once.

        Args:
            masks: By parameter name: `Mask` objects or bool arrays, True = keep. A target that is not named
                keeps the mask it has.

        Raises:
            ArgumentError, ShapeError, DTypeError, DeviceError, LayoutError: Nothing has been changed.
        """
        self._require_open()
        self._apply({**self._masks, **masks_of(self._plan.targets, masks)}, {})

    def _mask_grads(self) -> None:
        if self._masks:
            items = [one.inputs(("grad",)) for one in self._bind(self._masks, None)]
            self._gradient_holder.apply(items, self._ordered)

    def _advance(self, skipped: bool) -> MaskEvent | None:
        self._require_open()
        now = self._step + 1
        due = None if skipped else self._settings.schedule.last_due(self._fired, now)
        event = None
        if self._tracker is not None and not skipped and self._tracker.follows_step:
            self._tracker.observe(now, self._masks)  # before masks: writing zeros is no training
        if due is not None:
            event = self._fire(now, due[1])
            self._history.append(event)
        elif self._masks and self._settings.hold == "weights":
            bound = self._bind(self._masks, self._optimizers)
            self._holder.apply([one.inputs(self._roles) for one in bound], self._ordered)
            self._copy_holder.apply(*companion_items(self._optimizers, bound, self._masks))
        self._step = now
        if not skipped:
            self._fired = now
        return event

    def _fire(self, now: int, sparsity: float) -> MaskEvent:
        started = time.perf_counter()
        if self._settings.hold == "grads":
            self._verify("something other than the optimizer wrote them, or an optimizer state was replaced")
        reads, skip = self._settings.call.reads, self._settings.missing == "skip"
        answers = {} if self._tracker is None else self._tracker.answers()
        bound = bind(self._model, self._optimizers, self._plan.targets, reads)
        inputs, skipped = competitors(bound, reads, self._masks, self._norms, answers, skip)
        made = self._settings.select(inputs, sparsity, self._sync)
        assert made.event is not None
        self._apply({**self._masks, **{mask.name: mask for mask in made}}, self._masks)
        spent, masks = 1e3 * (time.perf_counter() - started), self._ordered

        def event(made: MaskEvent) -> MaskEvent:
            overall = None
            if skipped:
                elements = sum(entry.numel for entry in self._plan.targets)
                dead = sum(mask.numel for mask in masks) - sum(kept_counts(masks))
                overall = dead / elements if elements else 0.0
            made = replace(made, step=now, milliseconds=spent)
            return replace(made, skipped=tuple(skipped), achieved_sparsity_all=overall)

        found = made.event
        return lazily(MaskEvent, lambda: event(found)) if is_unread(found) else event(found)

    def _apply(self, masks: Mapping[str, Mask], former: Mapping[str, Mask]) -> None:
        """Writes zeros by `masks` and then makes them the pruner's own; a failure changes nothing.

        What `former` masks prune is written too: a weight that is reopened starts from 0.
        """
        ordered = {entry.name: masks[entry.name] for entry in self._plan.targets if entry.name in masks}
        bound = self._bind(ordered, self._optimizers)
        items, writing = [one.inputs(self._roles) for one in bound], list(ordered.values())
        if self._settings.regrow:
            writing = [kept_by_both(mask, former.get(mask.name)) for mask in writing]
        if self._settings.hold == "grads":
            extra, chosen = element_items(self._optimizers, bound, {mask.name: mask for mask in writing})
            items, writing = items + extra, writing + chosen
        copies, over = companion_items(self._optimizers, bound, {mask.name: mask for mask in writing})
        self._holder.apply(items + copies, writing + over)
        self._masks, self._ordered = ordered, tuple(ordered.values())

    def _bind(self, masks: Mapping[str, Mask], optimizer: Optimizers | None) -> list[Bound]:
        return bind(self._model, optimizer, [entry for entry in self._plan.targets if entry.name in masks])

    def _verify(self, why: str) -> None:
        if not self._masks:
            return
        items = [one.inputs(()) for one in self._bind(self._masks, None)]
        counts = count_violations(items, list(self._ordered))
        bad = {name: count for name, count in counts.items() if count}
        if bad:
            listed = ", ".join(f"{count:,} in '{name}'" for name, count in bad.items())
            raise Error(f"pruned weights are not 0 ({listed}): {why}. hold='weights' repairs that")

    def _after_optimizer_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._eagerly(self._advance_after, optimizer)

    def _advance_after(self, optimizer: torch.optim.Optimizer) -> None:
        # GradScaler leaves this for fused optimizers, which skip the step by themselves.
        found = getattr(optimizer, "found_inf", None)
        self._advance(skipped=found is not None and bool(found))

    def _require_open(self) -> None:
        if self._finalized:
            raise Error("this pruner is finalized and holds no masks any more. Make a new Pruner to go on")
