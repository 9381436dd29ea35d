"""A pruner at work: one training step after the other, hooks included. `Pruner` is its public face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import notices
from ..distributed.shards import local
from ..errors import ArgumentError, Error
from ..model.gathering import Gathering, reshard
from ..model.plan import find
from ..optimizers.compilation import outside_of_compilation
from ..optimizers.hooks import listen
from ..select.events import MaskEvent, MaskHistory
from ..tensors.masks import kept_counts
from .competing import Competition, Competitors
from .firing import fire, group_targets, listed, require_zeros
from .keeping import Keeper
from .sampling import ZeroSample
from .selecting import InStep
from .watching import Watch

if TYPE_CHECKING:
    import torch

    from ..model.targets import Plan
    from ..optimizers.optimizers import Optimizers
    from ..trackers.base import Tracker
    from ..training.settings import Settings
    from ..wanda.input_norms import InputNorms
    from .ranks import Ranks

__all__ = ["Loop"]


class Loop:
    """What changes while a pruner works, and every step of it. A listener of the optimizers (`hooks`).

    Attributes:
        step: Steps so far.
        fired: Due steps up to here have been served.
        history: The events so far.
        violations: What `finalize` found not to be 0 before it wrote, by name.
        unfinished: What `finalize` found missing of the schedule, as a sentence; None if nothing.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Optimizers,
        plan: Plan,
        settings: Settings,
        norms: InputNorms,
        tracker: Tracker | None,
        sync: bool,
        ranks: Ranks | None = None,
    ) -> None:
        self.model, self.optimizers, self.plan, self.settings = model, optimizers, plan, settings
        self.norms, self.tracker, self.sync, self.ranks = norms, tracker, sync, ranks
        self.keeper = Keeper(
            model,
            optimizers,
            plan.targets,
            moments=settings.mask_optimizer_state,
            in_step=settings.hold in ("auto", "step"),
            all_state=settings.hold == "grads",
            regrow=settings.regrow is not False,
            afresh=settings.growth is not None,
        )
        self.step = self.fired = 0
        self.history = MaskHistory()
        self.attached = self.finalized = False
        self.violations: dict[str, int] = {}
        self.unfinished: str | None = None
        self.gathering = Gathering(model)
        self._begin()
        self.watch.meet_others()

    def _begin(self) -> None:
        self.eagerly = outside_of_compilation()
        self.watch = Watch(self.optimizers, self.model, self.plan.targets)
        self._compete()
        self._sample: ZeroSample | None = None
        self._stepped: set[int] = set()
        self._skipped = False
        self._observed = (-1, -1)
        self._handles: list[Any] = []
        self._listen()

    def _compete(self) -> None:
        self._competition = Competition(
            self.model,
            self.optimizers,
            self.plan,
            self.settings,
            self.norms,
            self.tracker,
            self.keeper,
            self.watch,
            () if self.ranks is None else self.ranks.elsewhere,
        )
        plain = self.ranks is None and self.settings.growth is None
        self._in_step = InStep(self._competition, self.settings, self.keeper, possible=plain)

    def __getstate__(self) -> dict[str, Any]:
        """Hooks, and what torch.compile must not see, are left behind: a copy makes its own."""
        left = (
            "eagerly",
            "gathering",
            "watch",
            "_competition",
            "_in_step",
            "_sample",
            "_stepped",
            "_skipped",
            "_observed",
            "_handles",
        )
        return {key: value for key, value in self.__dict__.items() if key not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.gathering = Gathering(None)  # what fully_shard was given cannot be copied
        self._begin()
        if self.finalized:
            self.watch.end()

    def __str__(self) -> str:
        targets, elements = self.plan.targets, sum(entry.local_numel for entry in self.plan.targets)
        state = "finalized" if self.finalized else "attached" if self.attached else "in training"
        what = f"{len(targets)} tensors, {elements:,} weights"
        return f"{type(self.model).__name__}: {what}, step {self.step:,}, {state}"

    @property
    def weight(self) -> torch.Tensor | None:
        """What this rank holds of the first target, to see where masks belong; None without targets."""
        return local(find(self.model, self.plan.targets[0])) if self.plan.targets else None

    def attach(self) -> None:
        self.require_open()
        if not self.optimizers:
            raise ArgumentError("attach: no optimizer. Pass one to Pruner, or call step() in the loop")
        if not self.attached:
            self.attached = True
            self._listen()
            self.watch.meet_others()

    def detach(self) -> None:
        if self.attached:
            self.attached = False
            self._listen()

    def replace_optimizers(self, optimizers: Optimizers) -> None:
        self.require_open()
        if not optimizers:
            raise ArgumentError("optimizer: None; accepted: an optimizer, or several in a list")
        self.settings.check_optimizers(optimizers)
        if self.ranks is not None and (self.ranks.elsewhere or optimizers.spread()):
            raise ArgumentError(
                "optimizer: which rank keeps the state of which weight is settled when the Pruner is made. "
                "Make a new one, and hand it this one's masks with load_masks(old.masks)"
            )
        self.gathering.require_sharded()
        self.keeper.follow(optimizers)
        if self.tracker is not None:
            self.tracker.follow(optimizers)
        self.optimizers = optimizers
        self._compete()
        self._stepped.clear()
        self._skipped = False
        self.watch.follow(optimizers)
        self._listen()

    def advance(self, skipped: bool = False) -> MaskEvent | None:
        """One training step has been taken; see `Pruner.step`."""
        self.require_open()
        with self.watch.speaking_last():
            return self._advance(skipped)

    def _advance(self, skipped: bool) -> MaskEvent | None:
        now = self.step + 1
        due = None if skipped else self._due(now)
        event = None
        if due is not None:
            event = self._fire(now, due)
            self.history.append(event)
        else:
            self.gathering.require_sharded()
            if not skipped:
                self._observe(now)
            if self.settings.hold != "grads":
                self.keeper.hold(drifted=skipped and self._drifts())
        if self.settings.schedule is None and not self.keeper.masks:
            raise Error(
                "this pruner has neither a schedule nor masks, and prunes nothing. Pass a schedule, such as "
                "PolynomialDecay(0.0, 0.5, begin_step=100, end_step=1000), or give it masks to hold with "
                "load_masks() or Pruner.from_zeros()"
            )
        self.step = now
        if not skipped:
            self.fired = now
        self.watch.called(skipped=skipped, attached=self.attached)
        return event

    def _observe(self, now: int) -> None:
        """Before masks: writing zeros is no training. An event that is tried again is no second step, but one
        that is given up is trained on from."""
        tracker = self.tracker
        if tracker is None or not tracker.follows_step:
            return
        seen, self._observed = self._observed, (now, self.watch.steps)
        if seen != self._observed:
            tracker.observe(None if seen[0] == now else now, self.keeper.masks)

    def finalize(self) -> None:
        """Counts what is not 0 and what is not finished, writes the zeros, verifies them, removes hooks."""
        if self.finalized:
            return
        self.history.settle()
        reshard(self.model)
        self.violations = self.keeper.violations()
        self.unfinished = self._unfinished()
        self.keeper.apply(self.keeper.masks)
        require_zeros(
            self.keeper, "finalize() has just written the zeros, so that something else writes this memory"
        )
        self.retire()
        if self.violations:
            notices.warn(
                f"finalize() found pruned weights that were not 0 ({listed(self.violations)}) and has set "
                "them to 0: something had written them since the last step, so that what was trained or "
                "evaluated before differs from what is left now"
            )
        if self.unfinished:
            notices.warn(self.unfinished)

    def retire(self) -> None:
        """Removes all hooks, for good."""
        self.attached = False
        self.finalized = True
        self.keeper.release()
        self._listen()
        self.watch.end()
        self._compete()
        if self.tracker is not None:
            self.tracker.detach()

    def require_open(self) -> None:
        if self.finalized:
            raise Error("this pruner is finalized and holds no masks any more. Make a new Pruner to go on")

    # What optimizers call; see `hooks.Listener`.

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        drifts = self._drifts()
        self.keeper.before_step(drifts)
        self._in_step.offer(lambda: self._due(self.step + 1))
        if not self.keeper.after_step or self.watch.within_a_step(optimizer) or (self._stepped and drifts):
            return
        if self.gathering.found() is not None:  # step() will say so
            return
        if self._sample is None or self._sample.masks is not self.keeper.ordered_after_step:
            self._sample = ZeroSample(self.model, self.plan.targets, self.keeper.ordered_after_step)
        if self._sample.look():
            found = self.keeper.violations()
            if found:
                self.keeper.apply(self.keeper.masks)
            self._say_zeros(listed(found) or "a few steps ago, on a CUDA device")

    def _say_zeros(self, which: str) -> None:
        self.watch.say(
            "zeros",
            f"pruned weights were not 0 when optimizer.step() began ({which}), and have been set to 0 again; "
            "what ran since the last step used other values. Something writes them in between: an optimizer "
            "or a wrapper that keeps a second copy of the weights, weights loaded after the masks, or a "
            "pruner.step() that does not follow every optimizer.step()",
        )

    def gradients_ready(self, optimizer: torch.optim.Optimizer, evaluation: int) -> None:
        if self.settings.hold == "grads" and not self._drifts():
            self.keeper.mask_grads()

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.watch.step_taken(optimizer)
        if names := self.keeper.violated_in_step():
            self._say_zeros(", ".join(f"'{name}'" for name in names))
        if not self.attached:
            return
        # GradScaler leaves this for fused optimizers, which skip the step by themselves.
        found = getattr(optimizer, "found_inf", None)
        self._skipped |= found is not None and bool(found)
        if id(optimizer) in self._stepped:  # another one was left out or skipped: a new round
            self._stepped.clear()
        self._stepped.add(id(optimizer))
        if len(self._stepped) < len(self.optimizers.outer):
            if self.settings.hold != "grads" and not self._drifts():
                self.keeper.hold()
            return
        skipped, self._skipped = self._skipped, False
        self._stepped.clear()
        self.advance(skipped)

    def _fire(self, now: int, due: dict[str, float]) -> MaskEvent:
        def ready() -> Competitors:
            self.gathering.require_sharded()
            self._observe(now)
            if self.settings.hold == "grads" and self.settings.regrow is not True:
                require_zeros(
                    self.keeper,
                    "something other than the optimizer wrote them, or an optimizer state was replaced",
                )
            return self._competition.gather(together="" in due)

        return fire(
            now,
            due,
            ready=ready,
            competition=self._competition,
            in_step=self._in_step,
            plan=self.plan,
            settings=self.settings,
            keeper=self.keeper,
            watch=self.watch,
            sync=self.sync,
            ranks=self.ranks,
        )

    def _due(self, now: int) -> dict[str, float] | None:
        """The sparsity that is due by `now` and has not been served, by glob ("": all targets)."""
        schedule = self.settings.schedule
        if schedule is None:
            return None
        found = schedule.last_due(self.fired, now)
        by_glob = found if isinstance(found, dict) else {} if found is None else {"": found}
        return {glob: sparsity for glob, (_, sparsity) in by_glob.items()} or None

    def mask_grads(self) -> None:
        """See `Pruner.mask_grads_`."""
        growth = self.settings.regrow
        if "grad" in getattr(growth, "reads", ()) and self.keeper.masks and self._due(self.step + 1):
            self.watch.say(
                "grads",
                f"mask_grads_: a mask event follows in this step, and {type(growth).__name__} opens weights "
                "by the gradients that are 0 now, so that position alone decides. Leave it out in such steps",
            )
        self.keeper.mask_grads()

    def _drifts(self) -> bool:
        """Whether dead weights may move in this optimizer step: they compete again at the event after it."""
        return self.settings.regrow is True and self._due(self.step + 1) is not None

    def _unfinished(self) -> str | None:
        missing = []
        for glob, goal in self.settings.goals.items():
            reached = self._reached(glob)
            if goal is not None and goal[0] > self.fired and goal[1] > reached:
                of = f" of '{glob}'" if glob else ""
                missing.append(
                    f"sparsity {goal[1]:g}{of} was asked for at step {goal[0]:,}, and {reached:.4f} is "
                    "reached"
                )
        never = self.settings.schedule is not None and not any(event.step for event in self.history)
        if never:
            missing.append("no mask event came")
        if not missing:
            return None
        return (
            f"the schedule was not finished: {', '.join(missing)} after {self.step:,} steps. Train for "
            "longer, or end the schedule earlier"
        )

    def _reached(self, glob: str) -> float:
        """The share of the targets of a glob ("": all) that is pruned; over ranks, by the last event."""
        if self.ranks is not None:
            event = self.history[-1] if self.history else None
            if event is None or not glob:
                return 0.0 if event is None else event.achieved_sparsity
            return next(
                (one.groups[glob]["achieved"] for one in self.history[::-1] if glob in one.groups), 0.0
            )
        kept = dict(zip(self.keeper.masks, kept_counts(self.keeper.ordered), strict=True))
        members = group_targets(self.settings.schedule, self.plan)[glob]
        elements = sum(entry.numel for entry in members)
        live = sum(kept.get(entry.name, entry.numel) for entry in members)
        return 1.0 - live / elements if elements else 0.0

    def _listen(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.watch.hooked = not self.finalized and (self.attached or self.settings.hold == "grads")
        if not self.finalized:
            self._handles = listen(self.optimizers.outer, self, keep_alive=self.watch.hooked)
