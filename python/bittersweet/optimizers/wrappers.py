"""Optimizers around optimizers: which one holds the state, which one is hooked, and what copies they keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError

if TYPE_CHECKING:
    import torch

__all__ = [
    "Places",
    "chain_of",
    "copies_kept",
    "evaluates_again",
    "hooked",
    "is_transparent",
    "kept_elsewhere",
    "may_keep_copies",
    "refuse_spread",
    "spread",
]

_ATTRIBUTES = ("optimizer", "base_optimizer", "_base_optimizer", "_optimizer", "optim")
_TRANSPARENT: dict[str, str | tuple[str, ...]] = {
    "AcceleratedOptimizer": "accelerate",
    "LightningOptimizer": ("lightning", "pytorch_lightning"),
    "_FabricOptimizer": ("lightning", "lightning_fabric"),
    "ZeroRedundancyOptimizer": "torch",
    "PostLocalSGDOptimizer": "torch",
}
_MID_STEP = "it steps its base optimizer in the middle of its own step, on other weights"
_REFUSED = (
    (
        "CPUOffloadOptimizer",
        "torchao",
        "it steps copies of the weights on the host and copies them over the model's",
    ),
    ("ScheduleFreeWrapper", "schedulefree", _MID_STEP),
    ("ScheduleFreeWrapperReference", "schedulefree", _MID_STEP),
)


class Places:
    """Where a parameter stands in lists of parameters, found again only when the lists have changed."""

    def __init__(self) -> None:
        self._found: dict[int, dict[int, tuple[int, int]]] = {}

    def of(
        self, lists: Sequence[Sequence[Any]], parameter: torch.Tensor, owner: Any
    ) -> tuple[int, int] | None:
        """The number of the list and the position in it, for the lists of this owner."""
        known = self._found.get(id(owner), {})
        at = known.get(id(parameter))
        if at is None or not _stands(lists, at, parameter):
            known = {id(one): (i, j) for i, each in enumerate(lists) for j, one in enumerate(each)}
            self._found[id(owner)] = known
            at = known.get(id(parameter))
        return at


def chain_of(given: Any) -> tuple[Any, ...]:
    """An optimizer with all that it wraps, from the outermost to the one that holds the state.

    Raises:
        ArgumentError: It is no optimizer, or one that a pruner cannot follow.
    """
    from torch.optim import Optimizer

    chain = [given]
    if isinstance(given, type):
        raise ArgumentError(
            f"optimizer: found the class {given.__name__}; accepted: an optimizer. Pass an instance: "
            f"{given.__name__}(model.parameters(), ...)"
        )
    for name, prefix, reason in _REFUSED:
        if _is(given, name, prefix):
            raise ArgumentError(
                f"optimizer: found {type(given).__name__}, and {reason}. Use an optimizer that steps the "
                "model's own weights (of schedulefree: AdamWScheduleFree, SGDScheduleFree, RAdamScheduleFree)"
            )
    if (schedule := _scheduled(given)) is not None:
        raise ArgumentError(
            f"optimizer: found {type(given).__name__}, a learning rate scheduler; accepted: an optimizer. "
            f"Pass the {type(schedule).__name__} that it schedules"
        )
    while (inner := _inner(chain[-1])) is not None:
        chain.append(inner)
    stepping = callable(getattr(given, "step", None)) and callable(getattr(given, "zero_grad", None))
    if not isinstance(chain[-1], Optimizer) or not stepping:
        raise ArgumentError(
            f"optimizer: found {_describe(given)}; accepted: a torch.optim.Optimizer, something that keeps "
            "one as .optimizer, or a list of these"
        )
    return tuple(chain)


def hooked(chain: Sequence[Any]) -> torch.optim.Optimizer:
    """The outermost optimizer of the chain whose ``step`` runs torch's hooks.

    Of SAM and its kin it is the one inside: they are stepped in one call or in two halves, and their inner
    optimizer makes the step in both.
    """
    from torch.optim import Optimizer

    start = max((i + 1 for i, one in enumerate(chain[:-1]) if _is_sam(one)), default=0)
    for one in chain[start:]:
        runs = getattr(type(one).step, "hooked", None) and hasattr(one, "_optimizer_step_post_hooks")
        if isinstance(one, Optimizer) and runs:
            return one
    found: torch.optim.Optimizer = chain[-1]
    return found


def is_transparent(wrapper: Any) -> bool:
    """Whether it is known that a wrapper does nothing to weights that its inner optimizer does not do."""
    return any(_is(wrapper, name, prefixes) for name, prefixes in _TRANSPARENT.items())


def spread(chains: Iterable[Sequence[Any]]) -> Iterator[Any]:
    """Those of which each rank keeps the state of some parameters only."""
    for one in (one for chain in chains for one in chain):
        if _is(one, "ZeroRedundancyOptimizer") and getattr(one, "world_size", 1) > 1:
            yield one


def kept_elsewhere(chains: Iterable[Sequence[Any]]) -> set[int]:
    """``id(parameter)`` of those whose state other ranks keep."""
    found: set[int] = set()
    for chain in chains:
        for one in spread([chain]):
            found |= {id(each) for group in one.param_groups for each in group["params"]}
            found -= {id(each) for group in chain[-1].param_groups for each in group["params"]}
    return found


def refuse_spread(chains: Iterable[Sequence[Any]], scorer: str, wanted: Sequence[str], instead: str) -> None:
    """Raises ArgumentError if an optimizer is spread: no rank has all that a scorer wants."""
    for one in spread(chains):
        raise ArgumentError(
            f"optimizer: {type(one).__name__} keeps the state of each parameter in one of {one.world_size} "
            f"processes, and scorer '{scorer}' reads {', '.join(wanted)} of all of them. Pass "
            "process_group=torch.distributed.group.WORLD to the Pruner, so that ranks decide together, or "
            f"use {instead}"
        )


def evaluates_again(one: Any) -> bool:
    """Whether its ``step`` is known to call the closure more than once, or at other weights in between."""
    return _is(one, "LBFGS") or _is_sam(one)


def may_keep_copies(one: Any) -> bool:
    """Whether `copies_kept` can find something."""
    return _is_lookahead(one) or _is(one, "TRAC") or _masters(one) is not None or _is_free(one)


def copies_kept(one: Any, parameter: torch.Tensor, places: Places) -> dict[str, torch.Tensor]:
    """Second copies of a weight that an optimizer keeps outside of the entries that adapters describe."""
    found: dict[str, Any] = {}
    if (masters := _masters(one)) is not None:
        lists, copies = masters
        at = places.of(lists, parameter, one)
        if at is not None and (copy := copies[at[0]][at[1]]) is not None:
            found["float32 copy"] = copy
    if _is(one, "TRAC"):
        found["reference"] = one.state.get("trac", {}).get(parameter)
    if _is_free(one):
        found["z"] = (one.state.get(parameter) or {}).get("z")
    if _is_lookahead(one):
        found.update(_slow(one, parameter, places))
    return {key: value for key, value in found.items() if _like(value, parameter)}


def master_of(one: Any, parameter: torch.Tensor, places: Places) -> torch.Tensor | None:
    """The float32 copy that the optimizer steps in the place of this parameter."""
    return copies_kept(one, parameter, places).get("float32 copy") if _masters(one) is not None else None


def stepped(one: Any) -> Sequence[Sequence[Any]] | None:
    """The model's parameters in the groups of a wrapper that steps copies; None: the groups have them."""
    return [one.fp16_params] if _is(one, "SafeFP16Optimizer") else None


def _slow(one: Any, parameter: torch.Tensor, places: Places) -> dict[str, Any]:
    """The slow weights of a Lookahead of any make: in its state, or in attributes by parameter or in rows."""
    found: dict[str, Any] = {}
    for level in (one, _inner(one)):
        entry = (getattr(level, "state", None) or {}).get(parameter) or {}
        found.update({str(key): value for key, value in entry.items() if "slow" in str(key)})
    groups = [group["params"] for group in one.param_groups]
    for name, value in vars(one).items():
        if name == "state":
            continue
        if isinstance(value, Mapping) and parameter in value:
            found[name] = value[parameter]
        elif "slow" in name and isinstance(value, (list, tuple)):
            rows = [value] if len(groups) == 1 and value and _like_any(value[0]) else value
            at = places.of(groups, parameter, one)
            if at is not None and len(rows) == len(groups) and len(rows[at[0]]) == len(groups[at[0]]):
                found[name] = rows[at[0]][at[1]]
    return found


def _masters(one: Any) -> tuple[Sequence[Sequence[Any]], Sequence[Sequence[Any]]] | None:
    """Parameters and their float32 copies, in lists of equal lengths."""
    if _is(one, "SafeFP16Optimizer"):
        return [one.fp16_params], [one.fp32_params]
    copies = getattr(one, "param_groups_master", None)
    if copies and getattr(one, "master_weights", False):
        return [group["params"] for group in one.param_groups], [group["params"] for group in copies]
    return None


def _inner(optimizer: Any) -> torch.optim.Optimizer | None:
    from torch.optim import Optimizer

    for attribute in _ATTRIBUTES:
        inner = getattr(optimizer, attribute, None)
        if isinstance(inner, Optimizer) and inner is not optimizer:
            return inner
    return None


def _scheduled(given: Any) -> torch.optim.Optimizer | None:
    from torch.optim.lr_scheduler import LRScheduler

    inner = getattr(given, "optimizer", None)
    scheduler = isinstance(given, LRScheduler) or (
        hasattr(given, "get_last_lr") and not hasattr(given, "zero_grad")
    )
    return inner if scheduler else None


def _describe(given: Any) -> str:
    if isinstance(given, (dict, Mapping)):
        return "a dict (its values as a list would do)"
    if hasattr(given, "__next__"):
        return (
            "a generator (of parameters? The optimizer made of them is meant; of optimizers? A list would do)"
        )
    return type(given).__name__


def _is(one: Any, name: str, prefixes: str | tuple[str, ...] = "") -> bool:
    return any(
        cls.__name__ == name and cls.__module__.startswith(prefixes or "") for cls in type(one).__mro__
    )


def _is_sam(one: Any) -> bool:
    names = [cls.__name__ for cls in type(one).__mro__]
    return any(name == "SAM" or name.endswith("SAM") for name in names) and _inner(one) is not None


def _is_lookahead(one: Any) -> bool:
    return any("lookahead" in cls.__name__.lower() for cls in type(one).__mro__)


def _is_free(one: Any) -> bool:
    return _is(one, "ScheduleFreeWrapper")


def _like(value: Any, parameter: torch.Tensor) -> bool:
    return _like_any(value) and value.shape == parameter.shape and value.is_floating_point()


def _like_any(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _stands(lists: Sequence[Sequence[Any]], at: tuple[int, int], parameter: torch.Tensor) -> bool:
    return at[0] < len(lists) and at[1] < len(lists[at[0]]) and lists[at[0]][at[1]] is parameter
