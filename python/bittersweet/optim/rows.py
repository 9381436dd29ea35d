"""What one optimizer step works on, as rows of addresses for the compiled pass."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _core
from ..distributed.shards import is_dtensor, local
from ..errors import DeviceError, ShapeError
from ..tensors import devices
from ..tensors.addresses import reader
from ..tensors.arrays import raise_versions
from ..tensors.orders import ROW_MAJOR
from ..tensors.threads import follow_torch
from .entries import ADDRESSED, EACH, Gathered, view_of

if TYPE_CHECKING:
    import torch

    from ..tensors.masks import Mask
    from ..tensors.orders import Order
    from .rounding import Rounding

__all__ = ["COLUMN", "WIDTH", "Pass", "Rows", "Selection", "Step", "pays"]

COLUMN = {name: place for place, name in enumerate(_core.OPTIM_COLUMNS)}
WIDTH = len(_core.OPTIM_COLUMNS)
_LR = _core.OPTION_COLUMNS.index("lr")
_WRITTEN = (COLUMN["weight"], COLUMN["exp_avg"], COLUMN["exp_avg_sq"], COLUMN["max_exp_avg_sq"])
_LOOK_AGAIN = 64
"""Passes after which the zeros of dead rows are looked at, and written, again."""
_WORTH = 0.02
"""Share of a mask's words that are empty from which leaving them unread can pay."""


class Step(NamedTuple):
    """What one step is told beside its tensors.

    Attributes:
        groups: A row of options for each parameter group.
        rounding: How products and sums are rounded.
        weights_only: Whether the masks hold weights alone.
        scale: What gradients are divided by, in place, as GradScaler gives it; None: nothing.
        found_inf: As GradScaler gives it: not 0 forbids the step.
        rates: Learning rates that lie on a device, one a group; None where it is a number in `groups`.
    """

    groups: array[float]
    rounding: Rounding
    weights_only: bool
    scale: Any = None
    found_inf: Any = None
    rates: Sequence[Any] = ()


class Rows:
    """The table of the last pass, pointed at the tensors of this one where they are of the same kind.

    What dead rows hold is left unread only if it is known: our own pass wrote their zeros last, at the same
    addresses, and no tensor's autograd version has been raised since. Writes that raise none (through
    ``.data``) are repaired every 64 steps.
    """

    device = devices.HOST

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
        self._dirty: Sequence[int] = ()
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
        self._places = array("Q", (row + COLUMN[name] for row in rows for name in ADDRESSED))
        for start, entry, group, number in zip(rows, now.entries(), now.groups, numbers, strict=True):
            for name, tensor in zip(ADDRESSED, entry, strict=True):
                self._table[start + COLUMN[name]] = 0 if tensor is None else tensor.data_ptr()
            weight = view_of(entry.parameter)
            self._orders.append(weight.order or ROW_MAJOR)
            self._table[start + COLUMN["weight_dtype"]] = weight.dtype
            self._table[start + COLUMN["state_dtype"]] = view_of(entry.exp_avg).dtype
            self._table[start + COLUMN["numel"]] = entry.parameter.numel()
            self._table[start + COLUMN["group"]] = group
            self._table[start + COLUMN["number"]] = number
        self._where = [self._table[column::WIDTH] for column in _WRITTEN]
        self._written = [_written(now.tensors, with_gradients) for with_gradients in (False, True)]
        self._can_point = self._walk.remember(now.tensors)

    def take(self, masks: Mapping[torch.Tensor, Mask]) -> None:
        """The next pass goes by these masks, a mapping that never changes.

        Raises:
            ShapeError, DeviceError: A parameter is not what it was when its mask was held.
        """
        if masks is not self._masks:
            self._set_masks(masks)

    def step(self, step: Step, selection: Selection | None = None) -> None:
        """One pass by the masks that were taken.

        Every tensor that is written has its autograd version raised, and step counts go up by 1. A
        `selection` is shown the pass that is about to be made, and may make it with `Pass.make_masks`.
        """
        self._passes += 1
        look = self._looks_again()
        for row in self._skippable:
            known = not look and self._left.get(row) == self._state(row)
            self._table[row * WIDTH + COLUMN["trusted"]] = known
        afterwards = self._make(step, selection)
        tensors = self._now.tensors
        raise_versions(self._written[step.scale is not None](tensors))
        if afterwards is not None:
            afterwards()
        tensors[1::EACH] = [None] * len(self._now.parameters)  # gradients are freed by zero_grad()
        self._left = {} if step.weights_only else {row: self._state(row) for row in self._sure(step)}

    def forget(self) -> None:
        """A step begins in which these rows may have no part."""
        self._dirty = ()

    def violated(self) -> list[torch.Tensor]:
        """The parameters whose pruned weights, where they were read, were not 0 before the last pass."""
        return [self._now.parameters[row] for row in self._dirty]

    def violated_lately(self) -> list[torch.Tensor]:
        """The same without waiting for a device: of passes that it is done with."""
        return self.violated()

    def _make(self, step: Step, selection: Selection | None) -> Callable[[], None] | None:
        """The pass, and what is to be called when all is done."""
        follow_torch()
        groups = step.groups
        if any(rate is not None for rate in step.rates):
            groups = groups[:]
            for group, rate in enumerate(step.rates):
                if rate is not None:
                    groups[group * len(_core.OPTION_COLUMNS) + _LR] = float(rate)
        scale = 0.0 if step.scale is None else float(step.scale)
        arguments = self._table, groups, *step.rounding, scale, step.weights_only
        if selection is not None:
            this = Pass(self._now.parameters, self._table, arguments)
            selection(this)
            if this.dirty is not None:
                self._dirty = this.dirty
                return this.afterwards
        self._dirty = _core.step_adam(*arguments)
        return None

    def _looks_again(self) -> bool:
        """Whether this pass looks at dead rows whatever is known of them."""
        return self._passes % _LOOK_AGAIN == 0

    def _sure(self, step: Step) -> Sequence[int]:
        """The skippable rows whose zeros are there after this step."""
        return self._skippable

    def _set_masks(self, masks: Mapping[torch.Tensor, Mask]) -> None:
        """`masks` is known by its identity afterwards: whoever changes a mask gives another mapping."""
        self._masks, self._left, self._skippable, self._held = None, {}, [], []
        for row, (parameter, order) in enumerate(zip(self._now.parameters, self._orders, strict=True)):
            mask = masks.get(parameter) if masks else None
            if mask is not None:
                self._require_fit(parameter, mask)
                mask = mask.ordered(order)
            self._table[row * WIDTH + COLUMN["trusted"]] = 0
            self._held.append(mask)
            self._table[row * WIDTH + COLUMN["mask"]] = 0 if mask is None else mask.pointer
            # A write through a DTensor raises its own version, and not that of what it keeps here.
            if mask is not None and not is_dtensor(parameter):
                self._skippable.append(row)
        self._choose_skippable()
        self._masks = masks

    def _choose_skippable(self) -> None:
        """Leaves of the skippable rows those in whose masks it may pay."""
        masks = {row: self._mask(row) for row in self._skippable}
        self._skippable = [row for row, mask in masks.items() if pays(mask, (mask.held == 0).sum())]

    def _mask(self, row: int) -> Mask:
        mask = self._held[row]
        assert mask is not None
        return mask

    def _require_fit(self, parameter: torch.Tensor, mask: Mask) -> None:
        shape = tuple(local(parameter).shape)
        if mask.shape != shape:
            raise ShapeError(
                f"parameter of shape {shape}: its mask has shape {mask.shape}, which it "
                "had itself when it was held. Give it a new mask, or hold({})"
            )
        if mask.device != self.device:
            raise DeviceError(
                f"parameter of shape {shape}: it is on {devices.name_of(self.device)} and its mask on "
                f"{devices.name_of(mask.device)}, where it was itself when it was held. Give it a new mask, "
                "or hold({})"
            )

    def _state(self, row: int) -> tuple[int, ...]:
        """Where the written tensors of a row are, and their versions."""
        w, _, *states, _ = self._now.tensors[EACH * row : EACH * (row + 1)]
        written = [tensor for tensor in (w, *states) if tensor is not None]
        versions = [tensor._version for tensor in written if not tensor.is_inference()]
        return (*versions, *(self._table[row * WIDTH + column] for column in _WRITTEN))


def pays(mask: Mask, empty: int) -> bool:
    """Whether it can pay to leave dead rows unread, of a mask of which so many words are empty."""
    return bool(empty > _WORTH * len(mask.held))


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


def _written(tensors: list[Any], with_gradients: bool) -> Callable[[list[Any]], Any]:
    """Picks out what a step writes."""
    places = [
        i for i, tensor in enumerate(tensors) if tensor is not None and (with_gradients or i % EACH != 1)
    ]
    return itemgetter(*places) if places else list
