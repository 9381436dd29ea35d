"""What one optimizer step works on, as rows of addresses for the compiled pass."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _core
from ..distributed.shards import is_dtensor, local
from ..errors import Error, ShapeError
from ..tensors import devices
from ..tensors.addresses import reader
from ..tensors.arrays import BFLOAT16, FLOAT32, FLOATS, View, first_address, inspect, raise_versions
from ..tensors.orders import ROW_MAJOR
from ..tensors.threads import follow_torch

if TYPE_CHECKING:
    import torch

    from ..tensors.masks import Mask
    from ..tensors.orders import Order
    from .rounding import Rounding

__all__ = ["Entry", "Gathered", "Pass", "Rows", "Selection", "here", "overlapping", "why_outside"]

COLUMN = {name: place for place, name in enumerate(_core.OPTIM_COLUMNS)}
WIDTH = len(_core.OPTIM_COLUMNS)
_ADDRESSED = ("weight", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")
_WRITTEN = (COLUMN["weight"], COLUMN["exp_avg"], COLUMN["exp_avg_sq"], COLUMN["max_exp_avg_sq"])
_EACH = len(_ADDRESSED)
_LOOK_AGAIN = 64
"""Passes after which the zeros of dead rows are looked at, and written, again."""
_WORTH = 0.02
"""Share of a mask's words that are empty from which leaving them unread can pay."""


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
        return [Entry(*self.tensors[start : start + _EACH]) for start in range(0, len(self.tensors), _EACH)]

    def only(self, numbers: Sequence[int]) -> Gathered:
        """Those of these numbers."""
        chosen = Gathered()
        for i in numbers:
            chosen.parameters.append(self.parameters[i])
            chosen.tensors += self.tensors[_EACH * i : _EACH * (i + 1)]
            chosen.groups.append(self.groups[i])
        return chosen


class Rows:
    """The table of the last pass, pointed at the tensors of this one where they are of the same kind.

    What dead rows hold is left unread only if it is known: our own pass wrote their zeros last, at the same
    addresses, and no tensor's autograd version has been raised since. Writes that raise none (through
    ``.data``) are repaired every 64 steps.
    """

    def __init__(self) -> None:
        self._walk = reader()
        self._now = Gathered()
        self._can_point = False
        self._masks: Mapping[torch.Tensor, Mask] | None = None
        self._table, self._places = array("Q"), array("Q")
        self._where: list[array[int]] = []
        self._orders: list[Order] = []
        self._held: list[Mask | None] = []
        self._skippable: list[int] = []
        self._left: dict[int, tuple[int, ...]] = {}
        self._passes = 0
        self._written: list[Callable[[list[Any]], Any]] = []

    def point(self, now: Gathered) -> bool:
        """Puts the addresses of now into the table; False, and `build` is needed, if anything else about
        these tensors, or which they are, has changed, or what is written lies elsewhere: it may overlap."""
        known = self._now
        same = self._can_point and len(now.parameters) == len(known.parameters)
        same = same and now.groups == known.groups and all(map(is_, now.parameters, known.parameters))
        if not same or not self._walk.read(now.tensors, self._table, self._places):
            return False
        self._now = now
        return self._where == [self._table[column::WIDTH] for column in _WRITTEN]

    def build(self, now: Gathered, numbers: Sequence[int]) -> None:
        """Makes the table for entries that `why_outside` takes, numbered as their optimizer's parameters."""
        self._now, self._masks, self._skippable, self._orders = now, None, [], []
        self._table = array("Q", bytes(8 * WIDTH * len(now.parameters)))
        rows = range(0, len(self._table), WIDTH)
        self._places = array("Q", (row + COLUMN[name] for row in rows for name in _ADDRESSED))
        for start, entry, group, number in zip(rows, now.entries(), now.groups, numbers, strict=True):
            for name, tensor in zip(_ADDRESSED, entry, strict=True):
                self._table[start + COLUMN[name]] = 0 if tensor is None else tensor.data_ptr()
            weight = _view(entry.parameter)
            self._orders.append(weight.order or ROW_MAJOR)
            self._table[start + COLUMN["weight_dtype"]] = weight.dtype
            self._table[start + COLUMN["state_dtype"]] = _view(entry.exp_avg).dtype
            self._table[start + COLUMN["numel"]] = entry.parameter.numel()
            self._table[start + COLUMN["group"]] = group
            self._table[start + COLUMN["number"]] = number
        self._where = [self._table[column::WIDTH] for column in _WRITTEN]
        self._written = [_written(now.tensors, with_gradients) for with_gradients in (False, True)]
        self._can_point = self._walk.remember(now.tensors)

    def step(
        self,
        masks: Mapping[torch.Tensor, Mask],
        groups: array[float],
        rounding: Rounding,
        scale: float,
        weights_only: bool,
        selection: Selection | None = None,
    ) -> list[torch.Tensor]:
        """One pass, by masks in a mapping that never changes. Returns the parameters whose pruned weights
        were not all 0 before it, of those that were read.

        Every tensor that is written has its autograd version raised, and step counts go up by 1. A
        `selection` is shown the pass that is about to be made, and may make it with `Pass.make_masks`.
        """
        if masks is not self._masks:
            self._set_masks(masks)
        self._passes += 1
        for row in self._skippable:
            known = self._passes % _LOOK_AGAIN != 0 and self._left.get(row) == self._state(row)
            self._table[row * WIDTH + COLUMN["trusted"]] = known
        follow_torch()
        arguments = self._table, groups, *rounding, scale, weights_only
        dirty, afterwards = None, None
        if selection is not None:
            this = Pass(self._now.parameters, self._table, arguments)
            selection(this)
            dirty, afterwards = this.dirty, this.afterwards
        if dirty is None:
            dirty = _core.step_adam(*arguments)
        tensors = self._now.tensors
        raise_versions(self._written[scale != 0.0](tensors))
        if afterwards is not None:
            afterwards()
        tensors[1::_EACH] = [None] * len(self._now.parameters)  # gradients are freed by zero_grad()
        self._left = {} if weights_only else {row: self._state(row) for row in self._skippable}
        return [self._now.parameters[row] for row in dirty]

    def _set_masks(self, masks: Mapping[torch.Tensor, Mask]) -> None:
        """`masks` is known by its identity afterwards: whoever changes a mask gives another mapping."""
        self._masks, self._left, self._skippable, self._held = masks, {}, [], []
        for row, (parameter, order) in enumerate(zip(self._now.parameters, self._orders, strict=True)):
            mask = masks.get(parameter) if masks else None
            if mask is not None and mask.shape != (shape := tuple(local(parameter).shape)):
                self._masks = None
                raise ShapeError(
                    f"parameter of shape {shape}: its mask has shape {mask.shape}, which it "
                    "had itself when it was held. Give it a new mask, or hold({})"
                )
            self._table[row * WIDTH + COLUMN["trusted"]] = 0
            mask = None if mask is None else mask.ordered(order)
            self._held.append(mask)
            self._table[row * WIDTH + COLUMN["mask"]] = 0 if mask is None else mask.pointer
            # A write through a DTensor raises its own version, and not that of what it keeps here.
            if mask is None or is_dtensor(parameter):
                continue
            if len(mask.held) and (mask.held == 0).mean() > _WORTH:
                self._skippable.append(row)

    def _state(self, row: int) -> tuple[int, ...]:
        """Where the written tensors of a row are, and their versions."""
        w, _, *states, _ = self._now.tensors[_EACH * row : _EACH * (row + 1)]
        written = [tensor for tensor in (w, *states) if tensor is not None]
        versions = [tensor._version for tensor in written if not tensor.is_inference()]
        return (*versions, *(self._table[row * WIDTH + column] for column in _WRITTEN))


class Pass:
    """A step that is about to be made, in which new masks can be made of what it leaves.

    Attributes:
        parameters: Those that are stepped, row by row.
        dirty: After it has been made here: the rows whose pruned weights were not all 0 before.
        afterwards: What is called when everything that the step does is done.
    """

    def __init__(self, parameters: list[torch.Tensor], table: array[int], arguments: tuple[Any, ...]) -> None:
        self.parameters = parameters
        self._table, self._arguments = table, arguments
        self.dirty: list[int] | None = None
        self.afterwards: Callable[[], None] | None = None

    def mask_of(self, row: int) -> int:
        """The address of the mask that is held on a row; 0 for none."""
        return self._table[row * WIDTH + COLUMN["mask"]]

    def make_masks(self, order: list[int], *arguments: Any, **options: Any) -> Any:
        """`_core.make_masks` of these rows as they are after the step, which is made; None if the masks
        could not be made of that."""
        step: Any = _core.step_adam_and_make_masks
        self.dirty, found = step(*self._arguments, order, *arguments, **options)
        return found


Selection = Callable[[Pass], None]


def why_outside(entry: Entry) -> str | None:
    """Why the compiled pass cannot take this parameter; None if it can."""
    try:
        views = [_view(tensor) for tensor in entry[:5] if tensor is not None]
        step = inspect(entry.step, "step", "", frozenset((FLOAT32,)))
    except Error as error:
        return str(error).partition(";")[0].replace(" of ''", "")
    if any(view.device != devices.HOST for view in (*views, step)):
        return f"it is on {entry.parameter.device}"
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


def _view(tensor: torch.Tensor) -> View:
    return inspect(tensor, "tensor", "", FLOATS)


def _written(tensors: list[Any], with_gradients: bool) -> Callable[[list[Any]], Any]:
    """Picks out what a step writes."""
    places = [
        i for i, tensor in enumerate(tensors) if tensor is not None and (with_gradients or i % _EACH != 1)
    ]
    return itemgetter(*places) if places else list
