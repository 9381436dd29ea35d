"""The tensors of the parameters that a step works on, and which of them a compiled pass takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..distributed.shards import is_dtensor, local
from ..errors import Error
from ..tensors import devices
from ..tensors.arrays import BFLOAT16, FLOAT32, FLOATS, View, first_address, inspect

__all__ = [
    "ADDRESSED",
    "EACH",
    "Entry",
    "Gathered",
    "here",
    "on_cuda",
    "overlapping",
    "rate_of",
    "view_of",
    "why_outside",
]

ADDRESSED = ("weight", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")
EACH = len(ADDRESSED)


class Entry(NamedTuple):
    """The tensors of one parameter in one step."""

    parameter: torch.Tensor
    grad: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    max_exp_avg_sq: torch.Tensor | None
    step: torch.Tensor


def here(tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """What this rank holds of DTensors, given as `Entry` has them. A gradient that lies on the ranks in
    another way than its parameter is brought to it, as torch's step does; states that do are left as they
    are, for torch."""
    parameter, grad, *states, step = tensors
    if not is_dtensor(parameter):
        return tensors
    mesh, placements = parameter.device_mesh, parameter.placements
    if any(one is not None and not _lies_like(one, placements) for one in states):
        return tensors
    if is_dtensor(grad) and grad.placements != placements:
        grad = grad.redistribute(mesh, placements)
    return (*map(local, (parameter, grad, *states)), step)


def _lies_like(tensor: Any, placements: Any) -> bool:
    return is_dtensor(tensor) and tensor.placements == placements


class Gathered:
    """All entries of one step, as plain lists: it is made on every step.

    Attributes:
        parameters: Those that have a gradient.
        tensors: The six of `Entry` for each, one after another; of DTensors what this rank holds.
        groups: The number of each one's parameter group.
    """

    __slots__ = ("groups", "parameters", "tensors")

    def __init__(self) -> None:
        self.parameters: list[torch.Tensor] = []
        self.tensors: list[Any] = []
        self.groups: list[int] = []

    def entries(self) -> list[Entry]:
        return [Entry(*self.tensors[start : start + EACH]) for start in range(0, len(self.tensors), EACH)]

    def only(self, numbers: Sequence[int]) -> Gathered:
        """Those of these numbers."""
        chosen = Gathered()
        for i in numbers:
            chosen.parameters.append(self.parameters[i])
            chosen.tensors += self.tensors[EACH * i : EACH * (i + 1)]
            chosen.groups.append(self.groups[i])
        return chosen


def why_outside(entry: Entry) -> str | None:
    """Why the compiled pass cannot take this parameter; None if it can."""
    try:
        views = [view_of(tensor) for tensor in entry[:5] if tensor is not None]
        step = inspect(entry.step, "step", "", frozenset((FLOAT32,)))
    except Error as error:
        return str(error).partition(";")[0].replace(" of ''", "")
    if any(view.device != views[0].device for view in (*views, step)):
        return "its tensors are on several devices"
    if views[0].order is None or any(view.order != views[0].order for view in views) or step.numel != 1:
        return "its tensors do not lie in memory in one order that is known"
    if views[0].numel == 0:
        return "it is empty"
    if any(view.shape != views[0].shape for view in views):
        return "its tensors differ in shape"
    weight, grad, *states = (view.dtype for view in views)
    if grad != weight or len(set(states)) > 1:
        return "its tensors differ in dtype"
    if states[0] == FLOAT32 or states[0] == weight == BFLOAT16:
        return None
    return f"its weight is {entry.parameter.dtype} and its state {entry.exp_avg.dtype}"


def overlapping(entries: Sequence[Entry]) -> set[int]:
    """The numbers of entries that share memory with another one: they must be stepped one after the other."""
    ranges = sorted(
        (address, address + tensor.numel() * tensor.element_size(), i)
        for i, entry in enumerate(entries)
        for tensor in (entry.parameter, entry.exp_avg, entry.exp_avg_sq, entry.max_exp_avg_sq)
        if tensor is not None and (address := first_address(tensor))
    )
    found: set[int] = set()
    farthest, first = 0, -1
    for start, end, second in ranges:
        if start < farthest and first != second:
            found |= {first, second}
        if end > farthest:
            farthest, first = end, second
    return found


def view_of(tensor: torch.Tensor) -> View:
    return inspect(tensor, "tensor", "", FLOATS)


def on_cuda(group: Mapping[str, Any]) -> bool:
    """Whether all of a parameter group lies on CUDA devices."""
    return all(devices.runtime.index_of(local(parameter)) != devices.HOST for parameter in group["params"])


def rate_of(group: Mapping[str, Any]) -> torch.Tensor | None:
    """The learning rate of a group, if it lies on a CUDA device."""
    rate = group["lr"]
    if isinstance(rate, torch.Tensor) and devices.runtime.index_of(rate) != devices.HOST:
        return rate
    return None
