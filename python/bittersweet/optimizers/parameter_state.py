"""`ParameterState`: what an optimizer keeps for one parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["ParameterState"]


@dataclass(slots=True)
class ParameterState:
    """An optimizer's tensors for one parameter; None where it keeps none.

    Attributes:
        exp_avg, exp_avg_sq, max_exp_avg_sq: Adam's moments and the AMSGrad buffer, or what plays them.
        step: The parameter's own step count, a number.
        betas: The betas of its parameter group.
        keys: Every key in the optimizer's entry, for messages.
        decoded: Which of the moments are temporaries, computed from what is kept.
        owner: The class of the optimizer that has the entry. Without an entry: those of the optimizers that
            are not known and may keep none.
        reasons: Why a moment is not kept, where that is known.
    """

    exp_avg: torch.Tensor | None = None
    exp_avg_sq: torch.Tensor | None = None
    max_exp_avg_sq: torch.Tensor | None = None
    step: int | None = None
    betas: tuple[float, float] | None = None
    keys: tuple[Any, ...] = ()
    decoded: frozenset[str] = frozenset()
    owner: str = ""
    reasons: Mapping[str, str] | None = None
