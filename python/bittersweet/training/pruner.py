"""`Pruner`: prunes a torch model while it trains, and keeps it pruned."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import ArgumentError, Error
from ..model.binding import bind, masks_of
from ..model.gathering import reshard
from ..model.mask_view import MaskView
from ..model.targets import Plan
from ..optimizers.optimizers import Optimizers
from ..options import keywords
from ..options.regrowth import Regrowth
from ..options.schedules import Schedule
from ..options.scopes import Scope
from ..options.scorers import Scorer
from ..options.selectors import Selector
from ..options.values import shown
from ..select.events import MaskEvent, MaskHistory
from ..steps.starting import start
from .apply_to import apply_masks_to
from .assembly import assemble
from .from_zeros import take_zeros
from .report import PruneReport, Sparsity, count_sparsity, plot, report_of
from .rewinding import rewind
from .saving import restore, saved, saved_whole

if TYPE_CHECKING:
    import torch

    from ..distributed.shards import Shard
    from ..trackers.base import Tracker

__all__ = ["Pruner"]


class Pruner:
    """Prunes `model` by `schedule` while it trains, and keeps pruned weights at exactly 0.

    Call `step` after every ``optimizer.step()`` and before ``zero_grad()``, or `attach` it to the optimizer.
    Masks live here, one bit per element. Which names are pruned is settled here (see `plan`), and parameters
    are looked up by name every time. Wrappers (torch.compile, DDP) are seen through.

    Args:
        model: The model. Wrapped or not.
        optimizer: The torch optimizer that trains it, or a list of several (Muon and AdamW, say), whose state
            most scorers read (not magnitude, random, gradient and taylor). Parameters that it does not hold
            are not pruned. Where one wraps another, give the one whose ``step()`` you call.
        scorer: A name or an object. ``"bitter4"`` alone means scope ``"tensor"`` with ``"layer_adaptive"``
            too. Scorers with a memory (bitter10, bitter10s, bitter10c, movement) are fed on every step.
        schedule: When to prune, and how much: a schedule, or a function ``step -> (due, sparsity)``; or
            ``{glob: schedule}``, where each target follows the first glob that it meets, with a threshold of
            its own, and others stay dense. None: masks of `load_masks` or `from_zeros` are held.
        selector, scope, distribution: How the threshold is found, who competes with whom, and how much each
            tensor gives; see `make_masks`.
        targets: Globs of names, modules or module types that narrow the choice; see `targets.find_targets`.
        ignore: The same, for what is to be left alone.
        in_dim: Axes of the inputs, by the same patterns, for parameters whose class does not say them.
        max_tensor_sparsity: Cap per tensor under a global threshold.
        tensor_sparsity: Ranges under a global threshold, ``{glob: (low, high)}`` or ``{glob: share}``, as in
            `make_masks`. Upper shares hold at every event; lower ones are reached when the schedule ends, and
            at events before it in proportion to what is pruned by then.
        mask_optimizer_state: Zero ``exp_avg``, ``exp_avg_sq``, ``max_exp_avg_sq`` of pruned weights as well.
            In the optimizer's step: of newly pruned ones by the next step, or ``state_dict()`` before it.
        hold: How pruned weights stay 0 between events. ``"step"``: the optimizer's own step leaves them at 0,
            at no cost: with `bittersweet.optim`. ``"weights"`` writes the zeros again after every step, to
            the weights and to copies of them that known optimizers write back: with any optimizer.
            ``"auto"``: in the step where the optimizer can, else ``"weights"``; all three give the same bits
            (docs/training.md has the limits), and are one configuration in checkpoints. ``"grads"`` zeroes
            gradients before every ``optimizer.step()`` instead, at a third of the memory traffic; all
            per-element state of newly pruned weights (momentum too) is zeroed at the event, and the zeros are
            verified at the next one. It needs an optimizer that is known to update element by element.
        regrow: False: what is pruned stays pruned. `RigL` or `SET`: at every event some live weights are
            dropped and as many places opened by another score, by gradient or at random (docs/regrowth.md).
            True: pruned weights compete again at each event, with the scorer's value of what is in them then.
            A reopened weight starts from 0.
        missing: A target without what the scorer reads is an ``"error"``, or left dense (``"skip"``).
        nonfinite, ties, seed: As in `make_masks`.
        sync: On CUDA: whether the numbers of an event are read at once, for which `step` waits at events.
            False: they are read when they are looked at; a NaN score then raises there, and until then the
            masks have stayed as they were.
        input_norms: Norms by parameter name for scorer ``"wanda"``, as `Calibrator.norms` gives them; they
            are copied. A resumed pruner must be given the same ones.
        process_group: The ranks that decide together (docs/distributed.md): all that hold a target, or a part
            of one. Making the pruner is then collective, and so is `step` when an event is due. None: the
            default group if a parameter is a DTensor (fully_shard, tensor parallelism), else this process
            alone, which is right for plain DistributedDataParallel too; given, it is proved at every event
            that replicas are equal.
        order: Over ranks, the names of all targets in the order that decides among equal scores. None: of
            first appearance by (rank, position on the rank).
        shards: Over ranks, by the patterns of `targets`: a `Shard` for each plain parameter that is a part of
            a whole one (experts that are spread over ranks, Megatron's layers).

    Raises:
        ArgumentError: Bad options, or nothing to prune. Most of what could fail at an event fails here.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        *,
        scorer: str | Scorer = "bitter7",
        schedule: Schedule | Callable[[int], tuple[bool, float]] | Mapping[str, Any] | None = None,
        selector: str | Selector = "exact",
        scope: str | Scope = "global",
        distribution: str | None = None,
        targets: Any = None,
        ignore: Any = None,
        in_dim: Mapping[Any, int] | None = None,
        max_tensor_sparsity: float | None = None,
        tensor_sparsity: Mapping[str, float | tuple[float, float]] | None = None,
        mask_optimizer_state: bool = True,
        hold: str = "auto",
        regrow: bool | Regrowth = False,
        missing: str = "error",
        nonfinite: str = "error",
        ties: str | None = None,
        sync: bool = True,
        seed: int = 0,
        input_norms: Mapping[str, Any] | None = None,
        process_group: torch.distributed.ProcessGroup | None = None,
        order: Sequence[str] | None = None,
        shards: Mapping[Any, Shard] | None = None,
        **unknown: NoReturn,
    ) -> None:
        keywords.refuse(Pruner, unknown)
        self._loop = assemble(
            model, optimizer, scorer, targets, ignore, in_dim, sync, input_norms,
            process_group=process_group, order=order, shards=shards,
            schedule=schedule, selector=selector, scope=scope, distribution=distribution,
            max_tensor_sparsity=max_tensor_sparsity, tensor_sparsity=tensor_sparsity,
            mask_optimizer_state=mask_optimizer_state, hold=hold, regrow=regrow, missing=missing,
            nonfinite=nonfinite, ties=ties, seed=seed,
        )  # fmt: skip

    def start(self, sparsity: float | None = None, scorer: str | Scorer = "random") -> MaskEvent:
        """Makes the first masks at once, before training: a sparse start. Who competes with whom, and how
        much each tensor gives, is what the pruner was given (scope, distribution).

        Their zeros are written, and the event is recorded as that of step 0. With ``schedule=None`` they are
        what is held: static sparse training. Not for a run that goes on: its masks come with
        `load_state_dict`, and zeros written here into loaded weights would stay. COLLECTIVE OVER RANKS.

        Args:
            sparsity: The share to prune, 0 to 1. None: what the schedule begins with (that of each glob).
            scorer: What is kept: ``"random"`` places (from the pruner's seed), large weights
                (``"magnitude"``), or, if a backward() has been, ``"gradient"`` and ``"taylor"``.

        Raises:
            ArgumentError: No share is given or known, or the schedule begins with 0; or the scorer reads what
                there is not yet.
            MissingStateError: The scorer reads gradients, and there are none.
            Error: There are masks already, or steps have been taken.
        """
        event: MaskEvent = self._loop.eagerly(start, self._loop, sparsity, scorer)
        return event

    def step(self, *misplaced: NoReturn, skipped: bool = False, **unknown: NoReturn) -> MaskEvent | None:
        """One training step has been taken: holds the masks, and makes new ones if the schedule says so.

        Steps are the calls of this function, from 1. An event fires if a step on which the schedule is due
        lies after the last call that could fire, up to this one, and is returned. A call that does not follow
        exactly one ``optimizer.step()`` is warned of, once.

        OVER RANKS THIS IS COLLECTIVE WHEN AN EVENT IS DUE: all ranks of the group call it. Between events
        nothing is exchanged.

        Args:
            skipped: The optimizer skipped its step (GradScaler found infinities). The call counts and holds
                the masks; an event that is due waits for the next call. By keyword, a bool.

        Raises:
            ArgumentError: Anything else than `skipped` was given: the pruner counts steps itself.
            MissingStateError: A target lacks what the scorer reads, under ``missing="error"``; or all do.
            NonFiniteScoreError: A score is NaN, under ``nonfinite="error"``.
            LayoutError: fully_shard has parameters gathered: after an evaluation, or before backward.
            DistributedError: Ranks disagree, replicas differ, or another rank failed.
            Error: After `finalize`; while attached; without schedule and masks; or if pruned weights left
                zero under ``hold="grads"``.
        After any error weights, state, masks and the step count are as they were, at an event on all ranks,
        which all raise it.
        """
        if misplaced or unknown or not isinstance(skipped, bool):
            found = ", ".join(map(shown, (*misplaced, *unknown))) or f"skipped={shown(skipped)}"
            raise ArgumentError(
                f"step: found {found}; accepted: skipped=True or skipped=False, by keyword. The pruner "
                "counts steps itself: call step() without arguments"
            )
        if self._loop.attached:
            raise Error(
                "attached: optimizer.step() calls this pruner. Do not call step() too, or detach() it"
            )
        event: MaskEvent | None = self._loop.eagerly(self._loop.advance, skipped)
        return event

    @property
    def steps(self) -> int:
        """Training steps so far: calls of `step`, or optimizer steps while attached; saved and restored."""
        return self._loop.step

    def attach(self) -> Pruner:
        """Runs `step` after every ``optimizer.step()``, for loops that a trainer owns; twice is once.

        With several optimizers a step is counted when all have stepped; the masks are held after each. A step
        that GradScaler skips on the host is not counted; one that a fused optimizer skips counts as
        ``skipped``. Returns the pruner itself. `detach` or `finalize` undoes it.

        Raises:
            ArgumentError: There is no optimizer.
            Error: After `finalize`.
        """
        self._loop.attach()
        return self

    def detach(self) -> None:
        """Undoes `attach`: `step` is called by hand again. Does nothing if not attached."""
        self._loop.detach()

    def replace_optimizer(self, optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> None:
        """Goes on with another optimizer, or several, for the same model: scores are read from its state,
        zeros are written to it at once, and hooks move. Targets that it does not hold stay as they are.

        Raises:
            ArgumentError: None, or one that the scorer or ``hold`` does not go with. Nothing has changed.
            Error: After `finalize`.
        """
        self._loop.replace_optimizers(Optimizers.of(optimizer))

    def plan(self) -> Plan:
        """What is pruned and what not, and why; prints as a table."""
        return self._loop.plan

    @property
    def masks(self) -> MaskView:
        """The masks now, by parameter name; of DTensors as DTensors."""
        loop, weight = self._loop, self._loop.weight
        return MaskView(loop.plan, loop.keeper.masks, None if weight is None else weight.device)

    @property
    def history(self) -> MaskHistory:
        """The mask events so far; with ``sync=False`` they are read now, and void ones are taken out."""
        self._loop.history.settle()
        return self._loop.history

    @property
    def tracker(self) -> Tracker | None:
        """What a scorer with a memory remembers, fed by `step`; None with any other scorer."""
        return self._loop.tracker

    def sparsity(self) -> Sparsity:
        """Mask bits and actual zeros in the weights now, over all targets and per tensor; over ranks, in what
        this rank holds (events have the numbers of the whole model). Not collective."""
        loop = self._loop
        reshard(loop.model)
        return count_sparsity(bind(loop.model, None, loop.plan.targets), loop.keeper.masks)

    def report(self) -> PruneReport:
        """Settings, events and sparsity now; prints as tables, `to_dict` for JSON."""
        return report_of(self._loop)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Writes a PNG: sparsity over steps and per tensor, milliseconds per event. Needs matplotlib."""
        plot(self.report(), path)

    def mask_grads_(self) -> None:
        """Zeroes the gradients of pruned weights, in one pass; before clipping, for example.

        Parameters without a gradient are passed over; a sparse one is a LayoutError. With ``hold="grads"``
        this happens before every optimizer step, in its closure too. Before an event of `RigL` it warns.
        """
        self._loop.eagerly(self._loop.mask_grads)

    def finalize(self) -> PruneReport:
        """Holds the masks once more, verifies that every pruned weight is 0, and removes all hooks.

        Before it writes, it counts the pruned weights that are not 0: the report has them, and a warning
        names them. So it does with a schedule that was not finished. Returns the report. A later `step`
        raises; calling this again returns the report again. Over ranks each does it for what it holds, and
        parameters that fully_shard has gathered are put back.

        Raises:
            Error: A pruned weight is not 0 even after it was written.
        """
        self._loop.eagerly(self._loop.finalize)
        return self.report()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, for ``torch.load(weights_only=True)``, on the CPU; see `checkpoint`.

        Over ranks: of what this rank holds; masks of DTensors as DTensors, where these are, for
        torch.distributed.checkpoint. Not collective.
        """
        return saved(self._loop)

    def full_state_dict(self) -> dict[str, Any]:
        """The state of the whole model as a single process has it, on the first rank of the group; empty on
        the others. Collective; without a group what `state_dict` gives.

        `load_state_dict` takes it on any number of ranks, given to all of them.

        Raises:
            Error: The scorer has a memory, which is not gathered.
        """
        return saved_whole(self._loop)

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Takes over a saved state and writes the zeros of its masks at once; load the model first.

        With model and optimizer restored too, training goes on bit for bit as if it had not stopped. Over
        ranks each takes its part of whole masks; parameters that fully_shard has gathered are put back first.
        Not collective.

        Args:
            state: What `state_dict` returned, of this model under any wrapper.
            strict: A different configuration is an error; False continues with the new one.

        Raises:
            CheckpointError: Naming what differs. Nothing has been changed.
        """
        restore(self._loop, state, strict)

    def load_masks(self, masks: Mapping[str, Any]) -> None:
        """Takes over masks made elsewhere, such as `GradientProbe.masks`, and writes their zeros at once.

        Args:
            masks: By parameter name: `Mask` objects or bool arrays, True = keep; of DTensors whole ones, of
                which each rank takes its part, or DTensors laid out alike. A target that is not named keeps
                the mask it has.

        Raises:
            ArgumentError, ShapeError, DTypeError, DeviceError, LayoutError: Nothing has been changed.
        """
        loop = self._loop
        loop.require_open()
        loop.gathering.require_sharded()
        loop.keeper.apply({**loop.keeper.masks, **masks_of(loop.plan.targets, masks)})

    def rewind_to(self, state: Mapping[str, torch.Tensor], *, optimizer: Any = "fresh") -> None:
        """Writes the weights of an early step into the model, under the masks of now: what is pruned stays 0.

        For lottery tickets (docs/training.md): train, prune, rewind, repeat. All parameters and saved buffers
        are written, biases and norms too, in place, so that each has its autograd version raised. Steps,
        schedule, masks and history of the pruner go on as they are, and so do gradients, learning rate
        schedulers and random generators, which are the caller's.

        Args:
            state: Copies of the model's tensors by name, as ``model.state_dict()`` names them, of the same
                shapes and dtypes, on any device; prefixes of wrappers are understood, and of tied weights one
                name is enough. Over ranks: DTensors laid out like the model's. Not collective.
            optimizer: ``"fresh"`` empties the state of the optimizers, as before their first step; their
                options stay. ``"keep"`` leaves it. A state dict (of several optimizers: a list) is loaded,
                options included, and zeroed where the masks say so.

        Raises:
            ArgumentError, ShapeError, DTypeError, LayoutError: A name, a shape, a dtype, a layout or the
                optimizer's state does not fit; the state is the model's own memory; or the optimizer keeps
                copies of the weights. Nothing has been changed.
            Error: After `finalize`, or with a scorer that has a memory.
        """
        self._loop.eagerly(rewind, self._loop, state, optimizer)

    @classmethod
    def from_zeros(
        cls,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        *,
        min_sparsity: float = 0.01,
        **options: Any,
    ) -> Pruner:
        """A pruner that takes over the zeros of a sparse model and keeps them while it is trained on.

        An element is pruned if it is +0 or -0, in targets whose share of zeros is at least `min_sparsity`;
        `plan` lists which. Over ranks shares are those of whole tensors. With a schedule among the `options`
        (those of the class) pruning goes on from there.

        Raises:
            ArgumentError: No target has that many zeros; and as the class.
        """
        pruner = cls(model, optimizer, **options)
        take_zeros(pruner._loop, min_sparsity)
        return pruner

    def apply_to(self, module: torch.nn.Module) -> Sparsity:
        """Writes the zeros of the masks into another module of the same names, such as an EMA copy; prefixes
        of wrappers are understood. Returns mask bits and zeros of what was written.

        Raises:
            ArgumentError, ShapeError, DTypeError, DeviceError, LayoutError: Nothing has been written.
        """
        loop = self._loop
        aliases = {entry.name: entry.aliases for entry in loop.plan.targets}
        return apply_masks_to(module, loop.keeper.masks, aliases)

    def __repr__(self) -> str:
        return f"<Pruner of {self._loop}; print(pruner.report()) says more>"
