"""The masks of a list of tensors."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from ..errors import UnknownNameError
from ..options.values import shown
from .masks import Mask, kept_counts

if TYPE_CHECKING:
    from ..select.events import MaskEvent

__all__ = ["Masks"]


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
    def words(self) -> list[Any]:
        """The packed bits, a uint64 array per tensor (a torch.int64 tensor where the tensor is on CUDA)."""
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
            raise UnknownNameError(f"no mask is called {shown(index)}; known names: {', '.join(self.names)}")
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
