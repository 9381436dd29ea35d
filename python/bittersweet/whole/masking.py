"""`apply_masks_` and `count_violations` for a whole model, or for the tensors of `ScoreInputs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..distributed.parts import mask_of_part
from ..distributed.shards import local, shard_of
from ..errors import ArgumentError
from ..model.gathering import reshard
from ..model.names import counterparts
from ..model.wrappers import refuse_sharded
from ..options.values import shown
from ..select import functional
from ..tensors.mask_list import Masks
from ..tensors.masks import Mask
from ..tensors.table import ScoreInputs, as_mask
from ..training.apply_to import apply_masks_to, tensors_of
from .weights import is_module

if TYPE_CHECKING:
    import torch

__all__ = ["apply_masks_", "count_violations"]


def apply_masks_(
    inputs: torch.nn.Module | ScoreInputs | Sequence[ScoreInputs],
    masks: Any,
    *,
    roles: Sequence[str] = ("weight",),
) -> None:
    """Writes +0 wherever a mask is False, in place, in one pass over the arrays of `roles`.

    Args:
        inputs: A torch module; or a ScoreInputs or a list of them.
        masks: For a module: masks by parameter name (`Mask` objects or bool arrays), such as ``pruner.masks``
            or what `load_masks` returns. Prefixes that wrappers add are understood, and parameters that are
            not named are left alone. Of DTensors each rank writes its own part, by masks of it, of the whole,
            or DTensors that are laid out alike. Else `Masks`, a `Mask`, a bool array, or a list of these, in
            the order of `inputs`.
        roles: Of ``"weight"``, ``"exp_avg"``, ``"exp_avg_sq"``, ``"max_exp_avg_sq"``, ``"grad"``. A tensor
            that lacks one is skipped for it. For a module ``"weight"`` alone.

    Raises:
        ShapeError: A mask does not have its weight's shape, or the lists differ in length.
        ArgumentError, DTypeError, DeviceError, LayoutError: See `bittersweet.errors`. Nothing has been
            written then.
    """
    if not is_module(inputs):
        tensors: Any = inputs
        functional.apply_masks_(tensors, masks, roles=roles)
        return
    _, packed = _of_module(inputs, masks, roles)
    apply_masks_to(inputs, packed)


def count_violations(
    inputs: torch.nn.Module | ScoreInputs | Sequence[ScoreInputs],
    masks: Any,
    *,
    roles: Sequence[str] = ("weight",),
) -> dict[str, int]:
    """How many elements are not 0 although their mask is False, by tensor name, summed over `roles`.

    Arguments and errors are those of `apply_masks_`; nothing is written. NaN counts as not 0, -0 as 0.
    """
    if not is_module(inputs):
        tensors: Any = inputs
        return functional.count_violations(tensors, masks, roles=roles)
    found, packed = _of_module(inputs, masks, roles)
    items = [ScoreInputs(tensor, name=name) for name, tensor in found.items()]
    return functional.count_violations(items, list(packed.values())) if items else {}


def _of_module(
    module: torch.nn.Module, masks: Any, roles: Sequence[str]
) -> tuple[dict[str, torch.Tensor], dict[str, Mask]]:
    """The masked tensors and their masks, by the names of `masks`, each mask where its tensor is."""
    from ..tensors import devices

    if tuple(roles) != ("weight",):
        raise ArgumentError(
            f"roles: {shown(roles)} of a module; accepted: ('weight',). Optimizer state is masked by a "
            "Pruner, or by prune_(model, optimizer=..., mask_optimizer_state=True)"
        )
    if isinstance(masks, Masks):
        masks = {mask.name: mask for mask in masks}
    if not isinstance(masks, Mapping):
        raise ArgumentError(
            f"masks: found {type(masks).__name__} beside a module; accepted: a mapping from parameter names "
            "to masks, such as pruner.masks or what load_masks returns"
        )
    refuse_sharded(module)
    reshard(module)
    tensors = tensors_of(module)
    names = counterparts("masks", dict.fromkeys(masks, ()), list(tensors))
    whole = {name: tensors[own] for name, own in names.items()}
    found = {name: local(tensor) for name, tensor in whole.items()}
    packed = {}
    for name, tensor in found.items():
        shape = tuple(tensor.shape)
        packed[name] = as_mask(
            mask_of_part(masks[name], shard_of(whole[name], name), shape, name), shape, name
        )
    moved = {name: mask.to(devices.runtime.index_of(found[name])) for name, mask in packed.items()}
    return found, moved
