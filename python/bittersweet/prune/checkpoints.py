"""State dicts as torch.nn.utils.prune's: ``weight_orig`` and ``weight_mask`` in place of ``weight``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..errors import CheckpointError
from ..options.values import shown
from ..tensors.masks import Mask
from .held import Held, all_held
from .methods import as_bools
from .parameters import Place, hold, require_module

__all__ = ["load_torch_state_dict", "to_torch_state_dict"]


def to_torch_state_dict(model: torch.nn.Module) -> dict[str, Any]:
    """``model.state_dict()`` with ``name_orig`` and ``name_mask`` for every pruned parameter.

    A model that torch.nn.utils.prune has pruned in the same places loads it. ``name_orig`` is 0 where the
    mask is: what the weights were before pruning is not kept.
    """
    require_module(model)
    state = model.state_dict()
    for key, held in _held_by_key(model):
        weight = state.pop(key)
        state[f"{key}_orig"] = weight
        state[f"{key}_mask"] = held.mask.bool().to(weight.device, weight.dtype)
    return state


def load_torch_state_dict(model: torch.nn.Module, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
    """Loads a state dict in torch.nn.utils.prune's layout, and holds its masks.

    Args:
        model: As it was before pruning; masks that it has are replaced where the checkpoint has others.
        state_dict: Pairs ``name_orig`` and ``name_mask``; everything else is loaded as it is.
        strict: As in ``model.load_state_dict``, whose result is returned.

    Raises:
        CheckpointError: No mapping; a mask of another shape than its parameter or with other numbers than 0
            and 1; a pair for which the model has no parameter. Nothing has been loaded then.
    """
    require_module(model)
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(
            f"state_dict: {shown(state_dict)}; accepted: a mapping from names to tensors, as "
            "state_dict() of a model returns that torch.nn.utils.prune has pruned"
        )
    plain, masks = dict(state_dict), {}
    for key in [name.removesuffix("_orig") for name in state_dict if name.endswith("_orig")]:
        if f"{key}_mask" not in state_dict:
            continue
        place, weight, mask = _place_of(model, key), plain.pop(f"{key}_orig"), plain.pop(f"{key}_mask")
        if not tuple(mask.shape) == tuple(weight.shape) == tuple(place.parameter.shape):
            raise CheckpointError(
                f"'{key}': weights of shape {tuple(weight.shape)} and a mask of {tuple(mask.shape)}; the "
                f"model has {tuple(place.parameter.shape)}"
            )
        place.require_usable(key)
        kept = _checked(key, mask)
        plain[key] = weight.masked_fill(~kept, 0)
        masks[key] = place, Mask.from_bool(kept.to(place.parameter.device), place.name)
    result = model.load_state_dict(plain, strict=strict)
    for place, made in masks.values():
        hold(place, made)
    return result


def _held_by_key(model: torch.nn.Module) -> Iterator[tuple[str, Held]]:
    for prefix, module in model.named_modules(remove_duplicate=False):
        for _, held in all_held(module):
            yield f"{prefix}.{held.name}" if prefix else held.name, held


def _place_of(model: torch.nn.Module, key: str) -> Place:
    prefix, _, name = key.rpartition(".")
    try:
        return Place(model.get_submodule(prefix), name)
    except (AttributeError, ValueError) as error:
        raise CheckpointError(f"'{key}_orig' and '{key}_mask': the model has no parameter '{key}'") from error


def _checked(key: str, mask: torch.Tensor) -> torch.Tensor:
    try:
        return as_bools(f"'{key}_mask'", mask)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
