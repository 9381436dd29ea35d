"""Merging LoRA (and other) adapters into a pruned base model without losing its zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, Error, LayoutError
from ..extras import require
from ..tensors.mask_list import Masks
from ..tensors.masks import Mask
from ..tensors.table import as_mask
from ..training.apply_to import apply_masks_to, tensors_of
from ..training.from_zeros import zeros_as_masks
from ..training.report import Sparsity
from .masking import count_violations

if TYPE_CHECKING:
    import torch

__all__ = ["Merged", "merge_adapters_"]

_INSIDE = ("base_layer", "original_module")
"""What peft's wrappers call the layer that they stand for."""


@dataclass(frozen=True)
class Merged:
    """What `merge_adapters_` gives.

    Attributes:
        model: The base model with the adapters in its weights.
        sparsity: Mask bits and zeros of the weights whose zeros were kept; verified.
        refilled: How many elements the merge had made non-zero, by name, before they were zeroed again.
    """

    model: torch.nn.Module
    sparsity: Sparsity
    refilled: Mapping[str, int]

    def __repr__(self) -> str:
        return (
            f"Merged({type(self.model).__name__}, {len(self.refilled)} weights kept at sparsity "
            f"{self.sparsity.masked:.4f}, {sum(self.refilled.values()):,} elements zeroed again)"
        )


def merge_adapters_(model: Any, masks: Any = None, *, min_sparsity: float = 0.01) -> Merged:
    """Merges the adapters of a peft model into its base, and keeps the base's zeros: W becomes M * (W + BA).

    ``merge_and_unload()`` alone adds a dense product to a sparse weight. Here the zeros of the base are noted
    first, written again afterwards, and verified. `model` is used up, as by ``merge_and_unload()``.

    Args:
        model: A ``peft.PeftModel`` whose adapters are not merged yet.
        masks: Masks by the base model's parameter names (True = keep), such as the ``pruner.masks`` that
            pruned it, or what `load_masks` returns. None: every +0 or -0 in a base weight of two or more axes
            that has at least a share `min_sparsity` of them.
        min_sparsity: See `masks`; 0 to 1.

    Returns:
        The merged model, with what was kept.

    Raises:
        ArgumentError: `model` is no PeftModel, its adapters are merged already (their zeros are gone, unless
            `masks` are given), a mask names no parameter of the base, or the base has no zeros to keep.
        ShapeError, DTypeError: A mask does not fit its weight.
        LayoutError: A weight with an adapter is quantised, so that exact zeros cannot be kept in it. Nothing
            has been changed in any of these cases.
        Error: After the merge a weight cannot be masked.
        MissingPackageError: The package peft is not installed.
    """
    peft = require("peft", "merging adapters")
    if not isinstance(model, peft.PeftModel):
        raise ArgumentError(
            f"model: found {type(model).__name__}; accepted: a peft.PeftModel, as get_peft_model and "
            "PeftModel.from_pretrained give it"
        )
    layers = [
        module for module in model.modules() if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer)
    ]
    if masks is None and any(layer.merged for layer in layers):
        raise ArgumentError(
            "model: its adapters are merged already, so that the zeros of the base cannot be seen. Call "
            "unmerge_adapter() first, or pass the masks"
        )
    base = dict(_base_weights(model))
    kept = _given(masks, base) if masks is not None else _found(base, min_sparsity)
    merged = model.merge_and_unload()
    tensors = tensors_of(merged)
    changed = [
        name for name, mask in kept.items() if name not in tensors or tuple(tensors[name].shape) != mask.shape
    ]
    if changed:
        raise Error(f"after the merge '{changed[0]}' is no weight of its former shape, and cannot be masked")
    refilled = count_violations(merged, kept)
    found = apply_masks_to(merged, kept)
    if any(count_violations(merged, kept).values()):
        raise Error("pruned weights are not 0 after they were zeroed: something else writes this memory")
    return Merged(merged, found, refilled)


def _base_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights of two or more axes by the names that they have after the merge, without the adapters' own."""
    root = model.get_base_model()
    wrapped = {
        path: inner
        for path, module in root.named_modules(remove_duplicate=False)
        for inner in _INSIDE
        if inner in module._modules
    }
    for path, parameter in root.named_parameters(remove_duplicate=False):
        parts, name = path.split("."), []
        for depth, part in enumerate(parts):
            inner = wrapped.get(".".join(parts[:depth]), part)
            if part != inner:
                break  # a part of the adapter
            if ".".join(parts[:depth]) not in wrapped:
                name.append(part)
        else:
            own = ".".join(name)
            if len(name) < len(parts) and not parameter.is_floating_point():
                raise LayoutError(
                    f"model: '{own}' is quantised ({parameter.dtype}), and exact zeros cannot be kept in it. "
                    "Dequantise the base model before merging"
                )
            if parameter.ndim > 1 and parameter.is_floating_point():
                yield own, parameter


def _found(base: Mapping[str, torch.Tensor], min_sparsity: float) -> dict[str, Mask]:
    return dict(zeros_as_masks(base, min_sparsity).masks)


def _given(masks: Any, base: Mapping[str, torch.Tensor]) -> dict[str, Mask]:
    named = {mask.name: mask for mask in masks} if isinstance(masks, Masks) else masks
    if not isinstance(named, Mapping):
        raise ArgumentError(
            f"masks: found {type(masks).__name__}; accepted: a mapping from parameter names of the base to "
            "masks"
        )
    unknown = [name for name in named if name not in base]
    if unknown:
        raise ArgumentError(
            f"masks: '{unknown[0]}' is no weight of the base model; its weights are "
            f"{', '.join(list(base)[:5])} ..."
        )
    return {name: as_mask(mask, tuple(base[name].shape), name) for name, mask in named.items()}
