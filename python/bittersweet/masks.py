"""Masks: one keep bit per weight. True (1) keeps, False (0) is dead."""

from __future__ import annotations

import builtins
import math
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from . import _core
from ._arrays import BOOL, BOOLS, empty, inspect
from .errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    from .events import MaskEvent

Words = np.ndarray[Any, np.dtype[np.uint64]]

COLUMN = {name: index for index, name in enumerate(_core.TABLE_COLUMNS)}
WIDTH = len(_core.TABLE_COLUMNS)


class Mask:
    """The keep bits of one tensor: row-major, lowest bit first, 64 to a word, padded with 0.

    Args:
        words: C-contiguous uint64 array of ceil(numel / 64) words. Kept, not copied.
        shape: Shape of the tensor.
        name: Name of the tensor.
        framework: ``"torch"`` or ``"numpy"``: what `bool` returns.

    Raises:
        ArgumentError: `words` of another dtype or layout, or with bits set after the last element.
        ShapeError: A wrong number of words.
    """

    __slots__ = ("framework", "name", "numel", "pointer", "shape", "words")

    def __init__(self, words: Words, shape: Sequence[int], name: str = "", framework: str = "torch") -> None:
        self.words = words
        self.shape = tuple(int(size) for size in shape)
        self.name = name
        self.framework = framework
        self.numel = math.prod(self.shape)
        if not (isinstance(words, np.ndarray) and words.dtype == np.uint64 and words.flags.c_contiguous):
            raise ArgumentError(f"words of '{name}': accepted is a C-contiguous uint64 array")
        if words.shape != (words_for(self.numel),):
            raise ShapeError(
                f"words of '{name}': shape {words.shape}; {self.numel} elements take {words_for(self.numel)} "
                "words"
            )
        if self.numel % 64 and int(words[-1]) >> (self.numel % 64):
            raise ArgumentError(f"words of '{name}': bits are set after element {self.numel}; they must be 0")
        self.pointer = words.ctypes.data

    @classmethod
    def empty(cls, shape: Sequence[int], name: str, framework: str) -> Mask:
        """A mask for the engine to write: uninitialised but for the last word."""
        words = np.empty(words_for(math.prod(shape)), dtype=np.uint64)
        words[-1:] = 0
        return cls(words, shape, name, framework)

    @classmethod
    def full(cls, shape: Sequence[int], name: str, framework: str) -> Mask:
        """A mask that keeps everything."""
        numel = math.prod(shape)
        words = np.full(words_for(numel), 2**64 - 1, dtype=np.uint64)
        if numel % 64:
            words[-1] = 2 ** (numel % 64) - 1
        return cls(words, shape, name, framework)

    @classmethod
    def empty_all(cls, shapes: Sequence[tuple[int, ...]], names: Sequence[str], framework: str) -> list[Mask]:
        """One mask a tensor, all in one block: a block of the same size as before is memory that is warm."""
        sizes = [words_for(math.prod(shape)) for shape in shapes]
        block = np.empty(sum(sizes), dtype=np.uint64)
        masks, start = [], 0
        for shape, name, size in zip(shapes, names, sizes, strict=True):
            words = block[start : start + size]
            words[-1:] = 0
            masks.append(cls(words, shape, name, framework))
            start += size
        return masks

    @classmethod
    def from_bool(cls, value: Any, name: str = "") -> Mask:
        """Packs a torch.bool tensor or a NumPy bool array (True = keep) of any layout.

        Raises:
            DTypeError, DeviceError, LayoutError: `value` is not a bool array on the host.
        """
        view = inspect(value, "mask", name, BOOLS)
        view.relay()
        mask = cls.empty(view.shape, name, view.framework)
        _core.pack_mask(view.pointer, view.numel, mask.pointer)
        return mask

    @property
    def nbytes(self) -> int:
        """Bytes of the packed bits."""
        return self.words.nbytes

    def kept(self) -> int:
        """How many elements are kept."""
        return kept_counts([self])[0]

    def sparsity(self) -> float:
        """Share of the elements that are dead; 0.0 for a tensor without elements."""
        return 1.0 - self.kept() / self.numel if self.numel else 0.0

    def bool(self) -> Any:
        """A new torch.bool tensor, or NumPy bool array for NumPy inputs, of the tensor's shape."""
        target = inspect(empty(self.framework, self.shape, BOOL), "mask", self.name, BOOLS)
        _core.unpack_mask(self.pointer, self.numel, target.pointer)
        return target.source

    def __eq__(self, other: object) -> builtins.bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return (
            self.name == other.name and self.shape == other.shape and np.array_equal(self.words, other.words)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Mask('{self.name}', shape={self.shape}, sparsity={self.sparsity():.4f})"


class Masks(Sequence[Mask]):
    """The masks of a list of tensors, in the order of the list; indexed by position or by tensor name.

    Attributes:
        event: What making them did, or None for masks from elsewhere.
    """

    def __init__(
        self, masks: Sequence[Mask], event: MaskEvent | None = None, *, single: builtins.bool = False
    ) -> None:
        self._masks = list(masks)
        self._single = single
        self.event = event

    @property
    def names(self) -> list[str]:
        return [mask.name for mask in self._masks]

    @property
    def words(self) -> list[Words]:
        """The packed bits, a uint64 array per tensor."""
        return [mask.words for mask in self._masks]

    @property
    def nbytes(self) -> int:
        """Bytes of all packed bits."""
        return sum(mask.nbytes for mask in self._masks)

    def sparsity(self) -> float:
        """Dead elements of all tensors as a share of all elements; 0.0 without elements."""
        total = sum(mask.numel for mask in self._masks)
        return 1.0 - sum(kept_counts(self._masks)) / total if total else 0.0

    def bool(self) -> Any:
        """New bool arrays of the tensors' shapes, in order; one array if one bare ScoreInputs was given."""
        arrays = [mask.bool() for mask in self._masks]
        return arrays[0] if self._single else arrays

    @overload
    def __getitem__(self, index: int | str) -> Mask: ...
    @overload
    def __getitem__(self, index: slice) -> Masks: ...
    def __getitem__(self, index: int | str | slice) -> Mask | Masks:
        if isinstance(index, slice):
            return Masks(self._masks[index])
        if isinstance(index, str):
            for mask in self._masks:
                if mask.name == index:
                    return mask
            raise KeyError(index)
        return self._masks[index]

    def __len__(self) -> int:
        return len(self._masks)

    def __iter__(self) -> Iterator[Mask]:
        return iter(self._masks)

    def __eq__(self, other: object) -> builtins.bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return self._masks == other._masks

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, sparsity={self.sparsity():.4f}, {self.nbytes} bytes)"


def words_for(numel: int) -> int:
    return (numel + 63) // 64


def kept_counts(masks: Sequence[Mask]) -> list[int]:
    """Kept elements per mask."""
    return _core.count_live(mask_table(masks), COLUMN["mask"])


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
    return table
