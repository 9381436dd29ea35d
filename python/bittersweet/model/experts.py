"""Modules that keep several weight matrices in one parameter: the experts of transformers 5 and their kin.

What such a parameter's axes mean is a fact of the class's forward pass. A class that is not listed here is
not guessed at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..tensors.geometry import Axes

if TYPE_CHECKING:
    import torch

PROJECTIONS = ("gate_up_proj", "gate_proj", "up_proj", "down_proj")
_EXPERTS_PACKAGE = "transformers.models."

# By class: the parameters, and whether a matrix of theirs is (inputs, outputs).
_STACKED: dict[str, tuple[tuple[str, ...], bool]] = {
    "InklingSharedExperts": (PROJECTIONS, False),
    "JetMoeParallelExperts": (("weight",), False),
    "KyutaiSpeechToTextFlexibleLinear": (("weight",), False),
    "Llama4TextExperts": (PROJECTIONS, True),
    "LongcatFlashExperts": (PROJECTIONS, False),
    "MoshiFlexibleLinear": (("weight",), False),
    "Step3p7Experts": (PROJECTIONS, False),
    "CsmCodebooksHead": (("weight",), True),
    "GroupedLinearLayer": (("weight",), True),
}


def follows_interface(module: Any) -> bool:
    """Whether the module has the marks that transformers' ``use_experts_implementation`` leaves on experts:
    it is called with hidden states and the experts of each token, and its weights lie as ``is_transposed``
    says.
    """
    return all(
        isinstance(getattr(module, flag, None), bool) for flag in ("is_transposed", "has_gate", "has_bias")
    )


def stacked_axes(owner: torch.nn.Module, attribute: str, shape: tuple[int, ...]) -> Axes | None:
    """The axes of a parameter that holds several weight matrices; None if its module is not known to."""
    names = [cls.__name__ for cls in type(owner).__mro__ if cls.__module__.startswith(_EXPERTS_PACKAGE)]
    if "DbrxExpertGLU" in names and attribute in ("w1", "v1", "w2"):
        return Axes(0 if attribute == "w2" else 1, 0, int(owner.moe_num_experts))  # type: ignore[arg-type]
    if len(shape) != 3:
        return None
    transposed = _transposed(owner, attribute, names)
    return None if transposed is None else Axes(1 if transposed else 2, 0, shape[0])


def _transposed(owner: Any, attribute: str, names: list[str]) -> bool | None:
    for name in names:
        if name in _STACKED and attribute in _STACKED[name][0]:
            return _STACKED[name][1]
    return bool(owner.is_transposed) if attribute in PROJECTIONS and follows_interface(owner) else None
