"""What a torch optimizer keeps for a parameter, found without touching it.

`optimizer.state` creates an entry when it is indexed with an unknown key, which would change its
`state_dict`; nothing here does that.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError

if TYPE_CHECKING:
    import torch

__all__ = [
    "ELEMENTWISE",
    "ParameterState",
    "element_state",
    "family",
    "groups_of",
    "innermost",
    "kept_moments",
    "read",
]

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_BOTH = frozenset(("exp_avg", "exp_avg_sq"))
_FIRST = frozenset(("exp_avg",))
_NEITHER: frozenset[str] = frozenset()

ELEMENTWISE: Mapping[str, frozenset[str]] = {
    "Adam": _BOTH,
    "AdamW": _BOTH,
    "NAdam": _BOTH,
    "RAdam": _BOTH,
    "Adamax": _FIRST,
    "Lion": _FIRST,
    "SGD": _NEITHER,
    "RMSprop": _NEITHER,
    "Adagrad": _NEITHER,
    "Adadelta": _NEITHER,
}
"""Optimizers known to update each element from its own weight, gradient and state alone, so that w = g =
state = 0 stays
0; with the moments that each keeps."""


@dataclass(frozen=True)
class ParameterState:
    """The optimizer's tensors for one parameter; None where it keeps none.

    Attributes:
        exp_avg, exp_avg_sq, max_exp_avg_sq: Adam's moments and the AMSGrad buffer.
        step: The parameter's own step count, a number.
        betas: The betas of its parameter group.
        keys: Every key in the optimizer's entry, for messages.
    """

    exp_avg: torch.Tensor | None = None
    exp_avg_sq: torch.Tensor | None = None
    max_exp_avg_sq: torch.Tensor | None = None
    step: int | None = None
    betas: tuple[float, float] | None = None
    keys: tuple[str, ...] = ()


_NOTHING = ParameterState()


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside wrappers (accelerate's and others) that keep it as ``.optimizer``."""
    from torch.optim import Optimizer

    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(f"optimizer: found {type(optimizer).__name__}; accepted: a torch.optim.Optimizer")
    return optimizer


def groups_of(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """The parameter group of each parameter, by ``id(parameter)``."""
    return {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}


def read(
    optimizer: torch.optim.Optimizer | None,
    parameter: torch.Tensor,
    group: Mapping[str, Any] | None = None,
    with_step: bool = False,
) -> ParameterState:
    """The state of `parameter` in `optimizer`; all None if it has none (no step with a gradient yet).

    `betas` are filled in only if the parameter's `group` is given, and `step` only if asked for: it may be a
    tensor, even on a CUDA device, and is read as a number. Works for Adam, AdamW and their kin in every
    flavour (foreach, fused, capturable, amsgrad). Creates no entry and changes nothing.
    """
    if optimizer is None:
        return _NOTHING
    state = optimizer.state.get(parameter)
    if not state:
        return _NOTHING
    step, betas = state.get("step") if with_step else None, None
    if group is not None and "betas" in group:
        betas = (float(group["betas"][0]), float(group["betas"][1]))
    return ParameterState(
        state.get("exp_avg"),
        state.get("exp_avg_sq"),
        state.get("max_exp_avg_sq"),
        None if step is None else int(step),
        betas,
        tuple(map(str, state)),
    )


def element_state(
    optimizer: torch.optim.Optimizer | None, parameter: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Further state with one number per element (SGD's momentum_buffer, RMSprop's square_avg ...), by key."""
    import torch

    state: Mapping[str, Any] = {} if optimizer is None else optimizer.state.get(parameter) or {}
    return {
        str(key): value
        for key, value in state.items()
        if key not in MOMENTS
        and isinstance(value, torch.Tensor)
        and value.shape == parameter.shape
        and value.is_floating_point()
    }


def family(optimizer: torch.optim.Optimizer) -> str | None:
    """The name under `ELEMENTWISE` whose update rule this optimizer runs, or None.

    A subclass of a torch optimizer counts if it inherits ``step`` unchanged. Lion, which torch does not ship,
    goes by its class name.
    """
    import torch

    # torch wraps `step` in a profiling hook, per class and at run time: what is underneath is compared.
    rule = inspect.unwrap(type(optimizer).step)
    for cls in type(optimizer).__mro__:
        name = cls.__name__
        if (
            name in ELEMENTWISE
            and getattr(torch.optim, name, None) is cls
            and inspect.unwrap(cls.step) is rule
        ):
            return name
    return "Lion" if type(optimizer).__name__ == "Lion" else None


def kept_moments(optimizer: torch.optim.Optimizer) -> frozenset[str] | None:
    """The moments that this optimizer is known to keep; None if it is not known."""
    name = family(optimizer)
    return None if name is None else ELEMENTWISE[name]
