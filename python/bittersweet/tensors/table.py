"""`ScoreInputs` and the packed table of pointers that crosses into the compiled module."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ArgumentError, DeviceError, MissingStateError, ShapeError
from ..options.scorers import ScorerCall
from . import devices
from .arrays import FLOAT32, View, inspect, require_disjoint, require_writable, write_back
from .columns import Column, of_other_shapes
from .masks import COLUMN, WIDTH, Mask
from .orders import ROW_MAJOR
from .rows import Row, corrections, modifiers, require_modifiers, rows_of
from .threads import follow_torch

if TYPE_CHECKING:
    from ..distributed.shards import Shard

MaskT = TypeVar("MaskT", Mask, "Mask | None")

ROLES = {"weight": 1, "exp_avg": 2, "exp_avg_sq": 4, "max_exp_avg_sq": 8, "grad": 16}
_ELEMENTWISE = ("weight", "exp_avg", "exp_avg_sq", "grad", "scores", "max_exp_avg_sq")


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
        self.columns = self._read(items, scorer, used)
        plain = all(column.is_plain for column in self.columns.values())
        if not plain:
            self._check_framework()
        weights = self.columns["weight"]
        self.framework = weights.view(0).framework if items else "numpy"
        self.device = weights.view(0).device if items else devices.HOST
        self.shapes = weights.shapes
        self.orders = [ROW_MAJOR] * len(items)
        if not plain and not row_major:
            self.orders = [weights.view(row).order or ROW_MAJOR for row in range(len(items))]
        if self.writes:
            require_disjoint(self._written(), "Each array that is written must have memory of its own")
        rows = rows_of(items, self.names, self.shapes, self.orders)
        self.numels = [row.numel for row in rows]
        if "input_norm" in self.columns:
            _check_input_norms(self.columns["input_norm"], rows, self.names)
        self.data = array("Q", b"".join(row.words for row in rows))
        if "modifier" in reads and scorer is not None:
            require_modifiers(items, self.names, scorer.name)
        self._fill("modifier", modifiers(items, self.names))
        if reads & {"step", "bias_correction1"}:
            self._fill("bias_correction1", corrections(items, self.names))
        self.current: list[Mask | None] = [
            None if item.mask is None else as_mask(item.mask, s, n)
            for item, s, n in zip(items, self.shapes, self.names, strict=True)
        ]
        self.current = self._put("mask", self.current)
        packed = (m for m, item in zip(self.current, items, strict=True) if m is not item.mask)
        self.copied_bytes = sum(mask.nbytes for mask in packed if mask is not None)
        relaid = 0 if plain else sum(self._relay(argument) for argument in self.columns if argument in used)
        self.relaid = relaid > 0
        self.copied_bytes += relaid
        for argument in used & self.columns.keys():
            column = self.columns[argument]
            self._fill(argument, column.pointers)
            self._fill(argument, column.dtypes, 1)  # the contract puts each dtype beside its pointer

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
        for name in ("names", "shapes", "numels", "orders"):
            setattr(one, name, getattr(self, name)[place : place + 1])
        one.columns = {argument: column.one(place) for argument, column in self.columns.items()}
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
        for column in self.columns.values():
            column.release()

    def views(self, row: int) -> dict[str, View]:
        """The arrays of one tensor that the call reads or writes, and its weight."""
        return {argument: column.view(row) for argument, column in self.columns.items() if row in column}

    def has_dtype(self, argument: str, dtype: int) -> bool:
        return argument in self.columns and dtype in self.columns[argument].dtypes

    def _put(self, column: str, masks: Sequence[MaskT]) -> list[MaskT]:
        if not any(masks):
            self._fill(column, [0] * len(masks))
            return list(masks)
        stream = devices.stream_of(self.device)
        for mask, name in zip(masks, self.names, strict=True):
            if mask is not None and (mask.device, mask.stream) != (self.device, stream):
                mask.require_on(self.device, name, stream)
        ordered: list[Any] = [
            mask if mask is None or mask.order == order else mask.ordered(order)
            for mask, order in zip(masks, self.orders, strict=True)
        ]
        self._fill(column, [0 if mask is None else mask.pointer for mask in ordered])
        return ordered

    def _fill(self, column: str, words: Iterable[int], behind: int = 0) -> None:
        """Writes a word of every row."""
        self.data[COLUMN[column] + behind :: WIDTH] = array("Q", words)

    def _relay(self, argument: str) -> int:
        """Brings the arrays that lie otherwise into the orders of their tensors; the bytes copied for it."""
        column, copied = self.columns[argument], 0
        for row, order in enumerate(self.orders):
            if row not in column or (view := column.view(row)).order == order:
                continue
            plain = order == ROW_MAJOR or argument == "input_norm"
            copied += view.relay(None if plain else self.columns["weight"].view(row))
            column.put(row, view)
        return copied

    def _written(self) -> Iterator[tuple[str, View]]:
        for row, name in enumerate(self.names):
            for argument in self.writes:
                if argument in self.columns and row in self.columns[argument]:
                    yield f"{argument} of '{name}'", self.columns[argument].view(row)

    def _read(
        self, items: Sequence[ScoreInputs], scorer: ScorerCall | None, used: frozenset[str]
    ) -> dict[str, Column]:
        """The weights and the arrays that the call reads or writes; of others only the shape is looked at."""
        columns: dict[str, Column] = {}
        shapes: list[tuple[int, ...]] | None = None
        for argument in (*_ELEMENTWISE, "input_norm"):
            values = list(map(attrgetter(argument), items))
            if argument == "weight" or (scorer is not None and argument in scorer.reads):
                self._require(argument, values, scorer)
            elif set(map(type, values)) <= {type(None)}:
                continue
            like = None if argument == "input_norm" else shapes
            if argument == "weight" or argument in used:
                column = columns[argument] = Column(values, argument, self.names, like)
                shapes = column.shapes if shapes is None else shapes
                if argument in self.writes:
                    for row, name in enumerate(self.names):
                        if row in column:
                            require_writable(column.view(row), argument, name)
                if like is not None and column.shapes != like:
                    wrong = next(row for row, shape in enumerate(like) if column.shapes[row] != shape)
                    _refuse_shape(column.shapes[wrong], like[wrong], argument, self.names[wrong])
            elif like is not None:
                for row in of_other_shapes(values, like):
                    _refuse_shape(values[row].shape, like[row], argument, self.names[row])
        return columns

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
        first: tuple[View, str, str] | None = None
        for row, name in enumerate(self.names):
            for argument, view in self.views(row).items():
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


def _refuse_shape(shape: Any, weight: tuple[int, ...], argument: str, name: str) -> None:
    raise ShapeError(
        f"{argument} of '{name}' has shape {tuple(shape)} and its weight {weight}; they must be equal"
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


def _check_input_norms(norms: Column, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Raises for one that does not fit its weight, and widens those that are not float32."""
    for place, (row, name) in enumerate(zip(rows, names, strict=True)):
        if place not in norms:
            continue
        geometry, shape = row.geometry, norms.shapes[place]
        if shape != (geometry.features,):
            blocks = f" of each of {geometry.blocks} groups" if geometry.blocks > 1 else ""
            raise ShapeError(
                f"input_norm of '{name}' has shape {tuple(shape)}; accepted: ({geometry.features},), one "
                f"norm per input feature{blocks}"
            )
        if norms.dtypes[place] != FLOAT32:
            norm = norms.view(place)
            widened = norm.source.float() if norm.framework == "torch" else norm.source.astype("float32")
            norms.put(place, inspect(widened, "input_norm", name))


def as_mask(value: Any, shape: tuple[int, ...], name: str) -> Mask:
    """A `Mask`, or a bool array packed into one, checked against the shape of its weight."""
    mask = value if isinstance(value, Mask) else Mask.from_bool(value, name)
    if mask.shape != shape:
        raise ShapeError(
            f"mask of '{name}' has shape {mask.shape} and its weight {shape}; they must be equal"
        )
    return mask
