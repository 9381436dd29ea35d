"""`Optimizers`: what one or several torch optimizers keep for each parameter, found without touching it.

`optimizer.state` creates an entry when it is indexed with an unknown key, which would change its
`state_dict`; nothing here does that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..notices import warn_once
from . import held, wrappers
from .adapters import MOMENTS, UNKNOWN, Adapter, is_plain
from .known import adapter_of, element_wise_names
from .parameter_state import ParameterState

if TYPE_CHECKING:
    import torch

    from ..tensors.trails import Trail

__all__ = ["MOMENTS", "STEP_READS", "WITHOUT_STATE", "Optimizers"]

STEP_READS = frozenset(("step", "bias_correction1"))
WITHOUT_STATE = "a scorer that does without (magnitude, gradient, taylor, random)"

_NO_GROUP: Mapping[str, Any] = {}
_NO_TENSORS: dict[str, torch.Tensor] = {}


class Optimizers:
    """One or several torch optimizers as one: what they keep for each parameter, seen through their wrappers.

    Entries are looked up on every call; parameters and groups may be added later. An empty one is false.

    Attributes:
        outer: Of each optimizer given, the outermost object whose ``step`` runs torch's step hooks.
        inner: Of each, the one that holds the state.
    """

    def __init__(self, chains: Iterable[tuple[Any, ...]] = ()) -> None:
        self._chains = tuple(chains)
        self.outer: tuple[torch.optim.Optimizer, ...] = tuple(map(wrappers.hooked, self._chains))
        self.inner: tuple[torch.optim.Optimizer, ...] = tuple(chain[-1] for chain in self._chains)
        self._copying = tuple(tuple(filter(wrappers.may_keep_copies, chain)) for chain in self._chains)
        self._adapted: tuple[Adapter, ...] | None = None
        self._places = wrappers.Places()
        self._homes: dict[int, int] = {}

    @classmethod
    def of(cls, given: Any) -> Optimizers:
        """The optimizers in what a user passes: None, one, or a list or tuple of them.

        Raises:
            ArgumentError: Something else (a class, a dict, a generator, a learning rate scheduler), an empty
                list, an optimizer or a parameter twice.
        """
        if isinstance(given, cls):
            return given
        if given is None:
            return cls()
        several = isinstance(given, (list, tuple))
        if several and not given:
            raise ArgumentError(
                "optimizer: found an empty list; accepted: None, an optimizer, or some in a list"
            )
        found = cls(map(wrappers.chain_of, given if several else (given,)))
        found._require_disjoint()
        return found

    def __bool__(self) -> bool:
        return bool(self._chains)

    def __repr__(self) -> str:
        return f"Optimizers({', '.join(' around '.join(_names(chain)) for chain in self._chains)})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_adapted": None, "_places": wrappers.Places(), "_homes": {}}

    @property
    def param_groups(self) -> list[Mapping[str, Any]]:
        """The groups of all optimizers, with the parameters of the model."""
        return [group for i in range(len(self._chains)) for group in self._groups_of(i)]

    def groups(self) -> dict[int, Mapping[str, Any]]:
        """The parameter group of each parameter, by ``id(parameter)``."""
        return {id(parameter): group for group in self.param_groups for parameter in group["params"]}

    def read(
        self,
        parameter: torch.Tensor,
        group: Mapping[str, Any] | None = None,
        with_step: bool = False,
        decode: bool = False,
        roles: Iterable[str] = MOMENTS,
    ) -> ParameterState:
        """What is kept for `parameter`; all None if there is nothing (no step with a gradient yet).

        Moments are the optimizer's own memory, one number per element, which may be masked in place. With
        `decode` those that are kept otherwise (quantised, as factors, on another device) are computed as new
        tensors, for scoring. `betas` are filled in only if the parameter's `group` is given, and `step` only
        if asked for: it may be a tensor, even on a CUDA device, and is read as a number. Creates no entry and
        changes nothing.

        Raises:
            MissingStateError: A form of quantisation that cannot be decoded.
        """
        i, entry = self._entry(parameter)
        if not entry:
            return ParameterState(owner=", ".join(self.unknown())) if decode else ParameterState()
        adapter = self._adapters[i]
        found: dict[str, torch.Tensor] = {}
        decoded: list[str] = []
        shape, place, kept = parameter.shape, parameter.get_device(), adapter.of_entry(entry)
        for role in roles:
            if (moment := kept.get(role)) is None:
                continue
            value = moment.stored(entry)
            if value is not None and is_plain(value, shape, place):
                found[role] = value
            elif decode and (tensor := moment.decoded(entry, parameter)) is not None:
                found[role] = tensor
                decoded.append(role)
        first, second, largest = map(found.get, MOMENTS)
        if not (decode or with_step or group):
            return ParameterState(first, second, largest)
        name = type(self.inner[i]).__name__
        if decode and found and adapter is UNKNOWN:
            warn_once(
                f"unknown optimizer {name}",
                f"optimizer: {name} is not known; what it keeps as {', '.join(found)} is scored as if it "
                "were Adam's. If it is something else, say so with bittersweet.register_optimizer(...), or "
                f"use {WITHOUT_STATE}",
            )
        betas = None
        if group is not None and "betas" in group:
            betas = (float(group["betas"][0]), float(group["betas"][1]))
        step = self._step_of(adapter, entry, group) if with_step else None
        state = ParameterState(first, second, largest, step, betas, tuple(entry), owner=name)
        if decode:
            state.decoded, state.reasons = frozenset(decoded), _reasons(adapter, entry, group)
        return state

    def alone(self) -> list[torch.optim.Optimizer]:
        """Those that nothing stands around which changes weights by itself or keeps copies of them."""
        pairs = zip(self._chains, self._copying, strict=True)
        return [
            chain[-1]
            for chain, copying in pairs
            if not copying and all(map(wrappers.is_transparent, chain[:-1]))
        ]

    def companions(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """Further tensors of the weight's shape that must be 0 where the weight is pruned, by readable name.

        The optimizer writes them back into the weight, or makes the weight from them: the z of schedule-free
        optimizers, Lookahead's slow weights, float32 copies of 16-bit weights.
        """
        if not any(self._copying) and not any(map(_companions, self._adapters)):
            return _NO_TENSORS
        i, entry = self._entry(parameter)
        if i < 0:
            return _NO_TENSORS
        found: dict[str, torch.Tensor] = {}
        for key in self._adapters[i].companions:
            value = entry.get(key)
            if value is not None and value.shape == parameter.shape:
                found[key] = value
        for one in self._copying[i]:
            found.update(wrappers.copies_kept(one, parameter, self._places))
        return found

    def follow(self, trail: Trail, parameters: Iterable[torch.Tensor]) -> None:
        """Puts on a trail what `read` (without `decode`) and `companions` find for these parameters. It is
        lost where they make tensors, or judge them by more than a trail can tell."""
        if any(self._copying) or any(one.companions or one.projected for one in self._adapters):
            trail.lose()
            return
        for one in self.inner:
            trail.contents(trail.attribute(one, "state"))
        for parameter in parameters:
            i, entry = self._entry(parameter)
            if not entry:
                continue
            trail.contents(entry, loosely=True)
            for moment in self._adapters[i].moments.values():
                value = moment.stored(entry)
                plain = value is None or is_plain(value, parameter.shape, parameter.get_device())
                if moment.part is not None or not plain:
                    trail.lose()
                    return

    def element_state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """Further state with one number per element (SGD's momentum_buffer, Adagrad's sum ...), by key."""
        i, entry = self._entry(parameter)
        if not entry:
            return {}
        adapter = self._adapters[i]
        told = {key for moment in adapter.moments.values() for key in moment.keys} | set(adapter.companions)
        return {
            str(key): value
            for key, value in entry.items()
            if key not in told and is_plain(value, parameter.shape, parameter.get_device())
        }

    def require_elementwise(self) -> None:
        """Raises ArgumentError, for ``hold="grads"``, if an optimizer is not known to update element by
        element."""
        for chain, adapter in zip(self._chains, self._adapters, strict=True):
            doubtful = [one for one in chain[:-1] if not wrappers.is_transparent(one)]
            if not adapter.elementwise:
                doubtful.append(chain[-1])
            if doubtful:
                raise ArgumentError(
                    f"hold: 'grads' with {type(doubtful[0]).__name__}, which is not known to update element "
                    f"by element; known: {', '.join(element_wise_names())}. Use hold='weights'"
                )

    def kept_elsewhere(self) -> set[int]:
        """``id(parameter)`` of those whose state other ranks keep, by a ZeroRedundancyOptimizer."""
        return wrappers.kept_elsewhere(self._chains)

    def spread(self) -> str | None:
        """The class of an optimizer whose ranks keep the state of some parameters each, if there is one."""
        return next((type(one).__name__ for one in wrappers.spread(self._chains)), None)

    def require_state(
        self,
        reads: frozenset[str],
        scorer: str,
        parameters: Iterable[torch.Tensor] | None = None,
        *,
        over_ranks: bool = False,
    ) -> None:
        """Raises ArgumentError if what a scorer reads is known not to be kept, or not in the weight's basis,
        or not in each process, unless the ranks decide together (`over_ranks`).

        Without `parameters`, if it is kept in no group of any optimizer; with them, if it is not for one of
        them. What an unknown optimizer keeps is seen at the first event.
        """
        wanted = [role for role in MOMENTS[:2] if role in reads]
        wanted += ["step"] if reads & STEP_READS else []
        if not wanted or not self:
            return
        if not over_ranks:
            wrappers.refuse_spread(self._chains, scorer, wanted, WITHOUT_STATE)
        chosen = None if parameters is None else {id(one) for one in parameters}
        errors = []
        for i, adapter in enumerate(self._adapters):
            for group in self._groups_of(i):
                if chosen is not None and not any(id(one) in chosen for one in group["params"]):
                    continue
                lacking = {role: why for role in wanted if (why := _lacks(adapter, role, group)) is not None}
                if lacking:
                    errors.append((type(self.inner[i]).__name__, lacking))
                elif chosen is None:
                    return
        if errors:
            name, lacking = errors[0]
            whys = "; ".join(dict.fromkeys(why for why in lacking.values() if why))
            raise ArgumentError(
                f"optimizer: {name} keeps no {', '.join(lacking)}{f' ({whys})' if whys else ''}, and scorer "
                f"'{scorer}' reads it. Use Adam or AdamW, or {WITHOUT_STATE}"
                + ("" if chosen is None else ", or leave its weights out: with ignore, or missing='skip'")
            )

    def held(self, mask_state: bool) -> str:
        """What is masked under ``hold="weights"`` and what is left alone, for people."""
        told = [
            held.Kept(self.inner[i], adapter, tuple(self._groups_of(i)), self._copying[i])
            for i, adapter in enumerate(self._adapters)
        ]
        return held.in_words(told, mask_state)

    def unknown(self) -> tuple[str, ...]:
        """The classes of the optimizers that no adapter describes."""
        pairs = zip(self.inner, self._adapters, strict=True)
        return tuple(dict.fromkeys(type(one).__name__ for one, adapter in pairs if adapter is UNKNOWN))

    def evaluates_again(self) -> str | None:
        """The class of an optimizer that calls its closure more than once per step (LBFGS, SAM), if any."""
        for chain in self._chains:
            for one in chain:
                if wrappers.evaluates_again(one):
                    return type(one).__name__
        return None

    @property
    def _adapters(self) -> tuple[Adapter, ...]:
        if self._adapted is None:
            self._adapted = tuple(map(adapter_of, self.inner))
        return self._adapted

    def _entry(self, parameter: torch.Tensor) -> tuple[int, Mapping[str, Any]]:
        """The number of the optimizer that has this parameter, and its entry; -1 if none has an entry or
        copies."""
        i = self._homes.get(id(parameter), 0) if len(self.inner) > 1 else 0
        if self.inner and (entry := self.inner[i].state.get(parameter)):
            return i, entry
        for i in range(len(self.inner)):
            entry = self.inner[i].state.get(parameter)
            for one in self._copying[i] if not entry else ():
                if (master := wrappers.master_of(one, parameter, self._places)) is not None:
                    entry = self.inner[i].state.get(master) or _NO_GROUP
                elif wrappers.copies_kept(one, parameter, self._places):
                    entry = entry or _NO_GROUP
            if entry is not None:
                self._homes[id(parameter)] = i
                return i, entry
        return -1, _NO_GROUP

    def _groups_of(self, i: int) -> Iterator[Mapping[str, Any]]:
        """The groups of one optimizer: the options of the innermost, the parameters of the model."""
        chain = self._chains[i]
        own = {id(one): group for group in chain[-1].param_groups for one in group["params"]}
        for one in chain:
            if (lists := wrappers.stepped(one)) is not None:
                for group, parameters in zip(chain[-1].param_groups, lists, strict=True):
                    yield {**group, "params": parameters}
                return
        if len(chain) == 1 or not hasattr(chain[0], "param_groups"):
            yield from chain[-1].param_groups
            return
        for group in chain[0].param_groups:
            inner: Mapping[str, Any] = next((own[id(one)] for one in group["params"] if id(one) in own), {})
            yield {**group, **inner, "params": group["params"]}

    def _step_of(
        self, adapter: Adapter, entry: Mapping[str, Any], group: Mapping[str, Any] | None
    ) -> int | None:
        if adapter.step is None:
            return None
        count = entry.get(adapter.step)
        if count is None and group is not None:
            count = group.get(adapter.step)
        return None if count is None else int(count)

    def _require_disjoint(self) -> None:
        if len({id(one) for one in self.inner}) < len(self.inner):
            names = ", ".join(_names(self.inner))
            raise ArgumentError(f"optimizer: the same optimizer twice ({names}). Pass each one once")
        seen: dict[int, int] = {}
        for i in range(len(self.inner)):
            for group in self._groups_of(i):
                for parameter in group["params"]:
                    other = seen.setdefault(id(parameter), i)
                    if other != i:
                        raise ArgumentError(
                            f"optimizer: a parameter of shape {tuple(parameter.shape)} is in both the "
                            f"{type(self.inner[other]).__name__} at {other} and the "
                            f"{type(self.inner[i]).__name__} at {i}; one of them must train it"
                        )


def _companions(adapter: Adapter) -> tuple[str, ...]:
    return adapter.companions


def _names(chain: Iterable[Any]) -> list[str]:
    return [type(one).__name__ for one in chain]


def _lacks(adapter: Adapter, role: str, group: Mapping[str, Any]) -> str | None:
    if role == "step":
        return "" if adapter.step is None else None
    return adapter.lacks(role, group)


def _reasons(
    adapter: Adapter, entry: Mapping[str, Any], group: Mapping[str, Any] | None
) -> Mapping[str, str]:
    if adapter.projected and "projector" in entry:
        group = {"rank": 0}
    found = {role: adapter.lacks(role, group or _NO_GROUP) for role in MOMENTS}
    return {role: why for role, why in found.items() if why}
