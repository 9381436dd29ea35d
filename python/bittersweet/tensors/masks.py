"""Masks: one keep bit per weight. True (1) keeps, False (0) is dead."""

from __future__ import annotations

import builtins
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..errors import ArgumentError, DeviceError, ShapeError
from ..options.values import as_int, one_of, shown
from . import devices, warm
from .arrays import BOOL, BOOLS, empty, inspect
from .devices import HOST, Words
from .mask_words import COLUMN as COLUMN  # public here too
from .mask_words import WIDTH as WIDTH
from .mask_words import address_of, mask_table, place_of
from .orders import ROW_MAJOR, Order
from .packing import pack, reorder, unpack, words_for

if TYPE_CHECKING:
    import torch

    from ..distributed.shards import Shard


class Mask:
    """The keep bits of one tensor: row-major, lowest bit first, 64 to a word, padded with 0.

    Masks that the package makes for a tensor in another order of memory (channels_last, transposed) hold
    their bits in that order, and bring them to row-major when they are asked for.

    Args:
        words: ceil(numel / 64) words, kept and not copied: a C-contiguous uint64 NumPy array, or a contiguous
            torch.int64 tensor on a CUDA device (whose last word is read for the check below). Other bits are
            another mask: whoever changes words makes a new one.
        shape: Shape of the tensor.
        name: Name of the tensor.
        framework: ``"torch"`` or ``"numpy"``: what `bool` returns.

    Attributes:
        shard: Where the tensor lies in a whole one that ranks hold parts of, or None. Pickles are without it.

    Raises:
        ArgumentError: `words` of another dtype or layout, or with bits set after the last element.
        ShapeError: A wrong number of words.
    """

    __slots__ = (
        "_row_major",
        "device",
        "framework",
        "held",
        "name",
        "numel",
        "order",
        "pointer",
        "shape",
        "shard",
        "stream",
    )

    def __init__(self, words: Any, shape: Sequence[int], name: str = "", framework: str = "torch") -> None:
        name, device = str(name), place_of(words)
        if device is None:
            raise ArgumentError(
                f"words of '{name}': accepted is a C-contiguous uint64 array, or an int64 tensor on a "
                "CUDA device"
            )
        framework = one_of("framework", framework, ("torch", "numpy"))
        if not isinstance(shape, Iterable):
            raise ArgumentError(f"shape of '{name}': {shown(shape)}; accepted: a sequence of lengths")
        shape = [as_int(f"shape of '{name}'", size, 0) for size in shape]
        self._take(words, shape, name, framework, device, devices.stream_of(device))
        if tuple(words.shape) != (words_for(self.numel),):
            raise ShapeError(
                f"words of '{name}': shape {tuple(words.shape)}; {self.numel} elements take "
                f"{words_for(self.numel)} words"
            )
        if self.numel % 64 and (int(words[-1]) & (2**64 - 1)) >> (self.numel % 64):
            raise ArgumentError(f"words of '{name}': bits are set after element {self.numel}; they must be 0")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made from the words, so that they know where their own words lie."""
        return type(self), (self.words, self.shape, self.name, self.framework)

    def _take(
        self,
        words: Any,
        shape: Sequence[int],
        name: str,
        framework: str,
        device: int,
        stream: int,
        pointer: int | None = None,
        order: Order = ROW_MAJOR,
    ) -> None:
        shape = tuple(map(int, shape))
        pointer = address_of(words) if pointer is None else pointer
        self._place(words, shape, name, framework, math.prod(shape), device, stream, pointer, order)

    def _place(
        self,
        words: Any,
        shape: tuple[int, ...],
        name: str,
        framework: str,
        numel: int,
        device: int,
        stream: int,
        pointer: int,
        order: Order,
    ) -> None:
        self.held = words
        self.order = order
        self._row_major: Mask | None = None
        self.shape = shape
        self.name = name
        self.framework = framework
        self.numel = numel
        self.device = device
        self.pointer = pointer
        self.stream = stream
        self.shard: Shard | None = None

    @classmethod
    def of(
        cls,
        words: Any,
        shape: Sequence[int],
        name: str,
        framework: str,
        device: int,
        stream: int | None = None,
        pointer: int | None = None,
        order: Order = ROW_MAJOR,
    ) -> Mask:
        """A mask over words that fit, without looking at them; on a CUDA device that would wait for it.

        The words are in `order`. `stream` is the one that they were allocated on; None: the current one.
        `pointer` is their address, where it is known: asking an array for it takes long beside what else a
        mask is.
        """
        mask = object.__new__(cls)
        stream = devices.stream_of(device) if stream is None else stream
        mask._take(words, shape, name, framework, device, stream, pointer, order)
        return mask

    def of_words(self, words: Any) -> Mask:
        """Other words in the same order, of the same tensor."""
        made = Mask.of(words, self.shape, self.name, self.framework, self.device, order=self.order)
        return made._in(self.shard)

    def called(self, name: str) -> Mask:
        """The same words under another name, for a torch tensor."""
        return Mask.of(self.held, self.shape, name, "torch", self.device, order=self.order)._in(self.shard)

    def _in(self, shard: Shard | None) -> Mask:
        self.shard = shard
        return self

    @classmethod
    def empty_all(
        cls,
        shapes: Sequence[tuple[int, ...]],
        names: Sequence[str],
        framework: str,
        device: int = HOST,
        orders: Sequence[Order] | None = None,
    ) -> list[Mask]:
        """One mask a tensor for an engine to write, uninitialised but for last words on the host.

        `orders` are those of the tensors' memory; None: row-major. All lie in one block: a block of the same
        size as before is memory that is warm.
        """
        numels = list(map(math.prod, shapes))
        sizes = list(map(words_for, numels))
        on_host, stream = device == HOST, devices.stream_of(device)
        block: Any = warm.words(sum(sizes)) if on_host else devices.words_on(device, sum(sizes))
        ends = list(itertools.accumulate(sizes))
        if on_host:
            block[[end - 1 for end, size in zip(ends, sizes, strict=True) if size]] = 0
        address, masks, start = address_of(block), [], 0
        orders = [ROW_MAJOR] * len(sizes) if orders is None else orders
        rows = zip(shapes, names, numels, ends, orders, strict=True)
        for shape, name, numel, end, order in rows:
            mask = object.__new__(cls)
            words, pointer = block[start:end], address + 8 * start
            mask._place(words, shape, name, framework, numel, device, stream, pointer, order)
            masks.append(mask)
            start = end
        return masks

    @classmethod
    def full(cls, shape: Sequence[int], name: str, framework: str, device: int = HOST) -> Mask:
        """A mask that keeps everything."""
        numel = math.prod(shape)
        last = (1 << (numel % 64 or 64)) - 1
        words: Any
        if device == HOST:
            words = np.full(words_for(numel), 2**64 - 1, dtype=np.uint64)
            words[-1:] = last
        else:
            words = devices.words_on(device, words_for(numel)).fill_(-1)
            words[-1:] = last - 2**64 if last >> 63 else last
        return cls.of(words, shape, name, framework, device)

    @classmethod
    def from_bool(cls, value: Any, name: str = "") -> Mask:
        """Packs a torch.bool tensor or a NumPy bool array (True = keep) of any layout.

        Raises:
            DTypeError, DeviceError, LayoutError: `value` is no bool array that can be worked on.
        """
        view = inspect(value, "mask", name, BOOLS)
        view.relay()
        if view.device != HOST:
            keep = view.copy if view.copy is not None else view.source
            return cls.of(pack(keep), view.shape, name, "torch", view.device)
        mask = cls.empty_all([view.shape], [name], view.framework)[0]
        _core.pack_mask(view.pointer, view.numel, mask.pointer)
        return mask

    @property
    def words(self) -> Any:
        """The row-major words. Where `held` is in another order this is a copy, which cannot be written."""
        return self.ordered(ROW_MAJOR).held

    def ordered(self, order: Order) -> Mask:
        """This mask with its bits in another order of memory: itself if they are, else a copy.

        On the host a row-major copy is made once.
        """
        if order == self.order:
            return self
        if self.order == ROW_MAJOR:
            return self._reordered(order, True, order)
        if self.device != HOST:  # its words may be written by replays that no Python sees
            return self._reordered(self.order, False, ROW_MAJOR).ordered(order)
        if self._row_major is None:
            self._row_major = self._reordered(self.order, False, ROW_MAJOR)
            self._row_major.held.flags.writeable = False
        return self._row_major.ordered(order)

    def _reordered(self, by: Order, to_memory: builtins.bool, order: Order) -> Mask:
        words: Any
        if self.device != HOST:
            words = reorder(self.held, self.numel, by, to_memory)
        else:
            words = np.empty(words_for(self.numel), dtype=np.uint64)
        made = Mask.of(words, self.shape, self.name, self.framework, self.device, order=order)
        if self.device == HOST:
            _core.reorder_mask(self.pointer, self.numel, by, to_memory, made.pointer)
        return made._in(self.shard)

    def to_host(self) -> Words:
        """The row-major words in memory of the host: these, or a copy that waits for the device."""
        if self.device == HOST:
            words: Words = self.words
            return words
        return devices.runtime.fetch(self.words, self.device)()

    def to(self, device: int) -> Mask:
        """This mask on a device (HOST, or the number of a CUDA device): itself if there, else a copy."""
        if device == self.device:
            return self
        words: Any = self.to_host()
        if device != HOST:
            import torch

            words = torch.from_numpy(words.view(np.int64).copy()).to(devices.runtime.place(device), copy=True)
        return Mask.of(words, self.shape, self.name, self.framework, device)._in(self.shard)

    def require_on(self, device: int, name: str, stream: int) -> None:
        """Raises DeviceError if this mask is not where its weight is; else lets the current stream use it."""
        if self.device != device:
            raise DeviceError(
                f"mask of '{name}' is on {devices.name_of(self.device)} and its weight on "
                f"{devices.name_of(device)}. "
                "Give both on one device; the masks of a Pruner follow its model by "
                "pruner.load_state_dict(pruner.state_dict())"
            )
        if self.stream != stream:
            devices.runtime.share(self.held, device)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed bits."""
        return int(self.held.nbytes)

    def kept(self) -> int:
        """How many elements are kept."""
        return kept_counts([self])[0]

    def sparsity(self) -> float:
        """Share of the elements that are dead; 0.0 for a tensor without elements."""
        return 1.0 - self.kept() / self.numel if self.numel else 0.0

    def bool(self) -> Any:
        """A new torch.bool tensor, or NumPy bool array for NumPy inputs, of the tensor's shape."""
        if self.device != HOST:
            return unpack(self.held, self.numel, self.order).reshape(self.shape)
        target = inspect(empty(self.framework, self.shape, BOOL), "mask", self.name, BOOLS)
        _core.unpack_mask(self.ordered(ROW_MAJOR).pointer, self.numel, target.pointer)
        return target.source

    def dtensor(self) -> torch.Tensor:
        """The mask of the whole tensor, of which this is a rank's part, as a bool DTensor that is placed as
        its weight is. No collective; ``full_tensor()`` of it gathers.

        Raises:
            ArgumentError: The weight was no DTensor.
        """
        if self.shard is None:
            raise ArgumentError(
                f"mask of '{self.name}': its weight was no DTensor, so that no mesh belongs to it. Use bool()"
            )
        return self.shard.dtensor(self.bool())

    def __eq__(self, other: object) -> builtins.bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return (
            self.name == other.name
            and self.shape == other.shape
            and np.array_equal(self.to_host(), other.to_host())
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Mask('{self.name}', shape={self.shape}, sparsity={self.sparsity():.4f})"


def kept_counts(masks: Sequence[Mask]) -> list[int]:
    """Kept elements per mask; all on one device, for which this waits."""
    if not masks:
        return []
    device = masks[0].device
    stream = devices.stream_of(device)
    for mask in masks:
        mask.require_on(device, mask.name, stream)
    counts: list[int] = devices.engine_of(device).count_live(mask_table(masks), COLUMN["mask"])
    return counts
