"""The masks of a `Pruner` as a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..errors import UnknownNameError
from ..tensors.masks import Mask, Masks
from .targets import Plan

if TYPE_CHECKING:
    import torch

__all__ = ["MaskView"]


class MaskView(Mapping[str, "torch.Tensor"]):
    """The masks by parameter name (any name of a tied parameter): torch.bool tensors, True = keep, made when
    asked for.

    A target that has not been pruned yet is all True. `packed` holds the masks as they are kept, one bit per
    element.
    """

    def __init__(self, plan: Plan, masks: Mapping[str, Mask], place: torch.device) -> None:
        self._entries = plan.targets
        self._place = place
        self._masks = dict(masks)

    @property
    def packed(self) -> Masks:
        return Masks(list(self._masks.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of the packed masks."""
        return self.packed.nbytes

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        for entry in self._entries:
            if name == entry.name or name in entry.aliases:
                if (mask := self._masks.get(entry.name)) is None:
                    return torch.ones(entry.shape, dtype=torch.bool, device=self._place)
                unpacked: torch.Tensor = mask.bool()
                return unpacked
        raise UnknownNameError(f"no mask is called {name!r}; known names: {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)
