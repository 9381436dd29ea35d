"""What this rank competes with: `ScoreInputs` of DTensors or with a `Shard`, as the plain tensors here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import LayoutError, ShapeError
from ..tensors.arrays import inspect
from ..tensors.geometry import geometry_of
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs
from .members import Part
from .shards import Shard, is_dtensor, local, shard_of

__all__ = [
    "local_groups",
    "local_item",
    "mask_of_part",
    "norm_of_part",
    "part_of",
    "plain_items",
    "table_item",
]

_ELEMENTWISE = ("exp_avg", "exp_avg_sq", "grad", "scores", "max_exp_avg_sq", "mask")


def local_item(item: ScoreInputs, name: str) -> ScoreInputs:
    """The same with this rank's plain tensors, and with the shard that they are.

    A weight that is no DTensor and has no shard is whole, a copy of which other ranks may have too.

    Raises:
        LayoutError: A DTensor that is no box of plain numbers (`shards.shard_of`), or one laid out otherwise
            than its weight.
        ShapeError: An array that does not lie within the whole tensor, or norms that are not the whole ones.
    """
    weight, given = item.weight, item.shard
    if weight is None:
        return item  # the table says what is missing
    if is_dtensor(weight) and given is not None:
        raise LayoutError(
            f"shard of '{name}': given beside a weight that is a DTensor, which knows its part. Leave it out"
        )
    shard = given or shard_of(weight, name)
    shape = inspect(local(weight), "weight", name).shape
    shard = shard or Shard(shape, (0,) * len(shape))
    shard.require_fits(shape, name)
    changed: dict[str, Any] = {"name": name, "weight": local(weight), "shard": shard}
    for argument in _ELEMENTWISE:
        value = getattr(item, argument)
        if value is not None:
            changed[argument] = (
                mask_of_part(value, shard, shape, name)
                if argument == "mask"
                else _beside(value, shard, name, argument)
            )
    made = replace(item, **changed)
    if item.input_norm is not None:
        made.input_norm = norm_of_part(item.input_norm, made, shape, name)
    return made


def plain_items(items: Sequence[ScoreInputs]) -> list[ScoreInputs]:
    """The same items; those of DTensors with this rank's plain tensors in their place."""
    return [
        local_item(item, f"tensor{place}" if item.name is None else str(item.name))
        if is_dtensor(item.weight)
        else item
        for place, item in enumerate(items)
    ]


def mask_of_part(mask: Any, shard: Shard | None, shape: tuple[int, ...], name: str) -> Any:
    """What this rank holds of a mask, for a part of this shape: of a DTensor laid out like the weight, of a
    bool array or a `Mask` of the whole weight. A mask of the part, and what does not fit, as it is.

    Raises:
        LayoutError: A DTensor that is laid out otherwise.
    """
    if is_dtensor(mask):
        if shard is None:
            raise LayoutError(
                f"mask of '{name}' is a DTensor and its weight is none; give both as DTensors, or the part "
                "of the mask that belongs to this weight"
            )
        return _beside(mask, shard, name, "mask")
    if shard is None or shape == shard.shape or tuple(getattr(mask, "shape", ())) != shard.shape:
        return mask
    whole = mask.bool() if isinstance(mask, Mask) else mask
    return whole[tuple(slice(low, low + size) for low, size in zip(shard.offset, shape, strict=True))]


def part_of(item: ScoreInputs, shape: tuple[int, ...], alike: Mapping[str, Any]) -> Part:
    """The part that a named local item is, for the list of all ranks."""
    assert item.shard is not None and item.name is not None
    rows = geometry_of(item.shard.shape, item.in_dim, item.kernel_dims, item.groups, item.name)
    return Part(item.name, item.shard, shape, alike, tuple(rows))


def table_item(item: ScoreInputs, shape: tuple[int, ...]) -> ScoreInputs:
    """A local item as a table of its own arrays takes it."""
    return replace(item, shard=None, groups=local_groups(item.groups, item.shard, shape))


def _placed(shard: Shard) -> str:
    return "" if shard.layout is None else f" placed as {shard.layout.placements}"


def norm_of_part(norm: Any, item: ScoreInputs, shape: tuple[int, ...], name: str) -> Any:
    """Of the norms of a whole weight's input features, those that this part of it reads.

    Raises:
        ShapeError: Not one norm per input feature of the whole weight, or a part that cuts through a group of
            a grouped convolution.
    """
    shard = item.shard
    if shard is None or shape == shard.shape:
        return norm
    whole = geometry_of(shard.shape, item.in_dim, item.kernel_dims, item.groups, name)
    if tuple(norm.shape) != (whole.features,):
        raise ShapeError(
            f"input_norm of '{name}' has shape {tuple(norm.shape)}; accepted: ({whole.features},), one norm "
            "per input feature of the whole weight, of which each rank takes its own"
        )
    if not math.prod(shape):
        return norm[: geometry_of(shape, item.in_dim, item.kernel_dims, None, name).features]
    axis = _input_axis(item)
    lead, inputs = shard.shape[:axis], slice(shard.offset[axis], shard.offset[axis] + shape[axis])
    if whole.blocks == 1 or axis == 0:
        return norm[inputs]
    if whole.blocks == math.prod(lead):  # each index before the input axis has features of its own
        cut = tuple(slice(at, at + size) for at, size in zip(shard.offset, shape[:axis], strict=False))
        return norm.reshape(*lead, whole.inputs)[(*cut, inputs)].reshape(-1)
    span = _span(shard, shape, whole.blocks) if axis == 1 else None
    if span is None:
        raise ShapeError(
            f"weight of '{name}' has {whole.blocks} groups, and its part of shape {tuple(shape)} at "
            f"{shard.offset} begins or ends within one; for norms of inputs, parts of whole groups are "
            "accepted. Leave it out, or use a scorer without norms"
        )
    return norm.reshape(whole.blocks, whole.inputs)[slice(*span), inputs].reshape(-1)


def local_groups(groups: int | None, shard: Shard | None, shape: tuple[int, ...]) -> int | None:
    """How many groups the part of a grouped convolution has; 1 where it cuts through one, which then matters
    to none that may compete."""
    if groups is None or shard is None or shape == shard.shape:
        return groups
    span = _span(shard, shape, groups)
    return 1 if span is None else max(span[1] - span[0], 1)


def _span(shard: Shard, shape: Sequence[int], groups: int) -> tuple[int, int] | None:
    """The groups, equal parts of the first axis, of which a part consists; None if it cuts through one."""
    length = shard.shape[0] // groups
    low, high = shard.offset[0], shard.offset[0] + shape[0]
    return None if low % length or high % length else (low // length, high // length)


def _input_axis(item: ScoreInputs) -> int:
    axes = 0 if item.shard is None else len(item.shard.shape)
    return 0 if axes < 2 else 1 if item.in_dim is None else item.in_dim


def _beside(value: Any, shard: Shard, name: str, argument: str) -> Any:
    """This rank's part of what lies beside a weight: laid out alike, or a plain local array."""
    if not is_dtensor(value):
        return value
    own = shard_of(value, name, argument)
    assert own is not None
    if (own.shape, own.offset) != (shard.shape, shard.offset) or own.layout != (shard.layout or own.layout):
        raise LayoutError(
            f"{argument} of '{name}' is a DTensor of shape {own.shape}{_placed(own)}, whose part here begins "
            f"at {own.offset}, and its weight one of shape {shard.shape}{_placed(shard)}, whose part begins "
            f"at {shard.offset}; both must be laid out alike. Redistribute it: {argument}.redistribute(mesh, "
            "placements)"
        )
    return local(value)
