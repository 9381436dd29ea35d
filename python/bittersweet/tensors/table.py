"""`ScoreInputs` and the packed table of pointers that crosses into the compiled module."""

from __future__ import annotations

import copy
import math
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ArgumentError, DeviceError, MissingStateError, ShapeError
from ..options.scorers import ScorerCall
from ..options.values import BELOW_ONE, FINITE, as_number, shown
from . import devices
from .arrays import FLOAT32, View, inspect, require_disjoint, require_writable, write_back
from .columns import inspect_all
from .geometry import Geometry, geometry_of
from .masks import COLUMN, WIDTH, Mask
from .orders import ROW_MAJOR
from .threads import follow_torch

if TYPE_CHECKING:
    from ..distributed.shards import Shard

MaskT = TypeVar("MaskT", Mask, "Mask | None")

ROLES = {"weight": 1, "exp_avg": 2, "exp_avg_sq": 4, "max_exp_avg_sq": 8, "grad": 16}
_ELEMENTWISE = ("weight", "exp_avg", "exp_avg_sq", "grad", "scores", "max_exp_avg_sq")
_ONE = 0x3F800000  # the bits of 1.0f
_MOST = 3.4028234663852886e38  # the largest float32


@dataclass(slots=True, eq=False, repr=False)
class ScoreInputs:
    """One weight tensor and what a scorer may read beside it. All is borrowed for the length of a call.

    Arrays are torch tensors on the CPU or on one CUDA device, or, on the CPU, NumPy arrays or objects with
    DLPack or the buffer protocol, or objects with DLPack or the CUDA array interface on a CUDA device, which
    count as torch tensors; float32, float16 or bfloat16 in any mixture, all from one framework and
    device. Element i of each belongs to element i of the weight by logical row-major index, whatever the
    strides.

    Args:
        weight: The weight, of any shape.
        exp_avg: Adam's m, of the weight's shape.
        exp_avg_sq: Adam's v, of the weight's shape.
        grad: Gradient, of the weight's shape.
        input_norm: WANDA's norm per input feature, one dimension, as long as the weight's input axis; with
            `groups`, those of all groups, one after another.
        scores: Scores that the caller computed (scorer ``"identity"``), or what a `MovementTracker` summed
            (``"movement"``), of the weight's shape.
        mask: Current mask, True = keep: a bool array of the weight's shape, or a `Mask`. None: everything is
            live.
        modifier: Multiplies every score of this tensor; finite, not negative. None: 1, and an error for the
            scorers that have a memory (bitter10, bitter10s, bitter10c).
        in_dim: Which axis is the input. None: 1 for two or more dimensions (Linear, Conv); 0 for transposed
            weights (transformers' Conv1D, ConvTranspose). Axes before it and, but for `kernel_dims`, behind
            it count outputs: what has the same index on all of them is one output row.
        kernel_dims: How many of the last axes are a kernel's window, which belongs to the row. None: all
            behind the input axis, or all but the first two if that is axis 0 (Conv, ConvTranspose). Experts
            of shape (experts, inputs, outputs): in_dim=1, kernel_dims=0.
        groups: How many equal parts of the weight, one after another in memory, read input features of their
            own, as in a grouped convolution; a transposed one, whose input axis is 0, has that axis in
            `groups` parts. None: 1; if outputs lie both before and behind the input axis, as many as before.
        step: Adam's step count t, from 1; a number or a tensor of one element.
        name: Name in messages and events. None: ``"tensor<position>"``.
        betas: Adam's betas.
        max_exp_avg_sq: AMSGrad's buffer, of the weight's shape; never scored, masked on request.
        shard: Where these arrays lie in a whole tensor that several ranks hold parts of, for a decision over
            ranks (`process_group`). None: a DTensor knows by itself, and anything else is whole.
    """

    weight: Any
    exp_avg: Any = None
    exp_avg_sq: Any = None
    grad: Any = None
    input_norm: Any = None
    scores: Any = None
    mask: Any = None
    modifier: float | None = None
    in_dim: int | None = None
    step: Any = None
    name: str | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    max_exp_avg_sq: Any = None
    kernel_dims: int | None = None
    groups: int | None = None
    shard: Shard | None = None

    def __repr__(self) -> str:
        names = [field.name for field in fields(self) if field.name not in ("name", "weight", "betas")]
        given = [name for name in names if getattr(self, name) is not None]
        title = "" if self.name is None else f"{self.name!r}, "
        beside = f", with {', '.join(given)}" if given else ""
        return f"ScoreInputs({title}shape={tuple(getattr(self.weight, 'shape', ()))}{beside})"


class Table:
    """A checked list of `ScoreInputs` as one row of integers per tensor.

    Construction raises the error that fits before anything is copied. Each tensor is then worked on in the
    order that its weight has in memory (`orders`), row-major where no engine knows that one, or with
    `row_major`. The arrays that the call uses and that lie otherwise are re-laid, and masks with them
    (`copied_bytes`).
    """

    def __init__(
        self,
        items: Sequence[ScoreInputs],
        scorer: ScorerCall | None = None,
        writes: Sequence[str] = (),
        row_major: bool = False,
    ) -> None:
        follow_torch()
        self.names = [f"tensor{i}" if item.name is None else str(item.name) for i, item in enumerate(items)]
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ArgumentError(f"name: '{twice}' is given to two tensors; names must differ")
        self.writes = tuple(writes)
        reads = frozenset() if scorer is None else scorer.reads
        used = reads | set(self.writes)
        looked_at = used | {"weight"}
        self.views = self._inspect(items, scorer, looked_at)
        self._check_framework()
        self.framework = self.views[0]["weight"].framework if self.views else "numpy"
        self.device = self.views[0]["weight"].device if self.views else devices.HOST
        self.shapes = [views["weight"].shape for views in self.views]
        self.numels = [views["weight"].numel for views in self.views]
        self.orders = [ROW_MAJOR if row_major else views["weight"].order or ROW_MAJOR for views in self.views]
        if self.writes:
            require_disjoint(self._written(), "Each array that is written must have memory of its own")
        geometries = [
            geometry_of(shape, item.in_dim, item.kernel_dims, item.groups, name)
            for shape, item, name in zip(self.shapes, items, self.names, strict=True)
        ]
        for views, geometry, name in zip(self.views, geometries, self.names, strict=True):
            _check_input_norm(views, geometry, name)
        needs_step = bool(reads & {"step", "bias_correction1"})
        if "modifier" in reads and scorer is not None:
            _require_modifiers(items, self.names, scorer.name)
        scalars = _scalars(items, self.names, needs_step)
        self.current = [
            None if item.mask is None else as_mask(item.mask, s, n)
            for item, s, n in zip(items, self.shapes, self.names, strict=True)
        ]
        stream = devices.stream_of(self.device)
        for row, (mask, name) in enumerate(zip(self.current, self.names, strict=True)):
            if mask is not None:
                mask.require_on(self.device, name, stream)
                self.current[row] = mask.ordered(self.orders[row])

        packed = (m for m, item in zip(self.current, items, strict=True) if m is not item.mask)
        self.copied_bytes = sum(mask.nbytes for mask in packed if mask is not None)
        relaid = 0
        self.data = array("Q", bytes(8 * WIDTH * len(items)))
        for row, (views, order) in enumerate(zip(self.views, self.orders, strict=True)):
            start = row * WIDTH
            for argument, view in views.items():
                if argument not in used:
                    continue
                if view.order != order:
                    plain = order == ROW_MAJOR or argument == "input_norm"
                    relaid += view.relay(None if plain else views["weight"])
                column = start + COLUMN[argument]
                self.data[column] = view.pointer
                self.data[column + 1] = view.dtype  # the contract puts each dtype beside its pointer
            column = start + COLUMN["numel"]
            modifier, correction = scalars[row]
            *strided, blocks = geometries[row]
            tail = (self.numels[row], *strided, modifier, correction, sum(self.shapes[row]), blocks, *order)
            self.data[column : column + len(tail)] = array("Q", tail)
            current = self.current[row]
            if current is not None:
                self.data[start + COLUMN["mask"]] = current.pointer
        self.relaid = relaid > 0
        self.copied_bytes += relaid

    @property
    def engine(self) -> Any:
        """The engine for this memory; its verbs take `data`."""
        return devices.engine_of(self.device)

    @property
    def total(self) -> int:
        return sum(self.numels)

    def attach(self, masks: Sequence[Mask]) -> None:
        """Puts masks where make_masks writes and apply_masks reads, in the orders of their tensors.

        `attached` keeps their memory alive.
        """
        self.attached = self._put("new_mask", masks)

    def row(self, place: int) -> Table:
        """A table of one tensor of this one, over the same arrays. Nothing is checked again."""
        one = copy.copy(self)
        for name in ("names", "views", "shapes", "numels", "orders"):
            setattr(one, name, getattr(self, name)[place : place + 1])
        one.data = self.data[place * WIDTH : (place + 1) * WIDTH]
        one.current, one.copied_bytes = [None], 0
        return one

    def compete(self, masks: Sequence[Mask | None]) -> None:
        """Takes other current masks, that fit, instead of those of the items."""
        self.current = self._put("mask", masks)

    def write_back(self) -> None:
        """After the engine wrote the arrays of `writes`: see `arrays.write_back`."""
        write_back(view for _, view in self._written())

    def release(self) -> None:
        """Lets go of the arrays, not of the masks: addresses that are not brought up to date may dangle."""
        for views in self.views:
            for view in views.values():
                view.source = view.copy = None

    def _put(self, column: str, masks: Sequence[MaskT]) -> list[MaskT]:
        stream, place = devices.stream_of(self.device), COLUMN[column]
        for mask, name in zip(masks, self.names, strict=True):
            if mask is not None:
                mask.require_on(self.device, name, stream)
        ordered: list[Any] = [
            None if mask is None else mask.ordered(order)
            for mask, order in zip(masks, self.orders, strict=True)
        ]
        for row, mask in enumerate(ordered):
            self.data[row * WIDTH + place] = 0 if mask is None else mask.pointer
        return ordered

    def has_dtype(self, argument: str, dtype: int) -> bool:
        return any(argument in views and views[argument].dtype == dtype for views in self.views)

    def _written(self) -> Iterator[tuple[str, View]]:
        for name, views in zip(self.names, self.views, strict=True):
            for argument in self.writes:
                if argument in views:
                    yield f"{argument} of '{name}'", views[argument]

    def _inspect(
        self, items: Sequence[ScoreInputs], scorer: ScorerCall | None, looked_at: frozenset[str]
    ) -> list[dict[str, View]]:
        """The weights and the arrays that the call reads or writes; of others only the shape is looked at."""
        rows: list[dict[str, View]] = [{} for _ in items]
        for argument in (*_ELEMENTWISE, "input_norm"):
            values = [getattr(item, argument) for item in items]
            if argument == "weight" or (scorer is not None and argument in scorer.reads):
                self._require(argument, values, scorer)
            if set(map(type, values)) <= {type(None)}:
                continue
            if argument in looked_at:
                views = inspect_all(values, argument, self.names)
                for row, view, name in zip(rows, views, self.names, strict=True):
                    if view is None:
                        continue
                    row[argument] = view
                    if argument in self.writes:
                        require_writable(view, argument, name)
                    if argument != "input_norm" and view.shape != row["weight"].shape:
                        _refuse_shape(view.shape, row["weight"], argument, name)
            elif argument != "input_norm":
                for value, row, name in zip(values, rows, self.names, strict=True):
                    shape = None if value is None else getattr(value, "shape", None)
                    if shape is not None and shape != row["weight"].shape:
                        _refuse_shape(shape, row["weight"], argument, name)
        return rows

    def _require(self, argument: str, values: Sequence[Any], scorer: ScorerCall | None) -> None:
        """Raises if one is None."""
        for value, name in zip(values, self.names, strict=True):
            if value is not None:
                continue
            if argument == "weight":
                raise ArgumentError(f"weight of '{name}': found None; accepted: an array. Pass the weight")
            assert scorer is not None
            raise MissingStateError(
                f"{argument} of '{name}' is missing, and scorer '{scorer.name}' reads it. Pass it (for "
                "optimizer state: after the first optimizer step), or choose a scorer that does without"
            )

    def _check_framework(self) -> None:
        if len({(view.framework, view.device) for views in self.views for view in views.values()}) < 2:
            return
        first: tuple[View, str, str] | None = None
        for name, views in zip(self.names, self.views, strict=True):
            for argument, view in views.items():
                if first is None:
                    first = (view, argument, name)
                elif view.framework != first[0].framework:
                    raise DeviceError(
                        f"{argument} of '{name}' is a {view.framework} array and {first[1]} of '{first[2]}' "
                        f"a {first[0].framework} one; give all inputs of one call in one framework"
                    )
                elif view.device != first[0].device:
                    raise DeviceError(
                        f"{argument} of '{name}' is on {devices.name_of(view.device)} and {first[1]} of "
                        f"'{first[2]}' on {devices.name_of(first[0].device)}; give all inputs of one call on "
                        "one device"
                    )


def _refuse_shape(shape: Any, weight: View, argument: str, name: str) -> None:
    raise ShapeError(
        f"{argument} of '{name}' has shape {tuple(shape)} and its weight {weight.shape}; they must be equal"
    )


def as_items(inputs: ScoreInputs | Sequence[ScoreInputs]) -> tuple[bool, list[ScoreInputs]]:
    """Whether a bare ScoreInputs was given, and the list."""
    if isinstance(inputs, ScoreInputs):
        return True, [inputs]
    items = list(inputs) if isinstance(inputs, Sequence) else [inputs]
    for item in items:
        if not isinstance(item, ScoreInputs):
            raise ArgumentError(
                f"inputs: found {type(item).__name__}; accepted: a ScoreInputs or a list of them. Wrap each "
                "weight: ScoreInputs(weight, ...)"
            )
    return False, items


def _check_input_norm(views: dict[str, View], geometry: Geometry, name: str) -> None:
    norm = views.get("input_norm")
    if norm is None:
        return
    if norm.shape != (geometry.features,):
        blocks = f" of each of {geometry.blocks} groups" if geometry.blocks > 1 else ""
        raise ShapeError(
            f"input_norm of '{name}' has shape {tuple(norm.shape)}; accepted: ({geometry.features},), one "
            f"norm per input feature{blocks}"
        )
    if norm.dtype != FLOAT32:
        widened = norm.source.float() if norm.framework == "torch" else norm.source.astype("float32")
        views["input_norm"] = inspect(widened, "input_norm", name)


def _scalars(items: Sequence[ScoreInputs], names: Sequence[str], needs_step: bool) -> list[tuple[int, int]]:
    """The bits of modifier and bias_correction1 of each."""
    scalars = []
    former, corrected = None, _ONE
    for item, name in zip(items, names, strict=True):
        modifier = _ONE
        if item.modifier is not None:
            number = as_number(f"modifier of '{name}'", item.modifier, 0.0, _MOST, "a finite number from 0")
            modifier = _float_bits(number)
        if needs_step:
            if item.step is None:
                raise MissingStateError(
                    f"step of '{name}' is missing, and the scorer corrects the bias of exp_avg by it. Pass "
                    "Adam's step count"
                )
            if former is None or item.step is not former.step or item.betas is not former.betas:
                step, beta1 = _step(item.step, name), _beta1(item.betas, name)
                former, corrected = item, _float_bits(1.0 - beta1**step)
        scalars.append((modifier, corrected))
    return scalars


def _step(step: Any, name: str) -> float:
    if math.prod(getattr(step, "shape", ())) == 1 and hasattr(step, "reshape"):
        step = step.reshape(())
    return as_number(f"step of '{name}'", step, 1.0, FINITE, "a count from 1, or a tensor of one element")


def _beta1(betas: Any, name: str) -> float:
    if not isinstance(betas, Sequence) or not betas:
        raise ArgumentError(f"betas of '{name}': {shown(betas)}; accepted: two numbers, (beta1, beta2)")
    return as_number(f"betas of '{name}': beta1", betas[0], 0.0, BELOW_ONE, "0 <= beta1 < 1")


def _require_modifiers(items: Sequence[ScoreInputs], names: Sequence[str], scorer: str) -> None:
    for item, name in zip(items, names, strict=True):
        if item.modifier is None:
            raise MissingStateError(
                f"modifier of '{name}' is missing, and scorer '{scorer}' multiplies by it. Pass what its "
                "tracker's modifiers() returns, or use the scorer in a Pruner"
            )


def _float_bits(value: float) -> int:
    return _ONE if value == 1.0 else int.from_bytes(struct.pack("<f", value), "little")


def as_mask(value: Any, shape: tuple[int, ...], name: str) -> Mask:
    """A `Mask`, or a bool array packed into one, checked against the shape of its weight."""
    mask = value if isinstance(value, Mask) else Mask.from_bool(value, name)
    if mask.shape != shape:
        raise ShapeError(
            f"mask of '{name}' has shape {mask.shape} and its weight {shape}; they must be equal"
        )
    return mask
