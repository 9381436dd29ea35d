"""`MaskedStep`: an optimizer whose own pass over the weights leaves the pruned ones at +0."""

from __future__ import annotations

import inspect
import itertools
import weakref
from array import array
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch

from .. import notices
from ..distributed.shards import is_dtensor, local
from ..errors import ArgumentError, Error
from ..optimizers.compilation import outside_of_compilation
from ..options.values import shown
from ..tensors import devices
from ..tensors.combining import kept_by_both
from ..tensors.devices import HOST
from ..tensors.holding import Holder
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs, Table, as_mask
from .entries import Entry, Gathered, here, on_cuda, overlapping, rate_of, why_outside
from .parts import Parts
from .rounding import Rounding, rounding
from .rows import Selection, Step

__all__ = ["Held", "MaskedStep"]

_VERSION = attrgetter("_version")
_ROLES = ("weight", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_REFUSED = {
    "foreach": (True, "one pass over all tensors is what it makes anyway"),
    "fused": (False, "its step stands for torch's fused one"),
    "differentiable": (True, "its step is not recorded by autograd"),
}


@dataclass(frozen=True)
class Held:
    """Where the masks of an optimizer are held.

    Attributes:
        in_step: Tensors whose zeros are written by the pass itself.
        after_step: Tensors that torch steps, and whose zeros are written by a second pass.
        reasons: Why, for each of the latter.
    """

    in_step: int
    after_step: int
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        why = f" ({'; '.join(dict.fromkeys(self.reasons))})" if self.reasons else ""
        tensors = "tensor" if self.in_step == 1 else "tensors"
        return f"{self.in_step} {tensors} in the step, {self.after_step} after it{why}"


class MaskedStep(torch.optim.Optimizer):
    """What `Adam` and `AdamW` have beside torch's optimizers of these names."""

    def hold(self, masks: Mapping[torch.Tensor, Any], *, state: bool = True) -> None:
        """Keeps the pruned elements of these parameters at +0, from now on: writes their zeros at once and in
        every step, whatever weight, state and gradient are there (NaN too). ``hold({})`` lets go.

        Gradients are left as they are. The masks take the place of those of the last call; a `Pruner` has its
        own beside them. They belong to the parameters themselves, not to their names, are copied with the
        optimizer, and are never part of ``state_dict()``.

        Args:
            masks: By parameter: `Mask` objects or bool tensors of its shape (of a DTensor: of what this rank
                holds, or DTensors), True = keep.
            state: Whether ``exp_avg``, ``exp_avg_sq`` and ``max_exp_avg_sq`` are held as well. It goes for
                all masks of the optimizer.

        Raises:
            ArgumentError: No mapping, or something in it that is no parameter of this optimizer.
            ShapeError, DTypeError, DeviceError: A mask that does not fit. Nothing has been changed.
        """
        if not isinstance(masks, Mapping):
            raise ArgumentError(
                f"masks: found {type(masks).__name__}; accepted: a mapping from parameters to masks, such as "
                "{model.weight: mask}"
            )
        own = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        taken: dict[torch.Tensor, Mask] = {}
        for i, (parameter, value) in enumerate(masks.items()):
            if id(parameter) not in own:
                raise ArgumentError(
                    f"masks: key {i} is {shown(parameter)}, which is no parameter of this "
                    f"{type(self).__name__}; accepted: the parameters themselves, not their names"
                )
            taken[parameter] = as_mask(local(value), tuple(local(parameter).shape), f"parameter {i}")
        self._write_zeros(taken, state)
        self._mine = taken
        self.hold_for(self, taken, state=state)

    def hold_for(self, owner: object, masks: Mapping[torch.Tensor, Mask], *, state: bool = True) -> None:
        """Takes over the masks of one owner, whose zeros are written; they go when the owner goes, or with
        an empty mapping. What several owners prune of one parameter is pruned together."""
        self._pay()
        if masks:
            self._owners[owner], self._holds_state = dict(masks), state
        else:
            self._owners.pop(owner, None)
        self._set(self._join())

    def _set(self, together: Mapping[torch.Tensor, Mask]) -> None:
        self._joined, self._together = len(self._owners), together
        self._watched = [parameter for parameter in together if not parameter.is_inference()]
        self._sharded = list(filter(is_dtensor, self._watched))
        self._left: list[int] | None = self._versions()

    def _versions(self) -> list[int]:
        """Those of the held parameters; a DTensor and what it keeps here have one each."""
        return list(map(_VERSION, [*self._watched, *map(local, self._sharded)]))

    def _join(self, without: Container[object] = ()) -> Mapping[torch.Tensor, Mask]:
        if len(self._owners) == 1 and not without:
            return next(iter(self._owners.values()), {})
        together: dict[torch.Tensor, Mask] = {}
        for owner, of_one in self._owners.items():
            for parameter, mask in of_one.items() if owner not in without else ():
                together[parameter] = kept_by_both(mask, together.get(parameter))
        return together

    def _pruned(self) -> Mapping[torch.Tensor, Mask]:
        """The masks of all owners that are still there."""
        if self._joined != len(self._owners):
            self._set(self._join())
        return self._together

    def hold_again(self, drifted: bool = False) -> None:
        """Writes the zeros anew if a held parameter was written since they last were, ``.data`` aside, or if
        other states were loaded; where masks were let drift in the last step, only with `drifted`."""
        masks = self._pruned()
        written = drifted if self._left is None else self._left != self._versions()
        if written:
            self._write_zeros(masks)
            self._left = self._versions()

    def let_drift(self, owner: object, drifts: bool) -> None:
        """Whether the next step goes without this owner's masks: what they prune competes again after it."""
        (self._drifting.add if drifts else self._drifting.discard)(owner)

    def let_select(self, selection: Selection | None) -> None:
        """Shows the next pass to `selection` before it is made; see `rows.Pass`."""
        self._selection = selection

    def owe_zeros(self) -> None:
        """The states of pruned weights are not all 0 yet: the next step writes their zeros, or whoever asks
        for the state before it."""
        self._owes = True

    @property
    def masks_what_it_steps(self) -> bool:
        """False for a class with a step of its own around this one, which may write the weights after it."""
        return inspect.unwrap(type(self).step) is inspect.unwrap(MaskedStep.step)

    @property
    def held(self) -> Held:
        """Where the masks are held now; prints as a line."""
        known = [parameter for group in self.param_groups for parameter in group["params"]]
        entries = [self._entry(parameter) for parameter in known]
        shared = overlapping(entries)
        why = {
            parameter: why_outside(entry) or ("it shares memory with another one" if i in shared else None)
            for i, (parameter, entry) in enumerate(zip(known, entries, strict=True))
        }
        reasons = [why.get(parameter) for parameter in self._pruned()]
        outside = tuple(reason for reason in reasons if reason is not None)
        return Held(len(reasons) - len(outside), len(outside), outside)

    @property
    def violated(self) -> list[torch.Tensor]:
        """Parameters whose pruned weights were found not to be 0 when the last step began: something else
        had written them. (Where whole rows are pruned, they are looked at every 64 steps.) Waits for a CUDA
        device; of parameters there that have no gradient it says nothing."""
        of_parts = (rows.violated() for rows in self._parts.rows.values())
        return [*self._violated, *itertools.chain.from_iterable(of_parts)]

    @property
    def violated_lately(self) -> list[torch.Tensor]:
        """`violated`; of parameters on a CUDA device those of steps 8 to 16 ago, so that nobody waits."""
        return [
            *self._violated,
            *(one for rows in self._parts.rows.values() for one in rows.violated_lately()),
        ]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        self._refuse(**{option: param_group.get(option) for option in _REFUSED})
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        if added.get("capturable") and not on_cuda(added):
            self.param_groups.pop()
            raise ArgumentError(
                f"capturable: True with bittersweet.optim.{type(self).__name__}: a parameter is on the CPU, "
                "where step counts are read on the host. Leave it out, move the model to a CUDA device, or "
                f"use torch.optim.{type(self).__name__}"
            )
        _as_fused([added])

    def _refuse(self, **options: bool | None) -> None:
        for option, value in options.items():
            refused, why = _REFUSED[option]
            if value is not None and bool(value) is refused:
                raise ArgumentError(
                    f"{option}: {value} with bittersweet.optim.{type(self).__name__}: {why}. Leave it out, "
                    f"or use torch.optim.{type(self).__name__}"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, as torch's with ``fused=True``, masks included."""
        loss = None
        selection, self._selection = self._selection, None  # of this step, even if the closure fails
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._eagerly(self._step, selection)
        return loss

    def __getstate__(self) -> dict[str, Any]:
        self._pay()
        state = super().__getstate__()
        return {**state, "_mine": self._mine, "_holds_state": self._holds_state}

    def state_dict(self) -> dict[str, Any]:
        """As torch's."""
        self._pay()
        return super().state_dict()

    def _pay(self) -> None:
        if self._owes:
            self._eagerly(self._write_zeros, self._pruned())
            self._owes = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _as_fused(self.param_groups)
        self._step_supports_amp_scaling = True
        if "_parts" not in vars(self) or "_mine" in state:
            self._begin(state.get("_mine", {}), state.get("_holds_state", True))
        elif self._left is not None:
            self._left = []  # other states: no versions are known of what was loaded

    def _begin(self, mine: Mapping[torch.Tensor, Mask] = {}, holds_state: bool = True) -> None:
        self._eagerly = outside_of_compilation()
        self._parts = Parts()
        self._holders: dict[int, Holder] = {}
        self._owners: weakref.WeakKeyDictionary[object, dict[torch.Tensor, Mask]] = (
            weakref.WeakKeyDictionary()
        )
        self._mine, self._holds_state = dict(mine), holds_state
        self._selection = None
        self._owes = False
        self._violated: list[torch.Tensor] = []
        self._drifting: weakref.WeakSet[object] = weakref.WeakSet()
        self._idle: dict[torch.Tensor, int | None] = {}
        self.hold_for(self, mine, state=holds_state)

    # What a subclass says: its options as the pass takes them, a group's tensors, torch's form of its step.

    def _options(self, group: Mapping[str, Any]) -> Iterable[float]:
        raise NotImplementedError

    def _gather(self, now: Gathered, group: Mapping[str, Any], number: int) -> None:
        raise NotImplementedError

    def _check(self, inside: Iterable[Gathered], outside: Gathered) -> None:
        """Raises what this step cannot do, before anything has changed."""
        raise NotImplementedError

    def _step_outside(self, outside: Gathered, scale: Any, found_inf: Any) -> None:
        raise NotImplementedError

    def _step(self, selection: Selection | None) -> None:
        masks = self._join(self._drifting) if self._drifting else self._pruned()
        self._drifting.clear()
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        now = Gathered()
        for number, group in enumerate(self.param_groups):
            self._gather(now, group, number)
        self._violated = []
        for rows in self._parts.rows.values():
            rows.forget()
        parts, outside = self._parts.of(now, self.param_groups)
        self._check([part for _, part in parts], outside)
        for rows, _ in parts:
            rows.take(masks)
        on_host, on_device = (
            any((rows.device == HOST) is host for rows, _ in parts) for host in (True, False)
        )
        certain = not (on_device and self._may_be_forbidden(found_inf))
        if outside.parameters:  # first: what torch refuses is refused before anything has changed
            self._step_outside(outside, scale, found_inf)
            held = [parameter for parameter in outside.parameters if parameter in masks]
            self._write_zeros({parameter: masks[parameter] for parameter in held})
        skipped = on_host and found_inf is not None and bool(found_inf)
        if parts and not skipped:
            groups = array("d", [x for group in self.param_groups for x in self._options(group)])
            rates = [rate_of(group) for group in self.param_groups]
            step = Step(groups, _rule(on_host), not self._holds_state, scale, found_inf, rates)
            for rows, _ in parts:
                rows.step(step, selection if rows.device == HOST else None)
            self._owes = False
        if len(now.parameters) < sum(len(group["params"]) for group in self.param_groups):
            self._hold_idle(masks, now)
        if not skipped and masks is self._together:
            self._left = self._versions() if certain else []
        elif not skipped:
            self._left = None

    def _may_be_forbidden(self, found_inf: Any) -> bool:
        """Before a step on a CUDA device: whether zeros may be missing after it, since the device alone knows
        if it was made. They are not if they were all there before it."""
        if devices.runtime.is_capturing() and not all(group["capturable"] for group in self.param_groups):
            raise Error(
                f"step() of bittersweet.optim.{type(self).__name__}: the current stream is being captured "
                "into a CUDA graph; accepted: with capturable=True. Pass that to the optimizer"
            )
        if found_inf is None:
            return False
        if self._owes:
            self._write_zeros(self._pruned())
            self._owes, self._left = False, self._versions()
        return self._left is None or self._left != self._versions()

    def _hold_idle(self, masks: Mapping[torch.Tensor, Mask], now: Gathered) -> None:
        """Writes the zeros of parameters without a gradient, which no step writes, where something else has
        written them."""
        stepped = set(map(id, now.parameters))
        idle = {one: mask for one, mask in masks.items() if id(one) not in stepped}
        written = {one: mask for one, mask in idle.items() if self._idle.get(one) != _version(one)}
        seen = [one for one in written if devices.runtime.index_of(local(one)) == HOST]  # others would wait
        self._violated += [one for one in seen if local(one).detach()[~written[one].bool()].any()]
        self._write_zeros(written)
        self._idle = {one: _version(one) for one in idle}

    def _entry(self, parameter: torch.Tensor) -> Entry:
        """What `held` looks at, whether or not there have been gradients and a step."""
        kept = self.state.get(parameter) or {}
        roles = [kept.get(role) for role in _ROLES[1:]]
        first, second, largest = (parameter if one is None and i < 2 else one for i, one in enumerate(roles))
        assert first is not None and second is not None
        grad = parameter if parameter.grad is None else parameter.grad
        step = kept.get("step", torch.zeros((), dtype=torch.float32, device=parameter.device))
        return Entry(*here((parameter, grad, first, second, largest, step)))

    def _write_zeros(self, masks: Mapping[torch.Tensor, Mask], state: bool | None = None) -> None:
        """A pass of its own over these parameters, and over their states if they are held."""
        roles = _ROLES if (self._holds_state if state is None else state) else _ROLES[:1]
        parts: dict[int, tuple[list[ScoreInputs], list[Mask]]] = {}
        for i, (parameter, mask) in enumerate(masks.items()):
            kept = self.state.get(parameter) or {}
            item = ScoreInputs(local(parameter), name=f"parameter {i}")
            for role in roles[1:]:
                setattr(item, role, local(kept.get(role)))
            items, chosen = parts.setdefault(devices.runtime.index_of(local(parameter)), ([], []))
            items.append(item)
            chosen.append(mask)
        for items, chosen in parts.values() if len(parts) > 1 else ():  # all are right, before any is written
            Table(items, writes=roles).attach(chosen)
        for device, (items, chosen) in parts.items():
            self._holders.setdefault(device, Holder(_ROLES)).apply(items, tuple(chosen))


def _as_fused(groups: Iterable[dict[str, Any]]) -> None:
    """A checkpoint of another of torch's forms of the step says so in its groups."""
    for group in groups:
        capturable = bool(group.get("capturable")) and on_cuda(group)
        group.update(fused=True, foreach=None, capturable=capturable, differentiable=False)


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _rule(on_host: bool) -> Rounding:
    found = rounding()
    if found is None and on_host:
        notices.warn_once(
            "rounding of torch's fused step",
            "bittersweet.optim: this torch has no fused step for the CPU, or one that rounds in a way that "
            "is not known here (equals_torch() is False). The steps of Adam and AdamW are right, and differ "
            "from its steps in the last bits",
        )
    return found or Rounding(True)
