"""Masks from the zeros that a model already has: a sparse checkpoint that is to stay sparse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..distributed.shards import local
from ..errors import ArgumentError
from ..model.targets import lookup
from ..options.values import as_fraction
from ..tensors.masks import Mask, kept_counts

if TYPE_CHECKING:
    import torch

    from ..distributed.collective import Group
    from ..steps.loop import Loop

__all__ = ["ZeroMasks", "take_zeros", "zeros_as_masks"]


@dataclass(frozen=True)
class ZeroMasks:
    """Masks that keep a model's zeros, and the share of zeros of every tensor that was looked at.

    Attributes:
        masks: By name; only of the tensors that were taken.
        taken: Share of zeros of these.
        left: Share of zeros of the others, which are below `min_sparsity`.
        min_sparsity: The least share of zeros for a tensor to be taken.
    """

    masks: Mapping[str, Mask]
    taken: Mapping[str, float]
    left: Mapping[str, float]
    min_sparsity: float

    def __str__(self) -> str:
        lines = [f"zeros kept in {len(self.taken)} of {len(self.taken) + len(self.left)} tensors:"]
        lines += [f"  {name}: {share:.4f}" for name, share in self.taken.items()]
        if self.left:
            listed = ", ".join(f"{name} ({share:.4f})" for name, share in self.left.items())
            lines.append(f"left dense, below min_sparsity {self.min_sparsity:g}: {listed}")
        return "\n".join(lines)


def zeros_as_masks(
    tensors: Mapping[str, torch.Tensor], min_sparsity: float = 0.01, group: Group | None = None
) -> ZeroMasks:
    """Takes every element that is +0 or -0 for dead, in tensors with enough of them. Nothing is written.

    NaN is no zero. A tensor without elements is left.

    Args:
        tensors: By name, all on one device.
        min_sparsity: The least share of zeros for a tensor to be taken, 0 to 1: a dense layer may have a zero
            by accident.
        group: Ranks that hold parts of the tensors: shares are then those of all parts. Collective.

    Raises:
        ArgumentError: No tensor has that share of zeros, or `min_sparsity` is no fraction.
        DeviceError: A tensor is where no engine of this build reaches.
    """
    least = as_fraction("min_sparsity", min_sparsity)

    def looked_at() -> tuple[dict[str, Mask], dict[str, tuple[int, int]]]:
        masks = {name: Mask.from_bool(tensor.detach() != 0, name) for name, tensor in tensors.items()}
        kept = zip(masks.items(), kept_counts(list(masks.values())), strict=True)
        return masks, {name: (mask.numel - live, mask.numel) for (name, mask), live in kept}

    masks, counts = looked_at() if group is None else group.together(looked_at)
    totals: dict[str, tuple[int, int]] = {}
    for told in [counts] if group is None else group.gather(counts):
        for name, (zeros, elements) in told.items():  # copies on several ranks weigh alike
            former = totals.get(name, (0, 0))
            totals[name] = former[0] + zeros, former[1] + elements
    shares = {name: zeros / elements if elements else 0.0 for name, (zeros, elements) in totals.items()}
    taken = {name: share for name, share in shares.items() if share >= least and totals[name][1]}
    left = {name: share for name, share in shares.items() if name not in taken}
    if not taken:
        listed = ", ".join(f"{name} ({share:.4f})" for name, share in list(left.items())[:8])
        raise ArgumentError(
            f"min_sparsity: no weight has a share of {least:g} zeros ({listed}). Load the sparse checkpoint "
            "first, or pass a smaller min_sparsity"
        )
    return ZeroMasks({name: masks[name] for name in taken if name in masks}, taken, left, least)


def take_zeros(loop: Loop, min_sparsity: float) -> None:
    """Makes the zeros of a new pruner's targets its masks, and lists them in its plan; or retires it."""
    weights = {entry.name: local(lookup(loop.model, entry)) for entry in loop.plan.targets}
    try:
        found = zeros_as_masks(weights, min_sparsity, None if loop.ranks is None else loop.ranks.group)
        if loop.ranks is None:
            loop.keeper.apply(found.masks)
        else:
            loop.ranks.group.together(lambda: loop.keeper.apply(found.masks))
    except Exception:
        loop.retire()
        raise
    text = str(found).replace("\n", "\n  ")
    loop.plan = replace(loop.plan, settings={**loop.plan.settings, "zeros": text})
