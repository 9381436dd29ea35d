"""The words of masks: which arrays can be some, where they lie, and a table of them for an engine."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from . import devices
from .arrays import is_torch, pointer_within
from .devices import HOST

if TYPE_CHECKING:
    from .masks import Mask

COLUMN = {name: index for index, name in enumerate(_core.TABLE_COLUMNS)}
WIDTH = len(_core.TABLE_COLUMNS)


def place_of(words: Any) -> int | None:
    """The device of an array that can be the words of a mask; None if it cannot."""
    if isinstance(words, np.ndarray):
        return HOST if words.dtype == np.uint64 and words.flags.c_contiguous and words.flags.aligned else None
    if not is_torch(words) or (device := devices.runtime.index_of(words)) == HOST:
        return None
    kind = str(words.dtype), str(words.layout)
    fits = kind == ("torch.int64", "torch.strided") and words.is_contiguous()
    return device if fits and (words.numel() == 0 or pointer_within(words)) else None


def address_of(words: Any) -> int:
    """Where they begin."""
    address: int = words.ctypes.data if isinstance(words, np.ndarray) else words.data_ptr()
    return address


def mask_table(masks: Sequence[Mask]) -> array[int]:
    """A table that holds masks only."""
    table = array("Q", bytes(8 * WIDTH * len(masks)))
    for row, mask in enumerate(masks):
        table[row * WIDTH + COLUMN["mask"]] = mask.pointer
        table[row * WIDTH + COLUMN["numel"]] = mask.numel
        table[row * WIDTH + COLUMN["rows"]] = 1
        table[row * WIDTH + COLUMN["inputs"]] = mask.numel
        table[row * WIDTH + COLUMN["inner"]] = 1
        table[row * WIDTH + COLUMN["row_stride"]] = mask.numel
        table[row * WIDTH + COLUMN["input_stride"]] = 1
        table[row * WIDTH + COLUMN["blocks"]] = 1
    return table
