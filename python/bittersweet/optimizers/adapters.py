"""What an adapter says of an optimizer: which of its tensors play Adam's moments, and what else it keeps.

The adapters of known optimizers are in `known_optimizers`; `register_optimizer` adds one's own.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..options.values import shown

if TYPE_CHECKING:
    import torch

__all__ = [
    "MOMENTS",
    "REGISTERED",
    "UNKNOWN",
    "Adapter",
    "Decoder",
    "Moment",
    "is_plain",
    "is_quantised",
    "moments",
    "register_optimizer",
    "search",
]

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

Entry = Mapping[str, Any]
"""What an optimizer keeps for one parameter: ``optimizer.state[parameter]``."""

Decoder = Callable[[Entry, "torch.Tensor"], "torch.Tensor | None"]
"""A moment computed from the entry of a parameter; None if the entry has not what it takes."""


@dataclass(frozen=True)
class Moment:
    """Where an optimizer keeps one of Adam's moments.

    Attributes:
        keys: Keys of the entry, the first that is there counts.
        part: Which part along the first axis, of a tensor that holds several moments.
        decode: Computes it where none of the keys holds it as plain numbers of the weight's shape.
        sources: What `decode` reads, for messages.
    """

    keys: tuple[str, ...] = ()
    part: int | None = None
    decode: Decoder | None = None
    sources: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What people call it."""
        name = self.keys[0] if self.keys else ", ".join(self.sources)
        return name if self.part is None else f"{name}[{self.part}]"

    def stored(self, entry: Entry) -> Any:
        """What is kept under the key; None if nothing is."""
        value = None
        for key in self.keys:
            value = entry.get(key)
            if value is not None:
                break
        return value if value is None or self.part is None else value[self.part]

    def decoded(self, entry: Entry, parameter: torch.Tensor) -> torch.Tensor | None:
        """The moment as a new tensor in the weight's shape, on its device."""
        tensor = sys.modules["torch"].Tensor
        value = self.stored(entry)
        if value is not None and is_quantised(value):
            value = value.dequantize()
        elif self.decode is not None and not (isinstance(value, tensor) and value.is_floating_point()):
            value = self.decode(entry, parameter)
        if not isinstance(value, tensor) or _shape(value) != parameter.shape or not value.is_floating_point():
            return None
        found: torch.Tensor = value if value.device.type == "meta" else value.to(parameter.device)
        return found


@dataclass(frozen=True)
class Adapter:
    """One kind of optimizer.

    Attributes:
        moments: What plays ``exp_avg``, ``exp_avg_sq`` and ``max_exp_avg_sq``, where it keeps them.
        step: Key of the step count, in the entry of a parameter or else in its group.
        others: Further state with one number per element, by key, and the option of the group that turns it
            on (None: always there).
        companions: Keys of second copies of the weights.
        elementwise: Each element is updated from its own weight, gradient and state alone, so that w = g =
            state = 0 stays 0.
        reasons: Why there is no such moment, for those that have a reason worth telling.
        without: The same for single parameter groups: (group, moment) -> reason or None.
        projected: Entries with a ``projector`` hold moments of a lower rank, in another basis.
    """

    moments: Mapping[str, Moment] = field(default_factory=dict)
    step: str | None = "step"
    others: Mapping[str, str | None] = field(default_factory=dict)
    companions: tuple[str, ...] = ()
    elementwise: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)
    without: Callable[[Mapping[str, Any], str], str | None] | None = None
    projected: bool = False

    def lacks(self, role: str, group: Mapping[str, Any]) -> str | None:
        """Why parameters of this group have no such moment, perhaps ``""``; None if they have it."""
        if role not in self.moments:
            return self.reasons.get(role, "")
        return None if self.without is None else self.without(group, role)

    def of_entry(self, entry: Entry) -> Mapping[str, Moment]:
        """`moments`, as far as this entry has them in the basis of the weight."""
        return {} if self.projected and "projector" in entry else self.moments


def moments(exp_avg: str | None = None, exp_avg_sq: str | None = None) -> dict[str, Moment]:
    """Moments under these keys."""
    given = (("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq))
    return {role: Moment((key,)) for role, key in given if key is not None}


UNKNOWN = Adapter({role: Moment((role,)) for role in MOMENTS})
"""Of any other optimizer: what it keeps under Adam's names is taken for Adam's."""

REGISTERED: dict[str, Adapter] = {}
"""The user's own, by ``module.ClassName``."""


def is_quantised(value: Any) -> bool:
    """Whether this is a subclass of Tensor that holds other numbers than it stands for (torchao's)."""
    import torch

    return type(value) not in (torch.Tensor, torch.nn.Parameter) and (
        getattr(type(value), "dequantize", torch.Tensor.dequantize) is not torch.Tensor.dequantize
    )


def is_plain(value: Any, shape: tuple[int, ...], place: int) -> bool:
    """Whether `value` is one number per element of a weight, as numbers, where the weight is (`get_device`).

    Not what is quantised, factored, of a lower rank, or kept on another device.
    """
    tensor = sys.modules["torch"].Tensor
    return (
        (type(value) is tensor or (isinstance(value, tensor) and not is_quantised(value)))
        and _shape(value) == shape
        and value.get_device() == place
        and value.is_floating_point()
    )


def _shape(value: torch.Tensor) -> tuple[int, ...] | None:
    try:
        return value.shape
    except RuntimeError:  # nested, or not materialised yet
        return None


def search(optimizer: type, known: Callable[[type], Adapter | None]) -> Adapter | None:
    """The adapter of this class or of the nearest base whose ``step`` it inherits unchanged."""
    # torch wraps `step` in a profiling hook, per class and at run time: what is underneath is compared.
    rule = inspect.unwrap(optimizer.step) if hasattr(optimizer, "step") else None
    for cls in optimizer.__mro__:
        found = known(cls)
        if found is not None and inspect.unwrap(getattr(cls, "step", search)) is rule:
            return found
    return None


def register_optimizer(
    optimizer: type | str,
    *,
    exp_avg: str | Callable[[Any], Any] | None = None,
    exp_avg_sq: str | Callable[[Any], Any] | None = None,
    max_exp_avg_sq: str | Callable[[Any], Any] | None = None,
    step: str | None = "step",
    elementwise: bool = False,
    companions: Iterable[str] = (),
    reason: str | None = None,
) -> None:
    """Tells Bittersweet what an optimizer keeps that it does not know, for the rest of the process.

    It holds for pruners made afterwards, for subclasses that inherit ``step``, and before what Bittersweet
    knows by itself. A second call for the same class replaces the first.

    Args:
        optimizer: The class, or its path ``"package.module.ClassName"``.
        exp_avg, exp_avg_sq, max_exp_avg_sq: What plays this moment: a key of ``optimizer.state[parameter]``,
            whose tensor has the weight's shape, is scored, and is masked with the weight; or a function that
            computes such a tensor from ``optimizer.state[parameter]``, for scoring alone; None: it is not
            kept.
        step: The key of the step count in ``optimizer.state[parameter]`` or else in the parameter group;
            None: none is kept.
        elementwise: Each element is updated from its own weight, gradient and state alone, so that a weight
            whose gradient and state are 0 stays 0; needed for ``hold="grads"``.
        companions: Keys of tensors that the optimizer writes back into the weight (slow or averaged weights,
            float32 copies). They are zeroed where the weight is pruned.
        reason: Why the moments that are not kept are not, for the error that a scorer reading them gets.

    Raises:
        ArgumentError: Not a class or a path; a moment that is neither a key nor a function.
    """
    if isinstance(optimizer, type):
        path = _path(optimizer)
    elif isinstance(optimizer, str) and "." in optimizer.strip("."):
        path = optimizer
    else:
        raise ArgumentError(
            f"optimizer: {shown(optimizer)}; accepted: a class, or its path such as "
            "'package.module.ClassName'"
        )
    given = dict(zip(MOMENTS, (exp_avg, exp_avg_sq, max_exp_avg_sq), strict=True))
    for role, value in given.items():
        if not (value is None or isinstance(value, str) or callable(value)):
            raise ArgumentError(f"{role}: {shown(value)}; accepted: a key, a function, or None")
    for name, text in (("step", step), ("reason", reason)):
        if not (text is None or isinstance(text, str)):
            raise ArgumentError(f"{name}: {shown(text)}; accepted: a string, or None")
    if not isinstance(elementwise, bool):
        raise ArgumentError(f"elementwise: {shown(elementwise)}; accepted: True, False")
    companions = (companions,) if isinstance(companions, str) else tuple(companions)
    if not all(isinstance(key, str) for key in companions):
        raise ArgumentError(f"companions: {shown(companions)}; accepted: keys of optimizer.state[parameter]")
    REGISTERED[path] = Adapter(
        {role: _moment(value) for role, value in given.items() if value is not None},
        step,
        companions=companions,
        elementwise=elementwise,
        reasons={} if reason is None else dict.fromkeys(MOMENTS, reason),
    )


def registered(cls: type) -> Adapter | None:
    """What `register_optimizer` was told of this class."""
    return REGISTERED.get(_path(cls)) if REGISTERED else None


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _moment(given: str | Callable[[Any], Any]) -> Moment:
    if isinstance(given, str):
        return Moment((given,))
    return Moment(decode=lambda entry, _: given(entry), sources=(getattr(given, "__name__", "a function"),))
