"""Masks of a model by parameter name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..errors import UnknownNameError
from ..options.values import shown
from ..tensors.mask_list import Masks
from ..tensors.masks import Mask, kept_counts
from .targets import Plan, PlanEntry

if TYPE_CHECKING:
    import torch

    from ..select.events import MaskEvent

__all__ = ["MaskView", "whole_of"]


def whole_of(part: torch.Tensor, entry: PlanEntry) -> torch.Tensor:
    """A tensor of this rank's part as a DTensor laid out like the target; itself where that is none."""
    shard = entry.shard
    return part if shard is None or shard.layout is None else shard.dtensor(part)


class MaskView(Mapping[str, "torch.Tensor"]):
    """The masks by parameter name (any name of a tied parameter): torch.bool tensors, True = keep, made when
    asked for. Prints as a table.

    A target that has not been pruned yet is all True. `packed` holds the masks as they are kept, one bit per
    element. The mask of a DTensor is a DTensor laid out alike, whose ``full_tensor()`` gathers it; what is
    counted and printed, and `packed`, are of the parts that this rank holds.

    Attributes:
        event: What making them did; None for the masks of a `Pruner`, whose events are its history.
    """

    def __init__(
        self,
        plan: Plan,
        masks: Mapping[str, Mask],
        place: torch.device | None,
        event: MaskEvent | None = None,
    ) -> None:
        self._entries = plan.targets
        self._place = place
        self._masks = dict(masks)
        self.event = event

    @property
    def split(self) -> list[str]:
        """Names of the targets of which this rank holds a part only."""
        return [entry.name for entry in self._entries if entry.local_shape != entry.shape]

    @property
    def packed(self) -> Masks:
        return Masks(list(self._masks.values()))

    def all_packed(self) -> dict[str, Mask]:
        """By name, targets that have not been pruned yet too."""
        return {
            entry.name: self._masks.get(entry.name) or Mask.full(entry.local_shape, entry.name, "torch")
            for entry in self._entries
        }

    @property
    def nbytes(self) -> int:
        """Bytes of the packed masks."""
        return self.packed.nbytes

    def sparsity(self) -> float:
        """Dead elements of all targets as a share of all their elements; 0.0 without elements."""
        total = sum(entry.local_numel for entry in self._entries)
        return sum(self._dead().values()) / total if total else 0.0

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch

        for entry in self._entries:
            if name == entry.name or name in entry.aliases:
                if (mask := self._masks.get(entry.name)) is None:
                    unpacked = torch.ones(entry.local_shape, dtype=torch.bool, device=self._place)
                else:
                    unpacked = mask.bool()
                return whole_of(unpacked, entry)
        raise UnknownNameError(f"no mask is called {shown(name)}; known names: {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"MaskView({len(self)} targets, sparsity={self.sparsity():.4f}, {self.nbytes:,} bytes)"

    def __str__(self) -> str:
        dead = self._dead()
        width = max((len(entry.name) for entry in self._entries), default=0)
        lines = [f"masks of {len(self)} targets, sparsity {self.sparsity():.4f}, {self.nbytes:,} bytes"]
        for entry in self._entries:
            shape = "x".join(map(str, entry.local_shape)) or "scalar"
            gone = dead.get(entry.name, 0)
            share = gone / entry.local_numel if entry.local_numel else 0.0
            lines.append(f"  {entry.name:<{width}}  {shape:>16}  {gone:>13,} pruned  {share:.4f}")
        return "\n".join(lines)

    def _dead(self) -> dict[str, int]:
        counts = kept_counts(list(self._masks.values()))
        return {
            name: mask.numel - kept for (name, mask), kept in zip(self._masks.items(), counts, strict=True)
        }
