"""Rewinding, for lottery tickets: early weights under the masks of now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..distributed.shards import is_dtensor, local
from ..errors import ArgumentError, DTypeError, Error, LayoutError, ShapeError
from ..model.gathering import reshard
from ..model.names import same_names
from ..model.wrappers import is_a
from ..options.values import shown

if TYPE_CHECKING:
    import torch

    from ..optimizers.optimizers import Optimizers
    from ..steps.loop import Loop

__all__ = ["rewind"]

_CHOICES = ("fresh", "keep")


def rewind(loop: Loop, state: Any, optimizer: Any) -> None:
    """See `Pruner.rewind_to`."""
    import torch

    loop.require_open()
    if loop.tracker is not None:
        raise Error(
            f"rewind_to: scorer '{loop.settings.call.name}' remembers what the weights did from step to "
            "step, and a rewind is no step. Use a scorer without a memory, or make a new Pruner and give it "
            "the masks: load_masks(old.masks)"
        )
    reshard(loop.model)
    pairs = list(_pairs(loop.model, state))
    states = _states(loop.optimizers, optimizer)
    loop.keeper.rehearse()
    _load(loop.optimizers, states)
    with torch.no_grad():
        for tensor, value in pairs:
            tensor.copy_(value)
    if loop.keeper.masks:
        loop.keeper.apply(loop.keeper.masks)
    loop.watch.restart()


def _pairs(model: torch.nn.Module, state: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every parameter and saved buffer of the model, once, with its value in `state`."""
    if not isinstance(state, Mapping):
        raise ArgumentError(
            f"state: {shown(state)}; accepted: a mapping from names to tensors, such as a copy of "
            "model.state_dict(), or what torch.load or safetensors.torch.load_file returned"
        )
    owned = dict(_tensors(model))
    tied: dict[int, list[str]] = {}
    for name, tensor in owned.items():
        tied.setdefault(id(tensor), []).append(name)
    given = {name: value for name, value in state.items() if not _is_extra(name)}
    found = same_names("state", tied.values(), list(given))
    for names in tied.values():
        tensor, values = owned[names[0]], {own: given[found[own]] for own in names if own in found}
        for own, value in values.items():
            _check(own, tensor, value)
        first, *others = values
        for other in others:
            if values[other] is not values[first] and not _equal(values[first], values[other]):
                raise ArgumentError(
                    f"state: '{first}' and '{other}' differ, and in the model they are one tensor. Give them "
                    "one value"
                )
        yield tensor, values[first]


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    for prefix, module in model.named_modules(remove_duplicate=False):
        for key, buffer in module._buffers.items():
            if buffer is not None and key not in module._non_persistent_buffers_set:
                yield f"{prefix}.{key}" if prefix else key, buffer


def _is_extra(name: object) -> bool:
    return isinstance(name, str) and name.rpartition(".")[2] == "_extra_state"


def _check(name: str, tensor: Any, value: Any) -> None:
    """Raises what would keep `value` from being written into `tensor`, or make it meaningless."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.is_meta:
        raise ArgumentError(f"state of '{name}': {shown(value)}; accepted: a dense tensor with values")
    if tuple(value.shape) != tuple(tensor.shape):
        raise ShapeError(
            f"state of '{name}' has shape {tuple(value.shape)} and the model's tensor {tuple(tensor.shape)}; "
            "pass a state of this model"
        )
    if value.dtype != tensor.dtype:
        raise DTypeError(
            f"state of '{name}' is {value.dtype} and the model's tensor {tensor.dtype}; convert it first if "
            "rounding is meant"
        )
    if tensor.is_inference():
        raise LayoutError(
            f"'{name}' is an inference tensor, which cannot be written. Make the model outside of "
            "torch.inference_mode"
        )
    if is_dtensor(tensor):
        other: Any = value
        alike = is_dtensor(other) and other.placements == tensor.placements
        if not alike or other.device_mesh != tensor.device_mesh:
            raise LayoutError(
                f"state of '{name}': {shown(value)} for a DTensor of placements {tensor.placements}; "
                "accepted: DTensors laid out like the model's, such as copies of its state_dict() under "
                "fully_shard"
            )
    elif is_dtensor(value):
        raise LayoutError(f"state of '{name}' is a DTensor and the model's tensor is not. Pass full_tensor()")
    here, there = local(tensor), local(value)
    if here.numel() and here.untyped_storage().data_ptr() == there.untyped_storage().data_ptr():
        raise ArgumentError(
            f"state of '{name}' is the model's own memory, which training has written since. Keep copies: "
            "{name: value.clone() for name, value in model.state_dict().items()}"
        )


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    import torch

    return torch.equal(local(one).cpu(), local(other).cpu())


def _states(optimizers: Optimizers, given: Any) -> Sequence[Mapping[str, Any]] | None:
    """The states that the optimizers are to load; empty ones for a fresh start; None: they stay."""
    inner = optimizers.inner
    if isinstance(given, str) and given in _CHOICES:
        if given == "keep":
            return None
        _require_lazy(optimizers)
        return [{"state": {}, "param_groups": one.state_dict()["param_groups"]} for one in inner]
    states: list[Any] = [given] if isinstance(given, Mapping) else []
    if isinstance(given, (list, tuple)):
        states = list(given)
    if not states or not all(isinstance(one, Mapping) and "param_groups" in one for one in states):
        raise ArgumentError(
            f"optimizer: {shown(given)}; accepted: 'fresh', 'keep', or what state_dict() of the optimizer "
            "returned early (of several: a list)"
        )
    if len(states) != len(inner):
        raise ArgumentError(f"optimizer: {len(states)} states for {len(inner)} optimizers; give one for each")
    return states


def _require_lazy(optimizers: Optimizers) -> None:
    """Raises ArgumentError for optimizers that an empty state does not start again."""
    for one in optimizers.inner:
        if is_a(one, "torch.optim.adagrad", "Adagrad"):
            raise ArgumentError(
                "optimizer: 'fresh' with Adagrad, which fills its state when it is made. Pass its early "
                "state_dict(), or make a new one for replace_optimizer and pass 'keep'"
            )
        for group in one.param_groups:
            for parameter in group["params"]:
                if copies := optimizers.companions(parameter):
                    raise ArgumentError(
                        f"optimizer: 'fresh' with {type(one).__name__}, which keeps the weights a second "
                        f"time ({', '.join(copies)}) and would bring the old ones back. Pass its early "
                        "state_dict(), or make a new one for replace_optimizer and pass 'keep'"
                    )


def _load(optimizers: Optimizers, states: Sequence[Mapping[str, Any]] | None) -> None:
    """Loads all states or none."""
    if states is None:
        return
    former = [one.state_dict() for one in optimizers.inner]
    try:
        for one, state, before in zip(optimizers.inner, states, former, strict=True):
            one.load_state_dict(dict(state))
            _require_shapes(before["state"], one.state_dict()["state"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        for one, state in zip(optimizers.inner, former, strict=True):
            one.load_state_dict(state)
        raise ArgumentError(
            f"optimizer: its state cannot be loaded ({error}). Pass what state_dict() of this optimizer "
            "returned"
        ) from None


def _require_shapes(before: Mapping[Any, Any], loaded: Mapping[Any, Any]) -> None:
    """Raises ShapeError for what torch loads, and fails with, or crashes, at the next step."""
    for number in before.keys() & loaded.keys():
        for key in before[number].keys() & loaded[number].keys():
            was, now = (getattr(one[number][key], "shape", None) for one in (before, loaded))
            if was is not None and now is not None and was != now:
                raise ShapeError(f"{key} of parameter {number} has shape {tuple(now)}, not {tuple(was)}")
