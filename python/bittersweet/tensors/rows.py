"""What the table says of a tensor besides addresses: length, rows, order, modifier and step."""

from __future__ import annotations

import functools
import math
import struct
from array import array
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ArgumentError, MissingStateError
from ..options.values import BELOW_ONE, FINITE, as_number, shown
from .geometry import Geometry, geometry_of
from .mask_words import COLUMN, WIDTH

if TYPE_CHECKING:
    from .orders import Order
    from .table import ScoreInputs

__all__ = ["Row", "corrections", "modifiers", "require_modifiers", "rows_of"]

_ONE = 0x3F800000  # the bits of 1.0f
_MOST = 3.4028234663852886e38  # the largest float32


class Row(NamedTuple):
    """A row of the table without addresses, with modifier and bias correction 1."""

    numel: int
    geometry: Geometry
    words: bytes


def rows_of(
    items: Sequence[ScoreInputs],
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    orders: Sequence[Order],
) -> list[Row]:
    """The rows of tensors of these shapes, in these orders of memory.

    Raises:
        ArgumentError: See `geometry_of`.
    """
    axes = [list(map(attrgetter(argument), items)) for argument in ("in_dim", "kernel_dims", "groups")]
    try:
        return list(map(_row_of, shapes, *axes, names, orders))
    except TypeError:  # an argument that no cache can hold, which the check names
        return list(map(_row_of.__wrapped__, shapes, *axes, names, orders))


@functools.lru_cache(maxsize=4096, typed=True)
def _row_of(
    shape: tuple[int, ...],
    in_dim: int | None,
    kernel_dims: int | None,
    groups: int | None,
    name: str,
    order: Order,
) -> Row:
    geometry, numel = geometry_of(shape, in_dim, kernel_dims, groups, name), math.prod(shape)
    *strided, blocks = geometry
    row, start = array("Q", bytes(8 * WIDTH)), COLUMN["numel"]
    row[start:] = array("Q", (numel, *strided, _ONE, _ONE, sum(shape), blocks, *order))
    return Row(numel, geometry, row.tobytes())


def modifiers(items: Sequence[ScoreInputs], names: Sequence[str]) -> list[int]:
    """The bits of each modifier.

    Raises:
        ArgumentError: One that is no finite number from 0.
    """
    return [
        _ONE
        if item.modifier is None
        else _float_bits(
            as_number(f"modifier of '{name}'", item.modifier, 0.0, _MOST, "a finite number from 0")
        )
        for item, name in zip(items, names, strict=True)
    ]


def require_modifiers(items: Sequence[ScoreInputs], names: Sequence[str], scorer: str) -> None:
    for item, name in zip(items, names, strict=True):
        if item.modifier is None:
            raise MissingStateError(
                f"modifier of '{name}' is missing, and scorer '{scorer}' multiplies by it. Pass what its "
                "tracker's modifiers() returns, or use the scorer in a Pruner"
            )


def corrections(items: Sequence[ScoreInputs], names: Sequence[str]) -> list[int]:
    """The bits of 1 - beta1 ** step of each.

    Raises:
        MissingStateError: A tensor without a step.
        ArgumentError: A step or betas that are none.
    """
    words: list[int] = []
    former, corrected = None, _ONE
    for item, name in zip(items, names, strict=True):
        if item.step is None:
            raise MissingStateError(
                f"step of '{name}' is missing, and the scorer corrects the bias of exp_avg by it. Pass "
                "Adam's step count"
            )
        if former is None or item.step is not former.step or item.betas is not former.betas:
            step, beta1 = _step(item.step, name), _beta1(item.betas, name)
            former, corrected = item, _float_bits(1.0 - beta1**step)
        words.append(corrected)
    return words


def _step(step: Any, name: str) -> float:
    if math.prod(getattr(step, "shape", ())) == 1 and hasattr(step, "reshape"):
        step = step.reshape(())
    return as_number(f"step of '{name}'", step, 1.0, FINITE, "a count from 1, or a tensor of one element")


def _beta1(betas: Any, name: str) -> float:
    if not isinstance(betas, Sequence) or not betas:
        raise ArgumentError(f"betas of '{name}': {shown(betas)}; accepted: two numbers, (beta1, beta2)")
    return as_number(f"betas of '{name}': beta1", betas[0], 0.0, BELOW_ONE, "0 <= beta1 < 1")


def _float_bits(value: float) -> int:
    return _ONE if value == 1.0 else int.from_bytes(struct.pack("<f", value), "little")
