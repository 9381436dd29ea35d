"""Writing a pruner's zeros into another module of the same names: an EMA copy, an AveragedModel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..distributed.shards import local
from ..errors import ArgumentError, ShapeError
from ..model.gathering import reshard
from ..model.names import counterparts
from ..model.targets import unwrap
from ..notices import warn
from ..select.functional import apply_masks_
from ..tensors import devices
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs
from .report import Sparsity, sparsity_of

if TYPE_CHECKING:
    import torch

__all__ = ["apply_masks_to", "tensors_of"]


def apply_masks_to(
    module: Any, masks: Mapping[str, Mask], aliases: Mapping[str, Sequence[str]] | None = None
) -> Sparsity:
    """Writes +0 wherever a mask is False into the parameters (or buffers) of `module` with the same names.

    Prefixes that wrappers add are understood: torch.compile, DDP, and AveragedModel's ``module.``. The module
    may lie on another device, and its tensors may be of another dtype than those that were pruned. Each
    written tensor has its autograd version raised.

    Args:
        module: A torch module. What it has beside the masked names is left alone.
        masks: By parameter name.
        aliases: Further names of each parameter (tied weights).

    Returns:
        Mask bits and zeros of the tensors that were written, by the names of `masks`; none, and a warning,
        where there are no masks.

    Raises:
        ArgumentError: `module` is no module, or lacks a tensor.
        ShapeError: A tensor has another shape than its mask.
        DTypeError, DeviceError, LayoutError: A tensor cannot be written. Nothing has been written then.
    """
    known = aliases or {}
    tensors = tensors_of(module)
    if not masks:
        warn("apply_to: there are no masks yet, so that no zero was written. Call it after a mask event")
    names = counterparts("module", {name: known.get(name, ()) for name in masks}, list(tensors))
    chosen = {name: local(tensors[own]).detach() for name, own in names.items()}
    for name, tensor in chosen.items():
        if tuple(tensor.shape) != masks[name].shape:
            raise ShapeError(
                f"module: '{names[name]}' has shape {tuple(tensor.shape)} and its mask {masks[name].shape}; "
                "they must be equal. Pass a copy of the pruned model, spread over the ranks as it is"
            )
    items = [ScoreInputs(tensor, name=name) for name, tensor in chosen.items()]
    moved = {
        name: masks[name].to(devices.runtime.index_of(tensor)) if _has_memory(tensor) else masks[name]
        for name, tensor in chosen.items()
    }
    apply_masks_(items, list(moved.values()))
    return sparsity_of(chosen, moved)


def tensors_of(module: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a module by every one of their names, wrappers taken off at the outside, and
    parameters that fully_shard has gathered put back."""
    from torch import nn

    if not isinstance(module, nn.Module):
        raise ArgumentError(
            f"module: found {type(module).__name__}; accepted: a torch module whose parameters have the "
            "names of the pruned ones"
        )
    root = unwrap(module)
    reshard(root)
    found: dict[str, torch.Tensor] = dict(root.named_buffers(remove_duplicate=False))
    found.update(root.named_parameters(remove_duplicate=False))
    return found


def _has_memory(tensor: torch.Tensor) -> bool:
    return tensor.device.type in ("cpu", "cuda")
