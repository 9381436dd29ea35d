"""Which part of a whole tensor this rank holds: what a `Shard` says, and what torch says of a DTensor.

The arithmetic is this package's own: torch's helper makes an index of the whole axis at every call.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ArgumentError, LayoutError, ShapeError
from ..options.values import as_int, shown

if TYPE_CHECKING:
    import torch

__all__ = ["MOST_AXES", "Layout", "Shard", "holds_dtensor", "is_dtensor", "local", "shard_of"]

MOST_AXES = 8
"""Axes of a tensor that is split over ranks, at most."""


class Layout(NamedTuple):
    """How torch lays out a DTensor: its mesh, and one placement for each axis of the mesh."""

    mesh: Any
    placements: tuple[Any, ...]


@dataclass(frozen=True)
class Shard:
    """Where the array that this rank holds lies in the whole tensor. The array's own shape is the part's.

    For tensors that are split over ranks in a way that torch does not describe: by Megatron, by a pipeline,
    by hand. Of a DTensor all this is known without it.

    Args:
        shape: Of the whole tensor.
        offset: Index of the array's first element in the whole tensor, one number per axis.
        position: Of the tensor in the list that ranks its ties; None: in order of first appearance by (rank,
            position on the rank).
        layout: Of the DTensor that this describes, where there is one.

    Raises:
        ArgumentError: No lengths or no indices.
        ShapeError: Different numbers of axes, or more than eight.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]
    position: int | None = None
    layout: Layout | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("shape", "offset"):
            object.__setattr__(self, name, _counts(f"shard: {name}", getattr(self, name)))
        if self.position is not None:
            object.__setattr__(self, "position", as_int("shard: position", self.position, 0))
        if len(self.shape) != len(self.offset):
            raise ShapeError(
                f"shard: shape {self.shape} has {len(self.shape)} axes and offset {self.offset} "
                f"{len(self.offset)}; give one index per axis"
            )
        if len(self.shape) > MOST_AXES:
            raise ShapeError(f"shard: shape {self.shape} has {len(self.shape)} axes; accepted: {MOST_AXES}")

    def dtensor(self, part: torch.Tensor) -> torch.Tensor:
        """A DTensor around this part of a whole one, laid out like the one that this describes. No copy, and
        no collective.

        Raises:
            ArgumentError: This was given by hand and has no mesh.
        """
        if self.layout is None:
            raise ArgumentError(
                "shard: it was given by hand, and no mesh of torch's belongs to it. Use the part itself"
            )
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        size, from_local = sys.modules["torch"].Size, _dtensor_class().from_local
        made: torch.Tensor = from_local(
            part, *self.layout, run_check=False, shape=size(self.shape), stride=tuple(strides)
        )
        return made

    @property
    def numel(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)

    def require_fits(self, local_shape: Sequence[int], name: str) -> None:
        """Raises ShapeError if an array of this shape does not lie within the whole tensor; one without
        elements lies anywhere."""
        if not math.prod(local_shape):
            return
        fits = len(local_shape) == len(self.shape) and all(
            start + size <= whole
            for start, size, whole in zip(self.offset, local_shape, self.shape, strict=True)
        )
        if not fits:
            raise ShapeError(
                f"shard of '{name}': an array of shape {tuple(local_shape)} at offset {self.offset} does not "
                f"lie within shape {self.shape}. Give the shape of the whole tensor, and where this array "
                "begins in it"
            )


def is_dtensor(value: Any) -> bool:
    """Whether this is a DTensor of whatever release of torch; nothing is imported for it."""
    kind: Any = type(value)
    return _is_dtensor_type(kind)


def holds_dtensor(values: Iterable[Any]) -> bool:
    """Whether one of them is a DTensor."""
    return any(map(_is_dtensor_type, set(map(type, values))))


def local(tensor: Any) -> Any:
    """The plain tensor in which this rank keeps its part of a DTensor, no copy; anything else as it is."""
    if not is_dtensor(tensor):
        return tensor
    part = getattr(tensor, "_local_tensor", None)
    if type(part) is sys.modules["torch"].Tensor:  # to_local() makes a view at every call
        return part
    with sys.modules["torch"].no_grad():
        return tensor.to_local()


def shard_of(tensor: Any, name: str, argument: str = "weight") -> Shard | None:
    """The part of a DTensor that this rank holds, a box; None for what is no DTensor.

    A rank outside of the mesh holds a part without elements.

    Raises:
        LayoutError: The DTensor is still to be added up (Partial), its part here is no box (ragged, several
            intervals), or is kept in a form of its own (float8, a collective that has not ended).
    """
    if not is_dtensor(tensor):
        return None
    mesh, placements = tensor.device_mesh, tuple(tensor.placements)
    whole, part, here = tuple(tensor.shape), local(tensor), mesh.get_coordinate()
    _require_plain(part, name, argument)
    offset = [0] * len(whole)
    if here is not None:
        box = _box(whole, tuple(mesh.shape), tuple(here), _splits(placements, name, argument))
        if box is None or not _same(tuple(part.shape), tuple(size for _, size in box)):
            raise LayoutError(
                f"{argument} of '{name}' is a DTensor of shape {whole} whose part here, of shape "
                f"{tuple(part.shape)}, is not the box of rows and columns that its placements "
                f"{_listed(placements)} stand for; boxes are accepted. Redistribute it: "
                "tensor.redistribute(placements=[Shard(0), ...])"
            )
        offset = [start for start, _ in box]
    return Shard(whole, tuple(offset), layout=Layout(mesh, placements))


def _same(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return found == expected or not (math.prod(found) or math.prod(expected))


@functools.cache
def _is_dtensor_type(kind: type) -> bool:
    return any(base.__name__ == "DTensor" for base in kind.__mro__)


@functools.cache
def _dtensor_class() -> Any:
    try:
        from torch.distributed.tensor import DTensor

        found: Any = DTensor
    except ImportError:  # torch before 2.5
        found = importlib.import_module("torch.distributed._tensor").DTensor
    return found


def _require_plain(part: Any, name: str, argument: str) -> None:
    torch: Any = sys.modules["torch"]
    if type(part) in (torch.Tensor, torch.nn.Parameter):
        return
    kind, names = type(part).__name__, {cls.__name__ for cls in type(part).__mro__}
    if "FakeTensor" in names or "FunctionalTensor" in names:
        return  # refused where memory is asked for
    if "AsyncCollectiveTensor" in names:
        raise LayoutError(
            f"{argument} of '{name}' is a DTensor that a collective is still filling; accepted are finished "
            "ones. Call tensor.to_local().wait() first"
        )
    raise LayoutError(
        f"{argument} of '{name}' is a DTensor whose part on this rank is a {kind}, which keeps its values in "
        "a form of its own (float8, quantised, or in several pieces); parts that are plain tensors are "
        "accepted. Prune before converting, or leave it out"
    )


Splits = tuple[tuple[int, int, int], ...]
"""(axis of the tensor, axis of the mesh, split factor) in the order of the mesh."""


def _splits(placements: Sequence[Any], name: str, argument: str) -> Splits:
    splits = []
    for axis, placement in enumerate(placements):
        kind = type(placement).__name__  # by name: that of strided ones is private, and older torch lacks it
        if kind in ("Shard", "_StridedShard"):
            splits.append((int(placement.dim), axis, int(getattr(placement, "split_factor", 1))))
        elif kind.endswith("Partial"):
            raise LayoutError(
                f"{argument} of '{name}' is a DTensor placed as {_listed(placements)}: its numbers are still "
                "to be added up over ranks (Partial); accepted: Shard, Replicate. Redistribute it: "
                "tensor.redistribute(placements=[Replicate(), ...])"
            )
        elif kind != "Replicate":
            raise LayoutError(
                f"{argument} of '{name}' is a DTensor placed as {_listed(placements)}; accepted: Shard, "
                f"Replicate, and no {kind}. Redistribute it: tensor.redistribute(placements=[Shard(0), ...])"
            )
    return tuple(splits)


@functools.cache
def _box(
    whole: tuple[int, ...], mesh: tuple[int, ...], here: tuple[int, ...], splits: Splits
) -> tuple[tuple[int, int], ...] | None:
    """Where the part begins and how long it is on each axis; None if it is no single interval there."""
    box = []
    for axis, length in enumerate(whole):
        pieces = [(0, length)]
        for split, place, factor in splits:
            if split == axis:
                pieces = _take(pieces, mesh[place], here[place], factor)
        if len(pieces) > 1:
            return None
        start, end = pieces[0] if pieces else (0, 0)
        box.append((start, end - start))
    return tuple(box)


def _take(pieces: list[tuple[int, int]], parts: int, part: int, factor: int) -> list[tuple[int, int]]:
    """What is left of some intervals, end to end, when each of `factor` chunks is split into `parts` chunks
    and this part of each is kept; neighbours joined.
    """
    length, kept = sum(end - start for start, end in pieces), []
    for chunk in range(factor):
        low, high = _chunk(length, factor, chunk)
        start, end = _chunk(high - low, parts, part)
        kept += _cut(pieces, low + start, low + end)
    joined: list[tuple[int, int]] = []
    for start, end in kept:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _chunk(length: int, chunks: int, which: int) -> tuple[int, int]:
    """Where torch.chunk puts a chunk; those behind the end are empty."""
    size = -(-length // chunks)
    return min(which * size, length), min((which + 1) * size, length)


def _cut(pieces: Sequence[tuple[int, int]], low: int, high: int) -> list[tuple[int, int]]:
    """The elements from `low` to `high` of intervals that lie end to end."""
    found, passed = [], 0
    for start, end in pieces:
        first, last = max(low - passed, 0), min(high - passed, end - start)
        if first < last:
            found.append((start + first, start + last))
        passed += end - start
    return found


def _counts(argument: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
        raise ArgumentError(f"{argument}: {shown(values)}; accepted: a sequence of integers from 0")
    return tuple(as_int(argument, value, 0) for value in values)


def _listed(placements: Sequence[Any]) -> str:
    return f"({', '.join(map(repr, placements))})"
