"""Adapters beside frozen weights (LoRA and its kin): which parameters are theirs, and what names them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .wrappers import is_a

if TYPE_CHECKING:
    import torch

    from .patterns import Match, Place

_TUNERS = "peft.tuners."
_BASES = ("base_layer", "model")  # under which an adapted layer keeps what it adapts


def adapter_of(place: Place) -> str | None:
    """The part of the parameter's name that makes it an adapter's, such as ``lora_A``; None if it is none.

    Known by the modules of peft's tuners around it, and by names that begin with ``lora_``. The copies that
    peft trains whole (modules_to_save) are no adapters.
    """
    found = None
    for (_, module), child in zip(place.around, place.steps, strict=True):
        if _adapts(module):
            found = None if child in _BASES else found or child
        elif child.lower().startswith("lora_"):
            found = found or child
    return found


def is_named(place: Place, match: Match, adapter: str) -> bool:
    """Whether a pattern means the adapter, and not only the layer that it belongs to."""
    if match.by_name:
        return True
    if isinstance(match.source, str):
        words = [word for word in re.split(r"[*?.\[\]]", match.source) if len(word) > 2]
        return any(word in adapter for word in words)
    if isinstance(match.source, type):
        return match.source.__module__.startswith(_TUNERS)
    return match.met != place.name and adapter in match.met.split(".")


def _adapts(module: torch.nn.Module) -> bool:
    """Whether peft has put this module in place of a layer, or beside it; not the model around all."""
    if is_a(module, "peft.tuners.tuners_utils", "BaseTuner"):
        return False
    return any(cls.__module__.startswith(_TUNERS) for cls in type(module).__mro__)
