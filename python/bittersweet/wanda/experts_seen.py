"""What a call of transformers' experts adds to the sums of their stacked weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from ..model.experts import PROJECTIONS, follows_interface
from .sums import RunningSum

if TYPE_CHECKING:
    import torch


def expert_squares(module: Any, attribute: str, name: str) -> Callable[..., None] | None:
    """The function ``(args, kwargs, token_mask, running)`` of a module that follows transformers' interface
    of experts; None for others.

    It adds up each expert's input features, one expert after the other. Every token is a position of every
    expert, and is zero for those that it is not sent to. What goes into the second projection is computed for
    it, with the module's own first projection and activation, for the tokens of each expert: how many they
    are is waited for where they lie on a device.
    """
    if attribute not in PROJECTIONS or not follows_interface(module):
        return None

    def add(
        args: Sequence[Any], kwargs: Mapping[str, Any], mask: torch.Tensor | None, running: RunningSum
    ) -> None:
        hidden, chosen = _arguments(args, kwargs, name)
        kept = None
        if mask is not None and mask.numel() == len(hidden):
            kept = mask.flatten().to(device=hidden.device)
        positions = len(hidden) if kept is None else kept.sum()
        experts = getattr(module, attribute).shape[0]
        for expert in range(experts):
            counted = (chosen == expert).any(-1)
            if kept is not None:
                counted &= kept
            if attribute == "down_proj":
                x = _between(module, expert, hidden[counted])
                running.add(x, first=expert * x.shape[-1], positions=0)
            else:
                first = expert * hidden.shape[-1]
                running.add(hidden, first=first, counted=counted, positions=0)
        running.add(hidden[:0], positions=positions)

    return add


def _arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any], name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    given = {**dict(zip(("hidden_states", "top_k_index"), args, strict=False)), **kwargs}
    hidden, chosen = given.get("hidden_states"), given.get("top_k_index")
    if hidden is None or chosen is None:
        raise ArgumentError(
            f"the experts of '{name}' were called without hidden_states and top_k_index, so that nothing "
            "says which tokens each of them is given. Leave it out with ignore"
        )
    hidden = hidden.detach()
    return hidden.reshape(-1, hidden.shape[-1]), chosen.reshape(-1, chosen.shape[-1])


def _between(module: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    """The activations between the two projections of one expert."""
    first = "gate_up_proj" if module.has_gate else "up_proj"
    weight = getattr(module, first)[expert]
    y = x @ (weight if module.is_transposed else weight.T)
    if module.has_bias:
        y = y + getattr(module, f"{first}_bias")[expert]
    found: torch.Tensor = module._apply_gate(y) if module.has_gate else module.act_fn(y)
    return found
