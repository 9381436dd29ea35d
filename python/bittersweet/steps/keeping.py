"""The masks of a pruner and what they keep at zero: writes, the pass between events, counts of violations."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..distributed.shards import is_dtensor, local
from ..model.binding import Bound, bind, companion_items, element_items, moment_items
from ..model.targets import follow
from ..optimizers.optimizers import MOMENTS
from ..tensors.addresses import reader
from ..tensors.arrays import raise_versions
from ..tensors.combining import all_but_opened, kept_by_both
from ..tensors.holding import Holder
from ..tensors.masks import Mask
from ..tensors.table import Table
from ..tensors.trails import Trail

if TYPE_CHECKING:
    import torch

    from ..model.targets import PlanEntry
    from ..optim.masked import MaskedStep
    from ..optimizers.optimizers import Optimizers
    from ..tensors.addresses import Addresses
    from ..tensors.table import ScoreInputs

__all__ = ["Keeper", "steppers"]

_NAMES = 64
"""Steps after which masks that optimizers hold are looked after by name."""


@dataclass(frozen=True)
class _Found:
    """What a search by name found for these targets, and the way to it. `present` is `tensors` without
    None. Of DTensors, what this rank holds is asked for every time."""

    trail: Trail
    names: tuple[str, ...]
    tensors: list[torch.Tensor | None]
    present: list[torch.Tensor]
    sharded: bool

    def now(self) -> tuple[list[torch.Tensor | None], list[torch.Tensor]]:
        """What a `Holder` takes, and what is written with it."""
        if not self.sharded:
            return self.tensors, self.present
        here = [local(one) for one in self.tensors]
        return here, [*(one for one in here if one is not None), *filter(is_dtensor, self.present)]


@dataclass(frozen=True)
class _Shares:
    """Which optimizer holds which target's mask in its step, as found by name together with `found`."""

    found: _Found | None
    trail: Trail
    parts: list[tuple[MaskedStep, str, torch.Tensor]]


@dataclass(frozen=True)
class _Weights:
    """The same for the weights alone, which are looked at without being written."""

    trail: Trail
    names: tuple[str, ...]
    parameters: list[torch.Tensor]
    sharded: bool
    walk: Addresses
    places: array[int]

    @classmethod
    def of(cls, bound: Sequence[Bound], trail: Trail) -> _Weights | None:
        parameters, walk = [one.parameter for one in bound], reader()
        if not walk.remember(list(map(local, parameters))):
            return None
        names, sharded = tuple(one.entry.name for one in bound), any(one.entry.shard for one in bound)
        return cls(trail, names, parameters, sharded, walk, array("Q", range(len(bound))))

    def now(self) -> list[torch.Tensor]:
        """What this rank holds of the weights."""
        return list(map(local, self.parameters)) if self.sharded else list(self.parameters)

    def grads(self) -> list[torch.Tensor | None]:
        """What it holds of their gradients."""
        grads = [one.grad for one in self.parameters]
        return list(map(local, grads)) if self.sharded else grads

    def hold(self, names: tuple[str, ...]) -> bool:
        if self.names != names or not self.trail.holds():
            return False
        return self.walk.read(list(self.now()), array("Q", self.places), self.places)


class Keeper:
    """Holds masks by name and writes their zeros to weights and, if asked, to the optimizer's state.

    Args:
        model: The unwrapped model.
        optimizers: What trains it.
        entries: The targets, in order.
        moments: Whether ``exp_avg``, ``exp_avg_sq`` and ``max_exp_avg_sq`` are zeroed with the weights.
        in_step: Whether optimizers that hold masks in their own step are given theirs.
        all_state: Whether a write of new masks zeroes every per-element state too (``hold="grads"``).
        regrow: Whether a write of new masks zeroes what the former masks pruned as well.
        afresh: Whether it zeroes every per-element state of the weights that it opens, whatever else is held.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Optimizers,
        entries: Sequence[PlanEntry],
        *,
        moments: bool,
        in_step: bool,
        all_state: bool,
        regrow: bool,
        afresh: bool,
    ) -> None:
        self._model, self.optimizers, self._entries = model, optimizers, tuple(entries)
        self._roles = ("weight", *MOMENTS) if moments else ("weight",)
        self._in_step, self._all_state, self._regrow = in_step, all_state, regrow
        self._afresh = afresh
        self._holder, self._gradient_holder = Holder(self._roles), Holder(("grad",))
        self._weight_holder = Holder(("weight",))
        self.masks: dict[str, Mask] = {}
        self.ordered: tuple[Mask, ...] = ()
        self.in_step: tuple[MaskedStep, ...] = ()
        self._shared_out: _Shares | None = None
        self._names: tuple[str, ...] = ()
        self.forget()
        self._share_out()

    def __getstate__(self) -> dict[str, Any]:
        """Without what is looked up by name: a copy has tensors of its own."""
        left = {"_found", "_weights", "_shared_out"}
        return {key: value for key, value in vars(self).items() if key not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.forget()
        self._shared_out = None

    def forget(self) -> None:
        """From now on every tensor is looked up by its name again, and none is kept alive."""
        self._found: dict[Holder, _Found] = {}
        self._weights: _Weights | None = None

    def bind(self, optimizers: Optimizers | None = None) -> list[Bound]:
        """The targets that have a mask, as they are now."""
        return self._bound(self.masks, optimizers)

    def apply(
        self, masks: Mapping[str, Mask], former: Mapping[str, Mask] | None = None, *, owing: bool = False
    ) -> None:
        """Writes zeros by `masks` and then makes them the ones that are kept; a failure changes nothing.

        With `regrow` what the `former` masks prune is written too: a weight that is reopened starts from 0.
        `owing`: where all masks are held in the step, the optimizer's state is left to that; it is in order
        whenever the optimizer is asked for it.
        """
        holder = self._holder_of(owing)
        ordered = {entry.name: masks[entry.name] for entry in self._entries if entry.name in masks}
        writing = dict(ordered)
        if self._regrow and former:
            writing = {name: kept_by_both(mask, former.get(name)) for name, mask in ordered.items()}
        opened = self._opened(ordered, former)
        if opened or not self._write_again(holder, list(writing.values()), tuple(writing)):
            self._found.pop(holder, None)
            bound = self._bound(ordered, self.optimizers)
            items, chosen = self._items(bound, writing)
            extra, more = self._further(bound, writing, opened)
            items, chosen = items + extra, chosen + more
            holder.apply(items, chosen)
            _raise_versions(bound)
            if not extra:
                self._found[holder] = self._search(holder, bound, items)
        self.masks, self.ordered, self._names = ordered, tuple(ordered.values()), tuple(ordered)
        self._share_out(self._found.get(holder))
        for one in self.in_step if holder is self._weight_holder else ():
            one.owe_zeros()

    def _holder_of(self, owing: bool) -> Holder:
        owing = owing and bool(self.in_step) and not self.after_step and not self._regrow
        return self._weight_holder if owing else self._holder

    def rehearse(self) -> None:
        """Raises what would keep the masks of an event from being written, before anybody writes."""
        holder = self._holder_of(owing=True)
        found = self._found.get(holder)
        if found is not None and len(found.names) == len(self._entries) and found.trail.holds():
            if holder.knows(found.now()[0]):
                return
            self._found.pop(holder)
        bound = self._bound(dict.fromkeys(entry.name for entry in self._entries), self.optimizers)
        Table([one.inputs(self._roles) for one in bound], writes=self._roles)

    def follow(self, optimizers: Optimizers) -> None:
        """Other optimizers train it from now on: writes the zeros to their state too; a failure changes
        nothing."""
        former, self.optimizers = self.optimizers, optimizers
        self.forget()
        try:
            self.apply(self.masks)
        except Exception:
            self.optimizers = former
            self.forget()
            raise
        kept = steppers(optimizers, self._in_step)
        for one in steppers(former, self._in_step):
            if one not in kept:
                one.hold_for(self, {})

    def hold(self, drifted: bool = False) -> None:
        """Writes the zeros again, in the step's place too if the masks were let drift there (`drifted`). What
        was found by name the last time is taken for as long as every dictionary on the way to it holds the
        same."""
        if self.in_step:
            self._look_after_names()
            for one in self.in_step:
                one.hold_again(drifted)
        if not self.after_step or self._write_again(
            self._holder, self.ordered_after_step, self._names_after_step
        ):
            return
        self._found.pop(self._holder, None)
        bound = self._bound(self.after_step, self.optimizers)
        items, masks = self._items(bound, self.after_step)
        same = len(masks) == len(self.ordered_after_step)
        self._holder.apply(items, self.ordered_after_step if same else masks)
        _raise_versions(bound)
        self._found[self._holder] = self._search(self._holder, bound, items)

    def before_step(self, drifts: bool) -> None:
        """An optimizer is about to step; `drifts`: what is pruned competes again after it."""
        if self._in_step:
            if self._shared_out is None:  # a copy
                self._share_out()
            for one in self.in_step:
                one.let_drift(self, drifts)

    def violated_in_step(self) -> list[str]:
        """Names of targets whose pruned weights were not 0 when an optimizer's masked step began; on a CUDA
        device, one that it is done with."""
        found = {id(parameter) for one in self.in_step for parameter in one.violated_lately}
        if not found or self._shared_out is None:
            return []
        return [name for _, name, parameter in self._shared_out.parts if id(parameter) in found]

    def release(self) -> None:
        """Masks are held in no step any more, and nothing that they were held on is kept alive."""
        for one in self.in_step:
            one.hold_for(self, {})
        self.in_step, self._shared_out = (), None
        self.forget()

    def mask_grads(self) -> None:
        """Zeroes the gradients of pruned weights."""
        if not self.masks:
            return
        weights = self._weights_again()
        if weights and self._gradient_holder.again(weights.grads(), self.ordered):
            return
        bound = self.bind()
        self._gradient_holder.apply([one.inputs(("grad",)) for one in bound], self.ordered)
        self._weights = _Weights.of(bound, self._trail(bound, None))

    def violations(self) -> dict[str, int]:
        """How many pruned weights are not 0, by name; only where there are any."""
        if not self.masks:
            return {}
        weights = self._weights_again()
        counts = self._weight_holder.count_again([*weights.now()], self.ordered) if weights else None
        if counts is None:
            bound = self.bind()
            counts = self._weight_holder.count([one.inputs(()) for one in bound], self.ordered)
            self._weights = _Weights.of(bound, self._trail(bound, None))
        return {name: count for name, count in zip(self.masks, counts, strict=True) if count}

    def _bound(self, masks: Collection[str], optimizers: Optimizers | None) -> list[Bound]:
        return bind(self._model, optimizers, [entry for entry in self._entries if entry.name in masks])

    def _share_out(self, found: _Found | None = None) -> None:
        """Gives optimizers that hold masks in their own step those of their parameters, as `found`."""
        if found is None or self._shared_out is None or self._shared_out.found is not found:
            self._shared_out = self._shares(found)
        given: dict[MaskedStep, dict[torch.Tensor, Mask]] = {one: {} for one in self.in_step}
        self.after_step, self._calls = dict(self.masks), 0
        for one, name, parameter in self._shared_out.parts:
            given[one][parameter] = self.after_step.pop(name)
        for one, masks in given.items():
            one.hold_for(self, masks, state=len(self._roles) > 1)
        self.ordered_after_step = tuple(self.after_step.values())
        self._names_after_step = tuple(self.after_step)

    def _shares(self, found: _Found | None) -> _Shares:
        self.in_step = steppers(self.optimizers, self._in_step)
        bound = self.bind() if self.in_step else []
        owners = {
            id(parameter): one
            for one in self.in_step
            for group in one.param_groups
            for parameter in group["params"]
        }
        parts = [
            (owners[id(each.parameter)], each.entry.name, each.parameter)
            for each in bound
            if id(each.parameter) in owners
        ]
        return _Shares(found, self._trail(bound, None), parts)

    def _look_after_names(self) -> None:
        """Now and then: masks that were given to parameters belong to what bears their names by now."""
        self._calls += 1
        shared = self._shared_out
        if self.masks and self._calls % _NAMES == 0 and (shared is None or not shared.trail.holds()):
            self.apply(self.masks)

    def _write_again(self, holder: Holder, masks: Sequence[Mask], names: tuple[str, ...]) -> bool:
        """Writes the zeros of these masks to the tensors of the time before, if they are still the ones."""
        found = self._found.get(holder)
        if found is None or found.names != names or not found.trail.holds():
            return False
        tensors, written = found.now()
        return holder.again(tensors, masks, written)

    def _weights_again(self) -> _Weights | None:
        """The weights of the time before; None if the search would find others, or these have changed."""
        weights = self._weights
        return weights if weights is not None and weights.hold(self._names) else None

    def _search(self, holder: Holder, bound: Sequence[Bound], items: Sequence[ScoreInputs]) -> _Found:
        names, sharded = tuple(one.entry.name for one in bound), any(one.entry.shard for one in bound)
        tensors = holder.tensors_of(items)
        if sharded:
            tensors = [one.tensor(role) for one in bound for role in holder.roles]
        present = [one for one in tensors if one is not None]
        return _Found(self._trail(bound, self.optimizers), names, tensors, present, sharded)

    def _trail(self, bound: Sequence[Bound], optimizers: Optimizers | None) -> Trail:
        trail = Trail()
        if optimizers is not None:
            optimizers.follow(trail, [one.parameter for one in bound])
        follow(trail, self._model, [one.entry for one in bound])
        return trail

    def _items(
        self, bound: Sequence[Bound], masks: Mapping[str, Mask]
    ) -> tuple[list[ScoreInputs], list[Mask]]:
        """What every write zeroes: weights and moments, and copies that the optimizer writes back."""
        copies, chosen = companion_items(self.optimizers, bound, masks)
        return [one.inputs(self._roles) for one in bound] + copies, [*masks.values(), *chosen]

    def _opened(self, masks: Mapping[str, Mask], former: Mapping[str, Mask] | None) -> dict[str, Mask]:
        """Where weights are opened that are to begin afresh: masks that prune just these."""
        if not (self._afresh and former):
            return {}
        found = {name: all_but_opened(mask, former.get(name)) for name, mask in masks.items()}
        return {name: mask for name, mask in found.items() if mask is not None}

    def _further(
        self, bound: Sequence[Bound], masks: Mapping[str, Mask], opened: Mapping[str, Mask]
    ) -> tuple[list[ScoreInputs], list[Mask]]:
        """What a write of new masks zeroes beside that: all per-element state, or that of what is opened."""
        if self._all_state:
            return element_items(self.optimizers, bound, masks)
        items, chosen = element_items(self.optimizers, bound, opened) if opened else ([], [])
        if len(self._roles) > 1 or not opened:
            return items, chosen
        moments, more = moment_items(bound, opened)
        return items + moments, chosen + more


def _raise_versions(bound: Iterable[Bound]) -> None:
    """Tells autograd of DTensors that what they keep here was written: their counters are their own."""
    if sharded := [one.parameter for one in bound if is_dtensor(one.parameter)]:
        raise_versions(sharded)


def steppers(optimizers: Optimizers, wanted: bool = True) -> tuple[MaskedStep, ...]:
    """The optimizers that can hold masks in their own step."""
    from ..optim.masked import MaskedStep

    found = [one for one in optimizers.alone() if isinstance(one, MaskedStep)] if wanted else []
    return tuple(one for one in found if one.masks_what_it_steps)
