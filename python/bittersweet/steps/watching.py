"""What a pruner notices about the loop around it, and says once: calls in the wrong place, optimizers that
were replaced, a second pruner on the same weights, parameters that were frozen or freed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import notices
from ..errors import Error, ShapeError
from ..model.targets import Plan, lookup
from ..model.wrappers import is_a
from ..optimizers.hooks import watch_all

if TYPE_CHECKING:
    import torch

    from ..model.binding import Bound
    from ..model.targets import PlanEntry
    from ..optimizers.optimizers import Optimizers

__all__ = ["Watch", "left_alone", "prunes"]

_STATE = frozenset(("exp_avg", "exp_avg_sq", "step", "bias_correction1"))

_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


class Watch:
    """Counts the steps of a pruner's optimizers and the calls of its ``step()``; each warning comes once.

    Attributes:
        hooked: Whether the pruner acts by hooks of its own (attached, or ``hold="grads"``).
        steps: Steps of the pruner's optimizers so far.
    """

    def __init__(self, optimizers: Optimizers, model: torch.nn.Module, entries: Sequence[PlanEntry]) -> None:
        self._model, self._entries = model, entries
        self._said: set[str] = set()
        self._later: list[str] | None = None
        self._calls = self.steps = 0
        self._since: dict[int, int] = {}
        self.hooked = False
        self.follow(optimizers)
        self.begin()

    def begin(self) -> None:
        """From now on sees the steps of other optimizers too, until `end`."""
        if not _watches:
            _everybody.hear()
        _watches.add(self)

    def end(self) -> None:
        """Sees and counts nothing any more."""
        _watches.discard(self)

    def follow(self, optimizers: Optimizers) -> None:
        """What the pruner works with from now on."""
        self._names = tuple(type(one).__name__ for one in optimizers.outer)
        self._own = weakref.WeakSet((*optimizers.outer, *optimizers.inner))
        self._known: set[int] | None = None

    @property
    def _parameters(self) -> set[int]:
        """Looked up when asked for first: a model that is being copied is not whole before."""
        if self._known is None:
            try:
                self._known = {id(lookup(self._model, entry)) for entry in self._entries}
            except Error:  # the next event says what has become of the model
                return set()
        return self._known

    def restart(self) -> None:
        """What was counted since the last call is forgotten: another state has been loaded."""
        self._since = {}

    def say(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            if self._later is None:
                notices.warn(message)
            else:
                self._later.append(message)

    @contextmanager
    def speaking_last(self) -> Iterator[None]:
        """What is said within is warned of at its end: a warning may be turned into an error, which must not
        leave a step half done."""
        self._later = []
        try:
            yield
        finally:
            messages, self._later = self._later, None
            for message in messages:
                notices.warn(message)

    def within_a_step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether others of several optimizers have made this training step already, and this one has not."""
        return bool(self._since) and id(optimizer) not in self._since

    def step_taken(self, optimizer: torch.optim.Optimizer) -> None:
        """One of the pruner's optimizers has stepped."""
        self.steps += 1
        self._since[id(optimizer)] = self._since.get(id(optimizer), 0) + 1

    def called(self, *, skipped: bool, attached: bool) -> None:
        """The pruner's ``step()`` is called, or runs after an optimizer step."""
        self._calls += 1
        taken, self._since = max(self._since.values(), default=0), {}
        if attached or not self._names or (skipped and taken < 2) or taken == 1:
            return
        counts = (
            f"{_times(self._calls, 'call')} of pruner.step() so far and {_times(self.steps, 'step')} of the "
            f"optimizer ({', '.join(self._names)})"
        )
        if taken:
            self.say(
                "order",
                f"pruner.step() was called once for {taken} optimizer steps: {counts}. Call it after every "
                "optimizer.step(): in between, pruned weights are not held at 0",
            )
        elif "foreign" not in self._said:
            self.say(
                "order",
                f"pruner.step() was called and the optimizer has not stepped since: {counts}. Call it after "
                "optimizer.step(), once for each: not before it, not once per micro-batch. After a step that "
                "a GradScaler skipped, call pruner.step(skipped=True). If the optimizer was made anew, give "
                "it to pruner.replace_optimizer()",
            )

    def somebody_stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Any optimizer of this process has stepped."""
        if not self._names or optimizer in self._own or "foreign" in self._said:
            return
        if any(id(one) in self._parameters for group in optimizer.param_groups for one in group["params"]):
            self.say(
                "foreign",
                f"weights that this Pruner prunes have been stepped by another {type(optimizer).__name__} "
                f"than the {', '.join(self._names)} that it was given. If the optimizer was made anew, call "
                "pruner.replace_optimizer(optimizer); if one wraps the other, give the outermost",
            )

    def meet_others(self) -> None:
        """Warns if another pruner, or bittersweet.prune, works on one of these weights by hooks."""
        for other in list(_watches):
            if other is not self and other.hooked and self._parameters & other._parameters:
                self.say(
                    "second",
                    "another Pruner already acts on some of these weights by hooks of its own; both will "
                    "prune them. Call detach() or finalize() of the other one first (in a notebook: before "
                    "a cell that makes a Pruner runs again)",
                )
        hooks: list[Any] = [
            hook for module in self._model.modules() for hook in module._forward_pre_hooks.values()
        ]
        held = [hook for hook in hooks if is_a(hook, "bittersweet.prune.held", "Held")]
        if any(id(hook.parameter) in self._parameters for hook in held):
            self.say(
                "held",
                "bittersweet.prune holds zeros of its own in some of these weights, and what is opened there "
                "stays 0. Call bittersweet.prune.remove(module, name) first: the zeros stay, and "
                "Pruner.from_zeros() takes them over",
            )


def prunes(model: torch.nn.Module) -> bool:
    """Whether a pruner that is not finalized works on a parameter of this model."""
    own = {id(parameter) for parameter in model.parameters()}
    return any(watch._parameters & own for watch in list(_watches))


class _Everybody:
    """One hook on all optimizers of the process, put there with the first pruner."""

    def __init__(self) -> None:
        self._hears = False

    def hear(self) -> None:
        if not self._hears:
            watch_all(_tell)
            self._hears = True


_everybody = _Everybody()


def _tell(optimizer: torch.optim.Optimizer) -> None:
    for watch in list(_watches):
        watch.somebody_stepped(optimizer)


def left_alone(
    plan: Plan,
    bound: Iterable[Bound],
    model: torch.nn.Module,
    optimizers: Optimizers,
    reads: frozenset[str],
    watch: Watch,
) -> dict[str, str]:
    """Targets that an event leaves as they are, with the reason: frozen since the plan was made, or no longer
    in an optimizer (with a scorer that `reads` its state that is missing state). Warns about them, and about
    parameters that could be pruned now and were left out then.
    """
    groups = optimizers.groups()
    found: dict[str, str] = {}
    stateless = bool(optimizers) and not reads & _STATE
    for one in bound:
        if not one.parameter.requires_grad:
            found[one.entry.name] = "frozen (requires_grad is False)"
        elif stateless and id(one.parameter) not in groups:
            found[one.entry.name] = "not in the optimizer"
    if found:
        listed = "; ".join(f"'{name}': {reason}" for name, reason in found.items())
        watch.say(
            "left",
            f"left as they are since the plan was made: {listed}. What was pruned of them stays pruned; they "
            "count neither for the budget nor for the threshold",
        )
    freed = []
    for entry in plan.excluded:
        if (entry.reason or "").startswith(("frozen", "not in the optimizer")):
            try:
                parameter = lookup(model, entry)
            except (Error, ShapeError):
                continue
            if parameter.requires_grad and (not optimizers or id(parameter) in groups):
                freed.append(f"'{entry.name}'")
    if freed:
        watch.say(
            "freed",
            f"{', '.join(freed)} could be pruned now and could not when the Pruner was made (unfrozen, or "
            "added to the optimizer since): left dense. To prune them too, make a new Pruner and hand it "
            "this one's masks with load_masks(old.masks)",
        )
    untied = [
        f"'{alias}' from '{entry.name}'"
        for entry in plan.targets
        for alias in entry.aliases
        if _parameter(model, alias) is not None
        and _parameter(model, alias) is not _parameter(model, entry.path)
    ]
    if untied:
        watch.say(
            "untied",
            f"no longer tied, and left dense: {', '.join(untied)}. To prune them, make a new Pruner",
        )
    return found


def _parameter(model: torch.nn.Module, name: str) -> torch.Tensor | None:
    try:
        return model.get_parameter(name)
    except AttributeError:
        return None


def _times(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
